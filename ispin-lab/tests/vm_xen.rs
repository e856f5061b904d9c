//! `ispin-lab vm --hypervisor xen` for real: Xen, a dom0 and two guests under QEMU.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ispin_agent::model::Snapshot;

mod guest;

use guest::{LAB, fails, succeeds};

/// The kernel and the Xen that are there, or in CI are built; `None` if this machine cannot run them, which is an
/// error in CI.
fn built() -> Option<(PathBuf, PathBuf)> {
    let found = guest::find(&["--fragment", "xen"]).and_then(|kernel| Ok((kernel, guest::find_xen()?)));
    match found {
        Ok(found) => Some(found),
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

fn xen((kernel, xen): &(PathBuf, PathBuf), arguments: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["vm", "--hypervisor", "xen", "--vcpus", "2", "--kernel"]).arg(kernel).arg("--xen").arg(xen);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Includes what takes too long for every day.
const LONG: &str = "ISPIN_LONG_TESTS";

/// One test, because each boot takes minutes and all of the machine.
#[test]
fn guests_share_pcpus_and_are_seen_the_same_way_every_time() {
    let Some(built) = built() else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);

    // A guest that dies is told, with its console, and a former output stays.
    fs::write(path("former.csv"), "former").expect("write");
    let dies = &["--accel", "tcg", "--append", "rdinit=/nowhere", "--csv"];
    let died = fails(xen(&built, dies).arg(path("former.csv")));
    assert!(died.contains("g1") && died.contains("Kernel panic - not syncing"), "{died}");
    assert_eq!(fs::read_to_string(path("former.csv")).expect("read"), "former");

    let run = |name: &str| {
        let (csv, json, trace) = (format!("{name}.csv"), format!("{name}.jsonl"), format!("{name}.trace"));
        let arguments = ["--lock", "hvm", "--policy", "firm", "--deterministic", "--seconds", "1"];
        let mut command = xen(&built, &arguments);
        command
            .arg("--csv")
            .arg(path(&csv))
            .arg("--json")
            .arg(path(&json))
            .arg("--xentrace")
            .arg(path(&trace));
        let output = succeeds(&mut command);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let truth = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = fs::read_to_string(path(&json)).expect("json");
        (fs::read_to_string(path(&csv)).expect("csv"), json, table, truth)
    };
    let (csv, json, table, truth) = run("first");
    let last: Snapshot = serde_json::from_str(json.lines().last().expect("a snapshot")).expect("snapshot");
    assert_eq!(
        last.vms.iter().map(|vm| (vm.name.as_str(), vm.vcpus.len())).collect::<Vec<_>>(),
        [("g1", 2), ("g2", 2)]
    );
    assert!(last.finished && last.source.slot_source == "xen" && last.source.pcpus == 1, "{:?}", last.source);
    for vm in &last.vms {
        let counters = vm.total().counters;
        assert!(counters.takes > 100 && counters.unslotted == 0, "{}: {counters:?}", vm.name);
        assert!(vm.vcpus.iter().all(|vcpu| vcpu.slices > 0), "{:?}", vm.vcpus);
    }
    assert!(csv.contains(",xen,g1,all,") && csv.contains(",xen,g2,1,"), "{csv}");
    assert!(
        table.contains("result of g2") && truth.contains("switch-ins") && truth.contains("g2 1"),
        "{table}{truth}"
    );

    // Seven minutes of emulation more, on top of seven: not for every day.
    if std::env::var_os(LONG).is_none() {
        eprintln!("the second run, which must give the same bytes, is left out: {LONG}=1 includes it");
        return;
    }
    let again = run("second");
    assert_eq!(csv, again.0, "two CSV files of the same command differ");
    assert_eq!((json, table), (again.1, again.2));
}

#[test]
fn what_cannot_run_is_refused_before_anything_is_built() {
    for (arguments, words) in [
        (&["--guests", "2"][..], "--hypervisor xen"),
        (&["--hypervisor", "xen", "--guests", "9"], "--guests 9"),
        (&["--hypervisor", "xen", "--soft-slice-ms", "2"], "--soft-slice-ms"),
        (&["--hypervisor", "xen", "--policy", "firm", "--scheduler", "credit2"], "credit2"),
        (&["--hypervisor", "xen", "--xentrace", "/no/such/folder/x"], "/no/such/folder"),
    ] {
        let begin = Instant::now();
        let message = fails(Command::new(LAB).arg("vm").args(arguments));
        assert!(message.contains(words), "{arguments:?}: {message}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{arguments:?}");
    }
}
