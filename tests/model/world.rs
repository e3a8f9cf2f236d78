//! Owns the made-up world: an API server with its objects, everybody who writes them, requests that are lost or late, and
//! time. Drives the real [`Controller`] as `sidecar.rs` does, and shows the [`Judge`] every request and every effect.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use okg_sidecar::controller::{Api, Controller};
use okg_sidecar::decide::failure::{Refusal, WriteError};
use okg_sidecar::decide::guarded::{FIELD_MANAGER, Hold, Manager, OWNER_REFERENCES, Seen};
use okg_sidecar::decide::object::{Identity, Kind, Object};
use okg_sidecar::decide::policy::{Outcome, ProbeResult};
use okg_sidecar::decide::record::POINTER as RECORD;
use serde_json::{Value, json};
use ureq::http::StatusCode;

use super::history::{Fate, Game, Random, Setting, Step, Writer};
use super::judge::Judge;
use stand_ins::merge_patch::merge;

const MS: Duration = Duration::from_millis(1);
/// A request of the real client takes no longer, and an attempt no longer than twice that (behaviour 4.6).
const REQUEST: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(20);
/// OpenKruiseGame's cache is not later than this, nor are its writes.
const CACHE_IS_LATE_BY: Duration = Duration::from_secs(10);
/// The manager under which OpenKruiseGame writes.
const CONTROLLER: &str = "manager";
/// A token outlives its pod by this much at the API server.
const TOKEN_CACHE: Duration = Duration::from_secs(10);
/// The end of every history: longer than any wait, for each of several in a row.
const QUIET: Duration = Duration::from_secs(700);
/// Its last part, in which nothing must be left to do.
const STEADY: Duration = Duration::from_secs(65);

/// An object at the API server.
#[derive(Debug, Clone)]
pub struct Stored {
    pub uid: String,
    pub resource_version: u64,
    /// The uid of the Pod that owns it.
    pub owner: Option<String>,
    pub body: Value,
    /// Who set each field of the spec and each record last.
    managers: BTreeMap<String, &'static str>,
    /// What it was, and until when, as far as a cache may remember it.
    before: Vec<(Duration, Value)>,
}

impl Stored {
    /// The newest record.
    pub fn record(&self) -> Option<String> {
        self.records().pop_last().map(|(_, text)| text)
    }

    /// Every record by its number.
    pub fn records(&self) -> BTreeMap<u64, String> {
        let number = |pointer: &str| pointer.strip_prefix(RECORD)?.strip_prefix('-')?.parse().ok();
        self.annotations().into_iter().filter_map(|(pointer, text)| Some((number(&pointer)?, text))).collect()
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let annotations = self.body["metadata"]["annotations"].as_object().into_iter().flatten();
        let text = |(key, text): (&String, &Value)| Some((pointer_of(key), text.as_str()?.to_owned()));
        annotations.filter_map(text).filter(|(pointer, _)| pointer.starts_with(RECORD)).collect()
    }

    /// Merges a patch, and keeps who changed what. Gives the fields of the spec that changed.
    fn change(&mut self, now: Duration, manager: &'static str, patch: &Value) -> Vec<(String, Value)> {
        let before = self.clone();
        merge(&mut self.body, patch);
        if self.body == before.body {
            return Vec::new();
        }
        self.resource_version += 1;
        self.before.push((now, before.body.clone()));
        self.before.retain(|(until, _)| *until + CACHE_IS_LATE_BY >= now);
        let values = |stored: &Self| -> BTreeMap<String, Value> {
            let spec = stored.body["spec"].as_object().into_iter().flatten();
            let spec = spec.map(|(key, value)| (format!("/spec/{key}"), value.clone()));
            spec.chain(stored.annotations().into_iter().map(|(pointer, text)| (pointer, text.into()))).collect()
        };
        let (before, after) = (values(&before), values(self));
        let changed: Vec<_> = after.into_iter().filter(|(at, value)| before.get(at) != Some(value)).collect();
        self.managers.extend(changed.iter().map(|(pointer, _)| (pointer.clone(), manager)));
        changed.into_iter().filter(|(pointer, _)| pointer.starts_with("/spec/")).collect()
    }

    /// The object as a cache has it that is late by so much.
    fn cached(&self, now: Duration, late_by: Duration) -> &Value {
        self.before.iter().find(|(until, _)| *until + late_by > now).map_or(&self.body, |(_, body)| body)
    }
}

fn pointer_of(key: &str) -> String {
    format!("/metadata/annotations/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// One patch that was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// In the order of sending, of all processes.
    pub number: u64,
    pub process: usize,
    pub object: Object,
    pub body: Value,
}

#[derive(Debug)]
enum Event {
    Arrives(Sent),
    DeleteGameServer,
    CreateGameServer,
    CreateTarget,
    /// Of the pods before this one.
    TokensExpire(usize),
}

struct Process {
    number: usize,
    pod: usize,
    started: Duration,
    controller: Controller,
}

pub struct World<'s> {
    setting: &'s Setting,
    now: Duration,
    random: Random,
    pub objects: BTreeMap<Object, Stored>,
    events: Vec<(Duration, Event)>,
    processes: Vec<Process>,
    /// The number of processes so far.
    started: usize,
    /// How many pods there were before this one.
    pod: usize,
    games: [Game; 3],
    reads: VecDeque<Fate>,
    patches: VecDeque<Fate>,
    outage: Option<(Duration, bool)>,
    refused: Vec<(&'static str, Value, u16)>,
    sent: u64,
    created: u64,
    /// The processes of pods before this one may do nothing any more.
    expired: usize,
    stepping_other: bool,
    pub judge: Judge,
    /// What happened, where it is asked for.
    pub trace: Option<Vec<String>>,
}

pub fn uid_of(pod: usize) -> String {
    format!("u-{pod}")
}

/// The value that a word of a step means.
pub fn value_of(word: &str) -> Value {
    word.parse::<i64>().map_or_else(|_| word.into(), Value::from)
}

impl<'s> World<'s> {
    pub fn new(setting: &'s Setting, traced: bool) -> Self {
        let mut world = Self {
            setting,
            now: Duration::ZERO,
            random: Random(!setting.seed),
            objects: BTreeMap::new(),
            events: Vec::new(),
            processes: Vec::new(),
            started: 0,
            pod: 0,
            games: [const { Game::Says("A") }; 3],
            reads: VecDeque::new(),
            patches: VecDeque::new(),
            outage: None,
            refused: Vec::new(),
            sent: 0,
            created: 0,
            expired: 0,
            stepping_other: false,
            judge: Judge::default(),
            trace: traced.then(Vec::new),
        };
        world.create_pod();
        world.create_target();
        if setting.starts_with_game_server {
            world.create_game_server();
        } else {
            world.events.push((Duration::from_secs(20), Event::CreateGameServer));
        }
        world.start_process(0, 0);
        world
    }

    /// Plays the steps, and then lets everything come to rest. Gives what was wrong.
    pub fn play(mut self, steps: &[Step]) -> Result<Self, (String, Option<Vec<String>>)> {
        for step in steps {
            self.note(|| format!("{step:?}"));
            self.step(step);
            if self.judge.verdict.is_some() {
                break;
            }
        }
        if self.judge.verdict.is_none() {
            self.rest();
        }
        match self.judge.verdict.take() {
            Some(verdict) => Err((verdict, self.trace)),
            None => Ok(self),
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} {}", self.now.as_secs_f64(), line()));
        }
    }

    /// The pod of this number, as its process of this number knows it.
    pub fn identity(&self, pod: usize, process: usize) -> Identity {
        let uid = self.setting.knows_uid.then(|| uid_of(pod));
        // kubelet has the token issued anew from time to time, and never again when the next pod is there.
        let token_issued_at =
            self.setting.knows_issue_time.then(|| 1_000_000 + 1_000 * pod as u64 + process as u64 % 1_000);
        Identity { namespace: "games".into(), name: "gs-0".into(), uid, token_issued_at }
    }

    pub fn game_server(&self) -> Object {
        self.identity(0, 0).game_server()
    }

    fn target(&self) -> Object {
        Object { kind: Kind::Target, path: "/api/v1/namespaces/games/configmaps/rooms".into() }
    }

    fn store(&mut self, object: Object, uid: String, owner: Option<String>, body: Value) {
        self.created += 1;
        // Of another object, no version comes again.
        let resource_version = self.created * 1_000;
        let managers = [(OWNER_REFERENCES.to_owned(), CONTROLLER), ("/spec/opsState".to_owned(), CONTROLLER)].into();
        let stored = Stored { uid, resource_version, owner, body, managers, before: Vec::new() };
        self.objects.insert(object, stored);
    }

    fn create_pod(&mut self) {
        let (pod, uid) = (self.identity(0, 0).pod(), uid_of(self.pod));
        self.store(pod, uid, None, json!({"metadata": {"labels": {"theirs": "1"}}}));
    }

    fn create_target(&mut self) {
        if !self.objects.contains_key(&self.target()) {
            self.store(self.target(), format!("t-{}", self.created), None, json!({"data": {"theirs": "1"}}));
        }
    }

    fn create_game_server(&mut self) {
        if !self.objects.contains_key(&self.game_server()) {
            let owner = self.setting.pod_owns.then(|| uid_of(self.pod));
            let body = json!({"metadata": {"annotations": {"theirs": "1"}}, "spec": {"opsState": "None", "theirs": 1}});
            self.store(self.game_server(), format!("g-{}", self.created), owner, body);
        }
    }

    fn delete(&mut self, object: &Object) {
        if self.objects.remove(object).is_some() {
            self.judge.object_deleted(object);
        }
    }

    fn start_process(&mut self, pod: usize, config: usize) {
        let number = self.started;
        self.started += 1;
        let config = self.setting.configs[config].1.clone();
        let identity = self.identity(pod, number);
        self.judge.process_started(number, pod, identity.clone(), config.clone());
        let controller = Controller::new(config, identity, self.random.unit());
        let process = Process { number, pod, started: self.now, controller };
        // The one of the present pod is the last.
        let at = self.processes.iter().position(|other| other.pod > pod).unwrap_or(self.processes.len());
        self.processes.insert(at, process);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(ms) => self.run_until(self.now + MS * *ms as u32),
            Step::Game(index, game) => self.games[*index] = game.clone(),
            Step::Read(fate) => self.reads.push_back(fate.clone()),
            Step::Patch(fate) => self.patches.push_back(fate.clone()),
            Step::Outage(seconds, drops) => self.outage = Some((self.now + Duration::from_secs(*seconds), *drops)),
            Step::Writes(writer) => self.write(writer),
            Step::Refuse(pointer, word, status) => self.refused.push((pointer, value_of(word), *status)),
            Step::AcceptAll => self.refused.clear(),
            Step::RecreateGameServer(after) => {
                self.delete(&self.game_server());
                self.events.push((self.now + MS * *after as u32, Event::CreateGameServer));
            }
            Step::RecreateTarget(after) => {
                self.delete(&self.target());
                self.events.push((self.now + MS * *after as u32, Event::CreateTarget));
            }
            Step::Restart => {
                let Some(old) = self.processes.pop() else { return };
                self.start_process(old.pod, self.config_of(&old));
            }
            Step::RestartOld => {
                if self.processes.len() > 1 {
                    let old = self.processes.remove(0);
                    self.start_process(old.pod, self.config_of(&old));
                }
            }
            Step::Reload(config) => {
                let config = self.setting.configs[*config].1.clone();
                let (now, jitter) = (self.now, self.random.unit());
                let Some(process) = self.processes.last_mut().filter(|one| *one.controller.config() != config) else {
                    return;
                };
                self.judge.reloaded(process.number, config.clone());
                process.controller.reload(config, now - process.started, jitter);
            }
            Step::NewPod(old_lives, after) => self.replace_pod(*old_lives, *after),
        }
        self.happen();
    }

    fn config_of(&self, process: &Process) -> usize {
        self.setting.configs.iter().position(|(_, config)| config == process.controller.config()).unwrap_or_default()
    }

    fn replace_pod(&mut self, old_lives: bool, after: u64) {
        let config = self.processes.last().map_or(0, |old| self.config_of(old));
        if old_lives {
            self.events.push((self.now + TOKEN_CACHE, Event::TokensExpire(self.pod + 1)));
        } else {
            self.processes.clear();
        }
        self.pod += 1;
        self.delete(&self.identity(0, 0).pod());
        self.create_pod();
        self.judge.pod_replaced();
        if self.setting.pod_owns {
            let collected = self.now + MS * after as u32;
            self.events.push((collected, Event::DeleteGameServer));
            self.events.push((collected + MS * 700, Event::CreateGameServer));
        }
        self.start_process(self.pod, config);
    }

    /// Somebody else writes.
    fn write(&mut self, writer: &Writer) {
        let object = self.game_server();
        let Some(stored) = self.objects.get_mut(&object) else { return };
        match writer {
            Writer::Sets(pointer, word) => {
                let key = pointer.strip_prefix("/spec/").expect("steps set fields of the spec");
                let changed = stored.change(self.now, "matchmaker", &json!({"spec": {key: value_of(word)}}));
                changed.iter().for_each(|(pointer, _)| self.judge.foreign_set(pointer));
            }
            Writer::Touches => stored.resource_version += 1,
            Writer::PutsBack(late_by) => {
                let cached = stored.cached(self.now, MS * *late_by as u32).clone();
                let mut patch = json!({"metadata": {"annotations": cached["metadata"]["annotations"]}});
                if self.setting.writes_whole_spec {
                    patch["spec"] = cached["spec"].clone();
                }
                let changed = stored.change(self.now, CONTROLLER, &patch);
                changed.iter().for_each(|(pointer, value)| self.judge.put_back(pointer, value));
            }
            Writer::RemovesRecord => {
                let keys =
                    stored.annotations().into_keys().map(|pointer| pointer.replace("/metadata/annotations/", ""));
                let nulls: serde_json::Map<_, _> = keys.map(|key| (key.replace("~1", "/"), Value::Null)).collect();
                stored.change(self.now, "kubectl-annotate", &json!({"metadata": {"annotations": nulls}}));
                // No cache gives it back.
                stored.before.clear();
                self.judge.record_removed();
            }
        }
        let version = stored.resource_version;
        self.note(|| format!("  others: {writer:?}, now version {version}"));
    }

    /// Whatever is due by now.
    fn happen(&mut self) {
        while let Some(next) =
            (0..self.events.len()).filter(|at| self.events[*at].0 <= self.now).min_by_key(|at| self.events[*at].0)
        {
            match self.events.remove(next).1 {
                Event::Arrives(sent) => {
                    self.note(|| format!("  request {} arrives late", sent.number));
                    let _ = self.handle(&sent);
                }
                Event::DeleteGameServer => self.delete(&self.game_server()),
                Event::CreateGameServer => self.create_game_server(),
                Event::CreateTarget => self.create_target(),
                Event::TokensExpire(pod) => self.expired = self.expired.max(pod),
            }
        }
        let expired = self.expired;
        self.processes.retain(|process| process.pod >= expired);
    }

    fn sleep_until(&mut self, end: Duration) {
        while self.now < end {
            let next = self.events.iter().map(|(at, _)| *at).min().unwrap_or(end);
            self.now = next.clamp(self.now, end);
            self.happen();
            if next >= end {
                self.now = end;
            }
        }
        self.happen();
    }

    fn run_until(&mut self, end: Duration) {
        while self.now < end && self.judge.verdict.is_none() {
            let mut idle = true;
            for at in 0..self.processes.len() {
                idle &= !self.turn(at);
            }
            if idle {
                let next = self.processes.iter().map(|process| process.started + process.controller.next_event()).min();
                let next = next.unwrap_or(end).clamp(self.now + MS, end.max(self.now + MS));
                self.sleep_until(next);
            }
        }
    }

    /// One turn of a process' loop: one probe, then one write, as `Sidecar::run` does.
    fn turn(&mut self, at: usize) -> bool {
        if at >= self.processes.len() {
            return false;
        }
        let mut process = self.processes.remove(at);
        let probed = self.probe(&mut process);
        let wrote = self.write_next(&mut process);
        if process.pod >= self.expired {
            self.processes.insert(at.min(self.processes.len()), process);
        }
        probed || wrote
    }

    fn probe(&mut self, process: &mut Process) -> bool {
        let Some(index) = process.controller.due_probe(self.now - process.started) else { return false };
        let endpoint = &process.controller.config().endpoints[index];
        let reads_body = endpoint.extract != okg_sidecar::config::Extract::Nothing;
        let timeout = endpoint.timeout;
        let success = |result| Some(Outcome::Success(if reads_body { result } else { ProbeResult::Unread }));
        let outcome = match &self.games[index] {
            Game::Says(text) => success(ProbeResult::Text((*text).into())),
            Game::SaysMuch => success(ProbeResult::TooLong("A".into())),
            Game::Refuses | Game::Hangs => Some(Outcome::Failure(String::new())),
            Game::CannotBeAsked => None,
        };
        let takes = if self.games[index] == Game::Hangs { timeout } else { MS };
        self.sleep_until(self.now + takes);
        let before = self.trace.is_some().then(|| format!("{:?}", self.judge.decided(process.number)));
        self.judge.probed(process.number, index, outcome.clone(), self.now);
        process.controller.observe(index, outcome, self.now - process.started);
        if let Some(before) = before {
            let after = format!("{:?}", self.judge.decided(process.number));
            if before != after {
                self.note(|| format!("  process {} decided {after}", process.number));
            }
        }
        true
    }

    fn write_next(&mut self, process: &mut Process) -> bool {
        let Some(object) = process.controller.due_write(self.now - process.started) else { return false };
        let jitter = self.random.unit();
        let (number, started, deadline) = (process.number, process.started, self.now + ATTEMPT);
        let mut api = Session { world: self, process: number, started, deadline };
        process.controller.write(&object, &mut api, jitter);
        true
    }

    /// The request has reached the API server. Gives what it answers where it refuses.
    fn handle(&mut self, sent: &Sent) -> Result<(), WriteError> {
        let refused = |world: &mut Self, status| {
            world.note(|| format!("  request {} is answered {status}", sent.number));
            Err(WriteError::Refused(refusal(status, None, false)))
        };
        let Some(stored) = self.objects.get(&sent.object) else { return refused(self, 404) };
        let metadata = &sent.body["metadata"];
        if metadata.get("uid").is_some_and(|uid| *uid != stored.uid.as_str()) {
            self.note(|| format!("  request {} is answered 422, of the uid", sent.number));
            return Err(WriteError::Hold(Hold::Superseded));
        }
        let version = metadata.get("resourceVersion");
        if version.is_some_and(|version| *version != stored.resource_version.to_string().as_str()) {
            return refused(self, 409);
        }
        let refuses =
            |(pointer, value, _): &&(&str, Value, u16)| sent.body.pointer(pointer).is_some_and(|sent| sent == value);
        if let Some((_, _, status)) = self.refused.iter().find(refuses) {
            return refused(self, *status);
        }
        let mut patch = sent.body.clone();
        let now = self.now;
        if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("uid");
            metadata.remove("resourceVersion");
        }
        let before = stored.clone();
        let stored = self.objects.get_mut(&sent.object).expect("it was found above");
        stored.change(now, FIELD_MANAGER, &patch);
        let after = stored.clone();
        self.judge.took_effect(sent, &before, &after);
        self.note(|| format!("  request {} took effect, now version {}", sent.number, after.resource_version));
        Ok(())
    }

    /// From here on nothing fails, what the game says stays, and others are quiet; what is refused stays so.
    fn rest(&mut self) {
        self.note(|| "quiet from here".into());
        self.reads.clear();
        self.patches.clear();
        self.outage = None;
        for game in &mut self.games {
            if *game == Game::CannotBeAsked {
                *game = Game::Says("A");
            }
        }
        // What is collected comes back soon.
        for (at, event) in &mut self.events {
            if matches!(event, Event::CreateGameServer | Event::CreateTarget) {
                *at = (*at).min(self.now + Duration::from_secs(40));
            }
        }
        let end = self.now + QUIET;
        self.run_until(end);
        if self.judge.verdict.is_some() {
            return;
        }
        let sent = self.judge.requests();
        let objects = self.objects.clone();
        let refused: Vec<(&str, Value)> = self.refused.iter().map(|(at, value, _)| (*at, value.clone())).collect();
        let restless = self.judge.judge_the_end(&objects, &refused);
        self.run_until(end + STEADY);
        if self.judge.verdict.is_none() && !restless && self.judge.requests() != sent {
            self.judge.condemn("4.3: steady state costs no request");
        }
    }
}

/// The API server, as one attempt of one process sees it.
struct Session<'w, 's> {
    world: &'w mut World<'s>,
    process: usize,
    started: Duration,
    deadline: Duration,
}

fn refusal(status: u16, retry_after: Option<u64>, perhaps_written: bool) -> Refusal {
    Refusal {
        status: StatusCode::from_u16(status).expect("a model's status is one"),
        message: String::new(),
        retry_after: retry_after.map(Duration::from_secs),
        advice: String::new(),
        perhaps_written,
        by_admission: false,
    }
}

fn no_answer(perhaps_written: bool) -> WriteError {
    WriteError::NoAnswer { error: "made up".into(), perhaps_written }
}

impl Session<'_, '_> {
    /// The client gives up.
    fn give_up(&mut self, perhaps_written: bool) -> WriteError {
        let deadline = self.deadline.min(self.world.now + REQUEST).max(self.world.now + MS);
        self.world.sleep_until(deadline);
        no_answer(perhaps_written)
    }

    /// Takes a moment, and sees to what comes between.
    fn approach(&mut self, fate: Option<Fate>) -> Option<Fate> {
        self.world.sleep_until(self.world.now + MS);
        match fate {
            Some(Fate::After(writer)) => {
                self.world.write(&writer);
                None
            }
            Some(Fate::AfterOtherProcess) => {
                if !self.world.stepping_other {
                    self.world.stepping_other = true;
                    self.world.turn(0);
                    self.world.stepping_other = false;
                }
                None
            }
            fate => fate,
        }
    }

    fn outage(&mut self) -> Option<WriteError> {
        let (until, drops) = self.world.outage?;
        if self.world.now >= until {
            return None;
        }
        Some(if drops { self.give_up(false) } else { no_answer(false) })
    }
}

impl Api for Session<'_, '_> {
    fn now(&self) -> Duration {
        self.world.now - self.started
    }

    fn wall_clock(&self) -> Duration {
        Duration::from_secs(1_795_507_200) + self.world.now
    }

    fn read(&mut self, object: &Object, pointers: &[&str], is_whole: bool) -> Result<Seen, WriteError> {
        let fate = self.world.reads.pop_front();
        let fate = self.approach(fate);
        self.world.judge.requested();
        let process = self.process;
        if let Some(error) = self.outage() {
            self.world.note(|| format!("  process {process} cannot read"));
            return Err(error);
        }
        match fate {
            None | Some(Fate::After(_) | Fate::AfterOtherProcess) => {}
            Some(fate) => {
                self.world.note(|| format!("  process {process} reads: {fate:?}"));
                return Err(match fate {
                    Fate::Lost | Fate::Late(_) | Fate::NoAnswer => self.give_up(false),
                    Fate::Status(status, after) => WriteError::Refused(refusal(status, after, false)),
                    Fate::ErrorWithEffect => WriteError::Refused(refusal(500, None, false)),
                    Fate::NoConnection | Fate::Broken | Fate::After(_) | Fate::AfterOtherProcess => no_answer(false),
                });
            }
        }
        let Some(stored) = self.world.objects.get(object).cloned() else {
            self.world.judge.missed(self.process, object);
            self.world.note(|| format!("  process {process} reads: 404"));
            return Err(WriteError::Refused(refusal(404, None, false)));
        };
        self.world.judge.has_read(self.process, &stored);
        self.world.note(|| {
            let spec = &stored.body["spec"];
            let records = stored.records();
            format!("  process {process} reads version {}: {spec} {records:?}", stored.resource_version)
        });
        let picked = |at: &&str| (is_whole || !at.starts_with("/spec")).then(|| stored.body.pointer(at)).flatten();
        let mut managers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let asked = |pointer: &str| pointers.contains(&pointer) || pointer.starts_with(RECORD);
        for (pointer, manager) in stored.managers.iter().filter(|(pointer, _)| asked(pointer)) {
            managers.entry(manager).or_default().push(pointer.clone());
        }
        Ok(Seen {
            resource_version: stored.resource_version.to_string(),
            owner: stored.owner.clone(),
            records: stored.annotations().into_iter().map(|(pointer, text)| (pointer, text.into())).collect(),
            managers: managers.into_iter().map(|(name, fields)| Manager { name: name.into(), fields }).collect(),
            is_whole,
            values: pointers.iter().filter_map(|at| Some(((*at).to_owned(), picked(at)?.clone()))).collect(),
        })
    }

    fn patch(&mut self, object: &Object, patch: &Value) -> Result<(), WriteError> {
        let fate = self.world.patches.pop_front();
        self.world.sent += 1;
        let sent = Sent { number: self.world.sent, process: self.process, object: object.clone(), body: patch.clone() };
        let now = self.world.now;
        self.world.note(|| {
            let name = object.path.rsplit('/').nth(1).unwrap_or_default();
            format!(
                "  process {} sends request {} to {name}: {patch} {}",
                sent.process,
                sent.number,
                fate.as_ref().map_or_else(String::new, |fate| format!("{fate:?}"))
            )
        });
        self.world.judge.sends(&sent, now);
        let fate = self.approach(fate);
        let mut came = match self.outage() {
            // It had a connection for the read, and this is sent on it.
            Some(error) if object.kind != Kind::GameServer => Err(error),
            Some(_) => Err(no_answer(true)),
            None => match fate {
                None | Some(Fate::After(_) | Fate::AfterOtherProcess) => self.world.handle(&sent),
                // On the connection of the read there is no second one to fail.
                Some(Fate::NoConnection) => Err(no_answer(false)),
                Some(Fate::Lost) => Err(self.give_up(true)),
                Some(Fate::Late(after)) => {
                    self.world.events.push((self.world.now + MS * after as u32, Event::Arrives(sent.clone())));
                    Err(self.give_up(true))
                }
                Some(Fate::NoAnswer) => {
                    let _ = self.world.handle(&sent);
                    Err(self.give_up(true))
                }
                // A refusal that breaks off is one all the same: its status has arrived.
                Some(Fate::Broken) => match self.world.handle(&sent) {
                    Ok(()) => Err(no_answer(true)),
                    refused => refused,
                },
                Some(Fate::Status(status, after)) => Err(WriteError::Refused(refusal(status, after, status >= 500))),
                Some(Fate::ErrorWithEffect) => {
                    let _ = self.world.handle(&sent);
                    Err(WriteError::Refused(refusal(500, None, true)))
                }
            },
        };
        if let Err(WriteError::Refused(refusal)) = &mut came
            && refusal.status == StatusCode::NOT_FOUND
        {
            self.world.judge.missed(self.process, object);
        }
        let now = self.world.now;
        self.world.judge.answered(&sent, &came, now);
        self.world.note(|| match &came {
            Ok(()) => format!("  request {} is confirmed", sent.number),
            Err(error) => format!("  request {}: {} for the process", sent.number, error.kind()),
        });
        came
    }
}
