//! What one run of a guest is, on the command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ispin_agent::options::{duration, interval};
use ispin_agent::sink::SinkOptions;

use super::lock::Lock;
use super::rival::Rival;
use super::xen::options::{Policy, XenOptions};

/// What the guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hypervisor {
    /// QEMU alone: nobody publishes slots, so nothing is ever deferred unless --soft-slice-ms is given
    None,
    /// Xen with a small dom0, and several guests that share pCPUs: real quanta, which Xen publishes
    Xen,
}

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Acceleration {
    /// KVM where it really runs a guest (it is tried), else TCG
    Auto,
    /// The processor's own virtualization
    Kvm,
    /// Emulation, one host thread per vCPU
    Tcg,
}

/// One run of a guest.
#[derive(Args, Clone, Debug)]
pub struct VmOptions {
    /// What the guest runs on
    #[arg(long, value_enum, default_value_t = Hypervisor::None)]
    pub hypervisor: Hypervisor,
    /// vCPUs of the guest
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub vcpus: u32,
    /// Spinlock of the guest's kernel
    #[arg(long, value_enum, default_value_t = Lock::TICKET)]
    pub lock: Lock,
    /// Load, one of those that `ispin-load list` shows; its own options go after --
    #[arg(long, value_name = "NAME", default_value = "dup")]
    pub workload: String,
    /// Length of the load in seconds of the guest
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub seconds: f64,
    /// Threads of the load [default: one per vCPU]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Seed of all that the load draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Count instructions instead of time (icount): the same command gives the same numbers, byte for byte
    #[arg(long)]
    pub deterministic: bool,
    /// How QEMU runs the guest
    #[arg(long, value_enum, default_value_t = Acceleration::Auto, conflicts_with = "deterministic")]
    pub accel: Acceleration,
    /// Time of the guest between two snapshots, 10ms to 1h
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "250ms")]
    pub interval: Duration,
    /// Run the load without the agent: no snapshots, no counts
    #[arg(long)]
    pub no_agent: bool,
    /// Also record the kernel's own trace of the same events, as a tar archive (see docs/vm.md); under Xen one of each
    /// guest: for trace.tar trace.g1.tar, trace.g2.tar, ...
    #[arg(long, value_name = "FILE", conflicts_with = "no_agent")]
    pub trace: Option<PathBuf>,
    /// Room for that trace, all vCPUs together [default: 512; under Xen 64 in each guest]
    #[arg(long, value_name = "MIB")]
    pub trace_mb: Option<u32>,
    /// Critical section duration estimate in cycles of the guest's TSC [default: the kernel's]
    #[arg(long, value_name = "CYCLES")]
    pub csd: Option<u64>,
    /// Let the guest's kernel make up quanta of this length: exercises the lock's code, preempts nobody
    #[arg(long, value_name = "MS")]
    pub soft_slice_ms: Option<f64>,
    /// More kernel parameters
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Memory of the guest [default: 512, and what --trace takes; under Xen 256 for each]
    #[arg(long, value_name = "MIB")]
    pub memory_mb: Option<u32>,
    /// Give up when nothing has come from the guest for this long, in time of the host [default: 2m; under Xen 10m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Keep what the kernel wrote to its console
    #[arg(long, value_name = "FILE")]
    pub keep_console: Option<PathBuf>,
    /// Folder with a built kernel (bzImage, modules/*.ko), instead of building one
    #[arg(long, value_name = "DIR", help_heading = "Kernel")]
    pub kernel: Option<PathBuf>,
    /// Which kernel to build.
    #[command(flatten)]
    pub variant: Variant,
    /// What only a run under Xen has.
    #[command(flatten)]
    pub xen: XenOptions,
    /// Where the snapshots go.
    #[command(flatten)]
    pub sinks: SinkOptions,
    /// Another observer instead of the agent.
    #[arg(skip)]
    pub rival: Option<Rival>,
    /// Options of the load
    #[arg(last = true, value_name = "LOAD OPTION")]
    pub load_options: Vec<String>,
}

/// A variant of the guest's kernel, in the words of guest-patch/build.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kernel")]
pub struct Variant {
    /// Version of Linux, one that guest-patch has a series for [default: 6.12]
    #[arg(long, value_name = "VERSION", conflicts_with = "kernel")]
    pub linux: Option<String>,
    /// Patches: full, none, or how many of the first [default: full; none for --lock stock]
    #[arg(long, conflicts_with = "kernel")]
    pub series: Option<String>,
    /// Linux source to use instead of Debian's package
    #[arg(long, value_name = "DIR|TARBALL", conflicts_with = "kernel")]
    pub source: Option<PathBuf>,
    /// More kernel options, a fragment of guest-patch by name, or a file
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "kernel")]
    pub fragment: Vec<String>,
    /// One more patch, after the series
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    pub patch: Vec<PathBuf>,
    /// Compilers at a time
    #[arg(long, value_name = "N", conflicts_with = "kernel")]
    pub jobs: Option<u32>,
}

/// Memory of a guest without a trace, MiB.
const MEMORY_MB: u32 = 512;

/// Memory of each guest under Xen, MiB.
const XEN_MEMORY_MB: u32 = 256;

/// The kernel's own limit (base.config).
const MAX_VCPUS: u32 = 64;

impl VmOptions {
    /// Refuses what cannot run.
    pub fn validate(&self) -> Result<()> {
        let within = |what: &str, value: u32, least: u32, most: u32| {
            if value < least || value > most {
                bail!("--{what} {value}: between {least} and {most}");
            }
            Ok(())
        };
        within("vcpus", self.vcpus, 1, MAX_VCPUS)?;
        within("threads", self.threads(), 1, 1024)?;
        within("memory-mb", self.memory_mb(), 128, 1 << 20)?;
        within("trace-mb", self.trace_mb(), 1, 1 << 16)?;
        if !(self.seconds > 0.0 && self.seconds <= 86_400.0) {
            bail!("--seconds {}: more than 0 and at most 86400", self.seconds);
        }
        if let Some(ms) = self.soft_slice_ms
            && !(ms > 0.0 && ms <= 10_000.0)
        {
            bail!("--soft-slice-ms {ms}: more than 0 and at most 10000");
        }
        if self.lock.is_stock() {
            let lock = self.lock;
            if !self.no_agent {
                bail!("--lock {lock}: an unpatched kernel has no tracepoints to observe; add --no-agent");
            }
            if self.csd.is_some() || self.soft_slice_ms.is_some() {
                bail!("--lock {lock} knows neither --csd nor --soft-slice-ms");
            }
            if lock == Lock::PvQueued && self.hypervisor == Hypervisor::None {
                bail!("--lock pvqueued: waiters sleep in a hypervisor; add --hypervisor xen");
            }
        }
        if self.no_agent && !self.sinks.is_empty() {
            bail!("--no-agent leaves nothing to write; leave out --csv, --json, --lines and --listen");
        }
        match self.hypervisor {
            Hypervisor::None => self.xen.refuse_without_xen(),
            Hypervisor::Xen => self.validate_xen(),
        }
    }

    fn validate_xen(&self) -> Result<()> {
        self.xen.validate(self.vcpus, self.policy())?;
        if self.soft_slice_ms.is_some() {
            bail!(
                "--soft-slice-ms makes quanta up where nobody publishes any; under Xen they are real, leave it out"
            );
        }
        if self.xen.repeats() > 1 && self.trace.is_some() {
            bail!("--trace holds the traces of one run; leave out --repeats");
        }
        if self.xen.repeats() > 1 && !self.sinks.is_empty() {
            bail!(
                "--repeats {}: the snapshots are those of one run; leave out --csv, --json, --lines and --listen; \
                 `ispin-lab matrix` keeps results",
                self.xen.repeats()
            );
        }
        Ok(())
    }

    /// What Xen publishes.
    pub fn policy(&self) -> Policy {
        self.xen.policy(self.lock)
    }

    /// Threads of the load.
    pub fn threads(&self) -> u32 {
        self.threads.unwrap_or(self.vcpus)
    }

    /// Memory of the guest, MiB. A trace is held twice: in the kernel's buffers, and as the archive made of them.
    pub fn memory_mb(&self) -> u32 {
        let trace = if self.trace.is_some() { 2 * self.trace_mb() } else { 0 };
        let without = match self.hypervisor {
            Hypervisor::None => MEMORY_MB,
            Hypervisor::Xen => XEN_MEMORY_MB,
        };
        self.memory_mb.unwrap_or(without + trace)
    }

    /// Room for the trace of a guest, MiB.
    pub fn trace_mb(&self) -> u32 {
        self.trace_mb.unwrap_or(match self.hypervisor {
            Hypervisor::None => 512,
            Hypervisor::Xen => 64,
        })
    }

    /// Silence that ends a run.
    pub fn timeout(&self) -> Duration {
        let minutes = match self.hypervisor {
            Hypervisor::None => 2,
            // dom0 says nothing while it makes a guest, which takes long where instructions are counted.
            Hypervisor::Xen => 10,
        };
        self.timeout.unwrap_or(Duration::from_secs(60 * minutes))
    }

    /// Patches of the kernel, in the words of guest-patch/build.
    pub fn series(&self) -> &str {
        let default = if self.lock.is_stock() { "none" } else { "full" };
        self.variant.series.as_deref().unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: VmOptions,
    }

    fn parse(arguments: &[&str]) -> Result<VmOptions> {
        let line = Line::try_parse_from(["vm"].iter().chain(arguments))?;
        line.options.validate()?;
        Ok(line.options)
    }

    fn refused(arguments: &[&str]) -> String {
        parse(arguments).expect_err("must be refused").to_string()
    }

    #[test]
    fn defaults_are_what_the_help_says() {
        let options = parse(&[]).unwrap();
        assert_eq!((options.threads(), options.memory_mb(), options.series()), (4, 512, "full"));
        let stock = parse(&["--lock", "stock", "--no-agent", "--vcpus", "2"]).unwrap();
        assert_eq!((stock.threads(), stock.series()), (2, "none"));
        assert_eq!(parse(&["--trace", "x.tar", "--trace-mb", "100"]).unwrap().memory_mb(), 712);
        let xen = parse(&["--hypervisor", "xen", "--type", "pvh", "--policy", "firm"]).unwrap();
        assert_eq!((xen.memory_mb(), xen.xen.guests(), xen.vcpus), (256, 2, 4));
        assert_eq!(xen.policy(), Policy::Firm);
        assert_eq!(parse(&["--hypervisor", "xen"]).unwrap().policy(), Policy::Slice);
        let ours = parse(&["--hypervisor", "xen", "--lock", "ispin+"]).unwrap();
        assert_eq!(ours.policy(), Policy::Adaptive);
        assert_eq!(parse(&["--", "--operations", "5"]).unwrap().load_options, ["--operations", "5"]);
    }

    #[test]
    fn what_cannot_run_is_refused() {
        assert!(
            refused(&["--lock", "mcs"])
                .contains("ticket, hvm, pv, pts, pvticket, oticket, unfair, ispin+, stock")
        );
        assert!(refused(&["--lock", "stock"]).contains("--no-agent"));
        assert!(refused(&["--lock", "pvqueued", "--no-agent"]).contains("--hypervisor xen"));
        assert!(refused(&["--vcpus", "65"]).contains("--vcpus 65"));
        assert!(refused(&["--seconds", "0"]).contains("--seconds"));
        assert!(refused(&["--no-agent", "--csv", "x"]).contains("--no-agent"));
        assert!(refused(&["--deterministic", "--accel", "kvm"]).contains("--accel"));
        assert!(refused(&["--kernel", "x", "--series", "1"]).contains("--kernel"));
        assert!(refused(&["--guests", "3"]).contains("--hypervisor xen"));
        let xen = |more: &[&str]| refused(&[&["--hypervisor", "xen"], more].concat());
        assert!(xen(&["--soft-slice-ms", "2"]).contains("real"));
        assert!(xen(&["--trace", "x.tar", "--repeats", "2"]).contains("--trace"));
        let traced = parse(&["--hypervisor", "xen", "--trace", "x.tar"]).unwrap();
        assert_eq!((traced.trace_mb(), traced.memory_mb()), (64, 384));
        assert!(xen(&["--repeats", "3", "--csv", "x"]).contains("matrix"));
        assert!(xen(&["--vcpus", "29"]).contains("--vcpus 29"));
    }
}
