/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rings of memory shared with the switch, as perfguest sees them: it is the
 * driver of a virtqueue (split), or the client of a memif.  Both have one index
 * that the driver advances (slots given to the switch) and one that the switch
 * advances (slots given back), and slot i has buffer i for ever.  So to send a
 * packet, or to hand a buffer back, is to add one to an index: the guest costs
 * next to nothing, and the switch is what is measured.
 *
 * It relies on a switch that gives slots back in the order in which it got them,
 * as librte_vhost and DPDK's memif driver do; dvmq_ring_check() tells when one
 * does not.
 */
#ifndef DVMQ_PERF_RINGS_H
#define DVMQ_PERF_RINGS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vring_used_elem;

#define DVMQ_BUF_STRIDE 2112u /* 2 KiB and an odd number of cache lines, which spreads over the sets of a cache */
#define DVMQ_BUF_SIZE	2048u

struct dvmq_ring {
	_Atomic uint16_t *given;       /* written by us */
	const _Atomic uint16_t *taken; /* written by the switch */
	uint16_t mask;
	uint16_t posted; /* what we stored to *given */
	uint16_t seen;	 /* of *taken */
	uint16_t limit;	 /* most slots that the switch holds at a time */
	uint8_t *buffers;
	size_t stride;
	unsigned headroom; /* bytes in front of the frame in a buffer */

	const _Atomic uint16_t *quiet; /* non-zero: the switch wants no kick; NULL: it never does */
	uint16_t kicked;	       /* of posted */
	int kick_fd;
	struct vring_used_elem *used; /* virtqueue: ids and lengths of what was taken */
	uint8_t *lengths;	      /* where the length of slot 0 is for the switch to read; one each 16 bytes */
};

/** Slots that the switch has given back since the last call. */
static inline uint16_t dvmq_ring_reap(struct dvmq_ring *ring)
{
	uint16_t now = atomic_load_explicit(ring->taken, memory_order_acquire);
	uint16_t n = now - ring->seen;

	ring->seen = now;
	return n;
}

/** Slots that may be given now. */
static inline uint16_t dvmq_ring_room(const struct dvmq_ring *ring)
{
	return ring->limit - (uint16_t)(ring->posted - ring->seen);
}

static inline void dvmq_ring_give(struct dvmq_ring *ring, uint16_t n)
{
	ring->posted += n;
	atomic_store_explicit(ring->given, ring->posted, memory_order_release);
}

/** The frame in the buffer of a slot; any index, its lower bits count. */
static inline uint8_t *dvmq_ring_frame(const struct dvmq_ring *ring, uint16_t index)
{
	return ring->buffers + (size_t)(index & ring->mask) * ring->stride + ring->headroom;
}

/** Kicks the switch if it asks for that and has not been kicked for all that was given. */
void dvmq_ring_kick(struct dvmq_ring *ring);

/** False if the switch gave slots back in another order. Looks at the last one. */
bool dvmq_ring_check(const struct dvmq_ring *ring);

/* --- vhost.c: a guest, that is one vhost-user device with one queue pair --- */

struct dvmq_guest {
	char path[104]; /**< of the socket; the guest is its server, as QEMU is with server=on */
	struct dvmq_ring rx, tx;
	bool lean;	   /**< never has traffic: all slots share one buffer */
	_Atomic bool up;   /**< the switch has all it needs */
	int listen_fd, fd; /**< control thread only */
	int memory_fd;
	uint8_t *memory;
	size_t size;
};

/**
 * Makes rings and socket. Ends the program if that cannot be done.
 * @param slots  of each ring, a power of two
 * @param huge   2 MiB pages
 * @param loop   slot i of TX sends from buffer i of RX
 */
void dvmq_guest_open(struct dvmq_guest *guest, unsigned slots, bool huge, bool loop);

/** Accepts the switch and tells it about memory and rings; false if it went away. Control thread. */
bool dvmq_guest_connect(struct dvmq_guest *guest);

/* --- memif.c: the network behind an uplink --- */

#define DVMQ_MEMIF_RINGS 64

struct dvmq_memif {
	char path[104];	     /**< of the socket; the switch is the server */
	unsigned n_tx, n_rx; /**< we send on n_tx rings, the switch on n_rx */
	struct dvmq_ring tx[DVMQ_MEMIF_RINGS], rx[DVMQ_MEMIF_RINGS];
	_Atomic bool up;
	int fd;
	int memory_fd;
	uint8_t *memory;
	size_t size;
};

/** Makes the rings; as dvmq_guest_open(). */
void dvmq_memif_open(struct dvmq_memif *memif, unsigned slots, bool huge);

/** Connects to the switch; false: it is not there yet, or went away. Control thread. */
bool dvmq_memif_connect(struct dvmq_memif *memif);

/* --- perfguest.c --- */

void dvmq_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif
