//! The guest's side: what comes into named pipes goes into the rings.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ispin_agent::signals::Signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::time::{ClockId, clock_settime};

use super::finish::{FINISH, LOADED};
use super::ring::{CHANNELS, PAGE, RING_PAGES, Writer};
use super::start::{READY, START, time_of};
use super::xenstore::Store;
use super::{KEY, grants};

/// How often a full ring is looked at again.
const FULL: Duration = Duration::from_millis(5);
/// How often the moment of the start is asked for, once the load is ready. Before and after that, nothing wakes up.
const ASK: Duration = Duration::from_millis(5);
/// How often it is asked whether the loads of the others have ended, once this guest's has. Whoever wakes up takes the
/// CPU from them.
const ASK_QUIETLY: Duration = Duration::from_millis(100);
/// How long dom0 has for reading the rest.
const DRAIN: Duration = Duration::from_secs(60);

/// Serves until SIGTERM, and then until dom0 has everything. Makes a named pipe per channel in `folder`.
pub fn serve(folder: &Path, channels: &[String]) -> Result<()> {
    if channels.is_empty() || channels.len() > CHANNELS {
        bail!("{} channels: between 1 and {CHANNELS}", channels.len());
    }
    let signals = Signals::catch()?;
    let (pages, all) = grants::share_with_dom0(1 + channels.len() * RING_PAGES)?;
    let Some((first, rest)) = all.split_first() else { bail!("the kernel gave no grants") };
    let writer = Writer::new(pages, channels.len(), rest);
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let pipes = channels.iter().map(|name| Pipe::make(folder, name)).collect::<Result<Vec<_>>>()?;
    let ready = Pipe::make(folder, READY)?;
    let loaded = Pipe::make(folder, LOADED)?;
    let finish = Pipe::make(folder, FINISH)?;
    // The init script waits for this one.
    let start = Pipe::make(folder, START)?;
    Store::open()?.write(KEY, &first.to_string())?;
    Port { writer, pipes, ready, start, loaded, finish, stage: Stage::Before }.serve(&signals)
}

/// A named pipe that has always a reader and a writer, so that it never ends.
struct Pipe {
    path: PathBuf,
    file: File,
}

impl Pipe {
    fn make(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let making = || format!("making the named pipe {}", path.display());
        match mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(making),
        }
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .with_context(making)?;
        Ok(Self { path, file })
    }

    /// Reads what is there, at most `bytes`; 0 = nothing.
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        match self.file.read(bytes) {
            Ok(count) => Ok(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.path.display())),
        }
    }
}

/// How far the guest's load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The load is not ready yet.
    Before,
    /// It is, and waits for dom0.
    Ready,
    /// It knows when to start.
    Told,
    /// It runs.
    Running,
    /// It has ended, and waits for those of the others.
    Loaded,
    /// All have ended.
    Finished,
}

struct Port {
    writer: Writer,
    pipes: Vec<Pipe>,
    ready: Pipe,
    start: Pipe,
    loaded: Pipe,
    finish: Pipe,
    stage: Stage,
}

impl Port {
    fn serve(mut self, signals: &Signals) -> Result<()> {
        while signals.take().is_none() {
            let full = self.pump()?;
            self.look_for_start()?;
            self.look_for_end()?;
            let wait = match (full, self.stage) {
                (true, _) => Some(FULL),
                (false, Stage::Ready) => Some(ASK),
                (false, Stage::Loaded) => Some(ASK_QUIETLY),
                (false, _) => None,
            };
            self.wait(signals, wait, full)?;
        }
        // Whoever wrote has ended, so all it wrote is in the pipes.
        let deadline = Instant::now() + DRAIN;
        while self.pump()? {
            self.patience(deadline)?;
        }
        self.writer.set_ended();
        while !self.writer.drained() {
            self.patience(deadline)?;
        }
        Ok(())
    }

    /// Moves what is there. Whether something had to stay because a ring is full.
    fn pump(&mut self) -> Result<bool> {
        let mut full = false;
        let mut bytes = [0; 2 * PAGE];
        for (channel, pipe) in self.pipes.iter_mut().enumerate() {
            loop {
                let room = self.writer.room(channel).min(bytes.len());
                if room == 0 {
                    full = true;
                    break;
                }
                match pipe.read(&mut bytes[..room])? {
                    0 => break,
                    count => self.writer.write(channel, &bytes[..count]),
                }
            }
        }
        Ok(full)
    }

    fn look_for_start(&mut self) -> Result<()> {
        if self.stage == Stage::Before && self.ready.read(&mut [0; 64])? > 0 {
            self.writer.set_ready();
            self.stage = Stage::Ready;
        }
        if self.stage == Stage::Ready
            && let Some(start) = self.writer.start()
        {
            self.stage = Stage::Told;
            set_clock(start.now_ns)?;
            let telling = || format!("writing {}", self.start.path.display());
            self.start.file.write_all(format!("{}\n", start.at_ns).as_bytes()).with_context(telling)?;
        }
        if self.stage == Stage::Told && self.ready.read(&mut [0; 64])? > 0 {
            self.writer.set_running();
            self.stage = Stage::Running;
        }
        Ok(())
    }

    fn look_for_end(&mut self) -> Result<()> {
        if self.stage == Stage::Running && self.loaded.read(&mut [0; 64])? > 0 {
            self.writer.set_loaded();
            self.stage = Stage::Loaded;
        }
        if self.stage == Stage::Loaded && self.writer.all_loaded() {
            self.stage = Stage::Finished;
            let telling = || format!("writing {}", self.finish.path.display());
            self.finish.file.write_all(b"\n").with_context(telling)?;
        }
        Ok(())
    }

    fn wait(&self, signals: &Signals, limit: Option<Duration>, full: bool) -> Result<()> {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        fds.extend([&self.ready, &self.loaded].map(|pipe| PollFd::new(&pipe.file, PollFlags::IN)));
        if !full {
            fds.extend(self.pipes.iter().map(|pipe| PollFd::new(&pipe.file, PollFlags::IN)));
        }
        let limit = limit.map(|time| Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() });
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("waiting for something to send"),
        }
    }

    fn patience(&self, deadline: Instant) -> Result<()> {
        if Instant::now() > deadline {
            bail!("dom0 did not take what was left within {} s", DRAIN.as_secs());
        }
        std::thread::sleep(FULL);
        Ok(())
    }
}

/// Sets this guest's clock to dom0's, ns since the Unix epoch. Until its kernel has found Xen's clock, early in its boot, it counts
/// ticks, and loses those in which another guest runs: seconds, where several boot at a time.
fn set_clock(ns: u64) -> Result<()> {
    clock_settime(ClockId::Realtime, time_of(ns)).context("setting the guest's clock to dom0's")
}
