//! Scenario files: what happens in a guest, and what must be counted. `tests/scenarios/README.md` describes
//! the format.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use ispin_common::counters::Counters;
use ispin_common::event::{EventKind, Level};
use ispin_common::incident::Incident;
use serde::Deserialize;
use toml::Spanned;

/// A scenario.
pub struct Scenario {
    /// Where it stands.
    pub file: PathBuf,
    /// What it shows.
    pub title: String,
    /// Addresses of locks that must have certain ones.
    pub locks: BTreeMap<String, u64>,
    /// Critical section duration estimate; 0 = not known.
    pub csd: u64,
    /// What happens, repetitions written out.
    pub steps: Vec<Step>,
    /// What must be counted, by vCPU and level.
    pub expect: BTreeMap<(u32, u32), Expect>,
}

/// Something that happens.
pub struct Step {
    pub vcpu: u32,
    pub action: Action,
}

/// What happens.
pub enum Action {
    Event(EventStep),
    /// Off its pCPU from the first moment to the second; back in a new quantum, or in the same.
    Away {
        from: u64,
        to: u64,
        same_quantum: bool,
    },
    /// A new quantum without leaving.
    Renew,
    /// The hypervisor publishes for this vCPU, or stops to.
    Publish(bool),
    /// The programs look at events, or stop to.
    Enable(bool),
}

/// One of the four events; what is `None` follows from what happened before.
pub struct EventStep {
    pub kind: EventKind,
    pub lock: String,
    pub caller: Option<String>,
    pub at: u64,
    pub level: Level,
    pub lql: u32,
    pub cap: i64,
    pub trylock: bool,
    pub blocked: bool,
    pub expired: bool,
    pub nested: bool,
    pub early: bool,
    pub ticket: Option<u32>,
    pub off: Option<u64>,
}

/// What one vCPU must have counted at one level. What is not named must be zero.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// All incidents, in order; or only how many.
    #[serde(default)]
    pub incidents: Incidents,
    /// Counts by bucket.
    #[serde(default)]
    pub hold: BTreeMap<usize, u64>,
    #[serde(default)]
    pub wait: BTreeMap<usize, u64>,
    /// Episodes still open.
    #[serde(default)]
    pub open: usize,
    /// Rows by lock; not looked at if left out.
    pub locks: Option<BTreeMap<String, BTreeMap<String, u64>>>,
    /// Rows by caller; not looked at if left out.
    pub callers: Option<BTreeMap<String, BTreeMap<String, u64>>>,
    /// Locks whose row had to go.
    #[serde(default)]
    pub table_overflowed: u64,
}

/// Expected incidents.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Incidents {
    Number(usize),
    Each(Vec<BTreeMap<String, toml::Value>>),
}

impl Default for Incidents {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// Names of the columns of a row, in the order of `play::row_values`.
pub const ROW_COLUMNS: [&str; 10] = [
    "acquires",
    "contended",
    "deferrals",
    "wait_cycles",
    "spin_cycles",
    "hold_cycles",
    "lhp",
    "lwp",
    "lwp_harmful",
    "idle_cycles",
];

/// What may be said of an incident.
pub const INCIDENT_FIELDS: [&str; 11] =
    ["kind", "reason", "flags", "lock", "seq", "from", "to", "off", "lost", "lql", "cap"];

/// Names of an incident's marks.
pub const FLAGS: [(&str, u8); 3] =
    [("preempted", Incident::PREEMPTED), ("blocked", Incident::BLOCKED), ("harmful", Incident::HARMFUL)];

const LEVELS: [(&str, Level); 4] =
    [("task", Level::Task), ("softirq", Level::Softirq), ("hardirq", Level::Hardirq), ("nmi", Level::Nmi)];

/// What is wrong with a scenario file, and where.
#[derive(Debug)]
pub struct Bad {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    #[serde(default)]
    locks: BTreeMap<String, u64>,
    #[serde(default)]
    csd: u64,
    steps: Vec<Spanned<RawStep>>,
    expect: BTreeMap<String, BTreeMap<String, Spanned<Expect>>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    take: Option<String>,
    acquire: Option<String>,
    r#try: Option<String>,
    release: Option<String>,
    incapable: Option<String>,
    away: Option<[u64; 2]>,
    stay: Option<[u64; 2]>,
    renew: Option<bool>,
    publish: Option<bool>,
    enable: Option<bool>,
    repeat: Option<u64>,

    #[serde(default)]
    vcpu: u32,
    at: Option<u64>,
    level: Option<String>,
    caller: Option<String>,
    lql: Option<u32>,
    cap: Option<i64>,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    expired: bool,
    #[serde(default)]
    nested: bool,
    #[serde(default)]
    early: bool,
    ticket: Option<u32>,
    off: Option<u64>,
    every: Option<u64>,
    #[serde(default)]
    steps: Vec<Spanned<RawStep>>,
}

impl Scenario {
    /// Reads a scenario file.
    pub fn read(file: &Path) -> Result<Self, Bad> {
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(file, &text),
            Err(e) => Err(Bad { file: file.into(), line: 0, what: e.to_string() }),
        }
    }

    /// Reads a scenario from text.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Bad> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let bad = |at: usize, what: String| Bad { file: file.into(), line: line_of(at), what };
        let raw: File = toml::from_str(text)
            .map_err(|e| bad(e.span().map_or(0, |span| span.start), e.message().to_owned()))?;

        let mut steps = vec![];
        write_out(&raw.steps, 0, &mut |step, shift| {
            let at = step.span().start;
            let vcpu = step.get_ref().vcpu;
            let action = action(step.get_ref(), shift).map_err(|what| bad(at, what))?;
            steps.push(Step { vcpu, action });
            Ok(())
        })?;
        if steps.is_empty() {
            return Err(bad(0, "nothing happens: `steps` is empty".into()));
        }

        let mut expect = BTreeMap::new();
        for (vcpu, levels) in raw.expect {
            for (level, block) in levels {
                let at = block.span().start;
                let number: u32 = vcpu.parse().map_err(|_| bad(at, format!("`{vcpu}` is no vCPU number")))?;
                let level = level_of(&level).map_err(|what| bad(at, what))?;
                let block = block.into_inner();
                block.check().map_err(|what| bad(at, what))?;
                expect.insert((number, level as u32), block);
            }
        }
        Ok(Self { file: file.into(), title: raw.title, locks: raw.locks, csd: raw.csd, steps, expect })
    }

    /// Highest vCPU number that is used, plus one.
    pub fn vcpus(&self) -> usize {
        self.steps.iter().map(|step| step.vcpu as usize + 1).max().unwrap_or(0)
    }
}

type Each<'a> = dyn FnMut(&Spanned<RawStep>, u64) -> Result<(), Bad> + 'a;

/// Hands over every step with the time that its repetition shifts it by.
fn write_out(steps: &[Spanned<RawStep>], shift: u64, each: &mut Each) -> Result<(), Bad> {
    for step in steps {
        match step.get_ref() {
            RawStep { repeat: Some(times), every: Some(every), steps, .. } if !steps.is_empty() => {
                for i in 0..*times {
                    write_out(steps, shift + i * every, each)?;
                }
            }
            _ => each(step, shift)?,
        }
    }
    Ok(())
}

fn action(raw: &RawStep, shift: u64) -> Result<Action, String> {
    let events = [
        (&raw.take, EventKind::Take),
        (&raw.acquire, EventKind::Acquire),
        (&raw.r#try, EventKind::Acquire),
        (&raw.release, EventKind::Release),
        (&raw.incapable, EventKind::Incapable),
    ];
    let mut actions: Vec<Action> = vec![];
    for (lock, kind) in events {
        if let Some(lock) = lock {
            actions.push(Action::Event(event(raw, lock, kind, shift)?));
        }
    }
    for (times, same_quantum) in [(raw.away, false), (raw.stay, true)] {
        if let Some([from, to]) = times {
            if from >= to {
                return Err(format!("it leaves at {from} and is back at {to}"));
            }
            actions.push(Action::Away { from: from + shift, to: to + shift, same_quantum });
        }
    }
    actions.extend(raw.renew.filter(|&renew| renew).map(|_| Action::Renew));
    actions.extend(raw.publish.map(Action::Publish));
    actions.extend(raw.enable.map(Action::Enable));
    let one = "take, acquire, try, release, incapable, away, stay, renew, publish, enable";
    match (actions.pop(), actions.is_empty(), raw.repeat) {
        (Some(action), true, None) => Ok(action),
        (_, _, Some(_)) => Err("a repetition needs `every` and `steps`, and nothing else".into()),
        (None, ..) => Err(format!("says nothing that happens: give one of {one}")),
        (Some(_), ..) => Err(format!("says more than one thing that happens: give one of {one}")),
    }
}

fn event(raw: &RawStep, lock: &str, kind: EventKind, shift: u64) -> Result<EventStep, String> {
    let level = raw.level.as_deref().map_or(Ok(Level::Task), level_of)?;
    Ok(EventStep {
        kind,
        lock: lock.into(),
        caller: raw.caller.clone(),
        at: raw.at.ok_or("an event needs a time: `at`")? + shift,
        level,
        lql: raw.lql.unwrap_or(0),
        cap: raw.cap.unwrap_or(0),
        trylock: raw.r#try.is_some(),
        blocked: raw.blocked,
        expired: raw.expired,
        nested: raw.nested,
        early: raw.early,
        ticket: raw.ticket,
        off: raw.off,
    })
}

fn level_of(name: &str) -> Result<Level, String> {
    let known = LEVELS.iter().find(|(known, _)| *known == name);
    known.map(|(_, level)| *level).ok_or_else(|| {
        let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
        format!("`{name}` is no level: give one of {}", names.join(", "))
    })
}

impl Expect {
    fn check(&self) -> Result<(), String> {
        for name in self.counters.keys() {
            if !Counters::NAMES.contains(&name.as_str()) {
                return Err(format!("`{name}` is no counter"));
            }
        }
        for row in [&self.locks, &self.callers].into_iter().flatten().flat_map(|rows| rows.values()) {
            if let Some(name) = row.keys().find(|name| !ROW_COLUMNS.contains(&name.as_str())) {
                return Err(format!("`{name}` is no column of a row"));
            }
        }
        if let Incidents::Each(list) = &self.incidents {
            for (name, value) in list.iter().flatten() {
                if !INCIDENT_FIELDS.contains(&name.as_str()) {
                    return Err(format!("`{name}` cannot be said of an incident"));
                }
                let flags = value.as_array().into_iter().flatten();
                for flag in flags.map(|flag| flag.as_str().unwrap_or_default()) {
                    if !FLAGS.iter().any(|(known, _)| *known == flag) {
                        return Err(format!("`{flag}` is no mark of an incident"));
                    }
                }
            }
        }
        Ok(())
    }
}
