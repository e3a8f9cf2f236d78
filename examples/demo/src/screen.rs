//! Owns what the demo looks like: lines of at most 100 characters, and colours if somebody looks at them.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// Wide enough for the widest state that each GameServer comes to.
const WIDTHS: [usize; 3] = [12, 13, 16];

/// Select Graphic Rendition (ECMA-48).
const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const PLAIN: &str = "0";

/// Standard output.
pub(crate) struct Screen {
    started: Instant,
    coloured: bool,
}

impl Screen {
    /// Coloured on a terminal, unless NO_COLOR is set (<https://no-color.org>).
    pub(crate) fn new() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { started: Instant::now(), coloured: io::stdout().is_terminal() && !unwanted }
    }

    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        writeln!(io::stdout(), "{text}")
    }

    pub(crate) fn headings(&self, names: &[&str]) -> io::Result<()> {
        let names: String = names.iter().zip(WIDTHS).map(|(name, width)| format!("{name:<width$}")).collect();
        self.text(&format!("        {names}  writes  would be deleted next"))
    }

    /// What happens, above the row that shows what it comes to.
    pub(crate) fn event(&self, text: &str) -> io::Result<()> {
        self.text(&format!("- {}", self.paint(BOLD, text)))
    }

    /// The states of the GameServers, the number of writes so far, and the server that would be deleted next, with the reason.
    pub(crate) fn row(&self, states: &[String], writes: usize, next: &str, why: &str) -> io::Result<()> {
        let time = self.started.elapsed().as_secs_f64();
        let cell = |(state, width): (&String, usize)| self.paint(colour(state), &format!("{state:<width$}"));
        let states: String = states.iter().zip(WIDTHS).map(cell).collect();
        self.text(&format!("{time:5.1}s  {states}  {writes:>6}  {}: {why}", self.paint(BOLD, next)))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn colour(state: &str) -> &'static str {
    match state {
        "Allocated" => GREEN,
        "WaitToBeDeleted" => YELLOW,
        "Maintaining" => RED,
        _ => PLAIN,
    }
}
