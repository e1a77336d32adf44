/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of perfguest share. */
#ifndef DVMQ_PERFGUEST_H
#define DVMQ_PERFGUEST_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include <linux/virtio_ring.h>

#include "rings.h"

#define DVMQ_SIDES	    8
#define DVMQ_GUESTS	    4096
#define DVMQ_ACTORS	    1024 /* guests and rings of networks that have traffic */
#define DVMQ_ACTORS_OF_SIDE 256
#define DVMQ_ADDRESSES	    1024 /* that one sends to, or from */
#define DVMQ_SIZES	    16
#define DVMQ_FLOWS	    256 /* of a sender: UDP source ports */
#define DVMQ_BUCKETS	    1024

#define DVMQ_STAMP_AT	 42 /* behind Ethernet, IPv4 and UDP */
#define DVMQ_STAMP_MAGIC 0xd5b3

struct dvmq_stamp {
	uint16_t magic, sender;
	uint64_t number, tsc;
} __attribute__((packed));

struct dvmq_histogram { /* of TSC cycles */
	uint64_t n, max;
	uint32_t count[DVMQ_BUCKETS];
};

enum dvmq_role { DVMQ_RECEIVE, DVMQ_SEND, DVMQ_REFLECT };

struct dvmq_actor {
	uint16_t id;
	enum dvmq_role role; /* who sends receives, too */
	bool counts;	     /* its packets are what is measured */
	bool mute;	     /* never kicks */
	bool shares;	     /* its TX ring with other senders: frames get its address when they are sent */
	struct dvmq_side *side;
	struct dvmq_ring *rx, *tx; /* a network has actors with one of them only */
	struct dvmq_actor *peer;   /* the one receiver of what it sends; NULL: it sends without looking */
	uint8_t mac[6], dst[DVMQ_ADDRESSES][6], src[DVMQ_ADDRESSES][6]; /* src: instead of mac */
	unsigned n_dst, n_src;
	uint16_t sizes[DVMQ_SIZES];
	unsigned n_sizes;

	bool single;	     /* one packet at a time, */
	uint64_t pause;	     /* TSC cycles after the last one arrived, */
	uint64_t arrived_at; /* about then */
	double rate, tokens; /* packets per second; negative: as fast as the ring drains */
	uint64_t refilled;   /* TSC */
	uint64_t given, sent, received;

	uint64_t stamped;	    /* number of the next packet */
	uint64_t expected, arrived; /* number of the next to arrive; bit i: expected - 1 - i has */
};

struct dvmq_side {
	char name[32];
	pid_t pid; /* 0: never stopped */
	struct dvmq_actor *actors[DVMQ_ACTORS_OF_SIDE];
	unsigned n;
	uint64_t foreign, reordered, duplicated, throttled;
	int64_t lost;
	struct dvmq_histogram latency;
};

struct dvmq_options {
	int cpu, switch_cpu;
	unsigned slots;
	double poll_ns, nap_us, wait;
	bool huge, stamp;
};

extern struct dvmq_options dvmq_opt;
extern struct dvmq_side dvmq_sides[DVMQ_SIDES];
extern unsigned dvmq_n_sides;
extern struct dvmq_actor *dvmq_actors[DVMQ_ACTORS];
extern unsigned dvmq_n_actors;
extern double dvmq_tsc_hz;

/** Moves packets at all rings of a side that have traffic; returns how many. now: TSC. */
unsigned dvmq_serve(struct dvmq_side *side, uint64_t now);

/** Kicks the switch where it sleeps. */
void dvmq_kick_all(struct dvmq_side *side);

uint64_t dvmq_passed(const struct dvmq_side *side);
void dvmq_histogram_add(struct dvmq_histogram *histogram, uint64_t cycles);
double dvmq_histogram_us(const struct dvmq_histogram *histogram, double share);

/** Runs the calling thread on one CPU. */
void dvmq_pin(int cpu);

static inline uint64_t dvmq_cycles(double seconds)
{
	return (uint64_t)(seconds * dvmq_tsc_hz);
}

/** Bytes in the buffer of a slot of an RX virtqueue that was taken, with the header. */
static inline uint32_t dvmq_ring_length(const struct dvmq_ring *ring, uint16_t index)
{
	return ring->used[index & ring->mask].len;
}

/* --- measure.c --- */

/** Carries out the commands on stdin until it ends. */
void dvmq_obey(void);

#endif
