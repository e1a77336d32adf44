/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dvmq-sim share: who gets the scarce NIC queues of an uplink.  The load of the
 * ports is Zipf-distributed with noise, and each second other ports are the large
 * ones.  Beside the daemon's planner: the same for soft queues of a hot default queue, what VMQ does elsewhere, and
 * the best choice, which knows the load of each millisecond and changes as often as it likes.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dvmq/relief.h"
#include "dvmq/share.h"
#include "sim.h"

#define PORTS_MAX  1024
#define SECOND	   1000 /* ms: how long a ranking lasts */
#define BYTES_MAX  1e9	/* of the largest port, per second */
#define WINDOW_MS  10	/* of the plot */
#define PLOT_MS	   4000
#define N_PLANNERS 6
#define RECENT	   64 /* changes of a port that are remembered */

/* Software steering: what serving all ports inline takes, in cores, and the parts of that. */
#define NEED	3.0
#define TAKE	(1 / 3.0) /* the default queue's work for each packet, wherever it goes then */
#define DELIVER (2 / 3.0)
#define HOP	(1 / 6.0) /* beside that, by way of a soft queue */

struct world {
	struct sim dice;
	unsigned n_ports, n_queues, seconds;
	double zipf;
	unsigned rank[PORTS_MAX]; /* 0 is the largest */
	double slow[PORTS_MAX];	  /* noise that lasts for about 20 ms */
	double rate[PORTS_MAX];	  /* bytes per second in this millisecond */
};

/* One planner's holders, and what is counted about them. */
struct holders {
	unsigned holds[PORTS_MAX];
	double seen[PORTS_MAX];		     /* bytes since the last look */
	unsigned changed[PORTS_MAX][RECENT]; /* ms of the last changes, in a ring */
	unsigned n_changed[PORTS_MAX];
	unsigned next_look; /* ms */
	unsigned last_look;
	struct dvmq_share *share;
	struct dvmq_relief relief;
};

struct outcome {
	double bytes, best; /* on own queues, and what the best choice would put there */
	double total;
	double worst; /* trial: bytes / best */
	unsigned long changes;
	unsigned most; /* changes of one port within any 1000 ms */
	double window[PLOT_MS / WINDOW_MS], window_best[PLOT_MS / WINDOW_MS];
};

struct planner {
	const char *name, *what;
	unsigned look_ms; /* between two decisions; 0: one at the beginning */
	void (*decide)(const struct world *world, struct holders *holders, double now_ms, double since_ms);
	bool software;
};

/* ------------------------------------------------------------ planners */

/* Bytes per second that all ports receive, in the long run. */
static double mean_load(const struct world *w)
{
	double sum = 0;

	for (unsigned i = 0; i < w->n_ports; i++)
		sum += BYTES_MAX / pow(i + 1, w->zipf);
	return sum;
}

static void hold(struct holders *h, unsigned port, unsigned queues)
{
	h->holds[port] = queues;
}

/* What each port received, with no more demand than one queue carries. */
static struct dvmq_share_port *see(const struct world *w, const struct holders *h, double since_ms)
{
	static struct dvmq_share_port ports[PORTS_MAX];

	for (unsigned i = 0; i < w->n_ports; i++)
		ports[i] = (struct dvmq_share_port){
		    .id = i,
		    .bytes_per_s = h->seen[i] / since_ms * 1000,
		    .demand = h->seen[i] / since_ms * 1000 / BYTES_MAX / 2,
		    .holds = h->holds[i],
		    .pairs = 1,
		    .max = 1,
		    .weight = 100,
		    .bindable = true,
		};
	return ports;
}

static void share_out(const struct world *w, struct holders *h, const struct dvmq_share_port *ports, unsigned n_queues,
		      double now_ms)
{
	struct dvmq_share_snapshot snapshot = {now_ms, n_queues, ports, w->n_ports};
	struct dvmq_share_plan plan;

	if (dvmq_share_plan(h->share, &snapshot, &plan) < 0)
		return;
	for (unsigned i = 0; i < plan.n_changes; i++)
		hold(h, plan.changes[i].index, plan.changes[i].to);
}

static void decide_dvmq(const struct world *w, struct holders *h, double now_ms, double since_ms)
{
	share_out(w, h, see(w, h, since_ms), w->n_queues, now_ms);
}

static void decide_software(const struct world *w, struct holders *h, double now_ms, double since_ms)
{
	static double by_soft[PORTS_MAX];
	struct dvmq_share_port *ports = see(w, h, since_ms);
	struct dvmq_relief_load load = {.now_ms = now_ms, .room = w->n_queues, .by_soft = by_soft};
	struct dvmq_balance_params params;
	double per_byte = NEED / mean_load(w), all = 0, bytes = 0;

	dvmq_balance_defaults(&params);
	for (unsigned i = 0; i < w->n_ports; i++) {
		double inline_need = ports[i].bytes_per_s * per_byte;

		by_soft[i] = h->holds[i] ? inline_need * (DELIVER + HOP) : 0;
		load.busiest += inline_need * (h->holds[i] ? TAKE : 1);
		all += by_soft[i];
		bytes += ports[i].bytes_per_s;
	}
	load.by_default = load.busiest;
	for (unsigned i = 0; i < w->n_ports; i++)
		ports[i].demand = bytes > 0 ? (all + load.busiest) * ports[i].bytes_per_s / bytes : 0;
	share_out(w, h, ports, dvmq_relief_plan(&h->relief, &load, &params, ports, w->n_ports), now_ms);
}

/* The ports that have most of `value`. */
static void hold_top(const struct world *w, struct holders *h, const double *value)
{
	bool top[PORTS_MAX] = {0};

	for (unsigned k = 0; k < w->n_queues && k < w->n_ports; k++) {
		int best = -1;

		for (unsigned i = 0; i < w->n_ports; i++)
			if (!top[i] && (best < 0 || value[i] > value[best]))
				best = (int)i;
		top[best] = true;
	}
	for (unsigned i = 0; i < w->n_ports; i++)
		hold(h, i, top[i]);
}

static void decide_greedy(const struct world *w, struct holders *h, double now_ms, double since_ms)
{
	(void)now_ms;
	(void)since_ms;
	hold_top(w, h, h->seen);
}

static void decide_fcfs(const struct world *w, struct holders *h, double now_ms, double since_ms)
{
	(void)now_ms;
	(void)since_ms;
	for (unsigned i = 0; i < w->n_ports && i < w->n_queues; i++)
		hold(h, i, 1);
}

static const struct planner planners[N_PLANNERS] = {
    {"dvmq", "the daemon's planner, every 50 ms", 50, decide_dvmq, false},
    {"dvmq-20", "the same, every 20 ms", 20, decide_dvmq, false},
    {"software", "every 20 ms: soft queues of a default queue for which all would be 3 cores' work", 20,
     decide_software, true},
    {"greedy", "every 50 ms the ports that had most since the last look", 50, decide_greedy, false},
    {"static", "the ports that had most in the first second, for ever", 0, decide_greedy, false},
    {"fcfs", "first come, first served: the ports that came first, for ever", 0, decide_fcfs, false},
};

/* ------------------------------------------------------------ load */

static unsigned below(struct world *w, unsigned n)
{
	return (unsigned)(sim_random(&w->dice) * n);
}

static void shuffle(struct world *w)
{
	for (unsigned i = w->n_ports; i > 1; i--) {
		unsigned k = below(w, i), rank = w->rank[k];

		w->rank[k] = w->rank[i - 1];
		w->rank[i - 1] = rank;
	}
}

/* One millisecond: 5 % noise that lasts and 20 % that does not. */
static void blow(struct world *w)
{
	for (unsigned i = 0; i < w->n_ports; i++) {
		w->slow[i] = 0.95 * w->slow[i] + 0.054 * (sim_random(&w->dice) - 0.5);
		w->rate[i] = BYTES_MAX / pow(w->rank[i] + 1, w->zipf) *
			     fmax(0, 1 + w->slow[i] + 0.7 * (sim_random(&w->dice) - 0.5));
	}
}

static int descending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x < y) - (x > y);
}

static double best_choice(const struct world *w)
{
	double sorted[PORTS_MAX], sum = 0;

	memcpy(sorted, w->rate, w->n_ports * sizeof(*sorted));
	qsort(sorted, w->n_ports, sizeof(*sorted), descending);
	for (unsigned i = 0; i < w->n_ports && i < w->n_queues; i++)
		sum += sorted[i];
	return sum;
}

/* ------------------------------------------------------------ run */

static void count_change(struct holders *h, struct outcome *out, unsigned port, unsigned now)
{
	unsigned recent = 0;

	h->changed[port][h->n_changed[port]++ % RECENT] = now;
	for (unsigned i = 0; i < h->n_changed[port] && i < RECENT; i++)
		recent += h->changed[port][i] + SECOND > now;
	if (recent > out->most)
		out->most = recent;
	out->changes++;
}

static void look(const struct planner *p, struct world *w, struct holders *h, struct outcome *out, unsigned now)
{
	unsigned before[PORTS_MAX];

	memcpy(before, h->holds, sizeof(before));
	p->decide(w, h, now, now - h->last_look);
	for (unsigned i = 0; i < w->n_ports && p->look_ms; i++)
		if (h->holds[i] != before[i])
			count_change(h, out, i, now);
	memset(h->seen, 0, sizeof(h->seen));
	h->last_look = now;
	/* A controller's tick is late at times; without dice, which are the load's. */
	h->next_look = p->look_ms ? now + p->look_ms + (now * 2654435761u >> 30 == 0) : UINT32_MAX;
}

static double own_queues(const struct world *w, const struct holders *h)
{
	double sum = 0;

	for (unsigned i = 0; i < w->n_ports; i++)
		sum += h->holds[i] ? w->rate[i] : 0;
	return sum;
}

/* Counts from the second second on: the first one is for `static` to look at. */
static void run_trial(const struct planner *p, struct world *w, struct holders *h, struct outcome *out, bool plot)
{
	unsigned phase = 1 + below(w, SECOND); /* of the ranking against the planner's clock */
	double bytes = 0, best = 0;

	for (unsigned i = 0; i < w->n_ports; i++) {
		w->rank[i] = i;
		w->slow[i] = 0;
	}
	shuffle(w);
	h->next_look = p->look_ms ? p->look_ms : SECOND;
	for (unsigned ms = 1; ms <= (w->seconds + 1) * SECOND; ms++) {
		double own, most;

		if (ms % SECOND == phase % SECOND)
			shuffle(w);
		blow(w);
		own = own_queues(w, h);
		most = best_choice(w);
		for (unsigned i = 0; i < w->n_ports; i++)
			h->seen[i] += w->rate[i] / 1000;
		if (ms > SECOND) {
			unsigned at = ms - SECOND - 1;

			bytes += own;
			best += most;
			for (unsigned i = 0; i < w->n_ports; i++)
				out->total += w->rate[i];
			if (plot && at < PLOT_MS) {
				out->window[at / WINDOW_MS] += own;
				out->window_best[at / WINDOW_MS] += most;
			}
		}
		if (ms == h->next_look)
			look(p, w, h, out, ms);
	}
	out->bytes += bytes;
	out->best += best;
	out->worst = fmin(out->worst, bytes / best);
}

static int run_planner(const struct planner *p, struct world *w, unsigned trials, uint64_t seed, struct outcome *out)
{
	struct dvmq_share_params params;
	struct holders *h = malloc(sizeof(*h));
	int ret = h ? 0 : -1;

	dvmq_share_defaults(&params);
	if (p->software)
		dvmq_relief_share_params(&params);
	*out = (struct outcome){.worst = 1};
	for (unsigned trial = 0; trial < trials && ret == 0; trial++) {
		*h = (struct holders){.share = dvmq_share_new(&params)};
		if (!h->share) {
			ret = -1;
			break;
		}
		/* Every planner meets the same load. */
		w->dice.random = (seed + 1) * 0x9E3779B97F4A7C15ull + (trial + 1) * 0xD1B54A32D192ED03ull;
		run_trial(p, w, h, out, trial == 0);
		dvmq_share_free(h->share);
	}
	free(h);
	if (ret < 0)
		fprintf(stderr, "dvmq-sim: out of memory\n");
	return ret;
}

/* ------------------------------------------------------------ output */

static json_t *to_json(const struct world *w, unsigned trials, uint64_t seed, const struct outcome *outs)
{
	json_t *rows = json_array();

	for (unsigned i = 0; i < N_PLANNERS; i++) {
		const struct outcome *o = &outs[i];

		json_array_append_new(rows, json_pack("{s:s, s:f, s:f, s:f, s:f, s:i}", "planner", planners[i].name,
						      "of_best", o->bytes / o->best, "of_best_worst_trial", o->worst,
						      "of_all", o->bytes / o->total, "changes_per_port_s",
						      (double)o->changes / trials / w->n_ports / (w->seconds + 1),
						      "changes_per_port_s_max", (int)o->most));
	}
	return json_pack("{s:s, s:i, s:i, s:f, s:i, s:i, s:I, s:f, s:o}", "scenario", "share", "ports", (int)w->n_ports,
			 "queues", (int)w->n_queues, "zipf", w->zipf, "seconds", (int)w->seconds, "trials", (int)trials,
			 "seed", (json_int_t)seed, "best_of_all", outs[0].best / outs[0].total, "planners", rows);
}

static void print_table(const json_t *all)
{
	const json_t *rows = json_object_get(all, "planners");

	printf("share: %lld ports, %lld queues, zipf %g, %lld s, %lld trials, seed %lld; the best choice puts %.1f%% "
	       "of all "
	       "bytes on own queues\n",
	       json_integer_value(json_object_get(all, "ports")), json_integer_value(json_object_get(all, "queues")),
	       json_real_value(json_object_get(all, "zipf")), json_integer_value(json_object_get(all, "seconds")),
	       json_integer_value(json_object_get(all, "trials")), json_integer_value(json_object_get(all, "seed")),
	       100 * json_real_value(json_object_get(all, "best_of_all")));
	printf("%-11s %9s %9s %9s %15s %5s\n", "planner", "of best", "worst", "of all", "changes/port/s", "most");
	for (unsigned i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);

		printf("%-11s %8.2f%% %8.2f%% %8.2f%% %15.3f %5lld\n",
		       json_string_value(json_object_get(row, "planner")),
		       100 * json_real_value(json_object_get(row, "of_best")),
		       100 * json_real_value(json_object_get(row, "of_best_worst_trial")),
		       100 * json_real_value(json_object_get(row, "of_all")),
		       json_real_value(json_object_get(row, "changes_per_port_s")),
		       json_integer_value(json_object_get(row, "changes_per_port_s_max")));
	}
}

static int draw(const char *file, const struct world *w, const struct outcome *outs)
{
	unsigned ms = w->seconds * SECOND < PLOT_MS ? w->seconds * SECOND : PLOT_MS;
	FILE *plot = sim_plot(file);

	if (!plot)
		return -1;
	fprintf(plot, "set yrange [0:105]\nset xlabel 's'\nset ylabel '%% of the best choice on own queues'\n");
	for (unsigned i = 0; i < N_PLANNERS; i++)
		fprintf(plot, "%s'-' with lines lw 2 title '%s'", i ? ", " : "plot ", planners[i].name);
	fprintf(plot, "\n");
	for (unsigned i = 0; i < N_PLANNERS; i++) {
		for (unsigned k = 0; k < ms / WINDOW_MS; k++)
			fprintf(plot, "%g %g\n", k * WINDOW_MS / 1000.0,
				100 * outs[i].window[k] / outs[i].window_best[k]);
		fprintf(plot, "e\n");
	}
	return sim_plot_end(file, plot);
}

int sim_share(const struct sim_options *o)
{
	static struct outcome outs[N_PLANNERS];
	struct world *w = calloc(1, sizeof(*w));
	json_t *all;
	int ret = w ? 0 : -1;

	if (!w)
		fprintf(stderr, "dvmq-sim: out of memory\n");
	else
		*w = (struct world){.n_ports = o->ports, .n_queues = o->queues, .seconds = o->seconds, .zipf = o->zipf};
	for (unsigned i = 0; i < N_PLANNERS && ret == 0; i++)
		ret = run_planner(&planners[i], w, o->trials, o->seed, &outs[i]);
	if (ret < 0) {
		free(w);
		return -1;
	}
	all = to_json(w, o->trials, o->seed, outs);
	if (o->json)
		json_dumpf(all, stdout, JSON_INDENT(2)), printf("\n");
	else
		print_table(all);
	if (o->csv)
		ret = sim_csv(o->csv, all);
	if (o->svg && draw(o->svg, w, outs) < 0)
		ret = -1;
	json_decref(all);
	free(w);
	return ret;
}
