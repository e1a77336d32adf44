/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * src/datapath/trickle.c with a worker, a clock and senders that are simulated: what it costs, what it delays, and
 * that who waits for answers is not slowed down.
 */
#include <stdio.h>
#include <string.h>

#include <dvmq/worker.h>

#include "unit.h"

#define US	 1000ull /* TSC cycles */
#define MS	 (1000 * US)
#define QUEUES	 40
#define SENDERS	 40
#define PATIENCE (500 * US)
#define TURN	 150 /* TSC cycles of a turn, and for each packet */
#define PACKET	 60

/* Sends every `gap`, or `think` after its last packet was taken; that goes out of two queues in turn, as answers do. */
struct sender {
	unsigned queue, other;
	uint64_t gap, think;
	uint64_t on, off; /* sends so long, and pauses so long; on = 0: always */
	uint64_t next, sent;
};

static struct dvmq_queue queues[QUEUES];
static struct dvmq_queue *list[QUEUES];
static struct dvmq_worker w;
static struct sender senders[SENDERS];
static unsigned n_senders;
static uint64_t cpu, cpu_then, nap_cost, wake_up; /* TSC cycles: used, and as of the begin of run(); of a nap; until a
						    thread runs that was woken */
static uint64_t naps, most;			  /* naps, and packets of one queue after one */
static bool frugal;

static void begin(unsigned n_queues)
{
	memset(&w, 0, sizeof(w));
	memset(queues, 0, sizeof(queues));
	w.cycles_per_us = US;
	w.now = w.last_packet = MS;
	w.queues = list;
	w.n = w.n_hot = n_queues;
	for (unsigned i = 0; i < n_queues; i++) {
		list[i] = &queues[i];
		atomic_store(&queues[i].counters.capacity, 1024);
	}
	n_senders = 0;
	cpu = naps = most = 0;
	nap_cost = 30 * US;
	wake_up = 50 * US;
	frugal = false;
}

static struct sender *add(struct sender sender)
{
	/* Not all at the same time. */
	sender.next = w.now + 7 * n_senders * US;
	senders[n_senders] = sender;
	return &senders[n_senders++];
}

static unsigned due(struct sender *s)
{
	unsigned n = 0;

	while (s->next <= w.now) {
		n++;
		s->next = s->gap ? s->next + s->gap : w.now + s->think;
		if (s->on && s->next % (s->on + s->off) >= s->on)
			s->next += s->on + s->off - s->next % (s->on + s->off);
	}
	s->sent += n;
	return n;
}

static unsigned loop(void)
{
	unsigned took[QUEUES] = {0}, sum = 0;
	uint64_t cycles = 0;

	for (struct sender *s = senders; s < senders + n_senders; s++) {
		unsigned n = due(s), other = s->other;

		took[s->queue] += n;
		if (n && s->think) {
			s->other = s->queue;
			s->queue = other;
		}
	}
	for (unsigned i = 0; i < w.n; i++) {
		if (took[i] == 0)
			continue;
		cycles += TURN + PACKET * took[i];
		sum += took[i];
		dvmq_count(&queues[i].counters.packets, took[i]);
		if (took[i] > most)
			most = took[i];
	}
	w.packets += sum;
	w.now += cycles;
	cpu += cycles;
	dvmq_count(&w.busy_cycles, cycles);
	if (sum > 0)
		w.last_packet = w.now;
	return sum;
}

/* Polls until the next packet, or is woken for it. */
static void wait_for_packet(void)
{
	uint64_t next = w.now + 10 * MS, waited;

	for (unsigned i = 0; i < n_senders; i++)
		if (senders[i].next < next)
			next = senders[i].next;
	waited = next - w.now;
	cpu += waited < PATIENCE ? waited : PATIENCE + nap_cost;
	w.now = waited < PATIENCE ? next : next + wake_up;
}

static void nap(void)
{
	naps++;
	w.slept_at = w.now;
	w.now += w.trickle.nap + wake_up;
	cpu += nap_cost;
}

static void run(uint64_t ms)
{
	uint64_t end = w.now + ms * MS;

	naps = most = 0;
	cpu_then = cpu;
	for (unsigned i = 0; i < n_senders; i++)
		senders[i].sent = 0;
	while (w.now < end) {
		if (loop() > 0)
			continue;
		if (dvmq_trickle_is_due(&w))
			dvmq_trickle_step(&w, cpu, frugal);
		if (w.trickle.state == DVMQ_TRICKLE_NAP)
			nap();
		else
			wait_for_packet();
	}
}

static double percent(uint64_t ms)
{
	return 100.0 * (cpu - cpu_then) / (ms * MS);
}

static uint64_t all_sent(void)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < n_senders; i++)
		sum += senders[i].sent;
	return sum;
}

static void test_steady(void)
{
	for (unsigned slow = 0; slow < 2; slow++) {
		begin(1);
		add((struct sender){.gap = 9 * US});
		if (!slow) { /* no virtual machine */
			nap_cost = 5 * US;
			wake_up = 4 * US;
		}
		run(100);
		run(1000);
		CU_ASSERT_EQUAL(w.trickle.state, DVMQ_TRICKLE_NAP);
		CU_ASSERT(percent(1000) < 3);
		CU_ASSERT(w.trickle.nap <= (slow ? 2500 : 400) * US);
		CU_ASSERT(most < (slow ? 300 : 60));
	}
}

/* Many that each send little cost no more than one. */
static void test_many(void)
{
	begin(16);
	for (unsigned i = 0; i < 16; i++)
		add((struct sender){.queue = i, .gap = 150 * US});
	run(100);
	run(1000);
	CU_ASSERT(percent(1000) < 5.5);
}

static void test_ring(void)
{
	begin(2);
	atomic_store(&queues[0].counters.capacity, 256);
	add((struct sender){.gap = 9 * US});
	run(100);
	run(1000);
	CU_ASSERT(naps > 1000);
	CU_ASSERT(most <= 88);
	/* More comes, suddenly: no nap lasts until the ring is full, and soon it is a third again. */
	senders[0].gap = 3 * US;
	run(50);
	run(1000);
	CU_ASSERT(naps > 2000);
	CU_ASSERT(most <= 88);
}

static void test_busy_or_silent(void)
{
	begin(1);
	add((struct sender){.gap = 500}); /* two fifths of the time */
	run(1000);
	CU_ASSERT_EQUAL(naps, 0);
	begin(1);
	add((struct sender){.gap = 1 * MS}); /* each packet ends a silence */
	run(1000);
	CU_ASSERT_EQUAL(naps, 0);
	begin(1);
	add((struct sender){.gap = 9 * US});
	run(100);
	CU_ASSERT_EQUAL(w.trickle.state, DVMQ_TRICKLE_NAP);
	senders[0].gap = 400; /* grows: it is polled again */
	run(100);
	CU_ASSERT_EQUAL(w.trickle.state, DVMQ_TRICKLE_WATCH);
	senders[0].gap = 9 * US;
	run(100);
	CU_ASSERT_EQUAL(w.trickle.state, DVMQ_TRICKLE_NAP);
	senders[0].next = UINT64_MAX; /* ends: who comes next wakes */
	run(20);
	naps = 0;
	run(1000);
	CU_ASSERT_EQUAL(naps, 0);
}

/*
 * Packets that `n` senders who wait can send, with naps, and were there none; there may be a trickle beside them.
 * They send on behalf of one another: an answer comes out of another queue.
 */
static void compare_answers(unsigned n, uint64_t think, bool trickle, double least)
{
	uint64_t sent[2];

	for (unsigned with_naps = 0; with_naps < 2; with_naps++) {
		begin(n + 1);
		w.trickle.hold_until = with_naps ? 0 : UINT64_MAX;
		if (trickle)
			add((struct sender){.queue = n, .gap = 9 * US});
		run(100); /* so that they come in the midst of naps */
		for (unsigned i = 0; i < n; i++)
			add((struct sender){.queue = i, .other = (i + 1) % n, .think = think + i});
		run(1500);
		run(1500);
		sent[with_naps] = all_sent() - (trickle ? senders[0].sent : 0);
	}
	CU_ASSERT(sent[1] > sent[0] * least);
	if (sent[1] <= sent[0] * least)
		printf("(%u, %llu us: %.3f) ", n, think / US, (double)sent[1] / sent[0]);
}

static void test_answers(void)
{
	static const unsigned thinks[] = {10, 20, 50, 80, 100, 200, 400};

	for (unsigned i = 0; i < sizeof(thinks) / sizeof(*thinks); i++) {
		compare_answers(1, thinks[i] * US, false, 0.98);
		compare_answers(2, thinks[i] * US, false, 0.97);
		compare_answers(8, thinks[i] * US, false, 0.97);
		compare_answers(32, thinks[i] * US, false, 0.95);
	}
}

/* Nor for the sake of those who do not wait. */
static void test_answers_in_a_trickle(void)
{
	static const unsigned thinks[] = {20, 50, 80};

	for (unsigned i = 0; i < sizeof(thinks) / sizeof(*thinks); i++)
		compare_answers(2, thinks[i] * US, true, 0.95);
}

/* Who pauses does not wait, alone or beside others. */
static void test_pauses(void)
{
	static const struct {
		unsigned on_ms, off_ms, n;
	} cases[] = {{2, 2, 1}, {5, 2, 1}, {20, 2, 1}, {20, 2, 2}, {20, 6, 2}};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		begin(2);
		add((struct sender){.gap = 9 * US, .on = cases[i].on_ms * MS, .off = cases[i].off_ms * MS});
		if (cases[i].n > 1)
			add((struct sender){.queue = 1, .gap = 30 * US});
		run(100);
		run(4000);
		CU_ASSERT(percent(4000) < 7);
		if (percent(4000) >= 7)
			printf("(%u, %u ms: %.1f %%) ", cases[i].on_ms, cases[i].off_ms, percent(4000));
	}
}

/* A slow decline is followed. */
static void test_decline(void)
{
	begin(1);
	add((struct sender){.gap = 5 * US});
	run(100);
	while (senders[0].gap < 50 * US) {
		senders[0].gap += senders[0].gap / 8;
		run(50);
	}
	run(1000);
	CU_ASSERT_EQUAL(w.trickle.state, DVMQ_TRICKLE_NAP);
	CU_ASSERT(percent(1000) < 4.5);
}

static void test_frugal(void)
{
	begin(2);
	frugal = true;
	add((struct sender){.think = 50 * US, .other = 1});
	run(100);
	run(1000);
	CU_ASSERT_EQUAL(w.trickle.hold_until, 0);
	CU_ASSERT(percent(1000) < 5);
	senders[0].next = UINT64_MAX;
	run(20);
	run(1000);
	CU_ASSERT_EQUAL(naps, 0);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"a steady trickle", test_steady},
	    {"of many senders", test_many},
	    {"no ring fills", test_ring},
	    {"neither busy nor silent", test_busy_or_silent},
	    {"who waits for answers", test_answers},
	    {"beside a trickle, too", test_answers_in_a_trickle},
	    {"who pauses", test_pauses},
	    {"less and less", test_decline},
	    {"frugal", test_frugal},
	    CU_TEST_INFO_NULL,
	};

	return unit_run("trickle", tests);
}
