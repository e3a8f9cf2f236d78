//! Owns what the cases take from deploy/, each in a namespace of its own: a GameServerSet with the sidecar, as kustomize or
//! OpenKruise's SidecarSet adds it.

use measure::pods::container;
use serde_json::{Value, json};
use stand_ins::control_plane::{kustomize, manifest, stage};

/// The sidecar's container.
pub(crate) const SIDECAR: &str = "okg-sidecar";
/// The game's container.
pub(crate) const GAME: &str = "tank-war";
/// The volume with the file that the game serves.
pub(crate) const STATE: &str = "state";
/// The volume with the sidecar's token.
pub(crate) const TOKEN: &str = "okg-sidecar-token";

/// A way to run the sidecar that deploy/ shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// An ordinary container.
    Container,
    /// An init container that goes on running.
    NativeSidecar,
    /// An ordinary container that OpenKruise injects.
    SidecarSet,
    /// An ordinary container that runs Kruise's probes.
    KruisePodprobe,
}

impl Shape {
    /// What a kustomization names, below deploy/.
    fn parts(self) -> (&'static [&'static str], &'static [&'static str]) {
        const ALONE: &[&str] = &[".", "examples/tank-war/namespace.yaml", "examples/tank-war/gameserverset.yaml"];
        match self {
            Self::Container => (&["examples/tank-war"], &[]),
            Self::NativeSidecar => (ALONE, &["components/native-sidecar"]),
            Self::SidecarSet => {
                (&[".", "examples/tank-war/namespace.yaml", "examples/tank-war/gameserverset.yaml", "sidecarset"], &[])
            }
            Self::KruisePodprobe => (&["examples/kruise-podprobe"], &[]),
        }
    }

    /// The objects in this namespace.
    pub(crate) fn objects(self, namespace: &str) -> Vec<Value> {
        let (resources, components) = self.parts();
        let paths = |parts: &[&str]| parts.iter().map(|part| format!("okg-sidecar/deploy/{part}")).collect::<Vec<_>>();
        let kustomization = json!({
            "namespace": namespace, "resources": paths(resources), "components": paths(components),
        });
        let mut objects = kustomize::build_of_user(&[("kustomization.yaml", &kustomization.to_string())])
            .unwrap_or_else(|why| panic!("{self:?}: {why}"));
        // kustomize does not know that these kinds are in no namespace.
        for object in &mut objects {
            let kind = object["kind"].as_str().unwrap_or_default();
            if kind == "SidecarSet" || kind.starts_with("ValidatingAdmissionPolicy") {
                object["metadata"].as_object_mut().and_then(|metadata| metadata.remove("namespace"));
            }
        }
        objects
    }

    /// The Pod of the GameServerSet among these objects, as OpenKruiseGame, and for a SidecarSet OpenKruise, makes it.
    pub(crate) fn pod(self, objects: &[Value], namespace: &str) -> Value {
        let mut pod = stage::pod_of(manifest::of_kind(objects, "GameServerSet"), namespace, "tank-war-0");
        if let Self::SidecarSet = self {
            let set = &manifest::of_kind(objects, "SidecarSet")["spec"];
            for list in ["containers", "volumes"] {
                let injected = set[list].as_array().expect("a SidecarSet has both").iter().cloned();
                pod["spec"][list].as_array_mut().expect("a pod has both").extend(injected);
            }
            let container = container(&mut pod, SIDECAR).as_object_mut().expect("a container");
            container.retain(|key, _| !["podInjectPolicy", "shareVolumePolicy"].contains(&key.as_str()));
            // The user's own part, as the comment of sidecarset.yaml asks for it.
            pod["spec"]["serviceAccountName"] = "okg-sidecar".into();
            pod["spec"]["automountServiceAccountToken"] = false.into();
        }
        pod
    }
}

/// A variable out of a field of the pod.
pub(crate) fn from_field(name: &str, field: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}})
}
