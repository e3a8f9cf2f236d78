//! Owns the parts of docs/costs.md that the measuring scripts write: each stands between two comments, and is replaced as a
//! whole.

pub mod pods;
pub mod wait;

use std::fs;

/// In the repository, so that it is found from any directory.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/costs.md");

/// Puts `text` between `<!-- begin NAME … -->` and `<!-- end NAME -->`. Panics if the document has no such comments.
pub fn write(name: &str, text: &str) {
    let document = fs::read_to_string(DOCUMENT).unwrap_or_else(|error| panic!("cannot read {DOCUMENT}: {error}"));
    let begin = document.find(&format!("<!-- begin {name} ")).expect("docs/costs.md has the part's first comment");
    let begin = begin + document[begin..].find("-->\n").expect("the comment ends with its line") + "-->\n".len();
    let end =
        begin + document[begin..].find(&format!("<!-- end {name} -->")).expect("docs/costs.md has its last comment");
    let written = format!("{}\n{}\n\n{}", &document[..begin], text.trim(), &document[end..]);
    write_file("costs.md", &written);
}

/// Writes a whole file of docs/.
pub fn write_file(name: &str, text: &str) {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
    println!("written to docs/{name}");
}

/// The line on the machine below each measured table: processor, cores, kernel and the load at the time.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: String = kernel.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!("{}, {model}, {cores} cores, Linux {kernel}, load average {load} when it began", std::env::consts::ARCH)
}

/// `1,733,320` for `1733320`.
pub fn with_commas(number: &str) -> String {
    let (whole, decimals) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + decimals
}
