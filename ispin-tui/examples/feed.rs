//! Serves made-up snapshots on a unix socket, as an agent would: something to look at without a hypervisor.
//!
//! ```text
//! cargo run -p ispin-tui --example feed -- --socket /tmp/feed.sock --vms 4 --vcpus 16 &
//! cargo run -p ispin-tui -- --connect unix:/tmp/feed.sock
//! ```
//!
//! With `--file` it writes them to a file instead, all at once.

#[path = "../tests/common/synthetic.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod synthetic;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use synthetic::{INTERVAL_NS, World};

#[derive(Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Where to write
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    file: Option<PathBuf>,
    #[arg(long, default_value_t = 2)]
    vms: u32,
    /// vCPUs of each VM
    #[arg(long, default_value_t = 4)]
    vcpus: u32,
    /// Locks that take turns
    #[arg(long, value_delimiter = ',', default_value = "ticket,hvm")]
    locks: Vec<String>,
    /// Snapshots of each turn, four a second
    #[arg(long, default_value_t = 40)]
    turn: u64,
    /// Turns before the end; 0 = no end
    #[arg(long, default_value_t = 0)]
    turns: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if cli.locks.is_empty() || cli.vms == 0 || cli.vcpus == 0 {
        bail!("give at least one lock, one VM and one vCPU");
    }
    match (&cli.socket, &cli.file) {
        (Some(socket), _) => serve(&cli, socket),
        (None, Some(file)) => write(&cli, file),
        (None, None) => bail!("give --socket PATH or --file FILE"),
    }
}

/// Line number `n` of the endless series, from 0; `None` after the last turn.
fn line(cli: &Cli, n: u64) -> Result<Option<Vec<u8>>> {
    let (run, within) = (n / cli.turn, n % cli.turn + 1);
    if cli.turns > 0 && run >= cli.turns {
        return Ok(None);
    }
    let lock = &cli.locks[(run % cli.locks.len() as u64) as usize];
    let mut snapshot = World { run, ..World::new(cli.vms, cli.vcpus, lock) }.snapshot(within);
    snapshot.finished = run + 1 == cli.turns && within == cli.turn;
    let mut line = serde_json::to_vec(&snapshot)?;
    line.push(b'\n');
    Ok(Some(line))
}

fn write(cli: &Cli, path: &PathBuf) -> Result<()> {
    if cli.turns == 0 {
        bail!("--file needs --turns: it has an end");
    }
    let mut out = BufWriter::new(File::create(path).with_context(|| format!("creating {}", path.display()))?);
    let mut n = 0;
    while let Some(line) = line(cli, n)? {
        out.write_all(&line)?;
        n += 1;
    }
    Ok(out.flush()?)
}

fn serve(cli: &Cli, path: &PathBuf) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listening at {}", path.display()))?;
    listener.set_nonblocking(true)?;
    let mut clients = Vec::new();
    let begin = Instant::now();
    let mut n = 0;
    while let Some(line) = line(cli, n)? {
        n += 1;
        let at = begin + Duration::from_nanos(n * INTERVAL_NS);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        while let Ok((client, _)) = listener.accept() {
            client.set_write_timeout(Some(Duration::from_secs(1)))?;
            clients.push(client);
        }
        clients.retain_mut(|client| client.write_all(&line).is_ok());
    }
    Ok(())
}
