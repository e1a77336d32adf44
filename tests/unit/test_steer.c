/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering: the rule as the NIC gets it, byte for byte, and the backends on an
 * uplink that is a net_ring device, whose TX queue i is its RX queue i, with real
 * workers.  The ports behind are net_null devices, which swallow what they get.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include <rte_ethdev.h>

#include <dvmq/control.h>
#include <dvmq/fdb.h>
#include <dvmq/steer.h>

#include "workers.h"

#define WORKERS	   3  /* the uplink gets one TX queue more, by which the test feeds its RX queues */
#define PATIENCE_S 20 /* only a failure takes that long */

/* ---- the rule ---- */

/* `size` bytes begin with `begin` and the rest is 0. */
static bool bytes_are(const void *bytes, size_t size, const uint8_t *begin, size_t n)
{
	const uint8_t *b = bytes;

	for (size_t i = 0; i < size; i++)
		if (b[i] != (i < n ? begin[i] : 0))
			return false;
	return true;
}

static void check_ethernet(const struct dvmq_flow_spec *spec)
{
	static const uint8_t value[] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56}, mask[] = {255, 255, 255, 255, 255, 255};

	CU_ASSERT_TRUE(bytes_are(&spec->attr, sizeof(spec->attr), (const void *)&(struct rte_flow_attr){.ingress = 1},
				 sizeof(spec->attr)));
	CU_ASSERT_EQUAL(spec->items[0].type, RTE_FLOW_ITEM_TYPE_ETH);
	CU_ASSERT_PTR_NULL(spec->items[0].last);
	CU_ASSERT_TRUE(bytes_are(spec->items[0].spec, sizeof(struct rte_flow_item_eth), value, 6));
	CU_ASSERT_TRUE(bytes_are(spec->items[0].mask, sizeof(struct rte_flow_item_eth), mask, 6));
}

static void check_action(const struct dvmq_flow_spec *spec, uint16_t queue)
{
	CU_ASSERT_EQUAL(spec->actions[0].type, RTE_FLOW_ACTION_TYPE_QUEUE);
	CU_ASSERT_EQUAL(((const struct rte_flow_action_queue *)spec->actions[0].conf)->index, queue);
	CU_ASSERT_EQUAL(spec->actions[1].type, RTE_FLOW_ACTION_TYPE_END);
}

static const struct dvmq_port_conf example = {.mac = {{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}}};

static void test_rule_mac(void)
{
	struct dvmq_flow_spec spec;

	memset(&spec, 0xa5, sizeof(spec));
	dvmq_flow_spec(&example, 0, &(uint16_t){3}, 1, 0, &spec);
	check_ethernet(&spec);
	CU_ASSERT_EQUAL(spec.items[1].type, RTE_FLOW_ITEM_TYPE_END);
	check_action(&spec, 3);
}

static void test_rule_mac_vlan(void)
{
	struct dvmq_port_conf conf = example;
	struct dvmq_flow_spec spec;

	conf.vlan = 0x0abc;
	memset(&spec, 0xa5, sizeof(spec));
	dvmq_flow_spec(&conf, 0, &(uint16_t){300}, 1, 0, &spec);
	check_ethernet(&spec);
	CU_ASSERT_EQUAL(spec.items[1].type, RTE_FLOW_ITEM_TYPE_VLAN);
	CU_ASSERT_PTR_NULL(spec.items[1].last);
	/* big endian on the wire; the priority does not matter */
	CU_ASSERT_TRUE(
	    bytes_are(spec.items[1].spec, sizeof(struct rte_flow_item_vlan), (const uint8_t[]){0x0a, 0xbc}, 2));
	CU_ASSERT_TRUE(
	    bytes_are(spec.items[1].mask, sizeof(struct rte_flow_item_vlan), (const uint8_t[]){0x0f, 0xff}, 2));
	CU_ASSERT_EQUAL(spec.items[2].type, RTE_FLOW_ITEM_TYPE_END);
	check_action(&spec, 300);
}

static void test_rule_groups(void)
{
	static const uint8_t group_bit[] = {0x01};
	struct dvmq_flow_spec spec;

	memset(&spec, 0xa5, sizeof(spec));
	dvmq_flow_spec(NULL, 1, &(uint16_t){0}, 1, 0, &spec);
	CU_ASSERT_TRUE(bytes_are(&spec.attr, sizeof(spec.attr),
				 (const void *)&(struct rte_flow_attr){.ingress = 1, .priority = 1},
				 sizeof(spec.attr)));
	CU_ASSERT_EQUAL(spec.items[0].type, RTE_FLOW_ITEM_TYPE_ETH);
	CU_ASSERT_TRUE(bytes_are(spec.items[0].spec, sizeof(struct rte_flow_item_eth), group_bit, 1));
	CU_ASSERT_TRUE(bytes_are(spec.items[0].mask, sizeof(struct rte_flow_item_eth), group_bit, 1));
	CU_ASSERT_EQUAL(spec.items[1].type, RTE_FLOW_ITEM_TYPE_END);
	check_action(&spec, 0);
}

/* ---- the backends ---- */

static struct dvmq_port_conf confs[8];

static struct dvmq_port_conf *add_conf(enum dvmq_port_type type, const char *name, const char *device)
{
	struct dvmq_port_conf *port = &confs[conf.n_ports++];

	CU_ASSERT_EQUAL(dvmq_conf_port_init(port, type, name, &err), 0);
	CU_ASSERT_EQUAL(dvmq_conf_port_set(port, "device", device, &err), 0);
	return port;
}

static void add_another_uplink(const char *name, unsigned queues, enum dvmq_steering steering)
{
	static unsigned serial; /* a net_ring device leaves rings behind: the next needs another name */
	struct dvmq_port_conf *port;
	char device[64];

	snprintf(device, sizeof(device), "net_ring_up%u", serial++);
	port = add_conf(DVMQ_PORT_UPLINK, name, device);
	port->queues = queues;
	port->steering = steering;
}

/* Begins a new configuration. */
static void add_uplink(unsigned queues, enum dvmq_steering steering)
{
	conf.ports = confs;
	conf.n_ports = 0;
	add_another_uplink("up0", queues, steering);
}

/* Frames to this port are for 02:00:00:00:00:NUMBER. */
static struct dvmq_port_conf *add_port(const char *name, unsigned number)
{
	struct dvmq_port_conf *port;
	char device[64];

	snprintf(device, sizeof(device), "net_null_%s,no-rx=1", name);
	port = add_conf(DVMQ_PORT_ETHDEV, name, device);
	port->has_mac = true;
	port->mac = (struct rte_ether_addr){{0x02, 0, 0, 0, 0, number}};
	return port;
}

static const struct dvmq_binding *binding_of(const char *name)
{
	return &dvmq_port_find("up0")->steer->bindings[dvmq_port_find(name)->index];
}

static uint64_t soft_now = 2000000; /* ms */

static bool open_ports(void)
{
	int ret = dvmq_ports_open(&conf, &err);

	soft_now += 2000; /* nobody has changed a moment ago */
	if (ret < 0)
		fprintf(stderr, "\n%s\n", err.text);
	CU_ASSERT_EQUAL(ret, 0);
	return ret == 0;
}

/* Frames into an RX queue of an uplink, each of another flow; the VLAN 0: untagged. */
static void feed_to(const char *uplink, unsigned queue, unsigned number, uint16_t vlan, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
		uint8_t *data;

		CU_ASSERT_PTR_NOT_NULL_FATAL(m);
		data = rte_pktmbuf_mtod(m, uint8_t *);
		m->data_len = m->pkt_len = 64;
		memset(data, 0, 64);
		data[0] = data[6] = 0x02;
		data[5] = number;
		data[11] = 0xee;
		data[12] = 0x08;
		data[29] = i; /* of the source address */
		if (vlan != 0)
			memcpy(data + 12, (uint8_t[]){0x81, 0x00, vlan >> 8, vlan & 0xff, 0x08, 0x00}, 6);
		CU_ASSERT_EQUAL_FATAL(rte_eth_tx_burst(dvmq_port_find(uplink)->eth_id, queue, &m, 1), 1);
	}
}

static void feed(unsigned queue, unsigned number, uint16_t vlan, unsigned n)
{
	feed_to("up0", queue, number, vlan, n);
}

static struct timespec deadline_from_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += PATIENCE_S;
	return t;
}

static bool is_over(const struct timespec *deadline)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > deadline->tv_sec;
}

static uint64_t sent_to(const char *name)
{
	return dvmq_stats_collect()->port[dvmq_port_find(name)->index].tx_packets;
}

/* True when the port has been sent n frames; the stats of a worker tell only what it has done. */
static bool await_sent(const char *name, uint64_t n)
{
	struct timespec deadline = deadline_from_now();

	while (sent_to(name) < n && !is_over(&deadline))
		sched_yield();
	return sent_to(name) == n;
}

static bool await_owner(const char *name)
{
	struct dvmq_queue *queue = dvmq_queue_find(name);

	CU_ASSERT_EQUAL(dvmq_queue_settle(queue), 0);
	return atomic_load(&queue->owner) != NULL;
}

static uint64_t taken_by(const char *name)
{
	return atomic_load(&dvmq_queue_find(name)->counters.packets);
}

static void test_static(void)
{
	struct dvmq_port_conf *web2;
	struct dvmq_queue *queue;

	add_uplink(4, DVMQ_STEER_STATIC);
	add_port("web1", 1);
	confs[1].has_vmq = true;
	confs[1].vmq_first = confs[1].vmq_last = 1;
	web2 = add_port("web2", 2);
	web2->has_vmq = true;
	web2->vlan = 100;
	web2->vmq_first = 2;
	web2->vmq_last = 3;
	add_port("web3", 3);
	if (!open_ports())
		return;
	CU_ASSERT_EQUAL(dvmq_port_find("up0")->steer->ops->steering, DVMQ_STEER_STATIC);
	CU_ASSERT_STRING_EQUAL(dvmq_port_find("up0")->steer->reason, "set in the configuration");
	CU_ASSERT_EQUAL(binding_of("web1")->requested, 1);
	CU_ASSERT_EQUAL(binding_of("web1")->n, 1);
	CU_ASSERT_TRUE(binding_of("web1")->accepted);
	CU_ASSERT_EQUAL(binding_of("web2")->requested, 2);
	CU_ASSERT_EQUAL(binding_of("web2")->n, 2);
	CU_ASSERT_EQUAL(binding_of("web3")->requested, 0);
	CU_ASSERT_EQUAL(binding_of("web3")->n, 0);
	CU_ASSERT_FALSE(binding_of("web3")->accepted);
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web3")->reason, "no vmq ="));
	for (unsigned i = 0; i < 4; i++) {
		queue = dvmq_port_find("up0")->queues[i];
		CU_ASSERT_EQUAL(queue->kind, i == 0 ? DVMQ_QUEUE_DEFAULT : DVMQ_QUEUE_VMQ);
		CU_ASSERT_PTR_EQUAL(queue->dst, i == 0 ? NULL : dvmq_port_find(i == 1 ? "web1" : "web2"));
		CU_ASSERT_TRUE(await_owner(queue->name));
	}

	feed(0, 3, 0, 10);
	feed(1, 1, 0, 20);
	feed(2, 2, 100, 30);
	feed(3, 2, 100, 40);
	CU_ASSERT_TRUE(await_sent("web1", 20));
	CU_ASSERT_TRUE(await_sent("web2", 70));
	CU_ASSERT_TRUE(await_sent("web3", 10));
	CU_ASSERT_EQUAL(taken_by("up0/rx0"), 10);
	CU_ASSERT_EQUAL(taken_by("up0/rx1"), 20);
	CU_ASSERT_EQUAL(taken_by("up0/rx2"), 30);
	CU_ASSERT_EQUAL(taken_by("up0/rx3"), 40);
	check_sum();

	/* A port that goes leaves a default queue behind, which is polled. */
	CU_ASSERT_EQUAL(dvmq_port_del("web2", &err), 0);
	for (unsigned i = 2; i < 4; i++) {
		queue = dvmq_port_find("up0")->queues[i];
		CU_ASSERT_EQUAL(queue->kind, DVMQ_QUEUE_DEFAULT);
		CU_ASSERT_PTR_NULL(queue->dst);
		CU_ASSERT_TRUE(await_owner(queue->name));
	}
	feed(2, 1, 0, 5);
	CU_ASSERT_TRUE(await_sent("web1", 25));
	check_sum();

	dvmq_ports_close();

	add_uplink(2, DVMQ_STEER_STATIC); /* a queue that the uplink does not have */
	add_port("web5", 5);
	confs[1].has_vmq = true;
	confs[1].vmq_first = confs[1].vmq_last = 7;
	if (open_ports()) {
		CU_ASSERT_EQUAL(binding_of("web5")->requested, 1);
		CU_ASSERT_EQUAL(binding_of("web5")->n, 0);
		CU_ASSERT_FALSE(binding_of("web5")->accepted);
		CU_ASSERT_STRING_EQUAL(binding_of("web5")->reason, "up0 has no queue 7, only 0-1");
	}
	dvmq_ports_close();
}

static void test_choice(void)
{
	add_uplink(2, DVMQ_STEER_AUTO);
	strcpy(confs[0].device, "net_null_up0,no-rx=1"); /* it is opened a second time, for RSS: net_ring could not */
	if (open_ports()) {
		CU_ASSERT_EQUAL(dvmq_port_find("up0")->steer->ops->steering, DVMQ_STEER_SOFTWARE);
		CU_ASSERT_PTR_NOT_NULL(
		    strstr(dvmq_port_find("up0")->steer->reason, "no flow: the driver refuses"));
	}
	dvmq_ports_close();

	add_uplink(1, DVMQ_STEER_AUTO);
	if (open_ports()) {
		CU_ASSERT_EQUAL(dvmq_port_find("up0")->steer->ops->steering, DVMQ_STEER_SOFTWARE);
		CU_ASSERT_PTR_NOT_NULL(strstr(dvmq_port_find("up0")->steer->reason, "queues = 1"));
	}
	dvmq_ports_close();

	add_uplink(2, DVMQ_STEER_FLOW); /* what the configuration names is not replaced by something else */
	CU_ASSERT_EQUAL(dvmq_ports_open(&conf, &err), -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "uplink up0: steering = flow: "));
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "use steering = "));
	CU_ASSERT_PTR_NULL(dvmq_port_find("up0"));
	dvmq_ports_close();

	add_uplink(2, DVMQ_STEER_VMDQ);
	CU_ASSERT_EQUAL(dvmq_ports_open(&conf, &err), -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "uplink up0: "));
	dvmq_ports_close();
	CU_ASSERT_EQUAL(rte_eth_dev_count_avail(), 0); /* nothing of them is left */
	CU_ASSERT_EQUAL(dvmq_n_queues, 0);
}

/* Twenty milliseconds, and all changes that are decided after them. */
static void share_tick(void)
{
	dvmq_vmq_tick(soft_now += 20);
	while (dvmq_vmq_step(soft_now))
		;
}

static void relief_tick(unsigned web1, unsigned web2)
{
	uint64_t before1 = sent_to("web1"), before2 = sent_to("web2");

	feed(0, 1, 0, web1);
	feed(0, 2, 0, web2);
	CU_ASSERT_TRUE_FATAL(await_sent("web1", before1 + web1));
	CU_ASSERT_TRUE_FATAL(await_sent("web2", before2 + web2));
	share_tick();
}

static void relief_ticks(unsigned n, unsigned web1, unsigned web2)
{
	while (n-- > 0)
		relief_tick(web1, web2);
}

static bool is_there(const char *queue)
{
	return dvmq_queue_find(queue) != NULL;
}

/* Of as many ports as it takes is a hot default queue relieved, and they go back when it could carry them. */
static void test_software(void)
{
	uint64_t promoted = dvmq_decision_count("promote"), demoted = dvmq_decision_count("demote"), taken;
	struct dvmq_queue *def;

	add_uplink(1, DVMQ_STEER_SOFTWARE);
	add_port("web1", 1);
	add_port("web2", 2);
	if (!open_ports())
		return;
	def = dvmq_queue_find("up0/rx0");
	CU_ASSERT_EQUAL(binding_of("web1")->requested, 0);
	CU_ASSERT_STRING_EQUAL(binding_of("web1")->reason, "served inline: not hot on the default queue");
	def->load->demand = 0.75;
	relief_ticks(20, 10, 100);
	CU_ASSERT_FALSE(is_there("web2/soft0")); /* a core can carry that */
	def->load->demand = 0.9;
	relief_ticks(3, 100, 10);
	CU_ASSERT_TRUE_FATAL(is_there("web1/soft0"));
	CU_ASSERT_TRUE(await_owner("web1/soft0"));
	CU_ASSERT_EQUAL(dvmq_decision_count("promote"), promoted + 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web1")->reason, "up0/rx0, which needed 0.90 cores"));
	CU_ASSERT_EQUAL(binding_of("web1")->requested, 1);
	dvmq_queue_find("web1/soft0")->load->demand = 0.5;
	def->load->demand = 0.7;
	relief_ticks(100, 100, 10);
	CU_ASSERT_FALSE(is_there("web2/soft0")); /* that was enough */
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web2")->why, "needs > "));
	check_sum();

	def->load->demand = 0.95;
	taken = taken_by("web1/soft0");
	relief_ticks(20, 100, 10); /* hot still, and now by this port */
	CU_ASSERT_TRUE_FATAL(is_there("web2/soft0"));
	CU_ASSERT_EQUAL(taken_by("web1/soft0"), taken + 2000);
	CU_ASSERT_EQUAL(dvmq_decision_count("promote"), promoted + 2);
	check_sum();

	dvmq_queue_find("web2/soft0")->load->demand = 0.05;
	def->load->demand = 0.45;
	relief_ticks(90, 100, 10);
	CU_ASSERT_TRUE(is_there("web2/soft0")); /* not at once */
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web2")->why, "could carry it"));
	relief_ticks(20, 100, 10);
	CU_ASSERT_FALSE(is_there("web2/soft0"));
	CU_ASSERT_TRUE(is_there("web1/soft0")); /* with this one it would be hot again */
	CU_ASSERT_EQUAL(dvmq_decision_count("demote"), demoted + 1);

	def->load->demand = 0.1;
	dvmq_queue_find("web1/soft0")->load->demand = 0.01;
	relief_ticks(120, 100, 10);
	CU_ASSERT_FALSE(is_there("web1/soft0"));
	CU_ASSERT_STRING_EQUAL(binding_of("web1")->reason, "served inline: not hot on the default queue");
	CU_ASSERT_EQUAL(dvmq_decision_count("demote"), demoted + 2);
	CU_ASSERT_EQUAL(binding_of("web1")->requested, 0);

	relief_ticks(60, 100, 10);
	def->load->demand = 0.9;
	relief_ticks(4, 10, 100); /* who had most while nobody looked does not matter */
	CU_ASSERT_FALSE(is_there("web1/soft0"));
	CU_ASSERT_TRUE(is_there("web2/soft0"));
	check_sum();
	dvmq_ports_close();
}

/* One soft queue is enough; when another port is the large one it changes hands. */
static void test_software_swap(void)
{
	uint64_t promoted = dvmq_decision_count("promote"), demoted = dvmq_decision_count("demote");

	add_uplink(1, DVMQ_STEER_SOFTWARE);
	add_port("web1", 1);
	add_port("web2", 2);
	if (!open_ports())
		return;
	dvmq_queue_find("up0/rx0")->load->demand = 0.9;
	relief_ticks(2, 100, 10); /* the first look only begins to count */
	CU_ASSERT_TRUE(is_there("web1/soft0"));
	dvmq_queue_find("up0/rx0")->load->demand = 0.7;
	relief_ticks(40, 10, 100);
	CU_ASSERT_TRUE(is_there("web1/soft0")); /* it got it less than a second ago */
	CU_ASSERT_FALSE(is_there("web2/soft0"));
	relief_ticks(120, 10, 100); /* and that second is over, too */
	CU_ASSERT_FALSE(is_there("web1/soft0"));
	CU_ASSERT_TRUE(is_there("web2/soft0"));
	CU_ASSERT_EQUAL(dvmq_decision_count("promote"), promoted + 2);
	CU_ASSERT_EQUAL(dvmq_decision_count("demote"), demoted + 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web1")->why, "needs > "));
	CU_ASSERT_STRING_EQUAL(binding_of("web1")->reason, "served inline");
	check_sum();
	dvmq_ports_close();
}

/* Nobody else may poll what another core could empty. */
static void test_software_one_core(void)
{
	add_uplink(1, DVMQ_STEER_SOFTWARE);
	add_port("web1", 1);
	add_port("web2", 2);
	if (!open_ports())
		return;
	for (unsigned core = 2; core <= WORKERS; core++)
		CU_ASSERT_EQUAL(dvmq_set_core(core, DVMQ_CORE_KEEP_PARKED, &err), 0);
	dvmq_queue_find("up0/rx0")->load->demand = 2;
	relief_ticks(20, 100, 10);
	CU_ASSERT_FALSE(is_there("web1/soft0"));
	for (unsigned core = 2; core <= WORKERS; core++)
		CU_ASSERT_EQUAL(dvmq_set_core(core, DVMQ_CORE_AUTO, &err), 0);
	relief_ticks(3, 100, 10);
	CU_ASSERT_TRUE(is_there("web1/soft0"));
	for (unsigned core = 2; core <= WORKERS; core++)
		CU_ASSERT_EQUAL(dvmq_set_core(core, DVMQ_CORE_KEEP_PARKED, &err), 0);
	relief_ticks(40, 100, 10);
	CU_ASSERT_TRUE(is_there("web1/soft0")); /* it got it less than a second ago */
	relief_ticks(12, 100, 10);
	CU_ASSERT_FALSE(is_there("web1/soft0"));
	for (unsigned core = 2; core <= WORKERS; core++)
		CU_ASSERT_EQUAL(dvmq_set_core(core, DVMQ_CORE_AUTO, &err), 0);
	dvmq_ports_close();
}

/* What each soft queue of web1 needs. */
static void set_soft_demand(double first, double others)
{
	struct dvmq_port *port = dvmq_port_find("web1");

	for (unsigned i = 0; i < port->n_soft; i++)
		port->soft_queues[i]->load->demand = i == 0 ? first : others;
}

static unsigned n_soft(void)
{
	return dvmq_port_find("web1")->n_soft;
}

/* A tick a second, which is as often as a port may change. */
static void soft_ticks(unsigned n)
{
	while (n-- > 0)
		dvmq_soft_tick(soft_now += 1000);
}

static void test_software_number(void)
{
	struct dvmq_port_conf *web1;
	uint64_t promoted = dvmq_decision_count("promote"), demoted = dvmq_decision_count("demote");

	add_uplink(1, DVMQ_STEER_SOFTWARE);
	web1 = add_port("web1", 1);
	web1->queues = 4;
	web1->min = 1;
	web1->max = 3;
	web1->has_max = true;
	if (!open_ports())
		return;
	CU_ASSERT_EQUAL(n_soft(), 1); /* min, whatever it needs */
	CU_ASSERT_EQUAL(binding_of("web1")->requested, 1);
	soft_ticks(10);
	CU_ASSERT_EQUAL(n_soft(), 1);

	set_soft_demand(0.89, 0);
	soft_ticks(10);
	CU_ASSERT_EQUAL(n_soft(), 1);
	set_soft_demand(0.95, 0);
	soft_ticks(1);
	CU_ASSERT_EQUAL(n_soft(), 2);
	CU_ASSERT_EQUAL(binding_of("web1")->requested, 2);
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web1")->reason, "2 queues instead of 1"));
	CU_ASSERT_EQUAL(dvmq_decision_count("promote"), promoted + 1);
	set_soft_demand(2, 0.05); /* one flow: it would be as hot anywhere */
	soft_ticks(10);
	CU_ASSERT_EQUAL(n_soft(), 2);
	set_soft_demand(1.2, 1.2);
	dvmq_port_find("web1")->conf.max = 2;
	soft_ticks(10);
	CU_ASSERT_EQUAL(n_soft(), 2);
	dvmq_port_find("web1")->conf.max = 3;
	soft_ticks(1);
	CU_ASSERT_EQUAL(n_soft(), 3);
	dvmq_port_find("web1")->conf.max = 2;
	dvmq_soft_tick(soft_now + 900);
	CU_ASSERT_EQUAL(n_soft(), 3); /* it has just changed */
	dvmq_port_find("web1")->conf.max = 3;
	set_soft_demand(1.2, 1.2);
	soft_ticks(10);
	CU_ASSERT_EQUAL(n_soft(), 3); /* max */

	feed(0, 1, 0, 200);
	CU_ASSERT_TRUE(await_sent("web1", 200));
	CU_ASSERT_EQUAL(taken_by("web1/soft0") + taken_by("web1/soft1") + taken_by("web1/soft2"), 200);
	CU_ASSERT_TRUE(taken_by("web1/soft0") > 0 && taken_by("web1/soft1") > 0 && taken_by("web1/soft2") > 0);
	check_sum();

	set_soft_demand(0.5, 0.36); /* the first two do not fit into one */
	soft_ticks(10);
	CU_ASSERT_EQUAL(n_soft(), 3);
	set_soft_demand(0.39, 0.39);
	soft_ticks(1);
	CU_ASSERT_EQUAL(n_soft(), 3); /* not at once */
	soft_ticks(1);
	CU_ASSERT_EQUAL(n_soft(), 2);
	CU_ASSERT_EQUAL(dvmq_decision_count("demote"), demoted + 1);
	set_soft_demand(0.2, 0.7);
	soft_ticks(10);
	CU_ASSERT_EQUAL(n_soft(), 2);
	set_soft_demand(0, 0);
	soft_ticks(10);
	CU_ASSERT_EQUAL(n_soft(), 1); /* min */
	feed(0, 1, 0, 100);
	CU_ASSERT_TRUE(await_sent("web1", 300));
	check_sum();
	dvmq_ports_close();
}

static void test_by_hand(void)
{
	unsigned queues;

	add_uplink(1, DVMQ_STEER_SOFTWARE);
	add_port("web1", 1)->queues = 2;
	add_port("web2", 2);
	if (!open_ports())
		return;
	queues = dvmq_n_queues;
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web9", 1, &err), -ENOENT);
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("up0", 1, &err), -EINVAL);
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 3, &err), -EINVAL);
	CU_ASSERT_STRING_EQUAL(err.text, "vmq: 3 is more than the 2 queue pairs of port web1");
	CU_ASSERT_EQUAL(dvmq_port_find("web1")->by_hand, -1);

	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 2, &err), 0);
	CU_ASSERT_EQUAL(n_soft(), 2);
	CU_ASSERT_EQUAL(dvmq_n_queues, queues + 2);
	CU_ASSERT_TRUE(await_owner("web1/soft0") && await_owner("web1/soft1"));
	soft_ticks(10); /* cold, and stays */
	CU_ASSERT_EQUAL(n_soft(), 2);
	CU_ASSERT_EQUAL(dvmq_soft_open(dvmq_port_find("up0"), dvmq_port_find("web1"), 1, &err), 0); /* as a NIC uplink does */
	CU_ASSERT_EQUAL(dvmq_n_queues, queues + 1);
	dvmq_soft_close(dvmq_port_find("web1"));
	CU_ASSERT_EQUAL(dvmq_n_queues, queues);
	soft_ticks(2); /* it gets back what it should have */
	CU_ASSERT_EQUAL(n_soft(), 2);

	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 0, &err), 0);
	CU_ASSERT_EQUAL(n_soft(), 0);
	feed(0, 1, 0, 100);
	CU_ASSERT_TRUE(await_sent("web1", 100));
	dvmq_queue_find("up0/rx0")->load->demand = 0.9;
	relief_ticks(20, 100, 0); /* hot, and gets none */
	CU_ASSERT_EQUAL(n_soft(), 0);
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", -1, &err), 0);
	relief_ticks(3, 100, 0);
	CU_ASSERT_EQUAL(n_soft(), 1);
	dvmq_ports_close();

	add_uplink(2, DVMQ_STEER_STATIC);
	add_port("web1", 1);
	if (open_ports()) {
		CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 1, &err), -ENOTSUP);
		CU_ASSERT_EQUAL(dvmq_port_find("web1")->by_hand, -1);
	}
	dvmq_ports_close();
}

/* ---- waits for workers ---- */

/* What workers could have seen before, and what can be seen whenever they are waited for. */
static struct {
	struct dvmq_port *port; /* NULL: nobody looks */
	unsigned index;
	struct dvmq_soft *soft;
	char ring[RTE_RING_NAMESIZE];
	struct dvmq_flood *flood;
	unsigned soft_waits, flood_waits, fdb_waits, table_waits, tx_waits; /* and it is another thing by then */
	bool ring_gone; /* before they were done with it */
} before;

void __real_rte_rcu_qsbr_synchronize(struct rte_rcu_qsbr *v, unsigned id);
void __wrap_rte_rcu_qsbr_synchronize(struct rte_rcu_qsbr *v, unsigned id);

static bool is_in_fdb(const struct dvmq_port *port)
{
	const struct dvmq_fdb_entry *entry;
	uint32_t iterator = 0;

	while ((entry = dvmq_fdb_next(&iterator)) != NULL)
		if (entry->port == port)
			return true;
	return false;
}

static void look_while_they_are_waited_for(void)
{
	bool in_table = atomic_load(&dvmq_ports[before.index]) == before.port;

	before.table_waits += !in_table;
	before.fdb_waits += in_table && !is_in_fdb(before.port);
	before.flood_waits += is_in_fdb(before.port) && atomic_load(&dvmq_fdb.flood[0]) != before.flood;
	if (!in_table)
		return;
	before.tx_waits += atomic_load(&before.port->tx) == DVMQ_TX_OFF;
	if (atomic_load(&before.port->soft) != before.soft) {
		before.soft_waits++;
		before.ring_gone = before.soft != NULL && rte_ring_lookup(before.ring) == NULL;
	}
}

void __wrap_rte_rcu_qsbr_synchronize(struct rte_rcu_qsbr *v, unsigned id)
{
	if (before.port != NULL)
		look_while_they_are_waited_for();
	__real_rte_rcu_qsbr_synchronize(v, id);
}

static void workers_see(struct dvmq_port *port)
{
	memset(&before, 0, sizeof(before));
	before.index = port->index;
	before.flood = atomic_load(&dvmq_fdb.flood[0]);
	before.soft = atomic_load(&port->soft);
	if (before.soft != NULL)
		snprintf(before.ring, sizeof(before.ring), "%s", before.soft->rings[0].ring->name);
	before.port = port;
}

/* When there are soft rings, every producer knows of them; and they are freed when every producer has let go of them. */
static void test_software_rcu(void)
{
	struct dvmq_port *web1;

	add_uplink(1, DVMQ_STEER_SOFTWARE);
	add_port("web1", 1);
	if (!open_ports())
		return;
	web1 = dvmq_port_find("web1");
	workers_see(web1);
	CU_ASSERT_EQUAL(dvmq_soft_open(dvmq_port_find("up0"), web1, 1, &err), 0);
	CU_ASSERT_EQUAL(before.soft_waits, 1);
	workers_see(web1);
	CU_ASSERT_PTR_NOT_NULL(before.soft);
	CU_ASSERT_EQUAL(dvmq_soft_close(web1), 0);
	CU_ASSERT_EQUAL(before.soft_waits, 1);
	CU_ASSERT_FALSE(before.ring_gone);
	CU_ASSERT_PTR_NULL(rte_ring_lookup(before.ring));
	before.port = NULL;
	dvmq_ports_close();
}

/* Workers are out of a device that is reset; and of a port, by each of the ways that led to it, before it goes. */
static void test_port_rcu(void)
{
	add_uplink(1, DVMQ_STEER_SOFTWARE);
	add_port("web1", 1);
	if (!open_ports())
		return;
	workers_see(dvmq_port_find("web1"));
	CU_ASSERT_EQUAL(dvmq_port_reset("web1", &err), 0);
	CU_ASSERT_EQUAL(before.tx_waits, 1);
	CU_ASSERT_EQUAL(before.flood_waits + before.fdb_waits + before.table_waits, 0);
	CU_ASSERT_EQUAL(dvmq_port_del("web1", &err), 0);
	CU_ASSERT_EQUAL(before.flood_waits, 1);
	CU_ASSERT_EQUAL(before.fdb_waits, 1);
	CU_ASSERT_EQUAL(before.table_waits, 1);
	before.port = NULL;
	dvmq_ports_close();
}

/* ---- a worker that has no CPU ---- */

static _Atomic bool blocked, is_blocked;

static uint16_t poll_blocked(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	(void)w, (void)queue;
	while (atomic_load(&blocked)) {
		atomic_store(&is_blocked, true);
		sched_yield();
	}
	return 0;
}

static bool await_blocked(void)
{
	struct timespec deadline = deadline_from_now();

	while (!atomic_load(&is_blocked) && !is_over(&deadline))
		sched_yield();
	return atomic_load(&is_blocked);
}

static bool await_waiting(const struct dvmq_soft_ring *soft)
{
	struct timespec deadline = deadline_from_now();

	while (rte_ring_empty(soft->ring) && !is_over(&deadline))
		sched_yield();
	return !rte_ring_empty(soft->ring);
}

/* Its soft ring stays, and what is put there, until it is back. */
static void test_software_late(void)
{
	static struct dvmq_queue blocker = {.poll = poll_blocked, .wake_fd = -1};
	struct dvmq_port *web1;
	struct dvmq_soft *soft;
	uint64_t refused;

	add_uplink(1, DVMQ_STEER_SOFTWARE);
	add_port("web1", 1)->queues = 2;
	if (!open_ports())
		return;
	web1 = dvmq_port_find("web1");
	blocker.port = web1;
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 2, &err), 0);
	CU_ASSERT_TRUE(await_owner("web1/soft0") && await_owner("web1/soft1"));
	CU_ASSERT_EQUAL(dvmq_set_queue_core("web1/soft0", 1, &err), 0);
	CU_ASSERT_EQUAL(dvmq_set_queue_core("web1/soft1", 2, &err), 0);
	CU_ASSERT_EQUAL(dvmq_set_queue_core("up0/rx0", 3, &err), 0);
	soft = atomic_load(&web1->soft);

	atomic_store(&blocked, true);
	CU_ASSERT_TRUE(dvmq_queue_hand(&blocker, dvmq_workers[0]));
	CU_ASSERT_TRUE_FATAL(await_blocked());
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 0, &err), -ETIMEDOUT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "not given back"));
	CU_ASSERT_EQUAL(n_soft(), 1); /* the other one is closed */
	CU_ASSERT_PTR_NULL(dvmq_queue_find("web1/soft1"));
	CU_ASSERT_PTR_EQUAL(atomic_load(&web1->soft), soft);
	feed(0, 1, 0, 100);
	CU_ASSERT_TRUE(await_waiting(&soft->rings[0]));
	CU_ASSERT_TRUE(rte_ring_empty(soft->rings[1].ring)); /* shut: delivered inline */
	refused = dvmq_decision_count("refuse");
	soft_ticks(2); /* nothing else is tried, and nobody waits for it */
	CU_ASSERT_EQUAL(dvmq_decision_count("refuse"), refused);
	CU_ASSERT_EQUAL(dvmq_soft_open(dvmq_port_find("up0"), web1, 1, &err), -ETIMEDOUT);
	CU_ASSERT_PTR_EQUAL(atomic_load(&web1->soft), soft);
	CU_ASSERT_FALSE(dvmq_queue_find("web1/soft0")->wanted);

	atomic_store(&blocked, false);
	CU_ASSERT_EQUAL(dvmq_queue_settle(dvmq_queue_find("web1/soft0")), 0);
	CU_ASSERT_TRUE(rte_ring_empty(soft->rings[0].ring)); /* its worker has emptied it */
	soft_ticks(1);
	CU_ASSERT_EQUAL(n_soft(), 0);
	CU_ASSERT_PTR_NULL(dvmq_queue_find("web1/soft0"));
	CU_ASSERT_PTR_NULL(atomic_load(&web1->soft));
	CU_ASSERT_TRUE(await_sent("web1", 100));
	check_sum();
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 1, &err), 0); /* and all is as before */
	CU_ASSERT_EQUAL(n_soft(), 1);
	feed(0, 1, 0, 100);
	CU_ASSERT_TRUE(await_sent("web1", 200));
	CU_ASSERT_EQUAL(taken_by("web1/soft0"), 100);
	CU_ASSERT_EQUAL(dvmq_queue_hand_wait(&blocker, NULL), 0);
	dvmq_ports_close();
}

/* The rings are filled by the default queues of both, and each counts what it received. */
static void test_two_uplinks(void)
{
	add_uplink(1, DVMQ_STEER_SOFTWARE);
	add_another_uplink("up1", 1, DVMQ_STEER_SOFTWARE);
	add_port("web1", 1);
	if (!open_ports())
		return;
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 1, &err), 0);
	CU_ASSERT_EQUAL(n_soft(), 1);
	feed_to("up0", 0, 1, 0, 30);
	feed_to("up1", 0, 1, 0, 70);
	CU_ASSERT_TRUE(await_sent("web1", 100));
	CU_ASSERT_EQUAL(taken_by("web1/soft0"), 100);
	CU_ASSERT_EQUAL(dvmq_stats_collect()->port[dvmq_port_find("up0")->index].rx_packets, 30);
	CU_ASSERT_EQUAL(dvmq_stats_collect()->port[dvmq_port_find("up1")->index].rx_packets, 70);
	CU_ASSERT_EQUAL(dvmq_stats_collect()->port[dvmq_port_find("up1")->index].rx_bytes, 70 * 64);
	check_sum();
	for (unsigned i = 0; i < 2; i++) { /* both tell of it, and of its end */
		const struct dvmq_port *uplink = dvmq_port_find(i == 0 ? "up0" : "up1");

		CU_ASSERT_EQUAL(uplink->steer->bindings[dvmq_port_find("web1")->index].requested, 1);
	}
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", -1, &err), 0);
	for (unsigned i = 0; i < 110; i++)
		share_tick();
	CU_ASSERT_EQUAL(n_soft(), 0);
	dvmq_ports_close();
}

/* ---- NICs that are not here, played by a net_ring device ---- */

/* What the driver is told is caught on its way (meson.build: --wrap). */
static struct nic {
	const char *driver; /* NULL: the device is itself */
	unsigned pools, queue_num, queue_base, pool_base;
	int add_returns;
	struct rte_eth_conf conf;
	uint16_t n_rxq;
	struct rte_ether_addr mac[8]; /* by pool */
	unsigned n_added, n_removed, n_multicast;
	int vlan_offload;
	unsigned n_drop_en;
	bool allmulticast;
} nic;

static struct {
	bool plays; /* false: the device is itself */
	unsigned n_configured, n_set_up;
	unsigned n_isolated, configured_by_then, set_up_by_then;
	const char *refuses_isolation, *refuses_priority;
	struct rte_flow {
		bool used;
		uint32_t priority;
		struct rte_ether_addr mac, mask;
		uint16_t vlan, queue;
	} rules[16];
} flow_nic;

int __real_rte_eth_dev_info_get(uint16_t id, struct rte_eth_dev_info *info);
int __real_rte_eth_dev_configure(uint16_t id, uint16_t n_rxq, uint16_t n_txq, const struct rte_eth_conf *conf);
int __real_rte_eth_rx_queue_setup(uint16_t id, uint16_t queue, uint16_t n, unsigned socket,
				  const struct rte_eth_rxconf *conf, struct rte_mempool *mp);
int __wrap_rte_eth_dev_info_get(uint16_t id, struct rte_eth_dev_info *info);
int __wrap_rte_eth_dev_configure(uint16_t id, uint16_t n_rxq, uint16_t n_txq, const struct rte_eth_conf *conf);
int __wrap_rte_eth_rx_queue_setup(uint16_t id, uint16_t queue, uint16_t n, unsigned socket,
				  const struct rte_eth_rxconf *conf, struct rte_mempool *mp);
int __wrap_rte_eth_dev_mac_addr_add(uint16_t id, struct rte_ether_addr *mac, uint32_t pool_number);
int __wrap_rte_eth_dev_mac_addr_remove(uint16_t id, struct rte_ether_addr *mac);
int __wrap_rte_eth_dev_set_vlan_offload(uint16_t id, int offload);
int __wrap_rte_eth_dev_set_mc_addr_list(uint16_t id, struct rte_ether_addr *list, uint32_t n);
int __wrap_rte_eth_allmulticast_enable(uint16_t id);
int __real_rte_flow_isolate(uint16_t id, int set, struct rte_flow_error *error);
int __real_rte_flow_validate(uint16_t id, const struct rte_flow_attr *attr, const struct rte_flow_item items[],
			     const struct rte_flow_action actions[], struct rte_flow_error *error);
int __wrap_rte_flow_isolate(uint16_t id, int set, struct rte_flow_error *error);
int __wrap_rte_flow_validate(uint16_t id, const struct rte_flow_attr *attr, const struct rte_flow_item items[],
			     const struct rte_flow_action actions[], struct rte_flow_error *error);
struct rte_flow *__wrap_rte_flow_create(uint16_t id, const struct rte_flow_attr *attr,
					const struct rte_flow_item items[], const struct rte_flow_action actions[],
					struct rte_flow_error *error);
int __wrap_rte_flow_destroy(uint16_t id, struct rte_flow *flow, struct rte_flow_error *error);

int __wrap_rte_eth_dev_info_get(uint16_t id, struct rte_eth_dev_info *info)
{
	int ret = __real_rte_eth_dev_info_get(id, info);

	if (ret < 0 || nic.driver == NULL || strcmp(info->driver_name, "net_ring") != 0)
		return ret;
	info->driver_name = nic.driver;
	info->max_vmdq_pools = nic.pools;
	info->vmdq_queue_num = nic.queue_num;
	info->vmdq_queue_base = nic.queue_base;
	info->vmdq_pool_base = nic.pool_base;
	info->rx_offload_capa |= RTE_ETH_RX_OFFLOAD_VLAN_FILTER;
	return 0;
}

int __wrap_rte_eth_dev_configure(uint16_t id, uint16_t n_rxq, uint16_t n_txq, const struct rte_eth_conf *conf)
{
	struct rte_eth_conf plain = *conf;

	flow_nic.n_configured++;
	if (conf->rxmode.mq_mode == RTE_ETH_MQ_RX_VMDQ_ONLY) {
		nic.conf = *conf;
		nic.n_rxq = n_rxq;
		plain.rxmode.offloads &= ~RTE_ETH_RX_OFFLOAD_VLAN_FILTER;
	}
	return __real_rte_eth_dev_configure(id, n_rxq, n_txq, &plain);
}

int __wrap_rte_eth_rx_queue_setup(uint16_t id, uint16_t queue, uint16_t n, unsigned socket,
				  const struct rte_eth_rxconf *conf, struct rte_mempool *mp)
{
	struct rte_eth_rxconf plain = *conf;

	flow_nic.n_set_up++;
	nic.n_drop_en += conf->rx_drop_en;
	plain.rx_drop_en = 0;
	return __real_rte_eth_rx_queue_setup(id, queue, n, socket, &plain, mp);
}

int __wrap_rte_eth_dev_mac_addr_add(uint16_t id, struct rte_ether_addr *mac, uint32_t pool_number)
{
	(void)id;
	if (nic.add_returns == 0 && pool_number < RTE_DIM(nic.mac))
		nic.mac[pool_number] = *mac;
	nic.n_added++;
	return nic.add_returns;
}

int __wrap_rte_eth_dev_mac_addr_remove(uint16_t id, struct rte_ether_addr *mac)
{
	(void)id;
	nic.n_removed++;
	for (unsigned i = 0; i < RTE_DIM(nic.mac); i++)
		if (rte_is_same_ether_addr(&nic.mac[i], mac))
			memset(&nic.mac[i], 0, sizeof(nic.mac[i]));
	return 0;
}

int __wrap_rte_eth_dev_set_vlan_offload(uint16_t id, int offload)
{
	(void)id;
	nic.vlan_offload = offload;
	return 0;
}

int __wrap_rte_eth_dev_set_mc_addr_list(uint16_t id, struct rte_ether_addr *list, uint32_t n)
{
	static bool seen[4096];

	(void)id;
	memset(seen, 0, sizeof(seen));
	nic.n_multicast = 0;
	for (unsigned i = 0; i < n; i++) { /* the table of igb, ixgbe and txgbe goes by the last 12 bits */
		unsigned bucket = list[i].addr_bytes[4] >> 4 | list[i].addr_bytes[5] << 4;

		nic.n_multicast += rte_is_multicast_ether_addr(&list[i]) && !seen[bucket];
		seen[bucket] = true;
	}
	return 0;
}

int __wrap_rte_eth_allmulticast_enable(uint16_t id)
{
	(void)id;
	nic.allmulticast = true;
	return 0;
}

int __wrap_rte_flow_isolate(uint16_t id, int set, struct rte_flow_error *error)
{
	if (!flow_nic.plays)
		return __real_rte_flow_isolate(id, set, error);
	if (flow_nic.refuses_isolation != NULL)
		return rte_flow_error_set(error, EBUSY, RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL,
					  flow_nic.refuses_isolation);
	CU_ASSERT_EQUAL(set, 1);
	flow_nic.n_isolated++;
	flow_nic.configured_by_then = flow_nic.n_configured;
	flow_nic.set_up_by_then = flow_nic.n_set_up;
	return 0;
}

int __wrap_rte_flow_validate(uint16_t id, const struct rte_flow_attr *attr, const struct rte_flow_item items[],
			     const struct rte_flow_action actions[], struct rte_flow_error *error)
{
	if (!flow_nic.plays)
		return __real_rte_flow_validate(id, attr, items, actions, error);
	if (attr->priority > 0 && flow_nic.refuses_priority != NULL)
		return rte_flow_error_set(error, ENOTSUP, RTE_FLOW_ERROR_TYPE_ATTR_PRIORITY, NULL,
					  flow_nic.refuses_priority);
	return 0;
}

static bool same_match(const struct rte_flow *a, const struct rte_flow *b)
{
	return a->priority == b->priority && a->vlan == b->vlan && rte_is_same_ether_addr(&a->mac, &b->mac) &&
	       rte_is_same_ether_addr(&a->mask, &b->mask);
}

struct rte_flow *__wrap_rte_flow_create(uint16_t id, const struct rte_flow_attr *attr,
					const struct rte_flow_item items[], const struct rte_flow_action actions[],
					struct rte_flow_error *error)
{
	const struct rte_flow_item_eth *eth = items[0].spec, *mask = items[0].mask;
	const struct rte_flow_item_vlan *vlan = items[1].spec;
	const struct rte_flow_action_queue *queue = actions[0].conf;
	struct rte_flow rule = {true, attr->priority, eth->hdr.dst_addr, mask->hdr.dst_addr, 0, queue->index};

	(void)id;
	(void)error;
	if (items[1].type == RTE_FLOW_ITEM_TYPE_VLAN)
		rule.vlan = rte_be_to_cpu_16(vlan->hdr.vlan_tci);
	for (unsigned i = 0; i < RTE_DIM(flow_nic.rules); i++) /* drivers refuse it, or deliver to both */
		CU_ASSERT_FALSE(flow_nic.rules[i].used && same_match(&flow_nic.rules[i], &rule));
	for (unsigned i = 0; i < RTE_DIM(flow_nic.rules); i++)
		if (!flow_nic.rules[i].used) {
			flow_nic.rules[i] = rule;
			return &flow_nic.rules[i];
		}
	return NULL;
}

int __wrap_rte_flow_destroy(uint16_t id, struct rte_flow *flow, struct rte_flow_error *error)
{
	(void)id;
	(void)error;
	CU_ASSERT_TRUE(flow->used);
	flow->used = false;
	return 0;
}

/* ---- isolated mode ---- */

static unsigned n_rules(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < RTE_DIM(flow_nic.rules); i++)
		n += flow_nic.rules[i].used;
	return n;
}

/* The queue that frames for a port of that number are put into; -1: they are the host's. */
static int queue_of(unsigned number, uint16_t vlan, uint32_t priority)
{
	struct rte_flow wanted = {.priority = priority, .mac = {{0x02, 0, 0, 0, 0, number}}, .vlan = vlan};

	memset(&wanted.mask, 0xff, sizeof(wanted.mask));
	for (unsigned i = 0; i < RTE_DIM(flow_nic.rules); i++)
		if (flow_nic.rules[i].used && same_match(&flow_nic.rules[i], &wanted))
			return flow_nic.rules[i].queue;
	return -1;
}

static bool groups_are_taken(void)
{
	static const struct rte_ether_addr group_bit = {{0x01}};

	for (unsigned i = 0; i < RTE_DIM(flow_nic.rules); i++)
		if (flow_nic.rules[i].used && flow_nic.rules[i].priority == 1 && flow_nic.rules[i].queue == 0 &&
		    rte_is_same_ether_addr(&flow_nic.rules[i].mac, &group_bit) &&
		    rte_is_same_ether_addr(&flow_nic.rules[i].mask, &group_bit))
			return true;
	return false;
}

static void add_isolated(unsigned queues)
{
	memset(&flow_nic, 0, sizeof(flow_nic));
	flow_nic.plays = true;
	add_uplink(queues, DVMQ_STEER_AUTO);
	confs[0].isolated = true;
}

static void check_isolated_changes(void)
{
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 0, &err), 0);
	CU_ASSERT_EQUAL(queue_of(1, 0, 0), -1);
	CU_ASSERT_EQUAL(queue_of(1, 0, 1), 0); /* the rule that is always there */
	feed(0, 1, 0, 10);
	CU_ASSERT_TRUE(await_sent("web1", 10));
	CU_ASSERT_EQUAL(dvmq_set_port_vmq("web1", 1, &err), 0);
	CU_ASSERT_NOT_EQUAL(queue_of(1, 0, 0), -1);

	/* A port that comes while the NIC refuses, and again when it does not. */
	flow_nic.refuses_priority = "full";
	add_port("web4", 4);
	CU_ASSERT_EQUAL(dvmq_port_add(&confs[4], &err), 0);
	CU_ASSERT_EQUAL(queue_of(4, 0, 1), -1);
	CU_ASSERT_PTR_NOT_NULL(
	    strstr(binding_of("web4")->base_reason, "up0 is isolated, without a rule to its default queue"));
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web4")->base_reason, "full (Operation not supported)"));
	dvmq_vmq_audit(0);
	CU_ASSERT_EQUAL(binding_of("web4")->repairs, 0);
	flow_nic.refuses_priority = NULL;
	dvmq_vmq_audit(0);
	CU_ASSERT_EQUAL(queue_of(4, 0, 1), 0);
	CU_ASSERT_EQUAL(binding_of("web4")->repairs, 1);
	CU_ASSERT_STRING_EQUAL(binding_of("web4")->base_reason, "");
	dvmq_vmq_audit(0);
	CU_ASSERT_EQUAL(binding_of("web4")->repairs, 1);
	CU_ASSERT_EQUAL(dvmq_port_del("web4", &err), 0);
	CU_ASSERT_EQUAL(queue_of(4, 0, 0), -1);
	CU_ASSERT_EQUAL(queue_of(4, 0, 1), -1);
}

static void test_isolated(void)
{
	struct dvmq_port_conf *web3;

	add_isolated(4);
	add_port("web1", 1);
	add_port("web2", 2)->vlan = 100;
	web3 = add_port("web3", 3);
	web3->has_mac = false;
	if (open_ports()) {
		CU_ASSERT_EQUAL(dvmq_port_find("up0")->steer->ops->steering, DVMQ_STEER_FLOW);
		CU_ASSERT_EQUAL(flow_nic.n_isolated, 1);
		CU_ASSERT_EQUAL(flow_nic.configured_by_then, 0); /* before anything else, as DPDK wants it */
		CU_ASSERT_TRUE(groups_are_taken());
		CU_ASSERT_EQUAL(queue_of(1, 0, 1), 0);
		CU_ASSERT_EQUAL(queue_of(1, 0, 0), 1);
		CU_ASSERT_EQUAL(queue_of(2, 100, 1), 0);
		CU_ASSERT_EQUAL(queue_of(2, 100, 0), 2);
		CU_ASSERT_EQUAL(n_rules(), 5);
		CU_ASSERT_STRING_EQUAL(binding_of("web1")->base_reason, "");
		CU_ASSERT_STRING_EQUAL(binding_of("web3")->base_reason,
				       "up0 is isolated: of its frames only those for groups arrive");
		check_isolated_changes();
	}
	dvmq_ports_close();
	CU_ASSERT_EQUAL(n_rules(), 0); /* nothing is left in the NIC */

	/* tap has rules of its own from the start, which it removes only once it has queues. */
	add_isolated(2);
	nic.driver = "net_tap";
	if (open_ports()) {
		CU_ASSERT_EQUAL(flow_nic.n_isolated, 1);
		CU_ASSERT_EQUAL(flow_nic.set_up_by_then, 2);
	}
	dvmq_ports_close();
	nic.driver = NULL;

	add_isolated(2); /* who does not want it does not get it */
	confs[0].isolated = false;
	add_port("web1", 1);
	if (open_ports()) {
		CU_ASSERT_EQUAL(flow_nic.n_isolated, 0);
		CU_ASSERT_EQUAL(n_rules(), 1);
		CU_ASSERT_EQUAL(queue_of(1, 0, 0), 1);
	}
	dvmq_ports_close();
	memset(&flow_nic, 0, sizeof(flow_nic));
}

static void test_isolated_refused(void)
{
	add_isolated(2);
	flow_nic.plays = false; /* a driver that knows nothing of it */
	CU_ASSERT_TRUE(dvmq_ports_open(&conf, &err) < 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "up0: isolated = yes, but net_ring_up"));
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text,
				      " cannot be isolated: Function not implemented (Function not implemented); "
				      "set isolated = no"));
	dvmq_ports_close();

	add_isolated(2);
	flow_nic.refuses_isolation = "not today";
	CU_ASSERT_TRUE(dvmq_ports_open(&conf, &err) < 0);
	CU_ASSERT_PTR_NOT_NULL(
	    strstr(err.text, " cannot be isolated: not today (Device or resource busy); set isolated = no"));
	dvmq_ports_close();

	add_isolated(2);
	flow_nic.refuses_priority = "all are equal";
	CU_ASSERT_TRUE(dvmq_ports_open(&conf, &err) < 0);
	CU_ASSERT_STRING_EQUAL(err.text,
			       "uplink up0: isolated = yes: the driver refuses the rule: all are equal (Operation not "
			       "supported); set isolated = no");
	dvmq_ports_close();
	CU_ASSERT_EQUAL(n_rules(), 0);

	add_isolated(1); /* as without it, none is left for a port */
	CU_ASSERT_TRUE(dvmq_ports_open(&conf, &err) < 0);
	CU_ASSERT_STRING_EQUAL(err.text,
			       "uplink up0: isolated = yes: queues = 1 leaves no queue beside the default one; set "
			       "isolated = no");
	dvmq_ports_close();
	CU_ASSERT_EQUAL(rte_eth_dev_count_avail(), 0); /* nothing of them is left */
	memset(&flow_nic, 0, sizeof(flow_nic));
}

/* ---- VMDq ---- */

/* The RX queues of pools, as each driver documents them. */
static void test_vmdq_layout(void)
{
	static const struct {
		const char *driver;
		unsigned pools, queue_num, queue_base, pool_base; /* what the driver says of itself */
		unsigned wanted, n, max, n_eth, to_configure;     /* what has to come of it */
		uint16_t queue[3];                                /* of pool 0, 1 and the last one */
	} nics[] = {
		{"net_e1000_igb", 8, 16, 0, 0, 8, 8, 8, 8, 8, {0, 1, 7}},         /* 82576: one queue of two */
		{"net_e1000_igb", 8, 8, 0, 0, 16, 8, 8, 8, 8, {0, 1, 7}},         /* i350; more wanted than there are */
		{"net_ixgbe", 64, 128, 0, 0, 16, 16, 64, 32, 16, {0, 2, 30}},     /* 82599: two queues for a pool */
		{"net_ixgbe", 64, 128, 0, 0, 100, 64, 64, 128, 64, {0, 2, 126}},
		{"net_txgbe", 64, 128, 0, 0, 64, 64, 64, 128, 64, {0, 2, 126}},
		{"net_i40e", 32, 128, 64, 1, 8, 8, 33, 92, 7, {0, 64, 88}},       /* 4 queues each, behind those of the PF */
		{"net_i40e", 63, 252, 64, 1, 200, 64, 64, 316, 63, {0, 64, 312}}, /* the last pool number is 63 */
		{"net_bnxt", 64, 128, 0, 0, 10, 10, 64, 10, 10, {0, 1, 9}},       /* as many as are configured: one each */
	};
	struct dvmq_port_conf port = {.steering = DVMQ_STEER_VMDQ};
	struct rte_eth_dev_info info = {.rx_offload_capa = RTE_ETH_RX_OFFLOAD_VLAN_FILTER};
	struct dvmq_rx_layout layout;

	for (unsigned i = 0; i < RTE_DIM(nics); i++) {
		struct rte_eth_conf eth = {0};

		info.driver_name = nics[i].driver;
		info.max_vmdq_pools = nics[i].pools;
		info.vmdq_queue_num = nics[i].queue_num;
		info.vmdq_queue_base = nics[i].queue_base;
		info.vmdq_pool_base = nics[i].pool_base;
		port.queues = nics[i].wanted;
		CU_ASSERT_EQUAL_FATAL(dvmq_vmdq_layout(&info, &port, &layout, &err), 0);
		CU_ASSERT_EQUAL(layout.n, nics[i].n);
		CU_ASSERT_EQUAL(layout.max, nics[i].max);
		CU_ASSERT_EQUAL(layout.n_eth, nics[i].n_eth);
		CU_ASSERT_EQUAL(dvmq_rx_queue(&layout, 0), nics[i].queue[0]);
		CU_ASSERT_EQUAL(dvmq_rx_queue(&layout, 1), nics[i].queue[1]);
		CU_ASSERT_EQUAL(dvmq_rx_queue(&layout, layout.n - 1), nics[i].queue[2]);
		dvmq_vmdq_conf(&info, &layout, &eth);
		CU_ASSERT_EQUAL(eth.rxmode.mq_mode, RTE_ETH_MQ_RX_VMDQ_ONLY);
		CU_ASSERT_EQUAL(eth.rx_adv_conf.vmdq_rx_conf.nb_queue_pools, nics[i].to_configure);
		CU_ASSERT_EQUAL(eth.rx_adv_conf.vmdq_rx_conf.enable_default_pool, 1);
		CU_ASSERT_EQUAL(eth.rx_adv_conf.vmdq_rx_conf.default_pool, 0);
		CU_ASSERT_EQUAL(eth.rx_adv_conf.vmdq_rx_conf.enable_loop_back, 0);
		CU_ASSERT_EQUAL(eth.rx_adv_conf.vmdq_rx_conf.rx_mode,
				RTE_ETH_VMDQ_ACCEPT_UNTAG | RTE_ETH_VMDQ_ACCEPT_BROADCAST | RTE_ETH_VMDQ_ACCEPT_MULTICAST |
					RTE_ETH_VMDQ_ACCEPT_HASH_MC);
		/* i40e would match MAC and VLAN with it, bnxt has none of its own */
		CU_ASSERT_EQUAL(eth.rxmode.offloads != 0,
				strcmp(info.driver_name, "net_i40e") != 0 && strcmp(info.driver_name, "net_bnxt") != 0);
	}
	port.queues = 1;
	CU_ASSERT_EQUAL(dvmq_vmdq_layout(&info, &port, &layout, &err), -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "queues = 1"));
	port.queues = 8;
	info.max_vmdq_pools = 0; /* i210, i211 */
	CU_ASSERT_EQUAL(dvmq_vmdq_layout(&info, &port, &layout, &err), -ENOTSUP);
	info.max_vmdq_pools = 8;
	info.driver_name = "net_dpaa2"; /* says that it has pools */
	CU_ASSERT_EQUAL(dvmq_vmdq_layout(&info, &port, &layout, &err), -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "net_dpaa2"));
	info.driver_name = "net_e1000_igb"; /* not to be trusted without being told */
	port.steering = DVMQ_STEER_AUTO;
	CU_ASSERT_EQUAL(dvmq_vmdq_layout(&info, &port, &layout, &err), -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "IGMAC"));
}

/* A frame to all into an RX queue of the uplink. */
static void feed_broadcast(unsigned queue)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
	uint8_t *data;

	CU_ASSERT_PTR_NOT_NULL_FATAL(m);
	data = rte_pktmbuf_mtod(m, uint8_t *);
	m->data_len = m->pkt_len = 64;
	memset(data, 0, 64);
	memset(data, 0xff, 6);
	data[6] = 0x02;
	data[11] = 0xee;
	data[12] = 0x08;
	CU_ASSERT_EQUAL_FATAL(rte_eth_tx_burst(dvmq_port_find("up0")->eth_id, queue, &m, 1), 1);
}

static bool await_received(uint64_t n)
{
	const struct dvmq_port *up = dvmq_port_find("up0");
	struct timespec deadline = deadline_from_now();

	while (dvmq_stats_collect()->port[up->index].rx_packets < n && !is_over(&deadline))
		sched_yield();
	return dvmq_stats_collect()->port[up->index].rx_packets == n;
}

static uint64_t replicas(void)
{
	return dvmq_stats_collect()->port[dvmq_port_find("up0")->index].drop[DVMQ_DROP_REPLICA];
}

static bool pool_is(unsigned number, unsigned mac)
{
	const uint8_t wanted[6] = {mac == 0 ? 0 : 0x02, 0, 0, 0, 0, mac};

	return memcmp(&nic.mac[number], wanted, sizeof(wanted)) == 0;
}

static void check_vmdq_traffic(void)
{
	/* What the NIC sorted, and what came to the default pool. */
	feed(1, 1, 0, 10);
	feed(2, 2, 100, 20);
	feed(0, 5, 0, 5);
	CU_ASSERT_TRUE(await_sent("web1", 10));
	CU_ASSERT_TRUE(await_sent("web2", 20));
	CU_ASSERT_TRUE(await_sent("web5", 5));

	/* A group: the default pool's is flooded, the NIC's copies are not, and no port gets two. */
	for (unsigned i = 0; i < 4; i++)
		feed_broadcast(i);
	CU_ASSERT_TRUE(await_received(39));
	CU_ASSERT_TRUE(await_sent("web1", 11));
	CU_ASSERT_TRUE(await_sent("web3", 1));
	CU_ASSERT_TRUE(await_sent("web5", 6));
	CU_ASSERT_EQUAL(sent_to("web2"), 20); /* in another VLAN */
	CU_ASSERT_EQUAL(replicas(), 3);
	check_sum();

	/* The MAC of web2 in the VLAN of web4: its pool brings it, and it goes where that VLAN has it. */
	feed(2, 2, 200, 7);
	CU_ASSERT_TRUE(await_sent("web4", 7));
	CU_ASSERT_EQUAL(sent_to("web2"), 20);
	check_sum();
}

static bool shares_mac(const char *port, const char *other)
{
	char reason[128];

	snprintf(reason, sizeof(reason), "port %s: a rule without VLAN would take that one's frames, too", other);
	return binding_of(port)->n == 0 && strcmp(binding_of(port)->reason, reason) == 0;
}

/* A pool goes by the MAC alone: of ports that share one nobody has a pool. */
static void test_vmdq_one_mac(void)
{
	nic = (struct nic){.driver = "net_e1000_igb", .pools = 8, .queue_num = 8};
	add_uplink(8, DVMQ_STEER_VMDQ);
	add_port("web1", 1);
	add_port("web2", 1)->vlan = 100;
	if (open_ports()) {
		CU_ASSERT_TRUE(shares_mac("web1", "web2 has its MAC in VLAN 100"));
		CU_ASSERT_TRUE(shares_mac("web2", "web1 has its MAC untagged"));
		CU_ASSERT_EQUAL(nic.n_added, 1); /* as long as it was the only one */
		CU_ASSERT_EQUAL(nic.n_removed, 1);
		feed(0, 1, 0, 10);
		feed(0, 1, 100, 20);
		CU_ASSERT_TRUE(await_sent("web1", 10));
		CU_ASSERT_TRUE(await_sent("web2", 20));
		check_sum();
		CU_ASSERT_EQUAL(dvmq_set_port_vmq("web2", 1, &err), -ENOSPC);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "port web1 has its MAC untagged"));
		CU_ASSERT_EQUAL(dvmq_port_del("web1", &err), 0);
		CU_ASSERT_EQUAL(dvmq_set_port_vmq("web2", 1, &err), 0);
		CU_ASSERT_TRUE(pool_is(1, 1));

		add_port("web3", 1)->vlan = 200; /* no better than untagged */
		CU_ASSERT_EQUAL(dvmq_port_add(&confs[3], &err), 0);
		CU_ASSERT_TRUE(shares_mac("web2", "web3 has its MAC in VLAN 200"));
		CU_ASSERT_TRUE(shares_mac("web3", "web2 has its MAC in VLAN 100"));
		CU_ASSERT_TRUE(pool_is(1, 0));
	}
	dvmq_ports_close();
	nic = (struct nic){0};
}

static void check_vmdq_changes(void)
{
	/* A pool that is free has copies of groups, and maybe the last frames of the port that had it. */
	CU_ASSERT_EQUAL(dvmq_port_del("web1", &err), 0);
	CU_ASSERT_EQUAL(nic.n_removed, 1);
	CU_ASSERT_TRUE(pool_is(1, 0));
	feed_broadcast(1);
	feed(1, 5, 0, 5);
	CU_ASSERT_TRUE(await_sent("web5", 11));
	CU_ASSERT_EQUAL(replicas(), 4);
	check_sum();

	/* A port without a pool gets it when it is asked for; a refusal says why. */
	nic.add_returns = -ENOSPC;
	CU_ASSERT_EQUAL(dvmq_vmq_set(dvmq_port_find("up0"), dvmq_port_find("web5"), 1), -ENOSPC);
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web5")->reason, "table of MACs is full"));
	nic.add_returns = 0;
	CU_ASSERT_EQUAL(dvmq_vmq_set(dvmq_port_find("up0"), dvmq_port_find("web5"), 1), 0);
	CU_ASSERT_TRUE(pool_is(1, 5));
	CU_ASSERT_EQUAL(dvmq_vmq_set(dvmq_port_find("up0"), dvmq_port_find("web5"), 0), 0);
	CU_ASSERT_TRUE(pool_is(1, 0));

	/* Several pools for a port there are none: it gets one. */
	CU_ASSERT_EQUAL(dvmq_port_del("web3", &err), 0);
	CU_ASSERT_EQUAL(dvmq_vmq_set(dvmq_port_find("up0"), dvmq_port_find("web5"), 2), -ENOSPC);
	CU_ASSERT_EQUAL(binding_of("web5")->n, 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(binding_of("web5")->reason, "one queue only: a VMDq pool has one queue"));
}

static void test_vmdq(void)
{
	nic = (struct nic){.driver = "net_e1000_igb", .pools = 4, .queue_num = 8, .vlan_offload = -1};
	add_uplink(8, DVMQ_STEER_VMDQ); /* more than there are */
	add_port("web1", 1);
	add_port("web2", 2)->vlan = 100;
	add_port("web4", 4)->vlan = 200;
	confs[3].has_mac = false; /* and it gets no pool */
	add_port("web3", 3);
	add_port("web5", 5);
	if (open_ports()) {
		CU_ASSERT_EQUAL(dvmq_port_find("up0")->n_queues, 4);
		CU_ASSERT_EQUAL(nic.n_rxq, 4);
		CU_ASSERT_EQUAL(nic.conf.rx_adv_conf.vmdq_rx_conf.nb_queue_pools, 4);
		CU_ASSERT_EQUAL(nic.n_drop_en, 4);
		CU_ASSERT_TRUE(nic.allmulticast);
		CU_ASSERT_EQUAL(nic.n_multicast, 4096);
		CU_ASSERT_EQUAL(nic.vlan_offload, 0); /* off again */
		CU_ASSERT_EQUAL(nic.n_added, 3);
		CU_ASSERT_TRUE(pool_is(1, 1) && pool_is(2, 2) && pool_is(3, 3));
		CU_ASSERT_EQUAL(binding_of("web2")->n, 1);
		CU_ASSERT_TRUE(binding_of("web2")->accepted);
		CU_ASSERT_EQUAL(binding_of("web5")->n, 0);
		CU_ASSERT_STRING_EQUAL(binding_of("web5")->reason, "all 3 queues of up0 are taken; the NIC has no more");
		for (unsigned i = 0; i < 4; i++)
			CU_ASSERT_TRUE(await_owner(dvmq_port_find("up0")->queues[i]->name));
		check_vmdq_traffic();
		check_vmdq_changes();
	}
	dvmq_ports_close();
	CU_ASSERT_TRUE(pool_is(1, 0) && pool_is(2, 0) && pool_is(3, 0)); /* nothing is left in the NIC */

	nic = (struct nic){.driver = "net_ixgbe", .pools = 64, .queue_num = 128}; /* pool 1 is queue 2 */
	add_uplink(2, DVMQ_STEER_VMDQ);
	if (open_ports()) {
		feed_broadcast(2); /* a pool that nobody has had yet */
		CU_ASSERT_TRUE(await_received(1));
		CU_ASSERT_EQUAL(replicas(), 1);
		add_port("web1", 1);
		CU_ASSERT_EQUAL(dvmq_port_add(&confs[1], &err), 0);
		CU_ASSERT_EQUAL(nic.n_rxq, 4);
		CU_ASSERT_TRUE(pool_is(1, 1));
		CU_ASSERT_TRUE(await_owner("up0/rx1"));
		feed(2, 1, 0, 10);
		CU_ASSERT_TRUE(await_sent("web1", 10));
		CU_ASSERT_EQUAL(taken_by("up0/rx1"), 11);
		check_sum();
	}
	dvmq_ports_close();
	nic = (struct nic){0};
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"rule: MAC", test_rule_mac},
	    {"rule: MAC and VLAN", test_rule_mac_vlan},
	    {"rule: groups", test_rule_groups},
	    {"which backend", test_choice},
	    {"static", test_static},
	    {"software", test_software},
	    {"software: changes hands", test_software_swap},
	    {"software: one core", test_software_one_core},
	    {"number of soft queues", test_software_number},
	    {"by hand", test_by_hand},
	    {"two uplinks", test_two_uplinks},
	    {"soft rings: waits for workers", test_software_rcu},
	    {"ports: waits for workers", test_port_rcu},
	    {"software, a worker does not answer", test_software_late},
	    {"VMDq: pools and queues", test_vmdq_layout},
	    {"VMDq", test_vmdq},
	    {"VMDq, one MAC", test_vmdq_one_mac},
	    {"isolated", test_isolated},
	    {"isolated, refused", test_isolated_refused},
	    CU_TEST_INFO_NULL,
	};
	int ret = EXIT_FAILURE;

	if (workers_start(WORKERS))
		ret = unit_run("steering", tests);
	else
		fprintf(stderr, "%s\n", err.text);
	workers_stop();
	return ret;
}
