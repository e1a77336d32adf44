/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include "traffic_engine.h"

#define BURST	  32U
#define FLOWS_MAX 65535

/* Frames that a class may be ahead of its share. */
#define SLACK 64

static void record_latency(struct dvmq_traffic *t, uint64_t tsc, uint64_t now)
{
	uint64_t ns = now > tsc ? (now - tsc) * 1000 / (t->hz / 1000000) : 0;
	unsigned int bits, bucket = ns;

	if (ns >= DVMQ_HISTOGRAM_SUB) {
		bits = 63 - __builtin_clzll(ns);
		bucket = (bits - 3) * DVMQ_HISTOGRAM_SUB + (ns >> (bits - 4)) - DVMQ_HISTOGRAM_SUB;
	}
	t->histogram[RTE_MIN(bucket, DVMQ_HISTOGRAM_BUCKETS - 1U)]++;
	t->latency_max = RTE_MAX(t->latency_max, ns);
}

/* A frame at a port that is no stop of its flow, or that carries another stop's MAC. */
static void count_stray(struct dvmq_traffic *t, uint64_t now)
{
	if (now < t->settled_tsc)
		t->flooded++;
	else
		t->foreign++;
}

static bool is_for(const struct dvmq_frame *frame, uint16_t endpoint)
{
	struct rte_ether_addr mac;

	dvmq_endpoint_mac(endpoint, &mac);
	return rte_is_same_ether_addr(&frame->eth->dst_addr, &mac);
}

/* Turns a PVP frame round at its guest; takes the mbuf. */
static void bounce(struct dvmq_traffic *t, struct dvmq_flow *flow, struct dvmq_frame *frame, struct rte_mbuf *m)
{
	struct dvmq_traffic_port *port = &t->ports[flow->via];
	struct rte_ether_addr mac = frame->eth->dst_addr;

	frame->eth->dst_addr = frame->eth->src_addr;
	frame->eth->src_addr = mac;
	if (rte_eth_tx_burst(port->port_id, flow->id % port->tx_queues, &m, 1) == 1) {
		t->stats[port->endpoint].bounced++;
		return;
	}
	t->stats[port->endpoint].bounce_failed++;
	rte_pktmbuf_free(m);
}

/* The switch may put a flow into another queue only when the number of queues in use changes, as it does at the start.
 */
static void check_queue(struct dvmq_traffic *t, uint16_t *known, uint16_t queue, uint64_t now)
{
	if (*known != 1 + queue && *known != 0 && now >= t->settled_tsc)
		t->split++;
	*known = 1 + queue;
}

static void receive_data(struct dvmq_traffic *t, uint16_t endpoint, uint16_t queue, struct dvmq_frame *frame,
			 struct rte_mbuf *m, uint64_t now)
{
	struct dvmq_flow *flow;

	if (frame->stamp.flow >= t->n_flows) {
		t->corrupt++;
		goto out;
	}
	flow = &t->flows[frame->stamp.flow];
	if ((endpoint != flow->dst && endpoint != flow->via) || !is_for(frame, endpoint) ||
	    frame->vlan != (endpoint == DVMQ_NETWORK ? flow->vlan : 0)) {
		count_stray(t, now);
		goto out;
	}
	if (endpoint == flow->via && flow->via != flow->dst) {
		check_queue(t, &flow->via_queue, queue, now);
		bounce(t, flow, frame, m);
		return;
	}
	check_queue(t, &flow->dst_queue, queue, now);
	t->stats[endpoint].rx++;
	record_latency(t, frame->stamp.tsc, now);
	if (!dvmq_flow_arrived(flow, frame->stamp.seq))
		t->corrupt++;
out:
	rte_pktmbuf_free(m);
}

static void receive(struct dvmq_traffic *t, uint16_t endpoint, uint16_t queue, struct rte_mbuf *m, uint64_t now)
{
	struct dvmq_frame frame;

	switch (dvmq_frame_parse(m, t->id, &frame)) {
	case DVMQ_FRAME_DATA:
		receive_data(t, endpoint, queue, &frame, m, now);
		return;
	case DVMQ_FRAME_CORRUPT:
		t->corrupt++;
		break;
	case DVMQ_FRAME_OTHER:
		t->other++;
		break;
	}
	rte_pktmbuf_free(m);
}

unsigned int dvmq_traffic_receive(struct dvmq_traffic *t)
{
	struct rte_mbuf *burst[BURST];
	unsigned int total = 0;
	uint16_t endpoint, q, n, i;
	uint64_t now;

	for (endpoint = t->first_port; endpoint < t->n_ports; endpoint++) {
		struct dvmq_traffic_port *port = &t->ports[endpoint];

		for (q = 0; port->up && q < port->rx_queues; q++) {
			n = rte_eth_rx_burst(port->port_id, q, burst, BURST);
			now = rte_rdtsc();
			for (i = 0; i < n; i++)
				receive(t, endpoint, q, burst[i], now);
			total += n;
		}
	}
	return total;
}

double dvmq_traffic_latency_us(const struct dvmq_traffic *t, double quantile)
{
	uint64_t total = 0, rank, ns;
	unsigned int i;

	for (i = 0; i < DVMQ_HISTOGRAM_BUCKETS; i++)
		total += t->histogram[i];
	rank = (uint64_t)(total * quantile);
	for (i = 0; i < DVMQ_HISTOGRAM_BUCKETS; i++) {
		if (t->histogram[i] > rank)
			break;
		rank -= t->histogram[i];
	}
	ns = i;
	if (i >= DVMQ_HISTOGRAM_SUB)
		ns = (uint64_t)(DVMQ_HISTOGRAM_SUB + i % DVMQ_HISTOGRAM_SUB) << (i / DVMQ_HISTOGRAM_SUB - 1);
	return total == 0 ? 0 : RTE_MIN(ns, t->latency_max) / 1000.0;
}

static bool has_hot_spot(const struct dvmq_traffic *t)
{
	return t->options.profile == DVMQ_WANDER && t->options.guests > 1;
}

static struct dvmq_traffic_class *class_of(struct dvmq_traffic *t, const struct dvmq_flow *flow)
{
	return &t->classes[flow->mode][has_hot_spot(t) && flow->guest == t->hot];
}

static void set_shares(struct dvmq_traffic *t)
{
	const struct dvmq_traffic_options *o = &t->options;
	double hot = has_hot_spot(t) ? o->hot_share / 100.0 : 0;
	unsigned int mode, sum = 0;

	for (mode = 0; mode < DVMQ_MODES; mode++)
		sum += o->shares[mode];
	for (mode = 0; mode < DVMQ_MODES; mode++) {
		t->classes[mode][1].share = hot * o->shares[mode] / sum;
		t->classes[mode][0].share = (1 - hot) * o->shares[mode] / sum;
	}
}

void dvmq_traffic_renew_quotas(struct dvmq_traffic *t)
{
	unsigned int mode;

	t->quota_sent = 0;
	for (mode = 0; mode < DVMQ_MODES; mode++)
		t->classes[mode][0].sent = t->classes[mode][1].sent = 0;
}

static unsigned int class_room(const struct dvmq_traffic *t, const struct dvmq_traffic_class *class)
{
	double allowed;

	if (class->share >= 1)
		return BURST;
	if (class->share <= 0) /* slack would be some */
		return 0;
	allowed = class->share * t->quota_sent + t->quota_slack;
	return class->sent < allowed ? RTE_MIN(BURST, (unsigned int)(allowed - class->sent) + 1) : 0;
}

/* 7 : 4 : 1, in an order that does not depend on chance. */
static unsigned int next_size(const struct dvmq_flow *flow)
{
	static const uint8_t imix[12] = {0, 1, 0, 1, 0, 0, 2, 0, 1, 0, 1, 0};

	return flow->n_sizes == 1 ? 0 : imix[(flow->next + flow->id) % 12];
}

static unsigned int send_flow(struct dvmq_traffic *t, struct dvmq_flow *flow, unsigned int limit)
{
	struct dvmq_traffic_class *class = class_of(t, flow);
	unsigned int n = RTE_MIN(RTE_MIN(limit, BURST), dvmq_flow_room(flow));
	struct rte_mbuf *burst[BURST];
	unsigned int i, done;
	uint64_t now;

	n = RTE_MIN(n, class_room(t, class));
	if (t->options.even)
		n = RTE_MIN(n, t->slowest + flow->window - flow->next);
	if (n == 0 || !t->ports[flow->src].up || !t->ports[flow->via].up || !t->ports[flow->dst].up ||
	    rte_pktmbuf_alloc_bulk(t->pool, burst, n) != 0)
		return 0;
	now = rte_rdtsc();
	for (i = 0; i < n; i++)
		dvmq_flow_fill(flow, burst[i], next_size(flow), now);
	done = rte_eth_tx_burst(t->ports[flow->src].port_id, flow->txq, burst, n);
	if (done < n) {
		dvmq_flow_unsend(flow, n - done);
		rte_pktmbuf_free_bulk(burst + done, n - done);
	}
	t->stats[flow->src].tx += done;
	t->sent += done;
	t->quota_sent += done;
	class->sent += done;
	return done;
}

static unsigned int refill_tokens(struct dvmq_traffic *t, double rate)
{
	const double most = rate / 100 + BURST; /* what a steal of the CPU may catch up */
	uint64_t now = rte_rdtsc();

	if (t->options.rate == 0)
		return UINT32_MAX;
	t->tokens = RTE_MIN(t->tokens + (double)(now - t->tokens_tsc) / t->hz * rate, most);
	t->tokens_tsc = now;
	return (unsigned int)t->tokens;
}

static uint64_t find_slowest(const struct dvmq_traffic *t)
{
	uint64_t least = UINT64_MAX;
	unsigned int i;

	for (i = 0; t->options.even && i < t->n_flows; i++)
		least = RTE_MIN(least, t->flows[i].next);
	return least;
}

/* One round over the flows, starting where the last one ran out of tokens. */
unsigned int dvmq_traffic_send(struct dvmq_traffic *t, double rate)
{
	unsigned int budget = refill_tokens(t, rate), total = 0, i, n;

	if (t->options.packets != 0)
		budget = RTE_MIN((uint64_t)budget, t->options.packets - t->sent);
	t->slowest = find_slowest(t);
	for (i = 0; i < t->n_flows && total < budget; i++) {
		n = send_flow(t, &t->flows[t->next_flow], budget - total);
		total += n;
		t->next_flow = (t->next_flow + 1) % t->n_flows;
	}
	t->tokens -= total;
	return total;
}

static void announce_one(struct dvmq_traffic *t, uint16_t endpoint, uint16_t vlan)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(t->pool);

	if (m == NULL)
		return; /* the next one follows in a second */
	dvmq_frame_announce(m, endpoint, vlan);
	if (rte_eth_tx_burst(t->ports[endpoint].port_id, 0, &m, 1) == 0)
		rte_pktmbuf_free(m);
}

void dvmq_traffic_announce(struct dvmq_traffic *t)
{
	const uint16_t *vlans = t->options.vlans;
	unsigned int endpoint, g, earlier;

	for (endpoint = 1; endpoint < t->n_ports; endpoint++) {
		if (t->ports[endpoint].up)
			announce_one(t, endpoint, 0);
	}
	for (g = 0; t->ports[DVMQ_NETWORK].up && g < t->options.guests; g++) {
		for (earlier = 0; vlans[earlier] != vlans[g]; earlier++)
			;
		if (earlier == g)
			announce_one(t, DVMQ_NETWORK, vlans[g]);
	}
}

/* The queue of the source for flow number i of a pair; on the network side that is the NIC's choice. */
static uint16_t choose_queue(const struct dvmq_traffic *t, const struct dvmq_flow *flow, unsigned int i)
{
	const struct dvmq_traffic_options *o = &t->options;
	unsigned int first = 1 + (flow->guest - 1) * o->steer_width;

	if (flow->src != DVMQ_NETWORK)
		return i % o->queues;
	switch (o->steering) {
	case DVMQ_STEER_MAC:
		return first + o->steer_width <= o->uplink_rx ? first + i % o->steer_width : 0;
	case DVMQ_STEER_RSS:
		return (flow->id * 2654435761U >> 16) % o->uplink_rx; /* a multiplicative hash (Knuth) */
	case DVMQ_STEER_NONE:
		break;
	}
	return 0;
}

static int add_flow_group(struct dvmq_traffic *t, enum dvmq_traffic_mode mode, uint16_t src, uint16_t via, uint16_t dst,
			  uint16_t vlan)
{
	const struct dvmq_traffic_options *o = &t->options;
	struct dvmq_flow *flow;
	unsigned int i;

	for (i = 0; i < o->flows; i++) {
		if (t->n_flows == FLOWS_MAX)
			return -E2BIG;
		flow = &t->flows[t->n_flows];
		*flow = (struct dvmq_flow){.mode = mode, .id = t->n_flows, .src = src, .via = via, .dst = dst};
		flow->guest = via == DVMQ_NETWORK ? src : via;
		flow->vlan = vlan;
		flow->txq = choose_queue(t, flow, i);
		dvmq_flow_init(flow, t->id, o->sizes, o->n_sizes, 1024 + flow->id % 60000);
		t->n_flows++;
	}
	return 0;
}

/* Each guest sends to the next ones of its VLAN. */
static int add_v2v(struct dvmq_traffic *t, unsigned int g)
{
	const struct dvmq_traffic_options *o = &t->options;
	unsigned int step, peers = 0, peer;
	int ret = 0;

	for (step = 1; ret == 0 && step < o->guests && peers < o->peers; step++) {
		peer = (g + step) % o->guests;
		if (o->vlans[peer] != o->vlans[g])
			continue;
		ret = add_flow_group(t, DVMQ_V2V, 1 + g, 1 + peer, 1 + peer, o->vlans[g]);
		peers++;
	}
	return ret;
}

static int add_flows(struct dvmq_traffic *t)
{
	const struct dvmq_traffic_options *o = &t->options;
	unsigned int g;
	int ret = 0;

	for (g = 0; ret == 0 && g < o->guests; g++) {
		if (o->shares[DVMQ_P2V] > 0)
			ret = add_flow_group(t, DVMQ_P2V, DVMQ_NETWORK, 1 + g, 1 + g, o->vlans[g]);
		if (ret == 0 && o->shares[DVMQ_V2P] > 0)
			ret = add_flow_group(t, DVMQ_V2P, 1 + g, DVMQ_NETWORK, DVMQ_NETWORK, o->vlans[g]);
		if (ret == 0 && o->shares[DVMQ_PVP] > 0)
			ret = add_flow_group(t, DVMQ_PVP, DVMQ_NETWORK, 1 + g, DVMQ_NETWORK, o->vlans[g]);
		if (ret == 0 && o->shares[DVMQ_V2V] > 0)
			ret = add_v2v(t, g);
	}
	return ret;
}

/* A flow occupies rings of its source, its stops and its destination; all windows together fill half of any. */
static void set_windows(struct dvmq_traffic *t)
{
	unsigned int users[1 + DVMQ_GUESTS_MAX] = {0};
	unsigned int i, window;
	struct dvmq_flow *flow;

	for (i = 0; i < t->n_flows; i++) {
		flow = &t->flows[i];
		users[flow->src]++;
		users[flow->via] += flow->via != flow->src;
		users[flow->dst] += flow->dst != flow->src && flow->dst != flow->via;
	}
	for (i = 0; i < t->n_flows; i++) {
		flow = &t->flows[i];
		window = t->options.window;
		if (window == 0) {
			window = DVMQ_FLOW_HISTORY / 2;
			window = RTE_MIN(window, t->ports[flow->src].ring / 2 / users[flow->src]);
			window = RTE_MIN(window, t->ports[flow->via].ring / 2 / users[flow->via]);
			window = RTE_MIN(window, t->ports[flow->dst].ring / 2 / users[flow->dst]);
		}
		flow->window = RTE_MAX(window, 1U);
	}
}

int dvmq_traffic_flows_init(struct dvmq_traffic *t)
{
	double slack = t->options.rate == 0 ? SLACK : t->options.rate / 1000;
	int ret;

	t->flows = calloc(FLOWS_MAX, sizeof(*t->flows));
	if (t->flows == NULL)
		return -ENOMEM;
	ret = add_flows(t);
	if (ret != 0)
		return ret;
	t->hot = 1;
	t->quota_slack = RTE_MAX(1, RTE_MIN(SLACK, slack));
	set_windows(t);
	set_shares(t);
	return t->n_flows > 0 ? 0 : -ENOENT;
}

void dvmq_traffic_check_stalls(struct dvmq_traffic *t, unsigned int calls)
{
	struct dvmq_flow *flow;
	unsigned int i;

	for (i = 0; i < t->n_flows; i++) {
		flow = &t->flows[i];
		if (dvmq_flow_in_flight(flow) == 0)
			flow->quiet = 0;
		else if (++flow->quiet > calls)
			dvmq_flow_write_off(flow);
	}
}
