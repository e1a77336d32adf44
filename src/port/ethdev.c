/* SPDX-License-Identifier: BSD-3-Clause */
/* ethdevs, as uplinks and as ports of the host, and the buffer pools. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_mempool.h>

#include <dvmq/log.h>
#include <dvmq/port.h>
#include <dvmq/steer.h>
#include <dvmq/worker.h>

#define RING_SIZE   1024 /* descriptors of an RX or TX ring, where the driver allows */
#define UNUSED_RING 64   /* of an RX ring that only fills a gap */
#define CACHE_SIZE  256  /* buffers that each lcore keeps of a pool */
#define GUEST_MBUFS 16384 /* per node: what TX rings of NICs, soft rings and caches can hold at a time */
#define MAX_NODES   32

/* ---- pools ---- */

static struct rte_mempool *guest_pools[MAX_NODES];

static unsigned node_of(int numa)
{
	unsigned node = numa >= 0 ? (unsigned)numa : rte_socket_id();

	return node < MAX_NODES ? node : 0;
}

struct rte_mempool *dvmq_guest_pool(int numa, struct dvmq_err *err)
{
	unsigned node = node_of(numa);
	char name[32];

	if (guest_pools[node] != NULL)
		return guest_pools[node];
	snprintf(name, sizeof(name), "guest_node%u", node);
	guest_pools[node] =
		rte_pktmbuf_pool_create(name, GUEST_MBUFS, CACHE_SIZE, 0, RTE_MBUF_DEFAULT_BUF_SIZE, (int)node);
	if (guest_pools[node] == NULL)
		dvmq_fail(err, rte_errno ? rte_errno : ENOMEM,
			  "no memory for %u packet buffers on NUMA node %u: %s; give DPDK more hugepages (or -m MiB)",
			  GUEST_MBUFS, node, rte_strerror(rte_errno));
	return guest_pools[node];
}

/* Pools of closed devices whose buffers are still in somebody's TX ring. */
static struct rte_mempool *late_pools[DVMQ_MAX_PORTS];
static unsigned n_late_pools;

static void free_rx_pool(struct rte_mempool *pool)
{
	if (pool == NULL || rte_mempool_full(pool))
		rte_mempool_free(pool);
	else if (n_late_pools < RTE_DIM(late_pools))
		late_pools[n_late_pools++] = pool;
}

void dvmq_pools_free(void)
{
	for (unsigned i = 0; i < MAX_NODES; i++) {
		rte_mempool_free(guest_pools[i]);
		guest_pools[i] = NULL;
	}
	while (n_late_pools > 0)
		rte_mempool_free(late_pools[--n_late_pools]);
}

static int make_rx_pool(struct dvmq_port *port, unsigned descriptors, struct dvmq_err *err)
{
	/* full rings, a burst in the hands of each worker and on its way to a guest, the caches */
	unsigned n = port->rx.n * descriptors + (port->rx.n_eth - port->rx.n) * UNUSED_RING + (dvmq_n_workers + 1) * (CACHE_SIZE * 2 + 4 * DVMQ_BURST) + 4096;
	static unsigned serial; /* a late pool keeps its name */
	char name[RTE_MEMPOOL_NAMESIZE];

	snprintf(name, sizeof(name), "rx_%.16s_%u", port->conf.name, serial++ % 10000);
	port->pool = rte_pktmbuf_pool_create(name, n, CACHE_SIZE, 0, RTE_MBUF_DEFAULT_BUF_SIZE, node_of(port->numa));
	if (port->pool == NULL)
		return dvmq_fail(err, rte_errno ? rte_errno : ENOMEM,
				 "%s: no memory for %u packet buffers: %s; give DPDK more hugepages (or -m MiB)",
				 port->conf.name, n, rte_strerror(rte_errno));
	return 0;
}

/* ---- devices ---- */

/* Finds the device by the name in front of its devargs, or probes it. */
static int find_device(struct dvmq_port *port, struct dvmq_err *err)
{
	const char *device = port->conf.device;
	char name[RTE_ETH_NAME_MAX_LEN];
	int ret;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(device, ","), device);
	if (rte_eth_dev_get_port_by_name(name, &port->eth_id) == 0)
		return 0;
	ret = rte_dev_probe(device);
	/* From 24.11.8 on that refuses what is too long to be told a secondary process, of which dvmqd has none. */
	if (ret == -E2BIG)
		ret = rte_vdev_init(name, device + strcspn(device, ",") + (strchr(device, ',') != NULL));
	if (ret < 0)
		return dvmq_fail(err, -ret, "%s: device %s cannot be probed: %s; see the EAL lines above",
				 port->conf.name, device, rte_strerror(-ret));
	if (rte_eth_dev_get_port_by_name(name, &port->eth_id) != 0)
		return dvmq_fail(err, ENODEV, "%s: %s is no Ethernet device", port->conf.name, name);
	return 0;
}

/* Which RX queues are to be used in that mode. */
static int lay_out(const struct dvmq_port *port, const struct rte_eth_dev_info *info, enum dvmq_rx_mode mode,
		   struct dvmq_rx_layout *layout, struct dvmq_err *err)
{
	*layout = (struct dvmq_rx_layout){.n = port->conf.queues,
					  .n_eth = port->conf.queues,
					  .max = info->max_rx_queues,
					  .first = 1,
					  .stride = 1};
	if (port->conf.queues > info->max_rx_queues)
		return dvmq_fail(err, EINVAL, "%s: queues = %u, but %s (%s) has %u RX queues; lower it", port->conf.name,
				 port->conf.queues, port->conf.device, info->driver_name, info->max_rx_queues);
	if (mode != DVMQ_RX_VMDQ)
		return 0;
	if (dvmq_vmdq_layout(info, &port->conf, layout, err) < 0)
		return -ENOTSUP;
	if (layout->n < port->conf.queues)
		DVMQ_LOG(WARNING, "%s: queues = %u, but %s has %u VMDq pools: %u queues are used", port->conf.name,
			 port->conf.queues, port->conf.device, layout->max, layout->n);
	return 0;
}

static int configure(struct dvmq_port *port, const struct rte_eth_dev_info *info, enum dvmq_rx_mode mode,
		     struct dvmq_err *err)
{
	struct rte_eth_conf conf = {.intr_conf.rxq = 1};
	bool tap = strcmp(info->driver_name, "net_tap") == 0; /* as many TX as RX queues, or it refuses */
	unsigned n_rxq = port->rx.n_eth;
	unsigned wanted = tap ? port->conf.queues : dvmq_n_workers + 1;
	int ret;

	port->multi_seg = info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (port->multi_seg)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (mode == DVMQ_RX_RSS && port->conf.queues > 1) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = info->flow_type_rss_offloads &
						   (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP);
	}
	if (mode == DVMQ_RX_VMDQ)
		dvmq_vmdq_conf(info, &port->rx, &conf);
	port->n_txq = RTE_MIN(RTE_MIN(wanted, info->max_tx_queues), (unsigned)DVMQ_MAX_TXQ);
	ret = rte_eth_dev_configure(port->eth_id, n_rxq, port->n_txq, &conf);
	if (ret == -ENOTSUP || ret == -EINVAL) { /* no RX interrupts */
		conf.intr_conf.rxq = 0;
		ret = rte_eth_dev_configure(port->eth_id, n_rxq, port->n_txq, &conf);
	}
	if (ret == 0)
		return 0;
	return dvmq_fail(err, -ret, "%s: %s refuses %u RX and %u TX queues: %s", port->conf.name, port->conf.device,
			 n_rxq, port->n_txq, rte_strerror(-ret));
}

static bool is_used(const struct dvmq_rx_layout *layout, unsigned eth_queue)
{
	return eth_queue == 0 || (eth_queue >= layout->first && (eth_queue - layout->first) % layout->stride == 0);
}

static int set_up_queues(struct dvmq_port *port, const struct rte_eth_dev_info *info, enum dvmq_rx_mode mode,
			 struct dvmq_err *err)
{
	struct rte_eth_rxconf rx = info->default_rxconf;
	uint16_t n_rxd = RING_SIZE, n_txd = RING_SIZE;
	unsigned socket = node_of(port->numa);
	int ret = rte_eth_dev_adjust_nb_rx_tx_desc(port->eth_id, &n_rxd, &n_txd);

	rx.rx_drop_en |= mode == DVMQ_RX_VMDQ; /* a pool whose VM is slow must not hold up the others */
	if (ret == 0 && port->pool == NULL)
		ret = make_rx_pool(port, n_rxd, err);
	if (ret < 0)
		return ret;
	for (unsigned i = 0; ret == 0 && i < port->rx.n_eth; i++)
		ret = rte_eth_rx_queue_setup(port->eth_id, i, is_used(&port->rx, i) ? n_rxd : UNUSED_RING, socket, &rx,
					     port->pool);
	for (unsigned i = 0; ret == 0 && i < port->n_txq; i++)
		ret = rte_eth_tx_queue_setup(port->eth_id, i, n_txd, socket, NULL);
	if (ret < 0)
		return dvmq_fail(err, -ret, "%s: %s: queues of %u and %u descriptors: %s", port->conf.name,
				 port->conf.device, n_rxd, n_txd, rte_strerror(-ret));
	return 0;
}

/* Asking is the only way to know, and a driver that cannot logs an error for it. */
static bool has_rx_interrupts(const struct dvmq_port *port)
{
	bool has;

	rte_log_set_level_pattern("lib.ethdev", RTE_LOG_CRIT);
	/*
	 * tap has a descriptor but no enable: it tells of a packet by a signal, and
	 * the packet may be polled for in vain when the descriptor wakes us first.
	 */
	has = rte_eth_dev_rx_intr_ctl_q_get_fd(port->eth_id, 0) >= 0 &&
	      rte_eth_dev_rx_intr_enable(port->eth_id, 0) == 0 && rte_eth_dev_rx_intr_disable(port->eth_id, 0) == 0;
	rte_log_set_level_pattern("lib.ethdev", RTE_LOG_INFO);
	return has;
}

static int start(struct dvmq_port *port, struct dvmq_err *err)
{
	int ret = rte_eth_dev_start(port->eth_id);

	port->rx_interrupts = has_rx_interrupts(port);
	if (ret < 0)
		return dvmq_fail(err, -ret, "%s: %s does not start: %s", port->conf.name, port->conf.device,
				 rte_strerror(-ret));
	/* Isolated, too: no rule depends on it, but tap has its remote's NIC hear the wire by it. */
	ret = rte_eth_promiscuous_enable(port->eth_id);
	if (ret < 0 && ret != -ENOTSUP && !port->conf.isolated)
		DVMQ_LOG(WARNING, "%s: promiscuous mode: %s; frames to unknown addresses may not arrive",
			 port->conf.name, rte_strerror(-ret));
	return 0;
}

/* It runs already and is to be configured anew. */
static int stop_again(struct dvmq_port *port)
{
	rte_eth_dev_stop(port->eth_id);
	if (n_late_pools < RTE_DIM(late_pools))
		late_pools[n_late_pools++] = port->pool; /* its buffers are still in the RX rings */
	port->pool = NULL;
	return 0;
}

static int isolate(const struct dvmq_port *port, struct dvmq_err *err)
{
	struct rte_flow_error error = {0};
	int ret = rte_flow_isolate(port->eth_id, 1, &error);

	if (ret == 0)
		return 0;
	return dvmq_fail(err, EIO, "%s: isolated = yes, but %s cannot be isolated: %s (%s); set isolated = no",
			 port->conf.name, port->conf.device,
			 error.message != NULL ? error.message : "the driver gives no reason", rte_strerror(-ret));
}

/* fresh: as the driver has just made it, and not only stopped; then it is not isolated. */
static int set_up(struct dvmq_port *port, const struct rte_eth_dev_info *info, enum dvmq_rx_mode mode, bool fresh,
		  struct dvmq_err *err)
{
	/* DPDK wants it first of all.  tap has rules of its own by then, and removes them only once it has queues. */
	bool late = strcmp(info->driver_name, "net_tap") == 0;
	int ret = 0;

	fresh = fresh && port->conf.isolated;
	if (fresh && !late)
		ret = isolate(port, err);
	if (ret == 0)
		ret = configure(port, info, mode, err);
	if (ret == 0)
		ret = set_up_queues(port, info, mode, err);
	if (ret == 0 && fresh && late)
		ret = isolate(port, err);
	if (ret == 0)
		ret = start(port, err);
	return ret;
}

/* DPDK's interrupt thread: the controller does it. */
static int on_reset(uint16_t eth_id, enum rte_eth_event_type type, void *port, void *ret_param)
{
	(void)eth_id;
	(void)type;
	(void)ret_param;
	atomic_store(&((struct dvmq_port *)port)->reset_wanted, true);
	return 0;
}

/* What has to be known of the driver. */
static void note_driver(struct dvmq_port *port, const char *driver)
{
	/* The interface of a tap may be in another network namespace by now: its driver takes it for down then. */
	port->tells_link = strcmp(driver, "net_tap") != 0;
	port->refuses_tx = strcmp(driver, "net_memif") == 0;
}

int dvmq_ethdev_open(struct dvmq_port *port, enum dvmq_rx_mode mode, struct dvmq_err *err)
{
	struct rte_eth_dev_info info;
	struct dvmq_rx_layout layout;
	bool again = port->registered;
	int ret = again ? 0 : find_device(port, err);

	if (mode == DVMQ_RX_RSS && port->conf.queues == 1)
		mode = DVMQ_RX_PLAIN;
	if (ret < 0 || (again && mode == port->rx_mode))
		return ret;
	port->registered = true;
	port->numa = rte_eth_dev_socket_id(port->eth_id);
	ret = rte_eth_dev_info_get(port->eth_id, &info);
	if (ret < 0)
		ret = dvmq_fail(err, -ret, "%s: %s tells nothing of itself: %s", port->conf.name, port->conf.device,
				rte_strerror(-ret));
	if (ret == 0)
		ret = lay_out(port, &info, mode, &layout, err);
	if (ret == -ENOTSUP && again)
		return ret; /* it goes on as it is */
	if (ret == 0 && again)
		ret = stop_again(port);
	if (ret == 0) {
		port->rx = layout;
		note_driver(port, info.driver_name);
		ret = set_up(port, &info, mode, !again, err);
	}
	if (ret == 0 && !again)
		rte_eth_dev_callback_register(port->eth_id, RTE_ETH_EVENT_INTR_RESET, on_reset, port);
	if (ret < 0)
		dvmq_ethdev_close(port);
	if (ret < 0 && mode == DVMQ_RX_VMDQ)
		ret = -ENOTSUP; /* it may be able to do something else */
	port->rx_mode = mode;
	return ret;
}

int dvmq_ethdev_reset(struct dvmq_port *port, struct dvmq_err *err)
{
	struct rte_eth_dev_info info;
	int ret = rte_eth_dev_reset(port->eth_id);
	bool fresh = ret == 0;

	if (ret == -ENOTSUP)
		ret = rte_eth_dev_stop(port->eth_id);
	if (ret == 0)
		ret = rte_eth_dev_info_get(port->eth_id, &info);
	if (ret < 0)
		return dvmq_fail(err, -ret, "%s: %s cannot be reset: %s", port->conf.name, port->conf.device,
				 rte_strerror(-ret));
	return set_up(port, &info, port->rx_mode, fresh, err);
}

void dvmq_ethdev_close(struct dvmq_port *port)
{
	struct rte_eth_dev_info info;

	if (!port->registered)
		return;
	port->registered = false;
	while (rte_eth_dev_callback_unregister(port->eth_id, RTE_ETH_EVENT_INTR_RESET, on_reset, port) == -EAGAIN)
		; /* it runs at this moment */
	rte_eth_dev_stop(port->eth_id);
	if (rte_eth_dev_info_get(port->eth_id, &info) == 0 && info.device != NULL) {
		rte_eth_dev_close(port->eth_id);
		rte_dev_remove(info.device);
	}
	free_rx_pool(port->pool);
	port->pool = NULL;
}
