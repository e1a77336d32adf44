/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering: how frames of a port reach a queue of their own.  A backend for each
 * way, behind one struct of operations.  Controller only.
 */
#ifndef DVMQ_STEER_H
#define DVMQ_STEER_H

#include <jansson.h>
#include <rte_flow.h>

#include <dvmq/port.h>

/* What a port has on an uplink, and why ("show vmq"). */
struct dvmq_binding {
	uint16_t requested, effective; /* queues of its own */
	bool accepted;                 /* the NIC took the rule, or the configuration says so */
	uint64_t by_default;           /* packets of the port that default queues brought before it was bound */
	char reason[256];
};

struct dvmq_steer_ops {
	enum dvmq_steering steering;

	/*
	 * After the uplink started: can its NIC do that?  0, or -errno with the
	 * driver's own words in err.  NULL: always.
	 */
	int (*probe)(struct dvmq_port *uplink, struct dvmq_err *err);

	/*
	 * Gives `port` queues of its own, as its configuration and what is free allow,
	 * and fills in the binding, also when it gives none.  A refusal is no error:
	 * the default queue serves the port and the binding says why.
	 */
	void (*bind)(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_binding *binding);
	void (*unbind)(struct dvmq_port *uplink, struct dvmq_port *port);
};

extern const struct dvmq_steer_ops dvmq_steer_flow, dvmq_steer_static, dvmq_steer_software;

/* An uplink's steering. */
struct dvmq_steer {
	const struct dvmq_steer_ops *ops;
	char reason[384];                             /* why this backend */
	struct dvmq_binding bindings[DVMQ_MAX_PORTS]; /* by port index */
	struct rte_flow *rules[DVMQ_MAX_RXQ];         /* flow: by queue */
};

/*
 * Chooses the backend of a started uplink: the one that the configuration names,
 * else the first of flow and software that the NIC can do.  0 or -errno with err.
 */
int dvmq_steer_open(struct dvmq_port *uplink, struct dvmq_err *err);
void dvmq_steer_close(struct dvmq_port *uplink); /* no rule is left in the NIC */

/* Binds, unbinds a port on all uplinks. */
void dvmq_steer_bind(struct dvmq_port *port);
void dvmq_steer_unbind(struct dvmq_port *port);

/*
 * The rule for a port as the NIC gets it: destination MAC, and the VLAN if the
 * port has one, to RX queue `queue`.  Pure; tests look at it.
 */
struct dvmq_flow_spec {
	struct rte_flow_attr attr;
	struct rte_flow_item items[3];
	struct rte_flow_action actions[2];
	struct rte_flow_item_eth eth, eth_mask;
	struct rte_flow_item_vlan vlan, vlan_mask;
	struct rte_flow_action_queue queue;
};
void dvmq_flow_spec(const struct dvmq_port_conf *port, uint16_t queue, struct dvmq_flow_spec *spec);

/*
 * Makes an uplink queue that nobody polls the port's own, or a default queue
 * again, and has it polled.
 */
void dvmq_queue_to_vmq(struct dvmq_queue *queue, struct dvmq_port *port);
void dvmq_queue_to_default(struct dvmq_queue *queue);

/* The soft queues of all software uplinks: turned on and off as the load on the default queues asks.  Each slow tick. */
void dvmq_soft_tick(uint64_t now_ms);

#endif
