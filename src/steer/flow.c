/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering by rte_flow: one rule per port, destination MAC (and VLAN) to a queue.
 * What no rule takes goes to queue 0, so that one stays a default queue.
 *
 * The trap: when a rule starts to work, older packets of the port may still wait
 * in queue 0.  So the port's queue is not polled until the default queue was
 * seen empty, or a whole ring of it was taken, after the rule was made.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <rte_errno.h>

#include <dvmq/control.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

#define DRAIN_MS 50 /* a default queue that does not get that far is too far behind for order to matter more */

void dvmq_flow_spec(const struct dvmq_port_conf *port, uint16_t queue, struct dvmq_flow_spec *spec)
{
	unsigned n = 0;

	memset(spec, 0, sizeof(*spec));
	spec->attr.ingress = 1;
	spec->eth.hdr.dst_addr = port->mac;
	memset(&spec->eth_mask.hdr.dst_addr, 0xff, sizeof(spec->eth_mask.hdr.dst_addr));
	spec->items[n++] = (struct rte_flow_item){
		.type = RTE_FLOW_ITEM_TYPE_ETH, .spec = &spec->eth, .mask = &spec->eth_mask};
	if (port->vlan != 0) {
		spec->vlan.hdr.vlan_tci = rte_cpu_to_be_16(port->vlan);
		spec->vlan_mask.hdr.vlan_tci = RTE_BE16(0x0fff); /* the VID; any priority */
		spec->items[n++] = (struct rte_flow_item){
			.type = RTE_FLOW_ITEM_TYPE_VLAN, .spec = &spec->vlan, .mask = &spec->vlan_mask};
	}
	spec->items[n].type = RTE_FLOW_ITEM_TYPE_END;
	spec->queue.index = queue;
	spec->actions[0] = (struct rte_flow_action){.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &spec->queue};
	spec->actions[1].type = RTE_FLOW_ACTION_TYPE_END;
}

static int refused(const struct rte_flow_error *error, int ret, struct dvmq_err *err)
{
	return dvmq_fail(err, ret < 0 ? -ret : EIO, "the driver refuses the rule: %s (%s)",
			 error->message != NULL ? error->message : "no reason given", strerror(ret < 0 ? -ret : EIO));
}

/* Some drivers (tap) validate what they then cannot create. */
static struct rte_flow *create(struct dvmq_port *uplink, const struct dvmq_port_conf *port, uint16_t queue,
			       struct dvmq_err *err)
{
	struct rte_flow_error error = {0};
	struct dvmq_flow_spec spec;
	struct rte_flow *rule;
	int ret;

	dvmq_flow_spec(port, queue, &spec);
	ret = rte_flow_validate(uplink->eth_id, &spec.attr, spec.items, spec.actions, &error);
	if (ret < 0) {
		refused(&error, ret, err);
		return NULL;
	}
	rule = rte_flow_create(uplink->eth_id, &spec.attr, spec.items, spec.actions, &error);
	if (rule == NULL)
		refused(&error, -rte_errno, err);
	return rule;
}

static int probe(struct dvmq_port *uplink, struct dvmq_err *err)
{
	struct dvmq_port_conf example = {.mac = {{0x02, 0, 0, 0, 0, 1}}};
	struct rte_flow *rule;

	if (uplink->conf.queues < 2)
		return dvmq_fail(err, EINVAL, "queues = %u leaves no queue beside the default one", uplink->conf.queues);
	rule = create(uplink, &example, 1, err);
	if (rule == NULL)
		return -errno;
	rte_flow_destroy(uplink->eth_id, rule, &(struct rte_flow_error){0});
	return 0;
}

static int free_queue(const struct dvmq_port *uplink)
{
	for (unsigned i = 1; i < uplink->n_queues; i++)
		if (uplink->queues[i]->kind == DVMQ_QUEUE_DEFAULT)
			return (int)i;
	return -1;
}

static uint64_t get(_Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void await_drain(struct dvmq_port *uplink)
{
	struct dvmq_queue_counters *c = &uplink->queues[0]->counters;
	struct dvmq_worker *owner = atomic_load_explicit(&uplink->queues[0]->owner, memory_order_acquire);
	uint64_t emptied = get(&c->emptied), packets = get(&c->packets);
	uint64_t ring = atomic_load_explicit(&c->capacity, memory_order_relaxed);
	uint64_t deadline = dvmq_now_ms() + DRAIN_MS;

	if (owner == NULL)
		return;
	dvmq_worker_wake(owner);
	while (get(&c->emptied) == emptied && (ring == 0 || get(&c->packets) - packets < ring) && dvmq_now_ms() < deadline)
		nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

static void bind_port(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_binding *binding)
{
	int queue = free_queue(uplink);
	struct dvmq_err err;

	binding->requested = 1;
	if (!port->conf.has_mac) {
		snprintf(binding->reason, sizeof(binding->reason), "no mac = in its section: no rule can name it");
		return;
	}
	if (queue < 0) {
		snprintf(binding->reason, sizeof(binding->reason), "all %u queues of %s are taken; raise its queues =",
			 uplink->n_queues, uplink->conf.name);
		return;
	}
	if (dvmq_queue_hand_wait(uplink->queues[queue], NULL) < 0)
		return;
	/* The queue is polled by nobody meanwhile. */
	uplink->steer->rules[queue] = create(uplink, &port->conf, queue, &err);
	if (uplink->steer->rules[queue] == NULL) {
		snprintf(binding->reason, sizeof(binding->reason), "%.250s", err.text);
		DVMQ_LOG(WARNING, "port %s on %s: %s; the default queue serves it", port->conf.name, uplink->conf.name, err.text);
		dvmq_queue_to_default(uplink->queues[queue]);
		return;
	}
	await_drain(uplink);
	dvmq_queue_to_vmq(uplink->queues[queue], port);
	binding->accepted = true;
	binding->effective = 1;
	snprintf(binding->reason, sizeof(binding->reason), "flow rule dst %02x:%02x:%02x:%02x:%02x:%02x%s",
		 RTE_ETHER_ADDR_BYTES(&port->conf.mac), port->vlan ? " and VLAN" : "");
}

static void unbind_port(struct dvmq_port *uplink, struct dvmq_port *port)
{
	struct rte_flow_error error = {0};

	for (unsigned i = 1; i < uplink->n_queues; i++) {
		if (uplink->queues[i]->dst != port)
			continue;
		if (uplink->steer->rules[i] != NULL && rte_flow_destroy(uplink->eth_id, uplink->steer->rules[i], &error) < 0)
			DVMQ_LOG(ERR, "port %s on %s: its rule cannot be removed: %s; frames for it still go to queue %u",
				 port->conf.name, uplink->conf.name, error.message ? error.message : "no reason given", i);
		uplink->steer->rules[i] = NULL;
		if (dvmq_queue_hand_wait(uplink->queues[i], NULL) == 0)
			dvmq_queue_to_default(uplink->queues[i]);
	}
}

const struct dvmq_steer_ops dvmq_steer_flow = {
	.steering = DVMQ_STEER_FLOW,
	.probe = probe,
	.bind = bind_port,
	.unbind = unbind_port,
};
