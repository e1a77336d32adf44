/* SPDX-License-Identifier: BSD-3-Clause */
/* The fast loop: overload and standing backlogs. */
#include <math.h>
#include <stddef.h>

#include "internal.h"

#define STANDING      0.5  /* occupancy from which a queue has a backlog */
#define STANDING_TIME 0.5  /* of fast_ms, after which it stands if no call in between saw it gone */
#define GAIN_MIN      0.05 /* share of its load that a step should take from a core where nothing fits */
#define BACK_GAIN     0.20 /* so much more a step should lower the busier core if it takes a queue back, in cores */

/* Marks the cores on which a backlog stands, in core.tried. */
static void find_backlogs(struct dvmq_balance *b, bool dry)
{
	struct work *w = &b->work;
	const struct dvmq_snapshot *s = w->snapshot;
	struct history *h = &b->history;
	bool first = !h->fast_started;

	for (unsigned i = 0; i < w->n_queues; i++)
		if (s->queues[i].occupancy >= STANDING && w->queues[i].core != NONE && w->queues[i].demand > 0)
			w->cores[w->queues[i].core].tried = true;
	for (unsigned i = 0; i < w->n_cores; i++) {
		struct core *c = &w->cores[i];
		double since = i < h->n_streaks && b->streaks[i].core == c->id ? b->streaks[i].since_ms : -1;

		if (!c->tried)
			since = -1;
		else if (since < 0)
			since = h->clock_ms;
		c->tried = c->tried && (first || h->clock_ms - since >= STANDING_TIME * b->params.fast_ms);
		if (!dry)
			b->streaks[i] = (struct streak){c->id, since};
	}
	h->n_streaks = w->n_cores;
	h->fast_started = true;
}

/*
 * Of an overloaded core: the queue that mends it best where it fits below `cap`,
 * on the fullest such core.  `whole`: only one that alone ends the overload.
 */
static bool fit(struct work *w, int c, double cap, bool whole, unsigned n, struct step *ret_step)
{
	struct step best = {NONE, NONE, INFINITY};
	double excess = w->cores[c].load - w->params->target, least = whole ? w->cores[c].load - w->params->high : 0;

	for (unsigned i = 0; i < n; i++) {
		const struct queue *q = &w->queues[w->list[i]];
		double misfit = q->demand >= excess ? q->demand - excess : 10 + excess - q->demand;

		if (q->demand < least || (q->demand < SERVES_MIN && q->demand < excess))
			break;
		misfit += q->recent ? 1 : 0;
		if (misfit - 1 > best.score)
			continue;
		dvmq_work_mark_mates(w, w->list[i], true);
		for (unsigned d = 0; d < w->n_cores; d++) {
			double left = cap - w->cores[d].load - q->demand, cost, score;

			if ((int)d == c || !w->cores[d].open || left < -EPSILON)
				continue;
			cost = dvmq_work_cost(w, q, c, d);
			/* What it needs more over there has to fit too. */
			left -= fmax(0, cost);
			if (left < -EPSILON || (cost > 0 && cost >= fmin(q->demand, excess)))
				continue;
			score = misfit + cost + left / 100 - (w->cores[d].mates ? AFFINITY_GAIN : 0);
			if (score < best.score)
				best = (struct step){w->list[i], d, score};
		}
		dvmq_work_mark_mates(w, w->list[i], false);
	}
	*ret_step = best;
	return best.queue != NONE;
}

/*
 * Where nothing fits: the move that lowers the busier of its two cores most, of several the one to the best place.  A
 * queue is taken back only from a core that has more to do than it can (or on which a backlog stands), and rather not.
 */
static bool level_pair(struct work *w, int c, int only, bool settled, unsigned n, struct step *ret_step)
{
	double load = w->cores[c].load, least = 0;
	struct step best = {NONE, NONE, INFINITY};

	for (unsigned i = 0; i < n; i++) {
		const struct queue *q = &w->queues[w->list[i]];
		double age = w->snapshot->queues[w->list[i]].age_ms;

		if (q->demand < SERVES_MIN)
			break;
		/* Overload that stays is no reason to move the same queue to and fro. */
		if (settled && age >= 0 && age < w->params->cooldown_ms)
			continue;
		for (unsigned d = 0; d < w->n_cores; d++) {
			bool back = (int)d == q->left;
			double score, cost;

			if ((int)d == c || !w->cores[d].open || (only != NONE && only != (int)d) ||
			    (back && load > w->params->high && load <= 1))
				continue;
			cost = dvmq_work_distance(w, q, c, d);
			score = fmax(load - q->demand, w->cores[d].load + q->demand) + fmax(0, cost);
			/* Little is not worth a move; but of a core far above, one queue can take only itself. */
			if (load - score < fmin(GAIN_MIN * load, q->demand / 2))
				continue;
			score += back ? BACK_GAIN : 0;
			if (score < best.score || (score == best.score && cost < least)) {
				best = (struct step){w->list[i], d, score};
				least = cost;
			}
		}
	}
	*ret_step = best;
	return best.queue != NONE;
}

/* One move, and if need be one wake-up, for an overloaded core or one with a standing backlog. */
static bool relieve(struct dvmq_balance *b, int c)
{
	struct work *w = &b->work;
	bool overloaded = w->cores[c].load > w->params->high;
	unsigned n = dvmq_work_gather(w, c);
	struct step step;
	bool found;
	int woken;

	/* What cannot be moved; a queue alone, or with so little beside it that it is not worth a wake-up. */
	if (n == 0 || w->cores[c].load - dvmq_work_largest(w, c) < SERVES_MIN ||
	    (overloaded && w->cores[c].load <= dvmq_repair_level(w, c, w->params->target)))
		return false;
	if (overloaded)
		found = fit(w, c, w->params->target, true, n, &step) || fit(w, c, w->params->high, true, n, &step) ||
			fit(w, c, w->params->target, false, n, &step) || fit(w, c, w->params->high, false, n, &step);
	else
		found = level_pair(w, c, NONE, true, n, &step);
	if (!found && (woken = dvmq_cores_pick(w, dvmq_cores_node(w, c))) != NONE) {
		dvmq_work_open(w, woken);
		found = level_pair(w, c, woken, false, n, &step);
		dvmq_work_close(w, woken);
		if (found)
			dvmq_cores_wake(b, woken,
					overloaded
					    ? "core %u at %.2f, above high %.2f, fits on no active core"
					    : "backlog on core %u at %.2f (high %.2f), no active core relieves it",
					w->cores[c].id, w->cores[c].load, w->params->high);
	}
	if (!found && overloaded)
		found = level_pair(w, c, NONE, true, n, &step);
	if (!found)
		return false;
	b->stands = !overloaded;
	dvmq_work_place(w, step.queue, step.to);
	return true;
}

/* Returns why nothing was done, or NULL. */
const char *dvmq_fast(struct dvmq_balance *b, bool dry)
{
	struct work *w = &b->work;
	unsigned limit = w->limit;
	bool any = false;

	find_backlogs(b, dry);
	if (w->limit == 0)
		return "no move allowed";
	w->limit = 1;
	dvmq_repair_drain(w, NONE);
	if (w->moved > 0)
		return NULL;
	for (;;) {
		int worst = NONE;

		for (unsigned i = 0; i < w->n_cores; i++) {
			const struct core *c = &w->cores[i];

			if (c->active && (c->tried || c->load > w->params->high) &&
			    (worst == NONE || c->load > w->cores[worst].load) && c->level == 0)
				worst = i;
		}
		if (worst == NONE && !any)
			return "no core above high, no standing backlog";
		if (worst == NONE) {
			/* No single move is worth it where all queues are tiny; many are. */
			w->limit = limit;
			dvmq_slow_end_wide(b);
			return w->moved > 0 || b->n_activate > 0
				   ? NULL
				   : "no move or wake-up would relieve the overloaded core";
		}
		any = true;
		w->cores[worst].level = 1; /* looked at */
		if (relieve(b, worst)) {
			w->limit = limit;
			dvmq_slow_end_wide(b);
			return NULL;
		}
	}
}
