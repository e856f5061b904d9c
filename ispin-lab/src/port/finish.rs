//! Waiting until the loads of all guests have ended.
//!
//! The end of a guest keeps dom0 busy for nearly half a second: its tools take it down. Where QEMU runs one processor at a time,
//! the processor of the guests that are left stands still for milliseconds then, with whatever lock is held there.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Named pipe into which a guest says that its load has ended.
pub const LOADED: &str = "loaded";
/// Named pipe in which it learns that all have.
pub const FINISH: &str = "finish";

/// How long the others may take, in this guest's time. Loads of a given amount of work were seen to end three and a half minutes
/// apart. Where one hangs, the host hears the guests that wait, so it is theirs to end the run.
const PATIENCE: Timespec = Timespec { tv_sec: 600, tv_nsec: 0 };

/// Says that this guest's load has ended, and returns when all have. An error if they take too long: were this guest to end before
/// them, it would disturb what is measured in them.
pub fn wait(folder: &Path) -> Result<()> {
    wait_for(folder, &PATIENCE)
}

fn wait_for(folder: &Path, patience: &Timespec) -> Result<()> {
    let (loaded, finish) = (folder.join(LOADED), folder.join(FINISH));
    File::options()
        .write(true)
        .open(&loaded)
        .and_then(|mut pipe| pipe.write_all(b"\n"))
        .with_context(|| format!("writing {} (does `ispin-port guest` run?)", loaded.display()))?;
    let reading = || format!("reading {}", finish.display());
    let pipe =
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&finish).with_context(reading)?;
    loop {
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(patience)) {
            Ok(0) => {
                bail!(
                    "the load of another guest still runs {} s after this one's: it may hang",
                    patience.tv_sec
                )
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).with_context(reading),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn it_says_that_its_load_has_ended_and_waits_for_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = |name: &str| -> File {
            let path = folder.path().join(name);
            mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
            File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
        };
        let (mut loaded, mut finish) = (pipe(LOADED), pipe(FINISH));
        let short = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let error = wait_for(folder.path(), &short).unwrap_err().to_string();
        assert!(error.starts_with("the load of another guest still runs"), "{error}");
        let mut said = [0; 8];
        assert_eq!(loaded.read(&mut said).unwrap(), 1);
        finish.write_all(b"\n").unwrap();
        wait_for(folder.path(), &short).unwrap();
        assert!(wait_for(&folder.path().join("nowhere"), &short).is_err());
    }
}
