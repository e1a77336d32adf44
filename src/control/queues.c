/* SPDX-License-Identifier: BSD-3-Clause */
/* The registry of queues, and handing them to workers on the controller's behalf. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_malloc.h>

#include <dvmq/control.h>
#include <dvmq/log.h>

#define HAND_TIMEOUT_MS 1000
#define SAY_AFTER       10 /* such times */

struct dvmq_queue *dvmq_queues[DVMQ_MAX_QUEUES];
unsigned dvmq_n_queues;

struct dvmq_queue *dvmq_queue_new(const char *port, const char *which, unsigned number, int numa, struct dvmq_err *err)
{
	static uint32_t next_id = 1;
	struct dvmq_queue *queue;

	if (dvmq_n_queues == DVMQ_MAX_QUEUES) {
		dvmq_fail(err, ENOSPC, "port %s: there are %u queues already; remove a port first", port, DVMQ_MAX_QUEUES);
		return NULL;
	}
	queue = rte_zmalloc_socket("queue", sizeof(*queue), 64, numa >= 0 ? numa : SOCKET_ID_ANY);
	if (queue != NULL)
		queue->load = rte_zmalloc("load", sizeof(*queue->load), 0);
	if (queue == NULL || queue->load == NULL) {
		rte_free(queue);
		dvmq_fail(err, ENOMEM, "port %s: no memory for a queue; give DPDK more hugepages (or -m MiB)", port);
		return NULL;
	}
	queue->id = next_id++;
	queue->tx_index = queue->id;
	queue->wake_fd = -1;
	snprintf(queue->name, sizeof(queue->name), "%s/%s%u", port, which, number);
	dvmq_queues[dvmq_n_queues++] = queue;
	return queue;
}

void dvmq_queue_free(struct dvmq_queue *queue)
{
	if (queue == NULL)
		return;
	dvmq_queue_take_back(queue);
	for (unsigned i = 0; i < dvmq_n_queues; i++) {
		if (dvmq_queues[i] != queue)
			continue;
		memmove(&dvmq_queues[i], &dvmq_queues[i + 1], (dvmq_n_queues - i - 1) * sizeof(dvmq_queues[0]));
		dvmq_n_queues--;
		break;
	}
	rte_free(queue->load);
	rte_free(queue);
}

void dvmq_queue_clear(struct dvmq_queue *queue)
{
	struct dvmq_cleared *c = &queue->load->cleared;

	c->packets = atomic_load(&queue->counters.packets);
	c->bytes = atomic_load(&queue->counters.bytes);
	c->drops = atomic_load(&queue->counters.drops);
	c->moves = atomic_load(&queue->moves);
	/* Its owner may count a move at the same time, and undo this for one of them. */
	atomic_store_explicit(&queue->pause_max, 0, memory_order_relaxed);
	for (unsigned i = 0; i < DVMQ_PAUSE_LOOPS; i++)
		atomic_store_explicit(&queue->pause_loops[i], 0, memory_order_relaxed);
	atomic_store_explicit(&queue->pause_stolen, 0, memory_order_relaxed);
	for (unsigned i = 0; i < DVMQ_PAUSE_TIMES; i++)
		atomic_store_explicit(&queue->pause_times[i], 0, memory_order_relaxed);
}

struct dvmq_queue *dvmq_queue_find(const char *name)
{
	for (unsigned i = 0; i < dvmq_n_queues; i++)
		if (strcmp(dvmq_queues[i]->name, name) == 0)
			return dvmq_queues[i];
	return NULL;
}

struct dvmq_worker *dvmq_worker_find(unsigned core)
{
	for (unsigned i = 0; i < dvmq_n_workers; i++)
		if (dvmq_workers[i]->core == core)
			return dvmq_workers[i];
	return NULL;
}

/* The worker may share our CPU: let it run. */
static void pause_briefly(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

int dvmq_queue_settle(struct dvmq_queue *queue)
{
	uint64_t deadline = dvmq_now_ms() + HAND_TIMEOUT_MS;

	while (atomic_load_explicit(&queue->in_transit, memory_order_acquire)) {
		if (dvmq_now_ms() > deadline)
			return -ETIMEDOUT;
		pause_briefly();
	}
	return 0;
}

int dvmq_queue_hand_wait(struct dvmq_queue *queue, struct dvmq_worker *to)
{
	if (dvmq_queue_settle(queue) < 0 || !dvmq_queue_hand(queue, to))
		return -ETIMEDOUT;
	queue->moved_at = rte_rdtsc();
	return dvmq_queue_settle(queue);
}

int dvmq_queue_drain_wait(struct dvmq_queue *queue)
{
	if (dvmq_queue_settle(queue) < 0 || !dvmq_queue_drain(queue))
		return -ETIMEDOUT;
	return dvmq_queue_settle(queue);
}

void dvmq_queue_take_back(struct dvmq_queue *queue)
{
	for (unsigned i = 1; dvmq_queue_hand_wait(queue, NULL) < 0; i++)
		if (i == SAY_AFTER)
			DVMQ_LOG(ERR, "queue %s: its worker does not answer; waiting for it: is its CPU taken?",
				 queue->name);
}

static double load_of(const struct dvmq_worker *worker)
{
	double load = 0;

	for (unsigned i = 0; i < dvmq_n_queues; i++)
		if (atomic_load_explicit(&dvmq_queues[i]->owner, memory_order_relaxed) == worker)
			load += dvmq_queues[i]->load->demand + 1e-6; /* among idle workers, the one with fewer queues */
	return load;
}

void dvmq_queue_start(struct dvmq_queue *queue)
{
	struct dvmq_worker *best = NULL;
	double best_load = 0;

	queue->wanted = true;
	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		struct dvmq_worker *worker = dvmq_workers[i];
		double load = load_of(worker) + (queue->port->numa >= 0 && worker->numa != queue->port->numa);

		if (dvmq_worker_is_active(worker) && (best == NULL || load < best_load)) {
			best = worker;
			best_load = load;
		}
	}
	if (best != NULL)
		dvmq_queue_hand(queue, best);
}
