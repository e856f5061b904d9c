//! Puts the eBPF object into `$OUT_DIR/ispin-ebpf` for `src/bpf/object.rs`: built from source where this machine
//! can, else the prebuilt one, if it is what the sources make. The variable `ISPIN_EBPF` forces one of them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use ispin_ebpf_build::compile::{self, Object};
use ispin_ebpf_build::{MODE_VARIABLE, Mode, prebuilt, sources};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for cause in error.chain() {
                for line in cause.to_string().lines() {
                    println!("cargo::error={line}");
                }
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = package.parent().context("ispin-agent is not in the workspace's folder")?;
    let inputs =
        sources::INPUTS.into_iter().chain(["Cargo.lock", prebuilt::FOLDER]).map(|input| root.join(input));
    // A path that is not there would make cargo run this script each time.
    for input in inputs.filter(|input| input.exists()) {
        println!("cargo::rerun-if-changed={}", input.display());
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
    let why_prebuilt = match Mode::from_env()? {
        Mode::Prebuilt => format!("{MODE_VARIABLE}=prebuilt"),
        mode => match compile::from_source(root, scratch, arch) {
            Ok(object) => return Ok((object, "built from source")),
            Err(failure) if mode == Mode::Source => bail!(failure),
            Err(failure) => failure.to_string(),
        },
    };
    let object = prebuilt::current(root, arch).with_context(|| why_prebuilt.clone())?;
    println!("cargo::warning=embedding the prebuilt eBPF object, which is current: {}", object.built_by);
    for line in why_prebuilt.lines() {
        println!("cargo::warning={line}");
    }
    Ok((object, "prebuilt"))
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("cargo sets {name} for build scripts"))
}
