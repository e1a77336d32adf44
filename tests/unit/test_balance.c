/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The balancer, from outside: snapshot in, plan out.  Every plan of every test is
 * carried out on a copy of the snapshot (apply()), which checks what must hold for
 * all plans.
 */
#include <dvmq/balance.h>

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

#define CORES  256
#define QUEUES 8192

/* The world of the running test. */
static struct dvmq_balance_core cores[CORES];
static struct dvmq_balance_queue queues[QUEUES];
static struct dvmq_snapshot world;
static struct dvmq_balance *balance;
static struct dvmq_plan plan;
static uint64_t seed;

/* xorshift64*: the same numbers everywhere. */
static double uniform(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (double)((seed * 2685821657736338717ull) >> 11) / (double)(1ull << 53);
}

static unsigned below(unsigned n)
{
	return (unsigned)(uniform() * n);
}

static void renew_balance(const struct dvmq_balance_params *params)
{
	struct dvmq_balance_params defaults;

	dvmq_balance_defaults(&defaults);
	dvmq_balance_free(balance);
	balance = dvmq_balance_new(params ? params : &defaults);
	CU_ASSERT_PTR_NOT_NULL_FATAL(balance);
}

/* A new world of n cores, of which the first n_active poll, and no queue; a planner without history. */
static void begin(unsigned n, unsigned n_active)
{
	memset(cores, 0, sizeof(cores));
	memset(queues, 0, sizeof(queues));
	for (unsigned i = 0; i < n; i++)
		cores[i] = (struct dvmq_balance_core){.id = i, .numa = 0, .sibling = -1, .state = i < n_active};
	world = (struct dvmq_snapshot){.cores = cores, .n_cores = n, .queues = queues};
	seed = 88172645463325252ull;
	renew_balance(NULL);
}

static struct dvmq_balance_queue *add(unsigned core, double demand)
{
	struct dvmq_balance_queue *q = &queues[world.n_queues];

	*q = (struct dvmq_balance_queue){.id = world.n_queues++, .core = core, .demand = demand, .age_ms = -1};
	return q;
}

static struct dvmq_balance_core *core_of(unsigned id)
{
	for (unsigned i = 0; i < world.n_cores; i++)
		if (cores[i].id == id)
			return &cores[i];
	return NULL;
}

static double load_of(unsigned id)
{
	double load = 0;

	for (unsigned i = 0; i < world.n_queues; i++)
		if (queues[i].core == id && queues[i].demand > 0)
			load += queues[i].demand;
	return load;
}

static double max_load(void)
{
	double max = 0;

	for (unsigned i = 0; i < world.n_cores; i++)
		max = fmax(max, load_of(cores[i].id));
	return max;
}

static unsigned count_active(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < world.n_cores; i++)
		n += cores[i].state == DVMQ_CORE_ACTIVE;
	return n;
}

/* Carries the plan out and checks what holds for all plans. */
static void apply(void)
{
	CU_ASSERT(strlen(plan.reason) > 0 && strlen(plan.reason) < DVMQ_BALANCE_REASON);
	CU_ASSERT(isfinite(plan.max_before) && isfinite(plan.max_after) && isfinite(plan.lower_bound));
	CU_ASSERT(plan.max_after >= plan.lower_bound - 1e-6);
	for (unsigned i = 0; i < plan.n_activate; i++) {
		struct dvmq_balance_core *c = core_of(plan.activate[i].core);

		CU_ASSERT_PTR_NOT_NULL_FATAL(c);
		CU_ASSERT_EQUAL(c->state, DVMQ_CORE_PARKED);
		CU_ASSERT(strlen(plan.activate[i].reason) > 0);
		c->state = DVMQ_CORE_ACTIVE;
	}
	for (unsigned i = 0; i < plan.n_moves; i++) {
		const struct dvmq_move *m = &plan.moves[i];
		struct dvmq_balance_core *to = core_of(m->to), *from = core_of(m->from);

		CU_ASSERT_FATAL(m->index < world.n_queues);
		CU_ASSERT_EQUAL(queues[m->index].id, m->queue);
		CU_ASSERT_EQUAL(queues[m->index].core, m->from);
		CU_ASSERT_NOT_EQUAL(m->from, m->to);
		CU_ASSERT_PTR_NOT_NULL_FATAL(to);
		CU_ASSERT_EQUAL(to->state, DVMQ_CORE_ACTIVE);
		CU_ASSERT(to->wish != DVMQ_CORE_KEEP_PARKED || count_active() == 1);
		CU_ASSERT(!queues[m->index].pinned || !from || from->state == DVMQ_CORE_PARKED);
		CU_ASSERT(strlen(m->reason) > 0);
		queues[m->index].core = m->to;
		queues[m->index].age_ms = 0;
	}
	for (unsigned i = 0; i < plan.n_park; i++) {
		struct dvmq_balance_core *c = core_of(plan.park[i].core);

		CU_ASSERT_PTR_NOT_NULL_FATAL(c);
		CU_ASSERT_EQUAL(c->state, DVMQ_CORE_ACTIVE);
		CU_ASSERT_NOT_EQUAL(c->wish, DVMQ_CORE_KEEP_ACTIVE);
		CU_ASSERT(strlen(plan.park[i].reason) > 0);
		for (unsigned k = 0; k < world.n_queues; k++)
			CU_ASSERT_NOT_EQUAL(queues[k].core, c->id);
		c->state = DVMQ_CORE_PARKED;
	}
	CU_ASSERT(world.n_cores == 0 || count_active() > 0);
}

static void step(enum dvmq_loop loop, uint32_t max_moves)
{
	CU_ASSERT_EQUAL_FATAL(dvmq_balance_plan(balance, &world, loop, max_moves, false, &plan), 0);
	apply();
	CU_ASSERT(plan.n_moves <= max_moves);
}

static void fast(void)
{
	step(DVMQ_LOOP_FAST, UINT32_MAX);
}

static void slow(void)
{
	step(DVMQ_LOOP_SLOW, QUEUES);
}

/* The slow loop for so many milliseconds, every slow_ms, with the budget of the parameters. */
static void run_slow(double ms)
{
	for (double end = world.now_ms + ms; world.now_ms < end;) {
		world.now_ms += 50;
		for (unsigned i = 0; i < world.n_queues; i++)
			if (queues[i].age_ms >= 0)
				queues[i].age_ms += 50;
		step(DVMQ_LOOP_SLOW, UINT32_MAX);
	}
}

/* ------------------------------------------------------------ parameters */

static void test_params(void)
{
	struct dvmq_balance_params p;
	const char *why = NULL;
	static const struct {
		const char *key;
		size_t offset;
		double bad[4];
	} rules[] = {
	    {"high", offsetof(struct dvmq_balance_params, high), {0, -1, 1.01, NAN}},
	    {"target", offsetof(struct dvmq_balance_params, target), {0, -1, 0.91, NAN}},
	    {"margin", offsetof(struct dvmq_balance_params, margin), {-0.1, 0.9, INFINITY, NAN}},
	    {"fast_ms", offsetof(struct dvmq_balance_params, fast_ms), {0, -1, INFINITY, NAN}},
	    {"slow_ms", offsetof(struct dvmq_balance_params, slow_ms), {0, 0.5, INFINITY, NAN}},
	    {"budget", offsetof(struct dvmq_balance_params, budget), {-1, -0.1, INFINITY, NAN}},
	    {"cooldown_ms", offsetof(struct dvmq_balance_params, cooldown_ms), {-1, -0.1, INFINITY, NAN}},
	    {"hold_ms", offsetof(struct dvmq_balance_params, hold_ms), {-1, -0.1, INFINITY, NAN}},
	};

	dvmq_balance_defaults(&p);
	CU_ASSERT_EQUAL(p.high, 0.90);
	CU_ASSERT_EQUAL(p.target, 0.85);
	CU_ASSERT_EQUAL(p.margin, 0.05);
	CU_ASSERT_EQUAL(p.fast_ms, 1);
	CU_ASSERT_EQUAL(p.slow_ms, 50);
	CU_ASSERT_EQUAL(p.budget, 4);
	CU_ASSERT_EQUAL(p.cooldown_ms, 100);
	CU_ASSERT_EQUAL(p.hold_ms, 500);
	CU_ASSERT_PTR_NULL(dvmq_balance_check(&p, &why));
	for (unsigned i = 0; i < sizeof(rules) / sizeof(*rules); i++)
		for (unsigned k = 0; k < 4; k++) {
			dvmq_balance_defaults(&p);
			memcpy((char *)&p + rules[i].offset, &rules[i].bad[k], sizeof(double));
			CU_ASSERT_STRING_EQUAL(dvmq_balance_check(&p, &why), rules[i].key);
			CU_ASSERT_PTR_NOT_NULL(strstr(why, "must be"));
			errno = 0;
			CU_ASSERT_PTR_NULL(dvmq_balance_new(&p));
			CU_ASSERT_EQUAL(errno, EINVAL);
		}
}

/* ------------------------------------------------------------ fast loop */

static void test_fast_quiet(void)
{
	begin(2, 2);
	add(0, 0.5);
	add(0, 0.3);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves + plan.n_activate + plan.n_park, 0);
	CU_ASSERT_STRING_EQUAL(plan.reason, "no core above high, no standing backlog; busiest core 0.80, bound 0.50");
}

static void test_fast_best_fit(void)
{
	begin(3, 3);
	add(0, 0.7);
	add(0, 0.3);
	add(0, 0.2);
	add(1, 0.1);
	add(2, 0.5);
	fast();
	/* 0.35 too much: 0.7 is the smallest that mends it, and fits on core 1 only. */
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.moves[0].queue, 0);
	CU_ASSERT_EQUAL(plan.moves[0].to, 1);
	CU_ASSERT_STRING_EQUAL(plan.moves[0].reason, "core 0 at 1.20, above high 0.90; best fit: core 1 at 0.10");
	CU_ASSERT_EQUAL(plan.n_activate, 0);
	/* Rather one that ends the overload and fills a core up than one that does neither. */
	begin(2, 2);
	add(0, 0.48);
	add(0, 0.45);
	add(0, 0.12);
	add(1, 0.40);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.moves[0].queue, 1);
	/* One that fits on both goes to the fuller core and leaves the emptier one empty. */
	begin(3, 3);
	add(0, 0.7);
	add(0, 0.3);
	add(1, 0.1);
	add(2, 0.5);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.moves[0].queue, 1);
	CU_ASSERT_EQUAL(plan.moves[0].to, 2);
}

static void test_fast_wakes(void)
{
	begin(3, 1);
	for (unsigned i = 0; i < 4; i++)
		add(0, 0.3);
	fast();
	CU_ASSERT_EQUAL(plan.n_activate, 1);
	CU_ASSERT_EQUAL(plan.activate[0].core, 1);
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.moves[0].to, 1);
	CU_ASSERT_STRING_EQUAL(plan.activate[0].reason, "core 0 at 1.20, above high 0.90, fits on no active core");
	fast();
	CU_ASSERT_EQUAL(plan.n_activate + plan.n_moves, 0);
}

/* All queues on one core, as after the start: the fast loop does not end that a move at a time. */
static void test_fast_from_one_core(void)
{
	begin(16, 1);
	for (unsigned i = 0; i < 200; i++)
		add(0, 0.05);
	fast();
	CU_ASSERT(max_load() <= 0.9);
	CU_ASSERT(count_active() <= 12);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves + plan.n_activate, 0);
	/* Several cores at once. */
	begin(8, 4);
	for (unsigned i = 0; i < 64; i++)
		add(i % 4, 0.08);
	fast();
	CU_ASSERT(max_load() <= 0.9);
	/* What it cannot end it tries again with the slow loop's period only. */
	begin(2, 2);
	for (unsigned i = 0; i < 14; i++)
		add(0, 0.1)->pinned = i > 1;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 2);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), 1.2, 1e-9);
}

/* No core is woken that nothing would be given to, and none for the little beside a queue that nearly fills its core.
 */
static void test_wakes_for_nothing(void)
{
	begin(8, 3);
	add(0, 0.895);
	add(0, 0.015);
	add(1, 0.55);
	add(1, 0.45);
	add(2, 0.1);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.n_activate, 0);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves + plan.n_activate, 0);
	slow();
	CU_ASSERT_EQUAL(plan.n_activate, 0);
	/* Where little beside it overloads the core, it leaves. */
	begin(8, 1);
	add(0, 0.995);
	add(0, 0.020);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.n_activate, 1);
	/* What is pinned overloads its core however many are awake. */
	begin(8, 2);
	for (unsigned i = 0; i < 10; i++)
		add(0, 0.1)->pinned = true;
	add(1, 0.6);
	add(1, 0.5);
	fast();
	CU_ASSERT_EQUAL(plan.n_activate, 1);
}

/* No single one of many tiny queues ends an overload, nor is worth a wake-up; the fast loop ends it all the same. */
static void test_fast_tiny_queues(void)
{
	begin(2, 1);
	for (unsigned i = 0; i < 1000; i++)
		add(0, 0.0012);
	fast();
	CU_ASSERT_EQUAL(plan.n_activate, 1);
	CU_ASSERT(max_load() <= 0.9);
}

/* Nor does it move dust: a core hardly above target is left there. */
static void test_fast_no_dust(void)
{
	begin(4, 2);
	for (unsigned i = 0; i < 2; i++) {
		add(i, 0.35);
		for (unsigned k = 0; k < 8; k++)
			add(i, 0.1);
		add(i, 0.05);
		add(i, 0.003);
		add(i, 0.003);
	}
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 2);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), 0.856, 1e-9);
}

/* What was moved just now does not go back, as long as something else ends the overload. */
static void test_no_way_back(void)
{
	begin(3, 2);
	add(0, 0.5);
	add(0, 0.5);
	add(1, 0.3);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(queues[0].core + queues[1].core, 1);
	unsigned moved = queues[0].core == 1 ? 0 : 1;

	/* Its new core is overloaded now, and where it came from it would fit best. */
	queues[moved].age_ms = 200;
	queues[2].demand = 0.7;
	queues[1 - moved].demand = 0.3;
	queues[2].pinned = true;
	world.now_ms = 200;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(queues[moved].core, 2);
	/* With no other core it stays while its core is full, but can do what it has to. */
	begin(2, 2);
	add(0, 0.5);
	add(0, 0.5);
	add(1, 0.3);
	fast();
	moved = queues[0].core == 1 ? 0 : 1;
	queues[moved].age_ms = 200;
	queues[1 - moved].demand = 0.3;
	queues[2].pinned = true;
	queues[2].demand = 0.48;
	world.now_ms = 200;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	/* Overload counts more. */
	queues[2].demand = 0.7;
	fast();
	CU_ASSERT_EQUAL(queues[moved].core, 0);
}

/* Even then rather another one goes, if it helps nearly as much. */
static void test_rather_another(void)
{
	begin(2, 2);
	add(0, 0.20);
	add(0, 0.72);
	add(1, 0.25);
	add(1, 0.30);
	fast();
	CU_ASSERT_EQUAL(queues[0].core, 1);
	queues[0].age_ms = 200;
	queues[1].pinned = queues[3].pinned = true;
	queues[3].demand = 0.67;
	world.now_ms = 200;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(queues[2].core, 0);
	/* Where another one would leave an overload, it goes back. */
	queues[2].core = 1;
	queues[1].demand = 0.78;
	queues[3].demand = 0.63;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(queues[0].core, 0);
}

/* Nor when the overload takes more than one move, and two large queues have to part. */
static void test_no_way_back_wide(void)
{
	begin(3, 2);
	add(0, 0.3);
	add(1, 0.33);
	add(1, 0.65);
	fast();
	CU_ASSERT_EQUAL(queues[1].core, 0);
	/* Its new core is overloaded now, more than the small queue could help, and the one it left has room. */
	queues[0].demand = 0.75;
	queues[1].age_ms = 200;
	queues[2].demand = 0.24;
	add(0, 0.04);
	world.now_ms = 200;
	fast();
	CU_ASSERT(max_load() <= 0.9);
	CU_ASSERT_NOT_EQUAL(queues[1].core, 1);
}

/* Idle queues of a core that goes are not heaped up on one other: they may wake together. */
static void test_idle_are_spread(void)
{
	unsigned n_on[4] = {0};

	begin(4, 4);
	for (unsigned i = 0; i < 3; i++)
		add(i, 0.3 + 0.01 * i);
	for (unsigned i = 0; i < 30; i++)
		add(3, 0);
	cores[3].wish = DVMQ_CORE_KEEP_PARKED;
	slow();
	for (unsigned i = 0; i < world.n_queues; i++)
		n_on[queues[i].core]++;
	for (unsigned i = 0; i < 3; i++)
		CU_ASSERT(n_on[i] >= 9 && n_on[i] <= 13);
}

static void test_fast_backlog(void)
{
	begin(2, 2);
	add(0, 0.4)->occupancy = 0.8;
	add(0, 0.3);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(plan.moves[0].reason, "backlog stands on core 0 at 0.70"));
	/* With a past it has to stand for two calls. */
	begin(2, 2);
	add(0, 0.4);
	add(0, 0.3);
	fast();
	queues[0].occupancy = 0.8;
	world.now_ms += 1;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	/* However often it is asked for within a millisecond. */
	for (unsigned i = 0; i < 4; i++) {
		world.now_ms += 0.1;
		fast();
		CU_ASSERT_EQUAL(plan.n_moves, 0);
	}
	world.now_ms += 0.6;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	/* A call that sees it gone begins anew; calls may be far apart. */
	begin(2, 2);
	add(0, 0.4);
	add(0, 0.3);
	fast();
	for (unsigned i = 0; i < 6; i++) {
		world.now_ms += 10;
		queues[0].occupancy = i % 2 ? 0 : 0.8;
		fast();
		CU_ASSERT_EQUAL(plan.n_moves, 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		world.now_ms += 10;
		queues[0].occupancy = 0.8;
		fast();
		CU_ASSERT_EQUAL(plan.n_moves, i);
	}
	/* A queue alone on its core gains nothing by moving. */
	begin(2, 2);
	add(0, 0.4)->occupancy = 1;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves + plan.n_activate, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(plan.reason, "no move or wake-up would relieve"));
	/* No active core relieves it: one is woken. */
	begin(2, 1);
	add(0, 0.4)->occupancy = 0.8;
	add(0, 0.3);
	fast();
	CU_ASSERT_EQUAL(plan.n_activate, 1);
	CU_ASSERT_EQUAL(plan.n_moves, 1);
}

/* More load than all cores have: no endless to and fro. */
static void test_fast_hopeless(void)
{
	unsigned moves = 0;

	begin(2, 2);
	for (unsigned i = 0; i < 10; i++)
		add(i % 2, 0.3);
	for (unsigned i = 0; i < 100; i++) {
		world.now_ms += 1;
		fast();
		moves += plan.n_moves;
	}
	CU_ASSERT_EQUAL(moves, 0);
}

/* Where no step helps, as more than two queues have to change places, all are placed anew; at once when it comes to
 * that. */
static void test_fast_anew(void)
{
	static const double demands[] = {0.40, 0.61, 0.22, 0.12, 0.12, 0.05, 0.42};

	begin(2, 2);
	for (unsigned i = 0; i < 7; i++)
		add(i > 1, demands[i] * 0.95);
	world.now_ms = 1;
	fast();
	CU_ASSERT(plan.n_moves == 0 && max_load() > 0.95);
	for (unsigned i = 0; i < 7; i++)
		queues[i].demand = demands[i];
	world.now_ms = 2;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 3);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), 0.99, 1e-9);
	/* Not when even that would not end the overload. */
	begin(2, 2);
	for (unsigned i = 0; i < 7; i++)
		add(i > 1, demands[i] * 1.1);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	/* Nor with more moves than are allowed. */
	begin(2, 2);
	for (unsigned i = 0; i < 7; i++)
		add(i > 1, demands[i]);
	step(DVMQ_LOOP_FAST, 2);
	CU_ASSERT(max_load() > 1);
}

/* ------------------------------------------------------------ slow loop */

static void test_slow_balances(void)
{
	begin(4, 4);
	for (unsigned i = 0; i < 32; i++)
		add(i < 20 ? 0 : 1 + i % 3, 0.08);
	slow();
	CU_ASSERT(plan.max_after <= 1.02 * plan.lower_bound);
	CU_ASSERT_EQUAL(plan.n_moves, 12);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), plan.max_after, 1e-9);
	CU_ASSERT_DOUBLE_EQUAL(plan.lower_bound, 0.64, 1e-9);
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	CU_ASSERT_STRING_EQUAL(plan.reason, "balanced; busiest core 0.64, bound 0.64");
}

/* Two large queues on one core: greedy from most to least loaded is stuck at 1.2 here. */
static void test_slow_elephants(void)
{
	begin(3, 3);
	add(0, 0.6);
	add(0, 0.6);
	for (unsigned i = 0; i < 12; i++)
		add(1 + i % 2, 0.05);
	for (unsigned i = 0; i < 3; i++)
		add(1, 0.1);
	slow();
	CU_ASSERT(plan.max_after <= 1.02 * plan.lower_bound);
	CU_ASSERT_NOT_EQUAL(queues[0].core, queues[1].core);
	/* No core has room for either: others have to leave for one. */
	begin(8, 8);
	add(0, 0.45);
	add(0, 0.40);
	for (unsigned i = 0; i < 196; i++)
		add(1 + i % 7, 0.025);
	slow();
	CU_ASSERT(plan.max_after <= 1.05 * plan.lower_bound);
	CU_ASSERT_NOT_EQUAL(queues[0].core, queues[1].core);
}

/* Moves alone do not help: 0.5+0.4 against 0.4+0.3, all of them too large to move. */
static void test_slow_exchange(void)
{
	begin(2, 2);
	add(0, 0.46);
	add(0, 0.44);
	add(1, 0.36);
	add(1, 0.34);
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 2);
	CU_ASSERT_DOUBLE_EQUAL(plan.max_after, 0.80, 1e-9);
}

static void test_slow_budget(void)
{
	begin(8, 8);
	for (unsigned i = 0; i < 400; i++)
		add(0, 0.015);
	/* An explicit limit holds for one plan. */
	step(DVMQ_LOOP_SLOW, 7);
	CU_ASSERT_EQUAL(plan.n_moves, 7);
	step(DVMQ_LOOP_SLOW, 0);
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(plan.reason, "budget"));
	/* Overload does not wait for the budget. */
	renew_balance(NULL);
	step(DVMQ_LOOP_SLOW, UINT32_MAX);
	CU_ASSERT(plan.n_moves > 300 && max_load() <= 0.9);
	/* Else 4 % of 400 queues per second: 16 at a time, after 2 s of unevenness each time. */
	begin(8, 8);
	for (unsigned i = 0; i < 400; i++)
		add(0, 0.002);
	for (unsigned i = 0; i < 8; i++)
		cores[i].wish = DVMQ_CORE_KEEP_ACTIVE;
	unsigned moves = 0;

	for (unsigned i = 0; i <= 100; i++, world.now_ms += 50) {
		step(DVMQ_LOOP_SLOW, UINT32_MAX);
		moves += plan.n_moves;
		CU_ASSERT_EQUAL(moves, i < 40 ? 0 : i <= 80 ? 16 : 32);
	}
}

/* It starts late: small unevenness below target is left alone. */
static void test_slow_calm(void)
{
	unsigned n_on[2] = {0};

	begin(2, 2);
	for (unsigned i = 0; i < 10; i++)
		add(i % 2, 0.1);
	run_slow(100);
	queues[0].demand = 0.15;
	run_slow(10000);
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(plan.reason, "uneven, but not above high, nor for 2 s"));
	CU_ASSERT_DOUBLE_EQUAL(load_of(0), 0.55, 1e-9);
	/* Above target it acts after 2 s, above high at once. */
	queues[0].demand = 0.47;
	run_slow(1900);
	CU_ASSERT_DOUBLE_EQUAL(load_of(0), 0.87, 1e-9);
	run_slow(300);
	CU_ASSERT(max_load() <= 0.75);
	for (unsigned i = 0; i < 10; i++)
		n_on[queues[i].core]++;
	for (unsigned i = 0; i < 10; i++)
		queues[i].demand = (queues[i].core ? 0.95 : 0.3) / n_on[queues[i].core];
	run_slow(50);
	CU_ASSERT(plan.n_moves > 0 && max_load() <= 0.9);
}

static void test_cooldown(void)
{
	begin(2, 2);
	for (unsigned i = 0; i < 8; i++)
		add(0, 0.1)->age_ms = i < 6 ? 50 : 500;
	slow();
	/* Only those that have not moved just now. */
	CU_ASSERT_EQUAL(plan.n_moves, 2);
	CU_ASSERT(plan.moves[0].queue >= 6 && plan.moves[1].queue >= 6);
	/* An overloaded core does not wait. */
	begin(2, 2);
	for (unsigned i = 0; i < 12; i++)
		add(0, 0.1)->age_ms = 50;
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 6);
}

/* ------------------------------------------------------------ number of cores */

static void test_wakes_what_it_needs(void)
{
	begin(8, 1);
	for (unsigned i = 0; i < 60; i++)
		add(0, 0.05);
	slow();
	/* 3.0 at a target of 0.85: four cores. */
	CU_ASSERT_EQUAL(count_active(), 4);
	CU_ASSERT(plan.max_after <= 1.02 * plan.lower_bound);
	CU_ASSERT_STRING_EQUAL(plan.activate[0].reason, "load 3.00 does not fit below high 0.90 on 1 cores");
	/* It would fit by its sum, but not by its sizes. */
	begin(4, 2);
	for (unsigned i = 0; i < 3; i++)
		add(0, 0.55);
	slow();
	CU_ASSERT_EQUAL(count_active(), 3);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), 0.55, 1e-9);
}

static void test_parks_after_hold(void)
{
	double since;

	begin(4, 4);
	for (unsigned i = 0; i < 40; i++)
		add(i % 4, 0.08);
	run_slow(5000);
	CU_ASSERT_EQUAL(count_active(), 4);
	for (unsigned i = 0; i < 40; i++)
		queues[i].demand = 0.02;
	since = world.now_ms;
	while (world.now_ms < since + 400) {
		run_slow(50);
		CU_ASSERT_EQUAL(count_active(), 4);
	}
	CU_ASSERT_PTR_NOT_NULL(strstr(plan.reason, "a core is dispensable, but not yet for hold_ms"));
	while (count_active() == 4 && world.now_ms < since + 700)
		run_slow(50);
	CU_ASSERT_EQUAL(plan.n_park, 1);
	CU_ASSERT_STRING_EQUAL(plan.park[0].reason, "not needed for 500 ms; no core above 0.85 without it");
	/* The moves of a parking are owed to the budget; in the end one core carries 0.8. */
	run_slow(60000);
	CU_ASSERT_EQUAL(count_active(), 1);
	CU_ASSERT(max_load() <= 0.8 + 1e-9);
}

/* Cores without load go all at once when their time has come, and what they owe the budget does not keep the next one.
 */
static void test_parks_idle_cores(void)
{
	double since;

	begin(16, 16);
	for (unsigned i = 0; i < 256; i++)
		add(i % 16, 0.052);
	run_slow(5000);
	CU_ASSERT_EQUAL(count_active(), 16);
	for (unsigned i = 0; i < 256; i++)
		queues[i].demand = i % 2 ? 0.0002 : 0;
	since = world.now_ms;
	while (count_active() > 1 && world.now_ms < since + 10000)
		run_slow(50);
	CU_ASSERT_EQUAL(count_active(), 1);
	CU_ASSERT(world.now_ms <= since + 700); /* hold_ms, and what it is counted in */
	for (unsigned i = 0; i < 256; i++)
		queues[i].demand = i < 16 ? 0.04 : 0;
	run_slow(100);
	CU_ASSERT_EQUAL(count_active(), 1);
	CU_ASSERT_PTR_NULL(strstr(plan.reason, "budget"));
}

/* Nothing is evened out that the next parking would undo. */
static void test_no_evenness_before_parking(void)
{
	begin(2, 2);
	for (unsigned i = 0; i < 8; i++)
		add(i / 4, 0.15);
	run_slow(3100); /* so that the past is forgotten a little later than hold_ms, as mostly */
	for (unsigned i = 4; i < 8; i++)
		queues[i].demand = 0.02;
	for (unsigned i = 0; i < 60 && count_active() == 2; i++) {
		run_slow(50);
		CU_ASSERT(plan.n_moves == 0 || plan.n_park == 1);
	}
	CU_ASSERT_EQUAL(count_active(), 1);
	/* Where no core may park it is. */
	begin(2, 2);
	for (unsigned i = 0; i < 8; i++)
		add(i / 4, 0.15);
	cores[0].wish = cores[1].wish = DVMQ_CORE_KEEP_ACTIVE;
	run_slow(3000);
	for (unsigned i = 4; i < 8; i++)
		queues[i].demand = 0.02;
	run_slow(2200);
	CU_ASSERT(max_load() <= 0.36);
}

/* A load that comes back within hold_ms finds its cores awake. */
static void test_hold_remembers_the_peak(void)
{
	begin(4, 4);
	for (unsigned i = 0; i < 40; i++)
		add(i % 4, 0.08);
	for (unsigned k = 0; k < 50; k++) {
		for (unsigned i = 0; i < 40; i++)
			queues[i].demand = k % 5 ? 0.02 : 0.08;
		run_slow(100);
		CU_ASSERT_EQUAL(count_active(), 4);
		CU_ASSERT_EQUAL(plan.n_moves, 0);
	}
}

/* What the fast loop owes the budget, all the time, keeps no core awake. */
static void test_parks_in_spite_of_debt(void)
{
	struct dvmq_balance_params params;
	unsigned burst = 0, moves = 0;

	begin(4, 4);
	dvmq_balance_defaults(&params);
	params.hold_ms = 2000;
	renew_balance(&params);
	for (unsigned i = 0; i < 16; i++)
		add(i % 4, 0.07);
	run_slow(1000);
	for (unsigned k = 0; k < 40 && count_active() > 2; k++) {
		/* Each 150 ms another core is overloaded by one queue, until that has gone elsewhere. */
		queues[burst].demand = 0.07;
		burst = (burst + 1) % 16;
		queues[burst].demand += 0.91 - load_of(queues[burst].core);
		fast();
		moves += plan.n_moves;
		queues[burst].demand = 0.07;
		run_slow(150);
	}
	CU_ASSERT(moves >= 5);
	CU_ASSERT_EQUAL(count_active(), 2);
}

/* A core that took a queue does not park before the queue may go back. */
static void test_parking_undoes_nothing(void)
{
	struct dvmq_balance_params params;

	begin(2, 1);
	dvmq_balance_defaults(&params);
	params.hold_ms = 0;
	params.cooldown_ms = 0;
	renew_balance(&params);
	for (unsigned i = 0; i < 8; i++)
		add(0, 0.05);
	run_slow(2000);
	queues[0].demand = 0.6;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(count_active(), 2);
	queues[0].demand = 0.05;
	run_slow(900);
	CU_ASSERT_EQUAL(count_active(), 2);
	CU_ASSERT_PTR_NOT_NULL(strstr(plan.reason, "a core is dispensable, but took a queue within the last second"));
	run_slow(200);
	CU_ASSERT_EQUAL(count_active(), 1);
}

static void test_park_needs_room(void)
{
	/* 1.72 on two cores, each above target. Neither can go, nor wake a third; with three awake none can go. */
	for (unsigned awake = 2; awake <= 3; awake++) {
		begin(3, awake);
		for (unsigned i = 0; i < 16; i++)
			add(i % awake, 0.1075);
		run_slow(10000);
		CU_ASSERT_EQUAL(count_active(), awake);
	}
	/* 1.68 fits below it. */
	for (unsigned i = 0; i < 16; i++)
		queues[i].demand = 0.105;
	run_slow(3000);
	CU_ASSERT_EQUAL(count_active(), 2);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), 0.84, 1e-9);
	/* A core with a pinned queue does not park. */
	begin(2, 2);
	add(0, 0.01)->pinned = true;
	add(1, 0.01)->pinned = true;
	run_slow(10000);
	CU_ASSERT_EQUAL(count_active(), 2);
}

static void test_never_below_one(void)
{
	begin(3, 3);
	run_slow(10000);
	CU_ASSERT_EQUAL(count_active(), 1);
	for (unsigned i = 0; i < 3; i++)
		cores[i].wish = DVMQ_CORE_KEEP_PARKED;
	run_slow(1000);
	CU_ASSERT_EQUAL(count_active(), 1);
	begin(3, 0);
	add(2, 0.5);
	slow();
	CU_ASSERT_EQUAL(count_active(), 1);
	CU_ASSERT_EQUAL(core_of(queues[0].core)->state, DVMQ_CORE_ACTIVE);
}

/* ------------------------------------------------------------ wishes, pins */

static void test_keep_parked(void)
{
	begin(3, 3);
	for (unsigned i = 0; i < 12; i++)
		add(i % 3, 0.1);
	cores[1].wish = DVMQ_CORE_KEEP_PARKED;
	slow();
	CU_ASSERT_EQUAL(plan.n_park, 1);
	CU_ASSERT_EQUAL(plan.park[0].core, 1);
	CU_ASSERT_EQUAL(plan.n_moves, 4);
	CU_ASSERT_STRING_EQUAL(plan.park[0].reason, "the operator keeps it parked");
	/* Overload does not wake it. */
	for (unsigned i = 0; i < 12; i++)
		queues[i].demand = 0.3;
	fast();
	slow();
	CU_ASSERT_EQUAL(plan.n_activate, 0);
	/* As far as the limit goes, it is emptied. */
	begin(2, 2);
	for (unsigned i = 0; i < 8; i++)
		add(1, 0.01);
	cores[1].wish = DVMQ_CORE_KEEP_PARKED;
	step(DVMQ_LOOP_SLOW, 3);
	CU_ASSERT_EQUAL(plan.n_moves, 3);
	CU_ASSERT_EQUAL(plan.n_park, 0);
	/* A pin outweighs the wish: its core cannot sleep. */
	begin(2, 2);
	add(1, 0.1)->pinned = true;
	add(1, 0.1);
	cores[1].wish = DVMQ_CORE_KEEP_PARKED;
	slow();
	CU_ASSERT_EQUAL(queues[0].core, 1);
	CU_ASSERT_EQUAL(queues[1].core, 0);
	CU_ASSERT_EQUAL(plan.n_park, 0);
}

static void test_keep_active(void)
{
	begin(3, 1);
	cores[2].wish = DVMQ_CORE_KEEP_ACTIVE;
	add(0, 0.1);
	fast();
	CU_ASSERT_EQUAL(plan.n_activate, 1);
	CU_ASSERT_EQUAL(plan.activate[0].core, 2);
	run_slow(10000);
	CU_ASSERT_EQUAL(cores[2].state, DVMQ_CORE_ACTIVE);
	CU_ASSERT_EQUAL(count_active(), 1);
}

static void test_pins(void)
{
	begin(3, 3);
	add(0, 0.5)->pinned = true;
	for (unsigned i = 0; i < 20; i++)
		add(0, 0.05);
	slow();
	/* Stays, and its core takes its share of the rest. */
	CU_ASSERT_EQUAL(queues[0].core, 0);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), 0.5, 0.0101);
	begin(2, 2);
	add(0, 0.3)->pinned = true;
	for (unsigned i = 0; i < 9; i++)
		add(1, 0.1);
	slow();
	CU_ASSERT_EQUAL(queues[0].core, 0);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), 0.6, 1e-9);
	/* All pinned to one core: nothing to move, said so. */
	begin(4, 4);
	for (unsigned i = 0; i < 8; i++)
		add(2, 0.4)->pinned = true;
	slow();
	CU_ASSERT_EQUAL(plan.n_moves + plan.n_activate, 0);
	CU_ASSERT_DOUBLE_EQUAL(plan.lower_bound, 3.2, 1e-9);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves + plan.n_activate, 0);
	/* A pin to a parked core wakes it. */
	begin(2, 1);
	add(1, 0.1)->pinned = true;
	slow();
	CU_ASSERT_EQUAL(plan.n_activate, 1);
	CU_ASSERT_STRING_EQUAL(plan.activate[0].reason, "a pinned queue is on it");
}

static void test_saturated(void)
{
	begin(4, 2);
	add(0, 1.6);
	add(0, 0.2);
	add(1, 0.3);
	slow();
	CU_ASSERT_EQUAL(plan.n_saturated, 1);
	CU_ASSERT_EQUAL(plan.saturated[0].queue, 0);
	CU_ASSERT_STRING_EQUAL(plan.saturated[0].reason,
			       "needs 1.60 cores; a queue has one: moving cannot help, more queues can");
	/* It is left alone; the others need no third core. */
	CU_ASSERT_EQUAL(queues[0].core, 0);
	CU_ASSERT_EQUAL(queues[1].core, 1);
	CU_ASSERT_EQUAL(plan.n_activate, 0);
	/* Again: nothing to do, however high it is. */
	slow();
	CU_ASSERT_EQUAL(plan.n_moves + plan.n_activate, 0);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves + plan.n_activate, 0);
	/* One saturated queue does not excuse the other cores. */
	begin(3, 3);
	add(0, 3.0);
	for (unsigned i = 0; i < 12; i++)
		add(1, 0.1);
	slow();
	CU_ASSERT(load_of(1) <= 0.85 * 1.02);
	CU_ASSERT_EQUAL(load_of(0), 3.0);
}

/* ------------------------------------------------------------ distance, siblings, VMs */

static void test_numa(void)
{
	/* The near core is preferred though the far one is emptier. */
	begin(3, 3);
	cores[2].numa = 1;
	for (unsigned i = 0; i < 10; i++)
		add(0, 0.1);
	for (unsigned i = 0; i < 3; i++)
		add(1, 0.1);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.moves[0].to, 1);
	/* A core is woken near the load. */
	begin(3, 1);
	cores[0].numa = 1;
	cores[2].numa = 1;
	for (unsigned i = 0; i < 10; i++)
		add(0, 0.1)->numa = 1;
	fast();
	CU_ASSERT_EQUAL(plan.activate[0].core, 2);
	/* A move that saves less than it costs is not made: 0.08 above the level, 0.5 x 25 % more over there. */
	begin(2, 2);
	cores[1].numa = 1;
	add(0, 0.50);
	add(0, 0.30);
	add(1, 0.40)->numa = 1;
	add(1, 0.32)->numa = 1;
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	/* What is far from its memory goes home where there is room, and stays there. */
	begin(2, 2);
	cores[1].numa = 1;
	add(0, 0.3);
	add(0, 0.2)->numa = 1;
	add(1, 0.3)->numa = 1;
	run_slow(100);
	CU_ASSERT_EQUAL(queues[1].core, 1);
	CU_ASSERT_EQUAL(queues[0].core, 0);
	/* Not where its node has no room. */
	begin(2, 2);
	cores[1].numa = 1;
	add(0, 0.3);
	add(0, 0.2)->numa = 1;
	add(1, 0.7)->numa = 1;
	run_slow(100);
	CU_ASSERT_EQUAL(queues[1].core, 0);
	/* For evenness alone nobody leaves his node, by no kind of step. */
	for (unsigned trial = 0; trial < 200; trial++) {
		begin(4, 4);
		seed += trial * 0x9E3779B97F4A7C15ull;
		for (unsigned i = 0; i < 4; i++) {
			cores[i].numa = i % 2;
			cores[i].wish = DVMQ_CORE_KEEP_ACTIVE;
		}
		for (unsigned i = 0; i < 12; i++)
			add(i % 6 ? 0 : 2, 0.06 * uniform())->numa = 0;
		queues[11].demand = trial % 2 ? 0.3 : 0.1;
		slow();
		for (unsigned i = 0; i < 12; i++)
			CU_ASSERT_EQUAL(queues[i].core % 2, 0);
	}
	/* What it needs more over there has to fit: 0.45 and a quarter more do not, below 0.9. */
	begin(3, 2);
	cores[1].numa = 1;
	add(0, 0.45);
	add(0, 0.60)->pinned = true;
	add(1, 0.40)->numa = 1;
	fast();
	CU_ASSERT_EQUAL(queues[0].core, 2);
	/* Overload is worth the distance. */
	begin(2, 2);
	cores[1].numa = 1;
	for (unsigned i = 0; i < 14; i++)
		add(0, 0.1);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 6);
	CU_ASSERT_EQUAL(plan.moves[0].to, 1);
	/* Where it fits nowhere, it still goes home rather than to another core of a far node. */
	begin(3, 3);
	cores[2].numa = 1;
	for (unsigned i = 0; i < 2; i++)
		add(0, 0.95)->numa = 1;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.moves[0].to, 2);
	/* Unknown nodes, and nodes beyond reason. */
	begin(2, 2);
	cores[0].numa = -1;
	cores[1].numa = 100000;
	for (unsigned i = 0; i < 14; i++)
		add(0, 0.1)->numa = i % 2 ? -7 : 70000;
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 7);
}

static int far(int a, int b, void *arg)
{
	(void)arg;
	return a == b ? 10 : a + b == 1 ? 12 : 60;
}

static int senseless(int a, int b, void *arg)
{
	(void)arg;
	return a - b;
}

static void test_distance_function(void)
{
	begin(3, 3);
	cores[1].numa = 2;
	cores[2].numa = 1;
	for (unsigned i = 0; i < 10; i++)
		add(0, 0.1);
	world.distance = far;
	fast();
	CU_ASSERT_EQUAL(plan.moves[0].to, 2);
	world.distance = senseless;
	slow();
}

static void test_siblings(void)
{
	/* Of two parked cores the one whose sibling sleeps too. */
	begin(4, 1);
	for (unsigned i = 0; i < 4; i++)
		cores[i].sibling = i ^ 1;
	for (unsigned i = 0; i < 10; i++)
		add(0, 0.1);
	fast();
	CU_ASSERT_EQUAL(plan.activate[0].core, 2);
	/* The first to park shares its physical core. */
	begin(3, 3);
	cores[0].sibling = 1;
	cores[1].sibling = 0;
	for (unsigned i = 0; i < 12; i++)
		add(i % 3, 0.1);
	run_slow(2200);
	CU_ASSERT_EQUAL(cores[2].state, DVMQ_CORE_ACTIVE);
	CU_ASSERT_EQUAL(count_active(), 2);
	/* A free core rather than the sibling of a busy one. */
	begin(3, 3);
	cores[0].sibling = 1;
	cores[1].sibling = 0;
	for (unsigned i = 0; i < 10; i++)
		add(0, 0.1);
	add(1, 0.1);
	fast();
	CU_ASSERT_EQUAL(plan.moves[0].to, 2);
	/* Two busy queues do not stay on siblings while a whole physical core has nothing to do; and once is enough. */
	begin(3, 3);
	cores[0].sibling = 1;
	cores[1].sibling = 0;
	cores[2].wish = DVMQ_CORE_KEEP_ACTIVE;
	add(0, 0.5);
	add(1, 0.5);
	run_slow(200);
	CU_ASSERT((queues[0].core == 2) != (queues[1].core == 2));
	unsigned first = queues[0].core;

	for (unsigned i = 0; i < 40; i++) {
		run_slow(50);
		CU_ASSERT_EQUAL(plan.n_moves, 0);
	}
	CU_ASSERT_EQUAL(queues[0].core, first);
	/* Siblings that do not exist, or are the core itself. */
	begin(2, 2);
	cores[0].sibling = 77;
	cores[1].sibling = 1;
	for (unsigned i = 0; i < 12; i++)
		add(0, 0.1);
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 6);
}

/* A core that wakes far away, or beside a busy one, is filled by what its queues will need there. */
static void test_foreseen(void)
{
	for (unsigned siblings = 0; siblings < 2; siblings++) {
		begin(4, 2);
		for (unsigned i = 0; i < 4; i++) {
			cores[i].numa = siblings ? 0 : i / 2;
			cores[i].sibling = siblings ? (int)(i ^ 2) : -1;
		}
		for (unsigned i = 0; i < 24; i++)
			add(i % 2, 0.1)->numa = 0;
		fast();
		CU_ASSERT(plan.n_activate > 0);
		for (unsigned i = 0; i < 4; i++) {
			double more = siblings ? 0.30 * load_of(i ^ 2) : i / 2 * 0.25;

			CU_ASSERT(load_of(i) * (1 + more) < 0.95);
		}
	}
	/* Who was far away before needs no more than he did. */
	begin(4, 2);
	for (unsigned i = 0; i < 4; i++)
		cores[i].numa = i / 2;
	for (unsigned i = 0; i < 24; i++)
		add(i % 2, 0.1)->numa = 2;
	fast();
	CU_ASSERT_EQUAL(count_active(), 3);
	CU_ASSERT_DOUBLE_EQUAL(max_load(), 0.8, 1e-9);
}

static void test_affinity(void)
{
	begin(3, 3);
	add(0, 0.5);
	add(0, 0.5)->group = 7;
	add(1, 0.3);
	add(2, 0.3)->group = 7;
	queues[0].pinned = true;
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.moves[0].to, 2);
	/* Where it would cost balance, it does not count. */
	begin(3, 3);
	add(0, 0.5)->pinned = true;
	add(0, 0.5)->group = 7;
	add(1, 0.1);
	add(2, 0.6)->group = 7;
	slow();
	CU_ASSERT_EQUAL(queues[1].core, 1);
}

/* ------------------------------------------------------------ bad input */

static void test_bad_demands(void)
{
	static const double bad[] = {NAN, -NAN, -1, -INFINITY, INFINITY, 1e308, -0.0, 5e-324};
	const unsigned n = sizeof(bad) / sizeof(*bad);

	for (enum dvmq_loop loop = DVMQ_LOOP_FAST; loop <= DVMQ_LOOP_SLOW; loop++) {
		begin(4, 2);
		for (unsigned i = 0; i < 64; i++) {
			struct dvmq_balance_queue *q = add(i % 3, bad[i % n]);

			q->occupancy = bad[(i + 1) % n];
			q->age_ms = bad[(i + 2) % n];
		}
		for (unsigned i = 0; i < 20; i++) {
			world.now_ms += 50;
			step(loop, UINT32_MAX);
		}
		CU_ASSERT_EQUAL(plan.n_saturated, 16);
	}
	begin(2, 2);
	for (unsigned i = 0; i < 20; i++)
		add(0, 0);
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	CU_ASSERT_EQUAL(plan.lower_bound, 0);
}

static void test_vanished_core(void)
{
	begin(3, 2);
	add(9, 0.3);
	add(9, 0.2)->pinned = true; /* a pin to what is no more does not hold */
	add(2, 0.1);		    /* parked: nobody polls it */
	add(0, 0.5);
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 3);
	CU_ASSERT_STRING_EQUAL(plan.moves[0].reason, "core 9 is gone or parked; core 1 at 0.00 takes it");
	for (unsigned i = 0; i < 4; i++)
		CU_ASSERT(queues[i].core < 2);
	/* The fast loop does it one at a time. */
	begin(2, 2);
	add(9, 0.3);
	add(9, 0.2);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 1);
	CU_ASSERT(queues[0].core < 2 && queues[1].core < 2);
	/* And with the budget spent. */
	begin(2, 2);
	for (unsigned i = 0; i < 50; i++)
		add(9, 0.01);
	step(DVMQ_LOOP_SLOW, UINT32_MAX);
	CU_ASSERT_EQUAL(plan.n_moves, 50);
}

static void test_small_worlds(void)
{
	begin(0, 0);
	add(0, 0.5);
	CU_ASSERT_EQUAL(dvmq_balance_plan(balance, &world, DVMQ_LOOP_SLOW, 9, false, &plan), 0);
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	CU_ASSERT_STRING_EQUAL(plan.reason, "there is no core");
	begin(1, 1);
	slow();
	fast();
	for (unsigned i = 0; i < 9; i++)
		add(0, 0.3);
	slow();
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	fast();
	CU_ASSERT_EQUAL(plan.n_moves, 0);
	begin(1, 0);
	slow();
	CU_ASSERT_EQUAL(count_active(), 1);
}

static void test_clock(void)
{
	static const double jumps[] = {1e12, -1e12, 0, NAN, INFINITY, -INFINITY, 1e300};

	/* A jump forward proves nothing about the time between. */
	begin(2, 2);
	add(0, 0.1);
	add(1, 0.1);
	run_slow(100);
	world.now_ms += 3600e3;
	step(DVMQ_LOOP_SLOW, UINT32_MAX);
	CU_ASSERT_EQUAL(plan.n_park, 0);
	run_slow(2000);
	CU_ASSERT_EQUAL(count_active(), 1);
	/* A step backwards: the history begins anew. */
	begin(2, 2);
	add(0, 0.1);
	add(1, 0.1);
	world.now_ms = 1e6;
	run_slow(400);
	world.now_ms = 5;
	run_slow(400);
	CU_ASSERT_EQUAL(count_active(), 2);
	run_slow(200);
	CU_ASSERT_EQUAL(count_active(), 1);
	for (unsigned i = 0; i < sizeof(jumps) / sizeof(*jumps); i++) {
		begin(4, 2);
		for (unsigned k = 0; k < 20; k++)
			add(0, 0.1);
		for (unsigned k = 0; k < 10; k++) {
			world.now_ms = k % 2 ? jumps[i] : 1000;
			step(k % 3 ? DVMQ_LOOP_SLOW : DVMQ_LOOP_FAST, UINT32_MAX);
		}
	}
}

/* ------------------------------------------------------------ dry, determinism, random worlds */

static void fill_random(unsigned n_cores, unsigned n_queues)
{
	for (unsigned i = 0; i < n_cores; i++) {
		cores[i].id = i * 7 + 3;
		cores[i].numa = (int)below(4) - 1;
		cores[i].sibling = (int)below(n_cores * 7);
		cores[i].state = below(3) ? DVMQ_CORE_ACTIVE : DVMQ_CORE_PARKED;
		cores[i].wish = below(4) ? DVMQ_CORE_AUTO : (enum dvmq_core_wish)below(3);
	}
	for (unsigned i = 0; i < n_queues; i++) {
		struct dvmq_balance_queue *q = add(below(n_cores) * 7 + 3, pow(uniform(), 3) * 2 * n_cores / n_queues);

		q->core += below(50) == 0;
		q->numa = (int)below(4) - 1;
		q->group = below(n_queues / 3 + 1);
		q->occupancy = pow(uniform(), 4);
		q->age_ms = uniform() * 400 - 100;
		q->pinned = below(10) == 0;
		q->demand = below(200) == 0 ? 1.5 : q->demand;
	}
}

/* What measuring, the operator and mistakes may make of a snapshot. */
static void spoil(unsigned trial)
{
	static const double bad[] = {NAN, -NAN, -1, -INFINITY, INFINITY, 1e308, -0.0, 5e-324, 1.5, 40};
	const unsigned n = sizeof(bad) / sizeof(*bad);

	for (unsigned i = 0; i < world.n_queues; i++) {
		struct dvmq_balance_queue *q = &queues[i];

		if (trial % 2 && below(20) == 0)
			q->demand = bad[below(n)];
		if (trial % 2 && below(20) == 0)
			q->occupancy = bad[below(n)];
		if (trial % 2 && below(20) == 0)
			q->age_ms = bad[below(n)];
		if (trial % 3 == 0 && below(20) == 0)
			q->id = queues[below(world.n_queues)].id;
		if (trial % 5 == 0 && below(20) == 0)
			q->core = below(2) ? UINT32_MAX : 1000000 + below(3);
		if (trial % 7 == 0)
			q->pinned = true;
		if (trial % 11 == 0)
			q->numa = (int)below(4) * 1000000 - 2000000;
	}
}

static bool same_plan(const struct dvmq_plan *a, const struct dvmq_plan *b)
{
	bool same = a->n_moves == b->n_moves && a->n_activate == b->n_activate && a->n_park == b->n_park &&
		    strcmp(a->reason, b->reason) == 0;

	for (unsigned i = 0; same && i < a->n_moves; i++)
		same = a->moves[i].index == b->moves[i].index && a->moves[i].to == b->moves[i].to &&
		       strcmp(a->moves[i].reason, b->moves[i].reason) == 0;
	for (unsigned i = 0; same && i < a->n_activate; i++)
		same = a->activate[i].core == b->activate[i].core;
	for (unsigned i = 0; same && i < a->n_park; i++)
		same = a->park[i].core == b->park[i].core;
	return same;
}

/* Whatever the snapshot: apply() holds, the limit too, and a second balancer with the same past says the same. */
static void test_random_worlds(void)
{
	struct dvmq_balance_params defaults;
	uint64_t next = 1;

	dvmq_balance_defaults(&defaults);
	for (unsigned trial = 0; trial < 4000; trial++) {
		struct dvmq_balance *twin = dvmq_balance_new(&defaults);
		struct dvmq_plan other;

		CU_ASSERT_PTR_NOT_NULL_FATAL(twin);
		begin(1 + trial % 24, 0);
		seed = next * 0x9E3779B97F4A7C15ull;
		next++;
		fill_random(world.n_cores, below(trial % 4 ? 60 : 200));
		for (unsigned i = 0; i < 12; i++) {
			enum dvmq_loop loop = below(2) ? DVMQ_LOOP_SLOW : DVMQ_LOOP_FAST;
			uint32_t most = below(2) ? UINT32_MAX : below(40);

			world.now_ms += 50;
			spoil(trial);
			CU_ASSERT_EQUAL(dvmq_balance_plan(twin, &world, loop, most, false, &other), 0);
			CU_ASSERT_EQUAL_FATAL(dvmq_balance_plan(balance, &world, loop, most, false, &plan), 0);
			CU_ASSERT(same_plan(&plan, &other));
			CU_ASSERT(plan.n_moves <= most);
			apply();
			for (unsigned k = 0; k < world.n_queues; k++)
				if (below(10) == 0)
					queues[k].demand *= 3 * uniform();
		}
		dvmq_balance_free(twin);
	}
}

static char *describe(void)
{
	static char text[2][65536];
	static unsigned turn;
	char *at = text[turn ^= 1];
	size_t left = sizeof(text[0]);

	for (unsigned i = 0; i < plan.n_moves && left > 200; i++) {
		int n = snprintf(at, left, "%u %u %u %s\n", plan.moves[i].queue, plan.moves[i].from, plan.moves[i].to,
				 plan.moves[i].reason);
		at += n;
		left -= n;
	}
	snprintf(at, left, "%u %u %s", plan.n_activate, plan.n_park, plan.reason);
	return text[turn];
}

static void plan_dry(enum dvmq_loop loop)
{
	CU_ASSERT_EQUAL_FATAL(dvmq_balance_plan(balance, &world, loop, UINT32_MAX, true, &plan), 0);
}

static void test_dry(void)
{
	const char *first;

	/* Dry calls neither spend the budget nor count as past, and say what the real call then does. */
	begin(8, 8);
	fill_random(8, 150);
	for (enum dvmq_loop loop = DVMQ_LOOP_FAST; loop <= DVMQ_LOOP_SLOW; loop++) {
		plan_dry(loop);
		first = describe();
		for (unsigned i = 0; i < 5; i++) {
			plan_dry(loop);
			CU_ASSERT_STRING_EQUAL(describe(), first);
			first = describe();
		}
		CU_ASSERT_EQUAL(dvmq_balance_plan(balance, &world, loop, UINT32_MAX, false, &plan), 0);
		CU_ASSERT_STRING_EQUAL(describe(), first);
	}
	/* Nor do they let time pass. */
	begin(2, 2);
	add(0, 0.1);
	add(1, 0.1);
	run_slow(1000);
	for (unsigned i = 0; i < 100; i++) {
		world.now_ms += 50;
		plan_dry(DVMQ_LOOP_SLOW);
		CU_ASSERT_EQUAL(plan.n_park, 0);
	}
}

static void test_same_again(void)
{
	const char *first;

	begin(16, 16);
	fill_random(16, 300);
slow_again:
	renew_balance(NULL);
	CU_ASSERT_EQUAL(dvmq_balance_plan(balance, &world, DVMQ_LOOP_SLOW, QUEUES, false, &plan), 0);
	first = describe();
	renew_balance(NULL);
	CU_ASSERT_EQUAL(dvmq_balance_plan(balance, &world, DVMQ_LOOP_SLOW, QUEUES, false, &plan), 0);
	CU_ASSERT_STRING_EQUAL(describe(), first);
	/* A balancer that has seen a larger world plans no differently. */
	if (world.n_queues == 300) {
		world.n_queues = 100;
		goto slow_again;
	}
}

/* ------------------------------------------------------------ quality */

/* Queues of lognormal-like sizes, placed well (largest first to the emptiest core), then 10 % of them rescaled. */
static void disturb(unsigned n_cores, unsigned n_queues, unsigned elephants)
{
	static double load[CORES];
	double sum = 0;

	memset(load, 0, sizeof(load));
	for (unsigned i = 0; i < n_queues; i++)
		add(0, exp(1.5 * (uniform() + uniform() + uniform() + uniform() - 2)));
	/* In the order of the ids: good enough with many, uneven with few. */
	for (unsigned i = 0; i < n_queues; i++) {
		unsigned best = 0;

		for (unsigned c = 1; c < n_cores; c++)
			if (load[c] < load[best])
				best = c;
		queues[i].core = best;
		load[best] += queues[i].demand;
	}
	for (unsigned i = 0; i < n_queues / 10; i++)
		queues[below(n_queues)].demand *= 0.2 + 2.8 * uniform();
	for (unsigned i = 0; i < n_queues; i++)
		sum += queues[i].demand;
	for (unsigned i = 0; i < n_queues; i++)
		queues[i].demand *= 0.7 * n_cores / sum;
	for (unsigned i = 0; i < elephants; i++)
		queues[below(n_queues)].demand = 0.4 + 0.35 * uniform();
}

static void check_quality(unsigned n_cores, unsigned n_queues, unsigned elephants, unsigned trials, double ratio,
			  double moved)
{
	unsigned worse = 0;
	double moves = 0;

	for (unsigned t = 0; t < trials; t++) {
		begin(n_cores, n_cores);
		seed += t * 0x9E3779B97F4A7C15ull;
		disturb(n_cores, n_queues, elephants);
		slow();
		worse += plan.max_after > ratio * plan.lower_bound;
		moves += plan.n_moves;
	}
	CU_ASSERT_EQUAL(worse, 0);
	CU_ASSERT(moves / trials <= moved * n_queues);
}

static void test_quality(void)
{
	check_quality(128, 4096, 8, 20, 1.02, 0.033);
	check_quality(64, 512, 0, 100, 1.05, 0.08);
	check_quality(16, 64, 0, 100, 1.25, 0.15);
	check_quality(256, 8192, 0, 4, 1.02, 0.04);
}

/* Every assignment of small worlds, against the plan: the bound holds, and what is left is little. */
static void test_against_optimum(void)
{
	for (unsigned trial = 0; trial < 60; trial++) {
		double best = INFINITY;

		begin(3, 3);
		seed += trial * 0x9E3779B97F4A7C15ull;
		for (unsigned i = 0; i < 9; i++)
			add(below(3), 0.05 + 0.4 * uniform());
		for (unsigned code = 0; code < 19683; code++) {
			double load[3] = {0};
			unsigned rest = code;

			for (unsigned i = 0; i < 9; i++, rest /= 3)
				load[rest % 3] += queues[i].demand;
			best = fmin(best, fmax(load[0], fmax(load[1], load[2])));
		}
		slow();
		CU_ASSERT(plan.lower_bound <= best + 1e-9);
		CU_ASSERT(plan.max_after <= fmax(1.05 * plan.lower_bound, 1.15 * best));
	}
}

/* ------------------------------------------------------------ bad input, all at once */

/* Which plan is made does not depend on nodes, if nobody knows them. */
static void test_no_numa(void)
{
	char known[65536];

	for (unsigned trial = 0; trial < 50; trial++) {
		for (int node = 0; node >= -1; node--) {
			begin(1 + trial % 12, 0);
			seed += trial * 0x9E3779B97F4A7C15ull;
			fill_random(world.n_cores, 80);
			for (unsigned i = 0; i < world.n_cores; i++)
				cores[i].numa = node;
			for (unsigned i = 0; i < world.n_queues; i++)
				queues[i].numa = node;
			world.distance = node < 0 ? senseless : NULL; /* not asked for unknown nodes */
			CU_ASSERT_EQUAL(dvmq_balance_plan(balance, &world, DVMQ_LOOP_SLOW, QUEUES, false, &plan), 0);
			if (node == 0)
				strcpy(known, describe());
		}
		CU_ASSERT_STRING_EQUAL(describe(), known);
	}
}

/* All pinned to one core, whatever else is wrong: none moves while that core is there. */
static void test_all_pinned(void)
{
	static const double loads[] = {0, 0.2, 3, NAN, INFINITY};

	for (unsigned k = 0; k < sizeof(loads) / sizeof(*loads); k++)
		for (unsigned n = 1; n <= 4; n++) {
			begin(n, n);
			for (unsigned i = 0; i < 6; i++)
				*add(n - 1, loads[k]) = (struct dvmq_balance_queue){.id = i,
										    .core = n - 1,
										    .demand = loads[k],
										    .occupancy = 1,
										    .age_ms = -1,
										    .pinned = true};
			for (unsigned i = 0; i < 100; i++) {
				world.now_ms += 50;
				step(i % 2 ? DVMQ_LOOP_SLOW : DVMQ_LOOP_FAST, UINT32_MAX);
				CU_ASSERT_EQUAL(plan.n_moves, 0);
			}
			CU_ASSERT_EQUAL(cores[n - 1].state, DVMQ_CORE_ACTIVE);
			/* It vanishes: they go where somebody polls them. */
			if (n == 1)
				continue;
			world.n_cores--;
			slow();
			CU_ASSERT_EQUAL(plan.n_moves, 6);
		}
}

/* The first core is there, each other one with probability 3/4, in any order; what it did before is in all[]. */
static void some_cores(struct dvmq_balance_core *all, unsigned n_all)
{
	for (unsigned i = 0; i < world.n_cores; i++)
		for (unsigned k = 0; k < n_all; k++)
			if (all[k].id == cores[i].id)
				all[k] = cores[i];
	world.n_cores = 0;
	for (unsigned first = below(n_all), i = 0; i < n_all; i++)
		if ((first + i) % n_all == 0 || below(4))
			cores[world.n_cores++] = all[(first + i) % n_all];
}

/* Nobody may poll, but pins keep two cores awake: what a third one leaves behind goes to one of them. */
static void test_all_to_be_parked(void)
{
	begin(3, 2);
	add(0, 0.1)->pinned = true;
	add(1, 0.3)->pinned = true;
	add(9, 0.2);
	for (unsigned i = 0; i < 3; i++)
		cores[i].wish = DVMQ_CORE_KEEP_PARKED;
	CU_ASSERT_EQUAL(dvmq_balance_plan(balance, &world, DVMQ_LOOP_SLOW, QUEUES, false, &plan), 0);
	CU_ASSERT_EQUAL(plan.n_activate + plan.n_park, 0);
	CU_ASSERT_EQUAL_FATAL(plan.n_moves, 1);
	CU_ASSERT_EQUAL(plan.moves[0].queue, 2);
	CU_ASSERT(plan.moves[0].to < 2);
}

static void test_all_wrong(void)
{
	static const double bad[] = {NAN, -NAN, -1, -INFINITY, INFINITY, 1e308, -0.0, 5e-324};
	const unsigned n_bad = sizeof(bad) / sizeof(*bad);
	struct dvmq_balance_core all[12];

	for (unsigned trial = 0; trial < 200; trial++) {
		unsigned n_all = 1 + trial % 12;

		begin(n_all, 0);
		seed += trial * 0x9E3779B97F4A7C15ull;
		fill_random(n_all, 60);
		cores[0].wish = DVMQ_CORE_AUTO; /* somebody may poll */
		memcpy(all, cores, n_all * sizeof(*all));
		for (unsigned i = 0; i < 30; i++) {
			for (unsigned k = 0; k < 5; k++) {
				struct dvmq_balance_queue *q = &queues[below(world.n_queues)];

				q->demand = below(2) ? bad[below(n_bad)] : uniform();
				q->occupancy = below(2) ? bad[below(n_bad)] : uniform();
				q->age_ms = below(2) ? bad[below(n_bad)] : uniform();
				q->pinned = below(4) == 0;
			}
			some_cores(all, n_all);
			world.now_ms = below(4) ? world.now_ms + 50 : bad[below(n_bad)];
			fast();
			slow();
			for (unsigned k = 0; k < world.n_queues; k++) {
				struct dvmq_balance_core *core = core_of(queues[k].core);

				CU_ASSERT(core && core->state == DVMQ_CORE_ACTIVE);
			}
		}
	}
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"parameters", test_params},
	    {"fast: nothing to do", test_fast_quiet},
	    {"fast: best fit", test_fast_best_fit},
	    {"fast: wakes a core", test_fast_wakes},
	    {"fast: wide overload", test_fast_from_one_core},
	    {"no core wakes for nothing", test_wakes_for_nothing},
	    {"fast, tiny queues", test_fast_tiny_queues},
	    {"fast: dust stays", test_fast_no_dust},
	    {"no way back", test_no_way_back},
	    {"no way back, several moves", test_no_way_back_wide},
	    {"rather another than back", test_rather_another},
	    {"idle queues are spread", test_idle_are_spread},
	    {"fast: standing backlog", test_fast_backlog},
	    {"fast: more load than cores", test_fast_hopeless},
	    {"fast: everything anew", test_fast_anew},
	    {"slow: balances", test_slow_balances},
	    {"slow: large queues apart", test_slow_elephants},
	    {"slow: exchange", test_slow_exchange},
	    {"slow: budget", test_slow_budget},
	    {"slow: calm below target", test_slow_calm},
	    {"cool-down", test_cooldown},
	    {"cores: up at once", test_wakes_what_it_needs},
	    {"cores: down after hold_ms", test_parks_after_hold},
	    {"cores: idle ones park together", test_parks_idle_cores},
	    {"cores: nothing is evened out before", test_no_evenness_before_parking},
	    {"cores: the peak is remembered", test_hold_remembers_the_peak},
	    {"cores: the fast loop's debt", test_parks_in_spite_of_debt},
	    {"cores: parking undoes nothing", test_parking_undoes_nothing},
	    {"cores: parking needs room", test_park_needs_room},
	    {"cores: never none", test_never_below_one},
	    {"wish: parked", test_keep_parked},
	    {"wish: active", test_keep_active},
	    {"pins", test_pins},
	    {"saturated", test_saturated},
	    {"NUMA", test_numa},
	    {"distance function", test_distance_function},
	    {"SMT siblings", test_siblings},
	    {"places: what they will need more", test_foreseen},
	    {"affinity of a VM", test_affinity},
	    {"bad demands", test_bad_demands},
	    {"vanished cores", test_vanished_core},
	    {"one core and none", test_small_worlds},
	    {"clock that jumps", test_clock},
	    {"random worlds", test_random_worlds},
	    {"dry", test_dry},
	    {"the same again", test_same_again},
	    {"quality", test_quality},
	    {"against the optimum", test_against_optimum},
	    {"no NUMA information", test_no_numa},
	    {"all queues pinned to one core", test_all_pinned},
	    {"all cores to be parked", test_all_to_be_parked},
	    {"all wrong at once", test_all_wrong},
	    CU_TEST_INFO_NULL,
	};
	int ret = unit_run("balance", tests);

	dvmq_balance_free(balance);
	return ret;
}
