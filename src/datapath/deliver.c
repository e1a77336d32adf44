/* SPDX-License-Identifier: BSD-3-Clause */
/* The way out: from a worker to a guest's ring, an ethdev's TX queue or a soft ring. */
#include <rte_ethdev.h>
#include <rte_ring.h>
#include <rte_vhost.h>

#include <dvmq/fdb.h>
#include <dvmq/flow_hash.h>
#include <dvmq/port.h>
#include <dvmq/worker.h>

#define VHOST_BURST 32 /* packets that librte_vhost moves in one call */

/* The 8 bytes of an mbuf from data_off on: refcnt and nb_segs are 1 in a simple one. */
#define SIMPLE_MASK 0x0000ffffffff0000ull
#define SIMPLE	    0x0000000100010000ull
_Static_assert(offsetof(struct rte_mbuf, refcnt) == offsetof(struct rte_mbuf, data_off) + 2 &&
	       offsetof(struct rte_mbuf, nb_segs) == offsetof(struct rte_mbuf, data_off) + 4,
	       "SIMPLE_MASK is made for this");

void dvmq_free_burst(struct rte_mbuf **packets, unsigned n)
{
	struct rte_mempool *pool = packets[0]->pool;
	uint64_t odd = 0, flags = 0;

	for (unsigned i = 0; i < n; i++) {
		const struct rte_mbuf *m = packets[i];
		uint64_t word;

		memcpy(&word, (const char *)m + offsetof(struct rte_mbuf, data_off), sizeof(word));
		odd |= (word ^ SIMPLE) & SIMPLE_MASK;
		odd |= (uintptr_t)m->pool ^ (uintptr_t)pool;
		flags |= m->ol_flags;
	}
	if (unlikely(odd != 0 || (flags & (RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL)) != 0))
		rte_pktmbuf_free_bulk(packets, n);
	else
		rte_mempool_put_bulk(pool, (void **)packets, n);
}

uint64_t dvmq_bytes_of(struct rte_mbuf *const *packets, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += packets[i]->pkt_len;
	return bytes;
}

static void drop(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *port, enum dvmq_drop reason,
		 struct rte_mbuf **packets, unsigned n)
{
	w->counters[port->index].drop[reason] += n;
	dvmq_count(&queue->counters.drops, n);
	dvmq_free_burst(packets, n);
}

/* Other workers may send there at the same time, unless this one is alone.  Whether unlock_ring() has something to do. */
static inline bool lock_ring(const struct dvmq_worker *w, struct dvmq_txq *txq)
{
	if (dvmq_is_alone(w))
		return false;
	rte_spinlock_lock(&txq->lock);
	return true;
}

static inline void unlock_ring(struct dvmq_txq *txq, bool locked)
{
	if (locked)
		dvmq_unlock(&txq->lock);
}

static void to_virtqueue(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst, unsigned pair,
			 struct rte_mbuf **packets, unsigned n, uint64_t bytes)
{
	int vid = atomic_load_explicit(&dst->vid, memory_order_acquire); /* pairs with new_device and destroy_device */
	struct dvmq_txq *txq = &dst->txq[pair];
	unsigned sent = 0;
	bool locked;

	if (unlikely(vid < 0)) {
		drop(w, queue, dst, DVMQ_DROP_PORT_DOWN, packets, n);
		return;
	}
	locked = lock_ring(w, txq);
	while (sent < n) {
		unsigned want = RTE_MIN(n - sent, (unsigned)VHOST_BURST);
		unsigned took = rte_vhost_enqueue_burst(vid, 2 * pair, packets + sent, want);

		sent += took;
		if (took < want)
			break;
	}
	unlock_ring(txq, locked);

	/* vhost copies: what it took is ours to free, too. */
	if (unlikely(sent < n)) {
		bytes -= dvmq_bytes_of(packets + sent, n - sent);
		w->counters[dst->index].drop[DVMQ_DROP_RING_FULL] += n - sent;
		dvmq_count(&queue->counters.drops, n - sent);
	}
	w->counters[dst->index].tx_packets += sent;
	w->counters[dst->index].tx_bytes += bytes;
	dvmq_free_burst(packets, n);
}

/*
 * One of n, always the same for a flow.  By the upper bits: NICs pick their queue by the lower ones, and what came
 * by one of their queues shall be spread, too.  Neighbours stay neighbours when n changes, and with as many soft
 * rings as virtqueues each virtqueue is filled from one ring.
 */
static inline unsigned spread(const struct rte_mbuf *m, unsigned n)
{
	return ((uint64_t)dvmq_flow_hash(m) * n) >> 32;
}

/* A guest with several queues: a flow keeps its virtqueue, wherever it is polled from. */
static void to_guest(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst, struct rte_mbuf **packets,
		     unsigned n, uint64_t bytes)
{
	unsigned pairs = atomic_load_explicit(&dst->n_rxvq, memory_order_relaxed);
	struct rte_mbuf *sorted[DVMQ_MAX_TXQ][DVMQ_BURST];
	uint8_t counts[DVMQ_MAX_TXQ] = {0};

	if (likely(pairs == 1)) {
		to_virtqueue(w, queue, dst, 0, packets, n, bytes);
		return;
	}
	if (pairs == 0) {
		drop(w, queue, dst, DVMQ_DROP_PORT_DOWN, packets, n);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		unsigned pair = spread(packets[i], pairs);

		sorted[pair][counts[pair]++] = packets[i];
	}
	for (unsigned pair = 0; pair < pairs; pair++)
		if (counts[pair] > 0)
			to_virtqueue(w, queue, dst, pair, sorted[pair], counts[pair],
				     dvmq_bytes_of(sorted[pair], counts[pair]));
}

/* Makes a packet fit for the wire of `dst`.  0, or the reason why it cannot. */
static int prepare_for_wire(const struct dvmq_port *dst, struct rte_mbuf **packet)
{
	struct rte_mbuf *m = *packet;
	uint16_t vlan = m->vlan_tci;

	m->ol_flags &= ~(RTE_MBUF_F_RX_VLAN | RTE_MBUF_F_RX_VLAN_STRIPPED);
	if (m->nb_segs > 1 && !dst->multi_seg && rte_pktmbuf_linearize(m) < 0)
		return -DVMQ_DROP_TOO_LONG;
	if (vlan != 0 && dst->type == DVMQ_PORT_UPLINK) {
		m->vlan_tci = vlan;
		if (rte_vlan_insert(packet) < 0)
			return -DVMQ_DROP_NO_BUFFER;
	}
	return 0;
}

/* Prepares, in place, those that need it, and drops what cannot be.  How many are left. */
static unsigned prepare_all(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst,
			    struct rte_mbuf **packets, unsigned n)
{
	unsigned ready = 0;

	for (unsigned i = 0; i < n; i++) {
		struct rte_mbuf *m = packets[i];
		int ret = 0;

		if (m->vlan_tci != 0 || m->nb_segs > 1)
			ret = prepare_for_wire(dst, &m);
		if (unlikely(ret < 0))
			drop(w, queue, dst, -ret, &m, 1);
		else
			packets[ready++] = m;
	}
	return ready;
}

static void to_ethdev(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst, struct rte_mbuf **packets,
		      unsigned n, uint64_t bytes)
{
	uint8_t tx = atomic_load_explicit(&dst->tx, memory_order_acquire);
	unsigned odd = 0, index, sent;
	struct dvmq_txq *txq;
	bool locked;

	if (unlikely(tx == DVMQ_TX_OFF)) { /* before anything of the device is looked at */
		drop(w, queue, dst, DVMQ_DROP_PORT_DOWN, packets, n);
		return;
	}
	for (unsigned i = 0; i < n; i++)
		odd |= packets[i]->vlan_tci | (packets[i]->nb_segs ^ 1u);
	if (odd != 0) {
		n = prepare_all(w, queue, dst, packets, n);
		if (n == 0)
			return;
		bytes = dvmq_bytes_of(packets, n); /* now: the driver frees what it takes */
	}
	index = queue->tx_index % dst->n_txq;
	txq = &dst->txq[index];
	locked = lock_ring(w, txq);
	sent = rte_eth_tx_burst(dst->eth_id, index, packets, n);
	unlock_ring(txq, locked);
	if (unlikely(sent < n)) {
		bytes -= dvmq_bytes_of(packets + sent, n - sent);
		drop(w, queue, dst, tx == DVMQ_TX_ON ? DVMQ_DROP_RING_FULL : DVMQ_DROP_PORT_DOWN, packets + sent,
		     n - sent);
	}
	w->counters[dst->index].tx_packets += sent;
	w->counters[dst->index].tx_bytes += bytes;
}

/*
 * Into a soft ring, for another worker.  False if it is shut by now.
 * The packets count as received when they leave the ring (dvmq_poll_soft()); their
 * `port` says until then which port they came from: several uplinks may fill a ring.
 */
static bool to_soft_ring(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst,
			 struct dvmq_soft_ring *soft, struct rte_mbuf **packets, unsigned n, uint64_t bytes)
{
	struct dvmq_port_counters *source = &w->counters[queue->port->index];
	unsigned put = 0;
	bool open;

	for (unsigned i = 0; i < n; i++)
		packets[i]->port = queue->port->index;
	rte_spinlock_lock(&soft->lock);
	open = soft->open;
	if (open)
		put = rte_ring_sp_enqueue_burst(soft->ring, (void **)packets, n, NULL);
	dvmq_unlock(&soft->lock);
	if (!open)
		return false;
	source->rx_packets -= put;
	source->rx_bytes -= bytes - dvmq_bytes_of(packets + put, n - put);
	if (put < n)
		drop(w, queue, dst, DVMQ_DROP_SOFT_FULL, packets + put, n - put);
	return true;
}

static void send_now(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst, struct rte_mbuf **packets,
		     unsigned n, uint64_t bytes)
{
	if (dst->type == DVMQ_PORT_VHOST)
		to_guest(w, queue, dst, packets, n, bytes);
	else
		to_ethdev(w, queue, dst, packets, n, bytes);
}

static void into_soft(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst,
		      struct dvmq_soft_ring *soft, struct rte_mbuf **packets, unsigned n, uint64_t bytes)
{
	if (!to_soft_ring(w, queue, dst, soft, packets, n, bytes))
		send_now(w, queue, dst, packets, n, bytes);
}

/* The soft rings of a port: a flow keeps its ring. */
static void by_soft(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst, struct dvmq_soft *soft,
		    struct rte_mbuf **packets, unsigned n, uint64_t bytes)
{
	struct rte_mbuf *sorted[DVMQ_MAX_PAIRS][DVMQ_BURST];
	uint8_t counts[DVMQ_MAX_PAIRS] = {0};

	if (soft->n == 1) {
		into_soft(w, queue, dst, &soft->rings[0], packets, n, bytes);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		unsigned ring = spread(packets[i], soft->n);

		sorted[ring][counts[ring]++] = packets[i];
	}
	for (unsigned i = 0; i < soft->n; i++)
		if (counts[i] > 0)
			into_soft(w, queue, dst, &soft->rings[i], sorted[i], counts[i],
				  dvmq_bytes_of(sorted[i], counts[i]));
}

/* The NIC should have put these into queues of the port's own.  Floods and other addresses behind the port do not count. */
static void count_astray(struct dvmq_astray *astray, struct rte_mbuf *const *packets, unsigned n)
{
	uint64_t key = atomic_load_explicit(&astray->key, memory_order_relaxed);
	unsigned found = 0;

	for (unsigned i = 0; i < n && key != 0; i++)
		found += dvmq_fdb_key(rte_pktmbuf_mtod(packets[i], void *), packets[i]->vlan_tci) == key;
	if (found > 0)
		atomic_fetch_add_explicit(&astray->frames, found, memory_order_relaxed);
}

void dvmq_deliver(struct dvmq_worker *w, struct dvmq_queue *queue, struct dvmq_port *dst, struct rte_mbuf **packets,
		  unsigned n, uint64_t bytes)
{
	struct dvmq_soft *soft;

	if (queue->kind == DVMQ_QUEUE_DEFAULT) {
		w->counters[dst->index].by_default += n;
		w->counters[dst->index].by_default_bytes += bytes;
		count_astray(&queue->port->astray[dst->index], packets, n);
		soft = atomic_load_explicit(&dst->soft, memory_order_acquire);
		if (soft != NULL) {
			by_soft(w, queue, dst, soft, packets, n, bytes);
			return;
		}
	}
	send_now(w, queue, dst, packets, n, bytes);
}
