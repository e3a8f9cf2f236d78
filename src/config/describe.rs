//! Owns what `okg-sidecar check` prints: the rules as a person reads them.

use std::ops::RangeInclusive;

use super::{
    Config, Endpoint, Extract, FAILED, Field, FieldType, FileProbe, Metric, OPS_STATE, ObjectRef, Players,
    PodCondition, Probe, SUCCEEDED, When,
};
use crate::excerpt::excerpt;

impl Config {
    /// The rules as a person reads them, defaults filled in: what `okg-sidecar check` prints.
    pub fn describe(&self) -> String {
        let has_rounds = !self.is_of_kruise();
        let (delay, interval) = (self.start_delay.as_secs(), self.interval.as_secs());
        let resync =
            self.resync.map_or("never".into(), |every| format!("every {} s, give or take 10 %", every.as_secs()));
        let mut lines = vec![match has_rounds {
            false => "Kruise's probes, each of which sets a condition of the pod".into(),
            true => format!(
                "first round     {delay} s after the start\nthen            every {interval} s\nresync          {resync}"
            ),
        }];
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            lines.push(format!("\n{}    {}", endpoint.name(index), endpoint.probe));
            describe_endpoint(&mut lines, endpoint);
        }
        lines.extend(self.unknown.iter().map(|(name, why)| format!("\n{name}    stays Unknown: {why}")));
        if self.endpoints.len() > 1 && has_rounds {
            lines.push("\nthe first endpoint whose opinion sets a field decides it".into());
        }
        lines.join("\n") + "\n"
    }
}

fn describe_endpoint(lines: &mut Vec<String>, endpoint: &Endpoint) {
    let (successes, failures) = (endpoint.success_threshold, endpoint.failure_threshold);
    let (expected, success) = match &endpoint.probe {
        Probe::Http(http) => ("status ", statuses(&http.expected_status)),
        Probe::Tcp(_) => ("", "a connection".into()),
        Probe::File(FileProbe { max_age: None, .. }) => ("", "a file".into()),
        Probe::File(FileProbe { max_age: Some(age), .. }) => {
            ("", format!("a file modified in the last {} s", age.as_secs()))
        }
        Probe::A2s(_) | Probe::Minecraft(_) | Probe::Bedrock(_) | Probe::Quake3(_) => ("", "an answer".into()),
    };
    lines.push(format!("  timeout       {} s", endpoint.timeout.as_secs()));
    lines.push(format!("  expects       {expected}{success}"));
    lines.push(format!("  thresholds    successes {successes}, failures {failures}"));
    match &endpoint.probe {
        Probe::Http(http) => {
            if !http.headers.is_empty() {
                lines.push(format!("  headers       {}, not shown", http.headers.len()));
            }
            if !http.body.is_empty() {
                lines.push(format!("  body          {} bytes, not shown", http.body.len()));
            }
        }
        Probe::Tcp(_) | Probe::File(_) => {}
        Probe::A2s(_) | Probe::Minecraft(_) | Probe::Bedrock(_) | Probe::Quake3(_) => {}
    }
    if endpoint.probe.default_extract() != Extract::Nothing {
        lines.push(format!("  result        {}", result(endpoint)));
    }
    if let Some(PodCondition { delay, period, .. }) = endpoint.condition() {
        let (delay, period) = (delay.as_secs(), period.as_secs());
        lines.push(format!("  probed        {delay} s after the start, then every {period} s"));
    }
    let success = if successes == 1 { success } else { format!("{successes} times in a row {success}") };
    let result = match endpoint.extract {
        Extract::Nothing | Extract::Whole => "body",
        Extract::Value { .. } | Extract::Count { .. } | Extract::Metric(_) | Extract::Players(_) => "result",
    };
    let rules = endpoint.rules();
    for policy in &rules.policies {
        let lasting = match policy.lasting.as_secs() {
            0 => String::new(),
            seconds => format!(", for {seconds} s"),
        };
        let condition = match &policy.when {
            When::State(state) if state == FAILED => format!("{failures} failures in a row"),
            When::State(state) if state == SUCCEEDED && rules.policies.len() == 1 => success.clone(),
            When::State(state) if state == SUCCEEDED => format!("{success} and anything else"),
            when => format!("{success} and {result} {when}"),
        };
        let sets = policy.sets.iter().map(|(field, value)| match field.object {
            ObjectRef::GameServer => format!("{field} {value}"),
            ObjectRef::Pod | ObjectRef::Target(_) => format!("{field} {}", excerpt(&value.to_string())),
        });
        lines.push(format!("  {condition}{lasting} -> {}", sets.collect::<Vec<_>>().join(", ")));
    }
    let has = |name: &str| rules.policies.iter().any(|policy| policy.when == When::State(name.into()));
    if !rules.policies.is_empty() && !has(SUCCEEDED) {
        let sets_ops_state = rules.fields().any(|field| *field == Field::of_game_server(OPS_STATE));
        let stays = if sets_ops_state { ", opsState stays" } else { "" };
        lines.push(format!("  any other result -> nothing{stays}"));
    }
    lines.extend(rules.result_fields.iter().map(|field| format!("  {success} and any result -> {field}")));
    if !rules.protected_ops_states.is_empty() {
        let states = rules.protected_ops_states.join(", ");
        lines.push(format!("  not written while somebody else has set opsState to {states}"));
    }
}

/// Statuses as a message shows them.
pub fn statuses(range: &RangeInclusive<u16>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

/// How the result is taken out of the document.
fn result(endpoint: &Endpoint) -> String {
    let document = match endpoint.probe {
        Probe::Http(_) => "body",
        Probe::File(_) => "file",
        Probe::Tcp(_) | Probe::A2s(_) | Probe::Minecraft(_) | Probe::Bedrock(_) | Probe::Quake3(_) => "answer",
    };
    let at = |path: &[String]| if path.is_empty() { "all".into() } else { excerpt(&path.join(".")) };
    let typed = |field_type: &Option<FieldType>| match field_type {
        None => "",
        Some(FieldType::String) => ", a string",
        Some(FieldType::Integer) => ", an integer",
        Some(FieldType::Number) => ", a number",
        Some(FieldType::Boolean) => ", a boolean",
    };
    match &endpoint.extract {
        Extract::Value { path, field_type } => format!("{} of the JSON {document}{}", at(path), typed(field_type)),
        Extract::Count { path, field_type } => {
            format!("the number of elements of {} of the JSON {document}{}", at(path), typed(field_type))
        }
        Extract::Metric(Metric { name, labels }) => {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name} {}", excerpt(value))).collect();
            let with = if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(", ")) };
            format!("the sum of the samples of {name}{with} in the {document}")
        }
        Extract::Players(Players::All | Players::Online) => "the number of players".into(),
        Extract::Players(Players::WithoutBots) => "the number of players without bots".into(),
        Extract::Whole => format!("the {document}, without white space around it"),
        Extract::Nothing => match endpoint.probe {
            Probe::Http(_) => "none, the body is not read".into(),
            Probe::Tcp(_) | Probe::File(_) => "none".into(),
            Probe::A2s(_) | Probe::Minecraft(_) | Probe::Bedrock(_) | Probe::Quake3(_) => "none".into(),
        },
    }
}
