//! Any bytes as the config file. Neither reading nor describing it panics; what is refused is told in lines that cannot
//! forge or flood a log; what is accepted keeps the ranges of behaviour 2.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use okg_sidecar::config::{Config, Endpoint, Field, OPS_STATE, Probe, When, is_ops_state};
use tempfile::TempDir;

/// In memory where the system has that: each input becomes a file.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::Builder::new().prefix("okg-sidecar-fuzz-").tempdir_in("/dev/shm");
    folder.or_else(|_| TempDir::new()).expect("a temporary folder")
});
static FILE: LazyLock<PathBuf> = LazyLock::new(|| FOLDER.path().join("config.yaml"));

fuzz_target!(|bytes: &[u8]| {
    std::fs::write(&*FILE, bytes).expect("the folder is writable");
    let environment = |name: &str| (name == "POD_NAME").then(|| "gs-0".to_owned());
    match Config::load(&FILE, &environment) {
        Ok(config) => {
            check(&config);
            let told = config.describe();
            assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
            for warning in &config.warnings {
                assert!(!warning.chars().any(char::is_control), "{warning:?}");
            }
        }
        Err(refused) => {
            assert!(!refused.problems.is_empty());
            for problem in &refused.problems {
                assert!(!problem.chars().any(char::is_control), "{problem:?}");
                assert!(problem.chars().count() <= 1500, "{} characters: {problem}", problem.chars().count());
            }
        }
    }
});

fn check(config: &Config) {
    let seconds = |least, most| Duration::from_secs(least)..=Duration::from_secs(most);
    assert!(seconds(0, 86400).contains(&config.start_delay));
    assert!(seconds(1, 86400).contains(&config.interval));
    assert!(config.resync.is_none_or(|resync| seconds(1, 86400).contains(&resync)));
    assert!((1..=64).contains(&config.endpoints.len()));
    for endpoint in &config.endpoints {
        assert!(seconds(1, 3600).contains(&endpoint.timeout));
        check_endpoint(endpoint);
    }
}

fn check_endpoint(endpoint: &Endpoint) {
    match &endpoint.probe {
        Probe::Http(http) => {
            assert!(matches!(http.url.scheme_str(), Some("http" | "https")));
            assert!(http.url.host().is_some_and(|host| !host.is_empty()));
            assert!(http.url.port().is_none_or(|port| (1..=65535).contains(&port.as_u16())));
            assert!(!["CONNECT", "TRACE"].contains(&http.method.as_str()));
            let (first, last) = (http.expected_status.start(), http.expected_status.end());
            assert!((200..=599).contains(first) && first == last);
        }
        Probe::File(file) => assert!(file.path.is_absolute() && !file.path.starts_with("/proc")),
        Probe::Tcp(server)
        | Probe::A2s(server)
        | Probe::Minecraft(server)
        | Probe::Bedrock(server)
        | Probe::Quake3(server) => assert!(server.port > 0 && !server.host.is_empty()),
    }
    assert!((1..=1000).contains(&endpoint.failure_threshold));
    assert!((1..=1000).contains(&endpoint.success_threshold));
    assert!(endpoint.rules().protected_ops_states.iter().all(|state| is_ops_state(state)));
    for (index, policy) in endpoint.rules().policies.iter().enumerate() {
        assert!(!policy.sets.is_empty());
        let mut states = policy.sets.iter().filter(|(field, _)| *field == Field::of_game_server(OPS_STATE));
        assert!(states.all(|(_, state)| is_ops_state(&state.to_string())));
        for other in &endpoint.rules().policies[..index] {
            match (&policy.when, &other.when) {
                (one, two) if one == two => assert_ne!(policy.lasting, other.lasting),
                (When::Range(min, max), When::Range(other_min, other_max)) => {
                    assert!(max < other_min || other_max < min);
                }
                _ => {}
            }
        }
    }
}
