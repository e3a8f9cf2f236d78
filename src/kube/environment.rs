//! Owns what the pod gives its container: the environment, and the files of the service account (SPEC 4.1, 4.4). Keeps
//! the last good token and authorities, since a volume can be away for a moment.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use log::{debug, info, warn};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use ureq::http::HeaderValue;
use ureq::tls::{Certificate, PemItem, parse_pem};

use crate::config;
use crate::decide::object::Identity;
use crate::excerpt::excerpt;

/// What a pod gives its container.
#[derive(Debug)]
pub struct PodEnvironment {
    /// `https://HOST:PORT` of the API server.
    pub server: String,
    /// Whose GameServer is written.
    pub identity: Identity,
    /// The service account.
    pub account: Account,
}

impl PodEnvironment {
    /// Takes them from the environment and from the folder of the service account.
    ///
    /// # Errors
    /// All that is missing, each with the lines of YAML that give it.
    pub fn gather(variable: &dyn Fn(&str) -> Option<String>, account: &Path) -> Result<Self, Missing> {
        let mut missing = Vec::new();
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());

        let server = match (given("KUBERNETES_SERVICE_HOST"), given("KUBERNETES_SERVICE_PORT")) {
            (Some(host), Some(port)) => server(&host, &port),
            _ => Err("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set, as kubelet does in every pod; \
                      outside a cluster use `okg-sidecar probe`"
                .to_owned()),
        };
        let name = named("POD_NAME", given("POD_NAME"), "metadata.name");
        let namespace = match given("POD_NAMESPACE") {
            Some(namespace) => named("POD_NAMESPACE", Some(namespace), "metadata.namespace"),
            None => {
                let in_volume = fs::read_to_string(account.join("namespace")).ok();
                let in_volume = in_volume.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
                named("POD_NAMESPACE", in_volume, "metadata.namespace")
            }
        };
        let account = Account::open(account);

        let server = server.map_err(|problem| missing.push(problem));
        let name = name.map_err(|problem| missing.push(problem));
        let namespace = namespace.map_err(|problem| missing.push(problem));
        let account = account.map_err(|problems| missing.extend(problems));
        match (server, name, namespace, account) {
            (Ok(server), Ok(name), Ok(namespace), Ok(account)) => {
                Ok(Self { server, identity: Identity { namespace, name, uid: given("POD_UID") }, account })
            }
            _ => Err(Missing { problems: missing }),
        }
    }
}

/// The API server's URL; an IPv6 host gets brackets.
fn server(host: &str, port: &str) -> Result<String, String> {
    let bracketed = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    if config::is_authority(&bracketed, port) {
        return Ok(format!("https://{bracketed}:{port}"));
    }
    Err(format!(
        "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be a host and a port of 1 to 65535, as kubelet sets \
         them, got {} and {}",
        excerpt(host),
        excerpt(port)
    ))
}

fn named(variable: &str, value: Option<String>, field: &str) -> Result<String, String> {
    let yaml = format!("env: [{{name: {variable}, valueFrom: {{fieldRef: {{fieldPath: {field}}}}}}}]");
    match value {
        Some(value) if config::is_object_name(&value) => Ok(value),
        Some(value) => {
            Err(format!("{variable} must be the {field} of the pod, got {}; set it with: {yaml}", excerpt(&value)))
        }
        None => Err(format!("{variable} must be set; set it with: {yaml}")),
    }
}

/// What the sidecar cannot start without.
#[derive(Debug)]
pub struct Missing {
    /// What is missing, and how a manifest gives it.
    pub problems: Vec<String>,
}

impl fmt::Display for Missing {
    /// A line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for Missing {}

/// The files of a service account.
#[derive(Debug)]
pub struct Account {
    token: MountedFile<HeaderValue>,
    authorities: MountedFile<Vec<Certificate<'static>>>,
}

impl Account {
    /// Reads the token and the certificates of the authorities for the first time.
    ///
    /// # Errors
    /// What cannot be read or used, with the lines of YAML that give it.
    pub fn open(folder: &Path) -> Result<Self, Vec<String>> {
        let token = MountedFile::open(folder.join("token"), bearer);
        let authorities = MountedFile::open(folder.join("ca.crt"), certificates);
        match (token, authorities) {
            (Ok(token), Ok(authorities)) => Ok(Self { token, authorities }),
            (token, authorities) => Err([token.err(), authorities.err()]
                .into_iter()
                .flatten()
                .map(|problem| {
                    format!(
                        "{problem}; give the pod a service account with: serviceAccountName: okg-sidecar and \
                         automountServiceAccountToken: true; when the file is there and may not be read, with: \
                         securityContext: {{fsGroup: 65532}}"
                    )
                })
                .collect()),
        }
    }

    /// The last token, for leaving it out of what is told.
    pub fn secret(&self) -> &str {
        self.token.value.to_str().map_or("", |value| value.trim_start_matches("Bearer "))
    }

    /// The header Authorization, its token read anew.
    pub fn authorization(&mut self) -> HeaderValue {
        self.token.read().clone()
    }

    /// The authorities that may vouch for the API server, read anew.
    pub fn authorities(&mut self) -> Vec<Certificate<'static>> {
        self.authorities.read().clone()
    }
}

/// A mounted file that is rotated under us, and the last good value of it.
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

    /// The value of the file as it is now; the last good one, and a log line, when it is of no use now.
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
fn certificates(bytes: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut certificates = Vec::new();
    for item in parse_pem(bytes) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(format!("hold certificates in PEM: {error}")),
        }
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates.iter().map(|certificate| CertificateDer::from(certificate.der())));
    if store.is_empty() {
        return Err("hold a certificate of an authority in PEM, got none that can be used".into());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_a_host_and_a_port() {
        for (host, port, url) in [
            ("10.0.0.1", "443", Some("https://10.0.0.1:443")),
            ("kubernetes.default.svc", "6443", Some("https://kubernetes.default.svc:6443")),
            ("fd00::1", "443", Some("https://[fd00::1]:443")),
            ("[fd00::1]", "443", Some("https://[fd00::1]:443")),
            ("10.0.0.1", "99999", None),
            ("10.0.0.1", "https", None),
            ("10.0.0.1", "0", None),
            ("10.0.0.1\nINFO forged", "443", None),
            ("user@10.0.0.1", "443", None),
            ("a/b", "443", None),
            ("[::1", "443", None),
        ] {
            assert_eq!(server(host, port).ok().as_deref(), url, "{host:?} {port:?}");
        }
    }
}
