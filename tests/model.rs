//! A model: random histories with made-up time against the decision code as it runs, wired by the same
//! [`Controller`](okg_sidecar::controller::Controller), and a judge that computes from opinions and foreign writes alone what
//! behaviour 8 demands. What it says "ever" is checked at every effect, the rest once everything is quiet.
//!
//! `OKG_MODEL_RUNS=1000000 cargo test --release model:: -- --nocapture` looks longer, and `OKG_MODEL_FIRST` says from
//! which seed on. `OKG_MODEL_SEED=7` replays one seed, leaves out the steps that its mistake does not need, and prints all
//! that happens; with `OKG_MODEL_WHOLE=1` it leaves out none.
//!
//! What the clauses themselves let be lost is not judged, and no more than that; `left_out` counts it, and comments in
//! model/judge.rs name the clause: an older record that was put back before a restart or before a write was confirmed
//! (OpenKruiseGame's cache), an object that was recreated or lost its record, until the next write (8.7), an attempt of an
//! earlier process that comes late to the Pod or a target (8.3), a process that reads its successor's record first, or its
//! predecessor's later (4.6). The mode of Kruise's probes (9) has no model.
//!
//! Each mistake below was made once in src (a condition dropped, a value not kept), and the model found it: the first
//! seed that does, and the clause that it names.
//!
//! | mistake | seed | clause |
//! |---|---|---|
//! | the owner is not compared | 17 | 8.6 |
//! | a later pod's record does not supersede | 21 | 4.6 |
//! | superseded is forgotten | 274 | 4.3 |
//! | another pod's record counts as this one's | 8 | 8.1 |
//! | the record is ignored | 2 | 8.4 |
//! | only the record counts, not what was confirmed | 12 | 8.1 |
//! | an attempt without an answer is not followed by another | 287 | 8.1 |
//! | a lost attempt's record confirms nothing | 25 | 8.4 |
//! | the first decision is sent only where it differs | 19 | 4.3 |
//! | no resourceVersion | 21 | 4.6 |
//! | the record is not extended by what was confirmed | 60 | 4.3 |
//! | the record does not keep fields that are not decided now | 2 | 4.3 |
//! | protected is overwritten | 49 | 6.6 |
//! | protected is asked for only where opsState is decided | 360 | 6.6 |
//! | its own protected state is another's after a record was put back | 60 | 8.1 |
//! | a gone record protects by what was confirmed | 49 | 6.6 |
//! | the earlier pod's opsState is forgotten | 575 | 8.1 |
//! | a resync writes what no present opinion sets | 2765 | 8.4 |
//! | a resync does not write | 103 | 4.3 |
//! | what was confirmed is believed after a 404 | 161 | 8.7 |
//! | a resync is never due | 21 | 8.7 |
//! | a conflict is no failure | 50 | 8.1 |
//! | fields are always sent together | 61 | 4.3 |
//! | a later endpoint decides while an earlier one is undecided | 0 | 4.5 |
//! | an endpoint decides before a later one that may change it was probed | 2 | 4.5 |
//! | failures alone remove keys | 4 | 4.5 |
//! | a reload keeps the decision | 60 | 4.5 |
//! | a reload removes no key | 57 | 8.1 |
//! | a reload keeps the opinions | 1 | 4.5 |
//! | a reload forgets the writes | 791 | 8.1 |
//! | lost values are not sent once more | 1454 | 8.1 |
//! | lost values are sent once more too early | 791 | 8.1 |
//! | lost removals are forgotten | 2892 | 8.1 |
//! | values of a missing object are believed | 9378 | 8.1 |
//! | one success is enough | 0 | 4.5 |
//! | one failure is enough | 4 | 4.5 |
//! | a refused field does not wait | 45 | 8.2 |
//! | a refused field is given up | 2297 | 8.1 |
//! | a Pod patch carries no uid | 19 | 8.6 |
//! | an undecided endpoint leaves the old opinion in place | 34087 | 8.4 |
//! | a reload forgets what is sent again | 74817 | 8.1 |
//!
//! It does not find, since they only delay what comes all the same, and tables of src/decide do: a doubtful value of the
//! Pod that is sent a minute later and not at once, waits that do not begin anew after a success, and a refused field that
//! is sent together with others.

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
        "{verdict}\nseed {}, the GameServer is owned by {owner}, the uid is known: {}\n{}\n{steps:#?}\n{}\n{verdict}\n",
        setting.seed,
        setting.knows_uid,
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
