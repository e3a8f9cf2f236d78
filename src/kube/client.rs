//! Owns one write to one object of the API server: the request, the retries that belong to it, and what came of it
//! (SPEC 4.2 to 4.7, 6.6). Reads the clock for its own deadline alone.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Value, json};
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::account::Account;
use crate::decide::patch::{Changes, Kind, Object, merge_patch};
use crate::decide::pending::Verdict;
use crate::excerpt::excerpt;
use crate::http::{self, Trust};

/// The most that one write takes, its immediate retries included.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The most of an object that is read.
const MAX_OBJECT_BYTES: u64 = 256 * 1024;

/// The most that the API server may send as one answer, however it is framed.
const MAX_RECEIVED_BYTES: usize = 2 * 1024 * 1024;

/// The most of a refusal that is read.
const MAX_REFUSAL_BYTES: u64 = 64 * 1024;

/// What to do about a refusal by an admission policy, whose own reason stands beyond where a message is cut.
const BY_POLICY: &str = "; an admission policy or webhook refused it: is the token bound to this pod?";

/// How often a conflict is tried again at once.
const MAX_CONFLICTS: u32 = 3;

/// The name in the object's managedFields.
const FIELD_MANAGER: &str = "okg-sidecar";

/// Only the metadata, where the API server can: a GameServer's spec and status are of no use here.
const SMALL_ANSWER: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");
const WHOLE_ANSWER: HeaderValue = HeaderValue::from_static("application/json");
const MERGE_PATCH: HeaderValue = HeaderValue::from_static("application/merge-patch+json");

/// What speaks to the API server.
#[derive(Debug)]
pub struct Client {
    server: String,
    pod_uid: Option<String>,
    account: Account,
}

/// What must hold of a GameServer for a write to it.
#[derive(Debug)]
pub struct Guard<'a> {
    /// The opsStates that are not overwritten, unless this sidecar wrote them.
    pub protected: &'a [String],
    /// The opsStates that this process wrote last, or may have written.
    pub ours: &'a [Value],
}

impl Client {
    /// For the API server at `server`, which is `https://HOST:PORT`.
    pub fn new(server: String, pod_uid: Option<String>, account: Account) -> Self {
        Self { server, pod_uid, account }
    }

    /// Makes `changes` to `object`, in [`TIMEOUT`] at most.
    ///
    /// # Errors
    /// Why it did not, or may not have, taken effect.
    pub fn write(&mut self, object: &Object, changes: &Changes, guard: &Guard) -> Result<(), WriteError> {
        let deadline = Instant::now() + TIMEOUT;
        let mut conflicts = 0;
        loop {
            let mut changes = changes.clone();
            if object.kind == Kind::GameServer && !guard.protected.is_empty() {
                let version = self.unprotected(object, guard, deadline)?;
                changes.insert("/metadata/resourceVersion".into(), Some(version.into()));
            }
            match self.patch(object, &merge_patch(&changes), deadline) {
                Err(WriteError::Refused(Refusal { status: StatusCode::CONFLICT, .. })) if conflicts < MAX_CONFLICTS => {
                    conflicts += 1;
                }
                result => return result,
            }
        }
    }

    /// The resourceVersion of a GameServer that may be written.
    fn unprotected(&mut self, object: &Object, guard: &Guard, deadline: Instant) -> Result<String, WriteError> {
        let url = format!("{}{}", self.server, object.path);
        let mut response = self.send(object, Method::GET, &url, None, deadline)?;
        let game_server: GameServer = serde_json::from_reader(response.body_mut().as_reader().take(MAX_OBJECT_BYTES))
            .map_err(WriteError::Unreadable)?;
        self.check_owner(game_server.metadata.pod_uid.as_deref())?;
        match game_server.spec.ops_state {
            Some(state) if guard.protected.contains(&state) && !game_server.metadata.says_ours(&state, guard.ours) => {
                Err(WriteError::Protected(state))
            }
            _ => Ok(game_server.metadata.resource_version),
        }
    }

    fn patch(&mut self, object: &Object, patch: &Value, deadline: Instant) -> Result<(), WriteError> {
        let url = format!("{}{}?fieldManager={FIELD_MANAGER}", self.server, object.path);
        let mut response = self.send(object, Method::PATCH, &url, Some(patch), deadline)?;
        if object.kind != Kind::GameServer || self.pod_uid.is_none() {
            return Ok(());
        }
        // The status says that it was written; an answer that breaks off says nothing against it.
        match serde_json::from_reader::<_, Answer>(response.body_mut().as_reader().take(MAX_OBJECT_BYTES)) {
            Ok(answer) => self.check_owner(answer.metadata.pod_uid.as_deref()),
            Err(error) => {
                log::debug!("cannot read the answer to a write: {error}");
                Ok(())
            }
        }
    }

    /// OpenKruiseGame makes the Pod the owner of its GameServer. After a pod was replaced by one of the same name, the
    /// previous one's GameServer is still there for a moment (4.6).
    fn check_owner(&self, owner: Option<&str>) -> Result<(), WriteError> {
        match (&self.pod_uid, owner) {
            (Some(uid), Some(owner)) if owner != *uid => Err(WriteError::PreviousPod),
            _ => Ok(()),
        }
    }

    /// Sends one request, and once more with the token read again when the API server does not know it.
    fn send(
        &mut self,
        object: &Object,
        method: Method,
        url: &str,
        patch: Option<&Value>,
        deadline: Instant,
    ) -> Result<Response<ureq::Body>, WriteError> {
        let mut tried_again = false;
        loop {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let response = self.send_once(&method, url, patch, timeout)?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !tried_again {
                tried_again = true;
            } else if status.is_success() {
                return Ok(response);
            } else {
                return Err(WriteError::Refused(Refusal::read(object, &method, response, self.account.secret())));
            }
        }
    }

    fn send_once(
        &mut self,
        method: &Method,
        url: &str,
        patch: Option<&Value>,
        timeout: Duration,
    ) -> Result<Response<ureq::Body>, WriteError> {
        let client = http::client(timeout, MAX_RECEIVED_BYTES, Trust::Authorities(self.account.authorities()));
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(CONNECTION, http::CLOSE)
            .header(AUTHORIZATION, self.account.authorization());
        let sent = match patch {
            Some(patch) => request
                .header(ACCEPT, SMALL_ANSWER)
                .header(CONTENT_TYPE, MERGE_PATCH)
                .body(patch.to_string())
                .map_err(ureq::Error::from)
                .and_then(|request| client.run(request)),
            None => request
                .header(ACCEPT, WHOLE_ANSWER)
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| client.run(request)),
        };
        sent.map_err(|error| {
            let perhaps_written = *method == Method::PATCH && client.has_connected();
            WriteError::NoResponse { error, perhaps_written }
        })
    }
}

/// Of the answer to a patch, what is needed.
#[derive(serde::Deserialize)]
struct Answer {
    metadata: Owned,
}

#[derive(serde::Deserialize)]
struct Owned {
    /// Of the Pod that owns the object.
    #[serde(rename = "ownerReferences", default, deserialize_with = "pod_uid")]
    pod_uid: Option<String>,
}

/// Of a GameServer, what a guarded write needs to know.
#[derive(serde::Deserialize)]
struct GameServer {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(serde::Deserialize)]
struct Metadata {
    #[serde(rename = "resourceVersion", default)]
    resource_version: String,
    #[serde(rename = "ownerReferences", default, deserialize_with = "pod_uid")]
    pod_uid: Option<String>,
    #[serde(rename = "managedFields", default, deserialize_with = "managers")]
    managers: Managers,
}

#[derive(serde::Deserialize, Default)]
struct Spec {
    #[serde(rename = "opsState")]
    ops_state: Option<String>,
}

/// Who changed a GameServer's opsState last, by its managedFields:
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>.
#[derive(Default)]
struct Managers {
    ours: bool,
    others: bool,
}

impl Metadata {
    /// Whether this sidecar wrote the opsState. The API server keeps who changed a field last, so that a restarted
    /// sidecar knows its own; where it keeps nothing, what this process wrote last counts.
    fn says_ours(&self, state: &str, ours: &[Value]) -> bool {
        match self.managers {
            Managers { ours: false, others: false } => ours.iter().any(|value| value == state),
            Managers { ours, others } => ours && !others,
        }
    }
}

fn pod_uid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(serde::Deserialize)]
    struct OwnerReference {
        kind: String,
        uid: String,
    }
    let mut uid = None;
    each(deserializer, |owner: OwnerReference| {
        if owner.kind == "Pod" {
            uid.get_or_insert(owner.uid);
        }
    })?;
    Ok(uid)
}

fn managers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Managers, D::Error> {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        manager: String,
        #[serde(rename = "fieldsV1", default)]
        fields: Fields,
    }
    #[derive(serde::Deserialize, Default)]
    struct Fields {
        #[serde(rename = "f:spec", default)]
        spec: FieldsOfSpec,
    }
    #[derive(serde::Deserialize, Default)]
    struct FieldsOfSpec {
        #[serde(rename = "f:opsState")]
        ops_state: Option<IgnoredAny>,
    }
    let mut managers = Managers::default();
    each(deserializer, |entry: Entry| {
        if entry.fields.spec.ops_state.is_some() {
            managers.ours |= entry.manager == FIELD_MANAGER;
            managers.others |= entry.manager != FIELD_MANAGER;
        }
    })?;
    Ok(managers)
}

/// Takes the elements of a list one by one, so that a long one is never held.
fn each<'de, D, T, F>(deserializer: D, take: F) -> Result<(), D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    F: FnMut(T),
{
    struct Each<T, F>(F, PhantomData<T>);

    impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for Each<T, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            while let Some(element) = list.next_element()? {
                (self.0)(element);
            }
            Ok(())
        }
    }

    deserializer.deserialize_seq(Each(take, PhantomData))
}

/// Why a write did not, or may not have, taken effect.
#[derive(Debug)]
pub enum WriteError {
    /// No connection, no TLS, or no answer in time.
    NoResponse {
        /// Why.
        error: ureq::Error,
        /// Whether a patch had a connection to be sent on.
        perhaps_written: bool,
    },
    /// An answer with another status than 2xx.
    Refused(Refusal),
    /// The GameServer is still the previous pod's.
    PreviousPod,
    /// Somebody else has set this opsState, which is protected.
    Protected(String),
    /// The GameServer could not be understood.
    Unreadable(serde_json::Error),
}

/// An answer of the API server that is no success.
#[derive(Debug)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// Its message, escaped and cut.
    pub message: String,
    /// The pause that it asks for.
    pub retry_after: Option<Duration>,
    /// What an operator can do about it.
    pub advice: String,
    /// Whether it was the patch that was refused, not the look at the object before it.
    pub patched: bool,
}

impl Refusal {
    fn read(object: &Object, method: &Method, mut response: Response<ureq::Body>, secret: &str) -> Self {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let mut body = Vec::new();
        // What came before it broke off may still say why.
        let _ = response.body_mut().as_reader().take(MAX_REFUSAL_BYTES).read_to_end(&mut body);
        // A server that is confused enough may tell us our own token.
        let text = String::from_utf8_lossy(&body).replace(secret, "…");
        let message = match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(mut status)) => status.remove("message").and_then(|message| message.as_str().map(excerpt)),
            _ => None,
        };
        // An admission policy may refuse with 403, too, and then no rule of RBAC is missing.
        let by_policy = text.contains("ValidatingAdmissionPolicy") || text.contains("admission webhook");
        Self {
            status,
            message: message.unwrap_or_else(|| excerpt(text.trim())),
            retry_after,
            advice: if by_policy { BY_POLICY.into() } else { advice(object, method, status) },
            patched: *method == Method::PATCH,
        }
    }
}

/// Retry-After in whole seconds; a date is not honoured.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let digits = !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| Duration::from_secs(seconds.parse().unwrap_or(u64::MAX)))
}

fn advice(object: &Object, method: &Method, status: StatusCode) -> String {
    match status {
        StatusCode::FORBIDDEN => {
            let verb = method.as_str().to_ascii_lowercase();
            let mut path = object.path.split('/').rev();
            let (resource, group) = match (path.nth(1), path.nth(3)) {
                (Some(resource), Some("api")) => (resource, ""),
                (Some(resource), group) => (resource, group.unwrap_or_default()),
                _ => ("", ""),
            };
            format!(
                "; the service account's Role needs the rule {}",
                json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})
            )
        }
        StatusCode::UNAUTHORIZED => "; the API server does not accept the token".into(),
        StatusCode::NOT_FOUND if object.kind == Kind::GameServer => {
            "; is the pod one of a GameServerSet, and does OpenKruiseGame's controller run?".into()
        }
        _ => String::new(),
    }
}

impl WriteError {
    /// A short name of the kind of failure, the same for failures that a log need not tell apart.
    pub fn kind(&self) -> String {
        match self {
            Self::NoResponse { .. } => "no response".into(),
            Self::Refused(refusal) => refusal.status.as_str().to_owned(),
            Self::PreviousPod => "previous pod".into(),
            Self::Protected(_) => "protected".into(),
            Self::Unreadable(_) => "unreadable".into(),
        }
    }

    /// How long this is normal: OpenKruiseGame creates a GameServer after its pod, and the previous pod's goes soon.
    pub fn patience(&self) -> Duration {
        match self {
            Self::Refused(Refusal { status: StatusCode::NOT_FOUND, .. }) | Self::PreviousPod => Duration::from_secs(60),
            _ => Duration::ZERO,
        }
    }

    /// What it means for the pending write.
    pub fn verdict(&self) -> Verdict {
        let Self::Refused(refusal) = self else {
            let perhaps_written = matches!(self, Self::NoResponse { perhaps_written: true, .. } | Self::PreviousPod);
            return Verdict::Failed { perhaps_written, retry_after: None };
        };
        match refusal.status {
            StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE | StatusCode::UNPROCESSABLE_ENTITY => {
                Verdict::Rejected
            }
            status => Verdict::Failed {
                perhaps_written: refusal.patched && status.is_server_error(),
                retry_after: refusal.retry_after,
            },
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse { .. } => f.write_str("no response"),
            Self::Refused(Refusal { status, message, advice, .. }) => {
                write!(f, "status {}, {message}{advice}", status.as_u16())
            }
            Self::PreviousPod => f.write_str("the GameServer still belongs to the previous pod of this name"),
            Self::Protected(state) => write!(f, "another has set opsState to {state}, which is protected"),
            Self::Unreadable(_) => f.write_str("the GameServer cannot be understood"),
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoResponse { error, .. } => Some(error),
            Self::Unreadable(error) => Some(error),
            Self::Refused(_) | Self::PreviousPod | Self::Protected(_) => None,
        }
    }
}
