/* SPDX-License-Identifier: BSD-3-Clause */
/* The hash of a flow: as a NIC computes it, one for each flow, and nothing beyond the end of a frame is read. */
#include <string.h>

#include <netinet/in.h>

#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_thash.h>

#include <dvmq/flow_hash.h>

#include "unit.h"

#define ETH 14 /* bytes of the Ethernet header */

static uint8_t frame[256];

/* In memory of exactly its size, so that valgrind sees who reads more. */
static uint32_t hash_of_first(unsigned len)
{
	uint8_t *copy = malloc(len > 0 ? len : 1);
	struct rte_mbuf m = {.buf_addr = copy, .data_len = len, .pkt_len = len};
	uint32_t hash;

	CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
	memcpy(copy, frame, len);
	hash = dvmq_flow_hash(&m);
	m.hash.rss = ~hash; /* what a NIC says is not asked */
	m.ol_flags = RTE_MBUF_F_RX_RSS_HASH;
	CU_ASSERT_EQUAL(dvmq_flow_hash(&m), hash);
	free(copy);
	return hash;
}

static void put_ports(uint8_t *at, uint16_t src, uint16_t dst)
{
	const uint8_t ports[] = {src >> 8, src & 0xff, dst >> 8, dst & 0xff};

	memcpy(at, ports, sizeof(ports));
}

/* Returns the length. */
static unsigned make_ipv4(const uint8_t *src, const uint8_t *dst, uint16_t src_port, uint16_t dst_port,
			  uint8_t protocol)
{
	memset(frame, 0, sizeof(frame));
	frame[12] = 0x08;
	frame[ETH] = 0x45;
	frame[ETH + 9] = protocol;
	memcpy(frame + ETH + 12, src, 4);
	memcpy(frame + ETH + 16, dst, 4);
	put_ports(frame + ETH + 20, src_port, dst_port);
	return ETH + 20 + 20;
}

static unsigned make_ipv6(const uint8_t *src, const uint8_t *dst, uint16_t src_port, uint16_t dst_port,
			  uint8_t protocol)
{
	memset(frame, 0, sizeof(frame));
	frame[12] = 0x86;
	frame[13] = 0xdd;
	frame[ETH] = 0x60;
	frame[ETH + 6] = protocol;
	memcpy(frame + ETH + 8, src, 16);
	memcpy(frame + ETH + 24, dst, 16);
	put_ports(frame + ETH + 40, src_port, dst_port);
	return ETH + 40 + 20;
}

/* Microsoft, "Verifying the RSS hash calculation" */
static const struct {
	uint8_t dst[4], src[4];
	uint16_t dst_port, src_port;
	uint32_t addresses, with_ports;
} published4[] = {
    {{161, 142, 100, 80}, {66, 9, 149, 187}, 1766, 2794, 0x323e8fc2, 0x51ccc178},
    {{65, 69, 140, 83}, {199, 92, 111, 2}, 4739, 14230, 0xd718262a, 0xc626b0ea},
    {{12, 22, 207, 184}, {24, 19, 198, 95}, 38024, 12898, 0xd2d0a5de, 0x5c2b394a},
    {{209, 142, 163, 6}, {38, 27, 205, 30}, 2217, 48228, 0x82989176, 0xafc7327f},
    {{202, 188, 127, 2}, {153, 39, 163, 191}, 1303, 44251, 0x5d1809c5, 0x10e828a2},
};

static const struct {
	uint8_t dst[16], src[16];
	uint16_t dst_port, src_port;
	uint32_t addresses, with_ports;
} published6[] = {
    {{0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x00, 0x03, [15] = 0x01},
     {0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, [15] = 0x07},
     1766,
     2794,
     0x2cc18cd5,
     0x40207d3d},
    {{0xff, 0x02, [15] = 0x01},
     {0x3f, 0xfe, 0x05, 0x01, 0x00, 0x08, 0x00, 0x00, 0x02, 0x60, 0x97, 0xff, 0xfe, 0x40, 0xef, 0xab},
     4739,
     14230,
     0x0f0c461c,
     0xdde51bbf},
    {{0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0xf8, 0xff, 0xfe, 0x21, 0x67, 0xcf},
     {0x3f, 0xfe, 0x19, 0x00, 0x45, 0x45, 0x00, 0x03, 0x02, 0x00, 0xf8, 0xff, 0xfe, 0x21, 0x67, 0xcf},
     38024,
     44251,
     0x4b61e985,
     0x02d1feef},
};

static void test_published(void)
{
	static const uint8_t with_ports[] = {IPPROTO_TCP, IPPROTO_UDP}, without[] = {IPPROTO_ICMP, IPPROTO_FRAGMENT};

	for (unsigned i = 0; i < RTE_DIM(published4); i++)
		for (unsigned k = 0; k < 2; k++) {
			unsigned len = make_ipv4(published4[i].src, published4[i].dst, published4[i].src_port,
						 published4[i].dst_port, with_ports[k]);

			CU_ASSERT_EQUAL(hash_of_first(len), published4[i].with_ports);
			frame[ETH + 9] = without[k];
			CU_ASSERT_EQUAL(hash_of_first(len), published4[i].addresses);
		}
	for (unsigned i = 0; i < RTE_DIM(published6); i++)
		for (unsigned k = 0; k < 2; k++) {
			unsigned len = make_ipv6(published6[i].src, published6[i].dst, published6[i].src_port,
						 published6[i].dst_port, with_ports[k]);

			CU_ASSERT_EQUAL(hash_of_first(len), published6[i].with_ports);
			frame[ETH + 6] = without[k];
			CU_ASSERT_EQUAL(hash_of_first(len), published6[i].addresses);
		}
}

/* Every byte of the tuple and each of its values counts as in the library's own loop. */
static void test_library(void)
{
	static const uint8_t key[40] __rte_aligned(4) = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
							 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
							 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
							 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

	for (unsigned place = 0; place < 36; place++)
		for (unsigned byte = 0; byte < 256; byte++) {
			uint8_t tuple[36];
			uint32_t words[9];
			unsigned len;

			for (unsigned i = 0; i < sizeof(tuple); i++)
				tuple[i] = 37 * i + 11;
			tuple[place] = byte;
			for (unsigned i = 0; i < 9; i++)
				words[i] = rte_be_to_cpu_32(((const unaligned_uint32_t *)tuple)[i]);
			len = make_ipv6(tuple, tuple + 16, tuple[32] << 8 | tuple[33], tuple[34] << 8 | tuple[35],
					IPPROTO_UDP);
			CU_ASSERT_EQUAL(hash_of_first(len), rte_softrss(words, 9, key));
		}
}

static void test_fragments(void)
{
	/* flags and offset: the first, one in the middle, the last; and "don't fragment", which is none */
	static const uint16_t fragments[] = {0x2000, 0x2010, 0x0100, 0x0001};
	unsigned len = make_ipv4(published4[0].src, published4[0].dst, 2794, 1766, IPPROTO_UDP);

	for (unsigned i = 0; i < RTE_DIM(fragments); i++) {
		frame[ETH + 6] = fragments[i] >> 8;
		frame[ETH + 7] = fragments[i] & 0xff;
		put_ports(frame + ETH + 20, 1 + i, 7); /* only the first one has ports there */
		CU_ASSERT_EQUAL(hash_of_first(len), published4[0].addresses);
	}
	frame[ETH + 6] = 0x40;
	frame[ETH + 7] = 0;
	put_ports(frame + ETH + 20, 2794, 1766);
	CU_ASSERT_EQUAL(hash_of_first(len), published4[0].with_ports);
}

static void test_options(void)
{
	unsigned len = make_ipv4(published4[0].src, published4[0].dst, 1, 1, IPPROTO_TCP);

	frame[ETH] = 0x47; /* 8 bytes of options */
	put_ports(frame + ETH + 28, 2794, 1766);
	CU_ASSERT_EQUAL(hash_of_first(len), published4[0].with_ports);
	CU_ASSERT_EQUAL(hash_of_first(ETH + 28 + 3), published4[0].addresses);
	frame[ETH] = 0x44; /* a header shorter than a header */
	CU_ASSERT_EQUAL(hash_of_first(len), published4[0].addresses);
	frame[ETH] = 0x4f; /* one longer than the frame */
	CU_ASSERT_EQUAL(hash_of_first(len), published4[0].addresses);
}

static void test_short(void)
{
	make_ipv4(published4[0].src, published4[0].dst, 2794, 1766, IPPROTO_UDP);
	for (unsigned len = 0; len < ETH + 20; len++)
		CU_ASSERT_EQUAL(hash_of_first(len), 0);
	for (unsigned len = ETH + 20; len < ETH + 24; len++)
		CU_ASSERT_EQUAL(hash_of_first(len), published4[0].addresses);
	CU_ASSERT_EQUAL(hash_of_first(ETH + 24), published4[0].with_ports);

	make_ipv6(published6[0].src, published6[0].dst, 2794, 1766, IPPROTO_TCP);
	for (unsigned len = 0; len < ETH + 40; len++)
		CU_ASSERT_EQUAL(hash_of_first(len), 0);
	for (unsigned len = ETH + 40; len < ETH + 44; len++)
		CU_ASSERT_EQUAL(hash_of_first(len), published6[0].addresses);
	CU_ASSERT_EQUAL(hash_of_first(ETH + 44), published6[0].with_ports);

	frame[12] = 0x08; /* ARP, and what else is not IP */
	frame[13] = 0x06;
	CU_ASSERT_EQUAL(hash_of_first(ETH + 60), 0);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"published values", test_published},
	    {"each byte as the library", test_library},
	    {"fragments", test_fragments},
	    {"IPv4 options", test_options},
	    {"cut off", test_short},
	    CU_TEST_INFO_NULL,
	};

	return unit_run("hash of a flow", tests);
}
