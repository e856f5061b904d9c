//! A picture of an experiment, as the paper's Figure 7: normalised performance above, PSP below, over the number of
//! vCPUs, a line for each lock. What else varies gets a column for each combination.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::cells::Row;
use super::experiment::{Cell, Experiment};
use super::matrix::Run;
use crate::chart::{self, Line, Panel, Spread};
use crate::locks::label;
use crate::stats::median;

/// Draws what there is of an experiment that varies `lock` and `vcpus`.
pub fn draw(experiment: &Experiment, rows: &[Row], path: &Path) -> Result<()> {
    let Some(text) = chart::draw(&experiment.title, &columns(experiment, rows)?)? else {
        bail!("--plot: there is no result to draw yet");
    };
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn columns(experiment: &Experiment, rows: &[Row]) -> Result<Vec<Vec<Panel>>> {
    let plan = experiment.plan()?;
    let values = |name: &str| -> Result<Vec<String>> {
        let mut found: Vec<String> = vec![];
        for cell in &plan {
            let value =
                cell.value(name).with_context(|| format!("--plot: the experiment does not vary `{name}`"))?;
            if !found.iter().any(|known| known == value) {
                found.push(value.to_owned());
            }
        }
        Ok(found)
    };
    let (locks, vcpus) = (values("lock")?, values("vcpus")?);
    let others = |cell: &Cell| -> Vec<(String, String)> {
        cell.varied.iter().filter(|(name, _)| name != "lock" && name != "vcpus").cloned().collect()
    };
    let mut combinations: Vec<Vec<(String, String)>> = vec![];
    for cell in &plan {
        if !combinations.contains(&others(cell)) {
            combinations.push(others(cell));
        }
    }
    let runs = |combination: &[(String, String)], lock: &str, vcpus: &str| {
        let is = |cell: &&Cell| {
            others(cell) == combination
                && cell.value("lock") == Some(lock)
                && cell.value("vcpus") == Some(vcpus)
        };
        let varied = plan.iter().find(is).map(|cell| cell.varied.clone()).unwrap_or_default();
        Run::all(&plan, &varied, rows)
    };
    let column = |combination: &Vec<(String, String)>| -> Result<Vec<Panel>> {
        let (mut performance, mut psp) = (vec![], vec![]);
        for lock in &locks {
            let (mut of_performance, mut of_psp) = (vec![], vec![]);
            for n in &vcpus {
                let x: f64 = n.parse().with_context(|| format!("vcpus = {n}"))?;
                let (ours, base) = (runs(combination, lock, n), runs(combination, &locks[0], n));
                of_psp.extend(Spread::of(ours.iter().map(|run| run.per_million)).map(|spread| (x, spread)));
                let base = median(base.iter().map(|run| run.value));
                let better = |run: &Run| if run.less_is_better { base / run.value } else { run.value / base };
                of_performance.extend(Spread::of(ours.iter().map(better)).map(|spread| (x, spread)));
            }
            performance.push(Line { name: label(lock), points: of_performance });
            psp.push(Line { name: label(lock), points: of_psp });
        }
        let title: Vec<String> = combination.iter().map(|(name, value)| format!("{name} {value}")).collect();
        Ok(vec![
            Panel {
                title: title.join(", "),
                x: String::new(),
                y: "performance, first lock = 1".into(),
                logarithmic: false,
                legend: true,
                mark: None,
                lines: performance,
            },
            Panel {
                title: String::new(),
                x: "vCPUs per guest".into(),
                y: "PSP per million acquisitions".into(),
                logarithmic: true,
                legend: false,
                mark: None,
                lines: psp,
            },
        ])
    };
    combinations.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::super::cells::rows;
    use super::super::cells::tests::observed;
    use super::*;

    #[test]
    fn locks_are_drawn_beside_each_other() {
        let text = "world='xen'\ntitle='a title'\nrepeats=2\n[vary]\npolicy=['firm','slice']\nlock=['ticket','hvm']\n\
                    vcpus=[2,4]\n[options]\nworkload='micro'\n";
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("e.toml");
        std::fs::write(&file, text).unwrap();
        let experiment = Experiment::read(&file).unwrap();
        let path = dir.path().join("p.svg");
        assert!(draw(&experiment, &[], &path).unwrap_err().to_string().contains("no result"));
        let mut all = vec![];
        for cell in experiment.plan().unwrap() {
            let better = if cell.value("lock") == Some("hvm") { (50_000, 0) } else { (1_000, 40) };
            all.extend(rows(&cell, &observed(better.0, better.1)).unwrap());
        }
        let drawn = columns(&experiment, &all).unwrap();
        let above = &drawn[0][0];
        assert_eq!((drawn.len(), above.title.as_str(), above.lines.len()), (2, "policy firm", 2));
        let spread = |value| Spread { median: value, least: value, most: value, runs: 2 };
        assert_eq!(above.lines[1].points, [(2.0, spread(50.0)), (4.0, spread(50.0))]);
        assert_eq!(drawn[1][1].lines[0].points[1], (4.0, spread(40_000.0)));
        draw(&experiment, &all, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for words in ["<svg", "a title", "policy slice", "hvm", "vCPUs per guest"] {
            assert!(svg.contains(words), "no {words}");
        }
    }
}
