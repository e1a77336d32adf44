/* SPDX-License-Identifier: BSD-3-Clause */
/* Which flow a packet belongs to, as a number.  Any thread. */
#ifndef DVMQ_FLOW_HASH_H
#define DVMQ_FLOW_HASH_H

#include <stdint.h>

struct rte_mbuf;

/*
 * The Toeplitz hash of an untagged frame: as a NIC's RSS computes it with the default key (Microsoft, "RSS hashing
 * types" and "Verifying the RSS hash calculation"), over the IP addresses, and the ports of TCP and UDP unless it is
 * a fragment, since only the first one has them.  So all fragments of a flow agree, but not with its whole packets.
 * Behind IPv6 extension headers no ports are looked for.  0: neither IPv4 nor IPv6, or cut off.  What is in the
 * mbuf's hash.rss does not count, so a flow has one hash whichever way it came.
 */
uint32_t dvmq_flow_hash(const struct rte_mbuf *m);

#endif
