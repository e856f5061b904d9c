//! What the integration tests share: snapshots with known numbers, a source that gives them, the program.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ispin_agent::model::{
    Convoy, CrossCheck, GuestLock, Hist, IncidentRecord, KernelCounts, LockStats, Losses, Seed, Snapshot,
    Source as Observed, TableRow, Vcpu, Victim, Vm,
};
use ispin_agent::sink::{KINDS, Sink};
use ispin_agent::source::{Pace, Source};
use ispin_common::counters::Counters;

/// Snapshot number `n` (from 1) of a made-up run: two VMs with two vCPUs, a snapshot each 250 ms, all totals
/// in proportion to `n`.
pub fn snapshot(n: u64) -> Snapshot {
    Snapshot {
        seq: n,
        unix_ms: 1_700_000_000_000 + 250 * n,
        elapsed_ns: 250_000_000 * n,
        source: Observed {
            kind: "threads".into(),
            lock: "ticket".into(),
            slot_source: "publisher".into(),
            time_unit: "ns".into(),
            csd: 10_000,
            quantum: 8_000_000,
            max_defer: Some(1_000_000),
            nested: Some(false),
            pcpus: 2,
            workload: "counter, 2 x 2".into(),
        },
        vms: vec![vm("vm0", n, 1), vm("vm1", n, 3)],
        locks: vec![TableRow { name: "counter".into(), key: 1, acquires: 4000 * n, ..TableRow::default() }],
        callers: vec![TableRow { name: "worker".into(), key: 7, acquires: 4000 * n, ..TableRow::default() }],
        incidents: vec![incident(n)],
        losses: Losses { incidents_dropped: n, ..Losses::default() },
        cross_check: Some(CrossCheck {
            agreed: 10 * n,
            window_taking: n,
            pending: 2,
            ..CrossCheck::default()
        }),
        guest: Some(GuestLock { events: Some(true), irqs_off: Some(stats(n, ["2048", "4096"])) }),
        finished: false,
    }
}

fn stats<const N: usize>(n: u64, names: [&str; N]) -> LockStats {
    LockStats(names.into_iter().zip(1..).map(|(name, i)| (name.to_owned(), i * n)).collect())
}

fn vm(name: &str, n: u64, weight: u64) -> Vm {
    let vcpu = |id: u32| {
        let n = n * weight * (id as u64 + 1);
        Vcpu {
            id,
            running: id == 0,
            phase: if id == 0 { "holding".into() } else { "waiting".into() },
            quantum_left: (id == 0).then_some(3_000_000),
            slice_id: 15 * n as u32,
            slices: 15 * n,
            dispatches: 16 * n,
            on_time: 125_000_000 * n,
            total_cycles: 200_000_000 * n,
            counters: Counters {
                takes: 1000 * n,
                acquires: 1000 * n,
                contended: 250 * n,
                releases: 1000 * n,
                deferrals: 30 * n,
                defer_cycles: 9_000_000 * n,
                defer_spin_cycles: 6_250_000 * n,
                wait_cycles: 70_000_000 * n,
                spin_cycles: 62_500_000 * n,
                hold_cycles: 2_000_000 * n,
                lql_sum: 1500 * n,
                lql_max: 3,
                lhp: n,
                lhp_preempted: n,
                lwp: 4 * n,
                lwp_preempted: 3 * n,
                lwp_harmful: 2 * n,
                idle_cycles: 12_000_000 * n,
                psp_renewal: n,
                psp_early: 2 * n,
                psp_long_wait: 2 * n,
                deferred_takes: 30 * n,
                deferred_next: 29 * n,
                deferred_capable: 28 * n,
                ..Counters::default()
            },
            kernel: KernelCounts {
                holders: n,
                waiters: 3 * n,
                out_quantum: 15 * n,
                ..KernelCounts::default()
            },
            stats: Some(stats(n, LockStats::NAMES)),
        }
    };
    let hist = Hist { buckets: vec![0, 0, 5 * n, 2 * n] };
    Vm {
        name: name.into(),
        vcpus: vec![vcpu(0), vcpu(1)],
        hold: hist.clone(),
        wait: hist,
        hold_over_csd: Some(2 * n),
        convoys: n,
        convoy_psp: 3 * n,
        convoy_cycles: 1_000_000 * n,
        // The other VM's are over.
        convoy: (weight == 1).then(|| Convoy {
            lock: "counter".into(),
            since: 7,
            since_ns: 250_000_000,
            until: 9,
            psp: 3,
            seed: Seed { kind: "lhp".into(), vcpu: 1, caller: "worker".into(), reason: "early".into() },
        }),
    }
}

fn incident(n: u64) -> IncidentRecord {
    IncidentRecord {
        kind: "lwp".into(),
        vm: "vm1".into(),
        vcpu: 1,
        seq: n as u32,
        lock: "counter".into(),
        caller: "worker".into(),
        planned_end: Some(5),
        reason: "early".into(),
        cause: "quantum".into(),
        victims: vec![Victim { vcpu: 0, take: 1, acquire: 9 }],
        ..IncidentRecord::default()
    }
}

/// Snapshots 1 to `count`, the last one finished.
pub fn run_of(count: u64) -> Vec<Snapshot> {
    let mut run: Vec<Snapshot> = (1..=count).map(snapshot).collect();
    if let Some(last) = run.last_mut() {
        last.finished = true;
    }
    run
}

/// A live source that gives prepared snapshots, then fails.
#[derive(Default)]
pub struct FakeSource {
    pub snapshots: VecDeque<Snapshot>,
    pub announced: Vec<u64>,
    /// When each sample was taken, `CLOCK_MONOTONIC` ns.
    pub sampled: Vec<u64>,
    /// Samples only at multiples of this, ns.
    pub window_ns: Option<u64>,
    /// Before the sample of this number, time is wasted for this long.
    pub stall: Option<(usize, Duration)>,
}

impl FakeSource {
    pub fn of(snapshots: impl IntoIterator<Item = Snapshot>) -> Self {
        Self { snapshots: snapshots.into_iter().collect(), ..Self::default() }
    }
}

impl Source for FakeSource {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn pace(&self) -> Pace {
        Pace::Clock
    }

    fn announce(&mut self, at_ns: u64) {
        self.announced.push(at_ns);
    }

    fn align(&mut self, wanted_ns: u64) -> u64 {
        self.window_ns.map_or(wanted_ns, |window| wanted_ns.next_multiple_of(window))
    }

    fn sample(&mut self) -> Result<Snapshot> {
        self.sampled.push(ispin_agent::clock::now_ns());
        if let Some((number, time)) = self.stall
            && self.sampled.len() == number
        {
            std::thread::sleep(time);
        }
        match self.snapshots.pop_front() {
            Some(snapshot) => Ok(snapshot),
            None => bail!("the fake source has no more snapshots"),
        }
    }
}

/// Opens the sink behind `--option value`.
pub fn open_sink(option: &str, value: &str) -> Result<Box<dyn Sink>> {
    let kind = KINDS.iter().find(|kind| kind.option == option).expect("a sink of that name");
    (kind.open)(value)
}

/// Writes a record that `--source replay:FILE` plays.
pub fn record(dir: &Path, snapshots: &[Snapshot]) -> PathBuf {
    let path = dir.join("record.jsonl");
    let mut file = fs::File::create(&path).expect("record");
    for snapshot in snapshots {
        serde_json::to_writer(&mut file, snapshot).expect("JSON");
        file.write_all(b"\n").expect("record");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("permissions");
    path
}

/// The program, with `arguments` and none of this environment's settings.
pub fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ispin-agent"));
    command.args(arguments).env_remove("ISPIN_BTF").stdin(Stdio::null());
    command
}

/// `run --source replay:RECORD` with `arguments`.
pub fn replay(record: &Path, arguments: &[&str]) -> Command {
    let mut command = agent(&["run", "--source"]);
    command.arg(format!("replay:{}", record.display())).args(arguments);
    command
}

/// A command that ran to its end.
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` to its end, for 30 s at most.
pub fn done(command: Command) -> Done {
    finish(started(command))
}

/// Waits for a program's end, for 30 s at most.
pub fn finish(child: Child) -> Done {
    let pid = rustix::process::Pid::from_child(&child);
    let (over, waiting) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if waiting.recv_timeout(Duration::from_secs(30)).is_err() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("its output");
    let _ = over.send(());
    watchdog.join().expect("watchdog");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let done = Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    println!("--- exit code {:?}, stderr:\n{}", done.code, done.stderr);
    assert!(!done.stderr.contains("panicked"), "the program panicked");
    done
}

/// Waits until `condition` holds, for 20 s at most.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lines of a file, whether or not it exists yet.
pub fn lines(path: &Path) -> Vec<String> {
    let Ok(file) = fs::File::open(path) else { return vec![] };
    std::io::BufReader::new(file).lines().map(|line| line.expect("UTF-8")).collect()
}

/// A CSV file as its readers see it: every row has all columns, the last line is complete. Returns the rows.
pub fn valid_csv(path: &Path) -> Vec<csv::StringRecord> {
    let text = fs::read_to_string(path).expect("CSV file");
    assert!(text.ends_with('\n'), "torn last line: {:?}", text.lines().last());
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header: Vec<String> = reader.headers().expect("header").iter().map(str::to_owned).collect();
    assert_eq!(header, ispin_agent::sink::csv_columns());
    reader.records().map(|row| row.expect("a whole row")).collect()
}

/// A JSON Lines file as its readers see it. Returns the snapshots.
pub fn valid_jsonl(path: &Path) -> Vec<Snapshot> {
    let text = fs::read_to_string(path).expect("JSON Lines file");
    assert!(text.is_empty() || text.ends_with('\n'), "torn last line");
    text.lines().map(|line| serde_json::from_str(line).expect("a snapshot")).collect()
}

/// Whether this process is root. Where it is not, a test that needs root is skipped with a message; under CI,
/// which has to run it, it fails instead.
pub fn root_or_skip() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci.is_empty()),
        "this test needs root, and CI must run it"
    );
    eprintln!("skipped: needs root");
    false
}

/// Whether this machine can observe threads; where not, says why and skips, or fails under CI.
pub fn threads_or_skip() -> bool {
    if !root_or_skip() {
        return false;
    }
    let check = done(agent(&["check", "--json"]));
    let report: serde_json::Value = serde_json::from_str(&check.stdout).expect("JSON");
    let threads = report["sources"].as_array().expect("sources").iter().find(|s| s["name"] == "threads");
    let missing = threads.expect("threads")["missing"].to_string();
    if missing == "[]" {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci.is_empty()),
        "CI must run this test, but lacks {missing}"
    );
    eprintln!("skipped: the threads source lacks {missing}");
    false
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Starts `command`, its output to be collected by [`finish`].
pub fn started(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Sends a signal to `child` alone.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("kill");
}
