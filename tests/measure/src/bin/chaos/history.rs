//! Owns the demands on every single request and on every change of the objects, whatever went wrong before (behaviour
//! 4.2, 4.5, 4.6, 6.6, 8.3, 8.4, 8.6).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::log::Life;
use super::{CONTROLLER, PROTECTED, RESYNCING, STATES};
use stand_ins::{Change, POD_UID, RECORD, Reached, Request};

/// The name under which the sidecar writes.
pub(super) const SIDECAR: &str = "okg-sidecar";

/// The fields of the GameServer that the configs of this run can set: their names in the record and in the spec.
const FIELDS: [&str; 2] = ["opsState", "deletionPriority"];

/// A line is read a moment after it was written.
const READ_LATE: Duration = Duration::from_millis(1500);

/// Which config was in effect when, as the log tells it.
pub(super) struct Configs(Vec<(Instant, String)>);

impl Configs {
    pub(super) fn of(lives: &[Life]) -> Self {
        Self(lives.iter().flat_map(Life::configs).map(|line| (line.at, line.text.clone())).collect())
    }

    /// The configs that a request of this moment may have come from.
    fn around(&self, at: Instant) -> impl Iterator<Item = &str> {
        let ends = self.0.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
        let overlaps = move |(from, to): (Instant, Option<Instant>)| {
            from <= at + READ_LATE && to.is_none_or(|to| to + READ_LATE >= at)
        };
        let with_ends = self.0.iter().zip(ends);
        with_ends.filter(move |((from, _), to)| overlaps((*from, *to))).map(|((_, text), _)| text.as_str())
    }

    fn may_resync(&self, at: Instant) -> bool {
        self.around(at).any(|text| text.contains(RESYNCING))
    }

    fn protects(&self, at: Instant) -> bool {
        let mut around = self.around(at).peekable();
        around.peek().is_some() && around.all(|text| text.contains(PROTECTED))
    }
}

/// What no change of the GameServer may be, in its own words.
pub(super) fn wrong_changes(changes: &[Change], configs: &Configs) -> Vec<String> {
    let mut wrong = Vec::new();
    // What was decided last, by field; without a record, nobody knows.
    let mut decided: BTreeMap<&str, Value> = BTreeMap::new();
    let mut certain = true;
    // The fields that a controller has put back from its cache since then.
    let mut taken_back: BTreeSet<&str> = BTreeSet::new();
    let mut latest: Option<Instant> = None;
    for change in changes {
        let (before, after) = (&change.before, &change.after);
        if change.manager != SIDECAR {
            if before.is_null() || after.is_null() {
                decided.clear();
            } else {
                certain &= record(before) == record(after);
                for field in FIELDS.into_iter().filter(|field| before["spec"][*field] != after["spec"][*field]) {
                    match change.manager.as_str() {
                        CONTROLLER => taken_back.insert(field),
                        _ => taken_back.remove(field),
                    };
                }
            }
            continue;
        }
        let asked = change.asked.unwrap_or(change.at);
        let mut demand = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{what}: {before} became {after}"));
            }
        };
        demand(latest.is_none_or(|latest| latest < asked), "a lost attempt took effect after a later one");
        latest = Some(asked);
        let owner = before["metadata"]["ownerReferences"][0].clone();
        demand(owner["kind"] != "Pod" || owner["uid"] == POD_UID, "another pod's GameServer was written");
        let recorded = record(after);
        demand(recorded["pod"] == POD_UID, "a write without a record of this pod");
        let operators = before["spec"]["opsState"] == "Maintaining"
            && ["opsState", "earlierOpsState"].iter().all(|key| record(before)[key] != "Maintaining")
            && !taken_back.contains("opsState");
        demand(!(operators && configs.protects(asked)), "a protected state was overwritten");
        for field in FIELDS {
            let (old, new) = (&before["spec"][field], &after["spec"][field]);
            let known = decided.insert(field, recorded[field].clone()).unwrap_or_default();
            if !certain {
                continue;
            }
            let is_new = recorded[field] != known;
            demand(
                !is_new || recorded[field].is_null() || recorded[field] == *new,
                "the record names what was not written",
            );
            let may_be_written = is_new || taken_back.remove(field) || configs.may_resync(asked);
            demand(may_be_written || old == new, "what was decided before was written again");
        }
        certain = true;
    }
    wrong
}

/// The newest record in a GameServer; `Null` where there is none.
pub(super) fn record(game_server: &Value) -> Value {
    let annotations = game_server["metadata"]["annotations"].as_object().into_iter().flatten();
    let number = |key: &str| key.strip_prefix(RECORD)?.strip_prefix('-')?.parse::<u64>().ok();
    let records = annotations.filter_map(|(key, text)| Some((number(key)?, text.as_str()?)));
    let newest = records.max().map(|(_, text)| text);
    newest.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What no request may be, in its own words.
pub(super) fn wrong_requests(requests: &[Request], game_server: &str, pod: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last_on: BTreeMap<usize, &Request> = BTreeMap::new();
    for request in requests {
        let before = last_on.insert(request.connection, request);
        let why = if request.method != "PATCH" {
            Some("another verb than patch")
        } else if request.path() == game_server && request.is_read() {
            None
        } else if request.path() == game_server {
            let on_what_was_read = before.is_some_and(|before| {
                before.path() == game_server
                    && ((before.is_read() && before.answered == Some(200))
                        || (before.body == request.body && before.answered == Some(401)))
            });
            if !is_write_of_game_server(&request.json()) {
                Some("a patch that nothing asked for")
            } else {
                (!on_what_was_read).then_some("a patch without a read on the same connection")
            }
        } else if request.path() == pod {
            (!is_write_of_pod(&request.json())).then_some("a patch that nothing asked for")
        } else {
            Some("another object")
        };
        wrong.extend(why.map(|why| format!("{why}: {request:?}")));
    }
    wrong
}

fn keys(value: &Value) -> impl Iterator<Item = &str> {
    value.as_object().into_iter().flat_map(|fields| fields.keys()).map(String::as_str)
}

/// Whether it holds what the configs of this run can ask for, the record and the precondition, and nothing else.
fn is_write_of_game_server(patch: &Value) -> bool {
    let (spec, metadata) = (&patch["spec"], &patch["metadata"]);
    let ops_state = |state: &Value| STATES.iter().chain(&["Maintaining"]).any(|known| state == known);
    let holds = |key: &str| match key {
        "opsState" => ops_state(&spec["opsState"]),
        "deletionPriority" => spec["deletionPriority"].as_u64().is_some_and(|priority| priority < STATES.len() as u64),
        _ => false,
    };
    keys(patch).all(|key| key == "spec" || key == "metadata")
        && keys(spec).all(holds)
        && keys(metadata).eq(["annotations", "resourceVersion"])
        && metadata["resourceVersion"].is_string()
        && keys(&metadata["annotations"]).all(|key| key.starts_with(RECORD))
        && record(patch)["pod"] == POD_UID
}

/// The same of the Pod, which is never read.
fn is_write_of_pod(patch: &Value) -> bool {
    let metadata = &patch["metadata"];
    keys(patch).eq(["metadata"])
        && metadata["uid"] == POD_UID
        && keys(metadata).count() > 1
        && keys(metadata).all(|key| matches!(key, "uid" | "labels" | "annotations"))
        && keys(&metadata["labels"]).all(|key| key == "room" || key == "busy")
        && keys(&metadata["annotations"]).all(|key| key == "example.com/room")
}

/// A quarter of a minute with more attempts than behaviour 4.5 has room for, when there is one.
///
/// While nothing succeeds, waits are drawn from up to 1, 2, 4, 8, 15 s: of two objects, 22 attempts in 15 s are beyond
/// all chance. A write that succeeds, and a start, begin the waits anew, with a few short ones. An attempt that only read
/// does not count: a resync is one. Nor does one whose fields were refused, since the next field follows at once.
pub(super) fn busiest(attempts: &[(Instant, Reached)], requests: &[Request], starts: &[Instant]) -> Option<String> {
    let window = Duration::from_secs(15);
    let mut by_connection: BTreeMap<usize, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        by_connection.entry(request.connection).or_default().push(request);
    }
    let attempted: Vec<(Instant, bool, bool)> = by_connection
        .values()
        .map(|of_attempt| {
            let any = |holds: &dyn Fn(&Request) -> bool| of_attempt.iter().any(|request| holds(request));
            let written = any(&|request| !request.is_read() && request.answered == Some(200));
            let refused = any(&|request| !request.is_read() && matches!(request.answered, Some(400 | 422)));
            let only_read = !any(&|request| !request.is_read() || request.answered != Some(200));
            (of_attempt[0].at, written, refused || only_read)
        })
        .collect();
    for (start, _) in attempts {
        let within = |at: &Instant| at >= start && *at - *start < window;
        let in_window: Vec<_> = attempted.iter().filter(|(at, ..)| within(at)).collect();
        let written = in_window.iter().filter(|(_, written, _)| *written).count();
        let free = in_window.iter().filter(|(.., free)| *free).count();
        // The waits of one that started a little before are still short.
        let started = starts.iter().filter(|at| **at < *start + window && **at + window > *start).count();
        let count = attempts.iter().filter(|(at, _)| within(at)).count();
        if count > 22 + free + 4 * written + 8 * started {
            return Some(format!(
                "{count} attempts in {window:?}, with {written} written, {free} that are free and {started} starts"
            ));
        }
    }
    None
}
