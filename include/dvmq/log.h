/* SPDX-License-Identifier: BSD-3-Clause */
/* Log lines of the daemon, by rte_log: DVMQ_LOG(INFO, "port %s is up", name).  Not on workers. */
#ifndef DVMQ_LOG_H
#define DVMQ_LOG_H

#include <rte_log.h>

extern int dvmq_logtype;

#define DVMQ_LOG(level, format, ...) \
	rte_log(RTE_LOG_##level, (unsigned)dvmq_logtype, "dvmqd: " format "\n", ##__VA_ARGS__)

#endif
