//! What the kernel's console says about what went wrong.

/// A line of the console that no healthy run has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Number of the line, from 0.
    pub line: usize,
    /// What it means, and what to do.
    pub cause: &'static str,
}

/// What is looked for in a message, in order: the first that fits is taken. Begins: at the start of the message,
/// after the time.
struct Sign {
    text: &'static str,
    begins: bool,
    cause: &'static str,
}

const fn says(text: &'static str, cause: &'static str) -> Sign {
    Sign { text, begins: false, cause }
}

const fn begins(text: &'static str, cause: &'static str) -> Sign {
    Sign { text, begins: true, cause }
}

const LOCKDEP: &str = "lock debugging (PROVE_LOCKING, DEBUG_SPINLOCK) found a locking rule broken";
const STALL: &str =
    "a vCPU made no progress for long: a lock that nobody releases, or a host that is far too busy";

const STALE: &str = "QEMU before 8.1 ran code that the kernel had patched already, a defect of its emulation with a thread \
                     per vCPU: try again, or with --deterministic, or a newer QEMU";

const SIGNS: &[Sign] = &[
    says(
        "Initramfs unpacking failed",
        "the initramfs could not be unpacked: give the guest more --memory-mb",
    ),
    says("No working init found", "the kernel found no /init in the initramfs"),
    says("Unable to mount root fs", "the kernel got no initramfs: give the guest more --memory-mb"),
    says("Attempted to kill init", "the init script ended, or was killed"),
    says("Out of memory", "the guest ran out of memory: give it more --memory-mb"),
    says("invoked oom-killer", "the guest ran out of memory: give it more --memory-mb"),
    says("System is deadlocked on memory", "the guest ran out of memory: give it more --memory-mb"),
    begins("rcu: INFO: ", STALL),
    says("detected stall", STALL),
    says("soft lockup", STALL),
    says("hard LOCKUP", STALL),
    says("blocked for more than", "a task hung: it waits for something that does not come"),
    says("End of test: FAILURE", "locktorture found the lock broken"),
    begins("BUG: spinlock", LOCKDEP),
    begins("WARNING: possible ", LOCKDEP),
    begins("WARNING: inconsistent lock", LOCKDEP),
    begins("WARNING: bad unlock", LOCKDEP),
    begins("WARNING: held lock", LOCKDEP),
    begins("WARNING: lock held", LOCKDEP),
    begins("WARNING: suspicious RCU", LOCKDEP),
    begins("WARNING: Nested lock", LOCKDEP),
    begins("[ BUG: ", LOCKDEP),
    says("too low!", "lock debugging ran out of room and stopped looking"),
    begins("BUG: ", "a defect in the kernel"),
    begins("kernel BUG at", "a defect in the kernel"),
    begins("general protection fault", "a defect in the kernel"),
    begins("Oops: int3", STALE),
    begins("int3: ", STALE),
    begins("Oops", "a defect in the kernel"),
    begins("WARNING: ", "the kernel warned of a defect"),
    begins("INFO: ", "the kernel reported a defect"),
    says("Kernel panic - not syncing", "the kernel gave up"),
];

/// What one line means, if it means that something is wrong.
pub fn judge(line: &str) -> Option<&'static str> {
    let message = message(line);
    let fits = |sign: &&Sign| match sign.begins {
        true => message.starts_with(sign.text),
        false => message.contains(sign.text),
    };
    SIGNS.iter().find(fits).map(|sign| sign.cause)
}

/// The first finding of a console: what follows is often only its consequence.
pub fn diagnose(console: &[String]) -> Option<Finding> {
    let found = |(line, text): (usize, &String)| judge(text).map(|cause| Finding { line, cause });
    console.iter().enumerate().find_map(found)
}

/// The message without the time that the kernel puts before it (and the caller that debugging kernels add).
fn message(line: &str) -> &str {
    let mut rest = line.trim_start();
    while let Some(inner) = rest.strip_prefix('[')
        && let Some((stamp, after)) = inner.split_once(']')
        && stamp.trim().starts_with(|c: char| c.is_ascii_digit() || c == 'T' || c == 'C')
    {
        rest = after.trim_start();
    }
    rest
}

/// The lines around a finding: some before it, for what led there, and more after it, for the backtrace.
pub fn excerpt(console: &[String], finding: &Finding) -> String {
    const BEFORE: usize = 4;
    const AFTER: usize = 36;
    let begin = finding.line.saturating_sub(BEFORE);
    let end = (finding.line + AFTER).min(console.len());
    shown(&console[begin..end])
}

/// The end of a console.
pub fn end(console: &[String]) -> String {
    const LINES: usize = 25;
    shown(&console[console.len().saturating_sub(LINES)..])
}

fn shown(lines: &[String]) -> String {
    if lines.is_empty() {
        return "    (nothing)".to_owned();
    }
    lines.iter().map(|line| format!("    {}", line.trim_end())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("[    0.512345] Kernel panic - not syncing: No working init found.", "no /init")]
    #[case(
        "[    0.5] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "no initramfs"
    )]
    #[case(
        "[    1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
        "init script"
    )]
    #[case("[    3.1] Kernel panic - not syncing: Fatal exception", "gave up")]
    #[case("[   63.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "no progress")]
    #[case("[   63.0][   C1] rcu: INFO: rcu_sched self-detected stall on CPU", "no progress")]
    #[case("[   88.0] watchdog: BUG: soft lockup - CPU#1 stuck for 67s! [dup:77]", "no progress")]
    #[case("[  241.0] INFO: task ispin-load:88 blocked for more than 120 seconds.", "hung")]
    #[case("[    9.1] WARNING: possible circular locking dependency detected", "lock debugging")]
    #[case("[    9.1][  T88] WARNING: inconsistent lock state", "lock debugging")]
    #[case("[    9.1] BUG: spinlock bad magic on CPU#0, swapper/0/0", "lock debugging")]
    #[case("[    5.5] WARNING: CPU: 0 PID: 1 at kernel/locking/ispinlock.c:77 x+0x1/0x2", "warned")]
    #[case("[    5.5] BUG: kernel NULL pointer dereference, address: 0000000000000008", "defect")]
    #[case("[    5.5] ispin-load invoked oom-killer: gfp_mask=0xcc0, order=0", "more --memory-mb")]
    #[case("[    1.9] Oops: int3: 0000 [#1] PREEMPT SMP", "8.1")]
    #[case("[    4.2] BUG: MAX_LOCKDEP_CHAINS too low!", "ran out of room")]
    #[case("spin_lock-torture:--- End of test: FAILURE: nwriters_stress=4", "locktorture")]
    #[case("[    0.2] Initramfs unpacking failed: write error", "more --memory-mb")]
    fn faults_are_recognized(#[case] line: &str, #[case] cause: &str) {
        let judged = judge(line).unwrap_or_else(|| panic!("not recognized: {line}"));
        assert!(judged.contains(cause), "{line}: {judged}");
    }

    #[rstest]
    #[case("[    0.000000] Linux version 6.12.117 (ispin@ispin) (gcc) #1 SMP")]
    #[case("[    0.000000] ... MAX_LOCKDEP_ENTRIES:     32768")]
    #[case("[    0.100000] ACPI BIOS Warning (bug): Optional FADT field")]
    #[case("[    0.300000] Booting kernel without debugging: see the BUG tracker")]
    #[case("spin_lock-torture:--- End of test: SUCCESS: nwriters_stress=4")]
    #[case("[    0.000000] RCU: rcu_task_enqueue_lim=0")]
    #[case("")]
    fn ordinary_lines_are_left_alone(#[case] line: &str) {
        assert_eq!(judge(line), None);
    }

    #[test]
    fn the_first_fault_is_told_with_its_surroundings() {
        let lines: Vec<String> = (0..100)
            .map(|i| match i {
                50 => "[ 1.0] WARNING: CPU: 0 PID: 1 at x".to_owned(),
                60 => "[ 1.1] Kernel panic - not syncing: Fatal".to_owned(),
                _ => format!("[ 1.0] line {i}"),
            })
            .collect();
        let finding = diagnose(&lines).expect("a fault");
        assert_eq!(finding.line, 50);
        let text = excerpt(&lines, &finding);
        assert!(text.contains("line 46") && text.contains("line 85") && !text.contains("line 45"), "{text}");
        assert_eq!(diagnose(&lines[..50]), None);
        assert!(end(&lines).contains("line 99") && !end(&lines).contains("line 74"));
        assert_eq!(end(&[]), "    (nothing)");
    }
}
