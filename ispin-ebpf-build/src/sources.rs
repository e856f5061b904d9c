//! What an eBPF object is built from, as text that can be committed and compared.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::compile;

/// Files and folders, relative to the workspace, that make the object; a change to any makes a prebuilt object stale.
pub const INPUTS: [&str; 4] =
    ["ispin-common/Cargo.toml", "ispin-common/src", "ispin-ebpf/Cargo.toml", "ispin-ebpf/src"];

/// Crates whose code ends up in the object, by the start of their names; their versions come from `Cargo.lock`.
const CRATES: [&str; 3] = ["aya-ebpf", "aya-log-common", "aya-log-ebpf"];

/// What an object was, or would be, built from.
///
/// Its text form is that of `sha256sum`, so a person can check it with `sha256sum -c` in the workspace.
/// What is no file (versions of crates, flags) stands in comment lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Name to hash or version: `ispin-ebpf/src/main.rs` to a hash, `crate aya-ebpf` to a version, `recipe`
    /// to the flags.
    entries: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads the sources under `root`, the workspace's folder.
    pub fn of_sources(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for input in INPUTS {
            collect(&root.join(input), &mut files)?;
        }
        let mut entries = BTreeMap::new();
        for file in files {
            let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
            entries.insert(name, sha256(&without_carriage_returns(&bytes)));
        }
        let lock = root.join("Cargo.lock");
        let text = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
        for (name, version) in locked_versions(&text) {
            if CRATES.iter().any(|start| name.starts_with(start)) {
                entries.insert(format!("crate {name}"), version.to_owned());
            }
        }
        entries.insert("recipe".to_owned(), compile::recipe());
        Ok(Self { entries })
    }

    /// Reads the text form. Comment lines that it does not know are left out.
    pub fn parse(text: &str) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let entry = match line.strip_prefix("# ") {
                Some(comment) if comment.starts_with("crate ") => comment.rsplit_once(' '),
                Some(comment) => comment.split_once(' ').filter(|(word, _)| *word == "recipe"),
                None if line.trim().is_empty() => None,
                None => match line.split_once("  ") {
                    Some((hash, name)) if hash.len() == 64 => Some((name, hash)),
                    _ => bail!("line {}: not `HASH  FILE`: {line}", number + 1),
                },
            };
            entries.extend(entry.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        Ok(Self { entries })
    }

    /// The names of what differs between the two, in order; empty when both are the same.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut names: Vec<_> = self.entries.keys().chain(other.entries.keys()).collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .filter(|name| self.entries.get(*name) != other.entries.get(*name))
            .cloned()
            .collect()
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.entries {
            if name == "recipe" || name.starts_with("crate ") {
                writeln!(f, "# {name} {value}")?;
            } else {
                writeln!(f, "{value}  {name}")?;
            }
        }
        Ok(())
    }
}

/// SHA-256 in lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files at or under `path`.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            collect(&entry?.path(), files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}

/// The same text whether git checked it out with Unix or with Windows line endings.
fn without_carriage_returns(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for (i, byte) in bytes.iter().enumerate() {
        if *byte != b'\r' || bytes.get(i + 1) != Some(&b'\n') {
            out.push(*byte);
        }
    }
    out
}

/// Name and version of each package in a `Cargo.lock`, where these two lines always follow one another.
fn locked_versions(lock: &str) -> Vec<(&str, &str)> {
    let lines: Vec<&str> = lock.lines().collect();
    lines.windows(2).filter_map(|pair| Some((value(pair[0], "name")?, value(pair[1], "version")?))).collect()
}

/// `VALUE` of a line `KEY = "VALUE"`.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace with the inputs and nothing else.
    fn workspace() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["ispin-common/src", "ispin-ebpf/src/deep"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for (file, text) in [
            (
                "Cargo.lock",
                "[[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\n\n[[package]]\nname = \"clap\"\nversion = \"4.0.0\"\n",
            ),
            ("ispin-common/Cargo.toml", "[package]\n"),
            ("ispin-common/src/lib.rs", "//! Words.\npub mod a;\n"),
            ("ispin-ebpf/Cargo.toml", "[package]\n"),
            ("ispin-ebpf/src/main.rs", "fn main() {}\n"),
            ("ispin-ebpf/src/deep/mod.rs", "\n"),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        dir
    }

    #[test]
    fn text_form_reads_back() {
        let dir = workspace();
        let manifest = Manifest::of_sources(dir.path()).unwrap();
        let text = manifest.to_string();
        assert!(text.contains("  ispin-ebpf/src/deep/mod.rs\n"), "{text}");
        assert!(text.contains("# crate aya-ebpf 0.2.1\n"), "{text}");
        assert!(!text.contains("clap"), "{text}");
        assert_eq!(Manifest::parse(&text).unwrap(), manifest);
    }

    #[test]
    fn line_endings_make_no_difference_but_contents_do() {
        let dir = workspace();
        let before = Manifest::of_sources(dir.path()).unwrap();
        let file = dir.path().join("ispin-common/src/lib.rs");
        fs::write(&file, "//! Words.\r\npub mod a;\r\n").unwrap();
        assert_eq!(Manifest::of_sources(dir.path()).unwrap(), before);
        fs::write(&file, "//! Words.\npub mod b;\n").unwrap();
        let after = Manifest::of_sources(dir.path()).unwrap();
        assert_eq!(after.differences(&before), ["ispin-common/src/lib.rs"]);
    }

    #[test]
    fn every_kind_of_change_is_named() {
        let dir = workspace();
        let before = Manifest::of_sources(dir.path()).unwrap();
        fs::remove_file(dir.path().join("ispin-ebpf/src/deep/mod.rs")).unwrap();
        fs::write(dir.path().join("ispin-ebpf/src/new.rs"), "").unwrap();
        let lock = dir.path().join("Cargo.lock");
        fs::write(&lock, fs::read_to_string(&lock).unwrap().replace("0.2.1", "0.2.2")).unwrap();
        let after = Manifest::of_sources(dir.path()).unwrap();
        assert_eq!(
            after.differences(&before),
            ["crate aya-ebpf", "ispin-ebpf/src/deep/mod.rs", "ispin-ebpf/src/new.rs"]
        );
    }

    #[test]
    fn a_damaged_record_names_its_line() {
        let error = Manifest::parse("# crate aya-ebpf 0.2.1\nno hash here\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: not `HASH  FILE`: no hash here");
    }

    #[test]
    fn a_missing_source_is_an_error() {
        let dir = workspace();
        fs::remove_file(dir.path().join("ispin-ebpf/Cargo.toml")).unwrap();
        let error = Manifest::of_sources(dir.path()).unwrap_err();
        assert!(error.to_string().contains("ispin-ebpf/Cargo.toml"), "{error}");
    }
}
