//! `cargo xtask bpf`: builds the eBPF object, checks or renews the prebuilt one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use ispin_ebpf_build::compile::{self, Object};
use ispin_ebpf_build::sources::sha256;
use ispin_ebpf_build::{prebuilt, toolchain};

use crate::{setup, workspace};

/// What to do with the object.
#[derive(clap::Args)]
pub struct Args {
    /// Make the object built here the prebuilt one; it is built twice, in two folders, and both must be the same
    #[arg(long, conflicts_with = "check")]
    update_prebuilt: bool,
    /// Fail if the prebuilt object is stale, tells of the machine that built it, or differs from what the same
    /// compiler builds here
    #[arg(long)]
    check: bool,
}

/// Does what the arguments ask for.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    if args.check {
        return check(&root);
    }
    let object = setup::ensure_bpf_toolchain()?;
    no_machine_paths(&object.bytes)?;
    if args.update_prebuilt {
        let again = built_elsewhere(&root)?;
        ensure!(
            again.bytes == object.bytes,
            "two builds of the same sources in two folders gave different objects ({} and {}); \
             the prebuilt one is left as it was",
            sha256(&object.bytes),
            sha256(&again.bytes)
        );
        report(&prebuilt::update(&root, &object)?, &object);
        eprintln!("built twice, in two folders: the same bytes; commit {}", prebuilt::FOLDER);
    } else {
        let file = workspace::ebpf_scratch()?.join(prebuilt::OBJECT);
        fs::write(&file, &object.bytes).with_context(|| format!("cannot write {}", file.display()))?;
        report(&file, &object);
    }
    Ok(())
}

/// Verifies the prebuilt object against the sources and, where the same compiler is at hand, against a fresh build.
pub fn check(root: &Path) -> Result<()> {
    let object = prebuilt::current(root, prebuilt::ARCH)?;
    no_machine_paths(&object.bytes)?;
    eprintln!("the prebuilt object is current; built by {}", object.built_by);
    match compile::from_source(root, &workspace::ebpf_scratch()?, prebuilt::ARCH) {
        Err(failure) => eprintln!("not compared with a fresh build, because {failure}"),
        Ok(fresh) if fresh.built_by != object.built_by => {
            eprintln!(
                "not compared with a fresh build, because the compiler here is another: {}",
                fresh.built_by
            );
        }
        Ok(fresh) if fresh.bytes == object.bytes => eprintln!("a fresh build gives the same bytes"),
        Ok(fresh) => bail!(
            "the prebuilt object ({}) is not what the same compiler builds here ({}); `cargo xtask bpf --update-prebuilt` \
             renews it",
            sha256(&object.bytes),
            sha256(&fresh.bytes)
        ),
    }
    Ok(())
}

fn report(file: &Path, object: &Object) {
    println!("{}: {} bytes, sha256 {}", file.display(), object.bytes.len(), sha256(&object.bytes));
    println!("built by {}", object.built_by);
}

/// Builds a copy of the workspace in another folder, from nothing.
fn built_elsewhere(root: &Path) -> Result<Object> {
    let elsewhere = workspace::target()?.join("ebpf-elsewhere");
    remove(&elsewhere)?;
    copy(root, &elsewhere.join("workspace"))?;
    let object =
        compile::from_source(&elsewhere.join("workspace"), &elsewhere.join("build"), prebuilt::ARCH)?;
    remove(&elsewhere)?;
    Ok(object)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Copies a folder without hidden files and without target folders.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with('.') || text.starts_with("target") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(&name))?;
        } else {
            fs::copy(entry.path(), to.join(&name))
                .with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Fails if the object names a folder or a registry of the machine that built it.
fn no_machine_paths(object: &[u8]) -> Result<()> {
    let mut telling: Vec<PathBuf> = ["/root/", "/home/", "/Users/", "registry/src"].map(PathBuf::from).into();
    telling.extend(env::var_os("HOME").map(PathBuf::from).filter(|home| home.parent().is_some()));
    telling.extend(toolchain::cargo_home());
    telling.push(workspace::root()?);
    telling.push(workspace::target()?);
    for path in telling {
        if contains(object, path.as_os_str().as_encoded_bytes()) {
            bail!("the eBPF object contains `{}`, a path of the machine that built it", path.display());
        }
    }
    Ok(())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_this_machine_is_found() {
        let root = workspace::root().unwrap();
        let object = [b"\0\0ELF\0", root.as_os_str().as_encoded_bytes(), b"/src\0"].concat();
        assert!(no_machine_paths(&object).unwrap_err().to_string().contains("a path of the machine"));
        no_machine_paths(b"ispin/ispin-ebpf/src/main.rs\0rust/library/core\0").unwrap();
    }

    #[test]
    fn a_copy_leaves_out_what_is_built_and_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["from/a/b.rs", "from/target/x", "from/.git/x", "from/c"] {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "text").unwrap();
        }
        let to = dir.path().join("to");
        copy(&dir.path().join("from"), &to).unwrap();
        assert!(to.join("a/b.rs").is_file() && to.join("c").is_file());
        assert!(!to.join("target").exists() && !to.join(".git").exists());
    }
}
