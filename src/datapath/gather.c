/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a packet costs where many wait is what decides how many cores are needed,
 * and only turns that take many tell it (control/measure.c).  A worker that keeps
 * up with its queues never has such a turn: it finds one packet or two each time,
 * is busy with them all the time, and would look full long before it is.
 *
 * So a queue that had no such turn for a while is left alone until some wait, once,
 * and then polled as ever.  That takes microseconds where there is enough traffic to
 * be of interest.  Where it does not help, since its senders wait for answers, each
 * packet costs what it costs, and that is known then, too.
 *
 * Not where the policy is latency, and not where there is one worker: nothing would
 * follow from it.
 */
#include <rte_cycles.h>

#include <dvmq/worker.h>

#define AGE_US	 500000 /* without such a turn; shorter than what measure.c remembers */
#define FIRST_US 5
#define MAX_US	 250 /* a queue that gets less than DVMQ_BULK in it is a small part of what its worker could do */
#define AIM	 40  /* packets: somewhat more than DVMQ_BULK */

static uint64_t us(const struct dvmq_worker *w, uint64_t n)
{
	return n * w->cycles_per_us;
}

/* True: the queue has had one since it was last asked. */
static bool had_bulk(struct dvmq_queue *queue)
{
	uint64_t packets = atomic_load_explicit(&queue->counters.bulk_packets, memory_order_relaxed);
	bool had = packets != queue->gather.seen;

	queue->gather.seen = packets;
	return had;
}

void dvmq_gather_next(struct dvmq_worker *w)
{
	struct dvmq_queue *queue;
	struct dvmq_gather *g;

	if (w->n_hot == 0 || dvmq_n_workers == 1 ||
	    atomic_load_explicit(&w->policy, memory_order_relaxed) == DVMQ_POLICY_LATENCY)
		return;
	queue = w->queues[w->next_gather++ % w->n_hot];
	g = &queue->gather;
	if (had_bulk(queue)) {
		g->due = w->now + us(w, AGE_US);
	} else if (w->now >= g->due) {
		g->due = w->now + us(w, AGE_US);
		g->length = g->length ? g->length : us(w, FIRST_US);
		g->until = w->now + g->length;
	}
}

bool dvmq_gathers(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	w->now = rte_rdtsc(); /* nobody is charged for the time */
	return w->now < queue->gather.until;
}

void dvmq_gathered(struct dvmq_worker *w, struct dvmq_queue *queue, unsigned took)
{
	struct dvmq_gather *g = &queue->gather;
	uint64_t length;

	if (took >= DVMQ_BULK) /* it may have been many more, which this turn did not take */
		length = g->length - g->length / 8;
	else
		length = took > 0 ? g->length * AIM / took : 2 * g->length;
	g->until = 0;
	if (took < DVMQ_BULK && g->length < us(w, MAX_US))
		g->due = w->now; /* once more, and longer */
	g->length = RTE_MAX(us(w, FIRST_US), RTE_MIN(length, us(w, MAX_US)));
}
