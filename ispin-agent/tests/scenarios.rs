//! Scenario files, and random streams, through the classifier in user space and through the eBPF programs in
//! this kernel: both must give the expected answers, to the digit.
//!
//! Loading programs needs privileges. Without them the tests that do so say that they were skipped, and fail
//! where `CI=true`.

mod guest_world;

use std::path::{Path, PathBuf};

use guest_world::bytecode::BytecodeWorld;
use guest_world::kernel::KernelWorld;
use guest_world::play::{perform, play};
use guest_world::scenario::Scenario;
use guest_world::user::UserWorld;
use guest_world::{World, differences};
use ispin_agent::source::Source;
use ispin_agent::source::guest::GuestSource;
use ispin_common::event::{Event, EventKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

// Shared with the tests of the classifier, which use all of it.
#[allow(dead_code)]
#[path = "../../ispin-common/tests/model/stream.rs"]
mod stream;

fn scenario(name: &str) -> Scenario {
    let file = files().into_iter().find(|file| file.ends_with(name)).unwrap_or_else(|| panic!("no {name}"));
    Scenario::read(&file).unwrap_or_else(|bad| panic!("{bad}"))
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "{} holds {} scenarios", dir.display(), files.len());
    files
}

/// Plays every file in worlds that `world` makes; fails with all that was wrong.
fn play_all(mut world: impl FnMut(&Scenario) -> Option<Box<dyn World>>) {
    let mut wrong = vec![];
    for file in files() {
        let scenario = Scenario::read(&file).unwrap_or_else(|bad| panic!("{bad}"));
        let Some(mut world) = world(&scenario) else { continue };
        let found = play(&scenario, &mut *world);
        if !found.is_empty() {
            wrong.push(format!("{} ({})\n  {}", file.display(), scenario.title, found.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Says that something was skipped and why; fails where everything must run.
fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot be skipped with CI=true: {why}");
    eprintln!("skipped: {why}");
}

fn kernel_available() -> bool {
    match KernelWorld::unavailable() {
        Some(why) => {
            skip(&why);
            false
        }
        None => true,
    }
}

#[test]
fn scenarios_in_user_space() {
    play_all(|_| Some(Box::new(UserWorld::new())));
}

#[test]
fn scenarios_in_the_interpreter() {
    play_all(|scenario| Some(Box::new(BytecodeWorld::new(scenario.vcpus() as u32))));
}

#[test]
fn scenarios_in_the_kernel() {
    if !kernel_available() {
        return;
    }
    play_all(|scenario| {
        let world = KernelWorld::new();
        if world.vcpus() < scenario.vcpus() {
            let file = scenario.file.display();
            skip(&format!("{file} needs {} CPUs, this machine has {}", scenario.vcpus(), world.vcpus()));
            return None;
        }
        Some(Box::new(world))
    });
}

#[test]
fn a_bad_scenario_is_told_by_file_and_line() {
    let good =
        "title = 't'\nsteps = [\n  { take = 'A', at = 1 },\n]\n[expect.0.task]\ncounters = { takes = 1 }\n";
    let parse =
        |text: &str| Scenario::parse(Path::new("dir/some.toml"), text).map(|_| ()).map_err(|e| e.to_string());
    assert_eq!(parse(good), Ok(()));
    for (from, to, line, what) in [
        ("take = 'A', at = 1", "take = 'A'", 3, "`at`"),
        ("take = 'A', at = 1", "taek = 'A', at = 1", 3, "taek"),
        ("take = 'A', at = 1", "at = 1", 3, "nothing that happens"),
        ("take = 'A', at = 1", "take = 'A', release = 'A', at = 1", 3, "more than one"),
        ("take = 'A', at = 1", "take = 'A', at = -1", 3, "-1"),
        ("take = 'A', at = 1", "take = 'A', at = 1, level = 'irq'", 3, "`irq`"),
        ("take = 'A', at = 1", "away = [5, 5]", 3, "leaves at 5"),
        ("take = 'A', at = 1", "repeat = 5, steps = [{ renew = true }]", 3, "`every`"),
        ("  { take = 'A', at = 1 },\n", "", 1, "nothing happens"),
        ("{ takes = 1 }", "{ taken = 1 }", 5, "`taken`"),
        ("expect.0.task", "expect.zero.task", 5, "`zero`"),
        ("expect.0.task", "expect.0.tasks", 5, "`tasks`"),
        ("counters = { takes = 1 }", "incidents = [{ flags = ['lost'] }]", 5, "`lost`"),
        ("counters = { takes = 1 }", "incidents = [{ colour = 'red' }]", 5, "`colour`"),
        ("counters = { takes = 1 }", "locks = { A = { psp = 1 } }", 5, "`psp`"),
        ("title = 't'\n", "title = 't\n", 1, "string"),
    ] {
        let error = parse(&good.replace(from, to)).expect_err(to);
        assert!(
            error.starts_with(&format!("dir/some.toml:{line}: ")) && error.contains(what),
            "{to}: {error}"
        );
    }
    let missing = Scenario::read(Path::new("dir/none.toml")).map(|_| ()).map_err(|e| e.to_string());
    assert!(missing.is_err_and(|e| e.starts_with("dir/none.toml")));
}

/// A scenario with a wrong expectation fails, in either world.
#[test]
fn wrong_expectations_are_noticed() {
    let file = scenario("nesting.toml").file;
    let text = std::fs::read_to_string(file).expect("a readable scenario");
    let changed = text.replace("acquires = ", "acquires = 1");
    assert_ne!(text, changed);
    let scenario = Scenario::parse(Path::new("changed.toml"), &changed).unwrap_or_else(|bad| panic!("{bad}"));
    assert!(play(&scenario, &mut UserWorld::new()).iter().any(|what| what.contains("acquires")));
}

/// Random events on some vCPUs and levels, tickets counted up as a lock does.
fn events(vcpus: u32) -> impl Strategy<Value = Vec<(u32, Event)>> {
    let lane = (0..vcpus, stream::stream());
    (prop::collection::vec(lane, 1..4), any::<u64>()).prop_map(|(lanes, mut turns)| {
        let mut lanes: Vec<_> = lanes
            .into_iter()
            .map(|(vcpu, steps)| {
                let events = steps.into_iter().filter_map(|step| match step {
                    stream::Step::Event(event, _) => Some(event),
                    stream::Step::SkipSeq(_) | stream::Step::Flush | stream::Step::Csd(_) => None,
                });
                (vcpu, events.collect::<Vec<_>>().into_iter())
            })
            .collect();
        let mut tickets = std::collections::HashMap::new();
        let mut mixed = vec![];
        while !lanes.is_empty() {
            turns = turns.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (turns >> 33) as usize % lanes.len();
            let vcpu = lanes[at].0;
            match lanes[at].1.next() {
                Some(mut event) => {
                    let ticket = tickets.entry(event.lock).or_insert(0u32);
                    *ticket += u32::from(event.kind == EventKind::Take);
                    event.ticket = *ticket;
                    mixed.push((vcpu, event));
                }
                None => drop(lanes.remove(at)),
            }
        }
        mixed
    })
}

#[test]
fn random_streams_in_both() {
    if !kernel_available() {
        return;
    }
    let kernel = std::cell::RefCell::new(KernelWorld::new());
    let vcpus = kernel.borrow().vcpus().min(2) as u32;
    let config = Config { cases: 100, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let (mut all, mut harmful, mut psp) = (0, 0, 0);
    let sums = std::cell::RefCell::new((&mut all, &mut harmful, &mut psp));
    TestRunner::new(config)
        .run(&events(vcpus), |events| {
            let (mut user, mut kernel) = (UserWorld::new(), kernel.borrow_mut());
            kernel.clear();
            for world in [&mut user as &mut dyn World, &mut *kernel] {
                world.set_csd(4);
                world.enable(true);
                events.iter().for_each(|(vcpu, event)| world.feed(event, *vcpu));
            }
            let mut sums = sums.borrow_mut();
            *sums.0 += events.len() as u64;
            for lane in user.lanes() {
                *sums.1 += lane.counters().lwp_harmful;
                *sums.2 += lane.counters().psp();
            }
            let found = differences(&mut user, &mut *kernel);
            prop_assert!(found.is_empty(), "{}", found.join("\n"));
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(harmful > 10 && psp > 100, "{all} events with {psp} PSPs, {harmful} of them harmful: too tame");
}

/// The comparison of the two worlds notices a single event more.
#[test]
fn differences_are_noticed() {
    let scenario = scenario("nesting.toml");
    let (mut a, mut b) = (UserWorld::new(), UserWorld::new());
    play(&scenario, &mut a);
    play(&scenario, &mut b);
    assert_eq!(differences(&mut a, &mut b), Vec::<String>::new());
    b.feed(&Event::from_args(EventKind::Release, &[0x40, 1, 1, 0, 0, 9_999, 0, 0, 0, 0]), 0);
    assert!(!differences(&mut a, &mut b).is_empty());
}

/// What the programs counted, as the snapshot that sinks and screen get.
#[test]
fn snapshot_of_what_the_programs_counted() {
    if !kernel_available() {
        return;
    }
    let mut world = KernelWorld::new();
    perform(&scenario("holder_preempted.toml"), &mut world);
    let mut source = GuestSource::over(world.into_programs()).unwrap_or_else(|e| panic!("{e:#}"));
    let snapshot = source.sample().unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(
        (snapshot.seq, snapshot.source.kind.as_str(), snapshot.source.time_unit.as_str()),
        (1, "guest", "tsc")
    );
    let [vm] = &snapshot.vms[..] else { panic!("{} VMs", snapshot.vms.len()) };
    assert!(!vm.name.is_empty());
    let total = vm.total();
    assert_eq!((total.counters.takes, total.counters.lhp, total.counters.hold_cycles), (1, 1, 8_040));
    assert_eq!((total.slices, total.dispatches), (2, 2));
    assert_eq!((vm.hold.get(12), vm.hold.count(), vm.wait.count()), (1, 1, 1));
    let [incident] = &snapshot.incidents[..] else { panic!("{:?}", snapshot.incidents) };
    assert_eq!((incident.kind.as_str(), incident.preempted, incident.off), ("lhp", true, 7_800));
    assert_eq!((incident.from, incident.to, incident.back), (1_010, 9_050, 9_000));
    let [lock] = &snapshot.locks[..] else { panic!("{:?}", snapshot.locks) };
    // Who took it is some function of this kernel.
    assert!(lock.name.ends_with("0xffff888001234000"), "{}", lock.name);
    assert_eq!((lock.key, lock.lhp, lock.hold_cycles), (0xffff_8880_0123_4000, 1, 8_040));
    assert_eq!(snapshot.callers.len(), 1);
    assert_eq!(snapshot.losses.total(), 0);

    let next = source.sample().unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(next.seq, 2);
    assert!(next.incidents.is_empty(), "an incident is shown once");
    assert_eq!(next.vms[0].total().counters, total.counters);
}

/// A stock kernel has no such tracepoints, and the error says what would bring them.
#[test]
fn attaching_needs_the_guest_patch() {
    if !kernel_available() {
        return;
    }
    match GuestSource::open() {
        Ok(_) => eprintln!("this kernel has the tracepoints"),
        Err(e) => {
            let error = format!("{e:#}");
            assert!(error.contains("ispin_take") && error.contains("CONFIG_ISPINLOCK"), "{error}");
        }
    }
}
