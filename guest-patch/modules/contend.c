// SPDX-License-Identifier: GPL-2.0
/* mode=contend: threads access one memory area under one lock */

#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/time64.h>

#include <asm/msr.h>
#include <asm/tsc.h>

#include "micro.h"

/*
 * Busy, and nothing else. No cpu_relax(): under a hypervisor, or an emulator,
 * it can leave the guest, which no critical section does.
 */
static __always_inline void pause(unsigned long turns)
{
	while (turns--)
		asm volatile("nop" ::: "memory");
}

/* False if the run ended before a trylock succeeded. */
static bool take(struct worker *w, spinlock_t *lock, unsigned long *flags)
{
	switch (w->run->p.op) {
	case OP_IRQSAVE:
		spin_lock_irqsave(lock, *flags);
		break;
	case OP_TRYLOCK:
		while (!spin_trylock(lock)) {
			if (READ_ONCE(w->run->stop))
				return false;
			w->failed++;
			pause(w->run->p.gap + 1);
			cond_resched();
		}
		break;
	case OP_SPIN:
		spin_lock(lock);
		break;
	}
	return true;
}

static void release(struct worker *w, spinlock_t *lock, unsigned long flags)
{
	if (w->run->p.op == OP_IRQSAVE)
		spin_unlock_irqrestore(lock, flags);
	else if (w->run->p.op != OP_NONE)
		spin_unlock(lock);
}

/*
 * Keeps the lock until the hypervisor takes the CPU away and gives it back, which
 * shows as a millisecond in which nothing was executed; for a second at most.
 */
static void lose_cpu(struct area *area)
{
	u64 ms = tsc_khz, begin = rdtsc(), last = begin, now;
	struct stall *stall = &area->stalls[area->nr_stalls++];

	stall->begin = begin;
	stall->accesses = area->counter;
	do {
		now = rdtsc();
		if (now - last > ms) {
			stall->back = now;
			break;
		}
		last = now;
	} while (now - begin < 1000 * ms);
}

static void stall_if_due(struct run *run, struct area *area)
{
	u64 now = ktime_get_ns(), every = (u64)run->p.stall * NSEC_PER_MSEC;

	if (!area->next_stall)
		area->next_stall = now + every;
	if (now < area->next_stall || area->nr_stalls == MAX_STALLS)
		return;
	lose_cpu(area);
	area->next_stall = ktime_get_ns() + every;
}

/*
 * One access. The accesses to the area are volatile: whatever the lock does or
 * fails to do, what was read before the pause is written back after it.
 */
static void access_area(struct worker *w)
{
	struct area *area = w->area;
	struct run *run = w->run;
	u64 seen, word, i;

	if (READ_ONCE(area->inside)) {
		area->overlaps++;
		found_broken(run, "two threads are inside a lock");
	}
	WRITE_ONCE(area->inside, w);

	seen = READ_ONCE(area->counter);
	for (i = 0; i < run->p.words; i++) {
		word = READ_ONCE(area->word[i]);
		if (word != seen) {
			area->torn++;
			found_broken(run, "what a lock protects is half-changed");
			break;
		}
	}
	if (run->p.nested) {
		spin_lock(&run->inner);
		run->inner_counter++;
		pause(run->p.hold);
		spin_unlock(&run->inner);
	} else {
		pause(run->p.hold);
	}
	if (run->p.stall)
		stall_if_due(run, area);
	for (i = 0; i < run->p.words; i++)
		WRITE_ONCE(area->word[i], seen + 1);
	WRITE_ONCE(area->counter, seen + 1);

	if (READ_ONCE(area->inside) != w) {
		area->overlaps++;
		found_broken(run, "another thread came into a lock that was held");
	}
	WRITE_ONCE(area->inside, NULL);
}

void contend(struct worker *w)
{
	struct run *run = w->run;
	unsigned long flags = 0;

	while (!READ_ONCE(run->stop) &&
	       (!run->p.accesses || w->accesses < run->p.accesses)) {
		if (!take(w, &w->area->lock, &flags))
			break;
		access_area(w);
		release(w, &w->area->lock, flags);
		w->accesses++;
		pause(run->p.gap);
		cond_resched();
	}
}

void print_contend(struct seq_file *m, struct run *run)
{
	u64 accesses = 0, counter = 0, overlaps = 0, torn = 0, failed = 0;
	bool complete = true, consistent = true;
	unsigned int i, j;

	for (i = 0; i < run->p.threads; i++) {
		accesses += run->workers[i].accesses;
		failed += run->workers[i].failed;
		if (run->workers[i].accesses < run->p.accesses)
			complete = false;
	}
	for (i = 0; i < run->nr_areas; i++) {
		struct area *area = &run->areas[i];

		counter += area->counter;
		overlaps += area->overlaps;
		torn += area->torn;
		for (j = 0; j < run->p.words; j++) {
			if (area->word[j] != area->counter)
				consistent = false;
		}
	}
	if (counter != accesses || overlaps || torn || run->stuck)
		consistent = false;
	if (run->p.nested && run->inner_counter != accesses)
		consistent = false;

	seq_printf(m, "\"threads\":%lu,\"op\":\"%s\",\"hold\":%lu,\"gap\":%lu,\"words\":%lu,",
		   run->p.threads, op_names[run->p.op], run->p.hold, run->p.gap, run->p.words);
	seq_printf(m, "\"shared\":%lu,\"nested\":%lu,\"accesses\":%llu,\"complete\":%s,",
		   run->p.shared, run->p.nested, accesses, json_bool(complete));
	seq_printf(m, "\"consistent\":%s,\"counter\":%llu,\"overlaps\":%llu,\"torn\":%llu,",
		   json_bool(consistent), counter, overlaps, torn);
	seq_printf(m, "\"stuck\":%u,\"inner_counter\":%llu,\"failed\":%llu,\"thread\":[",
		   run->stuck, run->inner_counter, failed);
	for (i = 0; i < run->p.threads; i++) {
		struct worker *w = &run->workers[i];

		seq_printf(m, "%s{\"cpu\":%u,\"accesses\":%llu,\"ns\":%llu}",
			   i ? "," : "", w->cpu, w->accesses, w->ns);
	}
	seq_puts(m, "],\"stalls\":[");
	for (i = 0; i < run->areas[0].nr_stalls; i++) {
		struct stall *stall = &run->areas[0].stalls[i];

		seq_printf(m, "%s{\"begin\":%llu,\"back\":%llu,\"accesses\":%llu}",
			   i ? "," : "", stall->begin, stall->back, stall->accesses);
	}
	seq_puts(m, "]");
}
