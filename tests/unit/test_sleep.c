/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * src/datapath/sleep.c: RX interrupts, where several queues of a NIC share a vector and so a descriptor, and where a
 * queue leaves the worker; and the kicks of guests.  The test is the worker; NIC and guests are eventfds.
 */
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_rcu_qsbr.h>
#include <rte_vhost.h>

#include <dvmq/port.h>
#include <dvmq/worker.h>

#include "eal.h"
#include "unit.h"

#define QUEUES	    4
#define GUESTS	    3
#define QUIET_LOOPS 65 /* more empty turns than a queue has before it is quiet, see handover.c */

static struct dvmq_worker *w;
static struct dvmq_port uplink = {.type = DVMQ_PORT_UPLINK, .vid = -1};
static struct dvmq_queue queues[QUEUES];
static int vector[2];					/* eventfds */
static const unsigned vector_of[QUEUES] = {0, 0, 0, 1}; /* of the NIC's queues */
static bool enabled[QUEUES];
static unsigned waiting[QUEUES];

/* Guest i is vid i, and sends by queue i of theirs. */
static struct dvmq_port ports[GUESTS];
static struct dvmq_queue from_guest[GUESTS];
static int kick[GUESTS];  /* eventfds */
static int asked[GUESTS]; /* to kick */
static unsigned sent[GUESTS];

/* In the place of the NIC and of the vhost library (meson.build: --wrap). */
int __wrap_rte_eth_dev_rx_intr_ctl_q_get_fd(uint16_t port, uint16_t queue);
int __wrap_rte_eth_dev_rx_intr_enable(uint16_t port, uint16_t queue);
int __wrap_rte_eth_dev_rx_intr_disable(uint16_t port, uint16_t queue);

int __wrap_rte_eth_dev_rx_intr_ctl_q_get_fd(uint16_t port, uint16_t queue)
{
	(void)port;
	return vector[vector_of[queue]];
}

int __wrap_rte_eth_dev_rx_intr_enable(uint16_t port, uint16_t queue)
{
	(void)port;
	enabled[queue] = true;
	return 0;
}

int __wrap_rte_eth_dev_rx_intr_disable(uint16_t port, uint16_t queue)
{
	(void)port;
	enabled[queue] = false;
	return 0;
}

int __wrap_rte_vhost_get_vhost_vring(int vid, uint16_t virtqueue, struct rte_vhost_vring *vring);
int __wrap_rte_vhost_enable_guest_notification(int vid, uint16_t virtqueue, int enable);

int __wrap_rte_vhost_get_vhost_vring(int vid, uint16_t virtqueue, struct rte_vhost_vring *vring)
{
	(void)virtqueue;
	vring->kickfd = kick[vid];
	return 0;
}

int __wrap_rte_vhost_enable_guest_notification(int vid, uint16_t virtqueue, int enable)
{
	(void)virtqueue;
	asked[vid] = enable;
	return 0;
}

static uint16_t poll_nic(struct dvmq_worker *worker, struct dvmq_queue *queue)
{
	unsigned n = waiting[queue->eth_queue];

	(void)worker;
	waiting[queue->eth_queue] = 0;
	return n;
}

static void interrupt(unsigned number)
{
	CU_ASSERT_EQUAL(eventfd_write(vector[number], 1), 0);
}

static bool is_hot(unsigned i)
{
	return queues[i].place < w->n_hot;
}

static void make_all_quiet(void)
{
	for (unsigned i = 0; i < QUIET_LOOPS; i++)
		dvmq_worker_loop(w);
	CU_ASSERT_EQUAL(w->n_hot, 0);
}

static void leave(unsigned i)
{
	CU_ASSERT_TRUE(dvmq_queue_hand(&queues[i], NULL));
	dvmq_inbox_serve(w);
	CU_ASSERT_PTR_NULL(atomic_load(&queues[i].owner));
	CU_ASSERT_FALSE(enabled[i]);
	CU_ASSERT_EQUAL(queues[i].wake_fd, -1);
	queues[i].empty_run = 7; /* nobody may touch it from now on */
}

static void begin_worker(unsigned max_queues)
{
	struct dvmq_err err;

	w = dvmq_worker_new(1, 0, max_queues, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(w);
	w->now = w->last_packet = rte_rdtsc();
	rte_rcu_qsbr_thread_register(dvmq_rcu, w->index);
	rte_rcu_qsbr_thread_online(dvmq_rcu, w->index);
}

static void end_worker(void)
{
	dvmq_inbox_serve(w);
	rte_rcu_qsbr_thread_offline(dvmq_rcu, w->index);
	rte_rcu_qsbr_thread_unregister(dvmq_rcu, w->index);
	dvmq_worker_free(w);
}

/* All queues are quiet; one interrupt of vector 0 has ended the first sleep. */
static void begin(void)
{
	begin_worker(QUEUES);
	memset(queues, 0, sizeof(queues));
	memset(waiting, 0, sizeof(waiting));
	memset(enabled, 0, sizeof(enabled));
	for (unsigned i = 0; i < 2; i++)
		vector[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (unsigned i = 0; i < QUEUES; i++) {
		queues[i].poll = poll_nic;
		queues[i].port = &uplink;
		queues[i].eth_queue = i;
		queues[i].notifies = true;
		queues[i].wake_fd = -1;
		CU_ASSERT_TRUE(dvmq_queue_hand(&queues[i], w));
	}
	dvmq_inbox_serve(w);
	make_all_quiet();
	interrupt(0);
	dvmq_worker_sleep(w);
}

static void end(void)
{
	for (unsigned i = 0; i < QUEUES; i++)
		dvmq_queue_hand(&queues[i], NULL);
	end_worker();
	for (unsigned i = 0; i < 2; i++)
		close(vector[i]);
}

/* An interrupt is for whoever has the vector, and for nobody else. */
static void test_shared(void)
{
	begin();
	for (unsigned i = 0; i < 3; i++) {
		CU_ASSERT_TRUE(is_hot(i));
		CU_ASSERT_FALSE(enabled[i]); /* polled: no more interrupts */
	}
	CU_ASSERT_FALSE(is_hot(3));
	CU_ASSERT_TRUE(enabled[3]);

	make_all_quiet();
	interrupt(1);
	dvmq_worker_sleep(w);
	CU_ASSERT_TRUE(is_hot(3));
	for (unsigned i = 0; i < 3; i++) {
		CU_ASSERT_FALSE(is_hot(i));
		CU_ASSERT_TRUE(enabled[i]);
	}
	end();
}

/* Whichever of those that share a vector leaves, it wakes the worker for the others, until none is left. */
static void test_leave(void)
{
	static const unsigned orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
	struct epoll_event event;

	for (unsigned order = 0; order < 6; order++) {
		const unsigned *leaves = orders[order];

		begin();
		for (unsigned n = 0; n < 3; n++) {
			make_all_quiet();
			interrupt(0); /* one that is pending when it goes is not for it any more */
			leave(leaves[n]);
			if (n < 2)
				dvmq_worker_sleep(w);
			for (unsigned i = 0; i < 3; i++)
				if (i == leaves[n] || (n > 0 && i == leaves[0]))
					CU_ASSERT_EQUAL(queues[i].empty_run, 7);
			for (unsigned k = n + 1; k < 3; k++)
				CU_ASSERT_TRUE(is_hot(leaves[k]));
			CU_ASSERT_FALSE(is_hot(3));
		}
		CU_ASSERT_EQUAL(epoll_wait(w->epoll_fd, &event, 1, 0), 0);
		interrupt(0);
		CU_ASSERT_EQUAL(epoll_wait(w->epoll_fd, &event, 1, 0), 0); /* nobody's */
		end();
	}
}

/* What came before it was armed is found without an interrupt, and there is no sleep. */
static void test_look_once_more(void)
{
	uint64_t sleeps;

	begin();
	make_all_quiet();
	sleeps = atomic_load(&w->sleeps);
	waiting[1] = 5;
	dvmq_worker_sleep(w);
	CU_ASSERT_EQUAL(waiting[1], 0);
	CU_ASSERT_EQUAL(atomic_load(&w->sleeps), sleeps);
	CU_ASSERT_TRUE(is_hot(1));
	CU_ASSERT_FALSE(enabled[1]);
	end();
}

/* A queue comes back: its vector wakes again. */
static void test_come_back(void)
{
	begin();
	for (unsigned i = 0; i < 3; i++)
		leave(i);
	CU_ASSERT_TRUE(dvmq_queue_hand(&queues[2], w));
	dvmq_inbox_serve(w);
	make_all_quiet();
	interrupt(0);
	dvmq_worker_sleep(w);
	CU_ASSERT_TRUE(is_hot(2));
	CU_ASSERT_EQUAL(queues[0].empty_run, 7);
	CU_ASSERT_FALSE(is_hot(3));
	end();
}

/* ---- guests ---- */

static uint16_t poll_guest(struct dvmq_worker *worker, struct dvmq_queue *queue)
{
	int vid = atomic_load(&queue->port->vid);
	unsigned n = sent[vid];

	(void)worker;
	sent[vid] = 0;
	return n;
}

static void send_and_kick(unsigned i)
{
	sent[i] = 1;
	CU_ASSERT_EQUAL(eventfd_write(kick[i], 1), 0);
}

static void expect_hot(int guest) /* it alone; -1: none */
{
	for (int i = 0; i < GUESTS; i++) {
		CU_ASSERT_EQUAL(from_guest[i].place < w->n_hot, i == guest);
		CU_ASSERT_EQUAL(asked[i], i != guest);
	}
}

/* All guests are quiet, and asked to kick. */
static void begin_guests(void)
{
	begin_worker(GUESTS);
	memset(ports, 0, sizeof(ports));
	memset(from_guest, 0, sizeof(from_guest));
	memset(asked, 0, sizeof(asked));
	for (unsigned i = 0; i < GUESTS; i++) {
		kick[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		sent[i] = 0;
		ports[i].type = DVMQ_PORT_VHOST;
		atomic_store(&ports[i].vid, i);
		from_guest[i].kind = DVMQ_QUEUE_GUEST;
		from_guest[i].poll = poll_guest;
		from_guest[i].port = &ports[i];
		from_guest[i].virtqueue = 1;
		from_guest[i].notifies = true;
		from_guest[i].wake_fd = -1;
		CU_ASSERT_TRUE(dvmq_queue_hand(&from_guest[i], w));
	}
	dvmq_inbox_serve(w);
	make_all_quiet();
	dvmq_worker_wake(w);
	dvmq_worker_sleep(w);
	expect_hot(-1);
}

static void end_guests(void)
{
	for (unsigned i = 0; i < GUESTS; i++) {
		dvmq_queue_hand(&from_guest[i], NULL);
		close(kick[i]);
	}
	end_worker();
}

/* Who kicked is polled, need not kick meanwhile, and is asked to when he is quiet again. */
static void test_kick(void)
{
	begin_guests();
	for (int i = GUESTS - 1; i >= 0; i--) {
		send_and_kick(i);
		dvmq_worker_sleep(w);
		expect_hot(i);
		dvmq_worker_loop(w);
		CU_ASSERT_EQUAL(sent[i], 0);
		make_all_quiet();
		dvmq_worker_wake(w);
		dvmq_worker_sleep(w);
		expect_hot(-1);
	}
	end_guests();
}

/* A guest that set up its ring anew kicks by another descriptor, and the old one may be another's by now. */
static void test_new_ring(void)
{
	int old;

	begin_guests();
	old = kick[1];
	kick[1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	atomic_fetch_add(&ports[1].vring_generation, 1);
	atomic_fetch_add(&dvmq_vring_changes, 1);
	dvmq_worker_wake(w);
	dvmq_worker_sleep(w);
	CU_ASSERT_EQUAL(eventfd_write(old, 1), 0);
	dvmq_worker_wake(w);
	dvmq_worker_sleep(w);
	expect_hot(-1);
	send_and_kick(1);
	dvmq_worker_sleep(w);
	expect_hot(1);
	close(old);
	end_guests();
}

/* Who does not kick is not looked at, but for now and then. */
static void test_no_kick(void)
{
	begin_guests();
	sent[2] = 1;
	dvmq_worker_wake(w);
	dvmq_worker_sleep(w);
	CU_ASSERT_EQUAL(sent[2], 1);
	w->look_again_at = w->now;
	dvmq_worker_sleep(w);
	CU_ASSERT_EQUAL(sent[2], 0);
	expect_hot(2);
	end_guests();
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"a vector of several queues", test_shared},
	    {"one of them leaves", test_leave},
	    {"a look after arming", test_look_once_more},
	    {"one comes back", test_come_back},
	    {"a guest's kick", test_kick},
	    {"a guest's new ring", test_new_ring},
	    {"a guest that does not kick", test_no_kick},
	    CU_TEST_INFO_NULL,
	};
	int ret;

	if (!eal_start(1))
		return EXIT_FAILURE;
	ret = unit_run("sleep", tests);
	eal_stop();
	return ret;
}
