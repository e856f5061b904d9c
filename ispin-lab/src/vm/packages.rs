//! Debian packages that a run needs on the host.

use std::path::Path;

use anyhow::{Result, bail};
use rustix::process::geteuid;

use super::cache;
use super::steps::{Job, Steps};

/// A file of a Debian package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Where it is once installed.
    pub path: &'static str,
    /// The package.
    pub package: &'static str,
}

/// The emulator.
pub const QEMU: Needed = Needed { path: "/usr/bin/qemu-system-x86_64", package: "qemu-system-x86" };
/// Shell and small tools of the guest, static.
pub const BUSYBOX: Needed = Needed { path: "/bin/busybox", package: "busybox-static" };

/// Installs what is missing, saying what; fails where that cannot be done. It is done by one at a time.
pub fn ensure(steps: &Steps, needed: &[Needed]) -> Result<()> {
    let missing = || needed.iter().filter(|file| !Path::new(file.path).is_file()).collect::<Vec<_>>();
    if missing().is_empty() {
        return Ok(());
    }
    check(&missing())?;
    alone(&cache::folder()?, steps, missing, |missing| install(steps, missing))
}

/// Under the lock of the cache, which the builders take too, for apt has one user at a time. What was missing before may be there
/// once it is held.
fn alone<T>(
    folder: &Path,
    steps: &Steps,
    missing: impl Fn() -> Vec<T>,
    install: impl FnOnce(&[T]) -> Result<()>,
) -> Result<()> {
    let _held = cache::hold_lock(folder, steps)?;
    let missing = missing();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn packages(missing: &[&Needed]) -> Vec<&'static str> {
    missing.iter().map(|file| file.package).collect()
}

fn by_hand(missing: &[&Needed]) -> String {
    format!("apt-get install --no-install-recommends {}", packages(missing).join(" "))
}

/// Fails where nothing can be installed.
fn check(missing: &[&Needed]) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").is_file() {
        let paths: Vec<&str> = missing.iter().map(|file| file.path).collect();
        bail!("a guest needs {}; on Debian: {}", paths.join(", "), by_hand(missing));
    }
    if !geteuid().is_root() {
        bail!("a guest needs packages that are not installed; as root: {}", by_hand(missing));
    }
    Ok(())
}

fn install(steps: &Steps, missing: &[&Needed]) -> Result<()> {
    let apt = |what: &str, arguments: &[&str]| {
        steps.complete(&Job {
            what,
            program: "apt-get".into(),
            arguments: arguments.iter().map(Into::into).collect(),
            environment: vec![("DEBIAN_FRONTEND", "noninteractive".into())],
        })
    };
    apt("updating the list of packages", &["update", "-qq"])?;
    let packages = packages(missing);
    let what = format!("installing what a guest needs: {}", packages.join(", "));
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&packages);
    apt(&what, &install)?;
    match missing.iter().find(|file| !Path::new(file.path).is_file()) {
        Some(file) => bail!("{} is still not there after `{}`", file.path, by_hand(missing)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use ispin_agent::signals::Signals;

    use super::*;
    use crate::vm::progress::Progress;

    #[test]
    fn two_that_miss_the_same_install_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let emulator = dir.path().join("qemu");
        let (both, installed) = (Barrier::new(2), AtomicU32::new(0));
        let ensure = || {
            let (signals, progress) = (Signals::catch().unwrap(), Progress::new());
            let missing = || if emulator.exists() { vec![] } else { vec!["qemu"] };
            assert_eq!(missing(), ["qemu"]);
            both.wait();
            alone(dir.path(), &Steps { signals: &signals, progress: &progress }, missing, |missing| {
                assert_eq!(missing, ["qemu"]);
                installed.fetch_add(1, Ordering::SeqCst);
                // As long as it takes the other one to look too.
                std::thread::sleep(Duration::from_millis(300));
                std::fs::write(&emulator, "")?;
                Ok(())
            })
        };
        std::thread::scope(|scope| {
            for thread in [scope.spawn(ensure), scope.spawn(ensure)] {
                thread.join().unwrap().unwrap();
            }
        });
        assert_eq!(installed.load(Ordering::SeqCst), 1);
        assert!(dir.path().join("build/lock").exists(), "the one that guest-patch/build takes");
    }
}
