//! Any bytes as a datagram of a Bedrock Edition server.

#![no_main]

mod fields;

use libfuzzer_sys::fuzz_target;
use okg_sidecar::probe::bedrock::read;

fuzz_target!(|bytes: &[u8]| {
    match read(bytes) {
        Ok(Some(found)) => {
            assert!(bytes.len() > 35 && found.bots.is_none());
            fields::check(found);
        }
        Ok(None) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
