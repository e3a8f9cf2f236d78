//! Owns what Kruise's annotation `kruise.io/podprobe` says (behaviour 9.2 to 9.4): probes, each with a condition of the pod
//! that it sets. Kruise's webhook has written it, so that unknown keys are a newer Kruise's, and one probe that cannot be
//! run is no reason to run none.
//!
//! It is read as a tree and not into types of its own, whose generated code would be four times as large as this.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Uri;
use ureq::http::header::{HOST, HeaderMap, HeaderName};
use ureq::http::uri::Authority;

use super::keys::FRAMING;
use super::syntax::{self, is_authority};
use super::{Config, Endpoint, Extract, HttpProbe, KRUISE_PODPROBE, Meaning, PodCondition, Probe, Server};
use crate::excerpt::{MAX_CHARS, escape, excerpt};

/// The most bytes and probes of the annotation.
const MAX_BYTES: usize = 64 * 1024;
const MAX_PROBES: usize = 64;

/// The longest that one probe may take, as in a config file.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// What does as well as what a sidecar cannot do.
const INSTEAD: &str = "use httpGet or tcpSocket";

/// The keys of a probe and of what it does. One that is not known may change what is asked, so that the answer to what
/// this sidecar asks would say nothing. A sidecar ends no container, and so has no use for the grace period.
const OF_A_PROBE: [&str; 10] = [
    "httpGet",
    "tcpSocket",
    "exec",
    "grpc",
    "initialDelaySeconds",
    "periodSeconds",
    "timeoutSeconds",
    "successThreshold",
    "failureThreshold",
    "terminationGracePeriodSeconds",
];
const OF_HTTP_GET: [&str; 5] = ["host", "port", "path", "scheme", "httpHeaders"];
const OF_A_HEADER: [&str; 2] = ["name", "value"];
const OF_TCP_SOCKET: [&str; 2] = ["host", "port"];

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
    if config.is_of_kruise() { Ok(config) } else { Err(format!("hold a probe: {}", config.warnings.join("; "))) }
}

/// Adds the probe of one entry, or the condition that stays Unknown without it.
fn add(config: &mut Config, entry: &Value, host: &str) -> Result<(), String> {
    let name = entry["podConditionType"].as_str().unwrap_or_default();
    if syntax::label_key(name).is_err() || OF_KUBERNETES.contains(&name) {
        let rule = "must be a name such as game.kruise.io/idle, and none by which Kubernetes itself goes";
        return Err(format!("podConditionType {rule}, got {}: it is not probed", excerpt(name)));
    }
    let mut taken = config.endpoints.iter().filter_map(Endpoint::condition);
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
    let (probe, extract) = match ["httpGet", "tcpSocket", "exec", "grpc"]
        .into_iter()
        .find(|kind| spec[kind].is_object())
    {
        Some("httpGet") => (Probe::Http(http_get(&spec["httpGet"], host)?), Extract::Whole),
        Some("tcpSocket") => {
            knows_all_keys(&spec["tcpSocket"], &OF_TCP_SOCKET, "tcpSocket.")?;
            let (host, port) = target(&spec["tcpSocket"], host)?;
            (Probe::Tcp(Server { host, port }), Extract::Nothing)
        }
        Some("exec") => return Err(format!("exec runs in the game's container, where a sidecar cannot; {INSTEAD}")),
        other => return Err(format!("{} is no probe of a sidecar; {INSTEAD}", other.unwrap_or("an empty one"))),
    };
    knows_all_keys(spec, &OF_A_PROBE, "")?;
    let number = |key| number(spec, key);
    let seconds = |key| number(key).map(|count| Duration::from_secs(count.into()));
    Ok(Endpoint {
        probe,
        timeout: seconds("timeoutSeconds")?.min(MAX_TIMEOUT),
        failure_threshold: number("failureThreshold")?,
        success_threshold: number("successThreshold")?,
        extract,
        meaning: Meaning::Condition(PodCondition {
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

/// A text of an action, if it is there.
fn text<'a>(action: &'a Value, key: &str) -> Result<Option<&'a str>, String> {
    match &action[key] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        // Of a header it may be a secret.
        _ => Err(format!("{key} must be a string")),
    }
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
    let host = text(action, "host")?.filter(|host| !host.is_empty()).unwrap_or(host);
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    syntax::legal(&host, is_authority(&host, &port.to_string()), "host must be a name or an address")
        .map(|host| (host, port))
}

/// Refuses a key that a newer Kruise wrote; one without a value is as good as none.
fn knows_all_keys(map: &Value, known: &[&str], path: &str) -> Result<(), String> {
    let mut given = map.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    match given.find(|(key, _)| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some((key, _)) => {
            Err(format!("{path}{} is not known here, and may change what is asked", escape(key, MAX_CHARS)))
        }
    }
}

fn http_get(action: &Value, host: &str) -> Result<HttpProbe, String> {
    knows_all_keys(action, &OF_HTTP_GET, "httpGet.")?;
    let (host, port) = target(action, host)?;
    let mut headers = HeaderMap::new();
    let given = match &action["httpHeaders"] {
        Value::Null => &[],
        Value::Array(headers) => headers.as_slice(),
        _ => return Err("httpHeaders must be a list".into()),
    };
    for header in given {
        knows_all_keys(header, &OF_A_HEADER, "httpHeaders.")?;
        let (name, value) = (text(header, "name")?.unwrap_or_default(), text(header, "value")?.unwrap_or_default());
        let header = HeaderName::from_bytes(name.as_bytes()).ok().zip(syntax::header_value(value).ok());
        let (name, value) = header.ok_or("httpHeaders must be names and values of visible ASCII that HTTP allows")?;
        // Those that frame the message are the probe's own; kruise-daemon does not send them either. And of several Host it
        // sends the first.
        let is_second_host = name == HOST && headers.contains_key(HOST);
        if !is_second_host && !FRAMING.contains(&name) {
            headers.append(name, value);
        }
    }
    match headers.get(HOST) {
        // Then it is the URL's.
        Some(value) if value.is_empty() => drop(headers.remove(HOST)),
        Some(value) if Authority::try_from(value.as_bytes()).is_err() => {
            return Err(format!(
                "httpHeaders: Host must be a host, got {}",
                excerpt(&String::from_utf8_lossy(value.as_bytes()))
            ));
        }
        _ => {}
    }
    let url = url(action, &host, port)?;
    let shown = syntax::without_query(&url.to_string());
    Ok(HttpProbe { url, shown, headers, expected_status: 200..=399, ..HttpProbe::default() })
}

/// The URL as kruise-daemon makes it: what a URL cannot hold is percent-encoded, and a fragment is not sent.
fn url(action: &Value, host: &str, port: u16) -> Result<Uri, String> {
    let scheme = text(action, "scheme")?.unwrap_or("HTTP").to_ascii_lowercase();
    let path = text(action, "path")?.unwrap_or_default().split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut url = format!("{scheme}://{host}:{port}{slash}");
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"<>`^\\\"{|}".contains(&byte) {
            url.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    syntax::url(&url).map_err(|rule| format!("path and scheme must {rule}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What one entry becomes: the endpoint, or the message of its condition.
    fn parsed(probe: Value) -> Result<Endpoint, String> {
        let entry =
            json!({"name": "idle", "containerName": "main", "podConditionType": "game.kruise.io/idle", "probe": probe});
        let mut config = parse(&json!([entry]).to_string(), "localhost").expect("one entry is enough");
        match (config.endpoints.pop(), config.unknown.pop()) {
            (Some(endpoint), None) => Ok(endpoint),
            (None, Some((_, why))) => Err(why),
            both => panic!("{both:?}"),
        }
    }

    fn place(action: Value) -> Result<String, String> {
        parsed(action).map(|endpoint| match endpoint.probe {
            Probe::Http(http) => http.url.to_string(),
            Probe::Tcp(tcp) => format!("{}:{}", tcp.host, tcp.port),
            other => panic!("Kruise has no {other}"),
        })
    }

    /// As the webhook of Kruise 1.9 writes it of a GameServerSet's serviceQualities.
    #[test]
    fn the_annotation_of_a_game_server_set_is_read_as_it_is() {
        let annotation = r#"[{"name":"idle","containerName":"minecraft","probe":{"httpGet":{"path":"/idle","port":8080,"scheme":"HTTP"},"initialDelaySeconds":10,"timeoutSeconds":5,"periodSeconds":3,"successThreshold":1,"failureThreshold":3},"podConditionType":"game.kruise.io/idle"},{"name":"healthy","containerName":"minecraft","probe":{"tcpSocket":{"port":25565},"initialDelaySeconds":10,"timeoutSeconds":5,"periodSeconds":3,"successThreshold":1,"failureThreshold":3},"podConditionType":"game.kruise.io/healthy"}]"#;
        let config = parse(annotation, "localhost").unwrap();
        assert!(config.unknown.is_empty() && config.warnings.is_empty(), "{config:?}");
        for (endpoint, (name, probe)) in config.endpoints.iter().zip([
            ("game.kruise.io/idle", "GET http://localhost:8080/idle"),
            ("game.kruise.io/healthy", "TCP localhost:25565"),
        ]) {
            let condition = endpoint.condition().unwrap();
            assert_eq!((condition.name.as_str(), endpoint.probe.to_string().as_str()), (name, probe));
            assert_eq!((condition.delay, condition.period), (Duration::from_secs(10), Duration::from_secs(3)));
            assert_eq!(endpoint.timeout, Duration::from_secs(5));
            assert_eq!((endpoint.success_threshold, endpoint.failure_threshold), (1, 3));
        }
        assert_eq!(config.endpoints.len(), 2);
    }

    #[test]
    fn numbers_that_are_missing_or_too_small_are_1() {
        for (numbers, expected) in [
            (json!({}), (1, 1, 1, 1, 1)),
            (
                json!({"initialDelaySeconds": 0, "periodSeconds": 0, "timeoutSeconds": 0, "successThreshold": 0, "failureThreshold": 0}),
                (1, 1, 1, 1, 1),
            ),
            (
                json!({"initialDelaySeconds": -5, "periodSeconds": null, "timeoutSeconds": 7, "successThreshold": 2, "failureThreshold": 3}),
                (1, 1, 7, 2, 3),
            ),
            (
                json!({"initialDelaySeconds": 2147483647, "periodSeconds": 5000000000_u64, "timeoutSeconds": 2147483647,
                       "newerKey": null, "terminationGracePeriodSeconds": 30}),
                (2_147_483_647, 2_147_483_647, 3600, 1, 1),
            ),
        ] {
            let mut probe = json!({"tcpSocket": {"port": 1}});
            probe.as_object_mut().unwrap().extend(numbers.as_object().unwrap().clone());
            let endpoint = parsed(probe).unwrap();
            let condition = endpoint.condition().unwrap();
            let read = (condition.delay.as_secs(), condition.period.as_secs(), endpoint.timeout.as_secs());
            assert_eq!((read.0, read.1, read.2, endpoint.success_threshold, endpoint.failure_threshold), expected);
        }
        for wrong in [json!("3"), json!(1.5), json!([1]), json!(true)] {
            let problem = parsed(json!({"tcpSocket": {"port": 1}, "periodSeconds": wrong}));
            assert_eq!(problem, Err("periodSeconds must be a whole number".into()));
        }
    }

    #[test]
    fn a_key_that_may_change_what_is_asked_is_no_key_to_ignore() {
        for (probe, problem) in [
            (json!({"httpGet": {"port": 1, "protocol": "HTTP2"}}), "httpGet.protocol is not known here"),
            (json!({"httpGet": {"port": 1}, "successCodes": [204]}), "successCodes is not known here"),
            (json!({"tcpSocket": {"port": 1, "send": "x"}}), "tcpSocket.send is not known here"),
        ] {
            let told = parsed(probe).unwrap_err();
            assert!(told.starts_with(problem), "{told}");
        }
        assert_eq!(place(json!({"httpGet": {"port": 1, "protocol": null}})), Ok("http://localhost:1/".into()));
    }

    #[test]
    fn ports_and_hosts_are_read_in_each_form() {
        for (action, expected) in [
            (json!({"tcpSocket": {"port": 65535}}), Ok("localhost:65535")),
            (json!({"tcpSocket": {"port": "8080"}}), Ok("localhost:8080")),
            (json!({"tcpSocket": {"port": 1, "host": "::1"}}), Ok("[::1]:1")),
            (json!({"tcpSocket": {"port": 1, "host": "[::1]"}}), Ok("[::1]:1")),
            (json!({"tcpSocket": {"port": 1, "host": "10.0.0.1"}}), Ok("10.0.0.1:1")),
            (json!({"tcpSocket": {"port": 1, "host": ""}}), Ok("localhost:1")),
            (json!({"httpGet": {"port": 80, "path": "/"}}), Ok("http://localhost:80/")),
            (json!({"httpGet": {"port": 80, "path": ""}}), Ok("http://localhost:80/")),
            (json!({"httpGet": {"port": 80}}), Ok("http://localhost:80/")),
            (json!({"httpGet": {"port": 80, "path": "healthz"}}), Ok("http://localhost:80/healthz")),
            (json!({"httpGet": {"port": 80, "path": "?a=b"}}), Ok("http://localhost:80/?a=b")),
            (json!({"httpGet": {"port": 443, "path": "/", "scheme": "HTTPS"}}), Ok("https://localhost:443/")),
            (json!({"httpGet": {"port": 1, "path": "/", "host": "fd00::1"}}), Ok("http://[fd00::1]:1/")),
            (
                json!({"httpGet": {"port": 1, "path": "/a b/空?x=<{|}>&y=%20#z"}}),
                Ok("http://localhost:1/a%20b/%E7%A9%BA?x=%3C%7B%7C%7D%3E&y=%20"),
            ),
            (json!({"httpGet": {"port": 1, "path": "/", "scheme": "FTP"}}), Err("path and scheme must be an http")),
            (json!({"httpGet": {"port": 1, "path": "/", "host": "a b"}}), Err("host must be a name or an address")),
            (json!({"tcpSocket": {"port": 1, "host": "a\nb"}}), Err("host must be a name or an address")),
            (json!({"tcpSocket": {"port": 1, "host": "::x"}}), Err("host must be a name or an address")),
            (
                json!({"httpGet": {"port": 1, "path": "x".repeat(5000)}}),
                Err("path and scheme must be a URL of at most"),
            ),
            (json!({"httpGet": {"port": 1, "path": 5}}), Err("path must be a string")),
            (json!({"httpGet": {"port": 1, "scheme": true}}), Err("scheme must be a string")),
            (json!({"httpGet": {"port": 1, "host": ["h"]}}), Err("host must be a string")),
            (json!({"httpGet": {"port": 1, "path": null, "httpHeaders": null}}), Ok("http://localhost:1/")),
            (json!({"httpGet": {"port": 1, "httpHeaders": {"name": "A"}}}), Err("httpHeaders must be a list")),
            (
                json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "A", "value": 5}]}}),
                Err("value must be a string"),
            ),
            (
                json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "A", "valueFrom": {}}]}}),
                Err("httpHeaders.valueFrom is not known here"),
            ),
            (json!({"tcpSocket": {"port": 0}}), Err("port must be a number of 1 to 65535")),
            (json!({"tcpSocket": {"port": 65536}}), Err("port must be")),
            (json!({"tcpSocket": {"port": -1}}), Err("port must be")),
            (json!({"tcpSocket": {"port": 80.5}}), Err("port must be")),
            (json!({"tcpSocket": {}}), Err("port must be")),
            (json!({"tcpSocket": {"port": "game"}}), Err("port must be")),
            (json!({"httpGet": {"port": "http", "path": "/"}}), Err("port must be")),
            (json!({"exec": {"command": ["sh"]}}), Err("exec runs in the game's container")),
            (json!({"grpc": {"port": 1, "service": null}}), Err("grpc is no probe of a sidecar")),
            (json!({"exec": null, "tcpSocket": {"port": 1}}), Ok("localhost:1")),
            (json!({}), Err("an empty one is no probe of a sidecar")),
            (json!(null), Err("an empty one is no probe of a sidecar")),
        ] {
            match (place(action.clone()), expected) {
                (Ok(place), Ok(expected)) => assert_eq!(place, expected, "{action}"),
                (Err(problem), Err(beginning)) => assert!(problem.starts_with(beginning), "{action}: {problem}"),
                (found, _) => panic!("{action}: {found:?}"),
            }
        }
    }

    #[test]
    fn headers_are_sent_as_they_are_but_for_those_of_the_probe_itself() {
        let get = |headers: Value| parsed(json!({"httpGet": {"port": 1, "path": "/", "httpHeaders": headers}}));
        let sent = json!([
            {"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}, {"name": "Host", "value": "h"},
            {"name": "Content-Length", "value": "9"}, {"name": "Connection", "value": "keep-alive"}, {"name": "E"},
        ]);
        let Probe::Http(http) = get(sent).unwrap().probe else { panic!("it is an httpGet") };
        let headers: Vec<_> =
            http.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(headers, [("x-a", "1"), ("x-a", "2"), ("host", "h"), ("e", "")]);
        for (hosts, sent) in [(["a", "b"], Some("a")), (["", "b"], None), (["a", ""], Some("a"))] {
            let Probe::Http(http) = get(json!(hosts.map(|host| json!({"name": "host", "value": host})))).unwrap().probe
            else {
                panic!("it is an httpGet")
            };
            assert_eq!(http.headers.get(HOST).map(|host| host.to_str().unwrap()), sent, "{hosts:?}");
        }
        for wrong in [
            json!([{"name": "a b", "value": "1"}]),
            json!([{"value": "1"}]),
            json!([{"name": "A", "value": "hidden\n"}]),
            json!([{"name": "A", "value": "x".repeat(4097)}]),
            json!(["hidden"]),
        ] {
            let problem = get(wrong).unwrap_err();
            assert_eq!(problem, "httpHeaders must be names and values of visible ASCII that HTTP allows");
        }
        let problem = get(json!([{"name": "Host", "value": "a b"}])).unwrap_err();
        assert_eq!(problem, "httpHeaders: Host must be a host, got `a b`");
    }

    #[test]
    fn conditions_that_are_kubernetes_own_or_taken_are_left_alone() {
        let probe = json!({"tcpSocket": {"port": 1}});
        let names = [
            "a",
            "Ready",
            "Initialized",
            "ContainersReady",
            "PodScheduled",
            "a b",
            "",
            "x/y/z",
            "a",
            "game.kruise.io/b",
        ];
        let entries: Vec<Value> = names.map(|name| json!({"podConditionType": name, "probe": probe})).into();
        let config = parse(&json!(entries).to_string(), "localhost").unwrap();
        let run: Vec<_> = config.endpoints.iter().enumerate().map(|(index, endpoint)| endpoint.name(index)).collect();
        assert_eq!(run, ["a", "game.kruise.io/b"]);
        assert_eq!(config.warnings.len(), 8, "{:?}", config.warnings);
        let taken =
            json!([{"podConditionType": "a", "probe": {"exec": {}}}, {"podConditionType": "a", "probe": probe}]);
        let config = parse(&taken.to_string(), "localhost").unwrap();
        assert_eq!((config.endpoints.len(), config.unknown.len()), (0, 1));
        let none = parse(r#"[{"podConditionType": "Ready", "probe": {"tcpSocket": {"port": 1}}}]"#, "localhost");
        assert!(none.unwrap_err().starts_with("hold a probe: KRUISE_PODPROBE[0]: podConditionType must be a name"));
    }
}
