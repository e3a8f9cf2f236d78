//! Owns the record: the annotation in which the GameServer itself remembers what was last decided for each of its fields
//! (behaviour 4.3), as `kubectl apply` keeps what it last applied.
//!
//! Each record has a key of its own, `okg-sidecar/decided-N` with a growing N. OpenKruiseGame's merge-patch of all
//! annotations from its cache can put an older key back, but it cannot remove a newer one that the cache does not know. So
//! the highest N counts. The key without a number is for people, and for sidecars of version 0.2.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::decision::{DELETION_PRIORITY, Fields, OPS_STATE, UPDATE_PRIORITY};

/// The annotation for people, as an RFC 6901 pointer. The pointers of records begin with it.
pub const POINTER: &str = "/metadata/annotations/okg-sidecar~1decided";

/// The most digits of a number that counts. The clock has 13 until the year 2286.
const MAX_DIGITS: usize = 18;

/// What an earlier pod's process decided last for opsState, or this pod's before it let go of it: such a state is nobody
/// else's, so that it is not protected (behaviour 6.6).
const EARLIER_OPS_STATE: &str = "earlierOpsState";

/// The most bytes of a value that stands in the record as it is.
const MAX_PLAIN_BYTES: usize = 64;

/// How long a cache may be late: values that were replaced within this time can come back.
const CACHE_IS_LATE_BY: Duration = Duration::from_secs(60);

/// The most bytes of what is remembered as replaced. More is left out, since a record that is too long is none.
const MAX_REPLACED_BYTES: usize = 2 * 1024;

/// The most values of one field that are remembered as replaced.
const MAX_REPLACED: usize = 8;

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
    /// When that pod's token was issued, as its process read it at its start, in seconds since the Unix epoch.
    pub token_issued_at: Option<u64>,
    /// By the names of fields, a list of what writes of the last minute replaced, which a cache may put back. Null is any value.
    replaced: Fields,
    /// N of the first record, for as long as a cache may be older than that.
    first: Option<u64>,
    /// When it was written, in RFC 3339.
    at: String,
    /// N of its key; 0 for a record without one.
    number: u64,
}

/// The annotations of one GameServer whose keys begin as the record's does, by RFC 6901 pointer; null is a value that is too
/// long to be a record.
pub type Annotations = Fields;

impl Record {
    /// The newest of the records. A record without a number is the newest if it was written later than the others: a sidecar
    /// of version 0.2 ran in between.
    pub fn newest(annotations: &Annotations) -> Option<Self> {
        let parsed = |(pointer, text): (&String, &Value)| {
            let record = Self::parse(text.as_str()?)?;
            Some(Self { number: number(pointer).or_else(|| (pointer == POINTER).then_some(0))?, ..record })
        };
        let (plain, numbered): (Vec<_>, Vec<_>) =
            annotations.iter().filter_map(parsed).partition(|record| record.number == 0);
        let newest = numbered.into_iter().max_by_key(|record| record.number);
        let is_later = |plain: &Self| newest.as_ref().is_none_or(|newest| plain.at > newest.at);
        plain.into_iter().find(is_later).or(newest)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields: Fields = serde_json::from_str(text).ok()?;
        let text_of = |value: Option<Value>| match value {
            None => Some(None),
            Some(Value::String(text)) => Some(Some(text)),
            Some(_) => None,
        };
        let pod = text_of(fields.remove("pod"))?;
        let at = text_of(fields.remove("at"))?.unwrap_or_default();
        let token_issued_at = fields.remove("tokenIssuedAt").and_then(|issued| issued.as_u64());
        let mut replaced = Fields::new();
        if let Some(Value::Object(values)) = fields.remove("replaced") {
            replaced.extend(values);
        }
        let first = fields.remove("first").and_then(|first| first.as_u64());
        Some(Self { fields, pod, token_issued_at, replaced, first, at, number: 0 })
    }

    /// The pointers of older records, which are there only if somebody has put them back.
    pub fn put_back<'a>(&'a self, annotations: &'a Annotations) -> impl Iterator<Item = &'a str> {
        let own = self.pointer();
        let is_older = move |(pointer, text): &(&'a String, &'a Value)| match self.number {
            0 => false,
            _ if *pointer == POINTER => text.as_str() != Some(&self.for_people()),
            _ => number(pointer).is_some() && **pointer != own,
        };
        annotations.iter().filter(is_older).map(|(pointer, _)| pointer.as_str())
    }

    /// Whether `value` is one that the field had before this record, or that one of the older records names.
    pub fn replaces(&self, pointer: &str, value: &Value, older: &Annotations) -> bool {
        let value = shortened(value);
        let replaces = |record: &Self| {
            let values = record.replaced.get(name(pointer)).and_then(Value::as_array);
            values.is_some_and(|values| values.contains(&value) || values.contains(&Value::Null))
        };
        let is_named = |record: Self| record.last(pointer) == Some(&*value) || replaces(&record);
        replaces(self) || older.values().filter_map(|text| Self::parse(text.as_str()?)).any(is_named)
    }

    /// Whether writes of the last minute have replaced any value of the field.
    pub fn has_replaced(&self, pointer: &str) -> bool {
        self.replaced.contains_key(name(pointer))
    }

    /// Whether it names the first record: it was written within a minute after that one.
    pub fn has_first(&self) -> bool {
        self.first.is_some()
    }

    /// Whether a cache may be older than every record, at `wall_clock` since the Unix epoch.
    pub fn is_news_to_caches(&self, wall_clock: Duration) -> bool {
        self.first.is_some_and(|first| age(first, wall_clock) <= CACHE_IS_LATE_BY)
    }

    /// Whether `value` is what was last decided for the field.
    pub fn says(&self, pointer: &str, value: &Value) -> bool {
        self.get(pointer) == Some(&shortened(value))
    }

    /// What was last decided for the field, or its checksum.
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.fields.get(name(pointer))
    }

    /// The fields that it names, as RFC 6901 pointers.
    pub fn pointers(&self) -> impl Iterator<Item = &str> {
        let names = self.fields.keys().filter(|name| *name != EARLIER_OPS_STATE);
        names.map(|name| NAMES.iter().find(|(_, known)| known == name).map_or(name.as_str(), |(pointer, _)| pointer))
    }

    /// The opsState that a sidecar decided last, whichever pod's it was.
    pub fn ops_state(&self) -> Option<&Value> {
        self.get(OPS_STATE).or_else(|| self.fields.get(EARLIER_OPS_STATE))
    }

    /// What a sidecar decided last for the field, as far as the record has it.
    pub fn last(&self, pointer: &str) -> Option<&Value> {
        if pointer == OPS_STATE { self.ops_state() } else { self.get(pointer) }
    }

    /// Notes what was decided for a field, and what that replaces.
    pub fn set(&mut self, pointer: &str, value: &Value, replaced: Option<&Value>) {
        if pointer == OPS_STATE {
            self.fields.remove(EARLIER_OPS_STATE);
        }
        self.fields.insert(name(pointer).to_owned(), shortened(value).into_owned());
        if let Some(replaced) = replaced.filter(|replaced| *replaced != value) {
            let replaced = shortened(replaced).into_owned();
            let mut values = match self.replaced.remove(name(pointer)) {
                Some(Value::Array(values)) => values,
                _ => Vec::new(),
            };
            values.retain(|known| *known != replaced);
            values.push(replaced);
            if values.len() > MAX_REPLACED {
                values.remove(0);
            }
            self.replaced.insert(name(pointer).to_owned(), values.into());
        }
    }

    /// Names the field no more: the next value that is decided for it is news.
    pub fn forget(&mut self, pointer: &str) {
        let value = self.fields.remove(name(pointer));
        if let (OPS_STATE, Some(value)) = (pointer, value) {
            self.fields.insert(EARLIER_OPS_STATE.to_owned(), value);
        }
    }

    /// A cache has put this value of the field back: the value that was decided is news when it is written. As an opsState, the one
    /// that is there now is nobody else's.
    pub fn was_taken_back(&mut self, pointer: &str, value: Option<&Value>) {
        self.forget(pointer);
        if let (OPS_STATE, Some(value)) = (pointer, value) {
            self.fields.insert(EARLIER_OPS_STATE.to_owned(), shortened(value).into_owned());
        }
    }

    /// The first record of the next pod: it has decided nothing yet.
    pub fn of_next_pod(&self) -> Self {
        let mut fields = Fields::new();
        fields.extend(self.ops_state().map(|state| (EARLIER_OPS_STATE.to_owned(), state.clone())));
        let Self { replaced, first, number, .. } = self.clone();
        Self { fields, replaced, first, number, ..Self::default() }
    }

    /// Makes it a record of its own, which is written at `wall_clock` since the Unix epoch beside these annotations.
    pub fn renew(&mut self, annotations: &Annotations, wall_clock: Duration) {
        if age(self.number, wall_clock) > CACHE_IS_LATE_BY {
            self.replaced.clear();
            self.first = None;
        }
        let last = annotations.keys().filter_map(|pointer| number(pointer)).max().unwrap_or_default();
        // The clock, so that no number comes twice after somebody has removed the record.
        let clock = u64::try_from(wall_clock.as_millis()).unwrap_or_default();
        self.number = clock.max(last + 1);
        if annotations.is_empty() {
            self.first = Some(self.number);
        }
        // The clock may be behind that of the pod before, and a later record must look later, too.
        self.at = timestamp(Duration::from_millis(self.number));
    }

    /// The changes of annotations that make it the record: itself, the one for people, and no other.
    pub fn changes(&self, annotations: &Annotations) -> Vec<(String, Value)> {
        let own = [(self.pointer(), self.text().into()), (POINTER.to_owned(), self.for_people().into())];
        let is_older = |pointer: &&String| number(pointer).is_some() && own[0].0 != **pointer;
        annotations.keys().filter(is_older).map(|pointer| (pointer.clone(), Value::Null)).chain(own.clone()).collect()
    }

    fn pointer(&self) -> String {
        format!("{POINTER}-{}", self.number)
    }

    /// What a person reads, and a sidecar of version 0.2. opsState comes first.
    fn for_people(&self) -> String {
        self.with_entries([])
    }

    fn text(&self) -> String {
        let issued = self.token_issued_at.map(|issued| ("tokenIssuedAt", Value::from(issued)));
        let mut values = Map::new();
        self.replaced.iter().for_each(|(name, replaced)| drop(values.insert(name.clone(), replaced.clone())));
        let values = Value::from(values);
        let is_kept = !self.replaced.is_empty() && values.to_string().len() <= MAX_REPLACED_BYTES;
        let replaced = is_kept.then_some(("replaced", values));
        let first = self.first.map(|first| ("first", Value::from(first)));
        self.with_entries(issued.into_iter().chain(replaced).chain(first))
    }

    fn with_entries<'r>(&'r self, more: impl IntoIterator<Item = (&'r str, Value)>) -> String {
        let (ops_state, others): (Vec<_>, Vec<_>) = self.fields.iter().partition(|(name, _)| *name == "opsState");
        let fields = ops_state.into_iter().chain(others).map(|(name, value)| (name.as_str(), value.clone()));
        let pod = self.pod.as_deref().map(|uid| ("pod", Value::from(uid)));
        let entries: Vec<String> = fields
            .chain(pod)
            .chain(more)
            .chain([("at", Value::from(self.at.as_str()))])
            .map(|(name, value)| format!("{}:{value}", Value::from(name)))
            .collect();
        format!("{{{}}}", entries.join(","))
    }
}

/// How long ago the record with this number was written, at `wall_clock` since the Unix epoch.
fn age(number: u64, wall_clock: Duration) -> Duration {
    wall_clock.saturating_sub(Duration::from_millis(number))
}

/// N of the pointer of a record that has one.
fn number(pointer: &str) -> Option<u64> {
    let digits = pointer.strip_prefix(POINTER)?.strip_prefix('-')?;
    let is_number =
        digits.len() <= MAX_DIGITS && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if is_number { digits.parse().ok() } else { None }
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
        // A number with a fraction may read back as another one in its last digit.
        Value::Number(number) if number.is_f64() => Cow::Owned(number.to_string().into()),
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

    const NOW: Duration = Duration::from_millis(1_795_507_200_123);
    const KEY: &str = "/metadata/annotations/okg-sidecar~1decided-1795507200123";

    fn annotations(records: &[(&str, &str)]) -> Annotations {
        records.iter().map(|(suffix, text)| (format!("{POINTER}{suffix}"), (*text).into())).collect()
    }

    /// What the annotations are after the record was written beside these.
    fn written(record: &Record, annotations: &Annotations) -> Annotations {
        let mut written = annotations.clone();
        for (pointer, value) in record.changes(annotations) {
            match value {
                Value::Null => written.remove(&pointer),
                text => written.insert(pointer, text),
            };
        }
        written
    }

    #[test]
    fn a_record_has_a_key_of_its_own_and_reads_back() {
        let mut record = Record::default();
        record.renew(&Annotations::new(), NOW);
        record.set("/spec/networkDisabled", &json!(true), None);
        record.set(DELETION_PRIORITY, &json!(5), Some(&json!(0)));
        record.set(OPS_STATE, &json!("Allocated"), Some(&json!("None")));
        record.pod = Some("u-1".into());
        record.token_issued_at = Some(1_795_507_000);
        let found = written(&record, &Annotations::new());
        let for_people = r#"{"opsState":"Allocated","/spec/networkDisabled":true,"deletionPriority":5,"pod":"u-1","at":"2026-11-24T08:00:00.123Z"}"#;
        let own = r#"{"opsState":"Allocated","/spec/networkDisabled":true,"deletionPriority":5,"pod":"u-1","tokenIssuedAt":1795507000,"replaced":{"deletionPriority":[0],"opsState":["None"]},"first":1795507200123,"at":"2026-11-24T08:00:00.123Z"}"#;
        assert_eq!(found, [(POINTER.into(), for_people.into()), (KEY.into(), own.into())].into());
        assert_eq!(Record::newest(&found), Some(record));
    }

    #[test]
    fn the_highest_number_counts_and_a_later_record_of_version_0_2() {
        let at =
            |state: &str, minute: u32| format!(r#"{{"opsState":"{state}","at":"2026-11-24T08:{minute:02}:00.000Z"}}"#);
        for (records, newest) in [
            (vec![], None),
            (vec![("", at("A", 1))], Some("A")),
            (vec![("-9", at("A", 1)), ("-10", at("B", 1)), ("", at("A", 1))], Some("B")),
            // Of version 0.2, after the others.
            (vec![("-10", at("B", 1)), ("", at("A", 2))], Some("A")),
            // A number has no leading zero and at most 18 digits; a record is one.
            (
                vec![
                    ("-9", at("A", 1)),
                    ("-010", at("B", 1)),
                    ("-1234567890123456789", at("B", 1)),
                    ("-x", at("B", 1)),
                ],
                Some("A"),
            ),
            (vec![("-9", at("A", 1)), ("-10", "no record".into()), ("by", at("B", 1))], Some("A")),
        ] {
            let records: Vec<_> = records.iter().map(|(suffix, text)| (*suffix, text.as_str())).collect();
            let found = Record::newest(&annotations(&records));
            assert_eq!(
                found.as_ref().and_then(Record::ops_state),
                newest.map(|state| json!(state)).as_ref(),
                "{records:?}"
            );
        }
        let too_long = [(format!("{POINTER}-9"), Value::Null)].into();
        assert_eq!(Record::newest(&too_long), None);
    }

    #[test]
    fn a_write_removes_the_older_records_and_numbers_grow() {
        let before = annotations(&[
            ("-7", "{}"),
            ("-1795507200200", "{}"),
            ("", "{}"),
            ("-by", "somebody's"),
            ("-007", "somebody's"),
        ]);
        let mut record = Record::default();
        record.renew(&before, NOW);
        let after = written(&record, &before);
        let keys: Vec<&str> = after.keys().map(|pointer| &pointer[POINTER.len()..]).collect();
        assert_eq!(keys, ["", "-007", "-1795507200201", "-by"]);
        assert_eq!(record.put_back(&after).count(), 0);
        let put_back = annotations(&[("-7", "{}")]);
        assert_eq!(record.put_back(&after.into_iter().chain(put_back).collect()).count(), 1);
    }

    #[test]
    fn what_was_replaced_within_a_minute_is_remembered_and_no_longer() {
        let mut record = Record::default();
        let none = annotations(&[("-1", "{}")]);
        for (second, state) in [(0, "A"), (50, "B"), (100, "C")] {
            let before = record.get(OPS_STATE).cloned();
            record.renew(&none, NOW + Duration::from_secs(second));
            record.set(OPS_STATE, &json!(state), before.as_ref());
        }
        let replaces = |record: &Record, state: &str| record.replaces(OPS_STATE, &json!(state), &none);
        assert!(replaces(&record, "A") && replaces(&record, "B") && !replaces(&record, "D"));
        let older = written(&record, &none);
        record.renew(&older, NOW + Duration::from_secs(161));
        record.set(OPS_STATE, &json!("D"), None);
        assert!(!replaces(&record, "A") && !replaces(&record, "C"));
        assert!(record.replaces(OPS_STATE, &json!("C"), &older), "an older record names it");
    }

    #[test]
    fn the_first_record_is_news_to_caches_for_a_minute_however_often_it_is_renewed() {
        let (mut record, mut found) = (Record::default(), Annotations::new());
        for second in [0, 30, 60] {
            record.renew(&found, NOW + Duration::from_secs(second));
            found = written(&record, &found);
            assert!(Record::newest(&found).unwrap().is_news_to_caches(NOW + Duration::from_secs(second)));
        }
        assert!(!record.is_news_to_caches(NOW + Duration::from_secs(61)));
    }

    #[test]
    fn a_clock_that_is_behind_makes_no_older_record() {
        let (mut record, mut found) = (Record::default(), Annotations::new());
        record.renew(&found, NOW);
        found = written(&record, &found);
        let before = found.clone();
        record.set(OPS_STATE, &json!("A"), None);
        record.renew(&found, NOW - Duration::from_secs(20));
        found = written(&record, &found);
        // A cache puts back what was there before, the annotation for people included.
        found.extend(before);
        assert_eq!(Record::newest(&found), Some(record));
    }

    #[test]
    fn what_a_record_remembers_does_not_make_it_too_long() {
        let mut record = Record::default();
        for index in 0..40 {
            record.set(&format!("/spec/field{index}"), &json!("x".repeat(60)), Some(&json!("y".repeat(60))));
        }
        assert!(record.text().len() < 4096 && !record.text().contains("replaced"), "{}", record.text().len());
    }

    #[test]
    fn what_is_no_record_is_none() {
        for text in ["", "null", "[]", "opsState", r#"{"pod":7}"#, r#"{"at":7}"#, r#"{"opsState":"None""#] {
            assert_eq!(Record::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_value_of_more_than_64_bytes_is_a_checksum_that_still_tells_values_apart() {
        let (plain, long, other) = (json!("x".repeat(64)), json!("x".repeat(65)), json!("y".repeat(65)));
        let mut record = Record::default();
        record.set("/spec/a", &plain, None);
        assert_eq!(record.get("/spec/a"), Some(&plain));
        record.set("/spec/a", &long, None);
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
