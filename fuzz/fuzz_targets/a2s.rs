//! Any bytes as a datagram of a server that speaks A2S.

#![no_main]

mod fields;

use libfuzzer_sys::fuzz_target;
use okg_sidecar::probe::a2s::{Reply, read};

fuzz_target!(|bytes: &[u8]| {
    match read(bytes) {
        Ok(Reply::Info(info)) => {
            assert!(info.bots.is_some() && info.players <= 255);
            fields::check(info);
        }
        Ok(Reply::Challenge(challenge)) => assert_eq!(bytes[5..9], challenge),
        Ok(Reply::Other) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
