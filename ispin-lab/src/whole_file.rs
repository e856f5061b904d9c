//! Files that are written in one step: a kill leaves the old one or the new one.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Puts `bytes` in the place of the file at `path`, readable for all; returns it, open at its end.
///
/// # Errors
/// The file, or another one in its folder, cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<File> {
    let writing = || format!("writing {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let readable = Permissions::from_mode(0o644);
    let mut file =
        tempfile::Builder::new().permissions(readable).tempfile_in(folder).with_context(writing)?;
    file.write_all(bytes).with_context(writing)?;
    file.as_file().sync_all().with_context(writing)?;
    file.persist(path).with_context(writing)
}
