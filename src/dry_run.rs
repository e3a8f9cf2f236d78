//! Owns `okg-sidecar probe`: every endpoint once, reported step by step, and nothing written (behaviour 1.3).

use std::fmt::Write;

use crate::config::{self, Config, Endpoint, FAILED, When};
use crate::decide::decision::Decision;
use crate::decide::merge_patch::patch_of;
use crate::decide::object::Identity;
use crate::decide::opinion::Opinion;
use crate::decide::policy::{Outcome, ProbeResult};
use crate::excerpt::{chain, excerpt};
use crate::probe;

/// Probes every endpoint of `config` once and prints what comes of it. Gives how many probes failed.
///
/// Thresholds count as reached, and names that the environment does not give stand as `POD_NAMESPACE` and `POD_NAME`.
pub fn run(config: &Config, variable: &dyn Fn(&str) -> Option<String>, print: &mut dyn FnMut(&str)) -> usize {
    let identity = identity(variable);
    let endpoints: Vec<Endpoint> = config
        .endpoints
        .iter()
        .map(|endpoint| Endpoint { success_threshold: 1, failure_threshold: 1, ..endpoint.clone() })
        .collect();
    let mut opinions = Vec::new();
    let mut failed = 0;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut opinion = Opinion::default();
        let mut text = format!("{}    {}\n", endpoint.name(index), endpoint.probe);
        let outcome = probe_once(endpoint, &mut text);
        let is_failure = matches!(outcome, Outcome::Failure(_));
        failed += usize::from(is_failure);
        opinion.observe(endpoint, outcome);
        let selected = match opinion.policy.map(|index| &endpoint.policies[index].when) {
            None => "none".into(),
            Some(When::State(state)) if state == FAILED && is_failure => {
                format!("{FAILED}, after {} in a row", config.endpoints[index].failure_threshold)
            }
            Some(When::State(state)) => excerpt(state),
            Some(When::Range(min, max)) => config::range(*min, *max),
        };
        if endpoint.condition.is_none() {
            line(&mut text, "policy", &selected);
        }
        text.push('\n');
        print(&text);
        opinions.push(opinion);
    }
    print(&patches(config, &endpoints, &opinions, &identity));
    failed
}

fn probe_once(endpoint: &Endpoint, text: &mut String) -> Outcome {
    let attempt = probe::attempt(&endpoint.probe, endpoint.timeout, |response| {
        line(text, "answer", &response.to_string());
    });
    match attempt {
        Ok(result) => {
            line(text, "result", &if result == ProbeResult::Unread { "none".into() } else { result.to_string() });
            Outcome::Success(result)
        }
        Err(error) => {
            line(text, "failed", &chain(&error));
            Outcome::Failure(error.message())
        }
    }
}

fn identity(variable: &dyn Fn(&str) -> Option<String>) -> Identity {
    let name = |name: &str| variable(name).filter(|value| config::is_object_name(value)).unwrap_or_else(|| name.into());
    Identity { namespace: name("POD_NAMESPACE"), name: name("POD_NAME"), uid: None }
}

/// The rules of RBAC that `config` needs, as YAML to paste into Roles.
pub fn roles(config: &Config, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let identity = identity(variable);
    let mut decision = Decision::new(&config.endpoints, &identity);
    decision.set_unknown(&identity, &config.unknown);
    let mut roles: Vec<(&str, String)> = Vec::new();
    for object in decision.writable() {
        let (namespace, group, resource) = object.place();
        let rule = format!("- {{apiGroups: [{group:?}], resources: [{resource:?}], verbs: [patch]}}\n");
        match roles.iter_mut().find(|(of, _)| *of == namespace) {
            Some((_, role)) if role.contains(&rule) => {}
            Some((_, role)) => role.push_str(&rule),
            None => roles.push((namespace, format!("\n# the Role in the namespace {namespace}\nrules:\n{rule}"))),
        }
    }
    roles.into_iter().map(|(_, role)| role).collect()
}

fn patches(config: &Config, endpoints: &[Endpoint], opinions: &[Opinion], identity: &Identity) -> String {
    let mut decision = Decision::new(endpoints, identity);
    decision.set_unknown(identity, &config.unknown);
    let cannot_hold = decision.update(endpoints, opinions, endpoints.len());
    let mut text = String::new();
    for (object, fields) in decision.objects() {
        // A key that is there from before would be removed; there may be none.
        let changes: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
        if !changes.is_empty() {
            let patch = patch_of(object.kind, changes);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "would send  PATCH {}\n            {patch}", object.path);
        }
    }
    for field in cannot_hold {
        let _ = writeln!(text, "would not write {}: it cannot hold what {} makes of it", field.field, field.result);
    }
    if text.is_empty() {
        text.push_str("would send  nothing\n");
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {name:<13} {value}");
}
