/* SPDX-License-Identifier: BSD-3-Clause */
/* EAL inside a unit test: no hugepages, no PCI device, nothing left behind. */
#ifndef DVMQ_UNIT_EAL_H
#define DVMQ_UNIT_EAL_H

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_malloc.h>
#include <rte_rcu_qsbr.h>

#include <dvmq/log.h>
#include <dvmq/worker.h>

int dvmq_logtype;

/* The directory that EAL makes for its files, of which it has none here: gone before a test can crash. */
static inline void eal_remove_dirs(const char *dir)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/dpdk/rte", dir);
	rmdir(path);
	snprintf(path, sizeof(path), "%s/dpdk", dir);
	rmdir(path);
	rmdir(dir);
}

/*
 * Starts EAL with lcore 0 for the test and 1..n for workers, all on one CPU, and
 * makes dvmq_rcu.  False and a reason on stderr if that fails.
 */
static inline bool eal_start(unsigned n_workers)
{
	static char dir[] = "/tmp/dvmq-test-eal-XXXXXX"; /* in the place of /run: tests may run at the same time */
	static char lcores[64];
	static char *argv[] = {"test",		 lcores,	"--no-huge",	       "--no-pci", "-m", "512",
			       "--no-telemetry", "--no-shconf", "--log-level=*:error", NULL};
	int ret;

	snprintf(lcores, sizeof(lcores), "--lcores=(0-%u)@%d", n_workers, sched_getcpu());
	if (mkdtemp(dir) == NULL || setenv("RUNTIME_DIRECTORY", dir, 1) != 0) {
		perror(dir);
		return false;
	}
	ret = rte_eal_init(sizeof(argv) / sizeof(argv[0]) - 1, argv);
	eal_remove_dirs(dir);
	if (ret < 0)
		return false;
	dvmq_logtype = rte_log_register_type_and_pick_level("dvmq", RTE_LOG_ERR);
	dvmq_rcu = rte_zmalloc("rcu", rte_rcu_qsbr_get_memsize(DVMQ_RCU_CONTROLLER + 1), RTE_CACHE_LINE_SIZE);
	return dvmq_rcu != NULL && rte_rcu_qsbr_init(dvmq_rcu, DVMQ_RCU_CONTROLLER + 1) == 0;
}

static inline void eal_stop(void)
{
	rte_free(dvmq_rcu);
	rte_eal_cleanup();
}

#endif
