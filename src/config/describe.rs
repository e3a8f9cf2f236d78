//! Owns what `okg-sidecar check` prints: the rules as a person reads them.

use std::fmt::Write;

use super::{
    Config, Endpoint, Extract, FAILED, Field, FieldType, HttpProbe, Policy, Priority, Probe, SUCCEEDED, Target, When,
};
use crate::excerpt::excerpt;

/// The whole configuration, defaults filled in.
pub(super) fn describe(config: &Config) -> String {
    let mut text = String::new();
    let resync =
        config.resync.map_or("never".into(), |every| format!("every {} s, give or take 10 %", every.as_secs()));
    line(&mut text, format_args!("first round     {} s after the start", config.start_delay.as_secs()));
    line(&mut text, format_args!("then            every {} s", config.interval.as_secs()));
    line(&mut text, format_args!("written again   {resync}"));
    for (index, endpoint) in config.endpoints.iter().enumerate() {
        line(&mut text, format_args!(""));
        describe_endpoint(&mut text, index, endpoint);
    }
    let deciding: Vec<String> = (0..config.endpoints.len())
        .filter(|&index| config.endpoints[index].policies.iter().any(Policy::sets_game_server))
        .map(|index| format!("endpoints[{index}]"))
        .collect();
    if deciding.len() > 1 {
        line(&mut text, format_args!(""));
        line(
            &mut text,
            format_args!("the first of {} that has an opinion decides on the GameServer", deciding.join(", ")),
        );
    }
    text
}

fn describe_endpoint(text: &mut String, index: usize, endpoint: &Endpoint) {
    match &endpoint.probe {
        Probe::Http(http) => describe_http(text, index, endpoint, http),
    }
    for policy in &endpoint.policies {
        line(text, format_args!("  {} -> {}", condition(endpoint, &policy.when), effects(policy)));
    }
    for (key, what) in [(&endpoint.annotation_key, "annotation"), (&endpoint.label_key, "label")] {
        if let Some(key) = key {
            line(text, format_args!("  {} and any result -> {what} {key} of the Pod", success(endpoint)));
        }
    }
    if let Some(Field { target, pointer }) = &endpoint.field {
        let object = target.as_ref().map_or("the GameServer".into(), describe_target);
        line(text, format_args!("  {} and any result -> {pointer} of {object}", success(endpoint)));
    }
    if !endpoint.protected_ops_states.is_empty() {
        let states = endpoint.protected_ops_states.join(", ");
        line(text, format_args!("  not written while another has set opsState to {states}"));
    }
}

fn describe_http(text: &mut String, index: usize, endpoint: &Endpoint, http: &HttpProbe) {
    line(text, format_args!("endpoints[{index}]    {}", endpoint.probe));
    line(text, format_args!("  timeout       {} s", endpoint.timeout.as_secs()));
    line(text, format_args!("  expects       status {}", http.expected_status));
    line(
        text,
        format_args!(
            "  thresholds    successes {}, failures {}",
            endpoint.success_threshold, endpoint.failure_threshold
        ),
    );
    if !http.headers.is_empty() {
        let names: Vec<&str> = http.headers.keys().map(|name| name.as_str()).collect();
        line(text, format_args!("  headers       {}", names.join(", ")));
    }
    if let Some(Extract { path, field_type }) = &http.extract {
        let field_type = match field_type {
            None => "",
            Some(FieldType::String) => ", a string",
            Some(FieldType::Integer) => ", an integer",
            Some(FieldType::Number) => ", a number",
            Some(FieldType::Boolean) => ", a boolean",
        };
        line(text, format_args!("  result        {} of the JSON body{field_type}", excerpt(&path.join("."))));
    } else if http.reads_body {
        line(text, format_args!("  result        the body, without white space around it"));
    } else {
        line(text, format_args!("  result        none, the body is not read"));
    }
}

/// A success, as the start of a condition.
fn success(endpoint: &Endpoint) -> String {
    let succeeds = match &endpoint.probe {
        Probe::Http(http) => http.expected_status.to_string(),
    };
    match endpoint.success_threshold {
        1 => succeeds,
        count => format!("{count} times in a row {succeeds}"),
    }
}

fn condition(endpoint: &Endpoint, when: &When) -> String {
    let success = success(endpoint);
    let result = match &endpoint.probe {
        Probe::Http(HttpProbe { extract: Some(_), .. }) => "result",
        Probe::Http(_) => "body",
    };
    match when {
        When::State(state) if state == FAILED => format!("{} failures in a row", endpoint.failure_threshold),
        When::State(state) if state == SUCCEEDED && endpoint.policies.len() == 1 => success,
        When::State(state) if state == SUCCEEDED => format!("{success} and anything else"),
        When::State(state) => format!("{success} and {result} {}", excerpt(state)),
        When::Range(min, max) => format!("{success} and {result} {}", range(*min, *max)),
    }
}

/// A range as a message shows it.
pub fn range(min: f64, max: f64) -> String {
    match (min.is_finite(), max.is_finite()) {
        (true, true) => format!("{min} to {max}"),
        (true, false) => format!("{min} or more"),
        _ => format!("{max} or less"),
    }
}

fn effects(policy: &Policy) -> String {
    let mut effects = Vec::new();
    if let Some(state) = &policy.ops_state {
        effects.push(format!("opsState {state}"));
    }
    for (priority, name) in
        [(&policy.deletion_priority, "deletionPriority"), (&policy.update_priority, "updatePriority")]
    {
        match priority {
            Some(Priority::Integer(value)) => effects.push(format!("{name} {value}")),
            Some(Priority::Text(template)) => effects.push(format!("{name} {template}")),
            None => {}
        }
    }
    effects.extend(policy.labels.iter().map(|(key, value)| format!("label {key}={value}")));
    effects.extend(
        policy.annotations.iter().map(|(key, value)| format!("annotation {key}={}", excerpt(&value.to_string()))),
    );
    effects.join(", ")
}

fn describe_target(target: &Target) -> String {
    let Target { group, version, resource, namespace, name } = target;
    let group = if group.is_empty() { String::new() } else { format!("{group}/") };
    let namespace = namespace.as_ref().map_or("the pod's namespace".into(), |name| format!("namespace {name}"));
    format!("{group}{version} {resource} {name} in {namespace}")
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", line.to_string().trim_end());
}
