//! Real servers: `probe` prints their number of players, and `run` makes opsStates of it as players come and go.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use stand_ins::scene::config;
use stand_ins::{SOON, Scene, SidecarProcess, side_by_side};

/// A line on standard input: a name, what the probe gives, and the keys of the endpoint as a flow map's inside, between tabs.
struct Case {
    name: String,
    gives: Gives,
    endpoint: String,
}

enum Gives {
    /// The number in the file.
    Players,
    /// Always this one.
    Always(String),
    /// Nothing but success.
    Success,
}

impl Case {
    fn parse(line: &str) -> Self {
        let mut parts = line.splitn(3, '\t').map(str::to_owned);
        let (Some(name), Some(gives), Some(endpoint)) = (parts.next(), parts.next(), parts.next()) else {
            panic!("no case: {line:?}");
        };
        let gives = match gives.as_str() {
            "players" => Gives::Players,
            "success" => Gives::Success,
            _ => Gives::Always(gives),
        };
        Self { name, gives, endpoint }
    }

    fn config(&self) -> String {
        let policies = match self.gives {
            Gives::Success => "[{state: Succeeded, gameServerOpsState: Allocated}]",
            Gives::Players | Gives::Always(_) => {
                "[{min: 1, gameServerOpsState: Allocated}, {max: 0, gameServerOpsState: None}, \
                  {max: 0, forSeconds: 2, gameServerOpsState: WaitToBeDeleted}]"
            }
        };
        let storage = format!("storageConfig: {{type: InKube, inKube: {{markerPolices: {policies}}}}}");
        config(&[format!("{{timeout: 20, {}, {storage}}}", self.endpoint)])
    }
}

/// A sidecar beside one server.
struct Beside<'c> {
    case: &'c Case,
    scene: Scene,
    sidecar: SidecarProcess,
}

pub(crate) fn run(players: &Path, variables: &[String]) {
    let variables: Vec<(&str, &str)> = variables.iter().filter_map(|variable| variable.split_once('=')).collect();
    let mut lines = String::new();
    io::stdin().read_to_string(&mut lines).expect("the cases are text");
    let cases: Vec<Case> = lines.lines().map(Case::parse).collect();
    assert!(cases.len() > 5, "only {} cases", cases.len());
    let come = |number: u32| {
        // In one step: a server may read it at any time.
        let new = players.with_extension("new");
        fs::write(&new, number.to_string()).expect("the folder is writable");
        fs::rename(&new, players).expect("the folder is writable");
    };

    come(3);
    side_by_side(&cases, |case| probe(case, "3", &variables));
    let beside: Vec<Beside> = cases.iter().map(|case| Beside::start(case, &variables)).collect();
    side_by_side(&beside, |beside| match &beside.case.gives {
        Gives::Players | Gives::Success => beside.reaches(&["Allocated"]),
        Gives::Always(_) => beside.reaches(&["WaitToBeDeleted"]),
    });
    come(0);
    let counted: Vec<&Beside> = beside.iter().filter(|beside| matches!(beside.case.gives, Gives::Players)).collect();
    side_by_side(&counted, |beside| beside.reaches(&["Allocated", "None", "WaitToBeDeleted"]));
    side_by_side(&cases, |case| probe(case, "0", &variables));
    come(2);
    side_by_side(&counted, |beside| beside.reaches(&["Allocated", "None", "WaitToBeDeleted", "Allocated"]));
    for beside in &beside {
        let log = beside.sidecar.stderr();
        assert!(!log.contains("probe failed"), "{}: {log}", beside.case.name);
        for (name, value) in &variables {
            assert!(!log.contains(value), "{}: the log contains {name}", beside.case.name);
        }
    }
    println!("{} servers", cases.len());
}

/// `probe` prints the result, and no secret.
fn probe(case: &Case, players: &str, variables: &[(&str, &str)]) {
    let scene = Scene::new();
    scene.pod.update_config(&case.config());
    let sidecar =
        variables.iter().fold(scene.sidecar().arg("probe"), |sidecar, (name, value)| sidecar.env(name, value));
    let sidecar = sidecar.start();
    let code = sidecar.wait_exit(SOON).code();
    let told = format!("{}{}", sidecar.stdout(), sidecar.stderr());
    let name = &case.name;
    assert_eq!(code, Some(0), "{name}: {told}");
    let expected = match &case.gives {
        Gives::Players => format!("`{players}`"),
        Gives::Always(result) => format!("`{result}`"),
        Gives::Success => "`Succeeded`".to_owned(),
    };
    let key = if matches!(case.gives, Gives::Success) { "policy" } else { "result" };
    let is_it = |line: &str| line.trim().strip_prefix(key).is_some_and(|rest| rest.trim() == expected);
    assert!(told.lines().any(is_it), "{name}: no line {key} {expected} in\n{told}");
    for (variable, value) in variables {
        assert!(!told.contains(value), "{name}: {variable} is in\n{told}");
    }
}

impl<'c> Beside<'c> {
    fn start(case: &'c Case, variables: &[(&str, &str)]) -> Self {
        let scene = Scene::new();
        scene.pod.update_config(&case.config());
        let sidecar =
            variables.iter().fold(scene.sidecar().log("debug"), |sidecar, (name, value)| sidecar.env(name, value));
        let sidecar = sidecar.start();
        Self { case, scene, sidecar }
    }

    /// Waits until these opsStates were written, in order, and no other.
    fn reaches(&self, states: &[&str]) {
        let what = format!("{}: {states:?}", self.case.name);
        self.sidecar.eventually(SOON, &what, || {
            self.scene.patched() == states && self.scene.ops_state() == *states[states.len() - 1]
        });
    }
}
