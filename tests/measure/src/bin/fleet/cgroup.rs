//! Owns a cgroup of the sidecars' own, of version 1 or 2, which counts their memory with the kernel's part of it: page
//! tables, stacks, sockets.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stand_ins::holds_within;

/// The file with the memory, in version 2 and 1.
const MEMORY: [&str; 2] = ["memory.current", "memory.usage_in_bytes"];

/// A cgroup, until it is dropped.
pub(crate) struct Cgroup {
    path: PathBuf,
    memory: PathBuf,
}

impl Cgroup {
    /// None if this process may make none, or none that counts memory.
    pub(crate) fn new() -> Option<Self> {
        let name = format!("okg-sidecar-fleet-{}", std::process::id());
        mounts().into_iter().find_map(|parent| {
            let path = parent.join(&name);
            fs::create_dir(&path).ok()?;
            match MEMORY.map(|file| path.join(file)).into_iter().find(|file| file.exists()) {
                Some(memory) => Some(Self { path, memory }),
                None => fs::remove_dir(&path).ok().and(None),
            }
        })
    }

    /// A process joins when it writes its number there.
    pub(crate) fn members(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        fs::read_to_string(&self.memory).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last of its processes ended a moment ago.
        holds_within(Duration::from_secs(10), || fs::remove_dir(&self.path).is_ok());
    }
}

/// Where a cgroup that counts memory may be made: under this process's own, so that a limit of that still applies, else
/// right under the mount point.
fn mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_mount = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let (path, kind, options) = (Path::new(*fields.get(1)?), *fields.get(2)?, *fields.get(3)?);
        let counts = kind == "cgroup2" || kind == "cgroup" && options.split(',').any(|option| option == "memory");
        let controllers = if kind == "cgroup2" { "" } else { "memory" };
        let own = own.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (of, path) = line.split_once(':')?;
            of.split(',').any(|controller| controller == controllers).then(|| path.trim_start_matches('/'))
        });
        counts.then(|| [path.join(own.unwrap_or_default()), path.to_owned()])
    };
    mounts.lines().filter_map(of_mount).flatten().collect()
}
