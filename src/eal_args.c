/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_config.h>

#include <dvmq/eal_args.h>

#define MAX_ARGS 512

static const char *const repeatable[] = {"--vdev", "-a", "--allow", "-b", "--block", "-d", "--log-level", "-r", NULL};
static const char *const lcore_options[] = {"-l", "-c", "--lcores", NULL};

struct args {
	int n;
	char *v[MAX_ARGS + 1];
};

static int push(struct args *args, const char *word, struct dvmq_err *err)
{
	if (args->n == MAX_ARGS)
		return dvmq_fail(err, E2BIG, "more than %d EAL arguments", MAX_ARGS);
	args->v[args->n] = strdup(word);
	if (args->v[args->n] == NULL)
		return dvmq_fail(err, ENOMEM, "out of memory");
	args->n++;
	return 0;
}

/* "--vdev=x" and "--vdev" name the same option, "-l1,2" and "-l" too. */
static size_t name_length(const char *word)
{
	if (word[0] != '-')
		return 0;
	return word[1] == '-' ? strcspn(word, "=") : strlen(word) < 2 ? strlen(word) : 2;
}

static bool is_option(const char *word, const char *name)
{
	size_t n = name_length(word);

	return n > 0 && n == strlen(name) && strncmp(word, name, n) == 0;
}

static bool is_one_of(const char *word, const char *const *names)
{
	for (; *names != NULL; names++)
		if (is_option(word, *names))
			return true;
	return false;
}

static bool has_lcores(char *const *v, int n)
{
	for (int i = 0; i < n; i++)
		if (is_one_of(v[i], lcore_options))
			return true;
	return false;
}

/* Does a later source say the same option, so that an earlier one must not? */
static bool overridden(const char *word, char *const *later, int n)
{
	if (is_one_of(word, repeatable))
		return false;
	if (is_one_of(word, lcore_options) || (is_option(word, "--main-lcore") && has_lcores(later, n)))
		return has_lcores(later, n);
	for (int i = 0; i < n; i++)
		if (name_length(later[i]) == name_length(word) && name_length(word) > 0 &&
		    strncmp(later[i], word, name_length(word)) == 0)
			return true;
	return false;
}

/* Appends words, each option with its values, but for those that `later` overrides. */
static int append(struct args *args, char *const *words, int n, char *const *later, int n_later, struct dvmq_err *err)
{
	bool skip = false;
	int ret = 0;

	for (int i = 0; ret == 0 && i < n; i++) {
		if (words[i][0] == '-')
			skip = overridden(words[i], later, n_later);
		if (!skip)
			ret = push(args, words[i], err);
	}
	return ret;
}

static int split(const char *text, struct args *words, struct dvmq_err *err)
{
	char *copy = strdup(text ? text : ""), *save = NULL;
	int ret = copy != NULL ? 0 : dvmq_fail(err, ENOMEM, "out of memory");

	for (char *word = copy ? strtok_r(copy, " \t", &save) : NULL; ret == 0 && word != NULL;
	     word = strtok_r(NULL, " \t", &save))
		ret = push(words, word, err);
	free(copy);
	return ret;
}

/* ---- lcores ---- */

static bool contains(const uint16_t *cpus, unsigned n, unsigned cpu)
{
	for (unsigned i = 0; i < n; i++)
		if (cpus[i] == cpu)
			return true;
	return false;
}

/* Workers and control CPU: as configured, else the first CPU that we may use controls and the others work. */
static int cpus_of(const struct dvmq_conf *conf, uint16_t *workers, unsigned *ret_n, unsigned *ret_control,
		   struct dvmq_err *err)
{
	cpu_set_t allowed;
	unsigned n = conf->n_workers, control = conf->control, first = 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		return dvmq_fail(err, errno, "sched_getaffinity: %s", strerror(errno));
	while (first < CPU_SETSIZE && !CPU_ISSET(first, &allowed))
		first++;
	if (!conf->has_control)
		control = first;
	memcpy(workers, conf->workers, n * sizeof(*workers));
	if (!conf->has_workers) {
		n = 0;
		for (unsigned cpu = 0; cpu < RTE_MAX_LCORE && cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET(cpu, &allowed) && cpu != control)
				workers[n++] = cpu;
		if (n == 0)
			workers[n++] = control;
	}
	for (unsigned i = 0; i < n; i++)
		if (workers[i] >= RTE_MAX_LCORE)
			return dvmq_fail(err, EINVAL,
					 "workers: CPU %u is beyond DPDK's %d lcores; map lcores to CPUs with [eal] args = "
					 "--lcores=...",
					 workers[i], RTE_MAX_LCORE);
	*ret_n = n;
	*ret_control = control;
	return 0;
}

/* --lcores: a worker's lcore has the number of its CPU; the control lcore too, unless that one works as well. */
static int push_lcores(struct args *args, const struct dvmq_conf *conf, struct dvmq_err *err)
{
	uint16_t workers[DVMQ_MAX_CPUS];
	unsigned n = 0, control = 0, lcore;
	char text[DVMQ_MAX_CPUS * 12] = "", main_lcore[32];
	size_t used = 0;

	if (cpus_of(conf, workers, &n, &control, err) < 0)
		return -errno;
	for (lcore = control; lcore >= RTE_MAX_LCORE || contains(workers, n, lcore); lcore = (lcore + 1) % RTE_MAX_LCORE)
		if (n >= RTE_MAX_LCORE)
			return dvmq_fail(err, EINVAL, "workers: no lcore of DPDK's %d is left for control", RTE_MAX_LCORE);
	for (unsigned i = 0; i < n; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%u@%u,", workers[i], workers[i]);
	snprintf(text + used, sizeof(text) - used, "%u@%u", lcore, control);
	snprintf(main_lcore, sizeof(main_lcore), "--main-lcore=%u", lcore);
	if (push(args, "--lcores", err) < 0 || push(args, text, err) < 0)
		return -errno;
	return push(args, main_lcore, err);
}

int dvmq_eal_args(const char *program, const struct dvmq_conf *conf, int argc, char **argv, int *ret_argc,
		  char ***ret_argv, struct dvmq_err *err)
{
	static struct args all;             /* EAL keeps pointers to the words, */
	static char *for_eal[MAX_ARGS + 1]; /* and changes the array that it gets */
	struct args words = {0};
	int ret;

	while (all.n > 0)
		free(all.v[--all.n]);
	ret = split(conf->eal_args, &words, err);
	if (ret == 0)
		ret = push(&all, program, err);
	if (ret == 0 && !has_lcores(words.v, words.n) && !has_lcores(argv, argc))
		ret = push_lcores(&all, conf, err);
	if (ret == 0 && !overridden("--file-prefix", words.v, words.n) && !overridden("--file-prefix", argv, argc))
		ret = push(&all, "--file-prefix=dvmq", err);
	if (ret == 0)
		ret = append(&all, words.v, words.n, argv, argc, err);
	if (ret == 0)
		ret = append(&all, argv, argc, NULL, 0, err);
	for (int i = 0; i < words.n; i++)
		free(words.v[i]);
	memcpy(for_eal, all.v, all.n * sizeof(all.v[0]));
	for_eal[all.n] = NULL;
	*ret_argc = all.n;
	*ret_argv = for_eal;
	return ret;
}
