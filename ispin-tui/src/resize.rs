//! SIGWINCH: the terminal has another size.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use signal_hook::consts::SIGWINCH;
use signal_hook::{SigId, low_level};

/// Notices, while it lives, that the terminal changed its size. Readable once it did.
#[derive(Debug)]
pub struct Resized {
    pipe: UnixStream,
    id: SigId,
}

impl Resized {
    /// Begins to notice.
    pub fn watch() -> Result<Self> {
        let (pipe, writer) = UnixStream::pair().context("making a pipe for SIGWINCH")?;
        pipe.set_nonblocking(true).context("making a pipe for SIGWINCH")?;
        let id = low_level::pipe::register(SIGWINCH, writer).context("catching SIGWINCH")?;
        Ok(Self { pipe, id })
    }

    /// Whether it did since the last call.
    pub fn take(&self) -> Result<bool> {
        let mut noticed = false;
        loop {
            match (&self.pipe).read(&mut [0; 64]) {
                Ok(0) => return Ok(noticed),
                Ok(_) => noticed = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(noticed),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("looking for SIGWINCH"),
            }
        }
    }
}

impl AsFd for Resized {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Resized {
    fn drop(&mut self) {
        low_level::unregister(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_noticed_once() {
        let resized = Resized::watch().expect("signals can be caught");
        assert!(!resized.take().expect("pipe"));
        low_level::raise(SIGWINCH).expect("raise");
        low_level::raise(SIGWINCH).expect("raise");
        assert!(resized.take().expect("pipe"));
        assert!(!resized.take().expect("pipe"));
    }
}
