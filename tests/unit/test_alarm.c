/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * src/datapath/alarm.c: when a worker counts as full, and that the controller hears of it, once.  The test is the
 * clock.  Built twice, the second time for ThreadSanitizer.
 */
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include <dvmq/alarm.h>
#include <dvmq/worker.h>

#include "unit.h"

#define US	100 /* TSC cycles */
#define MS	(1000 * US)
#define TURN	(20 * US)
#define WORKERS 4
#define ALARMS	2000 /* of each worker, in the test with threads */

static struct dvmq_worker w;
static struct dvmq_err err;
static unsigned gathers;  /* in the place of gather.c */
static uint32_t before; /* alarms at the begin of the test */

void dvmq_gather_next(struct dvmq_worker *worker)
{
	(void)worker;
	gathers++;
}

static bool want(bool on, uint32_t seen)
{
	return dvmq_alarm_want((unsigned)on << DVMQ_ALARM_FULL, (uint32_t[DVMQ_ALARMS]){[DVMQ_ALARM_FULL] = seen});
}

static void begin(double high)
{
	dvmq_alarm_close();
	CU_ASSERT_EQUAL_FATAL(dvmq_alarm_open(high, &err), 0);
	memset(&w, 0, sizeof(w));
	w.cycles_per_us = US;
	w.now = 1000 * MS;
	before = dvmq_alarm_count(DVMQ_ALARM_FULL);
	want(false, before);
}

static unsigned took = DVMQ_BULK; /* packets of a turn */
static unsigned length = 64;	  /* bytes of each */

/* A turn of `busy` cycles and then idle ones: as turn() in handover.c does it. */
static void turn(struct dvmq_worker *worker, uint64_t busy, uint64_t idle)
{
	worker->now += busy;
	dvmq_count(&worker->busy_cycles, busy);
	worker->packets += took;
	worker->bytes += took * length;
	worker->bulk_packets += took >= DVMQ_BULK ? took : 0;
	if (worker->now >= worker->window_end)
		dvmq_alarm_look(worker);
	worker->now += idle;
}

static void work(unsigned ms, unsigned percent)
{
	for (uint64_t end = w.now + (uint64_t)ms * MS; w.now < end;)
		turn(&w, TURN * percent / 100, TURN - TURN * percent / 100);
}

static unsigned alarms(void)
{
	return dvmq_alarm_count(DVMQ_ALARM_FULL) - before;
}

/* What was written to the descriptor since the last call; 0: it was not readable. */
static uint64_t calls(void)
{
	uint64_t n;

	return read(dvmq_alarm_fd(), &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void test_edge(void)
{
	begin(0.9);
	work(100, 10);
	CU_ASSERT_EQUAL(alarms(), 0);
	work(1, 100);
	CU_ASSERT_EQUAL(alarms(), 1);
	work(9, 100); /* no burst */
	CU_ASSERT_EQUAL(alarms(), 2);
	work(5000, 100); /* the same overload */
	CU_ASSERT_EQUAL(alarms(), 2);
	work(5, 10); /* a pause in it */
	work(100, 100);
	CU_ASSERT_EQUAL(alarms(), 2);
	work(20, 10);
	work(1, 100);
	CU_ASSERT_EQUAL(alarms(), 3);
}

static void test_threshold(void)
{
	begin(0.9);
	work(100, 85);
	CU_ASSERT_EQUAL(alarms(), 0);
	work(1, 95);
	CU_ASSERT_EQUAL(alarms(), 1);
	begin(0.3);
	work(100, 25);
	CU_ASSERT_EQUAL(alarms(), 0);
	work(1, 35);
	CU_ASSERT_EQUAL(alarms(), 1);
	begin(1); /* the loop itself takes a little */
	work(1, 98);
	CU_ASSERT_EQUAL(alarms(), 1);
}

/* However busy: who takes few packets at a time keeps up with what comes.  What they would cost is of interest then. */
static void test_few(void)
{
	begin(0.9);
	took = DVMQ_BULK - 1;
	gathers = 0;
	work(100, 100);
	CU_ASSERT_EQUAL(alarms(), 0);
	CU_ASSERT(gathers > 100);
	work(1, 10); /* to the end of the window */
	gathers = 0;
	work(100, 10);
	CU_ASSERT_EQUAL(gathers, 0);
	took = DVMQ_BULK;
	work(1, 0);
	work(1, 100);
	CU_ASSERT_EQUAL(alarms(), 1);
	CU_ASSERT_EQUAL(gathers, 0);
}

/* Longer turns while it is full, and no longer. */
static void test_burst(void)
{
	begin(0.9);
	w.burst = DVMQ_BULK;
	work(10, 80);
	CU_ASSERT_EQUAL(w.burst, DVMQ_BULK);
	work(1, 100);
	CU_ASSERT_EQUAL(w.burst, DVMQ_BURST);
	work(100, 100);
	CU_ASSERT_EQUAL(w.burst, DVMQ_BURST);
	work(1, 80);
	CU_ASSERT_EQUAL(w.burst, DVMQ_BULK);
	for (unsigned i = 0; i < 100; i++) { /* a backlog now and then */
		for (unsigned k = 0; k < 13; k++)
			turn(&w, TURN, 0);
		CU_ASSERT_EQUAL(w.burst, DVMQ_BULK);
		work(1, 50);
	}
}

/* Large packets are copied while they are in the cache. */
static void test_large(void)
{
	begin(0.9);
	length = 1514;
	work(10, 100);
	CU_ASSERT_EQUAL(w.burst, DVMQ_BULK);
	CU_ASSERT_EQUAL(alarms(), 2); /* as full as any */
	length = 1024;
	work(1, 100); /* the last window of the others ends in it */
	work(1, 100);
	CU_ASSERT_EQUAL(w.burst, DVMQ_BURST);
	length = 1100;
	work(2, 100);
	CU_ASSERT_EQUAL(w.burst, DVMQ_BULK);
	length = 64;
}

/* Half of the time full and half of it empty: one alarm at most for all of the bursts, and one when they do not end. */
static void test_bursts(void)
{
	begin(0.9);
	for (unsigned i = 0; i < 1000; i++) {
		work(1, 100);
		work(1, 0);
	}
	CU_ASSERT_EQUAL(alarms(), 1);
	work(5, 100);
	CU_ASSERT_EQUAL(alarms(), 2);
}

/* What took the CPU looks like a long turn; and who slept has no full window behind it. */
static void test_no_window(void)
{
	begin(0.9);
	for (unsigned i = 0; i < 100; i++) {
		work(1, 50);
		turn(&w, 900 * US, 0);
		turn(&w, 900 * US, 0);
		work(20, 50);
	}
	CU_ASSERT_EQUAL(alarms(), 0);
	for (unsigned i = 0; i < 100; i++)
		turn(&w, 150 * US, 5 * MS);
	CU_ASSERT_EQUAL(alarms(), 0);
	/* Nor does theft hide that it is full. */
	for (unsigned i = 0; i < 6; i++) {
		turn(&w, 500 * US, 0);
		for (unsigned k = 0; k < 11; k++)
			turn(&w, TURN, 0);
	}
	CU_ASSERT(alarms() > 0);
}

static void test_one_call(void)
{
	begin(0.9);
	CU_ASSERT(want(true, before));
	work(1, 100);
	CU_ASSERT_EQUAL(calls(), 1);
	work(100, 0);
	work(1, 100); /* nobody wants to be called */
	CU_ASSERT_EQUAL(alarms(), 2);
	CU_ASSERT_EQUAL(calls(), 0);
	CU_ASSERT_FALSE(want(true, before)); /* it came before that was said */
	CU_ASSERT(want(true, dvmq_alarm_count(DVMQ_ALARM_FULL)));
	want(false, 0);
	work(100, 0);
	work(1, 100);
	CU_ASSERT_EQUAL(calls(), 0);
}

/* One that nobody waits for wakes nobody, and does not take away what is waited for. */
static void test_kinds(void)
{
	uint32_t seen[DVMQ_ALARMS];

	begin(0.9);
	for (unsigned kind = 0; kind < DVMQ_ALARMS; kind++)
		seen[kind] = dvmq_alarm_count(kind);
	CU_ASSERT(dvmq_alarm_want(1u << DVMQ_ALARM_FULL, seen));
	dvmq_alarm_raise(DVMQ_ALARM_SOURCE);
	CU_ASSERT_EQUAL(calls(), 0);
	dvmq_alarm_raise(DVMQ_ALARM_FULL);
	CU_ASSERT_EQUAL(calls(), 1);
	CU_ASSERT_FALSE(dvmq_alarm_want(1u << DVMQ_ALARM_SOURCE, seen));
	seen[DVMQ_ALARM_SOURCE]++;
	CU_ASSERT(dvmq_alarm_want(1u << DVMQ_ALARM_SOURCE, seen)); /* whatever came of the other kind */
	dvmq_alarm_raise(DVMQ_ALARM_SOURCE);
	dvmq_alarm_raise(DVMQ_ALARM_SOURCE);
	CU_ASSERT_EQUAL(calls(), 1);
	CU_ASSERT(dvmq_alarm_want(0, seen));
}

static void *raise_many(void *arg)
{
	struct dvmq_worker *worker = arg;

	for (unsigned i = 0; i < ALARMS; i++) {
		for (unsigned k = 0; k < 30; k++)
			turn(worker, TURN, 0);
		turn(worker, 0, 20 * MS);
	}
	return NULL;
}

/* Workers call, the controller sleeps between two calls: it hears of the last one, too. */
static void test_threads(void)
{
	static struct dvmq_worker workers[WORKERS];
	pthread_t threads[WORKERS];
	struct pollfd called = {.events = POLLIN};
	uint32_t seen;

	begin(0.9);
	called.fd = dvmq_alarm_fd();
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i].cycles_per_us = US;
		workers[i].now = 1000 * MS;
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, raise_many, &workers[i]), 0);
	}
	while ((seen = dvmq_alarm_count(DVMQ_ALARM_FULL)) - before < WORKERS * ALARMS)
		if (want(true, seen)) {
			CU_ASSERT_EQUAL_FATAL(poll(&called, 1, 20000), 1);
			CU_ASSERT(calls() > 0); /* one that was late for the call before may be in it, too */
		}
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(alarms(), WORKERS * ALARMS);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"a worker becomes full", test_edge},
	    {"how full is full", test_threshold},
	    {"few packets in each turn", test_few},
	    {"longer turns", test_burst},
	    {"large packets", test_large},
	    {"bursts", test_bursts},
	    {"theft and sleep", test_no_window},
	    {"one system call", test_one_call},
	    {"kinds", test_kinds},
	    {"no call is lost", test_threads},
	    CU_TEST_INFO_NULL,
	};
	int ret = unit_run("alarm", tests);

	dvmq_alarm_close();
	return ret;
}
