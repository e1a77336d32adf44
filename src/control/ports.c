/* SPDX-License-Identifier: BSD-3-Clause */
/* Ports and uplinks: adding, deleting, and following what the vhost library reports. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include <rte_ethdev.h>
#include <rte_malloc.h>
#include <rte_rcu_qsbr.h>
#include <rte_vhost.h>

#include <dvmq/control.h>
#include <dvmq/fdb.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

_Atomic(struct dvmq_port *) dvmq_ports[DVMQ_MAX_PORTS];
_Atomic unsigned dvmq_port_limit;

struct dvmq_port *dvmq_port_find(const char *name)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && strcmp(dvmq_ports[i]->conf.name, name) == 0)
			return dvmq_ports[i];
	return NULL;
}

static int free_index(void)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] == NULL)
			return (int)i;
	return -1;
}

/* ---- queues of a port ---- */

static void set_up_eth_queue(struct dvmq_port *port, struct dvmq_queue *queue, unsigned i)
{
	struct rte_eth_rxq_info info;

	queue->port = port;
	queue->eth_id = port->eth_id;
	queue->eth_queue = dvmq_rx_queue(&port->rx, i);
	queue->replicas = port->steer != NULL && port->steer->ops->replicates && i > 0;
	queue->kind = port->type == DVMQ_PORT_UPLINK ? DVMQ_QUEUE_DEFAULT : DVMQ_QUEUE_GUEST;
	queue->poll = dvmq_poll_access;
	if (port->type == DVMQ_PORT_UPLINK)
		queue->poll = queue->replicas ? dvmq_poll_spare : dvmq_poll_default;
	queue->countable = rte_eth_rx_queue_count(port->eth_id, queue->eth_queue) >= 0;
	queue->notifies = port->rx_interrupts;
	if (rte_eth_rx_queue_info_get(port->eth_id, queue->eth_queue, &info) == 0)
		atomic_store(&queue->counters.capacity, info.nb_desc);
}

static void set_up_guest_queue(struct dvmq_port *port, struct dvmq_queue *queue, unsigned pair)
{
	queue->port = port;
	queue->virtqueue = 2 * pair + 1;
	queue->notifies = true;
	queue->kind = DVMQ_QUEUE_GUEST;
	queue->poll = dvmq_poll_guest;
	queue->pool = port->pool;
	queue->countable = true;
}

static int make_queues(struct dvmq_port *port, struct dvmq_err *err)
{
	const char *which = port->type == DVMQ_PORT_VHOST ? "tx" : "rx"; /* a virtqueue has the guest's view */

	unsigned n = port->type == DVMQ_PORT_VHOST ? port->conf.queues : port->rx.n;

	port->queues = calloc(n, sizeof(*port->queues));
	if (port->queues == NULL)
		return dvmq_fail(err, ENOMEM, "port %s: out of memory", port->conf.name);
	for (unsigned i = 0; i < n; i++) {
		struct dvmq_queue *queue = dvmq_queue_new(port->conf.name, which, i, port->numa, err);

		if (queue == NULL)
			return -errno;
		port->queues[port->n_queues++] = queue;
		if (port->type == DVMQ_PORT_VHOST)
			set_up_guest_queue(port, queue, i);
		else
			set_up_eth_queue(port, queue, i);
	}
	return 0;
}

static void free_queues(struct dvmq_port *port)
{
	while (port->n_queues > 0)
		dvmq_queue_free(port->queues[--port->n_queues]);
	free(port->queues);
	port->queues = NULL;
}

/* ---- guests that come and go ---- */

/*
 * A fresh ring asks the guest for kicks.  Its owner must hear of it, to ask for
 * none: so the queue is taken from it as if armed, and given back.
 */
static void start_guest_queue(struct dvmq_queue *queue, struct rte_mempool *pool)
{
	struct dvmq_worker *owner = atomic_load_explicit(&queue->owner, memory_order_acquire);

	if (queue->wanted && dvmq_queue_hand_wait(queue, NULL) < 0)
		return;
	queue->armed = true;
	queue->pool = pool;
	if (!queue->wanted || owner == NULL)
		dvmq_queue_start(queue);
	else
		dvmq_queue_hand(queue, owner);
}

static void guest_came(struct dvmq_port *port, int vid, unsigned pairs)
{
	unsigned served = pairs < port->n_queues ? pairs : port->n_queues;
	struct rte_vhost_vring vring;
	struct rte_mempool *pool;
	struct dvmq_err err;

	port->numa = rte_vhost_get_numa_node(vid);
	pool = dvmq_guest_pool(port->numa, &err);
	if (pool == NULL) {
		DVMQ_LOG(WARNING, "port %s: %s; buffers of another node serve it", port->conf.name, err.text);
		pool = port->pool;
	}
	for (unsigned i = 0; i < served; i++) {
		struct dvmq_queue *queue = port->queues[i];

		if (rte_vhost_get_vhost_vring(vid, queue->virtqueue, &vring) == 0)
			atomic_store_explicit(&queue->counters.capacity, vring.size, memory_order_relaxed);
		rte_vhost_enable_guest_notification(vid, 2 * i, 0); /* new RX buffers are no news */
		start_guest_queue(queue, pool);
	}
	for (unsigned i = served; i < port->n_queues; i++) {
		port->queues[i]->wanted = false;
		dvmq_queue_hand_wait(port->queues[i], NULL);
	}
	atomic_store_explicit(&port->n_rxvq, served, memory_order_relaxed);
	if (pairs > served)
		DVMQ_LOG(WARNING, "port %s: the guest uses %u queue pairs, only %u are served; raise queues = in its section",
			 port->conf.name, pairs, served);
}

static void guest_left(struct dvmq_port *port)
{
	atomic_store_explicit(&port->n_rxvq, 0, memory_order_relaxed);
	for (unsigned i = 0; i < port->n_queues; i++) {
		port->queues[i]->wanted = false;
		dvmq_queue_hand_wait(port->queues[i], NULL);
	}
}

/* Pairs of rings that the guest has enabled, from the first on. */
static unsigned enabled_pairs(const struct dvmq_port *port)
{
	uint32_t enabled = atomic_load_explicit(&port->vring_enabled, memory_order_acquire);
	unsigned pairs = 0;

	while (pairs < DVMQ_MAX_PAIRS && (enabled >> (2 * pairs) & 3) == 3)
		pairs++;
	return pairs;
}

/* Online for RCU: destroy_device waits while we look into the device. */
static void reconcile(struct dvmq_port *port)
{
	uint32_t generation = atomic_load_explicit(&port->vring_generation, memory_order_acquire);
	int vid = atomic_load_explicit(&port->vid, memory_order_acquire);
	unsigned pairs = vid >= 0 ? enabled_pairs(port) : 0;
	bool up = pairs > 0;

	if (up && generation != port->generation_seen)
		guest_came(port, vid, pairs);
	else if (!up && port->up)
		guest_left(port);
	if (up != port->up)
		DVMQ_LOG(INFO, "port %s: guest %s, %u queue pair(s)", port->conf.name, up ? "connected" : "gone", pairs);
	port->up = up;
	port->generation_seen = generation;
}

void dvmq_ports_reconcile(void)
{
	eventfd_t ignored;

	eventfd_read(dvmq_vhost_event_fd(), &ignored);
	rte_rcu_qsbr_thread_online(dvmq_rcu, DVMQ_RCU_CONTROLLER);
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *port = dvmq_ports[i];

		if (port != NULL && port->type == DVMQ_PORT_VHOST && atomic_exchange(&port->changed, false))
			reconcile(port);
	}
	rte_rcu_qsbr_thread_offline(dvmq_rcu, DVMQ_RCU_CONTROLLER);
}

/* ---- add ---- */

static int open_device(struct dvmq_port *port, struct dvmq_err *err)
{
	struct dvmq_share_params share;
	int ret;

	if (port->type == DVMQ_PORT_VHOST) {
		port->pool = dvmq_guest_pool(port->numa, err);
		return port->pool != NULL ? 0 : -errno;
	}
	if (port->type == DVMQ_PORT_ETHDEV)
		return dvmq_ethdev_open(port, DVMQ_RX_RSS, err);
	dvmq_share_defaults(&share);
	share.high = dvmq_balancer_params()->high;
	ret = dvmq_steer_open(port, &share, err);
	if (ret < 0) {
		dvmq_steer_close(port);
		dvmq_ethdev_close(port);
	}
	return ret;
}

/* Lets workers at it, last of all. */
static int go_live(struct dvmq_port *port, struct dvmq_err *err)
{
	int ret = 0;

	if (port->conf.has_mac && port->type != DVMQ_PORT_UPLINK)
		ret = dvmq_fdb_add_static(dvmq_fdb_key(&port->conf.mac, port->vlan), port, err);
	if (ret == 0)
		ret = dvmq_fdb_rebuild_floods(err);
	if (ret == 0 && port->type == DVMQ_PORT_VHOST)
		ret = dvmq_vhost_open(port, err);
	if (ret < 0)
		return ret;
	if (port->type != DVMQ_PORT_VHOST) {
		port->up = true;
		for (unsigned i = 0; i < port->n_queues; i++)
			dvmq_queue_start(port->queues[i]);
	}
	if (port->type != DVMQ_PORT_UPLINK)
		dvmq_vmq_bind(port);
	return 0;
}

static void take_down(struct dvmq_port *port)
{
	port->leaving = true;
	if (port->type == DVMQ_PORT_UPLINK)
		dvmq_vmq_close(port);
	else
		dvmq_vmq_unbind(port);
	dvmq_fdb_rebuild_floods(&(struct dvmq_err){0});
	dvmq_fdb_forget_port(port);
	if (port->type == DVMQ_PORT_VHOST)
		dvmq_vhost_close(port);
	free_queues(port);
	dvmq_stats_port_gone(port->index);
	atomic_store_explicit(&dvmq_ports[port->index], NULL, memory_order_release);
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID);
	if (port->type != DVMQ_PORT_VHOST)
		dvmq_ethdev_close(port);
	dvmq_steer_close(port);
	rte_free(port);
}

static struct dvmq_port *new_port(const struct dvmq_port_conf *conf, unsigned index)
{
	struct dvmq_port *port = rte_zmalloc("port", sizeof(*port), 64);

	if (port == NULL)
		return NULL;
	port->conf = *conf;
	port->index = index;
	port->type = conf->type;
	port->vlan = conf->vlan;
	port->numa = -1;
	port->by_hand = -1;
	atomic_store(&port->vid, -1);
	for (unsigned i = 0; i < DVMQ_MAX_TXQ; i++)
		rte_spinlock_init(&port->txq[i].lock);
	return port;
}

static int add(const struct dvmq_port_conf *conf, struct dvmq_err *err)
{
	int index = free_index();
	struct dvmq_port *port;
	int ret;

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_conf_ports_clash(conf, &dvmq_ports[i]->conf, err) < 0)
			return -errno;
	if (index < 0)
		return dvmq_fail(err, ENOSPC, "port %s: there are %u ports already; remove one first", conf->name,
				 DVMQ_MAX_PORTS);
	port = new_port(conf, index);
	if (port == NULL)
		return dvmq_fail(err, ENOMEM, "port %s: out of memory; give DPDK more hugepages (or -m MiB)", conf->name);
	ret = open_device(port, err);
	if (ret < 0) {
		rte_free(port);
		return ret;
	}
	dvmq_stats_port_new(index);
	atomic_store_explicit(&dvmq_ports[index], port, memory_order_release);
	if ((unsigned)index >= atomic_load(&dvmq_port_limit))
		atomic_store_explicit(&dvmq_port_limit, index + 1, memory_order_release);
	ret = make_queues(port, err);
	if (ret == 0)
		ret = go_live(port, err);
	if (ret < 0)
		take_down(port);
	return ret;
}

int dvmq_port_add(const struct dvmq_port_conf *conf, struct dvmq_err *err)
{
	int ret = dvmq_conf_port_check(conf, err);

	if (ret == 0)
		ret = add(conf, err);
	if (ret == 0)
		DVMQ_LOG(INFO, "port %s added", conf->name);
	return ret;
}

int dvmq_port_del(const char *name, struct dvmq_err *err)
{
	struct dvmq_port *port = dvmq_port_find(name);

	if (port == NULL)
		return dvmq_fail(err, ENOENT, "no port %s; \"show port all\" lists them", name);
	if (port->type == DVMQ_PORT_UPLINK)
		return dvmq_fail(err, EBUSY, "%s is an uplink; it stays as long as dvmqd runs", name);
	take_down(port);
	DVMQ_LOG(INFO, "port %s deleted", name);
	return 0;
}

/* ---- start and stop ---- */

/* Uplinks first: ports are bound to their queues as they come. */
int dvmq_ports_open(const struct dvmq_conf *conf, struct dvmq_err *err)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < conf->n_ports; i++)
		if (conf->ports[i].type == DVMQ_PORT_UPLINK)
			ret = add(&conf->ports[i], err);
	for (unsigned i = 0; ret == 0 && i < conf->n_ports; i++)
		if (conf->ports[i].type != DVMQ_PORT_UPLINK)
			ret = add(&conf->ports[i], err);
	return ret;
}

/* Ports before uplinks, which hold the rules and queues bound to them. */
void dvmq_ports_close(void)
{
	for (unsigned pass = 0; pass < 2; pass++)
		for (unsigned i = DVMQ_MAX_PORTS; i-- > 0;)
			if (dvmq_ports[i] != NULL && (dvmq_ports[i]->type == DVMQ_PORT_UPLINK) == (pass == 1))
				take_down(dvmq_ports[i]);
	dvmq_pools_free();
}
