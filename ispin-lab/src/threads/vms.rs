//! The VM processes of a run as the hypervisor sees them: start, barrier, pause, end. `vm_process` is the other side.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::vm_process::{Finished, ThreadResult, VmConfig};

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
    /// Row of its first vCPU.
    pub first_row: u32,
}

impl Vm {
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
        let mut child = Command::new(program)
            .arg("vm-process")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a VM process")?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a VM process has no pipes");
        };
        let first_row = config.first_row;
        let mut line = serde_json::to_vec(&config)?;
        line.push(b'\n');
        let told = stdin.write_all(&line).context("configuring a VM process");
        self.running.push(Vm { child, stdin, answers: BufReader::new(stdout), first_row });
        told
    }

    /// Opens the start barriers.
    pub fn go(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(|vm| vm.stdin.write_all(b"\n")).context("starting a VM")
    }

    /// Whether no VM runs any more.
    pub fn all_ended(&mut self) -> Result<bool> {
        for vm in &mut self.running {
            if vm.child.try_wait().context("waiting for a VM")?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
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

impl Drop for Vms {
    fn drop(&mut self) {
        for vm in &mut self.running {
            // Kills a paused process too. One that has ended and was waited for is left alone by `kill`.
            let _ = vm.child.kill();
            let _ = vm.child.wait();
        }
    }
}
