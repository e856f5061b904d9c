//! A unix stream socket that sends every snapshot as a line of JSON to whoever is connected.
//!
//! Everything happens in [`Sink::write`], in the tick that was announced: new clients are accepted and
//! nothing ever waits. A client that does not read loses its connection, not the others their data.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::jsonl::line;
use super::{Kind, Sink};
use crate::model::Snapshot;

pub const KIND: Kind = Kind {
    option: "listen",
    value: "unix:PATH",
    help: "Serve snapshots as JSON Lines on a unix socket, readable by this user alone",
    open: |value| Ok(Box::new(Socket::open(value)?)),
};

/// What a client may leave unread, on top of the kernel's own buffer, before it loses its connection.
const MAX_BACKLOG: usize = 4 << 20;
/// Clients at a time.
const MAX_CLIENTS: usize = 64;
/// How long clients have at the end for taking what is still under way.
const FAREWELL: Duration = Duration::from_secs(1);

struct Socket {
    name: String,
    path: PathBuf,
    inode: u64,
    listener: UnixListener,
    clients: Vec<Client>,
    /// Number of the next client, for messages.
    next: u64,
}

struct Client {
    number: u64,
    stream: UnixStream,
    backlog: Vec<u8>,
}

enum Progress {
    /// The kernel took everything.
    Done,
    /// The kernel's buffer is full.
    Full,
    Gone,
}

impl Socket {
    fn open(value: &str) -> Result<Self> {
        let name = format!("--listen {value}");
        let path = match value.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => bail!("{name}: give the path of a unix socket, as in --listen unix:/run/ispin/agent.sock"),
        };
        remove_stale(&path).with_context(|| name.clone())?;
        let listener = listen_at(&path).with_context(|| name.clone())?;
        let inode = std::fs::symlink_metadata(&path).with_context(|| name.clone())?.ino();
        Ok(Self { name, path, inode, listener, clients: vec![], next: 1 })
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                // That client has gone again.
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e).with_context(|| format!("{}: accepting a client", self.name)),
            };
            if self.clients.len() == MAX_CLIENTS {
                log::warn!(
                    "{}: {MAX_CLIENTS} clients are connected; a further one was turned away",
                    self.name
                );
                continue;
            }
            stream.set_nonblocking(true).with_context(|| self.name.clone())?;
            log::info!("{}: client {} connected", self.name, self.next);
            self.clients.push(Client { number: self.next, stream, backlog: vec![] });
            self.next += 1;
        }
    }
}

impl Client {
    /// Hands the kernel as much as it takes.
    fn push(&mut self) -> Progress {
        let mut sent = 0;
        let progress = loop {
            if sent == self.backlog.len() {
                break Progress::Done;
            }
            match self.stream.write(&self.backlog[sent..]) {
                Ok(0) => break Progress::Gone,
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break Progress::Full,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break Progress::Gone,
            }
        };
        self.backlog.drain(..sent);
        progress
    }
}

impl Sink for Socket {
    fn target(&self) -> String {
        self.name.clone()
    }

    fn write(&mut self, _previous: Option<&Snapshot>, now: &Snapshot) -> Result<()> {
        self.accept()?;
        if self.clients.is_empty() {
            return Ok(());
        }
        let line = line(now)?;
        let name = &self.name;
        self.clients.retain_mut(|client| {
            client.backlog.extend_from_slice(&line);
            match client.push() {
                // A lone line may be longer than the limit.
                Progress::Full if client.backlog.len() > MAX_BACKLOG.max(2 * line.len()) => {
                    log::warn!(
                        "{name}: client {} reads too slowly, {} bytes behind: disconnected",
                        client.number,
                        client.backlog.len()
                    );
                    false
                }
                Progress::Done | Progress::Full => true,
                Progress::Gone => {
                    log::info!("{name}: client {} went away", client.number);
                    false
                }
            }
        });
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let deadline = Instant::now() + FAREWELL;
        loop {
            self.clients.retain_mut(|client| matches!(client.push(), Progress::Full));
            let left = deadline.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                break;
            }
            let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds: Vec<_> =
                self.clients.iter().map(|c| PollFd::new(&c.stream, PollFlags::OUT)).collect();
            match poll(&mut fds, Some(&limit)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).with_context(|| format!("{}: waiting for clients", self.name)),
            }
        }
        for client in self.clients.drain(..) {
            log::warn!(
                "{}: client {} did not take the last {} bytes",
                self.name,
                client.number,
                client.backlog.len()
            );
        }
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another program may have put its own socket there meanwhile.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode)
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            log::warn!("{}: the socket is left behind: {e}", self.name);
        }
    }
}

/// Removes the socket of a program that is gone; refuses anything else that is in the way.
fn remove_stale(path: &Path) -> Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context("looking at what is there"),
    };
    if !metadata.file_type().is_socket() {
        bail!("{} exists and is no socket; give another path", path.display());
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("another program is listening there; end it, or give another path"),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).context("removing the socket of a program that is gone")?;
            log::info!("{}: replaced the socket of a program that is gone", path.display());
            Ok(())
        }
        Err(e) => Err(e).context("asking who listens there; give another path"),
    }
}

fn listen_at(path: &Path) -> Result<UnixListener> {
    let address = SocketAddrUnix::new(path)
        .map_err(|_| anyhow!("the path of a unix socket has at most 107 bytes; give a shorter one"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .context("creating a unix socket (the kernel needs CONFIG_UNIX)")?;
    // Linux gives the file the mode of the unbound socket: it is never open to others, not even for a moment.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).context("restricting the socket to its owner")?;
    bind(&socket, &address)
        .with_context(|| format!("creating {}; its folder must exist and be writable", path.display()))?;
    listen(&socket, MAX_CLIENTS as i32).context("listening")?;
    Ok(UnixListener::from(socket))
}
