//! `ispin-agent check`, on whatever machine the test runs.

mod common;

use std::process::Stdio;

use common::{agent, done};
use serde_json::Value;

fn report(arguments: &[&str]) -> (Option<i32>, Value) {
    let done = done(agent(arguments));
    (done.code, serde_json::from_str(&done.stdout).expect("JSON"))
}

#[test]
fn what_is_missing_has_a_remedy_and_decides_the_exit_code() {
    let (code, report) = report(&["check", "--json"]);
    let capabilities = report["capabilities"].as_array().expect("capabilities");
    for c in capabilities {
        let there = c["state"] == "yes";
        assert_eq!(c["remedy"].is_null(), there, "{c}");
        assert!(c["found"].as_str().is_some_and(|f| !f.is_empty()), "{c}");
    }
    let mut any = false;
    for source in report["sources"].as_array().expect("sources") {
        let missing = source["missing"].as_array().expect("missing");
        let lacking: Vec<&Value> = capabilities
            .iter()
            .filter(|c| c["state"] != "yes")
            .filter(|c| c["needed_by"].as_array().expect("needed_by").contains(&source["name"]))
            .map(|c| &c["name"])
            .collect();
        assert_eq!(missing.iter().collect::<Vec<_>>(), lacking);
        assert_eq!(source["available"], missing.is_empty());
        any |= missing.is_empty();
    }
    assert_eq!(code, Some(if any { 0 } else { 2 }));
}

#[test]
fn the_table_has_a_row_for_each_capability_and_a_line_for_each_source() {
    let (_, report) = report(&["check", "--json"]);
    let table = done(agent(&["check"])).stdout;
    for c in report["capabilities"].as_array().expect("capabilities") {
        let name = c["name"].as_str().expect("name");
        assert_eq!(
            table.lines().filter(|l| l.split_whitespace().next() == Some(name)).count(),
            1,
            "{name}:\n{table}"
        );
    }
    for source in ["threads", "guest"] {
        assert!(table.contains(&format!("source {source}: ")));
    }
    let mut rows = table.lines().take_while(|line| !line.is_empty());
    assert!(rows.all(|line| line.chars().count() <= 100), "{table}");
}

#[test]
fn a_closed_pipe_is_quiet() {
    let mut child =
        agent(&["check"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    drop(child.stdout.take());
    let done = common::finish(child);
    assert_eq!(done.stderr, "");
    assert!(matches!(done.code, Some(0 | 2)));
}
