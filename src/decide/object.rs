//! Owns which objects are written: the pod's own GameServer, the Pod, its status, and targets, each by its path at the API
//! server.

use crate::config::{ObjectRef, Target};

/// An object that is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// What it is to the sidecar.
    pub kind: Kind,
    /// Its path at the API server.
    pub path: String,
}

impl Object {
    /// Its namespace, its API group, and its resource with the subresource, as RBAC names them.
    pub fn rbac(&self) -> (&str, &str, String) {
        let mut parts = self.path.split('/').skip(1);
        let group = if parts.next() == Some("apis") { parts.next().unwrap_or_default() } else { "" };
        // Between them stand the version and the word `namespaces`, between resource and subresource the name.
        let namespace = parts.nth(2).unwrap_or_default();
        (namespace, group, parts.step_by(2).collect::<Vec<_>>().join("/"))
    }

    /// What logs call it.
    pub fn name(&self) -> &str {
        match self.kind {
            Kind::GameServer => "GameServer",
            Kind::PodStatus => "Pod condition",
            Kind::Pod => "Pod",
            Kind::Target => &self.path,
        }
    }

    /// Whether it is a GameServer, the pod's own or another.
    pub fn is_game_server(&self) -> bool {
        self.path.starts_with("/apis/game.kruise.io/") && self.path.contains("/gameservers/")
    }
}

/// A value for each of a few objects. A map would take 18 KB more of the binary.
#[derive(Debug, Default)]
pub struct ByObject<T>(Vec<(Object, T)>);

impl<T: Default> ByObject<T> {
    /// The value of an object.
    pub fn get(&self, object: &Object) -> Option<&T> {
        self.0.iter().find_map(|(known, value)| (known == object).then_some(value))
    }

    /// The value of an object, the default where there was none.
    pub fn entry(&mut self, object: &Object) -> &mut T {
        let at = self.0.iter().position(|(known, _)| known == object).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push((object.clone(), T::default()));
        }
        &mut self.0[at].1
    }

    /// Every object and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&Object, &T)> {
        self.0.iter().map(|(object, value)| (object, value))
    }

    /// Every object and its value, which may be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Object, &mut T)> {
        self.0.iter_mut().map(|(object, value)| (&*object, value))
    }

    /// Keeps those that `keep` says.
    pub fn retain(&mut self, keep: impl Fn(&Object, &T) -> bool) {
        self.0.retain(|(object, value)| keep(object, value));
    }
}

/// What an object is to the sidecar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The pod's own GameServer, which others write, too.
    #[default]
    GameServer,
    /// The conditions in the pod's status, which are fields by their types.
    PodStatus,
    /// The pod itself.
    Pod,
    /// Any other object.
    Target,
}

/// The pod that the sidecar runs in, which names the objects that it writes (behaviour 4.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The pod's namespace.
    pub namespace: String,
    /// The name of the pod and of its GameServer.
    pub name: String,
    /// The pod's uid, where anything tells it.
    pub uid: Option<String>,
    /// When the token was issued that the process read at its start, in seconds since the Unix epoch.
    pub token_issued_at: Option<u64>,
}

impl Identity {
    /// The pod's own GameServer.
    pub fn game_server(&self) -> Object {
        self.object("game.kruise.io", "v1alpha1", &self.namespace, "gameservers", &self.name)
    }

    /// The pod.
    pub fn pod(&self) -> Object {
        self.object("", "v1", &self.namespace, "pods", &self.name)
    }

    /// The conditions of the pod.
    pub fn pod_status(&self) -> Object {
        Object { kind: Kind::PodStatus, path: format!("{}/status", self.pod().path) }
    }

    /// The object that is meant; a target may turn out to be the pod or its GameServer.
    pub fn object_of(&self, reference: &ObjectRef) -> Object {
        match reference {
            ObjectRef::GameServer => self.game_server(),
            ObjectRef::Pod => self.pod(),
            ObjectRef::Target(Target { group, version, resource, namespace, name }) => {
                self.object(group, version, namespace.as_ref().unwrap_or(&self.namespace), resource, name)
            }
        }
    }

    fn object(&self, group: &str, version: &str, namespace: &str, resource: &str, name: &str) -> Object {
        let own = namespace == self.namespace && name == self.name;
        // Another version of the same object has another path, and so is another target.
        let kind = match (group, version, resource) {
            ("game.kruise.io", "v1alpha1", "gameservers") if own => Kind::GameServer,
            ("", "v1", "pods") if own => Kind::Pod,
            _ => Kind::Target,
        };
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        Object { kind, path: format!("{root}/namespaces/{namespace}/{resource}/{name}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_its_place_in_rbac() {
        let identity = Identity { namespace: "games".into(), name: "gs-0".into(), uid: None, token_issued_at: None };
        let target = ObjectRef::Target(Target {
            group: "apps".into(),
            version: "v1".into(),
            resource: "deployments".into(),
            namespace: Some("other".into()),
            name: "d".into(),
        });
        for (object, place) in [
            (identity.game_server(), ("games", "game.kruise.io", "gameservers")),
            (identity.pod(), ("games", "", "pods")),
            (identity.pod_status(), ("games", "", "pods/status")),
            (identity.object_of(&target), ("other", "apps", "deployments")),
        ] {
            let (namespace, group, resource) = object.rbac();
            assert_eq!((namespace, group, resource.as_str()), place, "{object:?}");
        }
    }

    #[test]
    fn another_version_of_the_own_game_server_is_a_target_like_another() {
        let identity = Identity { namespace: "games".into(), name: "gs-0".into(), uid: None, token_issued_at: None };
        let object = |version: &str| {
            identity.object_of(&ObjectRef::Target(Target {
                group: "game.kruise.io".into(),
                version: version.into(),
                resource: "gameservers".into(),
                namespace: None,
                name: "gs-0".into(),
            }))
        };
        assert_eq!(object("v1alpha1"), identity.game_server());
        assert_eq!(object("v1beta1").kind, Kind::Target);
    }
}
