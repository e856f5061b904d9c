//! Numbers as people read them, in few columns.

use std::time::Duration;

/// A count or a rate: `0`, `0.3`, `2.4`, `247`, `1.02k`, `12.3k`, `123k`, `1.02M`; at most five columns up to 999G.
pub fn count(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if value < 9.95 {
        return if value < 0.05 { "<0.1".into() } else { trim_zero(format!("{value:.1}")) };
    }
    if value < 999.5 {
        return format!("{value:.0}");
    }
    let (scaled, suffix) = scale(value, 1000.0, &["k", "M", "G", "T", "P", "E"]);
    format!("{}{suffix}", three_digits(scaled))
}

/// A whole number in the same form.
pub fn total(value: u64) -> String {
    count(value as f64)
}

/// A time in `unit`: `ns` gives `999ns`, `1.02us`, `8.00ms`, `1.20s`; `tsc` gives cycles, `16.4kcy`.
pub fn time(value: u64, unit: &str) -> String {
    if unit != "ns" {
        return format!("{}cy", count(value as f64));
    }
    if value < 1000 {
        return format!("{value}ns");
    }
    let (scaled, suffix) = scale(value as f64, 1000.0, &["us", "ms", "s"]);
    format!("{}{suffix}", three_digits(scaled))
}

/// A signed difference of times, with its sign.
pub fn time_offset(value: i128, unit: &str) -> String {
    let magnitude = u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX);
    format!("{}{}", if value < 0 { '-' } else { '+' }, time(magnitude, unit))
}

/// A share of a hundred: `0%`, `0.3%`, `87%`.
pub fn percent(value: f64) -> String {
    format!("{}%", if value >= 9.95 { format!("{value:.0}") } else { count(value) })
}

/// Time since a beginning: `0:07`, `12:34`, `1:02:03`.
pub fn clock(elapsed_ns: u64) -> String {
    let s = elapsed_ns / 1_000_000_000;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// A length of time as it is typed: `250ms`, `2s`.
pub fn interval(d: Duration) -> String {
    let ms = d.as_millis();
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

/// `now` as a multiple of `base`: `×1.00`, `×0.05`, `×12`; `×inf` where the base is zero, `×-` where both are. At
/// most five columns.
pub fn ratio(now: f64, base: f64) -> String {
    if base == 0.0 {
        return if now == 0.0 { "×-".into() } else { "×inf".into() };
    }
    let r = now / base;
    if r == 0.0 {
        "×0".into()
    } else if r < 0.005 {
        "×<.01".into()
    } else if r < 9.995 {
        format!("×{r:.2}")
    } else if r < 999.5 {
        format!("×{r:.0}")
    } else {
        "×>999".into()
    }
}

/// Divides by `step` until below it; the first suffix stands for one division.
fn scale<'a>(value: f64, step: f64, suffixes: &[&'a str]) -> (f64, &'a str) {
    let mut scaled = value / step;
    let mut at = 0;
    // 999.5 and more would be rounded up to four digits.
    while scaled >= 999.5 && at + 1 < suffixes.len() {
        scaled /= step;
        at += 1;
    }
    (scaled, suffixes[at])
}

fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn trim_zero(text: String) -> String {
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fit_five_columns() {
        for (value, text) in [
            (0.0, "0"),
            (0.01, "<0.1"),
            (0.3, "0.3"),
            (2.0, "2"),
            (9.94, "9.9"),
            (9.96, "10"),
            (247.4, "247"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1_020.0, "1.02k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (999_600.0, "1.00M"),
            (1.5e12, "1.50T"),
        ] {
            assert_eq!(count(value), text, "{value}");
            assert!(count(value).len() <= 5, "{value}");
        }
    }

    #[test]
    fn times_follow_the_unit() {
        assert_eq!(time(0, "ns"), "0ns");
        assert_eq!(time(999, "ns"), "999ns");
        assert_eq!(time(10_000, "ns"), "10.0us");
        assert_eq!(time(8_000_000, "ns"), "8.00ms");
        assert_eq!(time(3_600_000_000_000, "ns"), "3600s");
        assert_eq!(time(16_384, "tsc"), "16.4kcy");
        assert_eq!(time_offset(-1_500, "ns"), "-1.50us");
        assert_eq!(time_offset(0, "ns"), "+0ns");
    }

    #[test]
    fn ratios_name_the_odd_cases() {
        assert_eq!(ratio(0.0, 0.0), "×-");
        assert_eq!(ratio(1.0, 0.0), "×inf");
        assert_eq!(ratio(0.0, 3.0), "×0");
        assert_eq!(ratio(0.001, 3.0), "×<.01");
        assert_eq!(ratio(3.0, 3.0), "×1.00");
        assert_eq!(ratio(36.0, 3.0), "×12");
        assert_eq!(ratio(30_000.0, 3.0), "×>999");
    }

    #[test]
    fn clocks_and_intervals() {
        assert_eq!(clock(7_999_999_999), "0:07");
        assert_eq!(clock(3_723_000_000_000), "1:02:03");
        assert_eq!(interval(Duration::from_millis(250)), "250ms");
        assert_eq!(interval(Duration::from_secs(2)), "2s");
        assert_eq!(percent(87.4), "87%");
        assert_eq!(percent(0.3), "0.3%");
    }
}
