//! Owns what a pod tells its containers: the API server's address, and the pod's own name, namespace and uid, out of
//! variables, the claims of the mounted token and the `namespace` file beside it (behaviour 4.1).

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use log::warn;
use serde_json::Value;

use super::service_account::ServiceAccount;
use crate::config;
use crate::decide::object::Identity;
use crate::decide::record::timestamp;
use crate::excerpt::excerpt;

/// The most audiences of a token that a message shows.
const MAX_AUDIENCES: usize = 4;

/// What a pod gives its container.
#[derive(Debug)]
pub struct PodEnvironment {
    /// `https://HOST:PORT` of the API server.
    pub server: String,
    /// Whose GameServer is written.
    pub identity: Identity,
    /// The mounted token and certificates.
    pub service_account: ServiceAccount,
}

impl PodEnvironment {
    /// Reads the variables and the mounted files in `directory`, and logs a warning for each variable that contradicts
    /// the token.
    ///
    /// # Errors
    /// Everything that is missing, each with the lines of YAML that give it.
    pub fn read(
        variable: &dyn Fn(&str) -> Option<String>,
        directory: &Path,
        needs_uid: bool,
    ) -> Result<Self, IncompleteEnvironment> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        // A token tells the pod even where the certificates beside it are of no use.
        let claims = Claims::mounted(directory);
        for warning in contradictions(&variable, &claims) {
            warn!("{warning}");
        }
        let mut problems = Vec::new();
        let server = server(variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"))
            .map_err(|problem| problems.push(problem));
        let identity = identity(&variable, claims, needs_uid).map_err(|found| problems.extend(found));
        if let Ok(Identity { uid: None, .. }) = &identity {
            warn!("{}", without_uid());
        }
        let service_account = ServiceAccount::open(directory).map_err(|found| problems.extend(found));
        match (server, identity, service_account) {
            (Ok(server), Ok(identity), Ok(service_account)) => Ok(Self { server, identity, service_account }),
            _ => Err(IncompleteEnvironment { problems }),
        }
    }
}

/// What the sidecar cannot start without.
#[derive(Debug)]
pub struct IncompleteEnvironment {
    /// What is missing, and how a manifest gives it.
    pub problems: Vec<String>,
}

impl fmt::Display for IncompleteEnvironment {
    /// A line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for IncompleteEnvironment {}

/// The API server's URL; an IPv6 host gets brackets.
fn server(host: Option<String>, port: Option<String>) -> Result<String, String> {
    let (Some(host), Some(port)) = (host, port) else {
        return Err("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set, as kubelet does in every pod; \
                    outside a cluster use `okg-sidecar probe`"
            .into());
    };
    let bracketed = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.clone() };
    if config::is_authority(&bracketed, &port) {
        return Ok(format!("https://{bracketed}:{port}"));
    }
    Err(format!(
        "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be a host and a port of 1 to 65535, as kubelet sets \
         them, got {} and {}",
        excerpt(&host),
        excerpt(&port)
    ))
}

/// The pod as far as it is known outside a cluster, too: a name that [`PodEnvironment::read`] would miss stands as its
/// variable.
pub fn identity_or_variables(variable: &dyn Fn(&str) -> Option<String>, directory: &Path) -> Identity {
    let Claims { namespace, name, .. } = Claims::mounted(directory);
    let known = |name: &str, claim: Option<String>| {
        let value = variable(name).filter(|value| !value.is_empty()).or(claim);
        value.filter(|value| config::is_object_name(value)).unwrap_or_else(|| name.to_owned())
    };
    Identity {
        namespace: known("POD_NAMESPACE", namespace),
        name: known("POD_NAME", name),
        uid: None,
        token_issued_at: None,
    }
}

/// Whether a token says which pod it is bound to.
pub fn names_a_pod(token: &str) -> bool {
    Claims::of(token).uid.is_some()
}

/// The pod: each part from its variable, else from the token's claims.
fn identity(
    variable: &dyn Fn(&str) -> Option<String>,
    claims: Claims,
    needs_uid: bool,
) -> Result<Identity, Vec<String>> {
    let mut problems = Vec::new();
    let mut missing = Vec::new();
    let mut part = |(name, field): (&'static str, &str), is_legal: fn(&str) -> bool, claim: Option<String>| {
        let value = variable(name);
        if let Some(value) = value.as_deref().filter(|value| !is_legal(value)) {
            problems.push(wrong(name, value, field));
            return None;
        }
        if value.is_none() && claim.is_none() {
            missing.push(name);
        }
        value.or(claim)
    };
    let [of_name, of_namespace, of_uid] = VARIABLES;
    let name = part(of_name, config::is_object_name, claims.name);
    let namespace = part(of_namespace, config::is_object_name, claims.namespace);
    let uid = part(of_uid, is_uid, claims.uid);
    // Without the uid most of it works.
    if missing == ["POD_UID"] && !needs_uid {
        missing.clear();
    }
    if !missing.is_empty() {
        problems.push(format!(
            "{} must be set, because the mounted token does not name the pod; set all three variables with: {}",
            missing.join(" and "),
            yaml(&VARIABLES)
        ));
    }
    match (name, namespace) {
        (Some(name), Some(namespace)) if problems.is_empty() => {
            Ok(Identity { namespace, name, uid, token_issued_at: claims.issued_at })
        }
        _ => Err(problems),
    }
}

/// The variables that name the pod, and the field of the pod that each is set to.
const VARIABLES: [(&str, &str); 3] =
    [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_UID", "metadata.uid")];

/// A warning for a process that knows the pod by its name alone, as with a token out of a Secret.
fn without_uid() -> String {
    format!(
        "the pod's uid is not known: after the pod is replaced, this process may write to the GameServer of the next pod \
         of its name; set it with: {}",
        yaml(&VARIABLES[2..])
    )
}

fn wrong(variable: &'static str, value: &str, field: &str) -> String {
    let yaml = yaml(&[(variable, field)]);
    format!("{variable} must be the {field} of the pod, got {}; set it with: {yaml}", excerpt(value))
}

/// The lines of a container that set each variable to a field of the pod.
fn yaml(variables: &[(&str, &str)]) -> String {
    let entry =
        |(name, field): &(&str, &str)| format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: {field}}}}}}}");
    format!("env: [{}]", variables.iter().map(entry).collect::<Vec<_>>().join(", "))
}

/// A warning for each variable that contradicts the token. The variable counts.
fn contradictions(variable: &dyn Fn(&str) -> Option<String>, claims: &Claims) -> Vec<String> {
    [("POD_NAME", &claims.name), ("POD_NAMESPACE", &claims.namespace), ("POD_UID", &claims.uid)]
        .into_iter()
        .filter_map(|(name, claim)| {
            let (value, claim) = (variable(name)?, claim.as_ref()?);
            let warning = || format!("{name} is {}, but the mounted token says {}", excerpt(&value), excerpt(claim));
            (value != *claim).then(warning)
        })
        .collect()
}

/// A uid is a UUID today, but the API does not say so.
fn is_uid(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What a token says of the pod that it is bound to:
/// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#schema-for-service-account-private-claims>.
/// Nothing where the token is of another kind. The signature is the API server's to verify.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Claims {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    /// In seconds since the Unix epoch, by the API server's clock.
    issued_at: Option<u64>,
    /// When the token expires, since the epoch.
    pub(super) expires: Option<Duration>,
}

impl Claims {
    fn mounted(directory: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
        read("token").map(|token| Self::of(&token)).unwrap_or_default().or_namespace(read("namespace"))
    }

    /// With the namespace of the mounted file, where the token tells none.
    fn or_namespace(self, file: Option<String>) -> Self {
        let file = file.map(|text| text.trim().to_owned()).filter(|text| config::is_object_name(text));
        Self { namespace: self.namespace.or(file), ..self }
    }

    pub(super) fn of(token: &str) -> Self {
        let payload = payload(token);
        let kubernetes = &payload["kubernetes.io"];
        let claim =
            |value: &Value, legal: fn(&str) -> bool| value.as_str().filter(|text| legal(text)).map(str::to_owned);
        Self {
            namespace: claim(&kubernetes["namespace"], config::is_object_name),
            name: claim(&kubernetes["pod"]["name"], config::is_object_name),
            uid: claim(&kubernetes["pod"]["uid"], is_uid),
            issued_at: payload["iat"].as_u64(),
            expires: payload["exp"].as_u64().map(Duration::from_secs),
        }
    }
}

/// The claims of a JWT; null where it is none.
fn payload(token: &str) -> Value {
    let payload = token.split('.').nth(1).and_then(base64url).and_then(|json| String::from_utf8(json).ok());
    payload.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default()
}

/// For whom a token is and how long, which is no secret.
pub(super) fn validity(token: &str) -> String {
    let payload = payload(token);
    let audiences = match &payload["aud"] {
        Value::String(audience) => excerpt(audience),
        Value::Array(audiences) => {
            let audiences = audiences.iter().filter_map(Value::as_str).take(MAX_AUDIENCES).map(excerpt);
            audiences.collect::<Vec<_>>().join(", ")
        }
        _ => "none".into(),
    };
    let expiry = payload["exp"].as_u64().map_or("never".into(), |at| timestamp(Duration::from_secs(at)));
    format!("audience {audiences}, expiry {expiry}")
}

/// Decodes base64url without padding, as a JWT has it (RFC 7515, section 2).
fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for c in text.bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const UID: &str = "0b5b5e3c-1111-4222-8333-944445555666";

    /// A variable out of a list.
    fn among<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn claims(namespace: &str, name: &str, uid: &str) -> Claims {
        let claim = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Claims { namespace: claim(namespace), name: claim(name), uid: claim(uid), issued_at: None, expires: None }
    }

    /// A token with this payload.
    pub(in crate::kube) fn token(payload: &str) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits: Vec<bool> =
            payload.bytes().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1)).collect();
        let digit = |six: &[bool]| {
            let value = six.iter().fold(0, |value, bit| value << 1 | usize::from(*bit)) << (6 - six.len());
            char::from(DIGITS[value])
        };
        format!("eyJhbGciOiJSUzI1NiJ9.{}.c2lnbmF0dXJl", bits.chunks(6).map(digit).collect::<String>())
    }

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
            assert_eq!(server(Some(host.into()), Some(port.into())).ok().as_deref(), url, "{host:?} {port:?}");
        }
        assert!(server(Some("10.0.0.1".into()), None).is_err());
    }

    #[test]
    fn each_part_of_the_pod_comes_from_its_variable_else_from_the_token_else_from_the_file() {
        let all = [("POD_NAMESPACE", "env-ns"), ("POD_NAME", "env-0"), ("POD_UID", "env-uid")];
        for (case, variables, claims, file, expected) in [
            ("variables", &all[..], claims("", "", ""), None, Ok(("env-ns", "env-0", Some("env-uid")))),
            (
                "variables first",
                &all,
                claims("ns", "gs-0", UID),
                Some("file-ns"),
                Ok(("env-ns", "env-0", Some("env-uid"))),
            ),
            ("the token alone", &[], claims("ns", "gs-0", UID), None, Ok(("ns", "gs-0", Some(UID)))),
            (
                "the token before the file",
                &[],
                claims("ns", "gs-0", UID),
                Some("file-ns"),
                Ok(("ns", "gs-0", Some(UID))),
            ),
            (
                "the seed's two variables",
                &all[..2],
                claims("env-ns", "env-0", UID),
                None,
                Ok(("env-ns", "env-0", Some(UID))),
            ),
            ("no uid anywhere", &all[1..2], claims("ns", "", ""), None, Ok(("ns", "env-0", None))),
            ("the file", &all[1..2], claims("", "", ""), Some("file-ns\n"), Ok(("file-ns", "env-0", None))),
            ("no name", &all[..1], claims("", "", ""), None, Err(&["POD_NAME and POD_UID must be set"][..])),
            (
                "nothing",
                &[],
                claims("", "", ""),
                None,
                Err(&[
                    "POD_NAME and POD_NAMESPACE and POD_UID must be set, because the mounted token does not name the pod; \
                      set all three variables with: env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, \
                      {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}, \
                      {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]",
                ]),
            ),
            (
                "an empty file",
                &all[1..2],
                claims("", "", ""),
                Some("\n"),
                Err(&["POD_NAMESPACE and POD_UID must be set"]),
            ),
            (
                "a file that is no name",
                &all[1..2],
                claims("", "", ""),
                Some("a/b"),
                Err(&["POD_NAMESPACE and POD_UID must be set"]),
            ),
            (
                "variables that are none, whatever the token says",
                &[("POD_NAMESPACE", "a/b"), ("POD_NAME", "$(NAME)"), ("POD_UID", "a b")],
                claims("ns", "gs-0", UID),
                None,
                Err(&["POD_NAME must be the metadata.name", "POD_NAMESPACE must be the", "POD_UID must be the"]),
            ),
        ] {
            let found = identity(&among(variables), claims.or_namespace(file.map(str::to_owned)), false);
            match (expected, found) {
                (Ok((namespace, name, uid)), Ok(found)) => {
                    assert_eq!((found.namespace.as_str(), found.name.as_str()), (namespace, name), "{case}");
                    assert_eq!(found.uid.as_deref(), uid, "{case}");
                }
                (Err(beginnings), Err(problems)) => {
                    assert_eq!(problems.len(), beginnings.len(), "{case}: {problems:?}");
                    for (beginning, problem) in beginnings.iter().zip(&problems) {
                        assert!(problem.starts_with(beginning), "{case}: {problem}");
                        assert!(problem.contains("valueFrom: {fieldRef: {fieldPath: metadata."), "{case}: {problem}");
                    }
                }
                (expected, found) => panic!("{case}: expected {expected:?}, found {found:?}"),
            }
        }
    }

    #[test]
    fn a_variable_that_contradicts_the_token_is_warned_of() {
        let token = claims("ns", "gs-0", UID);
        for (variables, warning) in [
            (&[("POD_NAMESPACE", "ns"), ("POD_NAME", "gs-0"), ("POD_UID", UID)][..], None),
            (&[], None),
            (&[("POD_NAME", "gs-1")], Some("POD_NAME is `gs-1`, but the mounted token says `gs-0`")),
            (&[("POD_NAMESPACE", "other")], Some("POD_NAMESPACE is `other`, but the mounted token says `ns`")),
            (&[("POD_UID", "other")], Some(&*format!("POD_UID is `other`, but the mounted token says `{UID}`"))),
        ] {
            let warnings = contradictions(&among(variables), &token);
            assert_eq!(warnings.iter().map(String::as_str).collect::<Vec<_>>(), Vec::from_iter(warning));
            assert!(contradictions(&among(variables), &Claims::default()).is_empty());
        }
    }

    #[test]
    fn a_token_tells_the_pod_that_it_is_bound_to() {
        let long = "u".repeat(129);
        for (payload, expected) in [
            (
                r#"{"aud":["x"],"exp":1,"kubernetes.io":{"namespace":"ns","node":{"name":"n"},"pod":{"name":"gs-0","uid":"u-1"},
                    "serviceaccount":{"name":"okg-sidecar","uid":"u-2"},"warnafter":2},"sub":"system:serviceaccount:ns:okg-sidecar"}"#,
                Claims { expires: Some(Duration::from_secs(1)), ..claims("ns", "gs-0", "u-1") },
            ),
            (r#"{"kubernetes.io":{"namespace":"ns","serviceaccount":{"name":"okg-sidecar"}}}"#, claims("ns", "", "")),
            (r#"{"kubernetes.io/serviceaccount/namespace":"ns"}"#, Claims::default()),
            (r#"{"kubernetes.io":{"namespace":"../etc","pod":{"name":"a/b","uid":"a\nb"}}}"#, Claims::default()),
            (&format!(r#"{{"kubernetes.io":{{"pod":{{"name":"gs-0","uid":"{long}"}}}}}}"#), claims("", "gs-0", "")),
            (r#"{"kubernetes.io":{"namespace":"ns","pod":{"name":"","uid":""}}}"#, claims("ns", "", "")),
            (r#"{"kubernetes.io":{"namespace":["ns"]}}"#, Claims::default()),
            ("[]", Claims::default()),
            ("", Claims::default()),
        ] {
            assert_eq!(Claims::of(&token(payload)), expected, "{payload}");
        }
        for opaque in ["", "opaque", "a.b", "a.%%%.c", "..", "a.!.c"] {
            assert_eq!(Claims::of(opaque), Claims::default(), "{opaque}");
        }
    }

    #[test]
    fn the_validity_of_a_token_is_shown_and_nothing_else_of_it() {
        for (payload, shown) in [
            (
                r#"{"aud":["https://a","b"],"exp":1795507200,"sub":"c"}"#,
                "audience `https://a`, `b`, expiry 2026-11-24T08:00:00.000Z",
            ),
            (r#"{"aud":"a\nb"}"#, "audience `a\\nb`, expiry never"),
            ("{}", "audience none, expiry never"),
        ] {
            assert_eq!(validity(&token(payload)), shown);
        }
        assert_eq!(validity("no JWT"), "audience none, expiry never");
    }

    #[test]
    fn base64url_is_decoded() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zg", Some(b"f")),
            ("Zm8", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYmFy", Some(b"foobar")),
            ("-_-_", Some(b"\xfb\xff\xbf")),
            ("AAAA", Some(b"\0\0\0")),
            ("Zm+v", None),
            ("Zm/v", None),
            ("Zg==", None),
        ] {
            assert_eq!(base64url(text).as_deref(), bytes, "{text}");
        }
    }
}
