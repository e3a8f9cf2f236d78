//! Owns the record: the annotation in which the GameServer itself remembers what was last decided for each of its fields
//! (behaviour 4.3), as `kubectl apply` keeps what it last applied.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

use super::decision::{DELETION_PRIORITY, Fields, OPS_STATE, UPDATE_PRIORITY};

/// The annotation of the GameServer that holds the record, as an RFC 6901 pointer.
pub const POINTER: &str = "/metadata/annotations/okg-sidecar~1decided";

/// What an earlier pod's process decided last for opsState, as long as this pod's has not decided it: such a state is
/// nobody else's, so that it is not protected (behaviour 6.6).
const EARLIER_OPS_STATE: &str = "earlierOpsState";

/// The most bytes of a value that stands in the record as it is.
const MAX_PLAIN_BYTES: usize = 64;

/// The short names of the fields that every reader knows.
const NAMES: [(&str, &str); 3] =
    [(OPS_STATE, "opsState"), (DELETION_PRIORITY, "deletionPriority"), (UPDATE_PRIORITY, "updatePriority")];

/// What was decided by the time that one patch was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// By short name or RFC 6901 pointer; long values as checksums.
    fields: Fields,
    /// The uid of the pod that decided.
    pub pod: Option<String>,
}

impl Record {
    /// Reads the annotation; nothing where it is not a record.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields: Fields = serde_json::from_str(text).ok()?;
        fields.remove("at");
        let pod = match fields.remove("pod") {
            None => None,
            Some(Value::String(uid)) => Some(uid),
            Some(_) => return None,
        };
        Some(Self { fields, pod })
    }

    /// Whether `value` is what was last decided for the field.
    pub fn says(&self, pointer: &str, value: &Value) -> bool {
        self.get(pointer) == Some(&shortened(value))
    }

    /// What was last decided for the field, or its checksum.
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.fields.get(name(pointer))
    }

    /// The opsState that a sidecar decided last, whichever pod's it was.
    pub fn ops_state(&self) -> Option<&Value> {
        self.get(OPS_STATE).or_else(|| self.fields.get(EARLIER_OPS_STATE))
    }

    /// Notes what was decided for a field.
    pub fn set(&mut self, pointer: &str, value: &Value) {
        if pointer == OPS_STATE {
            self.fields.remove(EARLIER_OPS_STATE);
        }
        self.fields.insert(name(pointer).to_owned(), shortened(value).into_owned());
    }

    /// The first record of the next pod: it has decided nothing yet.
    pub fn of_next_pod(&self) -> Self {
        let mut fields = Fields::new();
        fields.extend(self.ops_state().map(|state| (EARLIER_OPS_STATE.to_owned(), state.clone())));
        Self { fields, pod: None }
    }

    /// What `newer` says, and of other fields what this one says.
    pub fn with(mut self, newer: &Self) -> Self {
        self.fields.extend(newer.fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        self
    }

    /// The annotation's value, when it is written at `at` since the Unix epoch. opsState comes first, for the person who
    /// reads it.
    pub fn text(&self, at: Duration) -> String {
        let (ops_state, others): (Vec<_>, Vec<_>) = self.fields.iter().partition(|(name, _)| *name == "opsState");
        let fields = ops_state.into_iter().chain(others).map(|(name, value)| (name.as_str(), value.clone()));
        let pod = self.pod.as_deref().map(|uid| ("pod", Value::from(uid)));
        let entries: Vec<String> = fields
            .chain(pod)
            .chain([("at", Value::from(timestamp(at)))])
            .map(|(name, value)| format!("{}:{value}", Value::from(name)))
            .collect();
        format!("{{{}}}", entries.join(","))
    }
}

fn name(pointer: &str) -> &str {
    NAMES.iter().find(|(known, _)| *known == pointer).map_or(pointer, |(_, name)| name)
}

/// A value as the record has it.
fn shortened(value: &Value) -> Cow<'_, Value> {
    match value {
        Value::String(text) if text.len() > MAX_PLAIN_BYTES => {
            // FNV-1a of 64 bits, whose values never change: http://www.isthe.com/chongo/tech/comp/fnv/
            let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
            Cow::Owned(format!("fnv1a64:{hash:016x}").into())
        }
        value => Cow::Borrowed(value),
    }
}

/// RFC 3339 in UTC with milliseconds, of a time since the Unix epoch.
pub fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days from civil, the other way round, in years that start in March:
    // https://howardhinnant.github.io/date_algorithms.html#civil_from_days
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since_epoch.subsec_millis())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_compact_json_that_reads_back() {
        let mut record = Record::default();
        record.set("/spec/networkDisabled", &json!(true));
        record.set(DELETION_PRIORITY, &json!(5));
        record.set(OPS_STATE, &json!("Allocated"));
        record.pod = Some("u-1".into());
        let text = record.text(Duration::from_millis(1_795_507_200_123));
        assert_eq!(
            text,
            r#"{"opsState":"Allocated","/spec/networkDisabled":true,"deletionPriority":5,"pod":"u-1","at":"2026-11-24T08:00:00.123Z"}"#
        );
        assert_eq!(Record::parse(&text), Some(record.clone()));
        record.pod = None;
        assert_eq!(Record::parse(&record.text(Duration::ZERO)), Some(record));
    }

    #[test]
    fn what_is_no_record_is_none() {
        for text in ["", "null", "[]", "opsState", r#"{"pod":7}"#, r#"{"opsState":"None""#] {
            assert_eq!(Record::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_value_of_more_than_64_bytes_is_a_checksum_that_still_tells_values_apart() {
        let (plain, long, other) = (json!("x".repeat(64)), json!("x".repeat(65)), json!("y".repeat(65)));
        let mut record = Record::default();
        record.set("/spec/a", &plain);
        assert_eq!(record.get("/spec/a"), Some(&plain));
        record.set("/spec/a", &long);
        assert_eq!(record.get("/spec/a"), Some(&json!("fnv1a64:7d70a52549704607")));
        assert!(record.says("/spec/a", &long) && !record.says("/spec/a", &other));
    }

    #[test]
    fn timestamps_know_leap_years() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_799, "2024-02-28T23:59:59.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(seconds)), date);
        }
    }
}
