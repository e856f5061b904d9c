//! Guests for tests: with a kernel that is there or, in CI, built; one at a time, or as many as the machine has room for.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

pub const LAB: &str = env!("CARGO_BIN_EXE_ispin-lab");

/// One guest at a time, with its kernel; `None` if this machine cannot run one, which is an error in CI.
pub fn machine() -> Option<(MutexGuard<'static, ()>, PathBuf)> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Some((guard, there(kernel().cloned().map_err(String::clone))?))
}

/// What was found; `None` if this machine cannot run it, which is an error in CI.
pub fn there<T>(found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// Memory of this machine that a run may take, bytes: 1.5 GiB of a guest with a trace, or of dom0 and two guests, and QEMU's own.
const MEMORY_OF_A_RUN: u64 = 3 << 30;
/// More at a time than that gain little: the longest of a test's runs is what one waits for.
const MOST_AT_A_TIME: u64 = 4;

static RUNNING: Mutex<u64> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run one machine that counts instructions, until it is dropped: such a one takes one processor, and its results do not
/// depend on what else runs.
pub struct Turn(());

impl Turn {
    /// Waits for it.
    pub fn wait() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |running: &mut u64| *running >= room();
        let mut running = ENDED.wait_while(running, full).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// How many of them at a time.
fn room() -> u64 {
    static ROOM: OnceLock<u64> = OnceLock::new();
    *ROOM.get_or_init(|| {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let memory = rustix::system::sysinfo();
        let memory = memory.totalram as u64 * u64::from(memory.mem_unit);
        processors.min(memory / MEMORY_OF_A_RUN).clamp(1, MOST_AT_A_TIME)
    })
}

/// The patched kernel.
pub fn kernel() -> Result<&'static PathBuf, &'static String> {
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
