//! The guests' loads begin at one time, and no guest ends while another one's load runs: to take a guest down keeps dom0 busy for
//! most of half a second, which is time that the other one does not have.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// From the moment at which all are ready to the start.
pub(super) const LEAD: Duration = Duration::from_millis(200);
/// How much later than that a load may begin.
const LATE: Duration = Duration::from_secs(1);

/// How far a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// Its load is not about to start yet.
    Away,
    /// It waits for the start.
    Ready,
    /// Its load has begun.
    Running,
    /// Its load has ended, or the guest has.
    Loaded,
}

/// What is to be told to all guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Loads begin in [`LEAD`].
    Start,
    /// All loads have ended.
    Finish,
}

/// How far the guests are together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Together {
    /// Somebody is not ready.
    #[default]
    Gathering,
    /// The start was told at this time; not all have been seen to have begun.
    Told(Instant),
    /// All loads have begun in time.
    Begun,
    /// All have been told that the loads have ended.
    Finished,
}

impl Together {
    /// What is to be told now, at the time `now`, to guests (name, progress). An error if a load begins more than a second late.
    pub(super) fn step(&mut self, now: Instant, guests: &[(&str, Progress)]) -> Result<Option<Step>> {
        let all = |least| guests.iter().all(|&(_, progress)| progress >= least);
        if matches!(self, Self::Gathering) {
            // A guest that died before the start is for the host to see: nobody is to run without it.
            if !guests.iter().all(|&(_, progress)| progress == Progress::Ready) {
                return Ok(None);
            }
            *self = Self::Told(now);
            return Ok(Some(Step::Start));
        }
        if let Self::Told(told) = *self {
            if all(Progress::Running) {
                *self = Self::Begun;
            } else if now.duration_since(told) > LEAD + LATE
                && let Some((late, _)) = guests.iter().find(|&&(_, progress)| progress < Progress::Running)
            {
                bail!("the load of {late} did not begin within {} s of the start", LATE.as_secs());
            }
        }
        if matches!(self, Self::Begun) && all(Progress::Loaded) {
            *self = Self::Finished;
            return Ok(Some(Step::Finish));
        }
        Ok(None)
    }

    /// Whether loads run, which dom0 is not to disturb.
    pub(super) fn quiet(self) -> bool {
        matches!(self, Self::Told(_) | Self::Begun)
    }
}

#[cfg(test)]
mod tests {
    use super::Progress::{Away, Loaded, Ready, Running};
    use super::*;

    /// Steps of two guests that are seen as in `seen`: (ms, progress of each).
    fn steps(seen: &[(u64, Progress, Progress)]) -> Result<Vec<(u64, Step)>> {
        let begin = Instant::now();
        let mut together = Together::default();
        let mut steps = vec![];
        for &(ms, g1, g2) in seen {
            let step = together.step(begin + Duration::from_millis(ms), &[("g1", g1), ("g2", g2)])?;
            steps.extend(step.map(|step| (ms, step)));
        }
        Ok(steps)
    }

    #[test]
    fn loads_start_once_all_are_ready_and_finish_once_all_have_ended() {
        let seen = [
            (0, Away, Away),
            (20, Ready, Away),
            (40, Ready, Ready),
            (240, Ready, Running),
            (440, Running, Running),
            (5000, Loaded, Running),
            (9000, Loaded, Loaded),
            (9020, Loaded, Loaded),
        ];
        assert_eq!(steps(&seen).unwrap(), [(40, Step::Start), (9000, Step::Finish)]);
    }

    #[test]
    fn a_load_that_has_ended_before_the_next_look_has_begun() {
        let seen = [(0, Ready, Ready), (200, Loaded, Ready), (400, Loaded, Loaded)];
        assert_eq!(steps(&seen).unwrap(), [(0, Step::Start), (400, Step::Finish)]);
    }

    #[test]
    fn a_load_that_begins_late_fails_the_run() {
        let on_time = (1200, Running, Ready);
        assert_eq!(steps(&[(0, Ready, Ready), on_time]).unwrap(), [(0, Step::Start)]);
        let error = steps(&[(0, Ready, Ready), on_time, (1220, Running, Ready)]).unwrap_err();
        assert_eq!(error.to_string(), "the load of g2 did not begin within 1 s of the start");
    }

    #[test]
    fn nobody_starts_without_a_guest_that_died() {
        assert_eq!(steps(&[(0, Ready, Away), (20, Ready, Loaded), (40, Ready, Loaded)]).unwrap(), []);
    }

    #[test]
    fn dom0_is_quiet_while_loads_run() {
        let now = Instant::now();
        let mut together = Together::default();
        let mut quiet = vec![together.quiet()];
        for progress in [Ready, Running, Loaded] {
            together.step(now, &[("g1", progress)]).unwrap();
            quiet.push(together.quiet());
        }
        assert_eq!(quiet, [false, true, true, false]);
    }
}
