//! The feed of a source in this process, with a source that can be told what to do.

#[path = "common/mod.rs"]
mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use common::synthetic::World;
use ispin_agent::command::{Child, Output};
use ispin_agent::model::Snapshot;
use ispin_agent::source::{self, Source};
use ispin_tui::feed::local::LocalFeed;
use ispin_tui::feed::{Feed, Pace, Update};

/// What a source was asked for.
#[derive(Default)]
struct Asked {
    announced: Vec<u64>,
    samples: u64,
    dropped: bool,
}

struct Scripted {
    asked: Arc<Mutex<Asked>>,
    /// Number of the sample that is the last.
    last: u64,
    /// Number of the sample that fails.
    fails: u64,
    recorded: Option<Duration>,
}

impl Source for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn pace(&self) -> source::Pace {
        self.recorded.map_or(source::Pace::Clock, source::Pace::Recorded)
    }

    fn announce(&mut self, at_ns: u64) {
        self.asked.lock().expect("no panic there").announced.push(at_ns);
    }

    fn align(&mut self, wanted_ns: u64) -> u64 {
        wanted_ns.next_multiple_of(1000)
    }

    fn sample(&mut self) -> Result<Snapshot> {
        let mut asked = self.asked.lock().expect("no panic there");
        asked.samples += 1;
        if asked.samples == self.fails {
            bail!("the maps are gone");
        }
        let finished = asked.samples == self.last;
        Ok(Snapshot { finished, ..World::new(1, 2, "ticket").snapshot(asked.samples) })
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.asked.lock().expect("no panic there").dropped = true;
    }
}

fn scripted(last: u64, fails: u64) -> (Scripted, Arc<Mutex<Asked>>) {
    let asked = Arc::<Mutex<Asked>>::default();
    (Scripted { asked: asked.clone(), last, fails, recorded: None }, asked)
}

fn sh(script: &str) -> Child {
    Child::spawn("sh".as_ref(), &["-c".into(), script.into()], &[], Output::Keep).expect("sh starts")
}

fn snapshot(updates: &[Update]) -> &Snapshot {
    match updates.first() {
        Some(Update::Snapshot(snapshot)) => snapshot,
        other => panic!("no snapshot: {other:?}"),
    }
}

#[test]
fn wake_ups_are_those_that_the_source_agrees_to_and_each_is_announced() {
    let (source, asked) = scripted(9, 0);
    let mut feed = LocalFeed::new(Box::new(source), None);
    assert!(matches!(feed.pace(), Pace::Planned));
    assert!(!feed.sets_the_pace());
    assert_eq!(feed.plan(1), 1000);
    assert_eq!(feed.plan(2000), 2000);
    assert_eq!(asked.lock().expect("no panic there").announced, [1000, 2000]);
}

#[test]
fn the_last_snapshot_ends_it() {
    let (source, asked) = scripted(2, 0);
    let mut feed = LocalFeed::new(Box::new(source), None);
    assert_eq!(feed.poll(0).len(), 1);
    let updates = feed.poll(0);
    assert!(snapshot(&updates).finished);
    assert!(matches!(updates[1], Update::Finished));
    assert!(matches!(feed.pace(), Pace::Over));
    assert!(feed.poll(0).is_empty());
    assert_eq!(asked.lock().expect("no panic there").samples, 2);
    assert_eq!(feed.close().expect("closed"), None);
    assert!(asked.lock().expect("no panic there").dropped);
}

#[test]
fn a_failing_source_is_told_and_not_asked_again() {
    let (source, asked) = scripted(0, 2);
    let mut feed = LocalFeed::new(Box::new(source), None);
    feed.poll(0);
    let updates = feed.poll(0);
    assert!(
        matches!(&updates[..], [Update::Failed(why)] if why.contains("the maps are gone")),
        "{updates:?}"
    );
    assert!(matches!(feed.pace(), Pace::Over));
    assert!(feed.poll(0).is_empty());
    assert_eq!(asked.lock().expect("no panic there").samples, 2);
}

#[test]
fn late_samples_are_counted_as_losses() {
    let (source, _asked) = scripted(0, 0);
    let mut feed = LocalFeed::new(Box::new(source), None);
    assert_eq!(snapshot(&feed.poll(0)).losses.late_samples, 0);
    feed.came_late();
    feed.came_late();
    assert_eq!(snapshot(&feed.poll(0)).losses.late_samples, 2);
}

#[test]
fn the_end_of_command_is_the_end_of_the_run() {
    let (source, _asked) = scripted(0, 0);
    let mut feed = LocalFeed::new(Box::new(source), Some(sh("echo result; exit 3")));
    assert!(feed.name().contains("around sh"), "{}", feed.name());
    let begin = Instant::now();
    loop {
        let updates = feed.poll(0);
        if snapshot(&updates).finished {
            assert!(matches!(updates[1], Update::Finished));
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let closed = feed.close().expect("closed").expect("there was a command");
    assert_eq!(closed.by_itself.and_then(|status| status.code()), Some(3));
    assert_eq!(closed.said, "result\n");
}

#[test]
fn a_command_that_still_runs_is_ended_after_the_observation() {
    let (source, asked) = scripted(0, 0);
    let mut feed = LocalFeed::new(Box::new(source), Some(sh("sleep 600")));
    feed.poll(0);
    let begin = Instant::now();
    let closed = feed.close().expect("closed").expect("there was a command");
    assert_eq!(closed.by_itself.map(ExitStatus::into_raw), None);
    assert!(begin.elapsed() < Duration::from_secs(4), "SIGTERM was enough");
    assert!(asked.lock().expect("no panic there").dropped);
}

#[test]
fn a_recorded_run_comes_at_its_recorded_pace() {
    let (mut source, asked) = scripted(3, 0);
    source.recorded = Some(Duration::from_millis(100));
    let mut feed = LocalFeed::new(Box::new(source), None);
    assert!(feed.sets_the_pace());
    let at = |feed: &LocalFeed| match feed.pace() {
        Pace::At(at) => Some(at),
        _ => None,
    };
    assert_eq!(feed.poll(5_000_000_000).len(), 1);
    assert_eq!(at(&feed), Some(5_100_000_000));
    assert!(feed.poll(5_099_999_999).is_empty(), "not before its time");
    // A little late, which does not add up.
    assert_eq!(feed.poll(5_130_000_000).len(), 1);
    assert_eq!(at(&feed), Some(5_200_000_000));
    assert!(snapshot(&feed.poll(5_200_000_000)).finished);
    assert!(matches!(feed.pace(), Pace::Over));
    assert_eq!(asked.lock().expect("no panic there").samples, 3);
}
