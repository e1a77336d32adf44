/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * src/datapath/gather.c: which queues are left alone for a moment, when, and for how long.  The test is the clock and
 * the traffic: packets at a steady rate, taken one by one but for what gathered.
 */
#include <string.h>

#include <dvmq/worker.h>

#include "unit.h"

#define US     100 /* TSC cycles */
#define MS     (1000 * US)
#define QUEUES 3
#define WINDOW (200 * US) /* between two calls of alarm.c */

unsigned dvmq_n_workers; /* in the place of worker.c */

static struct dvmq_worker w;
static struct dvmq_queue queues[QUEUES];
static struct dvmq_queue *list[QUEUES] = {&queues[0], &queues[1], &queues[2]};

static void begin(void)
{
	memset(&w, 0, sizeof(w));
	memset(queues, 0, sizeof(queues));
	dvmq_n_workers = 2;
	w.policy = DVMQ_POLICY_BALANCED;
	w.cycles_per_us = US;
	w.now = 1000 * MS;
	w.queues = list;
	w.n = w.n_hot = QUEUES;
}

/* One window: the times, in all queues, that one was left alone, which ends now; `per_ms` packets come to each. */
static unsigned window(unsigned per_ms)
{
	unsigned times = 0;

	w.now += WINDOW;
	dvmq_gather_next(&w);
	for (unsigned i = 0; i < QUEUES; i++) {
		struct dvmq_gather *g = &queues[i].gather;
		unsigned took;

		if (g->until == 0)
			continue;
		times++;
		CU_ASSERT_EQUAL(g->until, w.now + g->length);
		CU_ASSERT(g->length <= 250 * US);
		took = g->length * per_ms / MS;
		took = took > DVMQ_BULK ? DVMQ_BULK : took;
		if (took >= DVMQ_BULK)
			dvmq_count(&queues[i].counters.bulk_packets, took);
		dvmq_gathered(&w, &queues[i], took);
		CU_ASSERT_EQUAL(g->until, 0);
	}
	CU_ASSERT(times <= 1);
	return times;
}

static unsigned windows(unsigned ms, unsigned per_ms)
{
	unsigned times = 0;

	for (uint64_t end = w.now + (uint64_t)ms * MS; w.now < end;)
		times += window(per_ms);
	return times;
}

/* It takes some tries to find out how long it takes; then it is twice a second for each, and one in vain now and then. */
static void test_rate(void)
{
	begin();
	CU_ASSERT(windows(20, 1000) >= QUEUES);
	for (unsigned i = 0; i < QUEUES; i++) {
		CU_ASSERT(queues[i].counters.bulk_packets > 0);
		CU_ASSERT(queues[i].gather.length >= DVMQ_BULK * US && queues[i].gather.length < 64 * US);
	}
	CU_ASSERT(windows(10000, 1000) <= 30 * QUEUES);
	for (unsigned i = 0; i < QUEUES; i++)
		CU_ASSERT(queues[i].counters.bulk_packets > 15 * DVMQ_BULK);
	CU_ASSERT(windows(10000, 200) <= 32 * QUEUES); /* five times as slow */
	for (unsigned i = 0; i < QUEUES; i++)
		CU_ASSERT(queues[i].counters.bulk_packets > 30 * DVMQ_BULK);
}

/* Who waits for answers, or sends little: it stays at a few tries. */
static void test_in_vain(void)
{
	begin();
	windows(100, 4);
	CU_ASSERT(windows(10000, 4) <= 20 * QUEUES);
	CU_ASSERT_EQUAL(queues[0].counters.bulk_packets, 0);
	CU_ASSERT_EQUAL(queues[0].gather.length, 250 * US);
}

/* Turns with many packets as they come: no need. */
static void test_needless(void)
{
	begin();
	windows(100, 1000);
	for (unsigned i = 0; i < 50; i++) {
		for (unsigned q = 0; q < QUEUES; q++)
			dvmq_count(&queues[q].counters.bulk_packets, DVMQ_BULK);
		CU_ASSERT_EQUAL(windows(100, 1000), 0);
	}
}

static void test_never(void)
{
	begin();
	w.policy = DVMQ_POLICY_LATENCY;
	CU_ASSERT_EQUAL(windows(1000, 1000), 0);
	begin();
	dvmq_n_workers = 1;
	CU_ASSERT_EQUAL(windows(1000, 1000), 0);
	begin();
	w.n_hot = 0;
	CU_ASSERT_EQUAL(windows(1000, 1000), 0);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"at any rate", test_rate},
	    {"in vain", test_in_vain},
	    {"needless", test_needless},
	    {"never", test_never},
	    CU_TEST_INFO_NULL,
	};

	return unit_run("gather", tests);
}
