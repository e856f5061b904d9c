// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that misbehaves: writes garbage over the slots of its own vCPUs, to
 * see that neither the hypervisor nor another guest minds.
 *
 *   insmod ispin_scribble.ko pointer=0xffffffff82xxxxxx
 *
 * @pointer is where the kernel keeps the address of Xen's shared info page
 * (HYPERVISOR_shared_info in /proc/kallsyms, which is not exported). A thread
 * per online CPU writes until the module is removed; "written" counts words.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include <asm/page.h>

/* What struct shared_info leaves free. */
#define FIRST_WORD	(3136 / sizeof(u64))
#define END_WORD	(PAGE_SIZE / sizeof(u64))

static unsigned long pointer;
module_param(pointer, ulong, 0444);
MODULE_PARM_DESC(pointer, "address of HYPERVISOR_shared_info");

static atomic_long_t words;
static struct task_struct **writers;
static unsigned int nr_writers;

static int written_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%ld\n", atomic_long_read(&words));
}

static const struct kernel_param_ops written_ops = { .get = written_get };
module_param_cb(written, &written_ops, NULL, 0444);

static int scribble(void *data)
{
	u64 *page = data;
	struct rnd_state random;

	prandom_seed_state(&random, get_random_u64());
	while (!kthread_should_stop()) {
		unsigned int i;

		for (i = FIRST_WORD; i < END_WORD; i++) {
			u64 garbage = (u64)prandom_u32_state(&random) << 32 | prandom_u32_state(&random);

			/* Now and then what looks like a sane value to a reader. */
			if (!(garbage & 7))
				garbage = garbage & 8 ? 0 : ~0ULL;
			WRITE_ONCE(page[i], garbage);
		}
		atomic_long_add(END_WORD - FIRST_WORD, &words);
		cond_resched();
	}
	return 0;
}

static void stop(void)
{
	while (nr_writers)
		kthread_stop(writers[--nr_writers]);
	kfree(writers);
}

static int __init scribble_init(void)
{
	unsigned int cpu;
	u64 *page;

	if (!pointer || !IS_ALIGNED(pointer, sizeof(page)) || pointer < PAGE_OFFSET) {
		pr_err("pointer: give the address of HYPERVISOR_shared_info\n");
		return -EINVAL;
	}
	page = READ_ONCE(*(u64 **)pointer);
	if (!page || !PAGE_ALIGNED(page)) {
		pr_err("the shared info page is not mapped\n");
		return -ENODEV;
	}
	writers = kcalloc(num_online_cpus(), sizeof(*writers), GFP_KERNEL);
	if (!writers)
		return -ENOMEM;
	for_each_online_cpu(cpu) {
		struct task_struct *task = kthread_create_on_cpu(scribble, page, cpu, "scribble/%u");

		if (IS_ERR(task)) {
			stop();
			return PTR_ERR(task);
		}
		writers[nr_writers++] = task;
		wake_up_process(task);
	}
	return 0;
}

static void __exit scribble_exit(void)
{
	stop();
}

module_init(scribble_init);
module_exit(scribble_exit);
MODULE_DESCRIPTION("writes garbage over the slots of informed spinlocks");
MODULE_LICENSE("GPL");
