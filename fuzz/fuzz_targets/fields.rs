//! What is true for the fields that are made of any datagram.

use okg_sidecar::probe::document::{Content, Document};
use okg_sidecar::probe::fields::Fields;

/// The document is JSON with the numbers that a rule asks for, and does not grow with what the server sends.
pub fn check(fields: Fields<'_>) {
    let (players, bots) = (fields.players, fields.bots);
    let Content::Whole(bytes) = Document::from(fields).content else { panic!("it is whole") };
    assert!(bytes.len() < 32 * 1024, "{} bytes", bytes.len());
    assert!(!bytes.iter().any(u8::is_ascii_control), "{bytes:?}");
    let json: serde_json::Value = serde_json::from_slice(&bytes).expect("it is JSON");
    assert_eq!(json["players"], players);
    assert_eq!(json.get("bots").cloned(), bots.map(Into::into));
}
