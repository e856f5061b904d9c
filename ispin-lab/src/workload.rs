//! The paper's micro-benchmark (section 5.1): n threads access the same memory area x times, each under the
//! lock, with a pause between two accesses. Hold and gap are CPU time, not wall time: a preempted thread
//! still has all of its critical section ahead, so both are counted loops calibrated at start.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Exp, Uniform};
use serde::{Deserialize, Serialize};

use crate::vcpu::monotonic_ns;

/// How long a critical section or a gap takes: `10us`, `exp:10us` or `uniform:5us:15us`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Times {
    /// Always the same, ns.
    Fixed(u64),
    /// Exponentially distributed with this mean, ns.
    Exponential(u64),
    /// Evenly distributed between the two, ns.
    Uniform(u64, u64),
}

impl FromStr for Times {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Self> {
        let parts: Vec<&str> = s.split(':').collect();
        match parts.as_slice() {
            [fixed] => Ok(Self::Fixed(nanoseconds(fixed)?)),
            ["exp", mean] => match nanoseconds(mean)? {
                0 => bail!("`{s}`: the mean of an exponential distribution is greater than zero"),
                mean => Ok(Self::Exponential(mean)),
            },
            ["uniform", low, high] => {
                let (low, high) = (nanoseconds(low)?, nanoseconds(high)?);
                if low >= high {
                    bail!("`{s}`: the lower end is below the upper end");
                }
                Ok(Self::Uniform(low, high))
            }
            _ => bail!("`{s}`: write `10us`, `exp:10us` or `uniform:5us:15us`"),
        }
    }
}

/// A time with its unit (`ns`, `us`, `ms`, `s`), in ns.
pub fn nanoseconds(s: &str) -> Result<u64> {
    let digits = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let (number, unit) = s.split_at(digits);
    let factor = match unit.trim() {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => bail!("`{s}`: give a time with its unit, such as 10us"),
    };
    let value: f64 =
        number.parse().with_context(|| format!("`{s}`: give a time with its unit, such as 10us"))?;
    let ns = value * factor;
    if ns > Duration::from_secs(3600).as_nanos() as f64 {
        bail!("`{s}` is more than an hour");
    }
    Ok(ns as u64)
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Fixed(ns) => write!(f, "{ns}ns"),
            Self::Exponential(mean) => write!(f, "exp:{mean}ns"),
            Self::Uniform(low, high) => write!(f, "uniform:{low}ns:{high}ns"),
        }
    }
}

impl TryFrom<String> for Times {
    type Error = anyhow::Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Times> for String {
    fn from(t: Times) -> Self {
        t.to_string()
    }
}

/// Draws times and turns them into loop counts.
pub struct Drawer {
    times: Times,
    iterations_per_ns: f64,
    rng: SmallRng,
}

impl Drawer {
    /// `seed` makes the draws repeatable.
    pub fn new(times: Times, iterations_per_ns: f64, seed: u64) -> Self {
        Self { times, iterations_per_ns, rng: SmallRng::seed_from_u64(seed) }
    }

    /// Iterations of [`work`] for the next draw.
    pub fn next_iterations(&mut self) -> u64 {
        let ns = match self.times {
            Times::Fixed(ns) => ns as f64,
            Times::Exponential(mean) => {
                // Cut at twenty means: one draw in 5e8 is longer.
                Exp::new(1.0 / mean as f64)
                    .map_or(mean as f64, |d| d.sample(&mut self.rng).min(20.0 * mean as f64))
            }
            Times::Uniform(low, high) => {
                Uniform::new(low, high).map_or(low as f64, |d| d.sample(&mut self.rng) as f64)
            }
        };
        (ns * self.iterations_per_ns) as u64
    }
}

/// Keeps the CPU busy for `iterations`.
#[inline(never)]
pub fn work(iterations: u64) {
    let mut x = 1u64;
    for i in 0..iterations {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
    }
}

/// Iterations of [`work`] per ns of CPU time: the best of several tries, since any disturbance slows it down.
pub fn calibrate() -> f64 {
    const ITERATIONS: u64 = 100_000;
    let mut best = u64::MAX;
    for _ in 0..20 {
        let begin = monotonic_ns();
        work(ITERATIONS);
        best = best.min(monotonic_ns() - begin);
    }
    ITERATIONS as f64 / best.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, times) in [
            ("10us", Times::Fixed(10_000)),
            ("1.5ms", Times::Fixed(1_500_000)),
            ("exp:10us", Times::Exponential(10_000)),
            ("uniform:5us:15us", Times::Uniform(5_000, 15_000)),
        ] {
            assert_eq!(text.parse::<Times>().ok(), Some(times));
            assert_eq!(times.to_string().parse::<Times>().ok(), Some(times));
        }
        for bad in ["", "10", "us", "exp:0us", "uniform:5us", "uniform:9us:5us", "normal:1us", "2h", "99999s"]
        {
            assert!(bad.parse::<Times>().is_err(), "{bad}");
        }
    }

    #[test]
    fn draws_have_the_mean_they_promise() {
        for (times, mean) in [
            (Times::Fixed(10_000), 10_000.0),
            (Times::Exponential(10_000), 10_000.0),
            (Times::Uniform(5_000, 15_000), 10_000.0),
        ] {
            let mut drawer = Drawer::new(times, 1.0, 7);
            let sum: u64 = (0..100_000).map(|_| drawer.next_iterations()).sum();
            let measured = sum as f64 / 1e5;
            assert!((measured / mean - 1.0).abs() < 0.02, "{times}: {measured}");
        }
    }
}
