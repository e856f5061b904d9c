//! One boot, from QEMU's start to its end: snapshots go to the sinks, messages are read, faults become errors.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use ispin_agent::command::{Child, GRACE, Output, describe};
use ispin_agent::model::Snapshot;
use ispin_agent::sink::{Outputs, Sink};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::console;
use super::ports::Lines;
use super::qemu::{self, Machine};
use super::report::{LoadResult, Message};
use super::steps::{Steps, last_lines};
use super::trace_file::TraceFile;

/// How often the ports are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a fault that was seen on the console has for telling the rest.
const SETTLE: Duration = Duration::from_secs(3);
/// What is remembered of what agent and load said: the end.
const SAID_LINES: usize = 200;

/// What one boot is to do.
pub struct Boot {
    /// The machine, but for its console and ports.
    pub machine: Machine,
    /// Silence that ends the run, in time of the host.
    pub timeout: Duration,
    /// More of it while the load runs, for runs in which nothing comes meanwhile.
    pub patience: Duration,
    /// Whether the agent sends snapshots.
    pub agent: bool,
    /// Length of the load in time of the guest, s.
    pub seconds: f64,
    /// Gets the console.
    pub keep_console: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Observed {
    /// The last snapshot, if there was an agent.
    pub last: Option<Snapshot>,
    /// Who published slots; `None` = the kernel has no informed locks.
    pub source: Option<String>,
    /// What the load reported.
    pub result: Option<LoadResult>,
}

/// The state of a boot.
struct Relay<'a> {
    boot: &'a Boot,
    steps: &'a Steps<'a>,
    console_port: Lines,
    report_port: Lines,
    snapshot_port: Lines,
    console: Vec<String>,
    console_file: Option<(PathBuf, File)>,
    /// Sinks that wait for the first snapshot: until then what is there stays as it is.
    waiting: Vec<Box<dyn Sink>>,
    outputs: Option<Outputs>,
    observed: Observed,
    said: Vec<String>,
    error: Option<String>,
    load_exit: Option<i32>,
    end: Option<i32>,
    loading: bool,
    faulty_since: Option<Instant>,
    heard: (u64, Instant),
}

/// Boots the machine and relays until it is off. `None` = who read the output has gone, so it was ended early.
pub fn run(
    boot: &Boot,
    sinks: Vec<Box<dyn Sink>>,
    trace: Option<&TraceFile>,
    steps: &Steps,
) -> Result<Option<Observed>> {
    let mut relay = Relay::new(boot, sinks, steps)?;
    steps.progress.step("booting the guest");
    let mut qemu = relay.start(trace)?;
    let end = relay.until_off(&mut qemu, trace);
    let (failed, _) = relay.outputs.take().map(Outputs::finish).unwrap_or_default();
    let verdict = match &end {
        Ok(End::Off) => relay.verdict(&mut qemu),
        _ => Ok(()),
    };
    if let Err(error) = qemu.end(libc::SIGTERM, GRACE) {
        log::warn!("{error:#}");
    }
    let end = end?;
    verdict?;
    if !failed.is_empty() {
        bail!("{} is incomplete, see above", failed.join(", "));
    }
    if matches!(end, End::NoReader) {
        return Ok(None);
    }
    if let Some(trace) = trace {
        trace.complete()?;
    }
    Ok(Some(relay.observed))
}

/// How relaying ended.
enum End {
    /// The machine is off, or a fault was seen.
    Off,
    /// Nobody takes the snapshots any more.
    NoReader,
}

impl<'a> Relay<'a> {
    fn new(boot: &'a Boot, sinks: Vec<Box<dyn Sink>>, steps: &'a Steps<'a>) -> Result<Self> {
        let open = |path: &PathBuf| -> Result<(PathBuf, File)> {
            let file = File::create(path).with_context(|| format!("--keep-console {}", path.display()))?;
            Ok((path.clone(), file))
        };
        Ok(Self {
            boot,
            steps,
            console_port: Lines::new("the console")?,
            report_port: Lines::new("the guest's report")?,
            snapshot_port: Lines::new("the guest's snapshots")?,
            console: vec![],
            console_file: boot.keep_console.as_ref().map(open).transpose()?,
            waiting: sinks,
            outputs: None,
            observed: Observed::default(),
            said: vec![],
            error: None,
            load_exit: None,
            end: None,
            loading: false,
            faulty_since: None,
            heard: (0, Instant::now()),
        })
    }

    fn start(&self, trace: Option<&TraceFile>) -> Result<Child> {
        let mut machine = self.boot.machine.clone();
        machine.console = self.console_port.shared().path();
        let report = Some(self.report_port.shared());
        let snapshots = self.boot.agent.then_some(self.snapshot_port.shared());
        let files = [report, snapshots, trace.map(TraceFile::shared)];
        let names = qemu::port_names(self.boot.agent, trace.is_some());
        machine.ports = names.into_iter().zip(files.iter().flatten().map(|file| file.path())).collect();
        let lend = |lent: bool| -> Result<()> {
            files.iter().flatten().chain([&self.console_port.shared()]).try_for_each(|file| file.lend(lent))
        };
        lend(true)?;
        let arguments = machine.arguments();
        log::info!("{} {arguments:?}", qemu::PROGRAM);
        let qemu = Child::spawn(Path::new(qemu::PROGRAM).as_os_str(), &arguments, &[], Output::Keep)
            .context("starting QEMU")?;
        lend(false)?;
        Ok(qemu)
    }

    /// Relays until QEMU has ended by itself. An error leaves it running.
    fn until_off(&mut self, qemu: &mut Child, trace: Option<&TraceFile>) -> Result<End> {
        self.heard.1 = Instant::now();
        loop {
            let wait = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
            let mut fds =
                [PollFd::new(self.steps.signals, PollFlags::IN), PollFd::new(&*qemu, PollFlags::IN)];
            match poll(&mut fds, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("waiting for QEMU"),
            }
            self.steps.check()?;
            // Asked before the ports are read, so that nothing it wrote last is missed.
            let off = qemu.try_wait()?.is_some();
            qemu.listen()?;
            self.take()?;
            if off || self.faulty_since.is_some_and(|since| since.elapsed() >= SETTLE) {
                return Ok(End::Off);
            }
            if self.outputs.as_ref().is_some_and(|outputs| outputs.pointless(false)) {
                return Ok(End::NoReader);
            }
            self.listen_for_silence(trace)?;
        }
    }

    /// Takes in what has come.
    fn take(&mut self) -> Result<()> {
        for line in self.console_port.take()? {
            if let Some((path, file)) = &mut self.console_file {
                writeln!(file, "{line}").with_context(|| format!("--keep-console {}", path.display()))?;
            }
            if console::judge(&line).is_some() {
                self.faulty_since.get_or_insert_with(Instant::now);
            }
            self.console.push(line);
        }
        for line in self.report_port.take()? {
            self.message(Message::parse(&line)?);
        }
        for line in self.snapshot_port.take()? {
            let now: Snapshot = serde_json::from_str(&line)
                .with_context(|| format!("the guest sent what is no snapshot: `{}`", beginning(&line)))?;
            let waiting = std::mem::take(&mut self.waiting);
            let outputs = self.outputs.get_or_insert_with(|| Outputs::begin(waiting));
            outputs.write(self.observed.last.as_ref(), &now);
            if self.loading {
                let elapsed = now.elapsed_ns as f64 / 1e9;
                self.steps.progress.detail(&format!("{elapsed:.1} of about {:.1} s", self.boot.seconds));
            }
            self.observed.last = Some(now);
        }
        Ok(())
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Boot => self.steps.progress.step("the guest has booted"),
            Message::Source(source) => self.observed.source = Some(source),
            Message::Load => {
                self.loading = true;
                self.steps.progress.step("the load runs");
            }
            Message::Result(result) => self.observed.result = Some(result),
            Message::Exit(code) => {
                self.loading = false;
                self.load_exit = Some(code);
            }
            Message::Trace => self.steps.progress.step("reading out the trace"),
            Message::Error(error) => {
                self.error.get_or_insert(error);
            }
            Message::End(code) => self.end = Some(code),
            Message::Said(line) => {
                log::info!("guest: {line}");
                if self.said.len() == SAID_LINES {
                    self.said.remove(0);
                }
                self.said.push(line);
            }
        }
    }

    /// Fails once nothing has come for too long.
    fn listen_for_silence(&mut self, trace: Option<&TraceFile>) -> Result<()> {
        let bytes = self.console_port.read() + self.report_port.read() + self.snapshot_port.read();
        let bytes = bytes + trace.map_or(Ok(0), TraceFile::len)?;
        if bytes != self.heard.0 {
            self.heard = (bytes, Instant::now());
        }
        let patience = if self.loading { self.boot.patience } else { Duration::ZERO };
        let limit = self.boot.timeout + patience;
        if self.heard.1.elapsed() < limit {
            return Ok(());
        }
        let stage = match (self.report_port.read(), self.loading) {
            (0, _) => "the guest did not boot",
            (_, true) => "the guest fell silent while the load ran: it may hang",
            (_, false) => "the guest fell silent",
        };
        bail!(
            "{stage}; nothing came from it for {:.0} s (--timeout). The end of its console:\n{}{}",
            limit.as_secs_f64(),
            console::end(&self.console),
            self.said_by_guest()
        )
    }

    /// Whether the run may count.
    fn verdict(&self, qemu: &mut Child) -> Result<()> {
        if let Some(fault) = console::diagnose(&self.console) {
            let more = match &self.boot.keep_console {
                Some(path) => format!("the whole console: {}", path.display()),
                None => "--keep-console FILE keeps the whole console".to_owned(),
            };
            bail!(
                "the guest's kernel reported a fault: {}\n{}\n{more}",
                fault.cause,
                console::excerpt(&self.console, &fault)
            );
        }
        if let Some(error) = &self.error {
            bail!("in the guest: {error}{}", self.said_by_guest());
        }
        let Some(end) = self.end else {
            let status = qemu.try_wait()?.map_or_else(|| "still runs".to_owned(), describe);
            let said = qemu.said()?;
            let stage =
                if self.report_port.read() == 0 { "before the guest had booted" } else { "too early" };
            bail!(
                "QEMU {status}, {stage}. It said:\n{}\nThe end of the guest's console:\n{}{}",
                if said.trim().is_empty() { "    (nothing)".to_owned() } else { last_lines(&said, 20) },
                console::end(&self.console),
                self.said_by_guest()
            );
        };
        match self.load_exit {
            Some(0) => {}
            Some(3) => bail!("the load found the lock broken{}", self.said_by_guest()),
            Some(code) => bail!("the load ended with exit code {code}{}", self.said_by_guest()),
            None => bail!("the load did not run{}", self.said_by_guest()),
        }
        if end != 0 {
            bail!("the agent in the guest ended with exit code {end}{}", self.said_by_guest());
        }
        if self.observed.result.is_none() {
            bail!("the load gave no result{}", self.said_by_guest());
        }
        if self.boot.agent {
            let last = self.observed.last.as_ref();
            let last = last.ok_or_else(|| anyhow!("no snapshot came{}", self.said_by_guest()))?;
            if !last.finished || !self.snapshot_port.rest().is_empty() {
                bail!("the snapshots broke off{}", self.said_by_guest());
            }
        }
        Ok(())
    }

    /// What agent and load said, for the end of a message.
    fn said_by_guest(&self) -> String {
        if self.said.is_empty() {
            return String::new();
        }
        format!("\nAgent and load said:\n{}", last_lines(&self.said.join("\n"), 30))
    }
}

fn beginning(line: &str) -> String {
    line.chars().take(80).collect()
}
