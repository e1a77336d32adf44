/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Flows of dvmq-traffic: the frames of a flow, and the judgement of what arrives from their sequence numbers.
 *
 * A frame is Ethernet, an optional 802.1Q tag on the network side, IPv4 and UDP with valid checksums, and a payload
 * that starts with a struct dvmq_stamp. The UDP checksum covers all of the payload, so a changed byte is found.
 */
#ifndef DVMQ_TRAFFIC_FLOW_H
#define DVMQ_TRAFFIC_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_udp.h>

/** Sequence numbers that a flow remembers: what is older cannot be told from a duplicate any more. */
#define DVMQ_FLOW_HISTORY 4096
/** Different frame sizes in one run: IMIX has three. */
#define DVMQ_FLOW_SIZES 3
/** Bytes of Ethernet, tag, IPv4 and UDP headers and of the stamp, at most. */
#define DVMQ_FLOW_HEADERS 68
#define DVMQ_FRAME_MIN	  64
#define DVMQ_FRAME_MAX	  1514

/** Endpoint 0 is the network, endpoint 1 + g is guest g. */
#define DVMQ_NETWORK 0

enum dvmq_traffic_mode { DVMQ_P2V, DVMQ_V2P, DVMQ_V2V, DVMQ_PVP, DVMQ_MODES };

/** Start of the payload, native byte order: sender and receiver are one process. */
struct dvmq_stamp {
	uint32_t run; /**< frames of another run (left in a ring, or of another program) are not ours */
	uint16_t flow;
	uint64_t seq;
	uint64_t tsc; /**< time of sending */
} __attribute__((packed));

struct dvmq_flow_template {
	uint8_t headers[DVMQ_FLOW_HEADERS];
	uint16_t headers_len;
	uint16_t frame_len; /**< bytes with the tag, without FCS */
	uint32_t sum;	    /**< UDP checksum with seq and tsc 0, not yet folded and inverted */
};

struct dvmq_flow {
	enum dvmq_traffic_mode mode;
	uint16_t id;
	uint16_t src, dst;	       /**< endpoints */
	uint16_t via;		       /**< PVP: the guest that turns the frames round; else equal to dst */
	uint16_t guest;		       /**< endpoint that the hot spot is about */
	uint16_t txq;		       /**< queue of src */
	uint16_t vlan;		       /**< 0: untagged */
	uint16_t window;	       /**< most frames in flight */
	uint16_t via_queue, dst_queue; /**< 1 + the RX queue of via, dst that its last frame came by; 0: none came */
	uint16_t quiet;		       /**< ticks without an arrival while frames are in flight */

	uint64_t next;	   /**< sequence number of the next frame to send */
	uint64_t expected; /**< all below it are judged: received or lost */
	uint64_t highest;  /**< one above the highest that arrived */
	uint64_t received, lost, reordered, duplicated, late;
	uint64_t missing[DVMQ_FLOW_HISTORY / 64]; /**< bit seq % HISTORY: judged lost */

	uint8_t n_sizes;
	struct dvmq_flow_template templates[DVMQ_FLOW_SIZES];
};

enum dvmq_frame_kind {
	DVMQ_FRAME_OTHER,   /**< not a data frame of this run: announcements, other hosts */
	DVMQ_FRAME_CORRUPT, /**< one of ours, changed on its way */
	DVMQ_FRAME_DATA,
};

/** What a received frame says about itself. */
struct dvmq_frame {
	struct rte_ether_hdr *eth;
	uint16_t vlan; /**< 0: no tag */
	struct dvmq_stamp stamp;
};

/** All guests have the MAC of the first: only their VLANs tell them apart. Set before anything else is called. */
extern bool dvmq_one_mac;

/** MAC address of an endpoint: guest g has 52:54:00:00:00:01 + g, the network 52:54:00:00:ff:01. */
void dvmq_endpoint_mac(uint16_t endpoint, struct rte_ether_addr *ret_mac);

/**
 * Builds the frame templates of a flow whose mode, id, endpoints and vlan are set.
 * @param run      stamped into every frame
 * @param sizes    bytes of a frame without tag and FCS, DVMQ_FRAME_MIN..DVMQ_FRAME_MAX
 * @param n_sizes  1..DVMQ_FLOW_SIZES
 * @param udp_port source port, distinguishes the flows of a pair
 */
void dvmq_flow_init(struct dvmq_flow *flow, uint32_t run, const uint16_t *sizes, uint8_t n_sizes, uint16_t udp_port);

/** Writes the flow's next frame into an empty mbuf of one segment and counts it as sent. size_index < n_sizes. */
void dvmq_flow_fill(struct dvmq_flow *flow, struct rte_mbuf *m, unsigned int size_index, uint64_t tsc);

/** Takes back the last n frames that were filled but not sent. */
static inline void dvmq_flow_unsend(struct dvmq_flow *flow, unsigned int n)
{
	flow->next -= n;
}

static inline unsigned int dvmq_flow_in_flight(const struct dvmq_flow *flow)
{
	return flow->next - flow->expected;
}

/** Room in the window. */
static inline unsigned int dvmq_flow_room(const struct dvmq_flow *flow)
{
	unsigned int in_flight = dvmq_flow_in_flight(flow);

	return in_flight < flow->window ? flow->window - in_flight : 0;
}

/**
 * Judges the arrival of a sequence number: a gap counts as lost at once, and is taken back as reordered when the
 * frame turns up behind later ones, or as late when it only comes after dvmq_flow_write_off().
 * @return false if the number was never sent
 */
bool dvmq_flow_arrived(struct dvmq_flow *flow, uint64_t seq);

/** Counts everything in flight as lost, so that a flow whose whole window is gone goes on. */
void dvmq_flow_write_off(struct dvmq_flow *flow);

/** Reads a received frame; checks lengths and checksums. ret_frame is set for DVMQ_FRAME_DATA only. */
enum dvmq_frame_kind dvmq_frame_parse(struct rte_mbuf *m, uint32_t run, struct dvmq_frame *ret_frame);

/** Writes a gratuitous ARP (broadcast) of an endpoint into an empty mbuf; vlan 0: untagged. */
void dvmq_frame_announce(struct rte_mbuf *m, uint16_t endpoint, uint16_t vlan);

#endif
