/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a queue needs, from what its worker counts.
 *
 *   demand = cycles per packet x (packets taken + growth of the backlog + packets missed) / time
 *
 * in cores (TSC cycles per TSC cycle).  Consumed cycles would not do: they end at
 * the whole core, however much waits.  Where a ring cannot be counted, or is
 * full so that its backlog cannot grow, bursts that never end on a worker that
 * never rests show that more is wanted, not how much: demand is then raised
 * beyond what was consumed, and found by trying.
 *
 * What the NIC missed for want of a descriptor is known to the slow loop only, since reading its
 * counters can take long.
 */
#include <math.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>

#include <dvmq/control.h>

#define SLOW_KEPT    0.5  /* weight of what was measured slow_ms ago */
#define COST_KEPT    0.9  /* weight of the cost of a packet as it was fast_ms ago */
#define BULK_NEW     0.25 /* least weight of what turns with many packets cost since the last look */
#define BULK_MANY    1024 /* packets from which on it is all that counts */
#define BULK_AGE_MS  2000 /* for so long it holds */
#define QUIET_MS     50   /* without a packet: idle */
#define PRESSED      0.5  /* occupancy from which a queue is pressed */
#define PRESSED_MORE 0.5  /* demand of a pressed queue on a busy worker: up to half more than it got */
#define BUSY         0.85 /* share of a period that a worker must have been busy for pressure to count */

struct busy {
	uint64_t cycles;      /* as of the last sample */
	double fast, slow, sum;
};

static struct busy busy[DVMQ_MAX_WORKERS];
static uint64_t last_tsc, slow_cycles;
static double last_period; /* TSC cycles */
static double quiet_cycles; /* without a packet, up to now */

/* Weights of what was measured before, and of what is new in the slow period; set for each period. */
static double fast_kept, cost_kept, slow_new;

static uint64_t get(_Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void measure_workers(double period)
{
	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		uint64_t cycles = get(&dvmq_workers[i]->busy_cycles);

		busy[i].fast = (cycles - busy[i].cycles) / period;
		busy[i].sum += cycles - busy[i].cycles;
		busy[i].cycles = cycles;
	}
}

/* How full the ring is, 0..1; where it cannot be counted: the share of looks that left something in it. */
static double occupancy(const struct dvmq_queue *queue, uint64_t full_turns, uint64_t emptied)
{
	uint32_t capacity = atomic_load_explicit(&queue->counters.capacity, memory_order_relaxed);
	uint32_t backlog = atomic_load_explicit(&queue->counters.backlog, memory_order_relaxed);

	if (queue->countable && capacity > 0)
		return backlog < capacity ? (double)backlog / capacity : 1;
	return full_turns ? (double)full_turns / (full_turns + emptied) : 0;
}

/*
 * What a packet costs where many wait.  A worker that is far from full takes what is there, packet by packet, and is
 * busy with it nearly all the time; had it more to do, it took more at once, for a fraction of that each.  So turns
 * that took many tell what a queue needs, and all others only what it got.
 */
static void measure_bulk(struct dvmq_load *l, struct dvmq_queue_counters *c, double period)
{
	uint64_t packets = get(&c->bulk_packets), cycles = get(&c->bulk_cycles);
	double new_packets = packets - l->bulk_packets, cost;

	l->bulk_age += period;
	if (new_packets > 0) {
		cost = (cycles - l->bulk_cycles) / new_packets;
		if (l->bulk_cost <= 0)
			l->bulk_cost = cost;
		l->bulk_cost += fmin(1, BULK_NEW + new_packets / BULK_MANY) * (cost - l->bulk_cost);
		l->bulk_age = 0;
	} else if (l->bulk_age > BULK_AGE_MS / 1000.0 * rte_get_tsc_hz()) {
		l->bulk_cost = 0;
	}
	l->bulk_packets = packets;
	l->bulk_cycles = cycles;
}

/* Returns true if the queue had packets. */
static bool measure_queue(struct dvmq_queue *queue, double period)
{
	struct dvmq_queue_counters *c = &queue->counters;
	struct dvmq_worker *owner = atomic_load_explicit(&queue->owner, memory_order_acquire);
	struct dvmq_load *l = queue->load;
	uint64_t packets = get(&c->packets), cycles = get(&c->cycles);
	uint64_t full_turns = get(&c->full_turns), emptied = get(&c->emptied);
	uint32_t backlog = atomic_load_explicit(&c->backlog, memory_order_relaxed);
	double got = cycles - l->cycles, taken = packets - l->packets, need = 0;

	measure_bulk(l, c, period);
	l->fast_occupancy = occupancy(queue, full_turns - l->full_turns, emptied - l->emptied);
	if (taken > 0) {
		double cost = got / taken;

		if (l->cycles_per_packet <= 0)
			l->cycles_per_packet = cost;
		l->cycles_per_packet = cost + cost_kept * (l->cycles_per_packet - cost);
		if (l->bulk_cost > 0)
			cost = fmin(cost, l->bulk_cost);
		need = cost * (taken + (backlog > l->backlog ? backlog - l->backlog : 0));
	}
	l->sum_counted += need;
	if (owner != NULL && busy[owner->index].fast > BUSY && l->fast_occupancy > PRESSED)
		need *= 1 + PRESSED_MORE * l->fast_occupancy;
	l->fast_demand = need / period + fast_kept * (l->fast_demand - need / period);
	l->sum_demand += need;
	l->sum_load += got;
	l->sum_packets += taken;
	l->sum_occupancy += l->fast_occupancy * period;
	l->packets = packets;
	l->cycles = cycles;
	l->full_turns = full_turns;
	l->emptied = emptied;
	l->backlog = backlog;
	return taken > 0;
}

/*
 * Weights for periods of any length.  What was measured counts half for each fast_ms between the middle of its period
 * and the middle of the new one: periods of fast_ms count alike, while the mean of a long one, in which a load may have
 * come, says next to nothing of the millisecond after it.
 */
static void set_weights(double period)
{
	double fast = dvmq_balancer_params()->fast_ms / 1000 * rte_get_tsc_hz();

	fast_kept = exp2(-(last_period + period) / 2 / fast);
	cost_kept = pow(COST_KEPT, period / fast);
	last_period = period;
}

void dvmq_measure(uint64_t now_tsc)
{
	double period = now_tsc > last_tsc ? now_tsc - last_tsc : 0;
	bool quiet = true;

	last_tsc = now_tsc;
	if (period <= 0)
		return;
	slow_cycles += (uint64_t)period;
	set_weights(period);
	measure_workers(period);
	for (unsigned i = 0; i < dvmq_n_queues; i++)
		if (measure_queue(dvmq_queues[i], period))
			quiet = false;
	quiet_cycles = quiet ? quiet_cycles + period : 0;
}

/* Since it was last asked. */
static uint64_t newly_missed(struct dvmq_port *port)
{
	uint64_t before = port->nic_missed;
	bool known = port->nic_missed_known;
	struct rte_eth_stats stats;

	if (rte_eth_stats_get(port->eth_id, &stats) != 0)
		return 0;
	port->nic_missed = stats.imissed;
	port->nic_missed_known = true;
	if (!known) /* what it missed before anybody polled it says nothing about the need for cores */
		return 0;
	return stats.imissed >= before ? stats.imissed - before : stats.imissed; /* it was reset */
}

/*
 * Drivers agree on a count for the device only (per queue they count errors, or all queues in one
 * counter), so it is shared: by how full the rings were, and if nobody saw one full, by packets.
 */
static void share_missed(const struct dvmq_port *port, double missed)
{
	double fullness = 0, packets = 0;

	for (unsigned i = 0; i < port->n_queues; i++) {
		fullness += port->queues[i]->load->sum_occupancy;
		packets += port->queues[i]->load->sum_packets;
	}
	for (unsigned i = 0; i < port->n_queues; i++) {
		struct dvmq_load *l = port->queues[i]->load;

		if (fullness > 0)
			l->missed = missed * l->sum_occupancy / fullness;
		else
			l->missed = packets > 0 ? missed * l->sum_packets / packets : 0;
	}
}

static void measure_missed(void)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_VHOST)
			share_missed(dvmq_ports[i], newly_missed(dvmq_ports[i]));
}

static void close_slow_period(struct dvmq_load *l, double period)
{
	double seconds = period / rte_get_tsc_hz();
	/* What is counted needs no guess; the guess stands where it is more. */
	double cost = l->bulk_cost > 0 ? fmin(l->bulk_cost, l->cycles_per_packet) : l->cycles_per_packet;
	double needed = fmax(l->sum_demand, l->sum_counted + l->missed * cost);

	l->demand += slow_new * (needed / period - l->demand);
	l->load += slow_new * (l->sum_load / period - l->load);
	l->pps += slow_new * (l->sum_packets / seconds - l->pps);
	if (l->demand < 1e-6)
		l->demand = l->load = l->pps = 0;
	l->occupancy = l->sum_occupancy / period;
	l->sum_demand = l->sum_counted = l->sum_load = l->sum_packets = l->sum_occupancy = l->missed = 0;
}

void dvmq_measure_slow(void)
{
	if (slow_cycles == 0)
		return;
	slow_new = 1 - pow(SLOW_KEPT, slow_cycles * 1000.0 / rte_get_tsc_hz() / dvmq_balancer_params()->slow_ms);
	if (!dvmq_measure_idle()) /* who takes no packet at all misses none */
		measure_missed();
	for (unsigned i = 0; i < dvmq_n_queues; i++)
		close_slow_period(dvmq_queues[i]->load, slow_cycles);
	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		busy[i].slow += slow_new * (busy[i].sum / slow_cycles - busy[i].slow);
		busy[i].sum = 0;
	}
	slow_cycles = 0;
}

double dvmq_worker_load(const struct dvmq_worker *worker)
{
	double load = busy[worker->index].slow;

	return load < 1e-4 ? 0 : load > 1 ? 1 : load;
}

bool dvmq_measure_idle(void)
{
	return quiet_cycles > QUIET_MS / 1000.0 * rte_get_tsc_hz();
}
