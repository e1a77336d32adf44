/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering by VMDq: the NIC has pools, a MAC belongs to one, and each pool is an RX
 * queue here.  Pool 0 is the default one and gets what is in no other.
 *
 * VLANs: drivers take the VLANs of pools only while they configure the device, so a
 * port that comes later could not have one without a stop of all others.  Hence the
 * NIC's VLAN filter is turned off and the MAC alone decides; the poll of a vmq queue
 * compares the VLAN, and a frame in another one goes where the FDB says.
 *
 * Group frames: NICs copy broadcast into every pool, multicast into every pool or only
 * into the default one.  Whatever they do, pool 0 has each of them once: its copy is
 * flooded, all others are dropped (drop_replica).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <rte_ethdev.h>

#include <dvmq/log.h>
#include <dvmq/steer.h>

#define HASH_BUCKETS 4096 /* of a multicast table that goes by 12 bits of the address */

static const char ignores_mac[] =
	"its driver tells 82576, 82580 and i350 to go by VLAN alone (IGMAC): they may deliver frames twice";
static const char mirrors[] =
	"in promiscuous mode the default queue may get the frames of pools, too, and deliver them twice";

/* What the drivers do, as read in their sources (DPDK 22.11 and 24.11). */
static const struct driver {
	const char *name;
	bool fixed_queues; /* a pool has vmdq_queue_num / max_vmdq_pools RX queues; else as many as are configured */
	bool filters_vlan; /* turns the VLAN filter on by itself, and takes multicast by hash */
	const char *doubt; /* why auto keeps away from it */
} drivers[] = {
	{"net_ixgbe", true, true, NULL},
	{"net_txgbe", true, true, NULL},
	{"net_e1000_igb", false, true, ignores_mac},
	{"net_i40e", true, false, mirrors},
	{"net_bnxt", false, false, mirrors},
};

static const struct driver *find_driver(const char *name)
{
	for (unsigned i = 0; i < RTE_DIM(drivers); i++)
		if (strcmp(drivers[i].name, name) == 0)
			return &drivers[i];
	return NULL;
}

int dvmq_vmdq_layout(const struct rte_eth_dev_info *info, const struct dvmq_port_conf *conf,
		     struct dvmq_rx_layout *layout, struct dvmq_err *err)
{
	const struct driver *driver = find_driver(info->driver_name);
	unsigned pools = info->max_vmdq_pools + (info->vmdq_queue_base > 0); /* the default queue is beside the pools */

	if (driver == NULL || info->max_vmdq_pools < 2)
		return dvmq_fail(err, ENOTSUP, "the driver %s has no VMDq that dvmq knows", info->driver_name);
	if (conf->steering == DVMQ_STEER_AUTO && driver->doubt != NULL)
		return dvmq_fail(err, ENOTSUP, "%s; set steering = vmdq to use it all the same", driver->doubt);
	if (conf->queues < 2)
		return dvmq_fail(err, ENOTSUP, "queues = %u leaves no queue beside the default one", conf->queues);
	layout->max = RTE_MIN(pools, (unsigned)RTE_ETH_64_POOLS); /* mac_addr_add() takes no more */
	layout->n = RTE_MIN(conf->queues, layout->max);
	layout->stride = driver->fixed_queues ? info->vmdq_queue_num / info->max_vmdq_pools : 1;
	layout->first = info->vmdq_queue_base > 0 ? info->vmdq_queue_base : layout->stride;
	/* All queues of the last pool too: some drivers divide the number by that of the pools. */
	layout->n_eth = layout->first + (layout->n - 1) * layout->stride;
	layout->pools = layout->n - (info->vmdq_queue_base > 0);
	return 0;
}

void dvmq_vmdq_conf(const struct rte_eth_dev_info *info, const struct dvmq_rx_layout *layout, struct rte_eth_conf *conf)
{
	struct rte_eth_vmdq_rx_conf *vmdq = &conf->rx_adv_conf.vmdq_rx_conf;

	conf->rxmode.mq_mode = RTE_ETH_MQ_RX_VMDQ_ONLY;
	vmdq->nb_queue_pools = layout->pools; /* an enum by name only: drivers take any number */
	vmdq->enable_default_pool = 1;
	vmdq->rx_mode = RTE_ETH_VMDQ_ACCEPT_UNTAG | RTE_ETH_VMDQ_ACCEPT_BROADCAST | RTE_ETH_VMDQ_ACCEPT_MULTICAST |
			RTE_ETH_VMDQ_ACCEPT_HASH_MC;
	if (find_driver(info->driver_name)->filters_vlan) /* so that it can be turned off: only changes are passed on */
		conf->rxmode.offloads |= info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_VLAN_FILTER;
}

/* One address for each bucket: multicast that nobody listed would not arrive. */
static int list_all_multicast(uint16_t eth_id)
{
	struct rte_ether_addr *list = calloc(HASH_BUCKETS, sizeof(*list));
	int ret;

	if (list == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < HASH_BUCKETS; i++)
		list[i] = (struct rte_ether_addr){{0x01, 0, 0x5e, 0, i << 4 & 0xf0, i >> 4}};
	ret = rte_eth_dev_set_mc_addr_list(eth_id, list, HASH_BUCKETS);
	free(list);
	return ret;
}

/* After the start: the driver has just set it up its own way. */
static int probe(struct dvmq_port *uplink, struct dvmq_err *err)
{
	struct rte_eth_dev_info info;
	const struct driver *driver;
	int ret = rte_eth_dev_info_get(uplink->eth_id, &info);

	if (ret < 0)
		return dvmq_fail(err, -ret, "the driver tells nothing of itself: %s", strerror(-ret));
	driver = find_driver(info.driver_name);
	if (driver->doubt != NULL)
		DVMQ_LOG(WARNING, "uplink %s: %s", uplink->conf.name,
			 driver->doubt);
	if (rte_eth_allmulticast_enable(uplink->eth_id) < 0)
		DVMQ_LOG(WARNING, "uplink %s: the driver cannot receive all multicast: groups may not reach the VMs",
			 uplink->conf.name);
	if (!driver->filters_vlan)
		return 0;
	ret = rte_eth_dev_set_vlan_offload(uplink->eth_id, 0);
	if (ret < 0)
		return dvmq_fail(err, -ret, "the VLAN filter cannot be turned off: %s", strerror(-ret));
	ret = list_all_multicast(uplink->eth_id);
	if (ret < 0)
		DVMQ_LOG(WARNING, "uplink %s: multicast by hash: %s: groups may not reach the VMs", uplink->conf.name,
			 strerror(-ret));
	return 0;
}

static int attach(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
		  struct dvmq_err *err)
{
	struct rte_ether_addr mac = port->conf.mac, own;
	int ret;

	if (n > 1)
		return dvmq_fail(err, ENOTSUP, "a VMDq pool has one queue");
	if (rte_eth_macaddr_get(uplink->eth_id, &own) == 0 && rte_is_same_ether_addr(&own, &mac))
		return dvmq_fail(err, EADDRINUSE, "its MAC is that of the NIC itself, which stays in the default pool");
	ret = rte_eth_dev_mac_addr_add(uplink->eth_id, &mac, queues[0]); /* queue i here is pool i there */
	if (ret == -ENOSPC)
		return dvmq_fail(err, ENOSPC, "the NIC's table of MACs is full");
	if (ret < 0)
		return dvmq_fail(err, -ret, "the driver refuses its MAC in pool %u: %s", queues[0], strerror(-ret));
	return 0;
}

static int detach(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_err *err)
{
	struct rte_ether_addr mac = port->conf.mac;
	int ret = rte_eth_dev_mac_addr_remove(uplink->eth_id, &mac);

	if (ret == 0)
		return 0;
	return dvmq_fail(err, -ret, "its MAC cannot be taken from its pool: %s", strerror(-ret));
}

const struct dvmq_steer_ops dvmq_steer_vmdq = {
	.steering = DVMQ_STEER_VMDQ,
	.rx_mode = DVMQ_RX_VMDQ,
	.replicates = true,
	.probe = probe,
	.attach = attach,
	.detach = detach,
};
