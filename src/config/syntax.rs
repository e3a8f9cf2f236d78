//! Owns the spelling of single values: what Kubernetes, HTTP and RFC 6901 let stand in each. Each check returns the
//! rule as the words that follow "must ".

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use ureq::http::{HeaderValue, Method, Uri};

use super::{Field, Metric, OPS_STATE, Server};
use crate::excerpt::{MAX_CHARS, escape, excerpt};
use crate::json::{escaped_key, pointer_keys};

/// A text in which `{{.Result}}` stands for the result (behaviour 6.2).
#[derive(Debug, Clone, PartialEq)]
pub struct Template(String);

const RESULT: &str = "{{.Result}}";

/// The most bytes of a value that a result is part of. A body may have 64 KiB, and a Pod's annotations 256 KiB in all:
/// without a bound, a game could have the sidecar hold many of them.
pub const MAX_VALUE_BYTES: usize = 4096;

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let has_others = text.replace(RESULT, "").contains("{{");
        legal(text, !has_others, "hold no `{{` but {{.Result}}").map(Self)
    }

    /// A text that is known to be one.
    pub(crate) fn of(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }

    /// The text for a result; nothing where the result would make it longer than [`MAX_VALUE_BYTES`].
    pub fn render(&self, result: &str) -> Option<String> {
        let places = self.0.matches(RESULT).count();
        let bytes = self.0.len() - places * RESULT.len() + places * result.len();
        (places == 0 || bytes <= MAX_VALUE_BYTES).then(|| self.0.replace(RESULT, result))
    }

    /// Whether the result stands in it.
    pub fn needs_result(&self) -> bool {
        self.0.contains(RESULT)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The annotation of the GameServer in which the sidecar remembers what it decided (behaviour 4.3).
pub const RECORD: &str = "okg-sidecar/decided";

const NOT_RECORD: &str = "be another annotation than okg-sidecar/decided, which is the sidecar's own record";

/// The text where it is legal, else the rule.
pub(super) fn legal(text: &str, is_legal: bool, rule: &str) -> Result<String, String> {
    require(is_legal, rule).map(|()| text.to_owned())
}

fn require(is_kept: bool, rule: &str) -> Result<(), String> {
    if is_kept { Ok(()) } else { Err(rule.to_owned()) }
}

/// Whether a character shows nothing: white space of any script, or a format character. Who copies a value takes one along.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'
                ..='\u{180e}'
        )
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}')
        || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{1d159}' | '\u{e0000}'..='\u{e007f}' | '\u{e0100}'..='\u{e01ef}')
}

pub(super) fn without_invisible_ends(text: &str) -> &str {
    text.trim_matches(is_invisible)
}

/// The state of a policy. A result has no white space around it, and so equals none that has.
pub(super) fn state(text: &str) -> Result<String, String> {
    let is_visible = without_invisible_ends(text) == text;
    legal(text, is_visible, "have no white space or invisible character around it, since results have none")
}

/// An opsState that a policy sets or an endpoint protects.
pub(super) fn ops_state(text: &str) -> Result<String, String> {
    let rule = "be 1 to 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends, since OpenKruiseGame makes it a \
                label value";
    legal(text, is_ops_state(text), rule)
}

/// Whether `text` can be an opsState: OpenKruiseGame copies it into a label of the pod, and an empty label would hide
/// the state (behaviour 2.6).
pub fn is_ops_state(text: &str) -> bool {
    !text.is_empty() && is_label_value(text)
}

/// Whether a label can have this value:
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>.
pub fn is_label_value(text: &str) -> bool {
    const INNER: [char; 3] = ['-', '_', '.'];
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || INNER.contains(&c))
        && !text.starts_with(INNER)
        && !text.ends_with(INNER)
}

/// The key of a label: an optional DNS subdomain and a slash, then a name.
pub(super) fn label_key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let rule = "be a Kubernetes metadata key: an optional DNS prefix and `/`, then 1 to 63 of A-Z a-z 0-9 - _ . with a \
                letter or digit at both ends";
    require(prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name), rule)
}

/// A label of the Pod, by its key.
pub(super) fn label(key: &str) -> Result<Field, String> {
    label_key(key).map(|()| Field::label(key))
}

/// An annotation of the Pod; its key has the form of a label's.
pub(super) fn annotation(key: &str) -> Result<Field, String> {
    require(!is_record(key), NOT_RECORD)?;
    label_key(key).map(|()| Field::annotation(key))
}

/// Whether it is the key of a record, or of the annotation that is beside it for people (behaviour 4.3).
fn is_record(key: &str) -> bool {
    key.strip_prefix(RECORD).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// RFC 1123 subdomain, as prefixes, API groups and names of pods are.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// RFC 1123 label, as namespaces, versions and resources are.
pub(super) fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// An API group, which is empty for the core one.
pub(super) fn is_api_group(text: &str) -> bool {
    text.is_empty() || is_dns_subdomain(text)
}

/// Whether `text` can stand as one segment of an API path. Most names are DNS subdomains; RBAC's may hold colons.
pub fn is_object_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b))
}

/// The most bytes of a URL or a header, so that a request's head fits the buffer that it is sent from.
const MAX_REQUEST_PART_BYTES: usize = 4096;

/// A host as DNS or an IPv6 address in brackets spells it; `_` stands in names of some clusters.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    }
}

/// Whether host and port of a server make an authority; ureq would take a port of 99999 for a default one.
pub fn is_authority(host: &str, port: &str) -> bool {
    is_host(host) && port.bytes().all(|b| b.is_ascii_digit()) && matches!(port.parse::<u16>(), Ok(1..))
}

const NO_HTTP_URL: &str = "be an http or https URL with a host";

/// The server that a url names by host and port alone; the port of a kind that has a usual one may be missing.
pub(super) fn server(text: &str, usual_port: Option<u16>) -> Result<Server, String> {
    let (_, authority) = text.split_once("://").ok_or("be a URL")?;
    require(!authority.contains(['/', '?', '#', '@']), "name a host, a port, and nothing else")?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    require(is_host(host), "name a host, a port, and nothing else")?;
    let port = match port {
        None => usual_port,
        Some(port) => is_authority(host, port).then(|| port.parse().ok()).flatten(),
    };
    Ok(Server { host: host.to_owned(), port: port.ok_or("be a URL with a port of 1 to 65535")? })
}

/// Directories whose files are no game's: those of the system, and the one in which a pod's token lies.
const NO_FILES_IN: [&str; 5] = ["/proc", "/sys", "/dev", "/run/secrets", "/var/run/secrets"];

/// The path of a file behind `file://`.
pub(super) fn file_path(text: &str) -> Result<PathBuf, String> {
    require(text.starts_with('/'), "name no host: three slashes stand before the path, as in file:///shared/state")?;
    require(!text.contains(['%', '?', '#']), "have the path as it is, without %, ? and #")?;
    require(text.len() <= MAX_REQUEST_PART_BYTES, &format!("have at most {MAX_REQUEST_PART_BYTES} bytes"))?;
    let is_visible = without_invisible_ends(text) == text && !text.contains(|c| c != ' ' && is_invisible(c));
    require(is_visible, "have no invisible character, and no white space at its end")?;
    let is_plain = text.split('/').skip(1).all(|part| !["", ".", ".."].contains(&part));
    require(is_plain, "name a file, by a path without empty parts, . and ..")?;
    let path = PathBuf::from(text);
    let is_of_a_game = !NO_FILES_IN.iter().any(|directory| path.starts_with(directory));
    require(is_of_a_game, &format!("name no file in {}", NO_FILES_IN.join(", ")))?;
    Ok(path)
}

/// A url with the values of its variables, which stand behind its host.
pub(super) fn with_variables(url: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let path = url[after_scheme..].find(['/', '?', '#']).map_or(url.len(), |at| after_scheme + at);
    require(!url[..path].contains("${"), "have variables behind its host alone")?;
    Ok(format!("{}{}", &url[..path], substitute(&url[path..], environment)?))
}

/// An http url as logs show it: with the names of variables, and without a query, which may be a secret.
pub(super) fn without_query(url: &str) -> String {
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    let has_path = shown.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    if has_path { shown.to_owned() } else { format!("{shown}/") }
}

/// An HTTP probe's URL (behaviour 2.3). ureq takes a port of 99999 for 80, and a URL's user name nowhere: refused here.
pub(super) fn url(text: &str) -> Result<Uri, String> {
    require(!text.contains('#'), "be a URL without a fragment")?;
    require(text.bytes().all(|b| b.is_ascii_graphic()), "be a URL in visible ASCII, anything else percent-encoded")?;
    require(text.len() <= MAX_REQUEST_PART_BYTES, &format!("be a URL of at most {MAX_REQUEST_PART_BYTES} bytes"))?;
    let url: Uri = text.parse().map_err(|_| NO_HTTP_URL)?;
    require(matches!(url.scheme_str(), Some("http" | "https")), NO_HTTP_URL)?;
    let authority = url.authority().ok_or(NO_HTTP_URL)?.as_str();
    require(!authority.contains('@'), "be a URL without a user name; send it as the header Authorization")?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "80"),
    };
    require(is_host(host), NO_HTTP_URL)?;
    require(is_authority(host, port), "be a URL with a port of 1 to 65535")?;
    Ok(url)
}

/// A URL that was refused, without its user name, password and query, which may be secrets.
pub(super) fn without_secrets(url: &str) -> String {
    let (place, rest) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let hidden = if rest.is_empty() { "" } else { "?…" };
    match place.rsplit_once('@') {
        // A sign of a password, perhaps, and not the start of the query.
        _ if rest.contains('@') => "…".into(),
        Some((_, place)) => format!("…@{place}{hidden}"),
        None => format!("{place}{hidden}"),
    }
}

/// The value of the header Host.
pub(super) fn host_header(text: &str) -> Result<HeaderValue, String> {
    let is_legal = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => is_authority(host, port),
        _ => is_host(text),
    };
    require(is_legal, "be a host, and a port if need be, such as tank.war:8080")?;
    header_value(text)
}

/// The value of a header.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, String> {
    require(text.len() <= MAX_REQUEST_PART_BYTES, &format!("have at most {MAX_REQUEST_PART_BYTES} bytes"))?;
    HeaderValue::from_str(text).map_err(|_| "be visible ASCII, spaces and tabs".into())
}

/// A request method (RFC 9110, 9.1), put into capitals.
pub(super) fn method(text: &str) -> Result<Method, String> {
    match Method::from_bytes(text.to_ascii_uppercase().as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) | Err(_) => {
            Err("be an HTTP method, such as GET, but not CONNECT or TRACE".into())
        }
        Ok(method) => Ok(method),
    }
}

/// An RFC 6901 pointer to a field.
pub(super) fn pointer(text: &str) -> Result<(), String> {
    let escaped = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    require(text.starts_with('/') && escaped, "be an RFC 6901 pointer such as /spec/networkDisabled")?;
    require(text.split('/').skip(1).all(|key| !key.is_empty()), "be an RFC 6901 pointer without an empty key")
}

/// A pointer to a field that may be written: not a whole part of an object, nor what the API server keeps itself.
pub(super) fn field(text: &str) -> Result<String, String> {
    pointer(text)?;
    // Logs show it as it is; names of fields and keys of maps are plain in Kubernetes.
    require(text.bytes().all(|b| b.is_ascii_graphic()), "be an RFC 6901 pointer in visible ASCII")?;
    let keys: Vec<String> = pointer_keys(text).collect();
    let is_field = match keys.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["metadata", "annotations", key] if is_record(key) => return Err(NOT_RECORD.into()),
        ["metadata", "labels" | "annotations", _] => true,
        ["spec" | "status"] | ["apiVersion" | "kind" | "metadata", ..] => false,
        _ => true,
    };
    legal(text, is_field, "name a field such as /spec/networkDisabled, a label or an annotation")
}

/// The same, of a GameServer: policies name the opsStates that there are, so that no game can invent one such as Kill.
pub(super) fn field_of_a_game_server(text: &str) -> Result<String, String> {
    let text = field(text)?;
    let of_ops_state = "name another field than opsState, which policies set: list its states in markerPolices with \
                        gameServerOpsState";
    require(text != OPS_STATE && !text.starts_with("/spec/opsState/"), of_ops_state)?;
    let of_status = "name no field of /status, which OpenKruiseGame writes, and which the API server drops from a patch of a \
                     GameServer";
    legal(&text, !text.starts_with("/status/"), of_status)
}

/// Where in a JSON body a result stands: `a.b.0.c`, `$.a`, or an RFC 6901 pointer (behaviour 6.5).
pub(super) fn json_path(text: &str) -> Result<Vec<String>, String> {
    let is_pointer = text.starts_with('/');
    let keys: Vec<String> = if is_pointer {
        pointer(text)?;
        pointer_keys(text).collect()
    } else if text == "$" {
        return Ok(Vec::new());
    } else {
        text.strip_prefix("$.").unwrap_or(text).split('.').map(str::to_owned).collect()
    };
    let is_visible = keys.iter().all(|key| without_invisible_ends(key) == key);
    require(is_visible, "have keys without white space or invisible characters around them")?;
    const OF_OTHERS: [char; 15] = ['[', ']', '{', '}', '(', ')', '*', '?', '@', '#', '|', '$', '\\', '"', '\''];
    let is_plain = keys.iter().all(|key| !key.is_empty() && !key.contains(OF_OTHERS));
    match translated(text) {
        _ if is_pointer || is_plain => Ok(keys),
        Some(path) => Err(format!("be a dotted path or an RFC 6901 pointer: write {path}")),
        None if text.contains(['#', '*']) => {
            Err("be a dotted path such as players, with count: true for the number of its \
                                                  elements; it names one value"
                .into())
        }
        None => Err(
            "be a dotted path such as players.count or rooms.0.state, or an RFC 6901 pointer, which may have other \
                     characters in its keys"
                .into(),
        ),
    }
}

/// A path of gjson, JSONPath, jq or kubectl in our own spelling, if it names one value.
fn translated(text: &str) -> Option<String> {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let inner = inner.strip_prefix('$').unwrap_or(inner);
    let mut keys = vec![String::new()];
    let mut chars = inner.strip_prefix('.').unwrap_or(inner).chars();
    while let Some(c) = chars.next() {
        let key = keys.last_mut()?;
        match c {
            '.' => keys.push(String::new()),
            '\\' => key.push(chars.next()?),
            '[' => {
                let (index, rest) = chars.as_str().split_once(']')?;
                let quoted = ['"', '\''].iter().find_map(|quote| index.strip_prefix(*quote)?.strip_suffix(*quote));
                let is_index = index.bytes().all(|b| b.is_ascii_digit());
                let index = quoted.or(is_index.then_some(index))?;
                if key.is_empty() {
                    key.push_str(index)
                } else {
                    keys.push(index.to_owned())
                }
                chars = Some(rest).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))?.chars();
            }
            '"' | '\'' => {
                let (quoted, rest) = chars.as_str().split_once(c)?;
                key.push_str(quoted);
                chars = rest.chars();
            }
            ']' | '{' | '}' | '(' | ')' | '*' | '?' | '@' | '#' | '|' | '$' => return None,
            plain => key.push(plain),
        }
    }
    if keys.iter().any(String::is_empty) {
        return None;
    }
    let is_plain = keys.iter().all(|key| !key.contains(['.', '/']));
    Some(if is_plain { keys.join(".") } else { keys.iter().map(|key| format!("/{}", escaped_key(key))).collect() })
}

/// Shows `seen` the labels behind an opening brace, and gives what follows the closing one. A backslash stands before a
/// quote, a backslash, and the `n` of a line feed.
pub fn metric_labels<'t>(mut text: &'t str, mut seen: impl FnMut(&'t str, String)) -> Option<&'t str> {
    loop {
        text = text.trim_ascii_start();
        if let Some(rest) = text.strip_prefix('}') {
            return Some(rest);
        }
        let (name, rest) = text.split_once('=')?;
        let mut value = String::new();
        let mut chars = rest.trim_ascii_start().strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => value.push('\n'),
                    escaped @ ('"' | '\\') => value.push(escaped),
                    other => value.extend(['\\', other]),
                },
                plain => value.push(plain),
            }
        }
        seen(name.trim_ascii(), value);
        text = chars.as_str().trim_ascii_start();
        match text.strip_prefix(',') {
            Some(rest) => text = rest,
            None if text.starts_with('}') => {}
            None => return None,
        }
    }
}

/// A metric of Prometheus' text format: a name, and labels in braces that its samples must have.
pub(super) fn metric(text: &str) -> Result<Metric, String> {
    let rule = "be the name of a metric, and labels if need be, each once: players_online{world=\"over\"}";
    let (name, rest) = text.split_once('{').map_or((text, None), |(name, rest)| (name.trim_ascii_end(), Some(rest)));
    let mut labels = Vec::new();
    if let Some(rest) = rest {
        let end = metric_labels(rest, |name, value| labels.push((name.to_owned(), value)));
        require(end.is_some_and(str::is_empty), rule)?;
    }
    let is_name = |text: &str, others: &[u8]| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || others.contains(&b))
            && !text.is_empty()
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    let stands_once = |at: usize| labels[..at].iter().all(|(name, _)| *name != labels[at].0);
    let is_legal = is_name(name, b"_:")
        && labels.iter().all(|(name, _)| is_name(name, b"_"))
        && (0..labels.len()).all(stands_once);
    require(is_legal, rule).map(|()| Metric { name: name.to_owned(), labels })
}

/// The most bytes of a request's body.
const MAX_BODY_BYTES: usize = 4096;

/// The body of a request.
pub(super) fn body(text: &str) -> Result<String, String> {
    let rule = format!("have 1 to {MAX_BODY_BYTES} bytes; leave the key out for an empty body");
    legal(text, (1..=MAX_BODY_BYTES).contains(&text.len()), &rule)
}

/// The value of the header Authorization for a user name and a password (RFC 7617).
pub(super) fn basic_auth(username: &str, password: &str) -> Result<HeaderValue, String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = String::from("Basic ");
    for three in format!("{username}:{password}").as_bytes().chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(*three.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]);
            value.push(if at > three.len() { '=' } else { digit });
        }
    }
    header_value(&value)
}

/// Replaces `${SELF:VAR}` by the sidecar's own environment; `$${` is a plain `${` (behaviour 2.11).
pub(super) fn substitute(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, behind) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            replaced.extend([before, "${"]);
            rest = behind;
            continue;
        }
        let (variable, after) = behind.split_once('}').ok_or("close every `${` with `}`; `$${` is a plain `${`")?;
        replaced.push_str(before);
        replaced += &match variable.split_once(':') {
            Some(("SELF", name)) => environment(name).ok_or_else(|| {
                format!("name variables of the sidecar's own environment; {} is not set", excerpt(name))
            })?,
            Some(("POD", name)) => {
                let name = escape(name, MAX_CHARS);
                return Err(format!(
                    "not use ${{POD:{name}}}: a container cannot see another container's environment; set {name} on \
                     this one and write ${{SELF:{name}}}"
                ));
            }
            _ => return Err("hold no `${` but ${SELF:VAR}; `$${` is a plain `${`".into()),
        };
        rest = after;
    }
    Ok(replaced + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_states_are_non_empty_label_values() {
        for (text, legal) in [
            ("None", true),
            ("a", true),
            ("9.x_y-z", true),
            (&"x".repeat(63), true),
            (&"x".repeat(64), false),
            ("", false),
            ("-", false),
            ("-a", false),
            ("a.", false),
            ("a b", false),
            ("空闲", false),
            ("{{.Result}}", false),
        ] {
            assert_eq!(is_ops_state(text), legal, "{text:?}");
        }
        assert!(is_label_value(""));
    }

    #[test]
    fn metadata_keys_may_have_a_dns_prefix() {
        for (text, legal) in [
            ("room", true),
            ("game.example.com/room_1", true),
            ("controller.kubernetes.io/pod-deletion-cost", true),
            ("", false),
            ("/room", false),
            ("Game/room", false),
            ("a/b/c", false),
            ("room!", false),
            ("a/", false),
        ] {
            assert_eq!(label_key(text).is_ok(), legal, "{text:?}");
        }
    }

    #[test]
    fn urls_need_a_scheme_a_host_and_a_real_port() {
        for (text, legal) in [
            ("http://localhost:8080", true),
            ("https://[::1]:1/x?y=z", true),
            ("http://[::1]", true),
            ("http://game/", true),
            ("http://h:65535", true),
            ("http://h:65536", false),
            ("http://h:99999", false),
            ("http://h:0", false),
            ("http://h:", false),
            ("http://h:+1", false),
            ("http://:80", false),
            ("http://", false),
            ("http:///x", false),
            ("localhost:8080", false),
            ("/healthz", false),
            ("ftp://h", false),
            ("http://u:p@h", false),
            ("http://h/#top", false),
            ("http://h/a b", false),
            ("http://h/\u{202e}", false),
            ("http://[]:80", false),
            ("http://[::1]x:80", false),
            ("http://[fe80::1%25eth0]", false),
            ("http://[localhost]", false),
            ("http://*", false),
            ("http://my_game.ns:80", true),
            (&format!("http://h/{}", "x".repeat(4096)), false),
            ("", false),
        ] {
            assert_eq!(url(text).is_ok(), legal, "{text:?}: {:?}", url(text));
        }
    }

    #[test]
    fn methods_are_tokens_in_any_case() {
        assert_eq!(method("post"), Ok(Method::POST));
        assert_eq!(method("Query").map(|m| m.to_string()), Ok("QUERY".into()));
        for text in ["", "GE T", "connect", "TRACE", "GET\r\n"] {
            assert!(method(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_result_goes_to_ops_state_or_to_the_status_of_a_game_server() {
        for (text, legal) in [
            ("/spec/opsState", false),
            ("/spec/opsState/x", false),
            ("/status/currentState", false),
            ("/status", false),
            ("/spec/opsStateOfMine", true),
            ("/metadata/labels/status", true),
            ("/spec/deletionPriority", true),
        ] {
            assert_eq!(field_of_a_game_server(text).is_ok(), legal, "{text:?}");
        }
    }

    #[test]
    fn fields_are_not_whole_parts_of_an_object() {
        for (text, legal) in [
            ("/spec/opsState", true),
            ("/data/players", true),
            ("/metadata/annotations/a~1b", true),
            ("/spec", false),
            ("/metadata", false),
            ("/metadata/name", false),
            ("/metadata/labels", false),
            ("/kind", false),
            ("/data/a\tb", false),
            ("/data/\u{202e}", false),
            ("spec", false),
        ] {
            assert_eq!(field(text).is_ok(), legal, "{text:?}");
        }
    }

    #[test]
    fn json_paths_are_dotted_or_pointers() {
        for (text, keys) in [
            ("players", Some(vec!["players"])),
            ("a.b.0.c", Some(vec!["a", "b", "0", "c"])),
            ("$.a.b", Some(vec!["a", "b"])),
            ("/a~1b/m~0n/0", Some(vec!["a/b", "m~n", "0"])),
            ("/a~01", Some(vec!["a~1"])),
            ("", None),
            ("a..b", None),
            ("$", Some(vec![])),
            ("a[0]", None),
            ("/a~2", None),
            ("/", None),
        ] {
            let keys = keys.map(|keys| keys.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(json_path(text).ok(), keys, "{text:?}");
        }
    }

    #[test]
    fn variables_come_from_the_sidecars_own_environment() {
        let environment = |name: &str| (name == "POD_NAME").then(|| "gs-0".to_owned());
        let of = |text| substitute(text, &environment);
        assert_eq!(of("plain"), Ok("plain".into()));
        assert_eq!(of("room-${SELF:POD_NAME}-${SELF:POD_NAME}"), Ok("room-gs-0-gs-0".into()));
        assert!(of("${SELF:HOME}").unwrap_err().contains("`HOME` is not set"));
        assert!(of("${POD:X}").unwrap_err().contains("another container's environment"));
        assert!(of("${X}").unwrap_err().contains("no `${` but ${SELF:VAR}"));
        assert!(of("${SELF:X").unwrap_err().contains("close every"));
    }

    #[test]
    fn templates_hold_the_result_and_nothing_else() {
        assert_eq!(Template::parse("n-{{.Result}}").unwrap().render("5").as_deref(), Some("n-5"));
        assert_eq!(Template::parse("plain").unwrap().render("5").as_deref(), Some("plain"));
        assert_eq!(Template::parse("{{.Result}}{{.Result}}").unwrap().render(&"x".repeat(2049)), None);
        assert!(Template::parse(&"x".repeat(5000)).unwrap().render("5").is_some());
        for text in ["{{ .Result }}", "{{len .Result}}", "{{", "{{.Result}}{{.Other}}"] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
    }
}
