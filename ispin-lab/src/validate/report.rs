//! The report: Markdown, and the same as one HTML page that needs no other file.

use std::fmt::Write as _;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

use super::claims::{Claim, EXACT_RUNS};
use super::experiments::Extent;
use super::figures::Figure;
use super::found::Found;
use super::judge::{Holds, Judged, Verdict};
use super::tables::{self, shown};
use crate::locks;
use crate::stats::{Interval, LEAST_RUNS};

/// A claim and what came of it.
pub struct Outcome {
    /// The claim.
    pub claim: Claim,
    /// What the runs say of it.
    pub verdict: Verdict,
    /// Cell by cell.
    pub cells: Vec<Judged>,
    /// Whether all runs of its experiment have been done.
    pub complete: bool,
}

impl Outcome {
    /// What follows the verdict's word where more runs can change it.
    pub fn so_far(&self) -> &'static str {
        let decided = !matches!(self.verdict, Verdict::NotMeasurable(_) | Verdict::NotRun(_));
        if decided && !self.complete { " so far" } else { "" }
    }
}

/// What a report is made of.
pub struct Material<'a> {
    /// How much was run.
    pub extent: Extent,
    /// What was judged.
    pub outcomes: Vec<Outcome>,
    /// Experiments by name.
    pub found: Vec<(&'static str, &'a Found)>,
    /// Pictures.
    pub figures: Vec<Figure>,
    /// When the runs were made: [`sittings::table`](super::sittings::table).
    pub sittings: String,
}

fn interval(figure: &Interval) -> String {
    format!("{} [{}, {}]", shown(figure.point), shown(figure.low), shown(figure.high))
}

fn sign(judged: &Judged) -> &'static str {
    match judged.holds {
        _ if judged.differing => "unclear: runs differ that have to be alike",
        Some(Holds::No) if judged.unfinished > 0 => "fails: not all were done within their time",
        Some(Holds::Yes) => "holds",
        Some(Holds::No) => "fails",
        Some(Holds::Unclear) => "unclear",
        None => "too few runs",
    }
}

/// Text that a table of Markdown can hold.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// The report in Markdown. `with_figures`: links to the pictures' files beside it.
pub fn markdown(material: &Material) -> String {
    let mut out = String::new();
    let option = if material.extent == Extent::Quick { "--quick" } else { "--full" };
    let _ = write!(
        out,
        "# What holds of the paper's claims\n\nMade by `ispin-lab validate {option}` from the CSV files beside it. The paper: \
         Teabe et al., EuroSys 2017. The claims and their thresholds are in `docs/claims.toml`.\n\n\
         A ratio compares medians; in brackets is the interval that 95 of 100 resamples of the runs give. A claim holds in a \
         cell if its whole interval keeps to the threshold, with at least {LEAST_RUNS} runs on each side ({EXACT_RUNS} of counts that \
         every run gives again). *Reproduced*: in every cell. *Partly*: in some. *Not reproduced*: in none. *Undecided*: of no \
         cell it can be told, as the interval of each lies on both sides; of a claim of what *can* be: of one cell it cannot be told, and it \
         holds in none. A run that was to end with its work and was not done within its time fails its cell. Where a claim has a least value that counts, a ratio is taken with that, and is an upper bound. Where an agent dropped incidents there were at least as many convoys as are shown. *So far*: not all runs have been done. *Not in --quick*, *only in --quick*: this form has no \
         runs that decide it. *Not run so far*, *too few runs so far*: it has, and they are not done. *Not measurable here*: this machine lacks \
         what they take. The first table links \
         each claim to its section, where, as in the tables, is the command that does all runs of a cell again. `oticket` has no public figures: how many waiters \
         are near, and how long the others spin, are assumptions, so it is marked *assumed*.\n\n"
    );
    verdicts(&mut out, material);
    out += "\n## What was run\n\n| experiment | runs | of | made by | missing because |\n|---|---|---|---|---|\n";
    for (name, found) in &material.found {
        let why = found.missing.as_deref().map(cell).unwrap_or_default();
        let title = if found.title.is_empty() { String::new() } else { format!(": {}", cell(&found.title)) };
        let command =
            if found.command.is_empty() { String::new() } else { format!("`{}`", cell(&found.command)) };
        let _ = writeln!(
            out,
            "| {name}{title} | {} | {} | {command} | {why} |",
            found.samples.len(),
            found.planned
        );
    }
    out += &material.sittings;
    out += "\n## Figures\n";
    for figure in &material.figures {
        let _ = write!(out, "\n### {}\n\n![{}]({}.svg)\n", figure.caption, figure.caption, figure.name);
    }
    out += "\n## Tables\n";
    for (name, found) in &material.found {
        out += &tables::of(name, found);
    }
    out += "\n## Claim by claim\n";
    for outcome in &material.outcomes {
        details(&mut out, outcome);
    }
    out
}

fn verdicts(out: &mut String, material: &Material) {
    *out += "| claim | where | threshold | measured | verdict |\n|---|---|---|---|---|\n";
    for outcome in &material.outcomes {
        let Outcome { claim, verdict, cells, .. } = outcome;
        let measured: Vec<String> = cells
            .iter()
            .map(|cell| {
                let name = if cell.name.is_empty() { String::new() } else { format!("{}: ", cell.name) };
                // So few runs say nothing, not even about.
                if let Some(few) = cell.few {
                    return format!("{name}{} so far", runs_told(few));
                }
                let figure = cell.figure.as_ref().map_or_else(|| "-".into(), |figure| shown(figure.point));
                let not_done = match cell.unfinished {
                    0 => String::new(),
                    some => format!(" of {}, {some} not done", runs_told(cell.runs.0)),
                };
                format!("{name}{figure}{not_done}")
            })
            .collect();
        let _ = writeln!(
            out,
            "| [{}](#{}) | {} | {} {}{} | {} | **{}**{} |",
            cell(&claim.claim),
            anchor(claim),
            cell(&claim.section),
            claim.metric,
            claim.threshold(),
            claim.floor_told(),
            cell(&measured.join("; ")),
            verdict.word(),
            outcome.so_far()
        );
    }
}

/// What the section of a claim is called in links.
fn anchor(claim: &Claim) -> String {
    format!("claim-{}", claim.id)
}

/// A number of runs in words.
fn runs_told(runs: usize) -> String {
    if runs == 1 { "1 run".into() } else { format!("{runs} runs") }
}

fn details(out: &mut String, outcome: &Outcome) {
    let Outcome { claim, verdict, cells, .. } = outcome;
    let said = format!("{}{}", verdict.word(), outcome.so_far());
    let _ = write!(
        out,
        "\n<a id=\"{}\"></a>\n\n### {}: {said}\n\n{} ({}). ",
        anchor(claim),
        claim.id,
        claim.claim,
        claim.section
    );
    let compared = match &claim.against {
        Some(against) => {
            let values: Vec<String> = against
                .iter()
                .map(|(name, value)| format!("{name} {}", locks::label_of(name, value)))
                .collect();
            format!(", against {}", values.join(", "))
        }
        None => String::new(),
    };
    let _ = writeln!(
        out,
        "`{}`{compared}: {}{}. {}",
        claim.metric,
        claim.threshold(),
        claim.floor_told(),
        claim.note
    );
    if matches!(verdict, Verdict::Partly | Verdict::NotReproduced | Verdict::Undecided) {
        let tried = if claim.tried.is_empty() { "nothing yet" } else { &claim.tried };
        let _ = writeln!(out, "\nTried: {tried}");
    }
    if let Verdict::NotMeasurable(why) = verdict {
        let _ = writeln!(out, "\nNot measurable here: {why}.");
    }
    if let Verdict::NotRun(why) = verdict {
        let _ = writeln!(out, "\nNot run: {}.", why.told());
    }
    if cells.is_empty() {
        return;
    }
    *out += "\n| cell | runs | measured | | the cell again |\n|---|---|---|---|---|\n";
    for judged in cells {
        let mut runs = judged.runs.0.to_string();
        if judged.unfinished > 0 {
            let _ = write!(runs, " and {} not done", judged.unfinished);
        }
        if let Some(base) = judged.runs.1 {
            let _ = write!(runs, ", {base}");
        }
        let figure = judged.figure.as_ref().map(interval).unwrap_or_else(|| "-".into());
        let against = judged.against.as_deref().map(|base| format!("; against: `{}`", cell(base)));
        let _ = writeln!(
            out,
            "| {} | {runs} | {figure} | {} | `{}`{} |",
            cell(&judged.name),
            sign(judged),
            cell(&judged.command),
            against.unwrap_or_default()
        );
    }
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{border:1px solid #ccc;padding:.25rem .5rem;\
    text-align:left;vertical-align:top}th{background:#f2f2f2}code{font-size:12px;background:#f6f6f6}\
    svg{max-width:100%;height:auto}.reproduced{background:#dff3df}.partly{background:#fdf3d0}\
    .not-reproduced{background:#f9dcdc}.not-measurable{background:#eee}";

/// The same as one page: the pictures are in it, verdicts have a colour besides their word.
pub fn page(markdown: &str, figures: &[Figure]) -> String {
    let mut options = Options::empty();
    options.insert(Options::ENABLE_TABLES);
    let mut inside = false;
    let events = Parser::new_ext(markdown, options).filter_map(|event| match event {
        // The picture itself in the place of the link; its description is in the heading above.
        Event::Start(Tag::Image { dest_url, .. }) => {
            inside = true;
            let name = dest_url.trim_end_matches(".svg");
            let figure = figures.iter().find(|figure| figure.name == name);
            Some(Event::Html(figure.map(|figure| figure.svg.clone()).unwrap_or_default().into()))
        }
        Event::End(TagEnd::Image) => {
            inside = false;
            None
        }
        event => (!inside).then_some(event),
    });
    let mut body = String::new();
    html::push_html(&mut body, events);
    for (word, class) in [
        ("not reproduced", "not-reproduced"),
        ("reproduced", "reproduced"),
        ("partly", "partly"),
        ("undecided", "partly"),
        ("not measurable here", "not-measurable"),
        ("not in --quick", "not-measurable"),
        ("only in --quick", "not-measurable"),
        ("not run so far", "not-measurable"),
        ("too few runs so far", "not-measurable"),
    ] {
        let plain = format!("<td><strong>{word}</strong>");
        body = body.replace(&plain, &format!("<td class=\"{class}\"><strong>{word}</strong>"));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>ispin: what holds of the paper's claims</title>\n\
         <style>{STYLE}</style>\n<body>\n{body}</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::claims;
    use super::*;

    fn material(found: &Found) -> Material<'_> {
        let text = "[[claim]]\nid='few'\nsection='5.3'\nclaim='far fewer | PSP'\nexperiment='e'\nmetric='psp'\nat_most=0.5\n\
                    floor=1.0\ntried='this and that'\nagainst={lock='ticket'}\n";
        let judged = Judged {
            name: "vcpus 4".into(),
            runs: (5, Some(6)),
            unfinished: 0,
            differing: false,
            few: None,
            figure: Some(Interval { point: 0.012, low: 0.01, high: 0.02 }),
            holds: Some(Holds::Yes),
            command: "ispin-lab vm --seed 1".into(),
            against: Some("ispin-lab vm --seed 2".into()),
        };
        let claim = claims::read(text, &["e"]).unwrap().remove(0);
        Material {
            extent: Extent::Quick,
            outcomes: vec![Outcome {
                claim,
                verdict: Verdict::Reproduced,
                cells: vec![judged],
                complete: false,
            }],
            found: vec![("e", found)],
            figures: vec![Figure {
                name: "f".into(),
                caption: "a picture".into(),
                svg: "<svg id='one'/>".into(),
            }],
            sittings: "\n### Sittings\n\n| began |\n".into(),
        }
    }

    #[test]
    fn a_reader_sees_what_holds_and_how_to_do_it_again() {
        let found = Found {
            samples: vec![],
            title: "t".into(),
            planned: 10,
            missing: Some("no root".into()),
            holds: vec![],
            command: "ispin-lab matrix".into(),
        };
        let mut material = material(&found);
        let text = markdown(&material);
        for words in [
            "| [far fewer \\| PSP](#claim-few) | 5.3 | psp at most 0.5 times; less than 1 counts as that | vcpus 4: 0.0120 | **reproduced** so far |",
            "| vcpus 4 | 5, 6 | 0.0120 [0.0100, 0.0200] | holds | `ispin-lab vm --seed 1`; against: `ispin-lab vm --seed 2` |",
            "| e: t | 0 | 10 | `ispin-lab matrix` | no root |",
            "![a picture](f.svg)",
            "\n<a id=\"claim-few\"></a>\n\n### few: reproduced so far\n",
            "`psp`, against lock ticket: at most 0.5 times; less than 1 counts as that.",
        ] {
            assert!(text.contains(words), "no {words} in {text}");
        }
        let (run, sittings) = (text.find("## What was run"), text.find("### Sittings"));
        assert!(run < sittings && sittings < text.find("## Figures"), "{text}");
        assert!(!text.contains("this and that"), "nothing had to be tried: {text}");
        material.outcomes[0].verdict = Verdict::Partly;
        assert!(markdown(&material).contains("\nTried: this and that\n"));
        material.outcomes[0].claim.tried.clear();
        assert!(markdown(&material).contains("\nTried: nothing yet\n"));
        let judged = &mut material.outcomes[0].cells[0];
        (judged.holds, judged.unfinished) = (Some(Holds::No), 2);
        let failed = markdown(&material);
        assert!(failed.contains("| vcpus 4: 0.0120 of 5 runs, 2 not done |"), "{failed}");
        assert!(
            failed.contains("| vcpus 4 | 5 and 2 not done, 6 | 0.0120 [0.0100, 0.0200] | fails: not all"),
            "{failed}"
        );
        material.outcomes[0].cells[0].few = Some(1);
        let few = markdown(&material);
        assert!(few.contains("| vcpus 4: 1 run so far |") && !few.contains("| vcpus 4: 0.0120"), "{few}");
        material.outcomes[0].cells[0].differing = true;
        assert!(markdown(&material).contains("| unclear: runs differ that have to be alike |"));
        let page = page(&text, &material.figures);
        assert!(page.contains("<svg id='one'/>") && !page.contains("<img"), "{page}");
        assert!(page.contains("<td class=\"reproduced\"><strong>reproduced</strong> so far</td>"), "{page}");
        assert!(!page.contains("http"), "a page that needs no other: {page}");
    }
}
