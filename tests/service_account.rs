//! The token and the CA of a running process: they are rotated, broken, refused or gone, and no one but the API server sees the
//! token (behaviour 4.4).

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stand_ins::{
    Authority, Fault, POD_UID, SOON, Scene, ServerCertificate, SidecarProcess, TOKEN, bound_token_until, side_by_side,
};

use crate::steps::{one_fault_was_told, settle, unprivileged};

/// Long enough for a retry after several failures: their waits double, some up to a minute.
const AFTER_BACKOFF: Duration = Duration::from_secs(100);

/// A sidecar that has written `None`.
fn settled(scene: &Scene) -> SidecarProcess {
    settle(scene.sidecar())
}

// ---- a token that nobody renews

#[test]
fn an_expired_token_is_told_once_until_another_one_is_there() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
    let expired = bound_token_until("games", "gs-0", POD_UID, now - 75);
    let told = || sidecar.count_lines("token: the token expired");
    // The API server's clock may be another, so the token is still used.
    scene.api.accept_token(&expired);
    for (token, warnings) in [(expired.as_str(), 1), (TOKEN, 1), (&expired, 2)] {
        scene.pod.rotate_token(token);
        for state in ["Allocated", "WaitToBeDeleted", "None"] {
            scene.game.set(200, state);
            sidecar.eventually(SOON, state, || scene.ops_state() == state);
        }
        assert_eq!(told(), warnings, "{}", sidecar.stderr());
    }
    assert_eq!(sidecar.count_lines(&expired), 0);
    for command in ["check", "probe"] {
        scene.pod.rotate_token(&expired);
        let asked = scene.sidecar().arg(command).start();
        asked.wait_exit(SOON);
        assert!(asked.stdout().contains("token: the token expired"), "{command}: {}", asked.stdout());
    }
}

// ---- a volume that is broken or gone

#[test]
fn a_token_of_no_use_is_told_once_and_the_last_good_one_goes_on() {
    let cases = ["missing", "emptied", "white space", "two lines", "not ASCII", "unreadable", "a directory"];
    side_by_side(&cases, |case| {
        let scene = Scene::new();
        let sidecar = settle(unprivileged(scene.sidecar()));
        let path = scene.pod.account_path().join("token");
        match *case {
            "missing" => scene.pod.account.remove("token"),
            "emptied" => scene.pod.rotate_token(""),
            "white space" => scene.pod.rotate_token(" \n\n"),
            "two lines" => scene.pod.rotate_token("one\ntwo"),
            "not ASCII" => scene.pod.account.update("token", b"\xff\xfe\x00"),
            "unreadable" => {
                scene.pod.rotate_token("second");
                scene.pod.account.set_mode("token", 0);
            }
            _ => {
                scene.pod.account.remove("token");
                fs::create_dir(&path).expect("the name is free");
            }
        }
        for state in ["Allocated", "WaitToBeDeleted"] {
            scene.game.set(200, state);
            sidecar.wait_for_line(&format!("-> {state} ("), SOON);
        }
        assert_eq!(sidecar.count_lines("token: must "), 1, "{case}: {}", sidecar.stderr());
        assert_eq!(sidecar.count_lines("WARN"), 1, "{case}: {}", sidecar.stderr());
        match *case {
            "unreadable" => scene.pod.account.set_mode("token", 0o644),
            "a directory" => fs::remove_dir(&path).expect("it was made here"),
            _ => {}
        }
        scene.pod.rotate_token("third");
        scene.api.accept_token("third");
        scene.api.refuse_token(TOKEN);
        scene.game.set(200, "None");
        sidecar.wait_for_line("WaitToBeDeleted -> None", SOON);
        assert_eq!(sidecar.count_lines("token: can be used again"), 1, "{case}: {}", sidecar.stderr());
        assert_eq!(sidecar.count_lines("third") + sidecar.count_lines(TOKEN), 0, "{case}");
    });
}

#[test]
fn an_account_volume_that_goes_away_and_comes_back_stops_nothing() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    scene.pod.account.clear();
    for state in ["Allocated", "WaitToBeDeleted"] {
        scene.game.set(200, state);
        sidecar.wait_for_line(&format!("-> {state} ("), SOON);
    }
    for file in ["token", "ca.crt"] {
        let told =
            format!("/{file}: must be readable: No such file or directory (os error 2); using the last good one");
        assert_eq!(sidecar.count_lines(&told), 1, "{file}: {}", sidecar.stderr());
    }
    let next = Authority::new("next");
    scene.pod.set_ca(&next.pem());
    scene.pod.rotate_token("second");
    scene.api.accept_token("second");
    scene.api.refuse_token(TOKEN);
    scene.api.serve_certificate(&next.loopback_certificate());
    scene.game.set(200, "None");
    sidecar.wait_for_line("WaitToBeDeleted -> None", SOON);
    assert_eq!(sidecar.count_lines("can be used again"), 2, "{}", sidecar.stderr());
    assert_eq!(sidecar.stderr().lines().count(), 1 + 4 + 2 + 2, "{}", sidecar.stderr());
}

#[test]
fn the_volume_can_go_away_in_the_middle_of_an_outage() {
    let scene = Scene::new();
    scene.api.stop();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("retrying", SOON);
    scene.pod.account.clear();
    sidecar.eventually(AFTER_BACKOFF, "it is told", || sidecar.count_lines("using the last good one") == 2);
    scene.api.start_again();
    sidecar.wait_for_line("opsState unknown -> None", AFTER_BACKOFF);
    assert_eq!(sidecar.count_lines("using the last good one"), 2, "{}", sidecar.stderr());
}

// ---- the token

#[test]
fn a_token_that_was_rotated_on_disk_goes_with_the_very_next_write() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    // The first is what kubelet writes, the second what a Secret may contain.
    for (token, state) in [("second", "Allocated"), ("third\n", "WaitToBeDeleted")] {
        scene.pod.rotate_token(token);
        scene.api.accept_token(token.trim());
        scene.api.refuse_token(TOKEN);
        scene.api.refuse_token("second\n");
        scene.game.set(200, state);
        sidecar.wait_for_line(&format!("-> {state}"), SOON);
    }
    let requests = scene.api.requests();
    let tokens: Vec<&str> = requests.iter().filter_map(|request| request.bearer_token()).collect();
    assert_eq!(tokens, [TOKEN, TOKEN, "second", "second", "third", "third"]);
}

#[test]
fn an_unauthorized_write_goes_again_at_once_with_the_token_read_again() {
    let scene = Scene::new();
    scene.api.refuse_token(TOKEN);
    scene.api.accept_token("second");
    // Answered 401 only when the token has been changed meanwhile.
    scene.api.next([Fault::Slow(Duration::from_millis(800))]);
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "a first attempt", || scene.api.requests().len() == 1);
    scene.pod.rotate_token("second");
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let requests = scene.api.requests();
    let seen: Vec<_> = requests.iter().map(|request| (request.bearer_token(), request.answered)).collect();
    assert_eq!(seen, [(Some(TOKEN), Some(401)), (Some("second"), Some(200)), (Some("second"), Some(200))]);
    // It is worth no line.
    assert_eq!(sidecar.stderr().lines().count(), 2, "{}", sidecar.stderr());
}

#[test]
fn a_token_that_stays_refused_is_tried_twice_an_attempt_and_with_backoff() {
    let scene = Scene::new();
    scene.api.refuse_token(TOKEN);
    let sidecar = scene.sidecar().log("okg_sidecar=debug").start();
    sidecar.wait_for_line(
        "status 401, `Unauthorized`; the API server does not accept the token (audience none, expiry never)",
        SOON,
    );
    scene.await_probes(&sidecar, 3);
    // An attempt may be under way.
    let failures = || sidecar.count_lines("gs-0 failed");
    sidecar.eventually(SOON, "two requests an attempt", || scene.api.requests().len() == 2 * failures());
    // With full jitter an eighth within some three seconds has a chance of 3^7 / (7! * 2^21).
    assert!(failures() <= 7, "{}", sidecar.stderr());
    scene.api.accept_token("second");
    scene.pod.rotate_token("second");
    sidecar.eventually(AFTER_BACKOFF, "the state is written", || sidecar.count_lines("unknown -> None") == 1);
    one_fault_was_told(&sidecar, "401");
}

// ---- whom it trusts

#[test]
fn a_new_authority_counts_as_soon_as_the_file_has_it() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    let sent = scene.api.application_bytes();
    let next = Authority::new("next");
    scene.api.serve_certificate(&next.loopback_certificate());
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("UnknownIssuer", SOON);
    sidecar.eventually(SOON, "a second attempt", || scene.api.failed_handshakes() >= 2);
    assert_eq!(scene.api.application_bytes(), sent);
    scene.pod.set_ca(&next.pem());
    sidecar.wait_for_line("-> Allocated (", AFTER_BACKOFF);
    assert_eq!(scene.patched(), ["None", "Allocated"]);
    one_fault_was_told(&sidecar, "a new authority");
}

#[test]
fn a_ca_file_of_no_use_is_told_once_and_the_last_good_one_goes_on() {
    let truncated = Authority::new("cluster").pem()[..300].to_owned();
    let second_truncated = format!("{}{truncated}", Authority::new("cluster").pem());
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let a_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let cases = [
        ("emptied", Some("")),
        ("white space", Some("\n\n")),
        ("truncated", Some(&*truncated)),
        ("the second of two truncated", Some(&*second_truncated)),
        ("garbage", Some("\u{0}\u{1}certificate? what certificate?")),
        ("no certificate in it", Some(no_certificate)),
        ("a key", Some(a_key)),
        ("gone", None),
    ];
    side_by_side(&cases, |(case, text)| {
        let scene = Scene::new();
        let sidecar = settled(&scene);
        match text {
            Some(text) => scene.pod.set_ca(text),
            None => scene.pod.account.remove("ca.crt"),
        }
        for state in ["Allocated", "WaitToBeDeleted"] {
            scene.game.set(200, state);
            sidecar.wait_for_line(&format!("-> {state} ("), SOON);
        }
        assert_eq!(sidecar.count_lines("ca.crt: must "), 1, "{case}: {}", sidecar.stderr());
        assert_eq!(sidecar.count_lines("using the last good one"), 1, "{case}: {}", sidecar.stderr());
        // And it is still read: another good one takes over.
        let next = Authority::new("cluster");
        scene.api.serve_certificate(&next.loopback_certificate());
        scene.pod.set_ca(&next.pem());
        scene.game.set(200, "None");
        sidecar.wait_for_line("WaitToBeDeleted -> None", SOON);
        assert_eq!(sidecar.count_lines("ca.crt: can be used again"), 1, "{case}: {}", sidecar.stderr());
        assert_eq!(sidecar.count_lines("retrying"), 0, "{case}: {}", sidecar.stderr());
    });
}

#[test]
fn a_bundle_of_two_vouches_for_a_server_of_either() {
    let scene = Scene::new();
    let next = Authority::new("next");
    scene.pod.set_ca(&format!("# old\n{}\n# new\n{}", scene.authority.pem(), next.pem()));
    let sidecar = settled(&scene);
    scene.api.serve_certificate(&next.loopback_certificate());
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("opsState None -> Allocated", SOON);
    scene.pod.set_ca(&next.pem());
    scene.game.set(200, "WaitToBeDeleted");
    sidecar.wait_for_line("opsState Allocated -> WaitToBeDeleted", SOON);
    // The old one is trusted no longer.
    scene.api.serve_certificate(&scene.authority.loopback_certificate());
    scene.game.set(200, "None");
    sidecar.wait_for_line("UnknownIssuer", SOON);
    assert_eq!(scene.patched().len(), 3);
}

#[test]
fn a_server_that_the_authority_does_not_vouch_for_gets_not_one_byte() {
    let cases = [
        ("another authority", "UnknownIssuer; ca.crt must contain the authority that signed it"),
        ("another of the same name", "BadSignature"),
        ("nobody", ""),
        ("expired", "xpired"),
        (
            "another name",
            "certificate is valid for IpAddress(127.0.0.2), DnsName(\"localhost\"), DnsName(\"kubernetes.default.svc\")",
        ),
    ];
    side_by_side(&cases, |(case, told)| {
        let scene = Scene::new();
        let certificate = match *case {
            "another authority" => Authority::new("elsewhere").loopback_certificate(),
            "another of the same name" => Authority::new("cluster").loopback_certificate(),
            "nobody" => ServerCertificate::self_signed(&["127.0.0.1"]),
            "expired" => scene.authority.expired_certificate(&["127.0.0.1"]),
            _ => scene.authority.server_certificate(&["127.0.0.2", "localhost", "kubernetes.default.svc"]),
        };
        scene.api.serve_certificate(&certificate);
        let sidecar = scene.sidecar().log("trace").start();
        let line = sidecar.wait_for_line("retrying: no response: ", SOON).text;
        assert!(line.contains(told) && line.contains("certificate"), "{case}: {line}");
        scene.await_probes(&sidecar, 2);
        assert_eq!(scene.api.application_bytes(), 0, "{case}");
        assert!(scene.api.failed_handshakes() >= 1 && scene.api.requests().is_empty(), "{case}");
        scene.api.serve_certificate(&scene.authority.loopback_certificate());
        sidecar.wait_for_line("opsState unknown -> None", AFTER_BACKOFF);
        one_fault_was_told(&sidecar, case);
    });
}
