/* SPDX-License-Identifier: BSD-3-Clause */
/* What is below ports in the daemon, inside a unit test: EAL, real workers, FDB, balancer; and buffers for frames. */
#ifndef DVMQ_UNIT_WORKERS_H
#define DVMQ_UNIT_WORKERS_H

#include <rte_mbuf.h>

#include <dvmq/control.h>
#include <dvmq/fdb.h>

#include "eal.h"
#include "unit.h"

static struct rte_mempool *pool;
static struct dvmq_conf conf;
static struct dvmq_err err;

static inline bool workers_start(unsigned n)
{
	struct dvmq_conf *defaults;

	if (!eal_start(n) || dvmq_conf_read(NULL, &defaults, &err) < 0)
		return false;
	conf.balance = defaults->balance;
	dvmq_conf_free(defaults);
	rte_rcu_qsbr_thread_register(dvmq_rcu, DVMQ_RCU_CONTROLLER);
	pool = rte_pktmbuf_pool_create("test", 8191, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (pool == NULL)
		return false;
	for (unsigned i = 0; i < n; i++) {
		dvmq_workers[i] = dvmq_worker_new(i + 1, i, DVMQ_MAX_QUEUES, &err);
		if (dvmq_workers[i] == NULL)
			return false;
		dvmq_n_workers++;
		rte_eal_remote_launch(dvmq_worker_main, dvmq_workers[i], i + 1);
	}
	return dvmq_fdb_open(&err) == 0 && dvmq_balancer_open(&conf, &err) == 0;
}

static inline void workers_stop(void)
{
	dvmq_balancer_close();
	dvmq_fdb_close();
	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		atomic_store(&dvmq_workers[i]->stop, true);
		dvmq_worker_wake(dvmq_workers[i]);
	}
	rte_eal_mp_wait_lcore();
	while (dvmq_n_workers > 0)
		dvmq_worker_free(dvmq_workers[--dvmq_n_workers]);
	rte_mempool_free(pool);
	eal_stop();
}

/* Counters of all ports add up: what came in went out, or was dropped by name. */
static inline void check_sum(void)
{
	const struct dvmq_stats *stats = dvmq_stats_collect();
	uint64_t in = 0, out = 0;

	for (unsigned i = 0; i <= DVMQ_MAX_PORTS; i++) {
		in += stats->port[i].rx_packets + stats->port[i].flood_copies;
		out += stats->port[i].tx_packets;
		for (unsigned reason = 0; reason < DVMQ_DROP_REASONS; reason++)
			out += stats->port[i].drop[reason];
	}
	CU_ASSERT_EQUAL(in, out);
}

#endif
