//! The guest's own programs, linked statically: the agent, the loads, and the way to the host under Xen.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use ispin_ebpf_build::{MODE_VARIABLE, prebuilt};

use super::steps::{Job, Steps};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `ispin-agent`.
    pub agent: PathBuf,
    /// `ispin-load`.
    pub load: PathBuf,
    /// `ispin-port`.
    pub port: PathBuf,
}

impl Programs {
    /// Builds them, in a target folder of their own: their flags would make cargo build everything else anew.
    pub fn build(root: &Path, steps: &Steps) -> Result<Self> {
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        let target = target.join("guest");
        let arguments = [
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--package=ispin-agent",
            "--package=ispin-lab",
            "--bin=ispin-agent",
            "--bin=ispin-load",
            "--bin=ispin-port",
        ];
        let mut environment: Vec<(&str, OsString)> = vec![
            ("CARGO_TARGET_DIR", target.clone().into()),
            // Before all other settings of flags. The workspace's own are none.
            ("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static".into()),
            ("CARGO_PROFILE_RELEASE_DEBUG", "false".into()),
            ("CARGO_PROFILE_RELEASE_STRIP", "symbols".into()),
            ("CARGO_TERM_COLOR", "never".into()),
        ];
        // The quickest way to the eBPF object, unless somebody has decided.
        if env::var_os(MODE_VARIABLE).is_none() && prebuilt::current(root, env::consts::ARCH).is_ok() {
            environment.push((MODE_VARIABLE, "prebuilt".into()));
        }
        let mut full: Vec<OsString> = vec!["--manifest-path".into(), root.join("Cargo.toml").into()];
        full.splice(0..0, arguments.iter().map(OsString::from));
        steps.complete(&Job {
            what: "the guest's programs",
            program: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            arguments: full,
            environment,
        })?;
        let built = |name: &str| -> Result<PathBuf> {
            let path = target.join(TARGET).join("release").join(name);
            ensure!(path.is_file(), "cargo built no {}", path.display());
            Ok(path)
        };
        Ok(Self { agent: built("ispin-agent")?, load: built("ispin-load")?, port: built("ispin-port")? })
    }
}
