//! Any text as Kruise's annotation. Neither reading nor describing it panics; what is told of it forges and floods no log; what is
//! accepted keeps the ranges of behaviour 9.

#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use okg_sidecar::config::{Config, Probe};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let variable = |name: &str| (name == "KRUISE_PODPROBE").then(|| text.clone().into_owned());
    match Config::open("/nowhere/config.yaml".into(), &variable) {
        Ok((_, config)) => {
            check(&config);
            let told = config.describe();
            assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
            config.warnings.iter().for_each(|warning| told_well(warning, 600));
        }
        // Each of 64 probes may have a problem of its own.
        Err(refused) => refused.lines().for_each(|line| told_well(line, 64 * 600)),
    }
});

fn told_well(line: &str, most: usize) {
    assert!(!line.chars().any(char::is_control), "{line:?}");
    assert!(line.chars().count() <= most, "{} characters: {line}", line.chars().count());
}

fn check(config: &Config) {
    assert!(config.is_of_kruise());
    assert!((1..=64).contains(&(config.endpoints.len() + config.unknown.len())));
    let mut names: BTreeSet<&str> = config.unknown.iter().map(|(name, _)| name.as_str()).collect();
    for endpoint in &config.endpoints {
        let condition = endpoint.condition().expect("each sets one");
        names.insert(&condition.name);
        for seconds in [condition.delay, condition.period, endpoint.timeout] {
            assert!((1..=i32::MAX as u64).contains(&seconds.as_secs()));
        }
        assert!(endpoint.timeout <= Duration::from_secs(3600));
        assert!(endpoint.success_threshold >= 1 && endpoint.failure_threshold >= 1);
        match &endpoint.probe {
            Probe::Http(http) => {
                assert!(matches!(http.url.scheme_str(), Some("http" | "https")));
                assert!(http.url.port_u16().is_some_and(|port| port > 0));
            }
            Probe::Tcp(tcp) => assert!(tcp.port > 0),
            other => panic!("Kruise has no {other}"),
        }
    }
    assert_eq!(names.len(), config.endpoints.len() + config.unknown.len(), "one condition is set twice");
    for own in ["Ready", "Initialized", "ContainersReady", "PodScheduled"] {
        assert!(!names.contains(own));
    }
    for (_, why) in &config.unknown {
        told_well(why, 500);
    }
}
