// SPDX-License-Identifier: GPL-2.0
/* What is written to "run": name=value name=value ... */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/array_size.h>
#include <linux/errno.h>
#include <linux/kstrtox.h>
#include <linux/limits.h>
#include <linux/printk.h>
#include <linux/stddef.h>
#include <linux/string.h>
#include <linux/threads.h>

#include "micro.h"

#define MAX_THREADS	1024
#define MAX_MS		(24 * 60 * 60 * 1000UL)
#define MAX_TURNS	10000000
#define MAX_WORDS	65536
#define MAX_PAIRS	1000000000UL

const char * const mode_names[NR_MODES] = { "contend", "pairs", "queue" };
const char * const op_names[NR_OPS] = { "spin", "irqsave", "trylock", "none" };

struct param {
	const char *name;
	size_t offset;		/* in struct params */
	unsigned long scale;	/* what is stored is the value times this */
	unsigned long min, max;	/* of what is stored; max choices */
	const char * const *choices;
};

#define NUMBER(n, lo, hi)	{ #n, offsetof(struct params, n), 1, lo, hi, NULL }
#define CHOICE(n, count)	{ #n, offsetof(struct params, n), 1, 0, count, n##_names }

static const struct param params_known[] = {
	CHOICE(mode, NR_MODES),
	NUMBER(threads, 1, MAX_THREADS),
	NUMBER(ms, 1, MAX_MS),
	{ "seconds", offsetof(struct params, ms), 1000, 1, MAX_MS, NULL },
	NUMBER(accesses, 0, ULONG_MAX),
	NUMBER(hold, 0, MAX_TURNS),
	NUMBER(gap, 0, MAX_TURNS),
	NUMBER(words, 0, MAX_WORDS),
	CHOICE(op, NR_OPS),
	NUMBER(shared, 0, 1),
	NUMBER(nested, 0, 1),
	NUMBER(stall, 0, MAX_MS),
	NUMBER(pairs, 1, MAX_PAIRS),
	NUMBER(cpu, 0, INT_MAX),
};

static const struct params params_default = {
	.threads = 4,
	.ms = 3000,
	.hold = 100,
	.gap = 200,
	.words = 8,
	.shared = 1,
	.pairs = 100000,
};

static int parse_value(const struct param *param, const char *text, unsigned long *value)
{
	int ret;

	if (param->choices) {
		ret = match_string(param->choices, param->max, text);
		if (ret < 0)
			return ret;
		*value = ret;
		return 0;
	}
	ret = kstrtoul(text, 0, value);
	if (ret)
		return ret;
	if (*value > param->max / param->scale)
		return -ERANGE;
	*value *= param->scale;
	return *value < param->min ? -ERANGE : 0;
}

static int parse_param(struct params *p, char *name)
{
	char *text = strchr(name, '=');
	unsigned long value;
	size_t i;
	int ret;

	if (text)
		*text++ = '\0';
	for (i = 0; text && i < ARRAY_SIZE(params_known); i++) {
		const struct param *param = &params_known[i];

		if (strcmp(param->name, name))
			continue;
		ret = parse_value(param, text, &value);
		if (ret)
			pr_err("%s=%s: no such choice, or out of range\n", name, text);
		else
			*(unsigned long *)((char *)p + param->offset) = value;
		return ret ? -EINVAL : 0;
	}
	pr_err("%s: no such parameter\n", name);
	return -EINVAL;
}

/* Fills @p with what @line says, which is changed, and with defaults. */
int parse_params(struct params *p, char *line)
{
	char *word;
	int ret;

	*p = params_default;
	while ((word = strsep(&line, " \t\n"))) {
		if (!*word)
			continue;
		ret = parse_param(p, word);
		if (ret)
			return ret;
	}
	if (p->mode == MODE_PAIRS)
		p->threads = 1;
	if (p->mode == MODE_QUEUE && p->threads < 2) {
		pr_err("mode=queue needs a thread that asks and one that holds the lock\n");
		return -EINVAL;
	}
	return 0;
}
