//! The classifier again, slow and plain: whole events are kept, episodes stand in a list in the order in which
//! they were opened, and every statement of the rule is a function of its own, so that each can be replaced by
//! a wrong one.

pub mod mutants;
pub mod stream;

use ispin_common::classifier::{Classifier, MAX_OPEN, Outcome};
use ispin_common::counters::Counters;
use ispin_common::event::{Ctx, Event, EventKind};
use ispin_common::histogram::{Histogram, NR_BUCKETS};
use ispin_common::incident::{Incident, PspKind};
use ispin_common::reason::Reason;
use ispin_common::slot::Ids;

use stream::Step;

/// An open episode: the events seen of it so far.
#[derive(Clone, Debug)]
pub struct Open {
    pub take: Event,
    /// Whether the attempt was refused before.
    pub refused: bool,
    pub acquire: Option<Event>,
    pub seq: u32,
}

/// The rules, as the paper and docs/abi.md state them. A mutant overrides one.
pub trait Rules {
    /// The two events lie in different quanta, and both quanta are known.
    fn other_quantum(a: &Event, b: &Event) -> bool {
        a.ids.slice_id() != 0 && b.ids.slice_id() != 0 && a.ids.slice_id() != b.ids.slice_id()
    }

    /// The vCPU left its pCPU between the two events; bit 0 does not say so.
    fn left_pcpu(a: &Event, b: &Event) -> bool {
        a.ids.dispatch_id() / 2 != b.ids.dispatch_id() / 2
    }

    /// From which event on a hold is judged.
    fn hold_begins(open: &Open) -> Option<&Event> {
        open.acquire.as_ref()
    }

    /// How much one problematic episode counts.
    fn weight(_from: &Event, _to: &Event) -> u64 {
        1
    }

    /// The turn came while the waiter was away.
    fn harmful(_take: &Event, acquire: &Event, released: u64) -> bool {
        released < acquire.start
    }

    /// How long the lock stood free: from the release (or from the take, or from leaving, whichever was last)
    /// to the return.
    fn idle(take: &Event, acquire: &Event, released: u64) -> u64 {
        let free_since = released.max(take.tsc);
        acquire.start.saturating_sub(free_since).min(acquire.off)
    }

    /// Harm of a preempted wait is unknown without a release.
    fn counts_unknown_harm() -> bool {
        true
    }

    /// The part of a stretch of time that was spent on the pCPU.
    fn on_pcpu(time: u64, off: u64) -> u64 {
        time.saturating_sub(off)
    }

    /// How long a holder was off its pCPU, given whether it left. A release tells the latest absence, whenever it was.
    fn absence(release: &Event, left: bool) -> u64 {
        if left { release.off } else { 0 }
    }

    /// Whether a blocked wait is counted, given that the waiter left its pCPU.
    fn counts_blocked(acquire: &Event, _left: bool) -> bool {
        acquire.ctx.has(Ctx::BLOCKED)
    }

    /// Whether a release ends its episode.
    fn release_closes() -> bool {
        true
    }

    /// Which open episode has to go when the table is full; `None` = the new one is not kept.
    fn pushed_out(_open: &[Open]) -> Option<usize> {
        Some(0)
    }

    /// Which open episode an acquire or a release belongs to.
    fn belongs(open: &[Open], event: &Event) -> Option<usize> {
        open.iter().position(|open| open.take.lock == event.lock)
    }

    /// When the vCPU left during the hold, if it left once.
    fn left_at(acquire: &Event, release: &Event) -> Option<u64> {
        let stays =
            (release.ids.dispatch_id() / 2).wrapping_sub(acquire.ids.dispatch_id() / 2) & (u32::MAX / 2);
        (stays == 1).then(|| release.start.saturating_sub(release.off))
    }

    /// Planned end of the quantum of the ticket.
    fn planned_end(take: &Event, csd: u64) -> u64 {
        (take.tsc + (u64::from(take.lql) + 1) * csd).wrapping_add_signed(take.cap)
    }

    /// Whether the ticket should have been refused.
    fn incapable(take: &Event) -> bool {
        take.cap <= 0
    }

    /// Whether a capable thread's preemption was its own doing: a hold longer than csd.
    fn held_long(acquire: &Event, left: u64, csd: u64) -> bool {
        left >= acquire.tsc + csd
    }

    /// Whether the take that ends a deferral lies in the next quantum.
    fn in_next_quantum(refused: Ids, take: &Event) -> bool {
        take.ids.slice_id() == refused.slice_id().checked_add(1).unwrap_or(1)
    }

    /// What a mark says; a mutant cannot see one of them.
    fn marked(event: &Event, mark: u64) -> bool {
        event.ctx.has(mark)
    }

    /// Whether a deferral is remembered with the episode that it led to.
    fn remembers_deferral() -> bool {
        true
    }

    /// Whether a second acquire ends the hold.
    fn second_acquire_closes() -> bool {
        true
    }

    /// Whether an acquire is a trylock.
    fn is_trylock(acquire: &Event) -> bool {
        acquire.ctx.has(Ctx::TRYLOCK)
    }

    /// When a deferral began, if the attempt was refused before at `since`.
    fn deferred_since(since: u64, _again: &Event) -> u64 {
        since
    }

    /// Whether an acquire or a release of the lock ends a deferral.
    fn ends_deferral() -> bool {
        true
    }

    /// Whether a take found a queue.
    fn contended(take: &Event) -> bool {
        take.lql > 0
    }

    /// The bucket that counts `value`.
    fn bucket(value: u64) -> usize {
        (0..NR_BUCKETS).rev().find(|&i| value >> i != 0).unwrap_or(0)
    }

    /// Longest queue.
    fn longest(so_far: u64, lql: u64) -> u64 {
        so_far.max(lql)
    }

    /// Whether flushing forgets the open episodes after counting them.
    fn flush_counts() -> bool {
        true
    }
}

/// The rules unchanged.
pub struct Paper;
impl Rules for Paper {}

/// What the classifier should have counted.
pub struct Model<R> {
    pub counters: Counters,
    pub hold: Histogram,
    pub wait: Histogram,
    pub next_seq: u32,
    pub csd: u64,
    open: Vec<Open>,
    /// Lock, since when, and ids of the first refusal.
    refused: Option<(u64, u64, Ids)>,
    rules: std::marker::PhantomData<R>,
}

impl<R: Rules> Model<R> {
    pub fn new() -> Self {
        Self {
            counters: Counters::default(),
            hold: Histogram::default(),
            wait: Histogram::default(),
            next_seq: 0,
            csd: 0,
            open: Vec::new(),
            refused: None,
            rules: std::marker::PhantomData,
        }
    }

    pub fn on_event(&mut self, event: &Event, released: Option<u64>) -> Outcome {
        let unpaired = Outcome { ip: event.ip, ..Outcome::default() };
        match event.kind {
            EventKind::Incapable => {
                self.refuse(event);
                unpaired
            }
            EventKind::Take => {
                let refused = self.end_attempt(event);
                self.take(event, refused);
                unpaired
            }
            EventKind::Acquire => {
                self.counters.acquires += 1;
                self.lose_attempt(event);
                if R::is_trylock(event) {
                    self.counters.trylocks += 1;
                    let seq = self.next_seq;
                    if !self.take(event, false) {
                        // Nothing keeps it, but a trylock is complete in itself.
                        let open = Open { take: *event, refused: false, acquire: None, seq };
                        return self.judge_wait(&open, event, released);
                    }
                }
                self.acquire(event, released).unwrap_or_else(|| {
                    self.counters.unpaired_acquire += 1;
                    unpaired
                })
            }
            EventKind::Release => {
                self.counters.releases += 1;
                self.lose_attempt(event);
                self.release(event).unwrap_or_else(|| {
                    self.counters.unpaired_release += 1;
                    unpaired
                })
            }
        }
    }

    pub fn flush(&mut self) {
        if R::flush_counts() {
            self.counters.open_at_exit += self.open.len() as u64;
        }
        self.open.clear();
        if self.refused.take().is_some() {
            self.counters.unpaired_deferral += 1;
        }
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }

    fn refuse(&mut self, event: &Event) {
        self.counters.deferrals += 1;
        let (begun, ids) = match self.refused {
            Some((lock, since, ids)) if lock == event.lock => (R::deferred_since(since, event), ids),
            other => {
                self.counters.unpaired_deferral += other.is_some() as u64;
                (event.tsc, event.ids)
            }
        };
        self.refused = (event.lock != 0).then_some((event.lock, begun, ids));
    }

    /// The take that a refused attempt waited for, if it is one.
    fn end_attempt(&mut self, take: &Event) -> bool {
        let Some((_, since, ids)) = self.refused.filter(|(lock, ..)| *lock == take.lock) else {
            return false;
        };
        let deferred = take.tsc.saturating_sub(since);
        self.counters.defer_cycles += deferred;
        self.counters.defer_spin_cycles += R::on_pcpu(deferred, take.off);
        self.counters.deferred_takes += 1;
        self.counters.deferred_next += R::in_next_quantum(ids, take) as u64;
        self.counters.deferred_capable += !R::incapable(take) as u64;
        self.refused = None;
        R::remembers_deferral()
    }

    /// An event that shows that the take of a refused attempt was not seen.
    fn lose_attempt(&mut self, event: &Event) {
        if R::ends_deferral() && self.refused.is_some_and(|(lock, ..)| lock == event.lock) {
            self.counters.unpaired_deferral += 1;
            self.refused = None;
        }
    }

    /// Counts a take and opens its episode; false if it is not kept.
    fn take(&mut self, event: &Event, refused: bool) -> bool {
        let counters = &mut self.counters;
        counters.takes += 1;
        counters.lql_sum += u64::from(event.lql);
        counters.lql_max = R::longest(counters.lql_max, u64::from(event.lql));
        counters.contended += R::contended(event) as u64;
        counters.unslotted += (event.ids.slice_id() == 0) as u64;
        counters.expired += event.ctx.has(Ctx::EXPIRED) as u64;
        let new = Open { take: *event, refused, acquire: None, seq: self.next_seq };
        self.next_seq = self.next_seq.wrapping_add(1);
        if let Some(stale) = self.open.iter().position(|open| open.take.lock == event.lock) {
            self.counters.unpaired_take += 1;
            self.open.remove(stale);
        } else if self.open.len() == MAX_OPEN {
            self.counters.overflowed += 1;
            match R::pushed_out(&self.open) {
                Some(victim) => drop(self.open.remove(victim)),
                None => return false,
            }
        }
        // Lock 0 is no lock. It takes a place like any other, and the place is empty again at once.
        if event.lock != 0 {
            self.open.push(new);
        }
        event.lock != 0
    }

    fn acquire(&mut self, event: &Event, released: Option<u64>) -> Option<Outcome> {
        let at = R::belongs(&self.open, event)?;
        if self.open[at].acquire.is_some() {
            if R::second_acquire_closes() {
                self.open.remove(at);
            }
            return None;
        }
        self.open[at].acquire = Some(*event);
        let open = self.open[at].clone();
        Some(self.judge_wait(&open, event, released))
    }

    fn judge_wait(&mut self, open: &Open, event: &Event, released: Option<u64>) -> Outcome {
        let take = &open.take;
        let counters = &mut self.counters;
        let wait = event.tsc.saturating_sub(take.tsc);
        let spin = R::on_pcpu(wait, event.off);
        counters.wait_cycles += wait;
        counters.spin_cycles += spin;
        self.wait.buckets[R::bucket(wait)] += 1;
        let mut incident = None;
        if R::other_quantum(take, event) {
            let left = R::left_pcpu(take, event);
            let harm = released.filter(|&at| left && R::harmful(take, event, at));
            let blocked = R::counts_blocked(event, left);
            let lost = harm.map_or(0, |at| R::idle(take, event, at));
            counters.lwp += R::weight(take, event);
            counters.lwp_preempted += left as u64;
            counters.lwp_harmful += harm.is_some() as u64;
            counters.lwp_blocked += blocked as u64;
            counters.harm_unknown += (left && released.is_none() && R::counts_unknown_harm()) as u64;
            counters.idle_cycles += lost;
            let flags = [
                (left, Incident::PREEMPTED),
                (harm.is_some(), Incident::HARMFUL),
                (blocked, Incident::BLOCKED),
            ];
            let flags = flags.iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum();
            let reason = self.reason_of_wait(open, event, left);
            incident = Some(Incident { reason, ..incident_of(PspKind::Lwp, flags, open, take, event, lost) });
        }
        Outcome { incident, ip: take.ip, wait: Some(wait), spin, hold: None }
    }

    /// Reasons that lie in the ticket.
    fn reason_of_ticket(&self, open: &Open) -> Option<Reason> {
        let take = &open.take;
        if R::marked(take, Ctx::EXPIRED) {
            return Some(Reason::Expired);
        }
        if R::marked(take, Ctx::NESTED) {
            return Some(Reason::Nested);
        }
        R::incapable(take).then_some(if open.refused { Reason::Deferred } else { Reason::Incapable })
    }

    fn reason_of_wait(&mut self, open: &Open, acquire: &Event, left: bool) -> u8 {
        let endless = open.take.cap == i64::MAX;
        let early = endless || R::marked(acquire, Ctx::EARLY);
        let reason = match (left, R::is_trylock(&open.take)) {
            (false, _) => Reason::Renewal,
            (true, true) => Reason::Trylock,
            (true, false) => {
                self.reason_of_ticket(open).unwrap_or(if early { Reason::Early } else { Reason::LongWait })
            }
        };
        self.count(reason)
    }

    fn reason_of_hold(&mut self, open: &Open, acquire: &Event, release: &Event, left: bool) -> u8 {
        let take = &open.take;
        let reason = if !left {
            Reason::Renewal
        } else if take.ids.slice_id() == 0 {
            Reason::Unslotted
        } else if R::is_trylock(take) {
            Reason::Trylock
        } else if R::other_quantum(take, acquire) {
            Reason::Followup
        } else if let Some(reason) = self.reason_of_ticket(open) {
            reason
        } else if take.cap == i64::MAX {
            Reason::Early
        } else {
            match R::left_at(acquire, release) {
                None => Reason::Unknown,
                Some(_) if self.csd == 0 => Reason::Unknown,
                Some(at) if at < R::planned_end(take, self.csd) => Reason::Early,
                Some(at) if R::held_long(acquire, at, self.csd) => Reason::LongHold,
                Some(_) => Reason::LongWait,
            }
        };
        self.count(reason)
    }

    fn count(&mut self, reason: Reason) -> u8 {
        let name = format!("psp_{}", reason.name());
        let at = Counters::NAMES.iter().position(|known| *known == name).expect("a counter per reason");
        let mut values = self.counters.values();
        values[at] += 1;
        self.counters = Counters::from_values(&values);
        reason as u8
    }

    fn release(&mut self, event: &Event) -> Option<Outcome> {
        let at = R::belongs(&self.open, event)?;
        let open = self.open[at].clone();
        if R::release_closes() {
            self.open.remove(at);
        }
        let acquire = open.acquire?;
        let hold = event.tsc.saturating_sub(acquire.tsc);
        self.counters.hold_cycles += hold;
        self.hold.buckets[R::bucket(hold)] += 1;
        let begun = R::hold_begins(&open)?;
        let mut incident = None;
        if R::other_quantum(begun, event) {
            let left = R::left_pcpu(begun, event);
            self.counters.lhp += R::weight(begun, event);
            self.counters.lhp_preempted += left as u64;
            let flags = if left { Incident::PREEMPTED } else { 0 };
            let reason = self.reason_of_hold(&open, &acquire, event, left);
            let off = R::absence(event, left);
            let event = Event { off, ..*event };
            let lhp = incident_of(PspKind::Lhp, flags, &open, begun, &event, off.min(hold));
            incident = Some(Incident { reason, ..lhp });
        }
        Some(Outcome { incident, ip: open.take.ip, wait: None, spin: 0, hold: Some(hold) })
    }
}

fn incident_of(kind: PspKind, flags: u8, open: &Open, from: &Event, to: &Event, lost: u64) -> Incident {
    Incident {
        kind: kind as u8,
        level: to.ctx.level() as u8,
        flags,
        reason: 0,
        vcpu: 0,
        lock: to.lock,
        ip: open.take.ip,
        from_ids: from.ids,
        to_ids: to.ids,
        from_tsc: from.tsc,
        to_tsc: to.tsc,
        start: to.start,
        off: to.off,
        lost,
        cap: open.take.cap,
        take_tsc: open.take.tsc,
        lql: open.take.lql,
        ticket: open.take.ticket,
        seq: open.seq,
        reserved2: 0,
    }
}

/// [`compare`] for some rules.
pub type Comparison = fn(&[Step]) -> Result<(), String>;

/// Feeds the stream to the classifier and to a model with rules `R`; says where they part.
pub fn compare<R: Rules>(steps: &[Step]) -> Result<(), String> {
    let mut classifier = Classifier::new();
    let mut model = Model::<R>::new();
    let differ = |what: &str, at: usize, got: &dyn std::fmt::Debug, want: &dyn std::fmt::Debug| {
        Err(format!("{what} differ after step {at}:\n classifier {got:?}\n model      {want:?}"))
    };
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Event(event, released) => {
                let got = classifier.on_event(event, *released);
                let want = model.on_event(event, *released);
                if got != want {
                    return differ("outcomes", at, &got, &want);
                }
            }
            Step::SkipSeq(by) => {
                classifier.next_seq = classifier.next_seq.wrapping_add(*by);
                model.next_seq = model.next_seq.wrapping_add(*by);
            }
            Step::Flush => {
                classifier.flush();
                model.flush();
            }
            Step::Csd(csd) => (classifier.csd, model.csd) = (*csd, *csd),
        }
        if classifier.counters != model.counters {
            return differ("counters", at, &classifier.counters, &model.counters);
        }
        if (classifier.hold, classifier.wait) != (model.hold, model.wait) {
            return differ("histograms", at, &classifier.hold.buckets, &model.hold.buckets);
        }
        if Reason::ALL.iter().map(|reason| classifier.counters.of_reason(*reason)).sum::<u64>()
            != classifier.counters.psp()
        {
            return differ(
                "PSP and the sum of their reasons",
                at,
                &classifier.counters,
                &classifier.counters.psp(),
            );
        }
        if classifier.open() != model.open() {
            return differ("numbers of open episodes", at, &classifier.open(), &model.open());
        }
    }
    Ok(())
}
