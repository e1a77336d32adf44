/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Toeplitz is linear: the hash of some bytes is the XOR of the hashes of each byte alone.  So there is a table for
 * each place of a byte, made of the library's function, whose loop over the bits takes several times as long.
 */
#include <netinet/in.h>

#include <rte_common.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_thash.h>

#include <dvmq/flow_hash.h>

#define TUPLE_BYTES (2 * 16 + 4) /* IPv6 addresses and ports */

static const uint8_t key[TUPLE_BYTES + 4] __rte_aligned(4) = {
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
};

static uint32_t hash_of[TUPLE_BYTES][256]; /* of a tuple whose only byte that is not 0 is at this place */

RTE_INIT(build_tables)
{
	for (unsigned place = 0; place < TUPLE_BYTES; place++) {
		uint32_t *table = hash_of[place];

		for (unsigned bit = 0; bit < 8; bit++) {
			uint32_t tuple[TUPLE_BYTES / 4] = {0}; /* words in host order, as the library wants them */

			tuple[place / 4] = 1u << bit << (24 - place % 4 * 8);
			table[1 << bit] = rte_softrss(tuple, TUPLE_BYTES / 4, key);
		}
		for (unsigned byte = 1; byte < 256; byte++)
			table[byte] =
			    table[byte & (byte - 1)] ^ table[byte & -byte]; /* without its lowest bit, and that */
	}
}

static inline uint32_t hash(const uint8_t *bytes, unsigned n, unsigned place)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum ^= hash_of[place + i][bytes[i]];
	return sum;
}

static inline bool has_ports(uint8_t protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

static uint32_t hash_ipv4(const struct rte_ipv4_hdr *ip, unsigned len)
{
	unsigned header = (ip->version_ihl & RTE_IPV4_HDR_IHL_MASK) * RTE_IPV4_IHL_MULTIPLIER;
	uint32_t sum = hash((const uint8_t *)&ip->src_addr, 8, 0); /* and dst_addr */

	if (has_ports(ip->next_proto_id) && header >= sizeof(*ip) && len >= header + 4 &&
	    (ip->fragment_offset & rte_cpu_to_be_16(RTE_IPV4_HDR_MF_FLAG | RTE_IPV4_HDR_OFFSET_MASK)) == 0)
		sum ^= hash((const uint8_t *)ip + header, 4, 8);
	return sum;
}

static uint32_t hash_ipv6(const struct rte_ipv6_hdr *ip, unsigned len)
{
	uint32_t sum = hash((const uint8_t *)&ip->src_addr, 32, 0); /* and dst_addr */

	if (has_ports(ip->proto) && len >= sizeof(*ip) + 4)
		sum ^= hash((const uint8_t *)(ip + 1), 4, 32);
	return sum;
}

uint32_t dvmq_flow_hash(const struct rte_mbuf *m)
{
	const struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, const struct rte_ether_hdr *);
	unsigned len = m->data_len - RTE_MIN(m->data_len, sizeof(*eth)); /* of the first segment: headers are there */

	if (len >= sizeof(struct rte_ipv4_hdr) && eth->ether_type == rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4))
		return hash_ipv4((const void *)(eth + 1), len);
	if (len >= sizeof(struct rte_ipv6_hdr) && eth->ether_type == rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV6))
		return hash_ipv6((const void *)(eth + 1), len);
	return 0;
}
