/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which ports have queues of their own on which uplink, and the change from one
 * set of queues to another.
 *
 * The trap in every change: packets that took the old path must not be overtaken
 * by later ones on the new path.
 *
 *   to the default queue   Soft rings are opened for the port, polled by nobody: what the default queues
 *                          bring from now on waits there.  The rule goes; the port's queues are drained
 *                          and taken from their workers; then the rings are emptied and shut.
 *   to queues of its own   They are taken from their workers; the rule is made; what it steers waits in
 *                          them.  The default queues are drained; then the queues are polled.
 *   to other queues        The first, then the second, and the rings are emptied in between.
 *
 * Nobody else stops meanwhile, and each step takes a few loops of the workers concerned.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <dvmq/control.h>
#include <dvmq/fdb.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

static bool is_steering(const struct dvmq_port *port)
{
	return port != NULL && port->type == DVMQ_PORT_UPLINK && port->steer != NULL && port->steer->ops != NULL;
}

static struct dvmq_binding *binding_of(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	return &uplink->steer->bindings[port->index];
}

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

static void make_default(struct dvmq_queue *queue)
{
	queue->kind = DVMQ_QUEUE_DEFAULT;
	queue->poll = queue->replicas ? dvmq_poll_spare : dvmq_poll_default;
	queue->dst = NULL;
}

void dvmq_queue_to_default(struct dvmq_queue *queue)
{
	make_default(queue);
	dvmq_queue_start(queue);
}

/* ---- the steps of a change ---- */

/* Queue 0 stays a default queue.  How many of n free ones there are. */
static unsigned choose(const struct dvmq_port *uplink, uint16_t *queues, unsigned n)
{
	unsigned found = 0;

	for (unsigned i = 1; i < uplink->n_queues && found < n; i++)
		if (uplink->queues[i]->kind == DVMQ_QUEUE_DEFAULT)
			queues[found++] = i;
	return found;
}

static int take_from_workers(struct dvmq_port *uplink, const uint16_t *queues, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (dvmq_queue_hand_wait(uplink->queues[queues[i]], NULL) < 0)
			return -ETIMEDOUT;
	return 0;
}

static void start_free_queues(struct dvmq_port *uplink)
{
	for (unsigned i = 0; i < uplink->n_queues; i++)
		if (uplink->queues[i]->kind == DVMQ_QUEUE_DEFAULT)
			dvmq_queue_start(uplink->queues[i]);
}

/* Whatever waits in the default queues now is delivered, or in the port's soft rings, when this returns. */
static void drain_default_queues(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	bool drained = true;

	for (unsigned i = 0; i < uplink->n_queues; i++)
		if (uplink->queues[i]->kind == DVMQ_QUEUE_DEFAULT && dvmq_queue_drain_wait(uplink->queues[i]) < 0)
			drained = false;
	if (!drained)
		DVMQ_LOG(WARNING, "port %s: a default queue of %s was not drained in time: its worker does not answer; packets may be reordered",
			 port->conf.name, uplink->conf.name);
}

/* The port's queues become free ones that nobody polls; what they hold is delivered. */
static int let_go(struct dvmq_port *uplink, struct dvmq_port *port)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	struct dvmq_err err;

	if (uplink->steer->ops->detach(uplink, port, &err) < 0) {
		DVMQ_LOG(ERR, "port %s on %s: %s; frames for it still go to its queues", port->conf.name, uplink->conf.name,
			 err.text);
		return -EIO;
	}
	for (unsigned i = 0; i < b->n; i++) {
		struct dvmq_queue *queue = uplink->queues[b->queues[i]];

		dvmq_queue_drain_wait(queue);
		if (dvmq_queue_hand_wait(queue, NULL) == 0)
			make_default(queue);
	}
	b->n = 0;
	b->accepted = false;
	return 0;
}

/* Steers the port to n free queues, which nobody polls yet.  How many it got; the binding says why not n. */
static unsigned get_queues(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	unsigned got = choose(uplink, b->queues, n);
	struct dvmq_err err = {0};

	if (got == 0) {
		snprintf(b->reason, sizeof(b->reason), "all %u queues of %s are taken; %s", uplink->n_queues - 1,
			 uplink->conf.name, uplink->rx.n < uplink->rx.max ? "raise its queues =" : "the NIC has no more");
		return 0;
	}
	if (take_from_workers(uplink, b->queues, got) < 0) {
		snprintf(b->reason, sizeof(b->reason), "a worker does not answer");
		return 0;
	}
	if (uplink->steer->ops->attach(uplink, port, b->queues, got, &err) == 0) {
		snprintf(b->reason, sizeof(b->reason), "%s: dst %02x:%02x:%02x:%02x:%02x:%02x%s",
			 dvmq_steering_name(uplink->steer->ops->steering), RTE_ETHER_ADDR_BYTES(&port->conf.mac),
			 port->vlan ? " and VLAN" : "");
		return got;
	}
	if (got > 1) {
		DVMQ_LOG(WARNING, "port %s on %s: %u queues: %s; trying one", port->conf.name, uplink->conf.name, got, err.text);
		got = uplink->steer->ops->attach(uplink, port, b->queues, 1, &err) == 0;
		snprintf(b->reason, sizeof(b->reason), "one queue only: %.230s", err.text);
		return got;
	}
	snprintf(b->reason, sizeof(b->reason), "%.250s", err.text);
	DVMQ_LOG(WARNING, "port %s on %s: %s; the default queue serves it", port->conf.name, uplink->conf.name, err.text);
	return 0;
}

/* ---- the change ---- */

static int set_nic_queues(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	bool had = b->n > 0;
	struct dvmq_err err;
	unsigned got = 0;

	if (had && !port->leaving && dvmq_soft_open(uplink, port, 1, &err) < 0) {
		snprintf(b->reason, sizeof(b->reason), "stays as it is: %.230s", err.text);
		return -ENOMEM;
	}
	if (had && let_go(uplink, port) < 0)
		n = 0;
	else if (n > 0)
		got = get_queues(uplink, port, n);
	if (got > 0)
		drain_default_queues(uplink, port);
	dvmq_soft_start(port);
	dvmq_soft_close(port);
	for (unsigned i = 0; i < got; i++)
		dvmq_queue_to_vmq(uplink->queues[b->queues[i]], port);
	if (b->n == 0) {
		b->n = got;
		b->accepted = got > 0;
	}
	start_free_queues(uplink);
	return got < n ? -ENOSPC : 0;
}

static int set_soft_queues(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n)
{
	struct dvmq_err err;

	dvmq_soft_close(port);
	if (n == 0)
		return 0;
	if (dvmq_soft_open(uplink, port, n, &err) < 0) {
		snprintf(binding_of(uplink, port)->reason, sizeof(err.text), "%s", err.text);
		return -ENOMEM;
	}
	dvmq_soft_start(port);
	return 0;
}

int dvmq_vmq_set(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n)
{
	if (uplink->steer->ops == &dvmq_steer_software)
		return set_soft_queues(uplink, port, n);
	return set_nic_queues(uplink, port, n);
}

/* ---- ports that come and go ---- */

static void bind_port(struct dvmq_port *uplink, struct dvmq_port *port)
{
	struct dvmq_binding *b = binding_of(uplink, port);

	*b = (struct dvmq_binding){.by_default = dvmq_stats_collect()->port[port->index].by_default};
	if (uplink->steer->ops->bind != NULL) {
		uplink->steer->ops->bind(uplink, port, b);
		return;
	}
	b->requested = 1;
	if (port->conf.has_mac)
		dvmq_vmq_set(uplink, port, 1);
	else
		snprintf(b->reason, sizeof(b->reason), "no mac = in its section: no rule can name it");
}

static void unbind_port(struct dvmq_port *uplink, struct dvmq_port *port)
{
	if (uplink->steer->ops->unbind != NULL)
		uplink->steer->ops->unbind(uplink, port);
	else if (binding_of(uplink, port)->n > 0)
		dvmq_vmq_set(uplink, port, 0);
}

void dvmq_vmq_bind(struct dvmq_port *port)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_steering(dvmq_ports[i]))
			bind_port(dvmq_ports[i], port);
}

void dvmq_vmq_unbind(struct dvmq_port *port)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_steering(dvmq_ports[i]))
			unbind_port(dvmq_ports[i], port);
}

void dvmq_vmq_close(struct dvmq_port *uplink)
{
	if (!is_steering(uplink))
		return;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK)
			unbind_port(uplink, dvmq_ports[i]);
}

void dvmq_vmq_tick(uint64_t now_ms)
{
	dvmq_soft_tick(now_ms);
}
