//! QEMU's command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::packages;

/// How instructions are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the processor.
    Kvm,
    /// Emulated, one host thread per vCPU.
    Tcg,
    /// Emulated by one thread, the guest's clock being the number of instructions.
    Deterministic,
}

/// A machine to boot. Files are named by the path at which QEMU finds them.
#[derive(Clone, Debug)]
pub struct Machine {
    /// How instructions are run.
    pub mode: Mode,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mb: u32,
    /// The kernel, or Xen.
    pub kernel: PathBuf,
    /// Xen's first domain, if that is what boots.
    pub dom0: Option<Dom0>,
    /// The initramfs of the kernel, or of dom0's.
    pub initramfs: PathBuf,
    /// The command line of what boots.
    pub parameters: Vec<String>,
    /// Takes what the kernel writes to its console.
    pub console: PathBuf,
    /// Takes what comes through the ports, by their name.
    pub ports: Vec<(String, PathBuf)>,
}

/// The kernel of Xen's first domain.
#[derive(Clone, Debug)]
pub struct Dom0 {
    /// An ELF file, not compressed: Xen does not know every way of compressing.
    pub kernel: PathBuf,
    /// Its command line.
    pub parameters: Vec<String>,
    /// Whether guests need the processor's virtualization (PVH).
    pub virtualization: bool,
}

/// The program.
pub const PROGRAM: &str = packages::QEMU.path;

/// What is told to every guest kernel besides its console: errors and warnings go there; nothing is random in addresses
/// (the kernel's own are fixed by its configuration); a panic ends the machine; an emulated vCPU may stand still for a
/// while on a busy host.
pub const PARAMETERS: [&str; 5] =
    ["loglevel=5", "panic=-1", "norandmaps", "tsc=reliable", "watchdog_thresh=30"];

impl Machine {
    /// The arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut line = Line::default();
        line.option("-nodefaults", None).option("-no-reboot", None).option("-no-user-config", None);
        line.option("-display", Some("none")).option("-machine", Some("q35"));
        match self.mode {
            Mode::Kvm => {
                line.option("-accel", Some("kvm")).option("-cpu", Some("host"));
            }
            Mode::Tcg => {
                line.option("-accel", Some("tcg,thread=multi")).option("-cpu", Some(self.processor()));
            }
            Mode::Deterministic => {
                // Time is 2 ns per instruction and never waits for the host's; nothing is random, and the wall
                // clock is the guest's own.
                line.option("-accel", Some("tcg,thread=single"))
                    .option("-icount", Some("shift=1,sleep=off"))
                    .option("-cpu", Some(&format!("{},-rdrand,-rdseed", self.processor())))
                    .option("-seed", Some("1"))
                    .option("-rtc", Some("base=2026-01-01,clock=vm"));
            }
        }
        line.option("-smp", Some(&self.vcpus.to_string()));
        line.option("-m", Some(&self.memory_mb.to_string()));
        line.option("-kernel", Some(&self.kernel.display().to_string()));
        let initramfs = self.initramfs.display().to_string();
        line.option(
            "-initrd",
            Some(&match &self.dom0 {
                None => initramfs,
                Some(dom0) => {
                    let kernel = escaped(&dom0.kernel);
                    format!("{kernel} {},{initramfs}", dom0.parameters.join(" "))
                }
            }),
        );
        line.option("-append", Some(&self.parameters.join(" ")));
        line.chardev("console", &self.console).option("-serial", Some("chardev:console"));
        // Handled at once, in the vCPU's own thread, instead of in another thread at some later time.
        let synchronous = if self.mode == Mode::Deterministic { ",ioeventfd=off" } else { "" };
        let most = if self.dom0.is_some() { 31 } else { 8 };
        line.option("-device", Some(&format!("virtio-serial-pci,max_ports={most}{synchronous}")));
        for (name, path) in &self.ports {
            line.chardev(name, path);
            line.option("-device", Some(&format!("virtserialport,chardev={name},name={name}")));
        }
        line.words
    }

    /// The processor that is emulated.
    fn processor(&self) -> &'static str {
        // Xen takes what the emulator offers for what a processor has, so it gets one whose features go together, and none
        // that the emulator has but in part. SVM is for guests that need it; for PV guests Xen uses less of the emulator
        // without.
        match &self.dom0 {
            None => "max",
            Some(Dom0 { virtualization: true, .. }) => "EPYC,+svm,+npt,-smap,-smep,-monitor",
            Some(_) => "EPYC,-svm,-npt,-smap,-smep,-monitor",
        }
    }
}

/// A path within an option: QEMU reads a doubled comma as one.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[derive(Default)]
struct Line {
    words: Vec<OsString>,
}

impl Line {
    fn option(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        self.words.push(name.into());
        self.words.extend(value.map(OsString::from));
        self
    }

    /// A file that takes what a port gives: writing to it never waits, so nothing holds the guest up.
    fn chardev(&mut self, name: &str, path: &Path) -> &mut Self {
        self.option("-chardev", Some(&format!("file,id={name},path={}", escaped(path))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::init;

    fn machine(mode: Mode) -> Machine {
        Machine {
            mode,
            vcpus: 3,
            memory_mb: 640,
            kernel: "/k/bzImage".into(),
            dom0: None,
            initramfs: "/proc/self/fd/9".into(),
            parameters: vec!["a=b".into(), "c".into()],
            console: "/x,y".into(),
            ports: vec![(init::REPORT.into(), "/r".into()), (init::SNAPSHOTS.into(), "/s".into())],
        }
    }

    fn text(mode: Mode) -> String {
        let words: Vec<String> =
            machine(mode).arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn deterministic_runs_count_instructions_and_write_synchronously() {
        let line = text(Mode::Deterministic);
        for part in [
            "-accel tcg,thread=single",
            "-icount shift=1,sleep=off",
            "-cpu max,-rdrand,-rdseed",
            "-seed 1",
            "clock=vm",
            "virtio-serial-pci,max_ports=8,ioeventfd=off",
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
    }

    #[test]
    fn other_runs_take_what_is_fast() {
        assert!(text(Mode::Tcg).contains("-accel tcg,thread=multi -cpu max"));
        assert!(text(Mode::Kvm).contains("-accel kvm -cpu host"));
        assert!(!text(Mode::Tcg).contains("ioeventfd") && !text(Mode::Kvm).contains("icount"));
    }

    #[test]
    fn xen_boots_with_dom0_as_its_first_module() {
        let dom0 = Dom0 {
            kernel: "/c,d/vmlinux".into(),
            parameters: vec!["console=hvc0".into(), "x".into()],
            virtualization: false,
        };
        let xen = Machine { dom0: Some(dom0), ..machine(Mode::Deterministic) };
        let words: Vec<String> =
            xen.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(words.contains(&"/c,,d/vmlinux console=hvc0 x,/proc/self/fd/9".to_owned()), "{words:?}");
        assert!(words.iter().any(|word| word.starts_with("EPYC,-svm") && word.ends_with(",-rdrand,-rdseed")));
    }

    #[test]
    fn machine_and_ports_are_as_asked_for() {
        let line = text(Mode::Tcg);
        for part in [
            "-smp 3 -m 640 -kernel /k/bzImage -initrd /proc/self/fd/9 -append a=b c",
            "-chardev file,id=console,path=/x,,y -serial chardev:console",
            "-chardev file,id=ispin.report,path=/r -device virtserialport,chardev=ispin.report,name=ispin.report",
            "-device virtserialport,chardev=ispin.snapshots,name=ispin.snapshots",
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
    }
}
