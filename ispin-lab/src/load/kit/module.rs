//! Kernel modules that a load puts into the kernel, and takes out again when it ends.

use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::system::{delete_module, finit_module};

/// A module that this value keeps in the kernel.
pub struct Module {
    name: &'static str,
    loaded: bool,
}

/// Whether `name` is in the kernel.
pub fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).is_dir()
}

impl Module {
    /// Inserts `name` from `folder` with `parameters` (`a=1 b=2`).
    pub fn insert(folder: &Path, name: &'static str, parameters: &str) -> Result<Self> {
        let path: PathBuf = folder.join(format!("{name}.ko"));
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let arguments = CString::new(parameters).context("parameters of a module")?;
        match finit_module(&file, &arguments, 0) {
            Ok(()) => Ok(Self { name, loaded: true }),
            Err(error) => {
                let hint = match error {
                    Errno::PERM => "needs root",
                    Errno::EXIST => "it is loaded already: rmmod it first",
                    Errno::NOEXEC => "it was built for another kernel",
                    _ => "the kernel log (dmesg) has the reason",
                };
                Err(error).with_context(|| format!("inserting {}: {hint}", path.display()))
            }
        }
    }

    /// Inserts `name` unless it is in the kernel already, in which case it also stays there.
    pub fn ensure(folder: &Path, name: &'static str) -> Result<Self> {
        if is_loaded(name) { Ok(Self { name, loaded: false }) } else { Self::insert(folder, name, "") }
    }

    /// Takes it out.
    pub fn remove(mut self) -> Result<()> {
        self.take_out()
    }

    /// Leaves it in the kernel.
    pub fn leave(mut self) {
        self.loaded = false;
    }

    fn take_out(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.loaded) {
            return Ok(());
        }
        let Ok(name) = CString::new(self.name) else { bail!("{:?} names no module", self.name) };
        delete_module(&name, libc::O_NONBLOCK).with_context(|| format!("removing module {}", self.name))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Err(error) = self.take_out() {
            eprintln!("ispin-load: {error:#}");
        }
    }
}
