//! Owns what the demo looks like: columns of at most 100 characters, and colours where somebody looks at them.

use std::env;
use std::io::{self, IsTerminal};
use std::time::Instant;

/// Standard output.
pub(crate) struct Screen {
    started: Instant,
    coloured: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        // <https://no-color.org>
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { started: Instant::now(), coloured: io::stdout().is_terminal() && !unwanted }
    }

    pub(crate) fn header(&self, names: [&str; 3]) {
        let [first, second, third] = names;
        println!("        {first:<12}{second:<13}{third:<16} writes  deleted next, and why");
    }

    /// What happens, before its row.
    pub(crate) fn news(&self, text: &str) {
        println!("{}", self.paint(BOLD, &format!("-- {text}")));
    }

    /// What the three GameServers say, how many writes there were so far, and who would go next.
    pub(crate) fn row(&self, states: &[String], writes: usize, next: &str, why: &str) {
        let widths = [12, 13, 16];
        let columns = states.iter().zip(widths);
        let states: String = columns.map(|(state, width)| self.paint(colour(state), &format!("{state:<width$}"))).collect();
        let time = self.started.elapsed().as_secs_f64();
        println!("{time:5.1}s  {states} {writes:>6}  {}: {why}", self.paint(BOLD, next));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Codes of SGR, as in ECMA-48.
const BOLD: &str = "1";

fn colour(state: &str) -> &'static str {
    match state {
        "Allocated" => "32",
        "WaitToBeDeleted" => "33",
        "Maintaining" => "31",
        _ => "0",
    }
}
