//! The configurations of the tools in dom0: xl's own, and one per guest.

use super::options::GuestType;

/// `/etc/xen/xl.conf`: dom0 keeps its memory, and has no scripts for devices, for there are none.
pub const XL_CONF: &str = "autoballoon=0\nrun_hotplug_scripts=0\n";

/// A guest, as xl is told of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// How Xen runs it.
    pub guest_type: GuestType,
    /// Its kernel, in dom0.
    pub kernel: String,
    /// Its initramfs, in dom0.
    pub initramfs: String,
    /// Its kernel's command line.
    pub parameters: Vec<String>,
    /// MiB.
    pub memory_mb: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// pCPUs that it may run on: number 1 and those after it, for number 0 is dom0's.
    pub pcpus: u32,
}

impl Config {
    /// The text of the file.
    pub fn text(&self) -> String {
        let Self { name, guest_type, kernel, initramfs, memory_mb, vcpus, pcpus, .. } = self;
        let parameters = self.parameters.join(" ");
        // The TSC as it is: otherwise Xen would emulate it, which it does whenever the emulator has no invariant one.
        format!(
            "name=\"{name}\"\ntype=\"{guest_type}\"\nkernel=\"{kernel}\"\nramdisk=\"{initramfs}\"\n\
             extra=\"{parameters}\"\nmemory={memory_mb}\nvcpus={vcpus}\ncpus=\"1-{pcpus}\"\ntsc_mode=\"native\"\n\
             on_poweroff=\"destroy\"\non_reboot=\"destroy\"\non_crash=\"destroy\"\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_in_full() {
        let config = Config {
            name: "g2".into(),
            guest_type: GuestType::Pvh,
            kernel: "/guests/bzImage".into(),
            initramfs: "/run/g2.cpio".into(),
            parameters: vec!["console=hvc0".into(), "ispinlock=pv".into()],
            memory_mb: 256,
            vcpus: 4,
            pcpus: 2,
        };
        let text = config.text();
        for line in [
            "name=\"g2\"",
            "type=\"pvh\"",
            "extra=\"console=hvc0 ispinlock=pv\"",
            "vcpus=4",
            "cpus=\"1-2\"",
            "tsc_mode=\"native\"",
            "on_crash=\"destroy\"",
        ] {
            assert!(text.lines().any(|have| have == line), "no {line} in {text}");
        }
    }
}
