//! Compression of generated text with pbzip2, as many threads as the load has.

mod text;

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, FromArgMatches};

use super::Workload;
use super::kit::host_file::HostFile;
use super::kit::program;
use super::kit::report::{Report, broken};
use super::kit::rounds;
use super::kit::scratch::Scratch;
use super::kit::setup::Setup;
use text::{Difference, Text};

pub(super) const WORKLOAD: Workload = Workload {
    name: "pbzip2",
    about: "parallel compression of generated text with pbzip2, in a tmpfs",
    unit: "s",
    needs: &[HostFile::Program { path: PBZIP2, package: "pbzip2" }],
    options: Options::augment_args,
    run,
};

const PBZIP2: &str = "/usr/bin/pbzip2";

/// How long one compression may take.
const LIMIT: Duration = Duration::from_secs(3600);

#[derive(Args, Clone, Debug)]
struct Options {
    /// Size of the text in MB (10^6 bytes)
    #[arg(long, value_name = "MB", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4096))]
    megabytes: u32,
    /// Size of the blocks that are shared out to threads, in units of 100 kB
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=9))]
    block: u32,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    WORKLOAD.check_needs(setup)?;
    let options = Options::from_arg_matches(matches)?;
    let scratch = Scratch::new(setup)?;
    let plain = scratch.path().join("text");
    let length = u64::from(options.megabytes) * 1_000_000;
    let mut out = BufWriter::new(File::create(&plain).context("creating the text")?);
    Text::new(setup.seed).write(length, &mut out, || setup.signals.check())?;
    out.flush().context("writing the text: give the guest more memory")?;
    drop(out);
    let start = Instant::now();
    let mut packed = 0;
    let times = rounds::repeat(setup, || {
        let begin = Instant::now();
        compress(setup, &options, scratch.path())?;
        let time = begin.elapsed();
        packed = check(setup, scratch.path(), length)?;
        Ok(time)
    })?;
    let report = Report::new(times.len() as u64, start.elapsed()).value(rounds::mean_seconds(&times));
    scratch.remove()?;
    Ok(report
        .with("rounds", times.len())
        .with("megabytes", options.megabytes)
        .with("compressed_bytes", packed))
}

fn compress(setup: &Setup, options: &Options, folder: &Path) -> Result<()> {
    let mut command = Command::new(PBZIP2);
    command.args(["--keep", "--force", "--quiet"]);
    command.arg(format!("-b{}", options.block)).arg(format!("-p{}", setup.threads)).arg(folder.join("text"));
    program::run(&mut command, &folder.join("messages"), &setup.signals, LIMIT)
}

/// Decompresses, compares with the text generated anew, and returns the compressed size.
fn check(setup: &Setup, folder: &Path, length: u64) -> Result<u64> {
    let (packed, unpacked) = (folder.join("text.bz2"), folder.join("unpacked"));
    let mut command = Command::new(PBZIP2);
    command.args(["--decompress", "--keep", "--quiet", "--stdout"]);
    command.arg(format!("-p{}", setup.threads)).arg(&packed);
    command.stdout(File::create(&unpacked).context("creating the unpacked text")?);
    program::run(&mut command, &folder.join("messages"), &setup.signals, LIMIT)
        .context("decompressing what was compressed just before")?;
    let size = fs::metadata(&unpacked).context("looking at the unpacked text")?.len();
    if size != length {
        broken!("{length} bytes were compressed, {size} came back");
    }
    let file = BufReader::new(File::open(&unpacked).context("opening the unpacked text")?);
    let mut difference = Difference::new(file);
    Text::new(setup.seed).write(length, &mut difference, || setup.signals.check())?;
    if let Some(offset) = difference.first() {
        broken!("what came back differs from what was compressed, from byte {offset} on");
    }
    Ok(fs::metadata(&packed).context("looking at the compressed text")?.len())
}
