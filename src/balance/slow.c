/* SPDX-License-Identifier: BSD-3-Clause */
/* The slow loop: evenness, the end of overload, cheaper places. */
#include <math.h>
#include <stddef.h>

#include "internal.h"

#define FEW_QUEUES  16	  /* queues per core up to which the slow loop tries more than two goals */
#define UNEVEN_MS   2000  /* the load is evened out when it has been uneven for so long, ms */
#define ECONOMY_MIN 0.005 /* least that a move to a cheaper place saves, in cores */

static double goal_level(const struct work *w, double rest, double goal)
{
	/* Where one large queue sets the bound, the others need not go below what is comfortable. */
	return fmax(fmax(rest, fmin(w->lower, w->params->target)) * goal, GOAL_FLOOR);
}

/*
 * Repairs to the tight goal.  Where that takes many moves (few and large queues
 * per core), looser goals are tried too, and of the results that reach the loose
 * goal the one with the fewest moves is taken.  No core is brought below `floor`.
 */
static void repair(struct dvmq_balance *b, double floor)
{
	static const double goals[] = {GOAL_TIGHT, GOAL_LOOSE, GOAL_LOOSE - 0.01, GOAL_LOOSE - 0.02};
	struct work *w = &b->work;
	unsigned start = w->moved, best_moved = 0;
	double rest, best = INFINITY;

	w->lower = dvmq_bound(w, &rest);
	dvmq_work_save(w, w->saved);
	for (unsigned i = 0; i < sizeof(goals) / sizeof(*goals); i++) {
		double level = fmax(goal_level(w, rest, goals[i]), floor), missed;

		dvmq_repair(w, level);
		missed = dvmq_repair_excess(w, fmax(goal_level(w, rest, GOAL_LOOSE), floor));
		if (missed < best || (missed <= best && w->moved < best_moved)) {
			best = missed;
			best_moved = w->moved;
			b->goal = level;
			dvmq_work_save(w, w->kept);
		}
		/* With many queues per core looser goals save few moves, for the time they take. */
		if (i == 0 && missed <= 0 &&
		    (w->n_queues > FEW_QUEUES * w->n_active || w->moved - start <= TIGHT_SHARE * w->n_queues))
			return;
		dvmq_work_restore(w, w->saved);
	}
	dvmq_work_restore(w, w->kept);
}

/*
 * Whether the slow loop has a reason to move, and in *ret_floor the level below
 * which it need not bring any core.  Overload is no longer waited for, but only
 * ended; the whole work is done when the load has been uneven for UNEVEN_MS, so
 * that noise moves nothing, or for who asks about one snapshot alone.
 */
static bool uneven(struct dvmq_balance *b, unsigned need, bool metered, double *ret_floor)
{
	struct history *h = &b->history;
	struct work *w = &b->work;
	double rest, level, max, wait = UNEVEN_MS;

	w->lower = dvmq_bound(w, &rest);
	level = goal_level(w, rest, GOAL_TIGHT);
	max = dvmq_repair_excess(w, level);
	*ret_floor = 0;
	if (!h->slow_started && !metered)
		return max > 0;
	if (max <= level || max <= fmin(b->params.target, level + UNEVEN)) {
		h->uneven_ms = -1;
		return false;
	}
	if (h->uneven_ms < 0)
		h->uneven_ms = h->clock_ms;
	/* A core is about to park: what is moved to it now would be moved for nothing. */
	if (max <= b->params.target && dvmq_cores_open(w) > need && dvmq_cores_may_park(w))
		wait *= 2;
	if (h->clock_ms - h->uneven_ms >= wait) {
		h->uneven_ms = -1;
		return true;
	}
	*ret_floor = b->params.target;
	return max > b->params.high;
}

static bool overfull(struct work *w)
{
	int core = dvmq_cores_hottest(w);

	return core != NONE && w->cores[core].load > 1;
}

/* A core still has more to do than it can: everything is placed anew if that ends it, whatever the moves. */
static void place_anew(struct work *w)
{
	static const double stays[] = {0.1, 0.03, EPSILON}; /* the more, the fewer moves */
	double rest;

	if (!overfull(w))
		return;
	dvmq_bound(w, &rest);
	if (rest > 1) /* more load than cores: nothing ends it */
		return;
	dvmq_work_save(w, w->saved);
	for (unsigned try = 0; try < sizeof(stays) / sizeof(*stays); try++) {
		dvmq_repair_anew(w, stays[try]);
		dvmq_work_restore(w, w->kept);
		if (!overfull(w) && w->moved <= w->limit)
			return;
		dvmq_work_restore(w, w->saved);
	}
}

/* Repairs, and again where a core is to serve queues that need more there than they did where they were. */
static void repair_places(struct dvmq_balance *b, double floor)
{
	struct work *w = &b->work;

	repair(b, floor);
	if (dvmq_work_foresee(w) && dvmq_cores_hottest(w) != NONE)
		repair(b, floor);
}

/* Repairs; while that leaves a core above high, with one core more, as long as repair has a use for it. */
static void end_overload(struct dvmq_balance *b, double floor)
{
	struct work *w = &b->work;
	int hot_core, core;

	/* Where only overload is to end, dust need not be moved to be below target by all means. */
	w->slack = floor > 0 ? SERVES_MIN : EPSILON;
	repair_places(b, floor);
	while ((hot_core = dvmq_cores_hottest(w)) != NONE && w->moved < w->limit) {
		double load = w->cores[hot_core].load + w->cores[hot_core].foreseen;

		core = dvmq_cores_pick(w, dvmq_cores_node(w, hot_core));
		if (core == NONE)
			break;
		dvmq_work_open(w, core);
		repair_places(b, floor);
		if (w->cores[core].count == 0) {
			dvmq_work_close(w, core);
			break;
		}
		dvmq_cores_wake(b, core, "core %u stays at %.2f, above high %.2f", w->cores[hot_core].id, load,
				w->params->high);
	}
	w->slack = EPSILON;
	place_anew(w);
}

/*
 * What one move does not end: several cores above high, or one with many small
 * queues.  Not again for slow_ms where it did not help: there is more load than
 * cores, or queues that do not move, and the search takes its time.
 */
void dvmq_slow_end_wide(struct dvmq_balance *b)
{
	struct history *h = &b->history;
	struct work *w = &b->work;
	bool full = overfull(w);

	if (dvmq_cores_hottest(w) == NONE || h->clock_ms < h->hopeless_ms[full])
		return;
	dvmq_cores_grow(b);
	end_overload(b, w->params->target);
	if (dvmq_cores_hottest(w) != NONE)
		h->hopeless_ms[full] = h->clock_ms + w->params->slow_ms;
}

/*
 * Queues that need less elsewhere (their node, a core of their own) go there,
 * those that gain most first, where there is room below target.
 */
static void economize(struct dvmq_balance *b)
{
	struct work *w = &b->work;

	while (w->moved < w->limit) {
		struct step best = {NONE, NONE, -ECONOMY_MIN};

		for (unsigned i = 0; i < w->n_queues; i++) {
			const struct queue *q = &w->queues[i];
			double surcharge;

			if (q->fixed || q->recent || q->core == NONE || q->core != q->home)
				continue;
			surcharge = dvmq_work_surcharge(w, q);
			if (surcharge < ECONOMY_SHARE || -surcharge * q->demand >= best.score)
				continue; /* the most that it could save */
			for (unsigned d = 0; d < w->n_cores; d++) {
				double cost;

				if (!w->cores[d].open || (int)d == q->core ||
				    w->cores[d].load + q->demand > w->params->target)
					continue;
				cost = dvmq_work_cost(w, q, q->core, d);
				if (cost < best.score && cost <= -ECONOMY_SHARE * q->demand)
					best = (struct step){i, d, cost};
			}
		}
		if (best.queue == NONE)
			return;
		dvmq_work_place(w, best.queue, best.to);
	}
}

const char *dvmq_slow(struct dvmq_balance *b, uint32_t max_moves)
{
	struct work *w = &b->work;
	struct history *h = &b->history;
	unsigned need, most, urgent, growth = b->n_activate, before;
	const char *why = NULL, *calm = NULL;
	double floor;
	bool metered = max_moves == UINT32_MAX;

	/* Queues that nobody polls, or that the operator wants elsewhere, do not wait for the budget. */
	dvmq_repair_drain(w, NONE);
	for (unsigned i = 0; i < w->n_cores; i++)
		if (w->cores[i].leaving)
			dvmq_repair_drain(w, i);
	urgent = w->moved;
	/* Nor does the end of overload, which the fast loop would bring about move by move. */
	if (metered && dvmq_cores_hottest(w) == NONE)
		w->limit = urgent + (h->tokens > 0 ? (unsigned)h->tokens : 0);

	need = dvmq_bound_cores(w, w->params->high - w->params->margin);
	most = dvmq_cores_remember(b, need);
	dvmq_cores_grow(b);
	if (uneven(b, need, metered, &floor) || b->n_activate > growth) {
		before = w->moved;
		end_overload(b, floor);
		if (w->moved == before)
			calm =
			    w->moved >= w->limit ? "the budget of moves is spent" : "no move lowers the busiest core";
	} else {
		calm =
		    dvmq_work_max(w) <= w->lower * GOAL_TIGHT ? "balanced" : "uneven, but not above high, nor for 2 s";
	}
	/*
	 * Emptying a core is one decision: the budget may be overdrawn for it, and is owed.  What the fast loop owes
	 * is no obstacle, else a load that keeps it busy would never let a core go.
	 */
	if (b->n_activate == growth && (!metered || h->tokens > -dvmq_balance_rate(b))) {
		unsigned limit = w->limit;

		if (metered)
			w->limit = w->n_queues;
		why = dvmq_cores_shrink(b, need, most);
		w->limit = limit;
	}
	if (w->moved == 0 && b->n_activate == 0 && w->limit > 0 && dvmq_work_distant(w))
		economize(b);
	h->slow_started = true;
	return w->moved > 0 || b->n_activate > 0 ? NULL : why ? why : calm;
}
