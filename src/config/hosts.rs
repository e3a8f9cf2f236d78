//! Owns which hosts probes may go to (behaviour 2.13): whoever writes the pod restricts whoever writes the ConfigMap or the
//! annotation.

use std::net::IpAddr;

use super::{Config, Endpoint, Probe};
use crate::excerpt::excerpt;

/// The variable that holds the list.
const PROBE_HOSTS: &str = "OKG_SIDECAR_PROBE_HOSTS";

/// Stands for the pod itself: loopback addresses, `localhost`, and the address in `POD_IP`, which only the pod can set.
const LOOPBACK: &str = "loopback";

/// The hosts that probes may go to; every host if the variable is not set.
pub(super) struct ProbeHosts {
    list: Option<String>,
    pod_ip: Option<String>,
}

impl ProbeHosts {
    /// As the environment has it.
    pub(super) fn of(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        Self { list: variable(PROBE_HOSTS), pod_ip: variable("POD_IP") }
    }

    /// The rule that a probe breaks and what it has, as the words around "got", if it goes elsewhere.
    pub(super) fn broken_by(&self, probe: &Probe) -> Option<(String, String)> {
        // A url that was refused has no host.
        let host = bare(probe.host().filter(|host| !host.is_empty())?);
        let list = self.list.as_deref()?;
        let allowed = |entry: &str| match entry.trim() {
            LOOPBACK => is_loopback(host) || self.pod_ip.as_deref().is_some_and(|ip| is_same(bare(ip), host)),
            entry => is_same(bare(entry), host),
        };
        (!list.split(',').any(allowed)).then(|| {
            let hint = if list.contains(LOOPBACK) { " (loopback is localhost, 127.0.0.1 and [::1])" } else { "" };
            (format!("go to a host that {PROBE_HOSTS} lists, which is {}{hint}", excerpt(list)), excerpt(host))
        })
    }

    /// Leaves each of Kruise's probes that goes elsewhere to stay Unknown, with a warning.
    pub(super) fn restrict(&self, config: &mut Config) {
        let goes_elsewhere = |endpoint: &Endpoint| {
            let (name, (rule, got)) = (endpoint.condition()?.name.clone(), self.broken_by(&endpoint.probe)?);
            Some((name, format!("host must {rule}, got {got}")))
        };
        let refused: Vec<_> = config.endpoints.iter().filter_map(goes_elsewhere).collect();
        config.endpoints.retain(|endpoint| goes_elsewhere(endpoint).is_none());
        config.warnings.extend(refused.iter().map(|(name, problem)| format!("{name}: {problem}: it stays Unknown")));
        config.unknown.extend(refused);
    }
}

/// A host without the brackets of an IPv6 address and the dot at the end of a name. An address with a dot is a name.
fn bare(host: &str) -> &str {
    let host = host.trim().trim_start_matches('[').trim_end_matches(']');
    let name = host.trim_end_matches('.');
    if name.parse::<IpAddr>().is_ok() { host } else { name }
}

fn is_loopback(host: &str) -> bool {
    // `localhost` is never looked up (behaviour 3.6).
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_same(allowed: &str, host: &str) -> bool {
    match (allowed.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        (Ok(allowed), Ok(host)) => allowed.to_canonical() == host.to_canonical(),
        _ => allowed.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Server;
    use super::*;

    fn goes(list: &str, pod_ip: &str, host: &str) -> bool {
        let environment = |name: &str| match name {
            PROBE_HOSTS => Some(list.to_owned()),
            "POD_IP" => Some(pod_ip.to_owned()),
            _ => None,
        };
        let probe = Probe::Tcp(Server { host: host.into(), port: 1 });
        ProbeHosts::of(&environment).broken_by(&probe).is_none()
    }

    #[test]
    fn loopback_is_the_pod_itself_and_a_list_names_others() {
        for (list, pod_ip, host, allowed) in [
            ("", "", "169.254.169.254", true),
            (" ", "", "game.example.com", true),
            ("loopback", "", "localhost", true),
            ("loopback", "", "LOCALHOST.", true),
            ("loopback", "", "127.0.0.1", true),
            ("loopback", "", "127.1.2.3", true),
            ("loopback", "", "[::1]", true),
            ("loopback", "", "[::ffff:127.0.0.1]", true),
            ("loopback", "", "169.254.169.254", false),
            ("loopback", "", "[::ffff:169.254.169.254]", false),
            ("loopback", "", "[fd00:ec2::254]", false),
            ("loopback", "", "0.0.0.0", false),
            ("loopback", "", "127.1", false),
            ("loopback", "", "2130706433", false),
            ("loopback", "", "localhost.example.com", false),
            ("loopback", "", "127.0.0.1.example.com", false),
            ("loopback", "10.1.2.3", "10.1.2.3", true),
            ("loopback", "fd00::7", "[fd00:0::7]", true),
            ("loopback", "10.1.2.3", "10.1.2.4", false),
            ("10.1.2.4, game.example.com", "10.1.2.3", "10.1.2.4", true),
            ("10.1.2.4,Game.example.com.", "", "game.example.com", true),
            ("10.1.2.4,game.example.com", "10.1.2.3", "localhost", false),
            ("10.1.2.4,game.example.com", "10.1.2.3", "10.1.2.3", false),
            ("loopback,10.1.2.4", "", "localhost", true),
            (",", "", "localhost", false),
        ] {
            assert_eq!(goes(list, pod_ip, host), allowed, "{list:?} {pod_ip:?} {host}");
        }
    }

    #[test]
    fn a_file_goes_nowhere() {
        let probe = Probe::File(super::super::FileProbe { path: "/a".into(), ..Default::default() });
        let environment = |_: &str| Some("loopback".to_owned());
        assert_eq!(ProbeHosts::of(&environment).broken_by(&probe), None);
    }

    #[test]
    fn an_endpoint_that_goes_elsewhere_is_an_error_and_a_probe_of_kruises_stays_unknown() {
        let environment = |name: &str| match name {
            PROBE_HOSTS => Some("loopback".to_owned()),
            "KRUISE_PODPROBE" => Some(
                r#"[{"podConditionType": "a/own", "probe": {"tcpSocket": {"port": 1}}},
                    {"podConditionType": "a/other", "probe": {"tcpSocket": {"port": 1, "host": "169.254.169.254"}}}]"#
                    .to_owned(),
            ),
            _ => None,
        };
        let rules =
            "storageConfig: {type: InKube, inKube: {markerPolices: [{state: Failed, gameServerOpsState: None}]}}";
        let endpoints =
            ["http://localhost:1/x", "http://169.254.169.254/latest?a=b", "a2s://[fd00:ec2::254]", "ftp://x"]
                .map(|url| format!("{{url: '{url}', {rules}}}"));
        let text = format!("plugins: [{{name: http_probe, config: {{endpoints: [{}]}}}}]", endpoints.join(", "));
        let problems = Config::parse(text.into_bytes(), &environment).unwrap_err();
        let rule = "must go to a host that OKG_SIDECAR_PROBE_HOSTS lists, which is `loopback` (loopback is localhost, \
                    127.0.0.1 and [::1]), got";
        assert_eq!(
            problems[..2],
            [
                format!("plugins[0].config.endpoints[1].url: {rule} `169.254.169.254`"),
                format!("plugins[0].config.endpoints[2].url: {rule} `fd00:ec2::254`"),
            ]
        );
        assert!(problems[2].starts_with("plugins[0].config.endpoints[3].url: must begin with http://"), "{problems:?}");

        let (_, config) = Config::open("/nowhere/config.yaml".into(), &environment).unwrap();
        assert_eq!(config.endpoints.len(), 1);
        let why = format!("host {rule} `169.254.169.254`");
        assert_eq!(config.unknown, [("a/other".to_owned(), why.clone())]);
        assert_eq!(config.warnings, [format!("a/other: {why}: it stays Unknown")]);
    }
}
