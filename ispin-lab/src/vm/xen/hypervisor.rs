//! Xen itself: built by xen-patch/build, or named; and its command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::options::{Policy, XenOptions};
use crate::vm::steps::{Job, Steps};

/// Memory of dom0, MiB: its tools, and the initramfs of the guests while they are created.
pub const DOM0_MB: u32 = 512;

/// The file to boot.
pub fn obtain(root: &Path, options: &XenOptions, policy: Policy, steps: &Steps) -> Result<PathBuf> {
    let folder = match &options.xen {
        Some(folder) => folder.canonicalize().with_context(|| format!("--xen {}", folder.display()))?,
        None => build(root, policy, steps)?,
    };
    let image = folder.join("xen");
    if !image.is_file() {
        bail!("{} holds no xen; name a folder that xen-patch/build printed", folder.display());
    }
    Ok(image)
}

/// Runs xen-patch/build; its last line is the folder.
fn build(root: &Path, policy: Policy, steps: &Steps) -> Result<PathBuf> {
    let script = root.join("xen-patch/build");
    if !script.is_file() {
        bail!("there is no {}; --xen DIR names a Xen that is built", script.display());
    }
    let series = if policy == Policy::Off { "none" } else { "full" };
    let said = steps.complete(&Job {
        what: "Xen",
        program: script.into(),
        arguments: vec!["--series".into(), series.into()],
        environment: vec![],
    })?;
    let folder = said.lines().last().map(PathBuf::from).filter(|folder| folder.is_dir());
    folder.with_context(|| format!("xen-patch/build printed no folder but: {said}"))
}

/// Xen's command line.
pub fn parameters(options: &XenOptions, policy: Policy) -> Vec<String> {
    let mut parameters = vec![
        "console=com1".to_owned(),
        "com1=115200".to_owned(),
        // What goes wrong; a domain that crashes is among it.
        "loglvl=warning".to_owned(),
        "guest_loglvl=warning".to_owned(),
        // Idle states and speeds of the processor are not there under an emulator.
        "cpuidle=0".to_owned(),
        "cpufreq=none".to_owned(),
        // QEMU's XSAVE and XRSTOR do not look at CR0.TS, by which Xen would learn that a vCPU needs its floating-point
        // registers: guests would save and lose those of other vCPUs. Programs crashed by that in 25 of 120 runs.
        "spec-ctrl=eager-fpu".to_owned(),
        format!("sched={}", options.scheduler()),
        format!("dom0_mem={DOM0_MB}M,max:{DOM0_MB}M"),
        // dom0 has one pCPU of its own: what it does for the guests takes nothing from them.
        "dom0_max_vcpus=1".to_owned(),
        "dom0_vcpus_pin".to_owned(),
    ];
    if let Some(ms) = options.slice_ms {
        parameters.push(format!("sched_credit_tslice_ms={ms}"));
    }
    if let Some(us) = options.rate_limit_us(policy) {
        parameters.push(format!("sched_ratelimit_us={us}"));
    }
    if let Some(word) = policy.word() {
        parameters.push(format!("ispin={word}"));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::super::options::Scheduler;
    use super::*;
    use crate::vm::lock::Lock;

    #[test]
    fn the_command_line_says_what_was_asked_for() {
        let parameters = |options: &XenOptions| super::parameters(options, options.policy(Lock::TICKET));
        let default = parameters(&XenOptions::default()).join(" ");
        assert!(
            default.contains("sched=credit dom0_mem=512M")
                && default.contains("eager-fpu")
                && default.ends_with("ispin=slice"),
            "{default}"
        );
        let options = XenOptions {
            policy: Some(Policy::Firm),
            scheduler: Some(Scheduler::Credit2),
            slice_ms: Some(5),
            ratelimit_us: Some(4000),
            ..XenOptions::default()
        };
        let line = parameters(&options).join(" ");
        for part in ["sched=credit2", "sched_credit_tslice_ms=5", "sched_ratelimit_us=4000", "ispin=firm"] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        let firm = XenOptions { policy: Some(Policy::Firm), slice_ms: Some(10), ..XenOptions::default() };
        assert!(parameters(&firm).join(" ").ends_with("sched_ratelimit_us=10000 ispin=firm"));
        let adaptive = XenOptions { policy: Some(Policy::AdaptiveFirm), ..XenOptions::default() };
        let line = parameters(&adaptive).join(" ");
        assert!(line.ends_with("ispin=adaptive,firm") && !line.contains("ratelimit"), "{line}");
        let off = XenOptions { policy: Some(Policy::Off), ..XenOptions::default() };
        assert!(!parameters(&off).join(" ").contains("ispin"));
    }
}
