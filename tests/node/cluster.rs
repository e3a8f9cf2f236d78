//! Owns the control plane and the node of the cases: etcd, kube-apiserver, containerd and kubelet, in the namespaces that
//! `namespaces.sh` has made. No scheduler and no controller runs, so the cases bind their pods to the node themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::control_plane::{Assets, Client, Daemon, manifest};
use crate::support::{Authority, certificates};
use crate::wait::wait_for;

/// The node's name, and the address that `namespaces.sh` has given it.
pub(crate) const NODE: &str = "node";
const ADDRESS: &str = "10.88.0.1";

/// The first of the range below: the one of the Service `kubernetes`, which pods are told.
const SERVICE_ADDRESS: &str = "10.0.0.1";
const SERVICE_RANGE: &str = "10.0.0.0/24";

/// Long enough for a start on a slow machine that does something else, too.
const START: Duration = Duration::from_secs(120);

const TOKEN: &str = "the-administrator";

const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Requests of service accounts when they are answered; nobody else's.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Request
    userGroups: [system:serviceaccounts]
  - level: None
";

/// A cluster of one node, until it is dropped.
pub(crate) struct Cluster {
    /// Dropped in this order: who asks goes before who answers.
    kubelet: Mutex<Option<Daemon>>,
    _containerd: Daemon,
    _api_server: Daemon,
    _etcd: Daemon,
    admin: Client,
    authority_pem: String,
    assets: Assets,
    folder: PathBuf,
}

impl Cluster {
    /// Starts all of it in this folder, and waits until the node is ready. The archives in its `images` are the
    /// images that the node has.
    pub(crate) fn start(assets: Assets, folder: &Path, cgroup: &str) -> Self {
        let authority = Authority::new("cluster");
        prepare(folder, &authority, cgroup);
        let file = |name: &str| folder.join(name).display().to_string();
        let etcd = start_etcd(&assets, folder);
        let api_server = start_api_server(&assets, folder);
        let server = format!("https://{SERVICE_ADDRESS}");
        let admin = Client::new(&server, &authority.pem(), TOKEN, 32);
        wait_for("kube-apiserver is ready", START, || {
            admin.try_send("GET", "/readyz", &[], None).is_ok_and(|answer| answer.status == 200)
        })
        .unwrap_or_else(|why| panic!("{why}: {}", api_server.last_lines()));

        let containerd = Daemon::start(
            Path::new("containerd"),
            &["--config", &file("containerd.toml")],
            folder.join("containerd.log"),
        );
        wait_for("containerd is ready", START, || ctr(&["version"]).is_ok())
            .unwrap_or_else(|why| panic!("{why}: {}", containerd.last_lines()));
        for archive in fs::read_dir(folder.join("images")).expect("tests/node.sh has made images").flatten() {
            let archive = archive.path().display().to_string();
            ctr(&["images", "import", "--local", "--snapshotter", "native", &archive])
                .unwrap_or_else(|why| panic!("containerd takes no image: {why}"));
        }

        let cluster = Self {
            kubelet: Mutex::new(Some(start_kubelet(folder))),
            _containerd: containerd,
            _api_server: api_server,
            _etcd: etcd,
            admin,
            authority_pem: authority.pem(),
            assets,
            folder: folder.to_owned(),
        };
        cluster.await_node();
        cluster.apply(include_str!("../control_plane/crds.yaml"));
        wait_for("GameServers are served", START, || {
            let path = "/apis/game.kruise.io/v1alpha1/gameservers";
            cluster.admin.send("GET", path, &[], None).status == 200
        })
        .unwrap_or_else(|why| panic!("{why}"));
        cluster
    }

    /// Who may do everything.
    pub(crate) fn admin(&self) -> &Client {
        &self.admin
    }

    /// Who has this token.
    pub(crate) fn client(&self, token: &str) -> Client {
        Client::new(&format!("https://{SERVICE_ADDRESS}"), &self.authority_pem, token, 0)
    }

    /// Ends kubelet, with all that it remembers, and starts it again.
    pub(crate) fn restart_kubelet(&self) {
        let mut kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        drop(kubelet.take());
        *kubelet = Some(start_kubelet(&self.folder));
    }

    /// Applies the objects of a text as `kubectl apply --server-side --validate=strict` does.
    pub(crate) fn apply(&self, text: &str) {
        for object in manifest::objects(text) {
            let path = format!("{}?fieldManager=node&force=true&fieldValidation=Strict", manifest::path(&object));
            let headers = [("Content-Type", "application/apply-patch+yaml")];
            self.admin.send("PATCH", &path, &headers, Some(&object)).ok();
        }
    }

    /// The ConfigMap that a controller puts into each namespace.
    pub(crate) fn root_ca(&self, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-root-ca.crt", "namespace": namespace},
            "data": {"ca.crt": self.authority_pem},
        })
    }

    /// Of this run alone.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs kubectl in this namespace.
    pub(crate) fn kubectl(&self, namespace: &str, args: &[&str]) -> Output {
        let kubeconfig = self.folder.join("kubeconfig");
        let mut kubectl = Command::new(self.assets.program("kubectl"));
        kubectl.arg("--kubeconfig").arg(kubeconfig).args(["--namespace", namespace]).args(args);
        kubectl.output().unwrap_or_else(|error| panic!("{kubectl:?}: {error}"))
    }

    /// What the service accounts of this namespace wrote, as the audit log tells it.
    pub(crate) fn writes(&self, namespace: &str) -> Vec<Value> {
        let ours = format!("system:serviceaccount:{namespace}:");
        let log = fs::read_to_string(self.folder.join("audit.log")).unwrap_or_default();
        let is_write = |event: &Value| {
            event["user"]["username"].as_str().is_some_and(|user| user.starts_with(&ours))
                && event["verb"] == "patch"
                && event["requestObject"].as_object().is_some_and(|patch| !patch.is_empty())
        };
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_write).collect()
    }

    /// Where kubelet keeps the volumes of a pod.
    pub(crate) fn volumes(&self, pod_uid: &str) -> PathBuf {
        self.folder.join("kubelet/pods").join(pod_uid).join("volumes")
    }

    /// What runs here, for the report.
    pub(crate) fn versions(&self) -> String {
        let node = self.admin.get(&format!("/api/v1/nodes/{NODE}"));
        let info = &node["status"]["nodeInfo"];
        let text = |key: &str| info[key].as_str().unwrap_or_default().to_owned();
        let runc = Command::new("runc").arg("--version").output().expect("tests/node.sh has found it");
        let runc = String::from_utf8_lossy(&runc.stdout).lines().next().unwrap_or_default().to_owned();
        let cgroups = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1" };
        format!(
            "kubelet {}, {}, {runc}, Linux {}, cgroup {cgroups}",
            text("kubeletVersion"),
            text("containerRuntimeVersion"),
            text("kernelVersion")
        )
    }

    fn await_node(&self) {
        let path = format!("/api/v1/nodes/{NODE}");
        wait_for("the node is ready", START, || {
            let node = self.admin.send("GET", &path, &[], None).body;
            condition(&node, "Ready").is_some_and(|ready| ready["status"] == "True")
        })
        .unwrap_or_else(|why| {
            let kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
            panic!("{why}: {}", kubelet.as_ref().map_or_else(String::new, Daemon::last_lines))
        });
    }
}

/// The condition of this type in an object's status.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Writes the files that the programs read.
fn prepare(folder: &Path, authority: &Authority, cgroup: &str) {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).expect("the folder is writable");
        fs::write(&path, text).expect("the folder is writable");
    };
    let file = |name: &str| folder.join(name).display().to_string();
    let certificate = authority.server_certificate(&[ADDRESS, SERVICE_ADDRESS]);
    let (key, public) = certificates::signing_key();
    write("server.crt", certificate.certificate_pem());
    write("server.key", certificate.key_pem());
    write("authority.crt", &authority.pem());
    write("accounts.key", &key);
    write("accounts.pub", &public);
    write("tokens.csv", &format!("{TOKEN},admin,admin-uid,\"system:masters\"\n"));
    write("audit-policy.yaml", AUDIT_POLICY);
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "node",
        "clusters": [{"name": "node", "cluster": {
            "server": format!("https://{SERVICE_ADDRESS}"), "certificate-authority": file("authority.crt")}}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "admin"}}],
    });
    write("kubeconfig", &kubeconfig.to_string());
    let programs = std::env::var("PATH").expect("it is set");
    let programs = programs.split(':').next().expect("it has a first entry");
    let bridge = json!({"type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": {
        "type": "host-local", "dataDir": file("addresses"),
        "ranges": [[{"subnet": "10.88.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
    }});
    let network = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]});
    write("cni/pods.conflist", &network.to_string());
    write("containerd.toml", &containerd_config(&file("containerd"), programs, &file("cni")));
    write("kubelet.yaml", &kubelet_config(folder, cgroup).to_string());
}

/// Small images need no file system that stacks layers, and a root in namespaces cannot lower an OOM score.
fn containerd_config(root: &str, programs: &str, network: &str) -> String {
    format!(
        "version = 3
root = {root:?}
state = '/run/containerd'
[grpc]
address = '{CONTAINERD}'
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'native'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = 'docker.io/library/busybox:test'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
snapshotter = 'native'
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [{programs:?}]
conf_dir = {network:?}
use_internal_loopback = true
"
    )
}

/// Nobody but this test can reach this kubelet, so anybody may ask it. Nothing is evicted from a full disk of the host's,
/// and a ConfigMap's change reaches a pod within seconds instead of a minute.
fn kubelet_config(folder: &Path, cgroup: &str) -> Value {
    let file = |name: &str| folder.join(name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": file("server.crt"),
        "tlsPrivateKeyFile": file("server.key"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "failSwapOn": false,
        "evictionHard": {
            "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%", "pid.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "syncFrequency": "5s",
        "resolvConf": "",
        "podLogsDir": file("logs"),
        "volumePluginDir": file("volume-plugins"),
        "healthzPort": 0,
    })
}

fn start_etcd(assets: &Assets, folder: &Path) -> Daemon {
    let file = |name: &str| folder.join(name).display().to_string();
    let socket = format!("unix://{}", file("etcd.sock"));
    // The data need not survive the machine, so no fsync.
    let args = [
        format!("--data-dir={}", file("etcd")),
        format!("--listen-client-urls={socket}"),
        format!("--advertise-client-urls={socket}"),
        "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
        "--log-level=error".to_owned(),
        "--unsafe-no-fsync".to_owned(),
    ];
    Daemon::start(&assets.program("etcd"), &args, folder.join("etcd.log"))
}

fn start_api_server(assets: &Assets, folder: &Path) -> Daemon {
    let file = |name: &str| folder.join(name).display().to_string();
    let args = [
        format!("--etcd-servers=unix://{}", file("etcd.sock")),
        format!("--advertise-address={ADDRESS}"),
        "--secure-port=443".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-signing-key-file={}", file("accounts.key")),
        format!("--service-account-key-file={}", file("accounts.pub")),
        "--authorization-mode=RBAC".to_owned(),
        format!("--token-auth-file={}", file("tokens.csv")),
        format!("--audit-policy-file={}", file("audit-policy.yaml")),
        format!("--audit-log-path={}", file("audit.log")),
    ];
    Daemon::start(&assets.program("kube-apiserver"), &args, folder.join("kube-apiserver.log"))
}

fn start_kubelet(folder: &Path) -> Daemon {
    let file = |name: &str| folder.join(name).display().to_string();
    let args = [
        format!("--config={}", file("kubelet.yaml")),
        format!("--kubeconfig={}", file("kubeconfig")),
        format!("--root-dir={}", file("kubelet")),
        format!("--cert-dir={}", file("kubelet/pki")),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={ADDRESS}"),
    ];
    Daemon::start(Path::new("kubelet"), &args, folder.join("kubelet.log"))
}

/// Runs containerd's client in kubelet's namespace.
fn ctr(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ctr")
        .args(["--address", CONTAINERD, "--namespace", "k8s.io"])
        .args(args)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
