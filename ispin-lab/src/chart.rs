//! Charts as SVG: panels side by side and one below the other, a line for each lock, medians with their spread; and bars.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::stats::{LEAST_RUNS, median};

const PANEL: (u32, u32) = (420, 320);
const TITLE_HEIGHT: u32 = 40;

/// What stands for zero on a logarithmic axis.
const FLOOR: f64 = 0.1;

/// Heights of a bar and of its place, and where bars begin and at the most end, in pixels.
const BAR: (i32, i32) = (14, 22);
const BAR_FROM: i32 = 180;
const BAR_TO: i32 = 640;
/// Room for the number behind the longest bar.
const BAR_LABEL: u32 = 80;

/// Over how much of the horizontal axis locks stand beside each other where there is one place only.
const ONE_PLACE: f64 = 0.7;

/// Room for the legend, as a share of what is drawn.
const LEGEND_SHARE: f64 = 0.45;

/// Told apart without colours, too, by their order in the legend.
const COLORS: [RGBColor; 10] = [
    RGBColor(200, 60, 50),
    RGBColor(40, 100, 190),
    RGBColor(30, 140, 80),
    RGBColor(150, 90, 190),
    RGBColor(190, 130, 20),
    RGBColor(90, 90, 90),
    RGBColor(0, 160, 170),
    RGBColor(220, 110, 160),
    RGBColor(120, 80, 40),
    RGBColor(150, 170, 40),
];

/// Median, least and most of some runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// In the middle.
    pub median: f64,
    /// The least one.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// Of so many runs. Fewer than [`LEAST_RUNS`] are drawn hollow.
    pub runs: usize,
}

impl Spread {
    /// Of some values; `None` of none. What is not a number is left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        Some(Self { runs: values.len(), median: median(values.into_iter()), least, most })
    }
}

/// One lock in one panel.
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// Places on the horizontal axis and what was measured there.
    pub points: Vec<(f64, Spread)>,
}

/// One chart.
pub struct Panel {
    /// Above it; may be empty.
    pub title: String,
    /// What the horizontal axis tells; may be empty.
    pub x: String,
    /// What the vertical axis tells.
    pub y: String,
    /// Whether the vertical axis is logarithmic.
    pub logarithmic: bool,
    /// Whether it has a legend.
    pub legend: bool,
    /// Place on the horizontal axis at which an upright line stands.
    pub mark: Option<f64>,
    /// What is drawn.
    pub lines: Vec<Line>,
}

impl Panel {
    fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.is_empty())
    }

    /// What the vertical axis shows of `y`.
    fn place(&self, y: f64) -> f64 {
        if self.logarithmic { y.max(self.floor()) } else { y }
    }

    /// Where a logarithmic axis begins: at the decade below the least value, or at [`FLOOR`] if there is a zero.
    fn floor(&self) -> f64 {
        let values = self.lines.iter().flat_map(|line| &line.points).map(|(_, spread)| spread.least);
        let least = values.fold(f64::INFINITY, f64::min);
        if least.is_finite() && least > FLOOR { 10f64.powf(least.log10().floor()) } else { FLOOR }
    }

    /// From the least to the greatest place on the horizontal axis, with room for the legend on the right, and the most on
    /// the vertical one.
    fn extent(&self) -> (std::ops::Range<f64>, f64) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = |join: fn(f64, f64) -> f64| points().map(|(x, _)| *x).reduce(join).unwrap_or(1.0);
        let most = points().map(|(_, spread)| spread.most).reduce(f64::max).unwrap_or(1.0);
        let (first, last) = (x(f64::min), x(f64::max));
        (first - 0.5..last + 0.5 + LEGEND_SHARE * (last - first + 1.0), most)
    }

    /// How far beside its place a line is drawn: where all have the same one, they would hide each other.
    fn aside(&self, line: usize) -> f64 {
        let mut places = self.lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x);
        let first = places.next();
        let last = self.lines.len().saturating_sub(1);
        if last == 0 || places.any(|x| Some(x) != first) {
            return 0.0;
        }
        ONE_PLACE * (line as f64 / last as f64 - 0.5)
    }

    /// What is drawn of a line: places, and what was measured there.
    fn drawn(&self, line: usize) -> Vec<(f64, Spread)> {
        let aside = self.aside(line);
        self.lines[line].points.iter().map(|(x, spread)| (x + aside, *spread)).collect()
    }
}

/// Draws columns of panels, all columns equally long. `None` if there is nothing to draw.
pub fn draw(title: &str, columns: &[Vec<Panel>]) -> Result<Option<String>> {
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    if columns.iter().flatten().all(Panel::is_empty) {
        return Ok(None);
    }
    let size = (PANEL.0 * columns.len() as u32, PANEL.1 * rows as u32 + TITLE_HEIGHT);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing «{title}»: {error}");
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        let root =
            root.titled(title, ("sans-serif", title_size(title, size.0))).map_err(|error| failed(&error))?;
        for (area, column) in root.split_evenly((1, columns.len())).iter().zip(columns) {
            for (area, panel) in area.split_evenly((rows, 1)).iter().zip(column) {
                if !panel.is_empty() {
                    one(area, panel).map_err(|error| failed(&error))?;
                }
            }
        }
        root.present().map_err(|error| failed(&error))?;
    }
    Ok(Some(text))
}

/// Draws a bar for each value, with its name before and the number behind it; lengths are logarithmic, from 1 on. `None` if there
/// is nothing to draw.
pub fn bars(title: &str, values: &[(String, f64)]) -> Result<Option<String>> {
    let most = values.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    if values.is_empty() {
        return Ok(None);
    }
    let length = |value: f64| {
        let share = if most > 1.0 { value.max(1.0).ln() / most.ln() } else { 0.0 };
        (share * f64::from(BAR_TO - BAR_FROM)) as i32
    };
    let size = (BAR_TO as u32 + BAR_LABEL, TITLE_HEIGHT + BAR.1 as u32 * values.len() as u32);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing «{title}»: {error}");
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        let root =
            root.titled(title, ("sans-serif", title_size(title, size.0))).map_err(|error| failed(&error))?;
        for (i, (name, value)) in values.iter().enumerate() {
            let top = BAR.1 * i as i32;
            let end = BAR_FROM + length(*value);
            let style = ("sans-serif", 13);
            root.draw(&Text::new(name.clone(), (8, top + 2), style)).map_err(|error| failed(&error))?;
            let corners = [(BAR_FROM, top), (end, top + BAR.0)];
            root.draw(&Rectangle::new(corners, COLORS[1].filled())).map_err(|error| failed(&error))?;
            let number = Text::new(format!("{value:.0}"), (end + 6, top + 2), style);
            root.draw(&number).map_err(|error| failed(&error))?;
        }
        root.present().map_err(|error| failed(&error))?;
    }
    Ok(Some(text))
}

/// Height of the title's letters, such that it fits into the width: a letter is some 0.55 of its height wide.
fn title_size(title: &str, width: u32) -> f64 {
    (f64::from(width) / (0.55 * title.chars().count().max(1) as f64)).clamp(8.0, 16.0)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Axes, lines and legend; the two kinds of axes are two types.
macro_rules! fill_in {
    ($chart:expr, $panel:expr) => {{
        let (mut chart, panel) = ($chart, $panel);
        chart
            .configure_mesh()
            .x_desc(&panel.x)
            .y_desc(&panel.y)
            .x_labels(8)
            .x_label_formatter(&whole)
            .y_label_formatter(&axis_label)
            .light_line_style(WHITE)
            .draw()?;
        if let Some(x) = panel.mark {
            let ends = vec![(x, panel.place(0.0)), (x, panel.extent().1)];
            chart.draw_series([PathElement::new(ends, BLACK.stroke_width(1))])?;
        }
        for (i, line) in panel.lines.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            let points = panel.drawn(i);
            chart.draw_series(ranges(panel, &points, color))?;
            chart.draw_series(dots(panel, &points, color))?;
            let series =
                chart.draw_series(LineSeries::new(medians(panel, &points), color.stroke_width(2)))?;
            series.label(line.name.clone()).legend(key(color));
        }
        if panel.legend {
            let mut labels = chart.configure_series_labels();
            labels.position(SeriesLabelPosition::UpperRight);
            labels.border_style(BLACK.mix(0.3)).background_style(WHITE.mix(0.8)).draw()?;
        }
        Ok(())
    }};
}

fn one<'a>(area: &Area<'a>, panel: &Panel) -> Drawn<'a> {
    let (x, most) = panel.extent();
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(&panel.title, ("sans-serif", 13))
        .margin(8)
        .x_label_area_size(if panel.x.is_empty() { 24 } else { 34 })
        .y_label_area_size(56);
    if panel.logarithmic {
        let floor = panel.floor();
        let y = (floor..most.max(10.0 * floor) * 2.0).log_scale();
        return fill_in!(builder.build_cartesian_2d(x, y)?, panel);
    }
    let top = if most > 0.0 { most * 1.05 } else { 1.0 };
    fill_in!(builder.build_cartesian_2d(x, 0.0..top)?, panel)
}

/// A number at the horizontal axis, if it is a whole one: nothing is counted between two.
fn whole(x: &f64) -> String {
    if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() }
}

/// A number at the vertical axis.
fn axis_label(y: &f64) -> String {
    if *y >= 10.0 { format!("{y:.0}") } else { format!("{}", (y * 100.0).round() / 100.0) }
}

/// The legend's piece of a line.
fn key(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color.stroke_width(2))
}

fn medians(panel: &Panel, points: &[(f64, Spread)]) -> Vec<(f64, f64)> {
    points.iter().map(|(x, spread)| (*x, panel.place(spread.median))).collect()
}

/// From the least to the most of each.
fn ranges(panel: &Panel, points: &[(f64, Spread)], color: RGBColor) -> Vec<PathElement<(f64, f64)>> {
    let bar = |(x, s): &(f64, Spread)| {
        let ends = [(*x, panel.place(s.least)), (*x, panel.place(s.most))];
        PathElement::new(ends, color.mix(0.5).stroke_width(3))
    };
    points.iter().map(bar).collect()
}

/// A dot at each median, hollow where it is of too few runs.
fn dots(panel: &Panel, points: &[(f64, Spread)], color: RGBColor) -> Vec<Circle<(f64, f64), i32>> {
    let dot = |(place, (_, spread)): ((f64, f64), &(f64, Spread))| {
        let few = spread.runs < LEAST_RUNS;
        Circle::new(place, if few { 4 } else { 3 }, if few { color.stroke_width(1) } else { color.filled() })
    };
    medians(panel, points).into_iter().zip(points).map(dot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(points: Vec<(f64, Spread)>, logarithmic: bool) -> Panel {
        let lines = vec![Line { name: "hvm".into(), points }];
        Panel {
            title: "a panel".into(),
            x: "vCPUs".into(),
            y: "PSP".into(),
            logarithmic,
            legend: true,
            mark: None,
            lines,
        }
    }

    #[test]
    fn spreads() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(
            Spread::of([3.0, 1.0, f64::NAN, 2.0]),
            Some(Spread { median: 2.0, least: 1.0, most: 3.0, runs: 3 })
        );
    }

    #[test]
    fn nothing_is_not_drawn() {
        assert_eq!(draw("t", &[]).unwrap(), None);
        assert_eq!(draw("t", &[vec![panel(vec![], true)]]).unwrap(), None);
    }

    #[test]
    fn bars_tell_their_numbers() {
        assert_eq!(bars("t", &[]).unwrap(), None);
        let values =
            [("ticket".to_owned(), 18.0), ("hvm, agent".to_owned(), 1092.4), ("free".to_owned(), 0.0)];
        let svg = bars("instructions", &values).unwrap().unwrap();
        for words in ["instructions", "ticket", "hvm, agent", "18", "1092", "free"] {
            assert!(svg.contains(words), "no {words} in {svg}");
        }
    }

    #[test]
    fn locks_at_one_place_stand_beside_each_other() {
        let spread = Spread { median: 1.0, least: 1.0, most: 1.0, runs: 5 };
        let mut one = panel(vec![(4.0, spread)], false);
        one.lines.push(Line { name: "pv".into(), points: vec![(4.0, spread)] });
        assert_eq!([one.drawn(0)[0].0, one.drawn(1)[0].0], [4.0 - ONE_PLACE / 2.0, 4.0 + ONE_PLACE / 2.0]);
        one.lines[1].points.push((8.0, spread));
        assert_eq!([one.drawn(0)[0].0, one.drawn(1)[0].0], [4.0, 4.0]);
        assert_eq!([whole(&3.999_999_999), whole(&3.8)], ["4", ""]);
    }

    #[test]
    fn long_titles_are_written_smaller() {
        assert_eq!(title_size("short", 420), 16.0);
        assert!((10.0..11.0).contains(&title_size(&"x".repeat(75), 420)));
        assert_eq!(title_size(&"x".repeat(500), 420), 8.0);
    }

    #[test]
    fn too_few_runs_are_drawn_hollow() {
        let svg = |runs| {
            let spread = Spread { median: 2.0, least: 1.0, most: 3.0, runs };
            draw("t", &[vec![panel(vec![(4.0, spread)], false)]]).unwrap().unwrap()
        };
        let hollow =
            |svg: &str| svg.lines().any(|line| line.contains("<circle") && line.contains("fill=\"none\""));
        assert!(hollow(&svg(LEAST_RUNS - 1)), "{}", svg(LEAST_RUNS - 1));
        assert!(!hollow(&svg(LEAST_RUNS)), "{}", svg(LEAST_RUNS));
    }

    #[test]
    fn zero_has_a_place_on_both_axes() {
        let zero = Spread { median: 0.0, least: 0.0, most: 0.0, runs: 5 };
        let columns = [vec![panel(vec![(4.0, zero)], true), panel(vec![(4.0, zero)], false)]];
        let svg = draw("a title", &columns).unwrap().unwrap();
        for words in ["<svg", "a title", "a panel", "hvm", "vCPUs", "PSP"] {
            assert!(svg.contains(words), "no {words}");
        }
    }
}
