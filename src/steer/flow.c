/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering by rte_flow: one rule per port, destination MAC (and VLAN) to a queue
 * or by RSS to several.  What no rule takes goes to queue 0.
 *
 * In isolated mode what no rule takes goes to the host.  So each port has a second rule, to queue 0, for as long as
 * it is there, and group frames have one.  Their priority is below that of rules to queues of a port: while one of
 * these comes or goes the other is there, and no two are ever the same to the NIC.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_ethdev.h>

#include <dvmq/control.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

#define ABOVE 0 /* priorities */
#define BELOW 1

static const uint16_t default_queue = 0;

void dvmq_flow_spec(const struct dvmq_port_conf *port, uint32_t priority, const uint16_t *queues, unsigned n,
		    uint64_t rss_types, struct dvmq_flow_spec *spec)
{
	static const struct rte_ether_addr group_bit = {{0x01}}, whole = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
	unsigned n_items = 0;

	memset(spec, 0, sizeof(*spec));
	spec->attr.ingress = 1;
	spec->attr.priority = priority;
	spec->eth.hdr.dst_addr = port != NULL ? port->mac : group_bit;
	spec->eth_mask.hdr.dst_addr = port != NULL ? whole : group_bit;
	spec->items[n_items++] = (struct rte_flow_item){
		.type = RTE_FLOW_ITEM_TYPE_ETH, .spec = &spec->eth, .mask = &spec->eth_mask};
	if (port != NULL && port->vlan != 0) {
		spec->vlan.hdr.vlan_tci = rte_cpu_to_be_16(port->vlan);
		spec->vlan_mask.hdr.vlan_tci = RTE_BE16(0x0fff); /* the VID; any priority */
		spec->items[n_items++] = (struct rte_flow_item){
			.type = RTE_FLOW_ITEM_TYPE_VLAN, .spec = &spec->vlan, .mask = &spec->vlan_mask};
	}
	spec->items[n_items].type = RTE_FLOW_ITEM_TYPE_END;
	spec->queue.index = queues[0];
	spec->rss = (struct rte_flow_action_rss){
		.func = RTE_ETH_HASH_FUNCTION_DEFAULT, .types = rss_types, .queue_num = n, .queue = queues};
	spec->actions[0] = n == 1 ? (struct rte_flow_action){.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &spec->queue} :
				    (struct rte_flow_action){.type = RTE_FLOW_ACTION_TYPE_RSS, .conf = &spec->rss};
	spec->actions[1].type = RTE_FLOW_ACTION_TYPE_END;
}

static int refused(const struct rte_flow_error *error, int ret, struct dvmq_err *err)
{
	return dvmq_fail(err, ret < 0 ? -ret : EIO, "the driver refuses the rule: %s (%s)",
			 error->message != NULL ? error->message : "no reason given", strerror(ret < 0 ? -ret : EIO));
}

/* By addresses and ports, as far as the NIC can. */
static uint64_t rss_types(const struct dvmq_port *uplink)
{
	struct rte_eth_dev_info info;

	if (rte_eth_dev_info_get(uplink->eth_id, &info) < 0)
		return 0;
	return info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP);
}

/* Some drivers (tap) validate what they then cannot create. */
static struct rte_flow *create(struct dvmq_port *uplink, const struct dvmq_port_conf *port, uint32_t priority,
			       const uint16_t *queues, unsigned n, struct dvmq_err *err)
{
	struct rte_flow_error error = {0};
	struct dvmq_flow_spec spec;
	struct rte_flow *rule;
	int ret;

	dvmq_flow_spec(port, priority, queues, n, n > 1 ? rss_types(uplink) : 0, &spec);
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

static int destroy(struct dvmq_port *uplink, struct rte_flow *rule, struct dvmq_err *err)
{
	struct rte_flow_error error = {0};
	int ret = rte_flow_destroy(uplink->eth_id, rule, &error);

	if (ret == 0)
		return 0;
	return dvmq_fail(err, -ret, "its rule cannot be removed: %s (%s)",
			 error.message != NULL ? error.message : "no reason given", strerror(-ret));
}

static struct dvmq_rule *base_of(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	return port != NULL ? &uplink->steer->bindings[port->index].base : &uplink->steer->groups;
}

int dvmq_flow_admit(struct dvmq_port *uplink, const struct dvmq_port *port, struct dvmq_err *err)
{
	struct dvmq_rule *base = base_of(uplink, port);

	if (base->flow != NULL)
		return 0;
	base->flow = create(uplink, port != NULL ? &port->conf : NULL, BELOW, &default_queue, 1, err);
	if (base->flow == NULL)
		return -errno;
	base->id = uplink->steer->next_rule++;
	return 0;
}

int dvmq_flow_expel(struct dvmq_port *uplink, const struct dvmq_port *port, struct dvmq_err *err)
{
	struct dvmq_rule *base = base_of(uplink, port);
	struct rte_flow *flow = base->flow;

	base->flow = NULL;
	return flow != NULL ? destroy(uplink, flow, err) : 0;
}

static int probe(struct dvmq_port *uplink, struct dvmq_err *err)
{
	struct dvmq_port_conf example = {.mac = {{0x02, 0, 0, 0, 0, 1}}};
	struct rte_flow *base = NULL, *rule;
	struct dvmq_err ignored;
	int ret;

	if (uplink->conf.queues < 2)
		return dvmq_fail(err, EINVAL, "queues = %u leaves no queue beside the default one", uplink->conf.queues);
	if (uplink->conf.isolated) {
		if (dvmq_flow_admit(uplink, NULL, err) < 0)
			return -errno;
		base = create(uplink, &example, BELOW, &default_queue, 1, err);
		if (base == NULL)
			return -errno;
	}
	rule = create(uplink, &example, ABOVE, &(uint16_t){1}, 1, err);
	ret = rule != NULL ? destroy(uplink, rule, err) : -errno;
	if (base != NULL && destroy(uplink, base, ret == 0 ? err : &ignored) < 0 && ret == 0)
		ret = -errno;
	return ret;
}

static int attach(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
		  struct dvmq_err *err)
{
	struct rte_flow *rule = create(uplink, &port->conf, ABOVE, queues, n, err);

	if (rule == NULL)
		return -errno;
	uplink->steer->bindings[port->index].rule = (struct dvmq_rule){rule, uplink->steer->next_rule++};
	return 0;
}

static int detach(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_err *err)
{
	struct dvmq_binding *binding = &uplink->steer->bindings[port->index];
	int ret = destroy(uplink, binding->rule.flow, err);

	if (ret == 0)
		binding->rule.flow = NULL;
	return ret;
}

const struct dvmq_steer_ops dvmq_steer_flow = {
	.steering = DVMQ_STEER_FLOW,
	.rx_mode = DVMQ_RX_PLAIN,
	.tells_vlan = true,
	.probe = probe,
	.attach = attach,
	.detach = detach,
};
