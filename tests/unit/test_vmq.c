/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A port that gets and loses queues of its own while its traffic runs: nothing is
 * lost, doubled or overtaken.  Real workers, rings for wires; the NIC is a thread
 * here, which puts each frame where the steering backend told it last.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_ring.h>

#include <dvmq/command.h>
#include <dvmq/steer.h>

#include "workers.h"

#define WORKERS     3
#define QUEUES      4
#define FLOWS       16
#define OUTSTANDING 300 /* frames on their way; more than a burst, less than a ring */
#define CHANGES     1500
#define FRAMES      40 /* delivered between two changes, at least */

static const struct rte_ether_addr mac = {{0x02, 0, 0, 0, 0, 1}};

static struct wire {
	struct rte_ring *rx[QUEUES]; /* NIC to uplink */
	struct rte_ring *sink;       /* what the uplink sends */
	struct rte_ring *nothing;    /* what the port receives */
	struct rte_ring *out;        /* what the port is sent */
} wire;

/* ---- the NIC ---- */

static struct nic {
	pthread_mutex_t lock;
	uint16_t queues[DVMQ_MAX_PAIRS];
	unsigned n; /* 0: no rule, all to queue 0 */
} nic = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int attach(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
		  struct dvmq_err *ret_err)
{
	(void)uplink;
	(void)port;
	(void)ret_err;
	pthread_mutex_lock(&nic.lock);
	memcpy(nic.queues, queues, n * sizeof(queues[0]));
	nic.n = n;
	pthread_mutex_unlock(&nic.lock);
	return 0;
}

static int detach(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_err *ret_err)
{
	(void)uplink;
	(void)port;
	(void)ret_err;
	pthread_mutex_lock(&nic.lock);
	nic.n = 0;
	pthread_mutex_unlock(&nic.lock);
	return 0;
}

static const struct dvmq_steer_ops backend = {.steering = DVMQ_STEER_FLOW, .attach = attach, .detach = detach};

struct payload {
	uint32_t flow, number;
};

static _Atomic bool feeding, checking; /* in this order: what is fed last has to be checked, too */
static _Atomic uint64_t fed, arrived, wrong;
static _Atomic uint64_t dropped; /* since its device was stopped; 0 where none is */

static struct rte_mbuf *make_frame(const struct rte_ether_addr *dst, const struct payload *payload)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
	struct rte_ether_hdr *eth;

	if (m == NULL)
		return NULL;
	eth = (void *)rte_pktmbuf_append(m, 64);
	if (eth == NULL)
		abort();
	memset(eth, 0, 64);
	eth->dst_addr = *dst;
	eth->src_addr = (struct rte_ether_addr){{0x02, 0, 0, 0, 0, 0xee}};
	eth->ether_type = RTE_BE16(0x88b5); /* local experimental */
	memcpy(eth + 1, payload, sizeof(*payload));
	return m;
}

static void *feed(void *arg)
{
	uint32_t next[FLOWS] = {0};
	unsigned flow = 0;

	(void)arg;
	while (atomic_load(&feeding)) {
		struct payload payload = {.flow = flow, .number = next[flow]};
		struct rte_mbuf *m = fed - arrived - dropped < OUTSTANDING ? make_frame(&mac, &payload) : NULL;

		if (m == NULL) {
			sched_yield();
			continue;
		}
		fed++;
		pthread_mutex_lock(&nic.lock);
		rte_ring_enqueue(wire.rx[nic.n ? nic.queues[flow % nic.n] : 0], m);
		pthread_mutex_unlock(&nic.lock);
		next[flow]++;
		flow = (flow * 5 + 3) % FLOWS;
	}
	return NULL;
}

static void *check(void *arg)
{
	uint32_t next[FLOWS] = {0};
	void *m;

	(void)arg;
	while (atomic_load(&checking) || arrived + dropped < fed) {
		struct payload payload;

		if (rte_ring_dequeue(wire.out, &m) < 0) {
			sched_yield();
			continue;
		}
		memcpy(&payload, rte_pktmbuf_mtod_offset((struct rte_mbuf *)m, void *, sizeof(struct rte_ether_hdr)),
		       sizeof(payload));
		if (payload.number != next[payload.flow])
			wrong++;
		next[payload.flow] = payload.number + 1;
		rte_pktmbuf_free(m);
		arrived++;
	}
	return NULL;
}

/* ---- the test ---- */

static struct rte_ring *ring(const char *name)
{
	struct rte_ring *r = rte_ring_create(name, 1024, SOCKET_ID_ANY, 0);

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	return r;
}

static void make_wire(void)
{
	static const char *const names[QUEUES] = {"rx0", "rx1", "rx2", "rx3"};

	for (unsigned i = 0; i < QUEUES; i++)
		wire.rx[i] = ring(names[i]);
	wire.sink = ring("sink");
	wire.nothing = ring("nothing");
	wire.out = ring("out");
	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up0", wire.rx, QUEUES, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("web1", &wire.nothing, 1, &wire.out, 1, SOCKET_ID_ANY) >= 0);
}

static struct dvmq_port *add(enum dvmq_port_type type, const char *name, const char *device, unsigned queues)
{
	struct dvmq_port_conf port;

	CU_ASSERT_EQUAL(dvmq_conf_port_init(&port, type, name, &err), 0);
	CU_ASSERT_EQUAL(dvmq_conf_port_set(&port, "device", device, &err), 0);
	if (type == DVMQ_PORT_UPLINK) {
		port.queues = queues;
		port.steering = DVMQ_STEER_STATIC;
	} else {
		port.has_mac = true;
		port.mac = mac;
	}
	CU_ASSERT_EQUAL_FATAL(dvmq_port_add(&port, &err), 0);
	return dvmq_port_find(name);
}

static void change(struct dvmq_port *uplink, struct dvmq_port *port)
{
	uint64_t enough = arrived + FRAMES;
	unsigned n = (unsigned)rand() % QUEUES, vmqs = 0;

	CU_ASSERT_EQUAL(dvmq_vmq_set(uplink, port, n), 0);
	CU_ASSERT_EQUAL(uplink->steer->bindings[port->index].n, n);
	for (unsigned i = 0; i < QUEUES; i++) {
		CU_ASSERT_EQUAL(dvmq_queue_settle(uplink->queues[i]), 0);
		CU_ASSERT_PTR_NOT_NULL(atomic_load(&uplink->queues[i]->owner));
		vmqs += uplink->queues[i]->kind == DVMQ_QUEUE_VMQ;
	}
	CU_ASSERT_EQUAL(vmqs, n);
	while (arrived < enough)
		sched_yield();
}

static void test_changes(void)
{
	struct dvmq_port *uplink, *port;
	pthread_t feeder, checker;

	make_wire();
	uplink = add(DVMQ_PORT_UPLINK, "up0", "net_ring_up0", QUEUES);
	uplink->steer->ops = &backend;
	port = add(DVMQ_PORT_ETHDEV, "web1", "net_ring_web1", 1);
	CU_ASSERT_EQUAL(uplink->steer->bindings[port->index].n, 1); /* there was one to be had */

	srand(1);
	feeding = checking = true;
	pthread_create(&feeder, NULL, feed, NULL);
	pthread_create(&checker, NULL, check, NULL);
	for (unsigned i = 0; i < CHANGES; i++)
		change(uplink, port);
	atomic_store(&feeding, false);
	pthread_join(feeder, NULL);
	atomic_store(&checking, false);
	pthread_join(checker, NULL); /* ends when everything has arrived */
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_EQUAL(rte_ring_count(wire.out), 0);
	CU_ASSERT_EQUAL(dvmq_stats_collect()->port[port->index].tx_packets, arrived);
	check_sum();

	CU_ASSERT_EQUAL(dvmq_port_del("web1", &err), 0);
	CU_ASSERT_EQUAL(nic.n, 0);
	dvmq_ports_close();
	CU_ASSERT_EQUAL(rte_mempool_in_use_count(pool), 0);
	CU_ASSERT_EQUAL(dvmq_n_queues, 0);
}

/* ---- by demand ---- */

#define TICK_MS 50

/* The NIC of this test: one rule at most, a port's frames go to queue 1. */
static struct dvmq_port *ruled;

static int rule_attach(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
		       struct dvmq_err *ret_err)
{
	(void)uplink;
	(void)ret_err;
	CU_ASSERT_PTR_NULL(ruled);
	CU_ASSERT_TRUE(n == 1 && queues[0] == 1);
	ruled = port;
	return 0;
}

static int rule_detach(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_err *ret_err)
{
	(void)uplink;
	(void)ret_err;
	CU_ASSERT_PTR_EQUAL(ruled, port);
	ruled = NULL;
	return 0;
}

static int rule_refused(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
			struct dvmq_err *ret_err)
{
	(void)uplink;
	(void)port;
	(void)queues;
	(void)n;
	return dvmq_fail(ret_err, EINVAL, "the driver refuses the rule: because");
}

static const struct dvmq_steer_ops one_rule = {
	.steering = DVMQ_STEER_FLOW, .attach = rule_attach, .detach = rule_detach};
static const struct dvmq_steer_ops no_rule = {
	.steering = DVMQ_STEER_FLOW, .attach = rule_refused, .detach = rule_detach};

static void send_to(struct dvmq_port *port, unsigned n)
{
	uint64_t enough = dvmq_stats_collect()->port[port->index].tx_packets + n;

	for (unsigned i = 0; i < n; i++) {
		struct rte_mbuf *m = make_frame(&port->conf.mac, &(struct payload){0});

		CU_ASSERT_PTR_NOT_NULL_FATAL(m);
		CU_ASSERT_EQUAL_FATAL(rte_ring_enqueue(wire.rx[ruled == port], m), 0);
	}
	while (dvmq_stats_collect()->port[port->index].tx_packets < enough)
		sched_yield();
}

/* `many` of one port's frames and a few of the other's, each tick. */
static void run(struct dvmq_port *many, struct dvmq_port *few, uint64_t *now_ms, unsigned ms)
{
	for (unsigned i = 0; i < ms / TICK_MS; i++) {
		send_to(many, 100);
		send_to(few, 5);
		*now_ms += TICK_MS;
		dvmq_vmq_tick(*now_ms);
		for (unsigned k = 0; k < 4; k++)
			dvmq_vmq_step(*now_ms);
	}
}

static struct dvmq_port *add_sink(const char *name, unsigned number)
{
	struct dvmq_port_conf port;
	char device[64];

	snprintf(device, sizeof(device), "net_null_%s,no-rx=1", name);
	CU_ASSERT_EQUAL(dvmq_conf_port_init(&port, DVMQ_PORT_ETHDEV, name, &err), 0);
	CU_ASSERT_EQUAL(dvmq_conf_port_set(&port, "device", device, &err), 0);
	port.has_mac = true;
	port.mac = (struct rte_ether_addr){{0x02, 0, 0, 0, 0, number}};
	CU_ASSERT_EQUAL_FATAL(dvmq_port_add(&port, &err), 0);
	return dvmq_port_find(name);
}

static void test_demand(void)
{
	struct dvmq_port *uplink, *web1, *web2;
	uint64_t now_ms = 1000000, promoted = dvmq_decision_count("promote");

	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up1", wire.rx, 2, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	uplink = add(DVMQ_PORT_UPLINK, "up1", "net_ring_up1", 2);
	uplink->steer->ops = &one_rule;
	web1 = add_sink("web1", 1);
	web2 = add_sink("web2", 2);
	CU_ASSERT_PTR_EQUAL(ruled, web1); /* nobody else wanted it */
	CU_ASSERT_PTR_NOT_NULL(strstr(uplink->steer->bindings[web2->index].reason, "are taken"));
	run(web1, web2, &now_ms, 1000);
	CU_ASSERT_PTR_EQUAL(ruled, web1);
	dvmq_stats_clear(); /* counters that jump back are no traffic */
	run(web1, web2, &now_ms, 1000);
	CU_ASSERT_PTR_EQUAL(ruled, web1);
	CU_ASSERT_EQUAL(dvmq_decision_count("promote"), promoted);
	run(web2, web1, &now_ms, 500); /* who came first does not matter */
	CU_ASSERT_PTR_EQUAL(ruled, web2);
	CU_ASSERT_EQUAL(uplink->steer->bindings[web1->index].n, 0);
	CU_ASSERT_EQUAL(uplink->queues[1]->dst, web2);
	CU_ASSERT_EQUAL(dvmq_decision_count("promote"), promoted + 1);
	CU_ASSERT_TRUE(strlen(uplink->steer->bindings[web1->index].why) > 0);
	CU_ASSERT_EQUAL(dvmq_port_reset("up1", &err), 0);
	CU_ASSERT_PTR_EQUAL(ruled, web2); /* nor who is looked at first */
	run(web1, web2, &now_ms, 400); /* not again within a second */
	CU_ASSERT_PTR_EQUAL(ruled, web2);
	run(web1, web2, &now_ms, 1000);
	CU_ASSERT_PTR_EQUAL(ruled, web1);

	/* A refusal is told with the driver's words, the default queue serves, and it is not tried all the time. */
	uplink->steer->ops = &no_rule;
	run(web2, web1, &now_ms, 1200);
	CU_ASSERT_PTR_NULL(ruled);
	CU_ASSERT_PTR_NOT_NULL(strstr(uplink->steer->bindings[web2->index].reason, "because"));
	CU_ASSERT_TRUE(uplink->steer->bindings[web2->index].refusals > 0);
	run(web2, web1, &now_ms, 60000);
	CU_ASSERT_TRUE(uplink->steer->bindings[web2->index].refusals < 8);
	uplink->steer->ops = &one_rule;
	run(web2, web1, &now_ms, 60000);
	CU_ASSERT_PTR_EQUAL(ruled, web2);
	check_sum();
	dvmq_ports_close();
	CU_ASSERT_PTR_NULL(ruled);
}

/* ---- what was refused, or planned, before something changed ---- */

/* Until the next try is far away. */
static void be_refused(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_port *other, uint64_t *now_ms)
{
	struct dvmq_binding *b = &uplink->steer->bindings[port->index];

	do
		run(port, other, now_ms, TICK_MS);
	while (b->refusals < 6);
	CU_ASSERT_TRUE(b->retry_ms > *now_ms + 20000);
}

static void test_given_after_refusals(void)
{
	struct dvmq_port *uplink, *web1, *web2;
	uint64_t now_ms = 4000000;

	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up3", wire.rx, 2, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	uplink = add(DVMQ_PORT_UPLINK, "up3", "net_ring_up3", 2);
	uplink->steer->ops = &no_rule;
	web1 = add_sink("web1", 1);
	web2 = add_sink("web2", 2);
	be_refused(uplink, web1, web2, &now_ms);
	uplink->steer->ops = &one_rule;
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 1, &err), 0);
	CU_ASSERT_PTR_EQUAL(ruled, web1);
	run(web1, web2, &now_ms, 1000);
	CU_ASSERT_PTR_EQUAL(ruled, web1); /* the operator's word holds */
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", -1, &err), 0);
	run(web1, web2, &now_ms, 1000);
	CU_ASSERT_PTR_EQUAL(ruled, web1); /* nor is there a reason to take it, once it is automatic again */
	dvmq_ports_close();
}

/* Two ports with one MAC in different VLANs: neither has a rule.  When one goes the other does not wait for its try. */
static void test_clash_that_ends(void)
{
	struct dvmq_port *uplink, *web1, *web2;
	struct dvmq_port_conf twin;
	uint64_t now_ms = 5000000;

	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up4", wire.rx, 2, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	uplink = add(DVMQ_PORT_UPLINK, "up4", "net_ring_up4", 2);
	uplink->steer->ops = &one_rule;
	web1 = add_sink("web1", 1);
	twin = web1->conf;
	snprintf(twin.name, sizeof(twin.name), "twin");
	snprintf(twin.device, sizeof(twin.device), "net_null_twin,no-rx=1");
	twin.vlan = 300;
	CU_ASSERT_EQUAL_FATAL(dvmq_port_add(&twin, &err), 0);
	web2 = add_sink("web2", 2);
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web2", 0, &err), 0);
	CU_ASSERT_PTR_NULL(ruled);
	be_refused(uplink, web1, web2, &now_ms);
	CU_ASSERT_EQUAL(dvmq_port_del("twin", &err), 0);
	run(web1, web2, &now_ms, 1500); /* one change a second */
	CU_ASSERT_PTR_EQUAL(ruled, web1);
	dvmq_ports_close();
}

static void test_stale_plan(void)
{
	struct dvmq_port *uplink, *web1, *web2;
	uint64_t now_ms = 6000000;

	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up5", wire.rx, 2, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	uplink = add(DVMQ_PORT_UPLINK, "up5", "net_ring_up5", 2);
	uplink->steer->ops = &one_rule;
	web1 = add_sink("web1", 1);
	web2 = add_sink("web2", 2);
	CU_ASSERT_PTR_EQUAL(ruled, web1);
	while (uplink->steer->n_grow == 0) { /* web2 shall have the queue of web1 */
		send_to(web2, 100);
		dvmq_vmq_tick(now_ms += TICK_MS);
	}
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web2", 0, &err), 0);
	while (dvmq_vmq_step(now_ms))
		;
	CU_ASSERT_PTR_EQUAL(ruled, web1);
	dvmq_ports_close();
}

/* ---- what the NIC does, and what it should ---- */

/* It says yes, and goes on as before. */
static int yes_and_nothing(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
			   struct dvmq_err *ret_err)
{
	(void)uplink;
	(void)port;
	(void)queues;
	(void)n;
	(void)ret_err;
	return 0;
}

static int nothing_to_remove(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_err *ret_err)
{
	(void)uplink;
	(void)port;
	(void)ret_err;
	return 0;
}

static const struct dvmq_steer_ops hollow = {
	.steering = DVMQ_STEER_FLOW, .attach = yes_and_nothing, .detach = nothing_to_remove};

static void flood_all(struct dvmq_port *port, unsigned n)
{
	static const struct rte_ether_addr all = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
	uint64_t enough = dvmq_stats_collect()->port[port->index].tx_packets + n;

	for (unsigned i = 0; i < n; i++)
		CU_ASSERT_EQUAL_FATAL(rte_ring_enqueue(wire.rx[0], make_frame(&all, &(struct payload){0})), 0);
	while (dvmq_stats_collect()->port[port->index].tx_packets < enough)
		sched_yield();
}

static json_t *vmq_of(const char *name)
{
	json_t *list = dvmq_show_vmq(name, &err), *one = json_incref(json_array_get(list, 0));

	json_decref(list);
	return one;
}

static void test_audit(void)
{
	uint64_t now_ms = 3000000, repaired = dvmq_decision_count("repair");
	struct dvmq_port *uplink, *web1;
	struct dvmq_binding *b;
	json_t *shown;

	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up2", wire.rx, 2, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	uplink = add(DVMQ_PORT_UPLINK, "up2", "net_ring_up2", 2);
	uplink->steer->ops = &one_rule;
	web1 = add_sink("web1", 1);
	b = &uplink->steer->bindings[web1->index];
	CU_ASSERT_PTR_EQUAL_FATAL(ruled, web1);

	/* A rule that works is left alone, whatever is flooded beside it. */
	send_to(web1, 100);
	flood_all(web1, 200);
	dvmq_vmq_audit(now_ms += DVMQ_AUDIT_MS);
	flood_all(web1, 100);
	dvmq_vmq_audit(now_ms += DVMQ_AUDIT_MS);
	CU_ASSERT_EQUAL(dvmq_decision_count("repair"), repaired);

	/* One that vanished is made anew, at once. */
	CU_ASSERT_EQUAL(uplink->astray[web1->index].frames, 0);
	ruled = NULL;
	send_to(web1, 100);
	CU_ASSERT_EQUAL(uplink->astray[web1->index].frames, 100);
	ruled = web1; /* for detach(), which finds nothing */
	dvmq_vmq_audit(now_ms += DVMQ_AUDIT_MS);
	CU_ASSERT_EQUAL(dvmq_decision_count("repair"), repaired + 1);
	CU_ASSERT_EQUAL(b->n, 1);
	CU_ASSERT_PTR_EQUAL(ruled, web1);
	send_to(web1, 100);
	dvmq_vmq_audit(now_ms += DVMQ_AUDIT_MS);
	CU_ASSERT_EQUAL(dvmq_decision_count("repair"), repaired + 1);
	CU_ASSERT_TRUE(b->repairs == 1 && b->fruitless == 0);

	/* One that the NIC does not follow is tried ever more rarely, and that is told. */
	rule_detach(uplink, web1, &err);
	uplink->steer->ops = &hollow;
	for (unsigned i = 0; i < 200; i++) { /* 1000 s: at 0, 5, 15, 35, 75, 155, 315, 635, 955 s */
		send_to(web1, 10);
		dvmq_vmq_audit(now_ms += DVMQ_AUDIT_MS);
	}
	CU_ASSERT_EQUAL(b->repairs, 1 + 9);
	CU_ASSERT_EQUAL(dvmq_decision_count("repair"), repaired + 10);
	CU_ASSERT_EQUAL(b->n, 1);
	shown = vmq_of("web1");
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(shown, "repairs")), 10);
	CU_ASSERT_PTR_NOT_NULL(strstr(json_string_value(json_object_get(shown, "reason")), "does not follow it"));
	json_decref(shown);

	/* And when it does again, that is seen, too. */
	uplink->steer->ops = &one_rule;
	ruled = web1;
	send_to(web1, 100);
	dvmq_vmq_audit(now_ms += DVMQ_AUDIT_MS);
	CU_ASSERT_EQUAL(b->fruitless, 0);
	shown = vmq_of("web1");
	CU_ASSERT_PTR_NULL(strstr(json_string_value(json_object_get(shown, "reason")), "does not follow it"));
	json_decref(shown);
	check_sum();
	dvmq_ports_close();
	CU_ASSERT_PTR_NULL(ruled);
}

/* ---- a rule that is accepted by half, and the list of rules ---- */

static int one_queue_only(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
			  struct dvmq_err *ret_err)
{
	(void)queues;
	if (n > 1)
		return dvmq_fail(ret_err, ENOTSUP, "the driver refuses the rule: no RSS here");
	uplink->steer->bindings[port->index].rule =
	    (struct dvmq_rule){(void *)port, uplink->steer->next_rule++}; /* as flow.c */
	return 0;
}

static int remove_one(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_err *ret_err)
{
	(void)ret_err;
	uplink->steer->bindings[port->index].rule.flow = NULL;
	return 0;
}

static const struct dvmq_steer_ops no_rss = {
	.steering = DVMQ_STEER_FLOW, .attach = one_queue_only, .detach = remove_one};

static void test_half(void)
{
	struct dvmq_port *uplink, *web1, *web2;
	struct dvmq_binding *b;
	json_t *rules, *rule;

	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up5", wire.rx, QUEUES, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	uplink = add(DVMQ_PORT_UPLINK, "up5", "net_ring_up5", QUEUES);
	uplink->steer->ops = &no_rss;
	web1 = add_sink("web1", 1);
	web2 = add_sink("web2", 2);
	b = &uplink->steer->bindings[web1->index];
	CU_ASSERT_TRUE(dvmq_vmq_set(uplink, web1, 2) < 0);
	CU_ASSERT_EQUAL(b->n, 1);
	CU_ASSERT_TRUE(b->accepted);
	CU_ASSERT_PTR_NOT_NULL(strstr(b->reason, "one queue only: the driver refuses the rule: no RSS here"));
	for (unsigned i = 0; i < QUEUES; i++) {
		CU_ASSERT_EQUAL(dvmq_queue_settle(uplink->queues[i]), 0);
		CU_ASSERT_PTR_NOT_NULL(atomic_load(&uplink->queues[i]->owner)); /* the other is no less polled */
	}

	/* As testpmd lists them: by id, which a rule has that was made anew, too. */
	rules = dvmq_flow_list("up5", &err);
	CU_ASSERT_EQUAL_FATAL(json_array_size(rules), 2);
	rule = json_array_get(rules, 0);
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(rule, "id")), 1);
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(rule, "port")), web2->conf.name);
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(rule, "attr")), "i--");
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(rule, "rule")), "ETH => QUEUE");
	rule = json_array_get(rules, 1);
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(rule, "id")), 2);
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(rule, "port")), "web1");
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(rule, "dst")), "02:00:00:00:00:01");
	json_decref(rules);
	dvmq_ports_close();
}

/* ---- devices that are reset, links that go down ---- */

static char *logged;
static size_t logged_size;

static void expect_logged(FILE *log, const char *text)
{
	fflush(log);
	CU_ASSERT_PTR_NOT_NULL(strstr(logged, text));
}

/* Both directions at once while the device is stopped and started: no worker is ever in a stopped device. */
static void test_reset(void)
{
	FILE *log = open_memstream(&logged, &logged_size);
	struct rte_ether_addr stranger = {{0x02, 0, 0, 0, 0, 0xee}};
	struct dvmq_port *uplink, *port;
	uint16_t n_eth;
	pthread_t feeder, checker;
	void *m;

	rte_openlog_stream(log);
	rte_log_set_level(dvmq_logtype, RTE_LOG_INFO);
	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up3", wire.rx, QUEUES, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("web3", &wire.nothing, 1, &wire.out, 1, SOCKET_ID_ANY) >= 0);
	uplink = add(DVMQ_PORT_UPLINK, "up3", "net_ring_up3", QUEUES);
	uplink->steer->ops = &backend;
	port = add(DVMQ_PORT_ETHDEV, "web3", "net_ring_web3", 1);
	CU_ASSERT_EQUAL(dvmq_vmq_set(uplink, port, 2), 0);

	fed = arrived = dropped = 0;
	feeding = checking = true;
	pthread_create(&feeder, NULL, feed, NULL);
	pthread_create(&checker, NULL, check, NULL);
	for (unsigned i = 0; i < 100; i++) {
		uint64_t enough = arrived + FRAMES;

		while (arrived < enough) {
			struct rte_mbuf *answer = make_frame(&stranger, &(struct payload){0});

			if (answer != NULL && rte_ring_enqueue(wire.nothing, answer) < 0)
				rte_pktmbuf_free(answer);
			while (rte_ring_dequeue(wire.sink, &m) == 0)
				rte_pktmbuf_free(m);
		}
		if (i % 2) {
			CU_ASSERT_EQUAL(dvmq_port_reset(i % 4 == 1 ? "up3" : "web3", &err), 0);
		} else {
			atomic_store(&uplink->reset_wanted, true);
			dvmq_devices_tick(dvmq_now_ms());
			CU_ASSERT_FALSE(atomic_load(&uplink->reset_wanted));
		}
		CU_ASSERT_EQUAL(uplink->steer->bindings[port->index].n, 2);
		CU_ASSERT_EQUAL(nic.n, 2);
		dropped = dvmq_stats_collect()->port[port->index].drop[DVMQ_DROP_PORT_DOWN];
	}

	/* One that does not come back is told once and tried again; the port goes down, and nobody waits for it. */
	n_eth = uplink->rx.n_eth;
	uplink->rx.n_eth = QUEUES + 1;
	CU_ASSERT_TRUE(dvmq_port_reset("up3", &err) < 0);
	CU_ASSERT_FALSE(uplink->up);
	CU_ASSERT_EQUAL(nic.n, 0);
	CU_ASSERT_TRUE(dvmq_vmq_set(uplink, port, 1) < 0);
	for (unsigned i = 0; i < 5; i++)
		dvmq_devices_tick(dvmq_now_ms() + (i + 1) * 10000);
	CU_ASSERT_EQUAL(uplink->link, DVMQ_LINK_LOST);
	for (unsigned i = 0; i < QUEUES; i++)
		CU_ASSERT_PTR_NULL(atomic_load(&uplink->queues[i]->owner));
	uplink->rx.n_eth = n_eth;
	dvmq_devices_tick(dvmq_now_ms() + 100000);
	CU_ASSERT_TRUE(uplink->up);
	CU_ASSERT_EQUAL(nic.n, 2);

	atomic_store(&feeding, false);
	pthread_join(feeder, NULL);
	atomic_store(&checking, false);
	pthread_join(checker, NULL);
	CU_ASSERT_EQUAL(dvmq_stats_collect()->port[port->index].tx_packets, arrived);
	check_sum();
	expect_logged(log, "port up3: its device was reset");
	CU_ASSERT_PTR_NULL(strstr(logged, "not ready port")); /* DPDK's own words for it */
	CU_ASSERT_PTR_NULL(strstr(logged, "tried again")); /* the operator was told */
	dvmq_ports_close();
	while (rte_ring_dequeue(wire.sink, &m) == 0)
		rte_pktmbuf_free(m);
	CU_ASSERT_EQUAL(rte_mempool_in_use_count(pool), rte_ring_count(wire.nothing));
	rte_openlog_stream(NULL);
	fclose(log);
	free(logged);
}

static const char *shown_link(const char *name)
{
	static char link[16];
	json_t *list = dvmq_show_ports(name, &err);

	snprintf(link, sizeof(link), "%s", json_string_value(json_object_get(json_array_get(list, 0), "link")));
	json_decref(list);
	return link;
}

static void test_link(void)
{
	FILE *log = open_memstream(&logged, &logged_size);
	uint64_t now_ms = dvmq_now_ms() + 1000000, sent;
	const struct dvmq_port_counters *c;
	struct dvmq_port *web1;
	void *m;

	rte_openlog_stream(log);
	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("up4", wire.rx, 1, &wire.sink, 1, SOCKET_ID_ANY) >= 0);
	add(DVMQ_PORT_UPLINK, "up4", "net_ring_up4", 1);
	CU_ASSERT_TRUE_FATAL(rte_eth_from_rings("web4", &wire.nothing, 1, &wire.out, 1, SOCKET_ID_ANY) >= 0);
	web1 = add(DVMQ_PORT_ETHDEV, "web1", "net_ring_web4", 1);
	dvmq_devices_tick(now_ms);
	CU_ASSERT_STRING_EQUAL(shown_link("web1"), "up");
	CU_ASSERT_EQUAL(web1->speed, 10000); /* that is what net_ring says */
	send_to(web1, 10);
	sent = dvmq_stats_collect()->port[web1->index].tx_packets;

	CU_ASSERT_EQUAL(rte_eth_dev_set_link_down(web1->eth_id), 0);
	for (unsigned i = 0; i < 5; i++)
		dvmq_devices_tick(now_ms += 1000);
	CU_ASSERT_STRING_EQUAL(shown_link("web1"), "down");
	for (unsigned i = 0; i < 10; i++)
		rte_ring_enqueue(wire.rx[0], make_frame(&web1->conf.mac, &(struct payload){0}));
	do
		c = &dvmq_stats_collect()->port[web1->index];
	while (c->drop[DVMQ_DROP_PORT_DOWN] + c->drop[DVMQ_DROP_RING_FULL] + c->tx_packets < sent + 10);
	CU_ASSERT_EQUAL(c->drop[DVMQ_DROP_PORT_DOWN], 10);

	CU_ASSERT_EQUAL(rte_eth_dev_set_link_up(web1->eth_id), 0);
	dvmq_devices_tick(now_ms += 1000);
	CU_ASSERT_STRING_EQUAL(shown_link("web1"), "up");
	send_to(web1, 10);
	check_sum();
	fflush(log);
	CU_ASSERT_PTR_NOT_NULL(strstr(logged, "port web1: link up"));
	CU_ASSERT_PTR_NOT_NULL_FATAL(strstr(logged, "port web1: link down"));
	CU_ASSERT_PTR_NULL(strstr(strstr(logged, "link down") + 1, "link down")); /* once */
	dvmq_ports_close();
	while (rte_ring_dequeue(wire.out, &m) == 0)
		rte_pktmbuf_free(m);
	rte_openlog_stream(NULL);
	fclose(log);
	free(logged);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"queues come and go under traffic", test_changes},
	    {"queues go where the demand is", test_demand},
	    {"given by hand after refusals", test_given_after_refusals},
	    {"a clash that ends", test_clash_that_ends},
	    {"a plan made before the operator spoke", test_stale_plan},
	    {"rules that vanish or are not followed", test_audit},
	    {"a rule that is accepted by half", test_half},
	    {"devices that are reset", test_reset},
	    {"a link that goes down", test_link},
	    CU_TEST_INFO_NULL,
	};
	int ret = EXIT_FAILURE;

	if (workers_start(WORKERS))
		ret = unit_run("vmq", tests);
	else
		fprintf(stderr, "%s\n", err.text);
	workers_stop();
	return ret;
}
