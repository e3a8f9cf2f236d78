//! Owns what the program was told to do: the checked configuration, units in its types. Refuses a file as a whole when
//! anything in it is wrong, and tells everything that is.

mod check;
mod describe;
mod file;
mod reader;
mod syntax;
mod watch;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Uri};

use crate::excerpt::escape;

pub use self::describe::range;
pub use self::file::MAX_BYTES;
pub(crate) use self::syntax::pointer_keys;
pub use self::syntax::{MAX_VALUE_BYTES, Template, is_authority, is_label_value, is_object_name, is_ops_state};
pub use self::watch::ConfigFile;

/// What the file says, checked and with its defaults filled in (SPEC 2).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// From the start to the first round.
    pub start_delay: Duration,
    /// From round to round.
    pub interval: Duration,
    /// How often the last decision is written again; never when `None`.
    pub resync: Option<Duration>,
    /// 1 to 64, first to last in precedence.
    pub endpoints: Vec<Endpoint>,
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
    /// At most one for each state, and ranges that do not overlap.
    pub policies: Vec<Policy>,
    /// The Pod's annotation that takes the result.
    pub annotation_key: Option<String>,
    /// The Pod's label that takes the result.
    pub label_key: Option<String>,
    /// The field that takes the result.
    pub field: Option<Field>,
    /// The opsStates of the GameServer that are not overwritten unless this sidecar decided them (SPEC 6.6).
    pub protected_ops_states: Vec<String>,
}

/// What is probed. A new kind of probe is a variant here; the compiler names every place that has to know it.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// An HTTP request.
    Http(HttpProbe),
}

/// An HTTP request, and which response is a success (SPEC 3.5 to 3.7).
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    /// `http` or `https`, with a host and a path, without user information or fragment.
    pub url: Uri,
    /// Any but CONNECT and TRACE.
    pub method: Method,
    /// Sent as they are; a Host header replaces the URL's.
    pub headers: HeaderMap,
    /// The status that makes a probe a success, 200 to 599.
    pub expected_status: u16,
    /// Where in a JSON body the result stands; the whole body when `None`.
    pub extract: Option<Extract>,
    /// Whether any rule needs the body; where none does, it is not read.
    pub reads_body: bool,
}

/// Where in a JSON body the result stands (SPEC 6.5).
#[derive(Debug, Clone, PartialEq)]
pub struct Extract {
    /// Object keys, and indices where the value is an array.
    pub path: Vec<String>,
    /// What the value must be.
    pub field_type: Option<FieldType>,
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

/// The field of an object that takes an endpoint's result (SPEC 6.3).
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The object; the pod's own GameServer when `None`.
    pub target: Option<Target>,
    /// An RFC 6901 pointer.
    pub pointer: String,
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

/// What a result means (SPEC 2.5): when it holds, and what is written then.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// When it holds.
    pub when: When,
    /// The GameServer's `spec.opsState`.
    pub ops_state: Option<String>,
    /// The GameServer's `spec.deletionPriority`.
    pub deletion_priority: Option<Priority>,
    /// The GameServer's `spec.updatePriority`.
    pub update_priority: Option<Priority>,
    /// Labels of the Pod.
    pub labels: Vec<(String, Template)>,
    /// Annotations of the Pod.
    pub annotations: Vec<(String, Template)>,
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

/// The state of the policy for a success that no other policy knows (SPEC 5.1).
pub const SUCCEEDED: &str = "Succeeded";

/// The state of the policy for a failure that has lasted (SPEC 5.1).
pub const FAILED: &str = "Failed";

/// An int-or-string of OpenKruiseGame, which becomes a label value there.
#[derive(Debug, Clone, PartialEq)]
pub enum Priority {
    /// 0 to 2^31-1
    Integer(i32),
    /// With `{{.Result}}` or without.
    Text(Template),
}

impl Config {
    /// Reads the file at `path`. `environment` looks up the variables of `${SELF:VAR}`.
    ///
    /// # Errors
    /// Everything that is wrong with the file (SPEC 2.7).
    pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let refuse = |problems| ConfigError { path: path.to_owned(), problems, unreadable: false };
        let bytes = read(path)
            .map_err(|error| ConfigError { unreadable: true, ..refuse(vec![format!("must be readable: {error}")]) })?;
        let text = text(bytes).map_err(|problem| refuse(vec![problem]))?;
        let tree = file::parse(&text)
            .map_err(|error| format!("must be YAML: {}", escape(&error.to_string(), MAX_YAML_ERROR_CHARS)))
            .map_err(|problem| refuse(vec![problem]))?;
        check::check(&tree, environment).map_err(refuse)
    }

    /// The rules as a person reads them, defaults filled in: what `okg-sidecar check` prints.
    pub fn describe(&self) -> String {
        describe::describe(self)
    }
}

impl Endpoint {
    /// Whether anything here depends on the result, and not on success and failure alone.
    pub(crate) fn needs_result(&self) -> bool {
        let by_outcome = |policy: &Policy| matches!(&policy.when, When::State(s) if s == SUCCEEDED || s == FAILED);
        self.annotation_key.is_some()
            || self.label_key.is_some()
            || self.field.is_some()
            || self.policies.iter().any(|policy| !by_outcome(policy) || policy.needs_result())
    }
}

impl Probe {
    /// What is probed, as logs name it.
    pub fn place(&self) -> String {
        match self {
            Self::Http(http) => http.place(),
        }
    }
}

impl fmt::Display for Probe {
    /// As `check` and `probe` print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(http) => write!(f, "{} {}", http.method, http.place()),
        }
    }
}

impl HttpProbe {
    /// The URL without a query, which may hold a secret.
    pub fn place(&self) -> String {
        let scheme = self.url.scheme_str().unwrap_or_default();
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        format!("{scheme}://{authority}{}", self.url.path())
    }
}

impl Policy {
    /// Whether it says anything about the GameServer.
    pub fn sets_game_server(&self) -> bool {
        self.ops_state.is_some() || self.deletion_priority.is_some() || self.update_priority.is_some()
    }

    fn needs_result(&self) -> bool {
        let in_priority = |priority: &Option<Priority>| matches!(priority, Some(Priority::Text(t)) if t.needs_result());
        in_priority(&self.deletion_priority)
            || in_priority(&self.update_priority)
            || self.labels.iter().chain(&self.annotations).any(|(_, template)| template.needs_result())
    }
}

/// Reads a file of at most [`MAX_BYTES`], and never more than one byte beyond.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("must have at most {MAX_BYTES} bytes, got more"));
    }
    String::from_utf8(bytes).map_err(|error| format!("must be UTF-8: {error}"))
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
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {problem}", self.path.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
