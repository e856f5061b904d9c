//! Lines for people: one per interval and VM, the figures that matter most.

use std::fmt::Write;

use anyhow::Result;

use super::output::Output;
use super::{Kind, Sink};
use crate::interval::{Figures, Interval};
use crate::model::Snapshot;

pub const KIND: Kind = Kind {
    option: "lines",
    value: "FILE|-",
    help: "Write a readable line per interval and VM; - is standard output",
    open: |value| Ok(Box::new(Lines { output: Output::open("lines", value)? })),
};

struct Lines {
    output: Output,
}

impl Sink for Lines {
    fn target(&self) -> String {
        self.output.name().to_owned()
    }

    fn begin(&mut self) -> Result<()> {
        self.output.begin()
    }

    fn write(&mut self, previous: Option<&Snapshot>, now: &Snapshot) -> Result<()> {
        self.output.write_block(lines(previous, now).as_bytes())
    }
}

fn lines(previous: Option<&Snapshot>, now: &Snapshot) -> String {
    let interval = Interval::new(previous, now);
    let mut text = String::new();
    // The last snapshot of a world may follow the one before at once: nothing to tell.
    if interval.ns() == 0 {
        return text;
    }
    let lost = interval.losses().total();
    for vm in interval.vms() {
        let figures = Figures::of(&vm.all, interval.ns());
        let c = &vm.all.counters;
        let or_dash =
            |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
        let _ = write!(
            text,
            "{:6.1}s {:8} {:6} {:>9} acquires/s {:>7} PSP/s (LHP {:3}, LWP {:3}, harmful {:3}) {:5} deferrals, waiting burns {:>5} %",
            now.elapsed_ns as f64 / 1e9,
            now.source.lock,
            vm.name,
            or_dash(figures.acquires_per_s, 0),
            or_dash(figures.psp_per_s, 1),
            c.lhp,
            c.lwp,
            c.lwp_harmful,
            c.deferrals,
            or_dash(figures.spin_pct.zip(figures.defer_pct).map(|(s, d)| s + d), 1),
        );
        if lost > 0 {
            let _ = write!(text, ", {lost} lost");
        }
        if now.source.caveat().is_some() {
            let _ = write!(text, ", slots {}: no result", now.source.slot_source);
        }
        if now.guest.as_ref().is_some_and(|guest| guest.events == Some(false)) {
            text.push_str(", gate closed");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use ispin_common::counters::Counters;

    use super::*;
    use crate::model::{GuestLock, Source, Vcpu, Vm};

    fn snapshot(seq: u64, elapsed_ns: u64, lwp: u64) -> Snapshot {
        let counters = Counters { takes: 100 * seq, acquires: 100 * seq, lwp, lhp: 1, ..Counters::default() };
        let vcpu = Vcpu { on_time: elapsed_ns, counters, ..Vcpu::default() };
        Snapshot {
            seq,
            elapsed_ns,
            source: Source { lock: "ticket".into(), ..Source::default() },
            vms: vec![Vm { name: "vm0".into(), vcpus: vec![vcpu], ..Vm::default() }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_line_tells_what_the_interval_brought() {
        let (first, second) = (snapshot(1, 1_000_000_000, 10), snapshot(2, 3_000_000_000, 30));
        let line = lines(Some(&first), &second);
        assert!(line.contains("3.0s ticket") && line.contains("10.0 PSP/s (LHP   0, LWP  20"), "{line}");
        assert!(line.contains("       50 acquires/s"), "{line}");
        assert!(!line.contains("slots") && !line.contains("gate"), "{line}");
        assert_eq!(lines(None, &Snapshot::default()), "");
    }

    #[test]
    fn what_is_no_result_is_marked_in_every_line() {
        let mut now = snapshot(1, 1_000_000_000, 10);
        now.source.slot_source = "software".into();
        now.guest = Some(GuestLock { events: Some(false), irqs_off: None });
        let line = lines(None, &now);
        assert!(line.ends_with(", slots software: no result, gate closed\n"), "{line}");
    }
}
