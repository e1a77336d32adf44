/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who decides: dvmq's own planner, and models of its peers.  The models are
 * kinder than the originals: a move costs them nothing, and nobody stops.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim.h"

double sim_cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* What a queue got, instead of what it needs: all that peers measure. */
static double consumed(const struct sim *sim, unsigned queue)
{
	double load = sim->load[sim->core[queue]];

	return load > 1 ? sim->need[queue] / load : sim->need[queue];
}

/* Nobody's clock is in step with the load's. */
static bool due(const struct sim *sim, double period_ms)
{
	return fmod(sim->now_ms + sim->phase_ms, fmax(1, round(period_ms))) == 0;
}

/*
 * The cores that a planner may give queues, as far as the operator is concerned; returns how many.  Those that stay
 * awake whatever the planner decides come first (*ret_kept of them), then those that are.
 */
static unsigned usable(const struct sim *sim, unsigned *ret_cores, unsigned *ret_kept)
{
	unsigned n = 0;

	*ret_kept = 0;
	for (unsigned turn = 0; turn < 3; turn++)
		for (unsigned i = 0; i < sim->n_cores; i++) {
			bool kept = sim->wish[i] == DVMQ_CORE_KEEP_ACTIVE || sim->n_pinned[i];

			if (sim->wish[i] == DVMQ_CORE_KEEP_PARKED || turn != (kept ? 0 : sim->active[i] ? 1 : 2))
				continue;
			*ret_kept += kept;
			ret_cores[n++] = i;
		}
	if (n == 0) /* one always polls */
		ret_cores[n++] = 0;
	return n;
}

/* Wakes the cores of a list; others sleep, unless a queue is pinned to them. */
static void set_awake(struct sim *sim, const unsigned *cores, unsigned n)
{
	bool awake[SIM_CORES_MAX] = {0};

	for (unsigned i = 0; i < n; i++)
		awake[cores[i]] = true;
	for (unsigned i = 0; i < sim->n_cores; i++)
		sim_set_active(sim, i, awake[i] || sim->n_pinned[i]);
}

/* ------------------------------------------------------------ dvmq */

struct own {
	struct dvmq_balance *balance;
	enum dvmq_core_wish wish; /* for all cores */
	struct dvmq_balance_core cores[SIM_CORES_MAX];
	struct dvmq_balance_queue queues[SIM_QUEUES_MAX];
};

static void own_end(void *state)
{
	struct own *own = state;

	dvmq_balance_free(own->balance);
	free(own);
}

static void *own_begin(struct sim *sim)
{
	struct own *own = calloc(1, sizeof(*own));

	if (!own)
		return NULL;
	own->balance = dvmq_balance_new(&sim->params);
	if (!own->balance) {
		free(own);
		return NULL;
	}
	return own;
}

static void *awake_begin(struct sim *sim)
{
	struct own *own = own_begin(sim);

	if (own)
		own->wish = DVMQ_CORE_KEEP_ACTIVE;
	return own;
}

static void own_plan(struct sim *sim, struct own *own, enum dvmq_loop loop, uint32_t max_moves)
{
	struct dvmq_snapshot snapshot = {.now_ms = sim->now_ms,
					 .cores = own->cores,
					 .n_cores = sim->n_cores,
					 .queues = own->queues,
					 .n_queues = sim->n_queues};
	struct dvmq_plan plan;
	double start;

	for (unsigned i = 0; i < sim->n_cores; i++)
		own->cores[i] =
		    (struct dvmq_balance_core){.id = i,
					       .numa = sim->core_node[i],
					       .sibling = sim->sibling[i],
					       .state = sim->active[i] ? DVMQ_CORE_ACTIVE : DVMQ_CORE_PARKED,
					       .wish = sim->wish[i] == DVMQ_CORE_AUTO ? own->wish : sim->wish[i]};
	for (unsigned i = 0; i < sim->n_queues; i++) {
		double over = sim->load[sim->core[i]] - 1;

		own->queues[i] = (struct dvmq_balance_queue){.id = i,
							     .core = sim->core[i],
							     .group = sim->group[i],
							     .numa = sim->queue_node[i],
							     .demand = sim->need[i],
							     .occupancy = over > 0 ? 1 : 0,
							     .age_ms = sim->now_ms - sim->moved_ms[i],
							     .pinned = sim->pinned[i]};
	}
	/* Allocates the scratch memory where this is the only call, as it is in a daemon. */
	if (max_moves != UINT32_MAX && dvmq_balance_plan(own->balance, &snapshot, loop, max_moves, true, &plan) < 0)
		return;
	start = sim_cpu_us();
	if (dvmq_balance_plan(own->balance, &snapshot, loop, max_moves, false, &plan) < 0)
		return;
	if (loop == DVMQ_LOOP_SLOW)
		sim_decided(sim, sim_cpu_us() - start);
	for (unsigned i = 0; i < plan.n_activate; i++)
		sim_set_active(sim, plan.activate[i].core, true);
	for (unsigned i = 0; i < plan.n_moves; i++)
		sim_move(sim, plan.moves[i].index, plan.moves[i].to);
	for (unsigned i = 0; i < plan.n_park; i++)
		sim_set_active(sim, plan.park[i].core, false);
}

static void own_step(struct sim *sim, void *state, bool now)
{
	if (now || due(sim, sim->params.slow_ms))
		own_plan(sim, state, DVMQ_LOOP_SLOW, now ? sim->n_queues : UINT32_MAX);
	else if (due(sim, sim->params.fast_ms))
		own_plan(sim, state, DVMQ_LOOP_FAST, UINT32_MAX);
}

/* ------------------------------------------------------------ fixed */

static int nothing;

static void nothing_end(void *state)
{
	(void)state;
}

static void fixed_step(struct sim *sim, void *state, bool now)
{
	(void)sim;
	(void)state;
	(void)now;
}

static unsigned wake_all(struct sim *sim, unsigned *ret_cores)
{
	unsigned kept, n = usable(sim, ret_cores, &kept);

	set_awake(sim, ret_cores, n);
	return n;
}

/* First come, first served: a core per queue while there are any; the rest share the default queue's. */
static void *static_begin(struct sim *sim)
{
	unsigned cores[SIM_CORES_MAX], n = wake_all(sim, cores);

	for (unsigned i = 0; i < sim->n_queues; i++)
		if (!sim->pinned[i])
			sim->core[i] = cores[i + 1 < n ? i + 1 : 0];
	return &nothing;
}

static void *robin_begin(struct sim *sim)
{
	unsigned cores[SIM_CORES_MAX], n = wake_all(sim, cores), at[2] = {0};

	for (unsigned i = 0; i < sim->n_queues; i++) {
		unsigned *next = &at[sim->queue_node[i] > 0];

		if (sim->pinned[i])
			continue;
		/* On its own node if that has a core. */
		for (unsigned k = 0; k < n && sim_remote(sim, i, cores[*next % n]); k++)
			(*next)++;
		sim->core[i] = cores[(*next)++ % n];
	}
	return &nothing;
}

/* ------------------------------------------------------------ largest first, from scratch */

static const double *order_by;

static int larger(const void *a, const void *b)
{
	double x = order_by[*(const unsigned *)a], y = order_by[*(const unsigned *)b];

	return x != y ? (x < y) - (x > y)
		      : (*(const unsigned *)a > *(const unsigned *)b) - (*(const unsigned *)a < *(const unsigned *)b);
}

/* The queues, largest first.  As they were where that still holds: loads change less often than planners look. */
static const unsigned *sorted(const struct sim *sim, const double *size)
{
	static unsigned order[SIM_QUEUES_MAX], n_order;
	unsigned in_order = 1;

	order_by = size;
	for (unsigned i = 0; n_order != sim->n_queues && i < sim->n_queues; i++)
		order[i] = i;
	n_order = sim->n_queues;
	while (in_order < n_order && larger(&order[in_order - 1], &order[in_order]) < 0)
		in_order++;
	if (in_order < n_order)
		qsort(order, n_order, sizeof(*order), larger);
	return order;
}

static bool emptier(unsigned a, unsigned b, const unsigned *cores, const double *load)
{
	return load[cores[a]] != load[cores[b]] ? load[cores[a]] < load[cores[b]] : a < b;
}

/* Of a heap of places in the list of cores: the emptiest at the root, of several the first in the list. */
static void sift_down(unsigned *heap, unsigned n, unsigned i, const unsigned *cores, const double *load)
{
	unsigned item = heap[i];

	for (unsigned child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && emptier(heap[child + 1], heap[child], cores, load))
			child++;
		if (emptier(item, heap[child], cores, load))
			break;
		heap[i] = heap[child];
	}
	heap[i] = item;
}

/* The emptiest of these cores, on the node of the queue if there is one. */
static unsigned emptiest_near(const struct sim *sim, unsigned queue, const unsigned *cores, unsigned n,
			      const double *load)
{
	unsigned best = cores[0];

	for (unsigned k = 1; k < n; k++) {
		bool far = sim_remote(sim, queue, cores[k]), best_far = sim_remote(sim, queue, best);

		if (far != best_far ? best_far : load[cores[k]] < load[best])
			best = cores[k];
	}
	return best;
}

/* Where each queue would go: the largest first, each to the emptiest of these cores; idle ones in turn. */
static void assign(const struct sim *sim, const double *size, const unsigned *cores, unsigned n, bool local,
		   unsigned *core, double *load)
{
	const unsigned *order = sorted(sim, size);
	unsigned heap[SIM_CORES_MAX];

	memset(load, 0, sim->n_cores * sizeof(*load));
	for (unsigned i = 0; i < sim->n_queues; i++) {
		core[i] = sim->core[i];
		load[sim->core[i]] += sim->pinned[i] ? size[i] : 0;
	}
	for (unsigned k = 0; k < n; k++)
		heap[k] = k;
	for (unsigned k = n / 2; k-- > 0;)
		sift_down(heap, n, k, cores, load);
	for (unsigned i = 0; i < sim->n_queues; i++) {
		unsigned q = order[i], best = cores[heap[0]];

		if (sim->pinned[q])
			continue;
		if (size[q] <= 0)
			best = cores[q % n];
		else if (local)
			best = emptiest_near(sim, q, cores, n, load);
		core[q] = best;
		load[best] += size[q];
		if (size[q] > 0 && !local)
			sift_down(heap, n, 0, cores, load);
	}
}

void sim_place_by_size(struct sim *sim, unsigned n_cores)
{
	unsigned cores[SIM_CORES_MAX], kept;
	double load[SIM_CORES_MAX];

	usable(sim, cores, &kept);
	assign(sim, sim->demand, cores, n_cores, true, sim->core, load);
}

static void *lpt_begin(struct sim *sim)
{
	(void)sim;
	return &nothing;
}

static void lpt_decide(struct sim *sim, bool now)
{
	static unsigned core[SIM_QUEUES_MAX];
	double load[SIM_CORES_MAX], total = 0, start = sim_cpu_us();
	unsigned cores[SIM_CORES_MAX], kept, n = usable(sim, cores, &kept);

	for (unsigned i = 0; i < sim->n_queues; i++)
		total += sim->need[i];
	if (!now)
		n = fmin(n, fmax(fmax(1, kept), ceil(total / sim->params.target)));
	assign(sim, sim->need, cores, n, false, core, load);
	sim_decided(sim, sim_cpu_us() - start);
	for (unsigned i = 0; i < sim->n_queues; i++)
		sim_move(sim, i, core[i]);
	set_awake(sim, cores, n);
}

static void lpt_step(struct sim *sim, void *state, bool now)
{
	(void)state;
	if (now || due(sim, 50))
		lpt_decide(sim, now);
}

struct ideal {
	unsigned long settled; /* so many changes were known when a decision changed nothing */
};

static void *ideal_begin(struct sim *sim)
{
	(void)sim;
	return calloc(1, sizeof(struct ideal));
}

static void ideal_step(struct sim *sim, void *state, bool now)
{
	struct ideal *ideal = state;
	unsigned long before = sim->changes;

	if (ideal->settled == before)
		return; /* it would decide the same */
	lpt_decide(sim, now);
	if (sim->changes == before)
		ideal->settled = before;
}

/* ------------------------------------------------------------ OVS: PMD auto load balance */

struct ovs {
	double busy[SIM_CORES_MAX]; /* sum of the load in this window of 5 s */
	double used[SIM_QUEUES_MAX];
	unsigned samples, windows[SIM_CORES_MAX]; /* windows in a row at 95 % or more */
	double last_ms;
};

static void *ovs_begin(struct sim *sim)
{
	struct ovs *ovs = calloc(1, sizeof(*ovs));

	robin_begin(sim);
	if (ovs)
		ovs->last_ms = -60000;
	return ovs;
}

static double variance(const double *values, unsigned n)
{
	double sum = 0, squares = 0;

	for (unsigned i = 0; i < n; i++) {
		sum += values[i];
		squares += values[i] * values[i];
	}
	return squares / n - sum / n * sum / n;
}

static void ovs_decide(struct sim *sim, const double *used)
{
	static unsigned core[SIM_QUEUES_MAX];
	double is[SIM_CORES_MAX] = {0}, would[SIM_CORES_MAX], start = sim_cpu_us();
	unsigned cores[SIM_CORES_MAX], kept, n = usable(sim, cores, &kept);

	for (unsigned i = 0; i < sim->n_queues; i++)
		is[sim->core[i]] += used[i];
	assign(sim, used, cores, n, true, core, would);
	sim_decided(sim, sim_cpu_us() - start);
	if (variance(would, sim->n_cores) > 0.75 * variance(is, sim->n_cores))
		return;
	for (unsigned i = 0; i < sim->n_queues; i++)
		sim_move(sim, i, core[i]);
}

static void ovs_step(struct sim *sim, void *state, bool now)
{
	struct ovs *ovs = state;
	bool overloaded = false;

	if (now || due(sim, 10)) {
		for (unsigned i = 0; i < sim->n_cores; i++)
			ovs->busy[i] += fmin(1, sim->load[i]);
		for (unsigned i = 0; i < sim->n_queues; i++)
			ovs->used[i] += consumed(sim, i);
		ovs->samples++;
	}
	if (now || (sim->now_ms > 0 && due(sim, 5000))) {
		for (unsigned i = 0; i < sim->n_cores; i++) {
			ovs->windows[i] = ovs->busy[i] >= 0.95 * ovs->samples ? ovs->windows[i] + 1 : 0;
			overloaded |= ovs->windows[i] >= 12;
		}
		if (now || (overloaded && sim->now_ms - ovs->last_ms >= 60000)) {
			ovs_decide(sim, ovs->used);
			memset(ovs->windows, 0, sizeof(ovs->windows));
			ovs->last_ms = sim->now_ms;
		}
		memset(ovs->busy, 0, sizeof(ovs->busy));
		memset(ovs->used, 0, sizeof(ovs->used));
		ovs->samples = 0;
	}
}

/* ------------------------------------------------------------ RSS++ */

/*
 * From the most to the least loaded core, the queue that fits the difference best, until none is off by 5 %.  Only
 * the first n of these cores stay: what is on another one comes first.
 */
static void rsspp_even(struct sim *sim, const double *used, double *load, const unsigned *cores, unsigned n)
{
	bool stays[SIM_CORES_MAX] = {0};

	for (unsigned k = 0; k < n; k++)
		stays[cores[k]] = true;
	for (unsigned step = 0; step < sim->n_queues; step++) {
		unsigned from = 0, to = cores[0], best = sim->n_queues;
		double half;

		for (unsigned i = 0; i < sim->n_cores; i++)
			if ((!stays[i] && load[i] > 0 ? 1000 : 0) + load[i] >
			    (!stays[from] && load[from] > 0 ? 1000 : 0) + load[from])
				from = i;
		for (unsigned k = 1; k < n; k++)
			if (load[cores[k]] < load[to])
				to = cores[k];
		half = !stays[from] ? INFINITY : (load[from] - load[to]) / 2;
		if (from == to || half < 0.025)
			break;
		for (unsigned i = 0; i < sim->n_queues; i++)
			if (sim->core[i] == from && !sim->pinned[i] && used[i] > 0 && used[i] <= half &&
			    (best == sim->n_queues || used[i] > used[best]))
				best = i;
		if (best == sim->n_queues) {
			if (stays[from])
				break;
			load[from] = 0; /* what is left there is pinned */
			continue;
		}
		load[from] -= used[best];
		load[to] += used[best];
		if (!stays[from] && load[from] < 1e-9)
			load[from] = 0;
		sim_move(sim, best, to);
	}
	/* Idle queues go too. */
	for (unsigned i = 0; i < sim->n_queues; i++)
		if (!stays[sim->core[i]])
			sim_move(sim, i, cores[i % n]);
}

static void rsspp_step(struct sim *sim, void *state, bool now)
{
	static double used[SIM_QUEUES_MAX];
	double load[SIM_CORES_MAX] = {0}, total = 0, start = sim_cpu_us();
	unsigned cores[SIM_CORES_MAX], kept, most, n = sim->n_active;

	(void)state;
	if (!now && !due(sim, 100))
		return;
	for (unsigned i = 0; i < sim->n_queues; i++) {
		used[i] = consumed(sim, i);
		load[sim->core[i]] += used[i];
		total += used[i];
	}
	most = usable(sim, cores, &kept);
	/* A core more when the mean is above the target, one less when the others would stay below it. */
	if (!now && total / n > 0.8 && n < most)
		n++;
	else if (!now && n > 1 && total / (n - 1) < 0.8)
		n--;
	n = n < kept ? kept : n > most ? most : n;
	rsspp_even(sim, used, load, cores, n);
	set_awake(sim, cores, n);
	sim_decided(sim, sim_cpu_us() - start);
}

/* ------------------------------------------------------------ the exact optimum, for small cases */

#define OPTIMUM_QUEUES 16

struct search {
	const struct sim *sim;
	unsigned order[OPTIMUM_QUEUES], at[OPTIMUM_QUEUES], best_at[OPTIMUM_QUEUES];
	double load[SIM_CORES_MAX], best;
};

/* Branch and bound, largest first; of equally loaded cores only the first is tried. */
static void branch(struct search *s, unsigned depth)
{
	double max = 0;

	for (unsigned c = 0; c < s->sim->n_cores; c++)
		max = fmax(max, s->load[c]);
	if (max >= s->best)
		return;
	if (depth == s->sim->n_queues) {
		s->best = max;
		memcpy(s->best_at, s->at, sizeof(s->at));
		return;
	}
	for (unsigned c = 0; c < s->sim->n_cores; c++) {
		double before = s->load[c];
		bool twin = false;

		for (unsigned k = 0; k < c; k++)
			twin |= s->load[k] == before;
		if (twin)
			continue;
		s->at[s->order[depth]] = c;
		s->load[c] += s->sim->demand[s->order[depth]];
		branch(s, depth + 1);
		s->load[c] = before;
	}
}

static void optimum_step(struct sim *sim, void *state, bool now)
{
	struct search s = {.sim = sim, .best = INFINITY};
	double start = sim_cpu_us();

	(void)state;
	if (!now)
		return;
	for (unsigned i = 0; i < sim->n_queues; i++)
		s.order[i] = i;
	order_by = sim->demand;
	qsort(s.order, sim->n_queues, sizeof(*s.order), larger);
	branch(&s, 0);
	sim_decided(sim, sim_cpu_us() - start);
	for (unsigned i = 0; i < sim->n_queues; i++)
		sim_move(sim, i, s.best_at[i]);
}

const struct sim_planner sim_planners[] = {
    {"dvmq", "the planner of the daemon", SIM_OWN, own_begin, own_step, own_end},
    {"dvmq-awake", "the same, with every core kept active", SIM_YARDSTICK, awake_begin, own_step, own_end},
    {"static", "static VMQ: a core per queue first come, first served, the rest on the default queue's core", SIM_AWAKE,
     static_begin, fixed_step, nothing_end},
    {"roundrobin", "queues to cores in turn, fixed", SIM_AWAKE, robin_begin, fixed_step, nothing_end},
    {"ovs", "OVS auto load balance: 95 % busy in 12 windows of 5 s, once a minute, 25 % less variance", SIM_AWAKE,
     ovs_begin, ovs_step, free},
    {"rss++", "RSS++: every 100 ms, by consumed cycles, target 0.8", SIM_PARKS, lpt_begin, rsspp_step, nothing_end},
    {"lpt", "largest first to the emptiest core, from scratch every 50 ms, by demand", SIM_PARKS, lpt_begin, lpt_step,
     nothing_end},
    {"ideal", "lpt every ms: what a reaction of 1 ms can reach when moves cost nothing", SIM_YARDSTICK, ideal_begin,
     ideal_step, free},
    {"optimum", "the exact optimum; one decision, at most 16 queues", SIM_YARDSTICK, lpt_begin, optimum_step,
     nothing_end},
    {0},
};
