//! Owns the control plane and the node of the cases: etcd, kube-apiserver, containerd and kubelet, in the namespaces that
//! `namespaces.sh` has made. No scheduler and no controller runs, so the cases bind their pods to the node themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::place::{ADDRESS, CONTAINERD, NODE, Place, SERVICE_ADDRESS, SERVICE_RANGE, TOKEN};
use measure::wait::wait_for;
use stand_ins::Authority;
use stand_ins::control_plane::{CRDS, Client, Daemon, manifest};

/// Long enough for a start on a slow machine that does something else, too.
const START: Duration = Duration::from_secs(120);

/// A cluster of one node, until it is dropped.
pub(crate) struct Cluster {
    /// Dropped in this order: who asks goes before who answers.
    kubelet: RwLock<Option<Daemon>>,
    _containerd: Daemon,
    _api_server: Daemon,
    _etcd: Daemon,
    admin: Client,
    authority_pem: String,
    place: Place,
}

impl Cluster {
    /// Starts all of it, and waits until the node is ready.
    pub(crate) fn start(place: Place) -> Self {
        let authority = Authority::new("cluster");
        place.prepare(&authority);
        let etcd = start_etcd(&place);
        let api_server = start_api_server(&place);
        let server = format!("https://{SERVICE_ADDRESS}");
        let admin = Client::new(&server, &authority.pem(), TOKEN, 32);
        wait_for("kube-apiserver is ready", START, || {
            admin.try_send("GET", "/readyz", &[], None).is_ok_and(|answer| answer.status == 200)
        })
        .unwrap_or_else(|why| panic!("{why}: {}", api_server.last_lines()));

        let containerd = Daemon::start(
            &place.program("containerd"),
            &["--config".to_owned(), place.file("containerd.toml")],
            place.path("containerd.log"),
        );
        wait_for("containerd is ready", START, || ctr(&place, &["version"]).is_ok())
            .unwrap_or_else(|why| panic!("{why}: {}", containerd.last_lines()));
        for archive in fs::read_dir(place.path("images")).expect("tests/node.sh has made images").flatten() {
            let archive = archive.path().display().to_string();
            ctr(&place, &["images", "import", "--local", "--snapshotter", "native", &archive])
                .unwrap_or_else(|why| panic!("containerd takes no image: {why}"));
        }

        let cluster = Self {
            kubelet: RwLock::new(Some(start_kubelet(&place))),
            _containerd: containerd,
            _api_server: api_server,
            _etcd: etcd,
            admin,
            authority_pem: authority.pem(),
            place,
        };
        cluster.await_node();
        cluster.apply(CRDS);
        wait_for("GameServers are served", START, || {
            let path = "/apis/game.kruise.io/v1alpha1/gameservers";
            cluster.admin.send("GET", path, &[], None).status == 200
        })
        .unwrap_or_else(|why| panic!("{why}"));
        cluster
    }

    /// A client that may do everything.
    pub(crate) fn admin(&self) -> &Client {
        &self.admin
    }

    /// A client with this token.
    pub(crate) fn client(&self, token: &str) -> Client {
        Client::new(&format!("https://{SERVICE_ADDRESS}"), &self.authority_pem, token, 0)
    }

    /// Keeps kubelet running until the result is dropped.
    pub(crate) fn needs_kubelet(&self) -> impl Drop {
        self.kubelet.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends kubelet, with all that it remembers, as soon as nobody needs it, and starts it again.
    pub(crate) fn restart_kubelet(&self) {
        let mut kubelet = self.kubelet.write().unwrap_or_else(PoisonError::into_inner);
        drop(kubelet.take());
        *kubelet = Some(start_kubelet(&self.place));
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

    /// The place that it runs in.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Runs kubectl in this namespace.
    pub(crate) fn kubectl(&self, namespace: &str, args: &[&str]) -> Output {
        let kubeconfig = self.place.path("kubeconfig");
        let mut kubectl = Command::new(self.place.assets.program("kubectl"));
        kubectl.arg("--kubeconfig").arg(kubeconfig).args(["--namespace", namespace]).args(args);
        kubectl.output().unwrap_or_else(|error| panic!("{kubectl:?}: {error}"))
    }

    /// The writes of this namespace's service accounts in the audit log.
    pub(crate) fn writes(&self, namespace: &str) -> Vec<Value> {
        let ours = format!("system:serviceaccount:{namespace}:");
        let log = fs::read_to_string(self.place.path("audit.log")).unwrap_or_default();
        let is_write = |event: &Value| {
            event["user"]["username"].as_str().is_some_and(|user| user.starts_with(&ours))
                && event["verb"] == "patch"
                && event["requestObject"].as_object().is_some_and(|patch| !patch.is_empty())
        };
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_write).collect()
    }

    /// The folder of kubelet with the volumes of a pod.
    pub(crate) fn volumes(&self, pod_uid: &str) -> PathBuf {
        self.place.path("kubelet/pods").join(pod_uid).join("volumes")
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
            let kubelet = self.kubelet.read().unwrap_or_else(PoisonError::into_inner);
            panic!("{why}: {}", kubelet.as_ref().map_or_else(String::new, Daemon::last_lines))
        });
    }
}

/// The condition of this type in an object's status.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn start_etcd(place: &Place) -> Daemon {
    let file = |name: &str| place.file(name);
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
    Daemon::start(&place.assets.program("etcd"), &args, place.path("etcd.log"))
}

fn start_api_server(place: &Place) -> Daemon {
    let file = |name: &str| place.file(name);
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
    Daemon::start(&place.assets.program("kube-apiserver"), &args, place.path("kube-apiserver.log"))
}

fn start_kubelet(place: &Place) -> Daemon {
    let file = |name: &str| place.file(name);
    let args = [
        format!("--config={}", file("kubelet.yaml")),
        format!("--kubeconfig={}", file("kubeconfig")),
        format!("--root-dir={}", file("kubelet")),
        format!("--cert-dir={}", file("kubelet/pki")),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={ADDRESS}"),
    ];
    Daemon::start(&place.program("kubelet"), &args, place.path("kubelet.log"))
}

/// Runs containerd's client in kubelet's namespace.
fn ctr(place: &Place, args: &[&str]) -> Result<(), String> {
    let output = Command::new(place.program("ctr"))
        .args(["--address", CONTAINERD, "--namespace", "k8s.io"])
        .args(args)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
