/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a queue needs, from what its worker and its NIC count.  The test is the clock, the workers and the NIC: one
 * worker, one uplink with three queues.
 */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <rte_ethdev.h>

#include <dvmq/control.h>

#include "unit.h"

#define HZ	1000000000ull /* of the TSC */
#define FAST	(HZ / 1000)
#define N_FAST	50 /* fast periods of a slow one */
#define SLOW	(N_FAST * FAST)
#define QUEUES	3
#define COST	100 /* cycles per packet */
#define PERIODS 20  /* slow periods after which a smoothed value stands */

/* In the places of worker.c, queues.c, ports.c, balancer.c and DPDK. */
struct dvmq_worker *dvmq_workers[DVMQ_MAX_WORKERS];
unsigned dvmq_n_workers;
struct dvmq_queue *dvmq_queues[DVMQ_MAX_QUEUES];
unsigned dvmq_n_queues;
_Atomic(struct dvmq_port *) dvmq_ports[DVMQ_MAX_PORTS];

static struct dvmq_worker worker;
static struct dvmq_queue queues[QUEUES];
static struct dvmq_load loads[QUEUES];
static struct dvmq_queue *of_port[QUEUES] = {&queues[0], &queues[1], &queues[2]};
static struct dvmq_port port;
static uint64_t now;
static uint64_t imissed; /* the NIC's counter */
static int stats_error;
static unsigned asked; /* how often the NIC was */

const struct dvmq_balance_params *dvmq_balancer_params(void)
{
	static const struct dvmq_balance_params params = {.fast_ms = 1, .slow_ms = 50};

	return &params;
}

uint64_t rte_get_tsc_hz(void)
{
	return HZ;
}

int rte_eth_stats_get(uint16_t eth_id, struct rte_eth_stats *stats)
{
	(void)eth_id;
	asked++;
	memset(stats, 0, sizeof(*stats));
	stats->imissed = imissed;
	return stats_error;
}

/* New queues of a NIC that has missed so many packets before.  Time and the worker go on. */
static void begin(uint64_t missed_before)
{
	memset(queues, 0, sizeof(queues));
	memset(loads, 0, sizeof(loads));
	memset(&port, 0, sizeof(port));
	dvmq_workers[0] = &worker;
	dvmq_n_workers = 1;
	port.type = DVMQ_PORT_UPLINK;
	port.queues = of_port;
	port.n_queues = QUEUES;
	dvmq_ports[0] = &port;
	for (unsigned i = 0; i < QUEUES; i++) {
		queues[i].load = &loads[i];
		queues[i].port = &port;
		queues[i].countable = true;
		queues[i].counters.capacity = 1024;
		atomic_store(&queues[i].owner, &worker);
		dvmq_queues[i] = &queues[i];
	}
	dvmq_n_queues = QUEUES;
	imissed = missed_before;
	stats_error = 0;
	now += FAST;
	dvmq_measure(now);
}

/* What one queue does in each fast period: packets at COST, with that many waiting. */
static void work(unsigned queue, unsigned packets, unsigned backlog)
{
	struct dvmq_queue_counters *c = &queues[queue].counters;

	dvmq_count(&c->packets, packets);
	dvmq_count(&c->cycles, (uint64_t)packets * COST);
	dvmq_count(&worker.busy_cycles, (uint64_t)packets * COST);
	atomic_store(&c->backlog, backlog);
}

/* Of what a queue does besides, so many packets at `cost` in turns that took many. */
static void work_bulk(unsigned queue, unsigned packets, unsigned cost)
{
	struct dvmq_queue_counters *c = &queues[queue].counters;

	dvmq_count(&c->packets, packets);
	dvmq_count(&c->cycles, (uint64_t)packets * cost);
	dvmq_count(&c->bulk_packets, packets);
	dvmq_count(&c->bulk_cycles, (uint64_t)packets * cost);
	dvmq_count(&worker.busy_cycles, (uint64_t)packets * cost);
}

/* One slow period; each queue takes packets[] per fast period, the NIC misses `missed` in all. */
static void slow_period(const unsigned packets[QUEUES], const unsigned backlog[QUEUES], uint64_t missed)
{
	for (unsigned f = 0; f < N_FAST; f++) {
		for (unsigned i = 0; i < QUEUES; i++)
			work(i, packets[i], backlog[i]);
		now += FAST;
		dvmq_measure(now);
	}
	imissed += missed;
	dvmq_measure_slow();
}

static void slow_periods(const unsigned packets[QUEUES], const unsigned backlog[QUEUES], uint64_t missed)
{
	for (unsigned i = 0; i < PERIODS; i++)
		slow_period(packets, backlog, missed);
}

static bool about(double value, double expected)
{
	bool ok = fabs(value - expected) <= 0.01 * fabs(expected) + 1e-4;

	if (!ok)
		fprintf(stderr, "\n%g, expected %g\n", value, expected);
	return ok;
}

static const unsigned none[QUEUES];

static void test_taken(void)
{
	const unsigned packets[QUEUES] = {1000, 2000, 0};

	begin(0);
	slow_periods(packets, none, 0);
	CU_ASSERT(about(loads[0].demand, 0.1));
	CU_ASSERT(about(loads[1].demand, 0.2));
	CU_ASSERT_EQUAL(loads[2].demand, 0);
	CU_ASSERT(about(loads[1].load, 0.2));
	CU_ASSERT(about(loads[1].pps, 2e6));
	CU_ASSERT(about(loads[0].cycles_per_packet, COST));
	CU_ASSERT(about(dvmq_worker_load(&worker), 0.3));
}

static void test_backlog_grows(void)
{
	begin(0);
	for (unsigned f = 1; f <= 10; f++) { /* takes 1000, 100 more wait each time */
		work(0, 1000, 100 * f);
		now += FAST;
		dvmq_measure(now);
	}
	CU_ASSERT(loads[0].fast_demand > 0.109 && loads[0].fast_demand < 0.111);
	CU_ASSERT(loads[0].fast_occupancy > 0.97);
}

/* One period of so many fast ones, the queue at 0..1 of a core. */
static void period(unsigned fast, double share)
{
	work(0, (unsigned)(share * fast * FAST / COST), 0);
	now += fast * FAST;
	dvmq_measure(now);
}

/* However long the periods are: what is long ago counts as little, and a fast period half. */
static void test_periods(void)
{
	begin(0);
	for (unsigned f = 0; f < 20; f++)
		period(1, 0.4);
	CU_ASSERT(about(loads[0].fast_demand, 0.4));
	period(1, 0.8);
	CU_ASSERT(about(loads[0].fast_demand, 0.6));
	period(1, 0.8);
	CU_ASSERT(about(loads[0].fast_demand, 0.7));
	period(10, 0.2);
	CU_ASSERT(loads[0].fast_demand > 0.2 && loads[0].fast_demand < 0.22);
	/* A load that comes after a long period is seen whole after a fast one. */
	period(10, 0.1);
	period(1, 1);
	CU_ASSERT(loads[0].fast_demand > 0.97 && loads[0].fast_demand <= 1);
	period(1, 1);
	period(1, 0.5);
	CU_ASSERT(loads[0].fast_demand > 0.74 && loads[0].fast_demand < 0.76);
	/* So does the cost of a packet: as much in one long period as in as many fast ones. */
	for (unsigned long_ones = 0; long_ones < 2; long_ones++) {
		begin(0);
		period(1, 0.1);
		for (unsigned f = 0; f < (long_ones ? 1 : 20); f++) {
			dvmq_count(&queues[0].counters.cycles, (long_ones ? 20 : 1) * FAST / 10); /* and 100 packets: twice as dear */
			period(long_ones ? 20 : 1, 0.1);
		}
		CU_ASSERT(about(loads[0].cycles_per_packet, COST * (2 - pow(0.9, 20))));
	}
}

/* What it needs is what its packets cost where many wait, as far as that is known. */
static void test_bulk(void)
{
	const unsigned packets[QUEUES] = {9000, 0, 0};

	begin(0);
	slow_periods(packets, none, 0); /* one by one: unknown */
	CU_ASSERT(about(loads[0].demand, 0.9));
	work_bulk(0, 20, COST / 4);
	slow_periods(packets, none, 0);
	CU_ASSERT(about(loads[0].demand, 0.9 / 4));
	CU_ASSERT(about(loads[0].load, 0.9));
	CU_ASSERT(about(loads[0].cycles_per_packet, COST));
	CU_ASSERT(loads[0].fast_demand < 0.9 / 3.9);
	/* One dear turn, which had lost its CPU, is no proof of the contrary; if it goes on, it is. */
	work_bulk(0, 20, 2 * COST);
	now += FAST;
	dvmq_measure(now);
	CU_ASSERT(loads[0].bulk_cost < COST);
	for (unsigned i = 0; i < 20; i++) {
		work_bulk(0, 20, COST / 2);
		slow_period(packets, none, 0);
	}
	CU_ASSERT(about(loads[0].demand, 0.9 / 2));
	/* Under load all turns are such. */
	for (unsigned i = 0; i < 4; i++) {
		work_bulk(0, 9000, COST);
		now += FAST;
		dvmq_measure(now);
	}
	CU_ASSERT(loads[0].fast_demand > 0.8);
	/* It is never more than what was consumed. */
	work_bulk(0, 5000, 9 * COST);
	slow_periods(packets, none, 0);
	CU_ASSERT(about(loads[0].demand, 0.9));
	/* And is forgotten. */
	work_bulk(0, 5000, COST / 4);
	for (unsigned i = 0; i < 50; i++)
		slow_period(packets, none, 0);
	CU_ASSERT(about(loads[0].demand, 0.9));
}

/* What waits, and what the NIC missed, costs as little as what is taken in bulk. */
static void test_bulk_waits(void)
{
	const unsigned packets[QUEUES] = {1000, 0, 0};

	begin(0);
	work_bulk(0, 5000, COST / 4);
	slow_periods(packets, none, 1000 * N_FAST);
	CU_ASSERT(about(loads[0].demand, 0.2 / 4));
	work(0, 1000, 100); /* as many wait now */
	now += FAST;
	dvmq_measure(now);
	CU_ASSERT(about(loads[0].fast_demand, (0.1 + 0.11) / 2 / 4));
}

/* Idle is who had no packet for a while, whether that was one period or many. */
static void test_idle(void)
{
	begin(0);
	for (unsigned f = 0; f < 40; f++)
		period(1, 0);
	period(1, 0.1);
	CU_ASSERT_FALSE(dvmq_measure_idle());
	for (unsigned f = 0; f < 4; f++)
		period(10, 0);
	CU_ASSERT_FALSE(dvmq_measure_idle());
	period(10, 0);
	period(10, 0);
	CU_ASSERT(dvmq_measure_idle());
	period(1, 0.1);
	CU_ASSERT_FALSE(dvmq_measure_idle());
}

/* A full core, and the NIC throws away as much again: it needs two. */
static void test_missed(void)
{
	const unsigned packets[QUEUES] = {10000, 0, 0}, backlog[QUEUES] = {1000, 0, 0};

	begin(0);
	slow_periods(packets, backlog, 0);
	CU_ASSERT(loads[0].demand > 1.4 && loads[0].demand < 1.55); /* pressed: a guess */
	slow_periods(packets, backlog, 10000 * N_FAST);
	CU_ASSERT(about(loads[0].demand, 2)); /* known: no guess on top */
	CU_ASSERT(about(loads[0].load, 1));
	slow_periods(packets, backlog, 1000 * N_FAST); /* less than the guess */
	CU_ASSERT(loads[0].demand > 1.4 && loads[0].demand < 1.55);
	CU_ASSERT_EQUAL(loads[1].demand, 0);
}

static void test_missed_is_shared(void)
{
	const unsigned packets[QUEUES] = {1000, 1000, 2000}, backlog[QUEUES] = {600, 200, 0}, no_more[QUEUES] = {0};

	begin(0);
	slow_periods(packets, backlog, 800 * N_FAST); /* by how full their rings are */
	CU_ASSERT(about(loads[0].demand, 0.1 + 0.06));
	CU_ASSERT(about(loads[1].demand, 0.1 + 0.02));
	CU_ASSERT(about(loads[2].demand, 0.2));
	slow_periods(packets, no_more, 800 * N_FAST); /* nobody saw a full ring: by packets */
	CU_ASSERT(about(loads[0].demand, 0.1 + 0.02));
	CU_ASSERT(about(loads[2].demand, 0.2 + 0.04));
	slow_periods(packets, no_more, 0);
	CU_ASSERT(about(loads[0].demand, 0.1));
	CU_ASSERT(about(loads[2].demand, 0.2));
}

static void test_missed_counter(void)
{
	const unsigned packets[QUEUES] = {1000, 0, 0};

	begin(1u << 30);
	slow_period(packets, none, 0);
	CU_ASSERT(loads[0].demand <= 0.1);
	slow_periods(packets, none, 500 * N_FAST);
	CU_ASSERT(about(loads[0].demand, 0.15));
	imissed = 0; /* "clear stats all", or the device was started anew */
	slow_period(packets, none, 500 * N_FAST);
	CU_ASSERT(about(loads[0].demand, 0.15));
	stats_error = -ENOTSUP;
	slow_periods(packets, none, 500 * N_FAST);
	CU_ASSERT(about(loads[0].demand, 0.1));
	/* A guest's rings are no device's. */
	stats_error = 0;
	port.type = DVMQ_PORT_VHOST;
	asked = 0;
	slow_period(packets, none, 0);
	CU_ASSERT_EQUAL(asked, 0);
	/* Without any traffic nobody asks. */
	port.type = DVMQ_PORT_UPLINK;
	slow_periods(none, none, 0);
	CU_ASSERT(dvmq_measure_idle());
	asked = 0;
	slow_periods(none, none, 1000);
	CU_ASSERT_EQUAL(asked, 0);
	/* Nor does what it missed last count for ever. */
	slow_periods(packets, none, 0);
	slow_periods(none, (const unsigned[QUEUES]){1024, 0, 0}, 1000);
	CU_ASSERT(dvmq_measure_idle());
	CU_ASSERT(about(loads[0].demand, 0));
}

static bool all_sane(void)
{
	for (unsigned i = 0; i < QUEUES; i++) {
		const struct dvmq_load *l = &loads[i];

		if (!(l->demand >= 0 && l->demand <= 1.01) || !(l->fast_demand >= 0 && l->fast_demand <= 1.01) ||
		    !(l->pps >= 0 && l->pps < 1e10) || !(l->load >= 0 && l->load <= 1.01) ||
		    !(l->occupancy >= 0 && l->occupancy <= 1) || !isfinite(l->cycles_per_packet))
			return false;
	}
	return dvmq_worker_load(&worker) >= 0 && dvmq_worker_load(&worker) <= 1;
}

/* Whatever the clock says, what is measured stays finite and possible, and is right again soon. */
static void test_clock(void)
{
	static const int64_t jumps[] = {0, -1, 1, -(int64_t)HZ, (int64_t)HZ * 86400, -(int64_t)HZ * 80000, INT64_MAX};
	const unsigned packets[QUEUES] = {1000, 1000, 0};

	begin(0);
	dvmq_measure_slow(); /* no time has passed at all */
	dvmq_measure_slow();
	CU_ASSERT(all_sane());
	slow_periods(packets, none, 0);
	for (unsigned i = 0; i < sizeof(jumps) / sizeof(jumps[0]); i++) {
		bool back = jumps[i] <= 0;

		now += (uint64_t)jumps[i];
		dvmq_measure(now);
		CU_ASSERT(all_sane());
		dvmq_measure_slow();
		CU_ASSERT(all_sane());
		CU_ASSERT(!back || about(loads[0].demand, 0.1)); /* no time has passed */
		dvmq_measure(now);
		dvmq_measure_slow();
		CU_ASSERT(all_sane());
		slow_periods(packets, none, 0);
		CU_ASSERT(about(loads[0].demand, 0.1));
		CU_ASSERT(about(dvmq_worker_load(&worker), 0.2));
	}
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"packets taken", test_taken},
	    {"backlog that grows", test_backlog_grows},
	    {"periods of any length", test_periods},
	    {"turns with many packets", test_bulk},
	    {"what waits, with many packets", test_bulk_waits},
	    {"idle", test_idle},
	    {"packets missed", test_missed},
	    {"packets missed, shared by queues", test_missed_is_shared},
	    {"counter of a NIC", test_missed_counter},
	    {"clock that jumps", test_clock},
	    CU_TEST_INFO_NULL,
	};

	return unit_run("measure", tests);
}
