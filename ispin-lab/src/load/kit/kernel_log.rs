//! The kernel's log from a given moment on.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;

/// What the kernel says when something is wrong with locks, or because of them.
const COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace:",
    "general protection fault",
    "detected stall",
    "self-detected stall",
    "soft lockup",
    "hard LOCKUP",
    "blocked for more than",
    "!!!",
    "End of test: FAILURE",
];

/// Reads what was logged since it was opened.
pub struct KernelLog {
    file: File,
    lost: u64,
}

impl KernelLog {
    /// From now on.
    pub fn from_now() -> Result<Self> {
        let open = || -> std::io::Result<File> {
            let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().context("opening the kernel log, /dev/kmsg (needs root and CONFIG_PRINTK)")?;
        Ok(Self { file, lost: 0 })
    }

    /// The lines logged since the last call, without their prefixes.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let mut lines = vec![];
        // A record is at most 8 KiB (CONSOLE_EXT_LOG_MAX); a read returns one record.
        let mut record = vec![0; 8192];
        loop {
            match rustix::io::read(&self.file, &mut record) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(lines),
                Ok(count) => lines.extend(text_of(&String::from_utf8_lossy(&record[..count]))),
                // The reader was overtaken: the next read begins with the oldest record that is left.
                Err(Errno::PIPE) => self.lost += 1,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("reading the kernel log, /dev/kmsg"),
            }
        }
    }

    /// Fails if records were overwritten before they were read.
    pub fn check_complete(&self) -> Result<()> {
        if self.lost > 0 {
            bail!(
                "the kernel log overflowed {} times: raise log_buf_len= on the kernel command line",
                self.lost
            );
        }
        Ok(())
    }
}

/// The messages of a record `priority,number,time,flags;message\n KEY=value...`.
fn text_of(record: &str) -> Option<String> {
    let (_, rest) = record.split_once(';')?;
    rest.lines().next().map(str::to_owned)
}

/// The first line that tells of trouble.
pub fn complaint(lines: &[String]) -> Option<&str> {
    lines.iter().map(String::as_str).find(|line| COMPLAINTS.iter().any(|c| line.contains(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_trouble_is_seen() {
        let record =
            "1,339,5140900,-;spin_lock-torture: Writes:  Total: 9  Max/Min: 5/4   Fail: 1 !!!\n DEVICE=x\n";
        let text = text_of(record);
        assert_eq!(text.as_deref(), Some("spin_lock-torture: Writes:  Total: 9  Max/Min: 5/4   Fail: 1 !!!"));
        let lines = [String::from("random: crng init done"), text.unwrap_or_default()];
        assert_eq!(complaint(&lines), Some(lines[1].as_str()));
        assert_eq!(complaint(&lines[..1]), None);
    }
}
