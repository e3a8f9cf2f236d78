//! Owns the loop: the only reader of the clock and the only sleeper. Follow one result from the socket to the patch:
//! [`Sidecar::run`], `probe_next`, [`Controller::observe`], `write_next`.

use std::time::{Duration, Instant, SystemTime};

use log::{debug, info, warn};
use serde_json::Value;

use crate::config::{Config, ConfigFile};
use crate::controller::{Api, Controller};
use crate::decide::decision::CannotHold;
use crate::decide::failure::WriteError;
use crate::decide::guarded::Seen;
use crate::decide::object::{ByObject, Object};
use crate::decide::policy::{Outcome, ProbeResult};
use crate::excerpt::chain;
use crate::jitter::Jitter;
use crate::kube::client::{Attempt, Client};
use crate::kube::environment::PodEnvironment;
use crate::probe::Prober;
use crate::report::{EndpointLog, WriteLog, urls};
use crate::signals;

/// The longest that a change of the config file goes unnoticed, however long the interval is.
const CONFIG_CHECK: Duration = Duration::from_secs(60);

/// The running sidecar. Times are since the start of the process.
pub struct Sidecar {
    started: Instant,
    jitter: Jitter,
    /// None where Kruise's annotation says what is probed.
    file: Option<ConfigFile>,
    file_checked: Duration,
    controller: Controller,
    probers: Vec<Prober>,
    endpoint_logs: Vec<EndpointLog>,
    cannot_hold_logged: Vec<String>,
    write_logs: ByObject<WriteLog>,
    client: Client,
}

impl Sidecar {
    /// Logs what it is going to do. `config` is what `file` holds, where there is one.
    pub fn new(file: Option<ConfigFile>, config: Config, environment: PodEnvironment) -> Self {
        let PodEnvironment { server, identity, service_account } = environment;
        let (delay, interval) = (config.start_delay.as_secs(), config.interval.as_secs());
        let (written, when) = match config.is_of_kruise() {
            true => (identity.pod_status(), "Kruise's probes, each at its own rate".into()),
            false => (identity.game_server(), format!("first probe in {delay} s, then every {interval} s")),
        };
        let (version, urls) = (env!("OKG_SIDECAR_VERSION"), urls(&config));
        info!("okg-sidecar {version} writes {} at {server}; {when}: {urls}", written.path);
        let mut jitter = Jitter::default();
        let controller = Controller::new(config, identity, jitter.draw());
        let mut sidecar = Self {
            started: Instant::now(),
            jitter,
            file,
            file_checked: Duration::ZERO,
            controller,
            probers: Vec::new(),
            endpoint_logs: Vec::new(),
            cannot_hold_logged: Vec::new(),
            write_logs: ByObject::default(),
            client: Client::new(server, service_account),
        };
        sidecar.start_config();
        sidecar
    }

    /// Probes and writes until the process ends.
    ///
    /// One probe, then one write, and so on: a write that falls due during a probe starts when that one probe ends, and an
    /// API server that hangs delays a probe by one attempt at most.
    pub fn run(mut self) -> ! {
        loop {
            self.check_config();
            let probed = self.probe_next();
            let wrote = self.write_next();
            if !probed && !wrote {
                let next = self.controller.next_event().min(self.file_checked + CONFIG_CHECK);
                signals::sleep(next.saturating_sub(self.now()));
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Reads the config file again where it has changed: before each round, and at least once a minute (behaviour 2.9).
    fn check_config(&mut self) {
        let now = self.now();
        if !self.controller.round_starts(now) && now < self.file_checked + CONFIG_CHECK {
            return;
        }
        self.file_checked = now;
        let Some(file) = &mut self.file else { return };
        match file.changed() {
            Ok(Some(config)) if config != *self.controller.config() => self.reload(config),
            Ok(_) => {}
            Err(error) => warn!("new config rejected, keeping the old one: {}", error.to_string().replace('\n', "; ")),
        }
    }

    fn reload(&mut self, config: Config) {
        info!("config reloaded; probes every {} s: {}", config.interval.as_secs(), urls(&config));
        self.controller.reload(config, self.now(), self.jitter.draw());
        self.end_write_logs();
        self.write_logs.retain(|object, _| self.controller.decision().concerns(object));
        self.start_config();
    }

    /// Makes what belongs to a config. What is logged once is logged again with a new one.
    fn start_config(&mut self) {
        let Config { endpoints, warnings, .. } = self.controller.config();
        for warning in warnings {
            warn!("{warning}");
        }
        self.probers = endpoints.iter().map(Prober::new).collect();
        self.endpoint_logs = endpoints.iter().map(|_| EndpointLog::default()).collect();
        self.cannot_hold_logged.clear();
    }

    /// Probes the endpoint that is due, if any.
    fn probe_next(&mut self) -> bool {
        let began = self.now();
        let Some(index) = self.controller.due_probe(began) else { return false };
        let endpoint = &self.controller.config().endpoints[index];
        let mut status = None;
        let result = self.probers[index].attempt(|document| status = document.status);
        let now = self.now();
        debug!(
            "{}: {} in {} ms",
            endpoint.full_name(index),
            result.as_ref().map_or_else(|error| chain(error), ProbeResult::to_string),
            (now - began).as_millis()
        );
        self.endpoint_logs[index].observe(now, index, endpoint, &result);
        self.endpoint_logs[index].answered(now, index, endpoint, status);
        let outcome = match result {
            Ok(result) => Some(Outcome::Success(result)),
            // It says nothing about the game.
            Err(error) if error.is_our_own_fault() => None,
            Err(error) => Some(Outcome::Failure(error.message())),
        };
        for CannotHold { field, why } in self.controller.observe(index, outcome, now) {
            if !self.cannot_hold_logged.contains(&field) {
                warn!("{field}: not changed: {why} (logged once)");
                self.cannot_hold_logged.push(field);
            }
        }
        self.end_write_logs();
        true
    }

    /// Makes one attempt to write what is due, if anything is.
    fn write_next(&mut self) -> bool {
        let began = self.now();
        let Some(object) = self.controller.due_write(began) else { return false };
        let jitter = self.jitter.draw();
        let mut api = LiveApi { started: self.started, attempt: self.client.attempt() };
        let attempted = self.controller.write(&object, &mut api, jitter);
        let now = api.now();
        let endpoint = |pointer: &str| {
            let index = self.controller.decision().set_by(&object, pointer)?;
            Some(self.controller.config().endpoints[index].full_name(index))
        };
        let decided = self.controller.decision().fields(&object);
        let only_removes = !decided.is_empty() && decided.values().all(Value::is_null);
        let write_log = self.write_logs.entry(&object);
        write_log.attempted(now, &object, attempted, endpoint, only_removes, now - began);
        true
    }

    /// A failure to write is over when nothing is left to write.
    fn end_write_logs(&mut self) {
        let now = self.now();
        for (object, log) in self.write_logs.iter_mut() {
            if log.is_open() && !self.controller.is_due(object) {
                log.not_needed(now, object);
            }
        }
    }
}

/// The API server, and the clock of this machine.
struct LiveApi<'c> {
    started: Instant,
    attempt: Attempt<'c>,
}

impl Api for LiveApi<'_> {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wall_clock(&self) -> Duration {
        SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
    }

    fn read(&mut self, object: &Object, pointers: &[&str], is_whole: bool) -> Result<Seen, WriteError> {
        self.attempt.read(object, pointers, is_whole)
    }

    fn patch(&mut self, object: &Object, patch: &Value) -> Result<(), WriteError> {
        self.attempt.patch(object, patch)
    }
}
