//! dom0 as the host hears it: the console of the machine, on which Xen and dom0's kernel write, and what dom0's init
//! script and the relay in it tell (`port::relay` has the list).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::{REPORT, guest_port};
use crate::vm::console;
use crate::vm::guest::Guest;
use crate::vm::init::{MARK, TRACE};
use crate::vm::ports::{Lines, Shared};
use crate::vm::steps::last_lines;
use crate::vm::trace_file::Traced;

/// What is remembered of what the tools said: the end.
const SAID_LINES: usize = 100;

/// Lines of the machine's console that no healthy run has, and what they mean.
const SIGNS: [(&str, &str); 9] = [
    (
        "has invalid value",
        "Xen does not know a value of its command line: take one built with the whole series",
    ),
    ("Panic on CPU", "Xen gave up"),
    ("FATAL TRAP", "Xen gave up"),
    ("Xen BUG at", "a defect in Xen"),
    ("Kernel panic - not syncing", "dom0's kernel gave up"),
    ("Attempted to kill init", "dom0's init script ended, or was killed"),
    ("Out of memory", "dom0 ran out of memory"),
    ("Domain 0 crashed", "dom0's kernel could not be run"),
    ("Hardware Dom0 crashed", "dom0's kernel crashed"),
];

/// dom0.
pub struct Dom0 {
    console_port: Lines,
    report_port: Lines,
    console: Vec<String>,
    said: Vec<String>,
    step: Step,
    error: Option<String>,
    /// Bytes that dom0 handed on, by guest and channel.
    sent: Vec<(String, Vec<u64>)>,
    /// Numbers that Xen gave to the guests.
    domains: BTreeMap<String, u32>,
    /// Guests that died.
    gone: Vec<String>,
    end: Option<i32>,
}

/// How far dom0 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Booted,
    Tools,
    Created,
    Started,
}

/// What has come since the last look.
#[derive(Default)]
pub struct News {
    /// Lines of the console.
    pub console: Vec<String>,
    /// A step that has begun, in words.
    pub step: Option<&'static str>,
    /// Whether the console shows a fault, or a guest died.
    pub fault: bool,
}

impl Dom0 {
    /// A dom0 of which nothing was heard yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            console_port: Lines::new("the machine's console")?,
            report_port: Lines::new("dom0's report")?,
            console: vec![],
            said: vec![],
            step: Step::Nothing,
            error: None,
            sent: vec![],
            domains: BTreeMap::new(),
            gone: vec![],
            end: None,
        })
    }

    /// Where the machine's console goes.
    pub fn console_file(&self) -> &Shared {
        self.console_port.shared()
    }

    /// Its ports, by their name.
    pub fn ports(&self) -> Vec<(&'static str, &Shared)> {
        vec![(REPORT, self.report_port.shared())]
    }

    /// Bytes that came from it.
    pub fn heard(&self) -> u64 {
        self.console_port.read() + self.report_port.read()
    }

    /// Takes in what has come.
    pub fn take(&mut self) -> Result<News> {
        let mut news = News { console: self.console_port.take()?, ..News::default() };
        news.fault = news.console.iter().any(|line| judge(line).is_some());
        self.console.extend_from_slice(&news.console);
        for line in self.report_port.take()? {
            let before = self.step;
            self.message(&line).with_context(|| format!("dom0 said `{line}`"))?;
            if self.step != before {
                news.step = self.step.begins();
            }
        }
        // The other guests would wait for it for ever.
        news.fault |= !self.gone.is_empty();
        Ok(news)
    }

    fn message(&mut self, line: &str) -> Result<()> {
        let Some(message) = line.strip_prefix(MARK) else {
            log::info!("dom0: {line}");
            if self.said.len() == SAID_LINES {
                self.said.remove(0);
            }
            self.said.push(line.to_owned());
            return Ok(());
        };
        let (word, rest) = message.split_once(' ').unwrap_or((message, ""));
        log::info!("dom0: {message}");
        match word {
            "boot" => self.step = Step::Booted,
            "tools" => self.step = Step::Tools,
            "created" => self.step = Step::Created,
            "start" => self.step = Step::Started,
            "sent" => {
                let mut words = rest.split(' ');
                let name = words.next().unwrap_or_default().to_owned();
                let bytes = words.map(str::parse).collect::<Result<_, _>>()?;
                self.sent.push((name, bytes));
            }
            "domain" => {
                let (name, domain) = rest.split_once(' ').context("a domain without a number")?;
                self.domains.insert(name.to_owned(), domain.parse()?);
            }
            "gone" => self.gone.push(rest.to_owned()),
            "error" => {
                self.error.get_or_insert_with(|| rest.to_owned());
            }
            "end" => self.end = Some(rest.parse()?),
            // `found` and `ready` are for people who look.
            _ => {}
        }
        Ok(())
    }

    /// Numbers that Xen gave to the guests.
    pub fn domains(&self) -> &BTreeMap<String, u32> {
        &self.domains
    }

    /// How far it was, for the message of a run that ends early.
    pub fn stage(&self) -> &'static str {
        match self.step {
            Step::Nothing => "dom0 did not come up",
            Step::Booted => "the Xen tools did not come up in dom0",
            Step::Tools => "dom0 was creating the guests",
            Step::Created => "the guests were booting",
            Step::Started => "the loads were running",
        }
    }

    /// Fails if Xen or dom0's kernel reported a fault, or dom0's init script an error.
    pub fn faultless(&self) -> Result<()> {
        let found = |(at, line): (usize, &String)| Some((at, judge(line)?));
        if let Some((at, cause)) = self.console.iter().enumerate().find_map(found) {
            let lines = &self.console[at.saturating_sub(8)..self.console.len().min(at + 36)];
            bail!("{cause}, when {}:\n{}", self.stage(), console::end(lines));
        }
        if let Some(error) = &self.error {
            bail!("in dom0: {error}{}", self.said());
        }
        Ok(())
    }

    /// Fails unless all guests ended as they should and all they sent has come.
    pub fn verdict(&self, guests: &[Guest], traces: &[Traced]) -> Result<()> {
        for guest in guests {
            let name = guest.name();
            if self.gone.iter().any(|gone| gone == name) {
                bail!(
                    "the guest {name} died, when {}. The end of its console:\n{}{}\nThe end of Xen's console:\n{}{}",
                    self.stage(),
                    guest.console_end(),
                    guest.said(),
                    self.console_end(),
                    self.said()
                );
            }
            let sent = match self.sent.iter().find(|(sent, _)| sent == name) {
                Some((_, sent)) => sent,
                None if self.ended() => bail!("dom0 did not tell how much it handed on of what {name} sent"),
                None => continue,
            };
            let mut received = guest.received();
            let port = guest_port(name, TRACE);
            for trace in traces.iter().filter(|trace| trace.port == port) {
                received.push(trace.file.len()?);
            }
            if *sent != received {
                bail!(
                    "of what the guest {name} sent some was lost: {sent:?} bytes left dom0, {received:?} came"
                );
            }
        }
        Ok(())
    }

    /// Whether its init script came to its end.
    pub fn ended(&self) -> bool {
        self.end == Some(0)
    }

    /// The end of the machine's console.
    pub fn console_end(&self) -> String {
        console::end(&self.console)
    }

    /// What the tools said, for the end of a message.
    pub fn said(&self) -> String {
        if self.said.is_empty() {
            return String::new();
        }
        format!("\nThe tools in dom0 said:\n{}", last_lines(&self.said.join("\n"), 20))
    }
}

impl Step {
    fn begins(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::Started => None,
            Self::Booted => Some("starting the Xen tools in dom0"),
            Self::Tools => Some("creating the guests"),
            Self::Created => Some("booting the guests"),
        }
    }
}

fn judge(line: &str) -> Option<&'static str> {
    SIGNS.iter().find(|(text, _)| line.contains(text)).map(|(_, cause)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dom0(lines: &[&str]) -> Dom0 {
        let mut dom0 = Dom0::new().expect("dom0");
        for line in lines {
            dom0.message(line).expect(line);
        }
        dom0
    }

    #[test]
    fn its_steps_are_understood() {
        let it = dom0(&[
            "ispin: boot",
            "ispin: tools",
            "ispin: domain g1 3",
            "ispin: created",
            "ispin: found g1",
            "ispin: start",
        ]);
        assert_eq!((it.step, it.ended()), (Step::Started, false));
        assert_eq!(it.domains()["g1"], 3);
        assert!(dom0(&["ispin: end 0"]).ended());
        assert!(!dom0(&["ispin: end 1"]).ended());
        let it = dom0(&["xl: no memory", "ispin: error xl could not create g2"]);
        let error = it.faultless().unwrap_err().to_string();
        assert!(error.contains("could not create g2") && error.contains("xl: no memory"), "{error}");
    }

    #[test]
    fn a_guest_that_died_or_lost_something_fails_the_run() {
        let guests = [Guest::new("g1", true, true).expect("guest")];
        assert!(dom0(&["ispin: gone g1"]).verdict(&guests, &[]).unwrap_err().to_string().contains("g1 died"));
        assert!(
            dom0(&["ispin: sent g1 0 7"]).verdict(&guests, &[]).unwrap_err().to_string().contains("lost")
        );
        dom0(&["ispin: sent g1 0 0"]).verdict(&guests, &[]).expect("nothing was lost");
        assert!(
            dom0(&["ispin: end 0"]).verdict(&guests, &[]).unwrap_err().to_string().contains("did not tell")
        );
    }

    #[test]
    fn faults_of_xen_and_of_dom0_are_told() {
        let mut it = dom0(&[]);
        it.console.push("(XEN) Panic on CPU 0:".into());
        assert!(
            it.faultless().unwrap_err().to_string().starts_with("Xen gave up, when dom0 did not come up")
        );
        let old = "(XEN) parameter \"ispin\" has invalid value \"adaptive\", rc=-22!";
        assert!(judge(old).is_some_and(|cause| cause.contains("command line")));
        assert_eq!(judge("[    1.0] systemd: Reached target"), None);
    }
}
