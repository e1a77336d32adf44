/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A plan of the balancer as JSON: what `balance dry-run` and `dvmq-sim plan`
 * print.  Any thread; the snapshot, the plan and the names are only read.
 */
#ifndef DVMQ_PLAN_JSON_H
#define DVMQ_PLAN_JSON_H

#include <jansson.h>

#include "dvmq/balance.h"

/*
 * A new object with
 *   moves       list of { queue, from, to, demand, reason }, cores by their id
 *   activate, park   lists of core ids
 *   saturated   list of queue names
 *   reasons     list of { action: "activate"|"park", core, reason } and
 *               { action: "saturated", queue, reason }
 *   max_before, max_after, lower_bound   in cores
 *   decision_us CPU time that the plan took, microseconds
 *   reason      why this plan
 * queue_name: name of a queue by dvmq_balance_queue.id; where it returns NULL,
 * or is NULL itself, the number stands for the name.  NULL on lack of memory.
 */
json_t *dvmq_plan_json(const struct dvmq_snapshot *snapshot, const struct dvmq_plan *plan,
		       const char *(*queue_name)(uint32_t id, void *arg), void *arg, double decision_us);

#endif
