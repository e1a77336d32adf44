/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The FDB: (VLAN, MAC) -> port.  The controller writes (src/control/fdb.c),
 * workers read without a lock (src/datapath/forward.c).  rte_hash in its
 * lock-free mode; what a reader got stays valid until it is quiescent (RCU).
 */
#ifndef DVMQ_FDB_H
#define DVMQ_FDB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <rte_ether.h>

#include <dvmq/err.h>

#define DVMQ_FDB_SIZE   16384 /* entries; more are not learned and counted in fdb_full */
#define DVMQ_FDB_AGE_MS 300000 /* as in IEEE 802.1D */
#define DVMQ_VLANS      4096

struct dvmq_port;
struct rte_hash;

/* Where a frame to many goes: all ports of a VLAN, and the uplinks.  Immutable once published. */
struct dvmq_flood {
	unsigned n;
	struct dvmq_port *ports[];
};

struct dvmq_fdb {
	struct rte_hash *hash; /* uint64_t key -> struct dvmq_port * */
	/*
	 * Steps (release) after an entry changed or went; caches of older
	 * generations look again.  Workers read it (acquire) at the start of a turn.
	 * Starts at 1: a cache slot that was never filled has generation 0.
	 */
	_Atomic uint32_t generation;
	_Atomic(struct dvmq_flood *) flood[DVMQ_VLANS]; /* NULL: nobody */
};

extern struct dvmq_fdb dvmq_fdb;

/* The MAC at `addr` and a VLAN (0: untagged) as one number: the table's key. */
static inline uint64_t dvmq_fdb_key(const void *addr, uint16_t vlan)
{
	uint64_t key = 0;

	memcpy(&key, addr, RTE_ETHER_ADDR_LEN);
	return key | (uint64_t)vlan << 48;
}

/* What a worker tells the controller: `key` was seen as a source behind port `index`. */
struct dvmq_learn {
	uint64_t key;
	uint64_t port_index;
};

/* Controller.  0 or -errno with err. */
int dvmq_fdb_open(struct dvmq_err *err);
void dvmq_fdb_close(void);
int dvmq_fdb_add_static(uint64_t key, struct dvmq_port *port, struct dvmq_err *err);
void dvmq_fdb_learn(uint64_t key, struct dvmq_port *port, uint64_t now_ms);
void dvmq_fdb_age(uint64_t now_ms);                  /* forgets what was not seen for DVMQ_FDB_AGE_MS */
void dvmq_fdb_forget_port(const struct dvmq_port *port); /* also waits until no worker uses the port's entries */
int dvmq_fdb_rebuild_floods(struct dvmq_err *err);   /* from dvmq_ports[] */

struct dvmq_fdb_entry {
	struct dvmq_port *port;
	uint64_t key;
	uint64_t seen_ms;
	bool fixed; /* from the configuration: never ages or moves */
};

/* Entry at *iterator (start with 0), or NULL at the end. */
const struct dvmq_fdb_entry *dvmq_fdb_next(uint32_t *iterator);
extern uint64_t dvmq_fdb_full, dvmq_fdb_moved; /* controller only: not learned for lack of room; MACs that changed port */

#endif
