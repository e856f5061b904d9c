//! Files that a workload needs and `ispin-load` does not contain: programs and kernel modules.

use std::path::{Path, PathBuf};

/// Where a guest keeps the kernel modules of the loads, unless `--modules` says otherwise.
pub const MODULE_FOLDER: &str = "/lib/modules";

/// A file that has to be put into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFile {
    /// A program, with the shared libraries that it names; at the same path in the guest.
    Program {
        /// Absolute path.
        path: &'static str,
        /// Debian package that it comes with.
        package: &'static str,
    },
    /// A module of the guest's kernel, from the folder `modules/` of its build; in [`MODULE_FOLDER`] in the guest.
    Module {
        /// File name.
        file: &'static str,
        /// How it comes to be built.
        from: &'static str,
    },
}

impl HostFile {
    /// Where the file is to be in the guest.
    pub fn guest_path(&self, modules: &Path) -> PathBuf {
        match self {
            Self::Program { path, .. } => path.into(),
            Self::Module { file, .. } => modules.join(file),
        }
    }

    /// What to do about the file, if it is not there.
    pub fn missing(&self, modules: &Path) -> Option<String> {
        let path = self.guest_path(modules);
        if path.exists() {
            return None;
        }
        Some(match self {
            Self::Program { package, .. } => {
                format!("{} (Debian package {package})", path.display())
            }
            Self::Module { from, .. } => {
                format!("{} ({from}; --modules names another folder)", path.display())
            }
        })
    }
}
