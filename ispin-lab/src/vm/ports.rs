//! The host's ends of the guest's ports: files in memory that QEMU writes and this process reads behind it.
//!
//! QEMU never waits for a reader, so nothing outside the guest changes when it goes on; and when both processes are
//! gone so are the files, however they ended.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

/// A file in memory, or one without a name, that a child process is to find.
pub struct Shared {
    name: String,
    file: File,
}

impl Shared {
    /// An empty one in memory.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let file = memfd_create(name.as_str(), MemfdFlags::CLOEXEC)
            .with_context(|| format!("making a file in memory for {name}"))?;
        Ok(Self { name, file: file.into() })
    }

    /// Of an open file.
    pub fn of(name: impl Into<String>, file: File) -> Self {
        Self { name: name.into(), file }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path at which a child process finds it that is started while it is lent.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Whether child processes started from now on get it.
    pub fn lend(&self, lent: bool) -> Result<()> {
        let flags = if lent { FdFlags::empty() } else { FdFlags::CLOEXEC };
        fcntl_setfd(&self.file, flags).with_context(|| format!("lending {} to QEMU", self.name))
    }
}

/// The lines that come in at a port.
pub struct Lines {
    shared: Shared,
    /// How far it was read.
    read: u64,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
    /// Read and never looked at again, so its memory is given back.
    freed: u64,
}

/// How much is read before its memory is given back.
const FREE_EVERY: u64 = 1 << 20;

impl Lines {
    /// An empty port.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        Ok(Self { shared: Shared::new(name)?, read: 0, rest: vec![], freed: 0 })
    }

    /// The file that the guest's side goes into.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Bytes that have come in so far.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// The whole lines that came in since the last call. Never waits.
    pub fn take(&mut self) -> Result<Vec<String>> {
        let mut bytes = [0; 64 << 10];
        loop {
            let count = self
                .shared
                .file
                .read_at(&mut bytes, self.read)
                .with_context(|| format!("reading {}", self.shared.name))?;
            if count == 0 {
                break;
            }
            self.read += count as u64;
            self.rest.extend_from_slice(&bytes[..count]);
        }
        self.free()?;
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else { return Ok(vec![]) };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }

    /// The beginning of a line whose end never came.
    pub fn rest(&self) -> String {
        String::from_utf8_lossy(&self.rest).into_owned()
    }

    fn free(&mut self) -> Result<()> {
        if self.read - self.freed < FREE_EVERY {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.shared.file, hole, self.freed, self.read - self.freed)
            .with_context(|| format!("giving back the memory of {}", self.shared.name))?;
        self.freed = self.read;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_come_whole_and_once() {
        let mut lines = Lines::new("test").unwrap();
        // As QEMU does: it opens the path anew and writes at a position of its own.
        let path = lines.shared().path();
        let mut writer = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        assert!(lines.take().unwrap().is_empty());
        writer.write_all(b"one\ntw").unwrap();
        assert_eq!(lines.take().unwrap(), ["one"]);
        assert_eq!(lines.rest(), "tw");
        writer.write_all(b"o\n\r\n").unwrap();
        assert_eq!(lines.take().unwrap(), ["two", ""]);
        assert_eq!(lines.read(), 10);
    }

    #[test]
    fn what_was_read_takes_no_memory() {
        let mut lines = Lines::new("test").unwrap();
        let mut writer = std::fs::OpenOptions::new().write(true).open(lines.shared().path()).unwrap();
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        for _ in 0..30_000 {
            writer.write_all(&line).unwrap();
        }
        assert_eq!(lines.take().unwrap().len(), 30_000);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&lines.shared().file().metadata().unwrap());
        assert!(blocks * 512 < 100_000, "{blocks} blocks");
        writer.write_all(b"more\n").unwrap();
        assert_eq!(lines.take().unwrap(), ["more"]);
    }
}
