//! `models/ispin_plus.pml`, the rule of `ispin+` against every hypervisor, checked by spin; and that spin finds what is wrong
//! with three broken variants of it.

use std::path::Path;
use std::process::Command;

use rstest::rstest;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/ispin_plus.pml");

/// Whether spin and a C compiler are here. Without them the test is skipped, which is an error in CI.
fn is_here() -> bool {
    let missing: Vec<&str> = ["spin", "gcc"]
        .into_iter()
        .filter(|tool| Command::new(tool).arg("--version").output().is_err())
        .collect();
    assert!(missing.is_empty() || std::env::var_os("CI").is_none(), "missing: {missing:?}");
    if !missing.is_empty() {
        eprintln!("skipped: missing: {missing:?}");
    }
    missing.is_empty()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What the verifier says of the model with these definitions.
fn verify(definitions: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("folder");
    let at = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(folder.path());
        command
    };
    output(at("spin").args(definitions).arg("-a").arg(MODEL));
    output(at("gcc").args(["-O2", "-DSAFETY", "-w", "-o", "pan", "pan.c"]));
    output(at(folder.path().join("pan").to_str().expect("UTF-8")).arg("-m8000000"))
}

#[rstest]
#[case::three_vcpus_on_one_pcpu(&["-DN=3", "-DP=1"])]
#[case::two_vcpus_on_two_pcpus(&["-DN=2", "-DP=2"])]
fn the_rule_holds_whatever_the_hypervisor_does(#[case] definitions: &[&str]) {
    assert!(Path::new(MODEL).is_file());
    if is_here() {
        let said = verify(definitions);
        assert!(said.contains("errors: 0") && !said.contains("max search depth too small"), "{said}");
    }
}

#[rstest]
#[case("-DTORN_TAKE", "holders==1")]
#[case("-DNO_MAX_DEFER", "quanta[me]<=")]
#[case("-DFORGETS_QUEUE", "forced")]
fn a_broken_variant_is_found_out(#[case] broken: &str, #[case] violated: &str) {
    if is_here() {
        let said = verify(&["-DN=3", "-DP=2", broken]);
        assert!(said.contains("assertion violated") && said.contains(violated), "{said}");
    }
}
