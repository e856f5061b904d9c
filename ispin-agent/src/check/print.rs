//! The report on paper: a table for people, JSON for programs.

use anyhow::{Context, Result};
use rustix::termios::tcgetwinsize;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Modify, Style, Width};

use super::{Report, State};

/// Columns of text where the terminal does not say how wide it is.
const DEFAULT_WIDTH: usize = 100;

/// As a table, with the sources below.
pub fn table(report: &Report) -> String {
    let mut builder = Builder::default();
    builder.push_record(["capability", "has", "needed by", "found, and what would bring it"]);
    let mut first = [0; 3];
    for c in &report.capabilities {
        let has = match c.state {
            State::Yes => "yes",
            State::No => "NO",
            State::Unknown => "?",
        };
        let needed_by = c.needed_by.join(" ");
        for (width, text) in first.iter_mut().zip([c.name, has, &needed_by]) {
            *width = text.len().max(*width);
        }
        builder.push_record([c.name, has, &needed_by, &c.found]);
        if let Some(remedy) = &c.remedy {
            builder.push_record(["", "", "", &format!("-> {remedy}")]);
        }
    }
    let width = tcgetwinsize(rustix::stdio::stdout()).map_or(DEFAULT_WIDTH, |size| size.ws_col as usize);
    // Three columns, the padding of all four and what separates them.
    let taken = first[0] + first[1].max(3) + first[2].max("needed by".len()) + 11;
    let mut table = builder.build();
    table.with(Style::blank()).with(
        Modify::new(Columns::last()).with(Width::wrap(width.saturating_sub(taken).max(30)).keep_words(true)),
    );
    let mut text = format!("{table}\n\n");
    for source in &report.sources {
        let state = if source.available {
            "available".to_owned()
        } else {
            format!("not available, lacks {}", source.missing.join(", "))
        };
        text += &format!("source {}: {state}\n", source.name);
    }
    text += &format!("kernel {}; eBPF object {}\n", report.kernel, report.ebpf_object);
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// As JSON.
pub fn json(report: &Report) -> Result<String> {
    Ok(serde_json::to_string_pretty(report).context("formatting the report as JSON")? + "\n")
}
