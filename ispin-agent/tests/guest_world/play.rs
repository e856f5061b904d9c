//! Plays a scenario in a world, and compares what was counted with what was expected.

use std::collections::{BTreeMap, HashMap};

use ispin_common::counters::Counters;
use ispin_common::event::{Ctx, Event, EventKind};
use ispin_common::guest::GuestTable;
use ispin_common::histogram::Histogram;
use ispin_common::incident::{Incident, PspKind};
use ispin_common::slot::Ids;
use ispin_common::table::Row;

use super::scenario::{Action, EventStep, Expect, FLAGS, Incidents, ROW_COLUMNS, Scenario};
use super::{Lane, World, rows};

/// Addresses that locks and callers get unless the scenario says which.
const FIRST_LOCK: u64 = 0xffff_8880_0123_4000;
const FIRST_CALLER: u64 = 0xffff_ffff_8110_0000;

/// The hypervisor and the locks, as far as events tell of them.
#[derive(Default)]
pub struct Stage {
    vcpus: BTreeMap<u32, VcpuState>,
    tickets: HashMap<String, u32>,
    /// Ticket of the attempt that a vCPU makes at a lock, by level.
    mine: HashMap<(u32, u32, String), u32>,
    locks: BTreeMap<String, u64>,
    callers: BTreeMap<String, u64>,
}

struct VcpuState {
    ids: Ids,
    start: u64,
    published: bool,
    /// Time away so far, and at the previous event of each lock and level.
    away: u64,
    away_at: HashMap<(u32, String), u64>,
}

impl Default for VcpuState {
    fn default() -> Self {
        let ids = Ids::UNPUBLISHED.next_dispatch();
        Self { ids, start: 0, published: true, away: 0, away_at: HashMap::new() }
    }
}

/// Plays the scenario; every difference to what it expects, in words.
pub fn play(scenario: &Scenario, world: &mut dyn World) -> Vec<String> {
    let stage = perform(scenario, world);
    stage.compare(scenario, &world.lanes(), &world.take_incidents())
}

/// Lets happen what the scenario says.
pub fn perform(scenario: &Scenario, world: &mut dyn World) -> Stage {
    let mut stage = Stage { locks: scenario.locks.clone(), ..Stage::default() };
    // Unless the scenario itself says when observation begins.
    let starts_itself = scenario.steps.iter().any(|step| matches!(step.action, Action::Enable(true)));
    world.set_csd(scenario.csd);
    world.enable(!starts_itself);
    for step in &scenario.steps {
        let vcpu = stage.vcpus.entry(step.vcpu).or_default();
        match &step.action {
            Action::Away { from, to, same_quantum } => {
                vcpu.away += to - from;
                vcpu.start = *to;
                let out = vcpu.ids.switched_out();
                vcpu.ids = if *same_quantum { out.next_stay() } else { out.next_dispatch() };
            }
            Action::Renew => vcpu.ids = vcpu.ids.next_renewal(),
            Action::Publish(published) => vcpu.published = *published,
            Action::Enable(enabled) => world.enable(*enabled),
            Action::Event(event) => {
                let event = stage.event(event, step.vcpu);
                world.feed(&event, step.vcpu);
            }
        }
    }
    stage
}

impl Stage {
    fn event(&mut self, step: &EventStep, vcpu: u32) -> Event {
        let level = step.level as u32;
        let lock = address(&mut self.locks, &step.lock, FIRST_LOCK, 64);
        let ip = address(&mut self.callers, step.caller.as_deref().unwrap_or("main"), FIRST_CALLER, 16);
        let mine = (vcpu, level, step.lock.clone());
        let takes = step.kind == EventKind::Take || step.trylock;
        let ticket = match step.ticket {
            Some(ticket) => ticket,
            None if takes => {
                let next = self.tickets.entry(step.lock.clone()).or_default();
                *next += 1;
                *next
            }
            None if step.kind == EventKind::Incapable => 0,
            None => self.mine.get(&mine).copied().unwrap_or(0),
        };
        if takes {
            self.mine.insert(mine, ticket);
        }
        let vcpu = self.vcpus.entry(vcpu).or_default();
        let before = vcpu.away_at.insert((level, step.lock.clone()), vcpu.away);
        let off = vcpu.away - before.unwrap_or(vcpu.away);
        let marks = [
            (step.trylock, Ctx::TRYLOCK),
            (step.blocked, Ctx::BLOCKED),
            (step.expired, Ctx::EXPIRED),
            (step.nested, Ctx::NESTED),
            (step.early, Ctx::EARLY),
        ];
        let marks: u64 = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| mark).sum();
        Event {
            kind: step.kind,
            lock,
            ip,
            ticket,
            lql: step.lql,
            ids: if vcpu.published { vcpu.ids } else { Ids::UNPUBLISHED },
            tsc: step.at,
            cap: step.cap,
            ctx: Ctx(u64::from(level) | marks),
            start: vcpu.start,
            off: step.off.unwrap_or(off),
        }
    }

    fn compare(&self, scenario: &Scenario, lanes: &[Lane], incidents: &[Incident]) -> Vec<String> {
        let mut wrong = vec![];
        for lane in lanes {
            if !scenario.expect.contains_key(&(lane.vcpu, lane.level)) {
                wrong.push(format!(
                    "events on vCPU {} at level {}, where none are expected",
                    lane.vcpu, lane.level
                ));
            }
        }
        for (&(vcpu, level), expect) in &scenario.expect {
            let Some(lane) = lanes.iter().find(|lane| (lane.vcpu, lane.level) == (vcpu, level)) else {
                wrong.push(format!("no event on vCPU {vcpu} at level {level}"));
                continue;
            };
            let here: Vec<&Incident> =
                incidents.iter().filter(|i| (i.vcpu, u32::from(i.level)) == (vcpu, level)).collect();
            let found = self.lane(expect, lane, &here);
            wrong.extend(found.into_iter().map(|what| format!("vCPU {vcpu} level {level}: {what}")));
        }
        wrong
    }

    fn lane(&self, expect: &Expect, lane: &Lane, incidents: &[&Incident]) -> Vec<String> {
        let mut wrong = vec![];
        let mut check = |what: String, got: u64, want: u64| {
            if got != want {
                wrong.push(format!("{what} is {got}, expected {want}"));
            }
        };
        let classifier = &lane.counts.classifier;
        for (name, got) in Counters::NAMES.iter().zip(lane.counters().values()) {
            check((*name).into(), got, expect.counters.get(*name).copied().unwrap_or(0));
        }
        check("open".into(), classifier.open() as u64, expect.open as u64);
        check("table_overflowed".into(), lane.counts.locks.evicted, expect.table_overflowed);
        let histograms: [(_, &Histogram, _); 2] =
            [("hold", &classifier.hold, &expect.hold), ("wait", &classifier.wait, &expect.wait)];
        for (what, histogram, want) in histograms {
            for (i, &got) in histogram.buckets.iter().enumerate() {
                check(format!("{what} bucket {i}"), got, want.get(&i).copied().unwrap_or(0));
            }
        }
        for (what, table, want, known) in [
            ("lock", &lane.counts.locks, &expect.locks, &self.locks),
            ("caller", &lane.counts.callers, &expect.callers, &self.callers),
        ] {
            if let Some(want) = want {
                wrong.extend(compare_rows(what, table, want, known));
            }
        }
        match &expect.incidents {
            Incidents::Number(want) if *want == incidents.len() => {}
            Incidents::Each(want) if want.len() == incidents.len() => {
                for (i, (want, got)) in want.iter().zip(incidents).enumerate() {
                    wrong.extend(
                        self.incident(want, got).into_iter().map(|what| format!("incident {i}: {what}")),
                    );
                }
            }
            Incidents::Number(want) => wrong.push(format!("{} incidents, expected {want}", incidents.len())),
            Incidents::Each(want) => wrong.push(format!("{incidents:#?}, expected {}", want.len())),
        }
        wrong
    }

    fn incident(&self, want: &BTreeMap<String, toml::Value>, got: &Incident) -> Vec<String> {
        let flags = FLAGS.iter().filter(|(_, flag)| got.flags & flag != 0).map(|(name, _)| (*name).into());
        let lock = self.locks.iter().find(|&(_, &address)| address == got.lock).map(|(name, _)| name.clone());
        let value = |name: &str| -> toml::Value {
            let number = match name {
                "kind" if got.kind == PspKind::Lhp as u8 => return "lhp".into(),
                "kind" => return "lwp".into(),
                "reason" => return got.reason().map_or("none", |reason| reason.name()).into(),
                "flags" => return toml::Value::Array(flags.clone().collect()),
                "lock" => return lock.clone().unwrap_or_default().into(),
                "seq" => i64::from(got.seq),
                "from" => got.from_tsc as i64,
                "to" => got.to_tsc as i64,
                "off" => got.off as i64,
                "lost" => got.lost as i64,
                "lql" => i64::from(got.lql),
                "cap" => got.cap,
                other => unreachable!("the scenario was checked, but `{other}` got through"),
            };
            number.into()
        };
        let differ = want.iter().filter(|(name, want)| value(name) != **want);
        differ.map(|(name, want)| format!("{name} is {}, expected {want}", value(name))).collect()
    }
}

/// The address of a name, a new one at its first use.
fn address(known: &mut BTreeMap<String, u64>, name: &str, first: u64, stride: u64) -> u64 {
    let next = first + stride * known.len() as u64;
    *known.entry(name.into()).or_insert(next)
}

fn row_values(row: &Row) -> [u64; ROW_COLUMNS.len()] {
    [
        row.acquires,
        row.contended,
        row.deferrals,
        row.wait_cycles,
        row.spin_cycles,
        row.hold_cycles,
        row.lhp,
        row.lwp,
        row.lwp_harmful,
        row.idle_cycles,
    ]
}

fn compare_rows(
    what: &str,
    table: &GuestTable,
    want: &BTreeMap<String, BTreeMap<String, u64>>,
    known: &BTreeMap<String, u64>,
) -> Vec<String> {
    let mut wrong = vec![];
    let mut got = rows(table);
    if *table.others() != Row::EMPTY {
        got.push(*table.others());
    }
    if got.len() != want.len() {
        wrong.push(format!("{} {what} rows, expected {}", got.len(), want.len()));
    }
    for (name, columns) in want {
        let address = if name == "others" { Some(&0) } else { known.get(name) };
        let row = address.and_then(|address| got.iter().find(|row| row.key == *address));
        let Some(row) = row else {
            wrong.push(format!("no row of {what} {name}"));
            continue;
        };
        for (column, got) in ROW_COLUMNS.iter().zip(row_values(row)) {
            let want = columns.get(*column).copied().unwrap_or(0);
            if got != want {
                wrong.push(format!("{what} {name}: {column} is {got}, expected {want}"));
            }
        }
    }
    wrong
}
