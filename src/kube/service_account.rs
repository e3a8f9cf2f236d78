//! Owns the mounted files of the service account: the token, and the certificates of the authorities that may vouch for the
//! API server (behaviour 4.4). Keeps the last good of each, since kubelet rotates them while the sidecar runs.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{debug, info, warn};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use ureq::http::HeaderValue;
use ureq::tls::{Certificate, PemItem, parse_pem};

use super::environment::Claims;

/// The files of a service account.
#[derive(Debug)]
pub struct ServiceAccount {
    token: MountedFile<Token>,
    /// Whether a warning about the present token was logged.
    warned: bool,
    authorities: MountedFile<Arc<Vec<Certificate<'static>>>>,
}

impl ServiceAccount {
    /// Reads the token and the certificates of the authorities for the first time.
    ///
    /// # Errors
    /// What cannot be read or used, with the lines of YAML that give it.
    pub fn open(directory: &Path) -> Result<Self, Vec<String>> {
        let token = MountedFile::open(directory.join("token"), Token::parse);
        let authorities = MountedFile::open(directory.join("ca.crt"), certificates);
        match (token, authorities) {
            (Ok(token), Ok(authorities)) => Ok(Self { token, warned: false, authorities }),
            (token, authorities) => {
                let problems: Vec<_> = [token.err(), authorities.err()].into_iter().flatten().collect();
                Err(vec![format!("{}; {}", problems.join("; "), remedy(directory))])
            }
        }
    }

    /// The last token, so that a message can leave it out.
    pub fn secret(&self) -> &str {
        self.token.value.header.to_str().map_or("", |value| value.trim_start_matches("Bearer "))
    }

    /// The header Authorization, its token read anew. Logs one warning for a token that has expired.
    pub fn authorization(&mut self) -> HeaderValue {
        let expired = self.token.read().expired();
        if let Some(expired) = expired.as_ref().filter(|_| !self.warned) {
            warn!("{}: {expired}", self.token.path.display());
        }
        self.warned = expired.is_some();
        self.token.value.header.clone()
    }

    /// The authorities that may vouch for the API server, read anew; the same `Arc` for as long as they are the same.
    pub fn authorities(&mut self) -> Arc<Vec<Certificate<'static>>> {
        Arc::clone(self.authorities.read())
    }
}

/// The lines of YAML that mount both files into the sidecar and not into the game, as deploy/components/sidecar does.
fn remedy(directory: &Path) -> String {
    format!(
        "mount both into the sidecar alone: give the pod serviceAccountName: okg-sidecar, to its volumes add {{name: \
         okg-sidecar-token, projected: {{sources: [{{serviceAccountToken: {{path: token, expirationSeconds: 3600}}}}, \
         {{configMap: {{name: kube-root-ca.crt, items: [{{key: ca.crt, path: ca.crt}}]}}}}, {{downwardAPI: {{items: \
         [{{path: namespace, fieldRef: {{fieldPath: metadata.namespace}}}}]}}}}]}}}}, and to this container's volumeMounts {{name: okg-sidecar-token, mountPath: {}, \
         readOnly: true}}; if the files are there and may not be read, add securityContext: {{fsGroup: 61729}} to the pod",
        directory.display()
    )
}

/// Why the token in this directory is of no use any more. `None` if it is not known to have expired.
pub fn expired(directory: &Path) -> Option<String> {
    let path = directory.join("token");
    let token = Token::parse(&fs::read(&path).ok()?).ok()?;
    Some(format!("{}: {}", path.display(), token.expired()?))
}

/// What the mounted token gives.
#[derive(Debug)]
struct Token {
    /// The header Authorization.
    header: HeaderValue,
    /// When it expires, since the epoch. A token out of a Secret never does.
    expires: Option<Duration>,
}

impl Token {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let header = bearer(bytes)?;
        let expires = std::str::from_utf8(bytes).ok().and_then(|token| Claims::of(token.trim()).expires);
        Ok(Self { header, expires })
    }

    fn expired(&self) -> Option<Expired> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        now.checked_sub(self.expires?).map(Expired)
    }
}

/// How long ago a token expired.
struct Expired(Duration);

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the token expired {} s ago and was not replaced, so the API server refuses every write with 401; a node that \
             does not renew tokens needs expirationSeconds: 3607 in the volume okg-sidecar-token, which gives a token of a \
             year (docs/platforms.md)",
            self.0.as_secs()
        )
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
        assert_eq!(problems.len(), 1);
        for file in ["token", "ca.crt"] {
            assert!(problems[0].contains(&format!("/{file}: must be readable")), "{}", problems[0]);
        }
        // The same volume as in the manifests.
        let (_, yaml) = problems[0].split_once("volumes add ").expect("the volume is there");
        let (yaml, mount) = yaml.split_once(", and to this container's volumeMounts ").expect("the mount is there");
        let (mount, _) = mount.split_once(';').expect("the mount has an end");
        let parse = |yaml: &str| serde_yaml::from_str::<serde_json::Value>(yaml).expect("it is YAML");
        let manifest = include_str!("../../deploy/components/sidecar/sidecar.yaml");
        let pod = &parse(manifest)["template"]["spec"];
        assert!(pod["volumes"].as_array().is_some_and(|shipped| shipped.contains(&parse(yaml))), "{yaml}");
        let path = directory.path().display().to_string();
        let mount = parse(&mount.replace(&path, "/var/run/secrets/kubernetes.io/serviceaccount"));
        let shipped = pod["containers"][0]["volumeMounts"].as_array().expect("the container has mounts");
        assert!(shipped.contains(&mount), "{mount}");
    }

    #[test]
    fn a_token_that_has_expired_is_known_by_its_claim() {
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
        for (payload, is_expired) in [
            (format!(r#"{{"exp":{}}}"#, now - 75), true),
            (format!(r#"{{"exp":{}}}"#, now + 600), false),
            (r#"{"exp":"soon"}"#.to_owned(), false),
            (r#"{"exp":-1}"#.to_owned(), false),
            ("{}".to_owned(), false),
        ] {
            let token = crate::kube::environment::tests::token(&payload);
            fs::write(directory.path().join("token"), token + "\n").expect("it is writable");
            let told = expired(directory.path());
            assert_eq!(told.is_some(), is_expired, "{payload}: {told:?}");
            assert!(told.is_none_or(|told| told.contains("the token expired 7") && told.contains("3607")), "{payload}");
        }
        fs::write(directory.path().join("token"), "opaque").expect("it is writable");
        assert_eq!(expired(directory.path()), None);
    }
}
