//! Owns the log lines about probes and writes (behaviour 7.4): one when something starts to fail, one when it recovers, one
//! for each change. Their beginnings are an interface: alerts match them.

use std::error::Error;
use std::time::Duration;

use log::{debug, info, warn};
use serde_json::Value;

use crate::config::{Config, Endpoint, FAILED, Policy, When, is_ops_state};
use crate::controller::Attempted;
use crate::decide::decision::{Fields, OPS_STATE};
use crate::decide::failure::WriteError;
use crate::decide::fault_log::FaultLog;
use crate::decide::guarded::Hold;
use crate::decide::object::{Kind, Object};
use crate::decide::pace::Retry;
use crate::decide::policy::{self, ProbeResult};
use crate::decide::write::Change;
use crate::excerpt::{chain, excerpt};
use crate::http_client;
use crate::probe::ProbeError;

/// What was logged of one endpoint.
#[derive(Debug, Default)]
pub struct EndpointLog {
    fault: FaultLog,
    unknown: FaultLog,
    redirect: FaultLog,
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
                    let name = endpoint.full_name(index);
                    info!("{name}: answers again after {} in {} s", failures(count), lasted.as_secs());
                }
                let is_failed = |policy: &Policy| matches!(&policy.when, When::State(state) if state == FAILED);
                if endpoint.rules().policies.iter().all(is_failed)
                    || policy::select(&endpoint.rules().policies, result).is_some()
                {
                    self.unknown.recovered(now);
                } else if self.unknown.begins(now) {
                    warn!("{}: no policy matches the result {result}", endpoint.full_name(index));
                }
            }
            Err(error) => {
                if let Some(count) = self.fault.failed(now, &error.kind(), Duration::ZERO) {
                    warn!("{}: probe failed{}: {}", endpoint.full_name(index), times(count), chain(error));
                }
            }
        }
    }
}

impl EndpointLog {
    /// Logs that one of Kruise's probes was redirected, in the status of an answer that counts as a success.
    pub fn answered(&mut self, now: Duration, index: usize, endpoint: &Endpoint, status: Option<u16>) {
        match status {
            Some(status @ 300..400) if endpoint.condition().is_some() => {
                if self.redirect.begins(now) {
                    warn!(
                        "{}: status {status} counts as a success, but the redirect is not followed: let the probe name the \
                         path that it leads to (logged once)",
                        endpoint.full_name(index)
                    );
                }
            }
            Some(_) | None => drop(self.redirect.recovered(now)),
        }
    }
}

/// What was logged of the writes of one object: of the object as a whole, and by field of those that the API server refused
/// by themselves.
#[derive(Debug, Default)]
pub struct WriteLog(Vec<(String, FaultLog)>);

/// In place of a field.
const WHOLE: &str = "";

impl WriteLog {
    /// Logs what is new in what came of an attempt, which took that long. `endpoint` names the one that sets a field. Where it
    /// `only_removes` fields, a refusal for good is nothing to alert anybody of.
    pub fn attempted(
        &mut self,
        now: Duration,
        object: &Object,
        attempted: Attempted,
        endpoint: impl Fn(&str) -> Option<String>,
        only_removes: bool,
        took: Duration,
    ) {
        match attempted {
            Attempted::Unchanged => self.works(now, object, &Fields::new()),
            Attempted::Written(fields, changes) => {
                self.works(now, object, &fields);
                written(object, &changes, endpoint, took);
            }
            Attempted::Dropped(names) => {
                self.works(now, object, &Fields::new());
                warn!(
                    "conditions of the pod were dropped: {}; this node does not keep conditions that others write, so \
                     that OpenKruiseGame misses changes; use a ConfigMap in place of KRUISE_PODPROBE here",
                    names.join(", ")
                );
            }
            Attempted::Failed(error, refused) if refused.len() > 1 => {
                debug!("writing {} failed, next each field by itself: {}", object.path, chain(&error));
            }
            Attempted::Failed(error, refused) => {
                let field = refused.keys().next().map_or(WHOLE, String::as_str);
                self.failed(now, object, &error, field, only_removes);
            }
        }
    }

    /// Whether something has failed, and has not worked since.
    pub fn is_open(&self) -> bool {
        self.0.iter().any(|(_, fault)| fault.is_open())
    }

    /// Nothing is left to write: the object has what it must, or nobody knows any more what that is.
    pub fn not_needed(&mut self, now: Duration, object: &Object) {
        for (_, fault) in &mut self.0 {
            if let Some((count, lasted)) = fault.recovered(now) {
                let failures = failures(count);
                info!("writing {} is not needed any more after {failures} in {} s", object.path, lasted.as_secs());
            }
        }
    }

    /// The API server accepted these fields.
    fn works(&mut self, now: Duration, object: &Object, fields: &Fields) {
        for (field, fault) in &mut self.0 {
            if (field == WHOLE || fields.contains_key(field))
                && let Some((count, lasted)) = fault.recovered(now)
            {
                info!("writing {} works again after {} in {} s", object.path, failures(count), lasted.as_secs());
            }
        }
    }

    fn failed(&mut self, now: Duration, object: &Object, error: &WriteError, field: &str, only_removes: bool) {
        let at = self.0.iter().position(|(known, _)| known == field).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push((field.to_owned(), FaultLog::default()));
        }
        let fault = &mut self.0[at].1;
        let (of_field, patience) = match field {
            WHOLE => (String::new(), error.patience()),
            // Nothing about a field is normal.
            field => (format!("{field}: "), Duration::ZERO),
        };
        let path = &object.path;
        // The error itself is shown whole: it names the RBAC rule.
        let cause = error
            .source()
            .map_or_else(String::new, |cause| format!(": {}{}", chain(cause), http_client::advice(cause)));
        match error {
            WriteError::Hold(Hold::Superseded) => {
                warn!("writing {path} has ended: {error}");
                self.0.clear();
            }
            _ if only_removes && field == WHOLE && error.retry() == Retry::Persistent => {
                if fault.begins(now) {
                    warn!("{path}: not removed, tried again every 5 to 10 minutes (logged once): {error}");
                }
            }
            WriteError::Hold(_) | WriteError::Refused(_) | WriteError::NoAnswer { .. } => {
                match (fault.failed(now, &error.kind(), patience), error) {
                    (None, _) => debug!("writing {path} failed: {of_field}{error}{cause}"),
                    (Some(_), WriteError::Hold(Hold::Protected(_))) => warn!("{path}: {error}; not writing"),
                    (Some(count), _) => {
                        warn!("writing {path} failed{}, retrying: {of_field}{error}{cause}", times(count));
                    }
                }
            }
        }
    }
}

fn written(object: &Object, changes: &[Change], endpoint: impl Fn(&str) -> Option<String>, took: Duration) {
    let took = took.as_millis();
    if changes.is_empty() {
        return debug!("{} written again in {took} ms", object.path);
    }
    let mut remarks: Vec<String> = Vec::new();
    let mut changed: Vec<String> = Vec::new();
    for (pointer, before, value) in changes {
        remarks.extend(endpoint(pointer).filter(|name| object.kind == Kind::GameServer && !remarks.contains(name)));
        changed.push(match (object.kind, value) {
            (Kind::GameServer, _) if pointer == OPS_STATE => {
                format!("opsState {} -> {}", shown(before.as_ref()), shown(Some(value)))
            }
            (_, Value::Null) => format!("{pointer} removed"),
            (Kind::PodStatus, condition) => {
                let text = |key: &str| condition[key].as_str().unwrap_or_default();
                format!("{pointer} {} {}", text("status"), excerpt(text("message")))
            }
            (Kind::GameServer | Kind::Pod | Kind::Target, value) => format!("{pointer} {}", shown(Some(value))),
        });
    }
    let name = if object.kind == Kind::GameServer { String::new() } else { format!("{}: ", object.name()) };
    remarks.push(format!("written in {took} ms"));
    info!("{name}{} ({})", changed.join(", "), remarks.join(", "));
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
pub fn urls(config: &Config) -> String {
    config.endpoints.iter().map(|endpoint| endpoint.probe.url()).collect::<Vec<_>>().join(", ")
}
