// SPDX-License-Identifier: GPL-2.0
/*
 * Micro-benchmarks of the kernel's spinlocks, driven through debugfs.
 *
 *   echo threads=4 ms=3000 hold=100 gap=200 > /sys/kernel/debug/ispin_micro/run
 *   cat /sys/kernel/debug/ispin_micro/result
 *
 * mode=contend (default): threads, bound to CPUs in turn, access the same
 * memory area under one lock, each of them "accesses" times or, if that is 0,
 * until the time is over. This is the micro-benchmark of the I-Spinlock paper
 * (EuroSys 2017, section 5.1). Every access reads a counter and an array,
 * holds the lock for a while and then writes them back, so two threads that
 * are inside at the same time do not go unnoticed. With "stall" a holder now and
 * then keeps the lock until the hypervisor has taken its CPU.
 *
 * mode=pairs: one thread takes and releases a lock that nobody else wants and
 * counts TSC cycles, with interrupts on. Where each instruction takes the
 * same number of cycles (QEMU's -icount) this counts instructions.
 *
 * mode=queue: one thread after the other queues up for a lock that another one
 * holds, and the last one counts the TSC cycles until it has its ticket. For
 * locks that keep the layout of the ticket lock.
 *
 * A write to "run" lasts as long as the run; a signal ends it early, and so
 * does the first sign of a broken lock.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "micro.h"

#define MAX_LINE	512

/*
 * How long threads may take to come back at the end of a run. An access takes
 * far less; a thread that stays away waits for a lock that nobody hands over.
 */
#define GRACE_MS	20000

/* Serializes runs, and protects the latest complete one, which "result" shows. */
static DEFINE_MUTEX(run_mutex);
static struct run *latest;
static struct dentry *folder;

/*
 * Ends the run at the first sign of a broken lock: threads that wait for it
 * may never get it, and each of them keeps a CPU busy. The message comes
 * first, in case none is left.
 */
void found_broken(struct run *run, const char *what)
{
	if (xchg(&run->broken, true))
		return;
	pr_crit("broken: %s\n", what);
	WRITE_ONCE(run->stop, true);
	complete(&run->over);
}

static int work(void *data)
{
	struct worker *w = data;
	struct run *run = w->run;
	u64 begin;

	wait_for_completion(&run->go);
	begin = ktime_get_ns();
	switch (run->p.mode) {
	case MODE_PAIRS:
		measure_pairs(w);
		break;
	case MODE_QUEUE:
		measure_queue(w);
		break;
	default:
		contend(w);
	}
	w->ns = ktime_get_ns() - begin;
	if (atomic_dec_and_test(&run->running)) {
		complete(&run->over);
		complete(&run->back);
	}
	return 0;
}

static void free_run(struct run *run)
{
	unsigned int i;

	/* Threads that are stuck still use it. */
	if (!run || run->stuck)
		return;
	for (i = 0; run->areas && i < run->nr_areas; i++)
		kvfree(run->areas[i].word);
	kvfree(run->areas);
	kvfree(run->workers);
	kfree(run);
}

static int make_areas(struct run *run)
{
	unsigned int i;

	run->nr_areas = run->p.shared ? 1 : run->p.threads;
	run->workers = kvcalloc(run->p.threads, sizeof(*run->workers), GFP_KERNEL);
	run->areas = kvcalloc(run->nr_areas, sizeof(*run->areas), GFP_KERNEL);
	if (!run->workers || !run->areas)
		return -ENOMEM;

	for (i = 0; i < run->nr_areas; i++) {
		struct area *area = &run->areas[i];

		spin_lock_init(&area->lock);
		/* One more, so that no array is empty. */
		area->word = kvcalloc(run->p.words + 1, sizeof(*area->word), GFP_KERNEL);
		if (!area->word)
			return -ENOMEM;
	}
	for (i = 0; i < run->p.threads; i++) {
		run->workers[i].run = run;
		run->workers[i].area = &run->areas[i % run->nr_areas];
	}
	return 0;
}

/* Ends and reaps the first @count threads. */
static void stop_workers(struct run *run, unsigned int count)
{
	unsigned int i;

	WRITE_ONCE(run->stop, true);
	complete_all(&run->go);
	for (i = 0; i < count; i++) {
		/* kthread_stop_put(), which Linux 6.1 does not have. */
		kthread_stop(run->workers[i].task);
		put_task_struct(run->workers[i].task);
	}
}

/*
 * Creates all threads, bound to the online CPUs in turn (mode=pairs: to the
 * chosen one). They wait for run->go.
 */
static int start_workers(struct run *run)
{
	unsigned int i, cpu;
	int last = -1;
	int ret = 0;

	cpus_read_lock();
	for (i = 0; i < run->p.threads; i++) {
		struct worker *w = &run->workers[i];

		if (run->p.mode == MODE_PAIRS) {
			cpu = run->p.cpu;
		} else {
			cpu = cpumask_next(last, cpu_online_mask);
			if (cpu >= nr_cpu_ids)
				cpu = cpumask_first(cpu_online_mask);
			last = cpu;
		}
		if (cpu >= nr_cpu_ids || !cpu_online(cpu)) {
			pr_err("there is no CPU %u\n", cpu);
			ret = -EINVAL;
			break;
		}
		w->cpu = cpu;
		w->task = kthread_create_on_cpu(work, w, cpu, "ispin_micro/%u");
		if (IS_ERR(w->task)) {
			ret = PTR_ERR(w->task);
			break;
		}
		get_task_struct(w->task);
	}
	cpus_read_unlock();
	if (ret) {
		stop_workers(run, i);
		return ret;
	}
	for (i = 0; i < run->p.threads; i++)
		wake_up_process(run->workers[i].task);
	return 0;
}

static int do_run(struct run *run)
{
	long left;
	u64 begin;
	int ret;

	init_completion(&run->go);
	init_completion(&run->over);
	init_completion(&run->back);
	spin_lock_init(&run->inner);
	if (run->p.mode == MODE_QUEUE) {
		if (!can_measure_queue())
			return -EOPNOTSUPP;
		/* They wait for each other without giving way. */
		if (run->p.threads > num_online_cpus()) {
			pr_err("mode=queue needs a CPU for each thread\n");
			return -EINVAL;
		}
	}
	ret = make_areas(run);
	if (ret)
		return ret;
	atomic_set(&run->running, run->p.threads);
	ret = start_workers(run);
	if (ret)
		return ret;
	begin = ktime_get_ns();
	complete_all(&run->go);
	left = wait_for_completion_interruptible_timeout(&run->over, msecs_to_jiffies(run->p.ms));
	WRITE_ONCE(run->stop, true);
	if (wait_for_completion_timeout(&run->back, msecs_to_jiffies(GRACE_MS))) {
		stop_workers(run, run->p.threads);
	} else {
		run->stuck = atomic_read(&run->running);
		pr_crit("broken: %u of %lu threads are stuck\n", run->stuck, run->p.threads);
		/* They run this module's code for ever. */
		__module_get(THIS_MODULE);
	}
	run->elapsed = ktime_get_ns() - begin;
	/* Not -ERESTARTSYS: the run is over, and must not begin again. */
	return left < 0 ? -EINTR : 0;
}

static int result_show(struct seq_file *m, void *unused)
{
	struct run *run;
	int ret;

	ret = mutex_lock_interruptible(&run_mutex);
	if (ret)
		return ret;
	run = latest;
	if (run) {
		seq_printf(m, "{\"mode\":\"%s\",\"elapsed_ns\":%llu,",
			   mode_names[run->p.mode], run->elapsed);
		switch (run->p.mode) {
		case MODE_PAIRS:
			print_pairs(m, run);
			break;
		case MODE_QUEUE:
			print_queue(m, run);
			break;
		default:
			print_contend(m, run);
		}
		seq_puts(m, "}\n");
	}
	mutex_unlock(&run_mutex);
	return run ? 0 : -ENODATA;
}
DEFINE_SHOW_ATTRIBUTE(result);

static ssize_t run_write(struct file *file, const char __user *from, size_t count, loff_t *ppos)
{
	struct run *run;
	char *line;
	int ret;

	if (count > MAX_LINE)
		return -EINVAL;
	line = memdup_user_nul(from, count);
	if (IS_ERR(line))
		return PTR_ERR(line);
	run = kzalloc(sizeof(*run), GFP_KERNEL);
	if (!run) {
		kfree(line);
		return -ENOMEM;
	}
	ret = parse_params(&run->p, line);
	kfree(line);
	if (ret)
		goto out;
	if (mutex_lock_interruptible(&run_mutex)) {
		ret = -EINTR;
		goto out;
	}
	ret = do_run(run);
	if (!ret)
		swap(run, latest);
	mutex_unlock(&run_mutex);
out:
	free_run(run);
	return ret ?: count;
}

static const struct file_operations run_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = run_write,
	.llseek = noop_llseek,
};

static int __init ispin_micro_init(void)
{
	folder = debugfs_create_dir(KBUILD_MODNAME, NULL);
	if (IS_ERR(folder))
		return PTR_ERR(folder);
	debugfs_create_file("run", 0200, folder, NULL, &run_fops);
	debugfs_create_file("result", 0400, folder, NULL, &result_fops);
	return 0;
}

static void __exit ispin_micro_exit(void)
{
	/* Waits for runs that are under way. */
	debugfs_remove(folder);
	free_run(latest);
}

module_init(ispin_micro_init);
module_exit(ispin_micro_exit);
MODULE_DESCRIPTION("Micro-benchmarks of spinlocks");
MODULE_LICENSE("GPL");
