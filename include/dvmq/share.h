/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who gets the scarce RX queues of one uplink: snapshot in, plan out.  Pure C
 * like dvmq/balance.h: no DPDK, no clock, no I/O, no thread, no global variable.
 * docs/balancer.md explains the algorithm ("NIC queues for those who need them").
 */
#ifndef DVMQ_SHARE_H
#define DVMQ_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#define DVMQ_SHARE_REASON 160 /* bytes of a reason text, with its 0 */

struct dvmq_share_params {
	double high;        /* demand that one queue carries, in cores, > 0: `high` of [balance]; INFINITY: any */
	double cold_bytes;  /* a port that receives less is cold, bytes/s, >= 0 */
	double cold_demand; /* so is one whose demand is less, in cores, >= 0 */
	/*
	 * For how long a cold port keeps its queue while nobody else needs it, ms, >= 0.
	 * INFINITY: for ever, and queues that nobody needs go to cold ports, too (the
	 * NIC sorts: an idle queue costs nothing).  Finite: where a queue has its cost
	 * (a hop to another core, in software).
	 */
	double cold_ms;
};

struct dvmq_share_port {
	uint32_t id;          /* stable for the life of the port, unique in the snapshot */
	const char *name;     /* for the reasons; NULL: "port ID"; used during the call only */
	/*
	 * What the port received from this uplink since the previous call, divided by
	 * that time: default queues and its own together, not smoothed (the planner does
	 * that).  NaN and negative count as 0.
	 */
	double bytes_per_s;
	double demand;        /* cores that receiving it needs, may exceed 1; not smoothed; NaN and negative count as 0 */
	unsigned holds;       /* queues of its own now, those on their way to it among them */
	unsigned pairs;       /* the most it can use: its queue pairs */
	unsigned min;         /* guaranteed; the first ports of the snapshot come first if they do not all fit */
	unsigned max;         /* never exceeded; 0: none but the default queue; below min: max counts */
	unsigned weight;      /* 100 is normal: its bytes count weight / 100; 0: only what nobody else needs */
	double late_ms;       /* its last change was carried out that much later than it was planned; its second begins then */
	bool bindable;        /* false: holds none, and loses at once what it has */
};

struct dvmq_share_snapshot {
	double now_ms;        /* any monotonic origin; a step back or NaN counts as no time, a step forward as at most 1 s */
	unsigned n_queues;    /* to be given: without the default queues; may change from call to call */
	const struct dvmq_share_port *ports; /* in the order of the configuration */
	unsigned n_ports;
};

/* Carried out in order: all that shrink come before all that grow. */
struct dvmq_share_change {
	uint32_t port;        /* dvmq_share_port.id */
	unsigned index;       /* its place in snapshot.ports */
	unsigned from, to;    /* queues it holds, shall hold */
	char reason[DVMQ_SHARE_REASON];
};

struct dvmq_share_result {
	unsigned wanted;      /* queues that min, demand, pairs and max ask for, were there enough of them */
	unsigned queues;      /* it shall hold now */
	char why[DVMQ_SHARE_REASON]; /* also when nothing changes */
};

/* Arrays point into memory of the struct dvmq_share and are valid until the next dvmq_share_plan() on it. */
struct dvmq_share_plan {
	const struct dvmq_share_change *changes; /* none for a port that changed less than 1000 ms ago, but forced ones */
	unsigned n_changes;
	const struct dvmq_share_result *results; /* n_ports, in the order of the snapshot */
	unsigned given;       /* sum of results[].queues, <= n_queues */
};

struct dvmq_share; /* parameters, history of the ports, scratch memory */

/* high 0.90, cold_bytes 10000, cold_demand 0, cold_ms INFINITY. */
void dvmq_share_defaults(struct dvmq_share_params *params);

/* Without history. NULL and errno: ENOMEM, EINVAL (a parameter is NaN or outside its range). */
struct dvmq_share *dvmq_share_new(const struct dvmq_share_params *params);
void dvmq_share_free(struct dvmq_share *share); /* NULL is allowed */

/*
 * Plans the next step; call it every 20 to 50 ms.  A load is acted on in the
 * second call that sees it.  What is planned counts as done (the change a port may
 * have per second is spent) and as tried if `holds` says otherwise in the next
 * call.  A port that is missing in one call is forgotten.
 *
 * "At most one change per port and second" bends only to force: a port that
 * cannot be bound any more, a max or pairs below what it holds, more queues held
 * than n_queues.  Such a change, too, delays the port's next one.
 *
 * O(n log n + n_queues log n).  Not thread-safe for one share.  Returns 0, -ENOMEM, or -EINVAL if two
 * ports have one id; then *ret_plan is empty and nothing is remembered.
 */
int dvmq_share_plan(struct dvmq_share *share, const struct dvmq_share_snapshot *snapshot,
		    struct dvmq_share_plan *ret_plan);

#endif
