/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of dvmq-sim share.
 *
 * dvmq-sim.c      the command line
 * sim_read.c      snapshots from JSON
 * sim_scenario.c  where load comes from
 * sim_planner.c   who decides: dvmq's own planner and models of its peers
 * sim_run.c       lets planners run through scenarios, and counts
 * sim_output.c    table, JSON, CSV, SVG
 */
#ifndef DVMQ_SIM_H
#define DVMQ_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "dvmq/balance.h"

#define SIM_CORES_MAX  256
#define SIM_QUEUES_MAX 8192

/* A snapshot with the memory behind it, and what came with it in the file. */
struct sim_input {
	struct dvmq_snapshot snapshot;
	struct dvmq_balance_core *cores;
	struct dvmq_balance_queue *queues;
	char **names; /* of the queues, by id */
	struct dvmq_balance_params params;
	uint32_t max_moves; /* as of dvmq_balance_plan() */
	bool slow;
};

/* sim_read.c; sim_read() returns 0, or -1 with the reason on stderr, beginning with `what`. */
int sim_read(const char *what, json_t *root, struct sim_input *ret_input);
void sim_input_free(struct sim_input *input);

#endif
