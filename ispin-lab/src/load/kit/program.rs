//! Child programs: bounded in time, ended with the load however it ends, their messages kept for the error.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use super::signals::Signals;

/// How much of a failed program's messages is shown, bytes.
const SHOWN: usize = 2000;

/// Runs `command` to its end; it must succeed within `limit`. Its standard error goes to the file `messages`.
pub fn run(command: &mut Command, messages: &Path, signals: &Signals, limit: Duration) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = run_any(command, messages, signals, limit).with_context(|| format!("running {name}"))?;
    if !status.success() {
        let text = fs::read_to_string(messages).with_context(|| format!("reading {}", messages.display()))?;
        let from = text.len().saturating_sub(SHOWN);
        let shown = text.get(from..).unwrap_or(&text).trim();
        bail!("{name} failed ({status}): {shown}");
    }
    Ok(())
}

fn run_any(command: &mut Command, messages: &Path, signals: &Signals, limit: Duration) -> Result<ExitStatus> {
    let file = File::create(messages).with_context(|| format!("creating {}", messages.display()))?;
    command.stdin(Stdio::null()).stderr(file);
    // SAFETY: between fork and exec only a system call is made.
    unsafe {
        // A load that is killed takes its children with it.
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut child = Guard(command.spawn()?);
    let pid = Pid::from_child(&child.0);
    let ended = pidfd_open(pid, PidfdFlags::empty()).context("watching a program")?;
    let deadline = Instant::now() + limit;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).context("the time of a program")?;
        let mut fds =
            [PollFd::new(&ended, PollFlags::IN), PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => bail!("still running after {limit:?}"),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(child.0.wait()?),
            Ok(_) | Err(Errno::INTR) => signals.check()?,
            Err(error) => return Err(error).context("waiting for a program"),
        }
    }
}

/// Kills and reaps a program that nobody waited for.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only if the program has been reaped, which is the aim.
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
