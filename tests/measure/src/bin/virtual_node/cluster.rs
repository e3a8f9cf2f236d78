//! Owns the control plane and the virtual nodes: one process of the library a node, each with a provider that decides
//! otherwise. No scheduler and no controller runs, so the cases bind their pods to a node themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use measure::wait::wait_for;
use serde_json::{Value, json};
use stand_ins::control_plane::{Assets, ControlPlane, Daemon, Options, manifest};

/// Long enough for a start on a slow machine that does something else, too.
const START: Duration = Duration::from_secs(120);

/// The ServiceAccount of the nodes.
const ACCOUNT: &str = "virtual-node";

/// What a provider decides.
#[derive(Clone, Copy)]
pub(crate) struct Provider {
    /// The name of its node.
    pub(crate) node: &'static str,
    /// How it reports the status of its pods, as `provider/provider.go` describes it.
    pub(crate) reports: &'static str,
    /// Whether it does what a provider may: new tokens and ConfigMaps for pods that run, UpdatePod, and native sidecars.
    pub(crate) does_more: bool,
}

/// Reports what changes.
pub(crate) const NOTIFY: Provider = Provider { node: "notify", reports: "notify", does_more: true };
/// Reports what changes, with the conditions that others have set.
pub(crate) const KEEP: Provider = Provider { node: "keep", reports: "keep", does_more: true };
/// The library polls it.
pub(crate) const POLLED: Provider = Provider { node: "polled", reports: "polled", does_more: false };
/// Reports the pod that the library knows, with a status of its own.
pub(crate) const LISTER: Provider = Provider { node: "lister", reports: "lister", does_more: false };
/// Reports the pod as it was created.
pub(crate) const OWN: Provider = Provider { node: "own", reports: "own", does_more: false };

/// A control plane with nodes.
pub(crate) struct Cluster {
    /// Dropped before the API server.
    _nodes: Vec<Daemon>,
    plane: ControlPlane,
    program: PathBuf,
    folder: PathBuf,
}

impl Cluster {
    /// Starts the control plane and a node of each kind, and waits until all are ready.
    ///
    /// # Errors
    /// In one line that this was not started by `tests/virtual-node.sh`.
    pub(crate) fn start() -> Result<Self, String> {
        let variable =
            |name: &str| std::env::var(name).map_err(|_| "virtual-node: run tests/virtual-node.sh".to_owned());
        let (program, folder) = (variable("OKG_VIRTUAL_NODE")?.into(), variable("OKG_VIRTUAL_NODE_FOLDER")?.into());
        let plane = ControlPlane::start(&Assets::find()?, Options { audit: true });
        let mut cluster = Self { _nodes: Vec::new(), plane, program, folder };
        cluster.prepare();
        cluster._nodes = [NOTIFY, KEEP, POLLED, LISTER, OWN].map(|provider| cluster.launch(provider)).into();
        for provider in [NOTIFY, KEEP, POLLED, LISTER, OWN] {
            cluster.await_node(provider.node);
        }
        Ok(cluster)
    }

    /// The API server and its administrator.
    pub(crate) fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Starts one more node, and waits until it is ready. It is lost when it is dropped; its containers go on.
    pub(crate) fn one_more(&self, provider: Provider) -> Daemon {
        let node = self.launch(provider);
        self.await_node(provider.node);
        node
    }

    /// Where a node keeps what belongs to a pod.
    pub(crate) fn pod_folder(&self, node: &str, uid: &str) -> PathBuf {
        self.folder.join(node).join("pods").join(uid)
    }

    /// The admission policies of deploy/, an account for the nodes, and the files that they are configured with.
    fn prepare(&self) {
        for policy in ["admission-policy", "kruise-podprobe/admission-policy"] {
            self.plane.apply(&manifest::deploy(&format!("{policy}/validating-admission-policy.yaml")));
        }
        self.plane.apply_all(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ACCOUNT}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": ACCOUNT}}),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ACCOUNT},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": ACCOUNT}],
            }),
        ]);
        let certificate = self.plane.server_certificate();
        self.write("kubelet.crt", certificate.certificate_pem());
        self.write("kubelet.key", certificate.key_pem());
        self.write("authority.crt", &self.plane.authority_pem());
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.plane.port()),
                "certificate-authority": self.folder.join("authority.crt"),
            }}],
            "users": [{"name": "it", "user": {"token": self.plane.token_of(ACCOUNT, ACCOUNT, None)}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        self.write("kubeconfig", &kubeconfig.to_string());
        // The library gives pods the address of this Service.
        let service = || self.plane.admin().send("GET", "/api/v1/namespaces/default/services/kubernetes", &[], None);
        wait_for("the Service kubernetes", START, || service().status == 200).unwrap_or_else(|why| panic!("{why}"));
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("the folder is writable");
    }

    fn launch(&self, provider: Provider) -> Daemon {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let flag = |name: &str| format!("--{name}={}", provider.does_more);
        let args = [
            "node".to_owned(),
            format!("--name={}", provider.node),
            format!("--reports={}", provider.reports),
            flag("refreshes"),
            flag("updates"),
            flag("native-sidecars"),
            format!("--kubeconfig={}", file("kubeconfig")),
            format!("--folder={}", file(provider.node)),
            format!("--images={}", file("images")),
            format!("--server=127.0.0.1:{}", self.plane.port()),
            format!("--cert={}", file("kubelet.crt")),
            format!("--key={}", file("kubelet.key")),
        ];
        Daemon::start(Path::new(&self.program), &args, self.folder.join(format!("{}.log", provider.node)))
    }

    fn await_node(&self, name: &str) {
        let path = format!("/api/v1/nodes/{name}");
        let ready = || {
            let node = self.plane.admin().send("GET", &path, &[], None).body;
            condition(&node, "Ready").is_some_and(|ready| ready["status"] == "True")
        };
        wait_for("the node is ready", START, ready).unwrap_or_else(|why| panic!("{name}: {why}: {}", self.log(name)));
    }

    /// The end of what a node wrote.
    pub(crate) fn log(&self, node: &str) -> String {
        let text = fs::read_to_string(self.folder.join(format!("{node}.log"))).unwrap_or_default();
        // Without the stacks that the library adds to errors.
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('\t')).collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The condition of this type in an object's status.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}
