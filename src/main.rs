//! The command line and the exit codes.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use okg_sidecar::config::{Config, Inspected, inspect};
use okg_sidecar::dry_run;
use okg_sidecar::kube::environment::{PodEnvironment, identity_or_variables};
use okg_sidecar::kube::service_account;
use okg_sidecar::process::{self, Exit, TERMINATION_LOG};
use okg_sidecar::sidecar::Sidecar;

const HELP: &str = "\
Probes the game server in this pod and sets spec.opsState of its GameServer by the rules of a config file, or conditions of
the pod by Kruise's probes.

Usage: okg-sidecar [run|check|probe] [--config PATH] [--service-account-dir PATH] [--strict]

  run     probe and write until SIGTERM or SIGINT; the default
  check   validate the config, print the rules in it and the rights that it needs; also of each ConfigMap in manifests
  probe   probe every endpoint once, print what would be written, write nothing

  --config PATH               default /opt/sidecar/config.yaml; - is standard input
  --service-account-dir PATH  the folder with token, ca.crt and namespace,
                              default /var/run/secrets/kubernetes.io/serviceaccount
  --strict                    check: warnings end with exit code 1, too
  --help, --version

KRUISE_PODPROBE, which holds the pod's annotation kruise.io/podprobe, takes the place of a config file. Probes in it that
name no host go to POD_IP where that is set, else to localhost.

OKG_SIDECAR_PROBE_HOSTS lists the hosts that probes may go to, with commas; loopback is localhost, 127.0.0.0/8, ::1 and
POD_IP. Without it they may go anywhere.

run takes from the environment: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT (kubelet sets them), POD_NAME,
POD_NAMESPACE, POD_UID (where a manifest sets them; else the mounted token says them), RUST_LOG.

Exit codes: 0 ended by SIGTERM or SIGINT, or success; 1 invalid config, a missing part of the pod's environment, or a
probe that failed; 2 invalid usage; 70 internal error.
";

/// What the command line asks for.
struct CommandLine {
    command: Command,
    config: PathBuf,
    service_account_dir: PathBuf,
    /// Whether a warning of `check` counts as an error.
    is_strict: bool,
}

#[derive(Clone, Copy)]
enum Command {
    Run,
    Check,
    Probe,
    Help,
    Version,
}

fn main() -> ExitCode {
    process::exit_on_panic();
    let exit = process::exit_on_signals()
        .map_err(|error| Failure { exit: Exit::Internal, message: format!("cannot handle signals: {error}") })
        .and_then(|()| parse(env::args_os().skip(1)))
        .and_then(execute);
    match exit {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, message }) => {
            process::report_exit(&message, Path::new(TERMINATION_LOG));
            ExitCode::from(exit as u8)
        }
    }
}

/// Why the process ends by itself, and with which code.
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(error: impl ToString) -> Self {
        Self { exit: Exit::Failure, message: error.to_string() }
    }

    fn usage(message: String) -> Self {
        Self { exit: Exit::Usage, message: format!("{message}; see okg-sidecar --help") }
    }
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<CommandLine, Failure> {
    let mut line = CommandLine {
        command: Command::Run,
        config: "/opt/sidecar/config.yaml".into(),
        service_account_dir: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
        is_strict: false,
    };
    let mut command = None;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(OsString::from(value))),
            _ => (text.as_str(), None),
        };
        let mut path = || {
            let path = inline.clone().or_else(|| words.next()).filter(|path| !path.is_empty());
            path.map(PathBuf::from).ok_or_else(|| Failure::usage(format!("{name} needs a path")))
        };
        match name {
            "--config" => line.config = path()?,
            "--service-account-dir" => line.service_account_dir = path()?,
            "--strict" if inline.is_none() => line.is_strict = true,
            "-h" | "--help" if inline.is_none() => line.command = Command::Help,
            "-V" | "--version" if inline.is_none() => line.command = Command::Version,
            "run" if command.is_none() => command = Some(Command::Run),
            "check" if command.is_none() => command = Some(Command::Check),
            "probe" if command.is_none() => command = Some(Command::Probe),
            _ => return Err(Failure::usage(format!("unexpected argument {}", okg_sidecar::excerpt::excerpt(&text)))),
        }
    }
    if let (Command::Run, Some(command)) = (line.command, command) {
        line.command = command;
    }
    if line.is_strict && !matches!(line.command, Command::Check | Command::Help | Command::Version) {
        return Err(Failure::usage("--strict belongs to check".into()));
    }
    Ok(line)
}

fn execute(line: CommandLine) -> Result<(), Failure> {
    let variable = |name: &str| env::var(name).ok();
    match line.command {
        Command::Help => print(HELP),
        Command::Version => print(concat!("okg-sidecar ", env!("OKG_SIDECAR_VERSION"), "\n")),
        Command::Check => {
            let identity = identity_or_variables(&variable, &line.service_account_dir);
            let (mut problems, mut warnings) = (Vec::new(), 0);
            for Inspected { name, is_in_manifest, checked } in inspect(line.config, &variable).map_err(Failure::new)? {
                let mut text = String::new();
                match checked.config {
                    Ok(config) => text = config.describe() + &dry_run::rights(&config, &identity),
                    Err(found) => problems.extend(found.iter().map(|problem| format!("{name}: {problem}"))),
                }
                warnings += checked.warnings.len();
                text.extend(checked.warnings.iter().map(|warning| format!("\nwarning: {warning}\n")));
                print(&if is_in_manifest { after_name(&name, &text) } else { text });
            }
            // A warning about the node, not about a config.
            if let Some(warning) = service_account::expired(&line.service_account_dir) {
                print(&format!("\nwarning: {warning}\n"));
            }
            if !problems.is_empty() {
                return Err(Failure::new(problems.join("\n")));
            }
            if line.is_strict && warnings > 0 {
                return Err(Failure::new(format!("--strict, and there are {warnings} warnings")));
            }
        }
        Command::Probe => {
            let (_, config) = Config::open(line.config, &variable).map_err(Failure::new)?;
            let identity = identity_or_variables(&variable, &line.service_account_dir);
            let failed = dry_run::run(&config, &identity, &mut print);
            if let Some(warning) = service_account::expired(&line.service_account_dir) {
                print(&format!("\nwarning: {warning}\n"));
            }
            if failed > 0 {
                return Err(Failure::new(format!("{failed} of {} probes failed", config.endpoints.len())));
            }
        }
        Command::Run => {
            process::start_log();
            let config = Config::open(line.config, &variable);
            // Without it a condition could become another pod's (behaviour 9.5).
            let needs_uid = config.as_ref().is_ok_and(|(_, config)| config.is_of_kruise());
            let environment = PodEnvironment::read(&variable, &line.service_account_dir, needs_uid);
            // Both are reported together, so that one start shows all that is wrong.
            match (config, environment) {
                (Ok((file, config)), Ok(environment)) => Sidecar::new(file, config, environment).run(),
                (Ok(_), Err(missing)) => return Err(Failure::new(missing)),
                (Err(config), Ok(_)) => return Err(Failure::new(config)),
                (Err(config), Err(missing)) => return Err(Failure::new(format!("{config}\n{missing}"))),
            }
        }
    }
    Ok(())
}

/// A text whose every line begins with the name of what it is about.
fn after_name(name: &str, text: &str) -> String {
    let line = |line: &str| if line.is_empty() { "\n".into() } else { format!("{name}: {line}\n") };
    text.lines().map(line).collect()
}

/// Writes to standard output; a reader that is gone is no fault of ours.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
