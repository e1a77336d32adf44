/* SPDX-License-Identifier: BSD-3-Clause */
/* The worker: an lcore that polls queues, and the mailbox by which queues reach it. */
#ifndef DVMQ_WORKER_H
#define DVMQ_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <dvmq/queue.h>
#include <dvmq/stats.h>

#define DVMQ_MAX_WORKERS 128 /* RTE_MAX_LCORE of Debian's DPDK */
#define DVMQ_RCU_CONTROLLER DVMQ_MAX_WORKERS /* RCU thread id of the controller: online while it looks into a vhost device */
#define DVMQ_EVENTS      8192 /* learn events that may wait at one worker, those of 80 ms; a power of two */

struct rte_mbuf;
struct rte_rcu_qsbr;
struct rte_ring;

/* What a worker remembers of the FDB: true while the generation is the same. */
struct dvmq_known {
	uint64_t key;       /* (VLAN, MAC), see dvmq_fdb_key() */
	struct dvmq_port *port;
	uint64_t report_at; /* TSC at which the controller hears again that it sends (ageing); 0: it was not seen to send */
	uint32_t generation;
};

#define DVMQ_KNOWN 4096 /* a power of two; of 1000 addresses, 4 in 5 have a place of their own */

struct dvmq_stage { /* packets of one turn on their way to one port */
	uint16_t n; /* not 0: it is in dvmq_worker.staged */
	uint64_t bytes;
	struct rte_mbuf *packets[DVMQ_BURST];
};

enum dvmq_worker_state { DVMQ_WORKER_PARKED, DVMQ_WORKER_IDLE, DVMQ_WORKER_ACTIVE };

enum dvmq_trickle_state { DVMQ_TRICKLE_WATCH, DVMQ_TRICKLE_COMPARE, DVMQ_TRICKLE_NAP };

struct dvmq_trickle_nap { /* as of its end */
	uint64_t at, cpu, busy; /* TSC; cycles that the thread ran; busy_cycles */
	uint64_t packets;
};

struct dvmq_trickle { /* see trickle.c */
	enum dvmq_trickle_state state;
	uint64_t begin, cpu, busy; /* of the window: TSC; cycles that the thread ran, and busy_cycles as of then */
	struct dvmq_arrivals all;      /* of all queues */
	uint64_t hold, hold_until; /* TSC cycles without naps, and their end */
	uint64_t began;            /* TSC at the first nap */
	uint32_t room;             /* packets that may come in a nap */
	uint64_t nap;              /* length of the next one, TSC cycles */
	int64_t cost, share;       /* smoothed: cycles that a nap costs; busy part of the time in 1/65536 */
	struct dvmq_trickle_nap last;
};

struct dvmq_worker {
	/* Constant. */
	unsigned core;  /* lcore id: its name, usually the CPU number */
	unsigned index; /* 0..n-1; its RCU thread id */
	int numa;
	int cpu;        /* the one CPU it runs on; -1 if it may use several */
	int wake_fd;    /* eventfd */
	int epoll_fd;   /* wake_fd (data.ptr NULL) and the wake_fd of armed queues (data.ptr: the queue) */
	uint64_t cycles_per_us; /* of the TSC */
	uint64_t stolen_cycles; /* a turn that takes longer did not have its CPU all the time */
	struct rte_ring *learn; /* SPSC: worker -> controller; a pair of uint64_t keys and ports, see fdb.h */

	/* Written by whoever posts (any thread), emptied by the worker. */
	_Alignas(64) _Atomic(struct dvmq_msg *) inbox;
	/* Written by the controller. */
	_Atomic bool stop;
	_Atomic uint32_t policy;      /* enum dvmq_policy; the worker is woken when it changes */
	_Atomic uint32_t stats_asked; /* the worker answers by publishing and storing the same number to stats_told */

	/* Written by the worker. */
	_Alignas(64) _Atomic bool asleep; /* seq_cst: pairs with dvmq_inbox_post(), see there */
	_Atomic uint32_t state;           /* enum dvmq_worker_state */
	_Atomic uint32_t stats_told;
	_Atomic uint32_t n_queues;
	_Atomic uint64_t loops;
	_Atomic uint64_t busy_loops;      /* of them, those that found packets */
	_Atomic uint64_t busy_cycles;     /* turns that found packets, without stolen time */
	_Atomic uint64_t sleeps;
	_Atomic uint64_t learn_dropped;   /* the event ring was full */

	/* Worker only. */
	_Alignas(64) uint64_t now; /* TSC at the end of the last turn */
	uint64_t loop_ended;       /* TSC at the end of the last loop, */
	uint64_t looked_at;        /* and of the one before it: then the mailbox was looked at */
	uint64_t last_packet;      /* TSC */
	uint64_t packets;          /* taken since the start, */
	uint64_t bulk_packets;     /* and those of turns that took DVMQ_BULK or more */
	uint64_t bytes;            /* of all packets */
	uint64_t woke_at;          /* TSC at the end of the last sleep */
	uint64_t patience;         /* TSC cycles without a packet before it sleeps, policy balanced */
	uint64_t window_begin;     /* of alarm.c, TSC */
	uint64_t window_end;
	uint64_t window_busy;      /* busy_cycles, packets and bulk_packets at its begin */
	uint64_t window_packets, window_bulk, window_bytes;
	unsigned burst;            /* most packets of a turn: DVMQ_BULK; DVMQ_BURST while it is full and they are small */
	unsigned next_gather;      /* whose turn it is in gather.c */
	uint64_t full_at;          /* TSC at the end of the last window that was full */
	unsigned full_windows;     /* in a row, up to now */
	unsigned alarm_after;      /* so many are an alarm */
	uint64_t looked_at_work;    /* TSC, and busy_cycles as of then */
	uint64_t busy_then;
	bool has_worked;            /* before that */
	uint64_t slept_at;         /* TSC at the begin of the last sleep */
	uint64_t nap_ns;           /* length of the last nap for want of notifications */
	struct dvmq_trickle trickle;
	uint64_t look_again_at;    /* TSC at which armed queues are looked at nevertheless before a sleep */
	uint32_t vring_changes;    /* dvmq_vring_changes when that was last done */
	bool unarmed_guest;        /* among the quiet guests one may be unarmed */
	uint64_t learn_allowed_at; /* TSC of the next report of a new source */
	uint64_t refresh_allowed_at; /* and of a known one */
	uint32_t fdb_generation;   /* read once per turn */
	struct dvmq_known known[DVMQ_KNOWN]; /* by the hash of the key; whatever queue the packet is of */
	/*
	 * queues[0..n_hot) are polled every loop.  The rest is quiet: up to n_eager
	 * NIC queues and soft rings, whose senders do not wait, then guests.
	 */
	unsigned n, n_hot, n_eager;
	unsigned next_eager, next_guest; /* whose turn it is to be looked at */
	uint64_t look_at;          /* TSC of the next look at quiet queues while there is traffic */
	uint64_t look_max;         /* TSC cycles that a look may have cost */
	struct dvmq_queue **queues; /* room for all queues that can exist */
	struct dvmq_stage *stage;   /* by port index */
	struct dvmq_port **staged;  /* the ports with staged packets */
	unsigned n_staged;
	bool counted;               /* counters changed since the last publication */
	struct dvmq_port_counters *counters;

	/* A sequence lock: odd while the worker writes; the reader tries again. */
	_Alignas(64) _Atomic uint32_t published_seq;
	_Atomic uint64_t (*published)[DVMQ_COUNTERS_U64]; /* by port index */
};

/* --- handover.c: mailbox and list; no DPDK call, so that tests run it under ThreadSanitizer --- */

/*
 * Posts queue->msg to a worker and wakes it if it sleeps.  Any thread that owns
 * the message.  Never fails, never waits.
 */
void dvmq_inbox_post(struct dvmq_worker *to, struct dvmq_msg *msg);

/* Wakes a worker that sleeps, so that it looks at its flags.  Any thread. */
void dvmq_worker_wake(struct dvmq_worker *worker);

/* The worker, between two turns: does what its messages say. */
void dvmq_inbox_serve(struct dvmq_worker *worker);

/* The worker: one loop over its queues.  Returns the packets it took. */
unsigned dvmq_worker_loop(struct dvmq_worker *worker);

/* The worker: one turn of one of its queues; it is hot if that found packets.  Returns how many. */
unsigned dvmq_queue_look(struct dvmq_worker *worker, struct dvmq_queue *queue);

/* The worker: one of its queues notified; it is hot again, and disarmed. */
void dvmq_queue_kicked(struct dvmq_worker *worker, struct dvmq_queue *queue);

/*
 * Controller: asks that `to` (NULL: nobody) poll the queue; it returns at once.
 * False if the queue is still on its way from an earlier call: try again later.
 */
bool dvmq_queue_hand(struct dvmq_queue *queue, struct dvmq_worker *to);

/*
 * The worker that has all queues, so that nobody else sends: it takes no locks of destination rings.  An instruction
 * with a lock waits until every store before it has reached memory, and some of these are to cache lines that a guest
 * has just looked at.  NULL: several may have queues.
 *
 * Written by the controller, while no queue is on its way, and set to NULL by that worker itself between two turns,
 * before anybody else hears of a queue: every message that gives one to another worker goes through it.  So whoever reads
 * anything but itself has to lock, and what is out of date is that.  Both writers release, and who reads acquires: what
 * was sent before came before.
 */
extern _Atomic(struct dvmq_worker *) dvmq_alone;

/* The worker itself, anywhere in a turn. */
static inline bool dvmq_is_alone(const struct dvmq_worker *worker)
{
	return atomic_load_explicit(&dvmq_alone, memory_order_acquire) == worker;
}

/* Controller: looks whether there is such a worker among the owners of these queues. */
void dvmq_look_for_alone(struct dvmq_queue *const *queues, unsigned n);

/*
 * Controller: asks the owner to take at once what waits in the queue: until a turn finds nothing, or as much
 * as its ring holds was taken.  in_transit until that is done; refused like a hand-over.
 */
bool dvmq_queue_drain(struct dvmq_queue *queue);

/* --- worker.c --- */

extern struct dvmq_worker *dvmq_workers[DVMQ_MAX_WORKERS]; /* written at start, constant then */
extern unsigned dvmq_n_workers;
extern struct rte_rcu_qsbr *dvmq_rcu; /* thread ids are worker indices; sleeping workers are offline */

/* Controller: memory of a worker on lcore `core`; NULL and err on failure. */
struct dvmq_worker *dvmq_worker_new(unsigned core, unsigned index, unsigned max_queues, struct dvmq_err *err);
void dvmq_worker_free(struct dvmq_worker *worker);

/* lcore_function_t: runs until worker->stop. */
int dvmq_worker_main(void *worker);

/* --- deliver.c and forward.c: the owner only --- */

dvmq_poll_fn dvmq_poll_vmq, dvmq_poll_default, dvmq_poll_spare, dvmq_poll_soft, dvmq_poll_guest, dvmq_poll_access;

/*
 * Sends n >= 1 packets, untagged, with their VLAN in vlan_tci, of so many bytes
 * in sum, to a port; the packets are gone then, sent or counted as dropped.
 */
void dvmq_deliver(struct dvmq_worker *worker, struct dvmq_queue *queue, struct dvmq_port *dst,
		  struct rte_mbuf **packets, unsigned n, uint64_t bytes);

/* The sum of their lengths. */
uint64_t dvmq_bytes_of(struct rte_mbuf *const *packets, unsigned n);

/* Frees n >= 1 packets, in one go where they are simple and from one pool. */
void dvmq_free_burst(struct rte_mbuf **packets, unsigned n);

/* Empties a soft ring and shuts it: default queues deliver inline again, in order.  See forward.c. */
void dvmq_soft_drain(struct dvmq_worker *worker, struct dvmq_queue *queue);

/* --- gather.c: the owner only; no DPDK call, for tests --- */

/* Now and then, where there is traffic: the next hot queue is left alone for a while, if it is due. */
void dvmq_gather_next(struct dvmq_worker *worker);

/* Of a queue whose gather.until is set: is it to be left alone still?  Sets worker->now. */
bool dvmq_gathers(struct dvmq_worker *worker, struct dvmq_queue *queue);

/* The first turn after that took so many packets. */
void dvmq_gathered(struct dvmq_worker *worker, struct dvmq_queue *queue, unsigned took);

/* --- trickle.c: the owner only; no DPDK call and no clock, for tests --- */

/* Whether dvmq_trickle_step() has something to do: a nap is over, or time enough has passed. */
bool dvmq_trickle_is_due(const struct dvmq_worker *worker);

/*
 * Looks whether the worker's packets are a trickle: worker->trickle.state, and if
 * that is NAP, how long the next one is.  cpu: TSC cycles that the thread had a CPU
 * so far; frugal: naps even if that slows down who sends.
 */
void dvmq_trickle_step(struct dvmq_worker *worker, uint64_t cpu, bool frugal);

/* --- sleep.c: the owner only --- */

/* No notifications any more; the queue is polled again. */
void dvmq_queue_disarm(struct dvmq_queue *queue);

/*
 * Before the queue leaves the worker: no notifications any more, and the queue has no descriptor.  A guest's is ours, so
 * it can leave the epoll set when the queue is gone: it is returned, for dvmq_fd_forget() before the worker next sleeps.
 * A device's, which others may close then, has left it: -1.
 */
int dvmq_queue_unwatch(struct dvmq_worker *worker, struct dvmq_queue *queue);

/* Takes such a descriptor out of the epoll set and closes it; -1: nothing. */
void dvmq_fd_forget(struct dvmq_worker *worker, int fd);

/* Whether the worker has been without packets for so long that its policy lets it sleep. */
bool dvmq_worker_is_idle(struct dvmq_worker *worker);

/*
 * Blocks until there may be something to do: a message, a kick or RX interrupt
 * of one of its queues, or for a bounded time where a queue cannot notify.
 */
void dvmq_worker_sleep(struct dvmq_worker *worker);

#endif
