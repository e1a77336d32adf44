/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The search: bring every core to its level with few moves.
 *
 * Large queues first: one per core, and there where the fewest others have to
 * leave for them.  Then the cores above their level, the worst
 * first, each by the cheapest step that mends it: one move; two moves (an
 * exchange, or a move for which the destination makes room first); else the
 * largest queue that fits elsewhere, and again.  No step lifts another core above
 * its level, so the number of cores above it only falls.  What is then left is
 * taken on by exchanges that may lift another core, but never as high.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

#define CANDIDATES  6	 /* queues that are tried on every core for a step; more find hardly better ones */
#define MOVED_GAIN  0.05 /* what a move less is worth in the fit, in cores */
#define LARGE_PARTS 7	 /* a queue above this part of the level is looked after: with whom it shares its core */
#define EXCHANGES   256	 /* queues looked at for an exchange once one is found */

static double gap(const struct core *c)
{
	return c->open ? c->level - c->load : -1;
}

static bool may_move(const struct work *w, unsigned n)
{
	return w->moved + n <= w->limit;
}

/* What a move is worth must exceed what the queue costs more at its new place. */
static bool pays(double relief, double cost)
{
	return cost <= 0 || relief > cost;
}

/* What it is worth: a core that is not overloaded is no burden, and evenness alone is not worth a dearer place. */
static double worth(const struct work *w, int core, double level)
{
	double load = w->cores[core].load;

	return load - (load > w->params->high ? level : fmax(level, w->params->target));
}

/*
 * The core for a queue: the tightest of those it fits on, minding distance,
 * sibling and VM mates.  `relief`: what leaving its core is worth.  NONE: no
 * core has room.
 */
static int best_fit(struct work *w, int queue, double relief, double *ret_score)
{
	const struct queue *q = &w->queues[queue];
	double best = INFINITY;
	int found = NONE;

	dvmq_work_mark_mates(w, queue, true);
	for (unsigned i = 0; i < w->n_cores; i++) {
		const struct core *d = &w->cores[i];
		double left = gap(d) - q->demand, cost, score;

		if ((int)i == q->core || left < -EPSILON)
			continue;
		cost = q->core == NONE ? 0 : dvmq_work_cost(w, q, q->core, i);
		/* What it needs more over there has to fit too. */
		if (!pays(relief, cost) || (cost > 0 && left < cost))
			continue;
		score = left + cost + (q->recent ? RECENT_COST : 0) - (d->mates ? AFFINITY_GAIN : 0) -
			((int)i == q->home ? 1 : 0);
		if (score < best) {
			best = score;
			found = i;
		}
	}
	dvmq_work_mark_mates(w, queue, false);
	*ret_score = best;
	return found;
}

/*
 * The emptiest core, by what the queue costs there; `large`: only among cores
 * without a queue above that.  NONE: no core is open.
 */
static int emptiest(struct work *w, int queue, double large)
{
	const struct queue *q = &w->queues[queue];
	double best = INFINITY, mean = w->total / w->n_queues;
	int found = NONE;

	dvmq_work_mark_mates(w, queue, true);
	for (unsigned i = 0; i < w->n_cores; i++) {
		double score;

		if (!w->cores[i].open || (int)i == q->core || dvmq_work_largest(w, i) > large)
			continue;
		score = w->cores[i].load + (q->core == NONE ? 0 : dvmq_work_cost(w, q, q->core, i)) -
			(w->cores[i].mates ? AFFINITY_GAIN : 0);
		if (q->demand < mean / 4)
			score += w->cores[i].count * mean;
		if (score < best) {
			best = score;
			found = i;
		}
	}
	dvmq_work_mark_mates(w, queue, false);
	return found;
}

/* Gives the movable queues of a core, or those without one (NONE), to the emptiest cores, as far as w->limit allows. */
void dvmq_repair_drain(struct work *w, int core)
{
	unsigned n = dvmq_work_gather(w, core);

	for (unsigned i = 0; i < n && may_move(w, 1); i++) {
		int to = emptiest(w, w->list[i], INFINITY);

		if (to != NONE)
			dvmq_work_place(w, w->list[i], to);
	}
}

/* One move that brings core c to its level. */
static bool mend_by_move(struct work *w, double excess, double relief, double room, unsigned n)
{
	double best = INFINITY;
	int queue = NONE, core = NONE;
	unsigned tried = 0, i = n;

	/* The smallest queue that is large enough, then larger ones. */
	while (i > 0 && w->queues[w->list[i - 1]].demand < excess)
		i--;
	for (; i > 0 && tried < CANDIDATES && w->queues[w->list[i - 1]].demand <= room; i--, tried++) {
		int q = w->list[i - 1];
		double score;
		int d = best_fit(w, q, relief, &score);

		/* To move on what has moved already is no further move. */
		score += w->queues[q].demand - excess - (w->queues[q].core != w->queues[q].home ? MOVED_GAIN : 0);
		if (d != NONE && score < best) {
			best = score;
			queue = q;
			core = d;
		}
	}
	if (queue == NONE)
		return false;
	dvmq_work_place(w, queue, core);
	return true;
}

/* Two moves: a queue of c for a smaller one of another core, so that both are at their level. */
static bool mend_by_exchange(struct work *w, int c, double excess, double relief, unsigned n)
{
	double best = INFINITY;
	int out = NONE, in = NONE;
	unsigned seen = 0, large = 0;

	while (large < n && w->queues[w->list[large]].demand >= excess)
		large++;
	for (unsigned k = 1; k < w->n_cores && (out == NONE || seen < EXCHANGES); k++) {
		unsigned i = (c + k) % w->n_cores;
		const struct core *d = &w->cores[i];
		double room = gap(d);

		/* What comes back must make up for the smallest queue that is large enough. */
		if (room < excess || dvmq_work_largest(w, i) < w->queues[w->list[large - 1]].demand - room)
			continue;
		seen += d->count;
		for (int r = d->first; r != NONE; r = w->queues[r].next) {
			double most = w->queues[r].demand + room, least = w->queues[r].demand + excess;
			unsigned lo = 0, hi = large;

			if (w->queues[r].fixed)
				continue;
			/* The smallest queue of c that is at least `least`. */
			while (lo < hi) {
				unsigned mid = (lo + hi) / 2;

				if (w->queues[w->list[mid]].demand < least)
					hi = mid;
				else
					lo = mid + 1;
			}
			if (lo == 0 || w->queues[w->list[lo - 1]].demand > most)
				continue;
			int q = w->list[lo - 1];
			double cost = dvmq_work_cost(w, &w->queues[q], c, i) + dvmq_work_cost(w, &w->queues[r], i, c);
			double score = most - least + cost;

			if (score < best && pays(relief, cost)) {
				best = score;
				out = q;
				in = r;
			}
		}
	}
	if (out == NONE)
		return false;
	int d = w->queues[in].core;

	dvmq_work_place(w, in, c);
	dvmq_work_place(w, out, d);
	return true;
}

/* Two moves: another core gives a queue to a third and so has room for one of c. */
static bool mend_by_chain(struct work *w, int c, double excess, double relief, unsigned n)
{
	double room[2] = {-1, -1}, best = INFINITY;
	int roomy = NONE, out = NONE, way = NONE;
	unsigned i = n, tried = 0;

	for (unsigned k = 0; k < w->n_cores; k++) {
		double g = (int)k == c ? -1 : gap(&w->cores[k]);

		if (g > room[0]) {
			room[1] = room[0];
			room[0] = g;
			roomy = k;
		} else if (g > room[1]) {
			room[1] = g;
		}
	}
	while (i > 0 && w->queues[w->list[i - 1]].demand < excess)
		i--;
	for (; i > 0 && tried < CANDIDATES; i--, tried++) {
		const struct queue *q = &w->queues[w->list[i - 1]];

		for (unsigned k = 0; k < w->n_cores; k++) {
			const struct core *d = &w->cores[k];
			double lack = q->demand - gap(d), most = room[(int)k == roomy], cost;

			if ((int)k == c || !d->open || lack > most)
				continue;
			cost = dvmq_work_cost(w, q, c, k);
			if (!pays(relief, cost))
				continue;
			for (int r = d->first; r != NONE; r = w->queues[r].next) {
				double demand = w->queues[r].demand, score = demand - lack + q->demand - excess + cost;

				if (demand < lack || demand > most || w->queues[r].fixed || score >= best)
					continue;
				best = score;
				out = w->list[i - 1];
				way = r;
			}
		}
	}
	if (out == NONE)
		return false;
	/* Where the way is made to is settled now; c is no such place, it is above its level. */
	int d = w->queues[way].core;
	double score;
	int third = best_fit(w, way, relief, &score);

	if (third == NONE)
		return false;
	dvmq_work_place(w, way, third);
	dvmq_work_place(w, out, d);
	return true;
}

/* The largest queue that some core has room for; mends only part.  Without `recent`: that has not moved just now. */
static bool ease(struct work *w, double excess, double relief, double room, bool recent, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		double demand = w->queues[w->list[i]].demand, score;
		int d;

		if (demand > room || demand > excess || w->queues[w->list[i]].recent > recent)
			continue;
		if (demand <= excess / 1000) /* moving dust never ends */
			return false;
		d = best_fit(w, w->list[i], relief, &score);
		if (d == NONE)
			continue;
		dvmq_work_place(w, w->list[i], d);
		return true;
	}
	return false;
}

/* One step that lowers core c. */
static bool mend(struct work *w, int c, double level)
{
	double excess = w->cores[c].load - w->cores[c].level;
	double relief = worth(w, c, level);
	unsigned n = dvmq_work_gather(w, c);
	double room = -1; /* the most that another core has */

	for (unsigned i = 0; i < w->n_cores; i++)
		if ((int)i != c && gap(&w->cores[i]) > room)
			room = gap(&w->cores[i]);
	if (n == 0)
		return false;
	if (w->queues[w->list[0]].demand >= excess) {
		if (may_move(w, 1) && mend_by_move(w, excess, relief, room, n))
			return true;
		if (may_move(w, 2) &&
		    (mend_by_exchange(w, c, excess, relief, n) || mend_by_chain(w, c, excess, relief, n)))
			return true;
	}
	return may_move(w, 1) && (ease(w, excess, relief, room, false, n) || ease(w, excess, relief, room, true, n));
}

/*
 * A core far above its level (all queues on one core, at the start) gives away
 * its queues in one pass, largest first, to the emptiest core each.
 */
static void spill(struct work *w, int c)
{
	unsigned n = dvmq_work_gather(w, c);

	for (unsigned i = 0; i < n && may_move(w, 1); i++) {
		struct core *from = &w->cores[c];
		double demand = w->queues[w->list[i]].demand;
		int d;

		if (demand <= 0 || from->load <= from->level)
			break;
		if (demand > from->load - from->level)
			continue;
		d = emptiest(w, w->list[i], INFINITY);
		if (d != NONE && gap(&w->cores[d]) >= demand)
			dvmq_work_place(w, w->list[i], d);
	}
}

static int worst(const struct work *w)
{
	double most = w->slack;
	int found = NONE;

	for (unsigned i = 0; i < w->n_cores; i++) {
		const struct core *c = &w->cores[i];

		if (c->active && !c->tried && c->load - c->level > most) {
			most = c->load - c->level;
			found = i;
		}
	}
	return found;
}

/*
 * Where repair to `level` leaves a core.  One whose largest queue alone is above
 * the level: that queue stays, and what keeps it company leaves, but for the
 * little that does not fill the core.  What is foreseen (dvmq_work_foresee()) has to fit as well.
 */
double dvmq_repair_level(struct work *w, int core, double level)
{
	const struct core *c = &w->cores[core];
	double largest;

	level -= c->foreseen;
	largest = c->load > level ? dvmq_work_largest(w, core) : 0;
	if (largest > level)
		level = fmax(largest, fmin(largest * GOAL_TIGHT, 1));
	return fmax(level, c->pinned);
}

static void set_levels(struct work *w, double level)
{
	for (unsigned i = 0; i < w->n_cores; i++) {
		w->cores[i].tried = false;
		w->cores[i].level = dvmq_repair_level(w, i, level);
	}
}

/* Load of the busiest core that moves could bring to `level`; 0: there is none above it. */
double dvmq_repair_excess(struct work *w, double level)
{
	double most = 0;

	set_levels(w, level);
	for (unsigned i = 0; i < w->n_cores; i++)
		if (w->cores[i].active && w->cores[i].load > w->cores[i].level + EPSILON)
			most = fmax(most, w->cores[i].load);
	return most;
}

/*
 * Large queues that do not fit on one core together part: the largest stays.
 * Greedy steps alone get stuck there, for no core has so much room.
 */
static void separate(struct work *w, double level)
{
	for (unsigned i = 0; i < w->n_cores; i++) {
		double kept = 0, relief;
		unsigned n;

		if (!w->cores[i].active || w->cores[i].load <= level || dvmq_work_largest(w, i) <= level / LARGE_PARTS)
			continue;
		for (int q = w->cores[i].first; q != NONE; q = w->queues[q].next)
			if (w->queues[q].demand > level / LARGE_PARTS && w->queues[q].fixed)
				kept += w->queues[q].demand;
		n = dvmq_work_gather(w, i);
		relief = w->cores[i].load > w->params->high ? INFINITY : worth(w, i, level);
		for (unsigned k = 0; k < n && may_move(w, 1); k++) {
			double demand = w->queues[w->list[k]].demand, score;
			int d = NONE;

			if (demand <= level / LARGE_PARTS)
				break;
			if (kept > 0 && kept + demand > level) {
				d = best_fit(w, w->list[k], relief, &score);
				if (d == NONE)
					d = emptiest(w, w->list[k], fmax(level - demand, level / LARGE_PARTS));
				/* Nor back: a wake-up may serve; where none does, the fast loop takes it back. */
				if (d != NONE && (d == w->queues[w->list[k]].left ||
						  !pays(relief, dvmq_work_cost(w, &w->queues[w->list[k]], i, d))))
					d = NONE;
			}
			if (d != NONE)
				dvmq_work_place(w, w->list[k], d);
			else
				kept += demand;
		}
	}
}

/* How many of these sizes, largest first, it takes to make up `excess`; `most`: so many, or more, or they do not. */
static unsigned count_leavers(const double *sizes, unsigned n, double excess, unsigned most)
{
	for (unsigned i = 0; i < n && i < most; i++) {
		if (excess <= EPSILON)
			return i;
		excess -= sizes[i];
	}
	return excess <= EPSILON && n < most ? n : most;
}

/* The sizes of the movable queues of a core without a large one, largest first; made when first asked for. */
static const double *list_sizes(struct work *w, int core)
{
	struct core *c = &w->cores[core];
	double *sizes = w->sizes + c->sizes;

	if (!c->listed) {
		c->listed = true;
		c->n_sizes = dvmq_work_gather(w, core);
		for (unsigned i = 0; i < c->n_sizes; i++)
			sizes[i] = w->queues[w->list[i]].demand;
	}
	return sizes;
}

/*
 * The largest queue of a core, and the place among the cores without a large
 * queue where the fewest others have to leave for it; NONE: here.
 */
static int find_house(struct work *w, int core, double level, double large, int *ret_queue)
{
	const struct core *c = &w->cores[core];
	unsigned n = dvmq_work_gather(w, core), best, after;
	int queue = n > 0 ? w->list[0] : NONE, to = NONE;
	double demand = queue == NONE ? 0 : w->queues[queue].demand;
	double *others = w->sizes + w->n_queues;

	if (demand <= large)
		return NONE;
	*ret_queue = queue;
	for (unsigned i = 1; i < n; i++)
		others[i - 1] = w->queues[w->list[i]].demand;
	best = count_leavers(others, n - 1, c->load - c->level, n);
	after = 1 + count_leavers(others, n - 1, c->load - demand - level, best);
	for (unsigned k = 0; k < w->n_cores && after < best; k++) {
		const struct core *d = &w->cores[k];
		double excess = d->load + demand - fmax(level, demand), largest = dvmq_work_largest(w, k);
		unsigned leavers;

		/* Not where even the largest would be too many. */
		if (!d->open || (int)k == core || largest > large || excess > (best - after) * largest ||
		    !pays(worth(w, core, level), dvmq_work_cost(w, &w->queues[queue], core, k)))
			continue;
		const double *sizes = list_sizes(w, k);

		leavers = after + count_leavers(sizes, d->n_sizes, excess, best - after);
		if (leavers < best) {
			best = leavers;
			to = k;
		}
	}
	return to;
}

/*
 * A large queue on a crowded core: either its many small neighbours leave, or
 * it goes where fewer have to, because there is room, or because they are larger.
 */
static void rehouse(struct work *w, double level)
{
	double large = level / LARGE_PARTS;
	unsigned n = 0;

	for (unsigned i = 0; i < w->n_cores; i++) {
		w->cores[i].listed = false;
		w->cores[i].sizes = n;
		n += w->cores[i].count;
	}
	for (unsigned i = 0; i < w->n_cores && may_move(w, 1); i++) {
		int queue, to = NONE;

		if (w->cores[i].open && w->cores[i].load > w->cores[i].level && dvmq_work_largest(w, i) > large)
			to = find_house(w, i, level, large, &queue);
		if (to != NONE)
			dvmq_work_place(w, queue, to);
	}
}

/* The pair of steps between c and d (move, or exchange) that lowers the worse of the two most. */
static bool level_out(struct work *w, int c, double level)
{
	unsigned n = dvmq_work_gather(w, c);
	double best = w->cores[c].load - w->cores[c].level - EPSILON, relief = worth(w, c, level);
	int out = NONE, in = NONE, to = NONE;

	best -= w->cores[c].level / 1000;
	for (unsigned k = 0; k < w->n_cores; k++) {
		const struct core *d = &w->cores[k];

		if ((int)k == c || !d->open)
			continue;
		for (unsigned i = 0; i < n; i++) {
			double demand = w->queues[w->list[i]].demand;

			for (int r = d->first;; r = w->queues[r].next) {
				double delta = demand - (r == NONE ? 0 : w->queues[r].demand);
				double a = w->cores[c].load - delta - w->cores[c].level;
				double b = d->load + delta - d->level;
				double score = a > b ? a : b;

				if (score < best && (r == NONE || !w->queues[r].fixed) &&
				    may_move(w, r == NONE ? 1 : 2) &&
				    pays(relief, dvmq_work_cost(w, &w->queues[w->list[i]], c, k) +
						     (r == NONE ? 0 : dvmq_work_cost(w, &w->queues[r], k, c)))) {
					best = score;
					out = w->list[i];
					in = r;
					to = k;
				}
				if (r == NONE)
					break;
			}
		}
	}
	if (out == NONE)
		return false;
	if (in != NONE)
		dvmq_work_place(w, in, c);
	dvmq_work_place(w, out, to);
	return true;
}

/* Queues go home where that is possible within the levels: fewer moves. */
static void go_home(struct work *w)
{
	for (unsigned i = 0; i < w->n_queues; i++) {
		const struct queue *q = &w->queues[i];

		if (q->home != NONE && q->core != q->home && w->cores[q->home].open &&
		    gap(&w->cores[q->home]) >= q->demand)
			dvmq_work_place(w, i, q->home);
	}
}

/* Brings every core to `level` as far as possible, with at most w->limit queues away from home. */
void dvmq_repair(struct work *w, double level)
{
	unsigned rounds = 0;
	int c;

	set_levels(w, level);
	separate(w, level);
	set_levels(w, level);
	rehouse(w, level);
	set_levels(w, level);
	while ((c = worst(w)) != NONE) {
		struct core *core = &w->cores[c];

		if (core->count > 64 && core->load > 2 * core->level)
			spill(w, c);
		if (core->load > core->level && !mend(w, c, level))
			core->tried = true;
	}
	for (unsigned i = 0; i < w->n_cores; i++)
		w->cores[i].tried = false;
	while (rounds++ < 4 * w->n_cores && (c = worst(w)) != NONE)
		if (!mend(w, c, level) && !level_out(w, c, level))
			w->cores[c].tried = true;
	go_home(w);
}

/*
 * Fills w->kept with everything placed anew: the largest first, each to where that leaves least, at home where that
 * leaves at most `stay` more.  For where the steps above get stuck, as three queues and more would have to change
 * places.
 */
void dvmq_repair_anew(struct work *w, double stay)
{
	bool distant = dvmq_work_distant(w);
	unsigned n = 0;

	dvmq_work_save(w, w->kept);
	for (unsigned i = 0; i < w->n_cores; i++)
		w->cores[i].level = 0;
	for (unsigned i = 0; i < w->n_queues; i++) {
		const struct queue *q = &w->queues[i];

		if (q->core == NONE)
			continue;
		if (q->fixed)
			w->cores[q->core].level += q->demand;
		else
			w->list[n++] = i;
	}
	dvmq_work_sort(w, w->list, n);
	for (unsigned k = 0; k < n; k++) {
		const struct queue *q = &w->queues[w->list[k]];
		double least = INFINITY;
		int to = NONE;

		for (unsigned i = 0; i < w->n_cores; i++) {
			double cost = distant ? fmax(0, dvmq_work_distance(w, q, q->core, i)) : 0;
			double level = w->cores[i].level + cost - ((int)i == q->home ? stay : 0);

			if (w->cores[i].open && level < least) {
				least = level;
				to = i;
			}
		}
		w->cores[to].level += q->demand;
		w->kept[w->list[k]] = to;
	}
}
