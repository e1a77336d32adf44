/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The counters of all ports as one consistent picture: each worker is asked to
 * publish between two turns; one that sleeps has published before it did.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <dvmq/control.h>

#define PUBLISH_TIMEOUT_MS 1000

static struct dvmq_stats totals, base, shown;

static const char *const drop_names[DVMQ_DROP_REASONS] = {
	[DVMQ_DROP_RING_FULL] = "drop_ring_full",
	[DVMQ_DROP_PORT_DOWN] = "drop_port_down",
	[DVMQ_DROP_SOFT_FULL] = "drop_soft_full",
	[DVMQ_DROP_NO_BUFFER] = "drop_no_buffer",
	[DVMQ_DROP_TOO_LONG] = "drop_too_long",
	[DVMQ_DROP_NO_DESTINATION] = "drop_no_destination",
	[DVMQ_DROP_HAIRPIN] = "drop_hairpin",
	[DVMQ_DROP_VLAN] = "drop_vlan",
	[DVMQ_DROP_MALFORMED] = "drop_malformed",
	[DVMQ_DROP_REPLICA] = "drop_replica",
};

const char *dvmq_drop_name(enum dvmq_drop reason)
{
	return drop_names[reason];
}

static void await_publication(struct dvmq_worker *w)
{
	uint64_t deadline = dvmq_now_ms() + PUBLISH_TIMEOUT_MS;

	while (atomic_load_explicit(&w->stats_told, memory_order_acquire) !=
	       atomic_load_explicit(&w->stats_asked, memory_order_relaxed)) {
		if (atomic_load(&w->asleep) || dvmq_now_ms() > deadline)
			return;
		nanosleep(&(struct timespec){.tv_nsec = 10000}, NULL);
	}
}

/* Adds what a worker published; again if it published meanwhile (sequence lock, see publish() in worker.c). */
static void add_published(struct dvmq_worker *w, struct dvmq_stats *sum)
{
	static struct dvmq_stats copy;
	unsigned limit = atomic_load_explicit(&dvmq_port_limit, memory_order_relaxed);
	uint32_t seq;

	do {
		seq = atomic_load_explicit(&w->published_seq, memory_order_acquire);
		for (unsigned i = 0; i < limit; i++)
			for (unsigned k = 0; k < DVMQ_COUNTERS_U64; k++)
				((uint64_t *)&copy.port[i])[k] =
					atomic_load_explicit(&w->published[i][k], memory_order_relaxed);
		atomic_thread_fence(memory_order_acquire);
	} while ((seq & 1) || seq != atomic_load_explicit(&w->published_seq, memory_order_relaxed));
	for (unsigned i = 0; i < limit; i++)
		for (unsigned k = 0; k < DVMQ_COUNTERS_U64; k++)
			((uint64_t *)&sum->port[i])[k] += ((uint64_t *)&copy.port[i])[k];
}

static void collect_totals(void)
{
	memset(&totals, 0, sizeof(totals));
	for (unsigned i = 0; i < dvmq_n_workers; i++)
		atomic_fetch_add(&dvmq_workers[i]->stats_asked, 1);
	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		await_publication(dvmq_workers[i]);
		add_published(dvmq_workers[i], &totals);
	}
}

static uint64_t *word(struct dvmq_stats *stats, unsigned port, unsigned k)
{
	return &((uint64_t *)&stats->port[port])[k];
}

const struct dvmq_stats *dvmq_stats_collect(void)
{
	collect_totals();
	for (unsigned i = 0; i <= DVMQ_MAX_PORTS; i++)
		for (unsigned k = 0; k < DVMQ_COUNTERS_U64; k++)
			*word(&shown, i, k) = *word(&totals, i, k) - *word(&base, i, k);
	return &shown;
}

/* Counters count up for ever; what is shown is the difference to `base`.  "Deleted" counts in base, below 0. */
void dvmq_stats_clear(void)
{
	collect_totals();
	base = totals;
}

void dvmq_stats_port_new(unsigned index)
{
	collect_totals();
	base.port[index] = totals.port[index];
}

void dvmq_stats_port_gone(unsigned index)
{
	collect_totals();
	for (unsigned k = 0; k < DVMQ_COUNTERS_U64; k++) {
		*word(&base, DVMQ_MAX_PORTS, k) -= *word(&totals, index, k) - *word(&base, index, k);
		*word(&base, index, k) = *word(&totals, index, k);
	}
}
