// SPDX-License-Identifier: GPL-2.0
/* mode=pairs: cycles of an uncontended lock and unlock */

#include <linux/sched.h>
#include <linux/timex.h>

#include "micro.h"

/* Short enough that most batches meet no timer interrupt. */
#define BATCH	1000

/* Out of line, so that each loop is compiled by itself and all are alike. */
static noinline u64 batch_empty(spinlock_t *lock)
{
	u64 begin = get_cycles();
	unsigned int i;

	for (i = 0; i < BATCH; i++)
		barrier();
	return get_cycles() - begin;
}

static noinline u64 batch_spin(spinlock_t *lock)
{
	u64 begin = get_cycles();
	unsigned int i;

	for (i = 0; i < BATCH; i++) {
		spin_lock(lock);
		spin_unlock(lock);
	}
	return get_cycles() - begin;
}

static noinline u64 batch_irqsave(spinlock_t *lock)
{
	u64 begin = get_cycles();
	unsigned long flags;
	unsigned int i;

	for (i = 0; i < BATCH; i++) {
		spin_lock_irqsave(lock, flags);
		spin_unlock_irqrestore(lock, flags);
	}
	return get_cycles() - begin;
}

static noinline u64 batch_trylock(spinlock_t *lock)
{
	u64 begin = get_cycles();
	unsigned int i;

	for (i = 0; i < BATCH; i++) {
		if (!spin_trylock(lock))
			return 0;
		spin_unlock(lock);
	}
	return get_cycles() - begin;
}

void add_cycles(struct cycles *sum, u64 cycles)
{
	sum->total += cycles;
	if (!sum->least || cycles < sum->least)
		sum->least = cycles;
}

void measure_pairs(struct worker *w)
{
	struct run *run = w->run;
	spinlock_t *lock = &w->area->lock;
	u64 tried;

	while (run->pairs < run->p.pairs && !READ_ONCE(run->stop)) {
		add_cycles(&run->empty, batch_empty(lock));
		add_cycles(&run->op[OP_SPIN], batch_spin(lock));
		add_cycles(&run->op[OP_IRQSAVE], batch_irqsave(lock));
		tried = batch_trylock(lock);
		if (!tried) {
			run->trylock_failed = true;
			found_broken(run, "a free lock was not to be had");
			break;
		}
		add_cycles(&run->op[OP_TRYLOCK], tried);
		run->pairs += BATCH;
		cond_resched();
	}
}

void print_cycles(struct seq_file *m, const char *name, const struct cycles *c)
{
	seq_printf(m, "\"%s\":{\"total\":%llu,\"least\":%llu}", name, c->total, c->least);
}

void print_pairs(struct seq_file *m, struct run *run)
{
	int op;

	seq_printf(m, "\"stuck\":%u,", run->stuck);
	seq_printf(m, "\"cpu\":%lu,\"pairs\":%llu,\"batch\":%u,\"complete\":%s,\"consistent\":%s,",
		   run->p.cpu, run->pairs, BATCH, json_bool(run->pairs >= run->p.pairs),
		   json_bool(!run->trylock_failed && !run->stuck));
	print_cycles(m, "empty", &run->empty);
	seq_puts(m, ",\"op\":{");
	for (op = 0; op < NR_PAIR_OPS; op++) {
		if (op)
			seq_puts(m, ",");
		print_cycles(m, op_names[op], &run->op[op]);
	}
	seq_puts(m, "}");
}
