//! dom0's side: what comes through the rings, and the guests' consoles, goes into the serial ports of the machine.
//!
//! It tells what happens in lines of its own, which go to the host. They begin with the [`MARK`] of the init scripts:
//!
//! | line | meaning |
//! |---|---|
//! | `found g1` | the guest's rings are mapped |
//! | `ready g1` | its load is about to start |
//! | `start` | all guests have been told when their loads start |
//! | `sent g1 A B` | the guest has ended; bytes of each channel |
//! | `gone g1` | the guest died before it had ended |

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, bail, ensure};

use super::ring::{Reader, Start, layout};
use super::together::{LEAD, Progress, Step, Together};
use super::xenstore::Store;
use super::{KEY, grants};
use crate::vm::init::MARK;
use crate::vm::xen::guest_port;

/// How often the rings are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// The same while the loads run; a ring holds several snapshots. A look takes dom0 nearly half a million instructions, and where
/// QEMU counts those (`--deterministic`) it runs one processor at a time: the guests' stands still meanwhile, with whatever
/// lock is held there, and the clock goes on.
const LOOK_QUIETLY: Duration = Duration::from_millis(200);
/// How often guests are looked for that are not there yet, or not any more.
const SEARCH: Duration = Duration::from_millis(250);
/// How long the guest's console may lag behind its end.
const CONSOLE_LAG: Duration = Duration::from_millis(500);

/// A guest, as it is named on the command line: `NAME:DOMAIN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its number in Xen.
    pub domain: u32,
}

impl FromStr for Guest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, domain) = text.split_once(':').context("give NAME:DOMAIN")?;
        ensure!(!name.is_empty(), "give NAME:DOMAIN");
        let domain = domain.parse().with_context(|| format!("`{domain}` is no number of a domain"))?;
        Ok(Self { name: name.to_owned(), domain })
    }
}

/// Relays until every guest has ended. `channels` are the names of the guests' channels, in order; `consoles` is the
/// folder of xenconsoled's logs; `tell` takes the lines above.
pub fn run(guests: &[Guest], channels: &[String], consoles: &Path, tell: &mut dyn Write) -> Result<()> {
    let mut store = Store::open()?;
    let open = |guest: &Guest| Line::new(guest, channels, consoles);
    let mut lines = guests.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut together = Together::default();
    let mut searched: Option<Instant> = None;
    while lines.iter().any(|line| !line.over()) {
        let search = searched.is_none_or(|at| at.elapsed() >= SEARCH);
        if search {
            searched = Some(Instant::now());
        }
        for line in &mut lines {
            let about = format!("guest {}", line.name);
            line.advance(&mut store, search, tell).context(about)?;
        }
        let seen: Vec<_> = lines.iter().map(|line| (line.name.as_str(), line.progress())).collect();
        match together.step(Instant::now(), &seen)? {
            Some(Step::Start) => {
                // Told first: from the start on dom0 is to be quiet.
                writeln!(tell, "{MARK}start").context("telling the start")?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?;
                let start = Start { at_ns: (now + LEAD).as_nanos() as u64, now_ns: now.as_nanos() as u64 };
                lines.iter_mut().filter_map(Line::reader).for_each(|reader| reader.set_start(start));
            }
            Some(Step::Finish) => lines.iter_mut().filter_map(Line::reader).for_each(Reader::set_all_loaded),
            None => {}
        }
        std::thread::sleep(if together.quiet() { LOOK_QUIETLY } else { LOOK });
    }
    Ok(())
}

/// How far a guest is.
enum State {
    /// Its rings are not there yet.
    Absent,
    /// Its rings are mapped.
    Found(Reader),
    /// Its load is about to start, runs or has ended.
    Ready(Reader),
    /// Its rings are read to the end; its console may still say something.
    Ended(Instant),
    /// All is told.
    Over,
}

/// One guest and its ports.
struct Line {
    name: String,
    domain: u32,
    state: State,
    ports: Vec<(File, u64)>,
    console_log: PathBuf,
    console: Option<File>,
    console_port: File,
    bytes: Vec<u8>,
}

impl Line {
    fn new(guest: &Guest, channels: &[String], consoles: &Path) -> Result<Self> {
        let Guest { name, domain } = guest.clone();
        let port = |channel: &str| -> Result<File> { open_port(&guest_port(&name, channel)) };
        let ports = channels.iter().map(|channel| Ok((port(channel)?, 0))).collect::<Result<_>>()?;
        Ok(Self {
            console_port: port("console")?,
            console_log: consoles.join(format!("guest-{name}.log")),
            console: None,
            name,
            domain,
            state: State::Absent,
            ports,
            bytes: vec![],
        })
    }

    fn over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Its rings, while its load is to be told something.
    fn reader(&mut self) -> Option<&mut Reader> {
        match &mut self.state {
            State::Ready(reader) => Some(reader),
            _ => None,
        }
    }

    fn progress(&self) -> Progress {
        match &self.state {
            State::Absent | State::Found(_) => Progress::Away,
            State::Ready(reader) if reader.loaded() => Progress::Loaded,
            State::Ready(reader) if reader.running() => Progress::Running,
            State::Ready(_) => Progress::Ready,
            State::Ended(_) | State::Over => Progress::Loaded,
        }
    }

    fn advance(&mut self, store: &mut Store, search: bool, tell: &mut dyn Write) -> Result<()> {
        self.copy_console()?;
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Absent if search => match self.find(store)? {
                Some(reader) => {
                    writeln!(tell, "{MARK}found {}", self.name)?;
                    State::Found(reader)
                }
                None if self.alive(store)? => State::Absent,
                None => self.gone(tell)?,
            },
            State::Found(mut reader) => {
                let ended = self.copy(&mut reader)?;
                if reader.ready() {
                    writeln!(tell, "{MARK}ready {}", self.name)?;
                    State::Ready(reader)
                } else {
                    self.next(reader, ended, store, search, tell, State::Found)?
                }
            }
            State::Ready(mut reader) => {
                let ended = self.copy(&mut reader)?;
                self.next(reader, ended, store, search, tell, State::Ready)?
            }
            State::Ended(since) if since.elapsed() >= CONSOLE_LAG && !self.alive(store)? => State::Over,
            same => same,
        };
        Ok(())
    }

    /// What comes after a look at the rings.
    fn next(
        &self,
        reader: Reader,
        ended: bool,
        store: &mut Store,
        search: bool,
        tell: &mut dyn Write,
        same: fn(Reader) -> State,
    ) -> Result<State> {
        if ended {
            let sent: Vec<String> = self.ports.iter().map(|(_, bytes)| bytes.to_string()).collect();
            writeln!(tell, "{MARK}sent {} {}", self.name, sent.join(" "))?;
            return Ok(State::Ended(Instant::now()));
        }
        if search && !self.alive(store)? {
            return self.gone(tell);
        }
        Ok(same(reader))
    }

    fn gone(&self, tell: &mut dyn Write) -> Result<State> {
        writeln!(tell, "{MARK}gone {}", self.name)?;
        Ok(State::Ended(Instant::now()))
    }

    /// The tools take a domain out of the store when it has gone.
    fn alive(&self, store: &mut Store) -> Result<bool> {
        Ok(store.read(&format!("/local/domain/{}/name", self.domain))?.is_some())
    }

    fn find(&self, store: &mut Store) -> Result<Option<Reader>> {
        let Some(first) = store.read(&format!("/local/domain/{}/{KEY}", self.domain))? else {
            return Ok(None);
        };
        let first = first.parse().with_context(|| format!("`{first}` is no grant"))?;
        let control = grants::map_of(self.domain, &[first])?;
        let (channels, rest) = layout(&control)?;
        ensure!(channels == self.ports.len(), "it has {channels} channels, not {}", self.ports.len());
        let rings = grants::map_of(self.domain, &rest)?;
        Ok(Some(Reader::new(control, rings, channels)))
    }

    /// Hands on what is in the rings; whether that was the last of it.
    fn copy(&mut self, reader: &mut Reader) -> Result<bool> {
        let ended = reader.ended();
        for (channel, (port, sent)) in self.ports.iter_mut().enumerate() {
            self.bytes.clear();
            reader.read(channel, &mut self.bytes)?;
            port.write_all(&self.bytes).context("writing to a port of the machine")?;
            *sent += self.bytes.len() as u64;
        }
        Ok(ended)
    }

    fn copy_console(&mut self) -> Result<()> {
        let reading = || format!("reading {}", self.console_log.display());
        if self.console.is_none() {
            self.console = match File::open(&self.console_log) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error).with_context(reading),
            };
        }
        if let Some(log) = &mut self.console {
            self.bytes.clear();
            log.read_to_end(&mut self.bytes).with_context(reading)?;
            if !self.bytes.is_empty() {
                self.console_port.write_all(&self.bytes).context("writing to a port of the machine")?;
            }
        }
        Ok(())
    }
}

/// Opens the serial port of the machine that QEMU calls `name`.
fn open_port(name: &str) -> Result<File> {
    const PORTS: &str = "/sys/class/virtio-ports";
    for entry in fs::read_dir(PORTS).with_context(|| format!("reading {PORTS}"))? {
        let entry = entry.with_context(|| format!("reading {PORTS}"))?;
        let named = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if named.trim_end() == name {
            let device = Path::new("/dev").join(entry.file_name());
            return File::options()
                .write(true)
                .open(&device)
                .with_context(|| format!("opening {}", device.display()));
        }
    }
    bail!("the machine has no port {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_named_with_their_domain() {
        let guest: Guest = "g1:7".parse().unwrap();
        assert_eq!(guest, Guest { name: "g1".into(), domain: 7 });
        for wrong in ["g1", ":7", "g1:", "g1:x"] {
            assert!(wrong.parse::<Guest>().is_err(), "{wrong}");
        }
    }
}
