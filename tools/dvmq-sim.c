/* SPDX-License-Identifier: BSD-3-Clause */
/* dvmq-sim: the planner of the daemon, without a daemon. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dvmq/plan_json.h"
#include "sim.h"

static const char usage[] = "usage: dvmq-sim plan FILE\n";

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static const char *queue_name(uint32_t id, void *arg)
{
	return ((char **)arg)[id];
}

static int print_plan(const struct sim_input *in)
{
	struct dvmq_balance *balance = dvmq_balance_new(&in->params);
	enum dvmq_loop loop = in->slow ? DVMQ_LOOP_SLOW : DVMQ_LOOP_FAST;
	struct dvmq_plan plan;
	double start, took;
	json_t *object = NULL;
	int ret = -ENOMEM;

	if (balance) {
		/* Allocates the scratch memory, as it is in a daemon: the time of the second is measured. */
		dvmq_balance_plan(balance, &in->snapshot, loop, in->max_moves, true, &plan);
		start = now_us();
		ret = dvmq_balance_plan(balance, &in->snapshot, loop, in->max_moves, false, &plan);
		took = now_us() - start;
	}
	if (ret == 0)
		object = dvmq_plan_json(&in->snapshot, &plan, queue_name, in->names, took);
	if (object)
		ret = json_dumpf(object, stdout, JSON_INDENT(2)) < 0 || printf("\n") < 0 || fflush(stdout) ? -EIO : 0;
	else
		ret = -ENOMEM;
	if (ret < 0)
		fprintf(stderr, "dvmq-sim: cannot print the plan: %s\n", strerror(-ret));
	json_decref(object);
	dvmq_balance_free(balance);
	return ret < 0 ? 1 : 0;
}

static int plan(const char *file)
{
	const char *what = strcmp(file, "-") == 0 ? "stdin" : file;
	FILE *from = what == file ? fopen(file, "r") : stdin;
	struct sim_input in;
	json_error_t error;
	json_t *root;
	int ret = 1;

	if (!from) {
		fprintf(stderr, "%s: cannot be read: %s\n", file, strerror(errno));
		return 1;
	}
	root = json_loadf(from, 0, &error);
	if (from != stdin)
		fclose(from);
	if (!root) {
		fprintf(stderr, "%s:%d:%d: no valid JSON: %s\n", what, error.line, error.column, error.text);
		return 1;
	}
	if (sim_read(what, root, &in) == 0) {
		ret = print_plan(&in);
		sim_input_free(&in);
	}
	json_decref(root);
	return ret;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "plan") == 0)
		return plan(argv[2]);
	fputs(usage, stderr);
	return 1;
}
