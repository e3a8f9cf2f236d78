//! Owns the log lines about probes and writes (behaviour 7.4): one when something starts to fail, one when it recovers, one
//! for each change. Their beginnings are an interface: alerts match them.

use std::time::Duration;

use log::{debug, info, warn};
use serde_json::Value;

use crate::config::{Config, Endpoint, FAILED, Policy, When, is_ops_state};
use crate::controller::Attempted;
use crate::decide::decision::{Fields, OPS_STATE, place};
use crate::decide::fault_log::FaultLog;
use crate::decide::guarded::Change;
use crate::decide::object::{Kind, Object};
use crate::decide::policy::{self, ProbeResult};
use crate::excerpt::{chain, excerpt};
use crate::kube::client::WriteError;
use crate::probe::ProbeError;

/// What was logged of one endpoint.
#[derive(Debug, Default)]
pub struct EndpointLog {
    fault: FaultLog,
    unknown: FaultLog,
}

impl EndpointLog {
    /// Logs what is new in the result of a probe.
    pub fn observe(
        &mut self,
        now: Duration,
        index: usize,
        endpoint: &Endpoint,
        result: &Result<ProbeResult, ProbeError>,
    ) {
        match result {
            Ok(result) => {
                if let Some((count, lasted)) = self.fault.recovered(now) {
                    let place = place(index, endpoint);
                    info!("{place}: answers again after {} in {} s", failures(count), lasted.as_secs());
                }
                let is_failed = |policy: &Policy| matches!(&policy.when, When::State(state) if state == FAILED);
                if endpoint.policies.iter().all(is_failed) || policy::select(&endpoint.policies, result).is_some() {
                    self.unknown.recovered(now);
                } else if self.unknown.begins(now) {
                    warn!("{}: no policy knows the result {result}", place(index, endpoint));
                }
            }
            Err(error) => {
                if let Some(count) = self.fault.failed(now, &error.kind(), Duration::ZERO) {
                    warn!("{}: probe failed{}: {}", place(index, endpoint), times(count), chain(error));
                }
            }
        }
    }
}

/// What was logged of the writes of one object.
#[derive(Debug, Default)]
pub struct WriteLog {
    fault: FaultLog,
    /// By field, of those that the API server refused by themselves.
    refused: Vec<(String, FaultLog)>,
}

impl WriteLog {
    /// Logs an attempt that failed, or that ended failures. Gives what changed, where it was a write.
    pub fn attempted<Changes>(
        &mut self,
        now: Duration,
        object: &Object,
        attempted: Attempted<Changes>,
    ) -> Option<Changes> {
        match attempted {
            Attempted::Unchanged => self.works(now, object, &[]),
            Attempted::Written(fields, changes) => {
                self.works(now, object, &fields);
                return Some(changes);
            }
            Attempted::FieldsRefused(error, fields) => self.refused(now, object, &error, &fields),
            Attempted::Failed(error) => self.failed(now, object, &error),
        }
        None
    }

    /// The API server accepted these fields.
    fn works(&mut self, now: Duration, object: &Object, fields: &[(String, Option<Value>)]) {
        let mut recovered = Vec::from_iter(self.fault.recovered(now));
        self.refused.retain_mut(|(refused, fault)| {
            let accepted = fields.iter().any(|(pointer, _)| pointer == refused);
            recovered.extend(if accepted { fault.recovered(now) } else { None });
            !accepted
        });
        for (count, lasted) in recovered {
            info!("writing {} works again after {} in {} s", object.path, failures(count), lasted.as_secs());
        }
    }

    /// The API server refused the fields: one of them by itself is worth a line.
    fn refused(&mut self, now: Duration, object: &Object, error: &WriteError, fields: &[(String, Option<Value>)]) {
        let [(pointer, _)] = fields else {
            return debug!("writing {} failed, next each field by itself: {}", object.path, chain(error));
        };
        if !self.refused.iter().any(|(refused, _)| refused == pointer) {
            self.refused.push((pointer.clone(), FaultLog::default()));
        }
        let Some((_, fault)) = self.refused.iter_mut().find(|(refused, _)| refused == pointer) else { return };
        match fault.failed(now, &error.kind(), Duration::ZERO) {
            Some(count) => warn!("writing {} failed{}, goes on trying: {pointer}: {error}", object.path, times(count)),
            None => debug!("writing {} failed: {pointer}: {}", object.path, chain(error)),
        }
    }

    /// An attempt failed.
    fn failed(&mut self, now: Duration, object: &Object, error: &WriteError) {
        match self.fault.failed(now, &error.kind(), error.patience()) {
            Some(count) => {
                // The error itself is shown whole: it names the RBAC rule.
                let cause =
                    std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {}", chain(cause)));
                warn!("writing {} failed{}, goes on trying: {error}{cause}", object.path, times(count));
            }
            None => debug!("writing {} failed: {}", object.path, chain(error)),
        }
    }

    /// The GameServer was written; `place` is the endpoint that decided.
    pub fn game_server_written(&self, object: &Object, changes: &[Change], place: Option<String>, took: Duration) {
        let place = place.map_or_else(String::new, |place| format!("{place}, "));
        let changed = changes.iter().map(|(pointer, before, value)| match pointer.as_str() {
            OPS_STATE => format!("opsState {} -> {}", shown(before.as_ref()), shown(Some(value))),
            _ => format!("{pointer} {}", shown(Some(value))),
        });
        written(object, "", changed.collect(), &place, took);
    }

    /// Another object was written.
    pub fn other_written(&self, object: &Object, changes: &Fields, took: Duration) {
        let changed = changes.iter().map(|(pointer, value)| match (object.kind, value) {
            (_, None) => format!("{pointer} removed"),
            (Kind::PodStatus, Some(condition)) => {
                let text = |key: &str| condition[key].as_str().unwrap_or_default();
                format!("{pointer} {} {}", text("status"), excerpt(text("message")))
            }
            (Kind::GameServer | Kind::Pod | Kind::Target, value) => format!("{pointer} {}", shown(value.as_ref())),
        });
        let name = match object.kind {
            Kind::GameServer => String::new(),
            Kind::Pod => "Pod: ".into(),
            Kind::PodStatus => "Pod condition: ".into(),
            Kind::Target => format!("{}: ", object.path),
        };
        written(object, &name, changed.collect(), "", took);
    }
}

fn written(object: &Object, name: &str, changed: Vec<String>, place: &str, took: Duration) {
    let took = took.as_millis();
    if changed.is_empty() {
        debug!("{} written again in {took} ms", object.path);
    } else {
        info!("{name}{} ({place}written in {took} ms)", changed.join(", "));
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "unknown".into(),
        // Legal opsStates are short words, anything else is a result that came from outside.
        Some(Value::String(text)) if is_ops_state(text) => text.clone(),
        Some(Value::String(text)) => excerpt(text),
        Some(value) => value.to_string(),
    }
}

fn times(count: u32) -> String {
    if count == 1 { String::new() } else { format!(" {count} times by now") }
}

fn failures(count: u32) -> String {
    if count == 1 { "1 failure".into() } else { format!("{count} failures") }
}

/// What a config probes, as logs name it.
pub fn places(config: &Config) -> String {
    let places: Vec<String> = config.endpoints.iter().map(|endpoint| endpoint.probe.place()).collect();
    places.join(", ")
}
