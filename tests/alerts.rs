//! The alert rules of docs/logs.md, tried on what the binary logs: they fire, they end, and what needs nobody fires none.

use std::fs;
use std::path::Path;

use regex::Regex;
use serde_json::json;
use serde_yaml::Value;
use stand_ins::{Fault, OTHER_POD_UID, POD_UID, SOON, Scene, SidecarProcess, Which};

/// What the filters of a rule match, in the order of its expression: lines that fire it, then those that end it.
fn filters(alert: &str) -> Vec<Regex> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logs.md")).expect("the page");
    let (_, rules) = page.split_once("```yaml\n").expect("the rules");
    let rules: Value = serde_yaml::from_str(rules.split("```").next().unwrap_or_default()).expect("YAML");
    let rules = rules["groups"][0]["rules"].as_sequence().expect("a list");
    let rule = rules.iter().find(|rule| rule["alert"] == alert).expect("a rule of this name");
    let expression = rule["expr"].as_str().expect("an expression");
    let filters = expression.split("|~ `").skip(1).filter_map(|rest| rest.split('`').next());
    filters.map(|filter| Regex::new(filter).expect("a regular expression")).collect()
}

#[track_caller]
fn wait_for(sidecar: &SidecarProcess, filter: &Regex) {
    sidecar.eventually(SOON, filter.as_str(), || sidecar.lines().iter().any(|line| filter.is_match(&line.text)));
}

fn matched(sidecar: &SidecarProcess, filter: &Regex) -> usize {
    sidecar.lines().iter().filter(|line| filter.is_match(&line.text)).count()
}

#[test]
fn a_sidecar_that_cannot_write_fires_its_alert_until_it_works_again() {
    let filters = filters("OkgSidecarCannotWrite");
    let scene = Scene::new();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.api.stop();
    scene.game.set(200, "Allocated");
    wait_for(&sidecar, &filters[0]);
    assert_eq!(matched(&sidecar, &filters[1]), 0);
    scene.api.start_again();
    wait_for(&sidecar, &filters[1]);
}

#[test]
fn a_write_that_is_not_needed_any_more_ends_its_alert() {
    let filters = filters("OkgSidecarCannotWrite");
    let scene = Scene::new();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    // Until then there is something left to do: to look whether the write still stands.
    sidecar.eventually(2 * SOON, "two looks", || scene.reads() == 3);
    scene.api.next_of(&Which::writes(), [Fault::status_with(429, &[("Retry-After", "120")], "slow down")]);
    scene.game.set(200, "Allocated");
    wait_for(&sidecar, &filters[0]);
    scene.game.set(200, "None");
    wait_for(&sidecar, &filters[1]);
    assert_eq!(sidecar.count_lines("is not needed any more after 1 failure in "), 1, "{}", sidecar.stderr());
    // The next one begins anew, and is not kept waiting for longer than the server asked for.
    scene.await_probes(&sidecar, 3);
    assert_eq!((matched(&sidecar, &filters[0]), matched(&sidecar, &filters[1])), (1, 1));
}

#[test]
fn a_game_that_is_gone_fires_its_alert_until_it_answers_again() {
    let filters = filters("OkgSidecarGameUnreachable");
    let scene = Scene::new();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.game.stop();
    wait_for(&sidecar, &filters[0]);
    scene.game.start_again();
    wait_for(&sidecar, &filters[1]);
}

#[test]
fn a_rejected_config_fires_its_alert() {
    let scene = Scene::new();
    let of_this_file = |filter: &Regex, path: &str| {
        Regex::new(&filter.as_str().replace("/opt/sidecar/config.yaml", path)).expect("a regular expression")
    };
    let filter = &filters("OkgSidecarConfigRejected")[0];
    let filter = of_this_file(filter, r"\S+/config\.yaml");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.pod.update_config("plugins: []");
    wait_for(&sidecar, &filter);
    let refused = scene.sidecar().start();
    refused.wait_exit(SOON);
    assert_eq!(matched(&refused, &filter), 1, "{}", refused.stderr());
}

#[test]
fn what_needs_nobody_fires_no_alert() {
    let cannot_write = &filters("OkgSidecarCannotWrite")[0];
    let scene = Scene::new();
    scene.pod.update_config(&scene.rooms("").replace("inKube: {", "inKube: {protectedOpsStates: [Maintaining], "));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.somebody_sets("kubectl-edit", "Maintaining");
    scene.game.set(200, "Allocated");
    let protected =
        format!("{}: opsState `Maintaining` was set by someone else and is protected; not writing", scene.path());
    sidecar.wait_for_line(&protected, SOON);
    assert_eq!(matched(&sidecar, cannot_write), 0, "{}", sidecar.stderr());

    let scene = Scene::new();
    scene.give_to_set();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.set_record(&json!({"opsState": "None", "pod": OTHER_POD_UID}));
    scene.game.set(200, "Allocated");
    let ended = format!("writing {} has ended: a later pod of this name has taken over", scene.path());
    sidecar.wait_for_line(&ended, SOON);
    scene.await_probes(&sidecar, 3);
    assert_eq!(sidecar.stderr().lines().count(), 3, "{}", sidecar.stderr());
    assert_eq!(matched(&sidecar, cannot_write), 0, "{}", sidecar.stderr());
    assert_ne!(POD_UID, OTHER_POD_UID);
}

/// Once the Role has lost the rule with the config that needed it, the label stays for good.
#[test]
fn a_key_that_may_not_be_removed_any_more_is_told_once_and_fires_no_alert() {
    let cannot_write = &filters("OkgSidecarCannotWrite")[0];
    let scene = Scene::new();
    let labels = "markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle}}]";
    scene.pod.update_config(&stand_ins::scene::config(&[scene.endpoint("timeout: 20", labels)]));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("Pod: /metadata/labels/room idle", SOON);
    scene.api.allow_only(&[("patch", "gameservers")]);
    scene.pod.update_config(&scene.rooms(""));
    let line = sidecar.wait_for_line(&format!("WARN  {}: not removed, ", scene.pod_path()), SOON).text;
    assert!(line.contains("needs the rule"), "{line}");
    let tried = scene.writes_to(&scene.pod_path()).len();
    scene.await_probes(&sidecar, 6);
    assert_eq!(scene.writes_to(&scene.pod_path()).len(), tried, "{}", sidecar.stderr());
    assert_eq!((matched(&sidecar, cannot_write), sidecar.count_lines("not removed")), (0, 1), "{}", sidecar.stderr());
}
