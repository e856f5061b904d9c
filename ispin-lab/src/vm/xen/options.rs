//! What a run under Xen is, on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::vm::init::Victim;
use crate::vm::lock::Lock;

/// How Xen runs a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GuestType {
    /// Paravirtualized: the kernel runs without the processor's help
    Pv,
    /// With the processor's virtualization, and no emulated devices
    Pvh,
}

impl fmt::Display for GuestType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Pv => "pv",
            Self::Pvh => "pvh",
        })
    }
}

/// What Xen publishes as the end of a quantum, and how much it keeps to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// The end of the time slice; a vCPU that wakes up may end it early
    Slice,
    /// The end of the rate limit, before which nothing ends the quantum
    Ratelimit,
    /// The end of the time slice, but that of the rate limit where something has lately ended a quantum early
    Adaptive,
    /// As adaptive, and the rate limit holds in quanta that a vCPU goes on with, too
    AdaptiveFirm,
    /// The end of the time slice, which nothing ends early: the rate limit is as long, unless told otherwise
    Firm,
    /// Nothing: Xen as it comes
    Off,
}

impl Policy {
    /// The word of Xen's command line.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Slice => Some("slice"),
            Self::Ratelimit => Some("ratelimit"),
            Self::Adaptive => Some("adaptive"),
            Self::AdaptiveFirm => Some("adaptive,firm"),
            Self::Firm => Some("firm"),
            Self::Off => None,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::AdaptiveFirm => "adaptive-firm",
            _ => self.word().unwrap_or("off"),
        })
    }
}

/// Xen's scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// Time slices of a fixed length, the paper's
    Credit,
    /// Xen's default of today
    Credit2,
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Credit => "credit",
            Self::Credit2 => "credit2",
        })
    }
}

/// Something that goes for one guest only: `GUEST=WHAT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfGuest<T> {
    guest: String,
    what: T,
}

impl<T: FromStr<Err: fmt::Display>> FromStr for OfGuest<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').filter(|(guest, what)| !guest.is_empty() && !what.is_empty());
        let (guest, what) = parts.ok_or("name the guest first, as in g2=...")?;
        Ok(Self { guest: guest.to_owned(), what: what.parse().map_err(|error: T::Err| error.to_string())? })
    }
}

/// Options that only a run under Xen has. `None` = not given.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Xen")]
pub struct XenOptions {
    /// Guests, all alike, named g1, g2, ... [default: 2]
    #[arg(long, value_name = "N")]
    pub guests: Option<u32>,
    /// pCPUs that the guests share; dom0 has one of its own [default: 1]
    #[arg(long, value_name = "N")]
    pub pcpus: Option<u32>,
    /// Another load for one guest, such as g2=scribble; the options of the load do not go to it
    #[arg(long, value_name = "GUEST=LOAD")]
    pub guest_workload: Vec<OfGuest<String>>,
    /// Kill a guest, or the agent in it, in mid-run, such as g2=agent: for tests
    #[arg(long, value_name = "GUEST=guest|agent", hide = true)]
    pub kill: Option<OfGuest<Victim>>,
    /// How Xen runs the guests [default: pv]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub guest_type: Option<GuestType>,
    /// What Xen publishes as the end of a quantum [default: slice, the paper's; with ispin+ adaptive]
    #[arg(long, value_enum)]
    pub policy: Option<Policy>,
    /// Xen's scheduler [default: credit]
    #[arg(long, value_enum)]
    pub scheduler: Option<Scheduler>,
    /// Length of a time slice of credit in milliseconds, 1 to 1000 [default: 30]
    #[arg(long, value_name = "MS")]
    pub slice_ms: Option<u32>,
    /// Time before which no vCPU that wakes up ends a quantum, microseconds, 0 to 500000 [default: 1000; firm: the
    /// time slice]
    #[arg(long, value_name = "US")]
    pub ratelimit_us: Option<u32>,
    /// Runs, with the seeds N, N+1, ... [default: 1]
    #[arg(long, value_name = "R")]
    pub repeats: Option<u32>,
    /// Also record Xen's own trace of its scheduler, and compare with it what the agents saw
    #[arg(long, value_name = "FILE")]
    pub xentrace: Option<PathBuf>,
    /// Folder with a built Xen (`xen`), instead of building one
    #[arg(long, value_name = "DIR")]
    pub xen: Option<PathBuf>,
}

/// Guests if nothing is said.
pub const GUESTS: u32 = 2;
/// Length of a time slice of credit if nothing is said.
const DEFAULT_SLICE_MS: u32 = 30;
/// The slots that fit into the page that Xen shares with a guest.
const MOST_VCPUS: u32 = 28;
/// Two ports of the machine per guest, and its console.
const MOST_GUESTS: u32 = 8;

impl XenOptions {
    /// How many guests.
    pub fn guests(&self) -> u32 {
        self.guests.unwrap_or(GUESTS)
    }

    /// How many pCPUs they share.
    pub fn pcpus(&self) -> u32 {
        self.pcpus.unwrap_or(1)
    }

    /// How Xen runs them.
    pub fn guest_type(&self) -> GuestType {
        self.guest_type.unwrap_or(GuestType::Pv)
    }

    /// What is published for guests with `lock`: for `ispin+` an end that something holds to beside neighbours that one does not
    /// know, for all others the paper's.
    pub fn policy(&self, lock: Lock) -> Policy {
        self.policy.unwrap_or(if lock == Lock::ISPIN_PLUS { Policy::Adaptive } else { Policy::Slice })
    }

    /// The scheduler.
    pub fn scheduler(&self) -> Scheduler {
        self.scheduler.unwrap_or(Scheduler::Credit)
    }

    /// The rate limit, if it is not Xen's own.
    pub fn rate_limit_us(&self, policy: Policy) -> Option<u32> {
        let whole_slice = || self.slice_ms.unwrap_or(DEFAULT_SLICE_MS) * 1000;
        self.ratelimit_us.or_else(|| (policy == Policy::Firm).then(whole_slice))
    }

    /// How many runs.
    pub fn repeats(&self) -> u32 {
        self.repeats.unwrap_or(1)
    }

    /// Names of the guests.
    pub fn names(&self) -> Vec<String> {
        (1..=self.guests()).map(|number| format!("g{number}")).collect()
    }

    /// The load of a guest that has one of its own.
    pub fn workload_of(&self, guest: &str) -> Option<&str> {
        self.guest_workload.iter().find(|own| own.guest == guest).map(|own| own.what.as_str())
    }

    /// What is killed in a guest in mid-run.
    pub fn killed(&self, guest: &str) -> Option<Victim> {
        self.kill.as_ref().filter(|kill| kill.guest == guest).map(|kill| kill.what)
    }

    /// Refuses them where there is no Xen.
    pub fn refuse_without_xen(&self) -> Result<()> {
        let given = [
            ("guests", self.guests.is_some()),
            ("pcpus", self.pcpus.is_some()),
            ("guest-workload", !self.guest_workload.is_empty()),
            ("kill", self.kill.is_some()),
            ("type", self.guest_type.is_some()),
            ("policy", self.policy.is_some()),
            ("scheduler", self.scheduler.is_some()),
            ("slice-ms", self.slice_ms.is_some()),
            ("ratelimit-us", self.ratelimit_us.is_some()),
            ("repeats", self.repeats.is_some()),
            ("xentrace", self.xentrace.is_some()),
            ("xen", self.xen.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => bail!("--{name} makes sense under Xen only; add --hypervisor xen"),
            None => Ok(()),
        }
    }

    /// Refuses what cannot run, given the guests' vCPUs and what is published.
    pub fn validate(&self, vcpus: u32, policy: Policy) -> Result<()> {
        let within = |what: &str, value: Option<u32>, least: u32, most: u32| {
            let value = value.unwrap_or(least);
            ensure!((least..=most).contains(&value), "--{what} {value}: between {least} and {most}");
            Ok(())
        };
        within("guests", self.guests, 1, MOST_GUESTS)?;
        within("pcpus", self.pcpus, 1, 15)?;
        within("slice-ms", self.slice_ms, 1, 1000)?;
        within("ratelimit-us", self.ratelimit_us, 0, 500_000)?;
        within("repeats", self.repeats, 1, 1000)?;
        ensure!(
            vcpus <= MOST_VCPUS,
            "--vcpus {vcpus}: Xen publishes the quanta of {MOST_VCPUS} vCPUs of a guest at most"
        );
        let names = self.names();
        let named = self.guest_workload.iter().map(|own| ("guest-workload", &own.guest));
        let named = named.chain(self.kill.iter().map(|kill| ("kill", &kill.guest)));
        if let Some((option, guest)) = named.into_iter().find(|(_, guest)| !names.contains(guest)) {
            bail!("--{option} {guest}=...: the guests are {}", names.join(", "));
        }
        if self.scheduler() == Scheduler::Credit2 && self.slice_ms.is_some() {
            bail!(
                "--slice-ms: credit2 has no time slice of a fixed length; leave it out, or --scheduler credit"
            );
        }
        if self.scheduler() == Scheduler::Credit2 && matches!(policy, Policy::Firm | Policy::AdaptiveFirm) {
            bail!(
                "--policy {policy}: credit2 has no firm quanta; take --policy ratelimit, or --scheduler credit"
            );
        }
        let slice = self.slice_ms.unwrap_or(DEFAULT_SLICE_MS);
        if let Some(limit) = self.ratelimit_us
            && limit > slice * 1000
        {
            bail!("--ratelimit-us {limit}: longer than the time slice of {slice} ms");
        }
        if self.repeats() > 1 && self.xentrace.is_some() {
            bail!("--xentrace holds the trace of one run; leave out --repeats");
        }
        Ok(())
    }

    /// How much later than the others a guest starts its load, microseconds: another phase of the guests' quanta for
    /// each seed, the same one for the same seed.
    pub fn start_offset_us(seed: u64, guest: u32) -> u64 {
        // A quantum of the default length: all phases.
        mixed(seed, guest) % 30_000
    }

    /// Seed of what the load of a guest draws.
    pub fn load_seed(seed: u64, guest: u32) -> u64 {
        // The first guest's is the one that was asked for; none begins as another one of the next run.
        if guest == 1 { seed } else { mixed(seed, guest) >> 1 }
    }
}

/// The splitmix64 of both: the same figures for ever, which no crate of random numbers promises.
fn mixed(seed: u64, guest: u32) -> u64 {
    let mut z = seed.wrapping_add((u64::from(guest) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_what_the_help_says() {
        let options = XenOptions::default();
        options.validate(4, Policy::Slice).unwrap();
        options.refuse_without_xen().unwrap();
        assert_eq!((options.guests(), options.pcpus(), options.repeats()), (2, 1, 1));
        assert_eq!(options.names(), ["g1", "g2"]);
        assert_eq!(options.policy(Lock::TICKET).word(), Some("slice"));
        assert_eq!(options.policy(Lock::ISPIN_PLUS).word(), Some("adaptive"));
        let given = XenOptions { policy: Some(Policy::Firm), ..options };
        assert_eq!(given.policy(Lock::ISPIN_PLUS), Policy::Firm);
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let refused = |options: XenOptions, vcpus| {
            options.validate(vcpus, options.policy(Lock::TICKET)).unwrap_err().to_string()
        };
        let none = XenOptions::default;
        assert!(refused(none(), 29).contains("--vcpus 29"));
        assert!(refused(XenOptions { guests: Some(9), ..none() }, 2).contains("--guests 9"));
        let own = XenOptions { guest_workload: vec!["g3=scribble".parse().unwrap()], ..none() };
        assert_eq!(own.workload_of("g3"), Some("scribble"));
        assert!(refused(own, 2).contains("the guests are g1, g2"));
        let kill = "g1=agent".parse::<OfGuest<Victim>>().unwrap();
        assert_eq!(kill.what, Victim::Agent);
        for wrong in ["g1", "=agent", "g1=", "g1=cat"] {
            assert!(wrong.parse::<OfGuest<Victim>>().is_err(), "{wrong}");
        }
        let credit2 = Some(Scheduler::Credit2);
        let slice = XenOptions { scheduler: credit2, slice_ms: Some(5), ..none() };
        assert!(refused(slice, 2).contains("credit2"));
        for policy in [Policy::Firm, Policy::AdaptiveFirm] {
            let firm = XenOptions { scheduler: credit2, policy: Some(policy), ..none() };
            assert!(refused(firm, 2).contains(&format!("--policy {policy}: ")));
        }
        let limit = XenOptions { slice_ms: Some(1), ratelimit_us: Some(1001), ..none() };
        assert!(refused(limit, 2).contains("--ratelimit-us 1001"));
        let alone = XenOptions { policy: Some(Policy::Firm), ..none() }.refuse_without_xen().unwrap_err();
        assert!(alone.to_string().contains("--policy") && alone.to_string().contains("--hypervisor xen"));
    }

    #[test]
    fn phases_differ_by_seed_and_guest_and_stay() {
        let offsets: Vec<u64> =
            (1..=20).flat_map(|seed| [1, 2].map(|guest| XenOptions::start_offset_us(seed, guest))).collect();
        let mut distinct = offsets.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), offsets.len());
        assert!(offsets.iter().all(|&us| us < 30_000));
        assert_eq!(XenOptions::start_offset_us(1, 1), XenOptions::start_offset_us(1, 1));
        assert_eq!(XenOptions::load_seed(7, 1), 7);
        assert_ne!(XenOptions::load_seed(7, 2), XenOptions::load_seed(8, 2));
    }
}
