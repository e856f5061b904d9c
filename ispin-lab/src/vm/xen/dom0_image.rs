//! dom0's initramfs: the Xen tools, what they are linked with, and the guests' kernels and images.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::debs::Dom0Files;
use super::dom0_init::{GUESTS, KERNEL, MODULE_FILES, MODULES, Plan, RELAY, TOOLS};
use super::vmlinux;
use super::xl::{Config, XL_CONF};
use crate::vm::image::Image;
use crate::vm::libraries;
use crate::vm::packages::BUSYBOX;

/// Tools of busybox that the script uses, and a person who looks around in dom0.
const SMALL_TOOLS: [&str; 18] = [
    "cat", "date", "dmesg", "echo", "insmod", "kill", "ls", "mkdir", "mkfifo", "mount", "poweroff", "ps",
    "rm", "sh", "sleep", "sync", "tail", "uname",
];
/// Tools of Xen, and where the package has them.
const XEN_TOOLS: [&str; 6] =
    ["xl", "xenstored", "xenconsoled", "xen-init-dom0", "xentrace", "libxl-save-helper"];
const STORE_TOOL: &str = "/usr/bin/xenstore";
/// What the tools load once they run.
const LOADED_LATE: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";
const FOLDERS: [&str; 10] = [
    "/dev",
    "/etc/xen/auto",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/var/lib/xen",
    "/var/lib/xenstored",
    "/var/lock",
    "/var/log/xen/console",
];

/// A guest's own part.
pub struct Guest {
    /// Its configuration.
    pub config: Config,
    /// What its initramfs has on top of the common part.
    pub image: Image,
}

/// Puts the initramfs together.
pub fn assemble(
    files: &Dom0Files,
    plan: &Plan,
    relay: &Path,
    kernel: &Path,
    common: &Image,
    guests: &[Guest],
) -> Result<Image> {
    let mut image = Image::default();
    for folder in FOLDERS {
        image.folder(folder)?;
    }
    image.link("/var/run", "/run")?;
    image.copy(BUSYBOX.path.as_ref(), "/bin/busybox", 0o755)?;
    for tool in SMALL_TOOLS {
        image.link(&format!("/bin/{tool}"), "busybox")?;
    }
    for tool in XEN_TOOLS {
        add(&mut image, &files.root, &format!("{TOOLS}/{tool}"))?;
    }
    add(&mut image, &files.root, STORE_TOOL)?;
    image.link("/bin/xenstore-exists", STORE_TOOL)?;
    image.copy(&below(&files.root, LOADED_LATE)?, LOADED_LATE, 0o644)?;
    for module in MODULE_FILES {
        let from = files.modules.join("drivers").join(module);
        let name = module.rsplit('/').next().unwrap_or(module);
        image.copy(&from, &format!("{MODULES}/{name}"), 0o644)?;
    }
    image.file("/init", plan.init().into_bytes(), 0o755)?;
    image.file("/etc/xen/xl.conf", XL_CONF.into(), 0o644)?;
    image.copy(relay, RELAY, 0o755)?;
    // Uncompressed: the tools would undo it once for each guest, at the speed of an emulated processor.
    let compressed = std::fs::read(kernel).with_context(|| format!("reading {}", kernel.display()))?;
    let elf = vmlinux::extract(&compressed).with_context(|| format!("in {}", kernel.display()))?;
    image.file(&format!("{GUESTS}/{KERNEL}"), elf, 0o644)?;
    image.file(&format!("{GUESTS}/common.cpio"), bytes(common)?, 0o644)?;
    for guest in guests {
        let name = &guest.config.name;
        image.file(&format!("{GUESTS}/{name}.cfg"), guest.config.text().into_bytes(), 0o644)?;
        image.file(&format!("{GUESTS}/{name}.cpio"), bytes(&guest.image)?, 0o644)?;
    }
    Ok(image)
}

fn bytes(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    image.write(&mut bytes)?;
    Ok(bytes)
}

/// A file of the unpacked packages.
fn below(root: &Path, path: &str) -> Result<std::path::PathBuf> {
    let relative = path.strip_prefix('/').with_context(|| format!("{path} is no absolute path"))?;
    Ok(root.join(relative))
}

/// Adds a program of the unpacked packages and what it is linked with.
fn add(image: &mut Image, root: &Path, path: &str) -> Result<()> {
    let program = below(root, path)?;
    ensure!(program.is_file(), "the packages of the Xen tools hold no {path}");
    image.copy(&program, path, 0o755)?;
    for library in libraries::of_unpacked(&program, root)? {
        let at = match library.strip_prefix(root) {
            Ok(inside) => Path::new("/").join(inside),
            Err(_) => library.clone(),
        };
        image.copy(&library, at.to_str().context("a library whose path is not Unicode")?, 0o755)?;
    }
    Ok(())
}
