//! Owns the API server's certificate. It is a fixed one, since a crate that makes certificates takes longer to build than
//! the rest of the demo.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate for 127.0.0.1, and the key to it.
const PEM: &str = include_str!("../../not-a-secret.pem");

/// A server's certificate and its key.
pub struct ServerCertificate {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl ServerCertificate {
    /// The one for 127.0.0.1.
    pub fn of_loopback() -> Self {
        let bytes = PEM.as_bytes();
        let certificate = CertificateDer::from_pem_slice(bytes).expect("the file holds one");
        let key = PrivateKeyDer::from_pem_slice(bytes).expect("the file holds one");
        Self { certificate, key }
    }

    /// What `ca.crt` holds in a pod that trusts it.
    pub fn ca() -> &'static str {
        PEM.split_once("-----BEGIN PRIVATE KEY-----").map_or(PEM, |(certificate, _)| certificate)
    }

    /// What rustls needs to serve it.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks them")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .expect("the key is the certificate's");
        Arc::new(config)
    }
}
