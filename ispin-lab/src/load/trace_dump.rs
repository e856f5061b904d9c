//! `ispin-load trace-dump`: the kernel's binary trace, and what is needed to read it, as one tar archive.
//!
//! | member | content |
//! |---|---|
//! | `events/header_page`, `events/ispinlock/*/format` | layout of sub-buffers and events, as the kernel tells it |
//! | `per_cpu/cpuN/stats` | counters of the ring buffer before it was drained |
//! | `per_cpu/cpuN/trace_pipe_raw.KKKKK` | sub-buffers of that CPU in order; the parts put together are the trace |
//! | `per_cpu/cpuN/stats.after` | the same counters afterwards: no entry is left, nothing was overwritten meanwhile |

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use super::kit::signals::Signals;

/// Where tracefs may be mounted.
const USUAL: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Size of the parts of a CPU's trace, bytes: what is held in memory.
const PART: usize = 1 << 20;

/// A tar block.
const BLOCK: usize = 512;

/// What was written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dumped {
    /// CPUs whose buffers were drained.
    pub cpus: u32,
    /// Sub-buffers of all CPUs.
    pub subbuffers: u64,
    /// Size of a sub-buffer, bytes.
    pub subbuffer_size: usize,
}

/// The mounted tracefs.
pub fn tracing_folder() -> Result<PathBuf> {
    USUAL.map(PathBuf::from).into_iter().find(|folder| folder.join("per_cpu").is_dir()).with_context(|| {
        format!(
            "no tracefs in {}: mount it (mount -t tracefs none {}), as root; the kernel needs CONFIG_TRACING",
            USUAL.join(" or "),
            USUAL[0]
        )
    })
}

/// Drains the ring buffers below `tracing` into `out`, a file or a block device. At most `limit` bytes of trace:
/// a buffer that is filled faster than it is drained has no end.
pub fn dump(tracing: &Path, out: &Path, limit: u64, signals: &Signals) -> Result<Dumped> {
    let header = read_whole(&tracing.join("events/header_page"))?;
    let size = subbuffer_size(&String::from_utf8_lossy(&header)).context("events/header_page")?;
    let mut archive = tar::Builder::new(Held::create(out)?);
    archive.mode(tar::HeaderMode::Deterministic);
    append(&mut archive, "events/header_page", &header)?;
    append_formats(&mut archive, tracing)?;
    let mut dumped = Dumped { subbuffer_size: size, ..Dumped::default() };
    for cpu in cpus(tracing)? {
        let (folder, name) = (tracing.join(format!("per_cpu/cpu{cpu}")), format!("per_cpu/cpu{cpu}"));
        append(&mut archive, &format!("{name}/stats"), &read_whole(&folder.join("stats"))?)?;
        let mut raw = Raw::open(&folder.join("trace_pipe_raw"), size)?;
        let mut number = 0;
        loop {
            signals.check()?;
            let part = raw.part()?;
            if part.is_empty() {
                break;
            }
            append(&mut archive, &format!("{name}/trace_pipe_raw.{number:05}"), part)?;
            number += 1;
            dumped.subbuffers += (part.len() / size) as u64;
            ensure!(
                dumped.subbuffers.saturating_mul(size as u64) <= limit,
                "more than {limit} bytes of trace: stop tracing first (echo 0 > {}), or raise --limit-mib",
                tracing.join("tracing_on").display()
            );
        }
        append(&mut archive, &format!("{name}/stats.after"), &read_whole(&folder.join("stats"))?)?;
        dumped.cpus += 1;
    }
    archive.into_inner().context("writing the end of the archive")?.complete(out)?;
    Ok(dumped)
}

fn append_formats(archive: &mut tar::Builder<Held>, tracing: &Path) -> Result<()> {
    let folder = tracing.join("events/ispinlock");
    let entries = fs::read_dir(&folder).with_context(|| {
        format!("reading {}: the kernel has no such tracepoints (CONFIG_ISPINLOCK)", folder.display())
    })?;
    let mut events: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    events.sort();
    for event in events.iter().filter(|event| event.is_dir()) {
        let Some(name) = event.file_name().and_then(|name| name.to_str()) else { continue };
        append(archive, &format!("events/ispinlock/{name}/format"), &read_whole(&event.join("format"))?)?;
    }
    Ok(())
}

/// Numbers of the CPUs that have a buffer, ascending.
fn cpus(tracing: &Path) -> Result<Vec<u32>> {
    let folder = tracing.join("per_cpu");
    let mut cpus = vec![];
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let name = entry?.file_name();
        cpus.extend(name.to_str().and_then(|name| name.strip_prefix("cpu")?.parse::<u32>().ok()));
    }
    cpus.sort_unstable();
    ensure!(!cpus.is_empty(), "{} has no CPU", folder.display());
    Ok(cpus)
}

/// Size of a sub-buffer, from its layout: the data follow the page's own header, to the end.
fn subbuffer_size(header_page: &str) -> Result<usize> {
    let line =
        header_page.lines().find(|line| line.contains("field: char data;")).context("no field `data`")?;
    let number = |key: &str| -> Result<usize> {
        let value = line.split(key).nth(1).and_then(|rest| rest.split(';').next());
        value.context("an incomplete field `data`")?.parse().context("a field `data` without numbers")
    };
    Ok(number("offset:")? + number("size:")?)
}

/// A CPU's buffer, read in whole sub-buffers.
struct Raw {
    file: File,
    path: PathBuf,
    subbuffer: usize,
    part: Vec<u8>,
}

impl Raw {
    fn open(path: &Path, subbuffer: usize) -> Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let whole = (PART / subbuffer).max(1) * subbuffer;
        Ok(Self { file, path: path.to_owned(), subbuffer, part: vec![0; whole] })
    }

    /// The next sub-buffers, as many as a part holds; none at the end.
    fn part(&mut self) -> Result<&[u8]> {
        let mut filled = 0;
        while filled < self.part.len() {
            // The kernel hands out what is left of a sub-buffer if it is asked for less than all of it.
            match rustix::io::read(&self.file, &mut self.part[filled..filled + self.subbuffer]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) if count == self.subbuffer => filled += count,
                Ok(count) => {
                    bail!("{}: {count} bytes, a sub-buffer has {}", self.path.display(), self.subbuffer)
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).with_context(|| format!("reading {}", self.path.display())),
            }
        }
        Ok(&self.part[..filled])
    }
}

/// A small file of tracefs. The kernel answers the second read of `header_page` with its end, whatever the first one
/// left over, so the buffer has to hold all of it at once.
fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 16];
        let mut content = vec![];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(content),
                count => content.extend_from_slice(&buffer[..count]),
            }
        }
    };
    read().with_context(|| format!("reading {}", path.display()))
}

fn append(archive: &mut tar::Builder<Held>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, content).with_context(|| format!("writing {name} to the archive"))
}

/// An output that is an empty archive until it is complete: its first block is held back and written last. So
/// neither a dump that was killed nor what a block device held before is taken for a trace.
struct Held {
    file: File,
    first: Vec<u8>,
}

impl Held {
    fn create(path: &Path) -> Result<Self> {
        let create = || -> std::io::Result<File> {
            let mut file = File::options().write(true).create(true).truncate(true).open(path)?;
            // Two blocks of zeros are the end of an archive.
            file.write_all(&[0; 2 * BLOCK])?;
            file.sync_all()?;
            file.seek(SeekFrom::Start(BLOCK as u64))?;
            Ok(file)
        };
        let file = create().with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { file, first: vec![] })
    }

    fn complete(mut self, path: &Path) -> Result<()> {
        let mut complete = || -> std::io::Result<()> {
            self.file.sync_all()?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&self.first)?;
            self.file.sync_all()
        };
        complete().with_context(|| format!("completing {}", path.display()))
    }
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let held = BLOCK - self.first.len();
        if held == 0 {
            return self.file.write(bytes);
        }
        let (first, _) = bytes.split_at(held.min(bytes.len()));
        self.first.extend_from_slice(first);
        Ok(first.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Names and contents of an archive's members, in order.
pub fn members(archive: impl Read) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = vec![];
    for entry in tar::Archive::new(archive).entries().context("reading the archive")? {
        let mut entry = entry.context("reading the archive")?;
        let name = entry.path().context("reading the archive")?.to_string_lossy().into_owned();
        let mut content = vec![];
        entry.read_to_end(&mut content).with_context(|| format!("reading {name} from the archive"))?;
        found.push((name, content));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_subbuffer_is_read_from_its_layout() {
        let page = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
                    \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
                    \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
                    \tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";
        assert_eq!(subbuffer_size(page).ok(), Some(4096));
        assert!(subbuffer_size("").is_err());
    }
}
