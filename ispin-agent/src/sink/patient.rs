//! Writing to a device or pipe that takes its time: a virtio or serial port, a terminal, a FIFO.
//!
//! The file does not block, so that waiting can be ended: a blocked `write` would be taken up again after each
//! signal, and a guest whose host has gone could not even be told to end.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often a port is tried that nobody has opened at its other end: that cannot be waited for.
const RETRY: Duration = Duration::from_millis(50);

/// Writes all of `block` to a file that does not block. A signal that is caught, and comes while nothing can be
/// written, is an error of kind `Interrupted`.
pub fn write_all(mut file: &File, mut block: &[u8]) -> io::Result<()> {
    while !block.is_empty() {
        match file.write(block) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => block = &block[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait(file)?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Waits until there is room.
fn wait(file: &File) -> io::Result<()> {
    let mut fds = [PollFd::new(file, PollFlags::OUT)];
    poll(&mut fds, None)?;
    let ready = fds[0].revents();
    // A virtio port that the host has closed is not writable and says HUP at once, each time it is asked.
    if ready.contains(PollFlags::HUP) && !ready.contains(PollFlags::OUT) {
        let pause = Timespec { tv_sec: 0, tv_nsec: RETRY.subsec_nanos().into() };
        poll(&mut [], Some(&pause))?;
    }
    Ok(())
}
