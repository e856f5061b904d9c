//! A picture of an experiment, as the paper's Figure 7: normalised performance above, PSP below, over the number of
//! vCPUs, a line for each lock. What else varies gets a column for each combination.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::cells::Row;
use super::experiment::{Cell, Experiment};
use super::matrix::Run;
use crate::matrix::median;

const COLUMN: u32 = 420;
const HEIGHT: u32 = 680;
/// What stands for zero on a logarithmic axis.
const FLOOR: f64 = 0.1;
/// What a logarithmic axis shows of `y`.
fn floored(y: f64) -> f64 {
    y.max(FLOOR)
}

/// Told apart without colours, too, by their order in the legend.
const COLORS: [RGBColor; 6] = [
    RGBColor(200, 60, 50),
    RGBColor(40, 100, 190),
    RGBColor(30, 140, 80),
    RGBColor(150, 90, 190),
    RGBColor(190, 130, 20),
    RGBColor(90, 90, 90),
];

/// Median, least and most of some runs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let least = values.clone().reduce(f64::min)?;
        let most = values.clone().reduce(f64::max)?;
        Some(Self { median: median(values), least, most })
    }
}

/// One lock in one column.
struct Line {
    lock: String,
    /// vCPUs, and performance as multiples of the first lock's.
    performance: Vec<(f64, Spread)>,
    /// vCPUs, and PSP per million locks acquired.
    psp: Vec<(f64, Spread)>,
}

struct Column {
    title: String,
    lines: Vec<Line>,
}

/// Draws what there is of an experiment that varies `lock` and `vcpus`.
pub fn draw(experiment: &Experiment, rows: &[Row], path: &Path) -> Result<()> {
    let columns = columns(experiment, rows)?;
    if columns.iter().all(|column| column.lines.iter().all(|line| line.psp.is_empty())) {
        bail!("--plot: there is no result to draw yet");
    }
    let size = (COLUMN * columns.len() as u32, HEIGHT);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing {}: {error}", path.display());
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        let root = root.titled(&experiment.title, ("sans-serif", 16)).map_err(|error| failed(&error))?;
        for (area, column) in root.split_evenly((1, columns.len())).iter().zip(&columns) {
            let parts = area.split_evenly((2, 1));
            performance(&parts[0], column).map_err(|error| failed(&error))?;
            psp(&parts[1], column).map_err(|error| failed(&error))?;
        }
        root.present().map_err(|error| failed(&error))?;
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn columns(experiment: &Experiment, rows: &[Row]) -> Result<Vec<Column>> {
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
    let column = |combination: &Vec<(String, String)>| -> Result<Column> {
        let mut lines = vec![];
        for lock in &locks {
            let mut line = Line { lock: lock.clone(), performance: vec![], psp: vec![] };
            for n in &vcpus {
                let x: f64 = n.parse().with_context(|| format!("vcpus = {n}"))?;
                let (ours, base) = (runs(combination, lock, n), runs(combination, &locks[0], n));
                line.psp.extend(Spread::of(ours.iter().map(|run| run.per_million)).map(|spread| (x, spread)));
                let base = median(base.iter().map(|run| run.value));
                let better = |run: &Run| if run.less_is_better { base / run.value } else { run.value / base };
                let known = ours.iter().map(better).filter(|ratio| ratio.is_finite());
                line.performance.extend(Spread::of(known).map(|spread| (x, spread)));
            }
            lines.push(line);
        }
        let title: Vec<String> = combination.iter().map(|(name, value)| format!("{name} {value}")).collect();
        Ok(Column { title: title.join(", "), lines })
    };
    combinations.iter().map(column).collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn range(column: &Column, of: fn(&Line) -> &[(f64, Spread)]) -> (std::ops::Range<f64>, f64, f64) {
    let points = || column.lines.iter().flat_map(of);
    let x = |join: fn(f64, f64) -> f64| points().map(|(x, _)| *x).reduce(join).unwrap_or(1.0);
    let least = points().map(|(_, spread)| spread.least).reduce(f64::min).unwrap_or(0.0);
    let most = points().map(|(_, spread)| spread.most).reduce(f64::max).unwrap_or(1.0);
    (x(f64::min) - 0.5..x(f64::max) + 0.5, least, most)
}

fn performance<'a>(area: &Area<'a>, column: &Column) -> Drawn<'a> {
    let (x, _, most) = range(column, |line| &line.performance);
    let mut chart = ChartBuilder::on(area)
        .caption(&column.title, ("sans-serif", 13))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(x, 0.0..most * 1.05)?;
    chart
        .configure_mesh()
        .y_desc("performance, first lock = 1")
        .x_labels(6)
        .light_line_style(WHITE)
        .draw()?;
    for (i, line) in column.lines.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        chart.draw_series(bars(&line.performance, color, |y| y))?;
        chart.draw_series(dots(&line.performance, color, |y| y))?;
        chart
            .draw_series(LineSeries::new(
                line.performance.iter().map(|(x, s)| (*x, s.median)),
                color.stroke_width(2),
            ))?
            .label(line.lock.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE.mix(0.8)).draw()
}

fn psp<'a>(area: &Area<'a>, column: &Column) -> Drawn<'a> {
    let (x, _, most) = range(column, |line| &line.psp);
    let top = most.max(10.0 * FLOOR) * 2.0;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(48)
        .build_cartesian_2d(x, (FLOOR..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("vCPUs per guest")
        .y_desc("PSP per million acquisitions")
        .x_labels(6)
        .light_line_style(WHITE)
        .draw()?;
    for (i, line) in column.lines.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        chart.draw_series(bars(&line.psp, color, floored))?;
        chart.draw_series(dots(&line.psp, color, floored))?;
        let points = line.psp.iter().map(|(x, s)| (*x, floored(s.median)));
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
    }
    Ok(())
}

/// From the least to the most of each.
fn bars(points: &[(f64, Spread)], color: RGBColor, place: fn(f64) -> f64) -> Vec<PathElement<(f64, f64)>> {
    let bar = |(x, s): &(f64, Spread)| {
        PathElement::new([(*x, place(s.least)), (*x, place(s.most))], color.mix(0.5).stroke_width(3))
    };
    points.iter().map(bar).collect()
}

/// A dot at each median.
fn dots(points: &[(f64, Spread)], color: RGBColor, place: fn(f64) -> f64) -> Vec<Circle<(f64, f64), i32>> {
    points.iter().map(|(x, s)| Circle::new((*x, place(s.median)), 3, color.filled())).collect()
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
        assert_eq!((drawn.len(), drawn[0].title.as_str(), drawn[0].lines.len()), (2, "policy firm", 2));
        let hvm = &drawn[0].lines[1];
        let spread = |value| Spread { median: value, least: value, most: value };
        assert_eq!(hvm.performance, [(2.0, spread(50.0)), (4.0, spread(50.0))]);
        assert_eq!(drawn[1].lines[0].psp[1], (4.0, spread(40_000.0)));
        draw(&experiment, &all, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for words in ["<svg", "a title", "policy slice", "hvm", "vCPUs per guest"] {
            assert!(svg.contains(words), "no {words}");
        }
    }
}
