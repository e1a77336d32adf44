/* SPDX-License-Identifier: BSD-3-Clause */
/* The queue: the unit of work, polled by exactly one worker at a time. */
#ifndef DVMQ_QUEUE_H
#define DVMQ_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <dvmq/conf.h>

#define DVMQ_BURST          128 /* most packets of one turn where the worker is full, */
#define DVMQ_BULK           32  /* and where it keeps up; each costs as much in turns of that many as in longer ones */
#define DVMQ_QUEUE_NAME_LEN (DVMQ_NAME_LEN + 8)
#define DVMQ_PAUSE_LOOPS    4  /* pauses of 1, 2, 3 loops, and of more */
#define DVMQ_PAUSE_TIMES    48 /* pauses by their length: two buckets for each power of two, from 256 TSC cycles on */

struct dvmq_port;
struct dvmq_queue;
struct dvmq_soft_ring;
struct dvmq_worker;
struct rte_mempool;

enum dvmq_queue_kind { DVMQ_QUEUE_VMQ, DVMQ_QUEUE_DEFAULT, DVMQ_QUEUE_SOFT, DVMQ_QUEUE_GUEST };

/*
 * A message to a worker.  It is part of its queue, so that posting never
 * allocates and never fails; a queue is in one mailbox at most.
 */
enum dvmq_msg_type {
	DVMQ_MSG_TAKE, /* poll this queue from now on */
	DVMQ_MSG_GIVE, /* pass it on to msg.target; target NULL: to nobody */
	DVMQ_MSG_PASS, /* as GIVE, to a worker that never had it: it is alone no longer, see dvmq_alone */
	DVMQ_MSG_DRAIN, /* deliver what waits in it now */
};

struct dvmq_msg {
	struct dvmq_msg *next; /* in the mailbox; written by the poster, read by the worker that takes */
	enum dvmq_msg_type type;
	struct dvmq_queue *queue;
	struct dvmq_worker *target;
};

/*
 * Packets, cycles and so on of a queue since its birth.  Written by its owner
 * with relaxed stores (one writer, so no read-modify-write is needed), read by
 * anyone; a value may be a turn old.
 */
struct dvmq_queue_counters {
	_Atomic uint64_t packets, bytes, drops;
	_Atomic uint64_t cycles;      /* TSC cycles of the turns that found packets */
	_Atomic uint64_t turns;       /* turns that found packets */
	_Atomic uint64_t full_turns;  /* of them, those that took as many as they may: more were waiting */
	_Atomic uint64_t bulk_packets; /* of turns that took DVMQ_BULK packets or more, */
	_Atomic uint64_t bulk_cycles;  /* and their TSC cycles */
	_Atomic uint64_t emptied;     /* turns that took all there was, also empty ones */
	_Atomic uint64_t strays;      /* of the packets of a vmq queue, those that were not for its port */
	_Atomic uint64_t stolen;      /* turns so long that the hypervisor or another thread must have had the CPU */
	_Atomic uint32_t backlog;     /* packets waiting when last looked, where that can be counted */
	_Atomic uint32_t capacity;    /* size of the ring behind it; 0: unknown */
};

struct dvmq_arrivals { /* how fast packets come, see trickle.c */
	uint64_t then;           /* packets as of the begin of the window, */
	uint64_t seen;           /* and of the nap */
	uint32_t naps;           /* in a row that brought fewer than without naps, */
	uint32_t came, expected; /* what they brought, and what would have come */
	uint32_t polled;         /* packets that came in a window without naps, */
	uint32_t napped;         /* and with them, if that is to be compared */
};

struct dvmq_gather { /* see gather.c */
	uint64_t until;  /* TSC; it is left alone up to then; 0: it is not */
	uint64_t length; /* TSC cycles that it is to be left alone for */
	uint64_t due;    /* TSC of the next time, if it has no turn with many packets until then; */
	uint64_t seen;   /* bulk_packets, to know that */
};

typedef uint16_t dvmq_poll_fn(struct dvmq_worker *worker, struct dvmq_queue *queue);

struct dvmq_queue {
	/* Constant while a worker may have the queue; written by the controller. */
	dvmq_poll_fn *poll;          /* one turn: takes and delivers at most worker->burst packets, returns how many it took */
	void (*drain)(struct dvmq_worker *worker, struct dvmq_queue *queue); /* before it is polled by nobody; or NULL */
	struct dvmq_port *port;      /* where its packets come from (a vmq or soft queue: the uplink) */
	struct dvmq_port *dst;       /* vmq, soft: the port that all packets go to; else NULL */
	struct rte_mempool *pool;    /* guest: buffers for dequeue */
	struct dvmq_soft_ring *soft; /* soft */
	uint64_t mac, mac_mask;      /* vmq: the first 6 bytes of a frame for dst; mask 0: dst has no MAC to compare */
	uint16_t eth_id, eth_queue;  /* default, vmq, and guest of an ethdev port */
	uint16_t virtqueue;          /* guest of a vhost port: index of the TX virtqueue (odd) */
	uint16_t tx_index;           /* picks the TX queue on ethdevs, for life: a move must not reorder */
	bool countable;              /* the driver can count what waits in the ring */
	bool notifies;               /* can wake a sleeping worker: kick or RX interrupt */
	bool replicas;               /* default, vmq: group frames in it are copies of what queue 0 of the uplink got */
	enum dvmq_queue_kind kind;

	/* Owner only; handed over with the queue (release/acquire of the mailbox). */
	uint16_t place;              /* in the owner's list */
	uint16_t empty_run;          /* empty turns in a row */
	bool armed;                  /* asks for a notification (kick, RX interrupt) */
	int wake_fd;                 /* in the owner's epoll set, -1: none */
	uint32_t wake_generation;    /* vring generation that wake_fd belongs to */
	uint64_t last_turn;          /* TSC at the end of the last turn */
	uint64_t left_at;            /* TSC when it left the other worker, and the busy_loops of this one then */
	uint64_t left_loops;
	struct dvmq_gather gather;
	struct dvmq_arrivals arrivals;
	uint64_t sample_at;          /* TSC at which backlog is looked at again */
	uint64_t last_header[2];     /* MACs and ethertype of the last packet, and where it went: */
	struct dvmq_port *last_dst;  /* NULL: look up; true until the FDB's generation steps or the source is to be reported */
	uint32_t last_generation;
	uint64_t last_src;           /* key of the source that last_until is about */
	uint64_t last_until;         /* TSC until which that source needs no attention */

	struct dvmq_queue_counters counters;
	_Atomic uint64_t moves;
	_Atomic uint64_t pause_max;  /* TSC cycles; longest time between the last turn here and the first there */
	_Atomic uint64_t pause_loops[DVMQ_PAUSE_LOOPS]; /* moves by the loops from the one turn to the other; unmoved: 1 */
	_Atomic uint64_t pause_stolen; /* moves that are not in pause_loops: its worker did not have its CPU meanwhile */
	_Atomic uint64_t pause_times[DVMQ_PAUSE_TIMES]; /* moves by that time, see dvmq_pause_bucket() */

	/*
	 * Who polls it; NULL: nobody.  Written by the worker that takes (release, so
	 * that who reads it with acquire may reuse msg) or drops the queue.
	 */
	_Atomic(struct dvmq_worker *) owner;
	_Atomic bool in_transit;     /* set by the controller before it posts, cleared by the last worker (release) */
	struct dvmq_msg msg;         /* controller's while !in_transit, then the workers' */

	/* Controller only. */
	char name[DVMQ_QUEUE_NAME_LEN]; /* "up0/rx3", "web1/tx0" */
	uint32_t id;                    /* never reused */
	bool pinned;
	bool wanted;                    /* should have an owner (its device is there) */
	uint64_t moved_at;              /* TSC of the last move */
	uint64_t unproven;              /* vmq: packets that prove nothing, since they came before it was bound */
	struct dvmq_load *load;         /* history of its measurement */
};

static inline void dvmq_count(_Atomic uint64_t *counter, uint64_t add)
{
	uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, value + add, memory_order_relaxed);
}

/* Where in pause_times a pause of so many TSC cycles counts. */
static inline unsigned dvmq_pause_bucket(uint64_t cycles)
{
	unsigned top = 63 - (unsigned)__builtin_clzll(cycles | 256);
	unsigned bucket = 2 * (top - 8) + (cycles >> (top - 1) & 1);

	return bucket < DVMQ_PAUSE_TIMES ? bucket : DVMQ_PAUSE_TIMES - 1;
}

const char *dvmq_queue_kind_name(enum dvmq_queue_kind kind);

#endif
