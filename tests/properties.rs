//! What must hold whatever comes: of the config reader, the decision core, the JSON path, the merge-patch, templates and
//! the schedule. Each judge here is written from the contract and looks at the whole history at once, so that it shares no
//! mistake with the program, which goes step by step. `PROPTEST_CASES=10000 cargo test properties::` looks longer.

use std::collections::BTreeMap;
use std::time::Duration;

use okg_sidecar::config::{
    Config, ConfigError, Endpoint, Extract, Field, FieldType, MAX_BYTES, OPS_STATE, Probe, When,
};
use okg_sidecar::controller::{Api, Attempted, Controller};
use okg_sidecar::decide::condition::condition_pointer;
use okg_sidecar::decide::decision::{Decision, Fields};
use okg_sidecar::decide::exclusive::Exclusive;
use okg_sidecar::decide::failure::{Refusal, WriteError};
use okg_sidecar::decide::guarded::Seen;
use okg_sidecar::decide::merge_patch::merge_patch;
use okg_sidecar::decide::object::{Identity, Kind, Object};
use okg_sidecar::decide::opinion::Opinion;
use okg_sidecar::decide::pace::Retry;
use okg_sidecar::decide::policy::{Outcome, ProbeResult};
use okg_sidecar::decide::record::Record;
use okg_sidecar::decide::schedule::Schedule;
use okg_sidecar::decide::write::{Patch, Write};
use okg_sidecar::probe::json_path;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Value, json};
use stand_ins::merge_patch;
use ureq::http::StatusCode;

use crate::reference;

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

/// The result of a document at the endpoint's JSON path.
fn extracted(body: &str, endpoint: &Endpoint) -> Option<String> {
    match &endpoint.extract {
        Extract::Value { path, field_type } => json_path::extract(body, path, *field_type).ok(),
        Extract::Nothing | Extract::Whole | Extract::Count { .. } | Extract::Metric(_) | Extract::Players(_) => {
            unreachable!("a path was given")
        }
    }
}

fn identity() -> Identity {
    Identity { namespace: "games".into(), name: "gs-0".into(), uid: Some("u-1".into()), token_issued_at: None }
}

// The config reader (behaviour 2).

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

/// Refused with something to say that forges and floods no log, or accepted within the ranges of behaviour 2.
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
        match &endpoint.probe {
            Probe::Http(probe) => {
                prop_assert!(matches!(probe.url.scheme_str(), Some("http" | "https")));
                prop_assert!(probe.url.host().is_some_and(|host| !host.is_empty()));
                prop_assert!(probe.url.port().is_none_or(|port| port.as_u16() >= 1));
                prop_assert!(!["CONNECT", "TRACE"].contains(&probe.method.as_str()));
                prop_assert!((200..=599).contains(probe.expected_status.start()));
                prop_assert!(probe.body.len() <= 4096);
            }
            Probe::File(file) => {
                prop_assert!(file.path.is_absolute());
                prop_assert!(file.max_age.is_none_or(|age| within(age, 1, 86400)));
            }
            Probe::Tcp(server)
            | Probe::A2s(server)
            | Probe::Minecraft(server)
            | Probe::Bedrock(server)
            | Probe::Quake3(server) => prop_assert!(server.port > 0 && !server.host.is_empty()),
        }
        prop_assert!(within(endpoint.timeout, 1, 3600));
        prop_assert!((1..=1000).contains(&endpoint.failure_threshold));
        prop_assert!((1..=1000).contains(&endpoint.success_threshold));
        for state in &endpoint.rules().protected_ops_states {
            prop_assert!(reference::is_legal_label(state) && !state.is_empty(), "{state:?}");
        }
        for (index, policy) in endpoint.rules().policies.iter().enumerate() {
            for (field, value) in &policy.sets {
                let state = value.to_string();
                let is_state = *field == Field::of_game_server(OPS_STATE);
                prop_assert!(!is_state || (reference::is_legal_label(&state) && !state.is_empty()), "{state:?}");
            }
            for other in &endpoint.rules().policies[..index] {
                let apart = match (&policy.when, &other.when) {
                    _ if policy.when == other.when => policy.lasting != other.lasting,
                    (When::Range(min, max), When::Range(least, most)) => max < least || most < min,
                    _ => true,
                };
                prop_assert!(policy.lasting.as_secs() <= 86400);
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

    /// The reader and the contract agree in both directions: what is in its range is taken over as it is, and of what is not
    /// every key is named.
    #[test]
    fn exactly_what_is_out_of_its_range_is_refused(
        numbers in [
            number(0, 86400), number(1, 86400), number(0, 86400),
            number(1, 3600), number(200, 599), number(1, 1000), number(1, 1000), number(1, 65535),
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
        let legal_state = !state.is_empty() && reference::is_legal_label(&state);
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
                    let Probe::Http(probe) = &endpoint.probe else { unreachable!("a config file has no others") };
                    prop_assert_eq!(endpoint.timeout, seconds(n[3]));
                    prop_assert_eq!(probe.expected_status.clone().map(i64::from).collect::<Vec<_>>(), [n[4]]);
                    prop_assert_eq!(i64::from(endpoint.failure_threshold), n[5]);
                    prop_assert_eq!(i64::from(endpoint.success_threshold), n[6]);
                    prop_assert_eq!(probe.url.port_u16().map(i64::from), Some(n[7]));
                    let set = endpoint.rules().policies[0].sets.iter().map(|(field, value)| (field.clone(), value.to_string()));
                    prop_assert!(set.eq([(Field::of_game_server(OPS_STATE), state.clone())]));
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

    /// behaviour 2.5 and 6.4: the same state twice, a range that is none, and ranges that share a number.
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

// Opinions and decisions (behaviour 5, 6.1, 6.2).

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

/// What came of a probe; `None` is a fault of the sidecar itself, which says nothing about the game.
fn outcome() -> impl Strategy<Value = Option<Outcome>> {
    let texts = ["A", "B", "5", "0", "7", "9", "9.5", "100", "x", "", "Failed", "Succeeded", "no label", "-5", "nan"];
    prop_oneof![
        8 => select(texts.to_vec()).prop_map(|text| Some(Outcome::Success(ProbeResult::Text(text.into())))),
        4 => Just(Some(Outcome::Failure(String::new()))),
        1 => Just(Some(Outcome::Success(ProbeResult::Unread))),
        1 => Just(Some(Outcome::Success(ProbeResult::TooLong("None".into())))),
        1 => Just(None),
    ]
}

/// What a field is set to; nothing where it is removed.
fn set_to(value: &Value) -> Option<Value> {
    (!value.is_null()).then(|| value.clone())
}

/// The core as `sidecar.rs` puts it together.
struct Core {
    endpoints: Vec<Endpoint>,
    opinions: Vec<Opinion>,
    decision: Decision,
}

impl Core {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        let opinions = vec![Opinion::default(); endpoints.len()];
        Self { decision: Decision::new(&endpoints, &identity()), endpoints, opinions }
    }

    fn reload(&mut self, endpoints: Vec<Endpoint>) {
        self.opinions = vec![Opinion::default(); endpoints.len()];
        self.decision.reload(&endpoints, &identity(), std::iter::empty());
        self.endpoints = endpoints;
    }

    fn probe(&mut self, index: usize, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            self.opinions[index].observe(&self.endpoints[index], outcome, Duration::ZERO);
        }
        self.decision.update(&self.endpoints, &self.opinions, index + 1);
    }

    fn decided(&self) -> reference::Decided {
        let fields =
            self.decision.objects().flat_map(|(object, fields)| fields.iter().map(move |field| (object, field)));
        fields.map(|(object, (pointer, value))| ((object.clone(), pointer.clone()), set_to(value))).collect()
    }
}

proptest! {
    #![proptest_config(cases(300))]

    /// However results are spread over rounds, an opinion depends on its own endpoint's stretches alone, and a decision
    /// on the opinions alone; after a reload, on those since then.
    #[test]
    fn opinions_and_decisions_are_what_the_whole_history_says(
        configs in vec((endpoints(), vec(vec(outcome(), 3), 1..15)), 1..3),
    ) {
        let mut core = Core::new(Vec::new());
        let mut decided = reference::Decided::new();
        for (endpoints, rounds) in configs {
            // Keys of the Pod that only the old config could set are removed (behaviour 8.5).
            let old = reference::places(&core.endpoints, &identity());
            let new = reference::places(&endpoints, &identity());
            let of_pod = old.into_iter().chain(decided.into_keys()).filter(|(object, _)| object.kind == Kind::Pod);
            decided = of_pod.filter(|place| !new.contains(place)).map(|place| (place, None)).collect();
            core.reload(endpoints.clone());
            let mut histories = vec![Vec::new(); endpoints.len()];
            let mut let_go = reference::LetGo::default();
            for round in rounds {
                for (index, outcome) in round.into_iter().take(endpoints.len()).enumerate() {
                    histories[index].extend(outcome.clone().map(|outcome| (Duration::ZERO, outcome)));
                    core.probe(index, outcome);
                    let stands: Vec<_> =
                        endpoints.iter().zip(&histories).map(|(one, history)| reference::stand(one, history)).collect();
                    let (opinion, stand) = (&core.opinions[index], &stands[index]);
                    prop_assert_eq!(opinion.policy, stand.policy);
                    prop_assert_eq!(&opinion.result, &stand.result);
                    prop_assert_eq!((opinion.is_formed, !opinion.is_decided), (stand.formed, stand.undecided));
                    reference::decide(&mut decided, &mut let_go, &endpoints, &stands, index + 1, &identity());
                    prop_assert_eq!(core.decided(), decided.clone(), "after endpoint {} of {:?}", index, &endpoints);
                }
            }
        }
    }
}

// The pace of writes (behaviour 4.5).

/// What becomes of every attempt.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Unanswered,
    Failed,
    Refused,
}

proptest! {
    #![proptest_config(cases(100))]

    /// An API server that never takes a write: with true jitter, no minute sees many attempts and no hour hundreds.
    #[test]
    fn an_outage_is_not_answered_by_a_storm(
        seed: u64,
        changes_every in select(&[1_u64, 7, 100_000][..]),
        fate in select(&[Fate::Unanswered, Fate::Failed, Fate::Refused][..]),
    ) {
        let mut exclusive = Exclusive::default();
        let mut jitter = seed;
        let mut attempts: Vec<Duration> = Vec::new();
        for second in 0..3600 {
            let now = Duration::from_secs(second);
            let fields = Fields::from([("/metadata/labels/l".to_owned(), json!(second / changes_every))]);
            while let Some(due) = exclusive.due(&fields, None).filter(|due| *due < now + Duration::from_secs(1)) {
                let at = due.max(now);
                attempts.push(at);
                // splitmix64
                jitter = jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (jitter ^ (jitter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                let drawn = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
                let changes = exclusive.changes(Kind::Pod, &fields, at);
                prop_assert!(!changes.is_empty(), "an attempt without a change");
                match fate {
                    Fate::Refused => exclusive.pace().refused(&changes, at, drawn),
                    Fate::Unanswered => {
                        let patch = Patch { body: Value::Null, fields: changes, record: Record::default(), at };
                        exclusive.unanswered(&patch, at);
                        exclusive.pace().failed(Retry::Transient, None, at, drawn);
                    }
                    Fate::Failed => exclusive.pace().failed(Retry::Transient, None, at, drawn),
                }
            }
        }
        // Waits of up to 15 s with full jitter are 7.5 s in the mean; a refused value waits for 30 s at least ten times, then
        // for 300 s, and a new one is sent at once, as long as there are not more than twelve and one in 5 s.
        let most = match fate {
            Fate::Unanswered | Fate::Failed => 700,
            Fate::Refused => 22.max((3600 / changes_every + 1).min(12 + 3600 / 5)),
        };
        prop_assert!((14..=most).contains(&(attempts.len() as u64)), "{} attempts in an hour", attempts.len());
        for (index, at) in attempts.iter().enumerate().filter(|_| !matches!(fate, Fate::Refused)) {
            let minute = attempts[index..].iter().take_while(|later| **later - *at < Duration::from_secs(60)).count();
            prop_assert!(minute <= 35, "{minute} attempts in a minute");
        }
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

// The JSON path (behaviour 6.5).

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

/// What behaviour 6.5 makes of a value: the result and the fieldTypes that it fits.
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
        let found = json_path::extract(&body, &path, asked);
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
            prop_assert_eq!(extracted(&body, &config.endpoints[0]), expected.clone(), "{} in {}", spelling, body);
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
        let found = json_path::extract(&text, &path, None);
        if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            prop_assert!(found.is_err(), "{:?} is no JSON", text);
        }
    }
}

// The merge-patch (behaviour 4.2, 6.3).

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
        let pairs = changes.iter().map(|(pointer, value)| (pointer.as_str(), value.clone().unwrap_or_default()));
        merge_patch::merge(&mut merged, &merge_patch(pairs));
        prop_assert_eq!(&merged, &expected);
        for (pointer, value) in &changes {
            prop_assert_eq!(merged.pointer(pointer), value.as_ref(), "{}", pointer);
        }
    }
}

// What is written is what the objects can hold (behaviour 2.6, 6.1, 6.2).

/// What OpenKruiseGame and the API server can take of a field.
fn can_be_held(object: &Object, pointer: &str, value: &Value) -> bool {
    let game_server = object.path.contains("/game.kruise.io/") && object.path.contains("/gameservers/");
    let label = value.as_str().is_some_and(reference::is_legal_label);
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
            core.probe(0, Some(Outcome::Success(ProbeResult::Text(result.clone()))));
            for (object, fields) in core.decision.objects() {
                for (pointer, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                    prop_assert!(can_be_held(object, pointer, value), "{} gets {} at {}", object.path, value, pointer);
                }
            }
            let annotation = core.decision.fields(&identity().pod()).get("/metadata/annotations/a").cloned();
            prop_assert_eq!(annotation, Some(json!(format!("{around}{result}"))), "an annotation holds anything");
        }
    }

    /// The same of `jsonPath`, which puts a result into a field of any object, and of `fieldType`, which gives it a type.
    #[test]
    fn results_in_fields_never_give_what_an_object_cannot_hold(
        result in result_text(),
        field in select(&[
            "/spec/deletionPriority", "/spec/updatePriority", "/metadata/labels/l", "/metadata/annotations/a",
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
        // As a string, and as the number or boolean that it may be.
        for body in [json!({"a": result}).to_string(), format!("{{\"a\":{result}}}")] {
            let Some(text) = extracted(&body, &core.endpoints[0]) else { continue };
            core.probe(0, Some(Outcome::Success(ProbeResult::Text(text))));
            for (object, fields) in core.decision.objects() {
                for (pointer, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                    prop_assert!(can_be_held(object, pointer, value), "{} gets {} at {}", object.path, value, pointer);
                }
            }
        }
    }
}

// The schedule (behaviour 3.2).

proptest! {
    #![proptest_config(cases(300))]

    /// Whatever rounds take and however long the process is frozen: rounds begin on the grid or late by less than half an
    /// interval, and none is made up.
    #[test]
    fn rounds_keep_the_grid_and_are_never_made_up(
        first in 0_u64..100_000,
        interval in 1_u64..300,
        count in 1_usize..4,
        rounds in vec((prop_oneof![3 => 0_u64..900, 1 => 0_u64..1_000_000], prop_oneof![4 => Just(0), 1 => 0_u64..10_000_000]), 1..30),
    ) {
        let ms = Duration::from_millis;
        let (first, interval) = (ms(first), Duration::from_secs(interval));
        let mut schedule = Schedule::new([(count, first, interval)]);
        prop_assert_eq!(schedule.next(), first);
        for (takes, frozen) in rounds {
            let due = schedule.next();
            prop_assert!(schedule.due(due.saturating_sub(ms(1))).is_none() || due < ms(1));
            let over = due + ms(frozen) + ms(takes);
            for index in 0..count {
                prop_assert_eq!(schedule.due(over), Some(index));
                schedule.advance(index, over);
            }
            let next = schedule.next();
            prop_assert_eq!((next - first).as_nanos() % interval.as_nanos(), 0, "off the grid");
            prop_assert!(next > due, "two rounds in one interval");
            // Late by less than half an interval it starts at once; after a longer stall the next one is to come.
            if over < due + interval + interval / 2 {
                prop_assert_eq!(next, due + interval);
            } else {
                prop_assert!(next > over && next <= over + interval, "made up or missed");
            }
        }
    }
}

// Conditions of the pod (behaviour 9.4, 9.5).

/// What becomes of one attempt to write the pod's status.
#[derive(Debug, Clone, Copy)]
enum Written {
    Confirmed,
    /// It takes effect, and the answer is lost.
    Unheard,
    /// It takes effect this many seconds later, and nobody hears of it.
    Late(u64),
    /// It never arrives, and nobody hears of that either.
    Lost,
    Forbidden,
}

fn fate() -> impl Strategy<Value = Written> {
    prop_oneof![
        3 => Just(Written::Confirmed),
        1 => Just(Written::Unheard),
        1 => (0_u64..34).prop_map(Written::Late),
        1 => Just(Written::Lost),
        1 => Just(Written::Forbidden),
    ]
}

/// A pod's status at an API server, and a clock.
struct PodStatus {
    now: Duration,
    fates: std::vec::IntoIter<Written>,
    conditions: BTreeMap<String, Value>,
    reads: Vec<Duration>,
    late: Vec<(Duration, Value)>,
    /// By condition, how often it was confirmed, and how often an attempt with it got no answer.
    confirmed: BTreeMap<String, usize>,
    unanswered: BTreeMap<String, usize>,
}

impl PodStatus {
    fn apply(&mut self, patch: &Value) {
        for condition in patch["status"]["conditions"].as_array().expect("a list") {
            self.conditions.insert(name_of(condition), condition.clone());
        }
    }

    fn arrive(&mut self) {
        let (arrived, late) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= self.now);
        self.late = late;
        let arrived: Vec<(Duration, Value)> = arrived;
        arrived.iter().for_each(|(_, patch)| self.apply(patch));
    }
}

fn name_of(condition: &Value) -> String {
    condition["type"].as_str().expect("a type").to_owned()
}

impl Api for PodStatus {
    fn now(&self) -> Duration {
        self.now
    }

    fn wall_clock(&self) -> Duration {
        Duration::ZERO
    }

    fn read(&mut self, object: &Object, pointers: &[&str], is_whole: bool) -> Result<Seen, WriteError> {
        assert!(is_whole && object.kind == Kind::PodStatus, "{} is read", object.path);
        self.reads.push(self.now);
        let held = |(name, condition): (&String, &Value)| (condition_pointer(name), condition.clone());
        let held = self.conditions.iter().map(held).filter(|(pointer, _)| pointers.contains(&pointer.as_str()));
        Ok(Seen { is_whole, values: held.collect(), ..Seen::default() })
    }

    fn patch(&mut self, object: &Object, patch: &Value) -> Result<(), WriteError> {
        assert_eq!(object.path, "/api/v1/namespaces/games/pods/gs-0/status");
        assert_eq!(patch["metadata"], json!({"uid": "u-1"}));
        self.now += Duration::from_millis(300);
        self.arrive();
        let names: Vec<String> =
            patch["status"]["conditions"].as_array().expect("a list").iter().map(name_of).collect();
        let fate = self.fates.next().unwrap_or(Written::Confirmed);
        match fate {
            Written::Confirmed | Written::Unheard => self.apply(patch),
            Written::Late(seconds) => self.late.push((self.now + Duration::from_secs(seconds), patch.clone())),
            Written::Lost | Written::Forbidden => {}
        }
        let mut count = |counts: fn(&mut Self) -> &mut BTreeMap<String, usize>| {
            names.iter().for_each(|name| *counts(self).entry(name.clone()).or_default() += 1);
        };
        match fate {
            Written::Confirmed => {
                count(|status| &mut status.confirmed);
                Ok(())
            }
            Written::Unheard | Written::Late(_) | Written::Lost => {
                count(|status| &mut status.unanswered);
                Err(WriteError::NoAnswer { error: "no answer".into(), perhaps_written: true })
            }
            Written::Forbidden => Err(WriteError::Refused(Refusal {
                status: StatusCode::FORBIDDEN,
                message: String::new(),
                retry_after: None,
                advice: String::new(),
                perhaps_written: false,
                by_admission: false,
            })),
        }
    }
}

/// Status and message after each outcome, read literally on the whole history.
fn established(history: &[Result<&str, &str>], successes: usize, failures: usize) -> Vec<(&'static str, String)> {
    let stretch = |end: usize, length: usize| end.checked_sub(length).map(|start| &history[start..end]);
    let mut told = Vec::new();
    for end in 1..=history.len() {
        if stretch(end, successes).is_some_and(|stretch| stretch.iter().all(Result::is_ok)) {
            told.push(("True", history[end - 1].unwrap_or_default().to_owned()));
        }
        if stretch(end, failures).is_some_and(|stretch| stretch.iter().all(Result::is_err)) {
            told.push(("False", history[end - 1].err().unwrap_or_default().to_owned()));
        }
    }
    told.dedup();
    told
}

proptest! {
    #![proptest_config(cases(100))]

    /// Whatever is answered and lost: each condition is confirmed no more often than it changed, and once more for each
    /// attempt that got no answer; and in the end the pod has what the game said last.
    #[test]
    fn conditions_are_written_on_change_and_once_more_for_what_was_lost(
        probes in vec((1_usize..4, 1_usize..4, 1_u64..4, vec(select(&[Ok("a"), Ok("b"), Err("x"), Err("y")][..]), 1..25)), 1..4),
        fates in vec(fate(), 0..12),
        jitters in vec(0.0_f64..1.0, 1..20),
    ) {
        let entry = |(index, (successes, failures, period, _)): (usize, &(usize, usize, u64, _))| json!({
            "podConditionType": format!("game.kruise.io/p{index}"),
            "probe": {"tcpSocket": {"port": 1}, "periodSeconds": period, "successThreshold": successes, "failureThreshold": failures},
        });
        let annotation = json!(probes.iter().enumerate().map(entry).collect::<Vec<_>>()).to_string();
        let variable = |name: &str| (name == "KRUISE_PODPROBE").then(|| annotation.clone());
        let (_, config) = Config::open("/nowhere/config.yaml".into(), &variable).expect("it is legal");
        let mut controller = Controller::new(config, identity(), 0.5);
        let mut status = PodStatus {
            now: Duration::ZERO,
            fates: fates.into_iter(),
            conditions: BTreeMap::new(),
            reads: Vec::new(),
            late: Vec::new(),
            confirmed: BTreeMap::new(),
            unanswered: BTreeMap::new(),
        };
        let mut histories: Vec<Vec<Result<&str, &str>>> = vec![Vec::new(); probes.len()];
        let mut jitters = jitters.iter().copied().cycle();
        while status.now < Duration::from_secs(900) {
            let due = controller.due_probe(status.now);
            if let Some(index) = due {
                let (.., said) = &probes[index];
                let next = said[histories[index].len().min(said.len() - 1)];
                histories[index].push(next);
                let outcome = match next {
                    Ok(text) => Outcome::Success(ProbeResult::Text(text.into())),
                    Err(text) => Outcome::Failure(text.into()),
                };
                status.now += Duration::from_millis(10);
                controller.observe(index, Some(outcome), status.now);
            }
            let object = controller.due_write(status.now);
            if let Some(object) = &object {
                let jitter = jitters.next().expect("it is endless");
                let reads = status.reads.len();
                let attempted = controller.write(object, &mut status, jitter);
                prop_assert!(!matches!(attempted, Attempted::Dropped(_)), "conditions are kept");
                prop_assert!(!matches!(attempted, Attempted::Unchanged) || status.reads.len() > reads, "nothing was due");
            }
            if due.is_none() && object.is_none() {
                prop_assert!(controller.next_event() > status.now, "a busy loop");
                status.now = controller.next_event();
            }
            status.arrive();
        }
        prop_assert!(status.reads.len() <= 2, "{:?}", status.reads);
        for (index, ((successes, failures, ..), history)) in probes.iter().zip(&histories).enumerate() {
            let name = format!("game.kruise.io/p{index}");
            let told = established(history, *successes, *failures);
            let count = |counts: &BTreeMap<String, usize>| counts.get(&name).copied().unwrap_or_default();
            let (confirmed, unanswered) = (count(&status.confirmed), count(&status.unanswered));
            // A read may find that a lost attempt has arrived.
            let most = told.len() + unanswered + status.reads.len().min(unanswered);
            prop_assert!(confirmed <= most, "{confirmed} of {} changes, {unanswered} unanswered", told.len());
            let last = told.last().map(|(status, message)| json!({"type": name, "status": status, "message": message}));
            prop_assert_eq!(status.conditions.get(&name), last.as_ref());
        }
    }
}
