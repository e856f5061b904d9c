//! The socket feed against a real unix socket.

#[path = "common/mod.rs"]
mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use common::synthetic::World;
use ispin_tui::feed::socket::{Address, SocketFeed};
use ispin_tui::feed::{Feed, Pace, Update};
use tempfile::TempDir;

const SECOND: u64 = 1_000_000_000;

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

    fn path(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn accept(&self) -> UnixStream {
        self.listener.accept().expect("the feed has connected").0
    }
}

fn feed_at(path: &Path) -> SocketFeed {
    SocketFeed::new(format!("unix:{}", path.display()).parse::<Address>().expect("an address"))
}

fn line(n: u64) -> Vec<u8> {
    let mut line = serde_json::to_vec(&World::new(2, 4, "ticket").snapshot(n)).expect("JSON");
    line.push(b'\n');
    line
}

/// What an update is, in a word or with its reason.
fn told(updates: &[Update]) -> Vec<String> {
    updates
        .iter()
        .map(|update| match update {
            Update::Snapshot(snapshot) => format!("snapshot {}", snapshot.seq),
            Update::Waiting(why) => format!("waiting: {why}"),
            Update::Lost(why) => format!("lost: {why}"),
            Update::Failed(why) => format!("failed: {why}"),
            Update::Finished => "finished".into(),
        })
        .collect()
}

#[test]
fn snapshots_come_in_whole_lines_however_they_are_cut() {
    let agent = Agent::new();
    let mut feed = feed_at(&agent.path());
    assert!(told(&feed.poll(0))[0].starts_with("waiting: "));
    let mut stream = agent.accept();
    assert!(matches!(feed.pace(), Pace::Readable(_)));

    let bytes = [line(1), line(2), b"\n".to_vec(), line(3)].concat();
    let third = bytes.len() - 10;
    let mut seen = Vec::new();
    for piece in bytes[..third].chunks(3_000) {
        stream.write_all(piece).expect("written");
        seen.extend(told(&feed.poll(0)));
    }
    assert_eq!(seen, ["snapshot 1", "snapshot 2"]);
    assert!(feed.poll(0).is_empty(), "nothing new, no wait");
    stream.write_all(&bytes[third..]).expect("written");
    assert_eq!(told(&feed.poll(0)), ["snapshot 3"]);
}

#[test]
fn a_lost_connection_is_told_and_taken_up_again() {
    let agent = Agent::new();
    let mut feed = feed_at(&agent.path());
    feed.poll(0);
    let mut stream = agent.accept();
    stream.write_all(&line(1)).expect("written");
    feed.poll(0);
    drop(stream);
    let lost = told(&feed.poll(SECOND));
    assert!(lost[0].starts_with("lost: ") && lost[0].contains("closed the connection"), "{lost:?}");
    assert!(matches!(feed.pace(), Pace::At(at) if at == 2 * SECOND));
    assert!(feed.poll(SECOND + 1).is_empty(), "not before its time");

    assert!(feed.poll(2 * SECOND).is_empty(), "connected again");
    agent.accept().write_all(&line(2)).expect("written");
    assert_eq!(told(&feed.poll(2 * SECOND))[0], "snapshot 2");
}

#[test]
fn an_ended_run_is_no_broken_connection() {
    let agent = Agent::new();
    let mut feed = feed_at(&agent.path());
    feed.poll(0);
    let mut snapshot = World::new(1, 1, "ticket").snapshot(1);
    snapshot.finished = true;
    let mut stream = agent.accept();
    writeln!(stream, "{}", serde_json::to_string(&snapshot).expect("JSON")).expect("written");
    drop(stream);
    let told = told(&feed.poll(0));
    assert_eq!(told[0], "snapshot 1");
    assert!(told[1].contains("the run has ended"), "{told:?}");
}

#[test]
fn what_is_no_snapshot_is_told_with_its_line() {
    let agent = Agent::new();
    let mut feed = feed_at(&agent.path());
    feed.poll(0);
    let mut stream = agent.accept();
    stream.write_all(&line(1)).expect("written");
    stream.write_all(b"{\"seq\": \"one\"}\n").expect("written");
    let told = told(&feed.poll(0));
    assert_eq!(told[0], "snapshot 1");
    assert!(told[1].starts_with("lost: ") && told[1].contains("line 2"), "{told:?}");
}

#[test]
fn a_line_without_end_does_not_fill_the_memory() {
    let agent = Agent::new();
    let mut feed = feed_at(&agent.path());
    feed.poll(0);
    let mut stream = agent.accept();
    stream.set_nonblocking(true).expect("set");
    let mut told = Vec::new();
    for _ in 0..10_000 {
        // A full buffer is not an error here: the feed empties it.
        let _ = stream.write(&[b'x'; 1 << 16]);
        told = self::told(&feed.poll(0));
        if !told.is_empty() {
            break;
        }
    }
    assert!(told[0].contains("longer than"), "{told:?}");
}

#[test]
fn why_there_is_no_connection_is_told_so_that_it_can_be_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = told(&feed_at(&folder.path().join("none")).poll(0));
    assert!(missing[0].contains("start `ispin-agent run --listen`"), "{missing:?}");

    let deserted = folder.path().join("deserted");
    drop(UnixListener::bind(&deserted).expect("a socket"));
    let gone = told(&feed_at(&deserted).poll(0));
    assert!(gone[0].contains("nobody listens"), "{gone:?}");

    if !rustix::process::geteuid().is_root() {
        let agent = Agent::new();
        std::fs::set_permissions(agent.path(), std::fs::Permissions::from_mode(0o0)).expect("set");
        let denied = told(&feed_at(&agent.path()).poll(0));
        assert!(denied[0].contains("permission denied"), "{denied:?}");
    }

    let long = told(&feed_at(&folder.path().join("x".repeat(200))).poll(0));
    assert!(long[0].starts_with("waiting: "), "{long:?}");
}

#[test]
fn addresses_name_a_unix_socket() {
    assert_eq!("unix:/a/b".parse::<Address>().map(|a| a.to_string()), Ok("unix:/a/b".into()));
    for bad in ["", "/a/b", "unix:", "tcp:1"] {
        assert!(bad.parse::<Address>().is_err_and(|why| why.contains("unix:PATH")), "{bad}");
    }
}
