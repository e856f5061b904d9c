//! Medians and spread of an experiment, to look at.

use tabled::builder::Builder;
use tabled::settings::Style;

use super::Experiment;
use crate::locks::label;
use crate::stats::median;
use crate::threads::result::RunResult;

/// A repeat in a convoy: more than so many problematic preemptions on each pCPU in each round, in which every vCPU has one quantum.
/// A convoy goes on because in every round somebody in the queue is preempted; how many of the others are in the queue with it depends on the
/// lock. So the more vCPUs share a pCPU, the smaller is the share of the quanta that end in a PSP, while the PSP of a round stay. With
/// twice as many vCPUs as pCPUs this is one quantum in ten.
const CONVOY_PSP_PER_ROUND: f64 = 0.2;

/// The runs of one number of vCPUs and one lock.
struct Runs<'a>(Vec<&'a RunResult>);

impl Runs<'_> {
    fn median(&self, of: impl Fn(&RunResult) -> f64) -> f64 {
        median(self.0.iter().map(|run| of(run)))
    }

    fn least(&self, of: impl Fn(&RunResult) -> f64) -> f64 {
        self.0.iter().map(|run| of(run)).reduce(f64::min).unwrap_or(f64::NAN)
    }

    fn most(&self, of: impl Fn(&RunResult) -> f64) -> f64 {
        self.0.iter().map(|run| of(run)).reduce(f64::max).unwrap_or(f64::NAN)
    }

    /// Repeats in a convoy; `-` where there is a pCPU for each vCPU, so that nobody waits for one that is off for a quantum.
    fn convoyed(&self) -> String {
        let judged: Vec<bool> = self.0.iter().filter_map(|run| is_convoy(run)).collect();
        if judged.is_empty() {
            "-".into()
        } else {
            judged.iter().filter(|convoy| **convoy).count().to_string()
        }
    }

    /// Repeats that were discarded before these; `-` if none of these recorded it.
    fn discarded(&self) -> String {
        let recorded = self.0.iter().filter_map(|run| run.discarded);
        recorded.reduce(|a, b| a + b).map_or_else(|| "-".into(), |all| all.to_string())
    }

    /// PSP per second, where none counts as one in the run: what a ratio can be made of.
    fn floor(&self) -> f64 {
        self.median(|run| run.psp.max(1) as f64 / run.seconds)
    }
}

/// Whether a run was in a convoy; `None` where no vCPU has to share its pCPU.
fn is_convoy(run: &RunResult) -> Option<bool> {
    let (vcpus, pcpus) = (f64::from(run.vms * run.vcpus), f64::from(run.pcpus));
    (vcpus > pcpus).then(|| run.psp_per_quantum * vcpus / pcpus > CONVOY_PSP_PER_ROUND)
}

/// Medians and spread per number of vCPUs and lock, as a Markdown table. The last column compares the median PSP/s
/// with that of `ticket`, where zero counts as one PSP per run. Where every thread has the same work, its time, the
/// spread of the threads' times and the queue they met stand there too.
pub fn summary(experiment: &Experiment, rows: &[RunResult]) -> String {
    let work = experiment.options.accesses > 0;
    let mut builder = Builder::default();
    let columns = [
        "vCPUs",
        "lock",
        "repeats",
        "discarded",
        "PSP/s",
        "min",
        "max",
        "PSP/quantum",
        "max",
        "acquisitions/s",
        "min",
        "max",
        "LHP",
        "LWP",
        "harmful",
        "deferrals",
        "convoyed",
        "ticket / this",
    ];
    let of_work = ["thread time, s", "spread %", "min", "max", "mean lql"];
    builder.push_record(columns.into_iter().chain(of_work.into_iter().filter(|_| work)));
    for &vcpus in &experiment.vcpus {
        let of = |lock: &str| Runs(rows.iter().filter(|r| r.vcpus == vcpus && r.lock == *lock).collect());
        let ticket = of("ticket").floor();
        for lock in &experiment.locks {
            let runs = of(lock);
            let spread = |r: &RunResult| 100.0 * r.thread_time_sd / r.thread_time_mean;
            let figures = [
                runs.discarded(),
                number(runs.median(|r| r.psp_per_s), 1),
                number(runs.least(|r| r.psp_per_s), 1),
                number(runs.most(|r| r.psp_per_s), 1),
                number(runs.median(|r| r.psp_per_quantum), 4),
                number(runs.most(|r| r.psp_per_quantum), 4),
                number(runs.median(|r| r.acquisitions_per_s), 0),
                number(runs.least(|r| r.acquisitions_per_s), 0),
                number(runs.most(|r| r.acquisitions_per_s), 0),
                number(runs.median(|r| r.lhp as f64), 0),
                number(runs.median(|r| r.lwp as f64), 0),
                number(runs.median(|r| r.lwp_harmful as f64), 0),
                number(runs.median(|r| r.deferrals as f64), 0),
                runs.convoyed(),
                number(ticket / runs.floor(), 1),
            ];
            let of_work = [
                number(runs.median(|r| r.thread_time_mean), 2),
                number(runs.median(spread), 1),
                number(runs.least(spread), 1),
                number(runs.most(spread), 1),
                number(runs.median(|r| r.lql_mean), 2),
            ];
            let cell = [vcpus.to_string(), label(lock), runs.0.len().to_string()];
            builder.push_record(cell.into_iter().chain(figures).chain(of_work.into_iter().filter(|_| work)));
        }
    }
    builder.build().with(Style::markdown()).to_string()
}

/// A figure; `-` where there is none.
fn number(value: f64, decimals: usize) -> String {
    if value.is_nan() { "-".into() } else { format!("{value:.decimals$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lock: &str, psp: u64, time: f64) -> RunResult {
        RunResult {
            lock: lock.into(),
            vms: 1,
            vcpus: 4,
            pcpus: 2,
            psp,
            seconds: 2.0,
            psp_per_s: psp as f64 / 2.0,
            psp_per_quantum: psp as f64 / 100.0,
            acquisitions_per_s: 1000.0 / time,
            thread_time_mean: time,
            thread_time_sd: time / 50.0,
            ..RunResult::default()
        }
    }

    fn table(accesses: &str) -> String {
        let text = format!(
            "title='t'\nlocks=['ticket','ispin+','hvm','oticket']\nvcpus=[4]\nrepeats=2\n[options]\nseconds=2.0\nhold='10us'\ncsd='20us'\n{accesses}"
        );
        let experiment = Experiment::of(&text).expect("valid");
        let after = |discarded, row| RunResult { discarded: Some(discarded), ..row };
        let rows =
            [after(2, row("ticket", 40, 4.0)), after(1, row("ticket", 60, 8.0)), row("ispin+", 0, 1.0)];
        summary(&experiment, &rows)
    }

    /// The cells of a table's line, which begins with 4 vCPUs and this lock.
    fn line(table: &str, lock: &str) -> Vec<String> {
        let lines =
            table.lines().map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()));
        lines.map(Iterator::collect::<Vec<_>>).find(|cells| cells[1] == lock).expect("a line of this lock")
    }

    #[test]
    fn medians_stand_beside_their_ends() {
        let table = table("");
        let ticket = [
            "4", "ticket", "2", "3", "25.0", "20.0", "30.0", "0.5000", "0.6000", "188", "125", "250", "0",
            "0", "0", "0", "2", "1.0",
        ];
        assert_eq!(line(&table, "ticket"), ticket);
        assert_eq!(line(&table, "ispin+")[16..], ["0", "50.0"], "none counts as one in a run");
        assert_eq!(line(&table, "ispin+")[3], "-", "not recorded");
        assert_eq!(line(&table, "oticket (assumed)")[2], "0");
        assert_eq!(line(&table, "hvm")[2..6], ["0", "-", "-", "-"], "a lock without runs has a line");
    }

    #[test]
    fn what_a_convoy_is_does_not_depend_on_how_many_share_a_pcpu() {
        let run = |vcpus, psp_per_quantum| RunResult { vcpus, psp_per_quantum, ..row("ticket", 1, 1.0) };
        assert_eq!([is_convoy(&run(4, 0.09)), is_convoy(&run(4, 0.11))], [Some(false), Some(true)]);
        // The ticket lock in its convoy, and ispin+ in its worst run of 30 s.
        assert_eq!([is_convoy(&run(24, 0.069)), is_convoy(&run(24, 0.0002))], [Some(true), Some(false)]);
        assert_eq!([is_convoy(&run(2, 0.5)), is_convoy(&run(1, 0.5))], [None, None]);
        assert_eq!(is_convoy(&RunResult { vms: 2, ..run(2, 0.15) }), Some(true), "vCPUs of all VMs");
        let alone = [run(2, 0.5)];
        assert_eq!(Runs(alone.iter().collect()).convoyed(), "-");
    }

    #[test]
    fn equal_work_has_times() {
        let table = table("accesses=100");
        assert_eq!(line(&table, "lock")[18..], ["thread time, s", "spread %", "min", "max", "mean lql"]);
        assert_eq!(line(&table, "ticket")[18..], ["6.00", "2.0", "2.0", "2.0", "0.00"]);
    }
}
