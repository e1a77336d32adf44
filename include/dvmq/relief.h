/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How many soft queues relieve the default queues of software steering.  Pure C like dvmq/share.h, which then says
 * whose they are.  docs/balancer.md explains it ("Soft queues").
 */
#ifndef DVMQ_RELIEF_H
#define DVMQ_RELIEF_H

#include "dvmq/balance.h"
#include "dvmq/share.h"

#define DVMQ_RELIEF_PER_QUEUE 16 /* ports that a default queue may be relieved of */

/* What is remembered; all 0 in the beginning. */
struct dvmq_relief {
	unsigned queues; /* that were thought to suffice, and when: */
	double asked_ms;
};

struct dvmq_relief_load {
	double now_ms;         /* any monotonic origin */
	double busiest;        /* demand of the default queue that needs most, cores, >= 0 */
	double by_default;     /* demand of all default queues, cores, >= busiest */
	unsigned room;         /* soft queues that there may be; 0: no other core could poll them */
	const double *by_soft; /* by index of `ports`: demand of the port's soft queues, cores */
};

/* How much default queues of such a [balance] need before they are relieved, cores. */
double dvmq_relief_limit(const struct dvmq_balance_params *params);

/*
 * Changes *params, whose `high` is that of [balance], for sharing soft queues: they cost a hop, so cold ports do not
 * keep theirs; and each port wants one at most.
 */
void dvmq_relief_share_params(struct dvmq_share_params *params);

/*
 * n_queues for dvmq_share_plan() over `ports`, each of which wants one queue at most: `pairs` and `max` are 0 or 1,
 * `holds` is 1 if it has any.  `demand` is the port's part of what default and soft queues need together; set to 0
 * for those that the default queues could carry, too.
 *
 * O(n_ports x (room + held)).  No errors; not thread-safe for one *relief.
 */
unsigned dvmq_relief_plan(struct dvmq_relief *relief, const struct dvmq_relief_load *load,
			  const struct dvmq_balance_params *params, struct dvmq_share_port *ports, unsigned n_ports);

#endif
