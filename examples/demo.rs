//! `cargo run --example demo`: the tank-war story without a cluster. A stand-in for the game, a TLS API server with one
//! GameServer, and the sidecar's own loop between them, on the config of `deploy/config/configmap.yaml`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use okg_sidecar::config::ConfigFile;
use okg_sidecar::decide::object::Identity;
use okg_sidecar::kube::environment::PodEnvironment;
use okg_sidecar::kube::service_account::ServiceAccount;
use okg_sidecar::sidecar::Sidecar;
use support::{ApiServer, Authority, Game, Loopback, Pod, game_server, game_server_path};

const TOKEN: &str = "a-token-of-the-demo";
const POD_UID: &str = "7d9cbd3f-24ef-4d38-9a5e-6a8f0a3c1d52";

/// What happens in the game, what it answers then, and how often it is probed meanwhile.
const STORY: [(&str, &str, usize); 3] = [
    ("the server is up, no player yet", "None", 3),
    ("a player joins", "Allocated", 4),
    ("the player leaves", "WaitToBeDeleted", 3),
];

/// The story takes 10 s; after this long it has not come true.
const PATIENCE: Duration = Duration::from_secs(18);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let game = Game::start();
    let authority = Authority::new("demo cluster");
    let api = ApiServer::start(Loopback::V4, &authority.loopback_certificate(), TOKEN);
    let pod = Pod::new(&config(&game)?, &authority.pem(), TOKEN);
    let path = game_server_path(&pod.namespace, &pod.name);
    api.put(&path, game_server(&pod.namespace, &pod.name, POD_UID));

    let environment = PodEnvironment {
        server: api.url(),
        identity: Identity { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: Some(POD_UID.into()) },
        service_account: ServiceAccount::open(pod.account_path()).map_err(|problems| problems.join("\n"))?,
    };
    game.set(200, STORY[0].1);
    let (file, config) = ConfigFile::open(pod.config_path())?;
    let sidecar = Sidecar::new(Some(file), config, environment);
    thread::spawn(move || sidecar.run());

    let came_true = tell(&game, &api, &path);
    Ok(if came_true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The text of `deploy/config/configmap.yaml` with another port and shorter times.
fn config(game: &Game) -> Result<String, Box<dyn Error>> {
    let mut text = support::scene::config_of("deploy/config/configmap.yaml")?;
    let port = game.address().port();
    println!("The config is the one of deploy/config/configmap.yaml; only this is replaced:");
    for (from, to) in [
        ("http://localhost:8080", format!("http://localhost:{port}")),
        ("startDelaySeconds: 10", "startDelaySeconds: 1".to_owned()),
        ("probeIntervalSeconds: 5", "probeIntervalSeconds: 1".to_owned()),
    ] {
        if !text.contains(from) {
            return Err(format!("deploy/config/configmap.yaml does not say `{from}`").into());
        }
        println!("  {from} -> {to}");
        text = text.replace(from, &to);
    }
    Ok(text)
}

/// Drives the story and shows each probe. Gives whether each state was written once, and nothing else was.
fn tell(game: &Game, api: &ApiServer, path: &str) -> bool {
    println!("\n   time  game answers     written                                  GameServer says  probes  writes");
    let started = Instant::now();
    let mut probes = 0;
    let mut writes = 0;
    for (news, state, rounds) in STORY {
        println!("{:6.1}s  -- {news}", started.elapsed().as_secs_f64());
        game.set(200, state);
        for round in 0..rounds {
            // Only the first probe of a state is followed by a write.
            let (probes_due, writes_due) = (probes + 1, if round == 0 { writes + 1 } else { writes });
            let due = || game.requests().len() >= probes_due && patches(api).len() >= writes_due;
            if !support::holds_within(PATIENCE.saturating_sub(started.elapsed()), due) {
                println!("The story did not come true: no write of {state} after {probes} probes.");
                return false;
            }
            // Long enough for a write that should not come, short of the next probe.
            thread::sleep(Duration::from_millis(200));
            let patches = patches(api);
            let written = match &patches[writes..] {
                [] => "nothing, it is the same".to_owned(),
                new => new.join(" "),
            };
            (probes, writes) = (game.requests().len(), patches.len());
            let says = api.text(path, "/spec/opsState").unwrap_or_default();
            let time = started.elapsed().as_secs_f64();
            println!("{time:6.1}s  {state:<15}  {written:<39}  {says:<15}  {probes:>6}  {writes:>6}");
        }
    }
    let patched = patches(api);
    let expected = STORY.map(|(_, state, _)| format!("opsState {state}"));
    let came_true = patched == expected && api.text(path, "/spec/opsState").as_deref() == Some(STORY[2].1);
    if came_true {
        println!("\n{probes} probes, {writes} writes, one for each state; quiet rounds wrote nothing.");
        println!("Connections open at the API server now: {}.", api.open_connections());
    } else {
        println!("\nThe story did not come true: {patched:?} instead of {expected:?}.");
    }
    came_true
}

/// The opsStates that were written, in order; the reads before them change nothing.
fn patches(api: &ApiServer) -> Vec<String> {
    let requests = api.requests();
    let states = requests.iter().filter_map(|request| request.json()["spec"]["opsState"].as_str().map(str::to_owned));
    states.map(|state| format!("opsState {state}")).collect()
}
