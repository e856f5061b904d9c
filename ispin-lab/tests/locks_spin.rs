//! `models/ispin_plus.pml`, the rule of `ispin+` against every hypervisor, checked by spin; and that spin finds what is wrong
//! with four broken variants of it.

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

/// What the verifier says of the model with these definitions: with `-DSAFETY` for the compiler it looks for assertions that fail
/// and for deadlocks, without it for cycles, too.
fn verify(definitions: &[&str], compiler: &[&str], verifier: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("folder");
    let at = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(folder.path());
        command
    };
    output(at("spin").args(definitions).arg("-a").arg(MODEL));
    output(at("gcc").args(["-O2", "-w", "-o", "pan", "pan.c"]).args(compiler));
    output(at(folder.path().join("pan").to_str().expect("UTF-8")).arg("-m8000000").args(verifier))
}

/// Every state was visited, and nothing is wrong in any.
fn sound(said: &str) -> bool {
    said.contains("errors: 0") && !said.contains("max search depth too small")
}

#[rstest]
#[case::three_vcpus_on_one_pcpu(&["-DN=3", "-DP=1"])]
#[case::two_vcpus_on_two_pcpus(&["-DN=2", "-DP=2"])]
fn the_rule_holds_whatever_the_hypervisor_does(#[case] definitions: &[&str]) {
    assert!(Path::new(MODEL).is_file());
    if is_here() {
        let said = verify(definitions, &["-DSAFETY"], &[]);
        assert!(sound(&said), "{said}");
    }
}

/// The first two sizes are those at which the sound model is searched to its end.
#[rstest]
#[case::hands_a_ticket_out_twice("-DTORN_TAKE", "(holders==1)")]
#[case::refuses_for_ever("-DNO_MAX_DEFER", "(quanta[me]<=")]
#[case::forgets_who_is_off("-DFORGETS_QUEUE", "||over)")]
#[case::asks_once("-DASKS_ONCE", "||over)")]
fn a_broken_variant_is_found_out(
    #[case] broken: &str,
    #[case] violated: &str,
    #[values(["-DN=3", "-DP=1"], ["-DN=2", "-DP=2"], ["-DN=3", "-DP=2"])] size: [&str; 2],
) {
    if is_here() {
        let said = verify(&[&size[..], &[broken]].concat(), &["-DSAFETY"], &[]);
        let found = said.lines().find(|line| line.contains("assertion violated (")).unwrap_or("nothing");
        assert!(found.contains(violated), "found: {found}\n{said}");
    }
}

#[rstest]
#[case::first_of_three_on_one_pcpu(&["-DN=3", "-DP=1", "-DLIVE=0"], &["-a"])]
#[case::second_of_three_on_one_pcpu(&["-DN=3", "-DP=1", "-DLIVE=1"], &["-a"])]
#[case::third_of_three_on_one_pcpu(&["-DN=3", "-DP=1", "-DLIVE=2"], &["-a"])]
#[case::first_of_two_on_two_pcpus(&["-DN=2", "-DP=2", "-DLIVE=0"], &["-a", "-f"])]
#[case::second_of_two_on_two_pcpus(&["-DN=2", "-DP=2", "-DLIVE=1"], &["-a", "-f"])]
fn every_vcpu_gets_the_lock_again_and_again(#[case] definitions: &[&str], #[case] verifier: &[&str]) {
    if is_here() {
        let said = verify(definitions, &[], verifier);
        assert!(sound(&said), "{said}");
    }
}

/// Without `max_defer` a vCPU can be refused for ever. Failing assertions (`-A`) would come first.
#[rstest]
#[case::on_one_pcpu(&["-DN=3", "-DP=1", "-DLIVE=2", "-DNO_MAX_DEFER"], &["-a", "-A"])]
#[case::on_two_pcpus(&["-DN=2", "-DP=2", "-DLIVE=1", "-DNO_MAX_DEFER"], &["-a", "-A", "-f"])]
fn a_vcpu_that_starves_is_found_out(#[case] definitions: &[&str], #[case] verifier: &[&str]) {
    if is_here() {
        let said = verify(definitions, &[], verifier);
        assert!(said.contains("acceptance cycle (at depth"), "{said}");
    }
}
