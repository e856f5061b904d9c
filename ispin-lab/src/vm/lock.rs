//! The spinlock of the guest's kernel, as `--lock` names it.

use std::fmt;
use std::sync::LazyLock;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::locks::{self, ALGORITHMS};

/// The spinlock of the guest's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// One of the series of `guest-patch`, by its name in `ispinlock=`. They are those of the lock library: a lock that is new there is
    /// a choice here too, and a kernel that does not have it fails the run.
    Series(&'static str),
    /// The lock that an unpatched kernel chooses.
    Stock,
    /// The queued spinlock of an unpatched kernel, told not to use its paravirtual form.
    Queued,
    /// The paravirtual queued spinlock of an unpatched kernel.
    PvQueued,
}

static ALL: LazyLock<Vec<Lock>> = LazyLock::new(|| {
    let series = ALGORITHMS.iter().map(|algorithm| Lock::Series(algorithm.name));
    series.chain([Lock::Stock, Lock::Queued, Lock::PvQueued]).collect()
});

impl Lock {
    /// The plain ticket lock.
    pub const TICKET: Self = Self::Series("ticket");
    /// The lock beyond the paper.
    pub const ISPIN_PLUS: Self = Self::Series("ispin+");

    /// Whether it is a lock of a kernel without the series, which has no tracepoints and no slots.
    pub fn is_stock(self) -> bool {
        !matches!(self, Self::Series(_))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Series(name) => name,
            Self::Stock => "stock",
            Self::Queued => "queued",
            Self::PvQueued => "pvqueued",
        }
    }

    fn about(self) -> String {
        let stock = match self {
            Self::Series(name) => {
                let algorithm = locks::by_name(name);
                return algorithm.map_or_else(String::new, |lock| format!("{}: {}", lock.paper, lock.about));
            }
            Self::Stock => {
                "what an unpatched kernel chooses: under Xen `pvqueued`. The agent cannot observe it"
            }
            Self::Queued => {
                "the queued spinlock of an unpatched kernel, told not to use its paravirtual form"
            }
            Self::PvQueued => "the paravirtual queued spinlock of an unpatched kernel, under Xen",
        };
        stock.to_owned()
    }
}

impl ValueEnum for Lock {
    fn value_variants<'a>() -> &'a [Self] {
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.about()))
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lock_of_the_library_is_a_choice() {
        for algorithm in ALGORITHMS {
            let lock = Lock::from_str(algorithm.name, false).expect(algorithm.name);
            assert!(!lock.is_stock() && lock.to_string() == algorithm.name);
        }
        assert_eq!(Lock::from_str("ticket", false), Ok(Lock::TICKET));
        for (name, lock) in [("stock", Lock::Stock), ("queued", Lock::Queued), ("pvqueued", Lock::PvQueued)] {
            assert!(lock.is_stock() && Lock::from_str(name, false) == Ok(lock));
        }
        assert!(Lock::from_str("mcs", false).is_err());
    }
}
