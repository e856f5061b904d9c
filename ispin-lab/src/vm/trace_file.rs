//! The file of `--trace` or `--xentrace`: it has no name until it is complete, so a run that ends early leaves nothing behind.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

use super::ports::Shared;

/// A port through which a trace comes, and its file.
pub struct Traced {
    /// The port's name in the machine.
    pub port: String,
    /// Where the trace goes.
    pub file: TraceFile,
}

/// A file that will be at `path`.
pub struct TraceFile {
    option: &'static str,
    path: PathBuf,
    shared: Shared,
}

impl TraceFile {
    /// Makes the file, without a name, on the file system where it is to be.
    pub fn new(option: &'static str, path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).context(option)?;
        if path.is_dir() {
            bail!("{option} {0}: that is a folder; give the name of a file in it", path.display());
        }
        // A device would be replaced by the file, for everybody.
        if std::fs::metadata(&path).is_ok_and(|there| !there.is_file()) {
            bail!("{option} {}: that is no ordinary file; name another place", path.display());
        }
        let folder = path.parent().with_context(|| format!("{option}: give the name of a file"))?;
        let fd = open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
            .with_context(|| {
                format!(
                    "{option} {}: no file can be made in {}; name one on an ordinary file system, in a folder that \
                     exists and can be written",
                    path.display(),
                    folder.display()
                )
            })?;
        Ok(Self { option, path, shared: Shared::of("the trace", File::from(fd)) })
    }

    /// What QEMU writes to.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Its size so far, bytes.
    pub fn len(&self) -> Result<u64> {
        let metadata = self.shared.file().metadata();
        Ok(metadata.with_context(|| format!("{} {}", self.option, self.path.display()))?.len())
    }

    /// What is in it.
    pub fn content(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.len()? as usize];
        let reading = || format!("{} {}", self.option, self.path.display());
        self.shared.file().read_exact_at(&mut bytes, 0).with_context(reading)?;
        Ok(bytes)
    }

    /// Gives it its name, in place of what was there.
    pub fn complete(&self) -> Result<()> {
        let failed =
            || format!("{} {}: putting the complete file in place", self.option, self.path.display());
        let mut partial = self.path.clone().into_os_string();
        partial.push(format!(".{}", std::process::id()));
        let open_file = format!("/proc/self/fd/{}", self.shared.file().as_raw_fd());
        linkat(CWD, open_file, CWD, &partial, AtFlags::SYMLINK_FOLLOW).with_context(failed)?;
        std::fs::rename(&partial, &self.path).with_context(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_refused() {
        let error = TraceFile::new("--trace", Path::new("/dev/null")).err().expect("refused");
        assert!(format!("{error:#}").contains("no ordinary file"), "{error:#}");
    }

    #[test]
    fn it_is_there_once_complete_and_not_before() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("trace.tar");
        let file = TraceFile::new("--trace", &path).expect("new");
        std::fs::write(file.shared().path(), b"content").expect("write");
        assert_eq!(file.len().expect("len"), 7);
        assert!(!path.exists());
        assert_eq!(file.content().expect("content"), b"content");
        file.complete().expect("complete");
        assert_eq!(std::fs::read(&path).expect("read"), b"content");
        let again = TraceFile::new("--trace", &path).expect("new");
        again.complete().expect("complete");
        assert_eq!(std::fs::read(&path).expect("read"), b"");
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 1);
        let missing = TraceFile::new("--trace", Path::new("/no/such/folder/x")).err().expect("must fail");
        assert!(format!("{missing:#}").contains("/no/such/folder"), "{missing:#}");
    }
}
