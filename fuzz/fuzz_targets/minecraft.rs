//! Any bytes as what a Java Edition server sends, in any pieces: more of them change nothing that is known.

#![no_main]

use libfuzzer_sys::fuzz_target;
use okg_sidecar::probe::minecraft::{MAX_STATUS_BYTES, find};

fuzz_target!(|bytes: &[u8]| {
    let mut known = None;
    // The lengths stand in the first 15 bytes.
    for end in (0..=bytes.len().min(16)).chain([bytes.len()]) {
        let found = find(&bytes[..end]).map_err(|error| error.to_string());
        if let Ok(Some(status)) = &found {
            assert!(status.start <= status.end && status.end <= end && status.len() <= MAX_STATUS_BYTES);
        }
        if let Some(known) = &known {
            assert_eq!(&found, known);
        }
        if found != Ok(None) {
            known = Some(found);
        }
    }
});
