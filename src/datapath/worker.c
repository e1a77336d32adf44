/* SPDX-License-Identifier: BSD-3-Clause */
/* A worker's life: memory, main loop, publication of its counters. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_lcore.h>
#include <rte_pause.h>
#include <rte_rcu_qsbr.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>

#include <dvmq/fdb.h>
#include <dvmq/port.h>
#include <dvmq/worker.h>

#define STOLEN_US 1000 /* a turn of 128 packets takes some 20 us */
#define LOOK_US   1    /* a look at an empty ring that takes longer was interrupted */

struct dvmq_worker *dvmq_workers[DVMQ_MAX_WORKERS];
unsigned dvmq_n_workers;
struct rte_rcu_qsbr *dvmq_rcu;

static int open_descriptors(struct dvmq_worker *w)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};

	w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (w->wake_fd < 0 || w->epoll_fd < 0)
		return -1;
	return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->wake_fd, &event);
}

/* The CPU of an lcore; -1: it has several.  (rte_lcore_to_cpu_id() is not it: that numbers the cores of a socket.) */
static int cpu_of(unsigned core)
{
	rte_cpuset_t cpus = rte_lcore_cpuset(core);
	int cpu = 0;

	if (CPU_COUNT(&cpus) != 1)
		return -1;
	while (!CPU_ISSET(cpu, &cpus))
		cpu++;
	return cpu;
}

struct dvmq_worker *dvmq_worker_new(unsigned core, unsigned index, unsigned max_queues, struct dvmq_err *err)
{
	struct dvmq_worker *w = aligned_alloc(64, sizeof(*w));
	char name[32];

	if (w == NULL)
		goto no_memory;
	memset(w, 0, sizeof(*w));
	w->core = core;
	w->index = index;
	w->numa = rte_lcore_to_socket_id(core);
	w->cpu = cpu_of(core);
	w->wake_fd = w->epoll_fd = -1;
	w->cycles_per_us = rte_get_tsc_hz() / 1000000;
	w->burst = DVMQ_BULK;
	w->stolen_cycles = w->cycles_per_us * STOLEN_US;
	w->look_max = w->cycles_per_us * LOOK_US;
	w->queues = calloc(max_queues, sizeof(*w->queues));
	/* Large and mostly never touched: only the pages of ports that exist become real. */
	w->stage = calloc(DVMQ_MAX_PORTS, sizeof(*w->stage));
	w->staged = calloc(DVMQ_MAX_PORTS, sizeof(*w->staged));
	w->counters = aligned_alloc(64, DVMQ_MAX_PORTS * sizeof(*w->counters));
	w->published = calloc(DVMQ_MAX_PORTS, sizeof(*w->published));
	snprintf(name, sizeof(name), "dvmq_learn_%u", index);
	w->learn = rte_ring_create_elem(name, sizeof(struct dvmq_learn), DVMQ_EVENTS, w->numa,
					RING_F_SP_ENQ | RING_F_SC_DEQ);
	if (!w->queues || !w->stage || !w->staged || !w->counters || !w->published || !w->learn)
		goto no_memory;
	memset(w->counters, 0, DVMQ_MAX_PORTS * sizeof(*w->counters));
	if (open_descriptors(w) < 0) {
		dvmq_fail(err, errno, "worker %u: no eventfd or epoll descriptor: %s; raise the limit of open files", core,
			  strerror(errno));
		dvmq_worker_free(w);
		return NULL;
	}
	return w;

no_memory:
	dvmq_fail(err, ENOMEM, "worker %u: out of memory", core);
	dvmq_worker_free(w);
	return NULL;
}

void dvmq_worker_free(struct dvmq_worker *w)
{
	if (w == NULL)
		return;
	if (w->wake_fd >= 0)
		close(w->wake_fd);
	if (w->epoll_fd >= 0)
		close(w->epoll_fd);
	rte_ring_free(w->learn);
	free(w->published);
	free(w->counters);
	free(w->staged);
	free(w->stage);
	free(w->queues);
	free(w);
}

/* Copies the counters to where others may read them; a sequence lock, see dvmq_stats_collect(). */
static void publish(struct dvmq_worker *w)
{
	uint32_t seq = atomic_load_explicit(&w->published_seq, memory_order_relaxed);

	if (w->counted) {
		atomic_store_explicit(&w->published_seq, seq + 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_release);
		for (unsigned i = 0; i < atomic_load_explicit(&dvmq_port_limit, memory_order_acquire); i++) {
			const uint64_t *from = (const uint64_t *)&w->counters[i];

			for (unsigned k = 0; k < DVMQ_COUNTERS_U64; k++)
				atomic_store_explicit(&w->published[i][k], from[k], memory_order_relaxed);
		}
		atomic_store_explicit(&w->published_seq, seq + 2, memory_order_release);
		w->counted = false;
	}
	atomic_store_explicit(&w->stats_told, atomic_load_explicit(&w->stats_asked, memory_order_acquire),
			      memory_order_release);
}

static void set_state(struct dvmq_worker *w, enum dvmq_worker_state state)
{
	if (atomic_load_explicit(&w->state, memory_order_relaxed) != state)
		atomic_store_explicit(&w->state, state, memory_order_relaxed);
}

/* The part of a loop that has nothing to do with packets: one look each at lines that are rarely written. */
static inline void attend(struct dvmq_worker *w)
{
	if (atomic_load_explicit(&w->inbox, memory_order_relaxed) != NULL)
		dvmq_inbox_serve(w);
	if (atomic_load_explicit(&w->stats_asked, memory_order_relaxed) !=
	    atomic_load_explicit(&w->stats_told, memory_order_relaxed))
		publish(w);
	rte_rcu_qsbr_quiescent(dvmq_rcu, w->index);
}

static void rest(struct dvmq_worker *w)
{
	publish(w);
	set_state(w, w->n ? DVMQ_WORKER_IDLE : DVMQ_WORKER_PARKED);
	dvmq_worker_sleep(w);
	w->now = w->woke_at = rte_rdtsc();
}

int dvmq_worker_main(void *arg)
{
	struct dvmq_worker *w = arg;

	prctl(PR_SET_TIMERSLACK, 1);
	rte_rcu_qsbr_thread_register(dvmq_rcu, w->index);
	rte_rcu_qsbr_thread_online(dvmq_rcu, w->index);
	w->now = w->last_packet = rte_rdtsc();
	while (!atomic_load_explicit(&w->stop, memory_order_relaxed)) {
		bool idle = dvmq_worker_loop(w) == 0;

		if (idle && dvmq_worker_is_idle(w)) {
			rest(w);
		} else {
			set_state(w, DVMQ_WORKER_ACTIVE);
			if (idle)
				rte_pause();
		}
		attend(w);
	}
	rte_rcu_qsbr_thread_offline(dvmq_rcu, w->index);
	rte_rcu_qsbr_thread_unregister(dvmq_rcu, w->index);
	return 0;
}
