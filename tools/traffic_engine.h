/* SPDX-License-Identifier: BSD-3-Clause */
/* The engine of dvmq-traffic: flows between endpoints, what they send, and what arrives of it. One thread. */
#ifndef DVMQ_TRAFFIC_ENGINE_H
#define DVMQ_TRAFFIC_ENGINE_H

#include <stdint.h>

#include <rte_mempool.h>

#include "traffic_flow.h"
#include "traffic_options.h"
#include "traffic_port.h"

/** Latency histogram: 16 buckets per power of two of nanoseconds, so a quantile is exact to 6 %. */
#define DVMQ_HISTOGRAM_SUB     16
#define DVMQ_HISTOGRAM_BUCKETS (DVMQ_HISTOGRAM_SUB * 60)

struct dvmq_endpoint_stats {
	uint64_t tx, rx, bounced, bounce_failed;
};

/** Traffic of one mode to the hot guest, or to all the others: held to its share of all that is sent. */
struct dvmq_traffic_class {
	double share; /**< 0..1 */
	uint64_t sent;
};

struct dvmq_traffic {
	struct dvmq_traffic_options options;
	struct rte_mempool *pool;
	uint32_t id; /**< of this run, in every frame */
	uint64_t hz; /**< of the TSC */

	struct dvmq_traffic_port ports[1 + DVMQ_GUESTS_MAX]; /**< by endpoint */
	struct dvmq_endpoint_stats stats[1 + DVMQ_GUESTS_MAX];
	unsigned int first_port, n_ports; /**< endpoints first_port..n_ports - 1; without uplink the first is 1 */

	struct dvmq_flow *flows;
	unsigned int n_flows, next_flow;
	struct dvmq_traffic_class classes[DVMQ_MODES][2]; /**< [mode][hot] */
	uint64_t quota_sent; /**< by all classes since the last dvmq_traffic_renew_quotas() */
	uint64_t quota_slack;
	uint16_t hot; /**< endpoint */

	uint64_t slowest; /**< least sequence number that a flow sends next; options.even only */
	double tokens;	  /**< frames that the rate allows now */
	uint64_t tokens_tsc;
	uint64_t sent, corrupt, foreign, flooded, other, link_downs;
	uint64_t split;	      /**< times that a flow arrived in another queue than before */
	uint64_t settled_tsc; /**< until then strays count as flooded, and flows may change their queue */
	uint64_t histogram[DVMQ_HISTOGRAM_BUCKETS];
	uint64_t latency_max; /**< ns */
};

/**
 * Creates the flows, windows and shares that the options ask for; needs options, ports and id.
 * @return 0, -ENOMEM, -E2BIG for too many flows, or -ENOENT if there is no pair of endpoints for any of the traffic
 */
int dvmq_traffic_flows_init(struct dvmq_traffic *t);

/** Polls all ports once and judges what arrived; returns the number of frames. */
unsigned int dvmq_traffic_receive(struct dvmq_traffic *t);

/** One round over the flows at this rate (frames per second, unused if options.rate is 0); returns frames sent. */
unsigned int dvmq_traffic_send(struct dvmq_traffic *t, double rate);

/** Every endpoint whose link is up sends a gratuitous ARP, the network one per VLAN. */
void dvmq_traffic_announce(struct dvmq_traffic *t);

/**
 * Shares hold between two calls: a class that cannot send for a while, since its guest is down, holds back no other
 * for longer than that.
 */
void dvmq_traffic_renew_quotas(struct dvmq_traffic *t);

/**
 * Writes off flows that have waited for an arrival for more than so many calls of this function. Calls and not time,
 * since a time in which this program had no CPU says nothing about the switch.
 */
void dvmq_traffic_check_stalls(struct dvmq_traffic *t, unsigned int calls);

/** Latency below which this fraction (0..1) of all frames stayed, in us. */
double dvmq_traffic_latency_us(const struct dvmq_traffic *t, double quantile);

#endif
