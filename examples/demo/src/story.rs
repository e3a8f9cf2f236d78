//! Owns the story: what happens, and what each step must come to.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::scale_down;
use crate::screen::Screen;

/// How long a step may take. It takes 2 s at most if the machine is not busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between a row and the next event, for the reader.
const PAUSE: Duration = Duration::from_millis(600);

const INTRODUCTION: &str = "\
Three game servers, each with a sidecar that asks the game every second how it is, and sets opsState
of the GameServer. To scale down, OpenKruiseGame deletes WaitToBeDeleted first, then None, Allocated
and Maintaining, among equals the highest index. Without sidecars every opsState stays None, and
tank-war-2 is deleted first, whoever plays on it.
The sidecars are real, a process each. The games and the API server are stand-ins.
";

const NEXT: &str = "
tank-war-0 keeps Allocated: its GameServer remembers what the sidecar wrote last (None), and a game
that still answers None reports nothing new.

Next, in a cluster with OpenKruiseGame (README.md, See that it works):
  kubectl apply -k deploy/examples/tank-war";

/// Tells the story as it comes true.
///
/// # Errors
/// The step that did not come true.
pub(crate) fn tell(fleet: &mut Fleet) -> Result<(), Box<dyn Error>> {
    let screen = Screen::new();
    screen.text(INTRODUCTION)?;
    screen.headings(&fleet.names())?;

    screen.event("The servers start. Nobody plays.")?;
    for index in 0..3 {
        fleet.start_sidecar(index)?;
    }
    Scene { states: ["None", "None", "None"], writes: 3, next: 2, why: "all idle, the highest index" }
        .comes_true(fleet, &screen)?;

    screen.event("Players join tank-war-2.")?;
    fleet.game_answers(2, 200, "Allocated");
    Scene { states: ["None", "None", "Allocated"], writes: 4, next: 1, why: "idle, 2 has players" }
        .comes_true(fleet, &screen)?;

    screen.event("tank-war-1 fails: its game answers 500, twice in a row.")?;
    fleet.game_answers(1, 500, "out of memory");
    Scene { states: ["None", "Maintaining", "Allocated"], writes: 5, next: 0, why: "idle, 1 waits for an operator" }
        .comes_true(fleet, &screen)?;

    screen.event("The match on tank-war-2 is over.")?;
    fleet.game_answers(2, 200, "WaitToBeDeleted");
    Scene { states: ["None", "Maintaining", "WaitToBeDeleted"], writes: 6, next: 2, why: "its match is over" }
        .comes_true(fleet, &screen)?;

    screen
        .event("A matchmaker sets tank-war-0 to Allocated while its sidecar restarts. Its game still answers None.")?;
    fleet.kill_sidecar(0);
    fleet.somebody_sets(0, "matchmaker", "Allocated");
    let probes = fleet.probes_of(0);
    fleet.start_sidecar(0)?;
    // When the third probe comes, the results of the first two have been acted on.
    wait_until("the new sidecar has probed three times", fleet, |fleet| fleet.probes_of(0) >= probes + 3)?;
    Scene {
        states: ["Allocated", "Maintaining", "WaitToBeDeleted"],
        writes: 7,
        next: 2,
        why: "still, 0 stays Allocated",
    }
    .comes_true(fleet, &screen)?;

    screen.event("tank-war-1 recovers: its game answers again.")?;
    fleet.game_answers(1, 200, "None");
    Scene { states: ["Allocated", "None", "WaitToBeDeleted"], writes: 8, next: 2, why: "then 1, and 0 last" }
        .comes_true(fleet, &screen)?;

    let (probes, writes, reads) = (fleet.probes(), fleet.writes(), fleet.reads());
    if reads != writes {
        return Err(format!("there were {reads} reads for {writes} writes").into());
    }
    screen.text(&format!(
        "\n{probes} probes, {writes} writes: one when a sidecar starts, one when a game changes, each with a read \
         before it.\nWhile nothing changes, the API server gets no request.{NEXT}"
    ))?;
    Ok(())
}

/// What a step comes to.
struct Scene {
    /// The opsState of each GameServer.
    states: [&'static str; 3],
    /// Since the start.
    writes: usize,
    /// The server that OpenKruiseGame would delete.
    next: usize,
    why: &'static str,
}

impl Scene {
    /// Waits for it and shows it.
    fn comes_true(&self, fleet: &mut Fleet, screen: &Screen) -> Result<(), Box<dyn Error>> {
        let what = format!("{} after {} writes", self.states.join(", "), self.writes);
        wait_until(&what, fleet, |fleet| fleet.states() == self.states && fleet.writes() == self.writes)?;
        let next = scale_down::order(&fleet.game_servers())[0];
        let names = fleet.names();
        if next != self.next {
            return Err(format!("{} would be deleted next, not {}", names[next], names[self.next]).into());
        }
        screen.row(&fleet.states(), fleet.writes(), names[next], self.why)?;
        thread::sleep(PAUSE);
        Ok(())
    }
}

fn wait_until(what: &str, fleet: &mut Fleet, holds: impl Fn(&Fleet) -> bool) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    while !holds(fleet) {
        fleet.all_run()?;
        if Instant::now() > deadline {
            let (states, writes) = (fleet.states().join(", "), fleet.writes());
            return Err(format!("not within {PATIENCE:?}: {what}; it is {states} after {writes} writes").into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
