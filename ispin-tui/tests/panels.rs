//! Pictures of every panel by itself.

#[path = "common/mod.rs"]
mod common;

use common::synthetic::World;
use common::{app_of, app_with_baseline, feed, new_app, panel, press};
use ispin_agent::model::{Losses, Snapshot};
use ispin_tui::feed::Update;
use ispin_tui::panels::rows::Table;
use ispin_tui::panels::{
    Frame, View, flow, header, help, incidents, psp_chart, rows, status, timeline, times, vcpus,
};
use ispin_tui::state::app::App;
use ratatui::backend::TestBackend;

fn header_of(app: &App, width: u16) -> TestBackend {
    let lines = |view: View| header::lines(view, width);
    let mut height = 0;
    panel(app, width, 1, |view, _, _| height = lines(view).len() as u16);
    panel(app, width, height, |view, area, buf| flow::draw(&lines(view), area, buf))
}

/// The last snapshot of a ticket world, changed by `change`.
fn app_with(change: impl FnOnce(&mut Snapshot)) -> App {
    let world = World::new(2, 4, "ticket");
    let mut app = app_of(&world, 59);
    let mut last = world.snapshot(60);
    change(&mut last);
    app.update(Update::Snapshot(Box::new(last)));
    app
}

#[test]
fn header() {
    let app = app_of(&World::new(2, 4, "ticket"), 60);
    insta::assert_snapshot!("header_80", header_of(&app, 80));
    insta::assert_snapshot!("header_200", header_of(&app, 200));
    insta::assert_snapshot!("header_empty", header_of(&new_app(), 80));
    insta::assert_snapshot!("header_baseline", header_of(&app_with_baseline("hvm"), 200));
}

#[test]
fn header_names_what_was_lost_and_what_is_unexplained() {
    let app = app_with(|snapshot| {
        snapshot.losses = Losses { incidents_dropped: 1_200, late_samples: 3, ..Losses::default() };
        snapshot.vms[0].vcpus[0].counters.unslotted = 7;
        if let Some(check) = &mut snapshot.cross_check {
            check.unexplained = 2;
            check.pending = 4;
        }
    });
    insta::assert_snapshot!(header_of(&app, 200));
}

#[test]
fn header_of_a_guest_has_cycles_and_no_cross_check() {
    let app = app_with(|snapshot| {
        snapshot.source.kind = "guest".into();
        snapshot.source.time_unit = "tsc".into();
        snapshot.source.pcpus = 0;
        snapshot.source.quantum = 0;
        snapshot.source.csd = 16_384;
        snapshot.cross_check = None;
        for vcpu in &mut snapshot.vms[0].vcpus {
            vcpu.kernel = Default::default();
            vcpu.on_time = 0;
        }
        snapshot.vms.truncate(1);
    });
    insta::assert_snapshot!(header_of(&app, 120));
}

#[test]
fn header_says_when_quanta_are_no_result() {
    let text = |slot_source: &str| {
        let app = app_with(|snapshot| snapshot.source.slot_source = slot_source.into());
        header_of(&app, 200).to_string()
    };
    assert!(text("software").contains("slots software: no result"));
    assert!(text("none").contains("slots none: no result"));
    assert!(!text("xen").contains("no result") && !text("publisher").contains("no result"));
}

#[test]
fn psp_chart() {
    let draw = |view: View, area, buf: &mut _| psp_chart::render(view, Frame::Box, area, buf);
    insta::assert_snapshot!("psp_chart", panel(&app_with_baseline("hvm"), 78, 12, draw));
    insta::assert_snapshot!("psp_chart_empty", panel(&new_app(), 78, 5, draw));
    let mut app = app_with_baseline("hvm");
    feed(&mut app, &World { run: 2, ..World::new(2, 4, "ticket") }, 1..=2);
    insta::assert_snapshot!("psp_chart_third_run_begins", panel(&app, 78, 8, draw));
}

#[test]
fn vcpus() {
    let draw = |view: View, area, buf: &mut _| vcpus::render(view, Frame::Box, area, buf);
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    insta::assert_snapshot!("vcpus_narrow", panel(&app, 60, 7, draw));
    insta::assert_snapshot!("vcpus_wide", panel(&app, 130, 11, draw));
    press(&mut app, "ss/vm1\n");
    insta::assert_snapshot!("vcpus_sorted_and_filtered", panel(&app, 80, 8, draw));
    press(&mut app, "/none\n");
    insta::assert_snapshot!("vcpus_none_passes", panel(&app, 60, 5, draw));
    insta::assert_snapshot!("vcpus_empty", panel(&new_app(), 60, 5, draw));
}

#[test]
fn vcpus_with_ratios() {
    let draw = |view: View, area, buf: &mut _| vcpus::render(view, Frame::Box, area, buf);
    insta::assert_snapshot!("vcpus_ratios_below", panel(&app_with_baseline("hvm"), 82, 11, draw));
    insta::assert_snapshot!("vcpus_ratios_beside", panel(&app_with_baseline("hvm"), 130, 11, draw));
    // A vCPU that the baseline does not know has no ratio.
    let mut app = app_of(&World::new(1, 1, "ticket"), 60);
    press(&mut app, "m");
    feed(&mut app, &World { run: 1, ..World::new(1, 2, "hvm") }, 1..=40);
    insta::assert_snapshot!("vcpus_ratio_unknown", panel(&app, 130, 6, draw));
}

#[test]
fn times() {
    let draw = |view: View, area, buf: &mut _| times::render(view, Frame::Box, area, buf);
    let app = app_of(&World::new(2, 4, "ticket"), 60);
    insta::assert_snapshot!("times_beside", panel(&app, 90, 12, draw));
    insta::assert_snapshot!("times_above", panel(&app, 40, 20, draw));
    insta::assert_snapshot!("times_too_low_for_bars", panel(&app, 90, 5, draw));
    insta::assert_snapshot!("times_ratios", panel(&app_with_baseline("hvm"), 110, 12, draw));
    insta::assert_snapshot!("times_empty", panel(&new_app(), 60, 5, draw));
    let none_counted = app_with(|snapshot| {
        for vm in &mut snapshot.vms {
            vm.hold = Default::default();
            vm.wait = Default::default();
        }
    });
    insta::assert_snapshot!("times_none_counted", panel(&none_counted, 60, 8, draw));
}

#[test]
fn locks_and_callers() {
    let locks = |view: View, area, buf: &mut _| rows::render(view, Table::Locks, Frame::Box, area, buf);
    let callers = |view: View, area, buf: &mut _| rows::render(view, Table::Callers, Frame::Box, area, buf);
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    insta::assert_snapshot!("locks_wide", panel(&app, 110, 7, locks));
    insta::assert_snapshot!("locks_narrow", panel(&app, 52, 7, locks));
    insta::assert_snapshot!("callers", panel(&app, 80, 7, callers));
    press(&mut app, "4ssssssss");
    insta::assert_snapshot!("callers_by_name", panel(&app, 80, 7, callers));
    insta::assert_snapshot!("locks_ratios", panel(&app_with_baseline("hvm"), 110, 7, locks));
    insta::assert_snapshot!("locks_empty", panel(&new_app(), 60, 5, locks));
    insta::assert_snapshot!("callers_empty", panel(&new_app(), 60, 5, callers));
}

#[test]
fn incidents() {
    let draw = |view: View, area, buf: &mut _| incidents::render(view, Frame::Box, area, buf);
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    insta::assert_snapshot!("incidents_narrow", panel(&app, 80, 8, draw));
    insta::assert_snapshot!("incidents_wide", panel(&app, 150, 8, draw));
    press(&mut app, "5s/lwp\n");
    insta::assert_snapshot!("incidents_lwp_by_time_lost", panel(&app, 100, 8, draw));
    insta::assert_snapshot!("incidents_empty", panel(&new_app(), 60, 5, draw));
}

#[test]
fn timeline_of_a_preempted_holder() {
    let app = app_of(&World::new(2, 4, "ticket"), 60);
    let draw = |view: View, area, buf: &mut _| timeline::render(view, 59, area, buf);
    insta::assert_snapshot!("timeline_lhp", panel(&app, 118, 22, draw));
    insta::assert_snapshot!("timeline_lhp_small", panel(&app, 80, 16, draw));
    insta::assert_snapshot!("timeline_lhp_low", panel(&app, 80, 10, draw));
}

#[test]
fn timeline_of_a_preempted_waiter() {
    let app = app_of(&World::new(2, 4, "ticket"), 60);
    let draw = |view: View, area, buf: &mut _| timeline::render(view, 56, area, buf);
    insta::assert_snapshot!("timeline_lwp", panel(&app, 118, 20, draw));
}

#[test]
fn timeline_with_more_victims_than_room() {
    let app = app_with(|snapshot| {
        let victim = snapshot.incidents[0].victims[0];
        snapshot.incidents[0].victims =
            (1..20).map(|vcpu| ispin_agent::model::Victim { vcpu, ..victim }).collect();
    });
    let draw = |view: View, area, buf: &mut _| timeline::render(view, 59, area, buf);
    insta::assert_snapshot!(panel(&app, 100, 24, draw));
}

#[test]
fn timeline_of_what_is_hardly_known() {
    let app = app_with(|snapshot| {
        let incident = &mut snapshot.incidents[0];
        incident.planned_end = None;
        incident.real_end = None;
        incident.victims.clear();
        incident.preempted = false;
        incident.cause.clear();
        incident.blocked = true;
    });
    let known = |view: View, area, buf: &mut _| timeline::render(view, 59, area, buf);
    insta::assert_snapshot!("timeline_hardly_known", panel(&app, 100, 16, known));
    let gone = |view: View, area, buf: &mut _| timeline::render(view, 1_000_000, area, buf);
    insta::assert_snapshot!("timeline_gone", panel(&app, 60, 5, gone));
}

#[test]
fn help() {
    insta::assert_snapshot!("help", panel(&new_app(), 80, 23, help::render));
    insta::assert_snapshot!("help_with_words", panel(&new_app(), 100, 40, help::render));
}

#[test]
fn status() {
    let line = |app: &App, width| panel(app, width, 1, status::render);
    let world = World::new(2, 4, "ticket");
    let mut app = app_of(&world, 10);
    insta::assert_snapshot!("status_live", line(&app, 80));
    press(&mut app, "m/vm0");
    insta::assert_snapshot!("status_typing", line(&app, 80));
    press(&mut app, "\n");
    insta::assert_snapshot!("status_baseline_and_filter", line(&app, 120));
    press(&mut app, " ");
    insta::assert_snapshot!("status_paused", line(&app, 80));
    press(&mut app, " ");
    app.update(Update::Snapshot(Box::new(Snapshot { seq: 11, ..Snapshot::default() })));
    insta::assert_snapshot!("status_between_runs", line(&app, 80));
    app.update(Update::Finished);
    insta::assert_snapshot!("status_finished", line(&app, 80));
}
