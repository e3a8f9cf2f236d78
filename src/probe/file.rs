//! Owns one probe of a file (behaviour 3.12): the content of a regular one. The game may write to the volume, and so may put a
//! link to one of the sidecar's own files there: what lies outside of the file's directory is not read.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

use super::ProbeError;
use super::document::Document;
use super::result::MAX_DOCUMENT_BYTES;
use crate::config::FileProbe;
use crate::memory::Memory;

/// Reads the file as it is now.
///
/// # Errors
/// It is not there, is no regular file, cannot be read, or was not modified for too long.
pub fn read(probe: &FileProbe) -> Result<Document, ProbeError> {
    let file = open_beneath_its_directory(&probe.path).map_err(ProbeError::File)?;
    let found = file.metadata().map_err(ProbeError::File)?;
    if !found.is_file() {
        return Err(ProbeError::File(io::Error::other("it is not a regular file")));
    }
    if let Some(most) = probe.max_age {
        // One from the future is new.
        let age = found.modified().map_err(ProbeError::File)?.elapsed().unwrap_or_default();
        if age > most {
            return Err(ProbeError::TooOld { age, most });
        }
    }
    let mut memory = Memory::take();
    // What was there a moment ago: a read that gives it all needs no other that gives the end.
    let length = found.len().min(MAX_DOCUMENT_BYTES as u64 + 1);
    file.take(length).read_to_end(&mut memory).map_err(ProbeError::File)?;
    let is_cut = memory.len() > MAX_DOCUMENT_BYTES;
    let received = memory.into_received();
    Ok(if is_cut { Document::cut(received) } else { Document::whole(received) })
}

/// Opens the file without blocking, as a named pipe would, if it lies in the directory that its path names or beneath it. The
/// links in volumes of ConfigMaps and of the downward API lead there.
fn open_beneath_its_directory(path: &Path) -> io::Result<File> {
    // By rustix, since musl's open(2) takes two system calls.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(leads_out()) };
    // The path of what was opened, whatever the links are by now.
    match fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(place) if place.starts_with(directory) => Ok(file),
        Ok(_) => Err(leads_out()),
        // Without /proc, the kernel has to check each link, which it does since Linux 5.6.
        Err(_) => {
            let directory_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat2(CWD, directory, directory_flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            match openat2(directory, name, flags, Mode::empty(), resolve) {
                Ok(file) => Ok(file.into()),
                Err(Errno::XDEV) => Err(leads_out()),
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// The place is not shown, since a part of the path may come from a variable.
fn leads_out() -> io::Error {
    io::Error::other("a link leads out of its directory")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn of(path: &Path, max_age: Option<Duration>) -> Result<Document, String> {
        let probe = FileProbe { path: path.to_owned(), max_age, ..FileProbe::default() };
        read(&probe).map_err(|error| crate::excerpt::chain(&error))
    }

    #[test]
    fn a_file_is_read_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        for text in ["", "Allocated\n", &"x".repeat(MAX_DOCUMENT_BYTES)] {
            fs::write(&path, text).unwrap();
            assert_eq!(of(&path, None), Ok(Document::whole(text)));
        }
        fs::write(&path, "x".repeat(3 * MAX_DOCUMENT_BYTES)).unwrap();
        assert_eq!(of(&path, None), Ok(Document::cut("x".repeat(MAX_DOCUMENT_BYTES + 1))));
        assert!(of(&folder.path().join("absent"), None).unwrap_err().contains("No such file"));
    }

    #[test]
    fn links_are_followed_within_the_directory_of_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("volume/..2026_11_30")).unwrap();
        fs::create_dir_all(path("secrets")).unwrap();
        fs::write(path("volume/..2026_11_30/state"), "None").unwrap();
        fs::write(path("secrets/token"), "hidden").unwrap();
        // As kubelet's volumes are.
        symlink("..2026_11_30", path("volume/..data")).unwrap();
        symlink("..data/state", path("volume/state")).unwrap();
        // As a game may write them.
        symlink(path("secrets/token"), path("volume/absolute")).unwrap();
        symlink("../secrets/token", path("volume/relative")).unwrap();
        symlink(path("secrets"), path("volume/directory")).unwrap();
        symlink("/proc/self/environ", path("volume/environment")).unwrap();
        fs::create_dir_all(path("volume-too")).unwrap();
        fs::write(path("volume-too/token"), "hidden").unwrap();
        symlink("../volume-too/token", path("volume/neighbour")).unwrap();

        assert_eq!(of(&path("volume/state"), None), Ok(Document::whole("None")));
        for name in ["absolute", "relative", "directory/token", "environment", "neighbour"] {
            let refused = of(&path("volume").join(name), None).unwrap_err();
            assert!(refused.contains("a link leads out of its directory"), "{name}: {refused}");
        }
    }

    #[test]
    fn anything_but_a_regular_file_is_a_failure_and_blocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for (file, said) in [
            (path("pipe"), "not a regular file"),
            (path("socket"), "No such device or address"),
            (folder.path().to_owned(), "not a regular file"),
            ("/dev/zero".into(), "not a regular file"),
        ] {
            let refused = of(&file, None).unwrap_err();
            assert!(refused.contains(said), "{file:?}: {refused}");
        }
    }

    #[test]
    fn a_file_is_as_old_as_its_last_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "None").unwrap();
        let most = Some(Duration::from_secs(60));
        let set = |time| File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let now = SystemTime::now();
        for (time, is_new) in [
            (now - Duration::from_secs(30), true),
            (now + Duration::from_secs(3600), true),
            (now - Duration::from_secs(100), false),
        ] {
            set(time);
            assert_eq!(of(&path, most).is_ok(), is_new, "{time:?}");
            assert_eq!(of(&path, None), Ok(Document::whole("None")));
        }
        assert!(of(&path, most).unwrap_err().contains("not modified for 10"), "{:?}", of(&path, most));
    }
}
