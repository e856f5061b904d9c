//! The paper's claims, and those that this project makes for `ispin+`, as data (`docs/claims.toml`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::sample::METRICS;

/// The file.
pub const TEXT: &str = include_str!("../../../docs/claims.toml");

/// As a value of [`Claim::against`]: whatever other value has the best median; the highest if `at_least` is asked, else the least.
pub const BEST: &str = "best";

/// Runs of a figure that every run gives again.
pub const EXACT_RUNS: usize = 2;

/// Something that can be true or not.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What it is called in the report.
    pub id: String,
    /// Where the paper says it; `ispin+` if it is not of the paper.
    pub section: String,
    /// What is claimed, in words.
    pub claim: String,
    /// The experiment that tests it.
    pub experiment: String,
    /// The figure that it is about, one of [`METRICS`].
    pub metric: String,
    /// The cells of the experiment that it is about; all that have these values.
    #[serde(rename = "where", default)]
    pub cells: BTreeMap<String, String>,
    /// What they are compared with: the same cell, but for these values, one of which can be [`BEST`]. A cell that would be
    /// compared with itself is not one of the claim's. Without, the figure itself counts.
    pub against: Option<BTreeMap<String, String>>,
    /// The figure, or the ratio, is at least this.
    pub at_least: Option<f64>,
    /// The figure, or the ratio, is at most this.
    pub at_most: Option<f64>,
    /// Less of the figure counts as this much, on both sides of a ratio.
    #[serde(default)]
    pub floor: f64,
    /// Whether the figure is a count that every run gives again: [`EXACT_RUNS`] are enough then, and decide nothing if they differ.
    #[serde(default)]
    pub exact: bool,
    /// Whether the worst run has to keep to the threshold, and not the median alone.
    #[serde(default)]
    pub every: bool,
    /// Whether one cell is enough: the claim is that something can be.
    #[serde(default)]
    pub any: bool,
    /// What a reader should know.
    #[serde(default)]
    pub note: String,
    /// What was tried to make it hold, if it does not.
    #[serde(default)]
    pub tried: String,
    /// Why it cannot be tested here, if it cannot.
    pub not_measurable: Option<String>,
}

impl Claim {
    /// Whether a figure is as claimed.
    pub fn holds(&self, figure: f64) -> bool {
        self.at_least.is_none_or(|least| figure >= least) && self.at_most.is_none_or(|most| figure <= most)
    }

    /// What is claimed of the figure.
    pub fn threshold(&self) -> String {
        let of = if self.against.is_some() { " times" } else { "" };
        let each = match (self.every, self.any) {
            (true, _) => "in every run ",
            (false, true) => "in some cell ",
            (false, false) => "",
        };
        match (self.at_least, self.at_most) {
            (Some(least), None) => format!("{each}at least {least}{of}"),
            (None, Some(most)) => format!("{each}at most {most}{of}"),
            (Some(least), Some(most)) => format!("{each}{least} to {most}{of}"),
            (None, None) => String::new(),
        }
    }

    /// What of the figure counts as more than it is.
    pub fn floor_told(&self) -> String {
        if self.floor > 0.0 { format!("; less than {} counts as that", self.floor) } else { String::new() }
    }

    /// What the runs of a cell are judged by: all of them, or the worst.
    pub fn counted(&self, values: &[f64]) -> Vec<f64> {
        if !self.every {
            return values.to_vec();
        }
        let beyond = |value: f64| -> f64 {
            let above = self.at_most.map(|most| value - most);
            let below = self.at_least.map(|least| least - value);
            above.into_iter().chain(below).fold(f64::NEG_INFINITY, f64::max)
        };
        values.iter().copied().max_by(|a, b| beyond(*a).total_cmp(&beyond(*b))).into_iter().collect()
    }

    fn check(&self, experiments: &[&str]) -> Result<()> {
        ensure!(
            experiments.contains(&self.experiment.as_str()),
            "no experiment `{}`; there are {}",
            self.experiment,
            experiments.join(", ")
        );
        if !METRICS.iter().any(|(name, _)| *name == self.metric) {
            let names: Vec<&str> = METRICS.iter().map(|(name, _)| *name).collect();
            bail!("no metric `{}`; there are {}", self.metric, names.join(", "));
        }
        ensure!(self.at_least.is_some() || self.at_most.is_some(), "neither `at_least` nor `at_most`");
        ensure!(self.floor >= 0.0, "a negative `floor`");
        ensure!(!(self.every && self.any), "`every` and `any` together");
        Ok(())
    }
}

/// Reads a file of claims; `experiments` are those that there are.
pub fn read(text: &str, experiments: &[&str]) -> Result<Vec<Claim>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        claim: Vec<Claim>,
    }
    let File { claim: claims } = toml::from_str(text).context("in the file of claims")?;
    for (i, claim) in claims.iter().enumerate() {
        claim.check(experiments).with_context(|| format!("claim `{}`", claim.id))?;
        ensure!(!claims[..i].iter().any(|other| other.id == claim.id), "claim `{}` is there twice", claim.id);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "[[claim]]\nid='a'\nsection='5.3'\nclaim='c'\nexperiment='e'\nmetric='psp'\nat_most=0.5\n";

    #[test]
    fn thresholds() {
        let claim = &read(ONE, &["e"]).unwrap()[0];
        assert!(claim.holds(0.5) && !claim.holds(0.6));
        assert_eq!(claim.threshold(), "at most 0.5");
    }

    #[test]
    fn the_worst_run_is_the_one_that_is_farthest_from_the_threshold() {
        let claim = |text: &str| read(&ONE.replace("at_most=0.5", text), &["e"]).unwrap().remove(0);
        let values = [0.3, 0.1, 0.7];
        assert_eq!(claim("at_most=0.5").counted(&values), values);
        assert_eq!(claim("at_most=0.5\nevery=true").counted(&values), [0.7]);
        assert_eq!(claim("at_least=0.5\nevery=true").counted(&values), [0.1]);
        assert_eq!(claim("at_least=0.5\nevery=true").threshold(), "in every run at least 0.5");
        assert!(claim("at_least=0.5\nevery=true").counted(&[]).is_empty());
    }

    #[test]
    fn what_failed_in_a_committed_report_tells_what_was_tried() {
        let claims = read(TEXT, &super::super::experiments::names()).unwrap();
        for report in ["docs/results/report.md", "docs/validation/quick/report.md"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(report);
            let text = std::fs::read_to_string(path).expect(report);
            let headings = text.lines().filter_map(|line| line.strip_prefix("### ")?.split_once(": "));
            let failed = |verdict: &str| {
                ["partly", "not reproduced", "undecided"].iter().any(|word| verdict.starts_with(word))
            };
            let mut seen = 0;
            for (id, verdict) in headings {
                let Some(claim) = claims.iter().find(|claim| claim.id == id) else { continue };
                seen += 1;
                assert!(
                    !failed(verdict) || !claim.tried.is_empty(),
                    "{report}: {id} is {verdict}, nothing was tried"
                );
            }
            assert!(seen > 20, "{report}: {seen} claims");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (from, to, word) in [
            ("'e'", "'f'", "experiment `f`"),
            ("'psp'", "'pps'", "psp_per_s"),
            ("at_most=0.5", "", "at_least"),
            ("id='a'", "name='a'", "name"),
            ("at_most", "floor=-1.0\nat_most", "floor"),
            ("at_most", "every=true\nany=true\nat_most", "any"),
        ] {
            let error = format!("{:#}", read(&ONE.replace(from, to), &["e"]).expect_err(to));
            assert!(error.contains(word), "{to}: {error}");
        }
        let twice = format!("{ONE}{ONE}");
        assert!(read(&twice, &["e"]).unwrap_err().to_string().contains("twice"));
    }
}
