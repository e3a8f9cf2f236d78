//! Owns the config file: reading it, and noticing that it changed (behaviour 2.8, 2.9). Refuses to watch: it is asked, and
//! costs one stat(2) while nothing changes.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};

use log::info;
use rustix::fs::OFlags;

use super::{Config, ConfigError};
use crate::excerpt::{MAX_CHARS, escape};

/// The config file, and what it was when it was last read.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    stamp: Option<Stamp>,
    refused: Vec<String>,
}

/// What changes when a file is written or a volume's `..data` link is swapped: device, inode, size, mtime and ctime.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl ConfigFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn open(path: PathBuf) -> Result<(Self, Config), ConfigError> {
        // Before the file is read, so that a change in between is seen next time.
        let stamp = stamp(&path);
        let config = load(&path)?;
        Ok((Self { path, stamp, refused: Vec::new() }, config))
    }

    /// The configuration when the file has changed since the last call and can be used.
    ///
    /// # Errors
    /// Everything that is wrong with it, once.
    pub fn changed(&mut self) -> Result<Option<Config>, ConfigError> {
        let stamp = stamp(&self.path);
        if stamp == self.stamp {
            return Ok(None);
        }
        let loaded = load(&self.path);
        // A file that could not be read, be it for want of a descriptor, is checked again next time.
        self.stamp = stamp.filter(|_| !loaded.as_ref().is_err_and(|error| error.unreadable));
        match loaded {
            Ok(config) => {
                if !self.refused.is_empty() {
                    info!("{}: can be used again", self.path.display());
                    self.refused.clear();
                }
                Ok(Some(config))
            }
            Err(error) if error.problems == self.refused => Ok(None),
            Err(error) => {
                self.refused.clone_from(&error.problems);
                Err(error)
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
    Some((file.dev(), file.ino(), file.size(), modified, changed))
}

fn load(path: &Path) -> Result<Config, ConfigError> {
    Config::load(path, &|name| std::env::var(name).ok())
}

/// Reads at most one byte more than `most`, and of a regular file alone, so that nothing blocks; of standard input
/// where the path is `-`.
///
/// # Errors
/// The problem, and whether the file could not be read: that can change without the file.
pub(super) fn read(path: &Path, most: usize) -> Result<Vec<u8>, (String, bool)> {
    let unreadable = |error: io::Error| (format!("must be readable: {error}{}", what_is_there(path, &error)), true);
    let mut bytes = Vec::new();
    let most = most as u64 + 1;
    if path.as_os_str() == "-" {
        // Not by the name /dev/stdin, which the kernel opens for nobody whose binary cannot be read, as in the image.
        io::stdin().take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        // Asked before opening, which can have effects of its own or block, and again of what was opened.
        regular(&fs::metadata(path).map_err(unreadable)?)?;
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
        regular(&file.metadata().map_err(unreadable)?)?;
        file.take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    Ok(bytes)
}

fn regular(file: &Metadata) -> Result<(), (String, bool)> {
    let got = match file.file_type() {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err((format!("must be a regular file, got {got}"), false))
}

/// What is there in place of a file that is missing: a volume was not mounted, or the ConfigMap has another key.
fn what_is_there(path: &Path, error: &io::Error) -> String {
    let is_missing = error.kind() == ErrorKind::NotFound;
    let Some(path) = path::absolute(path).ok().filter(|_| is_missing) else { return String::new() };
    let (Some(volume), Some(key)) = (path.parent(), path.file_name()) else { return String::new() };
    let found = volume.ancestors().find_map(|directory| Some((directory, fs::read_dir(directory).ok()?)));
    let Some((directory, entries)) = found else { return String::new() };
    let mut names: Vec<String> = Vec::new();
    for name in entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        if !name.starts_with("..") {
            // No sort: it would be the only one in the binary, and take 8 KiB of it.
            names.insert(names.partition_point(|other| *other < name), name);
        }
    }
    let names = if names.is_empty() { "nothing".into() } else { escape(&names.join(", "), MAX_CHARS) };
    let [directory, volume, key] = [directory, volume, Path::new(key)].map(Path::display);
    format!("; {directory} holds {names}: mount the ConfigMap at {volume}, with the key {key}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    const CONFIG: &str = "plugins: [{name: http_probe, config: {endpoints: [{url: 'http://h', storageConfig: {type: \
                          InKube, inKube: {labelKey: room}}}]}}]";

    #[test]
    fn anything_but_a_regular_file_is_refused_and_blocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        symlink("pipe", path("link")).unwrap();
        for (file, got) in [
            (path("pipe"), "a named pipe"),
            (path("link"), "a named pipe"),
            (path("socket"), "a socket"),
            (folder.path().to_owned(), "a directory"),
            ("/dev/zero".into(), "a device"),
        ] {
            let refused = ConfigFile::open(file).unwrap_err();
            assert_eq!(refused.problems, [format!("must be a regular file, got {got}")]);
        }
    }

    #[test]
    fn a_missing_file_is_refused_with_what_is_there_instead() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        let refused = |path: &str| ConfigFile::open(folder.path().join(path)).unwrap_err().problems;
        let said = |entries: &str, volume: &str| {
            let missing = "must be readable: No such file or directory (os error 2)";
            let mount = format!("mount the ConfigMap at {root}{volume}, with the key config.yaml");
            [format!("{missing}; {root} holds {entries}: {mount}")]
        };
        assert_eq!(refused("config.yaml"), said("nothing", ""));
        for name in ["b", "..data", "config\n.yml"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(refused("config.yaml"), said("b, config\\n.yml", ""));
        assert_eq!(refused("absent/config.yaml"), said("b, config\\n.yml", "/absent"));
    }

    #[test]
    fn a_running_config_is_replaced_by_a_valid_one_and_by_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        // Another file each time, as in a volume: times alone may be too coarse to tell two writes apart.
        let replace = |text: &str| {
            fs::write(folder.path().join("new"), text).unwrap();
            fs::rename(folder.path().join("new"), &path).unwrap();
        };
        replace(CONFIG);
        let (mut file, config) = ConfigFile::open(path.clone()).unwrap();
        assert!(matches!(file.changed(), Ok(None)));
        replace(&format!("# the same\n{CONFIG}"));
        assert_eq!(file.changed().unwrap(), Some(config.clone()));
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(file.changed().unwrap_err().problems, ["must be a regular file, got a named pipe"]);
        assert!(matches!(file.changed(), Ok(None)), "it was reported");
        assert!(Command::new("touch").args(["-d", "2001-02-03"]).arg(&path).status().unwrap().success());
        assert!(matches!(file.changed(), Ok(None)), "nothing else is wrong with it");
        fs::remove_file(&path).unwrap();
        assert!(file.changed().unwrap_err().unreadable);
        assert!(matches!(file.changed(), Ok(None)), "it was reported");
        replace(CONFIG);
        assert_eq!(file.changed().unwrap(), Some(config));
        assert!(matches!(file.changed(), Ok(None)));
    }
}
