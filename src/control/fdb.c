/* SPDX-License-Identifier: BSD-3-Clause */
/* The writing half of the FDB: learn, age, forget, and the lists to flood to. */
#include <errno.h>
#include <stdlib.h>

#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_rcu_qsbr.h>

#include <dvmq/fdb.h>
#include <dvmq/port.h>
#include <dvmq/worker.h>

struct dvmq_fdb dvmq_fdb = {.generation = 1};
uint64_t dvmq_fdb_full, dvmq_fdb_moved;

/* By the position that rte_hash gave the key; port NULL: free. */
static struct dvmq_fdb_entry entries[DVMQ_FDB_SIZE + 1];

int dvmq_fdb_open(struct dvmq_err *err)
{
	struct rte_hash_parameters params = {
		.name = "dvmq_fdb",
		.entries = DVMQ_FDB_SIZE,
		.key_len = sizeof(uint64_t),
		.hash_func = rte_hash_crc,
		.socket_id = SOCKET_ID_ANY,
		.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF | RTE_HASH_EXTRA_FLAGS_EXT_TABLE,
	};
	struct rte_hash_rcu_config rcu = {.v = dvmq_rcu, .mode = RTE_HASH_QSBR_MODE_SYNC};

	dvmq_fdb.hash = rte_hash_create(&params);
	if (dvmq_fdb.hash == NULL || rte_hash_rcu_qsbr_add(dvmq_fdb.hash, &rcu) != 0)
		return dvmq_fail(err, ENOMEM, "FDB: no memory for %u entries: %s; give DPDK more memory", DVMQ_FDB_SIZE,
				 rte_strerror(rte_errno));
	return 0;
}

void dvmq_fdb_close(void)
{
	rte_hash_free(dvmq_fdb.hash);
	dvmq_fdb.hash = NULL;
	for (unsigned i = 0; i < DVMQ_VLANS; i++)
		free(atomic_exchange(&dvmq_fdb.flood[i], NULL));
	for (unsigned i = 0; i <= DVMQ_FDB_SIZE; i++)
		entries[i].port = NULL;
}

static void step_generation(void)
{
	atomic_fetch_add_explicit(&dvmq_fdb.generation, 1, memory_order_release); /* pairs with the load at a turn's start */
}

static struct dvmq_fdb_entry *entry_of(uint64_t key)
{
	int32_t position = rte_hash_lookup(dvmq_fdb.hash, &key);

	return position < 0 ? NULL : &entries[position];
}

/* Adds, or changes the port of, an entry.  -ENOSPC when the table is full. */
static int put(uint64_t key, struct dvmq_port *port, uint64_t now_ms, bool fixed)
{
	struct dvmq_fdb_entry *entry = entry_of(key);
	bool known = entry != NULL;

	if (rte_hash_add_key_data(dvmq_fdb.hash, &key, port) != 0)
		return -ENOSPC;
	if (known)
		step_generation();
	entry = entry_of(key);
	*entry = (struct dvmq_fdb_entry){.port = port, .key = key, .seen_ms = now_ms, .fixed = fixed};
	return 0;
}

static void forget(struct dvmq_fdb_entry *entry)
{
	rte_hash_del_key(dvmq_fdb.hash, &entry->key);
	entry->port = NULL;
	step_generation();
}

int dvmq_fdb_add_static(uint64_t key, struct dvmq_port *port, struct dvmq_err *err)
{
	if (put(key, port, 0, true) < 0)
		return dvmq_fail(err, ENOSPC, "port %s: the FDB is full (%u entries)", port->conf.name, DVMQ_FDB_SIZE);
	return 0;
}

void dvmq_fdb_learn(uint64_t key, struct dvmq_port *port, uint64_t now_ms)
{
	struct dvmq_fdb_entry *entry = entry_of(key);

	if (entry != NULL && entry->port == port) {
		entry->seen_ms = now_ms;
		return;
	}
	if (entry != NULL && entry->fixed)
		return; /* somebody else's configured address: its owner keeps it */
	dvmq_fdb_moved += entry != NULL;
	if (put(key, port, now_ms, false) < 0)
		dvmq_fdb_full++;
}

void dvmq_fdb_age(uint64_t now_ms)
{
	for (unsigned i = 0; i <= DVMQ_FDB_SIZE; i++)
		if (entries[i].port != NULL && !entries[i].fixed && now_ms - entries[i].seen_ms > DVMQ_FDB_AGE_MS)
			forget(&entries[i]);
}

void dvmq_fdb_forget_port(const struct dvmq_port *port)
{
	for (unsigned i = 0; i <= DVMQ_FDB_SIZE; i++)
		if (entries[i].port == port)
			forget(&entries[i]);
	step_generation();
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID);
}

const struct dvmq_fdb_entry *dvmq_fdb_next(uint32_t *iterator)
{
	while (*iterator <= DVMQ_FDB_SIZE) {
		const struct dvmq_fdb_entry *entry = &entries[(*iterator)++];

		if (entry->port != NULL)
			return entry;
	}
	return NULL;
}

/* All ports that a frame of the VLAN is flooded to: its access ports, and the uplinks, which carry every VLAN. */
static struct dvmq_flood *flood_list(uint16_t vlan)
{
	struct dvmq_flood *list = malloc(sizeof(*list) + DVMQ_MAX_PORTS * sizeof(list->ports[0]));

	if (list == NULL)
		return NULL;
	list->n = 0;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *port = dvmq_ports[i];

		if (port != NULL && !port->leaving && (port->type == DVMQ_PORT_UPLINK || port->vlan == vlan))
			list->ports[list->n++] = port;
	}
	return realloc(list, sizeof(*list) + (list->n ? list->n : 1) * sizeof(list->ports[0]));
}

/* A VLAN without access ports needs no list: its frames could only go from uplink to uplink. */
int dvmq_fdb_rebuild_floods(struct dvmq_err *err)
{
	static struct dvmq_flood *old[DVMQ_VLANS];
	bool used[DVMQ_VLANS] = {false};
	int ret = 0;

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && !dvmq_ports[i]->leaving && dvmq_ports[i]->type != DVMQ_PORT_UPLINK)
			used[dvmq_ports[i]->vlan] = true;
	for (unsigned vlan = 0; vlan < DVMQ_VLANS; vlan++) {
		struct dvmq_flood *list = NULL;

		if (used[vlan]) {
			list = flood_list(vlan);
			if (list == NULL)
				ret = dvmq_fail(err, ENOMEM, "VLAN %u: out of memory for its flood list", vlan);
		}
		old[vlan] = atomic_exchange_explicit(&dvmq_fdb.flood[vlan], list, memory_order_acq_rel);
	}
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID);
	for (unsigned vlan = 0; vlan < DVMQ_VLANS; vlan++)
		free(old[vlan]);
	return ret;
}
