//! The program on a real pseudo terminal: what it leaves behind, and that it writes only what has changed.

#[path = "common/mod.rs"]
mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use common::synthetic::World;
use ispin_agent::signals::Signals;
use ispin_tui::feed::{Feed, Pace, Update};
use ispin_tui::{Options, run};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";
const CURSOR_SHOWN: &str = "\x1b[?25h";

/// A program on a pseudo terminal of its own.
struct Session {
    child: Child,
    /// `None` = hung up.
    master: Option<OwnedFd>,
    reader: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<Vec<u8>>>,
    settings: String,
}

impl Session {
    fn start(mut command: Command, width: u16, height: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave: File = rustix::fs::open(name, flags, Mode::empty()).expect("opened").into();
        set_size(&master, width, height);
        let settings = settings_of(&master);
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.stdin(slave.try_clone().expect("cloned"));
        command.stdout(slave.try_clone().expect("cloned")).stderr(slave);
        let child = command.spawn().expect("started");
        // The command holds the slave; with it dropped, reading ends when the program has ended.
        drop(command);
        let written = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (from, into, stopped) = (master.try_clone().expect("cloned"), written.clone(), stop.clone());
        let reader = std::thread::spawn(move || collect(from, &into, &stopped));
        Self { child, master: Some(master), reader: Some(reader), stop, written, settings }
    }

    fn master(&self) -> &OwnedFd {
        self.master.as_ref().expect("not hung up")
    }

    /// Closes the terminal.
    fn hang_up(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic there");
        }
        self.master = None;
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().expect("no panic there")).into_owned()
    }

    fn wait_for(&self, what: &str) {
        let begin = Instant::now();
        while !self.written().contains(what) {
            assert!(begin.elapsed() < PATIENCE, "{what:?} did not come: {:?}", self.written());
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nothing more is written; returns how much was.
    fn wait_for_quiet(&self) -> usize {
        loop {
            let before = self.written().len();
            sleep(Duration::from_millis(300));
            if self.written().len() == before {
                return before;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    fn press(&self, keys: &str) {
        File::from(self.master().try_clone().expect("cloned")).write_all(keys.as_bytes()).expect("written");
    }

    fn end(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status;
            }
            if begin.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("it did not end: {:?}", self.written());
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn assert_restored(&self) {
        let begin = Instant::now();
        while !self.written().contains(LEFT) && begin.elapsed() < PATIENCE {
            sleep(Duration::from_millis(5));
        }
        let written = self.written();
        let after = written.rsplit_once(ENTERED).map(|(_, after)| after).expect("it drew");
        assert!(after.contains(LEFT) && after.contains(CURSOR_SHOWN), "{after:?}");
        assert_eq!(settings_of(self.master()), self.settings, "settings of the terminal");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects what is written until told to stop or the other side has closed.
fn collect(from: OwnedFd, into: &Mutex<Vec<u8>>, stop: &AtomicBool) {
    let mut from = File::from(from);
    let mut bytes = [0; 4096];
    let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !stop.load(Ordering::SeqCst) {
        if poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&pause)) == Ok(0) {
            continue;
        }
        match from.read(&mut bytes) {
            Ok(n) if n > 0 => into.lock().expect("no panic there").extend_from_slice(&bytes[..n]),
            _ => return,
        }
    }
}

fn settings_of(master: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(master).expect("a terminal"))
}

fn set_size(master: &OwnedFd, width: u16, height: u16) {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("a terminal");
}

/// An agent that sends what it is told to.
struct Agent {
    folder: TempDir,
    listener: UnixListener,
}

impl Agent {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("agent.sock")).expect("a socket");
        Self { folder, listener }
    }

    fn tui(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ispin-tui"));
        command.arg("--connect").arg(format!("unix:{}", self.folder.path().join("agent.sock").display()));
        command
    }

    fn accept(&self) -> UnixStream {
        self.listener.accept().expect("a client").0
    }
}

fn send(stream: &mut UnixStream, n: u64) {
    let line = serde_json::to_string(&World::new(2, 4, "ticket").snapshot(n)).expect("JSON");
    writeln!(stream, "{line}").expect("sent");
}

/// A dashboard that has drawn a snapshot.
fn drawn(agent: &Agent) -> (Session, UnixStream) {
    let session = Session::start(agent.tui(), 80, 24);
    let mut stream = agent.accept();
    send(&mut stream, 1);
    session.wait_for("vm0/0");
    (session, stream)
}

#[test]
fn signals_and_keys_give_the_terminal_back() {
    for way in ["TERM", "INT", "HUP", "q", "\x03"] {
        let agent = Agent::new();
        let (mut session, _stream) = drawn(&agent);
        assert_ne!(settings_of(session.master()), session.settings, "raw while it draws");
        match way {
            "TERM" => session.signal(Signal::TERM),
            "INT" => session.signal(Signal::INT),
            "HUP" => session.signal(Signal::HUP),
            keys => session.press(keys),
        }
        let status = session.end();
        assert_eq!(status.code(), Some(0), "{way}: {status:?}");
        session.assert_restored();
    }
}

#[test]
fn a_signal_before_the_first_snapshot_gives_it_back_too() {
    let agent = Agent::new();
    let mut session = Session::start(agent.tui(), 80, 24);
    session.wait_for("waiting");
    session.signal(Signal::TERM);
    session.end();
    session.assert_restored();
}

#[test]
fn a_terminal_that_goes_away_ends_it() {
    let agent = Agent::new();
    let (mut session, _stream) = drawn(&agent);
    session.hang_up();
    // It is not the program's controlling terminal, so that no SIGHUP comes with it.
    let status = session.end();
    assert_eq!(status.code(), Some(1), "{status:?}");
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let agent = Agent::new();
    let (session, mut stream) = drawn(&agent);
    let quiet = session.wait_for_quiet();
    sleep(Duration::from_millis(700));
    assert_eq!(session.written().len(), quiet);
    send(&mut stream, 2);
    let begin = Instant::now();
    while session.written().len() == quiet {
        assert!(begin.elapsed() < PATIENCE, "a new snapshot is drawn");
        sleep(Duration::from_millis(5));
    }
    let changed = session.wait_for_quiet() - quiet;
    assert!(changed < quiet / 2, "only what changed: {changed} of {quiet} bytes");
}

#[test]
fn another_size_is_taken_over_and_no_size_is_survived() {
    let agent = Agent::new();
    let (mut session, mut stream) = drawn(&agent);
    session.wait_for_quiet();
    set_size(session.master(), 0, 0);
    session.signal(Signal::WINCH);
    send(&mut stream, 2);
    session.press("jj?");
    sleep(Duration::from_millis(200));
    set_size(session.master(), 160, 50);
    session.signal(Signal::WINCH);
    // In the large size all panels are there at once.
    session.wait_for("5 incidents");
    session.wait_for("4 callers");
    session.press("?q");
    assert_eq!(session.end().code(), Some(0));
    session.assert_restored();
}

#[test]
fn a_lost_connection_is_shown_until_it_is_back() {
    let agent = Agent::new();
    let (mut session, stream) = drawn(&agent);
    drop(stream);
    session.wait_for("no connection");
    let mut stream = agent.accept();
    send(&mut stream, 2);
    session.press("q");
    assert_eq!(session.end().code(), Some(0));
    session.assert_restored();
}

#[test]
fn no_color_is_obeyed_and_can_be_overruled() {
    let color = "\x1b[38;5;";
    for (variable, options, colored) in [
        ("1", &[][..], false),
        ("", &[], true),
        ("1", &["--colors", "16"], true),
        ("", &["--colors", "none"], false),
    ] {
        let agent = Agent::new();
        let mut command = agent.tui();
        command.args(options);
        // `Session` removes the variable, so that it is set by a shell in between.
        let mut shell = Command::new("env");
        shell.arg(format!("NO_COLOR={variable}")).arg(command.get_program()).args(command.get_args());
        let session = Session::start(shell, 80, 24);
        let mut stream = agent.accept();
        send(&mut stream, 1);
        session.wait_for("vm0/0");
        session.wait_for_quiet();
        assert_eq!(session.written().contains(color), colored, "NO_COLOR={variable} {options:?}");
    }
}

/// A feed with a defect.
struct Defective;

impl Feed for Defective {
    fn name(&self) -> String {
        "defective".into()
    }

    fn pace(&self) -> Pace<'_> {
        Pace::At(0)
    }

    fn poll(&mut self, _now_ns: u64) -> Vec<Update> {
        panic!("a defect, on purpose");
    }
}

const PANICKING: &str = "ISPIN_TUI_TEST_PANICS";

/// Not a test by itself: what `a_panic_gives_the_terminal_back` starts on a terminal.
#[test]
#[ignore = "started by a_panic_gives_the_terminal_back"]
fn panicking() {
    if std::env::var_os(PANICKING).is_some() {
        let signals = Signals::catch().expect("signals");
        run(&mut Defective, &signals, &Options::default()).expect("it panics before");
    }
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--ignored", "--exact", "panicking", "--nocapture"]).env(PANICKING, "1");
    let mut session = Session::start(command, 80, 24);
    session.wait_for("a defect, on purpose");
    assert!(!session.end().success());
    session.assert_restored();
    let written = session.written();
    let after = written.rsplit_once(LEFT).map(|(_, after)| after).unwrap_or_default();
    assert!(after.contains("a defect, on purpose"), "told on the restored terminal: {after:?}");
}
