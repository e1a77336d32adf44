/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * "show memory": who has what.  Rows that overlap say so by their names: what
 * ports and pools have is in the DPDK heap or in the process's private memory,
 * and the last row is the sum of those two.
 */
#include <inttypes.h>
#include <stdio.h>

#include <rte_malloc.h>
#include <rte_mempool.h>
#include <rte_ring.h>

#include <dvmq/control.h>

/* node -1: any */
static json_t *add_row(json_t *list, json_t *what, int node, uint64_t bytes)
{
	json_t *row = json_object();

	json_object_set_new(row, "what", what);
	json_object_set_new(row, "node", node >= 0 ? json_integer(node) : json_null());
	json_object_set_new(row, "bytes", json_integer((json_int_t)bytes));
	json_array_append_new(list, row);
	return row;
}

static void add_chunk(struct rte_mempool *pool, void *bytes, struct rte_mempool_memhdr *chunk, unsigned index)
{
	(void)pool;
	(void)index;
	*(uint64_t *)bytes += chunk->len;
}

/* More than buffers times their size: none of them lies across two pages. */
static void add_pool(struct rte_mempool *pool, void *list)
{
	uint64_t bytes = 0;
	json_t *row;

	rte_mempool_mem_iter(pool, add_chunk, &bytes);
	row = add_row(list, json_sprintf("pool %s", pool->name), pool->socket_id, bytes);
	json_object_set_new(row, "buffers", json_integer(pool->size));
	json_object_set_new(row, "in_use", json_integer(rte_mempool_in_use_count(pool)));
}

static uint64_t queue_bytes(const struct dvmq_queue *queue)
{
	uint64_t bytes = sizeof(*queue) + sizeof(*queue->load);

	if (queue->soft != NULL)
		bytes += rte_ring_get_memsize(rte_ring_get_capacity(queue->soft->ring) + 1);
	return bytes;
}

/* What dvmq keeps for a port, here and at each worker; not what the vhost library or a driver keeps. */
static void add_port(json_t *list, const struct dvmq_port *port)
{
	const struct dvmq_worker *w = dvmq_workers[0];
	uint64_t bytes = sizeof(*port) + port->n_queues * sizeof(port->queues[0]);

	for (unsigned i = 0; i < port->n_queues; i++)
		bytes += queue_bytes(port->queues[i]);
	for (unsigned i = 0; i < port->n_soft; i++)
		bytes += queue_bytes(port->soft_queues[i]);
	bytes += dvmq_n_workers *
		 (sizeof(w->stage[0]) + sizeof(w->staged[0]) + sizeof(w->counters[0]) + sizeof(w->published[0]));
	add_row(list, json_sprintf("port %s", port->conf.name), port->numa, bytes);
}

/* Of /proc/self/status, in bytes: memory that no other process has.  Guests' and DPDK's shared memory is not in it. */
static uint64_t private_bytes(void)
{
	FILE *status = fopen("/proc/self/status", "re");
	uint64_t kib = 0;
	char line[256];

	if (status == NULL)
		return 0;
	while (fgets(line, sizeof(line), status) != NULL && sscanf(line, "RssAnon: %" SCNu64, &kib) != 1)
		;
	fclose(status);
	return kib * 1024;
}

json_t *dvmq_show_memory(struct dvmq_err *err)
{
	struct rte_malloc_socket_stats heap;
	json_t *list = json_array();
	uint64_t private = private_bytes(), total = private;

	(void)err;
	rte_mempool_walk(add_pool, list);
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL)
			add_port(list, dvmq_ports[i]);
	for (int i = 0; i < RTE_MAX_NUMA_NODES; i++) {
		if (rte_malloc_get_socket_stats(i, &heap) != 0 || heap.heap_totalsz_bytes == 0)
			continue;
		add_row(list, json_string("DPDK heap, in use"), i, heap.heap_allocsz_bytes);
		add_row(list, json_string("DPDK heap, reserved"), i, heap.heap_totalsz_bytes);
		total += heap.heap_totalsz_bytes;
	}
	add_row(list, json_string("process, private"), -1, private);
	add_row(list, json_string("total: reserved and private"), -1, total);
	return list;
}
