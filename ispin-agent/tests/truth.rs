//! `guest-patch/truth` and `xen-patch/truth`: their own tests, and the rule in them against the classifier over random
//! streams.
//!
//! It needs `python3` (3.11 or later) and nothing else. Without it these tests say that they were skipped, and fail where
//! `CI=true`.

mod guest_world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use guest_world::user::UserWorld;
use guest_world::{Lane, World};
use ispin_agent::model::{Hist, Losses, Snapshot, Source, TableRow, Vcpu, Vm};
use ispin_common::event::{Event, EventKind};
use ispin_common::guest::GuestTable;
use ispin_common::histogram::Histogram;
use ispin_common::table::Row;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

// Shared with the tests of the classifier, which use all of it.
#[allow(dead_code)]
#[path = "../../ispin-common/tests/model/stream.rs"]
mod stream;

/// Short, as the times of the streams are.
const CSD: u64 = 4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-patch/truth")
}

/// The interpreter, or nothing if this test is to be skipped.
fn python() -> Option<Command> {
    match Command::new("python3").arg("--version").output() {
        Ok(output) if output.status.success() => {
            let mut command = Command::new("python3");
            // No cache beside the sources.
            command.arg("-B");
            Some(command)
        }
        problem => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "CI must run this test, and it needs python3: {problem:?}"
            );
            eprintln!("skipped: no python3: {problem:?}");
            None
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs the tests in a folder of scripts, of which there must be some.
fn own_tests(folder: &Path, at_least: u32) {
    let Some(mut python) = python() else { return };
    let output = python.args(["-m", "unittest", "discover"]).current_dir(folder).output().expect("python3");
    let said = said(&output);
    assert!(output.status.success() && said.contains("\nOK\n"), "{said}");
    let ran = said.split("Ran ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    assert!(ran.parse::<u32>().is_ok_and(|n| n >= at_least), "{said}");
}

#[test]
fn its_own_tests() {
    own_tests(&folder(), 27);
}

#[test]
fn own_tests_of_the_comparison_with_xen() {
    own_tests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../xen-patch/truth"), 10);
}

/// What the classifier counts and what the script makes of the same events as the kernel would have traced them.
#[test]
fn its_rule_agrees_with_the_classifier() {
    if python().is_none() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (archive, record) = (dir.path().join("trace.tar"), dir.path().join("agent.jsonl"));
    let run = || {
        let mut python = python().expect("found above");
        python.arg(folder().join("truth.py")).args([&archive, &record, Path::new("--at-least=0")]);
        python.output().expect("python3")
    };
    let config = Config { cases: 8, max_shrink_iters: 30, failure_persistence: None, ..Config::default() };
    let (mut psp, mut unpaired) = (0, 0);
    let sums = std::cell::RefCell::new((&mut psp, &mut unpaired));
    TestRunner::new(config)
        .run(&cpus(), |cpus| {
            write_archive(&archive, &cpus);
            let mut snapshot = counted(&cpus);
            write_record(&record, &snapshot);
            let total = snapshot.vms[0].total().counters;
            *sums.borrow_mut().0 += total.psp();
            *sums.borrow_mut().1 += total.unpaired();
            let output = run();
            prop_assert_eq!(output.status.code(), Some(0), "{}", said(&output));

            snapshot.vms[0].vcpus[0].counters.lwp += 1;
            write_record(&record, &snapshot);
            let output = run();
            prop_assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            prop_assert!(said(&output).contains("cpu0 lwp"), "{}", said(&output));
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(psp > 100 && unpaired > 100, "{psp} PSPs and {unpaired} unpaired events: too tame");
}

/// The events of two CPUs, some streams after each other on each.
fn cpus() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let cpu = prop::collection::vec(stream::stream(), 4..8).prop_map(|streams| {
        let events = streams.into_iter().flatten().filter_map(|step| match step {
            // A lock has an address.
            stream::Step::Event(event, _) if event.lock != 0 => Some(event),
            _ => None,
        });
        events.collect::<Vec<_>>()
    });
    prop::collection::vec(cpu, 2)
}

/// What the agent would say of these events.
fn counted(cpus: &[Vec<Event>]) -> Snapshot {
    let mut world = UserWorld::new();
    world.set_csd(CSD);
    world.enable(true);
    for (cpu, events) in (0..).zip(cpus) {
        events.iter().for_each(|event| world.feed(event, cpu));
    }
    let lanes = world.lanes();
    let vcpus = (0..cpus.len() as u32).map(|id| {
        let mut vcpu = Vcpu { id, ..Vcpu::default() };
        for lane in lanes.iter().filter(|lane| lane.vcpu == id) {
            vcpu.counters.merge(lane.counters());
        }
        vcpu
    });
    let (mut hold, mut wait) = (Histogram::default(), Histogram::default());
    for lane in &lanes {
        hold.merge(&lane.counts.classifier.hold);
        wait.merge(&lane.counts.classifier.wait);
    }
    let evicted = |lane: &Lane| lane.counts.locks.evicted + lane.counts.callers.evicted;
    let losses = Losses { table_overflowed: lanes.iter().map(evicted).sum(), ..Losses::default() };
    let vm = Vm { vcpus: vcpus.collect(), hold: Hist::from(&hold), wait: Hist::from(&wait), ..Vm::default() };
    Snapshot {
        seq: 1,
        source: Source { kind: "guest".into(), csd: CSD, ..Source::default() },
        vms: vec![vm],
        locks: rows(&lanes, |lane| &lane.counts.locks),
        callers: rows(&lanes, |lane| &lane.counts.callers),
        losses,
        ..Snapshot::default()
    }
}

fn rows(lanes: &[Lane], table: fn(&Lane) -> &GuestTable) -> Vec<TableRow> {
    let mut sums: BTreeMap<u64, Row> = BTreeMap::new();
    for lane in lanes {
        for row in guest_world::rows(table(lane)).iter().chain([table(lane).others()]) {
            sums.entry(row.key).and_modify(|sum| sum.merge(row)).or_insert(*row);
        }
    }
    sums.values().map(|row| TableRow::new(format!("{:#x}", row.key), row)).collect()
}

fn write_record(path: &Path, snapshot: &Snapshot) {
    let line = serde_json::to_string(snapshot).expect("JSON") + "\n";
    std::fs::write(path, line).expect("a record");
}

const HEADER_PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
";

/// Events as the kernel's ring buffer holds them, in an archive as `ispin-load trace-dump` makes it.
fn write_archive(path: &Path, cpus: &[Vec<Event>]) {
    let mut archive = tar::Builder::new(std::fs::File::create(path).expect("an archive"));
    let mut put = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content).expect("a member");
    };
    put("events/header_page", HEADER_PAGE.as_bytes());
    for (name, id) in ["take", "acquire", "release", "incapable"].iter().zip(500..) {
        put(&format!("events/ispinlock/ispin_{name}/format"), format(name, id).as_bytes());
    }
    for (cpu, events) in cpus.iter().enumerate() {
        put(
            &format!("per_cpu/cpu{cpu}/stats"),
            format!("entries: {}\noverrun: 0\n", events.len()).as_bytes(),
        );
        let pages: Vec<u8> = events.chunks(40).flat_map(page).collect();
        put(&format!("per_cpu/cpu{cpu}/trace_pipe_raw.00000"), &pages);
    }
    archive.into_inner().expect("an archive");
}

/// Names of the fields in the order of the kernel's entry, and their sizes.
const FIELDS: [(&str, usize); 10] = [
    ("lock", 8),
    ("ip", 8),
    ("ids", 8),
    ("tsc", 8),
    ("cap", 8),
    ("start", 8),
    ("off", 8),
    ("ticket", 4),
    ("lql", 4),
    ("ctx", 4),
];

fn format(name: &str, id: u32) -> String {
    let mut text = format!("name: ispin_{name}\nID: {id}\nformat:\n");
    text += "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n";
    let mut offset = 8;
    for (field, size) in FIELDS {
        let (kind, signed) = if field == "cap" { ("s64", 1) } else { ("u64", 0) };
        text += &format!("\tfield:{kind} {field};\toffset:{offset};\tsize:{size};\tsigned:{signed};\n");
        offset += size;
    }
    text
}

fn page(events: &[Event]) -> Vec<u8> {
    let entries: Vec<u8> = events.iter().flat_map(entry).collect();
    let mut page: Vec<u8> = [7u64, entries.len() as u64].iter().flat_map(|n| n.to_le_bytes()).collect();
    page.extend(entries);
    page.resize(4096, 0);
    page
}

fn entry(event: &Event) -> Vec<u8> {
    let id: u16 = match event.kind {
        EventKind::Take => 500,
        EventKind::Acquire => 501,
        EventKind::Release => 502,
        EventKind::Incapable => 503,
    };
    let mut data = id.to_le_bytes().to_vec();
    data.resize(8, 0);
    let words =
        [event.lock, event.ip, event.ids.0, event.tsc, event.cap as u64, event.start, event.off].into_iter();
    data.extend(words.flat_map(u64::to_le_bytes));
    data.extend([event.ticket, event.lql, event.ctx.0 as u32].into_iter().flat_map(u32::to_le_bytes));
    let header = (data.len() / 4) as u32 | 1 << 5;
    [header.to_le_bytes().to_vec(), data].concat()
}
