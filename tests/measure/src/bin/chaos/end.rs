//! Owns the end of a run, when the faults are over: what must be right again, and what a quiet process must do.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::log::Life;
use super::{CHILD, Chaos, HEALTH, LAST, MOUNTED, PLAIN, PROTECTING, ROOM, STATES, TICK, configs};
use stand_ins::{self, Fault, OTHER_POD_UID, POD_UID, SOON, Signal, Which, pod_object};

/// After the last fault the longest wait is a Retry-After of 120 s.
const RECOVERY: Duration = Duration::from_secs(150);

/// The second look at a write comes 55 s after it at the latest (behaviour 4.6).
const LOOKED_AT: Duration = Duration::from_secs(57);

/// Of one object twelve writes follow each other at once, and then one every 5 s (behaviour 4.9): long enough for a state and a
/// field that was refused before.
const MADE_UP_FOR: Duration = Duration::from_secs(30);

impl Chaos {
    /// No fault from here on.
    pub(super) fn calm(&mut self) {
        self.raging.store(false, Ordering::SeqCst);
        self.end_api_fault();
        for (side, game) in [(ROOM, &self.scene.game), (HEALTH, &self.health)] {
            if self.sides[side].current.take() == Some("game gone") {
                game.start_again();
            }
        }
        self.scene.game.set(200, "None");
        self.health.set(200, "ok");
        self.config = configs(&self.scene, &self.health, &self.black_hole).swap_remove(LAST);
        self.sides[MOUNTED].current = None;
        self.restore_files();
        self.end_objects_fault();
        if self.sides[CHILD].current.is_some() || !self.sidecar.is_running() {
            self.end_process_fault();
        }
    }

    /// Whether the GameServer has been patched since then.
    pub(super) fn patched_since(&self, then: Instant) -> bool {
        let path = self.scene.path();
        let requests = self.scene.api.requests();
        let mut since = requests.iter().rev().take_while(|request| request.at > then);
        since.any(|request| !request.is_read() && request.path() == path && request.answered == Some(200))
    }

    /// Looks at the process until `condition` is true.
    fn holds_within(&mut self, timeout: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let last_look = Instant::now() >= deadline;
            self.sample();
            if condition(self) {
                return true;
            }
            if last_look {
                return false;
            }
            thread::sleep(TICK);
        }
    }

    /// Waits until the room was probed so often again.
    fn await_probes(&mut self, count: usize) -> Result<(), String> {
        let wanted = self.scene.game.requests().len() + count;
        let probed = self.holds_within(SOON, |chaos| chaos.scene.game.requests().len() >= wanted);
        if probed { Ok(()) } else { Err("the room is not probed any more".into()) }
    }

    /// Whether both objects have what the room answers, by the last config.
    fn is_in(&self, state: &str) -> bool {
        let rank = STATES.iter().position(|known| *known == state);
        self.scene.ops_state() == state && self.scene.field("/spec/deletionPriority") == json!(rank)
    }

    fn demand_in(&mut self, state: &'static str) -> Result<(), String> {
        self.scene.game.set(200, state);
        if self.holds_within(MADE_UP_FOR, |chaos| chaos.is_in(state)) {
            return Ok(());
        }
        Err(format!("the game says {state}, the GameServer is {:?}", self.scene.api.object(&self.scene.path())))
    }

    /// Lets the room go through its states until one of them is written, and then demands the next one at once, with a
    /// refused field beside it and without. Gives how long the first took.
    pub(super) fn recover(&mut self) -> Result<Duration, String> {
        let calm_since = Instant::now();
        let written = |chaos: &Self| chaos.patched_since(calm_since);
        // What was decided last is not written again (behaviour 4.3), so that one state alone might wait for ever.
        let mut states = STATES.iter().cycle();
        while !written(self) {
            if calm_since.elapsed() > RECOVERY {
                return Err(format!("nothing was written within {RECOVERY:?} after the last fault"));
            }
            self.scene.game.set(200, *states.next().expect("a cycle has no end"));
            self.holds_within(Duration::from_secs(4), written);
        }
        let took = calm_since.elapsed();
        STATES.iter().try_for_each(|state| self.demand_in(state))?;
        self.scene.api.refuse("/spec/deletionPriority", None, 422);
        for state in STATES {
            self.scene.game.set(200, state);
            if !self.holds_within(MADE_UP_FOR, |chaos| chaos.scene.ops_state() == state) {
                return Err(format!("a refused field keeps {state} out"));
            }
        }
        self.scene.api.refuse_nothing();
        let lost = Instant::now();
        self.scene.api.next_of(&Which::writes().to(&self.scene.pod_path()), [Fault::Lost]);
        STATES.iter().try_for_each(|state| self.demand_in(state))?;
        self.lose_a_write()?;
        self.demand_pod(lost)?;
        Ok(took)
    }

    /// The game goes back while a write is on its way, which then must not take effect any more (behaviour 8.3).
    fn lose_a_write(&mut self) -> Result<(), String> {
        let [first, last] = [STATES[0], STATES[STATES.len() - 1]];
        let path = self.scene.path();
        let before = self.scene.writes().len();
        self.scene.api.next_of(&Which::writes().to(&path), [Fault::Lost]);
        self.scene.game.set(200, first);
        if !self.holds_within(SOON, |chaos| chaos.scene.writes().len() > before) {
            return Err("a change was not written".into());
        }
        // Long enough for the game to go back first.
        self.scene.api.always_of(&Which::of(&path), Some(Fault::status(503, "not now")));
        self.scene.game.set(200, last);
        self.await_probes(3)?;
        let back = Instant::now();
        self.scene.api.always_of(&Which::of(&path), None);
        if !self.holds_within(SOON, |chaos| chaos.patched_since(back)) {
            return Err("nothing was sent after an attempt without an answer".into());
        }
        self.scene.api.deliver_lost();
        self.await_probes(3)?;
        let is_right = self.holds_within(MADE_UP_FOR, |chaos| chaos.is_in(last));
        if is_right { Ok(()) } else { Err("a lost attempt took effect after a later one".into()) }
    }

    /// The Pod is right once nothing that was lost can arrive any more and it was sent once more (behaviour 4.8).
    fn demand_pod(&mut self, lost: Instant) -> Result<(), String> {
        // It was lost in the first few seconds of the states that followed.
        let lost_until = lost + Duration::from_secs(70);
        self.holds_within(lost_until.saturating_duration_since(Instant::now()), |_| false);
        let said = STATES[STATES.len() - 1];
        let metadata = json!([said, format!("is-{said}"), said]);
        let pod = |chaos: &Self| {
            ["/metadata/labels/room", "/metadata/labels/busy", "/metadata/annotations/example.com~1room"]
                .map(|pointer| chaos.scene.field_of(&chaos.scene.pod_path(), pointer))
        };
        if self.holds_within(Duration::from_secs(20), |chaos| json!(pod(chaos)) == metadata) {
            return Ok(());
        }
        Err(format!("the game says {said}, the Pod has {:?}", pod(self)))
    }

    /// At rest it costs nothing (behaviour 4.3, 7.4), once it has logged the last change and looked at it.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        let is_looked_at =
            |chaos: &Self| Instant::now().checked_sub(LOOKED_AT).is_none_or(|then| !chaos.patched_since(then));
        if !self.holds_within(LOOKED_AT * 2, is_looked_at) {
            return Err("the GameServer is written although nothing changes".into());
        }
        self.holds_within(Duration::from_secs(2), |_| false);
        let lines = |chaos: &Self| {
            let life = Life { started: chaos.started, lines: chaos.sidecar.lines() };
            life.told().len()
        };
        let before = (self.scene.api.connections_accepted(), lines(self));
        self.holds_within(Duration::from_secs(4), |_| false);
        let after = (self.scene.api.connections_accepted(), lines(self));
        let is_idle = |chaos: &Self| chaos.sidecar.open_fds() == chaos.samples.least_descriptors;
        if !self.holds_within(SOON, is_idle) {
            return Err("descriptors are left open".into());
        }
        if before == after {
            Ok(())
        } else {
            Err(format!("connections and lines at rest: {before:?} became {after:?}"))
        }
    }

    /// What no new decision touched survives a restart and a reload (behaviour 8.4), and a start costs two requests and
    /// what the Pod takes.
    pub(super) fn survive(&mut self) -> Result<(), String> {
        self.demand_in("Allocated")?;
        // The Pod is in by then, too.
        self.await_probes(2)?;
        self.scene.somebody_sets("matchmaker", "WaitToBeDeleted");
        let survives = |chaos: &Self, what: &str| match chaos.scene.ops_state().as_str() {
            "WaitToBeDeleted" => Ok(()),
            state => Err(format!("{what} wrote {state} over somebody's value")),
        };
        for signal in [Signal::KILL, Signal::TERM] {
            let before = self.scene.api.connections_accepted();
            let restarted = Instant::now();
            self.restart(signal);
            if !self.holds_within(SOON, |chaos| chaos.patched_since(restarted)) {
                return Err("a first decision was not sent".into());
            }
            self.await_probes(3)?;
            survives(self, "a restart")?;
            let of_start = &self.scene.api.requests_per_connection()[before..];
            if of_start != [2, 1] {
                return Err(format!("a start cost so many requests a connection: {of_start:?}"));
            }
        }
        let first = configs(&self.scene, &self.health, &self.black_hole).swap_remove(PLAIN);
        self.scene.pod.update_config(&first);
        self.sidecar.wait_for_line("config reloaded", SOON);
        self.await_probes(3)?;
        survives(self, "a reload")?;
        self.scene.pod.update_config(&self.config);
        self.await_probes(3)?;
        survives(self, "a reload")?;
        // Even one that brings the same value.
        self.demand_in("None")?;
        self.demand_in("WaitToBeDeleted")?;
        self.leave_to_its_owner()?;
        self.respect_protection()
    }

    /// A previous pod's GameServer is left alone, and the own one gets everything (behaviour 4.6, 8.6, 8.7).
    fn leave_to_its_owner(&mut self) -> Result<(), String> {
        self.scene.recreate(OTHER_POD_UID);
        let reads = self.scene.reads();
        self.scene.game.set(200, "Allocated");
        if !self.holds_within(SOON, |chaos| chaos.scene.reads() > reads + 1) {
            return Err("a previous pod's GameServer is not read".into());
        }
        if self.scene.ops_state() != "None" {
            return Err("a previous pod's GameServer was written".into());
        }
        self.scene.recreate(POD_UID);
        self.demand_in("Allocated")
    }

    /// An operator's protected state stays, and the record with it (behaviour 6.6).
    fn respect_protection(&mut self) -> Result<(), String> {
        let mut configs = configs(&self.scene, &self.health, &self.black_hole);
        self.scene.pod.update_config(&configs.swap_remove(PROTECTING));
        self.await_probes(3)?;
        self.scene.somebody_sets("operator", "Maintaining");
        let reads = self.scene.reads();
        self.scene.game.set(200, "None");
        if !self.holds_within(SOON, |chaos| chaos.scene.reads() > reads) {
            return Err("a protected state is not looked at".into());
        }
        self.await_probes(2)?;
        if self.scene.ops_state() != "Maintaining" || self.scene.record()["opsState"] != "Allocated" {
            return Err("a protected state was written over".into());
        }
        self.scene.somebody_sets("operator", "Allocated");
        // This needs no wait of half a minute.
        self.scene.pod.update_config(&self.config);
        self.restart(Signal::KILL);
        self.demand_in("None")
    }

    fn restart(&mut self, signal: Signal) {
        self.bury(signal);
        self.sides[CHILD].current = Some("killed");
        self.end_process_fault();
    }

    /// A later pod of this name takes the GameServer over, which survives its pods, and then even the name of the Pod: the
    /// process never writes again (behaviour 4.6, 8.6), nor does what it sent before arrive.
    pub(super) fn hand_over(&mut self) -> Result<(), String> {
        let path = self.scene.path();
        self.scene.give_to_set();
        self.demand_in("None")?;
        let before = self.scene.writes().len();
        self.scene.api.next_of(&Which::writes().to(&path), [Fault::Lost]);
        self.scene.game.set(200, "Allocated");
        stand_ins::holds_within(SOON, || self.scene.writes().len() > before);
        self.scene.set_record(&json!({"opsState": "None", "deletionPriority": 0, "pod": OTHER_POD_UID}));
        self.scene.somebody_sets("successor", "None");
        let taken = Instant::now();
        self.scene.api.deliver_lost();
        self.sidecar.wait_for_line("a later pod of this name has taken over", SOON);
        let requests = |chaos: &Self| chaos.scene.requests_for(&chaos.scene.path()).len();
        let before = requests(self);
        for state in STATES.iter().cycle().take(4) {
            self.scene.game.set(200, *state);
            self.await_probes(2)?;
        }
        if requests(self) > before {
            return Err("it goes on asking after a later pod has taken over".into());
        }
        self.scene.recreate(OTHER_POD_UID);
        let pod = &self.scene.pod;
        self.scene.api.put(&self.scene.pod_path(), pod_object(&pod.namespace, &pod.name, OTHER_POD_UID));
        let gone = Instant::now();
        for state in STATES {
            self.scene.game.set(200, state);
            self.await_probes(2)?;
        }
        for (path, since) in [(path, taken), (self.scene.pod_path(), gone)] {
            let changes = self.scene.api.changes(&path);
            let late = changes.iter().find(|change| change.at > since && change.manager == "okg-sidecar");
            if let Some(late) = late {
                return Err(format!("a later pod's object was written: {late:?}"));
            }
        }
        Ok(())
    }
}
