//! Owns the paths of the programs of the control plane, which the envtest convention defines.

use std::env;
use std::path::PathBuf;

use crate::repository;

/// A folder with kube-apiserver, etcd and kubectl.
#[derive(Debug, Clone)]
pub struct Assets {
    folder: PathBuf,
}

impl Assets {
    /// `$KUBEBUILDER_ASSETS`, else what `tests/envtest/build.sh` has built; this builds nothing itself.
    ///
    /// # Errors
    /// In one line that there is neither, and how to get them.
    pub fn find() -> Result<Self, String> {
        let given = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let built = repository().join("target/envtest/bin");
        given
            .into_iter()
            .chain([built])
            .find(|folder| ["kube-apiserver", "etcd", "kubectl"].iter().all(|program| folder.join(program).is_file()))
            .map(|folder| Self { folder })
            .ok_or_else(|| {
                "no kube-apiserver, etcd and kubectl; run tests/envtest/build.sh once, or export \
                 KUBEBUILDER_ASSETS=\"$(setup-envtest use -p path)\""
                    .to_owned()
            })
    }

    /// The path of one of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
