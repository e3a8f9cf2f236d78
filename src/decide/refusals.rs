//! Owns which fields of an object go into one request after the API server has refused some (behaviour 8.2): each by
//! itself, so that a refused one holds back no other.

use std::time::Duration;

use serde_json::Value;

use super::pace::rarely;

/// What the API server has refused of one object. Times are since the start of the process.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Some of several fields were refused together: from now on one a request.
    one_by_one: bool,
    refused: Vec<Refused>,
}

/// A field that was refused by itself.
#[derive(Debug)]
struct Refused {
    pointer: String,
    value: Option<Value>,
    until: Duration,
}

impl Refusals {
    /// When a field that should become `value` may be sent.
    pub fn not_before(&self, pointer: &str, value: &Option<Value>) -> Duration {
        let refused = self.refused.iter().find(|refused| refused.pointer == pointer && refused.value == *value);
        refused.map_or(Duration::ZERO, |refused| refused.until)
    }

    /// Of the fields that differ, those that go into the request at `now`. A field that was refused goes alone.
    pub fn select<'f>(
        &mut self,
        differing: impl Iterator<Item = (&'f String, &'f Option<Value>)>,
        now: Duration,
    ) -> Vec<(&'f String, &'f Option<Value>)> {
        let due = differing.filter(|(pointer, value)| self.not_before(pointer, value) <= now);
        let (mut alone, mut together): (Vec<_>, Vec<_>) = due.partition(|(pointer, _)| self.has_refused(pointer));
        self.one_by_one &= !together.is_empty();
        if together.is_empty() {
            alone.truncate(1);
            return alone;
        }
        if self.one_by_one {
            together.truncate(1);
        }
        together
    }

    fn has_refused(&self, pointer: &str) -> bool {
        self.refused.iter().any(|refused| refused.pointer == pointer)
    }

    /// The API server accepted these fields.
    pub fn accepted<'p>(&mut self, pointers: impl Iterator<Item = &'p String>) {
        pointers.for_each(|pointer| self.refused.retain(|refused| refused.pointer != *pointer));
    }

    /// The API server refused these fields, sent in one request.
    pub fn refused(&mut self, fields: &[(String, Option<Value>)], now: Duration, jitter: f64) {
        match fields {
            [(pointer, value)] => {
                self.accepted([pointer].into_iter());
                let until = now + rarely(jitter);
                self.refused.push(Refused { pointer: pointer.clone(), value: value.clone(), until });
            }
            _ => self.one_by_one = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::decision::Fields;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn selected(refusals: &mut Refusals, fields: &Fields, now: u64) -> Vec<(String, Option<Value>)> {
        let selected = refusals.select(fields.iter(), s(now));
        selected.into_iter().map(|(pointer, value)| (pointer.clone(), value.clone())).collect()
    }

    #[test]
    fn after_a_refusal_of_several_fields_each_goes_by_itself_and_a_refused_one_holds_back_no_other() {
        let mut fields: Fields = ["/a", "/b", "/c"].map(|pointer| (pointer.into(), Some(json!(1)))).into();
        let mut refusals = Refusals::default();
        let all = selected(&mut refusals, &fields, 0);
        assert_eq!(all.len(), 3);
        refusals.refused(&all, s(0), 0.0);
        let first = selected(&mut refusals, &fields, 0);
        assert_eq!(first, [("/a".into(), Some(json!(1)))]);
        refusals.refused(&first, s(0), 0.0);
        for pointer in ["/b", "/c"] {
            let next = selected(&mut refusals, &fields, 0);
            assert_eq!(next, [(pointer.into(), Some(json!(1)))]);
            refusals.accepted([&next[0].0].into_iter());
            fields.remove(pointer);
        }
        assert_eq!(selected(&mut refusals, &fields, 29), []);
        // What is new goes together again, and without the refused one.
        for pointer in ["/d", "/e"] {
            fields.insert(pointer.into(), None);
        }
        let new: Vec<String> = selected(&mut refusals, &fields, 30).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(new, ["/d", "/e"]);
    }

    #[test]
    fn a_refused_value_waits_and_another_one_does_not() {
        let mut refusals = Refusals::default();
        refusals.refused(&[("/a".into(), Some(json!(1)))], s(10), 1.0);
        assert_eq!(refusals.not_before("/a", &Some(json!(1))), s(70));
        assert_eq!(refusals.not_before("/a", &Some(json!(2))), s(0));
        assert_eq!(refusals.not_before("/a", &None), s(0));
        refusals.accepted([&"/a".to_owned()].into_iter());
        assert_eq!(refusals.not_before("/a", &Some(json!(1))), s(0));
    }
}
