/* SPDX-License-Identifier: BSD-3-Clause */
/* Which backend an uplink uses, and binding ports to it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dvmq/control.h>
#include <dvmq/fdb.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

void dvmq_queue_to_vmq(struct dvmq_queue *queue, struct dvmq_port *port)
{
	queue->kind = DVMQ_QUEUE_VMQ;
	queue->unproven = atomic_load(&queue->counters.packets) - atomic_load(&queue->counters.strays);
	queue->poll = dvmq_poll_vmq;
	queue->dst = port;
	queue->mac = dvmq_fdb_key(&port->conf.mac, 0);
	queue->mac_mask = port->conf.has_mac ? 0x0000ffffffffffffull : 0; /* as dvmq_fdb_key(): little-endian */
	dvmq_queue_start(queue);
}

void dvmq_queue_to_default(struct dvmq_queue *queue)
{
	queue->kind = DVMQ_QUEUE_DEFAULT;
	queue->poll = dvmq_poll_default;
	queue->dst = NULL;
	dvmq_queue_start(queue);
}

static const struct dvmq_steer_ops *ops_of(enum dvmq_steering steering)
{
	switch (steering) {
	case DVMQ_STEER_FLOW:
		return &dvmq_steer_flow;
	case DVMQ_STEER_STATIC:
		return &dvmq_steer_static;
	case DVMQ_STEER_SOFTWARE:
		return &dvmq_steer_software;
	default:
		return NULL;
	}
}

static int choose(struct dvmq_port *uplink, struct dvmq_err *err)
{
	struct dvmq_steer *steer = uplink->steer;
	struct dvmq_err why;

	steer->ops = ops_of(uplink->conf.steering);
	snprintf(steer->reason, sizeof(steer->reason), "set in the configuration");
	if (uplink->conf.steering == DVMQ_STEER_VMDQ)
		return dvmq_fail(err, ENOTSUP,
				 "uplink %s: this build has no VMDq backend; use steering = auto, flow, static or software",
				 uplink->conf.name);
	if (steer->ops != NULL) {
		if (steer->ops->probe == NULL || steer->ops->probe(uplink, &why) == 0)
			return 0;
		return dvmq_fail(err, ENOTSUP, "uplink %s: steering = %s: %s; use steering = auto or software",
				 uplink->conf.name, dvmq_steering_name(uplink->conf.steering), why.text);
	}
	if (dvmq_steer_flow.probe(uplink, &why) == 0) {
		steer->ops = &dvmq_steer_flow;
		snprintf(steer->reason, sizeof(steer->reason), "the NIC takes flow rules");
	} else {
		steer->ops = &dvmq_steer_software;
		snprintf(steer->reason, sizeof(steer->reason), "no flow rules: %.300s", why.text);
	}
	return 0;
}

int dvmq_steer_open(struct dvmq_port *uplink, struct dvmq_err *err)
{
	int ret;

	uplink->steer = calloc(1, sizeof(*uplink->steer));
	if (uplink->steer == NULL)
		return dvmq_fail(err, ENOMEM, "uplink %s: out of memory", uplink->conf.name);
	ret = choose(uplink, err);
	if (ret == 0)
		DVMQ_LOG(INFO, "uplink %s: steering %s (%s)", uplink->conf.name,
			 dvmq_steering_name(uplink->steer->ops->steering), uplink->steer->reason);
	return ret;
}

void dvmq_steer_close(struct dvmq_port *uplink)
{
	if (uplink->steer == NULL)
		return;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK && uplink->steer->ops != NULL)
			uplink->steer->ops->unbind(uplink, dvmq_ports[i]);
	free(uplink->steer);
	uplink->steer = NULL;
}

static bool is_steering(const struct dvmq_port *port)
{
	return port != NULL && port->type == DVMQ_PORT_UPLINK && port->steer != NULL && port->steer->ops != NULL;
}

void dvmq_steer_bind(struct dvmq_port *port)
{
	const struct dvmq_stats *stats = dvmq_stats_collect();

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_binding *binding;

		if (!is_steering(dvmq_ports[i]))
			continue;
		binding = &dvmq_ports[i]->steer->bindings[port->index];
		*binding = (struct dvmq_binding){.by_default = stats->port[port->index].by_default};
		dvmq_ports[i]->steer->ops->bind(dvmq_ports[i], port, binding);
	}
}

void dvmq_steer_unbind(struct dvmq_port *port)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_steering(dvmq_ports[i]))
			dvmq_ports[i]->steer->ops->unbind(dvmq_ports[i], port);
}
