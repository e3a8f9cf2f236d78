//! Owns what the measuring programs of both kinds of nodes read out of a Pod and change in it.

use serde_json::Value;

/// The container of this name.
pub fn container<'a>(pod: &'a mut Value, name: &str) -> &'a mut Value {
    let spec = pod["spec"].as_object_mut().expect("a pod has a spec");
    spec.iter_mut()
        .filter(|(key, _)| ["containers", "initContainers"].contains(&key.as_str()))
        .filter_map(|(_, containers)| containers.as_array_mut())
        .flatten()
        .find(|container| container["name"] == name)
        .unwrap_or_else(|| panic!("there is no container {name}"))
}

/// The volume of this name.
pub fn volume<'a>(pod: &'a mut Value, name: &str) -> &'a mut Value {
    let volumes = pod["spec"]["volumes"].as_array_mut().expect("a pod has volumes");
    volumes.iter_mut().find(|volume| volume["name"] == name).unwrap_or_else(|| panic!("there is no volume {name}"))
}

/// The status of a container of this Pod, as kubelet or a provider writes it.
pub fn container_status(pod: &Value, container: &str) -> Value {
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|key| pod["status"][key].as_array())
        .flatten()
        .find(|status| status["name"] == container)
        .cloned()
        .unwrap_or_default()
}

/// The shipped config with a probe each second, from the start on.
pub fn quick(config: &str) -> String {
    let quick = config
        .replace("startDelaySeconds: 10 ", "startDelaySeconds: 0 ")
        .replace("probeIntervalSeconds: 5 ", "probeIntervalSeconds: 1 ");
    assert_eq!(quick.len() + 1, config.len(), "the shipped config has other times");
    quick
}
