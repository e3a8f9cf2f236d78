//! Owns what Kruise's annotation `kruise.io/podprobe` says (behaviour 9.2 to 9.4): probes, each with a condition of the pod
//! that it sets. Kruise's webhook has written it, so that unknown keys are a newer Kruise's, and one probe that cannot be
//! run is no reason to run none.
//!
//! It is read as a tree and not into types of its own, whose generated code would be four times as large as this.

use std::time::Duration;

use serde_json::Value;
use ureq::http::header::{HeaderMap, HeaderName, HeaderValue};
use ureq::http::{Method, Uri};

use super::check::FRAMING;
use super::syntax::{self, MAX_REQUEST_PART_BYTES};
use super::{Config, Endpoint, HttpProbe, KRUISE_PODPROBE, PodCondition, Probe, TcpProbe};
use crate::excerpt::excerpt;

/// The most bytes and probes of the annotation.
const MAX_BYTES: usize = 64 * 1024;
const MAX_PROBES: usize = 64;

/// The longest that one probe may take, as in a config file.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// What does as well as what a sidecar cannot do.
const INSTEAD: &str = "use httpGet or tcpSocket";

/// Conditions by which Kubernetes itself goes.
const OF_KUBERNETES: [&str; 4] = ["Ready", "Initialized", "ContainersReady", "PodScheduled"];

/// Reads the annotation. Probes that name no host go to `host`.
///
/// # Errors
/// Why none of it can be used, as the words that follow "must ".
pub(super) fn parse(text: &str, host: &str) -> Result<Config, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("have at most {MAX_BYTES} bytes, got {}", text.len()));
    }
    let tree: Value = serde_json::from_str(text).map_err(|error| format!("be JSON: {error}"))?;
    let entries = tree.as_array().filter(|entries| (1..=MAX_PROBES).contains(&entries.len()));
    let mut config = Config::default();
    for (index, entry) in entries.ok_or_else(|| format!("be a list of 1 to {MAX_PROBES} probes"))?.iter().enumerate() {
        if let Err(problem) = add(&mut config, entry, host) {
            config.warnings.push(format!("{KRUISE_PODPROBE}[{index}]: {problem}"));
        }
    }
    if config.sets_conditions() { Ok(config) } else { Err(format!("hold a probe: {}", config.warnings.join("; "))) }
}

/// Adds the probe of one entry, or the condition that stays Unknown without it.
fn add(config: &mut Config, entry: &Value, host: &str) -> Result<(), String> {
    let name = entry["podConditionType"].as_str().unwrap_or_default();
    if syntax::label_key(name).is_err() || OF_KUBERNETES.contains(&name) {
        let rule = "must be a name such as game.kruise.io/idle, and none by which Kubernetes itself goes";
        return Err(format!("podConditionType {rule}, got {}: it is not probed", excerpt(name)));
    }
    let mut taken = config.endpoints.iter().filter_map(|endpoint| endpoint.condition.as_ref());
    if taken.any(|taken| taken.name == name) || config.unknown.iter().any(|(taken, _)| taken == name) {
        return Err(format!("podConditionType must be another than those before, got {name} again: it is not probed"));
    }
    match endpoint(name, &entry["probe"], host) {
        Ok(endpoint) => config.endpoints.push(endpoint),
        Err(problem) => {
            config.unknown.push((name.to_owned(), problem.clone()));
            return Err(format!("{problem}: {name} stays Unknown"));
        }
    }
    Ok(())
}

/// The endpoint that sets the condition `name`, or why a sidecar cannot probe it.
fn endpoint(name: &str, spec: &Value, host: &str) -> Result<Endpoint, String> {
    let probe = match ["httpGet", "tcpSocket", "exec", "grpc"].into_iter().find(|kind| spec[kind].is_object()) {
        Some("httpGet") => Probe::Http(http_get(&spec["httpGet"], host)?),
        Some("tcpSocket") => {
            let (host, port) = target(&spec["tcpSocket"], host)?;
            Probe::Tcp(TcpProbe { host, port })
        }
        Some("exec") => return Err(format!("exec runs in the game's container, where a sidecar cannot; {INSTEAD}")),
        Some(kind) => return Err(format!("{kind} is no probe of this sidecar; {INSTEAD}")),
        None => return Err(format!("there is no probe in it; {INSTEAD}")),
    };
    let number = |key| number(spec, key);
    let seconds = |key| number(key).map(|count| Duration::from_secs(count.into()));
    Ok(Endpoint {
        probe,
        timeout: seconds("timeoutSeconds")?.min(MAX_TIMEOUT),
        failure_threshold: number("failureThreshold")?,
        success_threshold: number("successThreshold")?,
        policies: Vec::new(),
        annotation_key: None,
        label_key: None,
        field: None,
        protected_ops_states: Vec::new(),
        condition: Some(PodCondition {
            name: name.to_owned(),
            delay: seconds("initialDelaySeconds")?,
            period: seconds("periodSeconds")?,
        }),
    })
}

/// A number of the probe, which is 1 where kruise-daemon makes it 1.
fn number(spec: &Value, key: &str) -> Result<u32, String> {
    let number = if spec[key].is_null() { Some(1) } else { spec[key].as_i64() };
    let number = number.ok_or_else(|| format!("{key} must be a whole number"))?;
    // Kruise's own have 32 bits.
    Ok(number.clamp(1, i32::MAX.into()) as u32)
}

/// Host and port of an httpGet or tcpSocket; an IPv6 address in brackets.
fn target(action: &Value, host: &str) -> Result<(String, u16), String> {
    let port = match &action["port"] {
        Value::String(digits) => digits.parse().ok(),
        number => number.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    let port = port.filter(|port| *port > 0).ok_or_else(|| {
        let named = "must be a number of 1 to 65535, since the annotation does not tell the number of a named port";
        format!("port {named}, got {}", excerpt(&action["port"].to_string()))
    })?;
    let host = action["host"].as_str().filter(|host| !host.is_empty()).unwrap_or(host);
    Ok((if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }, port))
}

fn http_get(action: &Value, host: &str) -> Result<HttpProbe, String> {
    let (host, port) = target(action, host)?;
    let mut headers = HeaderMap::new();
    for header in action["httpHeaders"].as_array().into_iter().flatten() {
        let (name, value) = (header["name"].as_str().unwrap_or_default(), header["value"].as_str().unwrap_or_default());
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
        let (name, value) = parsed
            .filter(|_| value.len() <= MAX_REQUEST_PART_BYTES)
            .ok_or("httpHeaders must be names and values of visible ASCII that HTTP allows")?;
        // Those that frame the message are the probe's own; kruise-daemon does not send them either.
        if !FRAMING.contains(&name) {
            headers.append(name, value);
        }
    }
    Ok(HttpProbe {
        url: url(action, &host, port)?,
        method: Method::GET,
        headers,
        expected_status: 200..=399,
        extract: None,
        reads_body: true,
        lossy: true,
    })
}

/// The URL as kruise-daemon makes it: what a URL cannot hold is percent-encoded, and a fragment is not sent.
fn url(action: &Value, host: &str, port: u16) -> Result<Uri, String> {
    let scheme = action["scheme"].as_str().unwrap_or("HTTP").to_ascii_lowercase();
    let path = action["path"].as_str().unwrap_or_default().split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut url = format!("{scheme}://{host}:{port}{slash}");
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"<>`^\\\"{|}".contains(&byte) {
            url.push(byte.into());
        } else {
            url += &format!("%{byte:02X}");
        }
    }
    syntax::url(&url).map_err(|rule| format!("path, host and scheme must {rule}"))
}
