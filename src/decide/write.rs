//! Owns what the two kinds of writes have in common (behaviour 4.5, 8.2): a patch, and what follows from its answer.

use std::time::Duration;

use serde_json::Value;

use super::decision::Fields;
use super::pace::Pace;
use super::record::Record;

/// A patch of one object.
#[derive(Debug)]
pub struct Patch {
    /// As it is sent.
    pub body: Value,
    /// The fields in it, without the record and the preconditions.
    pub fields: Fields,
    /// The record in it, of a GameServer.
    pub record: Record,
    /// When it was made, since the start of the process.
    pub at: Duration,
}

/// What a patch changed: the field, what it was before where that is known, and the value now.
pub type Change = (String, Option<Value>, Value);

/// The write of one object. Times are since the start of the process.
pub trait Write {
    /// When it is tried again, and with which fields.
    fn pace(&mut self) -> &mut Pace;

    /// The API server confirmed the patch, when all this was `decided`. Gives what changed by it.
    fn confirmed(&mut self, patch: &Patch, decided: &Fields) -> Vec<Change>;

    /// The patch got no answer by `now`: it may have taken effect, and may still.
    fn unanswered(&mut self, patch: &Patch, now: Duration);

    /// The object was not there, or was another pod's: what was confirmed of it says nothing about the next one.
    fn missing(&mut self);
}
