//! dom0's first process: a shell script that starts the Xen tools, the guests and the relay, and goes off.
//!
//! It talks to the host like the guests' scripts do: lines that begin with [`MARK`](crate::vm::init::MARK).

use super::{REPORT, XENTRACE};
use crate::vm::init::{PORT_FUNCTION, channels};

/// Where the guests' files are in dom0.
pub const GUESTS: &str = "/guests";
/// The guests' kernel there.
pub const KERNEL: &str = "vmlinux";
/// Where the modules are in dom0.
pub const MODULES: &str = "/modules";
/// Where the tools are in dom0.
pub const TOOLS: &str = "/usr/lib/xen-4.17/bin";
/// The relay.
pub const RELAY: &str = "/bin/ispin-port";

/// Modules in the order in which they are needed: the ports first, then what the tools use.
pub const MODULE_FILES: [&str; 11] = [
    "virtio/virtio_ring.ko",
    "virtio/virtio.ko",
    "virtio/virtio_pci_legacy_dev.ko",
    "virtio/virtio_pci_modern_dev.ko",
    "virtio/virtio_pci.ko",
    "char/virtio_console.ko",
    "xen/xen-evtchn.ko",
    "xen/xen-privcmd.ko",
    "xen/xen-gntdev.ko",
    "xen/xen-gntalloc.ko",
    "xen/xenfs/xenfs.ko",
];

/// What the script is made for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names of the guests.
    pub guests: Vec<String>,
    /// Whether Xen's trace is recorded.
    pub xentrace: bool,
    /// Whether the guests hand over traces of their kernels.
    pub traced: bool,
}

const SCRIPT: &str = r#"#!/bin/sh
# Written by `ispin-lab vm` for one run.
export PATH=/bin:TOOLS HOME=/ TERM=dumb
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /run
mkdir -p /run/xen /run/xenstored /run/lock /var/log/xen/console

for module in MODULE_NAMES; do
    insmod MODULES/$module || echo "ispin dom0: no $module" > /dev/console
done
"#;

const START: &str = r#"
exec 3> "$(port REPORT)"
tell() { echo "ispin: $*" >&3; }
fail() {
    tell "error $*"
    tail -n 5 /var/log/xen/*.log >&3 2> /dev/null
    tell "end 1"
    sleep 1
    poweroff -f
}
tell boot

mount -t xenfs none /proc/xen
xenstored --pid-file=/run/xenstored.pid >&3 2>&3 || fail "xenstored did not start"
tries=0
until xenstore-exists / 2> /dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "xenstored does not answer"
    sleep 0.1
done
xen-init-dom0 > /dev/null 2>&3 || fail "xen-init-dom0 failed"
xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/run/xenconsoled.pid >&3 2>&3 ||
    fail "xenconsoled did not start"
tell tools
"#;

/// A port takes 32 KiB at a time and xentrace gives up when less is written than it asked for, so cat is in between.
const TRACE_ON: &str = r#"
mkfifo /run/xentrace
cat /run/xentrace > "$(port XENTRACE)" &
taker=$!
xentrace -D -e 0x0002f000 -S 256 /run/xentrace >&3 2>&3 &
xentrace=$!
"#;

const CREATE: &str = r#"
domains=
for guest in NAMES; do
    cat GUESTS/common.cpio GUESTS/$guest.cpio > /run/$guest.cpio
    xl create -q GUESTS/$guest.cfg >&3 2>&3 || fail "xl could not create $guest"
    rm /run/$guest.cpio
    domain=$(xl domid $guest) || fail "$guest was gone at once"
    tell "domain $guest $domain"
    domains="$domains --guest $guest:$domain"
done
tell created

RELAY relay $domains CHANNELS >&3 2>&3
code=$?
"#;

const TRACE_OFF: &str = r#"
kill -INT $xentrace
wait $xentrace || fail "xentrace did not write its trace to the end"
wait $taker || fail "not all of xentrace's trace could be handed over"
"#;

const END: &str = r#"
[ $code = 0 ] || fail "the relay ended with exit code $code"
for guest in NAMES; do
    tail -n 3 /var/log/xen/xl-$guest.log >&3 2> /dev/null
done
tell "end 0"
sleep 0.5
poweroff -f
"#;

impl Plan {
    /// The script `/init`.
    pub fn init(&self) -> String {
        let names: Vec<&str> = MODULE_FILES.iter().filter_map(|path| path.rsplit('/').next()).collect();
        let (on, off) = if self.xentrace { (TRACE_ON, TRACE_OFF) } else { ("", "") };
        [SCRIPT, PORT_FUNCTION, START, on, CREATE, off, END]
            .concat()
            .replace("MODULE_NAMES", &names.join(" "))
            .replace("MODULES", MODULES)
            .replace("TOOLS", TOOLS)
            .replace("REPORT", REPORT)
            .replace("XENTRACE", XENTRACE)
            .replace("GUESTS", GUESTS)
            .replace("NAMES", &self.guests.join(" "))
            .replace("RELAY", RELAY)
            .replace("CHANNELS", &channels(self.traced).join(" "))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_script_is_sound_and_in_order() {
        for xentrace in [false, true] {
            let plan = Plan { guests: vec!["g1".into(), "g2".into()], xentrace, traced: xentrace };
            let script = plan.init();
            let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().expect("sh");
            shell.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("write");
            assert!(shell.wait().expect("sh").success(), "{script}");
            let at = |what: &str| script.find(what).unwrap_or_else(|| panic!("no {what} in {script}"));
            let order = [
                at("virtio_console.ko"),
                at("port ispin.dom0"),
                at("xenstored --pid-file"),
                at("xl create -q /guests/$guest.cfg"),
                at(if xentrace {
                    "/bin/ispin-port relay $domains ispin.report ispin.snapshots ispin.trace >"
                } else {
                    "/bin/ispin-port relay $domains ispin.report ispin.snapshots >"
                }),
                at("tell \"end 0\""),
            ];
            assert!(order.is_sorted(), "{script}");
            assert_eq!(
                script.contains("cat /run/xentrace > \"$(port ispin.xentrace)\""),
                xentrace,
                "{script}"
            );
            assert!(script.contains("for guest in g1 g2; do"), "{script}");
        }
    }
}
