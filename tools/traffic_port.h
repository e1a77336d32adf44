/* SPDX-License-Identifier: BSD-3-Clause */
/* Ports of dvmq-traffic: guests (virtio-user) and the network behind the uplink (memif), and the EAL below them. */
#ifndef DVMQ_TRAFFIC_PORT_H
#define DVMQ_TRAFFIC_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_mempool.h>

struct dvmq_traffic_port {
	char name[32];
	char path[108];	   /**< vhost-user socket, or (abstract) name of the memif socket */
	uint16_t endpoint; /**< DVMQ_NETWORK or 1 + guest */
	uint16_t port_id;
	uint16_t rx_queues;  /**< that this program receives on */
	uint16_t tx_queues;  /**< that this program transmits on */
	uint16_t ring;	     /**< descriptors of each ring */
	bool guest_connects; /**< guest only: connects to a socket of the switch instead of listening */
	bool created;	     /**< there is something to stop */
	bool up;	     /**< as of the last dvmq_traffic_port_update() */
	uint64_t retry_tsc;  /**< network only: when to try to connect again */
};

struct dvmq_traffic_eal {
	const char *program;
	bool huge;
	bool verbose;	     /**< leave DPDK's own messages on */
	unsigned int mem_mb; /**< memory for --no-huge */
	const char *cpus;    /**< CPU list, NULL: wherever the program may run */
};

/**
 * Starts the EAL with arguments of its own: no PCI, no telemetry, no shared files, a prefix per process, one lcore
 * that may run on all given CPUs. Reports errors on stderr. Returns 0 or -1.
 */
int dvmq_traffic_eal_init(const struct dvmq_traffic_eal *eal);

/** Ends the EAL and removes its runtime folder, which it leaves behind. */
void dvmq_traffic_eal_cleanup(void);

/**
 * Creates and starts a guest. A listening guest (guest_connects false) is down, and its socket exists, when this
 * returns. A connecting guest needs the switch's socket. Reports errors on stderr. Returns 0 or -1.
 */
int dvmq_traffic_guest_start(struct dvmq_traffic_port *port, struct rte_mempool *pool);

/** Creates the network port; dvmq_traffic_port_update() connects it. Reports errors on stderr. Returns 0 or -1. */
int dvmq_traffic_network_start(struct dvmq_traffic_port *port, struct rte_mempool *pool);

/** Reads the link state, and lets an unconnected network port try again. Returns true if port->up changed. */
bool dvmq_traffic_port_update(struct dvmq_traffic_port *port);

/** Ends the port and removes its socket. */
void dvmq_traffic_port_stop(struct dvmq_traffic_port *port);

#endif
