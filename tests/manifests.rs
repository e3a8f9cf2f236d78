//! The manifests of deploy/ are what the README says they are, and what they configure is accepted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use okg_sidecar::config::{Config, ObjectRef};
use serde::Deserialize;
use serde_yaml::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// The objects of a file, by kind; a kind stands once in each of ours.
fn objects(path: &Path) -> BTreeMap<String, Value> {
    let text = fs::read_to_string(path).expect("the manifest is there");
    let objects: Vec<Value> = serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).expect("the manifest is YAML"))
        .collect();
    let count = objects.len();
    let by_kind: BTreeMap<String, Value> = objects
        .into_iter()
        .map(|object| (object["kind"].as_str().expect("every object has a kind").to_owned(), object))
        .collect();
    assert_eq!(by_kind.len(), count, "a kind stands twice in {}", path.display());
    by_kind
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("the test's own YAML")
}

/// The config in a ConfigMap, as the sidecar would load it.
fn load(config_map: &Value) -> Config {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let path = folder.path().join("config.yaml");
    fs::write(&path, config_map["data"]["config.yaml"].as_str().expect("it holds a config.yaml")).expect("writable");
    let variable = |name: &str| (name == "POD_NAME" || name == "POD_NAMESPACE").then(|| "gs-0".to_owned());
    Config::load(&path, &variable).expect("the config of a manifest is accepted")
}

/// The containers of a GameServerSet that are ours; exactly one.
fn sidecar(set: &Value) -> &Value {
    let pod = &set["spec"]["gameServerTemplate"]["spec"];
    let mut ours = ["initContainers", "containers"]
        .into_iter()
        .filter_map(|list| pod[list].as_sequence())
        .flatten()
        .filter(|container| container["name"] == "okg-sidecar");
    let container = ours.next().expect("a container okg-sidecar");
    assert!(ours.next().is_none());
    container
}

#[test]
fn the_config_map_is_the_seeds_byte_for_byte() {
    let seed = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/seed-configmap.yaml")).unwrap();
    assert_eq!(fs::read(deploy().join("configmap.yaml")).unwrap(), seed);
    let config = load(&objects(&deploy().join("configmap.yaml"))["ConfigMap"]);
    assert_eq!(config.endpoints[0].policies.len(), 3);
    // Its timeout of 30 s is longer than its interval.
    assert!(
        matches!(config.warnings.as_slice(), [one] if one.contains("the timeouts add up")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn the_role_may_patch_game_servers_and_nothing_else() {
    let objects = objects(&deploy().join("rbac.yaml"));
    assert_eq!(objects.keys().collect::<Vec<_>>(), ["Role", "RoleBinding", "ServiceAccount"]);
    assert_eq!(
        objects["Role"]["rules"],
        yaml("[{apiGroups: [game.kruise.io], resources: [gameservers], verbs: [patch]}]")
    );
    let binding = &objects["RoleBinding"];
    assert_eq!(binding["roleRef"]["name"], objects["Role"]["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], objects["ServiceAccount"]["metadata"]["name"]);
    for object in objects.values() {
        assert_eq!(object["metadata"]["namespace"], "sidecar");
    }
}

#[test]
fn both_game_server_sets_run_the_sidecar_as_the_readme_says() {
    let plain = objects(&deploy().join("gameserverset.yaml")).remove("GameServerSet").unwrap();
    let native = objects(&deploy().join("gameserverset-native-sidecar.yaml")).remove("GameServerSet").unwrap();
    for set in [&plain, &native] {
        let pod = &set["spec"]["gameServerTemplate"]["spec"];
        assert_eq!(pod["serviceAccountName"], "okg-sidecar");
        assert_eq!(pod["volumes"], yaml("[{name: sidecar-config, configMap: {name: sidecar-config}}]"));
        let container = sidecar(set);
        assert_eq!(
            container["securityContext"],
            yaml(
                "{runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, readOnlyRootFilesystem: true,
                  allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}"
            )
        );
        assert_eq!(container["resources"], yaml("{requests: {cpu: 1m, memory: 4Mi}, limits: {memory: 16Mi}}"));
        assert_eq!(container.get("env"), None, "the mounted token names the pod");
        assert_eq!(
            container["volumeMounts"],
            yaml("[{name: sidecar-config, mountPath: /opt/sidecar, readOnly: true}]")
        );
    }
    // They differ in where the container stands and in its restartPolicy.
    let without = |set: &Value| {
        let mut set = set.clone();
        let pod = set["spec"]["gameServerTemplate"]["spec"].as_mapping_mut().unwrap();
        pod.remove("initContainers");
        let containers = pod["containers"].as_sequence_mut().unwrap();
        containers.retain(|container| container["name"] != "okg-sidecar");
        set
    };
    assert_eq!(without(&plain), without(&native));
    let mut native_container = sidecar(&native).clone();
    assert_eq!(native_container.as_mapping_mut().unwrap().remove("restartPolicy"), Some("Always".into()));
    assert_eq!(&native_container, sidecar(&plain));
}

#[test]
fn both_game_server_sets_have_the_variables_for_a_token_of_another_kind_as_comments() {
    for file in ["gameserverset.yaml", "gameserverset-native-sidecar.yaml"] {
        let text = fs::read_to_string(deploy().join(file)).unwrap();
        let comment = |line: &str| line.trim_start().strip_prefix("# ").map(str::to_owned);
        let lines = text.lines().map(comment).skip_while(|line| line.as_deref() != Some("env:"));
        let uncommented: Vec<String> = lines.map_while(|line| line).collect();
        assert_eq!(
            yaml(&uncommented.join("\n")),
            yaml(
                "env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}},
                       {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}},
                       {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]"
            ),
            "{file}"
        );
    }
}

#[test]
fn the_kustomizations_name_files_that_are_there() {
    for folder in [deploy(), deploy().join("kruise-podprobe")] {
        let kustomization = objects(&folder.join("kustomization.yaml")).remove("Kustomization").unwrap();
        for resource in kustomization["resources"].as_sequence().unwrap() {
            assert!(!objects(&folder.join(resource.as_str().unwrap())).is_empty(), "{resource:?}");
        }
    }
}

#[test]
fn the_game_server_set_with_service_qualities_has_the_same_container_with_one_variable() {
    let folder = deploy().join("kruise-podprobe");
    let set = objects(&folder.join("gameserverset.yaml")).remove("GameServerSet").unwrap();
    let container = sidecar(&set);
    let field = "metadata.annotations['kruise.io/podprobe']";
    assert_eq!(
        container["env"],
        yaml(&format!("[{{name: KRUISE_PODPROBE, valueFrom: {{fieldRef: {{fieldPath: \"{field}\"}}}}}}]"))
    );
    assert_eq!(container.get("volumeMounts"), None, "a config file beside it ends the start");
    let plain = objects(&deploy().join("gameserverset.yaml")).remove("GameServerSet").unwrap();
    for key in ["image", "securityContext", "resources"] {
        assert_eq!(container[key], sidecar(&plain)[key], "{key}");
    }
    // Every probe is of a kind that a sidecar can run, in a container that is there.
    let pod = &set["spec"]["gameServerTemplate"]["spec"];
    for quality in set["spec"]["serviceQualities"].as_sequence().unwrap() {
        let action = quality.get("httpGet").or(quality.get("tcpSocket")).expect("httpGet or tcpSocket");
        assert!(action["port"].is_u64(), "{quality:?}");
        let containers = pod["containers"].as_sequence().unwrap();
        assert!(containers.iter().any(|container| container["name"] == quality["containerName"]), "{quality:?}");
    }

    let rbac = objects(&folder.join("rbac.yaml"));
    assert_eq!(rbac["Role"]["rules"], yaml("[{apiGroups: [''], resources: [pods/status], verbs: [patch]}]"));
    for name in [&rbac["RoleBinding"]["subjects"][0]["name"], &rbac["ServiceAccount"]["metadata"]["name"]] {
        assert_eq!(name, &pod["serviceAccountName"]);
    }
    assert_eq!(rbac["RoleBinding"]["roleRef"]["name"], rbac["Role"]["metadata"]["name"]);
}

#[test]
fn every_example_is_accepted_and_brings_the_rules_that_it_needs() {
    let mut seen = 0;
    for entry in fs::read_dir(deploy().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let objects = objects(&path);
        let config = load(&objects["ConfigMap"]);
        assert!(config.warnings.is_empty(), "{}: {:?}", path.display(), config.warnings);
        let needs_more = config.endpoints.iter().any(|endpoint| {
            let set = endpoint.policies.iter().flat_map(|policy| &policy.sets).map(|(field, _)| field);
            set.chain(&endpoint.result_fields).any(|field| field.object != ObjectRef::GameServer)
        });
        assert_eq!(objects.contains_key("Role"), needs_more, "{}", path.display());
        if let Some(role) = objects.get("Role") {
            assert_eq!(objects["RoleBinding"]["roleRef"]["name"], role["metadata"]["name"], "{}", path.display());
            assert_eq!(objects["RoleBinding"]["subjects"][0]["name"], "okg-sidecar", "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} examples");
}
