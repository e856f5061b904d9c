//! What this machine has and lacks for observing, and what would bring it.

mod cgroup;
mod print;
mod probe;

use std::path::Path;

use serde::Serialize;

use crate::source::kind::SourceKind;

pub use print::{json, table};

/// Whether a capability is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is there.
    Yes,
    /// It is not.
    No,
    /// This user cannot find out.
    Unknown,
}

/// One capability of kernel, machine or user.
#[derive(Clone, Debug, Serialize)]
pub struct Capability {
    /// Stable name.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// What was found, in words.
    pub found: String,
    /// The kernel option, privilege or patch that would bring it; `None` if it is there.
    pub remedy: Option<String>,
    /// Sources that cannot do without it.
    pub needed_by: &'static [&'static str],
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Release of the running kernel.
    pub kernel: String,
    /// How the eBPF object in this program came about.
    pub ebpf_object: &'static str,
    /// The capabilities.
    pub capabilities: Vec<Capability>,
    /// The sources, and which capabilities each one lacks.
    pub sources: Vec<SourceState>,
}

/// Whether a source can be used here.
#[derive(Clone, Debug, Serialize)]
pub struct SourceState {
    /// Its name.
    pub name: &'static str,
    /// Nothing that it needs is missing.
    pub available: bool,
    /// Names of the capabilities that are missing.
    pub missing: Vec<&'static str>,
}

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What can be told in a moment.
    Quick,
    /// Also loads the eBPF programs into the kernel, and takes them out again.
    Thorough,
}

impl Report {
    /// Looks at this machine, with the eyes of the user who runs this process. `btf`: where the kernel's type
    /// information is.
    pub fn probe(btf: &Path, depth: Depth) -> Self {
        let capabilities = probe::all(btf, depth);
        let state = |name: &'static str| {
            let lacks = |c: &&Capability| c.state != State::Yes && c.needed_by.contains(&name);
            let missing: Vec<_> = capabilities.iter().filter(lacks).map(|c| c.name).collect();
            SourceState { name, available: missing.is_empty(), missing }
        };
        let sources = vec![state("threads"), state("guest")];
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            ebpf_object: crate::bpf::object::ORIGIN,
            capabilities,
            sources,
        }
    }

    /// Whether any live source can be used.
    pub fn any_source(&self) -> bool {
        self.sources.iter().any(|s| s.available)
    }

    /// What `source` needs and this machine lacks.
    pub fn missing(&self, source: &SourceKind) -> Vec<&Capability> {
        let name = source.to_string();
        let lacks = |c: &&Capability| c.state != State::Yes && c.needed_by.contains(&name.as_str());
        self.capabilities.iter().filter(lacks).collect()
    }

    /// Names of what `source` lacks, in one line.
    pub fn why_not(&self, source: &SourceKind) -> String {
        let names: Vec<_> = self.missing(source).iter().map(|c| c.name).collect();
        format!("it lacks {}", names.join(", "))
    }

    /// What `source` lacks and what would bring it, a line each.
    pub fn explain(&self, source: &SourceKind) -> String {
        let mut text = format!("source {source} is not available here. It lacks:");
        for c in self.missing(source) {
            text += &format!("\n  {}: {}", c.name, c.found);
            if let Some(remedy) = &c.remedy {
                text += &format!("\n      to get it: {remedy}");
            }
        }
        text
    }
}
