//! Measures what the dashboard costs: CPU time of `ispin-tui` on a pseudo terminal of 200x60, fed with made-up
//! snapshots of 64 vCPUs four times a second, and then without any news.
//!
//! ```text
//! cargo build --release -p ispin-tui && cargo run --release -p ispin-tui --example cpu
//! ```

#[path = "../tests/common/synthetic.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod synthetic;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use synthetic::{INTERVAL_NS, World};

#[derive(Parser)]
struct Cli {
    /// The dashboard
    #[arg(long, default_value = "target/release/ispin-tui")]
    program: PathBuf,
    /// Length of each part, in seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    #[arg(long, default_value_t = 4)]
    vms: u32,
    /// vCPUs of each VM
    #[arg(long, default_value_t = 16)]
    vcpus: u32,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let folder = std::env::temp_dir().join(format!("ispin-tui-cpu-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let measured = measure(&cli, &folder.join("agent.sock"));
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    measured
}

fn measure(cli: &Cli, socket: &PathBuf) -> Result<()> {
    let listener = UnixListener::bind(socket).context("listening")?;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave: File = rustix::fs::open(ptsname(&master, Vec::new())?, flags, Mode::empty())?.into();
    tcsetwinsize(&master, Winsize { ws_row: 60, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 })?;
    let mut child = Command::new(&cli.program)
        .arg("--connect")
        .arg(format!("unix:{}", socket.display()))
        .env("TERM", "xterm")
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave)
        .spawn()
        .with_context(|| format!("starting {}; build it with --release first", cli.program.display()))?;
    let mut terminal = File::from(master);
    std::thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while terminal.read(&mut bytes).is_ok_and(|n| n > 0) {}
    });
    let (mut client, _) = listener.accept()?;

    // A lock that behaves and one that does not, so that figures and bars change.
    let lines: Vec<Vec<u8>> = (1..=cli.seconds * 1_000_000_000 / INTERVAL_NS)
        .map(|n| {
            let mut line = serde_json::to_vec(&World::new(cli.vms, cli.vcpus, "ticket").snapshot(n))?;
            line.push(b'\n');
            Ok(line)
        })
        .collect::<Result<_>>()?;
    let begin = Instant::now();
    let before = cpu_seconds(child.id())?;
    for (n, line) in lines.iter().enumerate() {
        client.write_all(line)?;
        let next = begin + Duration::from_nanos((n as u64 + 1) * INTERVAL_NS);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let busy = percent(before, cpu_seconds(child.id())?, begin.elapsed());
    let begin = Instant::now();
    let before = cpu_seconds(child.id())?;
    std::thread::sleep(Duration::from_secs(cli.seconds));
    let idle = percent(before, cpu_seconds(child.id())?, begin.elapsed());
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let status = child.wait()?;
    if !status.success() {
        bail!("{} ended with {status}", cli.program.display());
    }
    let bytes = lines.iter().map(Vec::len).sum::<usize>() / lines.len().max(1);
    println!("{} vCPUs, 4 updates/s of {bytes} bytes, 200x60: {busy:.2} % of a core", cli.vms * cli.vcpus);
    println!("no news: {idle:.2} % of a core");
    Ok(())
}

/// User and system time of a process.
fn cpu_seconds(pid: u32) -> Result<f64> {
    // First field: time on a CPU, ns. Finer than the clock ticks of /proc/PID/stat.
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).context("reading its CPU time")?;
    let ns: f64 = text.split_whitespace().next().context("an empty schedstat")?.parse()?;
    Ok(ns / 1e9)
}

fn percent(before: f64, after: f64, elapsed: Duration) -> f64 {
    (after - before) / elapsed.as_secs_f64() * 100.0
}
