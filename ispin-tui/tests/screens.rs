//! Pictures of the whole screen in both sizes, and what must hold in every size.

#[path = "common/mod.rs"]
mod common;

use common::synthetic::World;
use common::{app_of, app_with_baseline, feed, new_app, press, screen, text};
use ispin_agent::model::{IncidentRecord, Snapshot, Vcpu, Victim, Vm};
use ispin_tui::feed::Update;
use ispin_tui::run::picture;
use ispin_tui::state::app::App;
use ispin_tui::theme::{Colors, Theme};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 60);

fn small(app: &App) -> String {
    text(app, SMALL.0, SMALL.1)
}

fn large(app: &App) -> String {
    text(app, LARGE.0, LARGE.1)
}

#[test]
fn live() {
    let app = app_of(&World::new(2, 4, "ticket"), 60);
    insta::assert_snapshot!("live_small", small(&app));
    insta::assert_snapshot!("live_large", large(&app));
}

#[test]
fn guest() {
    let world = World::new(1, 4, "hvm");
    let mut app = new_app();
    for n in 1..=60 {
        app.update(Update::Snapshot(Box::new(world.guest_snapshot(n))));
    }
    insta::assert_snapshot!("guest_large", text(&app, 160, 50));
    press(&mut app, "3");
    insta::assert_snapshot!("guest_locks", text(&app, 100, 30));
}

#[test]
fn many_vcpus() {
    let mut app = app_of(&World::new(4, 16, "ticket"), 60);
    press(&mut app, "G");
    insta::assert_snapshot!("many_vcpus_small", small(&app));
    insta::assert_snapshot!("many_vcpus_large", large(&app));
}

#[test]
fn baseline() {
    let app = app_with_baseline("hvm");
    insta::assert_snapshot!("baseline_small", small(&app));
    insta::assert_snapshot!("baseline_large", large(&app));
    insta::assert_snapshot!("baseline_medium", text(&app, 120, 40));
}

#[test]
fn every_panel_in_the_small_size() {
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    for name in ["times", "locks", "callers", "incidents"] {
        press(&mut app, "\t");
        insta::assert_snapshot!(format!("small_{name}"), small(&app));
    }
}

#[test]
fn opened_incident() {
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    press(&mut app, "5\n");
    insta::assert_snapshot!("incident_small", small(&app));
    insta::assert_snapshot!("incident_large", large(&app));
}

#[test]
fn help() {
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    press(&mut app, "?");
    insta::assert_snapshot!("help_small", small(&app));
    insta::assert_snapshot!("help_large", large(&app));
}

#[test]
fn nothing_yet() {
    let mut app = new_app();
    app.update(Update::Waiting("unix:/run/ispin.sock: nobody listens; trying again".into()));
    insta::assert_snapshot!("waiting_small", small(&app));
    insta::assert_snapshot!("waiting_large", large(&app));
}

#[test]
fn empty_world() {
    let mut app = new_app();
    app.update(Update::Snapshot(Box::default()));
    insta::assert_snapshot!("empty_small", small(&app));
    insta::assert_snapshot!("empty_large", large(&app));
}

#[test]
fn lost_connection() {
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    let why = "unix:/run/ispin.sock: the agent closed the connection; trying again";
    app.update(Update::Lost(why.into()));
    insta::assert_snapshot!("lost_small", small(&app));
    insta::assert_snapshot!("lost_large", large(&app));
    feed(&mut app, &World::new(2, 4, "ticket"), 61..=61);
    assert!(!small(&app).contains("no connection"), "the banner goes when snapshots come again");
}

#[test]
fn failed_source() {
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    app.update(Update::Failed("the publisher's maps are gone: ".repeat(10)));
    insta::assert_snapshot!(small(&app));
}

#[test]
fn filter_being_typed() {
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    press(&mut app, "/vm1");
    insta::assert_snapshot!(small(&app));
}

/// States that differ in what they show.
fn states() -> Vec<App> {
    let mut states = vec![new_app(), app_of(&World::new(2, 4, "ticket"), 60), app_with_baseline("hvm")];
    for keys in ["2", "3", "4", "5", "5\n", "?", "/xyz", " "] {
        let mut app = app_with_baseline("pv");
        press(&mut app, keys);
        states.push(app);
    }
    let mut empty = new_app();
    empty.update(Update::Snapshot(Box::default()));
    states.push(empty);
    states.extend([absurd(), {
        let mut app = absurd();
        press(&mut app, "5\n");
        app
    }]);
    states
}

/// A snapshot that no source makes but a file may hold: very large numbers, names that are long or none.
fn absurd() -> App {
    let mut vcpu = Vcpu { id: u32::MAX, running: true, quantum_left: Some(u64::MAX), ..Vcpu::default() };
    vcpu.phase = "in a phase that nobody ever heard of".into();
    vcpu.counters.takes = u64::MAX / 8;
    vcpu.counters.lwp = u64::MAX / 8;
    vcpu.counters.idle_cycles = u64::MAX;
    let incident = IncidentRecord {
        kind: "lhp".into(),
        vm: "ein sehr langer Name 虚拟机".into(),
        take: u64::MAX,
        to: 0,
        from: 7,
        back: 1,
        off: u64::MAX,
        preempted: true,
        planned_end: Some(0),
        real_end: Some(u64::MAX),
        victims: vec![Victim { vcpu: 1, take: u64::MAX, acquire: 0 }],
        ..IncidentRecord::default()
    };
    let mut vm = Vm { name: "ein sehr langer Name 虚拟机".into(), vcpus: vec![vcpu], ..Vm::default() };
    vm.hold.buckets = vec![u64::MAX / 256; 64];
    vm.wait.buckets = vec![0; 64];
    vm.wait.buckets[63] = 1;
    let mut app = new_app();
    for seq in 1..3 {
        let mut snapshot = Snapshot { seq, elapsed_ns: seq, vms: vec![vm.clone()], ..Snapshot::default() };
        snapshot.source.csd = u64::MAX;
        snapshot.incidents.push(incident.clone());
        app.update(Update::Snapshot(Box::new(snapshot)));
    }
    app
}

#[test]
fn no_size_and_no_data_make_it_fail() {
    for app in states() {
        for width in (0..5).chain([11, 23, 43, 44, 45, 79, 120, 200]) {
            for height in (0..12).chain([15, 17, 20, 24, 33, 34, 60]) {
                picture(&app, Theme::default(), Rect::new(0, 0, width, height));
            }
        }
    }
}

#[test]
fn without_colors_only_emphasis_is_left() {
    for app in states() {
        for (width, height) in [SMALL, LARGE] {
            let backend = screen(&app, Colors::None, width, height);
            for cell in backend.buffer().content() {
                assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "{cell:?}");
            }
            let colored = screen(&app, Colors::Sixteen, width, height);
            assert_eq!(backend.to_string(), colored.to_string(), "the text is the same");
        }
    }
}

#[test]
fn no_more_than_sixteen_colors_are_used() {
    let mut used = Vec::new();
    for app in states() {
        for cell in screen(&app, Colors::Sixteen, LARGE.0, LARGE.1).buffer().content() {
            used.extend([cell.fg, cell.bg]);
        }
    }
    used.sort_by_key(|color| format!("{color:?}"));
    used.dedup();
    assert!(used.len() > 4, "there are colours: {used:?}");
    assert!(used.iter().all(|c| !matches!(c, Color::Rgb(..) | Color::Indexed(_))), "{used:?}");
}

#[test]
fn an_unexplained_difference_stands_out_even_without_colors() {
    let world = World::new(2, 4, "ticket");
    let mut app = app_of(&world, 10);
    let mut snapshot = world.snapshot(11);
    if let Some(check) = &mut snapshot.cross_check {
        check.unexplained = 1;
    }
    app.update(Update::Snapshot(Box::new(snapshot)));
    let backend = screen(&app, Colors::None, 200, 60);
    let reversed: String = backend
        .buffer()
        .content()
        .iter()
        .take(200 * 4)
        .filter(|cell| cell.modifier.contains(Modifier::REVERSED))
        .map(|cell| cell.symbol())
        .collect();
    assert_eq!(reversed, "unexplained 1CONVOY in vm0 at counter");
}
