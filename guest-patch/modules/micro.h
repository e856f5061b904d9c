/* SPDX-License-Identifier: GPL-2.0 */
#ifndef ISPIN_MICRO_H
#define ISPIN_MICRO_H

#include <linux/atomic.h>
#include <linux/cache.h>
#include <linux/completion.h>
#include <linux/seq_file.h>
#include <linux/spinlock.h>
#include <linux/types.h>

enum micro_mode { MODE_CONTEND, MODE_PAIRS, MODE_QUEUE, NR_MODES };

enum micro_op {
	OP_SPIN,
	OP_IRQSAVE,
	OP_TRYLOCK,
	OP_NONE,	/* no lock: shows that the checks can fail */
	NR_OPS,
};

/* How many of them mode=pairs measures. */
#define NR_PAIR_OPS	OP_NONE

/* What is written to "run". */
struct params {
	unsigned long mode;
	unsigned long threads;
	unsigned long ms;	/* length of the run, or its limit */
	unsigned long accesses;	/* of each thread; 0: no limit */
	unsigned long hold;	/* turns of pause() inside the lock */
	unsigned long gap;	/* turns of pause() between two accesses */
	unsigned long words;	/* size of the memory area */
	unsigned long op;
	unsigned long shared;	/* one lock for all threads */
	unsigned long nested;	/* a second lock, common to all threads, inside the first */
	unsigned long stall;	/* from one stall to the next, ms; 0: none */
	unsigned long pairs;	/* mode=pairs: how many; mode=queue: rounds */
	unsigned long cpu;	/* mode=pairs: where */
};

extern const char * const mode_names[NR_MODES];
extern const char * const op_names[NR_OPS];

#define MAX_STALLS	64

/* A holder that kept its lock until the hypervisor took its CPU. Cycles of the TSC. */
struct stall {
	u64 begin;		/* from here on it only waited for that */
	u64 back;		/* it ran again; 0: it never lost its CPU */
	u64 accesses;		/* of all threads, before */
};

/* What the lock protects. */
struct area {
	spinlock_t lock;	/* protects all below */
	u64 counter;		/* accesses */
	u64 overlaps;		/* accesses that met another thread inside */
	u64 torn;		/* accesses that found an array half-changed */
	struct worker *inside;
	u64 *word;
	u64 next_stall;		/* ktime, ns */
	unsigned int nr_stalls;
	struct stall stalls[MAX_STALLS];
} ____cacheline_aligned_in_smp;

struct worker {
	struct run *run;
	struct area *area;
	struct task_struct *task;
	unsigned int cpu;
	u64 accesses;
	u64 failed;		/* trylocks that did not get the lock */
	u64 ns;
} ____cacheline_aligned_in_smp;

struct cycles {
	u64 total;		/* of all batches */
	u64 least;		/* of the quickest one */
};

struct run {
	struct params p;
	struct completion go;
	struct completion over;	/* all threads ended, or a lock was found broken */
	struct completion back;	/* all threads ended */
	atomic_t running;
	bool stop;
	bool broken;
	unsigned int stuck;	/* threads that never came back */
	u64 elapsed;

	struct worker *workers;	/* mode=contend */
	struct area *areas;
	unsigned int nr_areas;
	spinlock_t inner;	/* protects inner_counter */
	u64 inner_counter;

	u64 pairs;		/* mode=pairs: measured of each operation; mode=queue: rounds done */
	bool trylock_failed;
	struct cycles empty;
	struct cycles op[NR_PAIR_OPS];

	u64 seen;		/* mode=queue: when the holder saw the ticket; protected by the lock */
	atomic64_t arrived;	/* threads at the end of a round, of all rounds together */
	struct cycles asked;
};

/* str_true_false() is newer than Linux 6.1. */
static inline const char *json_bool(bool value)
{
	return value ? "true" : "false";
}

/* params.c */
int parse_params(struct params *p, char *line);

/* main.c */
void found_broken(struct run *run, const char *what);

/* contend.c */
void contend(struct worker *w);
void print_contend(struct seq_file *m, struct run *run);

/* pairs.c */
void add_cycles(struct cycles *sum, u64 cycles);
void print_cycles(struct seq_file *m, const char *name, const struct cycles *c);
void measure_pairs(struct worker *w);
void print_pairs(struct seq_file *m, struct run *run);

/* queue.c */
bool can_measure_queue(void);
void measure_queue(struct worker *w);
void print_queue(struct seq_file *m, struct run *run);

#endif
