/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who gets the scarce NIC queues, from outside: snapshot in, plan out.  Every plan
 * of every test is carried out by step(), which checks what must hold for all.
 */
#include <dvmq/share.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "unit.h"

#define PORTS 1024

/* The world of the running test. */
static struct dvmq_share_port ports[PORTS];
static double changed_ms[PORTS]; /* by id: last change that was carried out */
static struct dvmq_share_snapshot world;
static struct dvmq_share *share;
static struct dvmq_share_plan plan;
static unsigned long n_changes;
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

static void renew_share(double cold_ms, double cold_demand)
{
	struct dvmq_share_params params;

	dvmq_share_defaults(&params);
	params.cold_ms = cold_ms;
	params.cold_demand = cold_demand;
	dvmq_share_free(share);
	share = dvmq_share_new(&params);
	CU_ASSERT_PTR_NOT_NULL_FATAL(share);
}

/* n ports of one queue pair without traffic, and a planner without history. */
static void begin(unsigned n, unsigned n_queues)
{
	memset(ports, 0, sizeof(ports));
	for (unsigned i = 0; i < PORTS; i++) {
		ports[i] = (struct dvmq_share_port){.id = i, .pairs = 1, .max = 1, .weight = 100, .bindable = true};
		changed_ms[i] = -INFINITY;
	}
	world = (struct dvmq_share_snapshot){.now_ms = 0, .n_queues = n_queues, .ports = ports, .n_ports = n};
	n_changes = 0;
	seed = 42;
	renew_share(INFINITY, 0);
}

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static unsigned held(void)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < world.n_ports; i++)
		sum += ports[i].holds;
	return sum;
}

/* May this change come less than a second after the port's last one? */
static bool forced(const struct dvmq_share_change *change, bool too_many)
{
	const struct dvmq_share_port *port = &ports[change->index];

	return change->to < change->from &&
	       (too_many || !port->bindable || change->from > port->max || change->from > port->pairs);
}

/* Plans, checks and carries out; the plan stays to be looked at. */
static void step(double ms)
{
	bool too_many, grown = false, given_ok = true, limits_ok = true, told_ok = true, order_ok = true,
		       rate_ok = true;
	unsigned sum = 0;

	world.now_ms += ms;
	CU_ASSERT_EQUAL_FATAL(dvmq_share_plan(share, &world, &plan), 0);
	too_many = held() > world.n_queues;
	for (unsigned i = 0; i < plan.n_changes; i++) {
		const struct dvmq_share_change *change = &plan.changes[i];

		told_ok &= change->port == ports[change->index].id && change->from == ports[change->index].holds &&
			   change->to == plan.results[change->index].queues && change->from != change->to &&
			   change->reason[0] != '\0';
		order_ok &= !grown || change->to > change->from;
		grown |= change->to > change->from;
		rate_ok &= forced(change, too_many) || world.now_ms - changed_ms[change->port] >= 1000;
		changed_ms[change->port] = world.now_ms;
		ports[change->index].holds = change->to;
		/* Takes make room before gives need it. */
		given_ok &= !grown || held() <= world.n_queues;
		n_changes++;
	}
	for (unsigned i = 0; i < world.n_ports; i++) {
		limits_ok &= ports[i].holds == 0 ||
			     (ports[i].bindable && ports[i].holds <= ports[i].max && ports[i].holds <= ports[i].pairs);
		told_ok &= plan.results[i].queues == ports[i].holds && plan.results[i].why[0] != '\0';
		sum += plan.results[i].queues;
	}
	given_ok &= sum == plan.given && sum <= world.n_queues;
	CU_ASSERT_TRUE(given_ok);
	CU_ASSERT_TRUE(limits_ok);
	CU_ASSERT_TRUE(told_ok);
	CU_ASSERT_TRUE(order_ok);
	CU_ASSERT_TRUE(rate_ok);
}

static void run(double ms)
{
	for (double t = 0; t < ms; t += 50)
		step(50);
}

static bool why_has(unsigned i, const char *text)
{
	return strstr(plan.results[i].why, text) != NULL;
}

/* ------------------------------------------------------------ who gets one */

static void test_most_traffic(void)
{
	begin(8, 3);
	for (unsigned i = 0; i < 8; i++)
		ports[i].bytes_per_s = 1e6 * (i + 1);
	step(50);
	for (unsigned i = 0; i < 8; i++)
		CU_ASSERT_EQUAL(ports[i].holds, i >= 5);
	/* The gives begin with the port that needs it most. */
	CU_ASSERT_EQUAL(plan.changes[0].port, 7);
	CU_ASSERT_STRING_EQUAL(plan.results[4].why,
			       "all 3 queues are with ports of more traffic: needs > 6.0 MB/s, has 5.0 MB/s");
	CU_ASSERT_TRUE(why_has(7, "hot"));
	run(1000);
	/* Now they are held, and to be exceeded by the margin. */
	CU_ASSERT_STRING_EQUAL(plan.results[4].why,
			       "all 3 queues are with ports of more traffic: needs > 7.5 MB/s, has 5.0 MB/s");
	CU_ASSERT_TRUE(why_has(7, "as wanted"));
}

static void test_margin(void)
{
	begin(2, 1);
	ports[0].bytes_per_s = 1e6;
	ports[1].bytes_per_s = 0.5e6;
	run(2000);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	ports[1].bytes_per_s = 1.2e6;
	run(5000);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	ports[1].bytes_per_s = 2.5e6;
	step(50);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_TRUE(why_has(1, "acted on in the next call"));
	step(50);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	CU_ASSERT_EQUAL_FATAL(plan.n_changes, 2);
	CU_ASSERT_STRING_EQUAL(plan.changes[0].reason, "port 1 needs it more: 2.5 MB/s, this one has 1.0 MB/s");
}

/* While its load may be changing a port stays as it is, whatever it may claim. */
static void test_change_is_waited_for(void)
{
	begin(1, 8);
	ports[0].pairs = ports[0].max = 4;
	ports[0].bytes_per_s = 1e6;
	run(2000);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	ports[0].bytes_per_s = 1e7;
	ports[0].min = 2;
	step(50);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_TRUE(why_has(0, "1.0 MB/s, changing to 10.0 MB/s: acted on in the next call"));
	step(50);
	CU_ASSERT_EQUAL(ports[0].holds, 2);
}

/* With fewer queues than are held nobody grows: what is lost is lost by the weakest, and then the best may claim. */
static void test_fewer_queues(void)
{
	begin(4, 3);
	for (unsigned i = 0; i < 3; i++)
		ports[i].bytes_per_s = 1e6 * (4 - i);
	run(2000);
	CU_ASSERT_EQUAL(held(), 3);
	ports[3].bytes_per_s = 9e6;
	step(50);
	world.n_queues = 2;
	step(50);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	CU_ASSERT_EQUAL(held(), 2);
	CU_ASSERT_EQUAL(plan.n_changes, 1);
	CU_ASSERT_TRUE(why_has(2, "only 2 queues are left for all"));
	step(50);
	CU_ASSERT_EQUAL(ports[3].holds, 1);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
}

/* A load that is there for one call only was a burst, or a window that lay across a change. */
static void test_spike(void)
{
	begin(2, 1);
	ports[0].bytes_per_s = 1e6;
	ports[1].bytes_per_s = 0.5e6;
	run(2000);
	for (unsigned i = 0; i < 20; i++) {
		ports[1].bytes_per_s = 1e7;
		step(50);
		ports[1].bytes_per_s = 0.5e6;
		for (unsigned k = 0; k < 40; k++)
			step(50);
	}
	CU_ASSERT_EQUAL(n_changes, 1);
	/* To and fro from call to call, and on average less. */
	for (unsigned i = 0; i < 200; i++) {
		ports[1].bytes_per_s = i & 1 ? 1.6e6 : 0;
		step(50);
	}
	CU_ASSERT_EQUAL(n_changes, 1);
}

static void test_weight(void)
{
	begin(3, 1);
	ports[0].bytes_per_s = 3e6;
	ports[1].bytes_per_s = 2e6;
	ports[1].weight = 200;
	ports[2].bytes_per_s = 9e6;
	ports[2].weight = 0;
	step(50);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	run(1000);
	/* 2 MB/s x 200 % x 1.25 */
	CU_ASSERT_TRUE(why_has(0, "needs > 5.0 MB/s"));
	CU_ASSERT_TRUE(why_has(2, "weight is 0"));
	world.n_queues = 3;
	run(100);
	CU_ASSERT_EQUAL(ports[2].holds, 1);
}

static void test_min_max(void)
{
	begin(4, 4);
	ports[0].bytes_per_s = 9e9;
	ports[0].max = 0;
	ports[1].bytes_per_s = 1e6;
	ports[1].demand = 4;
	ports[1].pairs = 8;
	ports[1].max = 2;
	ports[2].min = 2;
	ports[2].max = 8;
	ports[2].pairs = 8;
	ports[3].min = 5;
	ports[3].max = 1; /* max counts */
	step(50);
	CU_ASSERT_EQUAL(ports[0].holds, 0);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	CU_ASSERT_EQUAL(ports[2].holds, 2);
	CU_ASSERT_EQUAL(ports[3].holds, 1);
	CU_ASSERT_TRUE(why_has(0, "max is 0"));
	CU_ASSERT_TRUE(why_has(2, "guaranteed by min 2"));
	world.n_queues = 8;
	run(2000);
	CU_ASSERT_EQUAL(ports[1].holds, 2);
	CU_ASSERT_TRUE(why_has(1, "max is 2; demand 4.00 asks for 5"));
	CU_ASSERT_EQUAL(plan.results[1].wanted, 2);
}

/* More is guaranteed than there is: the order of the configuration decides. */
static void test_min_order(void)
{
	begin(3, 2);
	for (unsigned i = 0; i < 3; i++)
		ports[i].min = 1;
	ports[2].bytes_per_s = 1e9;
	step(50);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	CU_ASSERT_EQUAL(ports[2].holds, 0);
	CU_ASSERT_TRUE(why_has(2, "min is 1, but all 2 queues are guaranteed to ports before it"));
}

/* ------------------------------------------------------------ several for one */

static void test_grows(void)
{
	begin(2, 8);
	ports[0].pairs = ports[0].max = 4;
	ports[0].bytes_per_s = 1e9;
	ports[0].demand = 0.5;
	run(1000);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	ports[0].demand = 2.5;
	run(100);
	CU_ASSERT_EQUAL(ports[0].holds, 3);
	CU_ASSERT_STRING_EQUAL(plan.results[0].why, "demand 2.50 needs 3 queues: has 1.0 GB/s");
	run(1000);
	ports[0].demand = 9;
	run(1100);
	CU_ASSERT_EQUAL(ports[0].holds, 4);
	CU_ASSERT_TRUE(why_has(0, "queue pairs") || why_has(0, "max is 4"));
}

/* The k-th queue of a port counts for its bytes / k. */
static void test_marginal(void)
{
	begin(3, 3);
	ports[0].pairs = ports[0].max = 4;
	ports[0].bytes_per_s = 10e6;
	ports[0].demand = 3.5;
	ports[1].bytes_per_s = 6e6;
	ports[2].bytes_per_s = 4e6;
	step(50);
	/* 10, 6, 10 / 2; then 4, 10 / 3 */
	CU_ASSERT_EQUAL(ports[0].holds, 2);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	CU_ASSERT_EQUAL(ports[2].holds, 0);
	CU_ASSERT_EQUAL(plan.results[0].wanted, 4);
	CU_ASSERT_TRUE(why_has(2, "needs > 5.0 MB/s"));
	run(1000);
	/* The second queue goes to a port for which it is the first one. */
	ports[2].bytes_per_s = 7e6;
	run(100);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(ports[2].holds, 1);
	CU_ASSERT_TRUE(why_has(0, "port 2 needs it more"));
	step(50);
	CU_ASSERT_TRUE(why_has(0, "changed 50 ms ago"));
	run(1000);
	CU_ASSERT_TRUE(why_has(0, "for one more"));
}

static void test_shrinks(void)
{
	begin(2, 3);
	ports[0].pairs = ports[0].max = 4;
	ports[0].bytes_per_s = 10e6;
	ports[0].demand = 1.5;
	step(50);
	CU_ASSERT_EQUAL(ports[0].holds, 2);
	/* One would be at 0.8 of a core: below high, but not comfortably. */
	ports[0].demand = 0.8;
	run(5000);
	CU_ASSERT_EQUAL(ports[0].holds, 2);
	/* One would do; not for long yet. */
	ports[0].demand = 0.5;
	run(1500);
	CU_ASSERT_EQUAL(ports[0].holds, 2);
	CU_ASSERT_TRUE(why_has(0, "would do with 1"));
	run(1000);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	/* What is not needed goes at once to who needs it. */
	ports[0].demand = 1.5;
	run(1100);
	CU_ASSERT_EQUAL(ports[0].holds, 2);
	world.n_queues = 2;
	run(1100);
	ports[0].demand = 0.5;
	ports[1].bytes_per_s = 1e5;
	run(1100);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
}

/* ------------------------------------------------------------ cold */

static void test_cold_hardware(void)
{
	begin(3, 2);
	/* Free queues go to ports without traffic, too. */
	step(50);
	CU_ASSERT_EQUAL(ports[0].holds + ports[1].holds, 2);
	CU_ASSERT_TRUE(why_has(0, "nobody else needs it"));
	run(100000);
	CU_ASSERT_EQUAL(ports[0].holds + ports[1].holds, 2);
	CU_ASSERT_EQUAL(n_changes, 2);
	CU_ASSERT_TRUE(why_has(0, "keeps it while nobody needs it"));
	CU_ASSERT_TRUE(why_has(2, "cold: 0.0 B/s, below 10.0 kB/s"));
	ports[0].bytes_per_s = 9000;
	ports[2].bytes_per_s = 20000;
	run(100);
	CU_ASSERT_EQUAL(ports[2].holds, 1);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	/* A cold one has no margin, and goes before a warm one of less weight. */
	ports[0].bytes_per_s = 12000;
	ports[2].bytes_per_s = 9500;
	ports[1].bytes_per_s = 13000;
	run(2000);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	CU_ASSERT_EQUAL(ports[2].holds, 0);
}

static void test_cold_software(void)
{
	begin(3, 2);
	renew_share(2000, 0);
	ports[0].bytes_per_s = 1e6;
	run(1000);
	CU_ASSERT_EQUAL(held(), 1);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	ports[0].bytes_per_s = 0;
	run(1500);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	run(1000);
	CU_ASSERT_EQUAL(ports[0].holds, 0);
	CU_ASSERT_EQUAL(n_changes, 2);
}

/* The same load, a little above the limit: who is warm stays warm, who is cold stays cold. */
static void test_cold_margin(void)
{
	begin(2, 2);
	renew_share(500, 0);
	ports[0].bytes_per_s = 20000;
	ports[1].bytes_per_s = 5000;
	run(2000);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(ports[1].holds, 0);
	ports[0].bytes_per_s = ports[1].bytes_per_s = 11000;
	run(5000);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(ports[1].holds, 0);
	CU_ASSERT_TRUE(why_has(1, "cold"));
	ports[1].bytes_per_s = 14000;
	run(5000);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
}

static void test_cold_demand(void)
{
	begin(2, 2);
	renew_share(1000, 0.05);
	ports[0].bytes_per_s = ports[1].bytes_per_s = 1e6;
	ports[0].demand = 0.04;
	ports[1].demand = 0.06;
	run(1000);
	CU_ASSERT_EQUAL(ports[0].holds, 0);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
}

/* Loads that go to and fro around the limit. */
static void test_cold_limit(void)
{
	begin(32, 8);
	renew_share(500, 0);
	for (unsigned t = 0; t < 1200; t++) {
		for (unsigned i = 0; i < 32; i++)
			ports[i].bytes_per_s = 11500 * (0.9 + 0.2 * uniform());
		step(50);
	}
	CU_ASSERT(n_changes <= 16);
}

/* ------------------------------------------------------------ for ever */

static void noisy(const double *base, double noise)
{
	for (unsigned i = 0; i < world.n_ports; i++)
		ports[i].bytes_per_s = base[i] * (1 + noise * (2 * uniform() - 1));
}

static void test_no_flapping(void)
{
	double base[64];

	/* Equal loads: whoever has a queue keeps it. */
	begin(64, 16);
	for (unsigned i = 0; i < 64; i++)
		base[i] = 1e7;
	for (unsigned t = 0; t < 2400; t++) {
		noisy(base, 0.2);
		step(50);
	}
	CU_ASSERT_EQUAL(n_changes, 16);
	/* Zipf: neighbours in the ranking are close. */
	begin(64, 16);
	for (unsigned i = 0; i < 64; i++)
		base[i] = 1e9 / (i + 1);
	for (unsigned t = 0; t < 2400; t++) {
		noisy(base, 0.2);
		step(20);
	}
	CU_ASSERT(n_changes <= 18);
	for (unsigned i = 0; i < 12; i++)
		CU_ASSERT_EQUAL(ports[i].holds, 1);
	/* Several queues at the edge of one more. */
	begin(8, 16);
	for (unsigned t = 0; t < 2400; t++) {
		for (unsigned i = 0; i < 8; i++) {
			ports[i].pairs = ports[i].max = 4;
			ports[i].bytes_per_s = 1e8 * (0.9 + 0.2 * uniform());
			ports[i].demand = 0.9 * (0.9 + 0.2 * uniform());
		}
		step(50);
	}
	CU_ASSERT(n_changes <= 16);
}

/* The ranking changes completely every second: most bytes still find a queue of their own. */
static void test_reacts(void)
{
	double bytes = 0, best = 0, rate[64];
	unsigned rank[64];

	begin(64, 16);
	for (unsigned i = 0; i < 64; i++)
		rank[i] = i;
	/* 10 ms apart, looked at every 50 ms. */
	for (unsigned t = 0; t < 6000; t++) {
		if (t % 100 == 3)
			for (unsigned i = 64; i > 1; i--) {
				unsigned k = below(i), r = rank[k];

				rank[k] = rank[i - 1];
				rank[i - 1] = r;
			}
		for (unsigned i = 0; i < 64; i++) {
			rate[i] = 1e9 / (rank[i] + 1) * (0.95 + 0.1 * uniform());
			bytes += ports[i].holds ? rate[i] : 0;
			best += rank[i] < 16 ? rate[i] : 0;
			ports[i].bytes_per_s = (t % 5 ? ports[i].bytes_per_s : 0) + rate[i] / 5;
		}
		if (t % 5 == 4)
			step(50);
	}
	CU_ASSERT(bytes / best >= 0.9);
}

/* Anything may happen, and every plan holds what step() checks. */
static void test_random(void)
{
	for (unsigned trial = 0; trial < 60; trial++) {
		unsigned n = 1 + below(100), n_queues = below(40), mins = 0;

		begin(n, n_queues);
		seed = trial + 1;
		renew_share(trial % 3 ? INFINITY : 500, 0);
		for (unsigned i = 0; i < n; i++) {
			ports[i].pairs = below(5);
			ports[i].max = below(6);
			ports[i].min = below(8) ? 0 : below(4);
			ports[i].weight = below(4) ? 100 : below(1000);
		}
		for (unsigned t = 0; t < 400; t++) {
			for (unsigned i = 0; i < n; i++)
				if (below(20) == 0) {
					ports[i].bytes_per_s = below(3) ? pow(10, 10 * uniform()) : 0;
					ports[i].demand = 4 * uniform() * uniform();
				}
			if (t == 200)
				ports[below(n)].bindable = false;
			step(20 + 31 * uniform());
		}
		/* What is guaranteed is there once all had their second. */
		run(1100);
		mins = 0;
		for (unsigned i = 0; i < n; i++) {
			unsigned min = ports[i].bindable ? least(ports[i].min, least(ports[i].pairs, ports[i].max)) : 0;

			CU_ASSERT(ports[i].holds >= least(min, n_queues - least(n_queues, mins)));
			mins += min;
		}
	}
}

static void test_same_again(void)
{
	unsigned long first = 0;

	for (unsigned again = 0; again < 2; again++) {
		unsigned long sum = 0;

		begin(PORTS, 128);
		for (unsigned t = 0; t < 100; t++) {
			for (unsigned i = 0; i < PORTS; i++)
				ports[i].bytes_per_s = 1e9 * uniform() * uniform();
			step(50);
			for (unsigned i = 0; i < plan.n_changes; i++)
				sum = sum * 31 + plan.changes[i].port;
		}
		CU_ASSERT(again == 0 || sum == first);
		first = sum;
	}
}

/* ------------------------------------------------------------ what the world does */

static void test_forced(void)
{
	begin(4, 4);
	for (unsigned i = 0; i < 4; i++)
		ports[i].bytes_per_s = 1e6 * (i + 1);
	step(50);
	CU_ASSERT_EQUAL(held(), 4);
	/* Less than a second later. */
	ports[3].bindable = false;
	step(50);
	CU_ASSERT_EQUAL(ports[3].holds, 0);
	CU_ASSERT_TRUE(why_has(3, "cannot be bound"));
	world.n_queues = 2;
	step(50);
	CU_ASSERT_EQUAL(ports[2].holds, 1);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	CU_ASSERT_EQUAL(ports[0].holds, 0);
	CU_ASSERT_TRUE(why_has(0, "only 2 queues are left"));
	world.n_queues = 0;
	step(50);
	CU_ASSERT_EQUAL(held(), 0);
}

/* A change that the caller could not carry out is tried again, not at once. */
static void test_refused(void)
{
	unsigned tries = 0;

	begin(1, 1);
	ports[0].bytes_per_s = 1e6;
	for (unsigned t = 0; t < 100; t++) {
		step(50);
		tries += plan.n_changes;
		ports[0].holds = 0;
	}
	CU_ASSERT_EQUAL(tries, 5);
}

/* The second begins when the change was made, not when it was planned. */
static void test_late(void)
{
	begin(2, 1);
	ports[0].bytes_per_s = 1e6;
	step(50);
	CU_ASSERT_EQUAL_FATAL(ports[0].holds, 1);
	ports[0].late_ms = 400;
	ports[1].bytes_per_s = 1e8;
	for (unsigned t = 0; t < 1350; t += 50) {
		step(50);
		CU_ASSERT_EQUAL(plan.n_changes, 0);
	}
	step(50);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
}

static void test_come_and_go(void)
{
	begin(4, 2);
	for (unsigned i = 0; i < 4; i++)
		ports[i].bytes_per_s = 1e6 * (i + 1);
	run(2000);
	CU_ASSERT_EQUAL(ports[3].holds, 1);
	/* The last two go: their queues are free. */
	world.n_ports = 2;
	run(100);
	CU_ASSERT_EQUAL(ports[0].holds + ports[1].holds, 2);
	/* They return as others, in another order. */
	ports[2] = ports[0];
	ports[3] = ports[1];
	ports[0] = (struct dvmq_share_port){
	    .id = 1000, .bytes_per_s = 5e6, .pairs = 1, .max = 1, .weight = 100, .bindable = true, .name = "new"};
	ports[1] = ports[0];
	ports[1].id = 1001;
	world.n_ports = 4;
	run(1000);
	CU_ASSERT_EQUAL(ports[0].holds, 1);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
	CU_ASSERT_EQUAL(ports[2].holds, 0);
	world.n_ports = 0;
	step(50);
	CU_ASSERT_EQUAL(plan.n_changes, 0);
}

static void test_bad_input(void)
{
	begin(6, 3);
	ports[0].bytes_per_s = NAN;
	ports[1].bytes_per_s = -1e9;
	ports[2].bytes_per_s = INFINITY;
	ports[3].bytes_per_s = 1e6;
	ports[3].demand = NAN;
	ports[4].bytes_per_s = 1e5;
	ports[4].demand = -INFINITY;
	ports[5].demand = INFINITY; /* and no bytes */
	ports[5].pairs = ports[5].max = UINT32_MAX;
	run(5000);
	CU_ASSERT_EQUAL(ports[2].holds, 1);
	CU_ASSERT_EQUAL(ports[3].holds, 1);
	CU_ASSERT_EQUAL(ports[4].holds, 1);
	CU_ASSERT_EQUAL(held(), 3);
	CU_ASSERT_EQUAL(n_changes, 3);

	/* Everything at once that asks for more than there is. */
	begin(2, UINT32_MAX);
	for (unsigned i = 0; i < 2; i++) {
		ports[i].pairs = ports[i].max = ports[i].min = ports[i].weight = UINT32_MAX;
		ports[i].bytes_per_s = ports[i].demand = INFINITY;
	}
	step(50);
	CU_ASSERT_EQUAL(plan.given, 65535);

	/* Two ports of one id: nothing is planned, and nothing remembered. */
	begin(2, 1);
	ports[0].bytes_per_s = 1e6;
	step(50);
	ports[1].id = ports[0].id;
	CU_ASSERT_EQUAL(dvmq_share_plan(share, &world, &plan), -EINVAL);
	CU_ASSERT_EQUAL(plan.n_changes, 0);
	ports[1].id = 1;
	run(2000);
	CU_ASSERT_EQUAL(n_changes, 1);

	/* No queue, or nobody who may have one. */
	begin(2, 0);
	ports[0].bytes_per_s = 1e6;
	ports[0].min = 1;
	run(1000);
	CU_ASSERT_EQUAL(held(), 0);
	begin(2, 2);
	ports[0].bindable = ports[1].bindable = false;
	run(1000);
	CU_ASSERT_EQUAL(held(), 0);
}

static void test_params(void)
{
	struct dvmq_share_params params;
	double *const values[] = {&params.high, &params.cold_bytes, &params.cold_demand, &params.cold_ms};

	for (unsigned i = 0; i < 4; i++)
		for (unsigned bad = 0; bad < 2; bad++) {
			dvmq_share_defaults(&params);
			*values[i] = bad ? NAN : -1;
			errno = 0;
			CU_ASSERT_PTR_NULL(dvmq_share_new(&params));
			CU_ASSERT_EQUAL(errno, EINVAL);
		}
	dvmq_share_free(NULL);
}

/* A clock that jumps gives nobody a change that he has not waited for. */
static void test_clock(void)
{
	unsigned changes = 0;

	begin(2, 1);
	for (unsigned t = 0; t < 40; t++) {
		ports[t / 2 & 1].bytes_per_s = 1e9;
		ports[~t / 2 & 1].bytes_per_s = 1e5;
		world.now_ms = t % 3 == 0 ? 1e9 - t : t % 3 == 1 ? NAN : -5;
		CU_ASSERT_EQUAL_FATAL(dvmq_share_plan(share, &world, &plan), 0);
		for (unsigned i = 0; i < plan.n_changes; i++)
			ports[plan.changes[i].index].holds = plan.changes[i].to;
		changes += plan.n_changes;
		CU_ASSERT(held() <= 1);
	}
	/* Each step forward counts for a second at most: 13 of them. */
	CU_ASSERT(changes <= 2 * 14);
	/* Backwards only: no time passes at all. */
	begin(2, 1);
	ports[0].bytes_per_s = 1e6;
	step(5000);
	n_changes = 0;
	for (unsigned t = 0; t < 100; t++) {
		ports[0].bytes_per_s = 0;
		ports[1].bytes_per_s = 1e6;
		world.now_ms -= 50;
		step(0);
	}
	CU_ASSERT_EQUAL(n_changes, 0);
	/* And on again. */
	changed_ms[0] = world.now_ms - 1000;
	run(1050);
	CU_ASSERT_EQUAL(ports[1].holds, 1);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"queues go to most traffic, and the others are told what it takes", test_most_traffic},
	    {"a challenger exceeds by a margin, in two calls", test_margin},
	    {"one call is a burst", test_spike},
	    {"a change is waited for", test_change_is_waited_for},
	    {"fewer queues than are held", test_fewer_queues},
	    {"weight", test_weight},
	    {"min, max, pairs", test_min_max},
	    {"min in the order of the configuration", test_min_order},
	    {"demand above a core asks for more queues", test_grows},
	    {"a second queue competes with first ones", test_marginal},
	    {"less demand gives queues back, late", test_shrinks},
	    {"cold ports of a NIC keep their queue until it is needed", test_cold_hardware},
	    {"cold ports of a software uplink do not", test_cold_software},
	    {"cold by demand", test_cold_demand},
	    {"cold: to and fro", test_cold_margin},
	    {"no flapping at the limit of cold", test_cold_limit},
	    {"no flapping with noise", test_no_flapping},
	    {"another ranking every second: 90 % of the best choice", test_reacts},
	    {"random ports and loads", test_random},
	    {"the same again", test_same_again},
	    {"force does not wait", test_forced},
	    {"what was refused is tried again a second later", test_refused},
	    {"what was made late is changed late", test_late},
	    {"ports come and go", test_come_and_go},
	    {"bad input", test_bad_input},
	    {"bad parameters", test_params},
	    {"a clock that jumps", test_clock},
	    CU_TEST_INFO_NULL,
	};
	int ret = unit_run("share", tests);

	dvmq_share_free(share);
	return ret;
}
