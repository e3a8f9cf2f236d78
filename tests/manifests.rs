//! The files of deploy/, and what kustomize makes of them. Whether a real API server accepts them is tested in e2e.rs.

use std::fs;
use std::path::Path;

use okg_sidecar::config::{Config, ObjectRef};
use okg_sidecar::decide::object::Identity;
use okg_sidecar::dry_run::rights;
use serde::Deserialize;
use serde_json::{Value, json};
use stand_ins::control_plane::kustomize::{self, build, build_of_user, deploy};
use stand_ins::not_run;

/// The objects of a file of deploy/.
#[track_caller]
fn objects(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(deploy().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{file}: {error}")))
        .collect()
}

/// The one object of this kind.
#[track_caller]
fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

/// The names of the files, relative to deploy/.
fn files() -> Vec<String> {
    let relative = |path: &Path| path.strip_prefix(deploy()).expect("it is in deploy/").display().to_string();
    kustomize::files().iter().map(|path| relative(path)).collect()
}

/// The config in a ConfigMap, as the sidecar would load it.
#[track_caller]
fn load(config_map: &Value) -> Config {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let path = folder.path().join("config.yaml");
    fs::write(&path, config_map["data"]["config.yaml"].as_str().expect("it holds a config.yaml")).expect("writable");
    let variable = |name: &str| match name {
        "POD_NAME" | "POD_NAMESPACE" | "ADMIN_PASSWORD" => Some("gs-0".to_owned()),
        // As every container in deploy/ has it.
        "OKG_SIDECAR_PROBE_HOSTS" => Some("loopback".to_owned()),
        _ => None,
    };
    Config::load(&path, &variable).expect("the config of a manifest is accepted")
}

/// The item of this name in a list of containers or volumes.
#[track_caller]
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().and_then(|list| list.iter().find(|item| item["name"] == name));
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// What the sidecar adds to a pod, by the file that has it.
fn container(file: &str) -> (Value, Value) {
    let objects = objects(file);
    let spec = if file.starts_with("sidecarset") { &objects[0]["spec"] } else { &objects[0]["template"]["spec"] };
    let containers = spec.get("initContainers").unwrap_or(&spec["containers"]);
    assert_eq!(containers.as_array().map(Vec::len), Some(1), "{file}");
    (named(containers, "okg-sidecar").clone(), spec["volumes"].clone())
}

/// Whether there is kubectl. If there is none, the test of this thread is not run.
#[track_caller]
fn kubectl_is_there() -> bool {
    let there = kustomize::kubectl().is_some();
    if !there {
        not_run("kubectl: run tests/envtest/build.sh once, or install it");
    }
    there
}

#[test]
fn every_file_is_tidy_yaml_and_every_object_has_the_recommended_labels() {
    for file in files() {
        let text = fs::read_to_string(deploy().join(&file)).expect("the file is readable");
        assert!(text.ends_with('\n') && !text.contains('\t'), "{file}");
        for (line, text) in text.lines().enumerate() {
            assert_eq!(text.trim_end(), text, "{file}:{}", line + 1);
        }
        for object in objects(&file).iter().filter(|object| !object["metadata"].is_null()) {
            for label in ["app.kubernetes.io/name", "app.kubernetes.io/component"] {
                assert!(object["metadata"]["labels"][label].is_string(), "{file}: {}: {label}", object["kind"]);
            }
        }
    }
}

#[test]
fn every_config_is_accepted_without_a_warning() {
    let mut seen = Vec::new();
    for file in files() {
        for object in objects(&file).iter().filter(|object| object["data"]["config.yaml"].is_string()) {
            assert_eq!(object["metadata"]["name"], "okg-sidecar-config", "{file}");
            let config = load(object);
            assert!(config.warnings.is_empty(), "{file}: {:?}", config.warnings);
            seen.push(file.clone());
        }
    }
    let files = files();
    let of_its_own = |path: &str| path == "config" || files.contains(&format!("{path}/configmap.yaml"));
    let examples = fs::read_dir(deploy().join("examples"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_file() || of_its_own(&format!("examples/{}", entry.file_name().display())));
    assert_eq!(seen.len(), 1 + examples.count(), "{seen:?}");
}

#[test]
fn the_accounts_get_one_right_each_and_no_token_by_themselves() {
    for (file, name, rule) in [
        ("rbac/rbac.yaml", "okg-sidecar", json!({"apiGroups": ["game.kruise.io"], "resources": ["gameservers"]})),
        ("kruise-podprobe/rbac.yaml", "okg-sidecar-podprobe", json!({"apiGroups": [""], "resources": ["pods/status"]})),
    ] {
        let objects = objects(file);
        let (account, role) = (of_kind(&objects, "ServiceAccount"), of_kind(&objects, "Role"));
        let binding = of_kind(&objects, "RoleBinding");
        assert_eq!(objects.len(), 3, "{file}");
        assert_eq!(account["automountServiceAccountToken"], false, "{file}");
        let mut rule = rule;
        rule["verbs"] = json!(["patch"]);
        assert_eq!(role["rules"], json!([rule]), "{file}");
        for found in [&account["metadata"]["name"], &binding["subjects"][0]["name"], &binding["roleRef"]["name"]] {
            assert_eq!(found, name, "{file}");
        }
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"], "{file}");
    }
}

#[test]
fn every_recipe_brings_the_rules_that_it_needs() {
    for file in files().iter().filter(|file| Path::new(file).parent() == Some(Path::new("examples"))) {
        let objects = objects(file);
        let config = load(of_kind(&objects, "ConfigMap"));
        let needs_more = config.endpoints.iter().any(|endpoint| {
            let rules = endpoint.rules();
            let set = rules.policies.iter().flat_map(|policy| &policy.sets).map(|(field, _)| field);
            set.chain(&rules.result_fields).any(|field| field.object != ObjectRef::GameServer)
        });
        if !needs_more {
            assert_eq!(objects.len(), 1, "{file}");
            continue;
        }
        let (role, binding) = (of_kind(&objects, "Role"), of_kind(&objects, "RoleBinding"));
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"], "{file}");
        assert_eq!(binding["subjects"][0]["name"], "okg-sidecar", "{file}");
        // What `check` prints for the admission policy, or a policy for a target.
        let identity = Identity { namespace: "default".into(), name: "gs-0".into(), uid: None, token_issued_at: None };
        let needed = rights(&config, &identity);
        if let Some(namespace) = objects.iter().find(|object| object["kind"] == "Namespace") {
            let list = namespace["metadata"]["annotations"]["okg-sidecar/may-write"].as_str().expect("a list");
            assert!(needed.contains(&format!("  okg-sidecar/may-write: {list}\n")), "{file}: {needed}");
        } else {
            assert!(!needed.contains("okg-sidecar/may-write"), "{file}: {needed}");
            of_kind(&objects, "ValidatingAdmissionPolicyBinding");
        }
    }
}

#[test]
fn the_container_is_the_same_wherever_it_stands() {
    let (plain, volumes) = container("components/sidecar/sidecar.yaml");
    assert_eq!(
        plain["securityContext"],
        json!({"runAsNonRoot": true, "runAsUser": 61729, "runAsGroup": 61729, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    assert_eq!(plain["resources"], json!({"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"memory": "16Mi"}}));
    // The mounted token names the pod, and whoever writes the ConfigMap cannot make it probe elsewhere.
    let hosts = json!({"name": "OKG_SIDECAR_PROBE_HOSTS", "value": "loopback"});
    assert_eq!(plain["env"], json!([hosts]));
    assert_eq!(volumes[0], json!({"name": "okg-sidecar-config", "configMap": {"name": "okg-sidecar-config"}}));
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let token = mount("okg-sidecar-token", "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(plain["volumeMounts"], json!([mount("okg-sidecar-config", "/opt/sidecar"), token]));

    for (file, differs) in [
        ("components/native-sidecar/sidecar.yaml", &["restartPolicy"][..]),
        ("sidecarset/sidecarset.yaml", &["podInjectPolicy", "shareVolumePolicy"]),
        ("kruise-podprobe/component/sidecar.yaml", &["env", "volumeMounts"]),
    ] {
        let (mut other, other_volumes) = container(file);
        let mut same = plain.clone();
        for key in differs {
            assert!(other.as_object_mut().unwrap().remove(*key).is_some(), "{file}: {key}");
            same.as_object_mut().unwrap().remove(*key);
        }
        assert_eq!(other, same, "{file}");
        assert_eq!(named(&other_volumes, "okg-sidecar-token"), &volumes[1], "{file}");
    }
    let (native, native_volumes) = container("components/native-sidecar/sidecar.yaml");
    assert_eq!(native["restartPolicy"], "Always");
    assert_eq!((&native_volumes, &container("sidecarset/sidecarset.yaml").1), (&volumes, &volumes));
    let (podprobe, podprobe_volumes) = container("kruise-podprobe/component/sidecar.yaml");
    let annotation = json!({"fieldRef": {"fieldPath": "metadata.annotations['kruise.io/podprobe']"}});
    assert_eq!(podprobe["env"], json!([{"name": "KRUISE_PODPROBE", "valueFrom": annotation}, hosts]));
    // A config file beside it would end the start.
    assert_eq!((&podprobe["volumeMounts"], &podprobe_volumes), (&json!([token]), &json!([volumes[1]])));
}

#[test]
fn the_volume_of_the_token_holds_the_three_files_of_the_ordinary_one() {
    let (_, volumes) = container("components/sidecar/sidecar.yaml");
    let ca = json!({"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]});
    let namespace = json!({"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]});
    assert_eq!(
        volumes[1]["projected"]["sources"],
        json!([{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}, {"configMap": ca}, {"downwardAPI": namespace}])
    );
}

#[test]
fn every_kustomization_can_be_built_and_gives_the_token_to_the_sidecar_alone() {
    if !kubectl_is_there() {
        return;
    }
    let mut sets = 0;
    for file in files().iter().filter(|file| objects(file)[0]["kind"] == "Kustomization") {
        let folder = deploy().join(file).parent().expect("a file has a folder").to_owned();
        let objects = build(&folder).unwrap_or_else(|why| panic!("{file}: {why}"));
        for set in objects.iter().filter(|object| object["kind"] == "GameServerSet") {
            let pod = &set["spec"]["gameServerTemplate"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false, "{file}");
            for container in pod["containers"].as_array().unwrap() {
                let has_token = container["volumeMounts"].to_string().contains("okg-sidecar-token");
                assert_eq!(has_token, container["name"] == "okg-sidecar", "{file}: {}", container["name"]);
            }
            sets += 1;
        }
        // Whatever grants a right brings the policy that limits it.
        let has = |kind: &str| objects.iter().any(|object| object["kind"] == kind);
        assert!(!has("Role") || has("ValidatingAdmissionPolicyBinding"), "{file}");
        // Neither an image nor memory is needed by what `kubectl apply -k deploy` brings up.
        if file == "kustomization.yaml" {
            let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
            let policy = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
            assert_eq!(kinds, [&["ServiceAccount", "Role", "RoleBinding", "ConfigMap"][..], &policy].concat());
        }
    }
    let games = files().iter().filter(|file| file.ends_with("/gameserverset.yaml")).count();
    assert_eq!(sets, games, "each example with a game, and no other");
    assert!(sets >= 8, "{sets}");
}

/// A user's GameServerSets: with the least that one needs, and with lists and an account of its own.
const OWN_SETS: &str = "
apiVersion: game.kruise.io/v1alpha1
kind: GameServerSet
metadata: {name: bare}
spec:
  replicas: 1
  gameServerTemplate:
    spec:
      containers: [{name: game, image: 'game:1'}]
---
apiVersion: game.kruise.io/v1alpha1
kind: GameServerSet
metadata: {name: full}
spec:
  replicas: 1
  gameServerTemplate:
    metadata: {labels: {app: full}}
    spec:
      serviceAccountName: full
      automountServiceAccountToken: true
      initContainers: [{name: prepare, image: 'prepare:1'}]
      containers:
        - {name: game, image: 'game:1', volumeMounts: [{name: data, mountPath: /data}]}
        - {name: logs, image: 'logs:1'}
      volumes: [{name: data, emptyDir: {}}, {name: more, configMap: {name: more}}]
";

/// The pod of a built GameServerSet, the first whose name ends so.
#[track_caller]
fn pod_of<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    let is_it = |object: &&Value| {
        object["kind"] == "GameServerSet"
            && object["metadata"]["name"].as_str().is_some_and(|found| found.ends_with(name))
    };
    &objects.iter().find(is_it).expect("the set is there")["spec"]["gameServerTemplate"]["spec"]
}

/// The names in a list.
fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|item| item["name"].as_str()).collect()
}

#[test]
fn a_component_adds_the_sidecar_to_any_game_server_set_and_keeps_what_it_has() {
    if !kubectl_is_there() {
        return;
    }
    let both = &["okg-sidecar-config", "okg-sidecar-token"][..];
    for (component, account, init, added) in [
        ("components/sidecar", "okg-sidecar", false, both),
        ("components/native-sidecar", "okg-sidecar", true, both),
        ("kruise-podprobe/component", "okg-sidecar-podprobe", false, &both[1..]),
    ] {
        let kustomization = format!("resources: [sets.yaml]\ncomponents: [okg-sidecar/deploy/{component}]\n");
        let files = [("kustomization.yaml", kustomization.as_str()), ("sets.yaml", OWN_SETS)];
        let objects = build_of_user(&files).unwrap_or_else(|why| panic!("{component}: {why}"));
        assert_eq!(objects.len(), 2, "{component}: nothing but the sets reaches the cluster");
        let (expected, volumes) = container(&format!("{component}/sidecar.yaml"));
        for (set, containers, inits, own) in
            [("bare", &["game"][..], &[][..], &[][..]), ("full", &["game", "logs"], &["prepare"], &["data", "more"])]
        {
            let pod = pod_of(&objects, set);
            let sidecar = ["okg-sidecar"];
            let (in_containers, in_inits) = if init { (&[][..], &sidecar[..]) } else { (&sidecar[..], &[][..]) };
            assert_eq!(names(&pod["containers"]), [containers, in_containers].concat(), "{component}, {set}");
            assert_eq!(names(&pod["initContainers"]), [inits, in_inits].concat(), "{component}, {set}");
            assert_eq!(names(&pod["volumes"]), [own, added].concat(), "{component}, {set}");
            let list = if init { "initContainers" } else { "containers" };
            assert_eq!(named(&pod[list], "okg-sidecar"), &expected, "{component}, {set}");
            for name in added {
                assert_eq!(named(&pod["volumes"], name), named(&volumes, name), "{component}, {set}");
            }
            assert_eq!(pod["serviceAccountName"], account, "{component}, {set}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{component}, {set}");
        }
        let data = &named(&pod_of(&objects, "full")["containers"], "game")["volumeMounts"];
        assert_eq!(data, &json!([{"name": "data", "mountPath": "/data"}]), "{component}");
    }
}

/// The objects of a user who has a namespace, a prefix, an image and a config, with these resources and components of ours.
#[track_caller]
fn of_user(ours: &str, more: &str) -> Vec<Value> {
    let kustomization = format!(
        "namespace: games
namePrefix: dev-
images: [{{name: okg-sidecar, newName: registry.example.com/okg-sidecar, newTag: 0.2.1}}]
configMapGenerator: [{{name: okg-sidecar-config, files: [config.yaml]}}]
{ours}
{more}"
    );
    let files =
        [("kustomization.yaml", kustomization.as_str()), ("sets.yaml", OWN_SETS), ("config.yaml", "plugins: []")];
    let objects = build_of_user(&files).unwrap_or_else(|why| panic!("{ours}: {why}"));
    for object in &objects {
        let name = object["metadata"]["name"].as_str().expect("an object has a name");
        assert!(name.starts_with("dev-"), "{ours}: {name}");
        assert_eq!(object["metadata"]["namespace"], "games", "{ours}: {name}");
    }
    objects
}

const OWN_IMAGE: &str = "registry.example.com/okg-sidecar:0.2.1";

#[test]
fn a_users_image_namespace_prefix_and_config_reach_what_a_component_adds() {
    if !kubectl_is_there() {
        return;
    }
    for (component, rbac, list) in [
        ("components/sidecar", "rbac", "containers"),
        ("components/native-sidecar", "rbac", "initContainers"),
        ("kruise-podprobe/component", "kruise-podprobe", "containers"),
    ] {
        let ours =
            format!("resources: [okg-sidecar/deploy/{rbac}, sets.yaml]\ncomponents: [okg-sidecar/deploy/{component}]");
        let objects = of_user(&ours, "");
        let account = &of_kind(&objects, "ServiceAccount")["metadata"]["name"];
        let config = &of_kind(&objects, "ConfigMap")["metadata"]["name"];
        assert!(config.as_str().is_some_and(|name| name.len() > "dev-okg-sidecar-config".len()), "no hash: {config}");
        for set in ["bare", "full"] {
            let pod = pod_of(&objects, set);
            assert_eq!(named(&pod[list], "okg-sidecar")["image"], OWN_IMAGE, "{component}, {set}");
            assert_eq!(&pod["serviceAccountName"], account, "{component}, {set}");
            let sources = &named(&pod["volumes"], "okg-sidecar-token")["projected"]["sources"];
            assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt", "Kubernetes' own: {component}, {set}");
            if rbac == "rbac" {
                let volume = named(&pod["volumes"], "okg-sidecar-config");
                assert_eq!(&volume["configMap"]["name"], config, "{component}, {set}");
            }
        }
        let binding = of_kind(&objects, "RoleBinding");
        assert_eq!(binding["roleRef"]["name"], of_kind(&objects, "Role")["metadata"]["name"], "{component}");
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": account, "namespace": "games"}]),
            "{component}"
        );

        // A patch of the same kustomization has the last word.
        let patch =
            json!([{"op": "replace", "path": "/spec/gameServerTemplate/spec/serviceAccountName", "value": "own"}]);
        let more = format!("patches: [{{target: {{kind: GameServerSet, name: full}}, patch: '{patch}'}}]");
        let patched = of_user(&ours, &more);
        assert_eq!(pod_of(&patched, "full")["serviceAccountName"], "own", "{component}");
        assert_eq!(&pod_of(&patched, "bare")["serviceAccountName"], account, "{component}");
    }
}

#[test]
fn the_kustomization_in_the_components_comment_can_be_built_as_it_is_written() {
    if !kubectl_is_there() {
        return;
    }
    let text = fs::read_to_string(deploy().join("components/sidecar/kustomization.yaml")).unwrap();
    let kustomization: String =
        text.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    let files =
        [("kustomization.yaml", kustomization.as_str()), ("gameserverset.yaml", OWN_SETS), ("config.yaml", "a: b")];
    let objects = build_of_user(&files).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(objects.len(), 5 + 1 + 2, "the account with its rights and their policy, the config, the sets");
    // No hash: a changed config reaches running pods.
    assert_eq!(of_kind(&objects, "ConfigMap")["metadata"]["name"], "okg-sidecar-config");
    let image = &named(&pod_of(&objects, "bare")["containers"], "okg-sidecar")["image"];
    assert_eq!(image, "registry.example.com/okg-sidecar:0.2.0");
}

#[test]
fn a_users_image_prefix_and_config_reach_the_sidecar_set_and_the_prefix_reaches_what_names_it() {
    if !kubectl_is_there() {
        return;
    }
    let own = "
apiVersion: v1
kind: Namespace
metadata: {name: games, labels: {okg-sidecar/sidecarset: okg-sidecar}}
---
apiVersion: game.kruise.io/v1alpha1
kind: GameServerSet
metadata: {name: injected}
spec: {replicas: 1, gameServerTemplate: {spec: {serviceAccountName: okg-sidecar, containers: [{name: game, image: 'game:1'}]}}}
";
    let kustomization = "namespace: games
namePrefix: dev-
images: [{name: okg-sidecar, newName: registry.example.com/okg-sidecar, newTag: 0.2.1}]
configMapGenerator: [{name: okg-sidecar-config, literals: [config.yaml=x]}]
resources: [okg-sidecar/deploy/rbac, okg-sidecar/deploy/sidecarset, own.yaml]
";
    let objects = build_of_user(&[("kustomization.yaml", kustomization), ("own.yaml", own)]).unwrap();
    let (set, config) = (of_kind(&objects, "SidecarSet"), &of_kind(&objects, "ConfigMap")["metadata"]["name"]);
    assert_eq!(set["spec"]["containers"][0]["image"], OWN_IMAGE);
    assert_eq!(&named(&set["spec"]["volumes"], "okg-sidecar-config")["configMap"]["name"], config);
    // A second namespace takes it from nobody: it has no namespace, and a label names it.
    assert_eq!(set["spec"].get("namespace"), None);
    let label = &set["spec"]["namespaceSelector"]["matchLabels"]["okg-sidecar/sidecarset"];
    let of_namespace = &of_kind(&objects, "Namespace")["metadata"]["labels"]["okg-sidecar/sidecarset"];
    assert_eq!((label, of_namespace), (&json!("dev-okg-sidecar"), &json!("dev-okg-sidecar")));
    assert_eq!(set["metadata"]["name"], "dev-okg-sidecar");
    assert_eq!(pod_of(&objects, "injected")["serviceAccountName"], "dev-okg-sidecar");
}

#[test]
fn whatever_name_kustomize_gives_the_account_the_policy_and_the_pods_find_it() {
    if !kubectl_is_there() {
        return;
    }
    // Which names the policies apply to is tried at a real API server.
    for (name, prefix, suffix) in [
        ("namePrefix: dev-", "dev-", ""),
        ("nameSuffix: -eu", "", "-eu"),
        ("{namePrefix: dev-, nameSuffix: -eu}", "dev-", "-eu"),
    ] {
        for (rbac, component, account) in [
            ("rbac", "components/sidecar", "okg-sidecar"),
            ("rbac", "components/native-sidecar", "okg-sidecar"),
            ("kruise-podprobe", "kruise-podprobe/component", "okg-sidecar-podprobe"),
        ] {
            let mut kustomization: Value = serde_yaml::from_str(name).expect("it is a map");
            kustomization["resources"] = json!([format!("okg-sidecar/deploy/{rbac}"), "sets.yaml"]);
            kustomization["components"] = json!([format!("okg-sidecar/deploy/{component}")]);
            let files = [("kustomization.yaml", kustomization.to_string()), ("sets.yaml", OWN_SETS.to_owned())];
            let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            let objects = build_of_user(&files).unwrap_or_else(|why| panic!("{name}, {component}: {why}"));
            let renamed = format!("{prefix}{account}{suffix}");
            assert_eq!(of_kind(&objects, "ServiceAccount")["metadata"]["name"], renamed.as_str());
            assert_eq!(of_kind(&objects, "RoleBinding")["subjects"][0]["name"], renamed.as_str());
            assert_eq!(pod_of(&objects, &format!("bare{suffix}"))["serviceAccountName"], renamed.as_str());
            let policy = of_kind(&objects, "ValidatingAdmissionPolicy");
            assert_eq!(
                of_kind(&objects, "ValidatingAdmissionPolicyBinding")["spec"]["policyName"],
                policy["metadata"]["name"],
                "{name}, {component}"
            );
            let conditions = policy["spec"]["matchConditions"].to_string();
            assert!(conditions.contains(&format!("[^:]*{account}')")), "{conditions}");
        }
    }
}

#[test]
fn a_patch_of_an_overlay_leaves_a_boolean_a_boolean() {
    if !kubectl_is_there() {
        return;
    }
    for component in ["components/sidecar", "components/native-sidecar", "kruise-podprobe/component"] {
        let base = format!("resources: [sets.yaml]\ncomponents: [../okg-sidecar/deploy/{component}]\n");
        let patch =
            "{apiVersion: game.kruise.io/v1alpha1, kind: GameServerSet, metadata: {name: bare}, spec: {replicas: 5}}";
        let overlay = json!({"resources": ["base"], "patches": [{"patch": patch}]}).to_string();
        let files = [
            ("kustomization.yaml", overlay.as_str()),
            ("base/kustomization.yaml", &base),
            ("base/sets.yaml", OWN_SETS),
        ];
        let objects = build_of_user(&files).unwrap_or_else(|why| panic!("{component}: {why}"));
        let set = objects.iter().find(|object| object["metadata"]["name"] == "bare").expect("the set is there");
        assert_eq!(set["spec"]["replicas"], 5);
        assert_eq!(pod_of(&objects, "bare")["automountServiceAccountToken"], false, "{component}");
    }
}

#[test]
fn the_service_qualities_of_the_example_are_such_as_a_sidecar_can_run() {
    let objects = objects("examples/kruise-podprobe/gameserverset.yaml");
    let set = &of_kind(&objects, "GameServerSet")["spec"];
    let containers = &set["gameServerTemplate"]["spec"]["containers"];
    let qualities = set["serviceQualities"].as_array().unwrap();
    assert_eq!(qualities.len(), 2);
    for quality in qualities {
        let action = quality.get("httpGet").or(quality.get("tcpSocket")).expect("httpGet or tcpSocket");
        assert!(action["port"].is_u64(), "{quality}");
        named(containers, quality["containerName"].as_str().unwrap());
    }
    // The game is that of tank-war.
    let tank_war = self::objects("examples/tank-war/gameserverset.yaml");
    assert_eq!(tank_war[0]["spec"]["gameServerTemplate"], set["gameServerTemplate"]);
}

#[test]
fn the_commands_in_the_comments_name_what_the_kustomization_makes() {
    for folder in files().iter().filter_map(|file| file.strip_suffix("/gameserverset.yaml")) {
        let file = format!("{folder}/kustomization.yaml");
        let text = fs::read_to_string(deploy().join(&file)).unwrap();
        let namespace = objects(&file)[0]["namespace"].as_str().unwrap().to_owned();
        let sets = objects(&format!("{folder}/gameserverset.yaml"));
        let containers = &sets[0]["spec"]["gameServerTemplate"]["spec"]["containers"];
        let mut seen = 0;
        for line in text.lines().filter_map(|line| line.strip_prefix("#   kubectl ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
            match after("-n").or(after("namespace")) {
                Some(named) => assert_eq!(named, namespace, "{line}"),
                None => assert_eq!(after("-k"), Some(format!("deploy/{folder}").as_str()), "{line}"),
            }
            if let Some(name) = after("-c").filter(|name| *name != "okg-sidecar") {
                let mounts = &named(containers, name)["volumeMounts"];
                // A file that the command writes or runs is on a volume of the container.
                let paths = words.iter().filter_map(|word| word.trim_start_matches(['>', '\'']).strip_prefix('/'));
                for path in paths.filter(|path| *path != "dev/null") {
                    let volume = format!("\"/{}\"", path.split('/').next().unwrap_or_default());
                    assert!(mounts.to_string().contains(&volume), "{line}");
                }
            }
            if let Some(pod) =
                words.iter().find(|word| word.rsplit_once('-').is_some_and(|(_, n)| n == "1" || n == "0"))
            {
                let set = sets[0]["metadata"]["name"].as_str().unwrap();
                assert_eq!(pod.rsplit_once('-').map(|(name, _)| name), Some(set), "{line}");
            }
            seen += 1;
        }
        assert!(seen >= 3, "{file}: {seen} commands");
    }
}
