//! Owns one request to one object of the API server, and what came of it (behaviour 4.2 to 4.7). Reads the clock for the
//! attempt's own deadline alone. Refuses to decide what is sent.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use super::answer;
use super::environment::{names_a_pod, validity};
use super::service_account::ServiceAccount;
use crate::config::is_object_name;
use crate::decide::failure::{Refusal, WriteError};
use crate::decide::guarded::{FIELD_MANAGER, Hold, Seen};
use crate::decide::object::{Kind, Object};
use crate::excerpt::excerpt;
use crate::http_client::{self, MAX_HEAD, Trust};

/// The most that one request takes, as long as the server takes for it at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The most that one attempt takes, all its requests together: a read and a patch may each take their time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// The most that the API server may send in one attempt: some answers of the size that is read.
const MAX_RECEIVED_BYTES: usize = 16 * 1024 * 1024;

/// The most of a refusal that is read.
const MAX_REFUSAL_BYTES: u64 = 64 * 1024;

/// What the admission policies of deploy/ say of an object that is not the pod's own.
const NOT_OWN: &str = "a game pod may change its own objects only";

/// The annotation in which a namespace lists for them what else a sidecar may write.
const MAY_WRITE: &str = "okg-sidecar/may-write";

/// Has an unknown field refused and not dropped, and bounds the request at the server as [`REQUEST_TIMEOUT`] does here.
const QUERY: &str = "fieldValidation=Strict&timeout=10s";

/// Only the metadata, where the API server can: a GameServer's spec and status are of no use here.
const SMALL_ANSWER: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");
const WHOLE_ANSWER: HeaderValue = HeaderValue::from_static("application/json");
const MERGE_PATCH: HeaderValue = HeaderValue::from_static("application/merge-patch+json");
/// Merges lists by the key that Kubernetes gives them: a merge-patch would wipe the conditions of others.
const STRATEGIC_MERGE_PATCH: HeaderValue = HeaderValue::from_static("application/strategic-merge-patch+json");

/// What speaks to the API server.
#[derive(Debug)]
pub struct Client {
    server: String,
    service_account: ServiceAccount,
}

impl Client {
    /// For the API server at `server`, which is `https://HOST:PORT`.
    pub fn new(server: String, service_account: ServiceAccount) -> Self {
        Self { server, service_account }
    }

    /// Starts an attempt: the requests of the next twenty seconds, on one connection.
    pub fn attempt(&mut self) -> Attempt<'_> {
        let trust = Trust::Authorities(self.service_account.authorities());
        let http = http_client::client(REQUEST_TIMEOUT, MAX_HEAD, MAX_RECEIVED_BYTES, trust);
        Attempt { client: self, http, deadline: Instant::now() + ATTEMPT_TIMEOUT }
    }
}

/// The requests of one attempt to write one object.
pub struct Attempt<'c> {
    client: &'c mut Client,
    http: http_client::Client,
    deadline: Instant,
}

impl Attempt<'_> {
    /// Reads a GameServer, by a merge-patch that changes nothing: it needs no verb but `patch`. `pointers` are the fields
    /// whose values and managers are kept; without the whole object there are no values of its spec.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn read(&mut self, object: &Object, pointers: &[&str], is_whole: bool) -> Result<Seen, WriteError> {
        let accept = if is_whole { WHOLE_ANSWER } else { SMALL_ANSWER };
        // A read that got no answer has changed nothing.
        let seen = self.send(object, "{}", accept, pointers).map_err(WriteError::without_effect)?;
        Ok(Seen { is_whole, ..seen })
    }

    /// Sends a merge-patch, to the pod's status a strategic one.
    ///
    /// # Errors
    /// Why it did not, or may not have, taken effect.
    pub fn patch(&mut self, object: &Object, patch: &Value) -> Result<(), WriteError> {
        self.send(object, &patch.to_string(), SMALL_ANSWER, &[]).map(drop)
    }

    /// Sends one request, and once more with the token read again when the API server does not know it. Of the values, gives
    /// those at the pointers that are `wanted`.
    fn send(&mut self, object: &Object, patch: &str, accept: HeaderValue, wanted: &[&str]) -> Result<Seen, WriteError> {
        let content_type = match object.kind {
            Kind::GameServer | Kind::Pod | Kind::Target => MERGE_PATCH,
            Kind::PodStatus => STRATEGIC_MERGE_PATCH,
        };
        let mut tried_again = false;
        loop {
            let url = format!("{}{}?fieldManager={FIELD_MANAGER}&{QUERY}", self.client.server, object.path);
            let request = Request::patch(url)
                .header(AUTHORIZATION, self.client.service_account.authorization())
                .header(ACCEPT, accept.clone())
                .header(CONTENT_TYPE, &content_type)
                .body(patch);
            let timeout = self.deadline.saturating_duration_since(Instant::now()).min(REQUEST_TIMEOUT);
            let sent = request.map_err(ureq::Error::from).and_then(|request| self.http.run_within(timeout, request));
            let mut response = sent.map_err(|error| WriteError::NoAnswer {
                error: error.into(),
                perhaps_written: self.http.has_connected(),
            })?;
            let status = response.status();
            if status.is_success() {
                return answer::object(response.body_mut().as_reader(), wanted)
                    .map_err(|error| WriteError::NoAnswer { error: error.into(), perhaps_written: true });
            }
            let refusal = refusal(object, response, self.client.service_account.secret());
            if status != StatusCode::UNAUTHORIZED || tried_again {
                return Err(refusal);
            }
            tried_again = true;
        }
    }
}

/// Why a response refuses the request.
fn refusal(object: &Object, mut response: Response<ureq::Body>, secret: &str) -> WriteError {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let mut body = Vec::new();
    // What came before it broke off may still say why.
    let _ = response.body_mut().as_reader().take(MAX_REFUSAL_BYTES).read_to_end(&mut body);
    // A server that is confused enough may tell us our own token.
    let text = String::from_utf8_lossy(&body).replace(secret, "…");
    let answered = answer::status(text.as_bytes());
    if answered.other_uid {
        // This process was started in a Pod of its own uid, so that the other one came after it.
        return WriteError::Hold(Hold::Superseded);
    }
    let message = answered.message.as_deref().unwrap_or(text.trim());
    // The words of the API server itself: `ValidatingAdmissionPolicy 'NAME' with binding 'NAME' denied request`,
    // `admission webhook "NAME" denied the request`. RBAC's are `User "NAME" cannot patch resource`.
    let by_admission = text.contains("ValidatingAdmissionPolicy") || text.contains("admission webhook");
    if object.kind == Kind::GameServer && by_admission && message.contains(NOT_OWN) && names_a_pod(secret) {
        return WriteError::Hold(Hold::OtherPod);
    }
    let advice = match by_admission {
        true if message.contains(MAY_WRITE) => "; `okg-sidecar check` prints what it has to list".into(),
        true if message.contains(NOT_OWN) => "; is the token bound to this pod?".into(),
        true => "; an admission policy or webhook refused it".into(),
        false => advice(object, status, message, secret),
    };
    WriteError::Refused(Refusal {
        status,
        message: excerpt(reason(message)),
        retry_after,
        advice,
        perhaps_written: status.is_server_error(),
        by_admission: by_admission && status == StatusCode::FORBIDDEN,
    })
}

/// What follows the names of objects and policies in a message, which is cut: an unknown field, a policy's own words, or the
/// account that has no right.
fn reason(message: &str) -> &str {
    let from = |words: &str, offset: usize| message.find(words).map(|at| &message[at + offset..]);
    let denied = " denied request: ";
    from("strict decoding error", 0)
        .or_else(|| from(denied, denied.len()))
        .or_else(|| from("User \"", 0))
        .unwrap_or(message)
}

/// Retry-After in whole seconds; a date is not honoured.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let digits = !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| Duration::from_secs(seconds.parse().unwrap_or(u64::MAX)))
}

fn advice(object: &Object, status: StatusCode, message: &str, token: &str) -> String {
    match status {
        StatusCode::FORBIDDEN => {
            let (_, group, resource) = object.rbac();
            let rule = json!({"apiGroups": [group], "resources": [resource], "verbs": ["patch"]});
            match account(message) {
                Some("default") => format!(
                    "; does the pod template lack serviceAccountName: okg-sidecar? Else the Role of the account default \
                     needs the rule {rule}"
                ),
                Some(account) => format!("; the Role of the account {account} needs the rule {rule}"),
                None => format!("; the service account's Role needs the rule {rule}"),
            }
        }
        StatusCode::UNAUTHORIZED => format!("; the API server does not accept the token ({})", validity(token)),
        StatusCode::NOT_FOUND if object.kind == Kind::GameServer => {
            "; is the pod one of a GameServerSet, and does OpenKruiseGame's controller run?".into()
        }
        _ => String::new(),
    }
}

/// The ServiceAccount that RBAC refuses.
fn account(message: &str) -> Option<&str> {
    let (_, account) = message.split_once("User \"system:serviceaccount:")?;
    let (_, name) = account.split_once('"')?.0.split_once(':')?;
    is_object_name(name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::decision::tests::identity;
    use crate::decide::pace::Retry;

    fn refused(status: u16, message: &str) -> WriteError {
        let body = json!({"kind": "Status", "message": message}).to_string();
        let mut response = Response::new(ureq::Body::builder().data(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        refusal(&identity().game_server(), response, "the token")
    }

    #[test]
    fn what_an_admission_policy_forbids_is_no_missing_rule_and_may_be_the_previous_pods_object() {
        let of = "gameservers.game.kruise.io \"gs-0\" is forbidden:";
        for (status, message, retry, about_the_fields, advice) in [
            (403, "User \"a\" cannot patch resource \"gameservers\"", Retry::Persistent, false, "needs the rule"),
            (
                403,
                "ValidatingAdmissionPolicy 'a' with binding 'b' denied request: c",
                Retry::Appearing,
                true,
                "refused it",
            ),
            (403, "admission webhook \"a\" denied the request: c", Retry::Appearing, true, "refused it"),
            (422, "admission webhook \"a\" denied the request: c", Retry::Persistent, true, "refused it"),
            (500, "failed calling webhook \"a\"", Retry::Transient, false, ""),
        ] {
            let error = refused(status, &format!("{of} {message}"));
            assert_eq!((error.retry(), error.is_about_the_fields()), (retry, about_the_fields), "{status} {message}");
            assert!(error.to_string().contains(advice), "{error}");
        }
    }

    #[test]
    fn a_message_is_cut_after_what_matters_in_it() {
        let policy =
            "pods \"gs-0\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not so";
        let rbac =
            "gameservers.game.kruise.io \"gs-0\" is forbidden: User \"system:serviceaccount:games:default\" cannot";
        let strict = "GameServer in version \"v1alpha1\" cannot be handled: {…}: strict decoding error: unknown field";
        for (message, shown) in [
            (policy, "not so"),
            (rbac, "User \"system:serviceaccount:games:default\" cannot"),
            (strict, "strict decoding error: unknown field"),
            ("Unauthorized", "Unauthorized"),
        ] {
            assert_eq!(reason(message), shown);
        }
    }

    #[test]
    fn the_account_that_has_no_right_is_named() {
        let user = |user: &str| format!("gameservers \"gs-0\" is forbidden: User \"{user}\" cannot patch");
        for (message, named) in [
            (user("system:serviceaccount:games:okg-sidecar"), Some("okg-sidecar")),
            (user("system:serviceaccount:games:default"), Some("default")),
            (user("system:serviceaccount:games:\u{202e}"), None),
            (user("jane"), None),
            ("User \"system:serviceaccount:games:cut".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(account(&message), named, "{message}");
        }
    }
}
