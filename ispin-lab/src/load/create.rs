//! Threads that create and delete files in one folder of a tmpfs: inode lists, directory entries, the folder's rwsem.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, FromArgMatches};
use rustix::fs::{AtFlags, Mode, OFlags, open, openat, unlinkat};
use rustix::io::Errno;

use super::Workload;
use super::kit::report::{Report, broken};
use super::kit::scratch::Scratch;
use super::kit::setup::Setup;
use super::kit::team::{self, Turn, Until};

pub(super) const WORKLOAD: Workload = Workload {
    name: "create",
    about: "files created, read back and deleted in one tmpfs folder",
    unit: "files/s",
    needs: &[],
    options: Options::augment_args,
    run,
};

#[derive(Args, Clone, Debug)]
struct Options {
    /// Files that each thread keeps before it deletes the oldest
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=4096))]
    kept: u32,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    let kept = Options::from_arg_matches(matches)?.kept as usize;
    let scratch = Scratch::new(setup)?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(scratch.path(), flags, Mode::empty()).context("opening the temporary folder")?;
    let folder = Arc::new(folder);
    let body = move |turn: &Turn| create_and_delete(turn, &folder, kept);
    let team = team::run(setup, Until::of(setup), body)?;
    let left = std::fs::read_dir(scratch.path()).context("reading the temporary folder")?.count();
    if left > 0 {
        broken!("{left} files are in the folder, although each thread deleted all of its own");
    }
    scratch.remove()?;
    Ok(Report::of_team(&team).with("kept", kept))
}

/// One operation is a file created and written; every file is also read back and deleted.
fn create_and_delete(turn: &Turn, folder: &OwnedFd, kept: usize) -> Result<u64> {
    let mut files = VecDeque::with_capacity(kept + 1);
    let mut done = 0;
    while turn.goes_on(done) {
        let name = format!("{}-{done}", turn.index);
        create(folder, &name)?;
        files.push_back(name);
        if files.len() > kept
            && let Some(oldest) = files.pop_front()
        {
            delete(folder, &oldest)?;
        }
        done += 1;
    }
    files.iter().try_for_each(|name| delete(folder, name))?;
    Ok(done)
}

fn create(folder: &OwnedFd, name: &str) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(Errno::EXIST) => broken!("file {name} was there before it was created"),
        Err(error) => return Err(error).with_context(|| format!("creating {name}")),
    };
    let written = rustix::io::write(&file, name.as_bytes()).with_context(|| format!("writing {name}"))?;
    if written != name.len() {
        broken!("writing {} bytes to {name} wrote {written}", name.len());
    }
    Ok(())
}

fn delete(folder: &OwnedFd, name: &str) -> Result<()> {
    let file = match openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => broken!("file {name} was created and is gone"),
        Err(error) => return Err(error).with_context(|| format!("opening {name}")),
    };
    let mut content = [0; 64];
    let count = rustix::io::read(&file, &mut content).with_context(|| format!("reading {name}"))?;
    if &content[..count] != name.as_bytes() {
        broken!("file {name} holds {:?}", String::from_utf8_lossy(&content[..count]));
    }
    drop(file);
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) => broken!("file {name} was gone before it was deleted"),
        Err(error) => Err(error).with_context(|| format!("deleting {name}")),
    }
}
