//! Any bytes as a datagram of a server of Quake 3's family.

#![no_main]

mod fields;

use libfuzzer_sys::fuzz_target;
use okg_sidecar::probe::quake3::read;

fuzz_target!(|bytes: &[u8]| {
    match read(bytes) {
        Ok(Some(found)) => fields::check(found),
        Ok(None) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
