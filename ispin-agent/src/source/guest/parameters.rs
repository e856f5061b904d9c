//! How the patched kernel's lock is set up: `/sys/module/ispinlock/parameters`.
//!
//! A kernel without one of the files, or without all of them, is observed all the same; what they would say is then
//! not known.

use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};

use crate::model::Source;

/// Where the kernel shows them.
pub const PARAMETERS: &str = "/sys/module/ispinlock/parameters";

/// What the kernel says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `ticket`, `hvm` or `pv`.
    mode: Option<String>,
    /// Critical section duration estimate, TSC cycles.
    csd: Option<u64>,
    /// Who publishes slots: `none`, `software` or `xen`.
    source: Option<String>,
    /// Quantum of the software source, TSC cycles; 0 = it is off.
    soft_slice: Option<u64>,
    /// Whether a CPU that holds a lock may be refused another one.
    nested: Option<bool>,
    /// Longest deferral, TSC cycles.
    max_defer: Option<u64>,
    /// The gate: whether the four events are let through.
    pub events: Option<bool>,
}

impl Parameters {
    /// Reads them.
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            mode: text(folder, "mode")?,
            csd: number(folder, "csd")?,
            source: text(folder, "source")?,
            soft_slice: number(folder, "soft_slice")?,
            nested: switch(folder, "nested")?,
            max_defer: number(folder, "max_defer")?,
            events: switch(folder, "events")?,
        })
    }

    /// What is observed on a kernel that is set up so.
    pub fn source(&self) -> Source {
        let soft = self.source.as_deref() == Some("software");
        Source {
            kind: "guest".into(),
            lock: self.mode.clone().unwrap_or_else(|| "unknown".into()),
            slot_source: self.source.clone().unwrap_or_default(),
            time_unit: "tsc".into(),
            csd: self.csd.unwrap_or(0),
            quantum: self.soft_slice.filter(|_| soft).unwrap_or(0),
            max_defer: self.max_defer,
            nested: self.nested,
            pcpus: 0,
            workload: "this kernel's spinlocks".into(),
        }
    }
}

fn text(folder: &Path, name: &str) -> Result<Option<String>> {
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

fn number<T: FromStr>(folder: &Path, name: &str) -> Result<Option<T>> {
    let parse = |text: String| {
        text.parse()
            .map_err(|_| anyhow!("{} holds `{text}`, which is no number", folder.join(name).display()))
    };
    text(folder, name)?.map(parse).transpose()
}

/// The kernel writes `Y` and `N`, or a number where the parameter is one.
fn switch(folder: &Path, name: &str) -> Result<Option<bool>> {
    let parse = |text: String| match text.as_str() {
        "Y" | "1" => Ok(true),
        "N" | "0" => Ok(false),
        _ => Err(anyhow!("{} holds `{text}`, expected Y or N", folder.join(name).display())),
    };
    text(folder, name)?.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_files_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let parameters = Parameters::read(dir.path()).unwrap();
        assert_eq!(parameters, Parameters::default());
        let source = parameters.source();
        assert_eq!((source.lock.as_str(), source.csd, source.slot_source.as_str()), ("unknown", 0, ""));
        assert_eq!(source.caveat(), None);
    }

    #[test]
    fn everything_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("mode", "hvm\n"),
            ("csd", "16384\n"),
            ("source", "software\n"),
            ("soft_slice", "3000000\n"),
            ("nested", "N\n"),
            ("max_defer", "268435456\n"),
            ("events", "0\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let parameters = Parameters::read(dir.path()).unwrap();
        assert_eq!(parameters.events, Some(false));
        let source = parameters.source();
        assert_eq!((source.lock.as_str(), source.csd, source.quantum), ("hvm", 16384, 3_000_000));
        assert_eq!((source.nested, source.max_defer), (Some(false), Some(1 << 28)));
        assert!(source.caveat().is_some_and(|why| why.contains("no result")));
        // The length of its quantum says nothing while another source publishes.
        std::fs::write(dir.path().join("source"), "xen\n").unwrap();
        let source = Parameters::read(dir.path()).unwrap().source();
        assert_eq!((source.quantum, source.caveat()), (0, None));
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("csd", "many"), ("events", "maybe")] {
            std::fs::write(dir.path().join(name), text).unwrap();
            let error = format!("{:#}", Parameters::read(dir.path()).unwrap_err());
            assert!(error.contains(name) && error.contains(&format!("`{text}`")), "{error}");
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
    }
}
