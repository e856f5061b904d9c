//! What the guest's init script tells the host (`init` has the other side).

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::init::MARK;

/// One line of the report port.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The init script has begun.
    Boot,
    /// Who publishes slots: `none`, `software`, `xen`.
    Source(String),
    /// The load begins.
    Load,
    /// The load's result.
    Result(LoadResult),
    /// For how long the kernel let events through, s: while the load was there, and what it took to begin and to end.
    Gate(f64),
    /// The load's exit code.
    Exit(i32),
    /// The trace is being read out.
    Trace,
    /// Why the run cannot go on.
    Error(String),
    /// All is done; exit code.
    End(i32),
    /// What the agent or the load said.
    Said(String),
}

/// The line with which a load ends: `RESULT` and JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LoadResult {
    /// Name of the load.
    pub workload: String,
    /// Its threads.
    pub threads: u64,
    /// How long it ran, s.
    #[serde(default)]
    pub seconds: f64,
    /// What it did.
    #[serde(default)]
    pub operations: u64,
    /// The figure that this load is about.
    #[serde(default)]
    pub value: Option<f64>,
    /// Unit of `value`, and of nothing else.
    #[serde(default)]
    pub unit: String,
    /// Operations per second.
    #[serde(default)]
    pub per_second: f64,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
    /// For how long events were let through, s, which is what counts are of; `None` = the kernel has no such gate.
    #[serde(skip)]
    pub gate_seconds: Option<f64>,
}

impl Message {
    /// Reads a line.
    pub fn parse(line: &str) -> Result<Self> {
        if let Some(json) = line.strip_prefix("RESULT ") {
            let result = serde_json::from_str(json).with_context(|| format!("the load's result `{json}`"))?;
            return Ok(Self::Result(result));
        }
        let Some(message) = line.strip_prefix(MARK) else { return Ok(Self::Said(line.to_owned())) };
        let (word, rest) = message.split_once(' ').unwrap_or((message, ""));
        let number = || rest.parse().with_context(|| format!("the guest's init script said `{line}`"));
        Ok(match word {
            "boot" => Self::Boot,
            "source" => Self::Source(rest.to_owned()),
            "load" => Self::Load,
            "gate" => {
                Self::Gate(gate(rest).with_context(|| format!("the guest's init script said `{line}`"))?)
            }
            "exit" => Self::Exit(number()?),
            "trace" => Self::Trace,
            "error" => Self::Error(rest.to_owned()),
            "end" => Self::End(number()?),
            _ => Self::Said(line.to_owned()),
        })
    }
}

/// Length of the time between two that `/proc/uptime` told.
fn gate(times: &str) -> Result<f64> {
    let (opened, closed) = times.split_once(' ').context("not two times")?;
    let (opened, closed): (f64, f64) = (opened.parse()?, closed.parse()?);
    ensure!(opened <= closed, "the second time is the earlier one");
    Ok(closed - opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_understood() {
        let read = |line: &str| Message::parse(line).expect(line);
        assert_eq!(read("ispin: boot"), Message::Boot);
        assert_eq!(read("ispin: source software"), Message::Source("software".into()));
        assert_eq!(read("ispin: exit 3"), Message::Exit(3));
        assert_eq!(read("ispin: error no lock here"), Message::Error("no lock here".into()));
        assert_eq!(read("ispin: end 0"), Message::End(0));
        assert_eq!(read("ispin-load: hello"), Message::Said("ispin-load: hello".into()));
        assert_eq!(read("ispin: gate 3.25 7.5"), Message::Gate(4.25));
        for wrong in ["ispin: end soon", "ispin: gate 3.25", "ispin: gate 7.5 3.25"] {
            assert!(Message::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_result_keeps_what_only_its_load_knows() {
        let line = r#"RESULT {"workload":"kernbench","threads":4,"seconds":9.5,"operations":12,"per_second":1.2,"value":9.5,"unit":"s","seed":1,"files":30}"#;
        let Message::Result(result) = Message::parse(line).unwrap() else { panic!("no result") };
        assert_eq!((result.value, result.unit.as_str(), result.operations), (Some(9.5), "s", 12));
        assert_eq!(result.other["files"], 30);
        assert!(Message::parse("RESULT {").is_err());
    }
}
