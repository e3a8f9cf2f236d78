//! Owns the way from the file's tree to [`Config`]: the keys that may stand where, their ranges and defaults (SPEC 2).

use ureq::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ureq::http::{Method, Uri};

use super::file::{Kind, Node};
use super::reader::{At, Checker, Keys, shown};
use super::syntax::{self, MAX_REQUEST_PART_BYTES, Template};
use super::{Config, Endpoint, Extract, FAILED, Field, FieldType, HttpProbe, Policy, Priority, Probe, Target, When};
use crate::excerpt::excerpt;

/// The opsStates that OpenKruiseGame gives a meaning to.
const KNOWN_OPS_STATES: [&str; 5] = ["None", "Allocated", "WaitToBeDeleted", "Maintaining", "Kill"];

/// Keys of the Go sidecar that the pod's own fields decide here (SPEC 2.1).
const DECIDED_BY_THE_POD: [&str; 7] =
    ["bootorder", "bootOrder", "restartPolicy", "restartpolicy", "resources", "sidecarStartOrder", "sidecarstartorder"];

/// The most problems that are told of one file.
const MAX_PROBLEMS: usize = 50;

/// Headers that frame the message and so belong to the probe itself.
const FRAMING: [HeaderName; 5] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::EXPECT, header::TRANSFER_ENCODING, header::UPGRADE];

/// Turns the tree into a [`Config`].
///
/// # Errors
/// Every problem: the path of its key, the rule, the value.
pub(super) fn check(tree: &Node, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Vec<String>> {
    let mut checker = Checker { environment, problems: Vec::new(), warnings: Vec::new() };
    checker.repeated_keys("", tree);
    let config = checker.file(tree);
    match config {
        Some(config) if checker.problems.is_empty() => Ok(Config { warnings: checker.warnings, ..config }),
        _ => {
            let more = checker.problems.len().saturating_sub(MAX_PROBLEMS);
            checker.problems.truncate(MAX_PROBLEMS);
            if more > 0 {
                checker.problems.push(format!("and {more} more problems"));
            }
            Err(checker.problems)
        }
    }
}

impl Checker<'_> {
    fn file(&mut self, node: &Node) -> Option<Config> {
        let root = At { path: String::new(), node };
        if !matches!(node, Node::Map(_)) {
            self.problems.push(format!("plugins: must be given in a map, got {}", shown(node)));
            return None;
        }
        let mut allowed = vec!["plugins"];
        allowed.extend(DECIDED_BY_THE_POD);
        let keys = self.keys(&root, &allowed)?;
        let Some(plugins) = keys.get("plugins") else {
            self.missing("plugins".into(), "be a list of one plugin, http_probe");
            return None;
        };
        let plugin = self.list(&plugins, 1..=1, "plugin").into_iter().next()?;
        self.plugin(&plugin)
    }

    fn plugin(&mut self, at: &At) -> Option<Config> {
        let mut allowed = vec!["name", "config"];
        allowed.extend(DECIDED_BY_THE_POD);
        let keys = self.keys(at, &allowed)?;
        self.required(&keys, "name", "be http_probe", |name| match name {
            "http_probe" => Ok(()),
            _ => Err("be http_probe, the one plugin that this sidecar runs".into()),
        });
        match keys.get("config") {
            Some(config) => self.config(&config),
            None => {
                self.missing(keys.path("config"), "be the configuration of http_probe");
                None
            }
        }
    }

    fn config(&mut self, at: &At) -> Option<Config> {
        let keys = self.keys(at, &["startDelaySeconds", "probeIntervalSeconds", "resyncSeconds", "endpoints"])?;
        let start_delay = self.seconds(&keys, "startDelaySeconds", 0..=86400, 0);
        let interval = self.seconds(&keys, "probeIntervalSeconds", 1..=86400, 5);
        let resync = self.seconds(&keys, "resyncSeconds", 0..=86400, 0);
        let Some(list) = keys.get("endpoints") else {
            self.missing(keys.path("endpoints"), "be a list of 1 to 64 endpoints");
            return None;
        };
        let endpoints: Vec<Endpoint> =
            self.list(&list, 1..=64, "endpoints").iter().filter_map(|endpoint| self.endpoint(endpoint)).collect();
        self.nested_fields(&list.path, &endpoints);
        Some(Config {
            start_delay,
            interval,
            resync: (!resync.is_zero()).then_some(resync),
            endpoints,
            warnings: Vec::new(),
        })
    }

    /// Of two fields of one object none may lie in the other: a merge-patch could not say both.
    fn nested_fields(&mut self, path: &str, endpoints: &[Endpoint]) {
        let fields: Vec<&Field> = endpoints.iter().filter_map(|endpoint| endpoint.field.as_ref()).collect();
        for inner in &fields {
            let holds = |outer: &&&Field| {
                outer.target == inner.target && inner.pointer.starts_with(&format!("{}/", outer.pointer))
            };
            if let Some(outer) = fields.iter().find(holds) {
                self.problems.push(format!(
                    "{path}: must write fields of which none lies in another, got {} and {}",
                    excerpt(&outer.pointer),
                    excerpt(&inner.pointer)
                ));
                return;
            }
        }
    }

    fn endpoint(&mut self, at: &At) -> Option<Endpoint> {
        let keys = self.keys(
            at,
            &[
                "url",
                "method",
                "headers",
                "timeout",
                "expectedStatusCode",
                "failureThreshold",
                "successThreshold",
                "jsonPathConfig",
                "storageConfig",
            ],
        )?;
        let url = self.url(&keys);
        let method = self.optional(&keys, "method", syntax::method).unwrap_or(Method::GET);
        let headers = keys.get("headers").map(|headers| self.headers(&headers)).unwrap_or_default();
        let timeout = self.seconds(&keys, "timeout", 1..=3600, 10);
        let expected_status = self.integer(&keys, "expectedStatusCode", 200..=599, 200);
        let failure_threshold = self.integer(&keys, "failureThreshold", 1..=1000, 3);
        let success_threshold = self.integer(&keys, "successThreshold", 1..=1000, 1);
        let extract = keys.get("jsonPathConfig").and_then(|extract| self.extract(&extract));
        let Some(storage) = keys.get("storageConfig") else {
            self.missing(keys.path("storageConfig"), "say where results go, as `type: InKube` and `inKube`");
            return None;
        };
        let probe = HttpProbe {
            // A URL that was refused stops the configuration as a whole.
            url: url.unwrap_or_else(|| Uri::from_static("/")),
            method,
            headers,
            expected_status: expected_status as u16,
            extract,
            reads_body: false,
        };
        let endpoint = Endpoint {
            probe: Probe::Http(probe),
            timeout,
            failure_threshold,
            success_threshold,
            policies: Vec::new(),
            annotation_key: None,
            label_key: None,
            field: None,
            protected_ops_states: Vec::new(),
        };
        let mut endpoint = self.storage(&storage, endpoint)?;
        let needs_result = endpoint.needs_result();
        match &mut endpoint.probe {
            Probe::Http(http) => http.reads_body = needs_result || http.extract.is_some(),
        }
        Some(endpoint)
    }

    fn url(&mut self, keys: &Keys) -> Option<Uri> {
        let Some(at) = keys.get("url") else {
            self.missing(keys.path("url"), "be an http or https URL");
            return None;
        };
        let text = self.text(&at)?;
        let refuse = |rule| self.problems.push(format!("{}: must {rule}, got {}", at.path, without_secrets(text)));
        syntax::url(text).map_err(refuse).ok()
    }

    fn headers(&mut self, at: &At) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Node::Map(entries) = at.node else {
            self.refuse(at, "be a map of strings");
            return headers;
        };
        let keys = Keys { path: at.path.clone(), entries };
        for (key, node) in entries {
            let other_spelling = |(other, _): &(String, Node)| other != key && other.eq_ignore_ascii_case(key);
            match header(key, node) {
                Ok((name, _)) if headers.contains_key(&name) && entries.iter().any(other_spelling) => {
                    self.problems.push(format!("{}: must stand here once, in any case, got it again", keys.path(key)));
                }
                Ok((name, value)) => {
                    headers.insert(name, value);
                }
                Err(problem) => self.problems.push(format!("{}: {problem}", keys.path(key))),
            }
        }
        headers
    }

    fn extract(&mut self, at: &At) -> Option<Extract> {
        let keys = self.keys(at, &["jsonPath", "fieldType"])?;
        let field_type = self.optional(&keys, "fieldType", |name| match name {
            "string" => Ok(FieldType::String),
            "integer" | "int" => Ok(FieldType::Integer),
            "number" | "float" => Ok(FieldType::Number),
            "boolean" | "bool" => Ok(FieldType::Boolean),
            _ => Err("be string, integer, number or boolean".into()),
        });
        let path = self.required(&keys, "jsonPath", "be a dotted path such as players.count", syntax::json_path)?;
        Some(Extract { path, field_type })
    }

    fn storage(&mut self, at: &At, endpoint: Endpoint) -> Option<Endpoint> {
        let keys = self.keys(at, &["type", "inKube"])?;
        self.required(&keys, "type", "be InKube", |name| match name {
            "InKube" => Ok(()),
            _ => Err("be InKube, the one storage that this sidecar has".into()),
        });
        match keys.get("inKube") {
            Some(in_kube) => self.in_kube(&in_kube, endpoint),
            None => {
                self.missing(keys.path("inKube"), "say what is written");
                None
            }
        }
    }

    fn in_kube(&mut self, at: &At, endpoint: Endpoint) -> Option<Endpoint> {
        const WRITES: [&str; 5] = ["markerPolices", "annotationKey", "labelKey", "jsonPath", "target"];
        let keys =
            self.keys(at, &["markerPolices", "annotationKey", "labelKey", "jsonPath", "target", "protectedOpsStates"])?;
        if WRITES.iter().all(|key| keys.get(key).is_none()) {
            let unknown = keys.entries.iter().any(|(key, _)| key == "markerPolicies");
            if !unknown {
                self.problems.push(format!("{}: must hold one of {}, got none", at.path, WRITES.join(", ")));
            }
        }
        let metadata_key = |text: &str| syntax::metadata_key(text).map(|()| text.to_owned());
        let target = keys.get("target").and_then(|target| self.target(&target));
        let pointer = self.optional(&keys, "jsonPath", |text| syntax::field(text).map(|()| text.to_owned()));
        if keys.get("target").is_some() && keys.get("jsonPath").is_none() {
            self.missing(keys.path("jsonPath"), "name the field of the target, such as /spec/opsState");
        }
        Some(Endpoint {
            policies: keys.get("markerPolices").map(|list| self.policies(&list)).unwrap_or_default(),
            annotation_key: self.optional(&keys, "annotationKey", metadata_key),
            label_key: self.optional(&keys, "labelKey", metadata_key),
            field: pointer.map(|pointer| Field { target, pointer }),
            protected_ops_states: keys
                .get("protectedOpsStates")
                .map(|list| {
                    let states = self.list(&list, 1..=64, "opsStates");
                    states.iter().filter_map(|state| self.parsed(state, ops_state)).collect()
                })
                .unwrap_or_default(),
            ..endpoint
        })
    }

    fn target(&mut self, at: &At) -> Option<Target> {
        let keys = self.keys(at, &["group", "version", "resource", "namespace", "name"])?;
        let environment = self.environment;
        let of = |text: &str, legal: &dyn Fn(&str) -> bool, rule: &str| {
            let text = syntax::substitute(text, environment)?;
            if legal(&text) { Ok(text) } else { Err(rule.to_owned()) }
        };
        let dns_label = |text: &str| syntax::is_dns_label(text);
        let group = self.optional(&keys, "group", |text| {
            of(text, &|text| text.is_empty() || syntax::is_dns_subdomain(text), "be an API group such as apps")
        });
        let version_rule = "be an API version such as v1";
        let version = self.required(&keys, "version", version_rule, |text| of(text, &dns_label, version_rule));
        let resource_rule = "be a resource in the plural, such as configmaps";
        let resource = self.required(&keys, "resource", resource_rule, |text| of(text, &dns_label, resource_rule));
        let namespace = self.optional(&keys, "namespace", |text| of(text, &dns_label, "be a namespace"));
        let name_rule = "be the object's name";
        let name = self.required(&keys, "name", name_rule, |text| of(text, &syntax::is_object_name, name_rule));
        Some(Target {
            group: group.unwrap_or_default(),
            version: version?,
            resource: resource?,
            namespace,
            name: name?,
        })
    }

    fn policies(&mut self, at: &At) -> Vec<Policy> {
        let mut policies: Vec<(String, Policy)> = Vec::new();
        for entry in self.list(at, 1..=256, "policies") {
            let Some(policy) = self.policy(&entry) else { continue };
            let clash = policies.iter().find_map(|(other_path, other)| match (&policy.when, &other.when) {
                (When::State(state), When::State(known)) if state == known => Some(format!(
                    "{}.state: must differ from the other states of this endpoint, got {} as in {other_path}",
                    entry.path,
                    excerpt(state)
                )),
                (When::Range(min, max), When::Range(other_min, other_max)) if min <= other_max && other_min <= max => {
                    Some(format!(
                        "{}: must have a range apart from the others of this endpoint, got {} which overlaps {} of \
                         {other_path}",
                        entry.path,
                        super::range(*min, *max),
                        super::range(*other_min, *other_max),
                    ))
                }
                _ => None,
            });
            self.problems.extend(clash);
            policies.push((entry.path, policy));
        }
        policies.into_iter().map(|(_, policy)| policy).collect()
    }

    fn policy(&mut self, at: &At) -> Option<Policy> {
        let keys = self.keys(
            at,
            &[
                "state",
                "gameServerOpsState",
                "labels",
                "annotations",
                "min",
                "max",
                "gameServerDeletionPriority",
                "gameServerUpdatePriority",
            ],
        )?;
        let when = self.when(at, &keys);
        let policy = Policy {
            ops_state: self.optional(&keys, "gameServerOpsState", ops_state),
            deletion_priority: keys.get("gameServerDeletionPriority").and_then(|priority| self.priority(&priority)),
            update_priority: keys.get("gameServerUpdatePriority").and_then(|priority| self.priority(&priority)),
            labels: keys.get("labels").map(|labels| self.metadata(&labels, label_value)).unwrap_or_default(),
            annotations: keys.get("annotations").map(|map| self.metadata(&map, Template::parse)).unwrap_or_default(),
            when: when?,
        };
        let effects =
            ["gameServerOpsState", "labels", "annotations", "gameServerDeletionPriority", "gameServerUpdatePriority"];
        if effects.iter().all(|key| keys.get(key).is_none()) {
            self.problems.push(format!("{}: must hold one of {}, got none", at.path, effects.join(", ")));
        }
        if policy.when == When::State(FAILED.into()) && policy.needs_result() {
            self.problems.push(format!("{}: must not hold {{{{.Result}}}}, a failure has no result", at.path));
        }
        if let Some(state) = &policy.ops_state {
            let path = keys.path("gameServerOpsState");
            if !KNOWN_OPS_STATES.contains(&state.as_str()) {
                self.warnings.push(format!(
                    "{path}: OpenKruiseGame gives no meaning to {}, only to {}",
                    excerpt(state),
                    KNOWN_OPS_STATES.join(", ")
                ));
            } else if state == "Kill" {
                self.warnings.push(format!(
                    "{path}: at Kill OpenKruiseGame deletes the game server and lowers the replicas of its set"
                ));
            }
        }
        Some(policy)
    }

    fn when(&mut self, at: &At, keys: &Keys) -> Option<When> {
        let (min, max) = (keys.get("min"), keys.get("max"));
        let state = keys.get("state");
        if let Some(state) = state {
            let text = self.parsed(&state, |text| {
                if text.trim_matches(|c: char| c.is_ascii_whitespace()) == text {
                    Ok(text.to_owned())
                } else {
                    Err("have no white space around it, since results have none".into())
                }
            });
            if min.is_some() || max.is_some() {
                self.problems.push(format!("{}: must hold either state or min and max, got both", at.path));
            }
            return text.map(When::State);
        }
        if min.is_none() && max.is_none() {
            self.problems.push(format!("{}: must hold state, or min and max or one of them, got none", at.path));
            return None;
        }
        let min = min.map_or(Some(f64::NEG_INFINITY), |at| self.number(&at))?;
        let max = max.map_or(Some(f64::INFINITY), |at| self.number(&at))?;
        if min > max {
            self.problems.push(format!("{}: must have min at or below max, got {min} to {max}", at.path));
            return None;
        }
        Some(When::Range(min, max))
    }

    fn number(&mut self, at: &At) -> Option<f64> {
        match at.node {
            Node::Scalar { kind: Kind::Integer(value), .. } => Some(*value as f64),
            Node::Scalar { kind: Kind::Float(value), .. } if value.is_finite() => Some(*value),
            _ => {
                self.refuse(at, "be a number");
                None
            }
        }
    }

    fn priority(&mut self, at: &At) -> Option<Priority> {
        const RULE: &str = "be 0 to 2147483647, or a string such as {{.Result}} that gives a label value";
        match at.node {
            Node::Scalar { kind: Kind::Integer(value), .. } => match i32::try_from(*value) {
                Ok(value @ 0..) => Some(Priority::Integer(value)),
                _ => {
                    self.refuse(at, RULE);
                    None
                }
            },
            _ => self
                .parsed(at, |text| if text.is_empty() { Err(RULE.into()) } else { label_value(text) })
                .map(Priority::Text),
        }
    }

    fn metadata(&mut self, at: &At, value: impl Fn(&str) -> Result<Template, String>) -> Vec<(String, Template)> {
        let Node::Map(entries) = at.node else {
            self.refuse(at, "be a map of strings");
            return Vec::new();
        };
        let keys = Keys { path: at.path.clone(), entries };
        let mut parsed: Vec<(String, Template)> = Vec::new();
        for (key, node) in entries {
            let value_at = At { path: keys.path(key), node };
            if let Err(rule) = syntax::metadata_key(key) {
                self.problems.push(format!("{}: must {rule}, got {}", value_at.path, excerpt(key)));
            } else if let Some(template) = self.parsed(&value_at, &value) {
                parsed.push((key.clone(), template));
            }
        }
        parsed
    }
}

/// A header of the probe. A value may be a secret, so that a message never shows it.
fn header(name: &str, value: &Node) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = HeaderName::from_bytes(name.as_bytes());
    let name = parsed.map_err(|_| format!("must be an HTTP header name, got {}", excerpt(name)))?;
    if FRAMING.contains(&name) {
        return Err("must not be given, the probe sets it itself".into());
    }
    let Node::Scalar { text, .. } = value else {
        return Err(format!("must be a string, got {}", shown(value)));
    };
    if text.len() > MAX_REQUEST_PART_BYTES {
        return Err(format!("must have at most {MAX_REQUEST_PART_BYTES} bytes, got {}", text.len()));
    }
    let value = HeaderValue::from_str(text)
        .map_err(|_| "must be visible ASCII, spaces and tabs, got other characters".to_owned())?;
    Ok((name, value))
}

fn ops_state(text: &str) -> Result<String, String> {
    if syntax::is_ops_state(text) {
        return Ok(text.to_owned());
    }
    Err("be 1 to 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends, since OpenKruiseGame makes it a label \
         value"
        .into())
}

/// A template that gives a label value at least for some result.
fn label_value(text: &str) -> Result<Template, String> {
    let template = Template::parse(text)?;
    if template.render("0").is_some_and(|value| syntax::is_label_value(&value)) {
        return Ok(template);
    }
    Err("be a label value: at most 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends".into())
}

/// A URL without its user name, password and query, which may be secrets, since messages go to logs.
fn without_secrets(url: &str) -> String {
    let (place, query) = url.split_once('?').map_or((url, ""), |(place, _)| (place, "?…"));
    let place = place.rsplit_once('@').map_or_else(|| place.to_owned(), |(_, place)| format!("…@{place}"));
    excerpt(&format!("{place}{query}"))
}
