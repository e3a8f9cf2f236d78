//! Owns `okg-sidecar probe`: every endpoint once, told step by step, and nothing written (SPEC 1.3).

use std::fmt::Write;

use crate::config::{self, Config, Endpoint, FAILED, When};
use crate::decide::patch::{Changes, Desired, Identity, merge_patch};
use crate::decide::policy::Reading;
use crate::decide::tracker::Tracker;
use crate::excerpt::{chain, excerpt};
use crate::probe::{self, Body, Reply};

/// Probes every endpoint of `config` once and tells what comes of it. Gives how many probes failed.
///
/// Thresholds count as reached, and names that the environment does not give stand as `POD_NAMESPACE` and `POD_NAME`.
pub fn rehearse(config: &Config, variable: &dyn Fn(&str) -> Option<String>, print: &mut dyn FnMut(&str)) -> usize {
    let name = |name: &str| variable(name).filter(|value| config::is_object_name(value)).unwrap_or_else(|| name.into());
    let identity = Identity { namespace: name("POD_NAMESPACE"), name: name("POD_NAME") };
    let endpoints: Vec<Endpoint> = config
        .endpoints
        .iter()
        .map(|endpoint| Endpoint { success_threshold: 1, failure_threshold: 1, ..endpoint.clone() })
        .collect();
    let mut trackers = Vec::new();
    let mut failed = 0;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut tracker = Tracker::default();
        let mut told = format!("endpoints[{index}]    {} {}\n", endpoint.method, endpoint.place());
        let reading = take_reading(endpoint, &mut told);
        tracker.observe(endpoint, &reading);
        failed += usize::from(reading == Reading::Failure);
        let selected = match tracker.opinion().map(|at| &endpoint.policies[at].when) {
            None => "none".into(),
            Some(When::State(state)) if state == FAILED && reading == Reading::Failure => {
                format!("{FAILED}, after {} in a row", config.endpoints[index].failure_threshold)
            }
            Some(When::State(state)) => excerpt(state),
            Some(When::Range(min, max)) => config::range(*min, *max),
        };
        line(&mut told, "policy", &selected);
        told.push('\n');
        print(&told);
        trackers.push(tracker);
    }
    print(&patches(&Desired::decide(endpoints.iter().zip(&trackers), &identity, &Desired::default())));
    failed
}

fn take_reading(endpoint: &Endpoint, told: &mut String) -> Reading {
    let reply = match probe::ask(endpoint) {
        Ok(reply) => reply,
        Err(error) => {
            line(told, "failed", &chain(&error));
            return Reading::Failure;
        }
    };
    let Reply { status, body } = &reply;
    line(
        told,
        "answer",
        &match body {
            Body::Unread => format!("{status}, body not read"),
            Body::Whole(body) => format!("{status} {}", excerpt(body)),
            Body::Cut(body) => format!("{status} {}, a body of more than 64 KiB", excerpt(body)),
        },
    );
    match probe::answer(endpoint, &reply) {
        Ok(answer) => {
            line(told, "result", &answer.beginning().map_or_else(|| "none".into(), excerpt));
            Reading::Success(answer)
        }
        Err(error) => {
            line(told, "failed", &chain(&error));
            Reading::Failure
        }
    }
}

fn patches(desired: &Desired) -> String {
    let mut told = String::new();
    for (object, fields) in desired.fields.iter().filter(|(_, fields)| !fields.is_empty()) {
        let changes: Changes = fields.iter().map(|(pointer, value)| (pointer.clone(), Some(value.clone()))).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(told, "would send  PATCH {}\n            {}", object.path, merge_patch(&changes));
    }
    for (field, result) in &desired.illegal {
        let _ = writeln!(told, "would not write {field}: it cannot hold what {result} makes of it");
    }
    if told.is_empty() {
        told.push_str("would send  nothing\n");
    }
    told
}

fn line(told: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(told, "  {name:<13} {value}");
}
