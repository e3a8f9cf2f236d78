//! Owns every decision: from an outcome to an opinion, from opinions to what every object should hold, and what to send
//! when, given what was read. Refuses all input and output, clocks and randomness: times are durations since the start,
//! and jitter is a number that the caller drew.

pub mod condition;
pub mod decision;
pub mod exclusive;
pub mod failure;
pub mod fault_log;
pub mod guarded;
pub mod merge_patch;
pub mod object;
pub mod opinion;
pub mod pace;
pub mod policy;
pub mod record;
pub mod schedule;
pub mod write;
