//! The names that hold now: read again when modules come or go.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use super::names::{KALLSYMS, Names};

const MODULES: &str = "/proc/modules";

/// Names of what is in the kernel now.
#[derive(Debug, Default)]
pub struct Symbols {
    names: Names,
    modules: Vec<String>,
}

impl Symbols {
    /// Reads them.
    pub fn read() -> Result<Self> {
        Ok(Self { modules: modules(Path::new(MODULES))?, names: Names::read(Path::new(KALLSYMS))? })
    }

    /// Reads them again if another set of modules is loaded than before.
    pub fn refresh(&mut self) -> Result<()> {
        let modules = modules(Path::new(MODULES))?;
        if modules != self.modules {
            let mut names = Names::read(Path::new(KALLSYMS))?;
            names.set_distances(self.names.distances().to_vec());
            *self = Self { names, modules };
        }
        Ok(())
    }

    /// The names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Says where the CPUs' copies of per-CPU data are.
    pub fn set_distances(&mut self, distances: Vec<u64>) {
        self.names.set_distances(distances);
    }
}

/// Name, size, state and address of each module, not how many use it. None if the kernel has no modules.
fn modules(path: &Path) -> Result<Vec<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    };
    let what_stays = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        [0, 1, 4, 5].iter().filter_map(|&i| fields.get(i).copied()).collect::<Vec<_>>().join(" ")
    };
    Ok(text.lines().map(what_stays).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_told_apart_but_not_by_their_users() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("modules");
        assert_eq!(modules(&path).unwrap(), Vec::<String>::new());
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            modules(&path).unwrap()
        };
        let before = read("a 4096 0 - Live 0xffffffffc0000000 (O)\n");
        assert_eq!(before, read("a 4096 3 b,c, Live 0xffffffffc0000000 (O)\n"));
        assert_ne!(before, read("a 4096 0 - Loading 0xffffffffc0000000 (O)\n"));
        assert_ne!(before, read("a 4096 0 - Live 0xffffffffc0000000 (O)\nb 1 0 - Live 0x0\n"));
    }
}
