//! Guests for tests: one at a time, with a kernel that is there or, in CI, built.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub const LAB: &str = env!("CARGO_BIN_EXE_ispin-lab");

/// One guest at a time, with its kernel; `None` if this machine cannot run one, which is an error in CI.
pub fn machine() -> Option<(MutexGuard<'static, ()>, PathBuf)> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    match kernel() {
        Ok(kernel) => Some((guard, kernel.clone())),
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// The patched kernel.
fn kernel() -> Result<&'static PathBuf, &'static String> {
    static KERNEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    KERNEL.get_or_init(|| find(&[])).as_ref()
}

/// A variant of the patched kernel. In CI it is built if need be; elsewhere a test does not start to build for
/// minutes.
pub fn find(variant: &[&str]) -> Result<PathBuf, String> {
    for needed in ["/usr/bin/qemu-system-x86_64", "/bin/busybox"] {
        if !Path::new(needed).is_file() {
            return Err(format!("there is no {needed}; `cargo xtask test` installs it"));
        }
    }
    let folder = build("guest-patch", variant)?;
    if folder.join("bzImage").is_file() {
        return Ok(folder);
    }
    Err(format!("{} holds no bzImage", folder.display()))
}

/// The patched Xen, by the same rule.
pub fn find_xen() -> Result<PathBuf, String> {
    build("xen-patch", &[])
}

fn build(patch: &str, variant: &[&str]) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(patch).join("build");
    let mut build = Command::new(&script);
    build.args(variant);
    if std::env::var_os("CI").is_none() {
        build.arg("--cached");
    }
    let output = build.stderr(Stdio::inherit()).output().map_err(|e| format!("{}: {e}", script.display()))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && folder.is_dir() {
        return Ok(folder);
    }
    Err(format!("it is not built; `{patch}/build {}` builds it", variant.join(" ")))
}

pub fn vm(kernel: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["vm", "--kernel"]).arg(kernel).args(["--vcpus", "2"]).args(arguments).stdin(Stdio::null());
    command
}

pub fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("ispin-lab");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

pub fn fails(command: &mut Command) -> String {
    let output = command.output().expect("ispin-lab");
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}
