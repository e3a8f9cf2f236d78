//! Any bytes as what the API server answers with, an object or a refusal, in pieces of any size: the first byte says how large they are.
//! Nothing panics; what is kept is bounded and the same whatever the pieces, and what serde_json reads of an object is what is kept of it.

#![no_main]

use std::collections::BTreeMap;
use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use okg_sidecar::kube::answer::{object, status};
use serde_json::Value;

/// Fields of a GameServer: of its spec, of its metadata, and a key with both signs that a pointer escapes.
const POINTERS: [&str; 4] = ["/spec/opsState", "/spec/a/b", "/metadata/annotations/x~1y~0z", "/metadata/annotations/okg-sidecar~1decided"];

const RECORD: &str = "okg-sidecar/decided";

/// Gives no more than so many bytes at once.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(self.1);
        self.0.read(&mut into[..most])
    }
}

/// An object without a key that stands twice, of which it would not be clear which one counts.
fn read_whole(bytes: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let compact = value.to_string();
    let stripped: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    // As many signs as it has: nothing was dropped.
    (compact.len() == stripped.len()).then_some(value)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let kept = object(Pieces(bytes, usize::from(*size) + 1), &POINTERS);
    let again = object(bytes, &POINTERS);
    assert_eq!(kept.as_ref().ok(), again.as_ref().ok());
    let refusal = status(bytes);
    assert!(refusal.message.is_none_or(|message| message.len() <= bytes.len()));
    let Ok(answer) = kept else { return };
    assert!(!answer.resource_version.is_empty() && answer.resource_version.len() <= 256);
    assert!(answer.owner.as_ref().is_none_or(|uid| uid.len() <= 256));
    assert!(answer.records.len() <= 16 && answer.managers.len() <= 16);
    for (pointer, text) in &answer.records {
        assert!(pointer.len() <= 512 && text.as_str().is_none_or(|text| text.len() <= 8192));
    }
    for manager in &answer.managers {
        assert!(manager.name.len() <= 256);
        assert!(!manager.fields.is_empty() && manager.fields.len() <= POINTERS.len() + 16);
    }
    let Some(whole) = read_whole(bytes) else { return };
    assert_eq!(whole["metadata"]["resourceVersion"], answer.resource_version.as_str());
    let scalars: BTreeMap<String, Value> = POINTERS
        .iter()
        .filter_map(|pointer| Some(((*pointer).to_owned(), whole.pointer(pointer)?.clone())))
        .filter(|(_, value)| !value.is_object() && !value.is_array() && value.as_str().is_none_or(|text| text.len() <= 8192))
        .collect();
    assert_eq!(scalars, answer.values);
    let annotations = whole["metadata"]["annotations"].as_object();
    let records = annotations.map_or(0, |all| all.keys().filter(|key| key.starts_with(RECORD) && key.len() < 256).count());
    assert!(answer.records.len() >= records.min(16));
});
