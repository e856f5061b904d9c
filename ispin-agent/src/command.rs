//! COMMAND: the process around which a run is observed.
//!
//! It leads a process group of its own, so that signals reach all that it starts and a Ctrl-C in the terminal
//! reaches only the observer, which passes it on. It gets SIGTERM from the kernel if the observer dies.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group, pidfd_open,
    set_parent_process_death_signal, waitid,
};

use crate::signals;

/// How long a COMMAND that was told to end has for cleaning up before it is killed.
pub const GRACE: Duration = Duration::from_secs(5);

/// Tells a COMMAND that makes a threads world to begin only when its observer is there, so that nothing of it
/// is missed.
pub const WAIT_VARIABLE: &str = "ISPIN_WAIT_FOR_OBSERVER";

/// Where COMMAND's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Where the observer's goes.
    Inherit,
    /// To the observer's standard error, because its standard output carries data.
    ToStderr,
    /// Nowhere.
    Discard,
    /// Nowhere, but its standard error goes where the observer's does.
    OnlyErrors,
    /// With its standard error into memory, because a full-screen program owns the terminal: [`Child::listen`]
    /// must be called now and then, [`Child::said`] gives the last of it.
    Keep,
}

/// What is kept of a COMMAND's output: its end.
const KEPT: usize = 64 << 10;

/// A running COMMAND. Dropping it ends it: SIGTERM to its group, SIGKILL after [`GRACE`].
pub struct Child {
    inner: std::process::Child,
    pidfd: OwnedFd,
    group: Pid,
    name: String,
    ended: Option<ExitStatus>,
    /// Reading end of its output, if that is kept; does not block.
    output: Option<OwnedFd>,
    kept: Vec<u8>,
}

/// Why a COMMAND could not be started.
#[derive(Debug)]
pub struct SpawnError {
    name: String,
    error: io::Error,
}

impl SpawnError {
    /// The exit code that shells give in this case: 127 not found, 126 found but not executable.
    pub fn exit_code(&self) -> u8 {
        if self.error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { name, error } = self;
        match error.kind() {
            io::ErrorKind::NotFound => {
                let place = if name.contains('/') {
                    "give the right path"
                } else {
                    "it is not in PATH; install it, or give its path"
                };
                write!(f, "COMMAND `{name}` was not found: {place}")
            }
            io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "COMMAND `{name}` may not be executed: is it a program, with its x bit set? ({error})"
                )
            }
            // The standard library hands the new process's descriptor over a socket.
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => write!(
                f,
                "COMMAND `{name}` could not be started: that takes a kernel with CONFIG_UNIX=y ({error}); without it \
                 start the agent and the load one after the other"
            ),
            _ => write!(f, "COMMAND `{name}` could not be started: {error}"),
        }
    }
}

impl std::error::Error for SpawnError {}

impl Child {
    /// Starts `program` with `arguments` and, on top of this process's environment, `environment`.
    ///
    /// Its standard input is this process's, unless that is a terminal: a group in the background must not
    /// read from it.
    pub fn spawn(
        program: &OsStr,
        arguments: &[OsString],
        environment: &[(&str, &Path)],
        output: Output,
    ) -> Result<Self, SpawnError> {
        let failed = |error| SpawnError { name: program.display().to_string(), error };
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        command.envs(environment.iter().copied());
        command.stdin(if io::stdin().is_terminal() { Stdio::null() } else { Stdio::inherit() });
        let mut kept_output = None;
        match output {
            Output::Inherit => {}
            Output::ToStderr => {
                let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
                command.stdout(stderr);
            }
            Output::Discard => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            }
            Output::OnlyErrors => {
                command.stdout(Stdio::null());
            }
            Output::Keep => {
                let (reader, writer) = io::pipe().map_err(failed)?;
                // Of the reading end only: COMMAND is to wait for room, not to fail.
                rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
                command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
                kept_output = Some(reader.into());
            }
        }
        let parent = getpid();
        // SAFETY: between fork and exec only two system calls are made; nothing is allocated or locked.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::TERM))?;
                // The parent may have died before the line above.
                if getppid() != Some(parent) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(())
            });
        }
        let mut inner = command.spawn().map_err(failed)?;
        let group = Pid::from_child(&inner);
        match pidfd_open(group, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self {
                inner,
                pidfd,
                group,
                name: program.display().to_string(),
                ended: None,
                output: kept_output,
                kept: vec![],
            }),
            Err(e) => {
                // Without a descriptor for it nobody would notice its end.
                let _ = kill_process_group(group, Signal::KILL);
                let _ = inner.wait();
                Err(failed(io::Error::other(format!("pidfd_open, which Linux has since 5.3: {e}"))))
            }
        }
    }

    /// Process id, which is the number of its group too.
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// As the user called it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes in what it has written, if that is kept. Never waits. COMMAND waits once a pipe's worth (64 KiB) of
    /// it was not taken in.
    pub fn listen(&mut self) -> Result<()> {
        let Some(output) = &self.output else { return Ok(()) };
        let mut bytes = [0; 4096];
        loop {
            match rustix::io::read(output, &mut bytes) {
                Ok(0) => {
                    self.output = None;
                    return Ok(());
                }
                Ok(n) => self.kept.extend_from_slice(&bytes[..n]),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).with_context(|| format!("reading what {} writes", self.name)),
            }
            if self.kept.len() > 2 * KEPT {
                self.kept.drain(..self.kept.len() - KEPT);
            }
        }
    }

    /// The last that it wrote, if that is kept.
    pub fn said(&mut self) -> Result<String> {
        self.listen()?;
        let begin = self.kept.len().saturating_sub(KEPT);
        Ok(String::from_utf8_lossy(&self.kept[begin..]).into_owned())
    }

    /// Its exit status, once it ended. What it left behind in its group gets SIGTERM then.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() && self.exited()? {
            // Before it is reaped its number, and so that of the group, cannot go to somebody else.
            let _ = kill_process_group(self.group, Signal::TERM);
            self.ended = Some(self.inner.wait().with_context(|| format!("waiting for {}", self.name))?);
        }
        Ok(self.ended)
    }

    /// Waits for its end, at most `limit` (forever if `None`).
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let limit =
                limit.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: d.subsec_nanos().into() });
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, limit.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).with_context(|| format!("waiting for {}", self.name)),
            }
        }
        self.try_wait()
    }

    /// Sends a signal to its group.
    pub fn signal(&self, number: i32) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        let signal =
            Signal::from_named_raw(number).with_context(|| format!("there is no signal {number}"))?;
        kill_process_group(self.group, signal)
            .with_context(|| format!("sending {} to {}", signals::name(number), self.name))
    }

    /// Ends it: sends `number` to its group, and SIGKILL if it is still there after `grace`.
    pub fn end(&mut self, number: i32, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        self.signal(number)?;
        let deadline = std::time::Instant::now() + grace;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if let Some(status) = self.wait(Some(left))? {
                return Ok(status);
            }
            if left.is_zero() {
                break;
            }
        }
        log::warn!("{} is still there {grace:?} after {}: killing it", self.name, signals::name(number));
        self.signal(Signal::KILL.as_raw())?;
        loop {
            if let Some(status) = self.wait(None)? {
                return Ok(status);
            }
        }
    }

    fn exited(&self) -> Result<bool> {
        // NOWAIT leaves it a zombie: it still owns its number.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
            .with_context(|| format!("asking for the state of {}", self.name))?;
        Ok(status.is_some())
    }
}

impl AsFd for Child {
    /// Readable once it ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(e) = self.end(libc::SIGTERM, GRACE) {
            log::warn!("{e:#}");
        }
    }
}

/// The exit code that shells report: the process's own, or 128 plus the number of the signal that ended it.
pub fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128u8.wrapping_add(signal as u8),
        (None, None) => 1,
    }
}

/// An exit status in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by {}", signals::name(signal)),
        (None, None) => format!("ended: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sh(script: &str) -> Child {
        Child::spawn("sh".as_ref(), &["-c".into(), script.into()], &[], Output::Discard).expect("sh starts")
    }

    fn gone(pid: i32) -> bool {
        let Some(pid) = Pid::from_raw(pid) else { return true };
        rustix::process::test_kill_process(pid).is_err()
    }

    #[test]
    fn exit_codes_and_signals_are_told_apart() {
        assert_eq!(exit_code(sh("exit 3").wait(None).expect("wait").expect("ended")), 3);
        let status = sh("kill -KILL $$").wait(None).expect("wait").expect("ended");
        assert_eq!(exit_code(status), 137);
        assert_eq!(describe(status), "was ended by SIGKILL");
    }

    #[test]
    fn a_missing_or_unexecutable_command_is_an_error_as_in_a_shell() {
        let spawn =
            |name: &str| Child::spawn(name.as_ref(), &[], &[], Output::Discard).err().expect("must fail");
        let missing = spawn("no-such-command-of-ispin");
        assert_eq!(missing.exit_code(), 127);
        assert!(missing.to_string().contains("not in PATH"), "{missing}");
        assert_eq!(spawn("/etc/passwd").exit_code(), 126);
    }

    #[test]
    fn one_that_ignores_the_signal_is_killed_after_the_grace() {
        let mut child = sh("trap '' TERM; while :; do sleep 0.05; done");
        std::thread::sleep(Duration::from_millis(50));
        let begin = Instant::now();
        let status = child.end(libc::SIGTERM, Duration::from_millis(200)).expect("end");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert!(begin.elapsed() >= Duration::from_millis(200));
    }

    #[test]
    fn the_end_of_its_output_is_kept() {
        let spawn = |script: &str| {
            Child::spawn("sh".as_ref(), &["-c".into(), script.into()], &[], Output::Keep).expect("sh starts")
        };
        let mut child = spawn("echo out; echo err >&2");
        child.wait(None).expect("wait").expect("ended");
        assert_eq!(child.said().expect("said"), "out\nerr\n");

        let mut child = spawn("yes | head -c 1000000; echo end");
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "it waits for somebody to listen");
            child.listen().expect("listen");
        }
        let said = child.said().expect("said");
        assert!(said.ends_with("y\nend\n") && said.len() <= KEPT, "{} bytes", said.len());
    }

    #[test]
    fn what_it_leaves_behind_ends_with_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("pid");
        let mut child = sh(&format!("sleep 60 & echo $! > {}", file.display()));
        child.wait(None).expect("wait").expect("ended");
        let pid: i32 = std::fs::read_to_string(&file).expect("pid").trim().parse().expect("number");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !gone(pid) && !zombie(pid) {
            assert!(Instant::now() < deadline, "process {pid} is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn zombie(pid: i32) -> bool {
        procfs::process::Process::new(pid).and_then(|p| p.stat()).is_ok_and(|s| s.state == 'Z')
    }
}
