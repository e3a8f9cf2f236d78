//! Owns the faults by name, the dice that choose among them, and how a game misbehaves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stand_ins::{Behaviour, Game};

/// Faults of a game.
pub(super) const GAME: [&str; 22] = [
    "unknown result",
    "status 500",
    "redirect",
    "not UTF-8",
    "SSH banner",
    "status 000",
    "two lengths",
    "half a header",
    "a terabyte announced",
    "no length, held",
    "huge body",
    "dripped headers",
    "dripped body",
    "endless body",
    "endless chunks",
    "endless headers",
    "endless 1xx",
    "closed at once",
    "reset",
    "no answer",
    "late answer",
    "game gone",
];

/// Faults of the API server.
pub(super) const API: [&str; 35] = [
    "dropped before TLS",
    "dropped after TLS",
    "hangs before TLS",
    "hangs after the request",
    "applied, then dropped",
    "applied, then 504",
    "late writes",
    "reads broken off",
    "writes broken off",
    "answers too long",
    "slow",
    "dripped response",
    "endless answer",
    "endless headers",
    "huge answer",
    "no HTTP",
    "status 500",
    "503, Retry-After 1",
    "503, Retry-After -1",
    "503, Retry-After a date",
    "429, Retry-After 3",
    "429, Retry-After 10^9",
    "status 400",
    "status 401",
    "status 403",
    "Pods forbidden",
    "status 404",
    "status 409",
    "status 422",
    "writes refused",
    "a field refused",
    "redirect",
    "server gone",
    "another's certificate",
    "long outage",
];

/// Faults of the mounted files.
pub(super) const FILES: [&str; 13] = [
    "token renewed",
    "token renewed late",
    "token emptied",
    "token gone",
    "CA renewed",
    "CA bundle",
    "CA truncated",
    "CA emptied",
    "account volume empty",
    "another config",
    "broken config",
    "oversized config",
    "config gone",
];

/// What others do to the objects.
pub(super) const OBJECTS: [&str; 12] = [
    "matchmaker's edit",
    "matchmaker between read and patch",
    "operator's Maintaining",
    "controller's edit",
    "controller between reads and patches",
    "pod edited",
    "GameServer recreated",
    "recreated between read and patch",
    "previous pod's GameServer",
    "cache written back",
    "record gone",
    "record broken",
];

/// What is done to the process.
pub(super) const PROCESS: [&str; 5] =
    ["stopped and continued", "killed", "killed in a read", "killed in a write", "terminated"];

/// splitmix64, so that a seed means the same everywhere.
pub(super) struct Dice(u64);

impl Dice {
    /// The next number.
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, count: usize) -> usize {
        (self.roll() % count as u64) as usize
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.roll() % (most - least))
    }
}

/// One side that faults come from, with dice of its own: what it does does not depend on the others' pace.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) kinds: &'static [&'static str],
    pub(super) dice: Dice,
    /// Kinds that have not come yet.
    pub(super) unseen: Vec<&'static str>,
    pub(super) seen: BTreeMap<&'static str, usize>,
    /// The fault that is on; none in between.
    pub(super) current: Option<&'static str>,
    pub(super) next: Instant,
}

impl Side {
    pub(super) fn new(name: &'static str, kinds: &'static [&'static str], seed: u64) -> Self {
        let salt = name.bytes().fold(seed, |salt, byte| salt.wrapping_mul(31).wrapping_add(byte.into()));
        let mut dice = Dice(salt);
        let mut unseen = kinds.to_vec();
        for index in (1..unseen.len()).rev() {
            unseen.swap(index, dice.below(index + 1));
        }
        Self { name, kinds, dice, unseen, seen: BTreeMap::new(), current: None, next: Instant::now() }
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    pub(super) fn begin(&mut self) -> &'static str {
        let kind = self.unseen.pop().unwrap_or_else(|| self.dice.one_of(self.kinds));
        *self.seen.entry(kind).or_default() += 1;
        self.current = Some(kind);
        kind
    }

    pub(super) fn wait(&mut self, least_ms: u64, most_ms: u64) {
        self.next = Instant::now() + self.dice.millis(least_ms, most_ms);
    }
}

/// Lets the game misbehave in this way.
pub(super) fn misbehave(kind: &str, game: &Game) {
    let raw = |head: &str| Behaviour::Raw(head.as_bytes().to_vec());
    let held = |head: &str| Behaviour::RawThenHold(head.as_bytes().to_vec());
    let fast = Duration::from_millis(5);
    let behaviour = match kind {
        "unknown result" => Behaviour::answer(200, "what \u{1b}[31m\nINFO forged"),
        "status 500" => Behaviour::answer(500, "None"),
        "redirect" => Behaviour::answer_with(302, &[("Location", "/elsewhere")], "Allocated"),
        "not UTF-8" => Behaviour::answer(200, b"\xff\xfeAllocated"),
        "SSH banner" => raw("SSH-2.0-OpenSSH_9.2\r\n"),
        "status 000" => raw("HTTP/1.1 000 None\r\nContent-Length: 4\r\n\r\nNone"),
        "two lengths" => raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 9\r\n\r\nNoneOrMore"),
        "half a header" => held("HTTP/1.1 200 OK\r\nContent-Le"),
        "a terabyte announced" => held("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\nNone"),
        "no length, held" => held("HTTP/1.1 200 OK\r\n\r\nNone"),
        "huge body" => Behaviour::answer(200, vec![b'N'; 4 << 20]),
        "dripped headers" => Behaviour::DripHeaders(fast),
        "dripped body" => Behaviour::DripBody(fast),
        "endless body" => Behaviour::EndlessBody,
        "endless chunks" => Behaviour::EndlessChunks,
        "endless headers" => Behaviour::EndlessHeaders,
        "endless 1xx" => Behaviour::Endless1xx,
        "closed at once" => Behaviour::CloseAtOnce,
        "reset" => Behaviour::Reset,
        "no answer" => Behaviour::HoldWithoutAnswer,
        "late answer" => Behaviour::After(Duration::from_millis(700), Box::new(Behaviour::answer(200, "Allocated"))),
        _ => {
            assert_eq!(kind, "game gone");
            game.stop();
            return;
        }
    };
    game.behave(behaviour);
}
