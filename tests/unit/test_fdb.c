/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The FDB: what the controller writes (src/control/fdb.c), and what a worker makes
 * of it (src/datapath/forward.c, deliver.c).  Ports are net_ring devices, whose TX
 * queue i is their RX queue i: frames are put into a port's ring, one turn of its
 * queue is run, and whatever was delivered waits in the rings of the others.
 */
#include <errno.h>
#include <string.h>

#include <rte_ethdev.h>
#include <rte_ring_elem.h>

#include <dvmq/control.h>
#include <dvmq/alarm.h>
#include <dvmq/fdb.h>
#include <dvmq/port.h>
#include <dvmq/worker.h>

#include "eal.h"
#include "unit.h"

#define POOL_SIZE 8191
#define FRAME	  60 /* bytes, untagged */

enum { UP0, UP1, PLAIN1, PLAIN2, WEB1, WEB2, GUEST, PORTS };

static const struct {
	const char *name;
	enum dvmq_port_type type;
	uint16_t vlan;
} world[PORTS] = {
    [UP0] = {"up0", DVMQ_PORT_UPLINK, 0},	[UP1] = {"up1", DVMQ_PORT_UPLINK, 0},
    [PLAIN1] = {"plain1", DVMQ_PORT_ETHDEV, 0}, [PLAIN2] = {"plain2", DVMQ_PORT_ETHDEV, 0},
    [WEB1] = {"web1", DVMQ_PORT_ETHDEV, 100},	[WEB2] = {"web2", DVMQ_PORT_ETHDEV, 100},
    [GUEST] = {"guest", DVMQ_PORT_VHOST, 0},
};

static struct dvmq_port *ports[PORTS];
static struct dvmq_queue *queues[PORTS];
static struct dvmq_worker *worker;
static struct rte_mempool *pool;

/* MACs, as the first octets of a frame: locally administered, unicast */
static const uint8_t mac_a[6] = {0x02, 0, 0, 0, 0, 0xa}, mac_b[6] = {0x02, 0, 0, 0, 0, 0xb};
static const uint8_t mac_c[6] = {0x02, 0, 0, 0, 0, 0xc}, mac_unknown[6] = {0x02, 0, 0, 0, 0, 0xff};
static const uint8_t mac_all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/* ---- the world ---- */

static struct dvmq_astray astray[PORTS]; /* nothing is expected */

static int make_port(unsigned i, struct dvmq_err *err)
{
	struct dvmq_port *port = rte_zmalloc("port", sizeof(*port), 64);
	struct dvmq_queue *queue = rte_zmalloc("queue", sizeof(*queue), 64);
	int ret = 0;

	if (port == NULL || queue == NULL)
		return -ENOMEM;
	port->index = i;
	port->astray = astray;
	port->type = port->conf.type = world[i].type;
	port->vlan = port->conf.vlan = world[i].vlan;
	port->conf.queues = 1;
	strcpy(port->conf.name, world[i].name);
	snprintf(port->conf.device, sizeof(port->conf.device), "net_ring_%s", world[i].name);
	port->numa = -1;
	atomic_store(&port->vid, -1);
	if (port->type != DVMQ_PORT_VHOST)
		ret = dvmq_ethdev_open(port, DVMQ_RX_PLAIN, err);
	queue->port = port;
	queue->kind = port->type == DVMQ_PORT_UPLINK ? DVMQ_QUEUE_DEFAULT : DVMQ_QUEUE_GUEST;
	queue->poll = port->type == DVMQ_PORT_UPLINK ? dvmq_poll_default : dvmq_poll_access;
	queue->eth_id = port->eth_id;
	queue->wake_fd = -1;
	ports[i] = port;
	queues[i] = queue;
	atomic_store(&dvmq_ports[i], port);
	atomic_store(&dvmq_port_limit, i + 1);
	return ret;
}

static int open_world(struct dvmq_err *err)
{
	int ret = 0;

	pool = rte_pktmbuf_pool_create("test", POOL_SIZE, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	worker = dvmq_worker_new(rte_lcore_id(), 0, PORTS, err);
	if (worker != NULL)
		worker->burst = DVMQ_BURST;
	if (pool == NULL || worker == NULL)
		return -ENOMEM;
	rte_rcu_qsbr_thread_register(dvmq_rcu, 0); /* offline: the controller, on this thread, waits for nobody */
	for (unsigned i = 0; ret == 0 && i < PORTS; i++)
		ret = make_port(i, err);
	return ret;
}

static void close_world(void)
{
	for (unsigned i = 0; i < PORTS; i++) {
		dvmq_ethdev_close(ports[i]);
		rte_free(ports[i]);
		rte_free(queues[i]);
	}
	dvmq_worker_free(worker);
	rte_mempool_free(pool);
	dvmq_pools_free();
}

/* Each test begins with an empty table, cold caches, counters at 0. */
static void begin(void)
{
	struct dvmq_err err;

	dvmq_fdb_full = dvmq_fdb_moved = 0;
	CU_ASSERT_EQUAL_FATAL(dvmq_fdb_open(&err), 0);
	CU_ASSERT_EQUAL_FATAL(dvmq_fdb_rebuild_floods(&err), 0);
	memset(worker->counters, 0, PORTS * sizeof(*worker->counters));
	memset(worker->known, 0, sizeof(worker->known));
	worker->now += worker->cycles_per_us * 3600 * 1000000;
	for (unsigned i = 0; i < PORTS; i++) {
		memset(queues[i]->last_header, 0, sizeof(queues[i]->last_header));
		memset(&queues[i]->counters, 0, sizeof(queues[i]->counters));
		queues[i]->last_until = 0;
	}
	while (rte_ring_count(worker->learn) > 0) {
		struct dvmq_learn ignored;

		rte_ring_sc_dequeue_elem(worker->learn, &ignored, sizeof(ignored));
	}
}

static void end(void)
{
	CU_ASSERT_EQUAL(rte_mempool_avail_count(pool), POOL_SIZE); /* no frame was lost or freed twice */
	dvmq_fdb_close();
}

/* ---- the writing half ---- */

static uint64_t key(unsigned number, uint16_t vlan)
{
	uint8_t mac[6] = {0x02, 0, number >> 24, number >> 16, number >> 8, number};

	return dvmq_fdb_key(mac, vlan);
}

static const struct dvmq_fdb_entry *find(uint64_t wanted)
{
	const struct dvmq_fdb_entry *entry;
	uint32_t iterator = 0;

	while ((entry = dvmq_fdb_next(&iterator)) != NULL)
		if (entry->key == wanted)
			return entry;
	return NULL;
}

static const struct dvmq_port *port_of(uint64_t wanted)
{
	const struct dvmq_fdb_entry *entry = find(wanted);

	return entry ? entry->port : NULL;
}

static unsigned n_entries(void)
{
	uint32_t iterator = 0;
	unsigned n = 0;

	while (dvmq_fdb_next(&iterator) != NULL)
		n++;
	return n;
}

/* Steps of the generation since the last call. */
static unsigned steps(void)
{
	static uint32_t last;
	uint32_t now = atomic_load(&dvmq_fdb.generation);
	unsigned n = now - last;

	last = now;
	return n;
}

static void test_key(void)
{
	const uint8_t mac[6] = {1, 2, 3, 4, 5, 6};

	CU_ASSERT_NOT_EQUAL(dvmq_fdb_key(mac, 0), dvmq_fdb_key(mac, 1));
	CU_ASSERT_NOT_EQUAL(dvmq_fdb_key(mac, 1), dvmq_fdb_key(mac, 257));
	CU_ASSERT_EQUAL(dvmq_fdb_key(mac, 4094) >> 48, 4094);
}

static void test_learn(void)
{
	begin();
	steps();
	dvmq_fdb_learn(key(1, 0), ports[PLAIN1], 1000);
	dvmq_fdb_learn(key(1, 100), ports[WEB1], 1000); /* the same MAC elsewhere is another station */
	CU_ASSERT_PTR_EQUAL(port_of(key(1, 0)), ports[PLAIN1]);
	CU_ASSERT_PTR_EQUAL(port_of(key(1, 100)), ports[WEB1]);
	CU_ASSERT_PTR_NULL(port_of(key(2, 0)));
	CU_ASSERT_EQUAL(n_entries(), 2);
	dvmq_fdb_learn(key(1, 0), ports[PLAIN1], 2000);
	CU_ASSERT_EQUAL(find(key(1, 0))->seen_ms, 2000);
	CU_ASSERT_EQUAL(find(key(1, 100))->seen_ms, 1000);
	CU_ASSERT_EQUAL(steps(), 0); /* nobody can have cached what was not there */
	CU_ASSERT_EQUAL(dvmq_fdb_moved, 0);
	end();
}

static void test_move(void)
{
	begin();
	dvmq_fdb_learn(key(1, 0), ports[PLAIN1], 1000);
	steps();
	dvmq_fdb_learn(key(1, 0), ports[UP0], 2000);
	CU_ASSERT_PTR_EQUAL(port_of(key(1, 0)), ports[UP0]);
	CU_ASSERT_EQUAL(find(key(1, 0))->seen_ms, 2000);
	CU_ASSERT_EQUAL(steps(), 1);
	CU_ASSERT_EQUAL(dvmq_fdb_moved, 1);
	CU_ASSERT_EQUAL(n_entries(), 1);
	end();
}

static void test_static(void)
{
	struct dvmq_err err;

	begin();
	CU_ASSERT_EQUAL(dvmq_fdb_add_static(key(1, 0), ports[PLAIN1], &err), 0);
	dvmq_fdb_learn(key(2, 0), ports[PLAIN2], 1000);
	steps();
	dvmq_fdb_learn(key(1, 0), ports[UP0], 1000); /* somebody else claims it */
	CU_ASSERT_PTR_EQUAL(port_of(key(1, 0)), ports[PLAIN1]);
	CU_ASSERT_EQUAL(steps(), 0);
	CU_ASSERT_EQUAL(dvmq_fdb_moved, 0);
	CU_ASSERT_TRUE(find(key(1, 0))->fixed);
	dvmq_fdb_age(1000 + 10ull * DVMQ_FDB_AGE_MS);
	CU_ASSERT_PTR_EQUAL(port_of(key(1, 0)), ports[PLAIN1]);
	CU_ASSERT_EQUAL(n_entries(), 1);

	/* What was learned somewhere else gives way to the configuration. */
	dvmq_fdb_learn(key(3, 0), ports[UP0], 1000);
	steps();
	CU_ASSERT_EQUAL(dvmq_fdb_add_static(key(3, 0), ports[PLAIN1], &err), 0);
	CU_ASSERT_PTR_EQUAL(port_of(key(3, 0)), ports[PLAIN1]);
	CU_ASSERT_EQUAL(steps(), 1);
	end();
}

static void test_age(void)
{
	begin();
	dvmq_fdb_learn(key(1, 0), ports[PLAIN1], 1000);
	dvmq_fdb_learn(key(2, 0), ports[PLAIN1], 2000);
	dvmq_fdb_learn(key(3, 0), ports[PLAIN1], 1000);
	dvmq_fdb_learn(key(3, 0), ports[PLAIN1], 5000); /* seen again */
	steps();
	dvmq_fdb_age(1000 + DVMQ_FDB_AGE_MS);
	CU_ASSERT_EQUAL(n_entries(), 3);
	CU_ASSERT_EQUAL(steps(), 0);
	dvmq_fdb_age(1001 + DVMQ_FDB_AGE_MS);
	CU_ASSERT_PTR_NULL(port_of(key(1, 0)));
	CU_ASSERT_EQUAL(n_entries(), 2);
	CU_ASSERT_EQUAL(steps(), 1);
	dvmq_fdb_age(5000 + DVMQ_FDB_AGE_MS);
	CU_ASSERT_PTR_NULL(port_of(key(2, 0)));
	CU_ASSERT_PTR_EQUAL(port_of(key(3, 0)), ports[PLAIN1]);
	end();
}

static void test_full(void)
{
	struct dvmq_err err;

	begin();
	for (unsigned round = 0; round < 2; round++) { /* what was forgotten makes room */
		dvmq_fdb_full = 0;
		for (unsigned i = 0; i < DVMQ_FDB_SIZE + 100; i++)
			dvmq_fdb_learn(key(i, 0), ports[PLAIN1], 1000);
		CU_ASSERT_EQUAL(n_entries(), DVMQ_FDB_SIZE);
		CU_ASSERT_EQUAL(dvmq_fdb_full, 100);
		CU_ASSERT_EQUAL(dvmq_fdb_add_static(key(1 << 20, 0), ports[PLAIN1], &err), -ENOSPC);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "plain1"));
		dvmq_fdb_learn(key(0, 0), ports[PLAIN2], 1000); /* what is in it may still move */
		CU_ASSERT_PTR_EQUAL(port_of(key(0, 0)), ports[PLAIN2]);
		CU_ASSERT_EQUAL(dvmq_fdb_full, 100);
		dvmq_fdb_age(1001 + DVMQ_FDB_AGE_MS);
		CU_ASSERT_EQUAL(n_entries(), 0);
	}
	end();
}

static void test_forget_port(void)
{
	struct dvmq_err err;

	begin();
	CU_ASSERT_EQUAL(dvmq_fdb_add_static(key(1, 0), ports[PLAIN1], &err), 0);
	dvmq_fdb_learn(key(2, 0), ports[PLAIN1], 1000);
	dvmq_fdb_learn(key(3, 0), ports[PLAIN2], 1000);
	steps();
	dvmq_fdb_forget_port(ports[PLAIN1]);
	CU_ASSERT(steps() > 0);
	CU_ASSERT_EQUAL(n_entries(), 1);
	CU_ASSERT_PTR_EQUAL(port_of(key(3, 0)), ports[PLAIN2]);
	end();
}

static bool floods_to(uint16_t vlan, const struct dvmq_port *port)
{
	struct dvmq_flood *list = atomic_load(&dvmq_fdb.flood[vlan]);

	for (unsigned i = 0; list != NULL && i < list->n; i++)
		if (list->ports[i] == port)
			return true;
	return false;
}

static void test_flood_lists(void)
{
	struct dvmq_err err;

	begin();
	for (unsigned i = 0; i < PORTS; i++) {
		bool uplink = world[i].type == DVMQ_PORT_UPLINK;

		CU_ASSERT_EQUAL(floods_to(0, ports[i]), uplink || world[i].vlan == 0);
		CU_ASSERT_EQUAL(floods_to(100, ports[i]), uplink || world[i].vlan == 100);
	}
	CU_ASSERT_PTR_NULL(atomic_load(&dvmq_fdb.flood[1]));
	CU_ASSERT_PTR_NULL(atomic_load(&dvmq_fdb.flood[DVMQ_VLANS - 1]));

	ports[WEB1]->leaving = true;
	CU_ASSERT_EQUAL(dvmq_fdb_rebuild_floods(&err), 0);
	CU_ASSERT_FALSE(floods_to(100, ports[WEB1]));
	CU_ASSERT_TRUE(floods_to(100, ports[WEB2]));
	CU_ASSERT_TRUE(floods_to(100, ports[UP0]));
	CU_ASSERT_TRUE(floods_to(0, ports[PLAIN1]));
	ports[WEB2]->leaving = true;
	CU_ASSERT_EQUAL(dvmq_fdb_rebuild_floods(&err), 0);
	CU_ASSERT_PTR_NULL(atomic_load(&dvmq_fdb.flood[100])); /* nobody is in that VLAN any more */
	ports[WEB1]->leaving = ports[WEB2]->leaving = false;
	end();
}

/* ---- the reading half ---- */

struct frame {
	const uint8_t *dst, *src;
	int tag;	 /* TCI of an 802.1Q tag, -1: none */
	unsigned length; /* bytes; 0: as long as need be */
};

static struct rte_mbuf *make(const struct frame *frame)
{
	unsigned length = frame->length ? frame->length : FRAME + (frame->tag >= 0 ? 4 : 0), at = 12;
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
	uint8_t *data;

	CU_ASSERT_PTR_NOT_NULL_FATAL(m);
	data = rte_pktmbuf_mtod(m, uint8_t *);
	memset(data, 0x5a, FRAME + 4);
	memcpy(data, frame->dst, 6);
	memcpy(data + 6, frame->src, 6);
	if (frame->tag >= 0) {
		data[at++] = 0x81;
		data[at++] = 0x00;
		data[at++] = frame->tag >> 8;
		data[at++] = frame->tag & 0xff;
	}
	data[at++] = 0x08;
	data[at++] = 0x00;
	m->data_len = m->pkt_len = length;
	return m;
}

/* Puts a frame into a port's ring. */
static void put(unsigned from, const struct frame *frame)
{
	struct rte_mbuf *m = make(frame);

	CU_ASSERT_EQUAL_FATAL(rte_eth_tx_burst(ports[from]->eth_id, 0, &m, 1), 1);
}

/* One turn of the port's queue.  How many it took. */
static unsigned turn(unsigned from)
{
	return queues[from]->poll(worker, queues[from]);
}

static unsigned inject(unsigned from, const uint8_t *dst, const uint8_t *src)
{
	put(from, &(struct frame){.dst = dst, .src = src, .tag = -1});
	return turn(from);
}

static unsigned inject_tagged(unsigned from, const uint8_t *dst, const uint8_t *src, int tag)
{
	put(from, &(struct frame){.dst = dst, .src = src, .tag = tag});
	return turn(from);
}

/* Takes what was delivered to a port; the last frame's ethertype and length stay. */
static uint16_t got_type;
static unsigned got_length;
static uint16_t got_tci;

static unsigned got(unsigned port)
{
	struct rte_mbuf *m;
	unsigned n = 0;

	while (rte_eth_rx_burst(ports[port]->eth_id, 0, &m, 1) == 1) {
		const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);

		got_length = m->pkt_len;
		got_type = data[12] << 8 | data[13];
		got_tci = data[14] << 8 | data[15];
		rte_pktmbuf_free(m);
		n++;
	}
	return n;
}

/* Where the frames went, one digit a port: "0110000" is one frame each to up1 and plain1. */
static const char *delivered(void)
{
	static char text[PORTS + 1];

	for (unsigned i = 0; i < PORTS; i++)
		text[i] = '0' + (world[i].type == DVMQ_PORT_VHOST ? 0 : got(i));
	return text;
}

static struct dvmq_port_counters *count(unsigned port)
{
	return &worker->counters[port];
}

/* rx + flood_copies = tx + drops, over all ports; and `rx` frames came in. */
static void check_sum(unsigned rx)
{
	uint64_t in = 0, copies = 0, out = 0;

	for (unsigned i = 0; i < PORTS; i++) {
		in += count(i)->rx_packets;
		copies += count(i)->flood_copies;
		out += count(i)->tx_packets;
		for (unsigned reason = 0; reason < DVMQ_DROP_REASONS; reason++)
			out += count(i)->drop[reason];
	}
	CU_ASSERT_EQUAL(in, rx);
	CU_ASSERT_EQUAL(in + copies, out);
}

/* The controller's part: takes what the worker reports; how many reports there were. */
static unsigned controller_learns(uint64_t now_ms)
{
	struct dvmq_learn event;
	unsigned n = 0;

	while (rte_ring_sc_dequeue_elem(worker->learn, &event, sizeof(event)) == 0) {
		dvmq_fdb_learn(event.key, ports[event.port_index], now_ms);
		n++;
	}
	return n;
}

static void pass_us(uint64_t us)
{
	worker->now += worker->cycles_per_us * us;
}

static void test_flood(void)
{
	begin();
	CU_ASSERT_EQUAL(inject(PLAIN1, mac_unknown, mac_a), 1);
	CU_ASSERT_STRING_EQUAL(delivered(),
			       "1101000"); /* not its source, not other VLANs, not a guest that is not there */
	CU_ASSERT_EQUAL(count(PLAIN1)->flood_copies, 2);
	CU_ASSERT_EQUAL(count(PLAIN1)->rx_packets, 1);
	CU_ASSERT_EQUAL(count(PLAIN1)->rx_bytes, FRAME);
	CU_ASSERT_EQUAL(count(PLAIN2)->tx_packets, 1);
	CU_ASSERT_EQUAL(count(PLAIN2)->tx_bytes, FRAME);
	check_sum(1);

	inject(UP0, mac_all, mac_b);
	CU_ASSERT_STRING_EQUAL(delivered(), "0111000");
	check_sum(2);
	inject(WEB1, mac_all, mac_c);
	CU_ASSERT_STRING_EQUAL(delivered(), "1100010");
	check_sum(3);
	inject(UP0, (const uint8_t[6]){0x33, 0x33, 0, 0, 0, 1}, mac_b);
	CU_ASSERT_STRING_EQUAL(delivered(), "0111000");
	check_sum(4);
	end();
}

static void test_known(void)
{
	struct dvmq_err err;

	begin();
	CU_ASSERT_EQUAL(dvmq_fdb_add_static(dvmq_fdb_key(mac_b, 0), ports[PLAIN2], &err), 0);
	for (unsigned i = 0; i < 3; i++) { /* also when the header is that of the frame before */
		inject(UP0, mac_b, mac_a);
		CU_ASSERT_STRING_EQUAL(delivered(), "0001000");
		pass_us(100);
		controller_learns(1000);
	}
	inject(WEB1, mac_b, mac_c); /* nobody of that name in VLAN 100 */
	CU_ASSERT_STRING_EQUAL(delivered(), "1100010");
	CU_ASSERT_EQUAL(count(PLAIN2)->tx_packets, 3);
	CU_ASSERT_EQUAL(count(PLAIN2)->by_default, 3);
	CU_ASSERT_EQUAL(count(UP0)->flood_copies, 0);
	check_sum(4);
	end();
}

static void test_learns_sources(void)
{
	begin();
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_STRING_EQUAL(delivered(), "1101000");
	CU_ASSERT_EQUAL(controller_learns(1000), 1);
	CU_ASSERT_PTR_EQUAL(port_of(dvmq_fdb_key(mac_a, 0)), ports[PLAIN1]);
	pass_us(100);
	inject(PLAIN2, mac_a, mac_b);
	CU_ASSERT_STRING_EQUAL(delivered(), "0010000");
	controller_learns(1000);
	pass_us(100);
	inject(PLAIN1, mac_b, mac_a); /* flooded before, known now */
	CU_ASSERT_STRING_EQUAL(delivered(), "0001000");

	/* A known source is told of rarely, but well before it ages. */
	controller_learns(1000);
	for (unsigned i = 0; i < 100; i++) {
		pass_us(100);
		inject(PLAIN1, mac_b, mac_a);
	}
	CU_ASSERT_EQUAL(controller_learns(2000), 0);
	pass_us(DVMQ_FDB_AGE_MS * 1000ull / 2);
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_EQUAL(controller_learns(3000), 1);
	CU_ASSERT_EQUAL(find(dvmq_fdb_key(mac_a, 0))->seen_ms, 3000);
	CU_ASSERT_EQUAL(got(PLAIN2), 101);

	/* Each VLAN for itself, and a group address is nobody's. */
	pass_us(100);
	inject_tagged(UP0, mac_all, mac_a, 100);
	controller_learns(3000);
	CU_ASSERT_PTR_EQUAL(port_of(dvmq_fdb_key(mac_a, 100)), ports[UP0]);
	CU_ASSERT_PTR_EQUAL(port_of(dvmq_fdb_key(mac_a, 0)), ports[PLAIN1]);
	pass_us(100);
	inject(PLAIN1, mac_b, mac_all);
	CU_ASSERT_EQUAL(controller_learns(3000), 0);
	delivered();
	end();
}

static void forget_all_caches(void)
{
	memset(worker->known, 0, sizeof(worker->known));
	for (unsigned i = 0; i < PORTS; i++)
		queues[i]->last_until = 0;
}

/* Sources that are known, but not in the cache, keep nobody busy, and no new one from being learned. */
static void test_new_sources_first(void)
{
	begin();
	dvmq_fdb_learn(dvmq_fdb_key(mac_a, 0), ports[UP0], 1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[UP0], 1000);
	put(UP0, &(struct frame){.dst = mac_all, .src = mac_a, .tag = -1});
	put(UP0, &(struct frame){.dst = mac_all, .src = mac_b, .tag = -1});
	put(UP0, &(struct frame){.dst = mac_all, .src = mac_c, .tag = -1});
	CU_ASSERT_EQUAL(turn(UP0), 3);
	CU_ASSERT_EQUAL(controller_learns(2000), 2); /* one of the known ones, and the new one */
	CU_ASSERT_PTR_EQUAL(port_of(dvmq_fdb_key(mac_c, 0)), ports[UP0]);
	for (unsigned i = 0; i < 9; i++) {
		pass_us(10);
		forget_all_caches();
		inject(UP0, mac_all, mac_a);
	}
	CU_ASSERT_EQUAL(controller_learns(3000), 0);
	pass_us(10);
	forget_all_caches();
	inject(UP0, mac_all, mac_b);
	CU_ASSERT_EQUAL(controller_learns(4000), 1);
	CU_ASSERT_EQUAL(find(dvmq_fdb_key(mac_b, 0))->seen_ms, 4000);
	CU_ASSERT_EQUAL(find(dvmq_fdb_key(mac_a, 0))->seen_ms, 2000);
	delivered();
	check_sum(13);
	end();
}

/* A vmq queue looks at one source of each burst, and sooner or later at all. */
static void test_vmq_learns_all(void)
{
	unsigned known = 0, bursts = 0;

	begin();
	queues[UP0]->dst = ports[PLAIN1];
	for (; bursts < 1000 && known < 8; bursts++) {
		for (unsigned i = 0; i < 8; i++)
			put(UP0, &(struct frame){.dst = mac_a, .src = (const uint8_t[6]){2, 0, 0, 0, 1, i}, .tag = -1});
		CU_ASSERT_EQUAL(dvmq_poll_vmq(worker, queues[UP0]), 8);
		CU_ASSERT_EQUAL(got(PLAIN1), 8);
		pass_us(12);
		controller_learns(1000);
		known = n_entries();
	}
	CU_ASSERT_EQUAL(known, 8);
	queues[UP0]->dst = NULL;
	end();
}

/* The controller is told of a new source at once, and need not be of one that is known. */
static void test_reports_are_told(void)
{
	uint32_t before = dvmq_alarm_count(DVMQ_ALARM_SOURCE);

	begin();
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_EQUAL(dvmq_alarm_count(DVMQ_ALARM_SOURCE), before + 1);
	CU_ASSERT_EQUAL(controller_learns(1000), 1);
	pass_us(60 * 1000 * 1000); /* it is reported again, so that it does not age */
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_EQUAL(controller_learns(2000), 1);
	CU_ASSERT_EQUAL(dvmq_alarm_count(DVMQ_ALARM_SOURCE), before + 1);
	delivered();
	end();
}

static void test_reports_are_limited(void)
{
	uint8_t src[6] = {0x02};

	begin();
	for (unsigned i = 0; i < 40; i++) {
		src[5] = i;
		put(PLAIN1, &(struct frame){.dst = mac_all, .src = src, .tag = -1});
	}
	CU_ASSERT_EQUAL(turn(PLAIN1), 40);
	CU_ASSERT_EQUAL(controller_learns(1000), 1);	   /* one in a while of a worker, not one per frame */
	for (unsigned i = 0; i < DVMQ_EVENTS + 100; i++) { /* a controller that does not listen */
		pass_us(100);
		src[4] = i >> 8;
		src[5] = i;
		inject(PLAIN1, mac_b, src);
		delivered();
	}
	CU_ASSERT_EQUAL(rte_ring_count(worker->learn), DVMQ_EVENTS - 1);
	CU_ASSERT_EQUAL(atomic_load(&worker->learn_dropped), 101);
	check_sum(40 + DVMQ_EVENTS + 100);
	controller_learns(1000);
	end();
}

/* Whoever moved, went or came must be found at once, whatever the caches hold. */
static void test_caches_follow(void)
{
	begin();
	dvmq_fdb_learn(dvmq_fdb_key(mac_a, 0), ports[PLAIN1], 1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[PLAIN2], 1000);
	for (unsigned i = 0; i < 3; i++) {
		pass_us(100);
		inject(PLAIN1, mac_b, mac_a);
		CU_ASSERT_STRING_EQUAL(delivered(), "0001000");
	}
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[UP1], 1000);
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_STRING_EQUAL(delivered(), "0100000");
	dvmq_fdb_forget_port(ports[UP1]);
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_STRING_EQUAL(delivered(), "1101000");
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[PLAIN2], 1000); /* no step of the generation: nothing was known */
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_STRING_EQUAL(delivered(), "0001000");
	check_sum(6);

	/* A source that is suddenly somewhere else is told of at once. */
	controller_learns(1000);
	pass_us(100);
	inject(PLAIN1, mac_b, mac_a);
	controller_learns(1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_a, 0), ports[UP0], 1000);
	pass_us(100);
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_EQUAL(controller_learns(1000), 1);
	CU_ASSERT_PTR_EQUAL(port_of(dvmq_fdb_key(mac_a, 0)), ports[PLAIN1]);
	delivered();
	end();
}

/* No header, however odd, may match a remembered one that has expired. */
static void test_zero_header(void)
{
	const uint8_t zero[6] = {0}, low[6] = {0, 0, 0x5e, 0, 0x53, 1};

	begin();
	dvmq_fdb_learn(dvmq_fdb_key(low, 0), ports[PLAIN1], 1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[PLAIN2], 1000);
	for (unsigned i = 0; i < 2; i++) {
		pass_us(100);
		inject(PLAIN1, mac_b, low);
		CU_ASSERT_STRING_EQUAL(delivered(), "0001000");
	}
	dvmq_fdb_forget_port(ports[PLAIN2]);
	pass_us(100);
	inject(PLAIN1, zero, low);
	CU_ASSERT_STRING_EQUAL(delivered(), "1101000"); /* unknown: not where the frame before went */
	end();
}

static void test_hairpin(void)
{
	begin();
	dvmq_fdb_learn(dvmq_fdb_key(mac_a, 0), ports[PLAIN1], 1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[PLAIN1], 1000);
	for (unsigned i = 1; i <= 3; i++) {
		pass_us(100);
		inject(PLAIN1, mac_b, mac_a);
		CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
		CU_ASSERT_EQUAL(count(PLAIN1)->drop[DVMQ_DROP_HAIRPIN], i);
		CU_ASSERT_EQUAL(atomic_load(&queues[PLAIN1]->counters.drops), i);
		check_sum(i);
	}
	end();
}

static void test_vlan(void)
{
	begin();
	dvmq_fdb_learn(dvmq_fdb_key(mac_a, 100), ports[WEB1], 1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 100), ports[UP0], 1000);

	inject_tagged(UP0, mac_a, mac_b, 3 << 13 | 100); /* whatever its priority */
	CU_ASSERT_EQUAL(got(WEB1), 1);
	CU_ASSERT_EQUAL(got_type, 0x0800); /* the guest sees no tag */
	CU_ASSERT_EQUAL(got_length, FRAME);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
	CU_ASSERT_EQUAL(count(UP0)->rx_bytes, FRAME + 4);
	CU_ASSERT_EQUAL(count(WEB1)->tx_bytes, FRAME);

	inject(WEB1, mac_b, mac_a);
	CU_ASSERT_EQUAL(got(UP0), 1);
	CU_ASSERT_EQUAL(got_type, 0x8100); /* the network does */
	CU_ASSERT_EQUAL(got_tci, 100);
	CU_ASSERT_EQUAL(got_length, FRAME + 4);
	CU_ASSERT_EQUAL(count(UP0)->tx_bytes, FRAME + 4);

	inject_tagged(WEB1, mac_b, mac_a, 5 << 13); /* for priority only */
	CU_ASSERT_EQUAL(got(UP0), 1);
	CU_ASSERT_EQUAL(got_tci, 100);
	CU_ASSERT_EQUAL(got_length, FRAME + 4);
	check_sum(3);

	inject_tagged(WEB1, mac_b, mac_a, 100); /* an access port takes no tag, not even its own */
	inject_tagged(PLAIN1, mac_all, mac_c, 100);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
	CU_ASSERT_EQUAL(count(WEB1)->drop[DVMQ_DROP_VLAN], 1);
	CU_ASSERT_EQUAL(count(PLAIN1)->drop[DVMQ_DROP_VLAN], 1);
	check_sum(5);

	inject_tagged(UP0, mac_a, mac_b, 200); /* nobody is in that VLAN */
	inject_tagged(UP0, mac_all, mac_b, 200);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
	CU_ASSERT_EQUAL(count(UP0)->drop[DVMQ_DROP_NO_DESTINATION], 2);
	check_sum(7);

	inject(WEB1, mac_all, mac_a); /* each copy of a flood has its own form */
	CU_ASSERT_EQUAL(got(WEB2), 1);
	CU_ASSERT_EQUAL(got_type, 0x0800);
	CU_ASSERT_EQUAL(got(UP0), 1);
	CU_ASSERT_EQUAL(got_type, 0x8100);
	CU_ASSERT_EQUAL(got(UP1), 1);
	CU_ASSERT_EQUAL(got_type, 0x8100);
	check_sum(8);
	end();
}

/* A queue of a port's own: its frames need no look-up; what strays into it goes where the FDB says. */
static void test_vmq(void)
{
	struct dvmq_queue *queue = queues[UP0];

	begin();
	queue->kind = DVMQ_QUEUE_VMQ;
	queue->poll = dvmq_poll_vmq;
	queue->dst = ports[WEB1];
	queue->mac = dvmq_fdb_key(mac_a, 0);
	queue->mac_mask = 0x0000ffffffffffff;
	inject_tagged(UP0, mac_a, mac_b, 2 << 13 | 100);
	CU_ASSERT_EQUAL(got(WEB1), 1);
	CU_ASSERT_EQUAL(got_type, 0x0800);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
	CU_ASSERT_EQUAL(count(WEB1)->by_default, 0);
	controller_learns(1000);
	CU_ASSERT_PTR_EQUAL(port_of(dvmq_fdb_key(mac_b, 100)), ports[UP0]); /* or the answer would be flooded */

	dvmq_fdb_learn(dvmq_fdb_key(mac_c, 100), ports[WEB2], 1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_a, 0), ports[PLAIN1], 1000);
	put(UP0, &(struct frame){.dst = mac_a, .src = mac_b, .tag = 100});
	put(UP0, &(struct frame){.dst = mac_c, .src = mac_b, .tag = 100});
	put(UP0, &(struct frame){.dst = mac_all, .src = mac_b, .tag = 100});
	put(UP0, &(struct frame){.dst = mac_a, .src = mac_b, .tag = -1});
	put(UP0, &(struct frame){.dst = mac_a, .src = mac_b, .tag = 200});
	CU_ASSERT_EQUAL(turn(UP0), 5);
	CU_ASSERT_STRING_EQUAL(delivered(), "0110220");
	CU_ASSERT_EQUAL(count(UP0)->drop[DVMQ_DROP_NO_DESTINATION], 1);
	check_sum(6);

	queue->mac_mask = 0; /* a port without a configured address */
	inject_tagged(UP0, mac_c, mac_b, 100);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000100");
	put(UP0, &(struct frame){.dst = mac_a, .src = mac_b, .tag = 100, .length = 17});
	CU_ASSERT_EQUAL(turn(UP0), 1);
	CU_ASSERT_EQUAL(count(UP0)->drop[DVMQ_DROP_MALFORMED], 1);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
	check_sum(8);
	queue->kind = DVMQ_QUEUE_DEFAULT;
	queue->poll = dvmq_poll_default;
	queue->dst = NULL;
	end();
}

static void test_runts(void)
{
	static const unsigned from[] = {UP0, PLAIN1};

	begin();
	for (unsigned i = 0; i < 2; i++) {
		put(from[i], &(struct frame){.dst = mac_all, .src = mac_a, .tag = -1, .length = 13});
		put(from[i], &(struct frame){.dst = mac_all, .src = mac_a, .tag = -1, .length = 1});
		/* long enough for a header, but not for the tag that it announces */
		put(from[i], &(struct frame){.dst = mac_all, .src = mac_a, .tag = 0, .length = 14});
		put(from[i], &(struct frame){.dst = mac_all, .src = mac_a, .tag = 0, .length = 17});
		CU_ASSERT_EQUAL(turn(from[i]), 4);
		CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
		CU_ASSERT_EQUAL(count(from[i])->drop[DVMQ_DROP_MALFORMED], 4);
	}
	check_sum(8);
	put(PLAIN1, &(struct frame){.dst = mac_all, .src = mac_a, .tag = -1, .length = 14});
	put(PLAIN1, &(struct frame){.dst = mac_all, .src = mac_a, .tag = 0, .length = 18});
	turn(PLAIN1);
	CU_ASSERT_STRING_EQUAL(delivered(), "2202000");
	CU_ASSERT_EQUAL(got_length, 14);
	check_sum(10);
	end();
}

/* Destinations mixed in one burst: each gets its own, in order, and the counters agree. */
static void test_mixed_burst(void)
{
	begin();
	dvmq_fdb_learn(dvmq_fdb_key(mac_a, 0), ports[PLAIN1], 1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[PLAIN2], 1000);
	dvmq_fdb_learn(dvmq_fdb_key(mac_c, 0), ports[UP0], 1000);
	for (unsigned i = 0; i < DVMQ_BURST; i++) {
		const uint8_t *dst = i % 4 == 0 ? mac_a : i % 4 == 1 ? mac_b : i % 4 == 2 ? mac_all : mac_c;

		put(UP0, &(struct frame){.dst = dst, .src = mac_c, .tag = -1, .length = 100 + i});
	}
	CU_ASSERT_EQUAL(turn(UP0), DVMQ_BURST);
	CU_ASSERT_EQUAL(got(PLAIN1), DVMQ_BURST / 2);
	CU_ASSERT_EQUAL(got_length, 100 + DVMQ_BURST - 2); /* the last one was the flooded one before mac_c's */
	CU_ASSERT_EQUAL(got(PLAIN2), DVMQ_BURST / 2);
	CU_ASSERT_EQUAL(got(UP1), DVMQ_BURST / 4);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
	CU_ASSERT_EQUAL(count(UP0)->drop[DVMQ_DROP_HAIRPIN], DVMQ_BURST / 4);
	CU_ASSERT_EQUAL(count(UP0)->flood_copies, DVMQ_BURST / 2);
	check_sum(DVMQ_BURST);
	end();
}

static void test_full_ring(void)
{
	unsigned fed = 0;

	begin();
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[PLAIN2], 1000);
	for (unsigned i = 0; i < 20; i++) { /* 1280 into a ring of 1024 */
		for (unsigned k = 0; k < DVMQ_BURST; k++, fed++)
			put(PLAIN1, &(struct frame){.dst = mac_b, .src = mac_a, .tag = -1});
		CU_ASSERT_EQUAL(turn(PLAIN1), DVMQ_BURST);
	}
	CU_ASSERT(count(PLAIN2)->drop[DVMQ_DROP_RING_FULL] > 0);
	CU_ASSERT_EQUAL(count(PLAIN2)->drop[DVMQ_DROP_RING_FULL] + count(PLAIN2)->tx_packets, fed);
	CU_ASSERT_EQUAL(count(PLAIN2)->tx_bytes, FRAME * count(PLAIN2)->tx_packets);
	CU_ASSERT_EQUAL(count(PLAIN2)->tx_packets, got(PLAIN2));
	CU_ASSERT_EQUAL(atomic_load(&queues[PLAIN1]->counters.drops), count(PLAIN2)->drop[DVMQ_DROP_RING_FULL]);
	check_sum(fed);
	end();
}

static void test_guest_that_is_down(void)
{
	begin();
	dvmq_fdb_learn(dvmq_fdb_key(mac_b, 0), ports[GUEST], 1000);
	inject(PLAIN1, mac_b, mac_a);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
	CU_ASSERT_EQUAL(count(GUEST)->drop[DVMQ_DROP_PORT_DOWN], 1);
	check_sum(1);
	for (unsigned pairs = 1; pairs <= 2;
	     pairs++) { /* it goes away in this moment: the flood still sees its rings */
		atomic_store(&ports[GUEST]->n_rxvq, pairs);
		inject(PLAIN1, mac_all, mac_a);
		CU_ASSERT_STRING_EQUAL(delivered(), "1101000");
		CU_ASSERT_EQUAL(count(GUEST)->drop[DVMQ_DROP_PORT_DOWN], 1 + pairs);
		check_sum(1 + pairs);
	}
	atomic_store(&ports[GUEST]->n_rxvq, 0);
	end();
}

/* A soft ring: what waits in it has not come in yet; turning it off delivers all, in order, and then it is shut. */
static void test_soft_ring(void)
{
	struct dvmq_port *dst = ports[PLAIN1];
	struct dvmq_queue *soft = rte_zmalloc("queue", sizeof(*soft), 64);
	struct dvmq_soft *rings = rte_zmalloc("soft", sizeof(*rings) + sizeof(rings->rings[0]), 64);

	begin();
	CU_ASSERT_PTR_NOT_NULL_FATAL(soft);
	CU_ASSERT_PTR_NOT_NULL_FATAL(rings);
	rings->n = 1;
	soft->soft = &rings->rings[0];
	soft->soft->ring = rte_ring_create("soft", 64, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ); /* 63 fit */
	CU_ASSERT_PTR_NOT_NULL_FATAL(soft->soft->ring);
	soft->kind = DVMQ_QUEUE_SOFT;
	soft->port = ports[UP0];
	soft->dst = dst;
	dvmq_fdb_learn(dvmq_fdb_key(mac_a, 0), dst, 1000);
	soft->soft->open = true;
	atomic_store(&dst->soft, rings);

	for (unsigned i = 0; i < 70; i++)
		put(UP0, &(struct frame){.dst = mac_a, .src = mac_b, .tag = -1, .length = 100 + i});
	CU_ASSERT_EQUAL(turn(UP0), 70);
	CU_ASSERT_STRING_EQUAL(delivered(), "0000000");
	CU_ASSERT_EQUAL(rte_ring_count(soft->soft->ring), 63);
	CU_ASSERT_EQUAL(count(PLAIN1)->drop[DVMQ_DROP_SOFT_FULL], 7);
	check_sum(7);
	inject(PLAIN2, mac_a, mac_c); /* from a guest: not by way of the soft ring */
	CU_ASSERT_STRING_EQUAL(delivered(), "0010000");
	CU_ASSERT_EQUAL(dvmq_poll_soft(worker, soft), 63);
	CU_ASSERT_EQUAL(got(PLAIN1), 63);
	CU_ASSERT_EQUAL(got_length, 162);
	check_sum(71);

	inject(UP0, mac_a, mac_b);
	dvmq_soft_drain(worker, soft);
	CU_ASSERT_EQUAL(got(PLAIN1), 1);
	CU_ASSERT_FALSE(soft->soft->open);
	inject(UP0, mac_a, mac_b);
	CU_ASSERT_EQUAL(got(PLAIN1), 1); /* inline */
	CU_ASSERT_EQUAL(rte_ring_count(soft->soft->ring), 0);
	atomic_store(&dst->soft, NULL);
	check_sum(73);
	rte_ring_free(soft->soft->ring);
	rte_free(rings);
	rte_free(soft);
	end();
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"keys", test_key},
	    {"learning", test_learn},
	    {"a station moves", test_move},
	    {"configured addresses", test_static},
	    {"ageing", test_age},
	    {"a full table", test_full},
	    {"forgetting a port", test_forget_port},
	    {"flood lists", test_flood_lists},
	    {"unknown: to all of its VLAN but the source", test_flood},
	    {"known: to one", test_known},
	    {"sources are learned", test_learns_sources},
	    {"new sources come first", test_new_sources_first},
	    {"a vmq queue learns all of its sources", test_vmq_learns_all},
	    {"reports are told", test_reports_are_told},
	    {"reports are limited", test_reports_are_limited},
	    {"caches follow the table", test_caches_follow},
	    {"a header of zeros", test_zero_header},
	    {"hairpin", test_hairpin},
	    {"VLANs", test_vlan},
	    {"vmq queue", test_vmq},
	    {"runts", test_runts},
	    {"a burst to many", test_mixed_burst},
	    {"a full ring", test_full_ring},
	    {"a guest that is down", test_guest_that_is_down},
	    {"soft ring", test_soft_ring},
	    CU_TEST_INFO_NULL,
	};
	struct dvmq_err err = {"no memory"};
	int ret = EXIT_FAILURE;

	if (!eal_start(0))
		return EXIT_FAILURE;
	if (open_world(&err) < 0)
		fprintf(stderr, "%s\n", err.text);
	else
		ret = unit_run("FDB and forwarding", tests);
	close_world();
	eal_stop();
	return ret;
}
