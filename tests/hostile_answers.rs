//! What the API server answers is bounded where it is picked (behaviour 4.10): by whom it was put there, into which field, and in
//! whatever shape.

use serde_json::json;
use stand_ins::api_server::{Fault, Which};
use stand_ins::scene::{Scene, config};
use stand_ins::{SOON, side_by_side};

/// Nearly all that is read of an answer.
const NEARLY_ALL: usize = (2 << 20) - 4096;

/// What an answer of any shape may add to the process at its highest, which has 2 MiB at most before.
const MOST_KIB: u64 = 512;

/// An answer of nearly 2 MiB with this in its metadata and spec, where `%` stands for as much of `fill` as fits.
fn answer(metadata: &str, spec: &str, fill: &str) -> Fault {
    let object = format!(r#"{{"metadata":{{"name":"gs-0",{metadata}"resourceVersion":"7"}},"spec":{spec}}}"#);
    let many = fill.repeat((NEARLY_ALL - object.len()) / fill.len());
    let body = object.replace('%', &many);
    Fault::Raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

#[test]
fn an_answer_of_two_mebibytes_of_any_shape_stays_within_its_bound_of_memory() {
    let refusal = |body: String| {
        Fault::Raw(format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
    };
    let cases = [
        ("a record of lists", answer(r#""annotations":{"okg-sidecar/decided":"{\"a\":[[0]%]}"},"#, "{}", ",[0]")),
        ("a record of escapes", answer(r#""annotations":{"okg-sidecar/decided-1":"%"},"#, "{}", r"\u0041")),
        ("a key", answer(r#""annotations":{"okg-sidecar/decided-%":"1"},"#, "{}", "1")),
        ("a key elsewhere", answer(r#""%":1,"#, "{}", "é")),
        ("owners", answer(r#""ownerReferences":[{}%],"#, "{}", r#",{"kind":"Pod"}"#)),
        ("a uid", answer(r#""ownerReferences":[{"kind":"Pod","uid":"%"}],"#, "{}", "x")),
        (
            "managers",
            answer(
                r#""managedFields":[{}%],"#,
                "{}",
                r#",{"manager":"somebody","fieldsV1":{"f:spec":{"f:opsState":{}}}}"#,
            ),
        ),
        ("a field that is a list", answer("", r#"{"opsState":[[0]%]}"#, ",[0]")),
        ("a field that is a map", answer("", r#"{"opsState":{"":0%}}"#, r#","a":{}"#)),
        ("a long field", answer("", r#"{"opsState":"%"}"#, "x")),
        ("a number", answer("", r#"{"opsState":1%}"#, "1")),
        ("depth", answer("", r#"{"x":%}"#, "[")),
        (
            "a refusal of lists",
            refusal(format!(r#"{{"message":"no","details":{{"causes":[[0]{}]}}}}"#, ",[0]".repeat(16_000))),
        ),
        ("a refusal of depth", refusal(format!(r#"{{"details":{}"#, "[".repeat(64_000)))),
    ];
    side_by_side(&cases, |(case, fault)| {
        let scene = Scene::new();
        // The whole object is read.
        let rooms =
            ["None", "Allocated"].map(|state| format!("{{state: {state}, gameServerOpsState: {state}}}")).join(", ");
        let rules = format!("markerPolices: [{rooms}], protectedOpsStates: [Maintaining]");
        scene.pod.update_config(&config(&[scene.endpoint("timeout: 20", &rules)]));
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        let before = sidecar.vm_hwm_kib();
        scene.api.next_of(&Which::reads(), [fault.clone()]);
        scene.game.set(200, "Allocated");
        sidecar.eventually(SOON * 2, "the new state", || scene.ops_state() == "Allocated");
        assert_eq!(scene.record()["opsState"], json!("Allocated"), "{case}");
        let after = sidecar.vm_hwm_kib();
        assert!(after <= before + MOST_KIB, "{case}: {before} KiB before, {after} KiB after");
    });
}
