//! Debian packages that a run needs on the host.

use std::path::Path;

use anyhow::{Result, bail};
use rustix::process::geteuid;

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

/// Installs what is missing, saying what; fails where that cannot be done.
pub fn ensure(steps: &Steps, needed: &[Needed]) -> Result<()> {
    let missing: Vec<&Needed> = needed.iter().filter(|file| !Path::new(file.path).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|file| file.package).collect();
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !Path::new("/usr/bin/apt-get").is_file() {
        let paths: Vec<&str> = missing.iter().map(|file| file.path).collect();
        bail!("a guest needs {}; on Debian: {by_hand}", paths.join(", "));
    }
    if !geteuid().is_root() {
        bail!("a guest needs packages that are not installed; as root: {by_hand}");
    }
    let apt = |what: &str, arguments: &[&str]| {
        steps.complete(&Job {
            what,
            program: "apt-get".into(),
            arguments: arguments.iter().map(Into::into).collect(),
            environment: vec![("DEBIAN_FRONTEND", "noninteractive".into())],
        })
    };
    apt("updating the list of packages", &["update", "-qq"])?;
    let what = format!("installing what a guest needs: {}", packages.join(", "));
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&packages);
    apt(&what, &install)?;
    match missing.iter().find(|file| !Path::new(file.path).is_file()) {
        Some(file) => bail!("{} is still not there after `{by_hand}`", file.path),
        None => Ok(()),
    }
}
