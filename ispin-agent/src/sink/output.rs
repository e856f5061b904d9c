//! A file, a device or standard output that takes whole blocks: one `write` call each, and no torn block is left
//! behind in a file by a failing one.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::patient;

/// An open output.
pub struct Output {
    name: String,
    file: File,
    /// `None` = standard output.
    path: Option<PathBuf>,
    /// A regular file of ours, which can be emptied and cut.
    regular: bool,
    /// This run made the file and has not begun to write it.
    unused: bool,
    /// Length of the complete blocks.
    complete: u64,
}

impl Output {
    /// Opens what `option` was given: a path, or `-` for standard output. An existing file keeps its content
    /// until [`Self::begin`].
    pub fn open(option: &str, value: &str) -> Result<Self> {
        if value == "-" {
            let file = io::stdout().as_fd().try_clone_to_owned().context("duplicating standard output")?;
            return Ok(Self {
                name: format!("--{option} - (standard output)"),
                file: file.into(),
                path: None,
                regular: false,
                unused: false,
                complete: 0,
            });
        }
        let name = format!("--{option} {value}");
        let path = Path::new(value);
        if path.is_dir() {
            bail!(
                "{name}: that is a folder; give the name of a file in it, such as {}",
                path.join(format!("run.{option}")).display()
            );
        }
        let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
        if found.is_none() && path.parent() == Some(Path::new("/dev")) {
            bail!(
                "{name}: there is no such device; a file made in its place would reach nobody. Give the port that \
                 the virtual machine has, or wait until its driver has made it"
            );
        }
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags(found).bits() as i32)
            .open(path)
            .with_context(|| format!("{name}: {}", advice_for_opening(path)))?;
        let regular = file.metadata().with_context(|| name.clone())?.is_file();
        if !regular {
            // A pipe had to be opened without it: that waits for a reader.
            let flags = fcntl_getfl(&file).with_context(|| name.clone())?;
            fcntl_setfl(&file, flags | OFlags::NONBLOCK).with_context(|| name.clone())?;
        }
        let unused = found.is_none() && regular;
        Ok(Self { name, file, path: Some(path.to_owned()), regular, unused, complete: 0 })
    }

    /// For messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Empties a regular file.
    pub fn begin(&mut self) -> Result<()> {
        self.unused = false;
        if self.regular {
            self.file.set_len(0).with_context(|| format!("emptying {}", self.name))?;
        }
        Ok(())
    }

    /// Writes `block`. If that fails in the middle, a regular file is cut back to its complete blocks. A device or
    /// pipe whose reader takes nothing is waited for; a signal ends the waiting.
    pub fn write_block(&mut self, block: &[u8]) -> Result<()> {
        let written = if self.regular || self.path.is_none() {
            self.file.write_all(block)
        } else {
            patient::write_all(&self.file, block)
        };
        match written {
            Ok(()) => {
                self.complete += block.len() as u64;
                Ok(())
            }
            Err(e) => {
                if self.regular {
                    let cut = self
                        .file
                        .set_len(self.complete)
                        .and_then(|()| self.file.seek(SeekFrom::Start(self.complete)));
                    if let Err(cut) = cut {
                        log::warn!("{}: its last line may be incomplete ({cut})", self.name);
                    }
                }
                let advice = advice_for_writing(e.kind());
                Err(e).with_context(|| format!("writing {}: {advice}", self.name))
            }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // A run that could not begin leaves no empty file.
        if let (true, Some(path)) = (self.unused, &self.path)
            && let Err(e) = fs::remove_file(path)
        {
            log::warn!("{}: an empty file is left behind: {e}", self.name);
        }
    }
}

/// How an existing device is opened: a terminal does not become this process's own, and a serial line without a
/// carrier does not hold it up.
fn flags(found: Option<FileType>) -> OFlags {
    match found {
        Some(kind) if kind.is_char_device() => OFlags::NOCTTY | OFlags::NONBLOCK,
        _ => OFlags::NOCTTY,
    }
}

fn advice_for_opening(path: &Path) -> &'static str {
    match path.parent() {
        Some(parent) if parent != Path::new("") && !parent.is_dir() => {
            "its folder does not exist; create it first"
        }
        _ => "cannot be written; give a path that this user may write",
    }
}

fn advice_for_writing(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "no space left; free some, or name a place with more. What was written before is complete"
        }
        ErrorKind::FileTooLarge => {
            "the file may not grow further; raise `ulimit -f`. What was written before is complete"
        }
        ErrorKind::BrokenPipe => "its reader has gone",
        ErrorKind::Interrupted => "a signal came while its reader took nothing; the last line lacks its end",
        _ => "what was written before is complete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_content_stays_until_the_run_begins() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("old.csv");
        fs::write(&path, "old").expect("write");
        let mut output = Output::open("csv", path.to_str().expect("utf-8")).expect("open");
        assert_eq!(fs::read(&path).expect("read"), b"old");
        output.begin().expect("begin");
        output.write_block(b"new\n").expect("write");
        drop(output);
        assert_eq!(fs::read(&path).expect("read"), b"new\n");
    }

    #[test]
    fn a_run_that_never_begins_leaves_no_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("new.csv");
        let output = Output::open("csv", path.to_str().expect("utf-8")).expect("open");
        assert!(path.exists());
        drop(output);
        assert!(!path.exists());
    }

    #[test]
    fn a_device_that_is_not_there_is_not_made() {
        let error =
            Output::open("json", "/dev/no-such-port").err().map(|e| e.to_string()).expect("must fail");
        assert!(error.contains("no such device"), "{error}");
        assert!(!Path::new("/dev/no-such-port").exists());
    }

    #[test]
    fn folders_and_missing_folders_are_named() {
        let error =
            |path: &str| Output::open("csv", path).err().map(|e| format!("{e:#}")).expect("must fail");
        let folder = error("/tmp");
        assert!(folder.contains("is a folder") && folder.contains("/tmp/run.csv"), "{folder}");
        let missing = error("/no/such/folder/run.csv");
        assert!(missing.contains("does not exist; create it"), "{missing}");
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let mut output = Output::open("csv", "/dev/full").expect("open");
        output.begin().expect("begin");
        let error = format!("{:#}", output.write_block(b"row\n").expect_err("must fail"));
        assert!(error.contains("no space left; free some"), "{error}");
    }
}
