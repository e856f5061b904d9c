//! Every name that a user meets in the output is in `docs/`.

mod common;

use std::path::Path;

use common::snapshot;
use ispin_agent::check::{Depth, Report};
use serde_json::Value;

fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names that stand in `` `code` `` somewhere in the page.
fn assert_documented(page: &str, names: impl IntoIterator<Item = String>) {
    // A bar inside a table is written with a backslash.
    let text = doc(page).replace("\\|", "|");
    let missing: Vec<String> =
        names.into_iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in docs/{page}: {missing:?}");
}

#[test]
fn every_csv_column() {
    assert_documented("columns.md", ispin_agent::sink::csv_columns());
}

#[test]
fn every_json_field() {
    fn names(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.push(name.clone());
                    names(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|v| names(v, found)),
            _ => {}
        }
    }
    let mut found = vec![];
    names(&serde_json::to_value(snapshot(1)).expect("JSON"), &mut found);
    assert!(found.len() > 100);
    assert_documented("columns.md", found);
}

#[test]
fn every_capability_and_option() {
    let report = Report::probe(Path::new("/no/such/btf"), Depth::Quick);
    let mut names: Vec<String> = report.capabilities.iter().map(|c| c.name.to_owned()).collect();
    names.push("slot_publisher".into());
    names.extend(ispin_agent::sink::KINDS.iter().map(|kind| format!("--{} {}", kind.option, kind.value)));
    assert_documented("agent.md", names);
}
