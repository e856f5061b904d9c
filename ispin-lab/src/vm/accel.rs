//! Whether KVM really runs a guest here. That `/dev/kvm` can be opened does not say so: below some hypervisors it can,
//! and the guest then never gets anywhere. So a guest is booted, once, and the answer kept.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use ispin_agent::command::{Child, GRACE, Output, describe};
use serde::{Deserialize, Serialize};

use super::cache;
use super::image::Image;
use super::kernel::Kernel;
use super::options::Acceleration;
use super::packages::BUSYBOX;
use super::ports::{Lines, Shared};
use super::qemu::{self, Machine, Mode};
use super::steps::{Steps, last_lines};

/// How long a guest under KVM has for booting. It needs a second.
const LIMIT: Duration = Duration::from_secs(20);

/// What was tried, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    /// The boot of this machine: another kernel or another hypervisor below it may change the answer.
    boot: String,
    /// QEMU's size and time.
    qemu: (u64, u64),
    /// `None` = it works.
    fault: Option<String>,
}

/// How the guest will be run, and why, for people.
pub fn choose(
    wanted: Acceleration,
    deterministic: bool,
    kernel: &Kernel,
    steps: &Steps,
) -> Result<(Mode, String)> {
    if deterministic {
        return Ok((Mode::Deterministic, "TCG, counting instructions (--deterministic)".to_owned()));
    }
    match wanted {
        Acceleration::Tcg => Ok((Mode::Tcg, "TCG, a thread per vCPU (--accel tcg)".to_owned())),
        Acceleration::Kvm => match kvm(kernel, steps)? {
            None => Ok((Mode::Kvm, "KVM (--accel kvm)".to_owned())),
            Some(fault) => bail!("KVM does not run a guest here: {fault}. --accel tcg emulates it"),
        },
        Acceleration::Auto => Ok(match kvm(kernel, steps)? {
            None => (Mode::Kvm, "KVM, which booted a guest here".to_owned()),
            Some(fault) => {
                (Mode::Tcg, format!("TCG, a thread per vCPU; KVM does not run a guest here: {fault}"))
            }
        }),
    }
}

/// What keeps KVM from running a guest; `None` = nothing.
fn kvm(kernel: &Kernel, steps: &Steps) -> Result<Option<String>> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Ok(Some(format!("/dev/kvm: {error}")));
    }
    let note = cache::folder()?.join("kvm.json");
    let (boot, qemu) = (boot_id()?, identity_of_qemu()?);
    // A note of another format is as good as none.
    let known = fs::read(&note).ok().and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
    if let Some(known) = known.filter(|known| known.boot == boot && known.qemu == qemu) {
        return Ok(known.fault);
    }
    let fault = try_it(kernel, steps)?;
    let verdict = Verdict { boot, qemu, fault: fault.clone() };
    let keeping = || format!("keeping in {} whether KVM works", note.display());
    if let Some(folder) = note.parent() {
        fs::create_dir_all(folder).with_context(keeping)?;
    }
    fs::write(&note, serde_json::to_vec(&verdict)?).with_context(keeping)?;
    Ok(fault)
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).with_context(|| format!("reading {path}"))?.trim().to_owned())
}

fn identity_of_qemu() -> Result<(u64, u64)> {
    let metadata = fs::metadata(qemu::PROGRAM).with_context(|| format!("looking at {}", qemu::PROGRAM))?;
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), since.map_or(0, |since| since.as_secs())))
}

/// A guest that says that it booted and goes off.
fn try_it(kernel: &Kernel, steps: &Steps) -> Result<Option<String>> {
    const HELLO: &str = "ispin: booted";
    steps.progress.step("trying whether KVM runs a guest here");
    let mut image = Image::default();
    image.copy(BUSYBOX.path.as_ref(), "/bin/busybox", 0o755)?;
    let init = format!("#!/bin/busybox sh\necho '{HELLO}'\n/bin/busybox poweroff -f\n");
    image.file("/init", init.into_bytes(), 0o755)?;
    image.folder("/dev")?;
    let initramfs = Shared::new("the initramfs")?;
    image.write(initramfs.file())?;
    let mut console = Lines::new("the console")?;
    let machine = Machine {
        mode: Mode::Kvm,
        vcpus: 2,
        memory_mb: 256,
        kernel: kernel.image.clone(),
        dom0: None,
        initramfs: initramfs.path(),
        parameters: ["console=ttyS0"].iter().chain(&qemu::PARAMETERS).map(|&word| word.to_owned()).collect(),
        console: console.shared().path(),
        ports: vec![],
    };
    let lend = |lent| initramfs.lend(lent).and_then(|()| console.shared().lend(lent));
    lend(true)?;
    let program = PathBuf::from(qemu::PROGRAM);
    let mut qemu = Child::spawn(program.as_os_str(), &machine.arguments(), &[], Output::Keep)
        .context("starting QEMU")?;
    lend(false)?;
    let begin = Instant::now();
    loop {
        steps.check()?;
        let ended = qemu.wait(Some(Duration::from_millis(50)))?;
        qemu.listen()?;
        if console.take()?.iter().any(|line| line.contains(HELLO)) {
            qemu.end(libc::SIGTERM, GRACE)?;
            return Ok(None);
        }
        if let Some(status) = ended {
            let said = qemu.said()?;
            let said = last_lines(&said, 1);
            let said = said.trim();
            return Ok(Some(format!(
                "QEMU {}{}{said}",
                describe(status),
                if said.is_empty() { "" } else { ": " }
            )));
        }
        if begin.elapsed() > LIMIT {
            qemu.end(libc::SIGTERM, GRACE)?;
            return Ok(Some(format!("one that was tried did not boot within {} s", LIMIT.as_secs())));
        }
    }
}
