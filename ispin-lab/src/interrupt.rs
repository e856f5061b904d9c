//! Signals that end a run, as a flag that is looked at in passing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use ispin_agent::signals::is_ignored;

/// A flag that SIGINT, SIGTERM and SIGHUP set from now on. A SIGHUP that was ignored at the start (`nohup`) stays ignored.
///
/// # Errors
/// A handler cannot be set.
pub fn flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        if signal == libc::SIGHUP && is_ignored(signal)? {
            continue;
        }
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("watching for signals")?;
    }
    Ok(flag)
}

/// What can be gone on with.
///
/// # Errors
/// A signal has come.
pub fn check(interrupted: &AtomicBool) -> Result<()> {
    if interrupted.load(Ordering::SeqCst) {
        bail!("interrupted; what is done is kept, and the same command goes on");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set: this process was started with SIGHUP ignored or not.
    const HANGUP: &str = "ISPIN_TEST_HANGUP";

    #[test]
    fn a_hangup_that_was_ignored_stays_ignored() {
        if let Ok(word) = std::env::var(HANGUP) {
            let flag = flag().unwrap();
            signal_hook::low_level::raise(libc::SIGHUP).unwrap();
            assert_eq!(flag.load(Ordering::SeqCst), word == "seen");
            assert_eq!(check(&flag).is_err(), word == "seen");
            signal_hook::low_level::raise(libc::SIGTERM).unwrap();
            assert!(check(&flag).unwrap_err().to_string().contains("goes on"));
            return;
        }
        for (trap, word) in [("trap '' HUP", "ignored"), ("trap - HUP", "seen")] {
            let name = "interrupt::tests::a_hangup_that_was_ignored_stays_ignored";
            let output = Command::new("sh")
                .args(["-c", &format!("{trap}; exec \"$@\""), "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(HANGUP, word)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{word}: {said}");
        }
    }
}
