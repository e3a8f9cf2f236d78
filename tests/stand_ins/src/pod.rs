//! Owns the files that kubelet mounts into a pod, and how it changes them.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::json;
use tempfile::TempDir;

use super::locked;

/// The volumes of one pod, in a temporary folder that goes with it.
pub struct Pod {
    /// The name of the Pod and of its GameServer.
    pub name: String,
    /// The namespace of both.
    pub namespace: String,
    /// The volume of the ConfigMap, which contains `config.yaml`.
    pub config: Volume,
    /// The volume of the service account, which contains `token`, `ca.crt` and `namespace`.
    pub account: Volume,
    /// Goes last.
    folder: TempDir,
}

impl Pod {
    /// `games/gs-0`, with this text of the config, certificate of the authority, and token.
    pub fn new(config: &str, ca: &str, token: &str) -> Self {
        let folder = TempDir::new().expect("the temporary folder is writable");
        open_to_all(folder.path());
        let namespace = "games";
        let config = Volume::new(&folder.path().join("config"), &[("config.yaml", config)]);
        let account =
            Volume::new(&folder.path().join("account"), &[("token", token), ("ca.crt", ca), ("namespace", namespace)]);
        Self { name: "gs-0".to_owned(), namespace: namespace.to_owned(), config, account, folder }
    }

    /// The folder of both volumes, for what else a test needs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What `--config` takes.
    pub fn config_path(&self) -> PathBuf {
        self.config.path().join("config.yaml")
    }

    /// What `--service-account-dir` takes.
    pub fn account_path(&self) -> &Path {
        self.account.path()
    }

    /// The ConfigMap has changed.
    pub fn update_config(&self, text: &str) {
        self.config.update("config.yaml", text);
    }

    /// The token has been renewed.
    pub fn rotate_token(&self, token: &str) {
        self.account.update("token", token);
    }

    /// The authority has changed.
    pub fn set_ca(&self, pem: &str) {
        self.account.update("ca.crt", pem);
    }
}

/// A ConfigMap's, Secret's or projected volume: `NAME -> ..data/NAME`, and `..data` leads to a folder that is written
/// whole and swapped in by one rename. As in Kubernetes' `pkg/volume/util/atomic_writer.go`.
pub struct Volume {
    path: PathBuf,
    /// By name. Not read back, since a test may have made one unreadable.
    files: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Volume {
    /// Makes the folder, with these files.
    pub fn new(path: &Path, files: &[(&str, &str)]) -> Self {
        fs::create_dir(path).expect("its parent is writable and has no such folder");
        open_to_all(path);
        let volume = Self { path: path.to_owned(), files: Mutex::default() };
        let files = files.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
        volume.change(|of_volume| of_volume.extend(files));
        volume
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes one file, or adds it; the others stay as they are.
    pub fn update(&self, name: &str, contents: impl AsRef<[u8]>) {
        self.change(|files| drop(files.insert(name.to_owned(), contents.as_ref().to_vec())));
    }

    /// Takes one file away.
    pub fn remove(&self, name: &str) {
        self.change(|files| drop(files.remove(name)));
    }

    /// Takes every file away, as an unmounted volume would look.
    pub fn clear(&self) {
        self.change(BTreeMap::clear);
    }

    /// Sets the permission bits of one file. They do not stop a reader that is root.
    pub fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path.join(name), Permissions::from_mode(mode))
            .unwrap_or_else(|error| panic!("chmod {name}: {error}"));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        let mut files = locked(&self.files);
        change(&mut files);
        self.swap_in(&files);
    }

    fn swap_in(&self, files: &BTreeMap<String, Vec<u8>>) {
        let link = self.path.join("..data");
        let old = fs::read_link(&link).ok();
        // Kubelet puts the time between the two dots and the random suffix; nobody reads it.
        let new = tempfile::Builder::new().prefix("..").tempdir_in(&self.path).expect("the volume is writable").keep();
        open_to_all(&new);
        for (name, contents) in files {
            fs::write(new.join(name), contents).expect("the new folder is writable");
        }
        let staged = self.path.join("..data_tmp");
        let target = new.file_name().expect("it was made with a name");
        symlink(target, &staged).expect("nobody else is writing this volume");
        fs::rename(&staged, &link).expect("a rename within the volume");
        self.link_names(files);
        if let Some(old) = old {
            fs::remove_dir_all(self.path.join(old)).expect("it was made here");
        }
    }

    /// Makes the links that a user sees the names of `files`, no more and no fewer.
    fn link_names(&self, files: &BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(&self.path).expect("the volume is readable") {
            let entry = entry.expect("the volume is readable");
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("..") && !files.contains_key(&name) {
                fs::remove_file(entry.path()).expect("it is a link that was made here");
            }
        }
        for name in files.keys() {
            let link = self.path.join(name);
            if link.symlink_metadata().is_err() {
                symlink(Path::new("..data").join(name), link).expect("the name is free");
            }
        }
    }
}

/// The sidecar may run as a user of its own.
fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("it was made here");
}

/// A token as kubelet mounts it: a JWT whose claims name the pod that it is bound to. Its signature is none, since only
/// the API server reads that, and [`super::ApiServer::accept_token`] stands for it.
pub fn bound_token(namespace: &str, pod_name: &str, pod_uid: &str) -> String {
    bound_token_until(namespace, pod_name, pod_uid, 4_102_444_800)
}

/// The same with its end in seconds since the epoch, as the token tells it.
pub fn bound_token_until(namespace: &str, pod_name: &str, pod_uid: &str, end: u64) -> String {
    let header = json!({"alg": "RS256", "kid": "of the tests"});
    let claims = json!({
        "aud": ["https://kubernetes.default.svc.cluster.local"],
        "exp": end,
        "iss": "https://kubernetes.default.svc.cluster.local",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "33333333-3333-3333-3333-333333333333"},
            "pod": {"name": pod_name, "uid": pod_uid},
            "serviceaccount": {"name": "okg-sidecar", "uid": "44444444-4444-4444-4444-444444444444"},
            "warnafter": 4_102_440_000_u64,
        },
        "sub": format!("system:serviceaccount:{namespace}:okg-sidecar"),
    });
    [header.to_string().as_bytes(), claims.to_string().as_bytes(), b"signed by nobody"].map(base64_url).join(".")
}

/// RFC 4648, section 5, without padding, as RFC 7515 has it.
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, byte| group << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        // One byte needs two characters, two need three, three need four.
        for position in 0..=chunk.len() {
            text.push(char::from(ALPHABET[group >> (18 - 6 * position) & 63]));
        }
    }
    text
}
