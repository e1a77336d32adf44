/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the balancer share.
 *
 * A plan is made on a copy of the snapshot (struct work): every step of a
 * search places a queue there, and the plan is the difference between where
 * the queues are at the end and where they were.  A queue that goes to and fro
 * during the search therefore costs nothing.
 *
 * balance.c  parameters, history, the plan and its reasons
 * fast.c     the fast loop
 * slow.c     the slow loop
 * cores.c    how many cores are awake, and which
 * work.c     the working copy: load, place, cost of a move
 * bound.c    what no assignment can beat
 * repair.c   the search for an assignment with few moves
 */
#ifndef DVMQ_BALANCE_INTERNAL_H
#define DVMQ_BALANCE_INTERNAL_H

#include "dvmq/balance.h"

#define NONE (-1)

/* docs/balancer.md lists each of these with its reason. */
#define GOAL_TIGHT    1.0199 /* max load over lower bound that the slow loop repairs to: 1.02, less what sums round */
#define GOAL_LOOSE    1.0499 /* the same where the tight goal needs more than TIGHT_SHARE of the queues */
#define TIGHT_SHARE   0.04
#define GOAL_FLOOR    0.05   /* below this load of a core, balance buys nothing; in cores */
#define DEMAND_MAX    1000.0 /* larger demands, infinity among them, count as this; in cores */
#define REMOTE_COST   0.25   /* share of its demand that a queue costs more per SLIT step of 10 */
#define SMT_COST      0.30   /* share of its demand that a queue costs more beside a fully busy sibling */
#define AFFINITY_GAIN 0.02   /* what a VM mate on the core is worth when two places serve equally; in cores */
#define SETTLE_MS     1000.0 /* a queue that moved within this time moves again only for want of others; ms */
#define RECENT_COST   0.05   /* what such a move costs in the fit, in cores */
#define BACK_COST     0.50   /* what it costs if it would take the queue back where it came from, in cores */
#define WINDOW	      16     /* parts of hold_ms in which the need of cores is remembered */
#define SERVES_MIN    0.01   /* demand of a queue worth moving in the fast loop, in cores */
#define IDLE_MOST     0.001  /* a queue that needs less has nothing that a move could disturb; in cores */
#define UNEVEN	      0.10   /* so much above the goal, and below target, a core may be for ever, in cores */
#define ECONOMY_SHARE 0.1    /* least that a move to a cheaper place saves, as a share of the demand: above noise */
#define NODES_MAX     64     /* nodes above this one count as unknown */
#define EPSILON	      1e-9

struct core {
	unsigned id;
	int numa;
	int sibling; /* index or NONE */
	enum dvmq_core_wish wish;
	bool was_active;
	bool active;	   /* polls after the plan */
	bool open;	   /* active and may be given queues */
	bool leaving;	   /* to be emptied */
	bool dispensable;  /* leaving because the load does not need it */
	bool tried;	   /* the search found nothing more for it */
	unsigned count;	   /* queues */
	unsigned n_pinned; /* of them pinned */
	double load, before, pinned;
	double largest;		 /* demand of its largest queue; below 0: to be looked up */
	double foreseen;	 /* what it will need more than its load, as places differ; in cores */
	double level;		 /* load that the search brings it to */
	int first;		 /* its queues: list through struct queue */
	bool listed;		 /* scratch of the search: its part of struct work.sizes is filled in */
	unsigned sizes, n_sizes; /* where that part begins, and its length */
	bool mates;		 /* scratch of the search: it has VM mates of the queue in hand */
};

struct queue {
	double demand;
	uint32_t id;
	uint32_t group;
	int numa;
	int core;	/* index of its core in the working copy; NONE while homeless */
	int home;	/* index of its core in the snapshot; NONE if that core is gone or parked */
	int next, prev; /* queues of the same core */
	int mate;	/* next queue of the same group */
	bool fixed;	/* pinned, or cooling down */
	bool pinned;
	bool recent; /* moved within SETTLE_MS: rather another one, so that moves are not undone */
	int left;    /* if so, index of the core it came from, as far as that is known; else NONE */
};

/* Where a queue was before its last move. */
struct origin {
	bool known;
	uint32_t queue;
	unsigned core;
};

struct work {
	const struct dvmq_snapshot *snapshot;
	const struct dvmq_balance_params *params;
	struct core *cores;
	struct queue *queues;
	int *list;		/* n_queues: the queues of the core in hand, largest first */
	int *saved;		/* n_queues: an assignment to come back to */
	int *kept;		/* n_queues: the best one so far */
	double *sizes;		/* 2 x n_queues: demands in order, scratch of the bound and of the search */
	int *slots;		/* hash tables: core id, group */
	struct origin *origins; /* n_slots, by queue id; part of the history.  What shares a slot is forgotten */
	unsigned n_slots;
	unsigned n_cores, n_queues;
	unsigned n_active;
	bool grouped;	/* queue.mate is filled in */
	unsigned moved; /* queues that are not at home */
	unsigned limit; /* most that may be */
	double total;
	double lower; /* lower bound of the load of the busiest core */
	double slack; /* so much above its level a core is left alone, in cores */
	uint8_t distance[NODES_MAX][NODES_MAX];
};

/* A backlog on a core. */
struct streak {
	unsigned core;
	double since_ms; /* clock of the first of the fast calls in a row that saw a backlog on it, < 0: none */
};

/* What is remembered between calls. */
struct history {
	bool started;	   /* there was a call */
	bool slow_started; /* there was a call of the slow loop */
	bool fast_started;
	double last_ms;		   /* now_ms of the last call */
	double clock_ms;	   /* time that counts, since the history began */
	double tokens;		   /* moves the budget allows; below 0: owed */
	unsigned need[WINDOW + 1]; /* most cores needed, per part of hold_ms */
	unsigned long part;	   /* part of the newest entry */
	double uneven_ms; /* clock since which the load has been uneven, < 0: it is not */
	double hopeless_ms[2]; /* clock until which the fast loop searches for one move only; [1]: of a core above 1 */
	unsigned n_streaks;
};

struct dvmq_balance {
	struct dvmq_balance_params params;
	struct history history;
	struct streak *streaks; /* part of the history, in the order of the snapshot's cores */
	struct work work;
	struct dvmq_move *moves;
	struct dvmq_core_action *activate, *park;
	struct dvmq_saturated *saturated;
	unsigned core_room, queue_room;
	unsigned n_activate;
	double goal; /* level of the last repair, for the reasons */
	bool stands; /* the fast loop acted on a backlog, for the reasons */
};

/* A move in hand. */
struct step {
	int queue, to;
	double score;
};

/* balance.c */
double dvmq_balance_rate(const struct dvmq_balance *b);

/* fast.c, slow.c: they return why nothing was done, or NULL. */
const char *dvmq_fast(struct dvmq_balance *b, bool dry);
const char *dvmq_slow(struct dvmq_balance *b, uint32_t max_moves);
void dvmq_slow_end_wide(struct dvmq_balance *b);

/* cores.c */
unsigned dvmq_cores_remember(struct dvmq_balance *b, unsigned need);
unsigned dvmq_cores_open(const struct work *w);
void dvmq_cores_wake(struct dvmq_balance *b, int core, const char *format, ...) __attribute__((format(printf, 3, 4)));
int dvmq_cores_pick(const struct work *w, int numa);
void dvmq_cores_wishes(struct dvmq_balance *b);
int dvmq_cores_hottest(struct work *w);
int dvmq_cores_node(const struct work *w, int core);
void dvmq_cores_grow(struct dvmq_balance *b);
bool dvmq_cores_may_park(const struct work *w);
const char *dvmq_cores_shrink(struct dvmq_balance *b, unsigned need, unsigned most);

/* work.c */
void dvmq_work_load(struct work *w);
void dvmq_work_place(struct work *w, int queue, int core);
void dvmq_work_open(struct work *w, int core);
void dvmq_work_close(struct work *w, int core);
void dvmq_work_save(const struct work *w, int *assignment);
void dvmq_work_restore(struct work *w, const int *assignment);
struct origin *dvmq_work_origin(const struct work *w, uint32_t queue);
int dvmq_work_find_core(const struct work *w, unsigned id);
double dvmq_work_max(const struct work *w);
double dvmq_work_largest(struct work *w, int core);
void dvmq_work_sort(const struct work *w, int *list, unsigned n);
unsigned dvmq_work_gather(struct work *w, int core);
bool dvmq_work_foresee(struct work *w);
bool dvmq_work_distant(const struct work *w);
double dvmq_work_surcharge(const struct work *w, const struct queue *q);
double dvmq_work_distance(const struct work *w, const struct queue *q, int from, int to);
double dvmq_work_cost(const struct work *w, const struct queue *q, int from, int to);
void dvmq_work_mark_mates(struct work *w, int queue, bool on);

/* bound.c */
double dvmq_bound(struct work *w, double *ret_rest);
unsigned dvmq_bound_cores(const struct work *w, double cap);

/* repair.c */
void dvmq_repair(struct work *w, double level);
double dvmq_repair_level(struct work *w, int core, double level);
double dvmq_repair_excess(struct work *w, double level);
void dvmq_repair_drain(struct work *w, int core);
void dvmq_repair_anew(struct work *w, double stay);

#endif
