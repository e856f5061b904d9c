//! One guest, as the host hears it: its console, what its init script, agent and load say, and its snapshots.

use anyhow::{Context, Result, bail, ensure};
use ispin_agent::model::Snapshot;

use super::console::{self, Finding};
use super::init;
use super::ports::{Lines, Shared};
use super::report::{LoadResult, Message};
use super::steps::last_lines;

/// What is remembered of what agent and load said: the end.
const SAID_LINES: usize = 200;

/// How far a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing has come from it.
    Silent,
    /// Its init script has begun.
    Booted,
    /// Its load runs.
    Loading,
    /// Its load has ended.
    Loaded,
    /// The trace is being read out.
    Tracing,
    /// Its init script has ended.
    Ended,
}

/// One guest.
pub struct Guest {
    name: String,
    /// Whether there are others.
    among: bool,
    /// Before what is said about it, where there are.
    prefix: String,
    agent: bool,
    console_port: Lines,
    report_port: Lines,
    snapshot_port: Lines,
    console: Vec<String>,
    said: Vec<String>,
    error: Option<String>,
    load_exit: Option<i32>,
    end: Option<i32>,
    stage: Stage,
    source: Option<String>,
    result: Option<LoadResult>,
    /// The number of the last snapshot, and whether it said that it was the last.
    last: Option<(u64, bool)>,
}

/// What has come from a guest since the last look.
#[derive(Default)]
pub struct News {
    /// Its console's lines.
    pub console: Vec<String>,
    /// Its snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Whether its stage is another one now.
    pub moved: bool,
}

impl Guest {
    /// A guest of which nothing was heard yet. `among` = there may be others.
    pub fn new(name: &str, agent: bool, among: bool) -> Result<Self> {
        let port = |what: &str| Lines::new(format!("{what} of {name}"));
        Ok(Self {
            name: name.to_owned(),
            among,
            prefix: if among { format!("{name}: ") } else { String::new() },
            agent,
            console_port: port("the console")?,
            report_port: port("the report")?,
            snapshot_port: port("the snapshots")?,
            console: vec![],
            said: vec![],
            error: None,
            load_exit: None,
            end: None,
            stage: Stage::Silent,
            source: None,
            result: None,
            last: None,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its console goes.
    pub fn console_file(&self) -> &Shared {
        self.console_port.shared()
    }

    /// Its ports, by their name. Guests of Xen have all of them.
    pub fn ports(&self) -> Vec<(&'static str, &Shared)> {
        let mut ports = vec![(init::REPORT, self.report_port.shared())];
        if self.agent || self.among {
            ports.push((init::SNAPSHOTS, self.snapshot_port.shared()));
        }
        ports
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Who publishes slots.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Its load's result.
    pub fn result(&self) -> Option<&LoadResult> {
        self.result.as_ref()
    }

    /// Bytes that came from it.
    pub fn heard(&self) -> u64 {
        self.console_port.read() + self.report_port.read() + self.snapshot_port.read()
    }

    /// Bytes that came through its ports, in order.
    pub fn received(&self) -> Vec<u64> {
        vec![self.report_port.read(), self.snapshot_port.read()]
    }

    /// Takes in what has come.
    pub fn take(&mut self) -> Result<News> {
        let before = self.stage;
        let mut news = News { console: self.console_port.take()?, ..News::default() };
        self.console.extend_from_slice(&news.console);
        for line in self.report_port.take()? {
            let message = Message::parse(&line).with_context(|| self.name.clone())?;
            self.message(message);
        }
        for line in self.snapshot_port.take()? {
            news.snapshots.push(self.snapshot(&line)?);
        }
        news.moved = self.stage != before;
        Ok(news)
    }

    fn snapshot(&mut self, line: &str) -> Result<Snapshot> {
        let now: Snapshot = serde_json::from_str(line).with_context(|| {
            format!("the guest {} sent what is no snapshot: `{}`", self.name, beginning(line))
        })?;
        let expected = self.last.map_or(1, |(number, _)| number + 1);
        ensure!(
            now.seq == expected,
            "the guest {} sent snapshot {} where {expected} was due: something was lost on the way",
            self.name,
            now.seq
        );
        self.last = Some((now.seq, now.finished));
        Ok(now)
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Boot => self.stage = Stage::Booted,
            Message::Source(source) => self.source = Some(source),
            Message::Load => self.stage = Stage::Loading,
            Message::Result(result) => self.result = Some(result),
            Message::Gate(seconds) => {
                // A load that gave no result has failed, and is told.
                if let Some(result) = &mut self.result {
                    result.gate_seconds = Some(seconds);
                }
            }
            Message::Exit(code) => {
                self.stage = Stage::Loaded;
                self.load_exit = Some(code);
            }
            Message::Trace => self.stage = Stage::Tracing,
            Message::Error(error) => {
                self.error.get_or_insert(error);
            }
            Message::End(code) => {
                self.stage = Stage::Ended;
                self.end = Some(code);
            }
            Message::Said(line) => {
                log::info!("{}: {line}", self.name);
                if self.said.len() == SAID_LINES {
                    self.said.remove(0);
                }
                self.said.push(line);
            }
        }
    }

    /// The first fault that its console shows.
    pub fn fault(&self) -> Option<Finding> {
        console::diagnose(&self.console)
    }

    /// Fails if its kernel reported a fault, or its init script an error.
    pub fn faultless(&self, keep_console: Option<&std::path::Path>) -> Result<()> {
        if let Some(fault) = self.fault() {
            let more = match keep_console {
                Some(path) => format!("the whole console: {}", path.display()),
                None => "--keep-console FILE keeps the whole console".to_owned(),
            };
            bail!(
                "{}the guest's kernel reported a fault: {}\n{}\n{more}",
                self.prefix,
                fault.cause,
                console::excerpt(&self.console, &fault)
            );
        }
        if let Some(error) = &self.error {
            bail!("{}in the guest: {error}{}", self.prefix, self.said());
        }
        Ok(())
    }

    /// Whether it cannot come to a good end any more: others may wait for it.
    pub fn failed(&self) -> bool {
        let bad = |code: Option<i32>| code.is_some_and(|code| code != 0);
        self.error.is_some() || bad(self.load_exit) || bad(self.end)
    }

    /// Whether its init script came to its end.
    pub fn ended(&self) -> bool {
        self.end.is_some()
    }

    /// Fails unless load and agent ended as they should.
    pub fn verdict(&self) -> Result<()> {
        let (prefix, said) = (&self.prefix, self.said());
        match self.load_exit {
            Some(0) => {}
            Some(3) => bail!("{prefix}the load found the lock broken{said}"),
            Some(code) => bail!("{prefix}the load ended with exit code {code}{said}"),
            None => bail!("{prefix}the load did not run{said}"),
        }
        match self.end {
            Some(0) => {}
            Some(code) => bail!("{prefix}the agent in the guest ended with exit code {code}{said}"),
            None => bail!("{prefix}the guest broke off{said}"),
        }
        if self.result.is_none() {
            bail!("{prefix}the load gave no result{said}");
        }
        if self.agent {
            match self.last {
                None => bail!("{prefix}no snapshot came{said}"),
                Some((_, true)) if self.snapshot_port.rest().is_empty() => {}
                Some(_) => bail!("{prefix}the snapshots broke off{said}"),
            }
        }
        Ok(())
    }

    /// The end of its console.
    pub fn console_end(&self) -> String {
        console::end(&self.console)
    }

    /// What agent and load said, for the end of a message.
    pub fn said(&self) -> String {
        if self.said.is_empty() {
            return String::new();
        }
        format!("\nAgent and load said:\n{}", last_lines(&self.said.join("\n"), 30))
    }
}

fn beginning(line: &str) -> String {
    line.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    fn write(shared: &Shared, text: &str) {
        let mut file = OpenOptions::new().append(true).open(shared.path()).expect("open");
        file.write_all(text.as_bytes()).expect("write");
    }

    fn snapshot(seq: u64, finished: bool) -> String {
        serde_json::to_string(&Snapshot { seq, finished, ..Snapshot::default() }).expect("json") + "\n"
    }

    #[test]
    fn a_run_that_goes_well_passes() {
        let mut guest = Guest::new("g1", true, true).expect("guest");
        let result = r#"RESULT {"workload":"dup","threads":2}"#;
        write(guest.ports()[0].1, &format!("ispin: boot\nispin: source xen\nispin: load\n{result}\n"));
        write(guest.ports()[1].1, &snapshot(1, false));
        let news = guest.take().expect("take");
        assert!(news.moved && news.snapshots.len() == 1 && guest.stage() == Stage::Loading);
        write(guest.ports()[0].1, "ispin: gate 1.5 4\nispin: exit 0\nispin: end 0\n");
        write(guest.ports()[1].1, &snapshot(2, true));
        guest.take().expect("take");
        guest.verdict().expect("well");
        assert_eq!(guest.result().and_then(|result| result.gate_seconds), Some(2.5));
        assert_eq!((guest.source(), guest.ended(), guest.failed()), (Some("xen"), true, false));
        write(guest.ports()[0].1, "ispin: error no room\n");
        guest.take().expect("take");
        assert!(
            guest.failed()
                && guest.faultless(None).unwrap_err().to_string().contains("g1: in the guest: no room")
        );
    }

    #[test]
    fn a_lost_or_cut_line_is_an_error() {
        let mut guest = Guest::new("g2", true, true).expect("guest");
        write(guest.ports()[1].1, &(snapshot(1, false) + &snapshot(3, false)));
        let error = guest.take().err().expect("lost").to_string();
        assert!(error.contains("snapshot 3 where 2 was due"), "{error}");

        let mut guest = Guest::new("g2", true, true).expect("guest");
        write(
            guest.ports()[0].1,
            "RESULT {\"workload\":\"dup\",\"threads\":2}\nispin: exit 0\nispin: end 0\n",
        );
        write(guest.ports()[1].1, &(snapshot(1, true) + "{\"seq\":2"));
        guest.take().expect("take");
        assert!(guest.verdict().unwrap_err().to_string().contains("g2: the snapshots broke off"));
    }
}
