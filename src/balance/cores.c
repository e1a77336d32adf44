/* SPDX-License-Identifier: BSD-3-Clause */
/* How many cores are awake, and which. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

#define PARK_TRIES 3 /* cores tried for parking per plan */

/* Remembers how many cores the load needs now; returns the most it needed for as long as that is held. */
unsigned dvmq_cores_remember(struct dvmq_balance *b, unsigned need)
{
	struct history *h = &b->history;
	unsigned long part = b->params.hold_ms > 0 ? (unsigned long)(h->clock_ms * WINDOW / b->params.hold_ms) : 0;
	unsigned most = 0;

	for (unsigned i = 0; h->part < part && i <= WINDOW; i++)
		h->need[++h->part % (WINDOW + 1)] = 0;
	h->part = part;
	if (b->params.hold_ms <= 0)
		h->need[0] = 0;
	if (h->need[part % (WINDOW + 1)] < need)
		h->need[part % (WINDOW + 1)] = need;
	for (unsigned i = 0; i <= WINDOW; i++)
		if (h->need[i] > most)
			most = h->need[i];
	return most;
}

unsigned dvmq_cores_open(const struct work *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < w->n_cores; i++)
		n += w->cores[i].open;
	return n;
}

void dvmq_cores_wake(struct dvmq_balance *b, int core, const char *format, ...)
{
	struct dvmq_core_action *action = &b->activate[b->n_activate++];
	va_list args;

	dvmq_work_open(&b->work, core);
	dvmq_cores_remember(b, dvmq_cores_open(&b->work)); /* whatever woke it: it stays that long */
	action->core = b->work.cores[core].id;
	va_start(args, format);
	vsnprintf(action->reason, sizeof(action->reason), format, args);
	va_end(args);
}

/* A core to wake: one whose sibling sleeps, near the node, lowest id; NONE: there is none. */
int dvmq_cores_pick(const struct work *w, int numa)
{
	unsigned best = ~0u;
	int found = NONE;

	for (unsigned i = 0; i < w->n_cores; i++) {
		const struct core *c = &w->cores[i];
		bool known = numa >= 0 && numa < NODES_MAX && c->numa >= 0 && c->numa < NODES_MAX;
		unsigned key = known ? w->distance[c->numa][numa] : 10;

		if (c->active || c->wish == DVMQ_CORE_KEEP_PARKED)
			continue;
		key += c->sibling != NONE && w->cores[c->sibling].active ? 1000 : 0;
		if (key < best || (key == best && c->id < w->cores[found].id)) {
			best = key;
			found = i;
		}
	}
	return found;
}

/* There is always a core that may be given queues. */
static void ensure_open(struct dvmq_balance *b)
{
	struct work *w = &b->work;
	int core = NONE;

	for (unsigned i = 0; i < w->n_cores; i++)
		if (w->cores[i].open)
			return;
	core = dvmq_cores_pick(w, -1);
	if (core != NONE) {
		dvmq_cores_wake(b, core, "at least one core stays active");
		return;
	}
	/* The operator wants every core parked: the busiest stays. */
	for (unsigned i = 0; i < w->n_cores; i++)
		if (core == NONE ||
		    (w->cores[i].active && (!w->cores[core].active || w->cores[i].load > w->cores[core].load)))
			core = i;
	if (!w->cores[core].active)
		dvmq_cores_wake(b, core, "at least one core stays active, though all are to be parked");
	w->cores[core].open = true;
	w->cores[core].leaving = false;
}

void dvmq_cores_wishes(struct dvmq_balance *b)
{
	struct work *w = &b->work;

	for (unsigned i = 0; i < w->n_cores; i++) {
		struct core *c = &w->cores[i];

		if (c->wish == DVMQ_CORE_KEEP_ACTIVE && !c->active) {
			dvmq_cores_wake(b, i, "the operator keeps it active");
		} else if (c->active && !c->was_active) {
			/* Its pin woke it; it is open or not as the operator wished. */
			bool open = c->open;

			dvmq_cores_wake(b, i, "a pinned queue is on it");
			c->open = open;
		}
	}
	ensure_open(b);
}

/* Overloaded, and moving something else than its one large queue may help: as far as repair would go. */
static bool hot(struct work *w, int core)
{
	const struct core *c = &w->cores[core];

	return c->active && c->load + c->foreseen > w->params->high &&
	       c->load > dvmq_repair_level(w, core, w->params->target) + SERVES_MIN;
}

int dvmq_cores_hottest(struct work *w)
{
	int found = NONE;

	for (unsigned i = 0; i < w->n_cores; i++)
		if (hot(w, i) && (found == NONE || w->cores[i].load > w->cores[found].load))
			found = i;
	return found;
}

/* Node of most of the movable demand of a core: near there a core is woken. */
int dvmq_cores_node(const struct work *w, int core)
{
	const struct queue *largest = NULL;

	if (core == NONE)
		return -1;
	for (int i = w->cores[core].first; i != NONE; i = w->queues[i].next)
		if (!w->queues[i].fixed && (!largest || w->queues[i].demand > largest->demand))
			largest = &w->queues[i];
	return largest ? largest->numa : -1;
}

/* Wakes what the load needs at once: filled to target, and one more while repair leaves a core above high. */
void dvmq_cores_grow(struct dvmq_balance *b)
{
	struct work *w = &b->work;
	unsigned need = dvmq_bound_cores(w, w->params->high), fill = dvmq_bound_cores(w, w->params->target);
	int core;

	if (need <= dvmq_cores_open(w))
		return;
	while (dvmq_cores_open(w) < fill &&
	       (core = dvmq_cores_pick(w, dvmq_cores_node(w, dvmq_cores_hottest(w)))) != NONE)
		dvmq_cores_wake(b, core, "load %.2f does not fit below high %.2f on %u cores", w->total,
				w->params->high, dvmq_cores_open(w));
}

/* Whether a core parks at all, once the load does not need it. */
bool dvmq_cores_may_park(const struct work *w)
{
	for (unsigned i = 0; i < w->n_cores; i++)
		if (w->cores[i].open && w->cores[i].wish == DVMQ_CORE_AUTO && !w->cores[i].n_pinned)
			return true;
	return false;
}

static void unpark(struct work *w, int core)
{
	struct core *c = &w->cores[core];

	dvmq_work_restore(w, w->saved);
	c->open = true;
	c->leaving = false;
	c->dispensable = false;
}

/* Whether a queue would be back on the core that it left within SETTLE_MS. */
static bool takes_back(const struct work *w)
{
	for (unsigned i = 0; i < w->n_queues; i++)
		if (w->queues[i].left != NONE && w->queues[i].core == w->queues[i].left &&
		    w->queues[i].core != w->queues[i].home)
			return true;
	return false;
}

/* Whether parking this core keeps the others below high - margin; if so the working copy is left with it empty. */
static bool try_park(struct work *w, int core)
{
	double cap = w->params->high - w->params->margin;
	struct core *c = &w->cores[core];

	dvmq_work_save(w, w->saved);
	c->open = false;
	c->leaving = true;
	dvmq_repair_drain(w, core);
	if (c->count == 0) {
		dvmq_repair(w, cap);
		bool fits = true;

		for (unsigned i = 0; i < w->n_cores; i++)
			if (w->cores[i].load > cap + EPSILON && w->cores[i].load - dvmq_work_largest(w, i) > SERVES_MIN)
				fits = false;
		if (fits) {
			c->dispensable = true;
			return true;
		}
	}
	unpark(w, core);
	return false;
}

/* The next core to go: first one that shares its physical core, then the emptiest.  NULL: it went. */
static const char *park_next(struct dvmq_balance *b, bool *ret_idle)
{
	struct work *w = &b->work;

	for (unsigned i = 0; i < w->n_cores; i++)
		w->cores[i].tried = false;
	for (unsigned tries = 0; tries < PARK_TRIES; tries++) {
		double best = INFINITY;
		int victim = NONE;

		for (unsigned i = 0; i < w->n_cores; i++) {
			const struct core *c = &w->cores[i];
			double key = c->load;

			if (!c->open || !c->was_active || c->wish != DVMQ_CORE_AUTO || c->n_pinned || c->tried)
				continue;
			key += c->sibling != NONE && w->cores[c->sibling].active ? 0 : 1;
			if (key < best || (key == best && c->id > w->cores[victim].id)) {
				best = key;
				victim = i;
			}
		}
		if (victim == NONE)
			break;
		*ret_idle = dvmq_work_largest(w, victim) < IDLE_MOST;
		if (try_park(w, victim)) {
			/* Nor another one instead, which would take more moves. */
			if (!takes_back(w))
				return NULL;
			unpark(w, victim);
			return "a core is dispensable, but took a queue within the last second";
		}
		w->cores[victim].tried = true;
	}
	return "a core is dispensable, but its queues fit nowhere below high - margin";
}

/*
 * Parks a core not needed for as long as that is held; then it is to be seen how the others fare.  Those that are idle
 * all at once.
 */
const char *dvmq_cores_shrink(struct dvmq_balance *b, unsigned need, unsigned most)
{
	struct work *w = &b->work;
	bool parked = false, idle;
	const char *why;

	if (dvmq_cores_open(w) <= need || dvmq_cores_open(w) <= 1)
		return NULL;
	if (dvmq_cores_open(w) <= most || b->history.clock_ms < b->params.hold_ms)
		return "a core is dispensable, but not yet for hold_ms";
	do {
		why = park_next(b, &idle);
		parked |= why == NULL;
	} while (why == NULL && idle && dvmq_cores_open(w) > most && dvmq_cores_open(w) > 1);
	if (!parked)
		return why;
	b->history.uneven_ms = -1;
	return NULL;
}
