/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Soft queues of a hot default queue, from outside, with the planner that shares them out: a world in which a packet
 * that goes by way of a soft queue costs more than one that does not, looked at every 20 ms.
 */
#include <dvmq/relief.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "unit.h"

#define PORTS	64
#define LOOK_MS 20
#define TAKE	(1 / 3.0) /* of what serving a packet inline costs: what the default queue does for each */
#define HOP	(1 / 6.0) /* what a soft queue costs beside that */
#define LIMIT	0.85	  /* of the default parameters: high - margin */

/* The world of the running test. */
static struct dvmq_share_port ports[PORTS];
static double inline_need[PORTS]; /* cores that the port's traffic needs, inline */
static double changed_ms[PORTS];
static unsigned n_ports, n_queues_of_nic, room, n_changes;
static double now_ms, noise;
static double by_own; /* bytes by soft queues in all looks */
static struct dvmq_share *share;
static struct dvmq_relief relief;
static struct dvmq_balance_params params;
static uint64_t seed;

/* xorshift64*: the same numbers everywhere. */
static double uniform(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (double)((seed * 2685821657736338717ull) >> 11) / (double)(1ull << 53);
}

static void begin(unsigned n)
{
	struct dvmq_share_params share_params;

	n_ports = n;
	n_queues_of_nic = 1;
	room = DVMQ_RELIEF_PER_QUEUE;
	n_changes = 0;
	now_ms = noise = by_own = 0;
	seed = 42;
	relief = (struct dvmq_relief){0};
	for (unsigned i = 0; i < PORTS; i++) {
		ports[i] = (struct dvmq_share_port){.id = i, .pairs = 1, .max = 1, .weight = 100, .bindable = true};
		inline_need[i] = 0;
		changed_ms[i] = -INFINITY;
	}
	dvmq_balance_defaults(&params);
	dvmq_share_defaults(&share_params);
	dvmq_relief_share_params(&share_params);
	dvmq_share_free(share);
	share = dvmq_share_new(&share_params);
	CU_ASSERT_PTR_NOT_NULL_FATAL(share);
}

/* Their sum is `need`. */
static void zipf(double need)
{
	double sum = 0;

	for (unsigned i = 0; i < n_ports; i++)
		sum += 1.0 / (i + 1);
	for (unsigned i = 0; i < n_ports; i++)
		inline_need[i] = need / (i + 1) / sum;
}

static unsigned held(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < n_ports; i++)
		n += ports[i].holds;
	return n;
}

/* What the default queues need, with the soft queues that there are. */
static double default_need(void)
{
	double need = 0;

	for (unsigned i = 0; i < n_ports; i++)
		need += inline_need[i] * (ports[i].holds ? TAKE : 1);
	return need;
}

static void step(void)
{
	static double by_soft[PORTS];
	struct dvmq_relief_load load = {.room = room, .by_soft = by_soft};
	struct dvmq_share_snapshot snapshot = {.ports = ports, .n_ports = n_ports};
	struct dvmq_share_plan plan;
	double all = 0, need = 0;

	now_ms += LOOK_MS;
	load.now_ms = snapshot.now_ms = now_ms;
	for (unsigned i = 0; i < n_ports; i++) {
		double now = inline_need[i] * (1 + noise * (2 * uniform() - 1));

		ports[i].bytes_per_s = now * 1e9;
		by_soft[i] = ports[i].holds ? now * (1 - TAKE + HOP) : 0;
		load.by_default += now * (ports[i].holds ? TAKE : 1);
		all += by_soft[i];
		need += now;
		by_own += ports[i].holds ? now : 0;
	}
	load.busiest = load.by_default / n_queues_of_nic;
	for (unsigned i = 0; i < n_ports; i++)
		ports[i].demand = need > 0 ? (all + load.by_default) * ports[i].bytes_per_s / 1e9 / need : 0;
	snapshot.n_queues = dvmq_relief_plan(&relief, &load, &params, ports, n_ports);
	CU_ASSERT_EQUAL_FATAL(dvmq_share_plan(share, &snapshot, &plan), 0);
	for (unsigned i = 0; i < plan.n_changes; i++) {
		const struct dvmq_share_change *change = &plan.changes[i];

		CU_ASSERT(now_ms - changed_ms[change->index] >= 1000);
		changed_ms[change->index] = now_ms;
		ports[change->index].holds = change->to;
		n_changes++;
	}
}

static void run(double ms)
{
	for (double end = now_ms + ms; now_ms < end;)
		step();
}

/* A default queue that a core can carry is relieved of nobody, also not of a port that has nearly all of it. */
static void test_not_hot(void)
{
	begin(PORTS);
	zipf(LIMIT - 0.01);
	run(10000);
	CU_ASSERT_EQUAL(n_changes, 0);
	begin(2);
	inline_need[0] = LIMIT - 0.01;
	run(10000);
	CU_ASSERT_EQUAL(n_changes, 0);
}

/* Largest first, and no more than it takes. */
static void test_as_many_as_it_takes(void)
{
	unsigned few;

	begin(PORTS);
	zipf(1.0);
	run(3000);
	few = held();
	CU_ASSERT(few >= 1 && few <= 4);
	for (unsigned i = 0; i < few; i++)
		CU_ASSERT_EQUAL(ports[i].holds, 1);
	CU_ASSERT(default_need() <= LIMIT);
	zipf(1.3);
	run(3000);
	CU_ASSERT(held() > few && held() < 16);
	CU_ASSERT(default_need() <= LIMIT);
	CU_ASSERT_EQUAL(n_changes, held());
	zipf(3); /* more than all of them can relieve it of */
	run(3000);
	CU_ASSERT_EQUAL(held(), 16);
	for (unsigned i = 0; i < 16; i++)
		CU_ASSERT_EQUAL(ports[i].holds, 1);
	CU_ASSERT_EQUAL(n_changes, 16);
}

/* Nobody stands out: each is as good as the next. */
static void test_equals(void)
{
	begin(32);
	for (unsigned i = 0; i < 32; i++)
		inline_need[i] = 0.9 / 32;
	noise = 0.2;
	run(60000);
	CU_ASSERT(held() >= 5 && held() <= 12); /* 5.3 without noise */
	CU_ASSERT(default_need() <= LIMIT * 1.1);
	CU_ASSERT_EQUAL(n_changes, held());
}

static void test_worth_a_hop(void)
{
	begin(PORTS);
	for (unsigned i = 0; i < PORTS; i++)
		inline_need[i] = i == 0 ? 1.0 : 0.0085;
	run(10000);
	CU_ASSERT(default_need() > LIMIT); /* but nobody else relieves it */
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(held(), 1);
}

/* Where no other core may poll them there are none, at once. */
static void test_no_other_core(void)
{
	begin(PORTS);
	zipf(3);
	room = 0;
	run(3000);
	CU_ASSERT_EQUAL(n_changes, 0);
	room = 16;
	run(1000);
	CU_ASSERT_EQUAL(held(), 16);
	run(1000);
	room = 0;
	step();
	CU_ASSERT_EQUAL(held(), 0);
}

static void test_weight_and_limits(void)
{
	begin(4);
	for (unsigned i = 0; i < 4; i++)
		inline_need[i] = 0.3 - 0.01 * i;
	ports[3].weight = 200;
	ports[0].max = 0;
	run(2000);
	CU_ASSERT_EQUAL(ports[0].holds, 0); /* whatever it needs */
	CU_ASSERT_EQUAL(ports[3].holds, 1);
	CU_ASSERT(default_need() <= LIMIT);

	/* What is guaranteed takes nothing from the others, and stays when it is cold. */
	begin(4);
	zipf(1.6);
	inline_need[3] = 0;
	ports[3].min = 1;
	room = 1;
	run(5000);
	CU_ASSERT_EQUAL(ports[3].holds, 1);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(held(), 2);
}

/* Smallest first, when the default queue could carry it inline; what it could not stays. */
static void test_given_back(void)
{
	begin(PORTS);
	zipf(3);
	run(3000);
	CU_ASSERT_EQUAL(held(), 16);
	for (unsigned i = 0; i < n_ports; i++)
		inline_need[i] = i == 0 ? 0.7 : i < 16 ? 0.02 : 0;
	run(1900);
	CU_ASSERT_EQUAL(held(), 16); /* not at once */
	run(500);
	CU_ASSERT_EQUAL(held(), 1);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT(default_need() <= LIMIT);
	run(20000); /* and all is as it should be */
	CU_ASSERT_EQUAL(n_changes, 16 + 15);
	zipf(0.4);
	run(3000);
	CU_ASSERT_EQUAL(held(), 0);
	run(20000);
	CU_ASSERT_EQUAL(n_changes, 16 + 15 + 1);
}

/* Loads at each level, with noise: whoever has one keeps it, whoever has none gets none. */
static void test_no_flapping(void)
{
	for (double need = 0.5; need < 3; need *= 1.1) {
		begin(PORTS);
		zipf(need);
		noise = 0.2;
		run(5000);
		n_changes = 0;
		run(20000);
		CU_ASSERT(n_changes <= 1);
	}
}

/* Several default queues share what there is, and the busiest counts. */
static void test_several_default_queues(void)
{
	begin(PORTS);
	n_queues_of_nic = 2;
	zipf(1.5);
	run(5000);
	CU_ASSERT_EQUAL(held(), 0);
	zipf(2.2);
	run(5000);
	CU_ASSERT(held() > 0 && held() < 16);
	CU_ASSERT(default_need() / 2 <= LIMIT);
	zipf(1.1);
	run(5000);
	CU_ASSERT_EQUAL(held(), 0);
}

/* What a choice that knows the load beforehand would put on soft queues, as much as there may be. */
static double best_choice(double need)
{
	double best = 0, all = 0;

	for (unsigned i = 0; i < n_ports; i++) {
		all += 1.0 / (i + 1);
		best += i < room ? 1.0 / (i + 1) : 0;
	}
	return need * best / all;
}

static void shuffle(void)
{
	for (unsigned i = n_ports; i > 1; i--) {
		unsigned k = (unsigned)(uniform() * i);
		double need = inline_need[k];

		inline_need[k] = inline_need[i - 1];
		inline_need[i - 1] = need;
	}
}

/* Another ranking every second: most bytes that could have a soft queue still find one. */
static void test_reacts(void)
{
	double best = 0;

	begin(PORTS);
	zipf(3);
	noise = 0.05;
	for (unsigned t = 0; t < 60; t++) {
		shuffle();
		run(1000);
		best += best_choice(3) * (1000 / LOOK_MS);
	}
	CU_ASSERT(by_own / best >= 0.9);
	CU_ASSERT(by_own / best <= 1.01);
}

/* Without traffic, without ports, and with a load that nobody has. */
static void test_nothing(void)
{
	begin(0);
	run(100);
	begin(PORTS);
	run(1000);
	CU_ASSERT_EQUAL(n_changes, 0);
	CU_ASSERT_EQUAL(
	    dvmq_relief_plan(&relief,
			     &(struct dvmq_relief_load){.now_ms = 1e6, .busiest = 2, .by_default = 2, .room = 16},
			     &params, ports, 0),
	    0);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"not hot", test_not_hot},
	    {"as many as it takes, largest first", test_as_many_as_it_takes},
	    {"equal ports", test_equals},
	    {"what is not worth a hop", test_worth_a_hop},
	    {"no other core", test_no_other_core},
	    {"weight, min and max", test_weight_and_limits},
	    {"given back, smallest first", test_given_back},
	    {"no flapping with noise", test_no_flapping},
	    {"several default queues", test_several_default_queues},
	    {"another ranking every second: 90 % of the best choice", test_reacts},
	    {"nothing", test_nothing},
	    CU_TEST_INFO_NULL,
	};
	int ret = unit_run("relief", tests);

	dvmq_share_free(share);
	return ret;
}
