//! Owns what must hold: behaviour 8, from opinions and foreign writes alone. It keeps its own memory of what was decided
//! and of what took effect, and believes neither the record nor the process; where the contract itself allows a loss, it says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use okg_sidecar::config::Config;
use okg_sidecar::decide::failure::WriteError;
use okg_sidecar::decide::guarded::Hold;
use okg_sidecar::decide::object::{Identity, Kind, Object};
use okg_sidecar::decide::policy::Outcome;
use okg_sidecar::decide::record::POINTER as RECORD;
use serde_json::Value;

use super::world::{Sent, Stored};
use crate::reference::{self, Decided, LetGo, Place, Says, Stand};

const OPS_STATE: &str = "/spec/opsState";
/// Outcomes in a row after which one more of the same says nothing new, whatever the thresholds are.
const SETTLED: usize = 6;

/// What one process must have in mind.
#[derive(Debug)]
struct Mind {
    pod: usize,
    identity: Identity,
    config: Config,
    histories: Vec<Vec<reference::Probed>>,
    stands: Vec<Stand>,
    /// Probes in a row that said nothing new.
    calm: usize,
    decided: Decided,
    let_go: LetGo,
    /// The GameServer's fields that an opinion sets; in the midst of a round, those of the last round, too.
    present: BTreeSet<String>,
    /// In and not decided since a reload: what is sent once more after a lost attempt (4.8).
    kept: Decided,
    /// Of the Pod and targets, what the API server has confirmed and no later attempt has put in doubt.
    certain: Decided,
    /// The pod that the record named when it was first read.
    first_named: Option<Option<String>>,
    /// It has read its successor's record, or that its Pod is another one.
    is_superseded: bool,
    /// Tokens show no issue time, it first read the record of its successor, and takes it for a predecessor's: the letter
    /// of 4.6.
    takes_successor_for_predecessor: bool,
    /// The same the other way round.
    takes_predecessor_for_successor: bool,
    has_written: bool,
    /// Of fields that were refused by themselves: the value and when.
    refused: BTreeMap<Place, (Value, Duration)>,
}

/// What was true of the process when it sent a patch.
#[derive(Debug, Default)]
struct Then {
    protected: Vec<String>,
    resyncs: bool,
    present: BTreeSet<String>,
    /// The fields of the GameServer that it may forget, and those of them that are news.
    let_go: BTreeSet<String>,
    news: BTreeSet<String>,
}

/// The truth about the GameServer.
#[derive(Debug, Default)]
struct Truth {
    /// What was last decided and took effect, of this pod and this object.
    landed: BTreeMap<String, Value>,
    /// Those of them that the record must name: the others were let go of since.
    named: BTreeSet<String>,
    /// Fields whose value a controller has taken back from its cache after it took effect.
    taken: BTreeSet<String>,
    /// Fields of which a controller has taken back what somebody else had set: nobody knows what is right.
    muddled: BTreeSet<String>,
    /// Fields that somebody else has set after that.
    foreign: BTreeSet<String>,
    /// Fields whose present value a controller has put there, whichever pod's it was.
    by_cache: BTreeSet<String>,
    /// Fields to which an attempt of an earlier process of this pod came last.
    late: BTreeSet<String>,
    /// The object was created anew, or its record removed.
    is_renewed: bool,
    /// The process whose patch took effect last.
    last_writer: Option<usize>,
    /// A process that takes its successor for a predecessor has written: nothing tells the two apart.
    disputed: bool,
    /// The number of the last request that was confirmed.
    confirmed: u64,
    /// The processes that have read the object since it was created or its record went, and whose patch did not fail.
    readers: BTreeSet<usize>,
    /// The processes that have got a 404 since the object was deleted: what they know of it is over.
    missed: BTreeSet<usize>,
    /// The processes whose patch took effect since then.
    writers: BTreeSet<usize>,
}

#[derive(Debug, Default)]
pub struct Judge {
    pub verdict: Option<String>,
    minds: Vec<Mind>,
    /// The process of the present pod.
    current: usize,
    pod: usize,
    truth: Truth,
    then: BTreeMap<u64, Then>,
    /// Fields of the Pod and of targets to which an attempt of an earlier process came last. 8.3 gives it a minute, and the
    /// process of now does not know of it.
    stale: BTreeSet<Place>,
    /// Fields of a target that was recreated, as long as the process cannot know. 8.7 speaks of the GameServer alone.
    unseen: BTreeSet<Place>,
    requests: u64,
    /// How often something could not be judged, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
}

/// The fields in a patch; null is a removal.
fn fields_of(body: &Value) -> Vec<(String, Value)> {
    fn walk(value: &Value, at: &str, into: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                walk(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), into);
            }),
            value => into.push((at.to_owned(), value.clone())),
        }
    }
    let mut fields = Vec::new();
    walk(body, "", &mut fields);
    let own = ["/metadata/uid", "/metadata/resourceVersion"];
    fields.retain(|(pointer, _)| !own.contains(&pointer.as_str()) && !pointer.starts_with(RECORD));
    fields
}

/// The fields that stand in a record by a short name.
const NAMES: [(&str, &str); 3] = [
    ("opsState", OPS_STATE),
    ("deletionPriority", "/spec/deletionPriority"),
    ("updatePriority", "/spec/updatePriority"),
];

/// What a record says, by name.
fn entries(record: Option<&str>) -> BTreeMap<String, Value> {
    record.and_then(|record| serde_json::from_str(record).ok()).unwrap_or_default()
}

/// What a record says of a field.
fn said(record: Option<&str>, pointer: &str) -> Option<Value> {
    let name = NAMES.iter().find(|(_, known)| *known == pointer).map_or(pointer, |(name, _)| name);
    entries(record).remove(name)
}

/// The opsState that a sidecar decided last, by a record: this pod's or an earlier one's.
fn ops_state_of(record: Option<&str>) -> Option<Value> {
    said(record, OPS_STATE).or_else(|| said(record, "earlierOpsState"))
}

/// The uid of the pod that a record names.
fn named(record: Option<&str>) -> Option<String> {
    entries(record).get("pod")?.as_str().map(str::to_owned)
}

fn number_of(uid: &str) -> Option<usize> {
    uid.strip_prefix("u-")?.parse().ok()
}

impl Judge {
    pub fn condemn(&mut self, why: impl Into<String>) {
        self.verdict.get_or_insert(why.into());
    }

    fn leave_out(&mut self, why: &'static str) {
        *self.left_out.entry(why).or_default() += 1;
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    pub fn requested(&mut self) {
        self.requests += 1;
    }

    pub fn decided(&self, process: usize) -> BTreeMap<&str, &Option<Value>> {
        self.minds[process].decided.iter().map(|((_, pointer), value)| (pointer.as_str(), value)).collect()
    }

    // What happens to processes.

    pub fn process_started(&mut self, number: usize, pod: usize, identity: Identity, config: Config) {
        assert_eq!(number, self.minds.len(), "processes are numbered in order");
        self.minds.push(Mind {
            pod,
            identity,
            histories: vec![Vec::new(); config.endpoints.len()],
            stands: config.endpoints.iter().map(|endpoint| reference::stand(endpoint, &[])).collect(),
            config,
            calm: 0,
            decided: Decided::new(),
            let_go: LetGo::default(),
            present: BTreeSet::new(),
            kept: Decided::new(),
            certain: Decided::new(),
            first_named: None,
            is_superseded: false,
            takes_successor_for_predecessor: false,
            takes_predecessor_for_successor: false,
            has_written: false,
            refused: BTreeMap::new(),
        });
        if pod == self.pod {
            self.current = number;
            self.stale.clear();
            self.unseen.clear();
        }
    }

    /// A reload is a restart without the start delay (8.5).
    pub fn reloaded(&mut self, process: usize, config: Config) {
        let mind = &mut self.minds[process];
        let old = reference::places(&mind.config.endpoints, &mind.identity);
        let new = reference::places(&config.endpoints, &mind.identity);
        let before = std::mem::take(&mut mind.decided);
        // Keys of the Pod that only the old config could set are removed, and so are those of one before it.
        let removed = before.iter().filter(|(_, value)| value.is_none()).map(|(place, _)| place);
        let gone = old.iter().chain(removed).filter(|place| place.0.kind == Kind::Pod && !new.contains(place));
        mind.decided = gone.map(|place| (place.clone(), None)).collect();
        mind.let_go = LetGo::default();
        // A lost attempt that arrives late is still put right (4.8): what is in stays in.
        let certain = mind.certain.iter().filter(|(place, _)| !mind.decided.contains_key(place));
        mind.kept = certain.map(|(place, value)| (place.clone(), value.clone())).collect();
        mind.histories = vec![Vec::new(); config.endpoints.len()];
        mind.stands = config.endpoints.iter().map(|endpoint| reference::stand(endpoint, &[])).collect();
        mind.present.clear();
        mind.calm = 0;
        mind.config = config;
    }

    pub fn probed(&mut self, process: usize, index: usize, outcome: Option<Outcome>, now: Duration) {
        let mind = &mut self.minds[process];
        let (history, endpoint) = (&mut mind.histories[index], &mind.config.endpoints[index]);
        let last = &history[history.len().saturating_sub(SETTLED)..];
        let is_settled = |outcome| last.len() == SETTLED && last.iter().all(|(_, before)| before == outcome);
        let lasts = endpoint.rules().policies.iter().any(|policy| !policy.lasting.is_zero());
        let has_news = match outcome {
            None => false,
            Some(outcome) if is_settled(&outcome) => {
                // It says nothing new but the time.
                history.last_mut().expect("it is settled").0 = now;
                let stand = lasts.then(|| reference::stand(endpoint, history));
                stand.is_some_and(|stand| {
                    let is_new = stand != mind.stands[index];
                    mind.stands[index] = stand;
                    is_new
                })
            }
            Some(outcome) => {
                history.push((now, outcome));
                mind.stands[index] = reference::stand(endpoint, history);
                true
            }
        };
        mind.calm = if has_news { 0 } else { mind.calm + 1 };
        let endpoints = &mind.config.endpoints;
        if mind.calm <= 2 * endpoints.len() {
            let Mind { decided, let_go, stands, identity, .. } = mind;
            reference::decide(decided, let_go, endpoints, stands, index + 1, identity);
            mind.kept.retain(|place, _| !mind.decided.contains_key(place));
            if index + 1 == endpoints.len() {
                mind.present.clear();
            }
            let places = reference::places(endpoints, &mind.identity).into_iter();
            let present = places.filter(|place| place.0.kind == Kind::GameServer).filter(|place| {
                let says = reference::says(endpoints, &mind.stands, index + 1, &mind.identity, place);
                matches!(says, Says::Set(..))
            });
            mind.present.extend(present.map(|(_, pointer)| pointer));
        }
    }

    pub fn pod_replaced(&mut self) {
        self.pod += 1;
        // The record of another pod's uid says nothing about this pod (4.3).
        let Truth { confirmed, by_cache, .. } = std::mem::take(&mut self.truth);
        self.truth = Truth { confirmed, by_cache, ..Truth::default() };
    }

    // What happens to objects.

    pub fn object_deleted(&mut self, object: &Object) {
        if object.kind == Kind::GameServer {
            self.truth = Truth { confirmed: self.truth.confirmed, is_renewed: true, ..Truth::default() };
            return;
        }
        if let Some(mind) = self.minds.get(self.current) {
            let known = mind.decided.keys().chain(mind.kept.keys()).chain(mind.certain.keys());
            self.unseen.extend(known.filter(|place| place.0 == *object).cloned());
        }
    }

    /// Somebody else has changed a field of the GameServer.
    pub fn foreign_set(&mut self, pointer: &str) {
        self.truth.taken.remove(pointer);
        self.truth.muddled.remove(pointer);
        self.truth.by_cache.remove(pointer);
        self.truth.foreign.insert(pointer.to_owned());
    }

    /// A controller has changed a field of the GameServer to what its cache holds.
    pub fn put_back(&mut self, pointer: &str, value: &Value) {
        let Truth { landed, taken, muddled, foreign, by_cache, .. } = &mut self.truth;
        by_cache.insert(pointer.to_owned());
        if foreign.contains(pointer) {
            muddled.insert(pointer.to_owned());
        } else if landed.get(pointer) == Some(value) {
            taken.remove(pointer);
        } else if landed.contains_key(pointer) {
            taken.insert(pointer.to_owned());
        } else {
            muddled.insert(pointer.to_owned());
        }
    }

    /// Somebody has removed the record: all decided fields are written at the next write (8.7).
    pub fn record_removed(&mut self) {
        let Truth { confirmed, disputed, .. } = self.truth;
        self.truth = Truth { confirmed, disputed, is_renewed: true, ..Truth::default() };
    }

    // What processes do.

    /// It got a 404.
    pub fn missed(&mut self, process: usize, object: &Object) {
        let is_current = process == self.current;
        let mind = &mut self.minds[process];
        if object.kind == Kind::GameServer {
            self.truth.missed.insert(process);
            return;
        }
        mind.certain.retain(|place, _| place.0 != *object);
        if is_current {
            self.unseen.retain(|place| place.0 != *object || mind.kept.contains_key(place));
        }
    }

    /// It has read the GameServer.
    pub fn has_read(&mut self, process: usize, stored: &Stored) {
        let record = stored.record();
        let mind = &mut self.minds[process];
        let named = named(record.as_deref());
        let is_first = mind.first_named.is_none();
        let first = mind.first_named.get_or_insert_with(|| named.clone()).clone();
        let Some(uid) = &mind.identity.uid else {
            self.truth.readers.insert(process);
            return;
        };
        if stored.owner.as_ref().is_some_and(|owner| owner != uid) {
            return;
        }
        self.truth.readers.insert(process);
        let tells = mind.identity.token_issued_at.is_some();
        match named.as_deref().and_then(number_of) {
            Some(other) if other > mind.pod && (tells || first != named) => mind.is_superseded = true,
            Some(other) if other > mind.pod && is_first => mind.takes_successor_for_predecessor = true,
            Some(other) if other < mind.pod && !tells && named != first => mind.takes_predecessor_for_successor = true,
            _ => {}
        }
    }

    pub fn sends(&mut self, sent: &Sent, now: Duration) {
        self.requests += 1;
        let mind = &self.minds[sent.process];
        if mind.is_superseded {
            return self
                .condemn(format!("4.6: process {} was superseded, and writes {}", sent.process, sent.object.path));
        }
        let fields = fields_of(&sent.body);
        for (pointer, value) in &fields {
            let place = (sent.object.clone(), pointer.clone());
            let newest = mind.decided.get(&place).or_else(|| mind.kept.get(&place));
            let value = (!value.is_null()).then_some(value);
            if newest.map(Option::as_ref) != Some(value) {
                let why = format!("4.5: {pointer} is sent as {value:?}, the newest decision is {newest:?}");
                return self.condemn(why);
            }
        }
        if let [(pointer, value)] = &fields[..]
            && let Some((refused, at)) = mind.refused.get(&(sent.object.clone(), pointer.clone()))
            && refused == value
            && now < *at + Duration::from_secs(30)
        {
            let why = format!("8.2: {pointer} is tried again {} ms after it was refused", (now - *at).as_millis());
            return self.condemn(why);
        }
        let Config { endpoints, resync, .. } = &mind.config;
        let then = Then {
            protected: endpoints.iter().flat_map(|endpoint| endpoint.rules().protected_ops_states.clone()).collect(),
            resyncs: resync.is_some(),
            present: mind.present.clone(),
            let_go: mind.let_go.gone.union(&mind.let_go.news).cloned().collect(),
            news: mind.let_go.news.clone(),
        };
        self.then.insert(sent.number, then);
    }

    /// The patch has changed the object, now or at last.
    pub fn took_effect(&mut self, sent: &Sent, before: &Stored, after: &Stored) {
        if let Err(why) = self.may_take_effect(sent, before, after) {
            self.condemn(why);
        }
    }

    fn may_take_effect(&mut self, sent: &Sent, before: &Stored, after: &Stored) -> Result<(), String> {
        let is_current = sent.process == self.current;
        let mind = &mut self.minds[sent.process];
        let fields = fields_of(&sent.body);
        let uid = mind.identity.uid.clone();
        if sent.object.kind != Kind::GameServer {
            if sent.object.kind == Kind::Pod && uid.is_some_and(|uid| uid != before.uid) {
                return Err(format!("8.6: request {} reached another pod", sent.number));
            }
            for (pointer, _) in fields {
                let place = (sent.object.clone(), pointer);
                self.unseen.remove(&place);
                if is_current {
                    self.stale.remove(&place)
                } else {
                    self.stale.insert(place)
                };
            }
            return Ok(());
        }
        let then = self.then.get(&sent.number).ok_or("it was sent")?;
        let record_before = before.record();
        if let Some(uid) = &uid {
            if before.owner.as_ref().is_some_and(|owner| owner != uid) {
                return Err(format!("8.6: request {} reached another pod's GameServer", sent.number));
            }
            let successor = named(record_before.as_deref()).and_then(|uid| number_of(&uid));
            // Without issue times, the letter of 4.6 lets it.
            if successor.is_some_and(|pod| pod > mind.pod) && !mind.takes_successor_for_predecessor {
                return Err(format!("4.6: request {} of a process that was superseded took effect", sent.number));
            }
        }
        if sent.number < self.truth.confirmed {
            let newer = self.truth.confirmed;
            return Err(format!("8.3: request {} took effect although {newer} had been confirmed", sent.number));
        }
        let ops_state = before.body.pointer(OPS_STATE);
        let protects = then.protected.iter().any(|state| ops_state == Some(&Value::from(state.as_str())));
        let is_a_sidecars = ops_state_of(record_before.as_deref()).as_ref() == ops_state;
        if protects && !is_a_sidecars && !self.truth.by_cache.contains(OPS_STATE) {
            return Err(format!("6.6: request {} was written over a protected opsState", sent.number));
        }
        self.truth.by_cache.retain(|pointer| fields.iter().all(|(sent, _)| sent != pointer));
        mind.has_written = true;
        self.truth.writers.insert(sent.process);
        self.truth.last_writer = Some(sent.process);
        self.truth.missed.remove(&sent.process);
        self.truth.disputed |= mind.takes_successor_for_predecessor;
        if mind.pod != self.pod || self.truth.disputed {
            return Ok(());
        }
        let Truth { landed, named: names, taken, muddled, foreign, late, .. } = &mut self.truth;
        for (pointer, value) in &fields {
            let resynced =
                then.resyncs && then.present.contains(pointer) && before.body.pointer(pointer) != Some(value);
            let is_known = names.contains(pointer) && landed.get(pointer) == Some(value);
            if is_known && !resynced && !taken.contains(pointer) && !muddled.contains(pointer) {
                return Err(format!("8.4: {pointer} is written again as {value}, which is no new decision"));
            }
            landed.insert(pointer.clone(), value.clone());
            names.insert(pointer.clone());
            taken.remove(pointer);
            muddled.remove(pointer);
            foreign.remove(pointer);
            if is_current {
                // What was sent before it was set anew is not the news.
                let decided = mind.decided.get(&(sent.object.clone(), pointer.clone()));
                if then.news.contains(pointer) && decided.is_some_and(|decided| decided.as_ref() == Some(value)) {
                    mind.let_go.news.remove(pointer);
                }
                late.remove(pointer);
            } else {
                late.insert(pointer.clone());
            }
        }
        let record = after.record();
        if uid.is_some() && named(record.as_deref()) != uid {
            return Err(format!("4.3: the record does not name the pod: {record:?}"));
        }
        if after.records().len() != 1 {
            return Err(format!("4.3: the older records are still there: {:?}", after.records()));
        }
        for pointer in names.clone() {
            let said = said(record.as_deref(), &pointer);
            // What was taken back and is not given again by this write is news when its turn comes.
            let is_taken = taken.contains(&pointer) || muddled.contains(&pointer);
            let is_sent = fields.iter().any(|(sent, _)| *sent == pointer);
            let is_forgotten = !is_sent && (is_taken || then.let_go.contains(&pointer));
            match said {
                None if is_forgotten => drop(names.remove(&pointer)),
                said if said.as_ref() == landed.get(&pointer) => {}
                said => {
                    return Err(format!(
                        "4.3: {pointer} was decided to be {:?}, and the record says {said:?}: {record:?}",
                        landed.get(&pointer)
                    ));
                }
            }
        }
        Ok(())
    }

    /// The process knows what came of its patch.
    pub fn answered(&mut self, sent: &Sent, came: &Result<(), WriteError>, now: Duration) {
        let mind = &mut self.minds[sent.process];
        let fields = fields_of(&sent.body);
        if came.is_err() && sent.object.kind == Kind::GameServer {
            self.truth.readers.remove(&sent.process);
        }
        let place = |pointer: &str| (sent.object.clone(), pointer.to_owned());
        match came {
            Ok(()) => {
                for (pointer, value) in &fields {
                    mind.refused.remove(&place(pointer));
                    if sent.object.kind != Kind::GameServer {
                        mind.certain.insert(place(pointer), (!value.is_null()).then(|| value.clone()));
                    }
                }
                if sent.object.kind == Kind::GameServer {
                    self.truth.confirmed = sent.number;
                }
            }
            Err(error) if error.is_unanswered() => {
                if sent.object.kind != Kind::GameServer {
                    fields.iter().for_each(|(pointer, _)| drop(mind.certain.remove(&place(pointer))));
                }
            }
            Err(error) if error.is_about_the_fields() => {
                if let [(pointer, value)] = &fields[..] {
                    mind.refused.insert(place(pointer), (value.clone(), now));
                }
            }
            Err(WriteError::Hold(Hold::Superseded)) => mind.is_superseded = true,
            Err(_) => {}
        }
    }

    /// Everything is quiet, and has been for long. Gives whether the process has reason to send more all the same.
    pub fn judge_the_end(&mut self, objects: &BTreeMap<Object, Stored>, refused: &[(&str, Value)]) -> bool {
        let Some(mind) = self.minds.get(self.current) else { return false };
        let refuses = |pointer: &str, value: &Option<Value>| {
            value.as_ref().is_some_and(|value| refused.iter().any(|(at, refused)| *at == pointer && refused == value))
        };
        let mut restless = mind.config.resync.is_some();
        let mut verdict = None;
        let mut left_out = Vec::new();
        restless |= mind.decided.iter().chain(&mind.kept).any(|((_, pointer), value)| refuses(pointer, value));
        // The letter of 4.6: such a process writes nothing more, targets included.
        let is_held = mind.takes_predecessor_for_successor;
        for ((object, pointer), value) in mind.decided.iter().chain(&mind.kept) {
            if object.kind == Kind::GameServer || refuses(pointer, value) || is_held {
                continue;
            }
            let place = (object.clone(), pointer.clone());
            if self.stale.contains(&place) {
                left_out.push("an earlier process' attempt came late to the Pod or a target");
            } else if self.unseen.contains(&place) {
                left_out.push("a target was recreated unseen");
            } else {
                let found = objects.get(object).and_then(|stored| stored.body.pointer(pointer));
                if found != value.as_ref() {
                    verdict = Some(format!("8.1: {pointer} of {} is {found:?}, not {value:?}", object.path));
                }
            }
        }
        let game_server = mind.identity.game_server();
        let stored = objects.get(&game_server);
        match stored {
            _ if self.truth.disputed => {
                restless = true;
                left_out.push("a process took its successor for a predecessor and wrote");
            }
            _ if mind.takes_predecessor_for_successor => {
                left_out.push("a predecessor's record that was not read at first supersedes");
            }
            None => verdict = Some("the model has no GameServer at the end".into()),
            Some(stored) => match self.judge_game_server(mind, stored, &refuses) {
                Ok(None) => {}
                Ok(Some(reason)) => {
                    restless |= reason == PROTECTED;
                    left_out.push(reason);
                }
                Err(why) => verdict = Some(why),
            },
        }
        left_out.into_iter().for_each(|reason| self.leave_out(reason));
        if let Some(verdict) = verdict {
            self.condemn(verdict);
        }
        restless
    }

    /// Gives why it cannot be judged, where it cannot.
    fn judge_game_server(
        &self,
        mind: &Mind,
        stored: &Stored,
        refuses: &dyn Fn(&str, &Option<Value>) -> bool,
    ) -> Result<Option<&'static str>, String> {
        let Truth { landed, named, taken, muddled, late, readers, writers, .. } = &self.truth;
        let actual = |pointer: &str| stored.body.pointer(pointer);
        let decided: Vec<(&str, &Option<Value>)> = mind
            .decided
            .iter()
            .filter(|(place, _)| place.0.kind == Kind::GameServer)
            .map(|((_, pointer), value)| (pointer.as_str(), value))
            .collect();
        let mut protected = mind.config.endpoints.iter().flat_map(|endpoint| &endpoint.rules().protected_ops_states);
        let is_protected = protected.any(|state| actual(OPS_STATE) == Some(&Value::from(state.as_str())));
        let is_a_sidecars = ops_state_of(stored.record().as_deref()).as_ref() == actual(OPS_STATE);
        if is_protected && !is_a_sidecars && !taken.contains(OPS_STATE) {
            return Ok(Some(PROTECTED));
        }
        if decided.is_empty() && mind.let_go.gone.is_empty() {
            return Ok(None);
        }
        // One that was let go of, and that the record named, is over.
        let is_over = |(pointer, value): &(&str, &Option<Value>)| {
            mind.let_go.gone.contains(*pointer) && (self.truth.is_renewed || landed.get(*pointer) == value.as_ref())
        };
        if !mind.has_written && !decided.iter().all(is_over) {
            return Err("4.3: the first decision of a process is always sent".into());
        }
        if !readers.contains(&self.current) && !writers.contains(&self.current) {
            // It gets all fields at the next write, resync or start (8.7).
            let is_due = mind.config.resync.is_some() || self.truth.missed.contains(&self.current);
            let is_let_go = |(pointer, _): &(&str, _)| mind.let_go.gone.contains(*pointer);
            return if is_due
                && !decided.iter().all(is_let_go)
                && !decided.iter().any(|(pointer, value)| refuses(pointer, value))
            {
                Err("8.7: after a 404 or at a resync, the new GameServer was not written".into())
            } else {
                Ok(Some("the GameServer was recreated, or its record removed, unseen"))
            };
        }
        for (pointer, value) in decided {
            // What was written before it was let go of is not written to a new object.
            if refuses(pointer, value) || (self.truth.is_renewed && mind.let_go.gone.contains(pointer)) {
                continue;
            }
            if landed.get(pointer) != value.as_ref() {
                let last = landed.get(pointer);
                return Err(format!("8.1: {pointer} was last decided to be {value:?}, but {last:?} was written last"));
            }
            if mind.let_go.gone.contains(pointer) {
                continue;
            }
            if mind.let_go.news.contains(pointer) {
                if late.contains(pointer) {
                    return Ok(Some(LATE));
                }
                return Err(format!(
                    "5.3: {pointer} was set after it was let go of, and {value:?} is not written anew"
                ));
            }
            if taken.contains(pointer) {
                return Err(format!("4.6: a cache took {pointer} back, and {value:?} was not given again"));
            }
            let place = (mind.identity.game_server(), pointer.to_owned());
            let endpoints = &mind.config.endpoints;
            let says = reference::says(endpoints, &mind.stands, endpoints.len(), &mind.identity, &place);
            if mind.config.resync.is_some() && matches!(says, Says::Set(..)) && actual(pointer) != value.as_ref() {
                return Err(format!(
                    "4.3: with resync the game has the last word, and {pointer} is {:?}",
                    actual(pointer)
                ));
            }
        }
        let refuses_nothing = mind.decided.iter().all(|((_, pointer), value)| !refuses(pointer, value));
        match mind.let_go.gone.iter().find(|pointer| named.contains(*pointer)) {
            // A process that has nothing to write reads once, and what its predecessor has lost may arrive after that.
            Some(_) if !mind.has_written && self.truth.last_writer != Some(self.current) => Ok(Some(LATE)),
            Some(pointer) if late.contains(pointer) => Ok(Some(LATE)),
            Some(pointer) if refuses_nothing => Err(format!("5.3: {pointer} was let go of, and the record names it")),
            _ if muddled.is_empty() => Ok(None),
            _ => Ok(Some("a cache took back what somebody else had set")),
        }
    }
}

/// An outage in which the process restarts and lets go of a field ("What never wrong does not cover").
const LATE: &str = "an earlier process' attempt came late to one that lets go";
const PROTECTED: &str = "somebody else's protected opsState stays";
