//! Owns the keys of an RFC 6901 pointer, which names a value in JSON.

/// The keys of a pointer.
pub fn pointer_keys(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~"))
}

/// A key as a pointer contains it.
pub fn escaped_key(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
