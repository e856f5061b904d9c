//! Puts the eBPF object into `$OUT_DIR/ispin-ebpf` for `src/bpf/object.rs`: built from source where this machine
//! can, else the prebuilt one, if it is what the sources make. The variable `ISPIN_EBPF` forces one of them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use ispin_ebpf_build::compile::{self, Object};
use ispin_ebpf_build::{MODE_VARIABLE, Mode, install_advice, prebuilt, sources};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = package.parent().context("ispin-agent is not in the workspace's folder")?;
    for input in sources::INPUTS.into_iter().chain(["Cargo.lock", prebuilt::FOLDER]) {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={MODE_VARIABLE}");

    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let (object, origin) = object(root, &compile::scratch(&out), &arch)?;
    let file = out.join("ispin-ebpf");
    fs::write(&file, object.bytes).with_context(|| format!("cannot write {}", file.display()))?;
    println!("cargo::rustc-env=ISPIN_EBPF_ORIGIN={origin} ({})", object.built_by);
    Ok(())
}

/// The object that [`MODE_VARIABLE`] asks for, and where it comes from in words.
fn object(root: &Path, scratch: &Path, arch: &str) -> Result<(Object, &'static str)> {
    let mode = Mode::from_env()?;
    let from_source = match mode {
        Mode::Prebuilt => None,
        Mode::Auto | Mode::Source => Some(compile::from_source(root, scratch, arch)),
    };
    let failure = match from_source {
        Some(Ok(object)) => return Ok((object, "built from source")),
        Some(Err(failure)) if mode == Mode::Source => bail!("{failure}\n{}", install_advice()),
        Some(Err(failure)) => Some(failure),
        None => None,
    };
    let reason = match &failure {
        Some(failure) => failure.to_string(),
        None => format!("{MODE_VARIABLE}=prebuilt"),
    };
    match prebuilt::current(root, arch) {
        Ok(object) => {
            println!("cargo::warning=the prebuilt eBPF object is used, which is current; the reason:");
            for line in reason.lines() {
                println!("cargo::warning={line}");
            }
            Ok((object, "prebuilt"))
        }
        Err(error) => bail!("{error:#}\n{reason}\n{}", install_advice()),
    }
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("cargo sets {name} for build scripts"))
}
