//! Owns what is legal but cannot be meant (behaviour 2.10): the path of the key, what happens, and what to do.

use super::{
    Config, DELETION_PRIORITY, Endpoint, Extract, FAILED, Field, FieldType, OPS_STATE, Policy, SUCCEEDED, Template,
    UPDATE_PRIORITY, When,
};
use crate::excerpt::excerpt;

/// The opsStates that OpenKruiseGame gives a meaning to.
const KNOWN_OPS_STATES: [&str; 5] = ["None", "Allocated", "WaitToBeDeleted", "Maintaining", "Kill"];

/// Fields of the GameServer, their keys in a policy, and the values that need no way back: where a game server begins,
/// and where it ends.
const LASTING: [(&str, &str, &[&str]); 3] = [
    (OPS_STATE, "gameServerOpsState", &["None", "WaitToBeDeleted", "Kill"]),
    (DELETION_PRIORITY, "gameServerDeletionPriority", &["0"]),
    (UPDATE_PRIORITY, "gameServerUpdatePriority", &["0"]),
];

/// Of rules that are legal each by itself. Each endpoint's policies stand at a path of `policy_lists`.
pub(super) fn of_rules(config: &Config, policy_lists: &[String]) -> Vec<String> {
    let endpoints = &config.endpoints;
    let mut policies = Vec::new();
    for (endpoint, list) in endpoints.iter().zip(policy_lists) {
        let of_endpoint = endpoint.rules().policies.iter().enumerate();
        policies.extend(of_endpoint.map(|(index, policy)| (format!("{list}[{index}]"), endpoint, policy)));
    }
    let mut warnings = Vec::new();
    for (path, endpoint, policy) in &policies {
        let state = policy.value(&Field::of_game_server(OPS_STATE)).map(Template::to_string);
        let warning = state.and_then(|state| of_ops_state(&state));
        warnings.extend(warning.map(|warning| format!("{path}.gameServerOpsState: {warning}")));
        let why = never_selected(endpoint, policy);
        warnings.extend(why.map(|why| format!("{path}: no result selects it, since {why}; correct or remove it")));
    }
    for (pointer, key, no_way_back) in LASTING {
        let field = Field::of_game_server(pointer);
        let mut setters = policies.iter().filter_map(|(path, _, policy)| Some((path, policy.value(&field)?)));
        let Some((path, only)) = setters.next() else { continue };
        let decides =
            |endpoint: &Endpoint| always_sets(endpoint, &field) || endpoint.rules().result_fields.contains(&field);
        let changes = only.needs_result() || setters.any(|(_, other)| other != only) || endpoints.iter().any(decides);
        if !changes && !no_way_back.contains(&only.to_string().as_str()) {
            warnings.push(format!(
                "{path}.{key}: no other policy sets {field} to anything else, so that the GameServer keeps {} for good; \
                 add one for the outcome that ends it, such as the state Succeeded",
                excerpt(&only.to_string())
            ));
        }
    }
    warnings.extend((1..endpoints.len()).filter_map(|index| of_overruled(endpoints, index)));
    let waiting = endpoints.iter().filter(|endpoint| endpoint.probe.waits());
    let timeouts: u64 = waiting.map(|endpoint| endpoint.timeout.as_secs()).sum();
    let interval = config.interval.as_secs();
    if timeouts > interval {
        warnings.push(format!(
            "plugins[0].config.probeIntervalSeconds: the timeouts add up to {timeouts} s, more than the {interval} s from \
             round to round, so that rounds are late or dropped while the game does not respond; lower the timeouts or \
             raise the interval"
        ));
    }
    warnings
}

/// Of a value that begins or ends with a quote that YAML takes for a letter. Never shows it, since it may be a secret.
pub(super) fn of_quotes(path: &str) -> String {
    format!("{path}: has typographic quotes, which are part of the text; quote with \" or ', or not at all")
}

pub(super) fn has_typographic_quotes(text: &str) -> bool {
    text.starts_with(is_typographic_quote) || text.ends_with(is_typographic_quote)
}

pub(super) fn is_typographic_quote(c: char) -> bool {
    matches!(c, '\u{2018}'..='\u{201f}' | '\u{ff02}' | '\u{ff07}')
}

fn of_ops_state(state: &str) -> Option<String> {
    let known = KNOWN_OPS_STATES;
    match state {
        "Kill" => Some("at Kill OpenKruiseGame deletes the game server and lowers the replicas of its set".into()),
        _ if known.contains(&state) => None,
        _ => Some(format!("OpenKruiseGame gives no meaning to {}, only to {}", excerpt(state), known.join(", "))),
    }
}

/// Why no result selects the policy: the type of the result, or states that come before its range.
fn never_selected(endpoint: &Endpoint, policy: &Policy) -> Option<&'static str> {
    let field_type = match endpoint.extract {
        Extract::Players(_) | Extract::Count { .. } => FieldType::Integer,
        Extract::Metric(_) => FieldType::Number,
        Extract::Nothing | Extract::Whole | Extract::Value { .. } => endpoint.extract.field_type()?,
    };
    let number = matches!(field_type, FieldType::Integer | FieldType::Number);
    match (&policy.when, field_type) {
        (When::State(state), _) if state == SUCCEEDED || state == FAILED => None,
        (When::State(state), _) if number && state.parse::<f64>().is_err() => Some("each result is a number"),
        (When::State(state), FieldType::Boolean) if state == "true" || state == "false" => None,
        (_, FieldType::Boolean) => Some("the fieldType gives true or false"),
        (When::Range(min, max), FieldType::Integer) => {
            let in_range = |number: i32| (*min..=*max).contains(&f64::from(number));
            let own_state = |other: &&Policy| match &other.when {
                When::State(state) => {
                    state.parse().is_ok_and(|number| in_range(number) && number.to_string() == *state)
                }
                When::Range(..) => false,
            };
            // One state may have several times.
            let at_first = |(at, policy): &(usize, &Policy)| {
                endpoint.rules().policies[..*at].iter().all(|p| p.when != policy.when)
            };
            let policies = endpoint.rules().policies.iter().enumerate().filter(at_first).map(|(_, policy)| policy);
            let states = policies.filter(own_state).count() as f64;
            (max.floor() - min.ceil() < states).then_some("every integer in its range is a state of its own")
        }
        _ => None,
    }
}

/// Of an endpoint whose every field an earlier one sets after every outcome.
fn of_overruled(endpoints: &[Endpoint], index: usize) -> Option<String> {
    let mut first = None;
    for field in endpoints[index].rules().fields() {
        let by = endpoints[..index].iter().position(|earlier| always_sets(earlier, field))?;
        first.get_or_insert((by, field));
    }
    let (by, field) = first?;
    Some(format!(
        "plugins[0].config.endpoints[{index}]: never decides anything, since endpoints[{by}] before it sets {field} after every \
         success and every failure; let that one set it for fewer outcomes, such as Failed alone, or move it behind this"
    ))
}

/// Whether an endpoint that has been probed always has an opinion that sets the field.
fn always_sets(endpoint: &Endpoint, field: &Field) -> bool {
    let has = |name: &str| endpoint.rules().policies.iter().any(|policy| policy.when == When::State(name.into()));
    let sets = |policy: &Policy| policy.value(field).is_some_and(|value| !value.needs_result());
    let policies = &endpoint.rules().policies;
    let at_once = |policy: &Policy| policies.iter().any(|other| other.when == policy.when && other.lasting.is_zero());
    has(SUCCEEDED) && has(FAILED) && policies.iter().all(|policy| sets(policy) && at_once(policy))
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;

    /// Endpoints of these policies, in a round that is longer than their timeouts.
    fn warnings(endpoints: &[&str]) -> Vec<String> {
        let endpoint = |rest: &&str| format!("{{url: 'http://h', {rest}}}");
        let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
        let interval = 10 * endpoints.len();
        let config = format!("probeIntervalSeconds: {interval}, endpoints: [{}]", endpoints.join(", "));
        parse(&format!("plugins: [{{name: http_probe, config: {{{config}}}}}]")).unwrap().warnings
    }

    fn storage(in_kube: &str) -> String {
        format!("storageConfig: {{type: InKube, inKube: {{{in_kube}}}}}")
    }

    fn policies(policies: &str) -> String {
        storage(&format!("markerPolices: [{policies}]"))
    }

    const ROOM: &str = "{state: idle, gameServerOpsState: None}, {state: busy, gameServerOpsState: Allocated}";
    const DOWN: &str = "{state: Failed, gameServerOpsState: Maintaining}";
    const UP: &str = "{state: Succeeded, gameServerOpsState: None}";

    #[test]
    fn an_endpoint_behind_one_that_always_has_an_opinion_never_decides() {
        let room = policies(ROOM);
        let overruled = |first: &str, second: &str| {
            warnings(&[first, second]).iter().any(|warning| warning.contains("never decides anything"))
        };
        assert_eq!(
            warnings(&[&policies(&format!("{UP}, {DOWN}")), &room]),
            [
                "plugins[0].config.endpoints[1]: never decides anything, since endpoints[0] before it sets opsState after \
              every success and every failure; let that one set it for fewer outcomes, such as Failed alone, or move it \
              behind this"
            ]
        );
        for (first, second, said) in [
            (policies(&format!("{UP}, {DOWN}, {ROOM}")), room.clone(), true),
            (
                policies(
                    "{state: Succeeded, gameServerDeletionPriority: 0}, {state: Failed, gameServerDeletionPriority: 9}",
                ),
                storage("jsonPath: /spec/deletionPriority"),
                true,
            ),
            (policies(DOWN), room.clone(), false),
            // Until it first succeeds it has no opinion.
            (policies(UP), room.clone(), false),
            (policies(&format!("{UP}, {DOWN}, {{state: busy, labels: {{a: b}}}}")), room.clone(), false),
            (policies(&format!("{UP}, {DOWN}")), storage(&format!("labelKey: room, markerPolices: [{ROOM}]")), false),
            (policies(&format!("{UP}, {DOWN}")), storage("jsonPath: /spec/networkDisabled"), false),
            (
                policies("{state: Succeeded, labels: {up: '1'}}, {state: Failed, labels: {up: '0'}}"),
                storage("labelKey: up"),
                true,
            ),
            (
                policies("{state: Succeeded, labels: {up: '{{.Result}}'}}, {state: Failed, labels: {up: '0'}}"),
                storage("labelKey: up"),
                false,
            ),
            (policies(&format!("{UP}, {DOWN}")), policies("{state: A, gameServerDeletionPriority: 0}"), false),
        ] {
            assert_eq!(overruled(&first, &second), said, "{first} before {second}");
        }
    }

    #[test]
    fn a_field_that_is_never_set_back_stays_for_good() {
        assert_eq!(
            warnings(&[&policies(DOWN)]),
            [
                "plugins[0].config.endpoints[0].storageConfig.inKube.markerPolices[0].gameServerOpsState: no other policy \
              sets opsState to anything else, so that the GameServer keeps `Maintaining` for good; add one for the \
              outcome that ends it, such as the state Succeeded"
            ]
        );
        for (in_kube, said) in [
            ("markerPolicies: [{state: A, gameServerOpsState: Allocated}]", true),
            ("markerPolices: [{state: A, gameServerOpsState: None}]", false),
            ("markerPolices: [{state: over, gameServerOpsState: WaitToBeDeleted}]", false),
            ("markerPolices: [{state: A, gameServerDeletionPriority: 5}]", true),
            ("markerPolices: [{state: A, gameServerDeletionPriority: 0}]", false),
            ("markerPolices: [{state: A, gameServerUpdatePriority: '{{.Result}}'}]", false),
            (
                "markerPolices: [{state: A, gameServerUpdatePriority: high}, {state: B, gameServerUpdatePriority: low}]",
                false,
            ),
            ("markerPolices: [{state: A, labels: {a: b}}]", false),
        ] {
            let got = warnings(&[&storage(in_kube)]);
            assert_eq!(got.len(), usize::from(said), "{in_kube}: {got:?}");
            assert!(got.iter().all(|warning| warning.contains(&in_kube[..13])), "{in_kube}: {got:?}");
        }
        assert_eq!(warnings(&[&policies(DOWN), &policies(ROOM)]), [""; 0]);
        let raised = policies("{state: Failed, gameServerDeletionPriority: 9}");
        assert_eq!(warnings(&[&raised, &storage("jsonPath: /spec/deletionPriority")]), [""; 0]);
    }

    #[test]
    fn a_policy_that_no_number_of_players_elements_or_samples_selects_is_named() {
        let word =
            policies("{state: Empty, gameServerOpsState: None}, {state: Succeeded, gameServerOpsState: Allocated}");
        for extract in
            ["jsonPathConfig: {jsonPath: a, count: true}", "jsonPathConfig: {jsonPath: a, count: TRUE}", "metric: a"]
        {
            let got = warnings(&[&format!("{extract}, {word}")]);
            assert!(got.iter().any(|warning| warning.contains("each result is a number")), "{extract}: {got:?}");
        }
        assert_eq!(warnings(&[&format!("jsonPathConfig: {{jsonPath: a, count: false}}, {word}")]), [""; 0]);
        let text = format!("plugins: [{{name: http_probe, config: {{endpoints: [{{url: 'a2s://h', {word}}}]}}}}]");
        let got = super::super::tests::parse(&text).expect("it is legal").warnings;
        assert!(got.iter().any(|warning| warning.contains("each result is a number")), "{got:?}");
    }

    #[test]
    fn a_policy_that_no_result_selects_is_named() {
        for (field_type, condition, why) in [
            ("integer", "state: idle", "each result is a number"),
            ("integer", "state: '7'", ""),
            ("boolean", "state: 'True'", "the fieldType gives true or false"),
            ("boolean", "state: true", ""),
            ("boolean", "min: 1", "the fieldType gives true or false"),
            ("integer", "min: 1, max: 2", "every integer in its range is a state of its own"),
            ("integer", "min: 1, max: 3", ""),
            ("integer", "min: 1.2, max: 1.8", "every integer in its range is a state of its own"),
            ("number", "min: 1, max: 2", ""),
            ("integer", "min: 1", ""),
            ("string", "state: idle", ""),
        ] {
            let rest = if field_type == "boolean" { "{state: false, " } else { "{state: 1, " };
            let rules = policies(&format!(
                "{rest}gameServerOpsState: None}}, {{state: {}, gameServerOpsState: None}}, {{{condition}, \
                 gameServerOpsState: Allocated}}",
                if field_type == "boolean" { "Succeeded" } else { "2" }
            ));
            let got = warnings(&[&format!("jsonPathConfig: {{jsonPath: a, fieldType: {field_type}}}, {rules}")]);
            let path = "plugins[0].config.endpoints[0].storageConfig.inKube.markerPolices[2]";
            let said = format!("{path}: no result selects it, since {why}; correct or remove it");
            assert_eq!(got, if why.is_empty() { vec![] } else { vec![said] }, "{field_type} {condition}");
        }
    }

    #[test]
    fn typographic_quotes_around_a_value_are_named() {
        let rules = policies("{state: “idle”, gameServerOpsState: None, annotations: {a: it’s fine, b: ‘x}}");
        let list = "plugins[0].config.endpoints[0].storageConfig.inKube.markerPolices[0]";
        let said = ": has typographic quotes, which are part of the text; quote with \" or ', or not at all";
        assert_eq!(warnings(&[&rules]), [format!("{list}.state{said}"), format!("{list}.annotations.b{said}")]);
    }

    #[test]
    fn an_ops_state_that_means_nothing_or_too_much_is_named() {
        let got = warnings(&[&policies("{state: A, gameServerOpsState: Idle}, {state: B, gameServerOpsState: Kill}")]);
        assert_eq!(got.len(), 2, "{got:?}");
        assert!(got[0].contains("[0].gameServerOpsState: OpenKruiseGame gives no meaning to `Idle`, only to None, "));
        assert!(got[1].ends_with(
            "[1].gameServerOpsState: at Kill OpenKruiseGame deletes the game server and lowers the \
                                  replicas of its set"
        ));
    }

    #[test]
    fn timeouts_that_add_up_to_more_than_the_interval_are_named() {
        let seed = include_str!("../../tests/fixtures/seed-configmap.yaml");
        let config = seed.split_once("config.yaml: |\n").unwrap().1.replace("\n    ", "\n");
        assert_eq!(
            parse(config.trim_start()).unwrap().warnings,
            [
                "plugins[0].config.probeIntervalSeconds: the timeouts add up to 30 s, more than the 5 s from round to round, \
              so that rounds are late or dropped while the game does not respond; lower the timeouts or raise the \
              interval"
            ]
        );
        let of_file = "plugins: [{name: http_probe, config: {endpoints: [{url: 'file:///a', STORAGE}]}}]";
        let of_file = of_file.replace("STORAGE", &storage("annotationKey: a"));
        assert_eq!(parse(&of_file).unwrap().warnings, [""; 0], "a file is read at once");
    }
}
