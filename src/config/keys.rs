//! Owns the way from the file's tree to [`Config`]: the keys that may stand where, their ranges and defaults
//! (behaviour 2).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Method;
use ureq::http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::file::{Node, ScalarType};
use super::hosts::ProbeHosts;
use super::reader::{At, Checker, Keys, NOT_SHOWN};
use super::syntax::{self, Template};
use super::{
    Checked, Config, DELETION_PRIORITY, Endpoint, Extract, FAILED, Field, FieldType, FileProbe, HttpProbe, Meaning,
    OPS_STATE, ObjectRef, Policy, Probe, Rules, Server, Target, UPDATE_PRIORITY, When, warnings,
};
use crate::excerpt::{MAX_CHARS, escape, excerpt};

/// A map of the file.
pub struct Map {
    /// The way to it from the top; `[]` stands for each item of a list.
    pub path: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
}

/// Every map of the file that has keys of ours.
pub static MAPS: [Map; 10] = [
    Map { path: "", keys: &["plugins"] },
    Map { path: "plugins[]", keys: &["name", "config"] },
    Map {
        path: "plugins[].config",
        keys: &["startDelaySeconds", "probeIntervalSeconds", "resyncSeconds", "endpoints"],
    },
    Map {
        path: "plugins[].config.endpoints[]",
        keys: &[
            "url",
            "method",
            "headers",
            "body",
            "basicAuth",
            "maxAgeSeconds",
            "timeout",
            "expectedStatusCode",
            "failureThreshold",
            "successThreshold",
            "jsonPathConfig",
            "metric",
            "storageConfig",
        ],
    },
    Map { path: "plugins[].config.endpoints[].basicAuth", keys: &["username", "password"] },
    Map { path: "plugins[].config.endpoints[].jsonPathConfig", keys: &["jsonPath", "fieldType", "count"] },
    Map { path: "plugins[].config.endpoints[].storageConfig", keys: &["type", "inKube"] },
    Map {
        path: "plugins[].config.endpoints[].storageConfig.inKube",
        keys: &[
            "markerPolices",
            "markerPolicies",
            "annotationKey",
            "labelKey",
            "jsonPath",
            "target",
            "protectedOpsStates",
        ],
    },
    Map {
        path: "plugins[].config.endpoints[].storageConfig.inKube.target",
        keys: &["group", "version", "resource", "namespace", "name"],
    },
    Map {
        path: "plugins[].config.endpoints[].storageConfig.inKube.markerPolices[]",
        keys: &[
            "state",
            "min",
            "max",
            "forSeconds",
            "gameServerOpsState",
            "gameServerDeletionPriority",
            "gameServerUpdatePriority",
            "labels",
            "annotations",
        ],
    },
];

impl Map {
    /// The way to it, with the indices of a way beside it.
    pub(super) fn path_near(&self, other: &str) -> String {
        let mut indices = other.split('[').skip(1).filter_map(|rest| rest.split(']').next());
        let mut parts = self.path.split("[]");
        let mut path = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            path.push_str(&format!("[{}]{part}", indices.next().unwrap_or("0")));
        }
        if path.is_empty() { "the top of the file".into() } else { path }
    }
}

/// How a url may begin, which chooses the kind of probe: see [`Checker::probe`].
const SCHEMES: &str = "begin with http://, https://, tcp://, file:///, a2s://, minecraft://, bedrock:// or quake3://, and then a \
                       host or path";

/// The keys of an endpoint that only some kinds of probe have, and these kinds, as the message names them to somebody who wrote
/// one of them beside another kind.
const OF_KINDS: [(&str, &str); 8] = [
    ("method", HTTP),
    ("headers", HTTP),
    ("body", HTTP),
    ("basicAuth", HTTP),
    ("expectedStatusCode", HTTP),
    ("maxAgeSeconds", "file"),
    ("jsonPathConfig", WITH_DOCUMENT),
    ("metric", WITH_DOCUMENT),
];
const HTTP: &str = "http or https";
const WITH_DOCUMENT: &str = "http, https, file, a2s, minecraft, bedrock or quake3";

/// What `run` reads, in place of a manifest.
pub(super) const NO_MANIFEST: &str = "be the text alone that stands in the ConfigMap's data under `config.yaml: |`";

/// Keys of the Go sidecar that the pod's own fields decide here (behaviour 2.1).
const DECIDED_BY_THE_POD: [&str; 7] =
    ["bootorder", "bootOrder", "restartPolicy", "restartpolicy", "resources", "sidecarStartOrder", "sidecarstartorder"];

/// Headers that frame the message and so belong to the probe itself.
pub(super) const FRAMING: [HeaderName; 5] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::EXPECT, header::TRANSFER_ENCODING, header::UPGRADE];

/// Turns the tree into a [`Config`], with every problem (the path of its key, the rule, the value) and warning.
pub(super) fn read(tree: &Node, environment: &dyn Fn(&str) -> Option<String>) -> Checked {
    let mut checker = Checker { environment, problems: Vec::new(), warnings: Vec::new(), policy_lists: Vec::new() };
    let config = checker.file(&At::root(tree));
    let Checker { problems, mut warnings, policy_lists, .. } = checker;
    // What was refused has a default in its place, which nobody has to be warned of.
    let is_refused = |warning: &String| {
        let path = |text: &str| text.split(": ").next().unwrap_or_default().to_owned();
        problems.iter().any(|problem| path(problem) == path(warning) || problem.contains(".timeout: "))
    };
    if let Some(config) = config.as_ref().filter(|config| config.endpoints.len() == policy_lists.len()) {
        warnings.extend(warnings::of_rules(config, &policy_lists).into_iter().filter(|warning| !is_refused(warning)));
    }
    let config = config.filter(|_| problems.is_empty());
    Checked { config: config.map(|config| Config { warnings: warnings.clone(), ..config }).ok_or(problems), warnings }
}

impl Checker<'_> {
    fn file(&mut self, at: &At) -> Option<Config> {
        if let Some(Node::Null) = at.node {
            self.problem(at, "be a map of plugins", "a file that is empty or has only comments");
            return None;
        }
        if at.entries().any(|(key, _)| ["apiVersion", "kind", "data", "config.yaml"].contains(&key)) {
            self.problem(at, NO_MANIFEST, "a whole manifest");
            return None;
        }
        self.check_everywhere(at);
        let mut keys = self.keys(at, "");
        keys.ignored = &DECIDED_BY_THE_POD;
        let rule = "be a list of one plugin, http_probe; other plugins need the Go sidecar in a container of its own";
        let plugin = self.list(&keys.take("plugins"), 1, rule).next().and_then(|plugin| self.plugin(&plugin));
        self.end(keys)?;
        plugin
    }

    fn plugin(&mut self, at: &At) -> Option<Config> {
        let mut keys = self.keys(at, "plugins[]");
        keys.ignored = &DECIDED_BY_THE_POD;
        let (name, config) = (keys.take("name"), keys.take("config"));
        let rule = "be http_probe; other plugins need the Go sidecar in a container of its own";
        let known = self.required(&name, &|name| syntax::legal(name, name == "http_probe", rule));
        // The keys of another plugin are no mistakes of their own.
        let is_other = known.is_none() && name.node.is_some();
        let config = if is_other { None } else { self.config(&config) };
        self.end(keys)?;
        config
    }

    fn config(&mut self, at: &At) -> Option<Config> {
        let mut keys = self.keys(at, "plugins[].config");
        let start_delay = self.seconds(&keys.take("startDelaySeconds"), 0..=86400, 0);
        let interval = self.seconds(&keys.take("probeIntervalSeconds"), 1..=86400, 5);
        let resync = self.seconds(&keys.take("resyncSeconds"), 0..=86400, 0);
        let list = keys.take("endpoints");
        let entries = self.list(&list, 64, "be a list of 1 to 64 endpoints");
        let endpoints: Vec<Endpoint> = entries.filter_map(|entry| self.endpoint(&entry)).collect();
        self.nested_fields(&list, &endpoints);
        self.end(keys)?;
        let resync = Some(resync).filter(|every| !every.is_zero());
        Some(Config { start_delay, interval, resync, endpoints, ..Config::default() })
    }

    /// Of two fields of one object none may lie in the other: a merge-patch could not say both.
    fn nested_fields(&mut self, at: &At, endpoints: &[Endpoint]) {
        // A set would bring code of its own into the binary, which has these maps already.
        let mut objects: Vec<(&ObjectRef, BTreeMap<String, Value>)> = Vec::new();
        for field in endpoints.iter().flat_map(|endpoint| endpoint.rules().fields()) {
            let at = objects.iter().position(|(object, _)| **object == field.object).unwrap_or(objects.len());
            if at == objects.len() {
                objects.push((&field.object, BTreeMap::new()));
            }
            objects[at].1.insert(field.pointer.clone(), Value::Null);
        }
        // By what it lies in: a file with aliases has thousands of fields, so that not every one is compared with every other.
        let nested = objects.iter().find_map(|(_, pointers)| {
            pointers.keys().find_map(|inner| {
                let mut outers = inner.match_indices('/').map(|(end, _)| &inner[..end]);
                Some((outers.find(|outer| pointers.contains_key(*outer))?, inner))
            })
        });
        if let Some((outer, inner)) = nested {
            let got = format!("{} and {}", excerpt(outer), excerpt(inner));
            self.problem(at, "write fields of which none lies in another", &got);
        }
    }

    fn endpoint(&mut self, at: &At) -> Option<Endpoint> {
        let mut keys = self.keys(at, "plugins[].config.endpoints[]");
        let default = Endpoint::default();
        let timeout = self.seconds(&keys.take("timeout"), 1..=3600, default.timeout.as_secs() as u32);
        let failure_threshold = self.integer(&keys.take("failureThreshold"), 1..=1000, default.failure_threshold);
        let success_threshold = self.integer(&keys.take("successThreshold"), 1..=1000, default.success_threshold);
        let storage = keys.take("storageConfig");
        let (probe, extract) = self.probe(&mut keys);
        let rules = self.storage(&storage);
        if probe.default_extract() == Extract::Nothing && rules.needs_result() {
            let rule = "use Succeeded and Failed alone, since a url of tcp has no result";
            self.problem(&storage, rule, "a rule that needs a result");
        }
        self.end(keys)?;
        let is_needed = rules.needs_result() || extract != probe.default_extract();
        Some(Endpoint {
            probe,
            timeout,
            failure_threshold,
            success_threshold,
            extract: if is_needed { extract } else { Extract::Nothing },
            meaning: Meaning::Rules(rules),
        })
    }

    /// What is probed, which the scheme of the url chooses, by the keys of that kind; and how the result is taken.
    fn probe(&mut self, keys: &mut Keys) -> (Probe, Extract) {
        let url = keys.take("url");
        let scheme = url.text().and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme);
        let probe = match scheme {
            Some("http" | "https") => self.http(&url, keys),
            Some("file") => self.file_probe(&url, keys),
            Some("tcp") => Probe::Tcp(self.server(&url, None)),
            Some("a2s") => Probe::A2s(self.server(&url, Some(27015))),
            Some("minecraft") => Probe::Minecraft(self.server(&url, Some(25565))),
            Some("bedrock") => Probe::Bedrock(self.server(&url, Some(19132))),
            Some("quake3") => Probe::Quake3(self.server(&url, Some(27960))),
            Some(_) | None => {
                self.refuse(&url, SCHEMES);
                // Of a kind with a result, so that no rule is wrong for it, too.
                return (Probe::A2s(Server::default()), Extract::Whole);
            }
        };
        if let Some((rule, got)) = ProbeHosts::of(self.environment).broken_by(&probe) {
            self.problem(&url, &rule, &got);
        }
        let default = probe.default_extract();
        let extract = if default == Extract::Nothing { None } else { self.extract(keys) };
        for (key, at) in keys.left() {
            let kinds = OF_KINDS.iter().find(|(known, _)| *known == key).map_or("another kind", |(_, kinds)| kinds);
            let got = format!("a url of {}", scheme.unwrap_or("none"));
            self.problem(&at, &format!("stand beside a url of {kinds}"), &got);
        }
        (probe, extract.unwrap_or(default))
    }

    /// One that was refused stops the configuration as a whole, here and below.
    fn server(&mut self, url: &At, usual_port: Option<u16>) -> Server {
        self.required(url, &|text| syntax::server(text, usual_port)).unwrap_or_default()
    }

    fn file_probe(&mut self, url: &At, keys: &mut Keys) -> Probe {
        let max_age = keys.take("maxAgeSeconds");
        let max_age = max_age.node.map(|_| self.seconds(&max_age, 1..=86400, 1));
        let environment = self.environment;
        let path = self.required(url, &|text| {
            let path = text.strip_prefix("file://").ok_or("begin with file://")?;
            Ok((syntax::file_path(&syntax::with_variables(path, environment)?)?, path.to_owned()))
        });
        let (path, shown) = path.unwrap_or_default();
        Probe::File(FileProbe { path, shown, max_age })
    }

    fn http(&mut self, at: &At, keys: &mut Keys) -> Probe {
        let environment = self.environment;
        let url = self.required(at, &|text| syntax::url(&syntax::with_variables(text, environment)?));
        let method = self.parsed(&keys.take("method"), &syntax::method).unwrap_or_default();
        let mut headers = self.headers(&keys.take("headers"));
        let authorization = self.basic_auth(&keys.take("basicAuth"));
        if headers.contains_key(header::AUTHORIZATION) && authorization.is_some() {
            self.problem(&keys.take("basicAuth"), "not stand beside a header Authorization", "both");
        }
        headers.extend(authorization.map(|value| (header::AUTHORIZATION, value)));
        let body = keys.take("body");
        if body.node.is_some() && ![Method::POST, Method::PUT, Method::PATCH].contains(&method) {
            self.problem(&body, "stand beside the method POST, PUT or PATCH", &escape(method.as_str(), MAX_CHARS));
        }
        let body = self.parsed(&body, &|text| syntax::body(&syntax::substitute(text, environment)?));
        let usual = (*HttpProbe::default().expected_status.start()).into();
        let status = self.integer(&keys.take("expectedStatusCode"), 200..=599, usual) as u16;
        Probe::Http(HttpProbe {
            url: url.unwrap_or_default(),
            shown: syntax::without_query(at.text().unwrap_or_default()),
            method,
            headers,
            body: body.unwrap_or_default(),
            expected_status: status..=status,
        })
    }

    fn basic_auth(&mut self, at: &At) -> Option<HeaderValue> {
        at.node?;
        let mut keys = self.keys(at, "plugins[].config.endpoints[].basicAuth");
        let environment = self.environment;
        let substituted = |text: &str| syntax::substitute(text, environment);
        // RFC 7617 has empty ones. But a variable that is empty was probably forgotten.
        let is_there = |text: &str, value: &str| text.is_empty() || !value.is_empty();
        let (username, password) = (keys.take("username"), keys.take("password"));
        for missing in [&username, &password].into_iter().filter(|at| at.node.is_none()) {
            self.refuse(missing, "stand here; write '' for an empty one");
        }
        let username = self.parsed(&username, &|text| {
            let name = substituted(text)?;
            syntax::legal(
                &name,
                is_there(text, &name) && !name.contains(|c: char| c == ':' || c.is_control()),
                "be a user name without a colon",
            )
        });
        let password = self.parsed(&password, &|text| {
            let password = substituted(text)?;
            syntax::legal(
                &password,
                is_there(text, &password) && !password.contains(char::is_control),
                "be a password without control characters",
            )
        });
        self.end(keys)?;
        let value = syntax::basic_auth(&username?, &password?);
        value.map_err(|rule| self.problem(at, &rule, NOT_SHOWN)).ok()
    }

    fn headers(&mut self, at: &At) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let environment = self.environment;
        for (name, entry) in self.strings(at) {
            match HeaderName::from_bytes(name.as_bytes()) {
                Err(_) => self.problem(&entry, "have an HTTP header name, a colon and a space", NOT_SHOWN),
                Ok(name) if FRAMING.contains(&name) => {
                    self.problem(
                        &entry,
                        "not be one that the probe sets itself, such as Content-Length",
                        "one of them",
                    );
                }
                Ok(name) => {
                    let value = if name == header::HOST { syntax::host_header } else { syntax::header_value };
                    let parsed = self.parsed(&entry, &|text| value(&syntax::substitute(text, environment)?));
                    headers.extend(parsed.map(|value| (name, value)));
                }
            }
        }
        headers
    }

    /// How the result is taken out of the document; nothing if the config names no way.
    fn extract(&mut self, keys: &mut Keys) -> Option<Extract> {
        let (json, metric) = (keys.take("jsonPathConfig"), keys.take("metric"));
        if json.node.is_some() && metric.node.is_some() {
            self.problem(&metric, "not stand beside jsonPathConfig, since a result is taken in one way", "both");
        }
        self.json_extract(&json).or(self.parsed(&metric, &syntax::metric).map(Extract::Metric))
    }

    fn json_extract(&mut self, at: &At) -> Option<Extract> {
        at.node?;
        let mut keys = self.keys(at, "plugins[].config.endpoints[].jsonPathConfig");
        let path = self.required(&keys.take("jsonPath"), &syntax::json_path);
        let counts = self.boolean(&keys.take("count"));
        let at_type = keys.take("fieldType");
        let field_type = self.parsed(&at_type, &|name| match name {
            "string" => Ok(FieldType::String),
            "integer" | "int" => Ok(FieldType::Integer),
            "number" | "float" => Ok(FieldType::Number),
            "boolean" | "bool" => Ok(FieldType::Boolean),
            _ => Err("be string, integer, number or boolean".into()),
        });
        if counts && matches!(field_type, Some(FieldType::String | FieldType::Boolean)) {
            self.refuse(&at_type, "be integer or number beside count");
        }
        self.end(keys)?;
        let path = path?;
        Some(if counts { Extract::Count { path, field_type } } else { Extract::Value { path, field_type } })
    }

    fn storage(&mut self, at: &At) -> Rules {
        let mut keys = self.keys(at, "plugins[].config.endpoints[].storageConfig");
        let rule = "be InKube, the one storage that this sidecar has";
        self.required(&keys.take("type"), &|name| syntax::legal(name, name == "InKube", rule));
        let rules = self.in_kube(&keys.take("inKube"));
        self.end(keys);
        rules.unwrap_or_default()
    }

    fn in_kube(&mut self, at: &At) -> Option<Rules> {
        let before = self.problems.len();
        let mut keys = self.keys(at, "plugins[].config.endpoints[].storageConfig.inKube");
        let (polices, policies) = (keys.take("markerPolices"), keys.take("markerPolicies"));
        let [annotation, label, pointer, target, protected] =
            ["annotationKey", "labelKey", "jsonPath", "target", "protectedOpsStates"].map(|key| keys.take(key));
        let writes = [&polices, &policies, &annotation, &label, &pointer, &target];
        let writes_nothing = writes.iter().all(|at| at.node.is_none());
        if polices.node.is_some() && policies.node.is_some() {
            self.problem(&policies, "not stand beside markerPolices, which is the same key", "both");
        }
        let list = if policies.node.is_some() { policies } else { polices };
        let mut rules = Rules { policies: self.policies(&list), ..Rules::default() };
        self.policy_lists.push(list.path());
        let annotation = self.parsed(&annotation, &syntax::annotation);
        let label = self.parsed(&label, &syntax::label);
        let object = self.target(&target).map_or(ObjectRef::GameServer, ObjectRef::Target);
        let is_of_a_game_server = match &object {
            ObjectRef::GameServer => target.node.is_none(),
            ObjectRef::Target(target) => target.group == "game.kruise.io" && target.resource == "gameservers",
            ObjectRef::Pod => false,
        };
        let legal = if is_of_a_game_server { syntax::field_of_a_game_server } else { syntax::field };
        if target.node.is_some() && pointer.node.is_none() {
            self.refuse(&pointer, "name the field of the target, such as /data/count");
        }
        let field = self.parsed(&pointer, &legal).map(|pointer| Field { object, pointer });
        if rules.fields().any(|set| Some(set) == field.as_ref()) {
            self.refuse(&pointer, "be a field that no policy of this endpoint sets");
        }
        rules.result_fields = [annotation, label, field].into_iter().flatten().collect();
        if protected.node.is_some() {
            let states = self.list(&protected, 64, "be a list of 1 to 64 opsStates");
            rules.protected_ops_states = states.filter_map(|state| self.parsed(&state, &syntax::ops_state)).collect();
        }
        self.end(keys)?;
        if writes_nothing && self.problems.len() == before {
            self.problem(at, "hold one of markerPolices, annotationKey, labelKey, jsonPath, target", "none");
        }
        Some(rules)
    }

    fn target(&mut self, at: &At) -> Option<Target> {
        at.node?;
        let mut keys = self.keys(at, "plugins[].config.endpoints[].storageConfig.inKube.target");
        let environment = self.environment;
        let part = |rule: &'static str, is_legal: fn(&str) -> bool| {
            move |text: &str| {
                let text = syntax::substitute(text, environment)?;
                syntax::legal(&text, is_legal(&text), rule)
            }
        };
        let group = self.parsed(&keys.take("group"), &part("be an API group such as apps", syntax::is_api_group));
        let version = self.required(&keys.take("version"), &part("be an API version such as v1", syntax::is_dns_label));
        let rule = "be a resource in the plural, such as configmaps";
        let resource = self.required(&keys.take("resource"), &part(rule, syntax::is_dns_label));
        let namespace = self.parsed(&keys.take("namespace"), &part("be a namespace", syntax::is_dns_label));
        let name = self.required(&keys.take("name"), &part("be the object's name", syntax::is_object_name));
        self.end(keys)?;
        let group = group.unwrap_or_default();
        Some(Target { group, version: version?, resource: resource?, namespace, name: name? })
    }

    fn policies(&mut self, at: &At) -> Vec<Policy> {
        let mut policies: Vec<Policy> = Vec::new();
        if at.node.is_none() {
            return policies;
        }
        for entry in self.list(at, 256, "be a list of 1 to 256 policies") {
            let Some(policy) = self.policy(&entry) else { continue };
            if let Some(other) = policies.iter().find(|other| other.conflicts(&policy)) {
                let rule = format!("not overlap the policy of {}", other.condition());
                self.problem(&entry, &rule, &policy.condition());
            }
            policies.push(policy);
        }
        policies
    }

    fn policy(&mut self, at: &At) -> Option<Policy> {
        let before = self.problems.len();
        let mut keys = self.keys(at, "plugins[].config.endpoints[].storageConfig.inKube.markerPolices[]");
        let [state, min, max] = ["state", "min", "max"].map(|key| keys.take(key));
        let when = self.when(at, &state, &min, &max);
        let lasting = keys.take("forSeconds");
        if lasting.node.is_some() && when == Some(When::State(FAILED.into())) {
            self.refuse(&lasting, "stand beside a condition of successes; failureThreshold is how long failures last");
        }
        let lasting = lasting.node.map_or(Duration::ZERO, |_| self.seconds(&lasting, 1..=86400, 1));
        let ops_state =
            self.parsed(&keys.take("gameServerOpsState"), &|state| syntax::ops_state(state).map(Template::of));
        let deletion_priority = self.priority(&keys.take("gameServerDeletionPriority"));
        let update_priority = self.priority(&keys.take("gameServerUpdatePriority"));
        let spec = [(OPS_STATE, ops_state), (DELETION_PRIORITY, deletion_priority), (UPDATE_PRIORITY, update_priority)];
        let spec = spec.into_iter().filter_map(|(field, value)| Some((Field::of_game_server(field), value?)));
        let labels = self.metadata(&keys.take("labels"), &syntax::label, &label_value);
        let annotations = self.metadata(&keys.take("annotations"), &syntax::annotation, &Template::parse);
        self.end(keys)?;
        let policy = Policy { when: when?, lasting, sets: spec.chain(labels).chain(annotations).collect() };
        if policy.sets.is_empty() && self.problems.len() == before {
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
        match (state.node, min.node.or(max.node)) {
            (Some(_), None) => return self.parsed(state, &syntax::state).map(When::State),
            (Some(_), Some(_)) => self.problem(at, "hold either state or min and max", "both"),
            (None, None) => self.problem(at, "hold state, or min and max or one of them", "none"),
            (None, Some(_)) => {
                let (min, max) = (self.number(min, f64::NEG_INFINITY), self.number(max, f64::INFINITY));
                if min <= max {
                    return Some(When::Range(min, max));
                }
                self.problem(at, "have min at or below max", &format!("{min} to {max}"));
            }
        }
        None
    }

    fn priority(&mut self, at: &At) -> Option<Template> {
        let rule = "be 0 to 2147483647, or a string such as {{.Result}} that gives a label value";
        let Some(Node::Scalar { scalar_type: ScalarType::Integer(value), .. }) = at.node else {
            // Also one in quotes would be compared as a number.
            let is_number = |text: &str| {
                let has_digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
                text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
                    && (has_digits || text.parse::<f64>().is_ok())
            };
            let is_integer = |text: &str| text.parse::<i32>().is_ok_and(|n| n >= 0 && n.to_string() == text);
            let is_word = |text: &str| !text.is_empty() && (!is_number(text) || is_integer(text));
            return self
                .parsed(at, &|text| syntax::legal(text, is_word(text), rule).and_then(|text| label_value(&text)));
        };
        if !(0..=i32::MAX.into()).contains(value) {
            self.refuse(at, rule);
        }
        Some(Template::of(value))
    }

    /// In the order of keys, so that a map in another order is the same.
    fn metadata(
        &mut self,
        at: &At,
        field: &dyn Fn(&str) -> Result<Field, String>,
        value: &dyn Fn(&str) -> Result<Template, String>,
    ) -> Vec<(Field, Template)> {
        let mut metadata: Vec<(Field, Template)> = Vec::new();
        for (key, entry) in self.strings(at) {
            let field = field(key).map_err(|rule| self.problem(&entry, &rule, &excerpt(key)));
            if let (Ok(field), Some(value)) = (field, self.parsed(&entry, value)) {
                let place = metadata.partition_point(|(other, _)| other.pointer < field.pointer);
                metadata.insert(place, (field, value));
            }
        }
        metadata
    }
}

/// A template that gives a label value at least for some result.
fn label_value(text: &str) -> Result<Template, String> {
    let template = Template::parse(text)?;
    if template.render("0").is_some_and(|value| syntax::is_label_value(&value)) {
        return Ok(template);
    }
    Err("be a label value: at most 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The debug assertion in [`Keys::take`] is the other half: what is taken is in the table.
    #[test]
    fn each_key_of_the_table_is_read() {
        let endpoint = |rest: &str| format!("{{url: 'http://h', storageConfig: {{type: InKube, inKube: {{{rest}}}}}}}");
        for Map { path, keys } in &MAPS {
            for key in *keys {
                let entry = format!("{key}: {{not: {{a: value}}}}");
                let config =
                    |endpoint: &str| format!("plugins: [{{name: http_probe, config: {{endpoints: [{endpoint}]}}}}]");
                let text = match path.rsplit(['.']).next().unwrap() {
                    "" => entry,
                    "plugins[]" => format!("plugins: [{{{entry}}}]"),
                    "config" => format!("plugins: [{{name: http_probe, config: {{{entry}}}}}]"),
                    "endpoints[]" if *key == "url" => config(&format!("{{{entry}}}")),
                    "endpoints[]" if ["maxAgeSeconds"].contains(key) => {
                        config(&format!("{{url: 'file:///f', {entry}}}"))
                    }
                    "endpoints[]" => config(&format!("{{url: 'http://h', {entry}}}")),
                    "basicAuth" => config(&format!("{{url: 'http://h', basicAuth: {{{entry}}}}}")),
                    "jsonPathConfig" => config(&format!("{{url: 'http://h', jsonPathConfig: {{{entry}}}}}")),
                    "storageConfig" => config(&format!("{{url: 'http://h', storageConfig: {{{entry}}}}}")),
                    "inKube" => config(&endpoint(&entry)),
                    "target" => config(&endpoint(&format!("target: {{{entry}}}"))),
                    "markerPolices[]" => config(&endpoint(&format!("markerPolices: [{{{entry}}}]"))),
                    other => panic!("{other} is a map that this test does not know"),
                };
                let problems = super::super::tests::parse(&text).unwrap_err();
                let path = Map { path, keys: &[] }.path_near("");
                let path = if path.starts_with("the top") { String::new() } else { path + "." };
                let is_named = |problem: &&String| problem.starts_with(&format!("{path}{key}"));
                assert!(problems.iter().any(|problem| is_named(&problem)), "{path}{key} is not read: {problems:?}");
                assert!(
                    !problems.iter().any(|problem| problem.contains(&format!("unknown key {key};"))),
                    "{problems:?}"
                );
            }
        }
    }

    #[test]
    fn a_key_that_the_kind_does_not_have_is_refused_with_the_kinds_that_have_it() {
        let of_every_kind = ["url", "timeout", "failureThreshold", "successThreshold", "storageConfig"];
        let endpoint = MAPS.iter().find(|map| map.path.ends_with("endpoints[]")).unwrap();
        for key in endpoint.keys.iter().filter(|key| !of_every_kind.contains(key)) {
            let text =
                format!("plugins: [{{name: http_probe, config: {{endpoints: [{{url: 'tcp://h:1', {key}: 1}}]}}}}]");
            let problems = super::super::tests::parse(&text).unwrap_err();
            let rule = format!("plugins[0].config.endpoints[0].{key}: must stand beside a url of ");
            let refused = problems.iter().find(|problem| problem.starts_with(&rule)).expect("it is refused");
            assert!(!refused.contains("another kind"), "{key} is missing in OF_KINDS: {refused}");
        }
    }
}
