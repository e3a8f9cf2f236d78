//! Owns what `okg-sidecar check` prints: the rules as a person reads them.

use std::ops::RangeInclusive;

use super::{Config, Endpoint, Extract, FAILED, Field, FieldType, HttpProbe, Policy, Probe, SUCCEEDED, Target, When};
use crate::excerpt::excerpt;

/// The whole configuration, defaults filled in.
pub(super) fn describe(config: &Config) -> String {
    let resync =
        config.resync.map_or("never".into(), |every| format!("every {} s, give or take 10 %", every.as_secs()));
    let mut lines = if config.sets_conditions() {
        vec!["Kruise's probes, each of which sets a condition of the pod".into()]
    } else {
        vec![
            format!("first round     {} s after the start", config.start_delay.as_secs()),
            format!("then            every {} s", config.interval.as_secs()),
            format!("resync          {resync}"),
        ]
    };
    for (index, endpoint) in config.endpoints.iter().enumerate() {
        lines.push(String::new());
        describe_endpoint(&mut lines, index, endpoint);
    }
    lines.extend(config.unknown.iter().map(|(name, why)| format!("\n{name}    stays Unknown: {why}")));
    if config.endpoints.len() > 1 && !config.sets_conditions() {
        lines.push("\nthe first endpoint whose opinion sets a field decides it".into());
    }
    lines.join("\n") + "\n"
}

fn describe_endpoint(lines: &mut Vec<String>, index: usize, endpoint: &Endpoint) {
    let (successes, failures) = (endpoint.success_threshold, endpoint.failure_threshold);
    lines.extend([
        format!("{}    {}", endpoint.name(index), endpoint.probe),
        format!("  timeout       {} s", endpoint.timeout.as_secs()),
        format!("  expects       {}", expected(&endpoint.probe)),
        format!("  thresholds    successes {successes}, failures {failures}"),
    ]);
    match &endpoint.probe {
        Probe::Http(http) => describe_http(lines, http),
        Probe::Tcp(_) => {}
    }
    lines.extend(endpoint.condition.iter().map(|condition| {
        let (delay, period) = (condition.delay.as_secs(), condition.period.as_secs());
        format!("  probed        {delay} s after the start, then every {period} s")
    }));
    for policy in &endpoint.policies {
        lines.push(format!("  {} -> {}", condition(endpoint, &policy.when), effects(policy)));
    }
    let any_result = format!("  {} and any result ->", success(endpoint));
    for (key, what) in [(&endpoint.annotation_key, "annotation"), (&endpoint.label_key, "label")] {
        lines.extend(key.iter().map(|key| format!("{any_result} {what} {key} of the Pod")));
    }
    if let Some(Field { target, pointer }) = &endpoint.field {
        let object = target.as_ref().map_or("the GameServer".into(), describe_target);
        lines.push(format!("{any_result} {pointer} of {object}"));
    }
    if !endpoint.protected_ops_states.is_empty() {
        let states = endpoint.protected_ops_states.join(", ");
        lines.push(format!("  not written while somebody else has set opsState to {states}"));
    }
}

/// What makes a probe a success.
fn expected(probe: &Probe) -> String {
    match probe {
        Probe::Http(http) => format!("status {}", statuses(&http.expected_status)),
        Probe::Tcp(_) => "a connection".into(),
    }
}

/// Statuses as a message shows them.
pub fn statuses(range: &RangeInclusive<u16>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

fn describe_http(lines: &mut Vec<String>, http: &HttpProbe) {
    if !http.headers.is_empty() {
        lines.push(format!("  headers       {}, not shown", http.headers.len()));
    }
    let result = match &http.extract {
        Some(Extract { path, field_type }) => {
            let field_type = match field_type {
                None => "",
                Some(FieldType::String) => ", a string",
                Some(FieldType::Integer) => ", an integer",
                Some(FieldType::Number) => ", a number",
                Some(FieldType::Boolean) => ", a boolean",
            };
            format!("{} of the JSON body{field_type}", excerpt(&path.join(".")))
        }
        None if http.reads_body => "the body, without white space around it".into(),
        None => "none, the body is not read".into(),
    };
    lines.push(format!("  result        {result}"));
}

/// A success, as the start of a condition.
fn success(endpoint: &Endpoint) -> String {
    let succeeds = match &endpoint.probe {
        Probe::Http(http) => statuses(&http.expected_status),
        Probe::Tcp(_) => expected(&endpoint.probe),
    };
    match endpoint.success_threshold {
        1 => succeeds,
        count => format!("{count} times in a row {succeeds}"),
    }
}

fn condition(endpoint: &Endpoint, when: &When) -> String {
    let success = success(endpoint);
    let result = if endpoint.probe.extract().is_some() { "result" } else { "body" };
    match when {
        When::State(state) if state == FAILED => format!("{} failures in a row", endpoint.failure_threshold),
        When::State(state) if state == SUCCEEDED && endpoint.policies.len() == 1 => success,
        When::State(state) if state == SUCCEEDED => format!("{success} and anything else"),
        when => format!("{success} and {result} {when}"),
    }
}

fn effects(policy: &Policy) -> String {
    let effects = policy.effects().into_iter().map(|effect| match (effect.field, effect.value.to_string()) {
        (field @ "annotation", value) => format!("{field} {}={}", effect.key, excerpt(&value)),
        (field @ "label", value) => format!("{field} {}={value}", effect.key),
        (field, value) => format!("{field} {value}"),
    });
    effects.collect::<Vec<_>>().join(", ")
}

fn describe_target(target: &Target) -> String {
    let Target { group, version, resource, namespace, name } = target;
    let group = if group.is_empty() { String::new() } else { format!("{group}/") };
    let namespace = namespace.as_ref().map_or("the pod's namespace".into(), |name| format!("namespace {name}"));
    format!("{group}{version} {resource} {name} in {namespace}")
}
