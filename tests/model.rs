//! A model: random histories with made-up time against the decision code as it runs, wired by the same
//! [`Controller`](okg_sidecar::controller::Controller), and a judge that computes from opinions and foreign writes alone what
//! behaviour 8 demands. What it says "ever" is checked at every effect, the rest once everything is quiet.
//!
//! `OKG_MODEL_RUNS=1000000 cargo test --release model:: -- --nocapture` looks longer, and `OKG_MODEL_FIRST` says from
//! which seed on. `OKG_MODEL_SEED=7` replays one seed, leaves out the steps that its mistake does not need, and prints all
//! that happens; with `OKG_MODEL_WHOLE=1` it leaves out none.
//!
//! What the clauses themselves let be lost is not judged, and no more than that; `left_out` counts it, and comments in
//! model/judge.rs name the clause: an object that was recreated or lost its record, until the next write (8.7), an attempt of an
//! earlier process that comes late to the Pod or a target (8.3), what somebody else had set and a controller's cache took back.
//! If tokens show no issue time (4.6): a process that reads its successor's record first, or its predecessor's later. The mode
//! of Kruise's probes (9) has no model.

mod history;
mod judge;
mod world;

use std::collections::BTreeMap;
use std::env;

use history::{Random, Setting, Step};
use okg_sidecar::config::{Config, ConfigError};
use world::World;

/// A few seconds of a debug build.
const RUNS: u64 = 400;

/// Seeds that share their configs, which take long to read.
const SEEDS_PER_POOL: u64 = 256;

/// Configs as the program reads them, from files.
fn configs(pool: u64) -> Vec<(String, Config)> {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let path = folder.path().join("config.yaml");
    let mut random = Random(pool ^ 0x6f6b_672d);
    let mut configs = Vec::new();
    while configs.len() < 24 {
        let text = history::config_text(&mut random);
        std::fs::write(&path, &text).expect("the temporary folder is writable");
        let refused = |error: ConfigError| format!("{error}\n{text}");
        let config = Config::load(&path, &|_| None).map_err(refused).expect("a generator makes legal configs");
        configs.push((text, config));
    }
    configs
}

fn setting(seed: u64, pool: &[(String, Config)]) -> (Setting, Vec<Step>) {
    let mut random = Random(seed);
    let first = random.below(pool.len() as u64) as usize;
    let second = random.below(pool.len() as u64) as usize;
    let setting = Setting {
        seed,
        configs: vec![pool[first].clone(), pool[second].clone()],
        pod_owns: random.one_in(2),
        knows_uid: !random.one_in(8),
        knows_issue_time: !random.one_in(8),
        writes_whole_spec: random.one_in(2),
        starts_with_game_server: !random.one_in(5),
    };
    let steps = history::steps(&mut random, &setting);
    (setting, steps)
}

/// Leaves out what the mistake does not need: half of the steps, a quarter, and so on.
fn shrunk(setting: &Setting, mut steps: Vec<Step>) -> Vec<Step> {
    let fails = |steps: &[Step]| World::new(setting, false).play(steps).is_err();
    let mut length = steps.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + length).min(steps.len()));
            if fails(&fewer) { steps = fewer } else { at += length }
        }
        length /= 2;
    }
    steps
}

/// What a person needs to see of a history that failed.
fn report(setting: &Setting, steps: &[Step]) -> String {
    let (verdict, trace) = match World::new(setting, true).play(steps) {
        Ok(world) => ("right".to_owned(), world.trace),
        Err(failed) => failed,
    };
    let configs: Vec<&str> = setting.configs.iter().map(|(text, _)| text.as_str()).collect();
    let owner = if setting.pod_owns { "the Pod" } else { "the GameServerSet" };
    format!(
        "{verdict}\nseed {}, the GameServer is owned by {owner}, the uid is known: {}, the issue time: {}, OpenKruiseGame writes \
         the whole spec: {}\n{}\n{steps:#?}\n{}\n{verdict}\n",
        setting.seed,
        setting.knows_uid,
        setting.knows_issue_time,
        setting.writes_whole_spec,
        configs.join("\n"),
        trace.unwrap_or_default().join("\n"),
    )
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

#[test]
fn histories_of_every_kind_end_right() {
    if let Some(seed) = number("OKG_MODEL_SEED") {
        let (setting, steps) = setting(seed, &configs(seed / SEEDS_PER_POOL));
        let steps = if env::var_os("OKG_MODEL_WHOLE").is_some() { steps } else { shrunk(&setting, steps) };
        println!("{}", report(&setting, &steps));
    }
    let first = number("OKG_MODEL_FIRST").unwrap_or(0);
    let runs = number("OKG_MODEL_RUNS").unwrap_or(RUNS);
    let mut left_out: BTreeMap<&str, u64> = BTreeMap::new();
    let mut pool = Vec::new();
    for seed in first..first + runs {
        if pool.is_empty() || seed % SEEDS_PER_POOL == 0 {
            pool = configs(seed / SEEDS_PER_POOL);
        }
        let (setting, steps) = setting(seed, &pool);
        match World::new(&setting, false).play(&steps) {
            Ok(world) => {
                world.judge.left_out.iter().for_each(|(why, count)| *left_out.entry(why).or_default() += count)
            }
            Err(_) => panic!("{}", report(&setting, &shrunk(&setting, steps))),
        }
    }
    println!("{runs} histories; not judged: {left_out:?}");
}
