/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One turn of a queue, by its kind: take a burst, bring every packet to the form
 * "untagged frame, VLAN in vlan_tci", find its destination, deliver.
 *
 *   vmq      uplink RX queue -> its port; the queue is the decision, no look-up
 *   soft     ring            -> its port
 *   default  uplink RX queue -> FDB -> port, or flood; a spare VMDq pool floods nothing
 *   guest    virtqueue, or RX queue of an ethdev port -> FDB -> port or uplink, or flood
 *
 * The FDB is asked in three steps, each cheaper and more often enough than the
 * next: the header of the packet before, a small cache of the worker, the table.
 */
#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_prefetch.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <rte_vhost.h>

#include <dvmq/alarm.h>
#include <dvmq/fdb.h>
#include <dvmq/port.h>
#include <dvmq/worker.h>

#define VHOST_BURST     32
#define DRIVER_BURST    32
#define PREFETCH_AHEAD  4
#define REPORT_MS       30000 /* a known source is reported that often, well within DVMQ_FDB_AGE_MS */
#define REPORT_AGAIN_MS 1000  /* and that soon where it was not its turn */
#define LEARN_GAP_US    10    /* at most one report of a worker in that time: 100,000 a second */
#define REFRESH_GAP_US  100   /* and of sources that are known one in that time: new ones do not wait for them */
#define SAMPLE_US       100   /* a standing backlog is counted that often */
#define SOFT_LAST_BURST 32    /* a soft ring is shut when it holds no more than that */

#define NO_SOURCE UINT64_MAX /* no key: it has a VLAN that does not exist */

static inline struct dvmq_port_counters *counters_of(struct dvmq_worker *w, const struct dvmq_port *port)
{
	return &w->counters[port->index];
}

static void count_received(struct dvmq_worker *w, struct dvmq_queue *queue, unsigned n, uint64_t bytes)
{
	struct dvmq_port_counters *c = counters_of(w, queue->port);

	c->rx_packets += n;
	c->rx_bytes += bytes;
	w->counted = true;
	w->bytes += bytes;
	dvmq_count(&queue->counters.packets, n);
	dvmq_count(&queue->counters.bytes, bytes);
}

/* What one pass over a burst, as it came, tells of all its packets. */
struct glance {
	uint64_t bytes;
	uint64_t differs;  /* not 0: not all begin with the bytes that were asked for */
	uint64_t tagged;   /* not 0: there is an 802.1Q tag */
	uint64_t flags;    /* ol_flags of all, ored */
	uint32_t shortest; /* least data_len */
};

/* A burst's array has room for PREFETCH_AHEAD more. */
#define ROOM (DVMQ_BURST + PREFETCH_AHEAD)

/*
 * Asks for the first 16 bytes of `header`, where `mask` has ones; `prefetch` unless the
 * packets were just written.  No branch but the loop's: this runs for every packet.
 */
static inline struct glance glance_at(struct rte_mbuf **packets, unsigned n, const uint64_t header[2],
				      const uint64_t mask[2], const bool prefetch)
{
	struct glance g = {.shortest = UINT32_MAX};
	uint64_t differs[2] = {0};

	for (unsigned i = 0; prefetch && i < PREFETCH_AHEAD; i++)
		packets[n + i] = packets[0];
	for (unsigned i = 0; i < n; i++) {
		const struct rte_mbuf *m = packets[i];
		const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *); /* a buffer has room for a header, whatever came */
		uint64_t begin[2];

		if (prefetch)
			rte_prefetch0((const char *)packets[i + PREFETCH_AHEAD]->buf_addr + RTE_PKTMBUF_HEADROOM);
		memcpy(begin, data, sizeof(begin));
		differs[0] |= begin[0] ^ header[0];
		differs[1] |= begin[1] ^ header[1];
		g.tagged |= (uint16_t)(begin[1] >> 32) == rte_cpu_to_be_16(RTE_ETHER_TYPE_VLAN);
		g.flags |= m->ol_flags;
		g.bytes += m->pkt_len;
		g.shortest = RTE_MIN(g.shortest, (uint32_t)m->data_len);
	}
	g.differs = (differs[0] & mask[0]) | (differs[1] & mask[1]);
	return g;
}

static const uint64_t whole_header[2] = {UINT64_MAX, 0x0000ffffffffffffull}; /* 14 bytes */

/* Whole headers without tags: nobody has to look at each. */
static inline bool is_ordinary(const struct glance *g)
{
	return (g->tagged | (g->flags & RTE_MBUF_F_RX_VLAN_STRIPPED)) == 0 && g->shortest >= RTE_ETHER_HDR_LEN;
}

static inline void set_vlan(struct rte_mbuf **packets, unsigned n, uint16_t vlan)
{
	for (unsigned i = 0; i < n; i++)
		packets[i]->vlan_tci = vlan;
}

static void drop_at_source(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf *m, enum dvmq_drop reason)
{
	counters_of(w, queue->port)->drop[reason]++;
	dvmq_count(&queue->counters.drops, 1);
	rte_pktmbuf_free(m);
}

static inline uint64_t us_to_cycles(const struct dvmq_worker *w, uint64_t us)
{
	return w->cycles_per_us * us;
}

/* ---- learning ---- */

static inline struct dvmq_known *known_at(struct dvmq_worker *w, uint64_t key)
{
	return &w->known[(key * 0x9e3779b97f4a7c15ull) >> 52]; /* Fibonacci hashing: the golden ratio, top 12 bits */
}
_Static_assert(DVMQ_KNOWN == 1 << 12, "known_at() makes 12 bits");

static inline bool is_known(const struct dvmq_worker *w, const struct dvmq_known *known, uint64_t key)
{
	return known->key == key && known->generation == w->fdb_generation;
}

/* Asks the table.  NULL: it does not have the key. */
static struct dvmq_known *look_up(struct dvmq_worker *w, uint64_t key)
{
	struct dvmq_known *known = known_at(w, key);
	void *port;

	if (rte_hash_lookup_data(dvmq_fdb.hash, &key, &port) < 0)
		return NULL;
	*known = (struct dvmq_known){.key = key, .port = port, .generation = w->fdb_generation};
	return known;
}

/* At most once in gap_us; *allowed_at: the TSC from which on it may be done again. */
static bool report(struct dvmq_worker *w, const struct dvmq_queue *queue, uint64_t key, uint64_t *allowed_at,
		   unsigned gap_us)
{
	struct dvmq_learn event = {.key = key, .port_index = queue->port->index};

	if (w->now < *allowed_at)
		return false; /* its next packet is reported */
	if (rte_ring_sp_enqueue_elem(w->learn, &event, sizeof(event)) < 0) {
		dvmq_count(&w->learn_dropped, 1);
		return false;
	}
	*allowed_at = w->now + us_to_cycles(w, gap_us);
	return true;
}

/* Nothing has to be done about a source: it is known behind this port, and the controller heard of it lately. */
static inline bool is_settled(const struct dvmq_worker *w, const struct dvmq_queue *queue,
			      const struct dvmq_known *known, uint64_t key)
{
	return is_known(w, known, key) && known->port == queue->port && w->now < known->report_at;
}

/*
 * Tells the controller of a source that the table does not have behind this
 * port, and now and then of one that it has.  Returns the TSC until which the
 * source needs no attention; 0: it is not known.
 */
static uint64_t learn(struct dvmq_worker *w, struct dvmq_queue *queue, uint64_t key)
{
	struct dvmq_known *known = known_at(w, key);
	bool told;

	if (key & 1)
		return 0; /* group bit of the first octet: no source */
	if (is_settled(w, queue, known, key))
		return known->report_at;
	known = look_up(w, key);
	if (known == NULL || known->port != queue->port) {
		if (report(w, queue, key, &w->learn_allowed_at, LEARN_GAP_US))
			dvmq_alarm_raise(DVMQ_ALARM_SOURCE);
		return 0; /* look again at the next packet: the controller needs a moment */
	}
	told = report(w, queue, key, &w->refresh_allowed_at, REFRESH_GAP_US);
	known->report_at = w->now + us_to_cycles(w, (told ? REPORT_MS : REPORT_AGAIN_MS) * 1000);
	return known->report_at;
}

/* ---- where to ---- */

/* The header of a packet as two words: dst and src MAC, ethertype (untagged), VLAN. */
static inline void header_of(const struct rte_mbuf *m, uint64_t vlan, uint64_t header[2])
{
	const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);

	memcpy(&header[0], data, 8);
	memcpy(&header[1], data + 8, 8);
	header[1] = (header[1] & 0x0000ffffffffffffull) | vlan << 48;
}

/* As dvmq_fdb_key() makes it of the six bytes. */
static inline uint64_t dst_key(const uint64_t header[2])
{
	return (header[0] & 0x0000ffffffffffffull) | (header[1] & 0xffff000000000000ull);
}

static inline uint64_t src_key(const uint64_t header[2])
{
	return header[0] >> 48 | (header[1] & UINT32_MAX) << 16 | (header[1] & 0xffff000000000000ull);
}

/* What the cache does not have. */
static __rte_noinline struct dvmq_port *find(struct dvmq_worker *w, uint64_t dst)
{
	const struct dvmq_known *known = dst & 1 ? NULL : look_up(w, dst); /* group bit: broadcast or multicast */

	return known != NULL ? known->port : NULL;
}

static __rte_noinline void meet(struct dvmq_worker *w, struct dvmq_queue *queue, uint64_t src)
{
	queue->last_until = learn(w, queue, src);
	if (queue->last_until == 0) { /* it may be learned any time */
		queue->last_src = NO_SOURCE;
		queue->last_dst = NULL;
	}
}

/* Where a packet goes by the FDB; NULL: flood. */
static inline struct dvmq_port *decide(struct dvmq_worker *w, struct dvmq_queue *queue, const uint64_t header[2])
{
	uint64_t key = dst_key(header), src = src_key(header);
	const struct dvmq_known *known = known_at(w, key);
	struct dvmq_port *dst = known->port;

	if (unlikely(!is_known(w, known, key)))
		dst = find(w, key);
	queue->last_header[0] = header[0];
	queue->last_header[1] = header[1];
	queue->last_dst = dst;
	if (src == queue->last_src)
		return dst;
	queue->last_src = src;
	known = known_at(w, src);
	if (likely(is_settled(w, queue, known, src)))
		queue->last_until = known->report_at;
	else
		meet(w, queue, src);
	return dst;
}

/* ---- staging and flooding ---- */

static inline void stage(struct dvmq_worker *w, struct dvmq_port *dst, struct rte_mbuf *m)
{
	struct dvmq_stage *stage = &w->stage[dst->index];

	if (stage->n == 0)
		w->staged[w->n_staged++] = dst;
	stage->packets[stage->n++] = m;
	stage->bytes += m->pkt_len;
}

static void flush_all(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	for (unsigned i = 0; i < w->n_staged; i++) {
		struct dvmq_stage *stage = &w->stage[w->staged[i]->index];
		unsigned n = stage->n;
		uint64_t bytes = stage->bytes;

		stage->n = 0;
		stage->bytes = 0;
		dvmq_deliver(w, queue, w->staged[i], stage->packets, n, bytes);
	}
	w->n_staged = 0;
}

static bool can_receive(const struct dvmq_port *port)
{
	return port->type != DVMQ_PORT_VHOST || atomic_load_explicit(&port->n_rxvq, memory_order_relaxed) > 0;
}

/* A copy of its own for each port but the last, which gets the packet: nobody has to care who else has it. */
static void flood(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf *m)
{
	struct dvmq_flood *list = atomic_load_explicit(&dvmq_fdb.flood[m->vlan_tci & (DVMQ_VLANS - 1)],
						       memory_order_acquire);
	struct dvmq_port *last = NULL;

	for (unsigned i = 0; list != NULL && i < list->n; i++) {
		struct dvmq_port *port = list->ports[i];
		struct rte_mbuf *copy;

		if (port == queue->port || !can_receive(port))
			continue;
		if (last != NULL) {
			counters_of(w, queue->port)->flood_copies++;
			copy = rte_pktmbuf_copy(m, m->pool, 0, UINT32_MAX);
			if (copy != NULL) {
				stage(w, last, copy);
			} else {
				counters_of(w, last)->drop[DVMQ_DROP_NO_BUFFER]++;
				dvmq_count(&queue->counters.drops, 1);
			}
		}
		last = port;
	}
	if (last != NULL)
		stage(w, last, m);
	else
		drop_at_source(w, queue, m, DVMQ_DROP_NO_DESTINATION);
}

/* The FDB as it is now, for this turn. */
static inline void begin_turn(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	w->fdb_generation = atomic_load_explicit(&dvmq_fdb.generation, memory_order_acquire);
	if (queue->last_generation != w->fdb_generation || w->now >= queue->last_until) {
		queue->last_generation = w->fdb_generation;
		queue->last_dst = NULL;
		queue->last_src = NO_SOURCE;
	}
}

/* One packet, where the FDB says. */
static inline void forward_one(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf *m, uint64_t vlan)
{
	struct dvmq_port *dst = queue->last_dst;
	uint64_t header[2];

	header_of(m, vlan, header);
	if (dst == NULL || header[0] != queue->last_header[0] || header[1] != queue->last_header[1])
		dst = decide(w, queue, header);
	if (unlikely(dst == NULL))
		flood(w, queue, m);
	else if (unlikely(dst == queue->port))
		drop_at_source(w, queue, m, DVMQ_DROP_HAIRPIN);
	else
		stage(w, dst, m);
}

/* Packets in their common form; after begin_turn(). */
static void forward(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf **packets, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		forward_one(w, queue, packets[i], packets[i]->vlan_tci);
	flush_all(w, queue);
}

/* ---- VLAN tags on the way in ---- */

/* Takes an 802.1Q tag off.  VLAN id; 0 for none or a priority tag. */
static inline uint16_t untag(struct rte_mbuf *m)
{
	const struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, const struct rte_ether_hdr *);
	uint16_t vlan = 0;

	if (m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED)
		vlan = m->vlan_tci; /* the NIC has done it */
	else if (unlikely(eth->ether_type == rte_cpu_to_be_16(RTE_ETHER_TYPE_VLAN)) && rte_vlan_strip(m) == 0)
		vlan = m->vlan_tci;
	return vlan & (DVMQ_VLANS - 1);
}

/* Too short for its header, with the tag that it announces. */
static inline bool is_runt(const struct rte_mbuf *m)
{
	const struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, const struct rte_ether_hdr *);

	if (unlikely(m->data_len < RTE_ETHER_HDR_LEN))
		return true;
	return eth->ether_type == rte_cpu_to_be_16(RTE_ETHER_TYPE_VLAN) &&
	       m->data_len < RTE_ETHER_HDR_LEN + sizeof(struct rte_vlan_hdr);
}

/* Drops runts, in place.  How many are left. */
static unsigned drop_runts(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf **packets, unsigned n)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++) {
		if (likely(!is_runt(packets[i])))
			packets[kept++] = packets[i];
		else
			drop_at_source(w, queue, packets[i], DVMQ_DROP_MALFORMED);
	}
	return kept;
}

/* An access port: frames are untagged, or tagged for priority only; they are in the port's VLAN. */
static unsigned drop_tagged(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf **packets, unsigned n)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++) {
		if (unlikely(untag(packets[i]) != 0)) {
			drop_at_source(w, queue, packets[i], DVMQ_DROP_VLAN);
			continue;
		}
		packets[i]->vlan_tci = queue->port->vlan;
		packets[kept++] = packets[i];
	}
	return kept;
}

/* An ordinary burst: if all have the header of the packet before them, nobody has to look at each. */
static inline void forward_ordinary(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf **packets, unsigned n,
				    uint16_t vlan, const struct glance *g)
{
	struct dvmq_port *dst;
	bool same;

	begin_turn(w, queue);
	dst = queue->last_dst;
	same = g->differs == 0 && dst != NULL && dst != queue->port && queue->last_header[1] >> 48 == vlan;
	if (likely(same)) {
		if (dst->type != DVMQ_PORT_VHOST)
			set_vlan(packets, n, vlan); /* a guest gets no tag, whatever it says */
		dvmq_deliver(w, queue, dst, packets, n, g->bytes);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		packets[i]->vlan_tci = vlan;
		forward_one(w, queue, packets[i], vlan);
	}
	flush_all(w, queue);
}

/* ---- the polls ---- */

/* Counts what waits, now and then: a burst that was not full left nothing. */
static void sample_backlog(struct dvmq_worker *w, struct dvmq_queue *queue, unsigned took)
{
	_Atomic uint32_t *backlog = &queue->counters.backlog;
	int waiting = 0;

	if (took < w->burst) {
		if (atomic_load_explicit(backlog, memory_order_relaxed) != 0)
			atomic_store_explicit(backlog, 0, memory_order_relaxed);
		return;
	}
	if (!queue->countable || w->now < queue->sample_at)
		return;
	queue->sample_at = w->now + us_to_cycles(w, SAMPLE_US);
	if (queue->kind == DVMQ_QUEUE_SOFT)
		waiting = rte_ring_count(queue->soft->ring);
	else if (queue->port->type == DVMQ_PORT_VHOST)
		/* split ring: only the lower 16 bits mean something */
		waiting = rte_vhost_rx_queue_count(atomic_load_explicit(&queue->port->vid, memory_order_relaxed),
						   queue->virtqueue) & 0xffff;
	else
		waiting = rte_eth_rx_queue_count(queue->eth_id, queue->eth_queue);
	if (waiting >= 0)
		atomic_store_explicit(backlog, waiting, memory_order_relaxed);
}

/* Many drivers hand out no more than 32 in one call. */
static inline unsigned receive(const struct dvmq_worker *w, const struct dvmq_queue *queue, struct rte_mbuf **packets)
{
	unsigned n = 0, took;

	do {
		took = rte_eth_rx_burst(queue->eth_id, queue->eth_queue, packets + n, w->burst - n);
		n += took;
	} while (took >= DRIVER_BURST && n < w->burst);
	return n;
}

/*
 * Drops, in place, the copies that the NIC made of group frames.  How many are left.  Nothing is lost by it, so
 * it is no drop of the queue.
 */
static unsigned drop_replicas(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf **packets, unsigned n)
{
	struct rte_mbuf *replicas[DVMQ_BURST];
	unsigned kept = 0, n_replicas = 0;

	for (unsigned i = 0; i < n; i++) {
		if (rte_is_multicast_ether_addr(rte_pktmbuf_mtod(packets[i], const struct rte_ether_addr *)))
			replicas[n_replicas++] = packets[i];
		else
			packets[kept++] = packets[i];
	}
	if (n_replicas > 0)
		dvmq_free_burst(replicas, n_replicas);
	counters_of(w, queue->port)->drop[DVMQ_DROP_REPLICA] += n_replicas;
	return kept;
}

static inline bool is_for(const struct dvmq_queue *queue, const struct rte_mbuf *m)
{
	uint64_t begin;

	memcpy(&begin, rte_pktmbuf_mtod(m, const void *), sizeof(begin));
	return ((begin ^ queue->mac) & queue->mac_mask) == 0;
}

/* Of a vmq burst, what is not for its port, or runts.  The others, untagged, are left in place; how many. */
static unsigned sort_strays(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf **packets, unsigned n)
{
	const uint16_t vlan = queue->dst->vlan;
	struct rte_mbuf *strays[DVMQ_BURST];
	unsigned kept = 0, n_strays = 0;

	n = drop_runts(w, queue, packets, n);
	for (unsigned i = 0; i < n; i++) {
		packets[i]->vlan_tci = untag(packets[i]);
		if (likely(packets[i]->vlan_tci == vlan && is_for(queue, packets[i])))
			packets[kept++] = packets[i];
		else
			strays[n_strays++] = packets[i];
	}
	dvmq_count(&queue->counters.strays, n_strays);
	if (queue->replicas && n_strays > 0)
		n_strays = drop_replicas(w, queue, strays, n_strays);
	begin_turn(w, queue);
	forward(w, queue, strays, n_strays);
	return kept;
}

/*
 * Who talks to this guest is known to the switch too, or the answers would be flooded.  One look per burst, at any of
 * its packets: at the first one it could be the same each time.
 */
static inline void learn_one(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf *const *packets,
			     unsigned n, uint16_t vlan)
{
	uint32_t dice = (uint32_t)w->now * 0x9e3779b1u; /* Fibonacci hashing: it is the upper bits that pick */
	const struct rte_mbuf *m = packets[(uint64_t)dice * n >> 32];

	learn(w, queue, dvmq_fdb_key(rte_pktmbuf_mtod(m, uint8_t *) + RTE_ETHER_ADDR_LEN, vlan));
}

/*
 * The NIC has sorted; one comparison makes sure of it, since there are drivers
 * that put what no rule takes into any queue.  A stray goes where the FDB says.
 */
uint16_t dvmq_poll_vmq(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct rte_mbuf *packets[ROOM];
	const uint16_t vlan = queue->dst->vlan;
	unsigned n = receive(w, queue, packets);
	unsigned kept = n;
	struct glance g;

	if (n == 0)
		return 0;
	g = glance_at(packets, n, (uint64_t[2]){queue->mac}, (uint64_t[2]){queue->mac_mask}, true);
	count_received(w, queue, n, g.bytes);
	sample_backlog(w, queue, n);
	w->fdb_generation = atomic_load_explicit(&dvmq_fdb.generation, memory_order_acquire);
	if (unlikely(!is_ordinary(&g) || g.differs != 0 || vlan != 0))
		kept = sort_strays(w, queue, packets, n);
	else if (queue->dst->type != DVMQ_PORT_VHOST)
		set_vlan(packets, n, 0); /* a guest gets no tag, whatever it says */
	if (unlikely(kept == 0))
		return n;
	learn_one(w, queue, packets, kept, vlan);
	dvmq_deliver(w, queue, queue->dst, packets, kept,
		     kept == n && g.tagged == 0 ? g.bytes : dvmq_bytes_of(packets, kept));
	return n;
}

static inline uint16_t poll_default(struct dvmq_worker *w, struct dvmq_queue *queue, bool replicas)
{
	struct rte_mbuf *packets[ROOM];
	unsigned n = receive(w, queue, packets);
	struct glance g;
	unsigned kept;

	if (n == 0)
		return 0;
	g = glance_at(packets, n, queue->last_header, whole_header, true);
	count_received(w, queue, n, g.bytes);
	sample_backlog(w, queue, n);
	if (likely(is_ordinary(&g) && !replicas)) {
		forward_ordinary(w, queue, packets, n, 0, &g);
		return n;
	}
	kept = drop_runts(w, queue, packets, n);
	if (replicas)
		kept = drop_replicas(w, queue, packets, kept);
	for (unsigned i = 0; i < kept; i++)
		packets[i]->vlan_tci = untag(packets[i]);
	begin_turn(w, queue);
	forward(w, queue, packets, kept);
	return n;
}

uint16_t dvmq_poll_default(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	return poll_default(w, queue, false);
}

/* A pool of nobody: what the NIC copied into it, and at times the last frames of the port that had it. */
uint16_t dvmq_poll_spare(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	return poll_default(w, queue, true);
}

/* n >= 1 packets that a guest, or the host, sent. */
static inline void from_access_port(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf **packets, unsigned n,
				    const bool prefetch)
{
	struct glance g = glance_at(packets, n, queue->last_header, whole_header, prefetch);

	count_received(w, queue, n, g.bytes);
	sample_backlog(w, queue, n);
	if (likely(is_ordinary(&g))) {
		forward_ordinary(w, queue, packets, n, queue->port->vlan, &g);
		return;
	}
	n = drop_runts(w, queue, packets, n);
	n = drop_tagged(w, queue, packets, n);
	begin_turn(w, queue);
	forward(w, queue, packets, n);
}

/* RX queue of an ethdev port: the host plugs in like a guest. */
uint16_t dvmq_poll_access(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct rte_mbuf *packets[ROOM];
	unsigned n = receive(w, queue, packets);

	if (n > 0)
		from_access_port(w, queue, packets, n, true);
	return n;
}

uint16_t dvmq_poll_guest(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct rte_mbuf *packets[ROOM];
	int vid = atomic_load_explicit(&queue->port->vid, memory_order_acquire); /* pairs with vhost.c */
	unsigned n = 0, took;

	if (vid < 0)
		return 0;
	do {
		took = rte_vhost_dequeue_burst(vid, queue->virtqueue, queue->pool, packets + n, VHOST_BURST);
		n += took;
	} while (took == VHOST_BURST && n < w->burst);
	if (n > 0)
		from_access_port(w, queue, packets, n, false); /* vhost has just copied them */
	return n;
}

/* Each at the uplink that it came from: see to_soft_ring().  The bytes of all. */
static uint64_t count_from_ring(struct dvmq_worker *w, struct dvmq_queue *queue, struct rte_mbuf *const *packets,
				unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		struct dvmq_port_counters *c = &w->counters[packets[i]->port];

		c->rx_packets++;
		c->rx_bytes += packets[i]->pkt_len;
		bytes += packets[i]->pkt_len;
	}
	w->counted = true;
	w->bytes += bytes;
	dvmq_count(&queue->counters.packets, n);
	dvmq_count(&queue->counters.bytes, bytes);
	return bytes;
}

uint16_t dvmq_poll_soft(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct rte_mbuf *packets[ROOM];
	unsigned n = rte_ring_sc_dequeue_burst(queue->soft->ring, (void **)packets, w->burst, NULL);
	uint64_t bytes;

	if (n == 0)
		return 0;
	bytes = count_from_ring(w, queue, packets, n);
	sample_backlog(w, queue, n);
	dvmq_deliver(w, queue, queue->dst, packets, n, bytes);
	return n;
}

/*
 * The trap in turning a soft queue off: a packet that goes inline must not
 * overtake one that waits in the ring.  So the ring is emptied as usual until
 * little is left; the rest goes out while the producers are held off by the
 * ring's lock, at most one short burst, and the ring is shut before they go on.
 */
void dvmq_soft_drain(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct dvmq_soft_ring *soft = queue->soft;
	unsigned rounds = 2 * rte_ring_get_size(soft->ring) / w->burst; /* a busy producer must not keep us here */

	while (rounds-- > 0 && rte_ring_count(soft->ring) > SOFT_LAST_BURST)
		dvmq_poll_soft(w, queue);
	rte_spinlock_lock(&soft->lock);
	while (dvmq_poll_soft(w, queue) > 0)
		;
	soft->open = false;
	dvmq_unlock(&soft->lock);
}
