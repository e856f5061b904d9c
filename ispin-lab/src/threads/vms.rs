//! The VM processes of a run as the hypervisor sees them: start, barrier, pause, end. `vm_process` is the other side.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::time::Timespec;

use super::vm_process::{Finished, ThreadResult, VmConfig};
use crate::vcpu::monotonic_ns;

/// The VM processes of a run. Dropping ends them.
#[derive(Default)]
pub struct Vms {
    /// In the order of their numbers.
    pub running: Vec<Vm>,
}

/// One VM process and the pipes to it.
pub struct Vm {
    child: Child,
    stdin: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Readable once the process has ended; `None` = it has, and that was seen.
    end: Option<OwnedFd>,
    /// Row of its first vCPU.
    pub first_row: u32,
}

impl Vm {
    /// The VM that `child` is.
    fn of(mut child: Child, first_row: u32) -> Result<Self> {
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a VM process has no pipes");
        };
        let end = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .context("watching a VM process (the kernel needs pidfd_open: Linux 5.3)")?;
        Ok(Self { child, stdin, answers: BufReader::new(stdout), end: Some(end), first_row })
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The VM's next answer.
    pub fn read_answer<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("reading a VM's answer")?;
        if line.is_empty() {
            let status = self.child.wait().context("waiting for a VM")?;
            bail!("a VM ended with {status} before it answered; its message is above");
        }
        serde_json::from_str(&line).with_context(|| format!("a VM answered `{}`", line.trim()))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid()) {
            // A VM that has just ended cannot be signalled; its end is seen elsewhere.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Vms {
    /// Starts a VM and tells it what it is.
    pub fn start(&mut self, config: VmConfig) -> Result<()> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let child = Command::new(program)
            .arg("vm-process")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a VM process")?;
        let mut vm = Vm::of(child, config.first_row)?;
        let mut line = serde_json::to_vec(&config)?;
        line.push(b'\n');
        let told = vm.stdin.write_all(&line).context("configuring a VM process");
        self.running.push(vm);
        told
    }

    /// Opens the start barriers.
    pub fn go(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(|vm| vm.stdin.write_all(b"\n")).context("starting a VM")
    }

    /// Whether no VM runs any more.
    pub fn all_ended(&mut self) -> Result<bool> {
        for vm in self.running.iter_mut().filter(|vm| vm.end.is_some()) {
            if vm.child.try_wait().context("waiting for a VM")?.is_some() {
                vm.end = None;
            }
        }
        Ok(self.running.iter().all(|vm| vm.end.is_none()))
    }

    /// Sleeps until a VM ends whose end [`Self::all_ended`] has not seen, but no longer than until `until`, `CLOCK_MONOTONIC` ns. A
    /// signal ends it, too.
    pub fn wait_for_an_end(&self, until: u64) -> Result<()> {
        let running = self.running.iter().filter_map(|vm| vm.end.as_ref());
        let mut ends: Vec<PollFd> = running.map(|end| PollFd::new(end, PollFlags::IN)).collect();
        match poll(&mut ends, Some(&timespec(until.saturating_sub(monotonic_ns())))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("waiting for the end of a VM"),
        }
    }

    /// What the threads of each VM did.
    pub fn finish(&mut self) -> Result<Vec<Vec<ThreadResult>>> {
        self.running.iter_mut().map(|vm| vm.read_answer::<Finished>().map(|f| f.threads)).collect()
    }

    /// Stops all vCPUs.
    pub fn pause(&self) {
        self.running.iter().for_each(|vm| vm.signal(Signal::STOP));
    }

    /// Lets all vCPUs go on.
    pub fn resume(&self) {
        self.running.iter().for_each(|vm| vm.signal(Signal::CONT));
    }
}

/// A time of `ns`, as the kernel wants it.
pub fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

impl Drop for Vms {
    fn drop(&mut self) {
        for vm in &mut self.running {
            // Kills a paused process too. One that has ended and was waited for is left alone by `kill`.
            let _ = vm.child.kill();
            let _ = vm.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// VMs that do nothing, each for so many seconds.
    fn idle(seconds: &[&str]) -> Vms {
        let vm = |seconds: &&str| {
            let mut command = Command::new("sleep");
            let child = command.arg(seconds).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            Vm::of(child.expect("sleep"), 0).expect("a VM")
        };
        Vms { running: seconds.iter().map(vm).collect() }
    }

    fn in_a_minute() -> u64 {
        monotonic_ns() + 60_000_000_000
    }

    #[test]
    fn the_end_of_each_vm_is_waited_for_once() {
        let mut vms = idle(&["0.5", "0", "0.1"]);
        let (begin, mut looks) = (Instant::now(), 0);
        while !vms.all_ended().expect("VMs") {
            vms.wait_for_an_end(in_a_minute()).expect("VMs");
            looks += 1;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        // One for each, and one that comes before a process can be waited for; not one after the other for half a second.
        assert!(looks <= 6, "{looks} looks");
    }

    #[test]
    fn a_vm_that_goes_on_is_waited_for_until_the_given_time() {
        let mut vms = idle(&["60"]);
        let until = monotonic_ns() + 20_000_000;
        while monotonic_ns() < until {
            vms.wait_for_an_end(until).expect("VMs");
        }
        assert!(!vms.all_ended().expect("VMs"));
        // One in the past is no wait at all.
        vms.wait_for_an_end(0).expect("VMs");
    }
}
