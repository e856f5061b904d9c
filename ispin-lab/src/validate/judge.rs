//! What the runs say of a claim.

use std::collections::BTreeMap;

use super::claims::{BEST, Claim, EXACT_RUNS};
use super::sample::{Sample, again};
use crate::locks;
use crate::stats::{Interval, LEAST_RUNS, compare, median};

/// Whether a figure is as claimed, with all its interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The whole interval is.
    Yes,
    /// The whole interval is not.
    No,
    /// Part of it is.
    Unclear,
}

/// A cell of an experiment that a claim is about.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its values but for those that all cells of the claim have.
    pub name: String,
    /// Runs that have the figure, and those of what it is compared with.
    pub runs: (usize, Option<usize>),
    /// Runs without it, because they were not done within their time.
    pub unfinished: usize,
    /// Whether runs differ of which each has to give the same ([`Claim::exact`]).
    pub differing: bool,
    /// Runs of the side that has fewer, if those are too few to decide anything.
    pub few: Option<usize>,
    /// The figure or ratio, if there is one.
    pub figure: Option<Interval>,
    /// `None`: too few runs, or no figure.
    pub holds: Option<Holds>,
    /// How to do its runs again.
    pub command: String,
    /// The same of what it is compared with.
    pub against: Option<String>,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Holds in every cell.
    Reproduced,
    /// Holds in some.
    Partly,
    /// Holds in none, and fails in one at least.
    NotReproduced,
    /// Of no cell it can be told: the interval of each lies on both sides of the threshold.
    Undecided,
    /// Not measurable here, and why.
    NotMeasurable(String),
    /// Measurable here, but no run decides it.
    NotRun(NotRun),
}

/// Why no run decides a claim that could be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRun {
    /// The short form has no such runs.
    NotInQuick,
    /// Only the short form has.
    OnlyInQuick,
    /// There are none yet, or too few.
    SoFar {
        /// Runs that there are.
        runs: usize,
        /// Runs of a cell that it takes.
        least: usize,
    },
}

impl NotRun {
    fn word(self) -> &'static str {
        match self {
            Self::NotInQuick => "not in --quick",
            Self::OnlyInQuick => "only in --quick",
            Self::SoFar { runs: 0, .. } => "not run so far",
            Self::SoFar { .. } => "too few runs so far",
        }
    }

    /// In a sentence.
    pub fn told(self) -> String {
        match self {
            Self::NotInQuick => "the short form has no runs that decide it; `--full` has".into(),
            Self::OnlyInQuick => "only the short form, `--quick`, has runs that decide it".into(),
            Self::SoFar { runs: 0, .. } => "no run so far".into(),
            Self::SoFar { runs, least } => format!(
                "{runs} runs so far, which do not decide it: it takes {least} of a cell, and as many of what that is compared with"
            ),
        }
    }
}

impl Verdict {
    /// In a word or two.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::Partly => "partly",
            Self::NotReproduced => "not reproduced",
            Self::Undecided => "undecided",
            Self::NotMeasurable(_) => "not measurable here",
            Self::NotRun(why) => why.word(),
        }
    }
}

/// Judges a claim by the runs of its experiment; `missing` is why there are none, if that is known.
pub fn judge(claim: &Claim, samples: &[Sample], missing: Option<&str>) -> (Verdict, Vec<Judged>) {
    if let Some(why) = &claim.not_measurable {
        return (Verdict::NotMeasurable(why.clone()), vec![]);
    }
    let mut cells: Vec<&BTreeMap<String, String>> = vec![];
    // A cell says nothing about a claim that would compare it with itself.
    let with_itself = |sample: &Sample| claim.against.as_ref().is_some_and(|against| sample.is(against));
    for sample in samples.iter().filter(|sample| sample.is(&claim.cells) && !with_itself(sample)) {
        if !cells.contains(&&sample.keys) {
            cells.push(&sample.keys);
        }
    }
    let judged: Vec<Judged> = cells.into_iter().map(|keys| judge_cell(claim, samples, keys)).collect();
    let known: Vec<Holds> = judged.iter().filter_map(|cell| cell.holds).collect();
    let verdict = if known.is_empty() {
        let runs: usize = judged.iter().map(|cell| cell.runs.0).sum();
        match missing {
            Some(why) => Verdict::NotMeasurable(why.to_owned()),
            None => Verdict::NotRun(NotRun::SoFar { runs, least: least_runs(claim) }),
        }
    } else {
        let has = |wanted: Holds| known.contains(&wanted);
        let everywhere = known.len() == judged.len() && !has(Holds::No) && !has(Holds::Unclear);
        match (has(Holds::Yes), has(Holds::No)) {
            (true, _) if everywhere || claim.any => Verdict::Reproduced,
            (true, _) => Verdict::Partly,
            // What can be may still be in a cell of which nothing can be told.
            (false, true) if claim.any && (has(Holds::Unclear) || known.len() < judged.len()) => {
                Verdict::Undecided
            }
            (false, true) => Verdict::NotReproduced,
            (false, false) => Verdict::Undecided,
        }
    };
    (verdict, judged)
}

/// Runs of a cell that it takes to decide a claim.
pub fn least_runs(claim: &Claim) -> usize {
    if claim.exact { EXACT_RUNS } else { LEAST_RUNS }
}

fn judge_cell(claim: &Claim, samples: &[Sample], keys: &BTreeMap<String, String>) -> Judged {
    let values = |keys: &BTreeMap<String, String>| -> Vec<f64> {
        let runs = samples.iter().filter(|sample| sample.keys == *keys);
        runs.filter_map(|sample| sample.metrics.get(claim.metric.as_str()).copied()).collect()
    };
    let this = values(keys);
    let rival = claim.against.as_ref().map(|against| rival(claim, against, samples, keys));
    let base = rival.as_ref().map(|(keys, _)| values(keys));
    let figure = compare(&claim.counted(&this), base.as_deref(), claim.floor);
    let unfinished = samples.iter().filter(|s| s.keys == *keys && s.lacks(&claim.metric)).count();
    let differ = |values: &[f64]| values.iter().any(|value| *value != values[0]);
    let differing = claim.exact && (differ(&this) || base.as_deref().is_some_and(differ));
    let least = least_runs(claim);
    let fewer = base.as_ref().map_or(usize::MAX, Vec::len).min(this.len() + unfinished);
    let few = (fewer < least).then_some(fewer);
    let of = |figure: Interval| match (claim.holds(figure.low), claim.holds(figure.high)) {
        _ if differing => Holds::Unclear,
        (true, true) => Holds::Yes,
        (false, false) => Holds::No,
        _ => Holds::Unclear,
    };
    // A run that was not done has no figure that could keep to a threshold.
    let holds = if unfinished > 0 { Some(Holds::No) } else { figure.map(of) }.filter(|_| few.is_none());
    let named = keys.iter().filter(|(name, _)| !claim.cells.contains_key(*name));
    let mut name: Vec<String> =
        named.map(|(name, value)| format!("{name} {}", locks::label_of(name, value))).collect();
    let again = |keys: &BTreeMap<String, String>| {
        again(&samples.iter().filter(|sample| sample.keys == *keys).collect::<Vec<_>>())
    };
    let against = rival.as_ref().and_then(|(keys, _)| again(keys));
    name.extend(rival.and_then(|(_, told)| told));
    Judged {
        name: name.join(", "),
        runs: (this.len(), base.map(|base| base.len())),
        unfinished,
        differing,
        few,
        figure,
        holds,
        command: again(keys).unwrap_or_default(),
        against,
    }
}

/// The cell that this one is compared with; and its name, if the runs decide which it is ([`BEST`]).
fn rival(
    claim: &Claim,
    against: &BTreeMap<String, String>,
    samples: &[Sample],
    keys: &BTreeMap<String, String>,
) -> (BTreeMap<String, String>, Option<String>) {
    let mut other = keys.clone();
    other.extend(against.clone());
    let Some(name) = against.iter().find(|(_, value)| *value == BEST).map(|(name, _)| name) else {
        return (other, None);
    };
    let mut rivals: Vec<String> = vec![];
    for value in samples.iter().filter_map(|sample| sample.keys.get(name)) {
        if keys.get(name) != Some(value) && !rivals.contains(value) {
            rivals.push(value.clone());
        }
    }
    let middle = |value: &String| {
        let mut cell = other.clone();
        cell.insert(name.clone(), value.clone());
        let runs = samples.iter().filter(|sample| sample.keys == cell);
        median(runs.filter_map(|sample| sample.metrics.get(claim.metric.as_str()).copied()))
    };
    let best = rivals
        .into_iter()
        .map(|value| (middle(&value), value))
        .filter(|(median, _)| !median.is_nan())
        .max_by(|(a, _), (b, _)| if claim.at_least.is_some() { a.total_cmp(b) } else { b.total_cmp(a) });
    match best {
        Some((_, value)) => {
            let told = format!("best other: {}", locks::label_of(name, &value));
            other.insert(name.clone(), value);
            (other, Some(told))
        }
        None => (other, None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::claims;
    use super::*;

    fn claim() -> Claim {
        let text = "[[claim]]\nid='a'\nsection='5.3'\nclaim='c'\nexperiment='e'\nmetric='psp'\nat_most=0.5\nfloor=1.0\n\
                    where={lock='hvm'}\nagainst={lock='ticket'}\n";
        claims::read(text, &["e"]).unwrap().remove(0)
    }

    fn runs(lock: &str, vcpus: &str, values: &[f64]) -> Vec<Sample> {
        let sample = |(i, value): (usize, &f64)| {
            Sample::plain(&[("lock", lock), ("vcpus", vcpus)], i as u64 + 1, "psp", *value, "again".into())
        };
        values.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn a_claim_that_holds_everywhere_is_reproduced() {
        let samples =
            [runs("ticket", "4", &[100.0; 5]), runs("hvm", "4", &[1.0, 0.0, 2.0, 0.0, 0.0])].concat();
        let (verdict, cells) = judge(&claim(), &samples, None);
        assert_eq!(verdict, Verdict::Reproduced);
        assert_eq!(
            (cells[0].name.as_str(), cells[0].runs, cells[0].command.as_str()),
            ("vcpus 4", (5, Some(5)), "again --repeats 5")
        );
        assert_eq!(cells[0].figure.unwrap().point, 0.01);
    }

    #[test]
    fn one_that_fails_somewhere_is_partly() {
        let samples = [
            runs("ticket", "4", &[100.0; 5]),
            runs("hvm", "4", &[1.0; 5]),
            runs("ticket", "8", &[100.0; 5]),
            runs("hvm", "8", &[90.0; 5]),
        ]
        .concat();
        assert_eq!(judge(&claim(), &samples, None).0, Verdict::Partly);
        assert_eq!(judge(&claim(), &samples[10..], None).0, Verdict::NotReproduced);
        let mut can = claim();
        can.any = true;
        assert_eq!(judge(&can, &samples, None).0, Verdict::Reproduced);
        assert_eq!(judge(&can, &samples[10..], None).0, Verdict::NotReproduced);
    }

    #[test]
    fn one_that_holds_in_no_cell_is_not_partly_true() {
        let unclear = [1.0, 1.0, 60.0, 60.0, 60.0];
        let both = [runs("ticket", "4", &[100.0; 5]), runs("hvm", "4", &unclear)].concat();
        assert_eq!(judge(&claim(), &both, None).1[0].holds, Some(Holds::Unclear));
        assert_eq!(judge(&claim(), &both, None).0, Verdict::Undecided);
        let fails = [runs("ticket", "8", &[100.0; 5]), runs("hvm", "8", &[90.0; 5])].concat();
        let samples = [both, fails].concat();
        assert_eq!(judge(&claim(), &samples, None).0, Verdict::NotReproduced);
        let mut can = claim();
        can.any = true;
        assert_eq!(judge(&can, &samples, None).0, Verdict::Undecided);
    }

    #[test]
    fn a_cell_is_not_compared_with_itself() {
        let mut claim = claim();
        claim.cells.clear();
        let samples = [runs("ticket", "4", &[100.0; 5]), runs("hvm", "4", &[90.0; 5])].concat();
        let (verdict, cells) = judge(&claim, &samples, None);
        assert_eq!((verdict, cells.len()), (Verdict::NotReproduced, 1), "{cells:?}");
        // ticket beside ticket would keep to this, and made it true in part.
        claim.at_most = Some(1.5);
        claim.at_least = Some(0.95);
        assert_eq!(judge(&claim, &samples, None).0, Verdict::NotReproduced);
    }

    #[test]
    fn a_run_that_was_not_done_fails_its_cell() {
        let mut claim = claim();
        (claim.against, claim.floor) = (None, 0.0);
        let mut samples = runs("hvm", "4", &[0.1; 5]);
        assert_eq!(judge(&claim, &samples, None).0, Verdict::Reproduced);
        samples[4].metrics.clear();
        samples[4].unfinished = true;
        let (verdict, cells) = judge(&claim, &samples, None);
        assert_eq!((verdict, cells[0].runs, cells[0].unfinished), (Verdict::NotReproduced, (4, None), 1));
        samples.iter_mut().for_each(|sample| sample.metrics.clear());
        samples.iter_mut().for_each(|sample| sample.unfinished = true);
        assert_eq!(judge(&claim, &samples, None).0, Verdict::NotReproduced, "none was done");
        assert!(matches!(judge(&claim, &samples[..2], None).0, Verdict::NotRun(_)), "too few");
    }

    #[test]
    fn runs_that_have_to_be_alike_and_are_not_decide_nothing() {
        let mut claim = claim();
        claim.exact = true;
        let samples = |last| [runs("ticket", "4", &[10.0, 10.0]), runs("hvm", "4", &[1.0, last])].concat();
        assert_eq!(judge(&claim, &samples(1.0), None).0, Verdict::Reproduced);
        let (verdict, cells) = judge(&claim, &samples(1.5), None);
        assert_eq!((verdict, cells[0].differing), (Verdict::Undecided, true));
    }

    #[test]
    fn one_bad_run_is_enough_where_every_run_counts() {
        let samples =
            [runs("ticket", "4", &[100.0; 5]), runs("hvm", "4", &[1.0, 1.0, 60.0, 1.0, 1.0])].concat();
        let mut claim = claim();
        claim.at_most = Some(0.5);
        assert_eq!(judge(&claim, &samples, None).1[0].holds, Some(Holds::Unclear));
        claim.every = true;
        let (verdict, cells) = judge(&claim, &samples, None);
        assert_eq!((verdict, cells[0].figure.unwrap().point), (Verdict::NotReproduced, 0.6));
    }

    #[test]
    fn the_best_other_one_is_the_one_to_beat() {
        let mut claim = claim();
        claim.against = Some([("lock".to_owned(), BEST.to_owned())].into());
        let samples =
            [runs("ticket", "4", &[100.0; 5]), runs("hvm", "4", &[10.0; 5]), runs("pv", "4", &[40.0; 5])];
        let (verdict, cells) = judge(&claim, &samples.concat(), None);
        assert_eq!((verdict, cells[0].name.as_str()), (Verdict::Reproduced, "vcpus 4, best other: pv"));
        assert_eq!(cells[0].figure.unwrap().point, 0.25);
        (claim.at_most, claim.at_least) = (None, Some(0.5));
        assert_eq!(judge(&claim, &samples.concat(), None).1[0].name, "vcpus 4, best other: ticket");
        let assumed = [samples[1].clone(), runs("oticket", "4", &[200.0; 5])].concat();
        assert_eq!(judge(&claim, &assumed, None).1[0].name, "vcpus 4, best other: oticket (assumed)");
        // Nobody else is there.
        assert_eq!(judge(&claim, &samples[1], None).0, Verdict::NotRun(NotRun::SoFar { runs: 5, least: 5 }));
    }

    #[test]
    fn an_interval_across_the_threshold_decides_nothing() {
        let samples =
            [runs("ticket", "4", &[100.0; 5]), runs("hvm", "4", &[1.0, 1.0, 49.0, 90.0, 90.0])].concat();
        let (verdict, cells) = judge(&claim(), &samples, None);
        assert_eq!((verdict, cells[0].holds), (Verdict::Undecided, Some(Holds::Unclear)));
    }

    #[test]
    fn a_cell_that_cannot_be_told_yet_keeps_the_verdict_open() {
        let samples = [
            runs("ticket", "4", &[100.0; 5]),
            runs("hvm", "4", &[1.0; 5]),
            runs("ticket", "8", &[100.0; 5]),
            runs("hvm", "8", &[1.0; 2]),
        ]
        .concat();
        assert_eq!(judge(&claim(), &samples, None).0, Verdict::Partly);
    }

    #[test]
    fn few_runs_decide_nothing() {
        let samples = [runs("ticket", "4", &[100.0; 5]), runs("hvm", "4", &[1.0; 4])].concat();
        let (verdict, cells) = judge(&claim(), &samples, None);
        assert_eq!(verdict, Verdict::NotRun(NotRun::SoFar { runs: 4, least: 5 }));
        assert_eq!(verdict.word(), "too few runs so far");
        assert_eq!((cells[0].few, cells[0].holds), (Some(4), None));
        let (verdict, _) = judge(&claim(), &[], Some("no Xen here"));
        assert_eq!(verdict, Verdict::NotMeasurable("no Xen here".into()));
    }
}
