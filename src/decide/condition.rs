//! Owns what an endpoint's opinion says of its condition of the pod (behaviour 9.4), as kruise-daemon has it: thresholds count
//! successes or failures in a row, and the text is the newest of those that counted.

use serde_json::{Value, json};

use super::opinion::Opinion;
use super::policy::ProbeResult;
use crate::excerpt::prefix;

/// The most of a condition's message.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The condition of this type; none while no threshold was reached.
pub fn of_opinion(name: &str, opinion: &Opinion) -> Option<Value> {
    match (opinion.failure(), opinion.result()) {
        (Some(message), _) => Some(condition(name, "False", message)),
        (None, Some(ProbeResult::Text(text) | ProbeResult::TooLong(text))) => Some(condition(name, "True", text)),
        (None, Some(ProbeResult::Unread)) => Some(condition(name, "True", "")),
        (None, None) => None,
    }
}

/// A condition as it is written: without times, each of which would cost OpenKruiseGame a write (behaviour 9.5).
pub fn condition(name: &str, status: &str, message: &str) -> Value {
    json!({"type": name, "status": status, "message": prefix(message.trim_ascii(), MAX_MESSAGE_BYTES)})
}
