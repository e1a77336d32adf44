/* SPDX-License-Identifier: BSD-3-Clause */
/* The working copy of a snapshot. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static unsigned hash(unsigned key, unsigned n_slots)
{
	return (key * 2654435761u) & (n_slots - 1); /* Knuth's multiplicative hash; n_slots is a power of two */
}

static void clear_slots(struct work *w)
{
	memset(w->slots, 0xff, w->n_slots * sizeof(*w->slots)); /* NONE */
}

struct origin *dvmq_work_origin(const struct work *w, uint32_t queue)
{
	return &w->origins[hash(queue, w->n_slots)];
}

int dvmq_work_find_core(const struct work *w, unsigned id)
{
	for (unsigned i = hash(id, w->n_slots); w->slots[i] != NONE; i = (i + 1) & (w->n_slots - 1))
		if (w->cores[w->slots[i]].id == id)
			return w->slots[i];
	return NONE;
}

static void load_distances(struct work *w)
{
	const struct dvmq_snapshot *s = w->snapshot;
	int nodes = 0;

	for (unsigned i = 0; i < w->n_cores; i++)
		if (s->cores[i].numa >= nodes && s->cores[i].numa < NODES_MAX)
			nodes = s->cores[i].numa + 1;
	for (unsigned i = 0; i < w->n_queues; i++)
		if (s->queues[i].numa >= nodes && s->queues[i].numa < NODES_MAX)
			nodes = s->queues[i].numa + 1;
	for (int a = 0; a < nodes; a++)
		for (int b = 0; b < nodes; b++) {
			int d = s->distance ? s->distance(a, b, s->distance_arg) : 0;

			/* A table without sense (0, negative) counts as no table. */
			if (d < 10)
				d = a == b ? 10 : 20;
			w->distance[a][b] = d > 255 ? 255 : d;
		}
}

static void load_cores(struct work *w)
{
	const struct dvmq_snapshot *s = w->snapshot;

	clear_slots(w);
	w->n_active = 0;
	for (unsigned i = 0; i < w->n_cores; i++) {
		const struct dvmq_balance_core *from = &s->cores[i];
		struct core *c = &w->cores[i];
		unsigned slot;

		*c = (struct core){.id = from->id, .numa = from->numa, .wish = from->wish, .first = NONE};
		c->was_active = c->active = from->state == DVMQ_CORE_ACTIVE;
		c->open = c->active && c->wish != DVMQ_CORE_KEEP_PARKED;
		c->leaving = c->active && !c->open;
		w->n_active += c->active;
		for (slot = hash(c->id, w->n_slots); w->slots[slot] != NONE; slot = (slot + 1) & (w->n_slots - 1))
			;
		w->slots[slot] = i;
	}
	for (unsigned i = 0; i < w->n_cores; i++) {
		int id = s->cores[i].sibling;

		w->cores[i].sibling = id < 0 ? NONE : dvmq_work_find_core(w, id);
		if (w->cores[i].sibling == (int)i)
			w->cores[i].sibling = NONE;
	}
}

static double sane_demand(double demand)
{
	if (isnan(demand) || demand < 0)
		return 0;
	return demand < DEMAND_MAX ? demand : DEMAND_MAX;
}

static void load_queues(struct work *w)
{
	const struct dvmq_snapshot *s = w->snapshot;

	w->moved = 0;
	w->total = 0;
	for (unsigned i = 0; i < w->n_queues; i++) {
		const struct dvmq_balance_queue *from = &s->queues[i];
		struct queue *q = &w->queues[i];
		int core = dvmq_work_find_core(w, from->core);

		/* Nobody polls a queue on a parked core, unless its pin wakes that core. */
		if (core != NONE && !w->cores[core].active && from->pinned) {
			w->cores[core].active = true;
			w->cores[core].open = w->cores[core].wish != DVMQ_CORE_KEEP_PARKED;
			w->cores[core].leaving = !w->cores[core].open;
			w->n_active++;
		}
		if (core != NONE && !w->cores[core].active)
			core = NONE;
		*q = (struct queue){.demand = sane_demand(from->demand),
				    .id = from->id,
				    .group = from->group,
				    .numa = from->numa,
				    .core = NONE,
				    .home = core,
				    .left = NONE,
				    .mate = NONE};
		q->pinned = from->pinned && core != NONE;
		q->fixed = q->pinned;
		w->total += q->demand;
		if (core == NONE)
			continue;
		dvmq_work_place(w, i, core);
		if (q->pinned) {
			w->cores[core].pinned += q->demand;
			w->cores[core].n_pinned++;
		}
	}
	for (unsigned i = 0; i < w->n_cores; i++)
		w->cores[i].before = w->cores[i].load;
	for (unsigned i = 0; i < w->n_queues; i++) {
		const struct queue *q = &w->queues[i];
		const struct origin *origin = dvmq_work_origin(w, q->id);
		double age = s->queues[i].age_ms;

		w->queues[i].recent = age >= 0 && age < SETTLE_MS;
		if (w->queues[i].recent && origin->known && origin->queue == q->id)
			w->queues[i].left = dvmq_work_find_core(w, origin->core);
		/* Cooling down, unless its core is overloaded or goes. */
		if (q->home != NONE && !w->cores[q->home].leaving && age >= 0 && age < w->params->cooldown_ms &&
		    w->cores[q->home].load <= w->params->high)
			w->queues[i].fixed = true;
	}
}

static void load_groups(struct work *w)
{
	/* The table of the core ids has served; cores are found no more. */
	clear_slots(w);
	w->grouped = true;
	for (unsigned i = 0; i < w->n_queues; i++) {
		struct queue *q = &w->queues[i];
		unsigned slot;

		if (q->group == 0)
			continue;
		for (slot = hash(q->group, w->n_slots); w->slots[slot] != NONE; slot = (slot + 1) & (w->n_slots - 1))
			if (w->queues[w->slots[slot]].group == q->group)
				break;
		/* A ring through all queues of the group. */
		if (w->slots[slot] == NONE) {
			q->mate = i;
			w->slots[slot] = i;
		} else {
			q->mate = w->queues[w->slots[slot]].mate;
			w->queues[w->slots[slot]].mate = i;
		}
	}
}

/* Fills the working copy from w->snapshot. */
void dvmq_work_load(struct work *w)
{
	load_distances(w);
	load_cores(w);
	load_queues(w);
	w->grouped = false;
	w->limit = w->n_queues;
	w->slack = EPSILON;
}

/* Puts a queue on a core, wherever it was. */
void dvmq_work_place(struct work *w, int queue, int core)
{
	struct queue *q = &w->queues[queue];
	struct core *to = &w->cores[core];

	if (q->core != NONE) {
		struct core *from = &w->cores[q->core];

		w->moved -= q->core != q->home;
		from->count--;
		/* An empty core has load 0 whatever was rounded on the way. */
		from->load = from->count ? from->load - q->demand : 0;
		if (q->demand >= from->largest)
			from->largest = -1;
		if (q->prev != NONE)
			w->queues[q->prev].next = q->next;
		else
			from->first = q->next;
		if (q->next != NONE)
			w->queues[q->next].prev = q->prev;
	}
	q->core = core;
	q->prev = NONE;
	q->next = to->first;
	if (to->first != NONE)
		w->queues[to->first].prev = queue;
	to->first = queue;
	to->count++;
	to->load += q->demand;
	if (to->largest >= 0 && q->demand > to->largest)
		to->largest = q->demand;
	w->moved += core != q->home;
}

/* Wakes a core. */
void dvmq_work_open(struct work *w, int core)
{
	w->n_active += !w->cores[core].active;
	w->cores[core].active = w->cores[core].open = true;
}

/* Takes that back, as long as no queue is on it. */
void dvmq_work_close(struct work *w, int core)
{
	w->n_active--;
	w->cores[core].active = w->cores[core].open = false;
}

void dvmq_work_save(const struct work *w, int *assignment)
{
	for (unsigned i = 0; i < w->n_queues; i++)
		assignment[i] = w->queues[i].core;
}

void dvmq_work_restore(struct work *w, const int *assignment)
{
	for (unsigned i = 0; i < w->n_queues; i++)
		if (w->queues[i].core != assignment[i])
			dvmq_work_place(w, i, assignment[i]);
}

double dvmq_work_max(const struct work *w)
{
	double max = 0;

	for (unsigned i = 0; i < w->n_cores; i++)
		if (w->cores[i].load > max)
			max = w->cores[i].load;
	return max;
}

/* Demand of the largest queue of a core. */
double dvmq_work_largest(struct work *w, int core)
{
	struct core *c = &w->cores[core];

	if (c->largest < 0) {
		c->largest = 0;
		for (int i = c->first; i != NONE; i = w->queues[i].next)
			c->largest = fmax(c->largest, w->queues[i].demand);
	}
	return c->largest;
}

static bool before(const struct queue *a, const struct queue *b)
{
	return a->demand > b->demand || (a->demand == b->demand && a->id < b->id);
}

/* Heap sort, largest first (the root is the smallest): in place, no recursion, the same order everywhere. */
static void sift(const struct work *w, int *list, unsigned i, unsigned n)
{
	int item = list[i];

	for (unsigned child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && before(&w->queues[list[child]], &w->queues[list[child + 1]]))
			child++;
		if (before(&w->queues[list[child]], &w->queues[item]))
			break;
		list[i] = list[child];
	}
	list[i] = item;
}

void dvmq_work_sort(const struct work *w, int *list, unsigned n)
{
	/* The queues of one core are mostly few: insertion is faster then. */
	for (unsigned i = 1; i < n && n <= 48; i++) {
		int item = list[i];
		unsigned k = i;

		for (; k > 0 && before(&w->queues[item], &w->queues[list[k - 1]]); k--)
			list[k] = list[k - 1];
		list[k] = item;
	}
	if (n <= 48)
		return;
	for (unsigned i = n / 2; i-- > 0;)
		sift(w, list, i, n);
	for (unsigned i = n; i-- > 1;) {
		int last = list[i];

		list[i] = list[0];
		list[0] = last;
		sift(w, list, 0, i);
	}
}

/* Fills w->list with the movable queues of a core (NONE: the homeless), largest first; returns how many. */
unsigned dvmq_work_gather(struct work *w, int core)
{
	unsigned n = 0;

	if (core == NONE) {
		for (unsigned i = 0; i < w->n_queues; i++)
			if (w->queues[i].core == NONE)
				w->list[n++] = i;
	} else {
		for (int i = w->cores[core].first; i != NONE; i = w->queues[i].next)
			if (!w->queues[i].fixed)
				w->list[n++] = i;
	}
	dvmq_work_sort(w, w->list, n);
	return n;
}

static double remote(const struct work *w, const struct queue *q, const struct core *c)
{
	if (q->numa < 0 || c->numa < 0 || q->numa >= NODES_MAX || c->numa >= NODES_MAX)
		return 0;
	return REMOTE_COST * (w->distance[c->numa][q->numa] - 10) / 10.0;
}

static double crowded(const struct work *w, const struct core *c)
{
	double load = c->sibling == NONE ? 0 : w->cores[c->sibling].load;

	return SMT_COST * (load < 1 ? load : 1);
}

/* Whether places differ at all: more nodes than one, or siblings. */
bool dvmq_work_distant(const struct work *w)
{
	for (unsigned i = 0; i < w->n_cores; i++)
		if (w->cores[i].sibling != NONE || w->cores[i].numa != w->cores[0].numa)
			return true;
	return false;
}

/* What a queue needs more on its core than on the best that there could be, as a share of its demand. */
double dvmq_work_surcharge(const struct work *w, const struct queue *q)
{
	const struct core *c = &w->cores[q->core];

	return remote(w, q, c) + crowded(w, c);
}

/* What a queue needs more on one core than on another, in cores; negative: less. */
double dvmq_work_distance(const struct work *w, const struct queue *q, int from, int to)
{
	const struct core *a = &w->cores[from], *b = &w->cores[to];

	return q->demand * (remote(w, q, b) - remote(w, q, a) + crowded(w, b) - crowded(w, a));
}

/* The same, and what it costs to undo a move. */
double dvmq_work_cost(const struct work *w, const struct queue *q, int from, int to)
{
	return dvmq_work_distance(w, q, from, to) + (to == q->left ? BACK_COST : 0);
}

/* What its sibling cost the queues of a core when they were measured, as a share of their demand. */
static double was_crowded(const struct work *w, const struct core *c)
{
	return c->sibling == NONE ? 0 : SMT_COST * fmin(1, w->cores[c->sibling].before);
}

/*
 * What the cores will need more than was measured, so that it is left free: for queues that come from better places,
 * and where a sibling has more to do.  Returns whether there is any.
 */
bool dvmq_work_foresee(struct work *w)
{
	bool any = false;

	if (!dvmq_work_distant(w))
		return false;
	for (unsigned i = 0; i < w->n_cores; i++)
		w->cores[i].foreseen = 0;
	for (unsigned i = 0; i < w->n_queues; i++) {
		const struct queue *q = &w->queues[i];
		double more;

		if (q->core == NONE || q->home == NONE)
			continue;
		more = remote(w, q, &w->cores[q->core]) - remote(w, q, &w->cores[q->home]) +
		       crowded(w, &w->cores[q->core]) - was_crowded(w, &w->cores[q->home]);
		if (more <= 0)
			continue;
		w->cores[q->core].foreseen += q->demand * more;
		any = true;
	}
	return any;
}

/* Counts the VM mates of a queue into struct core.mates, or takes that back. */
void dvmq_work_mark_mates(struct work *w, int queue, bool on)
{
	unsigned n = 0;

	if (w->queues[queue].group == 0)
		return;
	/* Most snapshots need no move, and so no groups. */
	if (!w->grouped)
		load_groups(w);
	/* Only so many: what matters is a VM with a few queues. */
	for (int i = w->queues[queue].mate; i != queue && n < 64; i = w->queues[i].mate, n++)
		if (w->queues[i].core != NONE)
			w->cores[w->queues[i].core].mates = on;
}
