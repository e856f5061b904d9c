//! What the sinks write, from snapshots with known numbers.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use common::{open_sink, run_of, snapshot, valid_csv, valid_jsonl};
use ispin_agent::model::Snapshot;
use ispin_agent::sink::Sink;

fn feed(sink: &mut dyn Sink, run: &[Snapshot]) {
    sink.begin().expect("begin");
    let mut previous = None;
    for now in run {
        sink.write(previous, now).expect("write");
        previous = Some(now);
    }
    sink.finish().expect("finish");
}

#[test]
fn csv_is_what_it_always_was() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("run.csv");
    feed(open_sink("csv", path.to_str().expect("UTF-8")).expect("open").as_mut(), &run_of(2));
    insta::assert_snapshot!(fs::read_to_string(&path).expect("CSV"));
}

#[test]
fn csv_intervals_add_up_to_the_totals() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("run.csv");
    let run = run_of(7);
    feed(open_sink("csv", path.to_str().expect("UTF-8")).expect("open").as_mut(), &run);
    let columns = ispin_agent::sink::csv_columns();
    let at = |name: &str| columns.iter().position(|c| c == name).expect("column");
    let rows = valid_csv(&path);
    for (name, total) in [
        ("takes", run[6].vms[1].total().counters.takes),
        ("lwp_harmful", run[6].vms[1].total().counters.lwp_harmful),
        ("slices", run[6].vms[1].total().slices),
        ("kernel_waiters", run[6].vms[1].total().kernel.waiters),
        ("cross_check_agreed", run[6].cross_check.expect("cross-check").agreed),
        ("losses_incidents_dropped", run[6].losses.incidents_dropped),
    ] {
        let all = rows.iter().filter(|row| &row[at("vm")] == "vm1" && &row[at("vcpu")] == "all");
        let sum: u64 = all.map(|row| row[at(name)].parse::<u64>().expect("a number")).sum();
        assert_eq!(sum, total, "{name}");
    }
    assert_eq!(rows.len(), 7 * 2 * 3);
}

#[test]
fn a_new_session_starts_from_zero() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("run.csv");
    let mut run = run_of(3);
    for mut again in run_of(2) {
        again.source.lock = "hvm".into();
        run.push(again);
    }
    feed(open_sink("csv", path.to_str().expect("UTF-8")).expect("open").as_mut(), &run);
    let columns = ispin_agent::sink::csv_columns();
    let takes = columns.iter().position(|c| c == "takes").expect("column");
    let seen: Vec<String> = valid_csv(&path)
        .iter()
        .filter(|r| &r[7] == "vm0" && &r[8] == "all")
        .map(|r| r[takes].to_owned())
        .collect();
    assert_eq!(seen, ["3000"; 5]);
}

#[test]
fn a_vm_with_a_comma_in_its_name_stays_one_field() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("run.csv");
    let mut odd = snapshot(1);
    odd.vms[0].name = "a,\"b\"".into();
    feed(open_sink("csv", path.to_str().expect("UTF-8")).expect("open").as_mut(), &[odd]);
    assert_eq!(&valid_csv(&path)[0][7], "a,\"b\"");
}

#[test]
fn json_lines_read_back_are_the_same_snapshots() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("run.jsonl");
    let run = run_of(3);
    feed(open_sink("json", path.to_str().expect("UTF-8")).expect("open").as_mut(), &run);
    assert_eq!(valid_jsonl(&path), run);
    insta::assert_snapshot!(serde_json::to_string_pretty(&run[0]).expect("JSON"));
}

#[test]
fn socket_serves_several_clients_from_when_they_came() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.sock");
    let mut sink = open_sink("listen", &format!("unix:{}", path.display())).expect("listen");
    assert_eq!(fs::metadata(&path).expect("socket").permissions().mode() & 0o777, 0o600);
    sink.begin().expect("begin");
    let run = run_of(3);

    let first = UnixStream::connect(&path).expect("connect");
    sink.write(None, &run[0]).expect("write");
    let second = UnixStream::connect(&path).expect("connect");
    sink.write(Some(&run[0]), &run[1]).expect("write");
    sink.write(Some(&run[1]), &run[2]).expect("write");
    sink.finish().expect("finish");
    drop(sink);

    let received = |stream: UnixStream| -> Vec<Snapshot> {
        let lines = BufReader::new(stream).lines();
        lines.map(|line| serde_json::from_str(&line.expect("line")).expect("snapshot")).collect()
    };
    assert_eq!(received(first), run);
    assert_eq!(received(second), run[1..]);
    assert!(!path.exists(), "the socket is left behind");
}

#[test]
fn a_vanished_client_disturbs_nobody() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.sock");
    let mut sink = open_sink("listen", &format!("unix:{}", path.display())).expect("listen");
    let stays = UnixStream::connect(&path).expect("connect");
    let vanishes = UnixStream::connect(&path).expect("connect");
    sink.write(None, &snapshot(1)).expect("write");
    drop(vanishes);
    for n in 2..=4 {
        sink.write(Some(&snapshot(n - 1)), &snapshot(n)).expect("write");
    }
    drop(sink);
    assert_eq!(BufReader::new(stays).lines().count(), 4);
}

#[test]
fn a_client_that_never_reads_loses_its_connection_and_delays_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.sock");
    let mut sink = open_sink("listen", &format!("unix:{}", path.display())).expect("listen");
    let mut slow = UnixStream::connect(&path).expect("connect");
    let mut fast = UnixStream::connect(&path).expect("connect");
    fast.set_nonblocking(true).expect("nonblocking");
    let mut big = snapshot(1);
    big.source.workload = "x".repeat(200_000);
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    let writes = 60;
    for _ in 0..writes {
        let begin = std::time::Instant::now();
        sink.write(None, &big).expect("write");
        assert!(begin.elapsed() < Duration::from_secs(2), "a write waited for a client");
        while let Ok(n @ 1..) = fast.read(&mut buffer) {
            taken += n;
        }
    }
    sink.finish().expect("finish");
    drop(sink);
    while let Ok(n @ 1..) = fast.read(&mut buffer) {
        taken += n;
    }
    let line = serde_json::to_vec(&big).expect("JSON").len() + 1;
    assert_eq!(taken, writes * line, "the fast client got everything");
    let mut rest = vec![];
    slow.read_to_end(&mut rest).expect("what it was sent before");
    assert!(rest.len() < writes * line, "the slow client was not disconnected");
}

#[test]
fn one_that_connects_and_talks_is_not_listened_to() {
    use std::io::Write;
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.sock");
    let mut sink = open_sink("listen", &format!("unix:{}", path.display())).expect("listen");
    let mut client = UnixStream::connect(&path).expect("connect");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("talk");
    sink.write(None, &snapshot(1)).expect("write");
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).expect("line");
    assert_eq!(serde_json::from_str::<Snapshot>(&line).expect("snapshot"), snapshot(1));
}

#[test]
fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.sock");
    let value = format!("unix:{}", path.display());
    let error = |value: &str| format!("{:#}", open_sink("listen", value).err().expect("must fail"));

    let other = UnixListener::bind(&path).expect("bind");
    assert!(error(&value).contains("another program is listening"), "{}", error(&value));
    drop(other);
    assert!(path.exists());
    drop(open_sink("listen", &value).expect("a stale socket is replaced"));

    let file = dir.path().join("file");
    fs::write(&file, "precious").expect("write");
    let refused = error(&format!("unix:{}", file.display()));
    assert!(refused.contains("is no socket"), "{refused}");
    assert_eq!(fs::read(&file).expect("read"), b"precious");

    assert!(error("tcp:1234").contains("unix:"));
    assert!(error(&format!("unix:/tmp/{}", "x".repeat(200))).contains("107 bytes"));
    assert!(error("unix:/no/such/folder/sock").contains("its folder must exist"));
}
