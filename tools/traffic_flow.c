/* SPDX-License-Identifier: BSD-3-Clause */
#include <netinet/in.h>
#include <string.h>

#include <rte_arp.h>

#include "traffic_flow.h"

/* Destination port of all data frames: what else may come by (neighbour discovery, DHCP) is told apart by it. */
#define DATA_PORT 20000
#define TTL	  64

static const uint8_t filler[DVMQ_FRAME_MAX] = "dvmq-traffic";

bool dvmq_one_mac;

void dvmq_endpoint_mac(uint16_t endpoint, struct rte_ether_addr *ret_mac)
{
	uint8_t high = endpoint >> 8, low = endpoint & 0xff;

	if (dvmq_one_mac) {
		high = 0;
		low = 1;
	}
	if (endpoint == DVMQ_NETWORK) {
		high = 0xff;
		low = 0x01;
	}
	*ret_mac = (struct rte_ether_addr){.addr_bytes = {0x52, 0x54, 0x00, 0x00, high, low}};
}

/* 10.1.0.0/16 are the guests, 10.0.0.1 is the network. */
static rte_be32_t endpoint_ip(uint16_t endpoint)
{
	if (endpoint == DVMQ_NETWORK)
		return RTE_BE32(RTE_IPV4(10, 0, 0, 1));
	return rte_cpu_to_be_32(RTE_IPV4(10, 1, 0, 0) + endpoint);
}

/* Writes MACs, tag and type; returns their length. */
static uint16_t write_ether(uint8_t *p, const struct rte_ether_addr *dst, uint16_t src, uint16_t vlan, uint16_t type)
{
	struct rte_ether_hdr *eth = (struct rte_ether_hdr *)p;
	struct rte_vlan_hdr *tag = (struct rte_vlan_hdr *)(eth + 1);

	eth->dst_addr = *dst;
	dvmq_endpoint_mac(src, &eth->src_addr);
	if (vlan == 0) {
		eth->ether_type = rte_cpu_to_be_16(type);
		return sizeof(*eth);
	}
	eth->ether_type = RTE_BE16(RTE_ETHER_TYPE_VLAN);
	tag->vlan_tci = rte_cpu_to_be_16(vlan);
	tag->eth_proto = rte_cpu_to_be_16(type);
	return sizeof(*eth) + sizeof(*tag);
}

static void init_template(struct dvmq_flow_template *t, const struct dvmq_flow *flow, uint32_t run, uint16_t size,
			  uint16_t udp_port)
{
	/* The first stop decides the destination MAC; only the network side is tagged. */
	uint16_t vlan = flow->src == DVMQ_NETWORK ? flow->vlan : 0;
	uint8_t whole[DVMQ_FRAME_MAX + sizeof(struct rte_vlan_hdr)];
	struct rte_ether_addr dst;
	struct rte_ipv4_hdr *ip;
	struct rte_udp_hdr *udp;
	struct dvmq_stamp *stamp;
	uint16_t l2;

	memcpy(whole + sizeof(whole) - sizeof(filler), filler, sizeof(filler));
	dvmq_endpoint_mac(flow->via, &dst);
	l2 = write_ether(whole, &dst, flow->src, vlan, RTE_ETHER_TYPE_IPV4);
	t->frame_len = size + l2 - sizeof(struct rte_ether_hdr);

	ip = (struct rte_ipv4_hdr *)(whole + l2);
	memset(ip, 0, sizeof(*ip));
	ip->version_ihl = RTE_IPV4_VHL_DEF;
	ip->total_length = rte_cpu_to_be_16(t->frame_len - l2);
	ip->time_to_live = TTL;
	ip->next_proto_id = IPPROTO_UDP;
	ip->src_addr = endpoint_ip(flow->src);
	ip->dst_addr = endpoint_ip(flow->via);
	ip->hdr_checksum = rte_ipv4_cksum(ip);

	udp = (struct rte_udp_hdr *)(ip + 1);
	udp->src_port = rte_cpu_to_be_16(udp_port);
	udp->dst_port = RTE_BE16(DATA_PORT);
	udp->dgram_len = rte_cpu_to_be_16(t->frame_len - l2 - sizeof(*ip));
	udp->dgram_cksum = 0;

	stamp = (struct dvmq_stamp *)(udp + 1);
	*stamp = (struct dvmq_stamp){.run = run, .flow = flow->id};
	t->headers_len = (uint8_t *)(stamp + 1) - whole;
	memcpy(whole + t->headers_len, filler, t->frame_len - t->headers_len);

	t->sum = rte_ipv4_phdr_cksum(ip, 0) + rte_raw_cksum(udp, rte_be_to_cpu_16(udp->dgram_len));
	memcpy(t->headers, whole, t->headers_len);
}

void dvmq_flow_init(struct dvmq_flow *flow, uint32_t run, const uint16_t *sizes, uint8_t n_sizes, uint16_t udp_port)
{
	uint8_t i;

	for (i = 0; i < n_sizes; i++)
		init_template(&flow->templates[i], flow, run, sizes[i], udp_port);
	flow->n_sizes = n_sizes;
}

static uint32_t sum_words(uint64_t v)
{
	return (v & 0xffff) + (v >> 16 & 0xffff) + (v >> 32 & 0xffff) + (v >> 48);
}

void dvmq_flow_fill(struct dvmq_flow *flow, struct rte_mbuf *m, unsigned int size_index, uint64_t tsc)
{
	const struct dvmq_flow_template *t = &flow->templates[size_index];
	uint8_t *p = rte_pktmbuf_mtod(m, uint8_t *);
	struct dvmq_stamp *stamp = (struct dvmq_stamp *)(p + t->headers_len - sizeof(*stamp));
	struct rte_udp_hdr *udp = (struct rte_udp_hdr *)stamp - 1;
	uint32_t sum = t->sum + sum_words(flow->next) + sum_words(tsc);

	memcpy(p, t->headers, t->headers_len);
	memcpy(p + t->headers_len, filler, t->frame_len - t->headers_len);
	stamp->seq = flow->next++;
	stamp->tsc = tsc;
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	/* 0 would mean "no checksum" (RFC 768). */
	udp->dgram_cksum = sum == 0xffff ? 0xffff : (uint16_t)~sum;
	m->data_len = t->frame_len;
	m->pkt_len = t->frame_len;
}

static uint64_t *missing_word(struct dvmq_flow *flow, uint64_t seq)
{
	return &flow->missing[seq % DVMQ_FLOW_HISTORY / 64];
}

static void set_missing(struct dvmq_flow *flow, uint64_t seq, bool missing)
{
	uint64_t bit = UINT64_C(1) << seq % 64;

	if (missing)
		*missing_word(flow, seq) |= bit;
	else
		*missing_word(flow, seq) &= ~bit;
}

static bool is_missing(struct dvmq_flow *flow, uint64_t seq)
{
	if (flow->expected - seq > DVMQ_FLOW_HISTORY)
		return false;
	return *missing_word(flow, seq) >> seq % 64 & 1;
}

static void lose_up_to(struct dvmq_flow *flow, uint64_t seq)
{
	flow->lost += seq - flow->expected;
	for (; flow->expected < seq; flow->expected++)
		set_missing(flow, flow->expected, true);
}

bool dvmq_flow_arrived(struct dvmq_flow *flow, uint64_t seq)
{
	if (seq >= flow->next)
		return false;
	flow->quiet = 0;
	if (seq >= flow->expected) {
		lose_up_to(flow, seq);
		set_missing(flow, seq, false);
		flow->expected++;
		flow->received++;
	} else if (is_missing(flow, seq)) {
		set_missing(flow, seq, false);
		flow->lost--;
		flow->received++;
		if (seq < flow->highest)
			flow->reordered++;
		else
			flow->late++;
	} else {
		flow->duplicated++;
	}
	flow->highest = RTE_MAX(flow->highest, seq + 1);
	return true;
}

void dvmq_flow_write_off(struct dvmq_flow *flow)
{
	lose_up_to(flow, flow->next);
	flow->quiet = 0;
}

/* The UDP checksum of a frame covers its IPv4 addresses, but not its IPv4 header. */
static bool checksums_good(const struct rte_ipv4_hdr *ip, const struct rte_udp_hdr *udp)
{
	uint32_t sum;

	if (rte_raw_cksum(ip, sizeof(*ip)) != 0xffff)
		return false;
	sum = rte_ipv4_phdr_cksum(ip, 0) + rte_raw_cksum(udp, rte_be_to_cpu_16(udp->dgram_len));
	return ((sum >> 16) + (sum & 0xffff)) == 0xffff;
}

enum dvmq_frame_kind dvmq_frame_parse(struct rte_mbuf *m, uint32_t run, struct dvmq_frame *ret_frame)
{
	const struct rte_ipv4_hdr *ip;
	const struct rte_udp_hdr *udp;
	const struct rte_vlan_hdr *tag;
	const struct dvmq_stamp *stamp;
	struct rte_ether_hdr *eth;
	uint16_t l2 = sizeof(*eth), vlan = 0;
	rte_be16_t type;

	if (rte_pktmbuf_linearize(m) != 0 || m->data_len < l2 + sizeof(*ip) + sizeof(*udp) + sizeof(*stamp))
		return DVMQ_FRAME_OTHER;
	eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *);
	type = eth->ether_type;
	if (type == RTE_BE16(RTE_ETHER_TYPE_VLAN)) {
		tag = (const struct rte_vlan_hdr *)(eth + 1);
		vlan = rte_be_to_cpu_16(tag->vlan_tci) & 0xfff;
		type = tag->eth_proto;
		l2 += sizeof(*tag);
	}
	ip = rte_pktmbuf_mtod_offset(m, const struct rte_ipv4_hdr *, l2);
	udp = (const struct rte_udp_hdr *)(ip + 1);
	if (type != RTE_BE16(RTE_ETHER_TYPE_IPV4) || ip->next_proto_id != IPPROTO_UDP ||
	    udp->dst_port != RTE_BE16(DATA_PORT))
		return DVMQ_FRAME_OTHER;

	stamp = (const struct dvmq_stamp *)(udp + 1);
	if (m->data_len < l2 + sizeof(*ip) + sizeof(*udp) + sizeof(*stamp) ||
	    rte_be_to_cpu_16(ip->total_length) != m->data_len - l2 ||
	    rte_be_to_cpu_16(udp->dgram_len) != m->data_len - l2 - sizeof(*ip) || !checksums_good(ip, udp))
		return DVMQ_FRAME_CORRUPT;
	if (stamp->run != run)
		return DVMQ_FRAME_OTHER;
	*ret_frame = (struct dvmq_frame){.eth = eth, .vlan = vlan, .stamp = *stamp};
	return DVMQ_FRAME_DATA;
}

void dvmq_frame_announce(struct rte_mbuf *m, uint16_t endpoint, uint16_t vlan)
{
	const struct rte_ether_addr broadcast = {.addr_bytes = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
	uint8_t *p = rte_pktmbuf_mtod(m, uint8_t *);
	struct rte_arp_hdr *arp;
	uint16_t l2;

	memset(p, 0, DVMQ_FRAME_MIN);
	l2 = write_ether(p, &broadcast, endpoint, vlan, RTE_ETHER_TYPE_ARP);
	arp = (struct rte_arp_hdr *)(p + l2);
	arp->arp_hardware = RTE_BE16(RTE_ARP_HRD_ETHER);
	arp->arp_protocol = RTE_BE16(RTE_ETHER_TYPE_IPV4);
	arp->arp_hlen = RTE_ETHER_ADDR_LEN;
	arp->arp_plen = sizeof(rte_be32_t);
	arp->arp_opcode = RTE_BE16(RTE_ARP_OP_REQUEST);
	dvmq_endpoint_mac(endpoint, &arp->arp_data.arp_sha);
	arp->arp_data.arp_sip = endpoint_ip(endpoint);
	arp->arp_data.arp_tip = endpoint_ip(endpoint);
	m->data_len = DVMQ_FRAME_MIN;
	m->pkt_len = DVMQ_FRAME_MIN;
}
