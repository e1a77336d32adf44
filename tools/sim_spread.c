/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dvmq-sim spread: one VM with several queues.  Its flows are spread over them by
 * the Toeplitz hash and a table, as a NIC does it; the daemon's planner puts the
 * queues on workers.  A worker carries load up to 1.  The VM is offered just what
 * all workers together carry, so each unevenness costs throughput.
 */
#include <math.h>
#include <stdlib.h>

#include "sim.h"

#define TABLE	  128 /* entries of the redirection table */
#define FLOWS_MAX 4096
#define PACKETS	  4 /* of each flow that are hashed one by one */

static const unsigned flow_counts[] = {1, 4, 16, 64, 256, 1024, FLOWS_MAX};

#define N_ROWS (sizeof(flow_counts) / sizeof(*flow_counts))

struct row {
	double *rate;	     /* throughput per trial, in workers */
	double one;	     /* the same on one worker, mean */
	unsigned long split; /* flows of which two packets met different queues */
};

/* Source and destination address and port of a TCP flow, as they stand in the packet. */
static void new_flow(struct sim *dice, uint8_t tuple[12])
{
	for (unsigned i = 0; i < 12; i++)
		tuple[i] = (uint8_t)(256 * sim_random(dice));
}

static unsigned queue_of(const uint8_t tuple[12], unsigned n_queues)
{
	return sim_toeplitz(tuple, 12) % TABLE % n_queues;
}

/* The load of each queue; the total is `offered`. */
static void spread_flows(struct sim *dice, unsigned n_flows, double zipf, double offered, unsigned n_queues,
			 double *load, unsigned long *split)
{
	double total = 0;

	for (unsigned q = 0; q < n_queues; q++)
		load[q] = 0;
	for (unsigned i = 0; i < n_flows; i++)
		total += pow(i + 1, -zipf);
	for (unsigned i = 0; i < n_flows; i++) {
		double part = offered * pow(i + 1, -zipf) / total / PACKETS;
		unsigned first, changed = 0;
		uint8_t tuple[12];

		new_flow(dice, tuple);
		first = queue_of(tuple, n_queues);
		for (unsigned p = 0; p < PACKETS; p++) {
			unsigned queue = queue_of(tuple, n_queues);

			load[queue] += part;
			changed |= queue != first;
		}
		*split += changed;
	}
}

/* What `n_workers` carry when the planner has placed the queues; < 0: no memory. */
static double carried(const double *load, unsigned n_queues, unsigned n_workers)
{
	struct dvmq_balance_core cores[128] = {0};
	struct dvmq_balance_queue queues[128] = {0};
	struct dvmq_snapshot snapshot = {.cores = cores, .n_cores = n_workers, .queues = queues, .n_queues = n_queues};
	struct dvmq_balance_params params;
	struct dvmq_balance *balance;
	double on[128] = {0}, sum = 0;
	struct dvmq_plan plan;

	dvmq_balance_defaults(&params);
	balance = dvmq_balance_new(&params);
	if (!balance)
		return -1;
	for (unsigned i = 0; i < n_workers; i++)
		cores[i] = (struct dvmq_balance_core){i, 0, -1, DVMQ_CORE_ACTIVE, DVMQ_CORE_AUTO};
	for (unsigned i = 0; i < n_queues; i++)
		queues[i] = (struct dvmq_balance_queue){
		    .id = i, .core = i % n_workers, .group = 1, .demand = load[i], .age_ms = -1};
	if (dvmq_balance_plan(balance, &snapshot, DVMQ_LOOP_SLOW, UINT32_MAX, false, &plan) < 0) {
		dvmq_balance_free(balance);
		return -1;
	}
	for (unsigned i = 0; i < plan.n_moves; i++)
		queues[plan.moves[i].index].core = plan.moves[i].to;
	dvmq_balance_free(balance);
	for (unsigned i = 0; i < n_queues; i++)
		on[queues[i].core] += load[i];
	for (unsigned i = 0; i < n_workers; i++)
		sum += fmin(1, on[i]);
	return sum;
}

static int run_row(const struct sim_options *o, struct sim *dice, unsigned n_flows, struct row *row)
{
	double load[128];

	for (unsigned trial = 0; trial < o->trials; trial++) {
		double one;

		dice->random = (o->seed + 1) * 0x9E3779B97F4A7C15ull + (trial + 1) * 0xD1B54A32D192ED03ull;
		spread_flows(dice, n_flows, o->zipf, o->workers, o->queues, load, &row->split);
		row->rate[trial] = carried(load, o->queues, o->workers);
		one = carried(load, o->queues, 1);
		if (row->rate[trial] < 0 || one < 0)
			return -1;
		row->one += one / o->trials;
	}
	return 0;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static json_t *to_json(const struct sim_options *o, struct row *rows)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < N_ROWS; i++) {
		double mean = 0, enough = 0;
		struct row *r = &rows[i];

		qsort(r->rate, o->trials, sizeof(double), ascending);
		for (unsigned t = 0; t < o->trials; t++) {
			mean += r->rate[t] / o->trials;
			enough += (r->rate[t] / r->one >= 0.9 * o->workers) / (double)o->trials;
		}
		json_array_append_new(list,
				      json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:i}", "flows", (int)flow_counts[i],
						"one_worker", r->one, "mean", mean, "p1", r->rate[o->trials / 100],
						"worst", r->rate[0], "at_least_0.9", enough, "split", (int)r->split));
	}
	return json_pack("{s:s, s:i, s:i, s:f, s:i, s:I, s:o}", "scenario", "spread", "queues", (int)o->queues,
			 "workers", (int)o->workers, "zipf", o->zipf, "trials", (int)o->trials, "seed",
			 (json_int_t)o->seed, "planners", list);
}

static void print_table(const struct sim_options *o, const json_t *all)
{
	json_t *rows = json_object_get(all, "planners");

	printf("spread: 1 VM, %lu queues on %lu workers, zipf %g, %lu trials, seed %lu; offered %lu workers' worth\n",
	       o->queues, o->workers, o->zipf, o->trials, o->seed, o->workers);
	printf("%7s %10s %8s %8s %8s %8s %7s\n", "flows", "1 worker", "all", "p1", "worst", ">=90%", "split");
	for (unsigned i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);

		printf("%7lld %10.3f %8.3f %8.3f %8.3f %7.2f%% %7lld\n",
		       (long long)json_integer_value(json_object_get(row, "flows")),
		       json_real_value(json_object_get(row, "one_worker")),
		       json_real_value(json_object_get(row, "mean")), json_real_value(json_object_get(row, "p1")),
		       json_real_value(json_object_get(row, "worst")),
		       100 * json_real_value(json_object_get(row, "at_least_0.9")),
		       (long long)json_integer_value(json_object_get(row, "split")));
	}
}

static int draw(const struct sim_options *o, const json_t *all)
{
	static const char *const what[] = {"mean", "p1", "worst"};
	json_t *rows = json_object_get(all, "planners");
	FILE *plot = sim_plot(o->svg);

	if (!plot)
		return -1;
	fprintf(plot, "set logscale x 4\nset xlabel 'flows'\nset ylabel 'throughput, workers'\n"
		      "plot '-' with linespoints lw 2 title 'mean', '-' with linespoints lw 2 title 'p1', "
		      "'-' with linespoints lw 2 title 'worst'\n");
	for (unsigned k = 0; k < 3; k++) {
		for (unsigned i = 0; i < N_ROWS; i++)
			fprintf(plot, "%u %g\n", flow_counts[i],
				json_real_value(json_object_get(json_array_get(rows, i), what[k])));
		fprintf(plot, "e\n");
	}
	return sim_plot_end(o->svg, plot);
}

int sim_spread(const struct sim_options *o)
{
	struct sim *dice = calloc(1, sizeof(*dice));
	struct row rows[N_ROWS] = {0};
	json_t *all = NULL;
	int ret = dice ? 0 : -1;

	for (unsigned i = 0; i < N_ROWS && ret == 0; i++) {
		rows[i].rate = calloc(o->trials, sizeof(double));
		ret = rows[i].rate ? run_row(o, dice, flow_counts[i], &rows[i]) : -1;
	}
	if (ret == 0)
		all = to_json(o, rows);
	for (unsigned i = 0; i < N_ROWS; i++)
		free(rows[i].rate);
	free(dice);
	if (!all) {
		fprintf(stderr, "dvmq-sim: out of memory\n");
		return -1;
	}
	if (o->json)
		json_dumpf(all, stdout, JSON_INDENT(2)), printf("\n");
	else
		print_table(o, all);
	if (o->csv)
		ret = sim_csv(o->csv, all);
	if (o->svg && draw(o, all) < 0)
		ret = -1;
	json_decref(all);
	return ret;
}
