//! One boot, from QEMU's start to its end: snapshots go to the sinks, messages are read, faults become errors.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ispin_agent::command::{Child, GRACE, Output, describe};
use ispin_agent::model::Snapshot;
use ispin_agent::sink::{Outputs, Sink};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::boot::{Boot, Observed};
use super::console;
use super::gaps::Gaps;
use super::guest::{Guest, Stage};
use super::merge::Merge;
use super::ports::Shared;
use super::qemu;
use super::steps::{Steps, last_lines};
use super::trace_file::Traced;
use super::xen::dom0::Dom0;
use super::xen::guest_port;

/// How often the ports are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a fault that was seen on the console has for telling the rest.
const SETTLE: Duration = Duration::from_secs(3);

/// The state of a boot.
struct Relay<'a> {
    boot: &'a Boot,
    steps: &'a Steps<'a>,
    traces: &'a [Traced],
    guests: Vec<Guest>,
    dom0: Option<Dom0>,
    merge: Merge,
    console_file: Option<(PathBuf, File)>,
    /// Sinks that wait for the first snapshot: until then what is there stays as it is.
    waiting: Vec<Box<dyn Sink>>,
    outputs: Option<Outputs>,
    last: Option<Snapshot>,
    /// Is there once QEMU runs.
    gaps: Option<Gaps>,
    told: Stage,
    faulty_since: Option<Instant>,
    heard: (u64, Instant),
}

/// Boots the machine and relays until it is off. `None` = who read the output has gone, so it was ended early.
pub fn run(
    boot: &Boot,
    sinks: Vec<Box<dyn Sink>>,
    traces: &[Traced],
    steps: &Steps,
) -> Result<Option<Observed>> {
    let mut relay = Relay::new(boot, sinks, traces, steps)?;
    steps.progress.step(if boot.world.is_some() { "booting Xen" } else { "booting the guest" });
    let mut qemu = relay.start()?;
    relay.gaps = Some(Gaps::of(qemu.pid()));
    let end = relay.until_off(&mut qemu);
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
    traces.iter().try_for_each(|trace| trace.file.complete())?;
    Ok(Some(relay.observed()))
}

/// How relaying ended.
enum End {
    /// The machine is off, or a fault was seen.
    Off,
    /// Nobody takes the snapshots any more.
    NoReader,
}

impl<'a> Relay<'a> {
    fn new(
        boot: &'a Boot,
        sinks: Vec<Box<dyn Sink>>,
        traces: &'a [Traced],
        steps: &'a Steps<'a>,
    ) -> Result<Self> {
        let open = |path: &PathBuf| -> Result<(PathBuf, File)> {
            let file = File::create(path).with_context(|| format!("--keep-console {}", path.display()))?;
            Ok((path.clone(), file))
        };
        let hosted = boot.world.is_some();
        let guest = |name: &String| Guest::new(name, boot.agent, hosted);
        Ok(Self {
            boot,
            steps,
            traces,
            guests: boot.guests.iter().map(guest).collect::<Result<_>>()?,
            dom0: hosted.then(Dom0::new).transpose()?,
            merge: Merge::new(&boot.guests, boot.world.clone()),
            console_file: boot.keep_console.as_ref().map(open).transpose()?,
            waiting: sinks,
            outputs: None,
            last: None,
            gaps: None,
            told: Stage::Silent,
            faulty_since: None,
            heard: (0, Instant::now()),
        })
    }

    /// Ports of the machine, by their name, and the file of its own console.
    fn files(&self) -> (Vec<(String, &Shared)>, Vec<&Shared>) {
        let mut ports: Vec<(String, &Shared)> = vec![];
        let mut consoles = vec![];
        match &self.dom0 {
            None => {
                for guest in &self.guests {
                    consoles.push(guest.console_file());
                    ports.extend(guest.ports().into_iter().map(|(name, file)| (name.to_owned(), file)));
                }
            }
            Some(dom0) => {
                consoles.push(dom0.console_file());
                ports.extend(dom0.ports().into_iter().map(|(name, file)| (name.to_owned(), file)));
                for guest in &self.guests {
                    let port = |name: &str| guest_port(guest.name(), name);
                    ports.push((port("console"), guest.console_file()));
                    ports.extend(guest.ports().into_iter().map(|(name, file)| (port(name), file)));
                }
            }
        }
        ports.extend(self.traces.iter().map(|trace| (trace.port.clone(), trace.file.shared())));
        (ports, consoles)
    }

    fn start(&self) -> Result<Child> {
        let mut machine = self.boot.machine.clone();
        let (ports, consoles) = self.files();
        machine.console = consoles.first().map(|file| file.path()).unwrap_or_default();
        machine.ports = ports.iter().map(|(name, file)| (name.clone(), file.path())).collect();
        let lend = |lent: bool| -> Result<()> {
            ports.iter().map(|(_, file)| file).chain(&consoles).try_for_each(|file| file.lend(lent))
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
    fn until_off(&mut self, qemu: &mut Child) -> Result<End> {
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
            let loading = self.loading();
            if let Some(gaps) = &mut self.gaps {
                gaps.look(loading);
            }
            if off || self.faulty_since.is_some_and(|since| since.elapsed() >= SETTLE) {
                return Ok(End::Off);
            }
            if self.outputs.as_ref().is_some_and(|outputs| outputs.pointless(false)) {
                return Ok(End::NoReader);
            }
            self.listen_for_silence()?;
        }
    }

    /// Takes in what has come.
    fn take(&mut self) -> Result<()> {
        if let Some(dom0) = &mut self.dom0 {
            let news = dom0.take()?;
            if let Some(step) = news.step {
                self.steps.progress.step(step);
            }
            if news.fault {
                self.faulty_since.get_or_insert_with(Instant::now);
            }
            self.keep("", &news.console)?;
        }
        for number in 0..self.guests.len() {
            let news = self.guests[number].take()?;
            let prefix = match self.boot.world {
                None => String::new(),
                Some(_) => format!("{}| ", self.guests[number].name()),
            };
            self.keep(&prefix, &news.console)?;
            // The other guests of Xen would wait for it for ever; a machine of its own goes off.
            let waited_for = self.dom0.is_some() && self.guests[number].failed();
            if waited_for || news.console.iter().any(|line| console::judge(line).is_some()) {
                self.faulty_since.get_or_insert_with(Instant::now);
            }
            if news.moved {
                self.tell_stage();
            }
            for snapshot in news.snapshots {
                self.merge.push(number, snapshot);
            }
        }
        while let Some(now) = self.merge.next()? {
            let waiting = std::mem::take(&mut self.waiting);
            let outputs = self.outputs.get_or_insert_with(|| Outputs::begin(waiting));
            outputs.write(self.last.as_ref(), &now);
            if self.loading() {
                let elapsed = now.elapsed_ns as f64 / 1e9;
                self.steps.progress.detail(&format!("{elapsed:.1} of about {:.1} s", self.boot.seconds));
            }
            self.last = Some(now);
        }
        Ok(())
    }

    fn keep(&mut self, prefix: &str, console: &[String]) -> Result<()> {
        if let Some((path, file)) = &mut self.console_file {
            for line in console {
                writeln!(file, "{prefix}{line}")
                    .with_context(|| format!("--keep-console {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The stage of the guest that is least far.
    fn stage(&self) -> Stage {
        self.guests.iter().map(Guest::stage).min().unwrap_or(Stage::Silent)
    }

    fn loading(&self) -> bool {
        self.guests.iter().any(|guest| guest.stage() == Stage::Loading)
    }

    fn tell_stage(&mut self) {
        let stage = self.stage();
        if stage == self.told {
            return;
        }
        self.told = stage;
        let (one, several) = match stage {
            Stage::Silent => return,
            Stage::Booted => ("the guest has booted", "the guests have booted"),
            Stage::Loading => ("the load runs", "the loads run"),
            Stage::Tracing => ("reading out the trace", "reading out the traces"),
            Stage::Loaded | Stage::Ended => return,
        };
        self.steps.progress.step(if self.guests.len() == 1 { one } else { several });
    }

    /// Fails once nothing has come for too long.
    fn listen_for_silence(&mut self) -> Result<()> {
        let bytes: u64 = self.guests.iter().map(Guest::heard).sum();
        let bytes = bytes + self.dom0.as_ref().map_or(0, Dom0::heard);
        let traces = self.traces.iter().map(|trace| trace.file.len()).sum::<Result<u64>>()?;
        let bytes = bytes + traces;
        if bytes != self.heard.0 {
            self.heard = (bytes, Instant::now());
        }
        let patience = if self.loading() { self.boot.patience } else { Duration::ZERO };
        let limit = self.boot.timeout + patience;
        if self.heard.1.elapsed() < limit {
            return Ok(());
        }
        let seconds = limit.as_secs_f64();
        if let Some(dom0) = &self.dom0 {
            bail!(
                "{}; nothing came from the machine for {seconds:.0} s (--timeout).{}",
                dom0.stage(),
                self.consoles()
            );
        }
        let stage = match self.stage() {
            Stage::Silent => "the guest did not boot",
            Stage::Loading => "the guest fell silent while the load ran: it may hang",
            _ => "the guest fell silent",
        };
        bail!("{stage}; nothing came from it for {seconds:.0} s (--timeout).{}", self.consoles())
    }

    /// The ends of all consoles and what was said, for the end of a message.
    fn consoles(&self) -> String {
        let mut text = String::new();
        for guest in &self.guests {
            let whose = match self.dom0 {
                None => "its console".to_owned(),
                Some(_) => format!("the console of {}", guest.name()),
            };
            text += &format!("\nThe end of {whose}:\n{}{}", guest.console_end(), guest.said());
        }
        if let Some(dom0) = &self.dom0 {
            text += &format!("\nThe end of Xen's console:\n{}{}", dom0.console_end(), dom0.said());
        }
        text
    }

    /// Whether the run may count.
    fn verdict(&self, qemu: &mut Child) -> Result<()> {
        let keep_console = self.boot.keep_console.as_deref();
        if let Some(dom0) = &self.dom0 {
            dom0.faultless()?;
        }
        for guest in &self.guests {
            guest.faultless(keep_console)?;
        }
        if let Some(dom0) = &self.dom0 {
            dom0.verdict(&self.guests, self.traces)?;
        }
        self.guests.iter().filter(|guest| guest.failed()).try_for_each(Guest::verdict)?;
        if self.guests.iter().any(|guest| !guest.ended()) || self.dom0.as_ref().is_some_and(|it| !it.ended())
        {
            let status = qemu.try_wait()?.map_or_else(|| "still runs".to_owned(), describe);
            let said = qemu.said()?;
            let stage = match (&self.dom0, self.stage()) {
                (Some(dom0), _) => dom0.stage(),
                (None, Stage::Silent) => "before the guest had booted",
                (None, _) => "too early",
            };
            bail!(
                "QEMU {status}, {stage}. It said:\n{}{}",
                if said.trim().is_empty() { "    (nothing)".to_owned() } else { last_lines(&said, 20) },
                self.consoles()
            );
        }
        self.guests.iter().try_for_each(Guest::verdict)
    }

    fn observed(self) -> Observed {
        let result = |guest: &Guest| Some((guest.name().to_owned(), guest.result()?.clone()));
        Observed {
            last: self.last,
            source: self.guests.iter().find_map(|guest| guest.source().map(str::to_owned)),
            results: self.guests.iter().filter_map(result).collect(),
            domains: self.dom0.as_ref().map(|dom0| dom0.domains().clone()).unwrap_or_default(),
            gap: self.gaps.as_ref().and_then(Gaps::longest),
        }
    }
}
