//! Examples of deploy/: that of the script, with its processes in a root of their own with busybox alone, as another user than the
//! sidecar; and the labels of those that lock a pod.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stand_ins::control_plane::manifest;
use stand_ins::{SOON, Scene, eventually, holds_within};

/// The game's user and group in the example.
const USER: &str = "65534:65534";

/// The container of the game.
struct Container {
    root: tempfile::TempDir,
    /// Process 1 in there.
    init: Pid,
    unshare: Child,
}

impl Container {
    fn start(scripts: &Value) -> Self {
        let root = tempfile::tempdir().expect("the temporary folder is writable");
        for folder in ["bin", "dev", "proc", "probe", "scripts"] {
            fs::create_dir(root.path().join(folder)).expect("a folder of ours");
        }
        // As kubelet makes an emptyDir, in a root that others may enter.
        for (path, mode) in [(root.path().join("probe"), 0o777), (root.path().to_owned(), 0o755)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a folder of ours");
        }
        let busybox = Command::new("sh").args(["-c", "command -v busybox"]).output().expect("there is a shell");
        let busybox = String::from_utf8(busybox.stdout).expect("a path");
        fs::copy(busybox.trim(), root.path().join("bin/busybox")).expect("busybox is installed");
        fs::write(root.path().join("dev/null"), "").expect("a folder of ours");
        let install =
            Command::new("chroot").arg(root.path()).args(["/bin/busybox", "--install", "-s", "/bin"]).status();
        assert!(install.is_ok_and(|status| status.success()), "busybox is static");
        for (name, text) in scripts.as_object().expect("the ConfigMap has data") {
            // A round a second.
            let text = text.as_str().expect("a script").replace("every.sh 5 ", "every.sh 1 ");
            let path = root.path().join("scripts").join(name);
            fs::write(&path, text).expect("a folder of ours");
            fs::set_permissions(path, fs::Permissions::from_mode(0o555)).expect("a folder of ours");
        }
        let proc = format!("--mount-proc={}", root.path().join("proc").display());
        let run =
            "mount --bind /dev/null \"$1/dev/null\" && exec chroot --userspec=\"$2\" \"$1\" /bin/sh /scripts/start.sh";
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--mount", &proc, "sh", "-c", run, "sh"])
            .arg(root.path())
            .arg(USER)
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = || fs::read_to_string(&children).ok()?.trim().parse().ok().and_then(Pid::from_raw);
        eventually(SOON, "process 1", || init().is_some());
        Self { root, init: init().expect("it was there"), unshare }
    }

    /// As `kubectl exec`.
    fn exec(&self, command: &str) {
        let target = format!("--target={}", self.init.as_raw_nonzero());
        let status = Command::new("nsenter")
            .args([&target, "--pid", "--mount", "chroot", &format!("--userspec={USER}")])
            .arg(self.root.path())
            .args(["/bin/sh", "-c", command])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{command}");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // As kubelet does, first so and then so. The end of process 1 ends all others of its namespace.
        let _ = kill_process(self.init, Signal::TERM);
        if !holds_within(SOON, || matches!(self.unshare.try_wait(), Ok(Some(_)))) {
            let _ = kill_process(self.init, Signal::KILL);
            let _ = self.unshare.wait();
        }
    }
}

pub(crate) fn run() {
    let of = |file: &str| manifest::objects(&manifest::deploy(&format!("examples/script/{file}"))).swap_remove(0);
    let container = Container::start(&of("scripts.yaml")["data"]);
    let folder = container.root.path().join("probe");
    let config_map = of("configmap.yaml");
    let config = config_map["data"]["config.yaml"].as_str().expect("the config");
    let config = config
        .replace("file:///probe/", &format!("file://{}/", folder.display()))
        .replace("startDelaySeconds: 10", "startDelaySeconds: 0")
        .replace("probeIntervalSeconds: 5", "probeIntervalSeconds: 1");
    let scene = Scene::new();
    scene.pod.update_config(&config);
    let sidecar = scene.sidecar().start();
    let becomes = |state: &str| sidecar.eventually(SOON, state, || scene.ops_state() == state);
    becomes("None");
    // The commands in the comment of the kustomization.
    container.exec("kill $(pidof gate)");
    becomes("Maintaining");
    let file = fs::metadata(folder.join("processes")).expect("it was read");
    assert_eq!((file.uid(), file.mode() & 0o777), (65534, 0o644), "the sidecar, another user, may read it");
    container.exec("/scripts/gate >/dev/null 2>&1 &");
    becomes("None");
    assert!(!folder.join("processes").exists() && !folder.join("processes.new").exists());
    container.exec("kill $(pidof data)");
    eventually(SOON, "data", || fs::read_to_string(folder.join("processes")).is_ok_and(|text| text == "data\n"));
    becomes("Maintaining");
    // A process a round is left by busybox's timeout, and reaped.
    container.exec("sleep 10; [ $(ps | grep -c '[Z] ') -lt 5 ]");
    lock("never-delete-a-match", "game.example.com~1match", [None, Some("running"), None]);
    lock("delete-who-agrees", "game.example.com~1keep", [Some("true"), Some("true"), None]);
    println!("3 examples");
}

/// The Pod has this label at each word of the game, of one that the hook of the GameServerSet has.
fn lock(example: &str, label: &str, at_words: [Option<&str>; 3]) {
    let of = |file: &str| manifest::objects(&manifest::deploy(&format!("examples/{example}/{file}"))).swap_remove(0);
    let locked = at_words.iter().flatten().next().expect("it locks");
    let hook = format!("/spec/lifecycle/preDelete/labelsHandler/{label}");
    assert_eq!(of("gameserverset.yaml").pointer(&hook), Some(&Value::from(*locked)), "{example}");
    let config_map = of("configmap.yaml");
    let config = config_map["data"]["config.yaml"].as_str().expect("the config");
    let scene = Scene::new();
    let config = config.replace("http://localhost:8080", &scene.game.url("/"));
    scene.pod.update_config(&config.replace("probeIntervalSeconds: 5", "probeIntervalSeconds: 1"));
    let sidecar = scene.sidecar().start();
    let pointer = format!("/metadata/labels/{label}");
    for (word, expected) in ["None", "Allocated", "WaitToBeDeleted"].into_iter().zip(at_words) {
        scene.game.set(200, word);
        sidecar.eventually(SOON, &format!("{example}: {expected:?} at {word}"), || {
            scene.ops_state() == word && scene.field_of(&scene.pod_path(), &pointer).as_str() == expected
        });
    }
}
