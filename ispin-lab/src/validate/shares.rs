//! Processes that share an experiment: all are ended together, and with this one.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ispin_agent::command::{Child, GRACE, Output};

use crate::interrupt;

/// How soon a signal is seen.
const LOOK: Duration = Duration::from_millis(100);
/// How long they may take to end: each ends its emulator first, which has [`GRACE`] for that.
const PATIENCE: Duration = GRACE.saturating_mul(3);

/// Runs `program` with each of these lists of arguments, all at a time, to their ends. What they write to standard output goes
/// nowhere.
///
/// # Errors
/// One cannot be started, or failed, or `interrupted` was set meanwhile. The others have ended then too.
pub fn run(program: &OsStr, shares: &[Vec<OsString>], interrupted: &AtomicBool) -> Result<()> {
    let mut children = vec![];
    for arguments in shares {
        // If it cannot be started, those before it end as they are dropped.
        children.push(Child::spawn(program, arguments, &[], Output::OnlyErrors)?);
    }
    let mut failed = 0;
    let mut waiting: Vec<&mut Child> = children.iter_mut().collect();
    while let Some(child) = waiting.last_mut() {
        if interrupted.load(Ordering::SeqCst) {
            break;
        }
        if let Some(status) = child.wait(Some(LOOK))? {
            failed += usize::from(!status.success());
            waiting.pop();
        }
    }
    drop(waiting);
    if interrupted.load(Ordering::SeqCst) {
        end(&mut children)?;
    }
    interrupt::check(interrupted)?;
    ensure!(failed == 0, "{failed} of {} processes failed; what they said stands above", shares.len());
    Ok(())
}

/// Tells all of them before it waits for one, so that they end side by side.
fn end(children: &mut [Child]) -> Result<()> {
    for child in children.iter_mut() {
        if child.try_wait()?.is_none() {
            child.signal(libc::SIGTERM)?;
        }
    }
    for child in children {
        child.end(libc::SIGTERM, PATIENCE).context("ending a process that was interrupted")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    fn sh(script: &str) -> Vec<OsString> {
        vec!["-c".into(), script.into()]
    }

    fn is_there(path: &Path) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !path.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        path.exists()
    }

    #[test]
    fn one_that_fails_does_not_end_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("late");
        let shares = [sh(&format!("sleep 0.3; : > '{}'", file.display())), sh("exit 3")];
        let error = run("sh".as_ref(), &shares, &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(error.contains("1 of 2") && file.exists(), "{error}");
        run("sh".as_ref(), &shares[..1], &AtomicBool::new(false)).unwrap();
    }

    #[test]
    fn an_interruption_ends_all_of_them_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let [begun, ended] = ["begun", "ended"].map(|name| dir.path().join(name));
        // As a run does: it cleans up when it is told to end.
        let script = format!(
            "trap 'sleep 0.2; : > \"{}\"; exit 1' TERM; : > '{}'; while :; do sleep 0.05; done",
            ended.display(),
            begun.display()
        );
        let shares = [sh(&script), sh("exec sleep 60"), sh("exit 0")];
        let interrupted = AtomicBool::new(false);
        let begin = Instant::now();
        let done = std::thread::scope(|scope| {
            let running = scope.spawn(|| run("sh".as_ref(), &shares, &interrupted));
            let begun = is_there(&begun);
            interrupted.store(true, Ordering::SeqCst);
            assert!(begun, "the first one has not begun");
            running.join().unwrap()
        });
        let error = done.unwrap_err().to_string();
        assert!(error.contains("interrupted") && error.contains("goes on"), "{error}");
        assert!(ended.exists(), "it was given the time to clean up");
        assert!(begin.elapsed() < Duration::from_secs(40), "nobody waited for the one that sleeps");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = run("no-such-program-of-ispin".as_ref(), &[vec![]], &AtomicBool::new(false)).unwrap_err();
        assert!(error.to_string().contains("not found"), "{error}");
    }
}
