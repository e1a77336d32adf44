/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering by somebody else: `ethtool -N` below AF_XDP, a switchdev, the peer of
 * a memif.  The configuration says which queue is whose; what arrives on it goes
 * to that port unseen.
 */
#include <stdio.h>

#include <dvmq/control.h>
#include <dvmq/steer.h>

static void bind_port(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_binding *binding)
{
	const struct dvmq_port_conf *conf = &port->conf;

	if (!conf->has_vmq) {
		snprintf(binding->reason, sizeof(binding->reason), "no vmq = in its section: served by the default queue");
		return;
	}
	binding->requested = conf->vmq_last - conf->vmq_first + 1;
	for (unsigned i = conf->vmq_first; i <= conf->vmq_last && binding->n < DVMQ_MAX_PAIRS; i++) {
		if (i >= uplink->n_queues) {
			snprintf(binding->reason, sizeof(binding->reason), "%s has no queue %u, only 0-%u", uplink->conf.name, i,
				 uplink->n_queues - 1);
			return;
		}
		/* Same ring before and after: no packet can overtake another. */
		if (dvmq_queue_hand_wait(uplink->queues[i], NULL) < 0)
			continue;
		dvmq_queue_to_vmq(uplink->queues[i], port);
		binding->queues[binding->n++] = i;
	}
	binding->accepted = true;
	snprintf(binding->reason, sizeof(binding->reason), "set in the configuration");
}

static void unbind_port(struct dvmq_port *uplink, struct dvmq_port *port)
{
	for (unsigned i = 0; i < uplink->n_queues; i++)
		if (uplink->queues[i]->dst == port && dvmq_queue_hand_wait(uplink->queues[i], NULL) == 0)
			dvmq_queue_to_default(uplink->queues[i]);
}

const struct dvmq_steer_ops dvmq_steer_static = {
	.steering = DVMQ_STEER_STATIC,
	.bind = bind_port,
	.unbind = unbind_port,
};
