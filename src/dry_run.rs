//! Owns `okg-sidecar probe`: every endpoint once, reported step by step, and nothing written (behaviour 1.3). And what `check`
//! says of the rights that a config needs (behaviour 1.2).

use std::fmt::Write;
use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;

use crate::config::{
    Config, DELETION_PRIORITY, Endpoint, FAILED, Field, OPS_STATE, Policy, Probe, UPDATE_PRIORITY, When,
};
use crate::decide::decision::{CannotHold, Decision, Fields};
use crate::decide::merge_patch::patch_of;
use crate::decide::object::{Identity, Kind};
use crate::decide::opinion::Opinion;
use crate::decide::policy::{Outcome, ProbeResult};
use crate::excerpt::{self, chain};
use crate::json::pointer_keys;
use crate::probe::{ProbeError, Prober};

/// Probes every endpoint of `config` once and prints what comes of it. Gives how many probes failed.
///
/// Thresholds count as reached.
pub fn run(config: &Config, identity: &Identity, print: &mut dyn FnMut(&str)) -> usize {
    let reached = |endpoint: &Endpoint| Endpoint { success_threshold: 1, failure_threshold: 1, ..endpoint.clone() };
    let endpoints: Vec<Endpoint> = config.endpoints.iter().map(reached).collect();
    let mut opinions = Vec::new();
    let mut failed = 0;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut opinion = Opinion::default();
        let mut text = format!("{}    {}\n", endpoint.name(index), endpoint.probe);
        let outcome = probe_once(endpoint, &mut text);
        let is_failure = matches!(outcome, Outcome::Failure(_));
        failed += usize::from(is_failure);
        // Times count as reached, too.
        for now in [Duration::ZERO, Duration::MAX] {
            opinion.observe(endpoint, outcome.clone(), now);
        }
        let selected = match opinion.policy.map(|index| &endpoint.rules().policies[index]) {
            Some(Policy { when: When::State(state), .. }) if state == FAILED => {
                format!("{FAILED}, after {} in a row", config.endpoints[index].failure_threshold)
            }
            Some(policy) => policy.condition(),
            None => format!("none of {}", states(&endpoint.rules().policies)),
        };
        if !endpoint.rules().policies.is_empty() {
            line(&mut text, "policy", &selected);
        }
        text.push('\n');
        print(&text);
        opinions.push(opinion);
    }
    print(&patches(config, &endpoints, &opinions, identity));
    failed
}

fn states(policies: &[Policy]) -> String {
    policies.iter().map(Policy::condition).collect::<Vec<_>>().join(", ")
}

fn probe_once(endpoint: &Endpoint, text: &mut String) -> Outcome {
    let attempt = Prober::for_a_person(endpoint).attempt(|document| line(text, "answer", &document.to_string()));
    match attempt {
        Ok(result) => {
            match (&endpoint.probe, &result) {
                // The document says it all.
                (Probe::Tcp(_), _) => {}
                (_, ProbeResult::Unread) => line(text, "result", "none"),
                (_, result) => line(text, "result", &result.to_string()),
            }
            Outcome::Success(result)
        }
        Err(error) => {
            if let ProbeError::Status { answer: Some(answer), .. } = &error {
                line(text, "answer", &answer.to_string());
            }
            line(text, "failed", &chain(&error));
            if let Some(advice) = advice(&error) {
                line(text, "", advice);
            }
            Outcome::Failure(error.message())
        }
    }
}

/// What to look at.
fn advice(error: &ProbeError) -> Option<&'static str> {
    match error {
        ProbeError::File(cause) if cause.kind() == ErrorKind::NotFound => {
            Some("is its volume mounted into the sidecar's container, too, and at this path?")
        }
        ProbeError::DocumentTooLong => {
            Some("take the result out of a shorter document, or have it written to a file of its own")
        }
        _ => None,
    }
}

/// What `config` needs to be allowed, as YAML: the rules of RBAC to paste into Roles, and the annotation of the namespace that
/// the admission policy of deploy/ reads.
pub fn rights(config: &Config, identity: &Identity) -> String {
    let mut decision = Decision::new(&config.endpoints, identity);
    decision.set_unknown(identity, &config.unknown);
    let mut roles: Vec<(&str, String)> = Vec::new();
    for object in decision.writable() {
        let (namespace, group, resource) = object.rbac();
        let rule = format!("- {{apiGroups: [{group:?}], resources: [{resource:?}], verbs: [patch]}}\n");
        match roles.iter_mut().find(|(of, _)| *of == namespace) {
            Some((_, role)) if role.contains(&rule) => {}
            Some((_, role)) => role.push_str(&rule),
            None => roles.push((namespace, format!("\n# the Role in the namespace {namespace}\nrules:\n{rule}"))),
        }
    }
    let mut rights: String = roles.into_iter().map(|(_, role)| role).collect();
    if decision.writable().any(|object| object.kind == Kind::Target) {
        rights.push_str("\n# a target needs an admission policy of its own, as in deploy/examples/target.yaml\n");
    }
    let may_write = may_write(config, identity);
    if !may_write.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(
            rights,
            "\n# the namespace {}, for the admission policy; other configs there may need more\nannotations:\n  \
             okg-sidecar/may-write: {}\n",
            identity.namespace,
            Vec::from_iter(may_write.into_keys()).join(" ")
        );
    }
    rights
}

/// What the admission policy has to allow of the pod's own objects: resource, part of the object, and key.
fn may_write(config: &Config, identity: &Identity) -> Fields {
    let listed = |field: &Field| {
        let resource = match identity.object_of(&field.object).kind {
            Kind::GameServer => "gameservers",
            Kind::Pod => "pods",
            Kind::PodStatus | Kind::Target => return None,
        };
        let always = [OPS_STATE, DELETION_PRIORITY, UPDATE_PRIORITY].contains(&field.pointer.as_str());
        let path = field.pointer.strip_prefix("/metadata").unwrap_or(&field.pointer);
        // The policy looks at a member of spec as a whole.
        let mut keys = pointer_keys(path).take(2);
        let (part, key) = (keys.next()?, keys.next()?);
        (!always).then(|| format!("{resource}/{part}/{key}"))
    };
    // Not collected into a set, which would bring a sort of its own into the binary.
    let mut may_write = Fields::new();
    let fields = config.endpoints.iter().flat_map(|endpoint| endpoint.rules().fields());
    may_write.extend(fields.filter_map(listed).map(|listed| (listed, Value::Null)));
    may_write
}

fn patches(config: &Config, endpoints: &[Endpoint], opinions: &[Opinion], identity: &Identity) -> String {
    let mut decision = Decision::new(endpoints, identity);
    decision.set_unknown(identity, &config.unknown);
    let cannot_hold = decision.update(endpoints, opinions, endpoints.len());
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (object, fields) in decision.objects() {
        // A key that is there from before would be removed; there may be none.
        let changes: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
        if !changes.is_empty() {
            let patch = patch_of(object.kind, changes.iter().copied());
            let _ = writeln!(text, "would send  PATCH {}\n            {}", object.path, excerpt::json(&patch));
        }
        for (pointer, _) in &changes {
            if let Some(index) = decision.set_by(object, pointer) {
                let _ = writeln!(text, "            {pointer}: decided by {}", endpoints[index].name(index));
            }
        }
    }
    for CannotHold { field, why } in cannot_hold {
        let _ = writeln!(text, "would not change {field}: {why}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_lists_what_is_no_field_of_every_sidecar() {
        let identity = Identity { namespace: "games".into(), name: "gs-0".into(), uid: None, token_issued_at: None };
        let endpoint = |in_kube: &str| {
            format!("{{url: 'http://localhost:1', storageConfig: {{type: InKube, inKube: {{{in_kube}}}}}}}")
        };
        let own_pod = "target: {version: v1, resource: pods, name: gs-0}";
        for (endpoints, listed) in [
            (vec!["markerPolices: [{state: A, gameServerOpsState: A, gameServerDeletionPriority: 1}]".to_owned()], ""),
            (vec!["jsonPath: /spec/updatePriority".to_owned()], ""),
            (vec!["jsonPath: /spec/networkDisabled".to_owned()], "gameservers/spec/networkDisabled"),
            (vec!["jsonPath: /spec/a/b/0".to_owned()], "gameservers/spec/a"),
            (vec!["jsonPath: /metadata/annotations/a.b~1c".to_owned()], "gameservers/annotations/a.b/c"),
            (vec![format!("jsonPath: /metadata/labels/room, {own_pod}")], "pods/labels/room"),
            (
                vec![
                    "labelKey: z, annotationKey: y".to_owned(),
                    "markerPolices: [{state: A, labels: {x: '1', z: '2'}, annotations: {w: '3'}}]".to_owned(),
                ],
                "pods/annotations/w pods/annotations/y pods/labels/x pods/labels/z",
            ),
        ] {
            let endpoints: Vec<_> = endpoints.iter().map(|in_kube| endpoint(in_kube)).collect();
            let text = format!("plugins: [{{name: http_probe, config: {{endpoints: [{}]}}}}]", endpoints.join(", "));
            let config = Config::parse(text.clone().into_bytes(), &|_| None).expect(&text);
            let shown = rights(&config, &identity);
            let line = shown.lines().find_map(|line| line.strip_prefix("  okg-sidecar/may-write: "));
            assert_eq!(line.unwrap_or_default(), listed, "{shown}");
        }
    }

    #[test]
    fn a_target_is_told_to_need_a_policy_of_its_own() {
        let identity = Identity { namespace: "games".into(), name: "gs-0".into(), uid: None, token_issued_at: None };
        let text = "plugins: [{name: http_probe, config: {endpoints: [{url: 'http://localhost:1', storageConfig: {type: InKube,
            inKube: {jsonPath: /data/count, target: {version: v1, resource: configmaps, name: a}}}}]}}]";
        let config = Config::parse(text.as_bytes().to_vec(), &|_| None).expect("it is legal");
        let shown = rights(&config, &identity);
        assert!(shown.contains("a target needs an admission policy of its own"), "{shown}");
        assert!(!shown.contains("may-write"), "{shown}");
    }
}
