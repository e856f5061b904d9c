//! The run loop, with a source and sinks that tell what they saw.

mod common;

use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};
use common::{FakeSource, run_of, snapshot};
use ispin_agent::command::{Child, Output};
use ispin_agent::model::Snapshot;
use ispin_agent::run::{End, Options, Outcome, run};
use ispin_agent::signals::Signals;
use ispin_agent::sink::Sink;

/// Signals concern the whole process: tests that run at the same time would see each other's.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<Snapshot>>>);

impl Collected {
    fn snapshots(&self) -> Vec<Snapshot> {
        self.0.lock().expect("lock").clone()
    }
}

/// Collects, and fails from the given write on.
struct Collector {
    collected: Collected,
    fails_at: Option<(usize, fn() -> anyhow::Error)>,
    finished: Arc<Mutex<bool>>,
}

fn collector(collected: &Collected) -> Box<dyn Sink> {
    Box::new(Collector { collected: collected.clone(), fails_at: None, finished: Arc::default() })
}

impl Sink for Collector {
    fn target(&self) -> String {
        "collector".into()
    }

    fn write(&mut self, previous: Option<&Snapshot>, now: &Snapshot) -> Result<()> {
        let mut collected = self.collected.0.lock().expect("lock");
        assert_eq!(previous, collected.last(), "the previous snapshot is the one that was written before");
        if let Some((at, error)) = self.fails_at
            && collected.len() + 1 >= at
        {
            return Err(error());
        }
        collected.push(now.clone());
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        *self.finished.lock().expect("lock") = true;
        Ok(())
    }
}

fn observe(
    source: &mut FakeSource,
    sinks: Vec<Box<dyn Sink>>,
    command: Option<&mut Child>,
    options: Options,
) -> Outcome {
    let signals = Signals::catch().expect("signals");
    run(source, sinks, command, &signals, &options).expect("run")
}

fn every(interval: u64) -> Options {
    Options { interval: Some(Duration::from_millis(interval)), ..Options::default() }
}

#[test]
fn every_sample_is_announced_and_taken_in_time_and_the_last_one_says_so() {
    let _alone = alone();
    let collected = Collected::default();
    let mut source = FakeSource::of((1..=100).map(snapshot));
    let options = Options { duration: Some(Duration::from_millis(210)), ..every(50) };
    let outcome = observe(&mut source, vec![collector(&collected)], None, options);

    assert!(matches!(outcome.end, End::Duration), "{:?}", outcome.end);
    assert_eq!(source.sampled.len(), source.announced.len());
    for (announced, sampled) in source.announced.iter().zip(&source.sampled) {
        assert!(sampled >= announced, "sampled before the announced time");
    }
    let steps: Vec<u64> = source.announced.windows(2).map(|w| w[1] - w[0]).collect();
    let (last, whole) = steps.split_last().expect("steps");
    // A loaded machine may miss some, but deadlines stay on the grid, and the last one is the end.
    assert!(whole.iter().all(|step| step % 50_000_000 == 0), "{steps:?}");
    assert!((1..=60_000_000).contains(last), "{steps:?}");
    let snapshots = collected.snapshots();
    let finished: Vec<bool> = snapshots.iter().map(|s| s.finished).collect();
    assert_eq!(finished.iter().filter(|f| **f).count(), 1);
    assert_eq!(finished.last(), Some(&true));
    assert_eq!(outcome.sessions, snapshots[snapshots.len() - 1..]);
}

#[test]
fn samples_wait_for_the_windows_of_the_source() {
    let _alone = alone();
    let mut source = FakeSource::of(run_of(4));
    source.window_ns = Some(70_000_000);
    observe(&mut source, vec![], None, every(30));
    assert!(source.announced.iter().all(|at| at % 70_000_000 == 0), "{:?}", source.announced);
    let mut distinct = source.announced.clone();
    distinct.dedup();
    assert_eq!(distinct, source.announced, "one sample per window");
}

#[test]
fn a_late_sample_is_counted_and_missed_ones_are_skipped() {
    let _alone = alone();
    let collected = Collected::default();
    let mut source = FakeSource::of(run_of(4));
    // Taking the second sample lasts so long that the third cannot be in time on a deadline before it.
    source.stall = Some((2, Duration::from_millis(130)));
    observe(&mut source, vec![collector(&collected)], None, every(40));
    let steps: Vec<u64> = source.announced.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(steps[1] >= 120_000_000, "missed deadlines are skipped, not hurried through: {steps:?}");
    assert!(steps.iter().all(|step| step % 40_000_000 == 0), "{steps:?}");

    let late = |s: &Snapshot| s.losses.late_samples;
    let late_by_clock =
        source.sampled.iter().zip(&source.announced).filter(|(s, a)| **s > **a + 21_000_000).count();
    assert!(collected.snapshots().last().map(late).expect("snapshots") as usize >= late_by_clock);
}

#[test]
fn ends_with_its_source() {
    let _alone = alone();
    let collected = Collected::default();
    let outcome = observe(&mut FakeSource::of(run_of(3)), vec![collector(&collected)], None, every(10));
    assert!(matches!(outcome.end, End::SourceFinished), "{:?}", outcome.end);
    assert_eq!(collected.snapshots(), run_of(3));
}

#[test]
fn ends_when_no_sample_can_be_taken() {
    let _alone = alone();
    let collected = Collected::default();
    let finished = Arc::new(Mutex::new(false));
    let sink = Collector { collected: collected.clone(), fails_at: None, finished: finished.clone() };
    let outcome = observe(&mut FakeSource::of((1..=2).map(snapshot)), vec![Box::new(sink)], None, every(10));
    assert!(
        matches!(&outcome.end, End::Failed(e) if e.to_string().contains("no more snapshots")),
        "{:?}",
        outcome.end
    );
    assert_eq!(collected.snapshots().len(), 2);
    assert!(*finished.lock().expect("lock"), "sinks are finished whatever the end is");
}

#[test]
fn ends_with_its_command_and_takes_a_last_sample() {
    let _alone = alone();
    let collected = Collected::default();
    let mut command =
        Child::spawn("sh".as_ref(), &["-c".into(), "sleep 0.1; exit 7".into()], &[], Output::Discard)
            .expect("sh");
    let mut source = FakeSource::of((1..=3).map(snapshot));
    // Far longer than the command: its end must not wait for the next tick.
    let outcome = observe(&mut source, vec![collector(&collected)], Some(&mut command), every(20_000));
    assert!(matches!(outcome.end, End::Command(status) if status.code() == Some(7)), "{:?}", outcome.end);
    assert_eq!(collected.snapshots().len(), 1);
    assert!(collected.snapshots()[0].finished);
}

#[test]
fn a_signal_ends_it_at_once_and_takes_a_last_sample() {
    let _alone = alone();
    let collected = Collected::default();
    let mut source = FakeSource::of((1..=3).map(snapshot));
    let mut killer = Command::new("sh")
        .arg("-c")
        .arg(format!("sleep 0.2; kill -TERM {}", std::process::id()))
        .spawn()
        .expect("sh");
    let outcome = observe(&mut source, vec![collector(&collected)], None, every(20_000));
    killer.wait().expect("sh");
    assert!(matches!(outcome.end, End::Signal(libc::SIGTERM)), "{:?}", outcome.end);
    assert!(collected.snapshots()[0].finished);
}

fn broken() -> anyhow::Error {
    anyhow::anyhow!("it broke")
}

fn closed_pipe() -> anyhow::Error {
    anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).context("writing")
}

fn failing(at: usize, error: fn() -> anyhow::Error) -> (Box<dyn Sink>, Collected) {
    let collected = Collected::default();
    let sink =
        Collector { collected: collected.clone(), fails_at: Some((at, error)), finished: Arc::default() };
    (Box::new(sink), collected)
}

#[test]
fn a_sink_that_fails_takes_no_other_with_it() {
    let _alone = alone();
    let (broken, partial) = failing(2, broken);
    let good = Collected::default();
    let outcome = observe(&mut FakeSource::of(run_of(4)), vec![broken, collector(&good)], None, every(10));
    assert!(matches!(outcome.end, End::SourceFinished));
    assert_eq!((partial.snapshots().len(), good.snapshots().len()), (1, 4));
    assert_eq!((outcome.failed.len(), outcome.closed.len()), (1, 0));
}

#[test]
fn without_any_output_left_it_ends_unless_a_command_runs() {
    let _alone = alone();
    let (sink, _) = failing(2, broken);
    let outcome = observe(&mut FakeSource::of(run_of(9)), vec![sink], None, every(10));
    assert!(matches!(outcome.end, End::NoOutput), "{:?}", outcome.end);

    let (sink, _) = failing(2, closed_pipe);
    let outcome = observe(&mut FakeSource::of(run_of(9)), vec![sink], None, every(10));
    assert!(matches!(outcome.end, End::NoOutput), "{:?}", outcome.end);
    assert_eq!((outcome.failed.len(), outcome.closed.len()), (0, 1));

    let (sink, _) = failing(2, broken);
    let mut command = Child::spawn("sleep".as_ref(), &["60".into()], &[], Output::Discard).expect("sleep");
    let outcome = observe(&mut FakeSource::of(run_of(4)), vec![sink], Some(&mut command), every(10));
    assert!(
        matches!(outcome.end, End::SourceFinished),
        "a full disk does not end a COMMAND: {:?}",
        outcome.end
    );
}

#[test]
fn each_session_of_a_sequence_leaves_its_last_snapshot() {
    let _alone = alone();
    let mut second: Vec<Snapshot> = run_of(2);
    second.iter_mut().for_each(|s| s.source.lock = "hvm".into());
    let first = (1..=3).map(snapshot);
    let outcome = observe(&mut FakeSource::of(first.chain(second)), vec![], None, every(10));
    let last: Vec<_> = outcome.sessions.iter().map(|s| (s.source.lock.as_str(), s.seq)).collect();
    assert_eq!(last, [("ticket", 3), ("hvm", 2)]);
}

#[test]
fn nothing_wakes_up_between_two_ticks() {
    fn switches() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("status");
        let line = status.lines().find(|l| l.starts_with("voluntary_ctxt_switches")).expect("counter");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("number")
    }
    let _alone = alone();
    let threads = || std::fs::read_dir("/proc/self/task").expect("tasks").count();
    let before_threads = threads();
    let before = switches();
    let mut source = FakeSource::of((1..=100).map(snapshot));
    let options = Options { duration: Some(Duration::from_millis(600)), ..every(100) };
    observe(&mut source, vec![], None, options);
    let (slept, samples) = (switches() - before, source.sampled.len() as u64);
    // One sleep per tick; a few more may come from page faults and the like on a loaded machine.
    assert!(slept <= samples + 3, "{slept} sleeps for {samples} samples");
    assert!(threads() <= before_threads + 1, "the loop has started threads");
}

#[test]
fn a_failing_sample_is_an_error_with_its_reason() {
    struct Broken;
    impl ispin_agent::source::Source for Broken {
        fn kind(&self) -> &'static str {
            "broken"
        }
        fn sample(&mut self) -> Result<Snapshot> {
            bail!("map 7 is gone")
        }
    }
    let _alone = alone();
    let signals = Signals::catch().expect("signals");
    let outcome = run(&mut Broken, vec![], None, &signals, &every(10)).expect("run");
    assert!(matches!(outcome.end, End::Failed(e) if e.to_string() == "map 7 is gone"));
    assert!(outcome.sessions.is_empty());
}
