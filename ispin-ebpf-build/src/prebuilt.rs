//! The object in `ispin-agent/prebuilt`, for machines that cannot build it, and the record of what it was
//! built from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::compile::Object;
use crate::sources::{Manifest, sha256};

/// Folder of the object and its record, relative to the workspace.
pub const FOLDER: &str = "ispin-agent/prebuilt";
/// The object, in [`FOLDER`].
pub const OBJECT: &str = "ispin-ebpf.o";
/// Hashes of its sources and its own, in [`FOLDER`].
pub const RECORD: &str = "SOURCES.sha256";
/// The architecture whose kernels it is for.
pub const ARCH: &str = "x86_64";

const HEAD: &str =
    "# What the prebuilt eBPF object was built from; `cargo xtask bpf --update-prebuilt` writes it.\n";
const BUILT_BY: &str = "# built by ";

/// Reads the prebuilt object if it is what the sources under `root` make, for kernels of `arch`; the error says
/// why not.
pub fn current(root: &Path, arch: &str) -> Result<Object> {
    ensure!(arch == ARCH, "the prebuilt eBPF object is for {ARCH}, not for {arch}");
    let folder = root.join(FOLDER);
    // One line of the record is about the object itself, the others are about its sources.
    let record = read(&folder.join(RECORD)).and_then(|bytes| Ok(String::from_utf8(bytes)?))?;
    let bytes = read(&folder.join(OBJECT))?;

    let (own, sources): (Vec<&str>, Vec<&str>) = record.lines().partition(|line| line.ends_with(&own_name()));
    let recorded = Manifest::parse(&sources.join("\n"))
        .with_context(|| format!("{} is damaged", folder.join(RECORD).display()))?;
    let differences = recorded.differences(&Manifest::of_sources(root)?);
    if !differences.is_empty() {
        bail!(
            "the prebuilt eBPF object is stale (`cargo xtask bpf --update-prebuilt` renews it); changed since it was \
             built: {}",
            differences.join(", ")
        );
    }
    if own != [own_line(&bytes)] {
        bail!("{} is not the object that {RECORD} beside it names", folder.join(OBJECT).display());
    }
    let built_by =
        sources.iter().find_map(|line| line.strip_prefix(BUILT_BY)).unwrap_or("an unknown compiler");
    Ok(Object { bytes, built_by: built_by.to_owned() })
}

/// Makes `object`, just built from the sources under `root`, the prebuilt one. Returns its path.
pub fn update(root: &Path, object: &Object) -> Result<PathBuf> {
    let folder = root.join(FOLDER);
    let sources = Manifest::of_sources(root)?;
    let record = format!("{HEAD}{BUILT_BY}{}\n{sources}{}\n", object.built_by, own_line(&object.bytes));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, contents) in [(OBJECT, object.bytes.as_slice()), (RECORD, record.as_bytes())] {
        let file = folder.join(name);
        fs::write(&file, contents).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(folder.join(OBJECT))
}

fn own_name() -> String {
    format!("  {FOLDER}/{OBJECT}")
}

fn own_line(object: &[u8]) -> String {
    format!("{}{}", sha256(object), own_name())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("no prebuilt eBPF object: cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> (tempfile::TempDir, Object) {
        let dir = tempfile::tempdir().unwrap();
        for file in
            ["Cargo.lock", "ispin-common/Cargo.toml", "ispin-ebpf/Cargo.toml", "ispin-ebpf/src/main.rs"]
        {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "text\n").unwrap();
        }
        fs::create_dir_all(dir.path().join("ispin-common/src")).unwrap();
        (dir, Object { bytes: vec![1, 2, 3], built_by: "rustc 1.0, LLVM 22, bpf-linker 0.1".to_owned() })
    }

    #[test]
    fn an_updated_object_is_current_until_a_source_changes() {
        let (dir, object) = workspace();
        let missing = current(dir.path(), ARCH).unwrap_err();
        assert!(missing.to_string().starts_with("no prebuilt eBPF object"), "{missing}");

        update(dir.path(), &object).unwrap();
        assert_eq!(current(dir.path(), ARCH).unwrap(), object);

        fs::write(dir.path().join("ispin-ebpf/src/main.rs"), "other\n").unwrap();
        let stale = current(dir.path(), ARCH).unwrap_err().to_string();
        assert!(stale.contains("stale") && stale.ends_with(": ispin-ebpf/src/main.rs"), "{stale}");
    }

    #[test]
    fn an_object_that_is_not_the_recorded_one_is_refused() {
        let (dir, object) = workspace();
        let file = update(dir.path(), &object).unwrap();
        fs::write(file, [1, 2, 4]).unwrap();
        let error = current(dir.path(), ARCH).unwrap_err().to_string();
        assert!(error.contains("is not the object that SOURCES.sha256"), "{error}");
    }

    #[test]
    fn another_architecture_is_refused() {
        let (dir, object) = workspace();
        update(dir.path(), &object).unwrap();
        let error = current(dir.path(), "aarch64").unwrap_err().to_string();
        assert_eq!(error, "the prebuilt eBPF object is for x86_64, not for aarch64");
    }
}
