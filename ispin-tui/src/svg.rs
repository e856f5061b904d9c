//! A picture of the screen as a self-contained SVG file.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// Size of a cell in pixels.
const CELL: (f64, f64) = (8.4, 17.0);
const MARGIN: f64 = 10.0;
const BACKGROUND: &str = "#14161b";
const FOREGROUND: &str = "#d4d7dd";

/// Writes `buf` to `path`.
pub fn write(buf: &Buffer, path: &Path) -> Result<()> {
    std::fs::write(path, render(buf)).with_context(|| format!("writing the picture to {}", path.display()))
}

/// How a cell looks.
#[derive(Clone, Copy, PartialEq)]
struct Look {
    foreground: &'static str,
    background: Option<&'static str>,
    bold: bool,
    dim: bool,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let has = |modifier| cell.modifier.contains(modifier);
        let foreground = color(cell.fg).unwrap_or(FOREGROUND);
        let background = color(cell.bg);
        let (foreground, background) = if has(Modifier::REVERSED) {
            (background.unwrap_or(BACKGROUND), Some(foreground))
        } else {
            (foreground, background)
        };
        Self { foreground, background, bold: has(Modifier::BOLD), dim: has(Modifier::DIM) }
    }
}

/// The picture as text.
pub fn render(buf: &Buffer) -> String {
    let (width, height) = (f64::from(buf.area.width) * CELL.0, f64::from(buf.area.height) * CELL.1);
    let (outer_width, outer_height) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {outer_width:.1} {outer_height:.1}\" \
         width=\"{outer_width:.0}\" height=\"{outer_height:.0}\" \
         font-family=\"'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n"
    );
    for y in 0..buf.area.height {
        let cells: Vec<_> =
            (0..buf.area.width).filter_map(|x| buf.cell((buf.area.x + x, buf.area.y + y))).collect();
        for run in cells.iter().enumerate().collect::<Vec<_>>().chunk_by(|a, b| joined(a.1, b.1)) {
            draw_run(&mut out, run, f64::from(y));
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Cells that are drawn in one piece: they look alike, and are both text or both the same part of a bar.
fn joined(a: &Cell, b: &Cell) -> bool {
    Look::of(a) == Look::of(b) && block(a) == block(b) && arms(a).is_none() && arms(b).is_none()
}

fn draw_run(out: &mut String, run: &[(usize, &&Cell)], y: f64) {
    let Some((x, first)) = run.first() else { return };
    let look = Look::of(first);
    let text: String = run.iter().map(|(_, cell)| cell.symbol()).collect();
    let (left, top) = (MARGIN + *x as f64 * CELL.0, MARGIN + y * CELL.1);
    let width = run.len() as f64 * CELL.0;
    // Writing to a String cannot fail.
    if let Some(background) = look.background {
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{background}\"/>",
            CELL.1
        );
    }
    let opacity = if look.dim { " opacity=\"0.6\"" } else { "" };
    if let Some((from, part)) = block(first) {
        // Fonts leave gaps between blocks; a bar shall be in one piece.
        let height = part * CELL.1;
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{:.2}\" width=\"{width:.1}\" height=\"{height:.2}\" fill=\"{}\"{opacity} \
             shape-rendering=\"crispEdges\"/>",
            top + from * CELL.1,
            look.foreground,
        );
        return;
    }
    if let Some((heavy, arms)) = arms(first) {
        let (x, y) = (left + CELL.0 / 2.0, top + CELL.1 / 2.0);
        let [to_left, to_right, up, down] = arms.map(|arm| if arm { 0.5 } else { 0.0 });
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {y:.1}H{:.1}M{x:.1} {:.1}V{:.1}\" stroke=\"{}\" stroke-width=\"{}\"{opacity}/>",
            x - to_left * CELL.0,
            x + to_right * CELL.0,
            y - up * CELL.1,
            y + down * CELL.1,
            look.foreground,
            if heavy { 2 } else { 1 },
        );
        return;
    }
    if text.trim().is_empty() {
        return;
    }
    let trimmed = text.trim_end();
    let columns = trimmed.chars().count() as f64;
    let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
    let _ = writeln!(
        out,
        "<text x=\"{left:.1}\" y=\"{:.1}\" fill=\"{}\" textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
         xml:space=\"preserve\"{weight}{opacity}>{}</text>",
        top + CELL.1 * 0.76,
        look.foreground,
        columns * CELL.0,
        escape(trimmed),
    );
}

/// Where in its cell a bar begins, from the top, and how much of it it fills, if this is a piece of a bar.
fn block(cell: &Cell) -> Option<(f64, f64)> {
    let symbol = cell.symbol().chars().next()?;
    let eighths = match symbol {
        '▁'..='█' => symbol as u32 - '▁' as u32 + 1,
        _ => return None,
    };
    let part = f64::from(eighths) / 8.0;
    Some((1.0 - part, part))
}

/// Whether a piece of a frame is heavy, and its arms: to the left, to the right, up, down. `None` = no such piece.
/// Fonts leave gaps between them.
fn arms(cell: &Cell) -> Option<(bool, [bool; 4])> {
    let symbol = cell.symbol().chars().next()?;
    let (heavy, arms) = match symbol {
        '─' | '━' => (symbol == '━', [1, 1, 0, 0]),
        '│' | '┃' => (symbol == '┃', [0, 0, 1, 1]),
        '┌' | '┏' => (symbol == '┏', [0, 1, 0, 1]),
        '┐' | '┓' => (symbol == '┓', [1, 0, 0, 1]),
        '└' | '┗' => (symbol == '┗', [0, 1, 1, 0]),
        '┘' | '┛' => (symbol == '┛', [1, 0, 1, 0]),
        _ => return None,
    };
    Some((heavy, arms.map(|arm| arm == 1)))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The colour that most terminals show; `None` = the terminal's own.
fn color(color: Color) -> Option<&'static str> {
    Some(match color {
        Color::Black => "#000000",
        Color::Red => "#ff6b60",
        Color::Green => "#7fd66f",
        Color::Yellow => "#f2c14e",
        Color::Blue => "#6ea8e8",
        Color::Magenta => "#d38be8",
        Color::Cyan => "#5cd0d0",
        Color::Gray => "#b4b8c0",
        Color::DarkGray => "#6b7079",
        Color::LightRed => "#ff8f86",
        Color::LightGreen => "#a3e697",
        Color::LightYellow => "#ffdb85",
        Color::LightBlue => "#97c3f5",
        Color::LightMagenta => "#e5b3f5",
        Color::LightCyan => "#8be8e8",
        Color::White => "#ffffff",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    #[test]
    fn text_is_escaped_and_coloured() {
        let mut buf = Buffer::empty(ratatui::layout::Rect::new(0, 0, 8, 2));
        buf.set_string(0, 0, "a<b & c", Style::new().fg(Color::Red));
        buf.set_string(0, 1, "██▄┌", Style::new());
        let svg = render(&buf);
        assert!(svg.contains("a&lt;b &amp; c"), "{svg}");
        assert!(svg.contains("fill=\"#ff6b60\""), "{svg}");
        assert!(svg.contains("width=\"16.8\" height=\"17.00\""), "bars are in one piece: {svg}");
        assert!(svg.contains("width=\"8.4\" height=\"8.50\""), "{svg}");
        assert!(svg.contains("<path") && !svg.contains('┌'), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
