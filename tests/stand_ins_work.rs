//! The stand-ins themselves: one that forgives too much would let the sidecar pass for the wrong reason.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};
use stand_ins::{
    ApiServer, Authority, Behaviour, BlackHole, Fault, Game, Loopback, Pod, Reached, ServerCertificate, SidecarProcess,
    Signal, Which, bound_token, eventually, game_server, game_server_path, merge_patch,
};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

const SOON: Duration = Duration::from_secs(45);
const TOKEN: &str = "token-1";
const MERGE_PATCH: &str = "application/merge-patch+json";
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

// ---- merge patch

#[test]
fn a_merge_patch_does_what_appendix_a_of_rfc_7386_says() {
    for (original, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let mut target = original.clone();
        merge_patch::merge(&mut target, &patch);
        assert_eq!(target, result, "{original} with {patch}");
    }
}

// ---- API server

/// An API server with the GameServer `games/gs-0`, and a client that trusts it.
struct Cluster {
    api: ApiServer,
    authority: Authority,
    path: String,
}

/// The status and the body, the latter as JSON if it is JSON.
type Reply = (u16, Value);

impl Cluster {
    fn new(loopback: Loopback) -> Self {
        let authority = Authority::new("cluster");
        let api = ApiServer::start(loopback, &authority.loopback_certificate(), TOKEN);
        let path = game_server_path("games", "gs-0");
        api.put(&path, game_server("games", "gs-0", "uid-1"));
        Self { api, authority, path }
    }

    fn agent(&self) -> Agent {
        agent(&self.authority)
    }

    fn get(&self, accept: &str) -> Result<Reply, ureq::Error> {
        let url = format!("{}{}", self.api.url(), self.path);
        reply(self.agent().get(url).header("Authorization", format!("Bearer {TOKEN}")).header("Accept", accept).call()?)
    }

    fn patch(&self, body: Value) -> Result<Reply, ureq::Error> {
        self.patch_as(TOKEN, MERGE_PATCH, &body.to_string())
    }

    fn patch_as(&self, token: &str, content_type: &str, body: &str) -> Result<Reply, ureq::Error> {
        let url = format!("{}{}?fieldManager=okg-sidecar", self.api.url(), self.path);
        let request = self.agent().patch(url).header("Content-Type", content_type);
        reply(request.header("Authorization", format!("Bearer {token}")).send(body)?)
    }

    /// Asks as the sidecar does: strictly, and for the metadata alone.
    fn patch_strictly(&self, body: Value) -> Result<Reply, ureq::Error> {
        let url =
            format!("{}{}?fieldManager=okg-sidecar&fieldValidation=Strict&timeout=10s", self.api.url(), self.path);
        let request = self.agent().patch(url).header("Content-Type", MERGE_PATCH).header("Accept", METADATA_ONLY);
        reply(request.header("Authorization", format!("Bearer {TOKEN}")).send(body.to_string())?)
    }

    fn ops_state(&self) -> String {
        self.api.text(&self.path, "/spec/opsState").expect("the object is there")
    }

    fn version(&self) -> String {
        self.api.text(&self.path, "/metadata/resourceVersion").expect("the object is there")
    }
}

fn agent(authority: &Authority) -> Agent {
    let root = Certificate::from_pem(authority.pem().as_bytes()).expect("it is one PEM certificate");
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&[root]));
    Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(4)))
        .build()
        .new_agent()
}

fn reply(mut response: ureq::http::Response<ureq::Body>) -> Result<Reply, ureq::Error> {
    let text = response.body_mut().with_config().limit(1 << 20).read_to_string()?;
    Ok((response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn expect(reply: Result<Reply, ureq::Error>) -> Reply {
    reply.expect("the server answers")
}

#[test]
fn a_patch_changes_the_object_and_its_version_and_an_idle_one_neither() {
    for loopback in [Loopback::V4, Loopback::V6, Loopback::Both] {
        let cluster = Cluster::new(loopback);
        let before = cluster.version();
        let (status, body) = expect(cluster.patch(json!({"spec": {"opsState": "Allocated"}})));
        assert_eq!((status, &body["spec"]["opsState"]), (200, &json!("Allocated")));
        assert_eq!(body["spec"]["updatePriority"], 0, "the rest of spec stays");
        let changed = cluster.version();
        assert_ne!(before, changed);
        expect(cluster.patch(json!({"spec": {"opsState": "Allocated"}})));
        assert_eq!(cluster.version(), changed);
        let request = &cluster.api.requests()[0];
        assert_eq!(request.line(), format!("PATCH {}?fieldManager=okg-sidecar", cluster.path));
        assert_eq!(request.json(), json!({"spec": {"opsState": "Allocated"}}));
        assert_eq!((request.bearer_token(), request.answered), (Some(TOKEN), Some(200)));
    }
}

#[test]
fn the_server_refuses_in_the_words_of_kubernetes() {
    let cluster = Cluster::new(Loopback::V4);
    let state = r#"{"spec":{"opsState":"Allocated"}}"#;
    assert_eq!(expect(cluster.patch_as("stolen", MERGE_PATCH, state)).0, 401);
    assert_eq!(expect(cluster.patch_as(TOKEN, "application/json", state)).0, 415);
    assert_eq!(expect(cluster.patch_as(TOKEN, MERGE_PATCH, "{")).0, 400);

    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"opsState": "Allocated"}});
    let (status, body) = expect(cluster.patch(stale));
    assert_eq!((status, &body["reason"]), (409, &json!("Conflict")));
    let fresh = json!({"metadata": {"resourceVersion": cluster.version()}});
    assert_eq!(expect(cluster.patch(fresh)).0, 200);

    cluster.api.allow_only(&[("get", "gameservers")]);
    let (status, body) = expect(cluster.patch(json!({})));
    assert_eq!(status, 403);
    assert_eq!(
        body["message"],
        "gameservers.game.kruise.io \"gs-0\" is forbidden: User \"system:serviceaccount:games:okg-sidecar\" cannot \
         patch resource \"gameservers\" in API group \"game.kruise.io\" in the namespace \"games\""
    );
    assert_eq!(expect(cluster.get("*/*")).0, 200);
    cluster.api.allow_everything();

    cluster.api.remove(&cluster.path);
    let (status, body) = expect(cluster.patch(json!({})));
    assert_eq!((status, &body["kind"], &body["reason"]), (404, &json!("Status"), &json!("NotFound")));
    assert_eq!(body["message"], "gameservers.game.kruise.io \"gs-0\" not found");

    cluster.api.refuse_token(TOKEN);
    assert_eq!(expect(cluster.patch(json!({}))).0, 401);
}

#[test]
fn the_metadata_alone_is_given_to_who_asks_for_it() {
    let cluster = Cluster::new(Loopback::V4);
    let (status, body) = expect(cluster.get(METADATA_ONLY));
    assert_eq!((status, &body["kind"]), (200, &json!("PartialObjectMetadata")));
    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "uid-1");
    assert_eq!(body.get("spec"), None);
    let either = format!("{METADATA_ONLY}, application/json");
    assert_eq!(expect(cluster.get(&either)).1["kind"], "PartialObjectMetadata");
    assert_eq!(expect(cluster.get("application/json")).1["kind"], "GameServer");
    assert_eq!(expect(cluster.get("application/yaml")).0, 406);
}

#[test]
fn a_patch_of_nothing_reads_and_needs_no_verb_but_patch() {
    let cluster = Cluster::new(Loopback::V4);
    cluster.api.allow_only(&[("patch", "gameservers")]);
    let before = cluster.api.object(&cluster.path).expect("the object is there");
    let (status, body) = expect(cluster.patch_strictly(json!({})));
    assert_eq!((status, &body["kind"], body.get("spec")), (200, &json!("PartialObjectMetadata"), None));
    for key in ["uid", "resourceVersion", "ownerReferences", "managedFields"] {
        assert_eq!(
            (&body["metadata"][key], body["metadata"][key].is_null()),
            (&before["metadata"][key], false),
            "{key}"
        );
    }
    assert_eq!(expect(cluster.patch(json!({}))).1, before);
    assert_eq!(cluster.api.object(&cluster.path), Some(before));
    assert!(cluster.api.requests().iter().all(stand_ins::Request::is_read));
}

#[test]
fn the_version_and_the_uid_that_a_patch_names_must_be_the_objects() {
    let cluster = Cluster::new(Loopback::V4);
    let uid = cluster.api.text(&cluster.path, "/metadata/uid").expect("every object has one");
    let patch = |version: &str, uid: &str| json!({"metadata": {"resourceVersion": version, "uid": uid}, "spec": {"opsState": "Allocated"}});
    assert_eq!(expect(cluster.patch_strictly(patch("1", &uid))).0, 409);
    let (status, body) = expect(cluster.patch_strictly(patch(&cluster.version(), "another")));
    assert_eq!((status, &body["details"]["causes"][0]["field"]), (422, &json!("metadata.uid")));
    assert_eq!(cluster.ops_state(), "None");
    assert_eq!(expect(cluster.patch_strictly(patch(&cluster.version(), &uid))).0, 200);
    // An object created anew is another one, even though it looks the same.
    let version = cluster.version();
    cluster.api.put(&cluster.path, game_server("games", "gs-0", "uid-1"));
    assert_ne!(cluster.api.text(&cluster.path, "/metadata/uid").expect("every object has one"), uid);
    assert_eq!(expect(cluster.patch_strictly(patch(&version, &uid))).0, 409);
    assert_eq!(expect(cluster.patch_strictly(patch(&cluster.version(), &uid))).0, 422);
}

#[test]
fn what_the_schema_does_not_have_or_hold_is_refused() {
    let cluster = Cluster::new(Loopback::V4);
    for (spec, field, ending) in [
        (json!({"opsStat": "None"}), "patch", "strict decoding error: unknown field \"spec.opsStat\""),
        (json!({"networkDisabled": "true"}), "spec.networkDisabled", "must be of type boolean"),
        (json!({"opsState": 1}), "spec.opsState", "must be of type string"),
        (json!({"updatePriority": 1.5}), "spec.updatePriority", "must be of type integer or string"),
        (json!({"deletionPriority": true}), "spec.deletionPriority", "must be of type integer or string"),
    ] {
        let (status, body) =
            expect(cluster.patch_strictly(json!({"spec": spec, "metadata": {"annotations": {"a": "b"}}})));
        assert_eq!((status, &body["reason"]), (422, &json!("Invalid")), "{body}");
        assert_eq!(body["details"]["causes"][0]["field"], field, "{body}");
        assert!(body["message"].as_str().is_some_and(|message| message.ends_with(ending)), "{body}");
    }
    assert_eq!(cluster.api.text(&cluster.path, "/metadata/annotations/a"), None, "all or nothing");
    let legal = json!({"spec": {"networkDisabled": true, "updatePriority": "high", "deletionPriority": -1}});
    assert_eq!(expect(cluster.patch_strictly(legal)).0, 200);

    cluster.api.refuse("/spec/opsState", Some(json!("Allocated")), 422);
    cluster.api.refuse("/metadata/annotations/a~1b", None, 400);
    assert_eq!(expect(cluster.patch_strictly(json!({"spec": {"opsState": "Allocated"}}))).0, 422);
    assert_eq!(expect(cluster.patch_strictly(json!({"spec": {"opsState": "Maintaining"}}))).0, 200);
    assert_eq!(expect(cluster.patch_strictly(json!({"metadata": {"annotations": {"a/b": "c"}}}))).0, 400);
    cluster.api.refuse_nothing();
    assert_eq!(expect(cluster.patch_strictly(json!({"spec": {"opsState": "Allocated"}}))).0, 200);
}

#[test]
fn a_fault_of_one_kind_of_request_leaves_the_others_alone() {
    let cluster = Cluster::new(Loopback::V4);
    let write = || cluster.patch_strictly(json!({"spec": {"opsState": "Allocated"}}));
    let read = || cluster.patch_strictly(json!({}));
    let refused = || Fault::status(503, "not now");
    cluster.api.next_of(&Which::writes(), [refused(), Fault::Pass, refused()]);
    let statuses: Vec<u16> = [read(), write(), read(), write(), write(), write()].map(|reply| expect(reply).0).into();
    assert_eq!(statuses, [200, 503, 200, 200, 503, 200]);
    cluster.api.always_of(&Which::reads().to(&cluster.path), Some(refused()));
    cluster.api.always_of(&Which::of("/elsewhere"), Some(Fault::DropAfterTls));
    assert_eq!([read(), read(), write()].map(|reply| expect(reply).0), [503, 503, 200]);
    cluster.api.always_of(&Which::reads().to(&cluster.path), None);
    assert_eq!(expect(read()).0, 200);
}

#[test]
fn an_answer_can_be_spoilt_after_the_request_took_effect() {
    let cluster = Cluster::new(Loopback::V4);
    for fault in
        [Fault::BreakOff, Fault::LongAnswer(3 << 20), Fault::ok("<html>").applied(), Fault::Raw(vec![]).applied()]
    {
        expect(cluster.patch(json!({"spec": {"opsState": "None"}})));
        cluster.api.next_of(&Which::writes(), [fault.clone()]);
        let reply = cluster.patch_strictly(json!({"spec": {"opsState": "Allocated"}}));
        assert!(reply.is_err() || reply.as_ref().is_ok_and(|reply| reply.1 == "<html>"), "{fault:?}: {reply:?}");
        assert_eq!(cluster.ops_state(), "Allocated", "{fault:?}");
    }
}

#[test]
fn a_lost_request_arrives_late_where_it_still_can() {
    let cluster = Cluster::new(Loopback::V4);
    let patch = |state: &str, version: String| {
        cluster.patch_strictly(json!({"metadata": {"resourceVersion": version}, "spec": {"opsState": state}}))
    };
    cluster
        .api
        .next_of(&Which::writes(), [Fault::Lost, Fault::Pass, Fault::Lost, Fault::Late(Duration::from_millis(50))]);
    assert!(patch("Allocated", cluster.version()).is_err());
    assert_eq!(cluster.ops_state(), "None");
    expect(patch("Maintaining", cluster.version()));
    cluster.api.deliver_lost();
    assert!(patch("None", cluster.version()).is_err());
    cluster.api.deliver_lost();
    assert_eq!((cluster.api.late_answers(), cluster.ops_state()), (vec![409, 200], "None".to_owned()));
    cluster.api.deliver_lost();
    assert!(patch("Allocated", cluster.version()).is_err());
    eventually(SOON, "it arrives by itself", || cluster.api.late_answers() == [409, 200, 200]);
    assert_eq!(cluster.ops_state(), "Allocated");
}

#[test]
fn somebody_else_can_write_between_a_read_and_a_patch() {
    let cluster = Cluster::new(Loopback::V4);
    let path = cluster.path.clone();
    cluster.api.before_next(&Which::writes(), move |objects| {
        objects.edit(&path, "matchmaker", |object| object["spec"]["opsState"] = json!("Allocated"));
    });
    let version = expect(cluster.patch_strictly(json!({}))).1["metadata"]["resourceVersion"].clone();
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"opsState": "None"}});
    assert_eq!(expect(cluster.patch_strictly(patch.clone())).0, 409);
    assert_eq!(cluster.ops_state(), "Allocated");
    assert_eq!(expect(cluster.patch_strictly(patch)).0, 409, "it stays another state of the object");
}

#[test]
fn a_bound_token_names_its_pod_in_base64_url() {
    for uid in ["u", "uid", "uid-1", "a?b>c~\u{7f}"] {
        let token = bound_token("games", "gs-0", uid);
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        let claims: Value = serde_json::from_slice(&from_base64_url(parts[1])).expect("the claims are JSON");
        let claims = &claims["kubernetes.io"];
        assert_eq!((&claims["namespace"], &claims["pod"]), (&json!("games"), &json!({"name": "gs-0", "uid": uid})));
    }
}

/// Bit by bit, so that no table is shared with what it judges.
fn from_base64_url(text: &str) -> Vec<u8> {
    let value = |character: char| match character {
        'A'..='Z' => character as u32 - 'A' as u32,
        'a'..='z' => character as u32 - 'a' as u32 + 26,
        '0'..='9' => character as u32 - '0' as u32 + 52,
        '-' => 62,
        _ => 63,
    };
    let bits: Vec<u32> = text.chars().map(value).flat_map(|six| (0..6).rev().map(move |bit| six >> bit & 1)).collect();
    bits.chunks_exact(8).map(|eight| eight.iter().fold(0, |byte, bit| byte << 1 | *bit as u8)).collect()
}

#[test]
fn managed_fields_name_who_changed_a_field_last() {
    let cluster = Cluster::new(Loopback::V4);
    let owners_of = |field: &str| {
        let object = cluster.api.object(&cluster.path).expect("the object is there");
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let owners = entries.iter().filter(|entry| entry["fieldsV1"]["f:spec"].get(field).is_some());
        owners.map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let owner = || owners_of("f:opsState");
    let somebody_sets = |state: &str| {
        cluster.api.edit(&cluster.path, "kubectl-edit", |object| object["spec"]["opsState"] = json!(state));
    };
    assert_eq!(owner(), ["manager"]);
    expect(cluster.patch(json!({"spec": {"opsState": "Allocated"}})));
    assert_eq!(owner(), ["okg-sidecar"]);
    assert_eq!(owners_of("f:updatePriority"), ["manager"], "what was not touched stays another's");
    somebody_sets("Allocated");
    assert_eq!(owner(), ["okg-sidecar"], "who changes nothing gains nothing");
    somebody_sets("Maintaining");
    assert_eq!((owner(), cluster.ops_state()), (vec!["kubectl-edit".to_owned()], "Maintaining".to_owned()));
    expect(cluster.patch(json!({"spec": {"opsState": null}})));
    assert_eq!(owner(), [""; 0], "a field that is gone has no owner");
    cluster.api.show_managed_fields(false);
    assert_eq!(cluster.api.object(&cluster.path).expect("still there")["metadata"].get("managedFields"), None);
}

#[test]
fn each_queued_fault_befalls_one_attempt() {
    let cluster = Cluster::new(Loopback::V4);
    let patch = |state: &str| cluster.patch(json!({"spec": {"opsState": state}}));
    let slowly = Duration::from_millis(50);
    for (fault, takes_effect, reached) in [
        (Fault::ApplyThenDrop, true, Reached::Http),
        (Fault::DropBeforeTls, false, Reached::Tcp),
        (Fault::DropAfterTls, false, Reached::Tls),
        (Fault::HangBeforeTls, false, Reached::Tcp),
        (Fault::HangAfterRequest, false, Reached::Http),
        (Fault::DripResponse(slowly), true, Reached::Http),
        (Fault::EndlessBody, true, Reached::Http),
        (Fault::EndlessHeaders, true, Reached::Http),
        (Fault::HugeBody(2 << 20), true, Reached::Http),
        (Fault::Raw(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), false, Reached::Http),
    ] {
        expect(patch("None"));
        cluster.api.next([fault.clone()]);
        let result = patch("Allocated");
        assert!(result.is_err(), "{fault:?}: {result:?}");
        if matches!(fault, Fault::HangBeforeTls | Fault::HangAfterRequest) {
            assert!(matches!(result, Err(ureq::Error::Timeout(_))), "{fault:?}: {result:?}");
        }
        assert_eq!(cluster.ops_state() == "Allocated", takes_effect, "{fault:?}");
        assert_eq!(cluster.api.attempts().last().map(|attempt| attempt.1), Some(reached), "{fault:?}");
    }
    cluster.api.next([Fault::Pass, Fault::status_with(429, &[("Retry-After", "7")], "slow down")]);
    assert_eq!(expect(patch("Maintaining")).0, 200);
    let (status, body) = expect(patch("None"));
    assert_eq!((status, &body["message"]), (429, &json!("slow down")));
    assert_eq!(cluster.ops_state(), "Maintaining");

    cluster.api.always(Some(Fault::status(503, "etcd is gone")));
    assert_eq!([expect(patch("None")).0, expect(patch("None")).0], [503, 503]);
    cluster.api.always(Some(Fault::Slow(slowly)));
    let started = Instant::now();
    assert_eq!(expect(patch("None")).0, 200);
    assert!(started.elapsed() >= slowly);
    eventually(SOON, "the connections end with their clients", || cluster.api.open_connections() == 0);
}

#[test]
fn who_does_not_trust_the_certificate_sends_nothing() {
    let cluster = Cluster::new(Loopback::V4);
    let wrong = [
        Authority::new("cluster").loopback_certificate(),
        cluster.authority.server_certificate(&["example.com"]),
        cluster.authority.expired_certificate(&["127.0.0.1"]),
        ServerCertificate::self_signed(&["127.0.0.1"]),
    ];
    for (certificate, failed) in wrong.iter().zip(1..) {
        cluster.api.serve_certificate(certificate);
        assert!(cluster.patch(json!({})).is_err());
        eventually(SOON, "the handshake fails here too", || cluster.api.failed_handshakes() == failed);
        assert_eq!(cluster.api.application_bytes(), 0);
    }
    cluster.api.serve_certificate(&cluster.authority.loopback_certificate());
    assert_eq!(expect(cluster.patch(json!({}))).0, 200);
    assert!(cluster.api.application_bytes() > 100);
}

#[test]
fn the_server_keeps_a_connection_alive_until_asked_to_close() {
    let cluster = Cluster::new(Loopback::V4);
    let url = format!("{}{}", cluster.api.url(), cluster.path);
    let agent = cluster.agent();
    for _ in 0..2 {
        let request = agent.get(&url).header("Authorization", format!("Bearer {TOKEN}"));
        assert_eq!(expect(request.call().and_then(reply)).0, 200);
    }
    assert_eq!((cluster.api.connections_accepted(), cluster.api.open_connections()), (1, 1));
    assert_eq!(cluster.api.requests_per_connection(), [2]);
    assert_eq!(expect(agent.get(&url).header("Connection", "close").call().and_then(reply)).0, 401);
    eventually(SOON, "the connection ends", || cluster.api.open_connections() == 0);
}

#[test]
fn a_stopped_server_refuses_and_comes_back_on_its_port() {
    let cluster = Cluster::new(Loopback::Both);
    let hung = TcpStream::connect(cluster.api.address()).expect("it listens");
    eventually(SOON, "the connection is accepted", || cluster.api.open_connections() == 1);
    cluster.api.stop();
    assert_eq!(read_up_to(1, &hung).expect("it ends"), "");
    let refused = TcpStream::connect(cluster.api.address()).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    cluster.api.start_again();
    assert_eq!(expect(cluster.patch(json!({"spec": {"opsState": "Allocated"}}))).0, 200);
}

// ---- game

/// What comes back for a GET on a connection of its own, until its end or a pause.
fn get(address: SocketAddr) -> io::Result<String> {
    get_up_to(100_000, address)
}

/// The same, until so many bytes have come.
fn get_up_to(most: usize, address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: game\r\nConnection: close\r\n\r\n")?;
    read_up_to(most, &stream)
}

/// `[silence]` stands for two seconds of it, and ends it.
fn read_up_to(most: usize, mut stream: &TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while bytes.len() < most {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bytes.extend_from_slice(b"[silence]");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn the_game_answers_what_it_was_told_to() {
    let game = Game::start();
    game.set(200, "Allocated");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nAllocated";
    assert_eq!(get(game.address()).expect("it answers"), answer);
    game.behave(Behaviour::answer_with(302, &[("Location", "/elsewhere")], ""));
    assert!(get(game.address()).expect("it answers").contains("\r\nLocation: /elsewhere\r\n"));
    let requests = game.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].line().as_str(), requests[0].header("host")), ("GET /status", Some("game")));
    assert_eq!((requests[0].answered, requests[1].answered), (Some(200), Some(302)));
    assert!(requests[0].at <= requests[1].at);
    assert_eq!(game.connections(), 2);
}

#[test]
fn the_game_misbehaves_as_it_was_told_to() {
    let game = Game::start();
    let pace = Duration::from_millis(20);
    for (behaviour, start, least) in [
        (Behaviour::Raw(b"SSH-2.0\r\n".to_vec()), "SSH-2.0\r\n", 9),
        (Behaviour::RawThenHold(b"HTTP/1.1 2".to_vec()), "HTTP/1.1 2[silence]", 19),
        (Behaviour::DripHeaders(pace), "HTTP/1.1 200 OK\r\nX-Drip: ", 26),
        (Behaviour::DripBody(pace), "HTTP/1.1 200 OK\r\n\r\ndrip ", 24),
        (Behaviour::EndlessBody, "HTTP/1.1 200 OK\r\n\r\nand so on ", 100_000),
        (
            Behaviour::EndlessChunks,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nand so on \r\na\r\n",
            100_000,
        ),
        (Behaviour::EndlessHeaders, "HTTP/1.1 200 OK\r\nX-Endless: ", 100_000),
        (Behaviour::Endless1xx, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", 100_000),
        (Behaviour::HoldWithoutAnswer, "[silence]", 9),
        (Behaviour::After(pace, Box::new(Behaviour::answer(200, ""))), "HTTP/1.1 200 OK\r\nContent-Length: 0", 30),
    ] {
        game.behave(behaviour.clone());
        let answer = get_up_to(least, game.address()).unwrap_or_else(|error| panic!("{behaviour:?}: {error}"));
        assert!(answer.starts_with(start) && answer.len() >= least, "{behaviour:?}: {:.100}", answer);
    }
    for behaviour in [Behaviour::Reset, Behaviour::After(pace, Box::new(Behaviour::Reset))] {
        game.behave(behaviour);
        let error = get(game.address()).expect_err("the connection is reset");
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    }
    game.behave(Behaviour::CloseAtOnce);
    assert_eq!(get(game.address()).unwrap_or_default(), "", "closed, or reset when the request came later");
    eventually(SOON, "no connection outlives its client", || game.open_connections() == 0);
}

#[test]
fn a_script_gives_each_connection_its_step_and_keeps_to_the_last() {
    let game = Game::start();
    game.behave(Behaviour::Script(["a", "b", "c"].map(|body| Behaviour::answer(200, body)).to_vec()));
    let answers: String = (0..4).filter_map(|_| get(game.address()).ok()?.pop()).collect();
    assert_eq!(answers, "abcc");
}

#[test]
fn a_game_on_both_addresses_has_one_port() {
    let game = Game::builder().on(Loopback::Both).start();
    for host in ["127.0.0.1", "::1"] {
        let stream = TcpStream::connect((host, game.address().port()));
        stream.unwrap_or_else(|error| panic!("{host}: {error}"));
    }
    let v6 = Game::builder().on(Loopback::V6).start();
    assert_eq!(v6.url("/status"), format!("http://[::1]:{}/status", v6.address().port()));
    assert!(TcpStream::connect(("127.0.0.1", v6.address().port())).is_err());
}

#[test]
fn a_game_with_one_thread_is_held_by_who_does_not_leave() {
    let game = Game::builder().one_at_a_time().start();
    let holder = TcpStream::connect(game.address()).expect("it listens");
    eventually(SOON, "the first is accepted", || game.connections() == 1);
    assert_eq!(get(game.address()).expect("the kernel queues it"), "[silence]");
    drop(holder);
    assert!(get(game.address()).expect("it answers again").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn a_game_speaks_both_versions_of_tls_and_ends_it_in_order() {
    let authority = Authority::new("game");
    let game = Game::builder().tls(&authority.loopback_certificate()).start();
    assert!(game.url("/").starts_with("https://127.0.0.1:"));
    game.behave(Behaviour::Raw(b"HTTP/1.1 200 OK\r\n\r\nAllocated".to_vec()));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let connection = tls_client(&authority, version);
        let tcp = TcpStream::connect(game.address()).expect("it listens");
        tcp.set_read_timeout(Some(SOON)).expect("it is not zero");
        let mut stream = rustls::StreamOwned::new(connection, tcp);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("the certificate is trusted");
        let mut answer = String::new();
        // rustls makes an error of an end without close_notify.
        stream.read_to_string(&mut answer).expect("the end is announced");
        assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\nAllocated");
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
    }
}

fn tls_client(authority: &Authority, version: &'static SupportedProtocolVersion) -> ClientConnection {
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("it is one PEM certificate");
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("it can be an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("ring speaks both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "127.0.0.1".try_into().expect("it is an address");
    ClientConnection::new(Arc::new(config), name).expect("the configuration is complete")
}

#[test]
fn nobody_connects_to_a_black_hole() {
    let hole = BlackHole::new();
    let error = TcpStream::connect_timeout(&hole.address(), Duration::from_millis(300)).expect_err("it is full");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

// ---- pod

#[test]
fn a_volume_changes_as_kubelet_changes_it() {
    let pod = Pod::new("old", "ca", TOKEN);
    let generation = || fs::read_link(pod.config.path().join("..data")).expect("..data is a link");
    let before = generation();
    assert_eq!(fs::read_link(pod.config_path()).expect("it is a link"), std::path::Path::new("..data/config.yaml"));
    pod.update_config("new");
    assert_eq!(fs::read_to_string(pod.config_path()).expect("it is there"), "new");
    assert_ne!(generation(), before);
    assert!(!pod.config.path().join(before).exists());

    pod.rotate_token("token-2");
    pod.account.remove("namespace");
    let names = || {
        let entries = fs::read_dir(pod.account_path()).expect("it is there");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with("..")).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["ca.crt", "token"]);
    assert_eq!(fs::read_to_string(pod.account_path().join("token")).expect("it is there"), "token-2");
    pod.account.clear();
    assert_eq!(names(), [""; 0]);
}

// ---- child process, with a shell in the sidecar's place

fn shell(script: &str) -> stand_ins::sidecar::Builder {
    SidecarProcess::builder("/bin/sh").args(["-c", script])
}

#[test]
fn a_child_is_watched_signalled_and_timed() {
    let child = shell("trap 'exit 7' TERM; echo out; echo ready >&2; while :; do sleep 0.01; done").start();
    let line = child.wait_for_line("ready", SOON);
    // The two streams are read by two threads.
    child.wait_for_line("out", SOON);
    assert_eq!((line.stream, child.stdout().as_str()), (stand_ins::sidecar::Stream::Stderr, "out\n"));
    assert_eq!(child.threads(), 1);
    assert!(child.vm_hwm_kib() > 100);
    assert!(child.open_fds() >= 3);
    assert!(child.cpu_time() > Duration::ZERO);
    let signalled = Instant::now();
    child.signal(Signal::TERM);
    let exit = child.wait_exit(SOON);
    assert_eq!(exit.code(), Some(7));
    assert!(exit.elapsed <= signalled.elapsed());
    assert_eq!(child.count_lines("ready"), 1);
}

#[test]
fn a_child_sees_only_the_environment_that_it_is_given() {
    let cluster = Cluster::new(Loopback::V6);
    let pod = Pod::new("", "", TOKEN);
    let child = shell("export -p; echo $KUBERNETES_SERVICE_HOST $0 $1 $POD_NAME $POD_NAMESPACE $LEFT")
        .pod(&pod)
        .api_server(&cluster.api)
        .env("LEFT", "x")
        .without_env("LEFT")
        .start();
    assert_eq!(child.wait_exit(SOON).code(), Some(0));
    let config = pod.config_path();
    assert!(child.stdout().ends_with(&format!("::1 --config {} gs-0 games\n", config.display())), "{}", child.stdout());
    assert!(!child.stdout().contains("CARGO"), "{}", child.stdout());
}

#[test]
fn a_child_that_ends_early_fails_at_once_and_tells_all() {
    let child = shell("echo to stdout; echo to stderr >&2; exit 3").env("POD_NAME", "gs-0").start();
    let started = Instant::now();
    let waiting = std::panic::AssertUnwindSafe(|| child.wait_for_line("never", Duration::from_secs(60)));
    let panic = std::panic::catch_unwind(waiting).expect_err("the line never comes");
    assert!(started.elapsed() < SOON);
    let message = panic.downcast_ref::<String>().expect("a panic with arguments carries a String");
    for part in ["`never`", "command: /bin/sh -c", "POD_NAME=gs-0", "exit status: 3", "to stdout", "to stderr"] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn a_child_is_killed_when_it_goes_out_of_scope() {
    let child = shell("exec sleep 600").start();
    let folder = format!("/proc/{}", child.pid());
    assert!(fs::exists(&folder).expect("/proc is readable"));
    drop(child);
    assert!(!fs::exists(&folder).expect("/proc is readable"));
}
