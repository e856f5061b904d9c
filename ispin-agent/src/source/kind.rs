//! The names of the sources.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which source, as the command line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// `guest` where it is available, else `threads`.
    Auto,
    /// User threads as vCPUs.
    Threads,
    /// This kernel's own spinlocks, in a guest with the patches.
    Guest,
    /// A recorded run.
    Replay(PathBuf),
}

impl FromStr for SourceKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "threads" => Ok(Self::Threads),
            "guest" => Ok(Self::Guest),
            _ => match s.strip_prefix("replay:") {
                Some(file) if !file.is_empty() => Ok(Self::Replay(file.into())),
                _ => Err("give auto, threads, guest, or replay:FILE for a run that --json recorded".into()),
            },
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Threads => f.write_str("threads"),
            Self::Guest => f.write_str("guest"),
            Self::Replay(file) => write!(f, "replay:{}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in ["auto", "threads", "guest", "replay:a/b.jsonl"] {
            assert_eq!(name.parse::<SourceKind>().map(|k| k.to_string()).as_deref(), Ok(name));
        }
        assert!("replay:".parse::<SourceKind>().is_err());
        assert!("thread".parse::<SourceKind>().is_err());
    }
}
