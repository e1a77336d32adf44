/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of the controller (src/control/) and steering share.  Control thread only. */
#ifndef DVMQ_CONTROL_H
#define DVMQ_CONTROL_H

#include <dvmq/command.h>
#include <dvmq/port.h>
#include <dvmq/worker.h>

#define DVMQ_MAX_QUEUES 8192

/* --- controller.c --- */

/* Opens FDB, uplinks and ports of the configuration; 0 or -errno with err, then everything is closed again. */
int dvmq_control_open(const struct dvmq_conf *conf, struct dvmq_err *err);
void dvmq_control_run(void); /* until dvmq_quit() */
void dvmq_control_close(void);
uint64_t dvmq_now_ms(void); /* monotonic */

/* --- pace.c: how soon the controller looks again; pure --- */

struct dvmq_pace { /* all 0 in the beginning */
	uint64_t looked_ms; /* the last look */
	double allowance;   /* fast looks that it may make */
	unsigned left;      /* fast looks that the last news is worth */
	bool pending;       /* work waits for the next look */
	double slow_ms;     /* how soon it looks without any of that */
};

void dvmq_pace_hurry(struct dvmq_pace *pace); /* an alarm came: the next looks are to be fast */

/*
 * After each look.  news: it did something, or an alarm came since the last one; pending: it left work for the next
 * one; calm: it learned nothing, and nothing but load may change.
 */
void dvmq_pace_looked(struct dvmq_pace *pace, uint64_t now_ms, bool news, bool pending, bool calm);
bool dvmq_pace_may_hurry(const struct dvmq_pace *pace); /* an alarm would make the next looks fast, and they are not */

/* Time from the last look to the next one, ms; fast_ms as in [balance]. */
double dvmq_pace_ms(const struct dvmq_pace *pace, double fast_ms);

/* --- queues.c: the registry --- */

extern struct dvmq_queue *dvmq_queues[DVMQ_MAX_QUEUES]; /* dense */
extern unsigned dvmq_n_queues;

/* A queue with a name, polled by nobody yet.  NULL and err: too many, or no memory on the node. */
struct dvmq_queue *dvmq_queue_new(const char *port, const char *which, unsigned number, int numa, struct dvmq_err *err);
void dvmq_queue_free(struct dvmq_queue *queue); /* takes it back first */
struct dvmq_queue *dvmq_queue_find(const char *name);
void dvmq_queue_clear(struct dvmq_queue *queue); /* what is shown of its counters begins at 0 */

/* Hands over and waits until the new worker (NULL: nobody) has it.  -ETIMEDOUT if a worker does not react within 1 s. */
int dvmq_queue_hand_wait(struct dvmq_queue *queue, struct dvmq_worker *to);

/*
 * Nobody polls it when this returns.  However long its worker does not answer, as with RCU: what it may use is about to
 * change or go.  Said once in the log.
 */
void dvmq_queue_take_back(struct dvmq_queue *queue);

/* Has its worker deliver what waits in it at the time of the call, at least; -ETIMEDOUT as above, 0 at once if nobody polls it. */
int dvmq_queue_drain_wait(struct dvmq_queue *queue);

int dvmq_queue_settle(struct dvmq_queue *queue); /* waits until it is on no way to anybody; -ETIMEDOUT as above */

/* Gives a queue that nobody polls to the active worker with the least load near its node. */
void dvmq_queue_start(struct dvmq_queue *queue);
struct dvmq_worker *dvmq_worker_find(unsigned core);

/* --- ports.c --- */

int dvmq_ports_open(const struct dvmq_conf *conf, struct dvmq_err *err);
void dvmq_ports_close(void);
void dvmq_ports_reconcile(void); /* after an event of the vhost library */
struct dvmq_port *dvmq_port_find(const char *name);

/* --- device.c: links that go down and come back, resets --- */

void dvmq_devices_tick(uint64_t now_ms); /* each period */

/* --- measure.c: what a queue needs --- */

struct dvmq_cleared { /* counters as they were at "clear stats all" */
	uint64_t packets, bytes, drops, moves;
};

struct dvmq_load {
	struct dvmq_cleared cleared;
	/* as of the last sample */
	uint64_t packets, cycles, full_turns, emptied;
	uint64_t bulk_packets, bulk_cycles;
	double bulk_cost, bulk_age; /* TSC cycles per packet in bulk turns, 0: unknown; TSC cycles since the last one */
	uint64_t bytes; /* as of the last look of control/vmq.c */
	uint32_t backlog;
	double fast_demand, fast_occupancy; /* over the last period; demand smoothed */
	double pps, load, demand, cycles_per_packet, occupancy; /* over the last slow period, all but the last smoothed */
	/* of the slow period that runs, times its cycles; counted: demand without what pressure lets guess */
	double sum_demand, sum_counted, sum_load, sum_packets, sum_occupancy;
	double missed; /* packets of the slow period that the NIC missed and that count as this queue's */
};

/* Reads all queue counters.  A period is the time between two calls, however long; a clock that steps back makes none. */
void dvmq_measure(uint64_t now_tsc);
void dvmq_measure_slow(void);           /* each slow period: asks the NICs what they missed, and closes it */
double dvmq_worker_load(const struct dvmq_worker *worker); /* 0..1, busy in the last slow period */
bool dvmq_measure_idle(void);           /* no packet for a while */

/* --- balancer.c --- */

int dvmq_balancer_open(const struct dvmq_conf *conf, struct dvmq_err *err);
void dvmq_balancer_close(void);
bool dvmq_balancer_run(enum dvmq_loop loop); /* true if it moved, activated or parked anything */
bool dvmq_worker_is_active(const struct dvmq_worker *worker); /* may get queues */

bool dvmq_balancer_automatic(void);
const char *dvmq_balancer_verdict(void); /* why the last plan did what it did, also nothing */
const struct dvmq_balance_params *dvmq_balancer_params(void);
enum dvmq_core_wish dvmq_core_wish_of(const struct dvmq_worker *worker);
int dvmq_core_sibling_of(const struct dvmq_worker *worker); /* core of the other thread of its physical core, or -1 */

/* --- trace.c: "save trace" --- */

/* Called at each slow loop; queues[i] stands behind snapshot->queues[i].  Does nothing unless a trace is recorded. */
void dvmq_trace_snapshot(const struct dvmq_snapshot *snapshot, struct dvmq_queue *const *queues);
bool dvmq_trace_on(void);
void dvmq_trace_close(void);   /* writes what is left and ends the recording, if there is one */
json_t *dvmq_trace_json(void); /* the last trace, for "show balance": an object, or null before the first */

/* --- decisions.c: what was decided, newest last --- */

#define DVMQ_DECISIONS 256

struct dvmq_decision {
	uint64_t unix_ms;
	char action[12]; /* move, activate, park, promote, demote, repair, saturated, refuse */
	char thing[DVMQ_QUEUE_NAME_LEN];
	int from, to; /* cores, -1: none */
	char reason[DVMQ_BALANCE_REASON];
};

/*
 * Appends; the oldest goes when the ring is full.  "saturated" and "refuse" are states: told
 * once, until something else is told of the thing.
 */
void dvmq_decide(const char *action, const char *thing, int from, int to, const char *reason);
unsigned dvmq_decisions(const struct dvmq_decision *ret[DVMQ_DECISIONS]); /* oldest first; how many */
uint64_t dvmq_decision_count(const char *action);

/* --- stats.c --- */

/* Counters of all ports at one moment between two turns of each worker; index DVMQ_MAX_PORTS: ports deleted since. */
struct dvmq_stats {
	struct dvmq_port_counters port[DVMQ_MAX_PORTS + 1];
};

/* The counters since start or "clear stats all".  Valid until the next call. */
const struct dvmq_stats *dvmq_stats_collect(void);
void dvmq_stats_clear(void);
void dvmq_stats_port_new(unsigned index);  /* a port's counters begin at 0 */
void dvmq_stats_port_gone(unsigned index); /* a port's counters go to "deleted" */

#endif
