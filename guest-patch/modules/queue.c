// SPDX-License-Identifier: GPL-2.0
/* mode=queue: cycles from the call of spin_lock() to its ticket, by how many are in the queue */

#include <linux/irqflags.h>
#include <linux/sched.h>
#include <linux/timex.h>

#include "micro.h"

/*
 * A round: worker 1 takes the lock, the others but worker 0 queue up behind it,
 * one after the other, and when all are there worker 0 calls spin_lock(). Worker 1
 * notes when it sees one more in the queue, and lets all of them pass.
 *
 * An emulator that runs one CPU at a time goes from worker 0 to worker 1 at the first
 * cpu_relax() of the former, which is that of its wait: what is counted are the
 * instructions up to there, and those few in which worker 1 sees the ticket.
 */

#ifdef CONFIG_ISPINLOCK
/* Tickets that are not served yet, the holder's included. */
static unsigned int queue_length(spinlock_t *lock)
{
	u32 val = atomic_read(&lock->rlock.raw_lock);

	return (u16)((val >> 16) - val);
}

bool can_measure_queue(void)
{
	return true;
}
#else
static unsigned int queue_length(spinlock_t *lock)
{
	return 0;
}

/* Only a ticket lock tells how many are in its queue. */
bool can_measure_queue(void)
{
	return false;
}
#endif

/* False if the run was ended before. */
static bool wait_for_length(struct run *run, spinlock_t *lock, unsigned int length)
{
	while (queue_length(lock) != length) {
		if (READ_ONCE(run->stop))
			return false;
		cpu_relax();
	}
	return true;
}

static bool ask(struct run *run, spinlock_t *lock, unsigned int members)
{
	unsigned long flags;
	u64 begin, took;

	if (!wait_for_length(run, lock, members))
		return false;
	local_irq_save(flags);
	begin = get_cycles();
	spin_lock(lock);
	took = run->seen - begin;
	spin_unlock(lock);
	local_irq_restore(flags);
	add_cycles(&run->asked, took);
	return true;
}

static bool hold(struct run *run, spinlock_t *lock, unsigned int members)
{
	bool seen;

	spin_lock(lock);
	seen = wait_for_length(run, lock, members + 1);
	run->seen = get_cycles();
	spin_unlock(lock);
	return seen;
}

static bool stand(struct run *run, spinlock_t *lock, unsigned int before)
{
	if (!wait_for_length(run, lock, before))
		return false;
	spin_lock(lock);
	spin_unlock(lock);
	return true;
}

/* Returns once all threads have come to the end of round @round; false if the run was ended before. */
static bool meet(struct run *run, u64 round)
{
	atomic64_inc(&run->arrived);
	while (atomic64_read(&run->arrived) < (round + 1) * run->p.threads) {
		if (READ_ONCE(run->stop))
			return false;
		cpu_relax();
		cond_resched();
	}
	return true;
}

void measure_queue(struct worker *w)
{
	unsigned int place = w - w->run->workers;
	spinlock_t *lock = &w->area->lock;
	struct run *run = w->run;
	u64 round;
	bool done;

	for (round = 0; round < run->p.pairs && !READ_ONCE(run->stop); round++) {
		if (place == 0)
			done = ask(run, lock, run->p.threads - 1);
		else if (place == 1)
			done = hold(run, lock, run->p.threads - 1);
		else
			done = stand(run, lock, place - 1);
		if (!done || !meet(run, round))
			break;
		if (place == 0)
			run->pairs++;
	}
}

void print_queue(struct seq_file *m, struct run *run)
{
	seq_printf(m, "\"stuck\":%u,\"members\":%lu,\"rounds\":%llu,\"complete\":%s,", run->stuck,
		   run->p.threads - 1, run->pairs, json_bool(run->pairs >= run->p.pairs));
	print_cycles(m, "asked", &run->asked);
}
