//! dom0's kernel and the Xen tools, from Debian's packages. They are unpacked into the cache; nothing is installed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::vmlinux;
use crate::vm::cache;
use crate::vm::steps::{Job, Steps};

/// The kernel: this depends on the newest of its kind. The kind for clouds cannot be a dom0.
const KERNEL: &str = "linux-image-amd64";
/// The tools, and the libraries that they need beyond libc.
const TOOLS: [&str; 22] = [
    "xen-utils-4.17",
    "xenstore-utils",
    "libxenmisc4.17",
    "libxenstore4",
    "libxencall1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxentoollog1",
    "libxentoolcore1",
    "libxendevicemodel1",
    "libxenhypfs1",
    "libyajl2",
    "libncurses6",
    "libtinfo6",
    "libuuid1",
    "liblzma5",
    "libzstd1",
    "zlib1g",
    "libext2fs2",
    "libcom-err2",
    // pthread_cancel, which the tools use, loads it.
    "libgcc-s1",
];
/// Of the kernel's package the rest is left out: it is large.
const OF_KERNEL: [&str; 4] =
    ["boot/vmlinuz-", "/kernel/drivers/xen/", "/kernel/drivers/virtio/", "/virtio_console.ko"];

/// What dom0 is made of.
#[derive(Clone, Debug)]
pub struct Dom0Files {
    /// The unpacked packages.
    pub root: PathBuf,
    /// The kernel, uncompressed.
    pub kernel: PathBuf,
    /// Folder of its modules.
    pub modules: PathBuf,
}

impl Dom0Files {
    /// Takes them from the cache, or downloads and unpacks them.
    pub fn obtain(steps: &Steps) -> Result<Self> {
        let packages = packages(steps)?;
        let text: String = packages.iter().map(|(name, version)| format!("{name}={version}\n")).collect();
        let key: String = Sha256::digest(&text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let place = cache::folder()?.join("dom0");
        let folder = place.join(&key);
        // One at a time: it downloads some hundred megabytes.
        let alone = if folder.is_dir() { None } else { Some(cache::hold_lock(&cache::folder()?, steps)?) };
        if alone.is_some() && !folder.is_dir() {
            fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
            let partial = tempfile::Builder::new()
                .prefix(".unpacking-")
                .tempdir_in(&place)
                .with_context(|| format!("making a folder in {}", place.display()))?;
            fill(partial.path(), &packages, steps)?;
            fs::write(partial.path().join("inputs"), &text).context("keeping what dom0 is made from")?;
            fs::remove_dir_all(partial.path().join("debs")).context("removing what was unpacked")?;
            let made = partial.keep();
            if let Err(error) = fs::rename(&made, &folder) {
                // Another run was quicker: its result is the same.
                let _ = fs::remove_dir_all(&made);
                if !folder.is_dir() {
                    return Err(error).with_context(|| format!("keeping {}", folder.display()));
                }
            }
        }
        Self::at(&folder)
    }

    fn at(folder: &Path) -> Result<Self> {
        let root = folder.join("root");
        let versions = root.join("lib/modules");
        let reading =
            || format!("reading {} (remove {} to have it made anew)", versions.display(), folder.display());
        let entry = fs::read_dir(&versions).with_context(reading)?.next().with_context(reading)?;
        let modules = entry.with_context(reading)?.path().join("kernel");
        Ok(Self { kernel: folder.join("vmlinux"), modules, root })
    }
}

fn apt(arguments: &[&str]) -> Result<String> {
    let output = Command::new("apt-cache")
        .env("LC_ALL", "C")
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("running apt-cache (dom0 is made from Debian's packages)")?;
    ensure!(output.status.success(), "apt-cache {} failed", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Names and versions of the packages.
fn packages(steps: &Steps) -> Result<Vec<(String, String)>> {
    let known = || -> Result<Vec<(String, String)>> {
        let kernel = depends(&apt(&["depends", KERNEL])?)
            .with_context(|| format!("the package {KERNEL} names no kernel"))?;
        let names: Vec<&str> = std::iter::once(kernel.as_str()).chain(TOOLS).collect();
        let policy = apt(&[&["policy"], names.as_slice()].concat())?;
        names.iter().map(|name| Ok(((*name).to_owned(), candidate(&policy, name)?))).collect()
    };
    match known() {
        Ok(packages) => Ok(packages),
        Err(error) if rustix::process::geteuid().is_root() => {
            // apt refuses to update them twice at a time; whoever had the lock may have done it.
            let _alone = cache::hold_lock(&cache::folder()?, steps)?;
            if let Ok(packages) = known() {
                return Ok(packages);
            }
            log::info!("{error:#}; updating the list of packages");
            steps.complete(&Job {
                what: "updating the list of packages",
                program: "apt-get".into(),
                arguments: vec!["update".into(), "-qq".into()],
                environment: vec![],
            })?;
            known()
        }
        Err(error) => Err(error).context("as root `apt-get update` may help"),
    }
}

/// The kernel that its package of packages depends on.
fn depends(text: &str) -> Option<String> {
    let name = |line: &str| line.trim().strip_prefix("Depends: ").map(str::to_owned);
    text.lines().filter_map(name).find(|name| name.starts_with("linux-image-"))
}

/// The version of `package` that would be installed, from what `apt-cache policy` prints.
fn candidate(policy: &str, package: &str) -> Result<String> {
    let head = format!("{package}:");
    let mut lines = policy.lines().skip_while(|line| *line != head);
    lines.next().with_context(|| format!("there is no package {package}; dom0 is made from Debian 12's"))?;
    let version = lines.take(3).find_map(|line| line.trim().strip_prefix("Candidate: "));
    match version {
        Some(version) if version != "(none)" => Ok(version.to_owned()),
        _ => bail!("there is no package {package} to download; dom0 is made from Debian 12's"),
    }
}

/// Downloads and unpacks all of them into `folder`.
fn fill(folder: &Path, packages: &[(String, String)], steps: &Steps) -> Result<()> {
    let (debs, root) = (folder.join("debs"), folder.join("root"));
    for folder in [&debs, &root] {
        fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    // apt-get downloads into the folder in which it runs.
    let names: Vec<String> = packages.iter().map(|(name, version)| format!("{name}={version}")).collect();
    let mut arguments =
        vec!["-c".into(), "cd \"$0\" && exec apt-get download -q \"$@\"".into(), debs.clone().into()];
    arguments.extend(names.iter().map(Into::into));
    steps.complete(&Job {
        what: "downloading dom0's kernel and tools",
        program: "sh".into(),
        arguments,
        environment: vec![],
    })?;
    steps.progress.step("unpacking dom0's kernel and tools");
    let reading = || format!("reading {}", debs.display());
    let mut files = fs::read_dir(&debs)
        .with_context(reading)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(reading)?;
    files.sort();
    for file in &files {
        steps.check()?;
        unpack(file, &root).with_context(|| format!("unpacking {}", file.display()))?;
    }
    let boot = root.join("boot");
    let image = fs::read_dir(&boot)
        .with_context(|| format!("reading {}", boot.display()))?
        .next()
        .context("the kernel's package holds no kernel")?
        .with_context(|| format!("reading {}", boot.display()))?
        .path();
    let elf = vmlinux::extract(&fs::read(&image).with_context(|| format!("reading {}", image.display()))?)
        .with_context(|| format!("in {}", image.display()))?;
    let kernel = folder.join("vmlinux");
    File::create(&kernel)
        .and_then(|mut file| file.write_all(&elf))
        .with_context(|| format!("writing {}", kernel.display()))
}

/// Unpacks what is wanted of a package.
fn unpack(package: &Path, root: &Path) -> Result<()> {
    let is_kernel =
        package.file_name().is_some_and(|name| name.to_string_lossy().starts_with("linux-image-"));
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("running dpkg-deb (Debian package dpkg)")?;
    let mut archive = tar::Archive::new(child.stdout.take().context("dpkg-deb without output")?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let wanted = !is_kernel || OF_KERNEL.iter().any(|part| path.contains(part));
        if wanted && !path.contains("/share/") {
            entry.unpack_in(root)?;
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "dpkg-deb failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_package_of_packages_depends_on() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Suggests: x\n";
        assert_eq!(depends(text).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(depends("linux-image-amd64\n"), None);
    }

    #[test]
    fn versions_are_those_that_would_be_installed() {
        let policy = "libuuid1:\n  Installed: 1\n  Candidate: 2.38.1-5\n  Version table:\n     2.38.1-5 500\n\
                      xl:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(candidate(policy, "libuuid1").unwrap(), "2.38.1-5");
        assert!(candidate(policy, "xl").unwrap_err().to_string().contains("xl to download"));
        assert!(candidate(policy, "zlib1g").unwrap_err().to_string().contains("no package zlib1g"));
    }
}
