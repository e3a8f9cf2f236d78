//! Owns every decision: from a reading to an opinion, from opinions to the fields that objects should have, and when
//! to write them. Refuses all input and output, clocks and randomness: times are durations since the start, and chance
//! is a number that the caller drew.

pub mod episode;
pub mod json_path;
pub mod patch;
pub mod pending;
pub mod policy;
pub mod schedule;
pub mod tracker;
