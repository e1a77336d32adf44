/* SPDX-License-Identifier: BSD-3-Clause */
/* Ports and uplinks: where packets come from and go to. */
#ifndef DVMQ_PORT_H
#define DVMQ_PORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <rte_spinlock.h>

#include <dvmq/conf.h>
#include <dvmq/queue.h>

#define DVMQ_MAX_TXQ 16 /* TX queues of one ethdev, RX virtqueues of one guest */

struct rte_mbuf;
struct rte_mempool;
struct dvmq_steer;

/* As rte_spinlock_unlock(), but with what x86 needs for it: a store in place of an exchange. */
static inline void dvmq_unlock(rte_spinlock_t *lock)
{
	__atomic_store_n(&lock->locked, 0, __ATOMIC_RELEASE);
}

/* A destination ring.  The lock is the datapath's only one and held for one burst; not where a worker is alone. */
struct dvmq_txq {
	rte_spinlock_t lock;
} __attribute__((aligned(64)));

/* Rings that default queues fill with one port's packets, a flow always the same.  Freed by way of RCU. */
struct dvmq_soft {
	unsigned n; /* 1..DVMQ_MAX_PAIRS */
	struct dvmq_soft_ring {
		rte_spinlock_t lock; /* of the producers; the consumer takes it to shut the ring */
		bool open;           /* under the lock; producers deliver inline when it is shut */
		struct rte_ring *ring;
	} __attribute__((aligned(64))) rings[];
};

/* Of an uplink and a port that has queues of its own there: frames that its NIC should have put into them. */
struct dvmq_astray {
	_Atomic uint64_t key;    /* what belongs into its queues, as dvmq_fdb_key(); 0: none.  Writer: the controller */
	_Atomic uint64_t frames; /* that default queues brought all the same.  Writers: workers */
};

/* How an ethdev distributes what it receives. */
enum dvmq_rx_mode {
	DVMQ_RX_PLAIN, /* all to queue 0, but for rules */
	DVMQ_RX_RSS,   /* by flow over all queues */
	DVMQ_RX_VMDQ,  /* pool i, of one queue, is queue i; pool 0 gets what is in no other */
};

/*
 * Which RX queues of an ethdev are used: n of them, the first is its queue 0, number i >= 1 its queue
 * first + (i - 1) * stride.  The others are set up, since drivers want them all, and never polled.
 */
struct dvmq_rx_layout {
	uint16_t n, n_eth; /* used; set up */
	uint16_t max;      /* could be used, by raising queues = */
	uint16_t first, stride;
	uint16_t pools;    /* VMDq: to configure */
};

static inline uint16_t dvmq_rx_queue(const struct dvmq_rx_layout *layout, unsigned i)
{
	return i == 0 ? 0 : layout->first + (i - 1) * layout->stride;
}

/* Whether workers may send to an ethdev. */
enum dvmq_tx {
	DVMQ_TX_ON,
	DVMQ_TX_TRY, /* its link is down, and the driver takes nothing then */
	DVMQ_TX_OFF, /* its link is down, or it is stopped */
};

enum dvmq_link {
	DVMQ_LINK_UNKNOWN, /* the driver does not tell */
	DVMQ_LINK_UP,
	DVMQ_LINK_DOWN,
	DVMQ_LINK_LOST, /* the device did not come back from a reset; tried again */
};

struct dvmq_port {
	/* Constant while the port is reachable from workers; written by the controller. */
	uint16_t index; /* in dvmq_ports[] */
	enum dvmq_port_type type;
	uint16_t vlan;
	uint16_t eth_id;     /* uplink, ethdev */
	uint16_t n_txq;      /* uplink, ethdev: TX queues */
	bool rx_interrupts;  /* uplink, ethdev: an empty RX queue can wake a worker */
	bool multi_seg;      /* uplink, ethdev: can send frames of several segments */
	int numa;            /* node of device or guest memory, -1 if unknown */

	struct dvmq_txq txq[DVMQ_MAX_TXQ]; /* ethdev: TX queues; vhost: RX virtqueues */
	struct dvmq_astray *astray; /* uplink: by port index; valid as long as its queues */
	_Atomic(struct dvmq_soft *) soft;  /* where default queues put its packets; NULL: deliver inline.  Writer: the controller */

	/* vhost: written by the vhost events thread. */
	_Atomic int vid;               /* -1: no guest.  destroy_device waits for RCU after it stored -1 */
	_Atomic uint32_t vring_enabled; /* bit i: virtqueue i is enabled */
	_Atomic uint32_t vring_generation; /* steps when a kick descriptor may have changed */
	_Atomic bool changed;          /* the controller has something to look at; it clears the flag first */

	/* vhost: written by the controller, read by workers (relaxed: a turn late is early enough). */
	_Atomic uint16_t n_rxvq;       /* RX virtqueues of the guest in use; 0: down */

	_Atomic uint8_t tx;            /* uplink, ethdev: enum dvmq_tx.  Written by the controller, read once per burst */
	_Atomic bool reset_wanted;     /* uplink, ethdev: set by DPDK's interrupt thread, cleared by the controller */

	/* Controller only. */
	struct dvmq_port_conf conf;
	struct dvmq_queue **queues;    /* those that take packets from it; vhost: one per pair */
	unsigned n_queues;
	struct dvmq_queue *soft_queues[DVMQ_MAX_PAIRS]; /* of the rings of `soft` */
	unsigned n_soft;
	bool soft_late;                /* they are to be closed, but a worker has not given one back yet */
	int by_hand;                   /* queues of its own that the operator gives it ("set port P vmq N"); -1: by its need */
	struct rte_mempool *pool;      /* RX buffers of an ethdev */
	struct dvmq_steer *steer;      /* uplink */
	enum dvmq_rx_mode rx_mode;     /* uplink, ethdev: as the device is configured now */
	struct dvmq_rx_layout rx;      /* uplink, ethdev: its RX queues in that mode */
	bool up;
	uint32_t generation_seen;      /* vring_generation that was acted on */
	uint64_t nic_missed;           /* uplink, ethdev: imissed of the device when it was last looked at */
	bool nic_missed_known;         /* it has been looked at */
	bool tells_link, refuses_tx;   /* uplink, ethdev: of the driver, see ethdev.c */
	enum dvmq_link link;           /* uplink, ethdev: when it was last looked at */
	uint32_t speed;                /* of the link, Mbit/s; 0: unknown */
	uint64_t reset_at;             /* not before that time in ms */
	bool reset_told;               /* that a reset failed */
	bool leaving;                  /* is being deleted */
	bool registered;               /* vhost: the library knows its socket */
};

/*
 * The table.  Written by the controller; workers read it only by way of the FDB,
 * flood lists and queues, whose lifetimes RCU protects.
 */
extern _Atomic(struct dvmq_port *) dvmq_ports[DVMQ_MAX_PORTS];
extern _Atomic unsigned dvmq_port_limit; /* all indices are below it; written by the controller, only grows */

/* --- port/vhost.c --- */

/* Steps after any port's vring_generation; written by the vhost events thread (release), read by workers (acquire). */
extern _Atomic uint32_t dvmq_vring_changes;

/*
 * Registers the socket with the vhost library; guests may connect from now on.
 * Controller.  0 or -errno with err.
 */
int dvmq_vhost_open(struct dvmq_port *port, struct dvmq_err *err);
void dvmq_vhost_close(struct dvmq_port *port); /* returns when no worker is in the device */

/* What the vhost library wakes when a guest comes, goes or enables a ring: an eventfd for the controller. */
int dvmq_vhost_event_fd(void);

/* --- port/ethdev.c --- */

/*
 * Probes the device if need be, configures and starts it with conf.queues RX queues.  A device that is open already is configured anew, or left alone if nothing changes.  -ENOTSUP: the NIC has no such mode.  Fills in eth_id, n_txq, multi_seg, numa, pool.  Controller.  0 or -errno with err.
 */
int dvmq_ethdev_open(struct dvmq_port *port, enum dvmq_rx_mode mode, struct dvmq_err *err);

/*
 * Resets the device and starts it as it was, with the same buffers; no rule or pool outlives that.  Stops and
 * starts it if its driver has no reset.  No worker may be in it.  Controller.  0 or -errno with err: then it is
 * stopped, and can be tried again.
 */
int dvmq_ethdev_reset(struct dvmq_port *port, struct dvmq_err *err);
void dvmq_ethdev_close(struct dvmq_port *port);

/* Buffers for what guests send, on a NUMA node; made at first use, NULL if there is no memory.  Controller. */
struct rte_mempool *dvmq_guest_pool(int numa, struct dvmq_err *err);
void dvmq_pools_free(void); /* at exit, after all devices were closed */

#endif
