//! Owns etcd and kube-apiserver together: how they are started, killed and started again, and what an administrator
//! does with them.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use super::assets::Assets;
use super::client::Client;
use super::daemon::{Daemon, Guardian};
use super::gate::Gate;
use super::manifest;
use crate::{Authority, ServerCertificate, certificates, holds_within};

/// Long enough for a start on a slow machine that does something else, too.
const START: Duration = Duration::from_secs(120);

/// The address of the Service `kubernetes`: the first of the range that the API server is given.
const SERVICE_ADDRESS: &str = "10.0.0.1";

/// Requests of service accounts whole, when they come and when they are answered, with the answers as they were sent;
/// nobody else's.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
  - level: RequestResponse
    userGroups: [system:serviceaccounts]
  - level: None
";

/// The CustomResourceDefinitions of OpenKruiseGame and Kruise that the sidecar and the manifests need.
pub const CRDS: &str = include_str!("crds.yaml");

/// How a control plane is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether [`ControlPlane::requests`] returns anything. The audit log takes CPU time.
    pub audit: bool,
}

/// A control plane that has our CRDs and no other object, until it is dropped.
pub struct ControlPlane {
    /// Dropped before etcd, without which it would fill its log.
    api_server: Option<Daemon>,
    etcd: Daemon,
    assets: Assets,
    options: Options,
    authority: Authority,
    admin: Client,
    admin_token: String,
    port: u16,
    /// Removes the folder when this process is gone without a drop, as with a control plane that all tests share.
    _guardian: Guardian,
    /// Goes last.
    folder: TempDir,
}

impl ControlPlane {
    /// Starts both and waits until they serve our CRDs.
    #[track_caller]
    pub fn start(assets: &Assets, options: Options) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        let admin_token = format!("{:016x}{:016x}", random(), random());
        prepare(folder.path(), &admin_token);
        let etcd = start_etcd(assets, folder.path());
        let authority = Authority::new("cluster");
        let admin = Client::new("https://127.0.0.1:0", &authority.pem(), &admin_token, 0);
        let assets = assets.clone();
        // The programs that are just being killed may still write.
        let guardian = Guardian::start("until rm -rf \"$0\"; do sleep 1; done", folder.path());
        let mut plane = Self {
            api_server: None,
            etcd,
            assets,
            options,
            authority,
            admin,
            admin_token,
            port: 0,
            _guardian: guardian,
            folder,
        };
        // Between the look for a free port and its use another may take it.
        let started = (0..5).any(|_| {
            plane.port = free_port();
            plane.try_start_api_server()
        });
        assert!(started, "kube-apiserver found no port of its own: {}", plane.api_server_says());
        plane.install_crds();
        plane
    }

    /// Kills the API server as a crash would. What it wrote stays in etcd.
    pub fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    /// Starts it again on the same port, which nobody else has been given meanwhile (see [`free_port`]).
    #[track_caller]
    pub fn restart_api_server(&mut self) {
        let started = self.try_start_api_server();
        assert!(started, "kube-apiserver does not start again: {}", self.api_server_says());
    }

    /// Changes the authority that vouches for the API server, from its next start on.
    pub fn change_authority(&mut self) {
        self.authority = Authority::new("cluster");
    }

    /// The certificate of the authority, as pods get it.
    pub fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// A certificate for whoever serves on loopback, or at the address of the Service `kubernetes`.
    pub fn server_certificate(&self) -> ServerCertificate {
        self.authority.server_certificate(&["127.0.0.1", "::1", "localhost", SERVICE_ADDRESS])
    }

    /// The private key that tokens are signed with, in PEM.
    pub fn signing_key(&self) -> String {
        fs::read_to_string(self.folder.path().join("accounts.key")).expect("it was written before the start")
    }

    /// Of the API server, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client that may do everything.
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// A client with this token that keeps so many connections open.
    pub fn client(&self, token: &str, connections: usize) -> Client {
        Client::new(&format!("https://127.0.0.1:{}", self.port), &self.authority.pem(), token, connections)
    }

    /// A way to the API server on which writes can be stopped.
    pub fn gate(&self) -> Gate {
        let tls = self.authority.loopback_certificate().server_config();
        Gate::to(format!("https://127.0.0.1:{}", self.port), self.authority.pem(), tls)
    }

    /// The processes, API server first.
    pub fn daemons(&self) -> (&Daemon, &Daemon) {
        (self.api_server.as_ref().expect("nobody has killed it"), &self.etcd)
    }

    /// Applies the objects of a text as `kubectl apply --server-side --validate=strict` does.
    #[track_caller]
    pub fn apply(&self, text: &str) {
        self.apply_all(&manifest::objects(text));
    }

    /// Applies objects in the same way.
    #[track_caller]
    pub fn apply_all(&self, objects: &[Value]) {
        for object in objects {
            let path = format!("{}?fieldManager=e2e&force=true&fieldValidation=Strict", manifest::path(object));
            let headers = [("Content-Type", "application/apply-patch+yaml")];
            self.admin.send("PATCH", &path, &headers, Some(object)).ok();
        }
    }

    /// Runs kubectl as the administrator, and gives what it printed.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        // A file of its own, since cases run at the same time.
        let authority = NamedTempFile::new_in(self.folder.path()).expect("the temporary folder is writable");
        fs::write(&authority, self.authority.pem()).expect("the temporary folder is writable");
        let output = Command::new(self.assets.program("kubectl"))
            .arg(format!("--server=https://127.0.0.1:{}", self.port))
            .arg(format!("--certificate-authority={}", authority.path().display()))
            .arg(format!("--token={}", self.admin_token))
            .arg("--kubeconfig=/dev/null")
            .arg(format!("--cache-dir={}", self.folder.path().join("kubectl").display()))
            .args(args)
            .output()
            .expect("kubectl starts");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "kubectl {args:?}: {told}");
        told
    }

    /// Makes a namespace.
    #[track_caller]
    pub fn create_namespace(&self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.admin.create("/api/v1/namespaces", "e2e", &object);
    }

    /// A token of the ServiceAccount okg-sidecar, as kubelet asks for one: bound to this pod, or to nothing.
    #[track_caller]
    pub fn token(&self, namespace: &str, pod: Option<(&str, &str)>) -> String {
        self.token_of(namespace, "okg-sidecar", pod)
    }

    /// A token of another ServiceAccount.
    #[track_caller]
    pub fn token_of(&self, namespace: &str, account: &str, pod: Option<(&str, &str)>) -> String {
        let mut request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        });
        if let Some((name, uid)) = pod {
            request["spec"]["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.admin.send("POST", &path, &[("Content-Type", "application/json")], Some(&request)).ok();
        answer["status"]["token"].as_str().expect("a TokenRequest is answered with a token").to_owned()
    }

    /// The requests of this namespace's sidecars in the audit log, in the order of the answers. Waits for
    /// those that are not answered yet: a client may read its answer before the log has it.
    #[track_caller]
    pub fn requests(&self, namespace: &str) -> Vec<Value> {
        let ours = format!("system:serviceaccount:{namespace}:okg-sidecar");
        let by_sidecar = |event: &Value| {
            event["user"]["username"].as_str().is_some_and(|user| user.starts_with(&ours))
                && event["userAgent"].as_str().is_some_and(|agent| agent.starts_with("okg-sidecar/"))
        };
        let mut answered = Vec::new();
        let all_are = holds_within(START, || {
            let log = fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
            let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(by_sidecar);
            let (received, others): (Vec<_>, Vec<_>) = events.partition(|event| event["stage"] == "RequestReceived");
            answered = others;
            answered.len() == received.len()
        });
        assert!(all_are, "a request is not answered");
        answered
    }

    /// Whether it serves. It does not when its port was taken.
    fn try_start_api_server(&mut self) -> bool {
        let folder = self.folder.path();
        let certificate = self.server_certificate();
        write(folder, "server.crt", certificate.certificate_pem());
        write(folder, "server.key", certificate.key_pem());
        let file = |name: &str| folder.join(name).display().to_string();
        let mut args = vec![
            format!("--etcd-servers=unix://{}", file("etcd.sock")),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--service-account-key-file={}", file("accounts.pub")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
        ];
        if self.options.audit {
            args.push(format!("--audit-policy-file={}", file("audit-policy.yaml")));
            args.push(format!("--audit-log-path={}", file("audit.log")));
        }
        let log = folder.join("kube-apiserver.log");
        let mut daemon = Daemon::start(&self.assets.program("kube-apiserver"), &args, log);
        self.admin = self.client(&self.admin_token, 0);
        let ready = || self.admin.try_send("GET", "/readyz", &[], None).is_ok_and(|answer| answer.status == 200);
        let mut ended = false;
        let served = holds_within(START, || {
            ended = !daemon.is_running();
            ended || ready()
        });
        assert!(served, "kube-apiserver is not ready: {}", daemon.last_lines());
        self.api_server = Some(daemon);
        // Another process on the same port would refuse our token.
        !ended
    }

    fn api_server_says(&self) -> String {
        self.api_server.as_ref().map_or_else(String::new, Daemon::last_lines)
    }

    fn install_crds(&self) {
        self.apply(CRDS);
        // Established or not, the first requests for a new resource may be answered 404 or 429.
        let served = |collection: &str| {
            let path = format!("/apis/{collection}");
            let listed = self.admin.send("GET", &path, &[], None).status;
            let patched = self.admin.merge_patch(&format!("{path}/none"), "e2e", &json!({})).status;
            (listed, patched) == (200, 404)
        };
        let all = || {
            ["gameservers", "gameserversets"]
                .iter()
                .all(|resource| served(&format!("game.kruise.io/v1alpha1/namespaces/default/{resource}")))
                && served("apps.kruise.io/v1alpha1/sidecarsets")
        };
        assert!(holds_within(START, all), "the CRDs are not served: {}", self.api_server_says());
    }
}

/// Writes the files that no restart changes.
fn prepare(folder: &Path, admin_token: &str) {
    let (key, public) = certificates::signing_key();
    write(folder, "accounts.key", &key);
    write(folder, "accounts.pub", &public);
    write(folder, "tokens.csv", &format!("{admin_token},admin,admin-uid,\"system:masters\"\n"));
    write(folder, "audit-policy.yaml", AUDIT_POLICY);
}

fn start_etcd(assets: &Assets, folder: &Path) -> Daemon {
    let file = |name: &str| folder.join(name).display().to_string();
    let socket = format!("unix://{}", file("etcd.sock"));
    let data = file("etcd");
    // The data need not survive the machine, so no fsync.
    let args = [
        ["--data-dir", &data],
        ["--listen-client-urls", &socket],
        ["--advertise-client-urls", &socket],
        ["--listen-peer-urls", "http://127.0.0.1:0"],
        ["--log-level", "error"],
    ];
    let args: Vec<&str> = args.as_flattened().iter().copied().chain(["--unsafe-no-fsync"]).collect();
    Daemon::start(&assets.program("etcd"), &args, folder.join("etcd.log"))
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("the temporary folder is writable");
}

/// A port below those that the system gives to whoever asks for any, so that it is still free at a restart.
fn free_port() -> u16 {
    let port = || 20_000 + (random() % 12_000) as u16;
    (0..100)
        .map(|_| port())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of a hundred ports is free")
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
