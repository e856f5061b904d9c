//! Work that is done as a whole, again and again, and whose result is how long it takes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::setup::Setup;

/// Does `round` as often as `--operations` says, or until the time is over; the round that is under way is
/// completed. Returns how long each took, as `round` says.
pub fn repeat(setup: &Setup, mut round: impl FnMut() -> Result<Duration>) -> Result<Vec<Duration>> {
    let start = Instant::now();
    let mut times = vec![];
    loop {
        times.push(round()?);
        setup.signals.check()?;
        let done = times.len() as u64;
        let over = start.elapsed() >= setup.time;
        match setup.operations {
            Some(rounds) if done == rounds => return Ok(times),
            Some(rounds) if over => {
                bail!("{done} of {rounds} rounds took more than {:?}: raise --seconds", setup.time)
            }
            None if over => return Ok(times),
            _ => {}
        }
    }
}

/// Mean of `times` in seconds; 0 for none.
pub fn mean_seconds(times: &[Duration]) -> f64 {
    times.iter().map(Duration::as_secs_f64).sum::<f64>() / times.len().max(1) as f64
}
