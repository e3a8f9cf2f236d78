//! Owns the mounted files of the service account: the token, and the certificates of the authorities that may vouch for the
//! API server (behaviour 4.4). Keeps the last good of each, since kubelet rotates them while the sidecar runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::{debug, info, warn};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use ureq::http::HeaderValue;
use ureq::tls::{Certificate, PemItem, parse_pem};

/// The files of a service account.
#[derive(Debug)]
pub struct ServiceAccount {
    token: MountedFile<HeaderValue>,
    authorities: MountedFile<Arc<Vec<Certificate<'static>>>>,
}

impl ServiceAccount {
    /// Reads the token and the certificates of the authorities for the first time.
    ///
    /// # Errors
    /// What cannot be read or used, with the lines of YAML that give it.
    pub fn open(directory: &Path) -> Result<Self, Vec<String>> {
        let token = MountedFile::open(directory.join("token"), bearer);
        let authorities = MountedFile::open(directory.join("ca.crt"), certificates);
        match (token, authorities) {
            (Ok(token), Ok(authorities)) => Ok(Self { token, authorities }),
            (token, authorities) => Err([token.err(), authorities.err()]
                .into_iter()
                .flatten()
                .map(|problem| {
                    format!(
                        "{problem}; give the pod a service account with: serviceAccountName: okg-sidecar and \
                         automountServiceAccountToken: true; when the file is there and may not be read, with: \
                         securityContext: {{fsGroup: 61729}}"
                    )
                })
                .collect()),
        }
    }

    /// The last token, so that a message can leave it out.
    pub fn secret(&self) -> &str {
        self.token.value.to_str().map_or("", |value| value.trim_start_matches("Bearer "))
    }

    /// The header Authorization, its token read anew.
    pub fn authorization(&mut self) -> HeaderValue {
        self.token.read().clone()
    }

    /// The authorities that may vouch for the API server, read anew; the same `Arc` for as long as they are the same.
    pub fn authorities(&mut self) -> Arc<Vec<Certificate<'static>>> {
        Arc::clone(self.authorities.read())
    }
}

/// A mounted file that is rotated, and its last good value.
#[derive(Debug)]
struct MountedFile<T> {
    path: PathBuf,
    parse: fn(&[u8]) -> Result<T, String>,
    bytes: Vec<u8>,
    value: T,
    problem: Option<String>,
}

impl<T> MountedFile<T> {
    fn open(path: PathBuf, parse: fn(&[u8]) -> Result<T, String>) -> Result<Self, String> {
        let (bytes, value) = load(&path, parse)?;
        Ok(Self { path, parse, bytes, value, problem: None })
    }

    /// The value of the file as it is now. Where that is of no use, the last good one and, once, a log line.
    fn read(&mut self) -> &T {
        match load(&self.path, self.parse) {
            Ok((bytes, value)) => {
                if self.problem.take().is_some() {
                    info!("{}: can be used again", self.path.display());
                }
                if bytes != self.bytes {
                    debug!("{}: changed", self.path.display());
                    (self.bytes, self.value) = (bytes, value);
                }
            }
            Err(problem) if self.problem.as_ref() == Some(&problem) => {}
            Err(problem) => {
                warn!("{problem}; using the last good one");
                self.problem = Some(problem);
            }
        }
        &self.value
    }
}

fn load<T>(path: &Path, parse: fn(&[u8]) -> Result<T, String>) -> Result<(Vec<u8>, T), String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: must be readable: {error}", path.display()))?;
    let value = parse(&bytes).map_err(|rule| format!("{}: must {rule}", path.display()))?;
    Ok((bytes, value))
}

/// A token as the header Authorization has it.
fn bearer(bytes: &[u8]) -> Result<HeaderValue, String> {
    let token = bytes.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err("hold a token".into());
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).map_err(|_| "hold a token")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The certificates of a PEM file, all of them well-formed PEM and at least one of use.
fn certificates(bytes: &[u8]) -> Result<Arc<Vec<Certificate<'static>>>, String> {
    let mut certificates = Vec::new();
    for item in parse_pem(bytes) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            // The error itself shows bytes.
            Err(_) => {
                return Err(
                    "hold certificates in PEM: base64 between the lines BEGIN CERTIFICATE and END CERTIFICATE".into()
                );
            }
        }
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates.iter().map(|certificate| CertificateDer::from(certificate.der())));
    if store.is_empty() {
        return Err("hold a certificate of an authority in PEM, got none that can be used".into());
    }
    Ok(Arc::new(certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).expect("a certificate can be made").pem()
    }

    #[test]
    fn files_that_are_of_no_use_leave_the_last_good_ones() {
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        let put = |file: &str, text: &str| fs::write(directory.path().join(file), text).expect("it is writable");
        put("token", "first\n");
        put("ca.crt", &authority());
        let mut account = ServiceAccount::open(directory.path()).expect("both files are good");
        let before = account.authorities();
        assert!(Arc::ptr_eq(&before, &account.authorities()), "nothing has changed");

        for broken in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            put("ca.crt", broken);
            assert!(Arc::ptr_eq(&before, &account.authorities()), "{broken}");
        }
        put("ca.crt", &authority());
        assert!(!Arc::ptr_eq(&before, &account.authorities()), "a rotated CA counts");

        for (text, expected) in [("second", "second"), ("", "second"), ("two\nlines", "second"), ("third\n", "third")] {
            put("token", text);
            assert_eq!(account.authorization(), format!("Bearer {expected}"), "{text:?}");
            assert!(account.authorization().is_sensitive());
            assert_eq!(account.secret(), expected);
        }
    }

    #[test]
    fn malformed_certificates_are_told_in_one_short_line() {
        for text in [
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n".to_owned(),
            format!("-----BEGIN CERTIFICATE-----\n{}\n", "QUJD".repeat(1000)),
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "\u{e9}\n".repeat(1000)),
            format!("-----BEGIN {}-----\n", "X\n".repeat(500)),
        ] {
            let told = certificates(text.as_bytes()).expect_err("it is malformed");
            assert!(told.len() < 300 && told.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{told}");
        }
    }

    #[test]
    fn a_directory_without_the_files_is_refused_with_the_yaml_that_mounts_them() {
        let directory = tempfile::tempdir().expect("the temporary directory is readable");
        let problems = ServiceAccount::open(directory.path()).expect_err("both files are missing");
        assert_eq!(problems.len(), 2);
        for (problem, file) in problems.iter().zip(["token", "ca.crt"]) {
            assert!(problem.contains(&format!("/{file}: must be readable")), "{problem}");
            assert!(problem.contains("automountServiceAccountToken: true"), "{problem}");
        }
    }
}
