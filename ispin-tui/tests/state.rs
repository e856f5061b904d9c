//! What the dashboard makes of updates and keys, seen from outside.

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use common::synthetic::World;
use common::{app_of, app_with_baseline, feed, new_app, press};
use ispin_agent::model::{IncidentRecord, Snapshot};
use ispin_tui::feed::Update;
use ispin_tui::state::app::{App, INTERVALS, Link};
use ispin_tui::state::ui::{Order, Panel};

fn show(app: &mut App, snapshot: Snapshot) {
    app.update(Update::Snapshot(Box::new(snapshot)));
}

fn shown_seq(app: &App) -> Option<u64> {
    app.shown().now().map(|now| now.seq)
}

fn ticket() -> World {
    World::new(2, 4, "ticket")
}

#[test]
fn figures_are_those_of_the_last_second() {
    let mut app = app_of(&ticket(), 8);
    // The lock behaves from here on: nothing new is counted.
    for n in 9..=16 {
        let (now, mut still) = (ticket().snapshot(n), ticket().snapshot(8));
        (still.seq, still.elapsed_ns, still.unix_ms) = (now.seq, now.elapsed_ns, now.unix_ms);
        still.incidents.clear();
        show(&mut app, still);
    }
    assert_eq!(app.shown().measured().span_ns, 1_000_000_000);
    assert_eq!(app.shown().measured().all.psp(), 0.0);
}

fn thinning(interval: Duration) -> App {
    App::new("test", interval, None).thinning()
}

#[test]
fn snapshots_that_come_faster_than_asked_for_are_not_all_shown_but_their_incidents_are() {
    let mut app = thinning(Duration::from_secs(1));
    let mut shown = Vec::new();
    for n in 1..=20 {
        feed(&mut app, &ticket(), n..=n);
        shown.extend(shown_seq(&app));
    }
    shown.dedup();
    assert_eq!(shown, [1, 3, 7, 11, 15, 19], "one a second");
    assert_eq!(app.shown().incidents().len(), 19);
    let seqs: Vec<_> = app.shown().incidents().iter().map(|logged| logged.record.seq).collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
    // What is held back is shown when nothing follows.
    app.update(Update::Lost("gone".into()));
    assert_eq!(shown_seq(&app), Some(20));
    assert_eq!(app.shown().incidents().len(), 20);
}

#[test]
fn snapshots_that_are_a_little_early_or_late_are_all_shown() {
    let mut app = thinning(Duration::from_millis(250));
    for (n, ms) in [(1, 300), (2, 500), (3, 800), (4, 1000), (5, 1300), (6, 1500), (7, 1740), (8, 2010)] {
        let mut snapshot = ticket().snapshot(n);
        snapshot.elapsed_ns = ms * 1_000_000;
        show(&mut app, snapshot);
        assert_eq!(shown_seq(&app), Some(n));
    }
}

#[test]
fn who_samples_itself_shows_all() {
    let mut app = App::new("test", Duration::from_secs(10), None);
    feed(&mut app, &ticket(), 1..=3);
    assert_eq!(shown_seq(&app), Some(3));
}

#[test]
fn the_last_snapshot_of_a_run_is_always_shown() {
    let mut app = thinning(Duration::from_secs(10));
    feed(&mut app, &ticket(), 1..=3);
    show(&mut app, Snapshot { finished: true, ..ticket().snapshot(4) });
    assert_eq!(shown_seq(&app), Some(4));
    // The next run begins at once, however short the time since.
    feed(&mut app, &World { run: 1, ..ticket() }, 1..=2);
    assert_eq!(shown_seq(&app), Some(1));
    // Held back, but not for the gap between two runs.
    show(&mut app, Snapshot { seq: 3, ..Snapshot::default() });
    assert_eq!(shown_seq(&app), Some(2));
    let newest = app.shown().incidents().iter().last().map(|logged| (logged.elapsed_ns, logged.run.clone()));
    assert_eq!(newest, Some((500_000_000, "ticket".into())));
}

#[test]
fn pause_holds_the_picture_and_nothing_is_lost() {
    let mut app = app_of(&ticket(), 4);
    press(&mut app, " ");
    app.take_stale();
    feed(&mut app, &ticket(), 5..=9);
    assert!(!app.take_stale(), "nothing to draw");
    assert_eq!((shown_seq(&app), app.shown().incidents().len()), (Some(4), 4));
    press(&mut app, " ");
    assert_eq!((shown_seq(&app), app.shown().incidents().len()), (Some(9), 9));
}

#[test]
fn the_screen_is_out_of_date_only_after_a_change() {
    let mut app = new_app();
    assert!(app.take_stale(), "the first picture");
    assert!(!app.take_stale());
    app.update(Update::Waiting("no agent".into()));
    assert!(app.take_stale());
    app.update(Update::Waiting("no agent".into()));
    assert!(!app.take_stale(), "the same again");
    feed(&mut app, &ticket(), 1..=1);
    assert!(app.take_stale());
    press(&mut app, "j");
    assert!(app.take_stale());
}

#[test]
fn a_baseline_is_the_mean_of_the_run_so_far() {
    let app = app_with_baseline("hvm");
    let baseline = app.shown().baseline().expect("marked");
    assert_eq!(baseline.lock, "ticket");
    assert_eq!(baseline.measured.span_ns, 15_000_000_000);
    let now = app.shown().measured();
    assert!(now.all.takes / baseline.measured.all.takes > 90.0);
    assert_eq!(now.vcpus.len(), baseline.measured.vcpus.len());
}

#[test]
fn a_run_that_was_joined_late_counts_from_there() {
    let mut app = new_app();
    feed(&mut app, &ticket(), 1000..=1010);
    assert_eq!(
        app.shown().history().end_ns(),
        2_500_000_000,
        "the first snapshot says nothing of the course"
    );
    press(&mut app, "m");
    assert_eq!(app.shown().baseline().map(|b| b.measured.span_ns), Some(2_500_000_000));
    // With one snapshot only, its totals are all there is.
    let mut app = new_app();
    feed(&mut app, &ticket(), 1000..=1000);
    press(&mut app, "m");
    assert_eq!(app.shown().baseline().map(|b| b.measured.span_ns), Some(250_000_000_000));
}

#[test]
fn a_baseline_without_data_is_not_marked_and_a_marked_one_can_be_forgotten() {
    let mut app = new_app();
    press(&mut app, "m");
    assert!(app.shown().baseline().is_none());
    feed(&mut app, &ticket(), 1..=4);
    press(&mut app, "m");
    assert!(app.shown().baseline().is_some());
    press(&mut app, "M");
    assert!(app.shown().baseline().is_none());
}

#[test]
fn while_paused_the_baseline_is_what_is_seen() {
    let mut app = app_of(&ticket(), 4);
    press(&mut app, " ");
    feed(&mut app, &ticket(), 5..=40);
    press(&mut app, "m ");
    assert_eq!(app.shown().baseline().map(|b| b.measured.span_ns), Some(1_000_000_000));
}

#[test]
fn the_named_lock_becomes_the_baseline_whenever_its_run_ends() {
    let mut app = App::new("test", Duration::from_millis(250), Some("ticket".into()));
    feed(&mut app, &ticket(), 1..=20);
    assert!(app.shown().baseline().is_none(), "not before its end");
    feed(&mut app, &World { run: 1, ..World::new(2, 4, "hvm") }, 1..=20);
    assert_eq!(app.shown().baseline().map(|b| b.measured.span_ns), Some(5_000_000_000));
    feed(&mut app, &World { run: 2, ..ticket() }, 1..=30);
    assert_eq!(app.shown().baseline().map(|b| b.measured.span_ns), Some(5_000_000_000));
    feed(&mut app, &World { run: 3, ..World::new(2, 4, "hvm") }, 1..=1);
    assert_eq!(app.shown().baseline().map(|b| b.measured.span_ns), Some(7_500_000_000));
}

#[test]
fn runs_follow_each_other_without_a_gap_and_totals_restart() {
    let mut app = app_of(&ticket(), 20);
    feed(&mut app, &World { run: 1, ..World::new(2, 4, "hvm") }, 1..=8);
    // The same lock again, in a run that began later.
    feed(&mut app, &World { run: 2, ..World::new(2, 4, "hvm") }, 9..=16);
    let history = app.shown().history();
    assert_eq!(history.end_ns(), (20 + 8 + 7) * 250_000_000);
    let columns = history.columns(40, 250_000_000);
    let begins: Vec<_> = columns.iter().filter_map(|c| c.begins.as_deref()).collect();
    assert_eq!(begins, ["ticket", "hvm", "hvm"]);
    assert!(columns.iter().all(|c| c.lwp.is_none_or(|n| n < 1_000.0)), "no jump where totals restart");
    assert_eq!(app.shown().incidents().len(), 20, "the log goes on");
}

#[test]
fn between_two_runs_the_last_one_stays() {
    let mut app = app_of(&ticket(), 8);
    show(&mut app, Snapshot { seq: 9, ..Snapshot::default() });
    assert!(app.shown().between_runs());
    assert_eq!(shown_seq(&app), Some(8));
    assert_eq!(app.shown().history().end_ns(), 2_000_000_000);
    feed(&mut app, &World { run: 1, ..World::new(2, 4, "hvm") }, 1..=1);
    assert!(!app.shown().between_runs());
}

#[test]
fn links_say_what_happened_last() {
    let mut app = new_app();
    app.update(Update::Waiting("nobody listens".into()));
    assert_eq!(app.link, Link::Waiting("nobody listens".into()));
    feed(&mut app, &ticket(), 1..=1);
    assert_eq!(app.link, Link::Live);
    app.update(Update::Lost("closed".into()));
    assert_eq!(app.link, Link::Lost("closed".into()));
    feed(&mut app, &ticket(), 2..=2);
    assert_eq!(app.link, Link::Live);
    app.update(Update::Failed("broken".into()));
    assert_eq!(app.link, Link::Failed("broken".into()));
}

#[test]
fn the_selected_incident_stays_selected_while_others_come() {
    let mut app = app_of(&ticket(), 10);
    press(&mut app, "5jj");
    assert_eq!(app.ui.selected(Panel::Incidents), 2);
    feed(&mut app, &ticket(), 11..=13);
    assert_eq!(app.ui.selected(Panel::Incidents), 5);
    press(&mut app, "\n");
    let opened = app.ui.opened.and_then(|id| app.shown().incidents().get(id)).map(|l| l.record.seq);
    assert_eq!(opened, Some(108));
    press(&mut app, "k");
    let opened = app.ui.opened.and_then(|id| app.shown().incidents().get(id)).map(|l| l.record.seq);
    assert_eq!(opened, Some(109), "the one above is the newer one");
    press(&mut app, "\x1b");
    assert_eq!(app.ui.opened, None);
}

#[test]
fn the_first_row_is_always_the_newest_incident() {
    let mut app = app_of(&ticket(), 10);
    press(&mut app, "5jjg");
    feed(&mut app, &ticket(), 11..=13);
    assert_eq!(app.ui.selected(Panel::Incidents), 0);
}

#[test]
fn an_incident_that_was_pushed_out_is_no_longer_selected() {
    let mut app = app_of(&ticket(), 3);
    press(&mut app, "5G");
    let flood = (0..2000).map(|seq| IncidentRecord { seq, ..IncidentRecord::default() }).collect();
    show(&mut app, Snapshot { incidents: flood, ..ticket().snapshot(4) });
    press(&mut app, "\n");
    assert!(app.ui.opened.is_some_and(|id| app.shown().incidents().get(id).is_some()));
}

#[test]
fn selections_stay_within_the_rows() {
    let mut app = app_of(&ticket(), 4);
    press(&mut app, "kkk");
    assert_eq!(app.ui.selected(Panel::Vcpus), 0);
    press(&mut app, "Gjjj");
    assert_eq!(app.ui.selected(Panel::Vcpus), 7);
    press(&mut app, "/vm0\n");
    assert_eq!(app.ui.selected(Panel::Vcpus), 0, "another set of rows, from its top");
    press(&mut app, "G");
    assert_eq!(app.ui.selected(Panel::Vcpus), 3);
    press(&mut app, "2jG");
    assert_eq!(app.ui.selected(Panel::Times), 0);
}

#[test]
fn a_filter_is_kept_or_dropped() {
    let mut app = app_of(&ticket(), 4);
    press(&mut app, "/vmx\x08\x31\n");
    assert_eq!((app.ui.filter.as_str(), app.ui.typing.is_some()), ("vm1", false));
    press(&mut app, "/0q\x1b");
    assert_eq!((app.ui.filter.as_str(), app.quit), ("vm1", false));
    press(&mut app, "\x1b");
    assert_eq!(app.ui.filter, "");
}

#[test]
fn escape_closes_one_thing_at_a_time() {
    let mut app = app_of(&ticket(), 4);
    press(&mut app, "/vm\n5\n?");
    assert!(app.ui.help && app.ui.opened.is_some());
    press(&mut app, "\x1b");
    assert!(!app.ui.help && app.ui.opened.is_some());
    press(&mut app, "\x1b");
    assert!(app.ui.opened.is_none() && !app.ui.filter.is_empty());
    press(&mut app, "\x1b");
    assert!(app.ui.filter.is_empty());
}

#[test]
fn enter_opens_only_where_there_is_an_incident() {
    let mut app = app_of(&ticket(), 4);
    press(&mut app, "1\n");
    assert_eq!(app.ui.opened, None);
    let mut empty = new_app();
    press(&mut empty, "5\n");
    assert_eq!(empty.ui.opened, None);
}

#[test]
fn sort_belongs_to_the_panel_with_the_keys() {
    let mut app = app_of(&ticket(), 4);
    press(&mut app, "3s");
    assert_eq!(app.ui.order(Panel::Locks), Some(Order::Contended));
    assert_eq!(app.ui.order(Panel::Callers), Some(Order::Takes));
    assert_eq!(app.ui.order(Panel::Vcpus), Some(Order::Place));
}

#[test]
fn the_interval_goes_up_and_down_its_steps_and_stops_at_both_ends() {
    let mut app = new_app();
    press(&mut app, "+");
    assert_eq!(app.interval, Duration::from_millis(100));
    press(&mut app, "++++");
    assert_eq!(app.interval, INTERVALS[0]);
    press(&mut app, &"-".repeat(20));
    assert_eq!(app.interval, INTERVALS[INTERVALS.len() - 1]);
    // Between two steps.
    let mut app = App::new("test", Duration::from_millis(300), None);
    press(&mut app, "-");
    assert_eq!(app.interval, Duration::from_millis(500));
    let mut app = App::new("test", Duration::from_millis(300), None);
    press(&mut app, "+");
    assert_eq!(app.interval, Duration::from_millis(250));
}
