//! Owns noticing that the config file changed (SPEC 2.9). Refuses to watch: it is asked before each round, and costs one
//! stat(2) while nothing changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use log::info;

use super::{Config, ConfigError};

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
        // A file that could not be read, be it for want of a descriptor, is looked at again next time.
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

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
    Some((file.dev(), file.ino(), file.size(), modified, changed))
}

fn load(path: &std::path::Path) -> Result<Config, ConfigError> {
    Config::load(path, &|name| std::env::var(name).ok())
}
