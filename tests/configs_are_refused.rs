//! What the binary says of a config that it refuses. The exact message of each file of tests/configs is asserted in
//! src/config/mod.rs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use okg_sidecar::config::{Config, MAX_BYTES};
use stand_ins::scene::binary;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs")
}

#[test]
fn the_binary_names_the_file_with_every_problem_and_exits_with_1() {
    let path = folder().join("invalid-several.yaml");
    for command in ["check", "probe", "run"] {
        let output = Command::new(binary()).args([command, "--config"]).arg(&path).env_clear().output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        let named = stderr.lines().filter(|line| line.starts_with(&format!("ERROR {}: plugins[0].", path.display())));
        assert_eq!(named.count(), 4, "{command}: {stderr}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, rule) in [
        ("missing", None, "must be readable: No such file or directory (os error 2)"),
        ("latin-1", Some(&b"# caf\xe9 "[..]), "must be UTF-8: invalid utf-8 sequence of 1 bytes from index 5"),
    ] {
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
        }
        let refused = Config::load(&path, &|_| None).unwrap_err();
        assert!(refused.to_string().starts_with(&format!("{}: {rule}", path.display())), "{refused}");
    }
}

#[test]
fn a_file_of_exactly_the_most_bytes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let mut text = fs::read_to_string(folder_of_seed()).unwrap();
    let config = text.split_off(text.find("    plugins:").unwrap());
    let mut config: String = config.lines().map(|line| format!("{}\n", &line[4.min(line.len())..])).collect();
    config.push_str(&"#".repeat(MAX_BYTES - config.len()));
    fs::write(&path, &config).unwrap();
    assert_eq!(Config::load(&path, &|_| None).unwrap().endpoints.len(), 1);
    config.push('#');
    fs::write(&path, &config).unwrap();
    assert_eq!(Config::load(&path, &|_| None).unwrap_err().problems, ["must have at most 32768 bytes, got more"]);
}

fn folder_of_seed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/seed-configmap.yaml")
}
