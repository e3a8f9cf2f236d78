//! The image: built by buildah from a binary that is there already; what is in it; and as a pod runs it, by podman with a
//! read-only root, no capabilities, 8 MiB and a pids limit, on the seed's own ConfigMap. Started by `.ci/run`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use stand_ins::scene::{POD_UID, TOKEN, config_of};
use stand_ins::{ApiServer, Authority, Game, Loopback, Pod, game_server, game_server_path, holds_within, repository};

const IMAGE: &str = "localhost/okg-sidecar:test";
const CONTAINER: &str = "okg-sidecar-test";

/// The seed's own times: 10 s to the first probe, then every 5 s.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let files: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).filter(|file| file.is_file()).collect();
    let [binary, licenses] = files.as_slice() else {
        eprintln!("usage: image BINARY LICENSES");
        return ExitCode::from(2);
    };
    let told = run(binary, licenses);
    let _ = podman().args(["rm", "--force", "--time", "0", CONTAINER]).output();
    match told {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(binary: &Path, licenses: &Path) -> Result<String, String> {
    let version = output(Command::new(binary).arg("--version"))?;
    let commit = version.split_once(" (").and_then(|(_, commit)| commit.strip_suffix(')')).ok_or(version.clone())?;
    build(binary, licenses, commit)?;
    holds_the_binary_and_its_licenses()?;
    says_what_it_is(commit)?;
    let seed = config_of("tests/fixtures/seed-configmap.yaml").map_err(|error| error.to_string())?;
    let game = Game::builder().port(8080).start();
    game.set(200, "None");
    let authority = Authority::new("cluster");
    let api = ApiServer::start(Loopback::V4, &authority.loopback_certificate(), TOKEN);
    let pod = Pod::new(&seed, &authority.pem(), TOKEN);
    let path = game_server_path(&pod.namespace, &pod.name);
    api.put(&path, game_server(&pod.namespace, &pod.name, POD_UID));
    let container = start(&pod, &api)?;
    for state in ["None", "Allocated", "WaitToBeDeleted"] {
        game.set(200, state);
        let written = || api.requests().last().is_some_and(|patch| patch.json()["spec"]["opsState"] == state);
        if !holds_within(PATIENCE, written) {
            return Err(format!("no write of {state}; the container says: {}", logs()));
        }
    }
    let before = Instant::now();
    output(podman().args(["kill", "--signal", "TERM", &container]))?;
    let code = output(podman().args(["wait", &container]))?;
    let took = before.elapsed();
    if code != "0" || took > Duration::from_secs(5) {
        return Err(format!("SIGTERM ended it with code {code} after {took:?}: {}", logs()));
    }
    let writes = api.requests().iter().filter(|request| !request.is_read()).count();
    if writes != 3 {
        return Err(format!("{writes} writes for three states"));
    }
    Ok(format!(
        "image ok: binary and licenses, labels; three states, three writes, SIGTERM ended it with code 0 within {} ms",
        took.as_millis()
    ))
}

fn build(binary: &Path, licenses: &Path, commit: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    for (file, name) in [(binary, "okg-sidecar"), (licenses, "LICENSES")] {
        std::fs::copy(file, folder.path().join(name)).map_err(|error| error.to_string())?;
    }
    let context = format!("build={}", folder.path().display());
    let mut buildah = buildah();
    buildah.args(["build", "--isolation", "chroot", "--build-context", &context]);
    buildah.arg("--build-arg").arg(format!("COMMIT={commit}"));
    buildah.args(["-f", "Dockerfile.scratch", "-t", IMAGE, "."]).current_dir(repository());
    output(&mut buildah).map(drop)
}

fn holds_the_binary_and_its_licenses() -> Result<(), String> {
    let container = output(buildah().args(["from", IMAGE]))?;
    let told = output(buildah().args(["mount", &container])).and_then(|root| {
        let entries = std::fs::read_dir(&root).map_err(|error| error.to_string())?;
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        // Nobody may read it (behaviour 7.6).
        let binary = std::fs::metadata(Path::new(&root).join("okg-sidecar")).map_err(|error| error.to_string())?;
        if binary.permissions().mode() & 0o777 != 0o111 {
            return Err(format!("the binary has mode {:o}", binary.permissions().mode()));
        }
        let licenses = std::fs::read_to_string(Path::new(&root).join("LICENSES")).map_err(|error| error.to_string())?;
        Ok((names, licenses))
    });
    output(buildah().args(["rm", &container]))?;
    let (names, licenses) = told?;
    if names != ["LICENSES", "okg-sidecar"] {
        return Err(format!("the image holds {names:?}"));
    }
    let wanted =
        ["- ring 0.", "ISC License", "- musl: MIT", "Copyright © 2005-2020 Rich Felker", "Rust Project Developers"];
    match wanted.iter().find(|text| !licenses.contains(**text)) {
        Some(missing) => Err(format!("/LICENSES does not say {missing:?}")),
        None => Ok(()),
    }
}

fn says_what_it_is(commit: &str) -> Result<(), String> {
    let metadata =
        output(Command::new("cargo").args(["metadata", "--no-deps", "--format-version=1"]).current_dir(repository()))?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no package")?;
    let package = packages.iter().find(|package| package["name"] == "okg-sidecar").ok_or("okg-sidecar is not in it")?;
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    for (label, value) in [
        ("title", text("name")),
        ("description", text("description")),
        ("source", text("repository")),
        ("licenses", text("license")),
        ("version", text("version")),
        ("revision", commit),
    ] {
        let format = format!("{{{{index .Labels \"org.opencontainers.image.{label}\"}}}}");
        let found = output(podman().args(["image", "inspect", "--format", &format, IMAGE]))?;
        if found != value {
            return Err(format!("the label {label} is {found:?}, expected {value:?}"));
        }
    }
    Ok(())
}

fn start(pod: &Pod, api: &ApiServer) -> Result<String, String> {
    let mut podman = podman();
    podman.args(["run", "--detach", "--name", CONTAINER, "--runtime", "runc", "--network", "host"]);
    podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
    podman.args([
        "--read-only",
        "--read-only-tmpfs=false",
        "--cap-drop",
        "all",
        "--memory",
        "8m",
        "--pids-limit",
        "16",
    ]);
    podman.args(["--security-opt", "no-new-privileges"]);
    for (folder, mount) in
        [(pod.config.path(), "/opt/sidecar"), (pod.account.path(), "/var/run/secrets/kubernetes.io/serviceaccount")]
    {
        podman.arg("--volume").arg(format!("{}:{mount}:ro", folder.display()));
    }
    let address = api.address();
    for (name, value) in [
        ("KUBERNETES_SERVICE_HOST", address.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT", address.port().to_string()),
        ("POD_NAME", pod.name.clone()),
        ("POD_NAMESPACE", pod.namespace.clone()),
        ("POD_UID", POD_UID.to_owned()),
    ] {
        podman.arg("--env").arg(format!("{name}={value}"));
    }
    output(podman.arg(IMAGE))
}

fn buildah() -> Command {
    let mut buildah = Command::new("buildah");
    buildah.args(["--storage-driver", "vfs"]);
    buildah
}

fn podman() -> Command {
    let mut podman = Command::new("podman");
    podman.args(["--storage-driver", "vfs"]);
    podman
}

fn logs() -> String {
    podman().args(["logs", CONTAINER]).output().map_or_else(|error| error.to_string(), |output| both(&output))
}

fn both(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// The trimmed standard output of a command that succeeds.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{command:?}: {}: {}", output.status, both(&output)))
}
