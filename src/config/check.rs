//! Owns the way from the file's tree to [`Config`]: the keys that may stand where, their ranges and defaults
//! (behaviour 2).

use ureq::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ureq::http::{Method, Uri};

use super::file::{Kind, Node};
use super::reader::{At, Checker, shown, shown_text};
use super::syntax::{self, MAX_REQUEST_PART_BYTES, Template};
use super::{
    Config, Endpoint, Extract, FAILED, Field, FieldType, HttpProbe, Policy, Priority, Probe, Target, When, warnings,
};
use crate::excerpt::excerpt;

/// Keys of the Go sidecar that the pod's own fields decide here (behaviour 2.1).
const DECIDED_BY_THE_POD: [&str; 7] =
    ["bootorder", "bootOrder", "restartPolicy", "restartpolicy", "resources", "sidecarStartOrder", "sidecarstartorder"];

/// The most problems that are reported of one file.
const MAX_PROBLEMS: usize = 50;

/// Headers that frame the message and so belong to the probe itself.
pub(super) const FRAMING: [HeaderName; 5] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::EXPECT, header::TRANSFER_ENCODING, header::UPGRADE];

/// Turns the tree into a [`Config`].
///
/// # Errors
/// Every problem: the path of its key, the rule, the value.
pub(super) fn check(tree: &Node, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Vec<String>> {
    let mut checker = Checker { environment, problems: Vec::new(), warnings: Vec::new(), policy_lists: Vec::new() };
    let config = checker.file(&At { path: String::new(), node: Some(tree) });
    let Checker { mut problems, mut warnings, policy_lists, .. } = checker;
    match config {
        Some(config) if problems.is_empty() => {
            warnings.extend(warnings::of_rules(&config, &policy_lists));
            Ok(Config { warnings, ..config })
        }
        _ => {
            let more = problems.len().saturating_sub(MAX_PROBLEMS);
            problems.truncate(MAX_PROBLEMS);
            if more > 0 {
                problems.push(format!("and {more} more problems"));
            }
            Err(problems)
        }
    }
}

impl Checker<'_> {
    fn file(&mut self, at: &At) -> Option<Config> {
        if let Some(Node::Null) = at.node {
            self.problem(at, "be a map of plugins", "a file that is empty or has only comments");
            return None;
        }
        if at.entries().iter().any(|(key, _)| ["apiVersion", "kind", "data", "config.yaml"].contains(&key.as_str())) {
            let rule = "be the text alone that stands in the ConfigMap's data under `config.yaml: |`";
            self.problem(at, rule, "a whole manifest");
            return None;
        }
        self.check_everywhere(at);
        let mut keys = self.keys(at);
        let plugins = keys.take("plugins");
        keys.ignore(&DECIDED_BY_THE_POD);
        let rule = "be a list of one plugin, http_probe; other plugins need the Go sidecar in a container of its own";
        let config = self.list(&plugins, 1, rule).first().and_then(|plugin| self.plugin(plugin));
        self.end(keys)?;
        config
    }

    fn plugin(&mut self, at: &At) -> Option<Config> {
        let mut keys = self.keys(at);
        let (name, config) = (keys.take("name"), keys.take("config"));
        keys.ignore(&DECIDED_BY_THE_POD);
        let known = self.required(&name, "be http_probe", &|name| match name {
            "http_probe" => Ok(()),
            _ => Err("be http_probe; other plugins need the Go sidecar in a container of its own".into()),
        });
        // The keys of another plugin are no mistakes of their own.
        let config = if name.node.is_some() { known.and_then(|()| self.config(&config)) } else { self.config(&config) };
        self.end(keys)?;
        config
    }

    fn config(&mut self, at: &At) -> Option<Config> {
        let mut keys = self.keys(at);
        let start_delay = self.seconds(&keys.take("startDelaySeconds"), 0..=86400, 0);
        let interval = self.seconds(&keys.take("probeIntervalSeconds"), 1..=86400, 5);
        let resync = self.seconds(&keys.take("resyncSeconds"), 0..=86400, 0);
        let list = keys.take("endpoints");
        let entries = self.list(&list, 64, "be a list of 1 to 64 endpoints");
        let endpoints: Vec<Endpoint> = entries.iter().filter_map(|entry| self.endpoint(entry)).collect();
        self.nested_fields(&list, &endpoints);
        self.end(keys)?;
        let resync = (!resync.is_zero()).then_some(resync);
        Some(Config { start_delay, interval, resync, endpoints, unknown: Vec::new(), warnings: Vec::new() })
    }

    /// Of two fields of one object none may lie in the other: a merge-patch could not say both.
    fn nested_fields(&mut self, at: &At, endpoints: &[Endpoint]) {
        let of_policies = endpoints.iter().flat_map(|endpoint| &endpoint.policies).flat_map(Policy::game_server_fields);
        let fields: Vec<Field> = of_policies.chain(endpoints.iter().filter_map(|one| one.field.clone())).collect();
        for inner in &fields {
            let holds = |outer: &&Field| {
                outer.target == inner.target && inner.pointer.starts_with(&format!("{}/", outer.pointer))
            };
            if let Some(outer) = fields.iter().find(holds) {
                let got = format!("{} and {}", excerpt(&outer.pointer), excerpt(&inner.pointer));
                self.problem(at, "write fields of which none lies in another", &got);
                return;
            }
        }
    }

    fn endpoint(&mut self, at: &At) -> Option<Endpoint> {
        let mut keys = self.keys(at);
        // A URL that was refused stops the configuration as a whole.
        let url = self.url(&keys.take("url")).unwrap_or_default();
        let method = self.parsed(&keys.take("method"), &syntax::method).unwrap_or(Method::GET);
        let headers = self.headers(&keys.take("headers"));
        let timeout = self.seconds(&keys.take("timeout"), 1..=3600, 10);
        let status = self.integer(&keys.take("expectedStatusCode"), 200..=599, 200) as u16;
        let expected_status = status..=status;
        let failure_threshold = self.integer(&keys.take("failureThreshold"), 1..=1000, 3);
        let success_threshold = self.integer(&keys.take("successThreshold"), 1..=1000, 1);
        let extract = self.extract(&keys.take("jsonPathConfig"));
        let reads_body = extract.is_some();
        let mut endpoint = Endpoint {
            probe: Probe::Http(HttpProbe { url, method, headers, expected_status, extract, reads_body, lossy: false }),
            timeout,
            failure_threshold,
            success_threshold,
            policies: Vec::new(),
            annotation_key: None,
            label_key: None,
            field: None,
            protected_ops_states: Vec::new(),
            condition: None,
        };
        self.storage(&keys.take("storageConfig"), &mut endpoint);
        let needs_result = endpoint.needs_result();
        match &mut endpoint.probe {
            Probe::Http(http) => http.reads_body |= needs_result,
            Probe::Tcp(_) => {}
        }
        self.end(keys)?;
        Some(endpoint)
    }

    fn url(&mut self, at: &At) -> Option<Uri> {
        let Some(Node::Scalar { text, .. }) = at.node else {
            self.refuse(at, "be an http or https URL");
            return None;
        };
        syntax::url(text).map_err(|rule| self.problem(at, &rule, &shown_text(&syntax::without_secrets(text)))).ok()
    }

    fn headers(&mut self, at: &At) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !matches!(at.node, None | Some(Node::Map(_))) {
            // A text here holds the header, a secret perhaps.
            self.problem(at, "be a map of strings, such as {X-Key: abc}", "something else");
        }
        for (index, (name, value)) in at.entries().iter().enumerate() {
            match header(name, value) {
                // The same name in the same case is a repeated key already.
                Ok((header, value)) => {
                    let repeated = at.entries()[..index].iter().any(|(other, _)| other == name);
                    if headers.insert(header, value).is_some() && !repeated {
                        self.problem(&at.entry(index), "stand here once, in any case", "it again");
                    }
                }
                Err((rule, got)) => self.problem(&at.entry(index), &rule, &got),
            }
        }
        headers
    }

    fn extract(&mut self, at: &At) -> Option<Extract> {
        at.node?;
        let mut keys = self.keys(at);
        let rule = "be a dotted path such as players.count";
        let path = self.required(&keys.take("jsonPath"), rule, &syntax::json_path);
        let field_type = self.parsed(&keys.take("fieldType"), &|name| match name {
            "string" => Ok(FieldType::String),
            "integer" | "int" => Ok(FieldType::Integer),
            "number" | "float" => Ok(FieldType::Number),
            "boolean" | "bool" => Ok(FieldType::Boolean),
            _ => Err("be string, integer, number or boolean".into()),
        });
        self.end(keys)?;
        Some(Extract { path: path?, field_type })
    }

    fn storage(&mut self, at: &At, endpoint: &mut Endpoint) {
        let mut keys = self.keys(at);
        self.required(&keys.take("type"), "be InKube", &|name| match name {
            "InKube" => Ok(()),
            _ => Err("be InKube, the one storage that this sidecar has".into()),
        });
        self.in_kube(&keys.take("inKube"), endpoint);
        self.end(keys);
    }

    fn in_kube(&mut self, at: &At, endpoint: &mut Endpoint) {
        let before = self.problems.len();
        let mut keys = self.keys(at);
        let (polices, policies) = (keys.take("markerPolices"), keys.take("markerPolicies"));
        let [annotation, label, pointer, target, protected] =
            ["annotationKey", "labelKey", "jsonPath", "target", "protectedOpsStates"].map(|key| keys.take(key));
        let writes = [&polices, &policies, &annotation, &label, &pointer, &target];
        let writes_nothing = writes.iter().all(|at| at.node.is_none());
        if polices.node.is_some() && policies.node.is_some() {
            self.problem(&policies, "not stand beside markerPolices, which is the same key", "both");
        }
        let list = if policies.node.is_some() { policies } else { polices };
        endpoint.policies = self.policies(&list);
        self.policy_lists.push(list.path);
        endpoint.annotation_key = self.parsed(&annotation, &syntax::annotation_key);
        endpoint.label_key = self.parsed(&label, &syntax::label_key);
        let object = self.target(&target);
        if target.node.is_some() && pointer.node.is_none() {
            self.refuse(&pointer, "name the field of the target, such as /spec/opsState");
        }
        endpoint.field = self.parsed(&pointer, &syntax::field).map(|pointer| Field { target: object, pointer });
        let mut set = endpoint.policies.iter().flat_map(Policy::game_server_fields);
        if endpoint.field.as_ref().is_some_and(|field| set.any(|set| set == *field)) {
            self.refuse(&pointer, "be a field that no policy of this endpoint sets");
        }
        if protected.node.is_some() {
            let states = self.list(&protected, 64, "be a list of 1 to 64 opsStates");
            endpoint.protected_ops_states =
                states.iter().filter_map(|state| self.parsed(state, &syntax::ops_state)).collect();
        }
        let is_map = self.end(keys).is_some();
        if is_map && writes_nothing && self.problems.len() == before {
            self.problem(at, "hold one of markerPolices, annotationKey, labelKey, jsonPath, target", "none");
        }
    }

    fn target(&mut self, at: &At) -> Option<Target> {
        at.node?;
        let mut keys = self.keys(at);
        let environment = self.environment;
        let mut part = |key, needed: bool, rule: &str, legal: &dyn Fn(&str) -> bool| {
            let at = keys.take(key);
            if needed && at.node.is_none() {
                self.refuse(&at, rule);
            }
            self.parsed(&at, &|text| {
                let text = syntax::substitute(text, environment)?;
                syntax::legal(&text, legal(&text), rule)
            })
        };
        let group_or_core = |text: &str| text.is_empty() || syntax::is_dns_subdomain(text);
        let group = part("group", false, "be an API group such as apps", &group_or_core).unwrap_or_default();
        let version = part("version", true, "be an API version such as v1", &syntax::is_dns_label);
        let resource = part("resource", true, "be a resource in the plural, such as configmaps", &syntax::is_dns_label);
        let namespace = part("namespace", false, "be a namespace", &syntax::is_dns_label);
        let name = part("name", true, "be the object's name", &syntax::is_object_name);
        self.end(keys)?;
        Some(Target { group, version: version?, resource: resource?, namespace, name: name? })
    }

    fn policies(&mut self, at: &At) -> Vec<Policy> {
        let mut policies: Vec<(String, Policy)> = Vec::new();
        let entries = if at.node.is_some() { self.list(at, 256, "be a list of 1 to 256 policies") } else { Vec::new() };
        for entry in entries {
            let Some(policy) = self.policy(&entry) else { continue };
            for (other_path, other) in &policies {
                if policy.when.overlaps(&other.when) {
                    let rule = format!("match no result that {other_path} matches, {}", other.when);
                    self.problem(&entry, &rule, &policy.when.to_string());
                }
            }
            policies.push((entry.path, policy));
        }
        policies.into_iter().map(|(_, policy)| policy).collect()
    }

    fn policy(&mut self, at: &At) -> Option<Policy> {
        let before = self.problems.len();
        let mut keys = self.keys(at);
        let [state, min, max] = ["state", "min", "max"].map(|key| keys.take(key));
        let when = self.when(at, &state, &min, &max);
        let mut policy = Policy {
            when: When::State(String::new()),
            ops_state: self.parsed(&keys.take("gameServerOpsState"), &syntax::ops_state),
            labels: self.metadata(&keys.take("labels"), &syntax::label_key, &label_value),
            annotations: self.metadata(&keys.take("annotations"), &syntax::annotation_key, &Template::parse),
            deletion_priority: self.priority(&keys.take("gameServerDeletionPriority")),
            update_priority: self.priority(&keys.take("gameServerUpdatePriority")),
        };
        self.end(keys)?;
        policy.when = when?;
        if policy.effects().is_empty() && self.problems.len() == before {
            let rule = "hold one of gameServerOpsState, labels, annotations, gameServerDeletionPriority, \
                        gameServerUpdatePriority";
            self.problem(at, rule, "none");
        }
        if policy.when == When::State(FAILED.into()) && policy.needs_result() {
            self.problem(at, "hold no {{.Result}}, since a failure has no result", "one");
        }
        Some(policy)
    }

    fn when(&mut self, at: &At, state: &At, min: &At, max: &At) -> Option<When> {
        let ranged = min.node.is_some() || max.node.is_some();
        if state.node.is_some() && ranged {
            self.problem(at, "hold either state or min and max", "both");
        } else if state.node.is_some() {
            return self.parsed(state, &syntax::state).map(When::State);
        } else if !ranged {
            self.problem(at, "hold state, or min and max or one of them", "none");
        } else {
            let (min, max) = (self.number(min, f64::NEG_INFINITY), self.number(max, f64::INFINITY));
            let (min, max) = (min?, max?);
            if min <= max {
                return Some(When::Range(min, max));
            }
            self.problem(at, "have min at or below max", &format!("{min} to {max}"));
        }
        None
    }

    fn number(&mut self, at: &At, default: f64) -> Option<f64> {
        match at.node {
            None => Some(default),
            Some(Node::Scalar { kind: Kind::Integer(value), .. }) => Some(*value as f64),
            Some(Node::Scalar { kind: Kind::Float(value), .. }) if value.is_finite() => Some(*value),
            _ => {
                self.wrong_type(at, "be a number");
                None
            }
        }
    }

    fn priority(&mut self, at: &At) -> Option<Priority> {
        const RULE: &str = "be 0 to 2147483647, or a string such as {{.Result}} that gives a label value";
        let Some(Node::Scalar { kind: Kind::Integer(value), .. }) = at.node else {
            let text = |text: &str| if text.is_empty() { Err(RULE.into()) } else { label_value(text) };
            return self.parsed(at, &text).map(Priority::Text);
        };
        let value = i32::try_from(*value).ok().filter(|value| *value >= 0);
        if value.is_none() {
            self.refuse(at, RULE);
        }
        value.map(Priority::Integer)
    }

    /// In the order of keys, so that a map in another order is the same.
    fn metadata(
        &mut self,
        at: &At,
        key: &dyn Fn(&str) -> Result<String, String>,
        value: &dyn Fn(&str) -> Result<Template, String>,
    ) -> Vec<(String, Template)> {
        if !matches!(at.node, None | Some(Node::Map(_))) {
            self.refuse(at, "be a map of strings");
        }
        let mut metadata: Vec<(String, Template)> = Vec::new();
        for (index, (name, _)) in at.entries().iter().enumerate() {
            let entry = at.entry(index);
            match key(name) {
                Ok(name) => {
                    let Some(value) = self.parsed(&entry, value) else { continue };
                    metadata.insert(metadata.partition_point(|(other, _)| *other < name), (name, value));
                }
                Err(rule) => self.problem(&entry, &rule, &excerpt(name)),
            }
        }
        metadata
    }
}

/// A header of the probe, or the rule and what was given instead. Its value may be a secret, and so may a name in which
/// the space after the colon was forgotten: neither is shown.
fn header(name: &str, value: &Node) -> Result<(HeaderName, HeaderValue), (String, String)> {
    let refuse = |rule: &str, got: &str| (rule.to_owned(), got.to_owned());
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| refuse("have an HTTP header name, a colon and a space", "other characters in the name"))?;
    if FRAMING.contains(&name) {
        return Err(refuse("not be one of those that the probe sets itself, such as Content-Length", "one of them"));
    }
    let Node::Scalar { text, .. } = value else {
        return Err(refuse("be a string", &shown(Some(value))));
    };
    if text.len() > MAX_REQUEST_PART_BYTES {
        return Err((format!("have at most {MAX_REQUEST_PART_BYTES} bytes"), text.len().to_string()));
    }
    let value =
        HeaderValue::from_str(text).map_err(|_| refuse("be visible ASCII, spaces and tabs", "other characters"))?;
    Ok((name, value))
}

/// A template that gives a label value at least for some result.
fn label_value(text: &str) -> Result<Template, String> {
    let template = Template::parse(text)?;
    if template.render("0").is_some_and(|value| syntax::is_label_value(&value)) {
        return Ok(template);
    }
    Err("be a label value: at most 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends".into())
}
