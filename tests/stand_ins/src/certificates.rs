//! Owns the certificates of the tests: made anew in each run, so that none can expire or leak.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// One of this common name. Two of the same name are still two: their keys differ.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, new_key()).expect("the parameters are fixed");
        Self { issuer }
    }

    /// Its certificate in PEM, as the file `ca.crt` contains it.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names and addresses, such as `127.0.0.1`, `::1` or `localhost`.
    pub fn server_certificate(&self, names: &[&str]) -> ServerCertificate {
        self.sign(server_params(names))
    }

    /// A certificate for every name of loopback, which most tests need.
    pub fn loopback_certificate(&self) -> ServerCertificate {
        self.server_certificate(&["127.0.0.1", "::1", "localhost"])
    }

    /// One whose time is over.
    pub fn expired_certificate(&self, names: &[&str]) -> ServerCertificate {
        let mut params = server_params(names);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> ServerCertificate {
        let key = new_key();
        let certificate = params.signed_by(&key, &self.issuer).expect("both keys were made here");
        ServerCertificate::new(&certificate, &key)
    }
}

/// A server's certificate and its key.
pub struct ServerCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    certificate_pem: String,
    key_pem: String,
}

impl ServerCertificate {
    /// One that nobody but itself vouches for, as a game may have.
    pub fn self_signed(names: &[&str]) -> Self {
        let key = new_key();
        let certificate = server_params(names).self_signed(&key).expect("the key was made here");
        Self::new(&certificate, &key)
    }

    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// The certificate, for a server that takes files.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key, in PKCS #8.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// What rustls needs to serve it over TLS 1.2 and 1.3.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks both versions")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("the key is the certificate's");
        Arc::new(config)
    }
}

/// A key to sign tokens with, and the public half of it, both in PEM.
pub fn signing_key() -> (String, String) {
    let key = new_key();
    (key.serialize_pem(), key.public_key_pem())
}

fn server_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("a test gives names that are legal");
    params.distinguished_name.push(DnType::CommonName, "server");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("ring makes P-256 keys")
}
