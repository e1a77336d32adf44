/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The balancer: snapshot in, plan out.  Pure C: no DPDK, no clock, no I/O, no
 * thread, no global variable, so that the daemon, the simulator and the tests
 * run the very same code.  docs/balancer.md explains the algorithm.
 */
#ifndef DVMQ_BALANCE_H
#define DVMQ_BALANCE_H

#include <stdbool.h>
#include <stdint.h>

#define DVMQ_BALANCE_REASON 96 /* bytes of a reason text, with its 0 */

/* The keys of [balance]; dvmq_balance_defaults() documents the defaults. */
struct dvmq_balance_params {
	double high;          /* load above which a core is overloaded, 0..1 */
	double target;        /* load that a core is filled to, 0..1 */
	double margin;        /* a core parks only if no other would rise above high - margin; a default queue above it is relieved */
	double fast_ms;       /* period of the fast loop, ms */
	double slow_ms;       /* period of the slow loop, ms */
	double budget;        /* most moves per second, as a percentage of the queues */
	double cooldown_ms;   /* a queue that moved stays this long unless its core is overloaded, ms */
	double hold_ms;       /* so long a core must have been dispensable before it parks, ms */
};

enum dvmq_core_state { DVMQ_CORE_PARKED, DVMQ_CORE_ACTIVE };

/* What the operator asked of a core ("set core C park|activate|auto"). */
enum dvmq_core_wish { DVMQ_CORE_AUTO, DVMQ_CORE_KEEP_PARKED, DVMQ_CORE_KEEP_ACTIVE };

struct dvmq_balance_core {
	unsigned id;                /* the name of the core: lcore id, usually the CPU number */
	int numa;                   /* node, -1 if unknown */
	int sibling;                /* id of the core that shares this physical core (SMT), -1 if none or unknown */
	enum dvmq_core_state state;
	enum dvmq_core_wish wish;
};

struct dvmq_balance_queue {
	uint32_t id;      /* stable for the life of the queue; ties are broken by it */
	unsigned core;    /* id of the core that polls it */
	int numa;         /* node of its NIC or guest memory, -1 if unknown */
	uint32_t group;   /* the VM it belongs to (queues of one group like to share a core), 0: none */
	double demand;    /* cores that it needs: 1.0 is one core fully; may exceed 1; NaN and negative count as 0 */
	double occupancy; /* 0..1: how full the ring behind it is */
	double age_ms;    /* time since its last move, ms; negative or NaN: long ago */
	bool pinned;      /* never moved */
};

/* numa_distance as in the ACPI SLIT: 10 is local, 20 twice that; NULL: 10 local, 20 remote */
typedef int dvmq_distance_fn(int node_a, int node_b, void *arg);

struct dvmq_snapshot {
	double now_ms; /* any monotonic origin; a step backwards is tolerated (history starts anew) */
	const struct dvmq_balance_core *cores;
	unsigned n_cores;
	const struct dvmq_balance_queue *queues;
	unsigned n_queues;
	dvmq_distance_fn *distance;
	void *distance_arg;
};

enum dvmq_loop { DVMQ_LOOP_FAST, DVMQ_LOOP_SLOW };

struct dvmq_move {
	uint32_t queue;  /* dvmq_balance_queue.id */
	unsigned index;  /* its place in snapshot.queues */
	unsigned from, to; /* core ids */
	char reason[DVMQ_BALANCE_REASON];
};

struct dvmq_core_action {
	unsigned core;
	char reason[DVMQ_BALANCE_REASON];
};

struct dvmq_saturated {
	uint32_t queue;
	unsigned index;
	char reason[DVMQ_BALANCE_REASON];
};

/*
 * Arrays point into memory of the struct dvmq_balance and are valid until the
 * next dvmq_balance_plan() on it.  The moves hold when carried out in order,
 * after the activations; a core in `park` has no queue left after the moves.
 */
struct dvmq_plan {
	const struct dvmq_move *moves;
	unsigned n_moves;
	const struct dvmq_core_action *activate;
	unsigned n_activate;
	const struct dvmq_core_action *park;
	unsigned n_park;
	const struct dvmq_saturated *saturated; /* queues that need more than a core: moving cannot help */
	unsigned n_saturated;
	double max_before, max_after; /* highest load of a core, in cores */
	double lower_bound;           /* no assignment to the cores that are active after the plan does better */
	char reason[DVMQ_BALANCE_REASON]; /* why this plan, also when it does nothing */
};

struct dvmq_balance; /* parameters, history between calls, scratch memory */

/* Fills in the defaults: high 0.90, target 0.85, margin 0.05, fast_ms 1, slow_ms 50, budget 4, cooldown_ms 100, hold_ms 500. */
void dvmq_balance_defaults(struct dvmq_balance_params *params);

/*
 * NULL if the parameters make sense together, else the name of the first that
 * does not, and *ret_why (static text) says what it must be.
 */
const char *dvmq_balance_check(const struct dvmq_balance_params *params, const char **ret_why);

/* A balancer without history; NULL and errno on lack of memory or parameters that dvmq_balance_check() refuses. */
struct dvmq_balance *dvmq_balance_new(const struct dvmq_balance_params *params);
void dvmq_balance_free(struct dvmq_balance *balance);

/*
 * Plans the next step.  max_moves bounds this one plan (UINT32_MAX: the budget
 * of the parameters applies, as moves per second over time).
 * dry: leaves the history untouched, so that the next real call is not influenced.
 * Not thread-safe for one balancer.  Returns 0, or -ENOMEM with *ret_plan empty.
 */
int dvmq_balance_plan(struct dvmq_balance *balance, const struct dvmq_snapshot *snapshot, enum dvmq_loop loop,
		      uint32_t max_moves, bool dry, struct dvmq_plan *ret_plan);

#endif
