//! JSON Lines from an agent's unix socket. A lost connection is taken up again.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;

use ispin_agent::model::Snapshot;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Feed, Pace, Update};

/// Time between two attempts to connect.
const RETRY_NS: u64 = 1_000_000_000;
/// A line longer than this is no snapshot: 128 vCPUs need less than half a megabyte.
const LONGEST_LINE: usize = 16 << 20;
const READ_SIZE: usize = 64 << 10;

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    path: PathBuf,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self { path: path.into() }),
            _ => Err(format!(
                "`{text}` is no address: write unix:PATH, as in `ispin-agent run --listen unix:PATH`"
            )),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "unix:{}", self.path.display())
    }
}

#[derive(Debug)]
enum State {
    /// Not connected; the next attempt comes at this moment.
    Apart { retry_ns: u64 },
    /// Connected; `buffer` holds the beginning of a line, of which `searched` bytes hold no line end.
    Connected { socket: OwnedFd, buffer: Vec<u8>, searched: usize, line: u64 },
}

/// Snapshots from an agent's socket.
#[derive(Debug)]
pub struct SocketFeed {
    address: Address,
    state: State,
    /// A snapshot came over this or an earlier connection.
    seen: bool,
    /// The last snapshot was the last of its run.
    finished: bool,
    chunk: Vec<u8>,
}

impl SocketFeed {
    /// Of the agent that listens there, now or later.
    pub fn new(address: Address) -> Self {
        let state = State::Apart { retry_ns: 0 };
        Self { address, state, seen: false, finished: false, chunk: vec![0; READ_SIZE] }
    }

    fn connect(&mut self) -> Result<(), String> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| format!("no socket: {error}"))?;
        let to = SocketAddrUnix::new(&self.address.path).map_err(|error| format!("bad path: {error}"))?;
        connect(&socket, &to).map_err(|error| match error {
            Errno::NOENT => "no such file: start `ispin-agent run --listen` with this address".into(),
            Errno::CONNREFUSED => "nobody listens: the agent that made this socket is gone".into(),
            Errno::ACCESS => "permission denied: the socket belongs to the agent's user alone".into(),
            Errno::AGAIN => "the agent does not answer".into(),
            error => error.to_string(),
        })?;
        self.state = State::Connected { socket, buffer: Vec::new(), searched: 0, line: 0 };
        Ok(())
    }

    /// Takes what has come. An error ends the connection.
    fn receive(&mut self, updates: &mut Vec<Update>) -> Result<(), String> {
        let State::Connected { socket, buffer, searched, line } = &mut self.state else { return Ok(()) };
        loop {
            let n = match rustix::io::read(&*socket, &mut self.chunk[..]) {
                Ok(0) => return Err("the agent closed the connection".into()),
                Ok(n) => n,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.to_string()),
            };
            buffer.extend_from_slice(&self.chunk[..n]);
            let mut begin = 0;
            while let Some(length) = buffer[*searched..].iter().position(|b| *b == b'\n') {
                let end = *searched + length;
                *line += 1;
                let text = &buffer[begin..end];
                if !text.trim_ascii().is_empty() {
                    let snapshot: Snapshot = serde_json::from_slice(text).map_err(|error| {
                        format!("line {line} is no snapshot that this version understands: {error}")
                    })?;
                    self.seen = true;
                    self.finished = snapshot.finished;
                    updates.push(Update::Snapshot(Box::new(snapshot)));
                }
                begin = end + 1;
                *searched = begin;
            }
            buffer.drain(..begin);
            *searched = buffer.len();
            if buffer.len() > LONGEST_LINE {
                return Err(format!("line {} is longer than {LONGEST_LINE} bytes", *line + 1));
            }
        }
    }

    /// Why no snapshots come, as an update.
    fn apart(&self, why: String) -> Update {
        let address = &self.address;
        if self.finished {
            Update::Lost(format!("the run has ended; waiting for the next one at {address}"))
        } else if self.seen {
            Update::Lost(format!("{address}: {why}; trying again"))
        } else {
            Update::Waiting(format!("{address}: {why}; trying again"))
        }
    }
}

impl Feed for SocketFeed {
    fn name(&self) -> String {
        self.address.to_string()
    }

    fn sets_the_pace(&self) -> bool {
        true
    }

    fn pace(&self) -> Pace<'_> {
        match &self.state {
            State::Apart { retry_ns } => Pace::At(*retry_ns),
            State::Connected { socket, .. } => Pace::Readable(socket.as_fd()),
        }
    }

    fn poll(&mut self, now_ns: u64) -> Vec<Update> {
        let mut updates = Vec::new();
        if let State::Apart { retry_ns } = self.state {
            if now_ns < retry_ns {
                return updates;
            }
            if let Err(why) = self.connect() {
                self.state = State::Apart { retry_ns: now_ns + RETRY_NS };
                updates.push(self.apart(why));
                return updates;
            }
            if !self.seen {
                updates.push(Update::Waiting(format!("{}: connected, no snapshot yet", self.address)));
            }
        }
        if let Err(why) = self.receive(&mut updates) {
            self.state = State::Apart { retry_ns: now_ns + RETRY_NS };
            updates.push(self.apart(why));
        }
        updates
    }
}
