//! Owns what a history is made of: steps that a person can read and that can be left out one by one, drawn from a seed.

use okg_sidecar::config::Config;

/// splitmix64: the same numbers from the same seed everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// What the probes of one endpoint find from now on.
#[derive(Debug, Clone, PartialEq)]
pub enum Game {
    Says(&'static str),
    SaysMuch,
    Refuses,
    Hangs,
    /// The sidecar is out of file descriptors: no outcome at all.
    CannotBeAsked,
}

/// What happens to one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// No connection: it cannot have been sent.
    NoConnection,
    /// It is lost on its way, and the client gives up after ten seconds.
    Lost,
    /// The client gives up; the server handles the request so many milliseconds after it was sent.
    Late(u64),
    /// It is handled, and the answer never arrives.
    NoAnswer,
    /// It is handled, and the answer breaks off or cannot be understood.
    Broken,
    /// A status without an effect, and the seconds of its Retry-After.
    Status(u16, Option<u64>),
    /// 500 although it was handled.
    ErrorWithEffect,
    /// Another writer is faster by a moment.
    After(Writer),
    /// Another live process is stepped a moment before.
    AfterOtherProcess,
}

/// What others write.
#[derive(Debug, Clone, PartialEq)]
pub enum Writer {
    /// A matchmaker or an operator sets a field of the GameServer.
    Sets(&'static str, &'static str),
    /// A controller changes something that is none of the sidecar's.
    Touches,
    /// OpenKruiseGame writes all annotations, and in some versions the whole spec, from its cache, which is late by so many
    /// milliseconds.
    PutsBack(u64),
    /// Somebody removes the record.
    RemovesRecord,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Milliseconds.
    Wait(u64),
    Game(usize, Game),
    /// Of the next read of a GameServer that has none yet.
    Read(Fate),
    /// Of the next patch that has none yet.
    Patch(Fate),
    /// So many seconds of no connection, or of nothing but dropped packets.
    Outage(u64, bool),
    Writes(Writer),
    /// The API server refuses this value of this field from now on, with this status.
    Refuse(&'static str, &'static str, u16),
    AcceptAll,
    /// The GameServer is deleted, and created anew so many milliseconds later.
    RecreateGameServer(u64),
    RecreateTarget(u64),
    /// The process ends and another one starts; requests on their way stay on it.
    Restart,
    /// The same of a process of an earlier pod, if one lives.
    RestartOld,
    /// Another of the configs.
    Reload(usize),
    /// Another pod of this name takes over. The old pod's process may live on for a while; the GameServer, when the pod
    /// owns it, is collected so many milliseconds later.
    NewPod(bool, u64),
}

/// What stays the same through a history.
#[derive(Debug, Clone)]
pub struct Setting {
    pub seed: u64,
    pub configs: Vec<(String, Config)>,
    /// Whether the Pod owns the GameServer, and not the GameServerSet.
    pub pod_owns: bool,
    /// Whether anything tells the pod's uid.
    pub knows_uid: bool,
    /// Whether tokens show when they were issued; legacy ones do not.
    pub knows_issue_time: bool,
    /// Whether OpenKruiseGame writes the whole spec from its cache, as 1.0.0 does.
    pub writes_whole_spec: bool,
    pub starts_with_game_server: bool,
}

pub const TEXTS: [&str; 6] = ["A", "B", "C", "7", "12", "no label"];

fn fate(random: &mut Random) -> Fate {
    match random.below(16) {
        0 => Fate::NoConnection,
        1 | 2 => Fate::Lost,
        3..=5 => Fate::Late(random.pick(&[1, 500, 3_000, 9_000, 11_000, 20_000, 34_000])),
        6 | 7 => Fate::NoAnswer,
        8 => Fate::Broken,
        9 => Fate::Status(
            random.pick(&[409, 429, 500, 503, 403, 504]),
            random.pick(&[None, None, Some(1), Some(30), Some(999)]),
        ),
        10 => Fate::ErrorWithEffect,
        11..=14 => Fate::After(writer(random)),
        _ => Fate::AfterOtherProcess,
    }
}

fn writer(random: &mut Random) -> Writer {
    match random.below(10) {
        0..=3 => Writer::Sets("/spec/opsState", random.pick(&["None", "Allocated", "WaitToBeDeleted", "Maintaining"])),
        4 => Writer::Sets("/spec/opsState", "Maintaining"),
        5 => Writer::Sets(
            random.pick(&["/spec/deletionPriority", "/spec/updatePriority", "/spec/x"]),
            random.pick(&["1", "7", "A"]),
        ),
        6 | 7 => Writer::Touches,
        8 => puts_back(random),
        _ => Writer::RemovesRecord,
    }
}

fn puts_back(random: &mut Random) -> Writer {
    Writer::PutsBack(random.pick(&[1, 100, 1_000, 3_000, 6_000, 10_000]))
}

fn game(random: &mut Random) -> Game {
    match random.below(12) {
        0..=7 => Game::Says(random.pick(&TEXTS)),
        8 => Game::SaysMuch,
        9 => Game::Refuses,
        10 => Game::Hangs,
        _ => {
            if random.one_in(4) {
                Game::CannotBeAsked
            } else {
                Game::Refuses
            }
        }
    }
}

/// The history of a seed. Half of them are short, so that a mistake shows in few steps.
pub fn steps(random: &mut Random, setting: &Setting) -> Vec<Step> {
    let count = if random.one_in(2) { 6 + random.below(8) } else { 13 + random.below(30) };
    // Each history has its own mixture, so that some have much of one kind.
    let mut weights: Vec<u64> = (0..12).map(|_| random.pick(&[0, 1, 1, 3])).collect();
    weights[0] = 6;
    weights[1] = 5;
    weights[2] += 2;
    let total: u64 = weights.iter().sum();
    let mut steps = vec![Step::Game(0, game(random)), Step::Game(1, game(random)), Step::Game(2, game(random))];
    while steps.len() < count as usize {
        if random.one_in(12) {
            steps.extend(figure(random, setting));
            continue;
        }
        let mut at = random.below(total);
        let kind = weights.iter().position(|weight| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        steps.push(match kind.unwrap_or_default() {
            0 => Step::Wait(random.pick(&[1, 100, 1_000, 3_000, 6_000, 11_000, 30_000, 61_000])),
            1 => Step::Game(random.below(3) as usize, game(random)),
            2 => Step::Patch(fate(random)),
            3 => Step::Writes(writer(random)),
            4 if random.one_in(4) => Step::RestartOld,
            4 => Step::Restart,
            5 => Step::Reload(random.below(setting.configs.len() as u64) as usize),
            6 => Step::Read(fate(random)),
            7 => match random.below(3) {
                0 => Step::AcceptAll,
                _ => {
                    let (pointer, value) = random.pick(&[
                        ("/spec/opsState", "None"),
                        ("/spec/opsState", "Allocated"),
                        ("/spec/deletionPriority", "1"),
                        ("/spec/updatePriority", "7"),
                        ("/spec/x", "A"),
                        ("/metadata/labels/l1", "x"),
                        ("/metadata/labels/l2", "A"),
                        ("/data/a", "B"),
                    ]);
                    Step::Refuse(pointer, value, random.pick(&[422, 400]))
                }
            },
            8 => Step::RecreateGameServer(random.pick(&[0, 0, 1_000, 8_000, 150_000])),
            9 => Step::RecreateTarget(random.pick(&[0, 1_000, 8_000])),
            10 if setting.knows_uid => Step::NewPod(random.one_in(2), random.pick(&[0, 1_000, 8_000, 30_000])),
            10 => Step::Restart,
            _ => Step::Outage(random.pick(&[1, 10, 40, 130]), random.one_in(2)),
        });
    }
    steps
}

/// Steps that mean something together and come together too seldom by themselves: a game that says one thing and another
/// and the first again, and what may happen between.
fn figure(random: &mut Random, setting: &Setting) -> Vec<Step> {
    let at = random.below(3) as usize;
    let says = |text| Step::Game(at, Game::Says(text));
    let (first, second) = (random.pick(&TEXTS), random.pick(&TEXTS));
    let wait = |random: &mut Random| Step::Wait(random.pick(&[100, 6_000, 11_000, 30_000]));
    let mut steps = vec![says(first), Step::Wait(61_000)];
    let set = |random: &mut Random| Writer::Sets("/spec/opsState", random.pick(&["None", "Allocated", "Maintaining"]));
    match random.below(8) {
        0 => steps.extend([Step::Patch(fate(random)), says(second), wait(random), says(first)]),
        1 => {
            let within = random.pick(&[500, 3_000, 6_000, 9_000]);
            steps.extend([says(second), Step::Wait(within), Step::Writes(puts_back(random)), says(first)]);
        }
        2 => steps.extend([Step::RecreateGameServer(30_000), says(second), wait(random), says(first)]),
        3 => {
            let reload = Step::Reload(random.below(setting.configs.len() as u64) as usize);
            let next = random.pick(&[reload, Step::Restart]);
            let within = random.pick(&[500, 3_000, 6_000, 9_000]);
            steps.extend([says(second), Step::Wait(within), Step::Writes(puts_back(random)), next]);
        }
        4 => {
            let within = random.pick(&[500, 3_000, 6_000, 9_000]);
            steps.extend([
                says(second),
                Step::Wait(within),
                Step::Restart,
                Step::Wait(100),
                Step::Writes(puts_back(random)),
            ]);
        }
        // A word that no policy knows lets go, and a matchmaker sets what it likes.
        5 | 6 => {
            let lost = Step::Patch(fate(random));
            let between = random.pick(&[Step::Wait(1), Step::Restart, lost]);
            let word = random.pick(&["C", "unknown", "12"]);
            steps.extend([says(word), between, wait(random), Step::Writes(set(random)), says(first)]);
        }
        _ => steps.extend([
            Step::Writes(set(random)),
            Step::Wait(random.pick(&[1, 3_000])),
            says(second),
            Step::Wait(random.pick(&[500, 6_000])),
            Step::Writes(puts_back(random)),
        ]),
    }
    steps.push(wait(random));
    steps
}

/// A config as a person would write it, and not too large to be read in a failure.
pub fn config_text(random: &mut Random) -> String {
    let endpoints: Vec<String> = (0..1 + random.below(3)).map(|index| endpoint(random, index)).collect();
    let resync = if random.one_in(4) { random.pick(&[20, 60]) } else { 0 };
    format!(
        "plugins: [{{name: http_probe, config: {{startDelaySeconds: {}, probeIntervalSeconds: {}, resyncSeconds: {resync}, \
         endpoints: [\n  {}]}}}}]\n",
        random.pick(&[0, 3]),
        random.pick(&[5, 10, 20]),
        endpoints.join(",\n  ")
    )
}

fn endpoint(random: &mut Random, index: u64) -> String {
    let states = ["A", "B", "C", "Succeeded", "Failed"];
    let mut policies = Vec::new();
    for state in states {
        if random.one_in(2) {
            policies.push(policy(random, state));
        }
        // What a condition sets once it has lasted, beside what it sets at once or without.
        if state != "Failed" && random.one_in(8) {
            let lasting = format!("{{forSeconds: {}, ", random.pick(&[1, 9, 25, 60]));
            policies.push(policy(random, state).replacen('{', &lasting, 1));
        }
    }
    if random.one_in(3) {
        policies.push(policy(random, "").replace("state: ''", "min: 5, max: 10"));
    }
    let mut storage = Vec::new();
    if !policies.is_empty() {
        storage.push(format!("markerPolices: [{}]", policies.join(", ")));
    }
    if random.one_in(3) {
        storage.push(format!("labelKey: {}", random.pick(&["l1", "l2", "k"])));
    }
    if random.one_in(5) {
        storage.push(format!("annotationKey: {}", random.pick(&["a1", "a2"])));
    }
    let target = ", target: {version: v1, resource: configmaps, name: rooms}";
    match random.below(6) {
        0 => storage.push("jsonPath: /spec/x".into()),
        1 => storage.push(format!("jsonPath: {}{target}", random.pick(&["/data/a", "/data/b"]))),
        2 if policies.is_empty() => storage.push("jsonPath: /spec/deletionPriority".into()),
        _ => {}
    }
    if storage.is_empty() {
        storage.push(format!("jsonPath: /data/a{target}"));
    }
    if random.one_in(3) {
        storage.push("protectedOpsStates: [Maintaining]".into());
    }
    format!(
        "{{url: 'http://h/{index}', timeout: 5, successThreshold: {}, failureThreshold: {}, storageConfig: {{type: InKube, \
         inKube: {{{}}}}}}}",
        random.pick(&[1, 1, 2, 3]),
        random.pick(&[1, 2, 3]),
        storage.join(", ")
    )
}

fn policy(random: &mut Random, state: &str) -> String {
    let mut sets = Vec::new();
    if random.below(4) > 0 {
        let ops_state = random.pick(&["None", "Allocated", "WaitToBeDeleted", "Maintaining"]);
        sets.push(format!("gameServerOpsState: {ops_state}"));
    }
    // A failure has no result.
    let result = if state == "Failed" { "1" } else { "'{{.Result}}'" };
    if random.one_in(3) {
        sets.push(format!("gameServerDeletionPriority: {}", random.pick(&["1", "2", result])));
    }
    if random.one_in(6) {
        sets.push(format!("gameServerUpdatePriority: {}", random.pick(&["7", result])));
    }
    if random.one_in(3) {
        let label = random.pick(&["l1: x", "l1: y", "l2: x", "l1: x, l2: y"]);
        sets.push(format!("labels: {{{label}}}"));
    }
    if random.one_in(5) {
        sets.push(format!("annotations: {{a1: {result}}}"));
    }
    if sets.is_empty() {
        sets.push("gameServerOpsState: None".into());
    }
    format!("{{state: '{state}', {}}}", sets.join(", "))
}
