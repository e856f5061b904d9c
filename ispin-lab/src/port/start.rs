//! Waiting for the moment at which the loads of all guests start.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::thread::{ClockId, Timespec, clock_nanosleep_absolute};

/// Named pipe into which a guest says that its load is about to start, and again that it does.
pub const READY: &str = "ready";
/// Named pipe in which it learns when that is, ns since the Unix epoch. Its clock is dom0's from then on.
pub const START: &str = "start";

/// Says that this guest is ready, and returns at the moment that dom0 names, `offset_us` later.
pub fn wait(folder: &Path, offset_us: u64) -> Result<()> {
    let (ready, start) = (folder.join(READY), folder.join(START));
    let mut pipe = File::options()
        .write(true)
        .open(&ready)
        .with_context(|| format!("opening {} (does `ispin-port guest` run?)", ready.display()))?;
    pipe.write_all(b"\n").with_context(|| format!("writing {}", ready.display()))?;
    let reading = || format!("reading {}", start.display());
    let mut line = String::new();
    BufReader::new(File::open(&start).with_context(reading)?).read_line(&mut line).with_context(reading)?;
    let ns: u64 = line.trim().parse().with_context(|| format!("`{}` is no time", line.trim()))?;
    sleep_until(ns + offset_us * 1000)?;
    pipe.write_all(b"\n").with_context(|| format!("writing {}", ready.display()))
}

/// `ns` nanoseconds since the Unix epoch, as the kernel wants them.
pub fn time_of(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

/// Returns at `ns` nanoseconds since the Unix epoch.
fn sleep_until(ns: u64) -> Result<()> {
    let until = time_of(ns);
    loop {
        match clock_nanosleep_absolute(ClockId::Realtime, &until) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the start"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn it_returns_at_the_moment_and_not_before() {
        let ns = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let then = ns(SystemTime::now()) + 30_000_000;
        sleep_until(then).unwrap();
        assert!(ns(SystemTime::now()) >= then);
        // A moment that has passed.
        let begin = std::time::Instant::now();
        sleep_until(5).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}
