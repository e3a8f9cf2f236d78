//! What must hold whatever comes: of the config reader, the decision core, the JSON path, the merge-patch, templates and
//! the schedule. Each judge here is written from the SPEC and looks at the whole history at once, so that it shares no
//! mistake with the program, which goes step by step. `PROPTEST_CASES=10000 cargo test --test properties` looks longer.

#[path = "support/merge_patch.rs"]
#[allow(unreachable_pub, reason = "it is a part of the support module elsewhere")]
mod merge_patch;

use std::collections::BTreeMap;
use std::time::Duration;

use okg_sidecar::config::{
    Config, ConfigError, Endpoint, Extract, FAILED, FieldType, MAX_BYTES, MAX_VALUE_BYTES, Priority, SUCCEEDED,
    Template, When,
};
use okg_sidecar::decide::json_path;
use okg_sidecar::decide::patch::{self, Changes, Desired, Fields, Identity, Kind, Object};
use okg_sidecar::decide::pending::{Pending, Verdict};
use okg_sidecar::decide::policy::{Answer, Reading};
use okg_sidecar::decide::schedule::Schedule;
use okg_sidecar::decide::tracker::Tracker;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Value, json};

/// This many cases, unless PROPTEST_CASES says how many.
fn cases(count: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { count };
    ProptestConfig { cases, failure_persistence: None, ..default }
}

/// Reads a config as the program does, from a file.
fn load(text: impl AsRef<[u8]>) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).expect("the temporary folder is writable");
    Config::load(&path, &|name| (name == "POD_NAME").then(|| "gs-0".to_owned()))
}

/// A config of these endpoints, each a flow map.
fn config_of(endpoints: &[String]) -> Config {
    let text = format!("plugins: [{{name: http_probe, config: {{endpoints: [\n  {}\n]}}}}]\n", endpoints.join(",\n  "));
    let refused = |error: ConfigError| format!("{error}\n{text}");
    load(&text).map_err(refused).expect("a generator makes legal configs")
}

fn identity() -> Identity {
    Identity { namespace: "games".into(), name: "gs-0".into() }
}

/// What Kubernetes says of label values, as one reads it there.
fn is_legal_label(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let ends = alphanumeric(text.chars().next()) && alphanumeric(text.chars().last());
    let inside = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.');
    text.is_empty() || (ends && inside && text.len() < 64)
}

// The config reader (SPEC 2).

/// A config with every key that there is.
const EVERY_KEY: &str = include_str!("../fuzz/seeds/config/every-key.yaml");

/// What a mutation puts in: words that mean something somewhere, and YAML's own signs.
const WORDS: [&str; 48] = [
    "plugins",
    "config",
    "endpoints",
    "url",
    "timeout",
    "headers",
    "state",
    "min",
    "max",
    "target",
    "labels",
    "inKube",
    "http_probe",
    "http://[::1]:1/",
    "https://h",
    "None",
    "Failed",
    "Succeeded",
    "Kill",
    "{{.Result}}",
    "{{",
    "${SELF:X}",
    "${SELF:POD_NAME}",
    "0",
    "-1",
    "1e9",
    ".inf",
    ".nan",
    "0x7f",
    "4294967296",
    "99999999999999999999999999999999999999999",
    "true",
    "~",
    "!!str",
    "&a",
    "*a",
    "<<: *a",
    "[",
    "]",
    "{",
    "}",
    ": ",
    "- ",
    "\n",
    "  ",
    "\u{feff}",
    "|",
    "\u{202e}空",
];

/// One change of a text, at a place that a share of its length names.
#[derive(Debug, Clone)]
enum Mutation {
    Cut(Index, usize),
    Insert(Index, String),
    Replace(Index, String),
    RepeatLine(Index, Index),
    DropLine(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let word = prop_oneof![4 => select(WORDS.as_slice()).prop_map(str::to_owned), 1 => ".{0,8}"];
    prop_oneof![
        (any::<Index>(), 1_usize..20).prop_map(|(at, length)| Mutation::Cut(at, length)),
        (any::<Index>(), word.clone()).prop_map(|(at, word)| Mutation::Insert(at, word)),
        (any::<Index>(), word).prop_map(|(at, word)| Mutation::Replace(at, word)),
        any::<(Index, Index)>().prop_map(|(from, to)| Mutation::RepeatLine(from, to)),
        any::<Index>().prop_map(Mutation::DropLine),
    ]
}

fn mutate(text: &str, mutation: &Mutation) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<&str> = text.lines().collect();
    if chars.is_empty() || lines.is_empty() {
        return text.to_owned();
    }
    match mutation {
        Mutation::Cut(at, length) => {
            let at = at.index(chars.len());
            chars.drain(at..(at + length).min(chars.len()));
        }
        Mutation::Insert(at, word) => {
            let at = at.index(chars.len());
            chars.splice(at..at, word.chars());
        }
        // A whole word, so that values change more often than syntax breaks.
        Mutation::Replace(at, word) => {
            let at = at.index(chars.len());
            let end_of_word = |c: &char| !c.is_alphanumeric() && *c != '.';
            let start = chars[..at].iter().rposition(end_of_word).map_or(0, |before| before + 1);
            let end = chars[at..].iter().position(end_of_word).map_or(chars.len(), |after| at + after);
            chars.splice(start..end.max(start), word.chars());
        }
        Mutation::RepeatLine(from, to) => {
            lines.insert(to.index(lines.len()), lines[from.index(lines.len())]);
            return lines.join("\n");
        }
        Mutation::DropLine(at) => {
            lines.remove(at.index(lines.len()));
            return lines.join("\n");
        }
    }
    chars.into_iter().collect()
}

fn within(value: Duration, least: u64, most: u64) -> bool {
    (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&value)
}

/// Refused with something to say that forges and floods no log, or accepted within the ranges of SPEC 2.
fn is_refused_or_within_its_ranges(read: Result<Config, ConfigError>) -> Result<bool, TestCaseError> {
    let config = match read {
        Ok(config) => config,
        Err(refused) => {
            prop_assert!(!refused.problems.is_empty());
            for problem in &refused.problems {
                prop_assert!(!problem.chars().any(char::is_control), "{problem:?}");
                // Six keys deep at most, each of 80 characters, and 80 of the value; a YAML error has 400.
                prop_assert!(
                    problem.chars().count() < 1500,
                    "{} characters: {:.200}",
                    problem.chars().count(),
                    problem
                );
            }
            return Ok(false);
        }
    };
    prop_assert!(within(config.start_delay, 0, 86400));
    prop_assert!(within(config.interval, 1, 86400));
    prop_assert!(config.resync.is_none_or(|resync| within(resync, 1, 86400)));
    prop_assert!((1..=64).contains(&config.endpoints.len()));
    for endpoint in &config.endpoints {
        prop_assert!(matches!(endpoint.url.scheme_str(), Some("http" | "https")));
        prop_assert!(endpoint.url.host().is_some_and(|host| !host.is_empty()));
        prop_assert!(endpoint.url.port().is_none_or(|port| port.as_u16() >= 1));
        prop_assert!(!["CONNECT", "TRACE"].contains(&endpoint.method.as_str()));
        prop_assert!(within(endpoint.timeout, 1, 3600));
        prop_assert!((100..=599).contains(&endpoint.expected_status));
        prop_assert!((1..=1000).contains(&endpoint.failure_threshold));
        prop_assert!((1..=1000).contains(&endpoint.success_threshold));
        for state in &endpoint.protected_ops_states {
            prop_assert!(is_legal_label(state) && !state.is_empty(), "{state:?}");
        }
        for (index, policy) in endpoint.policies.iter().enumerate() {
            if let Some(state) = &policy.ops_state {
                prop_assert!(is_legal_label(state) && !state.is_empty(), "{state:?}");
            }
            for other in &endpoint.policies[..index] {
                let apart = match (&policy.when, &other.when) {
                    (When::State(one), When::State(two)) => one != two,
                    (When::Range(min, max), When::Range(least, most)) => max < least || most < min,
                    _ => true,
                };
                prop_assert!(apart, "{:?} and {:?}", policy.when, other.when);
            }
        }
    }
    let told = config.describe();
    prop_assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
    Ok(true)
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn any_text_is_refused_or_within_its_ranges(text in "\\PC{0,300}|(.|\n){0,300}") {
        is_refused_or_within_its_ranges(load(text))?;
    }

    #[test]
    fn any_bytes_are_refused_or_within_their_ranges(bytes in vec(any::<u8>(), 0..300)) {
        is_refused_or_within_its_ranges(load(bytes))?;
    }

    #[test]
    fn a_mutated_config_is_refused_or_within_its_ranges(mutations in vec(mutation(), 0..4)) {
        let text = mutations.iter().fold(EVERY_KEY.to_owned(), |text, mutation| mutate(&text, mutation));
        let accepted = is_refused_or_within_its_ranges(load(&text))?;
        prop_assert!(accepted || !mutations.is_empty(), "the config that is mutated is legal");
    }

    #[test]
    fn a_text_of_more_than_32_kib_is_refused_unread(more in 1_usize..100_000, sign in select(&b"[{-#a\n"[..])) {
        let refused = load(vec![sign; MAX_BYTES + more]).expect_err("too long");
        prop_assert_eq!(refused.problems, ["must have at most 32768 bytes, got more"]);
    }
}

/// What the fuzz target `config` found, and its kin: each was told in a line of the file's own making.
#[test]
fn what_fuzzing_found_stays_refused_in_a_line_that_forges_and_floods_nothing() {
    for found in [
        "\"${SELF:A\\nINFO  forged}\"",
        "\"${POD:A\\nINFO  forged}\"",
        &format!("${{SELF:{}}}", "A".repeat(20_000)),
        &format!("${{POD:{}}}", "A".repeat(20_000)),
        &"9".repeat(20_000),
        &format!("1.{}", "0".repeat(20_000)),
    ] {
        let endpoint = format!(
            "{{url: 'http://h', storageConfig: {{type: InKube, inKube: {{jsonPath: /data/a, \
             target: {{version: v1, resource: configmaps, name: {found}}}}}}}}}"
        );
        let read = load(format!("plugins: [{{name: http_probe, config: {{endpoints: [{endpoint}]}}}}]"));
        let accepted = is_refused_or_within_its_ranges(read).unwrap_or_else(|error| panic!("{error}"));
        assert!(!accepted, "{found}");
    }
}

/// A number in its range, mostly at an end of it, or seldom one that is not.
fn number(least: i64, most: i64) -> impl Strategy<Value = (i64, bool)> {
    prop_oneof![
        12 => select(vec![least, most, (least + most) / 2]).prop_map(|value| (value, true)),
        1 => select(vec![least - 1, least - 1, most + 1, most + 1, i64::MIN, i64::MAX]).prop_map(|value| (value, false)),
    ]
}

/// A condition of a policy: a state, or the ends of a range.
fn condition() -> impl Strategy<Value = Result<&'static str, (Option<i8>, Option<i8>)>> {
    let end = || option::weighted(0.8, 0_i8..12);
    prop_oneof![
        1 => select(&["A", "B", "5", "Failed"][..]).prop_map(Ok),
        2 => (end(), end()).prop_filter("one end at least", |(min, max)| min.is_some() || max.is_some()).prop_map(Err),
    ]
}

proptest! {
    #![proptest_config(cases(300))]

    /// The reader and the SPEC agree in both directions: what is in its range is taken over as it is, and of what is not
    /// every key is named.
    #[test]
    fn exactly_what_is_out_of_its_range_is_refused(
        numbers in [
            number(0, 86400), number(1, 86400), number(0, 86400),
            number(1, 3600), number(100, 599), number(1, 1000), number(1, 1000), number(1, 65535),
        ].prop_map(|numbers| numbers.to_vec()),
        count in number(1, 64),
        state in prop_oneof![
            30 => "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
            1 => "[-_. a空]{1,3}|[a-z]{64,70}",
        ],
    ) {
        const KEYS: [&str; 8] = [
            "startDelaySeconds", "probeIntervalSeconds", "resyncSeconds",
            "timeout", "expectedStatusCode", "failureThreshold", "successThreshold", "url",
        ];
        let n: Vec<i64> = numbers.iter().map(|(value, _)| *value).collect();
        let count = (count.0.clamp(0, 65), count.1);
        let endpoint = format!(
            "{{url: 'http://h:{}', timeout: {}, expectedStatusCode: {}, failureThreshold: {}, successThreshold: {}, \
             storageConfig: {{type: InKube, inKube: {{markerPolices: [{{state: a, gameServerOpsState: '{state}'}}]}}}}}}",
            n[7], n[3], n[4], n[5], n[6],
        );
        let endpoints = vec![endpoint; count.0 as usize].join(", ");
        let read = load(format!(
            "plugins: [{{name: http_probe, config: {{startDelaySeconds: {}, probeIntervalSeconds: {}, resyncSeconds: {}, \
             endpoints: [{endpoints}]}}}}]",
            n[0], n[1], n[2],
        ));
        let legal_state = !state.is_empty() && is_legal_label(&state);
        let in_endpoint = numbers[3..].iter().all(|(_, legal)| *legal) && legal_state;
        let legal = numbers[..3].iter().all(|(_, legal)| *legal) && count.1 && in_endpoint;
        match read {
            Ok(config) => {
                prop_assert!(legal, "accepted");
                let seconds = |value: i64| Duration::from_secs(value as u64);
                let resync = (n[2] > 0).then(|| seconds(n[2]));
                prop_assert_eq!(
                    (config.start_delay, config.interval, config.resync),
                    (seconds(n[0]), seconds(n[1]), resync)
                );
                prop_assert_eq!(config.endpoints.len() as i64, count.0);
                for endpoint in &config.endpoints {
                    prop_assert_eq!(endpoint.timeout, seconds(n[3]));
                    prop_assert_eq!(i64::from(endpoint.expected_status), n[4]);
                    prop_assert_eq!(i64::from(endpoint.failure_threshold), n[5]);
                    prop_assert_eq!(i64::from(endpoint.success_threshold), n[6]);
                    prop_assert_eq!(endpoint.url.port_u16().map(i64::from), Some(n[7]));
                    prop_assert_eq!(endpoint.policies[0].ops_state.as_ref(), Some(&state));
                }
            }
            Err(refused) => {
                prop_assert!(!legal, "refused: {refused}");
                let named = |key: &str| refused.problems.iter().any(|problem| {
                    problem.split_once(": ").is_some_and(|(path, _)| path.ends_with(key))
                });
                for (index, key) in KEYS.iter().enumerate() {
                    let looked_at = index < 3 || count.1;
                    prop_assert_eq!(named(key), looked_at && !numbers[index].1, "{}: {}", key, refused);
                }
                prop_assert_eq!(named("endpoints"), !count.1, "{}", refused);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// SPEC 2.5 and 6.4: the same state twice, a range that is none, and ranges that share a number.
    #[test]
    fn exactly_policies_that_hold_together_are_refused(conditions in vec(condition(), 1..4)) {
        let holds = |condition: &Result<&str, (Option<i8>, Option<i8>)>, number: i8| match condition {
            Ok(_) => false,
            Err((min, max)) => min.is_none_or(|min| min <= number) && max.is_none_or(|max| number <= max),
        };
        // Ends are whole numbers, so that ranges share a whole number or none.
        let share = |one, other| (-1..=12).any(|number| holds(one, number) && holds(other, number));
        let legal = conditions.iter().enumerate().all(|(index, condition)| {
            let is_one = condition.is_ok() || share(condition, condition);
            is_one && conditions[..index].iter().all(|other| match (condition, other) {
                (Ok(state), Ok(known)) => state != known,
                _ => !share(condition, other),
            })
        });
        let policies: Vec<String> = conditions
            .iter()
            .map(|condition| {
                let when = match condition {
                    Ok(state) => format!("state: '{state}'"),
                    Err((min, max)) => [("min", min), ("max", max)]
                        .iter()
                        .filter_map(|(key, end)| end.map(|end| format!("{key}: {end}")))
                        .collect::<Vec<_>>()
                        .join(", "),
                };
                format!("{{{when}, gameServerOpsState: None}}")
            })
            .collect();
        let read = load(format!(
            "plugins: [{{name: http_probe, config: {{endpoints: [{{url: 'http://h', storageConfig: {{type: InKube, \
             inKube: {{markerPolices: [{}]}}}}}}]}}}}]",
            policies.join(", ")
        ));
        prop_assert_eq!(is_refused_or_within_its_ranges(read)?, legal, "{:?}", policies);
    }
}

// Opinions and decisions (SPEC 5, 6.1, 6.2).

/// What a generated policy does.
#[derive(Debug, Clone)]
struct Effects {
    ops_state: Option<&'static str>,
    priority: Option<u16>,
    labels: Vec<&'static str>,
    annotations: Vec<&'static str>,
    with_result: bool,
}

fn effects() -> impl Strategy<Value = Effects> {
    (
        option::of(select(&["None", "Allocated", "WaitToBeDeleted", "Maintaining"][..])),
        option::weighted(0.2, any::<u16>()),
        subsequence(vec!["l1", "l2", "example.com/l3"], 0..=3),
        subsequence(vec!["a1", "example.com/a2"], 0..=2),
        any::<bool>(),
    )
        .prop_map(|(ops_state, priority, labels, annotations, with_result)| {
            let nothing = ops_state.is_none() && priority.is_none() && labels.is_empty() && annotations.is_empty();
            let ops_state = if nothing { Some("Kill") } else { ops_state };
            Effects { ops_state, priority, labels, annotations, with_result }
        })
}

/// The conditions that a generated endpoint's policies may have. They overlap nowhere.
const WHENS: [&str; 8] =
    ["state: A", "state: B", "state: '5'", "state: Succeeded", "state: Failed", "max: 0", "min: 1, max: 9", "min: 10"];

/// The flow map of an endpoint.
fn endpoint_text() -> impl Strategy<Value = String> {
    let policies = subsequence((0..WHENS.len()).collect::<Vec<_>>(), 1..=WHENS.len())
        .prop_flat_map(|whens| (Just(whens).prop_shuffle(), vec(effects(), WHENS.len())));
    let keys = (option::weighted(0.3, select(&["key1", "l1"][..])), option::weighted(0.3, select(&["key2", "a1"][..])));
    (policies, 1_u32..4, 1_u32..4, keys).prop_map(
        |((whens, effects), successes, failures, (label_key, annotation_key))| {
            let policies: Vec<String> =
                whens.iter().zip(&effects).map(|(at, effects)| policy_text(WHENS[*at], effects)).collect();
            let mut storage = format!("markerPolices: [{}]", policies.join(", "));
            if let Some(key) = label_key {
                storage += &format!(", labelKey: {key}");
            }
            if let Some(key) = annotation_key {
                storage += &format!(", annotationKey: {key}");
            }
            format!(
                "{{url: 'http://h', successThreshold: {successes}, failureThreshold: {failures}, \
             storageConfig: {{type: InKube, inKube: {{{storage}}}}}}}"
            )
        },
    )
}

fn policy_text(when: &str, effects: &Effects) -> String {
    let mut text = format!("{{{when}");
    if let Some(state) = effects.ops_state {
        text += &format!(", gameServerOpsState: {state}");
    }
    if let Some(priority) = effects.priority {
        text += &format!(", gameServerDeletionPriority: {priority}");
    }
    // A failure has no result.
    let value = if effects.with_result && when != "state: Failed" { "is-{{.Result}}" } else { "fixed" };
    for (name, keys) in [("labels", &effects.labels), ("annotations", &effects.annotations)] {
        let pairs: Vec<String> = keys.iter().map(|key| format!("'{key}': '{value}'")).collect();
        if !pairs.is_empty() {
            text += &format!(", {name}: {{{}}}", pairs.join(", "));
        }
    }
    text + "}"
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    vec(endpoint_text(), 1..4).prop_map(|endpoints| config_of(&endpoints).endpoints)
}

/// What a probe gave; `None` is a fault of the sidecar itself, which is no reading.
fn reading() -> impl Strategy<Value = Option<Reading>> {
    let texts = ["A", "B", "5", "0", "7", "9", "9.5", "100", "x", "", "Failed", "Succeeded", "no label", "-5", "nan"];
    prop_oneof![
        8 => select(texts.to_vec()).prop_map(|text| Some(Reading::Success(Answer::Text(text.into())))),
        4 => Just(Some(Reading::Failure)),
        1 => Just(Some(Reading::Success(Answer::Text("x".repeat(5000))))),
        1 => Just(Some(Reading::Success(Answer::Cut("None".repeat(2000))))),
        1 => Just(None),
    ]
}

/// SPEC 5.1, read literally: the policy that one success selects.
fn selected(endpoint: &Endpoint, answer: &Answer) -> Option<usize> {
    let at = |holds: &dyn Fn(&When) -> bool| endpoint.policies.iter().position(|policy| holds(&policy.when));
    let text = match answer {
        Answer::Text(text) => Some(text.as_str()),
        Answer::Unread | Answer::Cut(_) => None,
    };
    let equal = text.and_then(|text| at(&|when| *when == When::State(text.into())));
    let value = text.and_then(|text| text.parse::<f64>().ok());
    let in_range =
        value.and_then(|value| at(&|when| matches!(when, When::Range(min, max) if *min <= value && value <= *max)));
    equal.or(in_range).or_else(|| at(&|when| *when == When::State(SUCCEEDED.into())))
}

/// SPEC 5.1, read literally on the whole history: the last stretch that was long enough tells the opinion and the result.
fn opinion(endpoint: &Endpoint, history: &[Reading]) -> (Option<usize>, Option<String>) {
    let successes = endpoint.success_threshold as usize;
    let failures = endpoint.failure_threshold as usize;
    let failed = endpoint.policies.iter().position(|policy| policy.when == When::State(FAILED.into()));
    let selected_by = |reading: &Reading| match reading {
        Reading::Success(answer) => Some(selected(endpoint, answer)),
        Reading::Failure => None,
    };
    let mut opinion = None;
    let mut result = None;
    for end in 1..=history.len() {
        let stretch = |length: usize| end.checked_sub(length).map(|start| &history[start..end]);
        if let Some(stretch) = stretch(successes)
            && let Some(first) = selected_by(&stretch[0])
            && stretch.iter().all(|reading| selected_by(reading) == Some(first))
        {
            opinion = first;
            if let Reading::Success(Answer::Text(text) | Answer::Cut(text)) = &history[end - 1] {
                // Of one that can be written nowhere, no more is kept than shows that. The long ones here are ASCII.
                result = Some(text[..text.len().min(MAX_VALUE_BYTES + 4)].to_owned());
            }
        }
        if stretch(failures).is_some_and(|stretch| stretch.iter().all(|reading| *reading == Reading::Failure)) {
            opinion = failed.or(opinion);
        }
    }
    (opinion, result)
}

/// SPEC 5.2, 5.3 and 6.1, read literally: the fields of the GameServer and of the Pod after these rounds.
fn wanted(endpoints: &[Endpoint], rounds: &[Vec<Option<Reading>>]) -> (Fields, Fields) {
    let mut game_server = Fields::new();
    let mut from_policies = Fields::new();
    let mut pod = Fields::new();
    for round in 1..=rounds.len() {
        let held: Vec<(&Endpoint, Option<usize>, Option<String>)> = endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| {
                let history: Vec<Reading> = rounds[..round].iter().filter_map(|round| round[index].clone()).collect();
                let (opinion, result) = opinion(endpoint, &history);
                (endpoint, opinion, result)
            })
            .collect();
        let policies: Vec<_> = held
            .iter()
            .filter_map(|(endpoint, opinion, result)| {
                Some((&endpoint.policies[(*opinion)?], result.as_deref().unwrap_or("")))
            })
            .collect();
        if let Some((policy, _)) = policies.iter().find(|(policy, _)| policy.sets_game_server()) {
            game_server.clear();
            if let Some(state) = &policy.ops_state {
                game_server.insert("/spec/opsState".into(), json!(state));
            }
            if let Some(Priority::Integer(priority)) = policy.deletion_priority {
                game_server.insert("/spec/deletionPriority".into(), json!(priority));
            }
        }
        if !policies.is_empty() {
            let before = std::mem::take(&mut from_policies);
            for (policy, result) in &policies {
                for (map, templates) in [("labels", &policy.labels), ("annotations", &policy.annotations)] {
                    for (key, template) in templates {
                        let value = rendered(template, result).filter(|value| map != "labels" || is_legal_label(value));
                        set_unless_set(&mut from_policies, &before, pointer(map, key), value);
                    }
                }
            }
        }
        let before = std::mem::replace(&mut pod, from_policies.clone());
        for (endpoint, _, result) in &held {
            let Some(result) = result else { continue };
            let short = Some(result.clone()).filter(|result| result.len() <= MAX_VALUE_BYTES);
            if let Some(key) = &endpoint.annotation_key {
                set_unless_set(&mut pod, &before, pointer("annotations", key), short.clone());
            }
            if let Some(key) = &endpoint.label_key {
                set_unless_set(&mut pod, &before, pointer("labels", key), short.filter(|value| is_legal_label(value)));
            }
        }
    }
    (game_server, pod)
}

/// The first to set a field does; one whose value the field cannot hold leaves it as it was before.
fn set_unless_set(fields: &mut Fields, before: &Fields, pointer: String, value: Option<String>) {
    if fields.contains_key(&pointer) {
        return;
    }
    if let Some(value) = value.map(Value::from).or_else(|| before.get(&pointer).cloned()) {
        fields.insert(pointer, value);
    }
}

fn rendered(template: &Template, result: &str) -> Option<String> {
    let text = template.to_string();
    let value = text.replace("{{.Result}}", result);
    (value == text || value.len() <= MAX_VALUE_BYTES).then_some(value)
}

fn pointer(map: &str, key: &str) -> String {
    format!("/metadata/{map}/{}", key.replace('/', "~1"))
}

/// The core as `sidecar.rs` puts it together.
struct Core {
    endpoints: Vec<Endpoint>,
    trackers: Vec<Tracker>,
    desired: Desired,
}

impl Core {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        let trackers = vec![Tracker::default(); endpoints.len()];
        Self { endpoints, trackers, desired: Desired::default() }
    }

    fn round(&mut self, readings: &[Option<Reading>]) {
        for ((endpoint, tracker), reading) in self.endpoints.iter().zip(&mut self.trackers).zip(readings) {
            if let Some(reading) = reading {
                tracker.observe(endpoint, reading);
            }
        }
        self.desired = Desired::decide(self.endpoints.iter().zip(&self.trackers), &identity(), &self.desired);
    }

    fn fields(&self, object: &Object) -> Fields {
        self.desired.fields.get(object).cloned().unwrap_or_default()
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// However results are spread over rounds, an opinion depends on its own endpoint's stretches alone, and a decision
    /// on the opinions alone.
    #[test]
    fn opinions_and_decisions_are_what_the_whole_history_says(
        endpoints in endpoints(),
        rounds in vec(vec(reading(), 3), 1..25),
    ) {
        let mut core = Core::new(endpoints.clone());
        for (round, readings) in rounds.iter().enumerate() {
            core.round(readings);
            for (index, tracker) in core.trackers.iter().enumerate() {
                let history: Vec<Reading> = rounds[..=round].iter().filter_map(|round| round[index].clone()).collect();
                let held = (tracker.opinion(), tracker.result().map(str::to_owned));
                prop_assert_eq!(held, opinion(&endpoints[index], &history), "endpoint {} of {:?}", index, &endpoints);
            }
        }
        let (game_server, pod) = wanted(&endpoints, &rounds);
        prop_assert_eq!(core.fields(&identity().game_server()), game_server);
        prop_assert_eq!(core.fields(&identity().pod()), pod);
    }
}

// Pending writes (SPEC 4.3, 4.5).

/// What becomes of one attempt.
#[derive(Debug, Clone, Copy)]
struct Fate {
    reaches_the_object: bool,
    verdict: Verdict,
    takes: Duration,
    chance: f64,
}

fn fate() -> impl Strategy<Value = Fate> {
    let retry_after = option::weighted(0.3, select(&[0, 1, 7, 119, 120, 121, u64::MAX][..]));
    let answer = prop_oneof![
        3 => Just((true, Verdict::Written)),
        // No answer, or a 5xx: it may have been written all the same.
        3 => (any::<bool>(), retry_after.clone()).prop_map(|(reaches, asked)| {
            (reaches, Verdict::Failed { perhaps_written: true, retry_after: asked.map(Duration::from_secs) })
        }),
        // A 4xx.
        2 => retry_after.prop_map(|asked| {
            (false, Verdict::Failed { perhaps_written: false, retry_after: asked.map(Duration::from_secs) })
        }),
        1 => Just((false, Verdict::Rejected)),
    ];
    let chance = prop_oneof![3 => 0.0..1.0, 1 => Just(0.0), 1 => Just(0.999_999)];
    (answer, 0_u64..10_000, chance).prop_map(|((reaches_the_object, verdict), takes, chance)| Fate {
        reaches_the_object,
        verdict,
        takes: Duration::from_millis(takes),
        chance,
    })
}

/// Of an API server that works.
const WORKS: Fate =
    Fate { reaches_the_object: true, verdict: Verdict::Written, takes: Duration::from_millis(5), chance: 0.5 };

/// One object at the API server, its pending write, and a judge of every attempt.
struct Written {
    object: Object,
    pending: Pending,
    resync: Option<Duration>,
    stored: Value,
    /// Whether the core has changed its mind since the last attempt.
    changed: bool,
    /// What the API server has said that it has, while nothing has put that in doubt.
    certain: BTreeMap<String, Value>,
    /// Every pointer that was ever sent.
    ours: BTreeMap<String, ()>,
    failures: u32,
    last: Option<(Duration, Fate)>,
}

impl Written {
    fn new(object: Object, resync: Option<Duration>, stored: Value) -> Self {
        Self {
            pending: Pending::new(object.kind == Kind::Pod, resync),
            object,
            resync,
            stored,
            changed: false,
            certain: BTreeMap::new(),
            ours: BTreeMap::new(),
            failures: 0,
            last: None,
        }
    }

    fn want(&mut self, fields: &Fields, before: &Fields) {
        self.changed |= fields != before;
        self.pending.want(fields);
        // As the loop does, which forgets what is idle and begins anew.
        if self.pending.is_idle() {
            self.pending = Pending::new(self.object.kind == Kind::Pod, self.resync);
        }
    }

    /// Makes the attempt that is due at `now`, and gives when it is over.
    fn attempt(&mut self, wanted: &Fields, now: Duration, fate: Fate) -> Result<Duration, TestCaseError> {
        self.judge_pace(now)?;
        let changes = self.pending.changes(now);
        self.judge_changes(&changes, wanted, now)?;
        if fate.reaches_the_object {
            merge_patch::merge(&mut self.stored, &patch::merge_patch(&changes));
        }
        for (pointer, value) in &changes {
            self.ours.insert(pointer.clone(), ());
            match (fate.verdict, value) {
                (Verdict::Written, Some(value)) => drop(self.certain.insert(pointer.clone(), value.clone())),
                (Verdict::Written, None) | (Verdict::Failed { perhaps_written: true, .. }, _) => {
                    self.certain.remove(pointer);
                }
                _ => {}
            }
        }
        let over = now + fate.takes;
        self.pending.settle(changes, fate.verdict, over, fate.chance);
        self.failures = if fate.verdict == Verdict::Written { 0 } else { self.failures + 1 };
        self.changed = false;
        self.last = Some((over, fate));
        // Nothing waits for longer than two minutes.
        if let (false, Some(due)) = (fate.verdict == Verdict::Written, self.pending.due()) {
            prop_assert!(due <= over + Duration::from_secs(120), "due at {due:?}, failed at {over:?}");
        }
        Ok(over)
    }

    /// Exponential from 1 s to 60 s times chance; Retry-After as far as 120 s; what was rejected at the slowest pace.
    fn judge_pace(&self, now: Duration) -> Result<(), TestCaseError> {
        let Some((over, fate)) = self.last else { return Ok(()) };
        let exponential = if self.failures == 0 { 0.0 } else { 2_f64.powi(self.failures as i32 - 1).min(60.0) };
        let least = match fate.verdict {
            Verdict::Written if self.changed => 0.0,
            Verdict::Written => self.resync.map_or(f64::INFINITY, |resync| resync.as_secs_f64() * 0.9),
            Verdict::Failed { retry_after, .. } => {
                let asked = retry_after.map_or(0.0, |asked| asked.as_secs_f64().min(120.0));
                asked.max(exponential * fate.chance)
            }
            Verdict::Rejected if self.changed => exponential * fate.chance,
            Verdict::Rejected => 30.0,
        };
        let waited = (now - over).as_secs_f64();
        prop_assert!(waited >= least - 1e-6, "{waited} s after {fate:?}, failure {}, not {least} s", self.failures);
        Ok(())
    }

    /// Only what the newest decision says, and of that only what is not known to be there.
    fn judge_changes(&self, changes: &Changes, wanted: &Fields, now: Duration) -> Result<(), TestCaseError> {
        prop_assert!(!changes.is_empty(), "an attempt without a change");
        let resyncs = match (self.resync, self.last) {
            (Some(resync), Some((over, _))) => now >= over + resync.mul_f64(0.9) || self.failures > 0,
            _ => false,
        };
        for (pointer, value) in changes {
            prop_assert_eq!(value.as_ref(), wanted.get(pointer), "{} is not the newest decision", pointer);
            match value {
                Some(value) => {
                    prop_assert!(resyncs || self.certain.get(pointer) != Some(value), "{pointer} is there already");
                }
                None => {
                    prop_assert!(
                        self.object.kind == Kind::Pod && self.ours.contains_key(pointer),
                        "{pointer} is not ours"
                    );
                }
            }
        }
        Ok(())
    }

    /// The object has what was decided last; of ours nothing more; and everything else is as it was.
    fn judge_end(&self, wanted: &Fields, before: &Value) -> Result<(), TestCaseError> {
        let mut expected = before.clone();
        let gone = self.ours.keys().filter(|pointer| !wanted.contains_key(*pointer));
        if self.object.kind == Kind::Pod {
            gone.for_each(|pointer| set(&mut expected, pointer, None));
        } else {
            // What a later decision leaves open on the GameServer stays as an earlier one set it.
            gone.for_each(|pointer| set(&mut expected, pointer, self.stored.pointer(pointer).cloned()));
        }
        wanted.iter().for_each(|(pointer, value)| set(&mut expected, pointer, Some(value.clone())));
        prop_assert_eq!(&self.stored, &expected);
        Ok(())
    }
}

/// Sets or removes one field, by pointer; objects on the way are made.
fn set(object: &mut Value, pointer: &str, value: Option<Value>) {
    let mut keys: Vec<String> =
        pointer.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
    let last = keys.pop().expect("a pointer has a key");
    let mut at = object;
    for key in keys {
        if !at.is_object() {
            *at = json!({});
        }
        at = at.as_object_mut().expect("made one above").entry(key).or_insert_with(|| json!({}));
    }
    if !at.is_object() {
        *at = json!({});
    }
    let fields = at.as_object_mut().expect("made one above");
    match value {
        Some(value) => drop(fields.insert(last, value)),
        None => drop(fields.remove(&last)),
    }
}

/// Objects as OpenKruiseGame and others have left them, with keys that no generated policy sets.
fn stored(kind: Kind) -> Value {
    match kind {
        Kind::GameServer => json!({
            "metadata": {"name": "gs-0", "labels": {"theirs": "1"}},
            "spec": {"opsState": "None", "updatePriority": 0, "networkDisabled": false},
        }),
        _ => json!({
            "metadata": {"name": "gs-0", "labels": {"theirs": "1", "l": "x"}, "annotations": {"theirs/a": "1"}},
            "spec": {"containers": []},
        }),
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// Rounds, waits and what becomes of attempts, in any order: never an old state after a newer one, never faster than
    /// SPEC 4.5, and once the API server works again the objects have the last decision. With `forget`, the last round
    /// leaves every policy, so that what they had set on the Pod is restored.
    #[test]
    fn the_last_decision_arrives_and_no_older_one_is_ever_sent(
        endpoints in endpoints(),
        rounds in vec((vec(reading(), 3), 0_u64..40_000), 1..20),
        mut fates in vec(fate(), 0..40),
        resync in option::weighted(0.3, 1_u64..300),
    ) {
        let resync = resync.map(Duration::from_secs);
        fates.reverse();
        let mut core = Core::new(endpoints);
        let mut writes = [identity().game_server(), identity().pod()].map(|object| {
            let stored = stored(object.kind);
            Written::new(object, resync, stored)
        });
        let mut now = Duration::ZERO;
        for (readings, wait) in rounds.iter().map(|(readings, wait)| (Some(readings), *wait)).chain([(None, 600_000)]) {
            let next_round = now + Duration::from_millis(wait);
            if readings.is_none() {
                // The API server works from here on.
                fates.clear();
            }
            // As the loop does: the GameServer first, one attempt, then the clock again.
            for _ in 0..10_000 {
                let due = writes.iter_mut().filter_map(|write| Some((write.pending.due()?.max(now), write)));
                let Some((at, write)) = due.min_by_key(|(at, _)| *at).filter(|(at, _)| *at < next_round) else { break };
                now = write.attempt(&core.fields(&write.object), at, fates.pop().unwrap_or(WORKS))?;
            }
            now = now.max(next_round);
            if let Some(readings) = readings {
                let before = writes.each_ref().map(|write| core.fields(&write.object));
                core.round(readings);
                for (write, before) in writes.iter_mut().zip(&before) {
                    write.want(&core.fields(&write.object), before);
                }
            }
        }
        for write in &writes {
            write.judge_end(&core.fields(&write.object), &stored(write.object.kind))?;
            if resync.is_none() {
                prop_assert_eq!(write.pending.due(), None, "at rest there is nothing to do");
            }
        }
    }

    /// Keys that policies set go with them, whatever became of the writes in between; the Pod is then as it was.
    #[test]
    fn leaving_every_policy_restores_the_pod(
        texts in vec(select(&["A", "B", "5", "7"][..]), 1..8),
        policies in vec(effects(), 4),
        mut fates in vec(fate(), 0..20),
    ) {
        let whens = ["state: A", "state: B", "state: '5'", "min: 6, max: 9"];
        let mut policies: Vec<String> = whens.iter().zip(&policies).map(|(when, effects)| policy_text(when, effects)).collect();
        policies.push("{state: over, gameServerOpsState: WaitToBeDeleted}".into());
        let endpoint = format!(
            "{{url: 'http://h', storageConfig: {{type: InKube, inKube: {{markerPolices: [{}]}}}}}}",
            policies.join(", ")
        );
        let mut core = Core::new(config_of(&[endpoint]).endpoints);
        let mut pod = Written::new(identity().pod(), None, stored(Kind::Pod));
        let mut now = Duration::ZERO;
        for text in texts.iter().chain(&["over"]) {
            let before = core.fields(&pod.object);
            core.round(&[Some(Reading::Success(Answer::Text((*text).into())))]);
            pod.want(&core.fields(&pod.object), &before);
            if *text == "over" {
                fates.clear();
            }
            while let Some(due) = pod.pending.due() {
                now = pod.attempt(&core.fields(&pod.object), due.max(now), fates.pop().unwrap_or(WORKS))?;
            }
        }
        prop_assert_eq!(&pod.stored, &stored(Kind::Pod));
    }
}

proptest! {
    #![proptest_config(cases(100))]

    /// An API server that never takes a write: with true chance, no minute sees many attempts and no hour hundreds.
    #[test]
    fn an_outage_is_not_answered_by_a_storm(
        seed: u64,
        mind in select(&["stays", "changes", "comes and goes"][..]),
        verdict in select(&[
            Verdict::Failed { perhaps_written: true, retry_after: None },
            Verdict::Failed { perhaps_written: false, retry_after: None },
            Verdict::Rejected,
        ][..]),
    ) {
        let mut pending = Pending::new(true, None);
        let mut chance = seed;
        let mut attempts: Vec<Duration> = Vec::new();
        for second in 0..3600 {
            let now = Duration::from_secs(second);
            let label = Fields::from([("/metadata/labels/l".to_owned(), json!(if mind == "stays" { 0 } else { second }))]);
            let gone = mind == "comes and goes" && second % 2 == 1;
            pending.want(&if gone { Fields::new() } else { label });
            // As the loop does, which forgets what is idle.
            if pending.is_idle() {
                pending = Pending::new(true, None);
            }
            while let Some(due) = pending.due().filter(|due| *due < now + Duration::from_secs(1)) {
                let at = due.max(now);
                attempts.push(at);
                // splitmix64
                chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (chance ^ (chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                let drawn = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
                let changes = pending.changes(at);
                pending.settle(changes, verdict, at, drawn);
            }
        }
        // An attempt every half minute is the mean; twice that is beyond all chance.
        prop_assert!((30..240).contains(&attempts.len()), "{} attempts in an hour", attempts.len());
        for (index, at) in attempts.iter().enumerate() {
            let minute = attempts[index..].iter().take_while(|later| **later - *at < Duration::from_secs(60)).count();
            prop_assert!(minute <= 18, "{minute} attempts in a minute");
        }
    }
}

/// What a run of many cases found: a Pod whose keys have all gone was sent `{}` at each resync.
#[test]
fn an_object_of_which_nothing_is_wanted_is_not_written_again_at_a_resync() {
    let s = Duration::from_secs;
    let mut pending = Pending::new(true, Some(s(10)));
    for (fields, at) in [(Fields::from([("/metadata/labels/l".to_owned(), json!("x"))]), s(0)), (Fields::new(), s(1))] {
        pending.want(&fields);
        pending.settle(pending.changes(at), Verdict::Written, at, 0.5);
    }
    assert_eq!(pending.due(), None);
}

// The JSON path (SPEC 6.5).

/// JSON as a text may have it: repeated keys, white space, numbers of any spelling.
#[derive(Debug, Clone)]
enum Json {
    Plain(String),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

const KEYS: [&str; 10] = ["a", "b", "0", "1", "01", "players", "a/b", "m~n", "~1", "空"];

fn json() -> impl Strategy<Value = Json> {
    let numbers = ["0", "-1", "5", "2.50", "1e3", "-0.0", "18446744073709551616", "1E-2", "true", "false", "null"];
    let leaf = prop_oneof![
        select(numbers.to_vec()).prop_map(|text| Json::Plain(text.into())),
        any::<i64>().prop_map(|number| Json::Plain(number.to_string())),
        "\\PC{0,5}|[\n\"\\\\ a]{0,3}".prop_map(Json::Text),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Json::List),
            vec((select(KEYS.to_vec()).prop_map(str::to_owned), inner), 0..5).prop_map(Json::Map),
        ]
    })
}

fn written(json: &Json, space: &str, into: &mut String) {
    into.push_str(space);
    match json {
        Json::Plain(text) => into.push_str(text),
        Json::Text(text) => into.push_str(&Value::from(text.as_str()).to_string()),
        Json::List(items) => {
            into.push('[');
            for (index, item) in items.iter().enumerate() {
                into.push_str(if index > 0 { "," } else { "" });
                written(item, space, into);
            }
            into.push(']');
        }
        Json::Map(entries) => {
            into.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                into.push_str(if index > 0 { "," } else { "" });
                into.push_str(&format!("{space}{}{space}:", Value::from(key.as_str())));
                written(value, space, into);
            }
            into.push('}');
        }
    }
    into.push_str(space);
}

/// Walks down the tree; of a repeated key the last counts.
fn walked<'j>(json: &'j Json, path: &[String]) -> Option<&'j Json> {
    let Some((step, rest)) = path.split_first() else { return Some(json) };
    match json {
        Json::Map(entries) => walked(&entries.iter().rev().find(|(key, _)| key == step)?.1, rest),
        Json::List(items) => {
            let index = (0..items.len()).find(|index| index.to_string() == *step)?;
            walked(&items[index], rest)
        }
        Json::Plain(_) | Json::Text(_) => None,
    }
}

/// What SPEC 6.5 makes of a value: the result and the fieldTypes that it fits.
fn result_of(json: &Json) -> Option<(String, Vec<FieldType>)> {
    match json {
        Json::Text(text) => Some((text.clone(), vec![FieldType::String])),
        Json::Plain(text) => match text.as_str() {
            "null" => None,
            "true" | "false" => Some((text.clone(), vec![FieldType::Boolean])),
            number if number.contains(['.', 'e', 'E']) => Some((text.clone(), vec![FieldType::Number])),
            _ => Some((text.clone(), vec![FieldType::Integer, FieldType::Number])),
        },
        Json::List(_) | Json::Map(_) => None,
    }
}

/// Paths that lead to every value of the tree.
fn paths(json: &Json, at: &[String], into: &mut Vec<Vec<String>>) {
    into.push(at.to_vec());
    let mut below = |step: String, value: &Json| paths(value, &[at, &[step]].concat(), into);
    match json {
        Json::Plain(_) | Json::Text(_) => {}
        Json::List(items) => items.iter().enumerate().for_each(|(index, item)| below(index.to_string(), item)),
        Json::Map(entries) => entries.iter().for_each(|(key, value)| below(key.clone(), value)),
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_json_path_finds_what_a_walk_finds(
        tree in json(),
        space in select(&["", " ", "\r\n\t"][..]),
        place: Index,
        astray in option::weighted(0.2, select(KEYS.to_vec())),
        before_a_step in option::weighted(0.3, (any::<Index>(), select(&["0", "+", "-", " "][..]))),
        asked in option::of(select(&[FieldType::String, FieldType::Integer, FieldType::Number, FieldType::Boolean][..])),
    ) {
        let mut body = String::new();
        written(&tree, space, &mut body);
        let mut known = Vec::new();
        paths(&tree, &[], &mut known);
        let mut path = place.get(&known).clone();
        path.extend(astray.map(str::to_owned));
        // `01`, for one, is no index.
        if let Some((at, sign)) = before_a_step.filter(|_| !path.is_empty()) {
            let at = at.index(path.len());
            path[at].insert_str(0, sign);
        }
        let expected = walked(&tree, &path)
            .and_then(result_of)
            .filter(|(_, types)| asked.is_none_or(|asked| types.contains(&asked)))
            .map(|(text, _)| text);
        let found = json_path::extract(&body, &Extract { path: path.clone(), field_type: asked });
        prop_assert_eq!(found.ok(), expected, "{:?} in {}", path, body);
    }

    /// By way of the config's two spellings, against the pointer of serde_json, which is another program's.
    #[test]
    fn both_spellings_of_a_path_mean_the_same_as_rfc_6901(
        tree in vec((select(KEYS.to_vec()).prop_map(str::to_owned), json()), 1..5).prop_map(Json::Map),
        place: Index,
    ) {
        let mut body = String::new();
        written(&tree, "", &mut body);
        let mut known = Vec::new();
        paths(&tree, &[], &mut known);
        // The first is the whole, which no path of the config names.
        known.remove(0);
        let path = place.get(&known);
        let pointer: String = path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect();
        let mut spellings = vec![pointer.clone()];
        // With a slash first it would be a pointer.
        if !path[0].starts_with('/') {
            spellings.extend([path.join("."), format!("$.{}", path.join("."))]);
        }
        let value: Value = serde_json::from_str(&body).expect("it was written as JSON");
        let expected = match value.pointer(&pointer) {
            Some(Value::String(text)) => Some(text.clone()),
            // As the body writes it, which a Value does not keep.
            Some(Value::Number(_) | Value::Bool(_)) => walked(&tree, path).and_then(result_of).map(|(text, _)| text),
            _ => None,
        };
        for spelling in spellings {
            let endpoint = format!(
                "{{url: 'http://h', jsonPathConfig: {{jsonPath: '{spelling}'}}, \
                 storageConfig: {{type: InKube, inKube: {{labelKey: l}}}}}}"
            );
            let config = config_of(&[endpoint]);
            let extract = config.endpoints[0].extract.as_ref().expect("it was given");
            prop_assert_eq!(json_path::extract(&body, extract).ok(), expected.clone(), "{} in {}", spelling, body);
        }
    }

    #[test]
    fn no_text_makes_a_json_path_panic(
        text in prop_oneof![
            "\\PC{0,100}",
            vec(select(&["{", "}", "[", "]", ":", ",", "\"a\"", "\"", "\\u", "\\ud800", "0", "1e", "nul", "null", " "][..]), 0..40)
                .prop_map(|tokens| tokens.concat()),
            (json(), any::<Index>()).prop_map(|(tree, at)| {
                let mut body = String::new();
                written(&tree, "", &mut body);
                body.chars().take(at.index(body.chars().count() + 1)).collect()
            }),
        ],
        path in vec(select(KEYS.to_vec()).prop_map(str::to_owned), 0..4),
    ) {
        let found = json_path::extract(&text, &Extract { path, field_type: None });
        if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            prop_assert!(found.is_err(), "{:?} is no JSON", text);
        }
    }
}

// The merge-patch (SPEC 4.2, 6.3).

fn any_object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,3}".prop_map(Value::from),
        any::<bool>().prop_map(Value::from)
    ];
    let tree = leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            3 => btree_map(select(KEYS.to_vec()).prop_map(str::to_owned), inner.clone(), 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            1 => vec(inner, 0..3).prop_map(Value::from),
        ]
    });
    btree_map(select(KEYS.to_vec()).prop_map(str::to_owned), tree, 0..5)
        .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into())
}

proptest! {
    #![proptest_config(cases(500))]

    /// Merged as the RFC says, by code that is not the sidecar's, it sets and removes those fields and touches no other.
    #[test]
    fn a_merge_patch_gives_the_fields_and_touches_nothing_else(
        object in any_object(),
        changes in btree_map(
            vec(select(KEYS.to_vec()), 1..4).prop_map(|keys| {
                keys.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect::<String>()
            }),
            option::of(prop_oneof!["[a-z]{0,4}".prop_map(Value::from), any::<i32>().prop_map(Value::from)]),
            1..5,
        ),
    ) {
        // No field inside another one.
        let pointers: Vec<String> = changes.keys().cloned().collect();
        let inside = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
        prop_assume!(!pointers.iter().any(|one| pointers.iter().any(|other| inside(one, other))));
        let mut expected = object.clone();
        changes.iter().for_each(|(pointer, value)| set(&mut expected, pointer, value.clone()));
        let mut merged = object;
        merge_patch::merge(&mut merged, &patch::merge_patch(&changes));
        prop_assert_eq!(&merged, &expected);
        for (pointer, value) in &changes {
            prop_assert_eq!(merged.pointer(pointer), value.as_ref(), "{}", pointer);
        }
    }
}

// What is written is what the objects can hold (SPEC 2.6, 6.1, 6.2).

/// What OpenKruiseGame and the API server can take of a field.
fn can_be_held(object: &Object, pointer: &str, value: &Value) -> bool {
    let game_server = object.path.contains("/game.kruise.io/") && object.path.contains("/gameservers/");
    let label = value.as_str().is_some_and(is_legal_label);
    match pointer {
        "/spec/opsState" if game_server => label && value != "",
        // An int-or-string, which becomes a label value.
        "/spec/deletionPriority" | "/spec/updatePriority" if game_server => match value.as_i64() {
            Some(integer) => (0..=i64::from(i32::MAX)).contains(&integer),
            None => label && value != "",
        },
        _ if pointer.starts_with("/metadata/labels/") => label,
        _ if pointer.starts_with("/metadata/annotations/") => value.is_string(),
        _ => true,
    }
}

fn result_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,70}",
        "[-A-Za-z0-9_.]{0,70}",
        "[-+]?[0-9]{0,12}([.e][0-9]{0,2})?",
        select(&["", "-", "true", "null", "{{.Result}}", "2147483648", "007", "A", "\"A\"", "空"][..])
            .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn templates_never_give_what_an_object_cannot_hold(results in vec(result_text(), 1..4), around in "[-a.]{0,2}") {
        let endpoint = format!(
            "{{url: 'http://h', storageConfig: {{type: InKube, inKube: {{labelKey: k, annotationKey: k, markerPolices: [{{\
             state: Succeeded, gameServerOpsState: Allocated, gameServerDeletionPriority: '{{{{.Result}}}}', \
             gameServerUpdatePriority: 'a{around}{{{{.Result}}}}{{{{.Result}}}}', labels: {{l: 'a{around}{{{{.Result}}}}'}}, \
             annotations: {{a: '{around}{{{{.Result}}}}'}}}}]}}}}}}"
        );
        let mut core = Core::new(config_of(&[endpoint]).endpoints);
        for result in &results {
            core.round(&[Some(Reading::Success(Answer::Text(result.clone())))]);
            for (object, fields) in &core.desired.fields {
                for (pointer, value) in fields {
                    prop_assert!(can_be_held(object, pointer, value), "{} gets {} at {}", object.path, value, pointer);
                }
            }
            let annotation = core.fields(&identity().pod()).get("/metadata/annotations/a").cloned();
            prop_assert_eq!(annotation, Some(json!(format!("{around}{result}"))), "an annotation holds anything");
        }
    }

    /// The same of `jsonPath`, which puts a result into a field of any object, and of `fieldType`, which gives it a type.
    #[test]
    fn results_in_fields_never_give_what_an_object_cannot_hold(
        result in result_text(),
        field in select(&[
            "/spec/opsState", "/spec/deletionPriority", "/spec/updatePriority", "/metadata/labels/l", "/metadata/annotations/a",
        ][..]),
        target in select(&[
            "", ", target: {version: v1, resource: pods, name: gs-0}",
            ", target: {group: game.kruise.io, version: v1alpha1, resource: gameservers, name: gs-0}",
            ", target: {group: game.kruise.io, version: v1alpha1, resource: gameservers, name: gs-1}",
        ][..]),
        field_type in select(&["string", "integer", "number", "boolean"][..]),
    ) {
        let endpoint = format!(
            "{{url: 'http://h', jsonPathConfig: {{jsonPath: a, fieldType: {field_type}}}, \
             storageConfig: {{type: InKube, inKube: {{jsonPath: '{field}'{target}}}}}}}"
        );
        let mut core = Core::new(config_of(&[endpoint]).endpoints);
        let extract = core.endpoints[0].extract.clone().expect("it was given");
        // As a string, and as the number or boolean that it may be.
        for body in [json!({"a": result}).to_string(), format!("{{\"a\":{result}}}")] {
            let Ok(text) = json_path::extract(&body, &extract) else { continue };
            core.round(&[Some(Reading::Success(Answer::Text(text)))]);
            for (object, fields) in &core.desired.fields {
                for (pointer, value) in fields {
                    prop_assert!(can_be_held(object, pointer, value), "{} gets {} at {}", object.path, value, pointer);
                }
            }
        }
    }
}

// The schedule (SPEC 3.2).

proptest! {
    #![proptest_config(cases(300))]

    /// Whatever rounds take and however long the process is frozen: rounds begin on the grid or as soon after it as the
    /// process can, none is made up, and none that can be kept is missed.
    #[test]
    fn rounds_keep_the_grid_and_are_never_made_up(
        first in 0_u64..100_000,
        interval in 1_u64..300,
        rounds in vec((prop_oneof![3 => 0_u64..900, 1 => 0_u64..1_000_000], prop_oneof![4 => Just(0), 1 => 0_u64..10_000_000]), 1..30),
    ) {
        let ms = Duration::from_millis;
        let (first, interval) = (ms(first), Duration::from_secs(interval));
        let mut schedule = Schedule::new(first, interval);
        prop_assert_eq!(schedule.next(), first);
        let mut began_last: Option<u128> = None;
        for (takes, frozen) in rounds {
            let due = schedule.next();
            prop_assert!(!schedule.is_due(due - due.min(ms(1))) || due < ms(1));
            let began = due + ms(frozen);
            prop_assert!(schedule.is_due(began));
            // One round for one place of the grid.
            let place = (began - first).as_nanos() / interval.as_nanos();
            prop_assert!(began_last.is_none_or(|last| place > last), "two rounds in one interval");
            began_last = Some(place);
            let over = began + ms(takes);
            schedule.advance(over);
            let next = schedule.next();
            prop_assert_eq!((next - first).as_nanos() % interval.as_nanos(), 0, "off the grid");
            prop_assert!(next > over, "made up");
            prop_assert!(next <= over + interval, "missed");
        }
    }
}
