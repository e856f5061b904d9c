//! Xen's own trace of its scheduler (`xentrace -D -e 0x0002f000`): what was granted to each vCPU, and how it lost its
//! pCPU. The format is that of Xen's `public/trace.h`.
//!
//! The file is a sequence of windows, each of one pCPU. Within one pCPU records are in order.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail, ensure};

const LOST_RECORDS: u32 = 0x0001_f001;
const CPU_CHANGE: u32 = 0x0001_f003;
const RUNSTATE_CHANGE: u32 = 0x0002_1001;
/// Where the states before and after are within it.
const STATES: u32 = 0x0000_0330;
const YIELD: u32 = 0x0002_8005;
/// A vCPU was switched in: quantum and dispatch are new.
const SWITCH_NEXT: u32 = 0x0002_800f;
/// A vCPU goes on, on the pCPU on which it is: with another quantum, or with the rest of the one it has.
const SWITCH_CONTINUE: u32 = 0x0002_8011;

const RUNNING: u32 = 0;
const RUNNABLE: u32 = 1;

/// A domain and a vCPU of it.
pub type Key = (u32, u32);

/// What Xen did with one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Switch-ins.
    pub switched_in: u64,
    /// Decisions that it goes on.
    pub continued: u64,
    /// Lost its pCPU and would have gone on.
    pub preempted: u64,
    /// Gave its pCPU up and would have gone on.
    pub yielded: u64,
    /// Left its pCPU because it had nothing to do.
    pub blocked: u64,
}

impl Counts {
    /// Quanta granted, at most.
    pub fn grants(&self) -> u64 {
        self.switched_in + self.continued
    }
}

/// What a trace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// By vCPU. Those of idle pCPUs are left out.
    pub vcpus: BTreeMap<Key, Counts>,
    /// Records that did not fit into Xen's buffers.
    pub lost: u64,
    /// Records read.
    pub records: u64,
}

/// The domain to which the idle vCPUs belong.
const IDLE_DOMAIN: u32 = 0x7fff;

/// Reads a trace.
pub fn parse(bytes: &[u8]) -> Result<Trace> {
    let mut trace = Trace::default();
    let mut yielding = HashSet::new();
    let mut at = 0;
    let mut window_end = 0;
    while at < bytes.len() {
        let record = Record::read(bytes, at)?;
        match record.event {
            CPU_CHANGE => {
                ensure!(record.extra.len() == 2, "byte {at}: a window without its size");
                window_end = at + record.size + record.extra[1] as usize;
            }
            _ if at >= window_end => {
                bail!("byte {at}: a record outside of a window; is this a file of xentrace?")
            }
            _ => trace.count(&record, &mut yielding),
        }
        at += record.size;
    }
    // A window whose end is missing was not written to its end.
    ensure!(at == window_end || bytes.is_empty(), "the trace is cut off at byte {at}");
    Ok(trace)
}

struct Record {
    event: u32,
    extra: Vec<u32>,
    size: usize,
}

impl Record {
    fn read(bytes: &[u8], at: usize) -> Result<Self> {
        let word = |index: usize| -> Result<u32> {
            let begin = at + 4 * index;
            match bytes.get(begin..begin + 4) {
                Some(word) => Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]])),
                None => bail!("the trace is cut off at byte {begin}"),
            }
        };
        let head = word(0)?;
        let (event, count) = (head & 0x0fff_ffff, (head >> 28 & 7) as usize);
        let with_time = head >> 31 == 1;
        let first = if with_time { 3 } else { 1 };
        let extra = (first..first + count).map(word).collect::<Result<_>>()?;
        Ok(Self { event, extra, size: 4 * (first + count) })
    }

    /// Domain and vCPU in two words.
    fn two_words(&self) -> Option<Key> {
        Some((*self.extra.first()?, *self.extra.get(1)?))
    }

    /// Domain and vCPU in one word.
    fn one_word(&self) -> Option<Key> {
        self.extra.first().map(|word| (word >> 16, word & 0xffff))
    }
}

impl Trace {
    fn count(&mut self, record: &Record, yielding: &mut HashSet<Key>) {
        self.records += 1;
        match record.event {
            LOST_RECORDS => self.lost += record.extra.first().copied().map_or(1, u64::from),
            YIELD => {
                yielding.extend(record.two_words());
            }
            SWITCH_NEXT => self.with(record.two_words(), |counts| counts.switched_in += 1),
            SWITCH_CONTINUE => self.with(record.two_words(), |counts| counts.continued += 1),
            event if event & !STATES == RUNSTATE_CHANGE => {
                let (from, to) = (event >> 8 & 3, event >> 4 & 3);
                let key = record.one_word();
                if from == RUNNING && to != RUNNING {
                    let gave_up = key.is_some_and(|key| yielding.remove(&key));
                    self.with(key, |counts| match (to, gave_up) {
                        (RUNNABLE, false) => counts.preempted += 1,
                        (RUNNABLE, true) => counts.yielded += 1,
                        _ => counts.blocked += 1,
                    });
                }
            }
            _ => {}
        }
    }

    fn with(&mut self, key: Option<Key>, count: impl FnOnce(&mut Counts)) {
        if let Some(key) = key.filter(|(domain, _)| *domain != IDLE_DOMAIN) {
            count(self.vcpus.entry(key).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(event: u32, time: Option<u64>, extra: &[u32]) -> Vec<u8> {
        let head = event | (extra.len() as u32) << 28 | u32::from(time.is_some()) << 31;
        let mut words = vec![head];
        if let Some(time) = time {
            words.extend([time as u32, (time >> 32) as u32]);
        }
        words.extend(extra);
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn window(cpu: u32, records: &[Vec<u8>]) -> Vec<u8> {
        let content = records.concat();
        [record(CPU_CHANGE, None, &[cpu, content.len() as u32]), content].concat()
    }

    fn runstate(from: u32, to: u32, domain: u32, vcpu: u32) -> Vec<u8> {
        record(RUNSTATE_CHANGE | from << 8 | to << 4, Some(9), &[domain << 16 | vcpu])
    }

    #[test]
    fn grants_and_ways_to_lose_the_pcpu_are_counted() {
        let bytes = [
            window(
                1,
                &[
                    record(SWITCH_NEXT, Some(1), &[1, 0, 1, 0, 30_000_000]),
                    record(SWITCH_CONTINUE, Some(2), &[1, 0, 5, 30_000_000]),
                    runstate(RUNNING, RUNNABLE, 1, 0),
                    record(SWITCH_NEXT, Some(3), &[2, 1, 1, 0, 30_000_000]),
                    record(YIELD, Some(4), &[2, 1]),
                    runstate(RUNNING, RUNNABLE, 2, 1),
                    // One that a wake-up makes runnable.
                    runstate(2, RUNNABLE, 2, 1),
                    record(0x0002_2005, Some(5), &[1, 2, 3, 4, 5, 6, 7]),
                ],
            ),
            window(
                0,
                &[
                    runstate(RUNNING, 2, 1, 0),
                    record(LOST_RECORDS, Some(6), &[3, 0, 0, 0]),
                    record(SWITCH_NEXT, Some(7), &[IDLE_DOMAIN, 0, 1, 0, 0]),
                ],
            ),
        ]
        .concat();
        let trace = parse(&bytes).unwrap();
        let first = Counts { switched_in: 1, continued: 1, preempted: 1, blocked: 1, yielded: 0 };
        let second = Counts { switched_in: 1, yielded: 1, ..Counts::default() };
        assert_eq!(trace.vcpus, BTreeMap::from([((1, 0), first), ((2, 1), second)]));
        assert_eq!((trace.lost, trace.records, first.grants()), (3, 11, 2));
    }

    #[test]
    fn what_is_cut_off_or_no_trace_is_an_error() {
        let whole = window(0, &[runstate(RUNNING, 2, 1, 0), runstate(2, RUNNABLE, 1, 0)]);
        parse(&whole).unwrap();
        for cut in [whole.len() - 1, whole.len() - 16, 14] {
            assert!(parse(&whole[..cut]).unwrap_err().to_string().contains("cut off"), "{cut}");
        }
        assert!(parse(&whole[12..]).unwrap_err().to_string().contains("outside of a window"));
        assert_eq!(parse(b"").unwrap(), Trace::default());
    }
}
