//! Owns the checked configuration, with units in its types, out of a file or Kruise's annotation. Refuses a file as a whole
//! when anything in it is wrong, and reports everything that is.
//!
//! Numbers such as (behaviour 2.7), here and elsewhere, are those of docs/behaviour.md.

mod describe;
mod file;
mod hosts;
mod inspect;
mod keys;
mod kruise;
mod reader;
mod spelling;
mod syntax;
mod warnings;
mod watch;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Uri};

use self::hosts::ProbeHosts;
use crate::excerpt::{escape, excerpt};
use crate::json::{self, pointer_keys};

pub use self::describe::statuses;
pub use self::file::MAX_BYTES;
pub use self::inspect::{Inspected, inspect};
pub use self::keys::{MAPS, Map};
pub use self::syntax::{
    MAX_VALUE_BYTES, RECORD, Template, is_authority, is_label_value, is_object_name, is_ops_state, metric_labels,
};
pub use self::watch::ConfigFile;

/// What the file or the annotation says, checked and with its defaults filled in (behaviour 2, 9).
///
/// Two are equal when they mean the same, whatever the warnings say.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// From the start to the first round, of all endpoints but those that set a condition.
    pub start_delay: Duration,
    /// From round to round of these.
    pub interval: Duration,
    /// How often the GameServer is read, and what it does not hold is written; never when `None`.
    pub resync: Option<Duration>,
    /// 1 to 64, first to last in precedence; of the annotation fewer, those that can be probed.
    pub endpoints: Vec<Endpoint>,
    /// Conditions of the pod that stay Unknown, by type, and the message that says why (behaviour 9.3).
    pub unknown: Vec<(String, String)>,
    /// What is legal but probably not meant.
    pub warnings: Vec<String>,
}

/// One entry of `endpoints`: what is probed, what an outcome means, and where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// What is probed.
    pub probe: Probe,
    /// Of one probe as a whole, from the name lookup to the end of the body; 1 to 3600 s.
    pub timeout: Duration,
    /// How many failures in a row make `Failed` the opinion, 1 to 1000.
    pub failure_threshold: u32,
    /// How many successes in a row that select the same policy make it the opinion, 1 to 1000.
    pub success_threshold: u32,
    /// How the result is taken out of the document.
    pub extract: Extract,
    /// What an outcome means.
    pub meaning: Meaning,
}

impl Default for Endpoint {
    /// What applies to each key that is not there (behaviour 2.4).
    fn default() -> Self {
        Self {
            probe: Probe::Tcp(Server::default()),
            timeout: Duration::from_secs(10),
            failure_threshold: 3,
            success_threshold: 1,
            extract: Extract::Nothing,
            meaning: Meaning::Rules(Rules::default()),
        }
    }
}

/// What an outcome means: the rules of a config file, or a condition of the pod by Kruise's annotation.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// Policies and fields that take the result.
    Rules(Rules),
    /// Success and failure set this condition (behaviour 9).
    Condition(PodCondition),
}

/// What `inKube` contains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// At most one for each state, and ranges that do not overlap.
    pub policies: Vec<Policy>,
    /// The fields that take the result: of annotationKey, labelKey and jsonPath.
    pub result_fields: Vec<Field>,
    /// The opsStates of the GameServer that are not overwritten unless this sidecar decided them (behaviour 6.6).
    pub protected_ops_states: Vec<String>,
}

/// A condition of the pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodCondition {
    /// Its type, such as `game.kruise.io/idle`.
    pub name: String,
    /// From the start to the first probe.
    pub delay: Duration,
    /// From probe to probe.
    pub period: Duration,
}

/// What is probed. A new kind of probe is a variant here; the compiler names every place in src that tells kinds apart, and its keys are
/// read in keys.rs.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// An HTTP request.
    Http(HttpProbe),
    /// A TCP connection; that there is one is a success.
    Tcp(Server),
    /// The content of a file.
    File(FileProbe),
    /// Valve's A2S_INFO.
    A2s(Server),
    /// The status of Minecraft, Java Edition.
    Minecraft(Server),
    /// RakNet's unconnected ping, as Minecraft's Bedrock Edition answers it.
    Bedrock(Server),
    /// Quake 3's `getstatus`.
    Quake3(Server),
}

/// A file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileProbe {
    /// Absolute.
    pub path: PathBuf,
    /// The path as the config has it, with the names of variables in place of their values.
    pub shown: String,
    /// How long ago it may have been modified, if that matters; 1 to 86400 s.
    pub max_age: Option<Duration>,
}

/// A server that is asked by a protocol that takes no more than where it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Server {
    /// A name or an address, an IPv6 one in brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// An HTTP request, and which response is a success (behaviour 3.5 to 3.7).
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    /// `http` or `https`, with a host and a path, without user information or fragment. It may contain secrets.
    pub url: Uri,
    /// The url as logs show it: without a query, which may be a secret, and with the names of variables in place of their values.
    pub shown: String,
    /// Any but CONNECT and TRACE.
    pub method: Method,
    /// A Host header replaces the URL's; `basicAuth` is the header Authorization.
    pub headers: HeaderMap,
    /// Empty for a method that has none.
    pub body: String,
    /// The statuses that make a probe a success, of 200 to 599.
    pub expected_status: RangeInclusive<u16>,
}

impl Default for HttpProbe {
    /// What applies to each key that is not there (behaviour 2.4).
    fn default() -> Self {
        Self {
            url: Uri::default(),
            shown: String::new(),
            method: Method::GET,
            headers: HeaderMap::new(),
            body: String::new(),
            expected_status: 200..=200,
        }
    }
}

/// How the result is taken out of a document (behaviour 3.7, 6.5).
#[derive(Debug, Clone, PartialEq)]
pub enum Extract {
    /// No rule needs it, or the kind of probe has no document.
    Nothing,
    /// It is the document.
    Whole,
    /// It is a value in JSON.
    Value {
        /// Object keys, and indices where the value is an array.
        path: Vec<String>,
        /// What the value must be.
        field_type: Option<FieldType>,
    },
    /// It is the number of an array's elements or an object's members in JSON.
    Count {
        /// As of a value; empty for the document as a whole.
        path: Vec<String>,
        /// `integer` or `number`, if it is written as a number.
        field_type: Option<FieldType>,
    },
    /// It is the sum of samples in Prometheus' text format.
    Metric(Metric),
    /// It is the number of players, as the kind of probe names it in its JSON.
    Players(Players),
}

/// Where a game server's answer contains its players.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Players {
    /// `players`
    All,
    /// `players` without `bots`
    WithoutBots,
    /// `players.online`
    Online,
}

/// The samples of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// Labels that a sample must have, and their values; an empty value is a missing label.
    pub labels: Vec<(String, String)>,
}

impl Extract {
    /// What the value must be, where the config names a type.
    pub fn field_type(&self) -> Option<FieldType> {
        match self {
            Self::Nothing | Self::Whole | Self::Metric(_) | Self::Players(_) => None,
            Self::Value { field_type, .. } | Self::Count { field_type, .. } => *field_type,
        }
    }
}

/// The type of a JSON value, as `fieldType` names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldType {
    /// `string`
    String,
    /// `integer`, `int`: a number without fraction and exponent
    Integer,
    /// `number`, `float`
    Number,
    /// `boolean`, `bool`
    Boolean,
}

/// The GameServer's field that OpenKruiseGame scales by.
pub const OPS_STATE: &str = "/spec/opsState";
/// The GameServer's field that orders deletions within one opsState.
pub const DELETION_PRIORITY: &str = "/spec/deletionPriority";
/// The GameServer's field that orders updates.
pub const UPDATE_PRIORITY: &str = "/spec/updatePriority";

/// A field of an object (behaviour 6).
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Whose it is.
    pub object: ObjectRef,
    /// An RFC 6901 pointer.
    pub pointer: String,
}

/// An object whose fields are written.
#[derive(Debug, Clone, PartialEq)]
pub enum ObjectRef {
    /// The pod's own.
    GameServer,
    /// The pod itself.
    Pod,
    /// Another one.
    Target(Target),
}

/// An object of the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// In the plural, such as `configmaps`.
    pub resource: String,
    /// The pod's own when `None`.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
}

/// What a result means (behaviour 2.5): when it holds, and what is written then.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// When it holds.
    pub when: When,
    /// For how long that must have been so for every success; zero without `forSeconds`.
    pub lasting: Duration,
    /// Fields of the GameServer, labels and annotations of the Pod, and their values.
    pub sets: Vec<(Field, Template)>,
}

/// When a policy holds.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// The result is this text. [`SUCCEEDED`] and [`FAILED`] hold without a result, too.
    State(String),
    /// The result is a number from the first to the second, both included.
    Range(f64, f64),
}

/// Of the YAML library's message, whose place stands at its end.
const MAX_YAML_ERROR_CHARS: usize = 400;

/// The most problems that are reported of one file.
const MAX_PROBLEMS: usize = 50;

/// The state of the policy for a success that no other policy knows (behaviour 5.1).
pub const SUCCEEDED: &str = "Succeeded";

/// The state of the policy for a failure that has lasted (behaviour 5.1).
pub const FAILED: &str = "Failed";

impl When {
    /// Whether both are states and the same, or ranges that share a number.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Range(min, max), Self::Range(low, high)) => min <= high && low <= max,
            _ => self == other,
        }
    }
}

impl Policy {
    /// Whether one result could select both: their conditions overlap, and are not the same for different times.
    fn conflicts(&self, other: &Self) -> bool {
        self.when.overlaps(&other.when) && (self.when != other.when || self.lasting == other.lasting)
    }

    /// Its condition as a message shows it.
    pub fn condition(&self) -> String {
        let lasting = if self.lasting.is_zero() { String::new() } else { format!(" for {} s", self.lasting.as_secs()) };
        format!("{}{lasting}", self.when)
    }
}

impl fmt::Display for When {
    /// As a message shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => f.write_str(&excerpt(state)),
            Self::Range(min, max) if max.is_infinite() => write!(f, "{min} or more"),
            Self::Range(min, max) if min.is_infinite() => write!(f, "{max} or less"),
            Self::Range(min, max) => write!(f, "{min} to {max}"),
        }
    }
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Self { start_delay, interval, resync, endpoints, unknown, warnings: _ } = self;
        (start_delay, interval, resync, endpoints, unknown)
            == (&other.start_delay, &other.interval, &other.resync, &other.endpoints, &other.unknown)
    }
}

/// The variable that holds Kruise's annotation.
const KRUISE_PODPROBE: &str = "KRUISE_PODPROBE";

/// What a pod lacks that has neither a config file nor the annotation.
const NEITHER: &str = "\
must hold the annotation kruise.io/podprobe where there is no config file; set it with: env: [{name: KRUISE_PODPROBE, \
valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['kruise.io/podprobe']\"}}}]; it is empty where Kruise has written no \
annotation: a gate is off (EnablePodProbeMarkerOnServerless, PodWebhook, KruiseDaemon, PodProbeMarkerGate), no container has a probe's containerName, the \
GameServerSet has no serviceQualities, or the pod is older than they are";

impl Config {
    /// Reads Kruise's annotation where the variable holds it, else the file at `path`, which is given, too. `environment`
    /// looks up variables.
    ///
    /// # Errors
    /// Everything that is wrong with it; or both are there, or neither.
    pub fn open(
        path: PathBuf,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Option<ConfigFile>, Self), String> {
        let variable = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        // What cannot be looked at is there.
        let file_is_there = path.as_os_str() == "-" || path.try_exists().unwrap_or(true);
        match variable(KRUISE_PODPROBE) {
            Some(_) if file_is_there => Err(format!(
                "{KRUISE_PODPROBE} and the config file {} are both there, and two sets of rules must not decide one \
                 opsState: to have the file's remove the variable, to have Kruise's remove the ConfigMap's volume",
                path.display()
            )),
            Some(annotation) => {
                let host = variable("POD_IP");
                let mut parsed = kruise::parse(&annotation, host.as_deref().unwrap_or("localhost"));
                parsed.iter_mut().for_each(|config| ProbeHosts::of(environment).restrict(config));
                parsed.map(|config| (None, config)).map_err(|rule| format!("{KRUISE_PODPROBE}: must {rule}"))
            }
            None => match ConfigFile::open(path) {
                Ok((file, config)) => Ok((Some(file), config)),
                Err(error) if file_is_there => Err(error.to_string()),
                Err(error) => Err(format!("{error}\n{KRUISE_PODPROBE}: {NEITHER}")),
            },
        }
    }

    /// Whether it is Kruise's annotation, whose probes have rounds of their own and set conditions of the pod.
    pub fn is_of_kruise(&self) -> bool {
        !self.unknown.is_empty() || self.endpoints.iter().any(|endpoint| endpoint.condition().is_some())
    }

    /// Reads the file at `path`. `environment` looks up the variables of `${SELF:VAR}`.
    ///
    /// # Errors
    /// Everything that is wrong with the file (behaviour 2.7).
    pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let error = |problems, unreadable| ConfigError { path: path.to_owned(), problems, unreadable };
        let bytes = watch::read(path, MAX_BYTES).map_err(|(problem, unreadable)| error(vec![problem], unreadable))?;
        Self::parse(bytes, environment).map_err(|problems| error(problems, false))
    }

    /// Checks the bytes of a file.
    ///
    /// # Errors
    /// Every problem, each with the path of its key.
    pub fn parse(bytes: Vec<u8>, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        Self::check(bytes, environment).config
    }

    /// Checks the bytes of a file, and gives warnings beside the problems, too.
    pub fn check(bytes: Vec<u8>, environment: &dyn Fn(&str) -> Option<String>) -> Checked {
        let refused = |problem| Checked { config: Err(vec![problem]), warnings: Vec::new() };
        if bytes.len() > MAX_BYTES {
            return refused(format!("must have at most {MAX_BYTES} bytes, got more"));
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => return refused(format!("must be UTF-8: {error}")),
        };
        // An editor may have put a byte order mark before it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut checked = match file::parse(text) {
            Ok(tree) => keys::read(&tree, environment),
            Err(_) if inspect::looks_like_a_manifest(text) => {
                refused(format!("must {}, got a whole manifest", keys::NO_MANIFEST))
            }
            Err(error) => refused(format!("must be YAML: {}", shown(&error))),
        };
        if let Err(problems) = &mut checked.config {
            let mistakes = spelling::mistakes(text);
            // YAML's own message is about what comes of them.
            let from_yaml = problems.first().is_some_and(|problem| problem.starts_with("must be YAML"));
            problems.drain(..usize::from(from_yaml && !mistakes.is_empty()));
            problems.splice(..0, mistakes);
            let more = problems.len().saturating_sub(MAX_PROBLEMS);
            problems.truncate(MAX_PROBLEMS);
            if more > 0 {
                problems.push(format!("and {more} more problems"));
            }
        }
        checked
    }
}

/// What came of checking a config.
#[derive(Debug)]
pub struct Checked {
    /// The config, or every problem.
    pub config: Result<Config, Vec<String>>,
    /// What is legal but probably not meant.
    pub warnings: Vec<String>,
}

impl Endpoint {
    /// What logs call it, at this place in the list.
    pub fn name(&self, index: usize) -> String {
        match &self.meaning {
            Meaning::Rules(_) => format!("endpoints[{index}]"),
            Meaning::Condition(condition) => condition.name.clone(),
        }
    }

    /// Its name and what it probes.
    pub fn full_name(&self, index: usize) -> String {
        format!("{} {}", self.name(index), self.probe.url())
    }

    /// Its rules; none where it sets a condition.
    pub fn rules(&self) -> &Rules {
        static NONE: Rules =
            Rules { policies: Vec::new(), result_fields: Vec::new(), protected_ops_states: Vec::new() };
        match &self.meaning {
            Meaning::Rules(rules) => rules,
            Meaning::Condition(_) => &NONE,
        }
    }

    /// The condition that it sets, if it sets one.
    pub fn condition(&self) -> Option<&PodCondition> {
        match &self.meaning {
            Meaning::Rules(_) => None,
            Meaning::Condition(condition) => Some(condition),
        }
    }

    /// Its rules, which it must have.
    #[cfg(test)]
    pub(crate) fn rules_mut(&mut self) -> &mut Rules {
        match &mut self.meaning {
            Meaning::Rules(rules) => rules,
            Meaning::Condition(condition) => panic!("it sets {}", condition.name),
        }
    }
}

impl Rules {
    /// Whether anything here depends on the result, and not on success and failure alone.
    fn needs_result(&self) -> bool {
        let by_outcome = |policy: &Policy| matches!(&policy.when, When::State(s) if s == SUCCEEDED || s == FAILED);
        !self.result_fields.is_empty()
            || self.policies.iter().any(|policy| !by_outcome(policy) || policy.needs_result())
    }

    /// Every field that they can set.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        let of_policies = self.policies.iter().flat_map(|policy| &policy.sets).map(|(field, _)| field);
        of_policies.chain(&self.result_fields)
    }
}

impl Probe {
    /// Where it goes, an IPv6 address in brackets; a file goes nowhere.
    fn host(&self) -> Option<&str> {
        match self {
            Self::Http(http) => http.url.host(),
            Self::Tcp(server) | Self::A2s(server) | Self::Minecraft(server) => Some(&server.host),
            Self::Bedrock(server) | Self::Quake3(server) => Some(&server.host),
            Self::File(_) => None,
        }
    }

    /// What is probed, as logs name it.
    pub fn url(&self) -> String {
        let (scheme, server) = match self {
            Self::Http(http) => return http.shown.clone(),
            Self::File(file) => return format!("file://{}", file.shown),
            Self::Tcp(server) => ("tcp", server),
            Self::A2s(server) => ("a2s", server),
            Self::Minecraft(server) => ("minecraft", server),
            Self::Bedrock(server) => ("bedrock", server),
            Self::Quake3(server) => ("quake3", server),
        };
        format!("{scheme}://{}:{}", server.host, server.port)
    }
}

impl Probe {
    /// Whether it waits for somebody, for its timeout at most.
    pub fn waits(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Http(_) | Self::Tcp(_) | Self::A2s(_) | Self::Minecraft(_) | Self::Bedrock(_) | Self::Quake3(_) => {
                true
            }
        }
    }

    /// How the result is taken where the config names no other way.
    pub fn default_extract(&self) -> Extract {
        match self {
            Self::Http(_) | Self::File(_) => Extract::Whole,
            Self::Tcp(_) => Extract::Nothing,
            Self::A2s(_) | Self::Quake3(_) => Extract::Players(Players::WithoutBots),
            Self::Bedrock(_) => Extract::Players(Players::All),
            Self::Minecraft(_) => Extract::Players(Players::Online),
        }
    }
}

impl fmt::Display for Probe {
    /// As `check` and `probe` print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(http) => write!(f, "{} {}", http.method, http.shown),
            Self::Tcp(server) => write!(f, "TCP {}:{}", server.host, server.port),
            Self::File(_) | Self::A2s(_) | Self::Minecraft(_) | Self::Bedrock(_) | Self::Quake3(_) => {
                f.write_str(&self.url())
            }
        }
    }
}

impl Policy {
    fn needs_result(&self) -> bool {
        self.sets.iter().any(|(_, value)| value.needs_result())
    }

    /// What it sets a field to.
    fn value(&self, field: &Field) -> Option<&Template> {
        self.sets.iter().find_map(|(set, value)| (set == field).then_some(value))
    }
}

impl Field {
    /// A field of the GameServer.
    pub fn of_game_server(pointer: impl Into<String>) -> Self {
        Self { object: ObjectRef::GameServer, pointer: pointer.into() }
    }

    /// A label of the Pod.
    pub fn label(key: &str) -> Self {
        Self { object: ObjectRef::Pod, pointer: format!("{LABELS}{}", json::escaped_key(key)) }
    }

    /// An annotation of the Pod.
    pub fn annotation(key: &str) -> Self {
        Self { pointer: Self::label(key).pointer.replacen(LABELS, ANNOTATIONS, 1), object: ObjectRef::Pod }
    }
}

const LABELS: &str = "/metadata/labels/";
const ANNOTATIONS: &str = "/metadata/annotations/";

impl fmt::Display for Field {
    /// As a message shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, pointer } = self;
        let key = || pointer_keys(pointer).last().unwrap_or_default();
        match object {
            ObjectRef::GameServer => f.write_str(pointer.strip_prefix("/spec/").unwrap_or(pointer)),
            ObjectRef::Pod if pointer.starts_with(LABELS) => write!(f, "label {}", key()),
            ObjectRef::Pod => write!(f, "annotation {}", key()),
            ObjectRef::Target(Target { group, version, resource, namespace, name }) => {
                let slash = if group.is_empty() { "" } else { "/" };
                let namespace = namespace.as_deref().unwrap_or("the pod's namespace");
                write!(f, "{pointer} of {group}{slash}{version} {resource} {name} in {namespace}")
            }
        }
    }
}

/// A YAML error, without the path of a key of `headers`, which may hold a secret.
fn shown(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    if text.contains("more than one document") {
        return "one document, without a line `---` between two".into();
    }
    match (reader::is_secret(&text), error.location()) {
        (true, Some(at)) => {
            format!("headers or a body with a tag or too many aliases at line {} column {}", at.line(), at.column())
        }
        _ => escape(&text, MAX_YAML_ERROR_CHARS),
    }
}

/// A configuration that was refused.
#[derive(Debug)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, each with the path of its key.
    pub problems: Vec<String>,
    /// Whether the file could not even be read.
    pub unreadable: bool,
}

impl fmt::Display for ConfigError {
    /// A line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |problem| format!("{}: {problem}", self.path.display());
        f.write_str(&self.problems.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    pub(super) fn parse(text: &str) -> Result<Config, Vec<String>> {
        Config::parse(text.into(), &|name| (name == "POD_NAME").then(|| "gs-0".into()))
    }

    fn config(endpoint: &str) -> Result<Config, Vec<String>> {
        parse(&format!("plugins: [{{name: http_probe, config: {{endpoints: [{{{endpoint}}}]}}}}]"))
    }

    #[test]
    fn what_means_the_same_is_equal() {
        let one = config(
            "url: 'http://h', headers: {A: 1, B: 2}, storageConfig: {type: InKube, inKube: {markerPolices: \
             [{state: A, labels: {a: x, b: y}, gameServerOpsState: Maintaining}]}}",
        )
        .unwrap();
        let same = config(
            "url: 'http://h/', method: get, timeout: 0xa, headers: {b: 2, a: 1}, storageConfig: {type: InKube, inKube: \
             {markerPolicies: [{labels: {b: 'y', a: x}, state: 'A', gameServerOpsState: Maintaining}]}}",
        )
        .unwrap();
        assert_ne!(one.warnings, same.warnings);
        assert_eq!(one, same);
        let other = config(
            "url: 'http://h', headers: {A: 1, B: 2}, storageConfig: {type: InKube, inKube: {markerPolices: \
             [{state: A, labels: {a: x, b: z}, gameServerOpsState: Maintaining}]}}",
        );
        assert_ne!(Ok(one), other);
    }

    #[test]
    fn no_message_shows_what_may_be_a_secret() {
        for endpoint in [
            "headers: 'Authorization: hidden'",
            "headers: [hidden]",
            "headers: {Authorization:hidden}",
            "headers: {A: [hidden]}",
            "headers: {A: {hidden: 1, hidden: 2}}",
            "headers: {hidden: 1, hidden: 2}",
            "headers: {hidden: 1, Hidden: 2}",
            "headers: {hidden: !tag x}",
            "httpHeaders: {hidden: !tag x}",
            "Header: {hidden: 1, hidden: 2}",
            "Authorization:Bearer hidden",
            "url: “http://me:hidden@h”",
            "headers: {A: !hidden x}",
            "headers: {A: “hidden”}",
            "headers: {Content-Length: hidden}",
            "url: 'http://me:hidden@h'",
            "url: 'http://me:hid?den@h'",
            "url: 'http://me:p@hidden@h'",
            "url: 'http://me:hid#den@h'",
            "url: 'me:hidden@h?x'",
            "url: 'http://h:0/?hidden'",
            "url: 'http://h/?a#hidden'",
            "url: 'http://h/?a=@hidden#'",
            "body: hidden",
            "method: POST, body: {hidden: 1, hidden: 2}",
            "method: POST, body: [hidden]",
            "basicAuth: hidden",
            "basicAuth: {username: 'hidden:', password: [hidden]}",
            "basicAuth: {hidden: !tag x}",
            "basicauth: {username: hidden, username: hidden}",
        ] {
            let refused = config(endpoint).unwrap_err().join("\n");
            let parts = ["hid", "den", "Hid"];
            assert!(!parts.iter().any(|part| refused.contains(part)), "{endpoint}: {refused}");
        }
    }

    #[test]
    fn what_came_from_a_variable_is_shown_nowhere() {
        let variable = |name: &str| match name {
            "SECRET" => Some("hid-den".to_owned()),
            "BAD" => Some("hid\nden".to_owned()),
            _ => None,
        };
        let storage = "storageConfig: {type: InKube, inKube: {markerPolices: [{state: A, gameServerOpsState: None}]}}";
        let parse = |endpoint: &str| {
            let text = format!("plugins: [{{name: http_probe, config: {{endpoints: [{{{endpoint}, {storage}}}]}}}}]");
            Config::check(text.into(), &variable)
        };
        let everywhere = "url: 'http://h/${SELF:SECRET}/$${x}?y=${SELF:SECRET}', method: POST, body: '${SELF:SECRET}', headers: {A: \
                          'x ${SELF:SECRET}'}, basicAuth: {username: '${SELF:SECRET}', password: '${SELF:SECRET}'}";
        let config = parse(everywhere).config.unwrap();
        let Probe::Http(http) = &config.endpoints[0].probe else { panic!("it is http") };
        assert_eq!(http.url, "http://h/hid-den/${x}?y=hid-den");
        assert_eq!((http.body.as_str(), http.headers["a"].to_str().unwrap()), ("hid-den", "x hid-den"));
        // As `base64` has it.
        assert_eq!(http.headers["authorization"], "Basic aGlkLWRlbjpoaWQtZGVu");
        let shown = config.describe() + &config.endpoints[0].full_name(0) + &config.endpoints[0].probe.to_string();
        assert!(!shown.contains("hid"), "{shown}");
        assert!(shown.contains("http://h/${SELF:SECRET}/$${x}"), "{shown}");
        for bad in ["url: 'http://h/${SELF:BAD}'", "url: 'file:///${SELF:BAD}'"] {
            let problems = parse(bad).config.unwrap_err().join("\n");
            assert!(!problems.contains("hid") && !problems.contains("den"), "{bad}: {problems}");
        }
        let bad = "url: 'http://h', method: POST, headers: {A: '${SELF:BAD}'}, basicAuth: {username: a, password: '${SELF:BAD}'}";
        let problems = parse(bad).config.unwrap_err().join("\n");
        assert_eq!(problems.lines().count(), 2, "{problems}");
        assert!(!problems.contains("hid-") && !problems.contains("den"), "{problems}");
    }

    #[test]
    fn each_way_to_take_the_result_is_read() {
        let path = || vec!["a".to_owned()];
        let label = || vec![("w".to_owned(), "x".to_owned())];
        for (keys, extract) in [
            ("timeout: 1", Extract::Whole),
            ("jsonPathConfig: {jsonPath: a}", Extract::Value { path: path(), field_type: None }),
            ("jsonPathConfig: {jsonPath: a, count: False}", Extract::Value { path: path(), field_type: None }),
            ("jsonPathConfig: {jsonPath: a, count: true}", Extract::Count { path: path(), field_type: None }),
            (
                "jsonPathConfig: {jsonPath: a, count: True, fieldType: int}",
                Extract::Count { path: path(), field_type: Some(FieldType::Integer) },
            ),
            ("metric: 'm{w=\"x\"}'", Extract::Metric(Metric { name: "m".into(), labels: label() })),
        ] {
            let rules = "{state: A, gameServerOpsState: None}";
            let endpoint = format!(
                "{{url: 'http://h', {keys}, storageConfig: {{type: InKube, inKube: {{markerPolices: [{rules}]}}}}}}"
            );
            let text = format!("plugins: [{{name: http_probe, config: {{endpoints: [{endpoint}]}}}}]");
            assert_eq!(tests::parse(&text).unwrap().endpoints[0].extract, extract, "{keys}");
        }
    }

    #[test]
    fn basic_auth_may_be_empty_but_no_variable_in_it() {
        let variable = |name: &str| (name == "EMPTY").then(String::new);
        let storage = "storageConfig: {type: InKube, inKube: {markerPolices: [{state: A, gameServerOpsState: None}]}}";
        for (basic_auth, sent) in [
            ("{username: key, password: ''}", Some("Basic a2V5Og==")),
            ("{username: '', password: key}", Some("Basic OmtleQ==")),
            ("{username: key, password: '${SELF:EMPTY}'}", None),
            ("{username: key}", None),
            ("{password: key}", None),
        ] {
            let endpoint = format!("{{url: 'http://h', basicAuth: {basic_auth}, {storage}}}");
            let text = format!("plugins: [{{name: http_probe, config: {{endpoints: [{endpoint}]}}}}]");
            let checked = Config::check(text.into_bytes(), &variable).config;
            let value = |config: Config| match &config.endpoints[0].probe {
                Probe::Http(http) => http.headers["authorization"].to_str().unwrap().to_owned(),
                other => panic!("{other}"),
            };
            assert_eq!(checked.map(value).ok().as_deref(), sent, "{basic_auth}");
        }
    }

    #[test]
    fn warnings_stand_beside_problems() {
        let text = "plugins: [{name: http_probe, config: {other: 1, endpoints: [{url: 'http://h', timeout: 3, storageConfig: \
                    {type: InKube, inKube: {markerPolices: [{state: A, gameServerOpsState: Kill}]}}}]}}]";
        let checked = Config::check(text.into(), &|_| None);
        assert_eq!(checked.config.unwrap_err().len(), 1);
        assert_eq!(checked.warnings.len(), 1, "{:?}", checked.warnings);
        assert!(checked.warnings[0].contains("Kill"), "{:?}", checked.warnings);
    }

    /// Each file of tests/configs names its exact messages in comments.
    #[test]
    fn each_bad_file_is_refused_with_its_exact_messages() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 70, "only {} files", files.len());
        let mut wrong = String::new();
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let messages: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# error: ")).collect();
            let got = Config::load(&path, &|_| None).map_or_else(|error| error.problems, |_| Vec::new());
            if messages.is_empty() || messages != got {
                wrong += &format!("{}\nexpected {messages:#?}\ngot {got:#?}\n", path.display());
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }
}
