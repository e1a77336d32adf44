/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering in software: any NIC, one or several RSS queues.  All of them are
 * default queues; a port that makes one of them hot gets a soft queue, a ring
 * that the owners of the default queues fill and another core may empty.  A cold
 * port is delivered inline with no hop.
 *
 * Order: turning it on is safe by itself, since a default queue is empty-handed
 * between turns; turning it off drains, see dvmq_soft_drain().
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_malloc.h>
#include <rte_rcu_qsbr.h>
#include <rte_ring.h>

#include <dvmq/control.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

#define RING_SIZE   2048 /* packets */
#define HOT         0.55 /* share of [balance] high that a default queue needs to be relieved of a port */
#define SHARE       0.20 /* of what default queues bring, that a port must have to be worth a hop */
#define COLD        0.05 /* demand of a soft queue, in cores, below which it is not worth one */
#define COLD_MS     2000 /* for that long */
#define LOOK_MS     200  /* between two changes: the first one's effect must be measured before the next */

static uint64_t cold_since[DVMQ_MAX_PORTS];
static uint64_t last_by_default[DVMQ_MAX_PORTS];

static void bind_port(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_binding *binding)
{
	(void)uplink;
	(void)port;
	binding->requested = 1;
	snprintf(binding->reason, sizeof(binding->reason), "served inline: not hot on the default queue");
}

static struct dvmq_queue *new_queue(struct dvmq_port *uplink, struct dvmq_port *port, unsigned i,
				    struct dvmq_soft_ring *soft, struct dvmq_err *err)
{
	struct dvmq_queue *queue = dvmq_queue_new(port->conf.name, "soft", i, uplink->numa, err);
	char name[RTE_RING_NAMESIZE];

	if (queue == NULL)
		return NULL;
	snprintf(name, sizeof(name), "soft_%u_%u", port->index, queue->id % 100000);
	soft->ring = rte_ring_create(name, RING_SIZE, uplink->numa >= 0 ? uplink->numa : SOCKET_ID_ANY,
				     RING_F_SP_ENQ | RING_F_SC_DEQ);
	if (soft->ring == NULL) {
		dvmq_queue_free(queue);
		dvmq_fail(err, ENOMEM, "port %s: no memory for a soft ring; give DPDK more hugepages (or -m MiB)",
			  port->conf.name);
		return NULL;
	}
	rte_spinlock_init(&soft->lock);
	soft->open = true;
	queue->kind = DVMQ_QUEUE_SOFT;
	queue->poll = dvmq_poll_soft;
	queue->drain = dvmq_soft_drain;
	queue->port = uplink;
	queue->dst = port;
	queue->soft = soft;
	queue->countable = true;
	atomic_store(&queue->counters.capacity, rte_ring_get_capacity(soft->ring));
	return queue;
}

static void free_rings(struct dvmq_soft *soft)
{
	for (unsigned i = 0; i < soft->n; i++)
		rte_ring_free(soft->rings[i].ring);
	rte_free(soft);
}

int dvmq_soft_open(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n, struct dvmq_err *err)
{
	struct dvmq_soft *soft = rte_zmalloc("soft", sizeof(*soft) + n * sizeof(soft->rings[0]), 64);

	if (soft == NULL)
		return dvmq_fail(err, ENOMEM, "port %s: no memory for soft rings; give DPDK more hugepages (or -m MiB)",
				 port->conf.name);
	for (; soft->n < n; soft->n++) {
		struct dvmq_queue *queue = new_queue(uplink, port, soft->n, &soft->rings[soft->n], err);

		if (queue == NULL) {
			while (port->n_soft > 0)
				dvmq_queue_free(port->soft_queues[--port->n_soft]);
			free_rings(soft);
			return -ENOMEM;
		}
		port->soft_queues[port->n_soft++] = queue;
	}
	atomic_store_explicit(&port->soft, soft, memory_order_release);
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID); /* from here on every producer has seen it */
	return 0;
}

void dvmq_soft_start(struct dvmq_port *port)
{
	for (unsigned i = 0; i < port->n_soft; i++)
		dvmq_queue_start(port->soft_queues[i]);
}

void dvmq_soft_close(struct dvmq_port *port)
{
	struct dvmq_soft *soft = atomic_load_explicit(&port->soft, memory_order_relaxed);

	if (soft == NULL)
		return;
	while (port->n_soft > 0)
		dvmq_queue_free(port->soft_queues[--port->n_soft]); /* its worker drains and shuts it */
	atomic_store_explicit(&port->soft, NULL, memory_order_release);
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID); /* producers may still look at it */
	free_rings(soft);
}

static void unbind_port(struct dvmq_port *uplink, struct dvmq_port *port)
{
	if (port->n_soft > 0 && port->soft_queues[0]->port == uplink)
		dvmq_soft_close(port);
}

/* The default queue that needs most, if it needs relief. */
static struct dvmq_queue *hot_default_queue(const struct dvmq_port *uplink)
{
	struct dvmq_queue *hottest = NULL;

	for (unsigned i = 0; i < uplink->n_queues; i++)
		if (hottest == NULL || uplink->queues[i]->load->demand > hottest->load->demand)
			hottest = uplink->queues[i];
	return hottest != NULL && hottest->load->demand > HOT * dvmq_balancer_params()->high ? hottest : NULL;
}

/* The port with most packets from default queues since last time, and its share of them. */
static struct dvmq_port *hottest_port(double *ret_share)
{
	const struct dvmq_stats *stats = dvmq_stats_collect();
	struct dvmq_port *hottest = NULL;
	uint64_t sum = 0, most = 0;

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		uint64_t now = stats->port[i].by_default, packets = now - last_by_default[i];

		if (now < last_by_default[i])
			packets = now; /* a new port, or cleared */
		last_by_default[i] = now;
		sum += packets;
		if (packets > most && dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK &&
		    dvmq_ports[i]->n_soft == 0) {
			most = packets;
			hottest = dvmq_ports[i];
		}
	}
	*ret_share = sum ? (double)most / sum : 0;
	return hottest;
}

/* Takes the hottest port off the uplink's default queues, if they need it. */
static void relieve(struct dvmq_port *uplink, struct dvmq_port *port, double share)
{
	struct dvmq_queue *queue = hot_default_queue(uplink);
	char reason[DVMQ_BALANCE_REASON];

	if (queue == NULL || dvmq_n_workers < 2 || port->n_soft > 0)
		return;
	snprintf(reason, sizeof(reason), "%s needs %.2f cores, %.0f %% of it for this port", queue->name,
		 queue->load->demand, 100 * share);
	if (dvmq_vmq_set(uplink, port, 1) < 0)
		snprintf(reason, sizeof(reason), "%.*s", (int)sizeof(reason) - 1, uplink->steer->bindings[port->index].reason);
	dvmq_decide(port->n_soft > 0 ? "promote" : "refuse", port->conf.name, -1, -1, reason);
}

static double soft_demand(const struct dvmq_port *port)
{
	double demand = 0;

	for (unsigned i = 0; i < port->n_soft; i++)
		demand += port->soft_queues[i]->load->demand;
	return demand;
}

/* Cold soft queues go. */
static void retire(uint64_t now_ms)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *port = dvmq_ports[i];

		if (port == NULL || port->n_soft == 0 || soft_demand(port) > COLD) {
			cold_since[i] = now_ms;
			continue;
		}
		if (now_ms - cold_since[i] < COLD_MS)
			continue;
		dvmq_soft_close(port);
		dvmq_decide("demote", port->conf.name, -1, -1, "its soft queue needed less than 0.05 cores for 2 s");
	}
}

static bool is_software(const struct dvmq_port *port)
{
	return port != NULL && port->steer != NULL && port->steer->ops == &dvmq_steer_software;
}

static bool any_software_uplink(void)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_software(dvmq_ports[i]))
			return true;
	return false;
}

void dvmq_soft_tick(uint64_t now_ms)
{
	static uint64_t looked_ms;
	struct dvmq_port *port;
	double share;

	if (now_ms - looked_ms < LOOK_MS || !any_software_uplink())
		return;
	looked_ms = now_ms;
	retire(now_ms);
	port = hottest_port(&share);
	if (port == NULL || share < SHARE)
		return;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_software(dvmq_ports[i]))
			relieve(dvmq_ports[i], port, share);
}

const struct dvmq_steer_ops dvmq_steer_software = {
	.steering = DVMQ_STEER_SOFTWARE,
	.rx_mode = DVMQ_RX_RSS,
	.bind = bind_port,
	.unbind = unbind_port,
};
