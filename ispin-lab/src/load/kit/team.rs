//! Threads that start together, each on its CPU, and stop at a deadline or when their work is done.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::report::{Broken, broken};
use super::setup::Setup;

/// How long threads may take to come back once they are told to stop. One operation of an honest load takes far
/// less even where many vCPUs share a CPU; a thread that stays away waits for a lock that nobody hands over, or
/// for a wake-up that was lost.
pub const GRACE: Duration = Duration::from_secs(60);

/// What ends the work of a team.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// The latest end.
    pub time: Duration,
    /// Operations of each thread; the team ends when all have done them, and it is an error if time ends first.
    pub operations: Option<u64>,
}

impl Until {
    /// As told on the command line.
    pub fn of(setup: &Setup) -> Self {
        Self { time: setup.time, operations: setup.operations }
    }
}

/// One thread's part.
pub struct Turn {
    /// Number of the thread, from 0.
    pub index: u32,
    quota: u64,
    seed: u64,
    stop: Arc<AtomicBool>,
    enough: Arc<AtomicBool>,
    news: Arc<OwnedFd>,
}

impl Turn {
    /// Whether to do one more operation after `done` of them.
    #[inline(always)]
    pub fn goes_on(&self, done: u64) -> bool {
        done < self.quota && !self.stop.load(Ordering::Relaxed)
    }

    /// The thread's own random numbers.
    pub fn random(&self) -> SmallRng {
        SmallRng::seed_from_u64(self.seed ^ (u64::from(self.index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Ends the work of all threads.
    pub fn finish_all(&self) -> Result<()> {
        // Told once, so that the pipe never fills.
        if self.enough.swap(true, Ordering::Relaxed) { Ok(()) } else { tell(&self.news, News::Enough) }
    }
}

/// What a team did.
#[derive(Debug)]
pub struct Team {
    /// Each thread's operations, and the time from its start to its end.
    pub laps: Vec<(u64, Duration)>,
    /// From the opening of the gate to the end of the last thread.
    pub elapsed: Duration,
}

impl Team {
    /// Operations of all threads together.
    pub fn operations(&self) -> u64 {
        self.laps.iter().map(|lap| lap.0).sum()
    }
}

/// Runs `body` in each of the setup's threads; it returns how many operations it did.
pub fn run<F>(setup: &Setup, until: Until, body: F) -> Result<Team>
where
    F: Fn(&Turn) -> Result<u64> + Send + Sync + 'static,
{
    run_with(setup, until, body, || Ok(()))
}

/// Like [`run`]; `on_stop` frees threads that wait for each other, once it is time to stop.
pub fn run_with<F>(setup: &Setup, until: Until, body: F, on_stop: impl FnOnce() -> Result<()>) -> Result<Team>
where
    F: Fn(&Turn) -> Result<u64> + Send + Sync + 'static,
{
    let cpus = allowed_cpus()?;
    // Neither end blocks: a thread's two bytes always fit, and the reader polls first.
    let (ears, news) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).context("making a pipe for threads")?;
    let (news, stop, gate) = (Arc::new(news), Arc::new(AtomicBool::new(false)), Arc::new(Gate::default()));
    let (body, enough) = (Arc::new(body), Arc::new(AtomicBool::new(false)));
    let mut members = Members { gate: gate.clone(), handles: vec![] };
    for index in 0..setup.threads {
        let turn = Turn {
            index,
            quota: until.operations.unwrap_or(u64::MAX),
            seed: setup.seed,
            stop: stop.clone(),
            enough: enough.clone(),
            news: news.clone(),
        };
        let (body, gate, cpu) = (body.clone(), gate.clone(), cpus[index as usize % cpus.len()]);
        let handle = std::thread::Builder::new()
            .name(format!("load/{index}"))
            .spawn(move || work(&turn, &gate, cpu, &*body))
            .with_context(|| format!("starting thread {index} of {}", setup.threads))?;
        members.handles.push(handle);
    }
    members.gate.wait_for(setup.threads);
    let start = Instant::now();
    members.gate.open(true);

    let mut left = setup.threads;
    let end = wait(setup, &ears, &mut left, start + until.time)?;
    stop.store(true, Ordering::SeqCst);
    on_stop()?;
    if end != End::Done {
        wait_until_all_are_back(setup, &ears, left)?;
    }
    let elapsed = start.elapsed();
    let laps = members.join()?;
    setup.signals.check()?;
    if let (End::Deadline, Some(quota)) = (end, until.operations)
        && laps.iter().any(|lap| lap.0 < quota)
    {
        bail!("{quota} operations of each thread took more than {:?}: raise --seconds", until.time);
    }
    Ok(Team { laps, elapsed })
}

fn work(
    turn: &Turn,
    gate: &Gate,
    cpu: usize,
    body: &dyn Fn(&Turn) -> Result<u64>,
) -> Result<(u64, Duration)> {
    let end = Farewell(turn);
    let mut set = CpuSet::new();
    set.set(cpu);
    let pinned = sched_setaffinity(None, &set).with_context(|| format!("binding a thread to CPU {cpu}"));
    if !gate.pass() {
        return Ok((0, Duration::ZERO));
    }
    pinned?;
    let start = Instant::now();
    let result = body(turn);
    let elapsed = start.elapsed();
    if result.is_err() {
        turn.finish_all()?;
    }
    drop(end);
    Ok((result?, elapsed))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Enough,
    Deadline,
    Signal,
}

#[derive(Clone, Copy)]
enum News {
    Back = 1,
    Enough = 2,
}

fn tell(pipe: &OwnedFd, news: News) -> Result<()> {
    match rustix::io::write(pipe, &[news as u8]) {
        // Nobody listens any more: the team was given up.
        Ok(_) | Err(Errno::PIPE) => Ok(()),
        Err(error) => Err(error).context("reporting the end of a thread"),
    }
}

/// Reports the end of a thread however it ends, by a panic too.
struct Farewell<'a>(&'a Turn);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        if let Err(error) = tell(&self.0.news, News::Back) {
            eprintln!("ispin-load: {error:#}");
        }
    }
}

/// Waits until all threads are back, one says enough, a signal comes, or `deadline`.
fn wait(setup: &Setup, ears: &OwnedFd, left: &mut u32, deadline: Instant) -> Result<End> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).context("the time of a run")?;
        let mut fds = [
            PollFd::new(ears, PollFlags::IN),
            PollFd::from_borrowed_fd(setup.signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(End::Deadline),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for threads"),
        }
        let enough = listen(ears, left)?;
        if *left == 0 {
            return Ok(End::Done);
        }
        if setup.signals.check().is_err() {
            return Ok(End::Signal);
        }
        if enough {
            return Ok(End::Enough);
        }
    }
}

fn wait_until_all_are_back(setup: &Setup, ears: &OwnedFd, mut left: u32) -> Result<()> {
    let deadline = Instant::now() + GRACE;
    while left > 0 {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).context("the time of a run")?;
        match poll(&mut [PollFd::new(ears, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => broken!(
                "{left} of {} threads did not come back within {GRACE:?}: a lock is not handed over, or a wake-up was lost",
                setup.threads
            ),
            Ok(_) => {
                listen(ears, &mut left)?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for threads"),
        }
    }
    Ok(())
}

/// Takes in what threads told; whether one of them said enough.
fn listen(ears: &OwnedFd, left: &mut u32) -> Result<bool> {
    let mut bytes = [0; 64];
    let mut enough = false;
    loop {
        match rustix::io::read(ears, &mut bytes) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(enough),
            Ok(count) => {
                for &byte in &bytes[..count] {
                    if byte == News::Back as u8 {
                        *left = left.saturating_sub(1);
                    } else {
                        enough = true;
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("hearing from threads"),
        }
    }
}

/// The start barrier. Unlike `std::sync::Barrier` it can be called off when a thread could not be started.
#[derive(Default)]
struct Gate {
    state: Mutex<(u32, Option<bool>)>,
    changed: Condvar,
}

impl Gate {
    /// A thread's side: waits for the opening; false if it is called off.
    fn pass(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        self.changed.notify_all();
        loop {
            match state.1 {
                Some(open) => return open,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn wait_for(&self, threads: u32) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 < threads {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self, go: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.get_or_insert(go);
        self.changed.notify_all();
    }
}

/// The threads; they do not stay behind at the gate when the team is given up.
struct Members {
    gate: Arc<Gate>,
    handles: Vec<JoinHandle<Result<(u64, Duration)>>>,
}

impl Members {
    /// What each thread did. Of several errors, one that tells of a broken lock comes first.
    fn join(&mut self) -> Result<Vec<(u64, Duration)>> {
        let mut laps = vec![];
        let mut first: Option<anyhow::Error> = None;
        for handle in self.handles.drain(..) {
            let result = handle.join().unwrap_or_else(|_| Err(anyhow!("a thread of the load panicked")));
            match result {
                Ok(lap) => laps.push(lap),
                Err(error) if first.as_ref().is_none_or(|f| error.is::<Broken>() && !f.is::<Broken>()) => {
                    first = Some(error);
                }
                Err(_) => {}
            }
        }
        first.map_or(Ok(laps), Err)
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.gate.open(false);
    }
}

/// The CPUs that this process may use.
/// The CPUs that this process may use, at least one.
pub(super) fn allowed_cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("reading the CPU set of this process")?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    if cpus.is_empty() {
        bail!("this process may use no CPU");
    }
    Ok(cpus)
}
