//! Makes the release binary for musl small: 225 KB of 1.94 MB, and 170 KiB of resident memory, are tables for unwinding,
//! which `panic = "abort"` never reads, and relocations that the linker can pack.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

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
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).as_deref() == Ok(value);
    if !is("CARGO_CFG_TARGET_ENV", "musl") || !is("PROFILE", "release") {
        return Ok(());
    }
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
