/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is counted.  Every packet that came in (rx), and every copy that a flood
 * made of it, ends as exactly one tx or one drop:
 *
 *     sum(rx_packets) + sum(flood_copies) = sum(tx_packets) + sum(drop_*)
 *
 * over all ports, in every snapshot: a worker publishes only between two turns,
 * when no packet is in its hands, and a packet that waits in a soft ring is
 * counted as received when it leaves that ring.
 */
#ifndef DVMQ_STATS_H
#define DVMQ_STATS_H

#include <stdint.h>

/* Reasons of a drop.  "destination": counted at the port it should have gone to, "source": at the one it came from. */
enum dvmq_drop {
	DVMQ_DROP_RING_FULL,      /* destination: the guest posted too few buffers, or the NIC's TX ring is full */
	DVMQ_DROP_PORT_DOWN,      /* destination: no guest is connected, or its ring is disabled */
	DVMQ_DROP_SOFT_FULL,      /* destination: its soft ring is full */
	DVMQ_DROP_NO_BUFFER,      /* destination: no mbuf left for a copy or a VLAN tag */
	DVMQ_DROP_TOO_LONG,       /* destination: the device cannot send a frame in that many segments */
	DVMQ_DROP_NO_DESTINATION, /* source: nobody to flood to */
	DVMQ_DROP_HAIRPIN,        /* source: the destination is the port it came from */
	DVMQ_DROP_VLAN,           /* source: the VLAN tag is not one of this port */
	DVMQ_DROP_MALFORMED,      /* source: shorter than an Ethernet header */
	DVMQ_DROP_REPLICA,        /* source: a copy of a group frame that the NIC put into a queue of its own, too */
	DVMQ_DROP_REASONS
};

/* Written by one worker; padded so that two ports do not share a cache line. */
struct dvmq_port_counters {
	uint64_t rx_packets, rx_bytes; /* what the switch received from the port */
	uint64_t tx_packets, tx_bytes; /* what it delivered to the port */
	uint64_t flood_copies;         /* copies beyond the first that floods made of packets received from the port */
	uint64_t by_default, by_default_bytes; /* of tx_packets, drops and soft rings: what a default queue brought */
	uint64_t drop[DVMQ_DROP_REASONS];
} __attribute__((aligned(64)));

#define DVMQ_COUNTERS_U64 (7 + DVMQ_DROP_REASONS) /* the struct is that many uint64_t, then padding */

const char *dvmq_drop_name(enum dvmq_drop reason); /* "drop_ring_full", ... */

#endif
