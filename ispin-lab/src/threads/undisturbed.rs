//! Runs from which the host took too much of the pCPUs' time are made again: they tell of the host, not of the lock.

use anyhow::{Result, bail};

use super::result::RunResult;

/// The fewest runs that a sitting may discard before it ends; one of more runs may discard as many as it was to do.
const LEAST: u32 = 10;

/// How many more runs a sitting may discard.
#[derive(Debug)]
pub struct Patience(u32);

impl Patience {
    /// That of a sitting of `runs` runs.
    pub fn with(runs: u32) -> Self {
        Self(runs.max(LEAST))
    }

    /// A run from which the host did not take too much, and what came of it besides. Those before are discarded, told and counted. Whether one is does not depend
    /// on what the lock did.
    ///
    /// # Errors
    /// A run fails, or more were discarded than a sitting may.
    pub fn undisturbed<T>(
        &mut self,
        what: &str,
        mut run: impl FnMut() -> Result<(RunResult, T)>,
    ) -> Result<(RunResult, T)> {
        let mut discarded = 0;
        loop {
            let (row, more) = run()?;
            if !row.is_disturbed() {
                return Ok((RunResult { discarded: Some(discarded), ..row }, more));
            }
            eprintln!(
                "discarded: {what}: the host took {} ms of the pCPUs' time ({:.1} PSP/s)",
                row.stolen_ms, row.psp_per_s
            );
            if self.0 == 0 {
                bail!(
                    "the host of this machine takes its CPUs away too often: more runs were discarded than a sitting may, the last {} of \
                     {what}. What is done is kept: go on when the machine is quieter",
                    discarded + 1
                );
            }
            self.0 -= 1;
            discarded += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_disturbed_is_done_again_and_counted() {
        let run = |stolen_ms| RunResult { seconds: 1.0, pcpus: 1, stolen_ms, ..RunResult::default() };
        let (mut stolen, mut patience) = ([300, 20, 10].into_iter(), Patience(3));
        let (row, third) = patience
            .undisturbed("hvm 4 vCPUs", || Ok((run(stolen.next().expect("a run")), stolen.len())))
            .expect("the third");
        assert_eq!((row.stolen_ms, row.discarded, third, patience.0), (10, Some(2), 0, 1));
        let never = patience.undisturbed("hvm 4 vCPUs", || Ok((run(300), ()))).expect_err("never quiet");
        let error = format!("{never:#}");
        assert!(error.contains("the last 2 of hvm 4 vCPUs"), "{error}");
        assert_eq!((patience.0, Patience::with(3).0, Patience::with(84).0), (0, 10, 84));
    }
}
