//! The sidecar beside games that it did not write (behaviour 2.3 to 2.8, 3.9 to 3.12, 5.5); started by `tests/games.sh`, which
//! brings up the servers.
//!
//!     games servers PLAYERS [NAME=VALUE]...    cases on standard input; the servers report the number in PLAYERS
//!     games recipes                            the endpoints of docs/migration.md, each with its script in a shell
//!     games example                            deploy/examples/script, in a root of its own; needs root

mod example;
mod recipes;
mod servers;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((mode, [players, variables @ ..])) if mode == "servers" => servers::run(players.as_ref(), variables),
        Some((mode, [])) if mode == "recipes" => recipes::run(),
        Some((mode, [])) if mode == "example" => example::run(),
        _ => {
            eprintln!("usage: games servers PLAYERS [NAME=VALUE]... | games recipes | games example");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
