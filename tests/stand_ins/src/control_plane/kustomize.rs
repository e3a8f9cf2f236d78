//! Owns what `kubectl kustomize` makes of deploy/, as it is and as a part of a user's own kustomization.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::assets::Assets;
use crate::repository;

/// kubectl of the control plane's programs, else the one in PATH; `None` if there is neither.
pub fn kubectl() -> Option<PathBuf> {
    static FOUND: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let of_assets = Assets::find().ok().map(|assets| assets.program("kubectl"));
        of_assets.into_iter().chain([PathBuf::from("kubectl")]).find(|program| {
            let version = Command::new(program).args(["version", "--client"]).output();
            version.is_ok_and(|output| output.status.success())
        })
    });
    FOUND.clone()
}

/// The folder of the manifests.
pub fn deploy() -> PathBuf {
    repository().join("deploy")
}

/// Every file of deploy/.
pub fn files() -> Vec<PathBuf> {
    let mut folders = vec![deploy()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// The objects of the kustomization in this folder.
///
/// # Errors
/// kubectl's message.
pub fn build(folder: &Path) -> Result<Vec<Value>, String> {
    let kubectl = kubectl().ok_or("there is no kubectl")?;
    let output = Command::new(kubectl).arg("kustomize").arg(folder).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_yaml::Deserializer::from_slice(&output.stdout)
        .map(|document| Value::deserialize(document).map_err(|error| error.to_string()))
        .collect()
}

/// The objects of a user's kustomization of these files, which has a copy of deploy/ in `okg-sidecar/`. A file may be in a folder.
///
/// # Errors
/// kubectl's message.
pub fn build_of_user(own: &[(&str, &str)]) -> Result<Vec<Value>, String> {
    let folder = TempDir::new().expect("the temporary folder is writable");
    for file in files() {
        let copy =
            folder.path().join("okg-sidecar/deploy").join(file.strip_prefix(deploy()).expect("it is in deploy/"));
        fs::create_dir_all(copy.parent().expect("a file has a folder")).expect("the temporary folder is writable");
        fs::copy(file, copy).expect("the temporary folder is writable");
    }
    for (name, text) in own {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().expect("a file has a folder")).expect("the temporary folder is writable");
        fs::write(file, text).expect("the temporary folder is writable");
    }
    build(folder.path())
}
