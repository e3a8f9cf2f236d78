//! Owns the addresses and folders of a cluster, and the configuration files of its programs.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use stand_ins::control_plane::Assets;
use stand_ins::{Authority, certificates};

/// The node's name, and the address that `namespaces.sh` has given it.
pub(crate) const NODE: &str = "node";
pub(crate) const ADDRESS: &str = "10.88.0.1";

/// The first of the range below: the one of the Service `kubernetes`, which pods get in their environment.
pub(crate) const SERVICE_ADDRESS: &str = "10.0.0.1";
pub(crate) const SERVICE_RANGE: &str = "10.0.0.0/24";

/// The administrator's.
pub(crate) const TOKEN: &str = "the-administrator";

/// The socket of containerd.
pub(crate) const CONTAINERD: &str = "/run/containerd/containerd.sock";

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

/// What `tests/node.sh` has made for a cluster.
#[derive(Clone)]
pub(crate) struct Place {
    /// kube-apiserver, etcd and kubectl.
    pub(crate) assets: Assets,
    /// The folder with kubelet, containerd and the CNI plugins.
    programs: PathBuf,
    /// The folder for everything that the programs write. The archives in its `images` are the images that the node has.
    folder: PathBuf,
    /// The cgroup of the pods.
    cgroup: String,
}

impl Place {
    /// The place that the environment names.
    ///
    /// # Errors
    /// In one line that this was not started by `tests/node.sh`.
    pub(crate) fn find() -> Result<Self, String> {
        let variable = |name: &str| std::env::var(name).map_err(|_| "node: run tests/node.sh".to_owned());
        Ok(Self {
            programs: variable("OKG_NODE_PROGRAMS")?.into(),
            folder: variable("OKG_NODE_FOLDER")?.into(),
            cgroup: variable("OKG_NODE_CGROUP")?,
            assets: Assets::find()?,
        })
    }

    /// One of the node's programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A file of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The path of a file as an argument.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes the files that the programs read.
    pub(crate) fn prepare(&self, authority: &Authority) {
        let write = |name: &str, text: &str| {
            let path = self.path(name);
            fs::create_dir_all(path.parent().expect("it is in the folder")).expect("the folder is writable");
            fs::write(&path, text).expect("the folder is writable");
        };
        let file = |name: &str| self.file(name);
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
        let bridge = json!({"type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": {
            "type": "host-local", "dataDir": file("addresses"),
            "ranges": [[{"subnet": "10.88.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
        }});
        let network = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]});
        write("cni/pods.conflist", &network.to_string());
        write("containerd.toml", &self.containerd_config());
        write("kubelet.yaml", &self.kubelet_config().to_string());
    }

    /// Small images need no file system that stacks layers, and a root in namespaces cannot lower an OOM score.
    fn containerd_config(&self) -> String {
        let (root, programs, network) = (self.file("containerd"), &self.programs, self.file("cni"));
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
    fn kubelet_config(&self) -> Value {
        let file = |name: &str| self.file(name);
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
            "cgroupRoot": format!("/{}", self.cgroup),
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
}
