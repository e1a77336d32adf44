/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * src/datapath/handover.c with queues whose polls are fakes: first in one thread,
 * step by step, then several workers and a controller that moves queues as fast
 * as it can.  Built twice, the second time for ThreadSanitizer.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>

#include <dvmq/alarm.h>
#include <dvmq/worker.h>

#include "unit.h"

#define RARE_AFTER 64		/* as in handover.c */
#define FAR	   (1ull << 40) /* TSC cycles: longer than any test runs */

/* A queue and what stands behind it.  Plain on purpose: only the owner may touch it. */
struct fake {
	struct dvmq_queue queue;
	unsigned waiting; /* packets */
	unsigned polls, drains, disarms, unwatches;
	bool at_rest; /* at its last poll */
	struct dvmq_worker *polled_by, *drained_by;
};

static struct fake *fake_of(struct dvmq_queue *queue)
{
	return (struct fake *)((char *)queue - offsetof(struct fake, queue));
}

static struct dvmq_worker *a, *b; /* of the tests in one thread */

/* In the place of sleep.c. */
void dvmq_queue_disarm(struct dvmq_queue *queue)
{
	fake_of(queue)->disarms++;
	queue->armed = false;
}

int dvmq_queue_unwatch(struct dvmq_worker *worker, struct dvmq_queue *queue)
{
	int fd = queue->wake_fd;

	(void)worker;
	fake_of(queue)->unwatches++;
	queue->armed = false;
	queue->wake_fd = -1;
	return fd;
}

static int forgotten; /* the last descriptor */
static bool had_left; /* the queue was on its way then */

void dvmq_fd_forget(struct dvmq_worker *worker, int fd)
{
	(void)worker;
	if (fd < 0)
		return;
	forgotten = fd;
	had_left = b != NULL && atomic_load(&b->inbox) != NULL;
}

unsigned dvmq_n_workers = 2; /* in the place of worker.c */

/* In the place of alarm.c. */
void dvmq_alarm_look(struct dvmq_worker *worker)
{
	worker->window_end = UINT64_MAX;
}

static uint16_t poll_fake(struct dvmq_worker *worker, struct dvmq_queue *queue)
{
	struct fake *fake = fake_of(queue);
	unsigned n = fake->waiting < DVMQ_BURST ? fake->waiting : DVMQ_BURST;

	fake->polls++;
	fake->polled_by = worker;
	fake->at_rest = !atomic_load(&queue->in_transit);
	fake->waiting -= n;
	return n;
}

static void drain_fake(struct dvmq_worker *worker, struct dvmq_queue *queue)
{
	struct fake *fake = fake_of(queue);

	fake->drains++;
	fake->drained_by = worker;
	CU_ASSERT_PTR_EQUAL(atomic_load(&queue->owner), worker);
}

static struct dvmq_worker *worker_new(unsigned index, unsigned max_queues)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	struct dvmq_worker *w = aligned_alloc(64, sizeof(*w));

	CU_ASSERT_PTR_NOT_NULL_FATAL(w);
	memset(w, 0, sizeof(*w));
	w->index = index;
	w->burst = DVMQ_BURST;
	w->queues = calloc(max_queues, sizeof(*w->queues));
	w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	CU_ASSERT_PTR_NOT_NULL_FATAL(w->queues);
	CU_ASSERT_EQUAL_FATAL(epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->wake_fd, &event), 0);
	w->stolen_cycles = FAR;
	w->now = rte_rdtsc();
	return w;
}

static void worker_free(struct dvmq_worker *w)
{
	close(w->wake_fd);
	close(w->epoll_fd);
	free(w->queues);
	free(w);
}

/* ---- one thread, step by step ---- */

#define QUEUES 16

static struct fake fakes[QUEUES];

static void begin(void)
{
	a = worker_new(0, QUEUES);
	b = worker_new(1, QUEUES);
	memset(fakes, 0, sizeof(fakes));
	atomic_store(&dvmq_alone, NULL);
	for (unsigned i = 0; i < QUEUES; i++) {
		fakes[i].queue.poll = poll_fake;
		fakes[i].queue.wake_fd = -1;
	}
}

static void end(void)
{
	worker_free(a);
	worker_free(b);
	a = b = NULL;
}

static struct dvmq_worker *owner_of(unsigned i)
{
	return atomic_load(&fakes[i].queue.owner);
}

static bool in_transit(unsigned i)
{
	return atomic_load(&fakes[i].queue.in_transit);
}

static uint64_t value(_Atomic uint64_t *counter)
{
	return atomic_load(counter);
}

static void give_all_to_a(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[i].queue, a));
	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(a->n, n);
}

/* The worker's list is what it should be: everybody knows its place, hot ones are in front, quiet guests at the end. */
static void check_list(const struct dvmq_worker *w)
{
	unsigned wrong = 0;

	CU_ASSERT(w->n_hot <= w->n_eager && w->n_eager <= w->n);
	CU_ASSERT_EQUAL(atomic_load(&w->n_queues), w->n);
	for (unsigned i = 0; i < w->n; i++) {
		wrong += w->queues[i]->place != i;
		wrong += (w->queues[i]->empty_run >= RARE_AFTER) != (i >= w->n_hot);
		wrong += i >= w->n_hot && (w->queues[i]->kind == DVMQ_QUEUE_GUEST) != (i >= w->n_eager);
	}
	CU_ASSERT_EQUAL(wrong, 0);
}

static void test_take(void)
{
	begin();
	fakes[0].waiting = 3;
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, a));
	CU_ASSERT_TRUE(in_transit(0));
	CU_ASSERT_PTR_NULL(owner_of(0));
	CU_ASSERT_EQUAL(fakes[0].polls, 0);

	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(fakes[0].polls, 1); /* in the same iteration */
	CU_ASSERT_EQUAL(fakes[0].waiting, 0);
	CU_ASSERT_FALSE(fakes[0].at_rest); /* whoever sees that it has arrived knows that it was polled */
	CU_ASSERT_FALSE(in_transit(0));
	CU_ASSERT_PTR_EQUAL(owner_of(0), a);
	CU_ASSERT_EQUAL(value(&fakes[0].queue.moves), 0); /* its first worker: no move */
	check_list(a);
	CU_ASSERT_EQUAL(dvmq_worker_loop(a), 0);
	CU_ASSERT_EQUAL(fakes[0].polls, 2);
	end();
}

static void test_give(void)
{
	begin();
	give_all_to_a(3);
	fakes[1].waiting = 10;
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[1].queue, b));
	CU_ASSERT_PTR_NOT_NULL(atomic_load(&a->inbox)); /* asks the one that has it ... */
	CU_ASSERT_PTR_NULL(atomic_load(&b->inbox));

	dvmq_inbox_serve(a);
	CU_ASSERT_PTR_NULL(atomic_load(&a->inbox));
	CU_ASSERT_PTR_NOT_NULL(atomic_load(&b->inbox)); /* ... which passes it on */
	CU_ASSERT_TRUE(in_transit(1));
	CU_ASSERT_EQUAL(a->n, 2);
	CU_ASSERT_EQUAL(fakes[1].unwatches, 1);
	check_list(a);
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(fakes[0].polls, 2);
	CU_ASSERT_EQUAL(fakes[2].polls, 2);
	CU_ASSERT_EQUAL(fakes[1].polls, 1); /* by nobody on the way */
	CU_ASSERT_EQUAL(fakes[1].waiting, 10);

	dvmq_inbox_serve(b);
	CU_ASSERT_EQUAL(fakes[1].polls, 2);
	CU_ASSERT_EQUAL(fakes[1].waiting, 0);
	CU_ASSERT_PTR_EQUAL(fakes[1].polled_by, b);
	CU_ASSERT_PTR_EQUAL(owner_of(1), b);
	CU_ASSERT_FALSE(in_transit(1));
	CU_ASSERT_EQUAL(value(&fakes[1].queue.moves), 1);
	CU_ASSERT_EQUAL(fakes[1].drains, 0);
	check_list(b);
	end();
}

static void test_one_way_at_a_time(void)
{
	begin();
	give_all_to_a(1);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, a)); /* it has it */
	CU_ASSERT_FALSE(in_transit(0));
	CU_ASSERT_PTR_NULL(atomic_load(&a->inbox));

	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, b));
	CU_ASSERT_FALSE(dvmq_queue_hand(&fakes[0].queue, a));
	CU_ASSERT_FALSE(dvmq_queue_hand(&fakes[0].queue, b));
	CU_ASSERT_FALSE(dvmq_queue_hand(&fakes[0].queue, NULL));
	dvmq_inbox_serve(a);
	CU_ASSERT_FALSE(dvmq_queue_hand(&fakes[0].queue, NULL)); /* still on its way: b does not know yet */
	dvmq_inbox_serve(b);
	CU_ASSERT_PTR_EQUAL(owner_of(0), b);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, NULL));
	end();
}

static void test_nobody(void)
{
	begin();
	for (unsigned i = 0; i < 2; i++)
		fakes[i].queue.drain = drain_fake;
	give_all_to_a(3);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, NULL)); /* with a drain */
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[2].queue, NULL)); /* without */
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[1].queue, b));	/* with one, but it stays polled */
	dvmq_inbox_serve(a);
	dvmq_inbox_serve(b);
	CU_ASSERT_EQUAL(fakes[0].drains, 1);
	CU_ASSERT_PTR_EQUAL(fakes[0].drained_by, a);
	CU_ASSERT_EQUAL(fakes[1].drains, 0);
	CU_ASSERT_EQUAL(fakes[0].unwatches, 1);
	CU_ASSERT_EQUAL(a->n, 0);
	for (unsigned i = 0; i < 3; i += 2) {
		CU_ASSERT_PTR_NULL(owner_of(i));
		CU_ASSERT_FALSE(in_transit(i));
		CU_ASSERT_EQUAL(value(&fakes[i].queue.moves), 0);
	}
	CU_ASSERT_EQUAL(dvmq_worker_loop(a), 0);
	CU_ASSERT_EQUAL(fakes[0].polls, 1);
	CU_ASSERT_EQUAL(fakes[2].polls, 1);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, NULL)); /* nobody has it already */
	CU_ASSERT_FALSE(in_transit(0));
	CU_ASSERT_EQUAL(fakes[0].drains, 1);
	end();
}

static struct dvmq_worker *look_for_alone(unsigned n)
{
	struct dvmq_queue *queues[QUEUES];

	for (unsigned i = 0; i < n; i++)
		queues[i] = &fakes[i].queue;
	dvmq_look_for_alone(queues, n);
	return atomic_load(&dvmq_alone);
}

static void test_who_is_alone(void)
{
	begin();
	CU_ASSERT_PTR_NULL(look_for_alone(3)); /* nobody has any */
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, a));
	CU_ASSERT_PTR_NULL(look_for_alone(3)); /* on its way */
	dvmq_inbox_serve(a);
	CU_ASSERT_PTR_EQUAL(look_for_alone(3), a); /* and the others belong to nobody */
	CU_ASSERT_TRUE(dvmq_is_alone(a));
	CU_ASSERT_FALSE(dvmq_is_alone(b));

	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[1].queue, a)); /* one more for who is alone: nobody has to know */
	dvmq_inbox_serve(a);
	CU_ASSERT_PTR_EQUAL(owner_of(1), a);
	CU_ASSERT_PTR_EQUAL(look_for_alone(3), a);

	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[1].queue, b));
	CU_ASSERT_TRUE(dvmq_is_alone(a)); /* a may be in a turn */
	dvmq_inbox_serve(a);
	CU_ASSERT_PTR_NULL(atomic_load(&dvmq_alone)); /* before b polls */
	CU_ASSERT_PTR_NULL(look_for_alone(3));	      /* though both are a's still, to look at */
	dvmq_inbox_serve(b);
	CU_ASSERT_PTR_NULL(look_for_alone(3)); /* two have queues */

	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, NULL));
	CU_ASSERT_PTR_NULL(look_for_alone(3));
	dvmq_inbox_serve(a);
	CU_ASSERT_PTR_EQUAL(look_for_alone(3), b);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[1].queue, NULL));
	dvmq_inbox_serve(b);
	CU_ASSERT_PTR_NULL(look_for_alone(3));
	end();
}

static void test_alone_no_longer(void)
{
	begin();
	give_all_to_a(1);
	CU_ASSERT_PTR_EQUAL(look_for_alone(3), a);
	for (unsigned i = 1; i < 3; i++)
		CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[i].queue, b)); /* that nobody polls */
	CU_ASSERT_PTR_NULL(atomic_load(&b->inbox));
	CU_ASSERT_TRUE(in_transit(1));
	CU_ASSERT_PTR_EQUAL(look_for_alone(3), a);

	dvmq_inbox_serve(a); /* it knows, */
	CU_ASSERT_PTR_NULL(atomic_load(&dvmq_alone));
	CU_ASSERT_EQUAL(a->n, 1);
	CU_ASSERT_EQUAL(fakes[1].polls + fakes[2].polls, 0);
	dvmq_inbox_serve(b); /* so the other one may send */
	for (unsigned i = 1; i < 3; i++) {
		CU_ASSERT_PTR_EQUAL(owner_of(i), b);
		CU_ASSERT_FALSE(in_transit(i));
		CU_ASSERT_EQUAL(fakes[i].polls, 1);
		CU_ASSERT_EQUAL(fakes[i].unwatches, 0);
		CU_ASSERT_EQUAL(value(&fakes[i].queue.moves), 0); /* its first worker */
	}
	check_list(a);
	check_list(b);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[3].queue, b)); /* nobody is alone: directly */
	CU_ASSERT_PTR_NULL(atomic_load(&a->inbox));
	dvmq_inbox_serve(b);
	CU_ASSERT_PTR_EQUAL(owner_of(3), b);
	end();
}

static void test_many_messages(void)
{
	begin();
	give_all_to_a(8);
	for (unsigned i = 0; i < 4; i++)
		CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[i].queue, i < 3 ? b : NULL));
	for (unsigned i = 8; i < QUEUES; i++)
		CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[i].queue, a));
	dvmq_inbox_serve(a);
	dvmq_inbox_serve(b);
	CU_ASSERT_EQUAL(a->n, QUEUES - 4);
	CU_ASSERT_EQUAL(b->n, 3);
	for (unsigned i = 0; i < QUEUES; i++) {
		CU_ASSERT_PTR_EQUAL(owner_of(i), i < 3 ? b : i == 3 ? NULL : a);
		CU_ASSERT_FALSE(in_transit(i));
	}
	check_list(a);
	check_list(b);
	dvmq_inbox_serve(a); /* nothing there: nothing happens */
	CU_ASSERT_EQUAL(a->n, QUEUES - 4);
	end();
}

static void test_rare(void)
{
	unsigned before;

	begin();
	fakes[3].waiting = 1000000;
	give_all_to_a(4); /* their first turn */
	for (unsigned i = 2; i < RARE_AFTER; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(a->n_hot, 4);
	for (unsigned i = 0; i < 4; i++)
		CU_ASSERT_EQUAL(fakes[i].polls, RARE_AFTER - 1);
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(a->n_hot, 1); /* after the 64th empty turn */
	check_list(a);

	for (unsigned i = 0; i < 4; i++)
		fakes[i].polls = 0;
	for (unsigned i = 0; i < 30; i++) {
		dvmq_worker_loop(a);
		before = fakes[0].polls + fakes[1].polls + fakes[2].polls;
		CU_ASSERT_EQUAL(before, i + 1); /* one look per loop for all of them */
	}
	for (unsigned i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(fakes[i].polls, 10); /* which they share fairly */
	CU_ASSERT_EQUAL(fakes[3].polls, 30);

	fakes[1].waiting = 1;
	fakes[1].queue.armed = true;
	for (unsigned i = 0; i < 3; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(fakes[1].waiting, 0); /* found within a round ... */
	CU_ASSERT_EQUAL(a->n_hot, 2);
	CU_ASSERT_EQUAL(fakes[1].disarms, 1);
	CU_ASSERT_EQUAL(fakes[0].disarms, 0);
	check_list(a);
	before = fakes[1].polls;
	for (unsigned i = 0; i < 5; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(fakes[1].polls, before + 5); /* ... and hot again */
	end();
}

/* 0: busy; 1, 2: quiet NIC queues; 3 to 6: quiet guests. */
static void begin_quiet(void)
{
	begin();
	for (unsigned i = 3; i < 7; i++)
		fakes[i].queue.kind = DVMQ_QUEUE_GUEST;
	fakes[0].waiting = 1000000;
	give_all_to_a(7);
	for (unsigned i = 0; i < RARE_AFTER; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(a->n_hot, 1);
	CU_ASSERT_EQUAL(a->n_eager, 3);
	check_list(a);
	for (unsigned i = 0; i < 7; i++)
		fakes[i].polls = 0;
}

static unsigned polls(unsigned first, unsigned last)
{
	unsigned sum = 0;

	for (unsigned i = first; i <= last; i++)
		sum += fakes[i].polls;
	return sum;
}

static void move_to_b(unsigned i)
{
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[i].queue, b));
	dvmq_inbox_serve(a);
	dvmq_inbox_serve(b);
	CU_ASSERT_PTR_EQUAL(owner_of(i), b);
}

/* NIC queues overflow, guests wait: they take turns apart. */
static void test_two_sorts(void)
{
	begin_quiet();
	for (unsigned i = 0; i < 20; i++) {
		dvmq_worker_loop(a); /* look_max is 0: each loop may look */
		CU_ASSERT_EQUAL(polls(1, 2), i + 1);
		CU_ASSERT_EQUAL(polls(3, 6), i + 1);
	}
	CU_ASSERT_EQUAL(fakes[1].polls, 10);
	CU_ASSERT_EQUAL(fakes[3].polls, 5);

	fakes[5].waiting = 1;
	for (unsigned i = 0; i < 4; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(fakes[5].waiting, 0);
	CU_ASSERT_EQUAL(a->n_hot, 2);
	CU_ASSERT_EQUAL(a->n_eager, 4);
	check_list(a);
	move_to_b(1);
	move_to_b(4);
	move_to_b(5);
	check_list(a);
	check_list(b);
	end();
}

/* Beside traffic, looks at quiet queues take a small part of the time; without, they may take all of it. */
static void test_share(void)
{
	unsigned before;

	begin_quiet();
	a->look_max = FAR;
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(polls(1, 6), 2);
	CU_ASSERT(a->look_at > a->now);
	a->look_at = a->now + FAR;
	for (unsigned i = 0; i < 100; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(polls(1, 6), 2);
	CU_ASSERT_EQUAL(fakes[0].polls, 101);
	a->look_at = a->now;
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(polls(1, 6), 4);

	a->look_at = 0;
	a->look_max = 10; /* an interrupt during a look is not charged to the next ones */
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(a->look_at, a->now + 10 * 63);

	a->look_at = 0;
	fakes[1].waiting = fakes[2].waiting = 1;
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(a->look_at, 0); /* where one wakes up, others may */
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(fakes[1].waiting + fakes[2].waiting, 0);

	fakes[0].waiting = 0;
	a->look_at = a->now + FAR;
	before = polls(3, 6);
	for (unsigned i = 0; i < 8; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(polls(3, 6), before + 8);
	end();
}

static void test_kicked(void)
{
	begin_quiet();
	a->look_at = a->now + FAR;
	fakes[4].queue.armed = true;
	fakes[4].waiting = 5;
	a->unarmed_guest = false;
	dvmq_queue_kicked(a, &fakes[4].queue);
	check_list(a);
	CU_ASSERT_EQUAL(a->n_hot, 2);
	CU_ASSERT_EQUAL(fakes[4].disarms, 1);
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(fakes[4].waiting, 0);
	dvmq_queue_kicked(a, &fakes[4].queue); /* once more, for nothing */
	CU_ASSERT_EQUAL(a->n_hot, 2);
	CU_ASSERT_FALSE(a->unarmed_guest);
	for (unsigned i = 0; i < RARE_AFTER; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(a->n_hot, 1);
	CU_ASSERT_TRUE(a->unarmed_guest); /* before the next sleep it has to be armed again */
	check_list(a);

	fakes[0].queue.armed = true; /* for a sleep that was not to be, as there were packets: it never was quiet */
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(fakes[0].disarms, 1);
	CU_ASSERT_FALSE(fakes[0].queue.armed);
	end();
}

/* An hour of silence, and then a burst. */
static void test_long_silence(void)
{
	begin_quiet();
	fakes[0].waiting = 0;
	for (unsigned i = 0; i < 200000; i++) /* more than any counter of empty turns holds */
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(a->n_hot, 0);
	check_list(a);
	for (unsigned i = 0; i < 7; i++)
		fakes[i].waiting = 1000;
	for (unsigned i = 0; i < 4 + 1000 / DVMQ_BURST; i++)
		dvmq_worker_loop(a);
	for (unsigned i = 0; i < 7; i++)
		CU_ASSERT(fakes[i].waiting <= 1000 - 1000 / DVMQ_BURST * DVMQ_BURST);
	CU_ASSERT_EQUAL(a->n_hot, 7);
	end();
}

/* What a queue that stops and starts again does to the others: nobody is forgotten, whatever the order. */
static void test_random_steps(void)
{
	unsigned polls[QUEUES], forgotten = 0, strangers = 0;
	struct dvmq_worker *targets[] = {NULL, a, b};
	unsigned seed = 1;

	begin();
	for (unsigned i = 0; i < QUEUES; i++)
		fakes[i].queue.kind = i % 2 ? DVMQ_QUEUE_GUEST : DVMQ_QUEUE_VMQ;
	targets[1] = a;
	targets[2] = b;
	for (unsigned step = 0; step < 20000; step++) {
		struct fake *fake = &fakes[rand_r(&seed) % QUEUES];

		if (rand_r(&seed) % 4 == 0)
			fake->waiting += 1 + rand_r(&seed) % 100;
		if (rand_r(&seed) % 8 == 0)
			dvmq_queue_hand(&fake->queue, targets[rand_r(&seed) % 3]);
		if (rand_r(&seed) % 8 == 0 && owner_of(fake - fakes) != NULL && !in_transit(fake - fakes))
			dvmq_queue_kicked(owner_of(fake - fakes), &fake->queue);
		for (unsigned i = rand_r(&seed) % 4 == 0 ? 100 : 1; i > 0; i--) {
			dvmq_worker_loop(a);
			dvmq_worker_loop(b);
		}
		if (rand_r(&seed) % 2 == 0)
			dvmq_inbox_serve(a);
		if (rand_r(&seed) % 2 == 0)
			dvmq_inbox_serve(b);
		if (step % 100 == 0) {
			check_list(a);
			check_list(b);
		}
	}
	for (unsigned i = 0; i < 3; i++) {
		dvmq_inbox_serve(a);
		dvmq_inbox_serve(b);
	}
	for (unsigned i = 0; i < QUEUES; i++)
		polls[i] = fakes[i].polls;
	for (unsigned i = 0; i < QUEUES; i++) {
		dvmq_worker_loop(a);
		dvmq_worker_loop(b);
	}
	for (unsigned i = 0; i < QUEUES; i++) {
		CU_ASSERT_FALSE(in_transit(i));
		forgotten += owner_of(i) != NULL && fakes[i].polls == polls[i];
		strangers += owner_of(i) == NULL ? fakes[i].polls != polls[i] : fakes[i].polled_by != owner_of(i);
	}
	CU_ASSERT_EQUAL(forgotten, 0);
	CU_ASSERT_EQUAL(strangers, 0);
	end();
}

static void test_counters(void)
{
	struct dvmq_queue_counters *c = &fakes[0].queue.counters;

	begin();
	fakes[0].waiting = DVMQ_BURST + 10;
	a->now -= FAR / 2;
	give_all_to_a(1);
	CU_ASSERT_EQUAL(value(&c->turns), 1);
	CU_ASSERT_EQUAL(value(&c->full_turns), 1);
	CU_ASSERT_EQUAL(value(&c->emptied), 0);
	CU_ASSERT(value(&c->cycles) < FAR / 4); /* not for what was before it came */

	CU_ASSERT_EQUAL(dvmq_worker_loop(a), 10);
	CU_ASSERT_EQUAL(value(&c->turns), 2);
	CU_ASSERT_EQUAL(value(&c->full_turns), 1);
	CU_ASSERT_EQUAL(value(&c->emptied), 1);

	CU_ASSERT_EQUAL(dvmq_worker_loop(a), 0);
	CU_ASSERT_EQUAL(value(&c->turns), 2);
	CU_ASSERT_EQUAL(value(&c->emptied), 2);
	fakes[0].waiting = DVMQ_BURST - 1;
	CU_ASSERT_EQUAL(dvmq_worker_loop(a), DVMQ_BURST - 1);
	CU_ASSERT_EQUAL(value(&c->full_turns), 1);
	CU_ASSERT_EQUAL(value(&c->emptied), 3);
	CU_ASSERT_EQUAL(value(&a->busy_cycles), value(&c->cycles));
	CU_ASSERT_EQUAL(value(&a->loops), 3);
	end();
}

/* All cycles since the turn before are a busy queue's; an empty turn is nobody's. */
static void test_cycles(void)
{
	begin();
	give_all_to_a(2);
	fakes[0].waiting = fakes[1].waiting = 1;
	a->now = rte_rdtsc() - FAR / 2;
	dvmq_worker_loop(a);
	CU_ASSERT(value(&fakes[a->queues[0] == &fakes[1].queue].queue.counters.cycles) >= FAR / 2);
	CU_ASSERT(value(&fakes[a->queues[0] != &fakes[1].queue].queue.counters.cycles) < FAR / 4);
	CU_ASSERT_EQUAL(a->last_packet, a->now);
	end();

	begin();
	give_all_to_a(2);
	fake_of(a->queues[1])->waiting = 1;
	a->now = rte_rdtsc() - FAR / 2;
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(value(&a->queues[0]->counters.cycles), 0);
	CU_ASSERT(value(&a->queues[1]->counters.cycles) < FAR / 4);
	CU_ASSERT(value(&a->busy_cycles) < FAR / 4);
	end();
}

static void test_stolen(void)
{
	struct dvmq_queue_counters *c = &fakes[0].queue.counters;
	uint64_t cycles;

	begin();
	give_all_to_a(1);
	fakes[0].waiting = 1;
	a->now = rte_rdtsc() - 2 * FAR;
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(value(&c->stolen), 1);
	CU_ASSERT_EQUAL(value(&c->cycles), 0); /* no turn before it, so no average */
	CU_ASSERT_EQUAL(value(&c->turns), 1);

	for (unsigned i = 0; i < 9; i++) {
		fakes[0].waiting = 1;
		a->now = rte_rdtsc() - 1000000;
		dvmq_worker_loop(a);
	}
	cycles = value(&c->cycles);
	CU_ASSERT_EQUAL(value(&c->stolen), 1);
	CU_ASSERT(cycles >= 9000000);
	fakes[0].waiting = 1;
	a->now = rte_rdtsc() - 2 * FAR;
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(value(&c->stolen), 2);
	CU_ASSERT_EQUAL(value(&c->turns), 11);
	CU_ASSERT_EQUAL(value(&c->cycles), cycles + cycles / 10);
	CU_ASSERT_EQUAL(value(&a->busy_cycles), value(&c->cycles));
	end();
}

static void test_bulk(void)
{
	struct dvmq_queue_counters *c = &fakes[0].queue.counters;

	begin();
	give_all_to_a(1);
	fakes[0].waiting = DVMQ_BULK - 1;
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(value(&c->bulk_packets), 0);
	CU_ASSERT_EQUAL(value(&c->bulk_cycles), 0);
	fakes[0].waiting = DVMQ_BULK;
	a->now = rte_rdtsc() - FAR / 2;
	dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(value(&c->bulk_packets), DVMQ_BULK);
	CU_ASSERT(value(&c->bulk_cycles) >= FAR / 2 && value(&c->bulk_cycles) < FAR);
	CU_ASSERT_EQUAL(a->bulk_packets, DVMQ_BULK);
	end();
}

/* A queue that is left alone for a moment: nobody pays for it, and no move or drain waits for it. */
static void test_gathers(void)
{
	struct dvmq_gather *gather = &fakes[0].queue.gather;

	begin();
	give_all_to_a(2);
	fakes[0].waiting = fakes[1].waiting = 1;
	gather->until = UINT64_MAX;
	gather->length = FAR;
	a->now = rte_rdtsc() - FAR / 2;
	CU_ASSERT_EQUAL(dvmq_worker_loop(a), 1);
	CU_ASSERT_EQUAL(fakes[0].waiting, 1);
	CU_ASSERT_EQUAL(fakes[0].polls, 1);
	CU_ASSERT_EQUAL(fakes[1].polls, 2);
	a->now = rte_rdtsc() - FAR / 2;
	CU_ASSERT_EQUAL(dvmq_worker_loop(a), 0);
	gather->until = 1; /* over */
	CU_ASSERT_EQUAL(dvmq_worker_loop(a), 1);
	CU_ASSERT_EQUAL(gather->until, 0);
	CU_ASSERT(gather->due <= a->now); /* it brought too little */
	CU_ASSERT(value(&fakes[0].queue.counters.cycles) < FAR / 4);

	gather->until = UINT64_MAX;
	fakes[0].waiting = 3 * DVMQ_BURST;
	CU_ASSERT_TRUE(dvmq_queue_drain(&fakes[0].queue));
	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(fakes[0].waiting, 0);
	fakes[0].waiting = 1;
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, b));
	dvmq_inbox_serve(a);
	dvmq_inbox_serve(b);
	CU_ASSERT_EQUAL(fakes[0].waiting, 0);
	fakes[0].waiting = 1;
	CU_ASSERT_EQUAL(dvmq_worker_loop(b), 1);
	/* With nothing else to do, too, time must not stand still. */
	gather->until = UINT64_MAX;
	b->now = rte_rdtsc() - FAR / 2;
	CU_ASSERT_EQUAL(dvmq_worker_loop(b), 0);
	CU_ASSERT(rte_rdtsc() - b->now < FAR / 4);
	end();
}

static uint64_t pauses(const struct dvmq_queue *queue)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < DVMQ_PAUSE_TIMES; i++)
		n += atomic_load(&queue->pause_times[i]);
	return n;
}

/* 0 goes from A to B, which makes that many loops with packets in the meantime, and three empty ones before each. */
static void move_during(unsigned loops)
{
	struct dvmq_queue *queue = &fakes[0].queue;

	CU_ASSERT_TRUE(dvmq_queue_hand(queue, b));
	dvmq_inbox_serve(a);
	for (unsigned i = 0; i < 4 * loops + 3; i++) {
		fakes[1].waiting = i % 4 == 3;
		b->loop_ended = queue->left_at; /* whatever the machine does to us here */
		dvmq_worker_loop(b);
	}
	dvmq_inbox_serve(b);
}

static void back_to_a(void)
{
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, a));
	dvmq_inbox_serve(b);
	dvmq_inbox_serve(a);
}

static void begin_pauses(void)
{
	begin();
	a->cycles_per_us = b->cycles_per_us = 1000;
	give_all_to_a(2);
	move_to_b(1); /* so that B has something to do */
	dvmq_worker_loop(b);
	CU_ASSERT_EQUAL(pauses(&fakes[0].queue), 0);
}

/* 1: B was in the midst of a loop with packets, or had none.  Each more of them is one more; empty ones do not count.
 */
static void test_pause_in_loops(void)
{
	struct dvmq_queue *queue = &fakes[0].queue;

	begin_pauses();
	for (unsigned loops = 0; loops < DVMQ_PAUSE_LOOPS + 3; loops++) {
		unsigned bucket = loops < 2 ? 0 : loops > DVMQ_PAUSE_LOOPS ? DVMQ_PAUSE_LOOPS - 1 : loops - 1;
		uint64_t before = value(&queue->pause_loops[bucket]);

		move_during(loops);
		CU_ASSERT_EQUAL(value(&queue->pause_loops[bucket]), before + 1);
		CU_ASSERT_EQUAL(pauses(queue), 2 * loops + 1);
		CU_ASSERT_EQUAL(value(&queue->pause_stolen), 0);
		back_to_a();
		for (unsigned i = 0; i < DVMQ_PAUSE_LOOPS; i++) /* only B is looked at */
			atomic_store(&queue->pause_loops[i], 0);
		atomic_store(&queue->pause_stolen, 0);
	}
	end();
}

/* A was interrupted before it had posted the queue: B knows, since it looked in vain long after that began. */
static void test_pause_stolen(void)
{
	struct dvmq_queue *queue = &fakes[0].queue;
	const uint64_t limit = 2 * 1000; /* POST_US */

	begin_pauses();
	for (unsigned held_up = 0; held_up < 2; held_up++) {
		CU_ASSERT_TRUE(dvmq_queue_hand(queue, b));
		dvmq_inbox_serve(a);
		b->loop_ended = queue->left_at + limit + held_up; /* then it looked into its mailbox, in vain */
		dvmq_worker_loop(b);
		dvmq_inbox_serve(b);
		CU_ASSERT_EQUAL(value(&queue->pause_stolen), held_up);
		CU_ASSERT_EQUAL(value(&queue->pause_loops[0]), 1);
		CU_ASSERT_EQUAL(pauses(queue), 2 * held_up + 1); /* it was a pause all the same */
		back_to_a();
		atomic_store(&queue->pause_loops[0], 1); /* only B is looked at */
		atomic_store(&queue->pause_stolen, held_up);
	}

	/* B was in a long turn of a queue that it took: since its last look only a moment had passed. */
	CU_ASSERT_TRUE(dvmq_queue_hand(queue, b));
	dvmq_inbox_serve(a);
	b->loop_ended = queue->left_at;
	b->now = queue->left_at + FAR;
	dvmq_worker_loop(b);
	dvmq_inbox_serve(b);
	CU_ASSERT_EQUAL(value(&queue->pause_stolen), 1);
	CU_ASSERT_EQUAL(value(&queue->pause_loops[0]), 2);
	end();
}

/* System calls that the queue need not wait for come when it is on its way. */
static void test_late_system_calls(void)
{
	begin();
	give_all_to_a(2);
	fakes[0].queue.wake_fd = 1000;
	fakes[1].queue.wake_fd = 1001;
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, b));
	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(forgotten, 1000);
	CU_ASSERT_TRUE(had_left);
	dvmq_inbox_serve(b);
	CU_ASSERT_EQUAL(fakes[0].queue.wake_fd, -1);

	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[1].queue, NULL));
	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(forgotten, 1001);
	end();
}

static void test_pause_buckets(void)
{
	CU_ASSERT_EQUAL(dvmq_pause_bucket(0), 0);
	CU_ASSERT_EQUAL(dvmq_pause_bucket(383), 0);
	CU_ASSERT_EQUAL(dvmq_pause_bucket(384), 1);
	CU_ASSERT_EQUAL(dvmq_pause_bucket(512), 2);
	CU_ASSERT_EQUAL(dvmq_pause_bucket(3ull << 20), 2 * (21 - 8) + 1);
	CU_ASSERT_EQUAL(dvmq_pause_bucket(UINT64_MAX), DVMQ_PAUSE_TIMES - 1);
}

static void test_pause(void)
{
	begin();
	give_all_to_a(4);
	CU_ASSERT_EQUAL(value(&fakes[0].queue.pause_max), 0); /* nobody missed it before */
	fakes[0].queue.last_turn -= FAR;
	move_to_b(0);
	CU_ASSERT(value(&fakes[0].queue.pause_max) >= FAR);
	CU_ASSERT(value(&fakes[0].queue.pause_max) < FAR + FAR / 4);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, a)); /* a shorter one does not lower it */
	dvmq_inbox_serve(b);
	dvmq_inbox_serve(a);
	CU_ASSERT(value(&fakes[0].queue.pause_max) >= FAR);

	for (unsigned i = 0; i < RARE_AFTER; i++)
		dvmq_worker_loop(a);
	CU_ASSERT_EQUAL(a->n_hot, 0);
	fakes[1].queue.last_turn -= FAR; /* a quiet queue was not looked at for lack of traffic: that is no pause */
	move_to_b(1);
	CU_ASSERT(value(&fakes[1].queue.pause_max) < FAR / 4);

	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[2].queue, NULL)); /* nor is time that nobody should poll it */
	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(fakes[2].queue.last_turn, 0);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[2].queue, b));
	dvmq_inbox_serve(b);
	CU_ASSERT_EQUAL(value(&fakes[2].queue.pause_max), 0);

	dvmq_queue_kicked(a, &fakes[3].queue);
	fakes[3].queue.last_turn -= FAR;
	a->woke_at = rte_rdtsc(); /* nor is the sleep of its worker */
	move_to_b(3);
	CU_ASSERT(value(&fakes[3].queue.pause_max) < FAR / 4);
	end();
}

/* What waits is taken at once, but not what comes meanwhile: a ring's worth is enough. */
static void test_drain(void)
{
	_Atomic uint32_t *capacity = &fakes[0].queue.counters.capacity;

	begin();
	CU_ASSERT_TRUE(dvmq_queue_drain(&fakes[0].queue)); /* nobody polls it: that is all */
	CU_ASSERT_FALSE(in_transit(0));
	give_all_to_a(1);

	fakes[0].waiting = 2 * DVMQ_BURST + 10;
	CU_ASSERT_TRUE(dvmq_queue_drain(&fakes[0].queue));
	CU_ASSERT_TRUE(in_transit(0));
	CU_ASSERT_FALSE(dvmq_queue_drain(&fakes[0].queue)); /* its message is on its way */
	CU_ASSERT_FALSE(dvmq_queue_hand(&fakes[0].queue, b));
	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(fakes[0].waiting, 0);
	CU_ASSERT_FALSE(fakes[0].at_rest); /* whoever sees that it is done knows that it is empty */
	CU_ASSERT_FALSE(in_transit(0));
	CU_ASSERT_PTR_EQUAL(owner_of(0), a);
	check_list(a);

	fakes[0].waiting = 10 * DVMQ_BURST;
	atomic_store(capacity, 3 * DVMQ_BURST - 1);
	CU_ASSERT_TRUE(dvmq_queue_drain(&fakes[0].queue));
	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(fakes[0].waiting, 7 * DVMQ_BURST);
	atomic_store(capacity, 0); /* unknown */
	fakes[0].waiting = 1000 * DVMQ_BURST;
	CU_ASSERT_TRUE(dvmq_queue_drain(&fakes[0].queue));
	dvmq_inbox_serve(a);
	CU_ASSERT(fakes[0].waiting > 0 && fakes[0].waiting <= 1000 * DVMQ_BURST - 4096);
	end();
}

static bool was_woken(struct dvmq_worker *w)
{
	eventfd_t ignored;

	return eventfd_read(w->wake_fd, &ignored) == 0;
}

static void test_wake(void)
{
	begin();
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, a));
	CU_ASSERT_FALSE(was_woken(a)); /* awake: no system call */
	atomic_store(&a->asleep, true);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[1].queue, a));
	CU_ASSERT_TRUE(was_woken(a));
	dvmq_inbox_serve(a);
	CU_ASSERT_EQUAL(a->n, 2);

	atomic_store(&b->asleep, true);
	CU_ASSERT_TRUE(dvmq_queue_hand(&fakes[0].queue, b));
	CU_ASSERT_TRUE(was_woken(a));
	CU_ASSERT_FALSE(was_woken(b)); /* not before it has the queue */
	dvmq_inbox_serve(a);
	CU_ASSERT_TRUE(was_woken(b));
	dvmq_worker_wake(b);
	CU_ASSERT_TRUE(was_woken(b));
	end();
}

/* ---- several threads ---- */

#define WORKERS	   4
#define MOVING	   32
#define HANDS	   100000
#define PATIENCE_S 60 /* only a failure takes that long */

/*
 * A queue that moves.  The owner's members are plain, so that ThreadSanitizer
 * sees pollers without an order between them, and `tail` is wrong if what the
 * worker before wrote did not come along.
 */
struct moving {
	/* Owner only. */
	struct fake fake;
	uint64_t tail; /* the next packet to take */

	/* Packets that came, written by the controller; and that were taken, written by the owner. */
	_Atomic uint64_t head, delivered;
	_Atomic unsigned poller; /* index + 1 of who is in the poll or drain, 0: nobody */
	_Atomic unsigned last_poller;

	/* Controller only. */
	struct dvmq_worker *target; /* where it was sent last */
	uint64_t moves;
};

static struct moving moving[MOVING];
static struct dvmq_worker *workers[WORKERS];
static _Atomic unsigned clashes, disorders;
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t sent; /* by all, into one ring.  Plain on purpose: under ring_lock, unless one is alone */

/* Relaxed accesses only: this check must not order what the hand-over has to order. */
static void enter(struct moving *m, const struct dvmq_worker *w)
{
	if (atomic_exchange_explicit(&m->poller, w->index + 1, memory_order_relaxed) != 0)
		atomic_fetch_add_explicit(&clashes, 1, memory_order_relaxed);
}

static void leave(struct moving *m, const struct dvmq_worker *w)
{
	if (atomic_exchange_explicit(&m->poller, 0, memory_order_relaxed) != w->index + 1)
		atomic_fetch_add_explicit(&clashes, 1, memory_order_relaxed);
}

static void send_moving(const struct dvmq_worker *w, unsigned n)
{
	bool alone = dvmq_is_alone(w);

	if (!alone)
		pthread_mutex_lock(&ring_lock);
	sent += n;
	if (!alone)
		pthread_mutex_unlock(&ring_lock);
}

static uint16_t poll_moving(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct moving *m = (struct moving *)fake_of(queue);
	uint64_t head = atomic_load_explicit(&m->head, memory_order_relaxed);
	unsigned n = 0;

	enter(m, w);
	m->fake.polls++;
	while (n < DVMQ_BURST && m->tail + n < head)
		n++;
	if (atomic_load_explicit(&m->delivered, memory_order_relaxed) != m->tail)
		atomic_fetch_add_explicit(&disorders, 1, memory_order_relaxed);
	m->tail += n;
	send_moving(w, n);
	atomic_store_explicit(&m->delivered, m->tail, memory_order_relaxed);
	atomic_store_explicit(&m->last_poller, w->index + 1, memory_order_relaxed);
	leave(m, w);
	return n;
}

static void drain_moving(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct moving *m = (struct moving *)fake_of(queue);

	enter(m, w);
	m->fake.drains++;
	leave(m, w);
}

/* As dvmq_worker_sleep(), but new packets always come with a message here: without one there is nothing to wake for. */
static void block(struct dvmq_worker *w)
{
	struct epoll_event event;

	atomic_store(&w->asleep, true);
	if (atomic_load(&w->inbox) == NULL && !atomic_load(&w->stop)) {
		dvmq_count(&w->sleeps, 1);
		while (epoll_wait(w->epoll_fd, &event, 1, -1) < 0 && errno == EINTR)
			;
	}
	atomic_store(&w->asleep, false);
}

static void *worker_main(void *arg)
{
	struct dvmq_worker *w = arg;

	while (!atomic_load_explicit(&w->stop, memory_order_relaxed)) {
		if (dvmq_worker_loop(w) == 0)
			block(w);
		if (atomic_load_explicit(&w->inbox, memory_order_relaxed) != NULL)
			dvmq_inbox_serve(w);
	}
	return NULL;
}

static time_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static bool has_arrived(struct moving *m)
{
	return !atomic_load_explicit(&m->fake.queue.in_transit, memory_order_acquire);
}

static bool has_delivered(struct moving *m)
{
	return atomic_load(&m->delivered) == atomic_load(&m->head);
}

static bool await(struct moving *m, bool (*condition)(struct moving *))
{
	time_t deadline = seconds() + PATIENCE_S;

	while (!condition(m)) {
		if (seconds() > deadline)
			return false;
		sched_yield();
	}
	return true;
}

/* The queue is where it was sent, and was polled there. */
static bool is_at_target(struct moving *m)
{
	if (atomic_load_explicit(&m->fake.queue.owner, memory_order_relaxed) != m->target)
		return false;
	return m->target == NULL || atomic_load_explicit(&m->last_poller, memory_order_relaxed) == m->target->index + 1;
}

/* Hands it over as soon as it is at rest, with packets on their way. */
static bool hand(struct moving *m, struct dvmq_worker *to, unsigned packets)
{
	time_t deadline = seconds() + PATIENCE_S;

	atomic_store_explicit(&m->head, atomic_load_explicit(&m->head, memory_order_relaxed) + packets,
			      memory_order_relaxed);
	while (!dvmq_queue_hand(&m->fake.queue, to)) {
		if (seconds() > deadline)
			return false;
		sched_yield();
	}
	m->moves += m->target != NULL && to != NULL;
	m->target = to;
	return true;
}

/* Half of them go to one worker, what others have of the rest to nobody: it is alone. */
static bool gather_at(struct dvmq_worker *w)
{
	struct dvmq_queue *queues[MOVING];

	for (unsigned i = 0; i < MOVING; i++) {
		queues[i] = &moving[i].fake.queue;
		if (moving[i].target != w && !hand(&moving[i], i % 2 ? w : NULL, 1))
			return false;
	}
	for (unsigned i = 0; i < MOVING; i++)
		if (!await(&moving[i], has_arrived))
			return false;
	dvmq_look_for_alone(queues, MOVING);
	return dvmq_is_alone(w);
}

/*
 * 100,000 times: a random queue goes to somebody else.  Every other time it is
 * looked at first; not always, since looking orders the threads, too.  Now and
 * then all meet at one worker, and part from there.
 */
static bool move_about(void)
{
	unsigned seed = 1, strays = 0;

	for (unsigned i = 0; i < HANDS; i++) {
		struct moving *m = &moving[rand_r(&seed) % MOVING];
		unsigned to = rand_r(&seed) % (4 * WORKERS + 1);
		struct dvmq_worker *target = to == 4 * WORKERS ? NULL : workers[to % WORKERS];

		if (i % 64 == 63 && !gather_at(workers[i / 64 % WORKERS]))
			return false;
		if (i % 2 == 0) {
			if (!await(m, has_arrived))
				return false;
			strays += !is_at_target(m);
		}
		if (target != m->target && !hand(m, target, rand_r(&seed) % 200))
			return false;
	}
	CU_ASSERT_EQUAL(strays, 0);
	return true;
}

static bool finish(void)
{
	for (unsigned i = 0; i < MOVING; i++) {
		if (!await(&moving[i], has_arrived))
			return false;
		if (moving[i].target == NULL && !hand(&moving[i], workers[i % WORKERS], 1))
			return false;
	}
	for (unsigned i = 0; i < MOVING; i++)
		if (!await(&moving[i], has_arrived) || !await(&moving[i], has_delivered))
			return false;
	return true;
}

static void check_result(void)
{
	unsigned held = 0, lost = 0, miscounted = 0;
	uint64_t sleeps = 0, all = 0;

	for (unsigned i = 0; i < WORKERS; i++) {
		check_list(workers[i]);
		held += workers[i]->n;
		sleeps += value(&workers[i]->sleeps);
	}
	for (unsigned i = 0; i < MOVING; i++) {
		struct dvmq_queue *queue = &moving[i].fake.queue;

		lost += !is_at_target(&moving[i]) || moving[i].target->queues[queue->place] != queue;
		lost += moving[i].tail != value(&moving[i].head);
		all += moving[i].tail;
		miscounted += value(&queue->moves) != moving[i].moves;
		miscounted += moving[i].fake.unwatches != moving[i].moves + moving[i].fake.drains;
	}
	CU_ASSERT_EQUAL(held, MOVING);
	CU_ASSERT_EQUAL(lost, 0);
	CU_ASSERT_EQUAL(miscounted, 0);
	CU_ASSERT_EQUAL(sent, all); /* else two sent at once without a lock */
	CU_ASSERT_EQUAL(atomic_load(&clashes), 0);
	CU_ASSERT_EQUAL(atomic_load(&disorders), 0);
	CU_ASSERT(sleeps > 0); /* else nothing was shown about waking */
}

static void test_threads(void)
{
	pthread_t threads[WORKERS];
	bool done;

	for (unsigned i = 0; i < MOVING; i++) {
		moving[i].fake.queue.poll = poll_moving;
		moving[i].fake.queue.drain = drain_moving;
		moving[i].fake.queue.wake_fd = -1;
		moving[i].fake.queue.kind = i % 2 ? DVMQ_QUEUE_GUEST : DVMQ_QUEUE_VMQ;
	}
	atomic_store(&dvmq_alone, NULL);
	for (unsigned i = 0; i < WORKERS; i++)
		workers[i] = worker_new(i, MOVING);
	for (unsigned i = 0; i < WORKERS; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, worker_main, workers[i]), 0);
	done = move_about() && finish();
	CU_ASSERT_TRUE(done); /* else a queue got stuck */
	for (unsigned i = 0; i < WORKERS; i++) {
		atomic_store(&workers[i]->stop, true);
		dvmq_worker_wake(workers[i]);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	if (done)
		check_result();
	for (unsigned i = 0; i < WORKERS; i++)
		worker_free(workers[i]);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"a worker takes a queue", test_take},
	    {"a worker gives a queue to another", test_give},
	    {"one way at a time", test_one_way_at_a_time},
	    {"to nobody", test_nobody},
	    {"who is alone", test_who_is_alone},
	    {"alone no longer", test_alone_no_longer},
	    {"many messages at once", test_many_messages},
	    {"queues without traffic", test_rare},
	    {"quiet queues of two sorts", test_two_sorts},
	    {"what quiet queues cost", test_share},
	    {"a kick", test_kicked},
	    {"a long silence", test_long_silence},
	    {"random steps", test_random_steps},
	    {"counters", test_counters},
	    {"who pays for the cycles", test_cycles},
	    {"stolen time", test_stolen},
	    {"turns with many packets", test_bulk},
	    {"a queue that gathers", test_gathers},
	    {"pause of a move", test_pause},
	    {"pause of a move, in loops", test_pause_in_loops},
	    {"pause of a move, stolen", test_pause_stolen},
	    {"system calls of a move", test_late_system_calls},
	    {"buckets of pauses", test_pause_buckets},
	    {"a drain", test_drain},
	    {"waking", test_wake},
	    {"100,000 moves between threads", test_threads},
	    CU_TEST_INFO_NULL,
	};

	return unit_run("hand-over", tests);
}
