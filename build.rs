//! Gives the program its version and commit, and makes the release binary for musl small: 225 KB of 1.94 MB, and 170 KiB of
//! resident memory, are tables for unwinding, which `panic = "abort"` never reads, and relocations that the linker can pack.
//! 9 KB more are functions of the same code, which the toolchain's own linker makes one.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// `git archive` writes the commit here (see .gitattributes), so that a tarball knows it without git.
const ARCHIVED: &str = "$Format:%H$";

/// What the binary is built from: a change in one of these makes the commit `-dirty`.
const SOURCES: [&str; 7] =
    ["src", "build.rs", "Cargo.toml", "Cargo.lock", ".cargo", ".ci/build", "rust-toolchain.toml"];

/// Leaves out all unwind tables but those of the C runtime's own files, which refer to their own.
const WITHOUT_UNWIND_TABLES: &str = "\
SECTIONS {
  /DISCARD/ : {
    *(EXCLUDE_FILE(*crtbegin*.o *crtend*.o) .eh_frame)
    *(.gcc_except_table .gcc_except_table.*)
  }
}
INSERT AFTER .text;
";

fn main() -> Result<(), Box<dyn Error>> {
    let (version, commit) = (env::var("CARGO_PKG_VERSION")?, commit()?);
    println!("cargo::rustc-env=OKG_SIDECAR_VERSION={version} ({commit})");
    let is = |name: &str, value: &str| env::var(name).as_deref() == Ok(value);
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        without_unwind_tables()?;
        one_copy_of_each_function()?;
    }
    Ok(())
}

/// The commit that is built: as the environment says, else as the tarball says, else as git says, else `unknown`. Always
/// seven digits of it: how many git shortens it to depends on the clone.
fn commit() -> Result<String, Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=OKG_SIDECAR_COMMIT");
    // To cargo a file that is not there has changed each time.
    for source in SOURCES.iter().filter(|source| Path::new(source).exists()) {
        println!("cargo::rerun-if-changed={source}");
    }
    if let Ok(told) = env::var("OKG_SIDECAR_COMMIT")
        && !told.is_empty()
    {
        return short(&told).ok_or_else(|| format!("OKG_SIDECAR_COMMIT must be a git commit, got {told:?}").into());
    }
    if let Some(archived) = short(ARCHIVED) {
        return Ok(archived);
    }
    // Not the repository of somebody else around a tarball that has no commit.
    if !Path::new(".git").exists() {
        return Ok("unknown".into());
    }
    // A commit moves the branch, not HEAD itself, and writes a line to HEAD's log. The index is not needed: it changes
    // nothing about the sources but when it is committed.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let Some(head) = git(&["rev-parse", "HEAD"]).as_deref().and_then(short) else {
        println!("cargo::warning=git does not tell the commit, so that the version says unknown");
        return Ok("unknown".into());
    };
    let changes = git(&[&["status", "--porcelain", "--untracked-files=no", "--"], &SOURCES[..]].concat());
    Ok(if changes.is_some_and(|changes| changes.is_empty()) { head } else { head + "-dirty" })
}

/// The first seven digits of a commit, and `-dirty` where it ends so.
fn short(commit: &str) -> Option<String> {
    let (digits, dirty) = commit.strip_suffix("-dirty").map_or((commit, ""), |digits| (digits, "-dirty"));
    let known = digits.len() >= 7 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    known.then(|| format!("{}{dirty}", &digits[..7]))
}

/// What git says, where it succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Links with the lld of the toolchain, if it has one, which folds functions of the same code.
fn one_copy_of_each_function() -> Result<(), Box<dyn Error>> {
    let output = Command::new(env::var_os("RUSTC").ok_or("cargo sets RUSTC")?).args(["--print", "sysroot"]).output()?;
    let sysroot = String::from_utf8(output.stdout)?;
    let linkers = Path::new(sysroot.trim()).join("lib/rustlib").join(env::var("HOST")?).join("bin/gcc-ld");
    if linkers.join("ld.lld").exists() {
        let linkers = linkers.to_str().ok_or("the path of the toolchain must be UTF-8")?;
        for argument in [&format!("-B{linkers}"), "-fuse-ld=lld", "-Wl,--icf=all"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    Ok(())
}

fn without_unwind_tables() -> Result<(), Box<dyn Error>> {
    let folder = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let script = PathBuf::from(folder).join("without-unwind-tables.ld");
    fs::write(&script, WITHOUT_UNWIND_TABLES)?;
    let script = script.to_str().ok_or("the path of the target folder must be UTF-8")?;
    for argument in ["-T", script, "--no-eh-frame-hdr", "-z", "pack-relative-relocs"] {
        // Not `-Wl`, which takes a comma in the path for the end of an argument.
        println!("cargo::rustc-link-arg-bins=-Xlinker");
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    Ok(())
}
