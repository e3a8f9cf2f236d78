//! Owns what the cases take from deploy/, each in a namespace of its own: the tank-war example with the component that
//! adds the sidecar, as kustomize makes it.

use std::fs;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::place::NODE;
use stand_ins::control_plane::manifest;
use stand_ins::repository;

/// The sidecar's container.
pub(crate) const SIDECAR: &str = "okg-sidecar";

/// The game's container.
pub(crate) const GAME: &str = "tank-war";

/// The volume with the file that the game serves.
pub(crate) const STATE: &str = "state";

/// The volume with the sidecar's token.
pub(crate) const TOKEN: &str = "okg-sidecar-token";

/// A way to run the sidecar that deploy/ shows.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// An ordinary container.
    Container,
    /// An init container that goes on running.
    NativeSidecar,
    /// An ordinary container that runs Kruise's probes.
    KruisePodprobe,
}

impl Shape {
    /// What a kustomization names, below deploy/.
    fn parts(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Container => (&["examples/tank-war"], &[]),
            Self::NativeSidecar => (
                &[".", "examples/tank-war/namespace.yaml", "examples/tank-war/gameserverset.yaml"],
                &["components/native-sidecar"],
            ),
            Self::KruisePodprobe => (&["examples/kruise-podprobe"], &[]),
        }
    }

    /// The objects for this namespace, with the images of this test.
    pub(crate) fn objects(self, cluster: &Cluster, namespace: &str) -> Vec<Value> {
        let (resources, components) = self.parts();
        let folder = cluster.place().path("kustomize").join(namespace);
        // Kustomize takes no absolute path.
        let up = "../".repeat(folder.components().count() - 1);
        let deploy = repository().join("deploy").display().to_string();
        let paths =
            |parts: &[&str]| parts.iter().map(|part| format!("{up}{}/{part}", &deploy[1..])).collect::<Vec<_>>();
        let images = [json!({"name": "okg-sidecar", "newTag": "test"}), json!({"name": "busybox", "newTag": "test"})];
        let kustomization = json!({
            "namespace": namespace,
            "resources": paths(resources),
            "components": paths(components),
            "images": images,
        });
        fs::create_dir_all(&folder).expect("the folder is writable");
        fs::write(folder.join("kustomization.yaml"), kustomization.to_string()).expect("the folder is writable");
        let folder = folder.display().to_string();
        let output = cluster.kubectl(namespace, &["kustomize", "--load-restrictor=LoadRestrictionsNone", &folder]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut objects = manifest::objects(&String::from_utf8_lossy(&output.stdout));
        // The cluster has had them since its start.
        objects.retain(|object| !manifest::is_of_a_policy(object));
        objects
    }
}

/// The object of this kind.
pub(crate) fn of_kind<'a>(objects: &'a mut [Value], kind: &str) -> &'a mut Value {
    objects.iter_mut().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}

/// The first Pod that OpenKruiseGame makes of a GameServerSet, bound to the node.
pub(crate) fn pod(set: &Value) -> Value {
    let template = &set["spec"]["gameServerTemplate"];
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    pod["metadata"]["name"] = "tank-war-0".into();
    pod["spec"]["nodeName"] = NODE.into();
    pod
}
