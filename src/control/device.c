/* SPDX-License-Identifier: BSD-3-Clause */
/* What happens to devices while they are in use: links that go down and come back, and resets. */
#include <errno.h>
#include <string.h>

#include <rte_ethdev.h>
#include <rte_rcu_qsbr.h>

#include <dvmq/control.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

#define LINK_MS  1000 /* links are looked at that often */
#define RETRY_MS 3000 /* a device that did not come back is tried again */

static bool is_device(const struct dvmq_port *port)
{
	return port != NULL && port->type != DVMQ_PORT_VHOST;
}

/* ---- links ---- */

static enum dvmq_link link_of(const struct dvmq_port *port, uint32_t *ret_speed)
{
	struct rte_eth_link link;

	*ret_speed = 0;
	if (!port->up)
		return DVMQ_LINK_LOST;
	if (!port->tells_link || rte_eth_link_get_nowait(port->eth_id, &link) < 0)
		return DVMQ_LINK_UNKNOWN;
	if (link.link_status == RTE_ETH_LINK_UP && link.link_speed != RTE_ETH_SPEED_NUM_UNKNOWN)
		*ret_speed = link.link_speed;
	return link.link_status == RTE_ETH_LINK_UP ? DVMQ_LINK_UP : DVMQ_LINK_DOWN;
}

static void look_at_link(struct dvmq_port *port)
{
	enum dvmq_link link = link_of(port, &port->speed);
	enum dvmq_tx tx = DVMQ_TX_ON;

	if (link == DVMQ_LINK_LOST)
		tx = DVMQ_TX_OFF;
	else if (link == DVMQ_LINK_DOWN)
		tx = port->refuses_tx ? DVMQ_TX_TRY : DVMQ_TX_OFF;
	atomic_store_explicit(&port->tx, tx, memory_order_release);
	if (link != port->link && link == DVMQ_LINK_DOWN)
		DVMQ_LOG(WARNING, "port %s: link down; frames to it are dropped (drop_port_down)", port->conf.name);
	else if (link == DVMQ_LINK_UP && port->link == DVMQ_LINK_DOWN)
		DVMQ_LOG(INFO, "port %s: link up", port->conf.name);
	port->link = link;
}

/* ---- reset ---- */

/* No worker is in the device, nor comes again, when this returns 0. */
static int take_from_workers(struct dvmq_port *port)
{
	atomic_store_explicit(&port->tx, DVMQ_TX_OFF, memory_order_release);
	for (unsigned i = 0; i < port->n_queues; i++) {
		struct dvmq_queue *queue = port->queues[i];

		queue->wanted = false;
		dvmq_queue_drain_wait(queue);
		if (dvmq_queue_hand_wait(queue, NULL) < 0)
			return -ETIMEDOUT;
	}
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID);
	return 0;
}

static void give_to_workers(struct dvmq_port *port)
{
	look_at_link(port);
	for (unsigned i = 0; i < port->n_queues; i++) {
		port->queues[i]->notifies = port->rx_interrupts;
		dvmq_queue_start(port->queues[i]);
	}
}

static int reset(struct dvmq_port *port, uint64_t now_ms, struct dvmq_err *err)
{
	int ret;

	atomic_store(&port->reset_wanted, false); /* first: it may be wanted again meanwhile */
	ret = take_from_workers(port);
	if (ret < 0) {
		if (port->up)
			give_to_workers(port);
		ret = dvmq_fail(err, -ret, "%s: no reset, since a worker does not answer", port->conf.name);
	} else {
		if (port->up && port->type == DVMQ_PORT_UPLINK)
			dvmq_vmq_suspend(port);
		port->up = false;
		ret = dvmq_ethdev_reset(port, err);
		port->up = ret == 0;
	}
	if (ret < 0)
		atomic_store(&port->reset_wanted, true);
	port->reset_at = ret < 0 ? now_ms + RETRY_MS : 0;
	port->reset_told = ret < 0; /* to whom asked for it, or to the log */
	if (!port->up)
		look_at_link(port);
	if (ret < 0)
		return ret;
	give_to_workers(port);
	if (port->type == DVMQ_PORT_UPLINK)
		dvmq_vmq_resume(port);
	DVMQ_LOG(INFO, "port %s: its device was reset", port->conf.name);
	return 0;
}

int dvmq_port_reset(const char *name, struct dvmq_err *err)
{
	struct dvmq_port *port = dvmq_port_find(name);

	if (port == NULL)
		return dvmq_fail(err, ENOENT, "no port %s; \"show port all\" lists them", name);
	if (!is_device(port))
		return dvmq_fail(err, EINVAL, "%s is a vhost port; only devices can be reset", name);
	return reset(port, dvmq_now_ms(), err);
}

/* ---- by the clock ---- */

/* A failure is told once. */
static void reset_if_wanted(struct dvmq_port *port, uint64_t now_ms)
{
	bool told = port->reset_told;
	struct dvmq_err err;

	if (!atomic_load(&port->reset_wanted) || now_ms < port->reset_at)
		return;
	if (reset(port, now_ms, &err) < 0 && !told)
		DVMQ_LOG(ERR, "%s; tried again every %u s", err.text, RETRY_MS / 1000);
}

void dvmq_devices_tick(uint64_t now_ms)
{
	static uint64_t links_at;
	bool links = now_ms >= links_at;

	if (links)
		links_at = now_ms + LINK_MS;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *port = dvmq_ports[i];

		if (!is_device(port))
			continue;
		reset_if_wanted(port, now_ms);
		if (links)
			look_at_link(port);
	}
}
