//! The guest's first process: a shell script that is made for one run.
//!
//! It talks to the host over a port of its own, in lines that begin with [`MARK`] (see `report`); all other lines
//! there are what the agent and the load say. Under Xen the ports are named pipes, which `ispin-port` empties
//! ([`Way::Shared`]).

use std::fmt::Write;
use std::str::FromStr;

use clap::ValueEnum;

use super::rival::Rival;

/// Begins a line of the init script, as opposed to one of the agent or the load.
pub const MARK: &str = "ispin: ";
/// Name of the port of the snapshots.
pub const SNAPSHOTS: &str = "ispin.snapshots";
/// Name of the port of the init script.
pub const REPORT: &str = "ispin.report";
/// Name of the port of the trace.
pub const TRACE: &str = "ispin.trace";

/// The ports that a guest of Xen has, in order.
pub fn channels(traced: bool) -> Vec<&'static str> {
    [REPORT, SNAPSHOTS].into_iter().chain(traced.then_some(TRACE)).collect()
}

/// Where the agent is in the guest.
pub const AGENT: &str = "/ispin/ispin-agent";
/// Where the loads are in the guest.
pub const LOAD: &str = "/ispin/ispin-load";
/// Where the program is that carries a guest's ports under Xen.
pub const CARRIER: &str = "/ispin/ispin-port";
/// Where its named pipes are.
pub const PIPES: &str = "/run/ispin";
/// Where the script is that the agent runs as its COMMAND.
pub const RUN_LOAD: &str = "/ispin/run-load";
/// Name of a guest that is alone.
pub const NAME: &str = "vm0";

/// How the guest reaches the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through serial ports of its machine.
    Serial,
    /// Through pages that it shares with dom0. Its load starts together with those of the other guests, and then so
    /// much later.
    Shared {
        /// Microseconds.
        offset_us: u64,
    },
}

/// What can be killed in mid-run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Victim {
    /// The whole guest
    Guest,
    /// The agent in it
    Agent,
}

impl FromStr for Victim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, false)
    }
}

/// What the scripts are made for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the guest in snapshots.
    pub name: String,
    /// How it reaches the host.
    pub way: Way,
    /// Arguments of `ispin-load`.
    pub load: Vec<String>,
    /// Time between two snapshots, as the agent reads it; `None` = no agent.
    pub interval: Option<String>,
    /// Buffer of the kernel's own trace, KiB per vCPU; `None` = no trace.
    pub trace_kb: Option<u32>,
    /// The lock that the kernel must report; `None` = it is an unpatched one.
    pub lock: Option<String>,
    /// Another observer that is attached before the load begins.
    pub rival: Option<Rival>,
    /// What is killed in mid-run, and how many seconds after the load's begin.
    pub kill: Option<(Victim, f64)>,
}

const HEAD: &str = r#"#!/bin/sh
# Written by `ispin-lab vm` for one run.
export PATH=/bin
parameters=/sys/module/ispinlock/parameters
tracing=/sys/kernel/tracing
tell() { echo "ispin: $*" >&3; }
fail() { tell "error $*"; exit 1; }
"#;

const MOUNTS: &str = r#"
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t debugfs none /sys/kernel/debug
mount -t tracefs none $tracing
mkdir -p /dev/shm
mount -t tmpfs -o size=90% none /tmp
mount -t tmpfs -o size=90% none /dev/shm
"#;

/// A shell function for a script whose host gives it virtio ports.
pub const PORT_FUNCTION: &str = r#"
# The device of a port, once the host has told its name.
port() {
    tries=0
    while [ $tries -lt 500 ]; do
        for folder in /sys/class/virtio-ports/*; do
            name=
            read -r name 2> /dev/null < "$folder/name"
            if [ "$name" = "$1" ] && [ -c "/dev/${folder##*/}" ]; then
                echo "/dev/${folder##*/}"
                return
            fi
        done
        tries=$((tries + 1))
        sleep 0.02
    done
    echo "ispin: the host gave no port $1" > /dev/console
    poweroff -f
}
"#;

/// The carrier makes the pipe `start` after all others.
const SHARED: &str = r#"
CARRIER guest PIPES CHANNELS < /dev/null > /dev/console 2>&1 &
carrier=$!
tries=0
until [ -p PIPES/start ]; do
    tries=$((tries + 1))
    if [ $tries -gt 500 ]; then
        echo "ispin init: the port to dom0 did not open" > /dev/console
        poweroff -f
    fi
    sleep 0.02
done
port() { echo "PIPES/$1"; }
"#;

impl Plan {
    /// The script `/init`.
    pub fn init(&self) -> String {
        let ports = match self.way {
            Way::Serial => PORT_FUNCTION.to_owned(),
            Way::Shared { .. } => SHARED
                .replace("CARRIER", CARRIER)
                .replace("PIPES", PIPES)
                .replace("CHANNELS", &channels(self.trace_kb.is_some()).join(" ")),
        };
        let mut script = format!(
            "{HEAD}{MOUNTS}{ports}hostname {}\nexec 3> \"$(port {REPORT})\"\ntell boot\n\n",
            self.name
        );
        script += "run() {\n";
        script += &indented(&self.body());
        script += "}\n(run)\ntell \"end $?\"\n";
        if let Way::Shared { .. } = self.way {
            // It ends when dom0 has taken all.
            script += "exec 3>&-\nkill $carrier\nwait $carrier\n";
        }
        script += "poweroff -f\n";
        script
    }

    fn body(&self) -> String {
        let mut body = String::from(
            "unknown=$(dmesg | grep -m1 'Unknown kernel command line parameters')\n\
             [ -z \"$unknown\" ] || fail \"the kernel does not know a parameter: ${unknown#*] }\"\n",
        );
        if let Some(lock) = &self.lock {
            let _ = write!(
                body,
                "[ -e $parameters/mode ] || fail \"this kernel has no informed spinlocks: it is not patched, or \
                 built without CONFIG_ISPINLOCK\"\n\
                 read -r mode < $parameters/mode\n\
                 [ \"$mode\" = {lock} ] || fail \"the kernel's lock is $mode, not {lock}\"\n\
                 read -r source < $parameters/source\n\
                 tell source $source\n"
            );
        }
        if let Some(kb) = self.trace_kb {
            let _ = write!(
                body,
                "echo {kb} > $tracing/buffer_size_kb || fail \"no memory for a trace of {kb} KiB per vCPU\"\n\
                 echo 1 > $tracing/events/ispinlock/enable || fail \"the trace cannot be started\"\n"
            );
        }
        if let Some(rival) = self.rival {
            body += &rival.attach();
        }
        match &self.interval {
            Some(interval) => {
                // The agent empties an output when observation begins, and a CSV then has its header: that is
                // what the load waits for.
                let _ = write!(
                    body,
                    "{AGENT} run --source guest --interval {interval} --json \"$(port {SNAPSHOTS})\" \
                     --csv /tmp/observing -- {RUN_LOAD} < /dev/null >&3 2>&3\n\
                     code=$?\n"
                );
            }
            None => {
                let _ = write!(body, "{RUN_LOAD} < /dev/null >&3 2>&3\ncode=$?\n");
            }
        }
        // A program that a signal ended: the kernel knows where.
        body += "[ $code -lt 128 ] || dmesg | tail -n 12 >&3\n";
        if self.trace_kb.is_some() {
            body += &format!(
                "echo 0 > $tracing/tracing_on\n\
                 echo 0 > $tracing/events/ispinlock/enable\n\
                 lost=$(cat $tracing/per_cpu/*/stats | grep -c -E '^(overrun|commit overrun|dropped events): [1-9]')\n\
                 [ \"$lost\" = 0 ] || fail \"the trace did not fit: give it more room (--trace-mb) or run for less time\"\n\
                 if [ $code = 0 ]; then\n\
                 \x20   tell trace\n\
                 \x20   {LOAD} trace-dump /tmp/trace.tar >&3 2>&3 || fail \"the trace could not be read\"\n\
                 \x20   cat /tmp/trace.tar > \"$(port {TRACE})\" || fail \"the trace could not be handed over\"\n\
                 fi\n"
            );
        }
        body += "exit $code\n";
        body
    }

    /// The script [`RUN_LOAD`]: opens the gate of the events when the observers are there, runs the load, closes
    /// the gate again. So runs with and without a second observer count the same stretch.
    pub fn run_load(&self) -> String {
        let mut script = HEAD.to_owned();
        if self.interval.is_some() {
            script += "tries=0\n\
                       until [ -s /tmp/observing ]; do\n\
                       \x20   tries=$((tries + 1))\n\
                       \x20   [ $tries -lt 1200 ] || fail \"the agent did not begin to observe within 60 s\"\n\
                       \x20   sleep 0.05\n\
                       done\n";
        }
        if let Way::Shared { offset_us } = self.way {
            let _ = writeln!(
                script,
                "{CARRIER} start {PIPES} --offset-us {offset_us} >&3 2>&3 || fail \"the start did not come\""
            );
        }
        if self.lock.is_some() {
            script += "read -r opened rest < /proc/uptime\n\
                       echo 1 > $parameters/events || fail \"the events cannot be let through\"\n";
        }
        if let Some((victim, seconds)) = self.kill {
            let kill = match victim {
                Victim::Guest => "poweroff -f",
                // This script is the agent's COMMAND.
                Victim::Agent => "kill -9 $PPID",
            };
            let _ = writeln!(script, "(sleep {seconds}; {kill}) &");
        }
        let _ = write!(script, "tell load\n{LOAD} {}\ncode=$?\n", quoted(&self.load));
        if self.lock.is_some() {
            script += "echo 0 > $parameters/events || fail \"the events cannot be held back\"\n\
                       read -r closed rest < /proc/uptime\n\
                       tell \"gate $opened $closed\"\n";
        }
        if let Way::Shared { .. } = self.way {
            let _ = writeln!(
                script,
                "{CARRIER} finish {PIPES} >&3 2>&3 || fail \"the end of the other loads did not come\""
            );
        }
        script += "tell \"exit $code\"\nexit $code\n";
        script
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn quoted(words: &[String]) -> String {
    let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn plan() -> Plan {
        Plan {
            name: NAME.into(),
            way: Way::Serial,
            load: ["run", "dup", "--seconds", "2", "it's"].map(String::from).to_vec(),
            interval: Some("250ms".into()),
            trace_kb: Some(4096),
            lock: Some("hvm".into()),
            rival: None,
            kill: None,
        }
    }

    /// The shell reads it without a complaint.
    fn sound(script: &str) {
        let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().expect("sh");
        shell.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("write");
        assert!(shell.wait().expect("sh").success(), "{script}");
    }

    #[test]
    fn every_combination_is_a_sound_script() {
        for interval in [None, Some("1s".into())] {
            for trace_kb in [None, Some(1)] {
                for lock in [None, Some("pv".into())] {
                    for rival in [None, Some(Rival::Ftrace), Some(Rival::Bpftrace)] {
                        for way in [Way::Serial, Way::Shared { offset_us: 5 }] {
                            let (interval, lock) = (interval.clone(), lock.clone());
                            let plan = Plan { way, interval, trace_kb, lock, rival, ..plan() };
                            sound(&plan.init());
                            sound(&plan.run_load());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_gate_is_open_while_the_load_runs_and_no_longer() {
        let script = plan().run_load();
        let at = |what: &str| script.find(what).unwrap_or_else(|| panic!("no {what} in {script}"));
        let order = [
            at("until [ -s /tmp/observing ]"),
            at("echo 1 > $parameters/events"),
            at(r"/ispin/ispin-load 'run' 'dup' '--seconds' '2' 'it'\''s'"),
            at("echo 0 > $parameters/events"),
            at("exit $code"),
        ];
        assert!(order.is_sorted(), "{script}");
    }

    #[test]
    fn a_guest_of_xen_starts_with_the_others_and_opens_its_gate_then() {
        let plan = Plan { way: Way::Shared { offset_us: 77 }, ..plan() };
        let load = plan.run_load();
        let at =
            |script: &str, what: &str| script.find(what).unwrap_or_else(|| panic!("no {what} in {script}"));
        assert!(
            at(&load, "ispin-port start /run/ispin --offset-us 77")
                < at(&load, "echo 1 > $parameters/events")
        );
        assert!(
            at(&load, "echo 0 > $parameters/events") < at(&load, "tell \"gate $opened $closed\"")
                && at(&load, "tell \"gate") < at(&load, "ispin-port finish /run/ispin")
                && at(&load, "ispin-port finish /run/ispin") < at(&load, "tell \"exit $code\"")
        );
        let init = plan.init();
        assert!(
            init.contains("ispin-port guest /run/ispin ispin.report ispin.snapshots ispin.trace <"),
            "{init}"
        );
        assert!(at(&init, "tell \"end $?\"") < at(&init, "wait $carrier") && !init.contains("virtio-ports"));
    }

    #[test]
    fn a_victim_is_killed_while_the_load_runs() {
        for (victim, words) in
            [(Victim::Guest, "(sleep 1; poweroff -f) &"), (Victim::Agent, "(sleep 1; kill -9 $PPID) &")]
        {
            let script = Plan { kill: Some((victim, 1.0)), ..plan() }.run_load();
            sound(&script);
            assert!(script.find(words) < script.find("'run' 'dup'"), "{script}");
        }
        assert!(!plan().run_load().contains("kill"));
    }

    #[test]
    fn both_observers_are_there_before_the_load_and_the_trace_is_read_after_it() {
        let script = plan().init();
        let at = |what: &str| script.find(what).unwrap_or_else(|| panic!("no {what} in {script}"));
        let order = [
            at("events/ispinlock/enable"),
            at("/ispin/ispin-agent run --source guest --interval 250ms"),
            at("echo 0 > $tracing/tracing_on"),
            at("trace-dump"),
            at("poweroff -f\n"),
        ];
        assert!(order[..4].is_sorted(), "{script}");
        let stock = Plan { lock: None, interval: None, trace_kb: None, ..plan() };
        assert!(!stock.init().contains("$parameters/mode") && !stock.init().contains("ispin-agent"));
        assert!(!stock.run_load().contains("> $parameters"));
    }
}
