/* SPDX-License-Identifier: BSD-3-Clause */
/* Parameters, history, and the plan: what the loops did to the working copy, with reasons. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define CREDIT_PERIODS 5   /* slow periods that one call may count for, so that a clock that jumps proves nothing */
#define MOVES_MIN      4.0 /* moves per second that are allowed however few the queues are */

void dvmq_balance_defaults(struct dvmq_balance_params *params)
{
	*params = (struct dvmq_balance_params){
	    .high = 0.90,
	    .target = 0.85,
	    .margin = 0.05,
	    .fast_ms = 1,
	    .slow_ms = 50,
	    .budget = 4,
	    .cooldown_ms = 100,
	    .hold_ms = 500,
	};
}

const char *dvmq_balance_check(const struct dvmq_balance_params *p, const char **ret_why)
{
	const struct {
		bool ok;
		const char *name, *why;
	} rules[] = {
	    {p->high > 0 && p->high <= 1, "high", "must be above 0 and at most 1"},
	    {p->target > 0 && p->target <= p->high, "target", "must be above 0 and at most high"},
	    {p->margin >= 0 && p->margin < p->high, "margin", "must be at least 0 and below high"},
	    {p->fast_ms > 0 && p->fast_ms <= 1e6, "fast_ms", "must be above 0 and at most 1000000"},
	    {p->slow_ms >= p->fast_ms && p->slow_ms <= 1e6, "slow_ms", "must be at least fast_ms and at most 1000000"},
	    {p->budget >= 0 && p->budget <= 1e6, "budget", "must be 0 to 1000000 (percent of the queues per second)"},
	    {p->cooldown_ms >= 0 && p->cooldown_ms <= 1e9, "cooldown_ms", "must be 0 to 1000000000"},
	    {p->hold_ms >= 0 && p->hold_ms <= 1e9, "hold_ms", "must be 0 to 1000000000"},
	};

	/* Comparisons with NaN are false, so NaN breaks the rule of its key. */
	for (unsigned i = 0; i < sizeof(rules) / sizeof(*rules); i++)
		if (!rules[i].ok) {
			*ret_why = rules[i].why;
			return rules[i].name;
		}
	return NULL;
}

struct dvmq_balance *dvmq_balance_new(const struct dvmq_balance_params *params)
{
	struct dvmq_balance *balance;
	const char *why;

	if (dvmq_balance_check(params, &why)) {
		errno = EINVAL;
		return NULL;
	}
	balance = calloc(1, sizeof(*balance));
	if (balance)
		balance->params = *params;
	return balance;
}

void dvmq_balance_free(struct dvmq_balance *balance)
{
	if (!balance)
		return;
	free(balance->streaks);
	free(balance->work.cores);
	free(balance->work.queues);
	free(balance->work.list);
	free(balance->work.saved);
	free(balance->work.kept);
	free(balance->work.sizes);
	free(balance->work.slots);
	free(balance->work.origins);
	free(balance->moves);
	free(balance->activate);
	free(balance->park);
	free(balance->saturated);
	free(balance);
}

/* An array of n elements in place of *array, which is kept if that fails; what was in it is not kept. */
static bool renew(void *array, unsigned n, size_t size)
{
	void *fresh = calloc(n, size), *old;

	if (!fresh)
		return false;
	memcpy(&old, array, sizeof(old));
	free(old);
	memcpy(array, &fresh, sizeof(fresh));
	return true;
}

/* Room for the snapshot; allocates only when it is larger than any before. */
static int grow(struct dvmq_balance *b, const struct dvmq_snapshot *s)
{
	struct work *w = &b->work;
	unsigned cores = s->n_cores > 16 ? s->n_cores : 16, queues = s->n_queues > 256 ? s->n_queues : 256;
	unsigned n_slots = 64;

	if (cores > b->core_room) {
		b->core_room = 0;
		b->history.n_streaks = 0;
		if (!renew(&b->streaks, cores, sizeof(*b->streaks)) || !renew(&w->cores, cores, sizeof(*w->cores)) ||
		    !renew(&b->activate, cores, sizeof(*b->activate)) || !renew(&b->park, cores, sizeof(*b->park)))
			return -ENOMEM;
		b->core_room = cores;
	}
	if (queues > b->queue_room) {
		queues += queues / 2;
		b->queue_room = 0;
		if (!renew(&w->queues, queues, sizeof(*w->queues)) || !renew(&w->list, queues, sizeof(*w->list)) ||
		    !renew(&w->saved, queues, sizeof(*w->saved)) || !renew(&w->kept, queues, sizeof(*w->kept)) ||
		    !renew(&w->sizes, 2 * queues, sizeof(*w->sizes)) || !renew(&b->moves, queues, sizeof(*b->moves)) ||
		    !renew(&b->saturated, queues, sizeof(*b->saturated)))
			return -ENOMEM;
		b->queue_room = queues;
	}
	while (n_slots < 2 * (b->core_room > b->queue_room ? b->core_room : b->queue_room))
		n_slots *= 2;
	if (n_slots > w->n_slots) {
		w->n_slots = 0;
		if (!renew(&w->slots, n_slots, sizeof(*w->slots)) || !renew(&w->origins, n_slots, sizeof(*w->origins)))
			return -ENOMEM;
		w->n_slots = n_slots;
	}
	return 0;
}

/* ------------------------------------------------------------ history */

/* The budget: moves per second. */
double dvmq_balance_rate(const struct dvmq_balance *b)
{
	double rate = b->params.budget / 100 * b->work.n_queues;

	return b->params.budget > 0 && rate < MOVES_MIN ? MOVES_MIN : rate;
}

static void advance(struct dvmq_balance *b, double now_ms)
{
	struct history *h = &b->history;
	double elapsed = now_ms - h->last_ms, most = CREDIT_PERIODS * b->params.slow_ms;

	if (!h->started || elapsed < 0) {
		*h = (struct history){.started = true, .tokens = dvmq_balance_rate(b), .uneven_ms = -1};
		elapsed = 0;
	}
	h->last_ms = now_ms;
	if (!(elapsed < most)) /* a jump, or no number */
		elapsed = isnan(elapsed) ? 0 : most;
	h->clock_ms += elapsed;
	h->tokens = fmin(h->tokens + elapsed / 1000 * dvmq_balance_rate(b), dvmq_balance_rate(b));
}

/* ------------------------------------------------------------ plan */

static void explain_move(const struct dvmq_balance *b, enum dvmq_loop loop, int queue, struct dvmq_move *move)
{
	const struct work *w = &b->work;
	const struct queue *q = &w->queues[queue];
	const struct core *to = &w->cores[q->core], *from = q->home == NONE ? NULL : &w->cores[q->home];
	char *text = move->reason;
	const size_t size = sizeof(move->reason);

	if (!from)
		snprintf(text, size, "core %u is gone or parked; core %u at %.2f takes it", move->from, to->id,
			 to->before);
	else if (from->dispensable)
		snprintf(text, size, "core %u parks; core %u at %.2f has room", from->id, to->id, to->before);
	else if (from->leaving)
		snprintf(text, size, "the operator parks core %u; core %u at %.2f has room", from->id, to->id,
			 to->before);
	else if (loop == DVMQ_LOOP_FAST && b->stands)
		snprintf(text, size, "backlog stands on core %u at %.2f; core %u at %.2f", from->id, from->before,
			 to->id, to->before);
	else if (loop == DVMQ_LOOP_FAST)
		snprintf(text, size, "core %u at %.2f, above high %.2f; best fit: core %u at %.2f", from->id,
			 from->before, w->params->high, to->id, to->before);
	else if (dvmq_work_cost(w, q, q->home, q->core) <= -ECONOMY_SHARE * q->demand && from->before <= b->goal)
		snprintf(text, size, "core %u serves it for less than core %u (its node, or no busy sibling)", to->id,
			 from->id);
	else if (from->before > b->goal)
		snprintf(text, size, "core %u at %.2f, goal %.2f; core %u at %.2f", from->id, from->before, b->goal,
			 to->id, to->before);
	else
		snprintf(text, size, "makes room on core %u for a larger queue; core %u at %.2f", from->id, to->id,
			 to->before);
}

/* Largest first: what is done of a plan early does most. */
static unsigned list_moves(struct dvmq_balance *b, enum dvmq_loop loop)
{
	struct work *w = &b->work;
	unsigned n = 0, order = 0;

	for (unsigned i = 0; i < w->n_queues; i++) {
		const struct queue *q = &w->queues[i];

		/* One that was on a parked core stays there if that is woken. */
		if (q->core != NONE && q->core != q->home && w->cores[q->core].id != w->snapshot->queues[i].core)
			w->list[n++] = i;
	}
	dvmq_work_sort(w, w->list, n);
	for (; order < n; order++) {
		int i = w->list[order];
		struct dvmq_move *move = &b->moves[order];

		move->queue = w->queues[i].id;
		move->index = i;
		move->from = w->snapshot->queues[i].core;
		move->to = w->cores[w->queues[i].core].id;
		explain_move(b, loop, i, move);
	}
	return n;
}

/* Moves that the budget is for: an idle queue has nothing to wait and no warm cache to lose. */
static unsigned costly_moves(const struct work *w, const struct dvmq_plan *plan)
{
	unsigned n = 0;

	for (unsigned i = 0; i < plan->n_moves; i++)
		n += w->queues[plan->moves[i].index].demand >= IDLE_MOST;
	return n;
}

static unsigned list_parks(struct dvmq_balance *b)
{
	const struct work *w = &b->work;
	unsigned n = 0;

	for (unsigned i = 0; i < w->n_cores; i++) {
		const struct core *c = &w->cores[i];
		struct dvmq_core_action *action = &b->park[n];

		if (!c->was_active || !c->leaving || c->count > 0)
			continue;
		action->core = c->id;
		if (c->dispensable)
			snprintf(action->reason, sizeof(action->reason),
				 "not needed for %.0f ms; no core above %.2f without it", b->params.hold_ms,
				 w->params->high - w->params->margin);
		else
			snprintf(action->reason, sizeof(action->reason), "the operator keeps it parked");
		n++;
	}
	return n;
}

static unsigned list_saturated(struct dvmq_balance *b)
{
	const struct work *w = &b->work;
	unsigned n = 0;

	for (unsigned i = 0; i < w->n_queues; i++) {
		if (w->queues[i].demand <= 1)
			continue;
		b->saturated[n].queue = w->queues[i].id;
		b->saturated[n].index = i;
		snprintf(b->saturated[n].reason, DVMQ_BALANCE_REASON,
			 "needs %.2f cores; a queue has one: moving cannot help, more queues can", w->queues[i].demand);
		n++;
	}
	return n;
}

static void explain(struct dvmq_plan *plan, const char *nothing)
{
	if (plan->n_moves || plan->n_activate || plan->n_park)
		snprintf(plan->reason, sizeof(plan->reason),
			 "%u moves, %u cores wake, %u park; busiest core %.2f -> %.2f", plan->n_moves, plan->n_activate,
			 plan->n_park, plan->max_before, plan->max_after);
	else
		snprintf(plan->reason, sizeof(plan->reason), "%s; busiest core %.2f, bound %.2f",
			 nothing ? nothing : "nothing to do", plan->max_after, plan->lower_bound);
}

int dvmq_balance_plan(struct dvmq_balance *b, const struct dvmq_snapshot *snapshot, enum dvmq_loop loop,
		      uint32_t max_moves, bool dry, struct dvmq_plan *ret_plan)
{
	struct work *w = &b->work;
	struct history before;
	const char *nothing;
	double rest;

	*ret_plan = (struct dvmq_plan){0};
	if (grow(b, snapshot) < 0)
		return -ENOMEM;
	before = b->history;
	w->snapshot = snapshot;
	w->params = &b->params;
	w->n_cores = snapshot->n_cores;
	w->n_queues = snapshot->n_queues;
	b->n_activate = 0;
	b->stands = false;
	b->goal = b->params.target;
	if (w->n_cores == 0) {
		snprintf(ret_plan->reason, sizeof(ret_plan->reason), "there is no core");
		return 0;
	}
	dvmq_work_load(w);
	advance(b, snapshot->now_ms);
	if (max_moves < w->limit)
		w->limit = max_moves;
	dvmq_cores_wishes(b);
	ret_plan->max_before = dvmq_work_max(w);
	nothing = loop == DVMQ_LOOP_FAST ? dvmq_fast(b, dry) : dvmq_slow(b, max_moves);

	ret_plan->moves = b->moves;
	ret_plan->n_moves = list_moves(b, loop);
	ret_plan->activate = b->activate;
	ret_plan->n_activate = b->n_activate;
	ret_plan->park = b->park;
	ret_plan->n_park = list_parks(b);
	ret_plan->saturated = b->saturated;
	ret_plan->n_saturated = list_saturated(b);
	ret_plan->max_after = dvmq_work_max(w);
	/* A core that could not be emptied yet still carries its part. */
	for (unsigned i = 0; i < w->n_cores; i++)
		w->cores[i].open = w->cores[i].active && (!w->cores[i].leaving || w->cores[i].count > 0);
	ret_plan->lower_bound = dvmq_bound(w, &rest);
	explain(ret_plan, nothing);

	/* The fast loop is never refused a move, but what it moves is missing in the budget, for at most a second. */
	b->history.tokens -= costly_moves(w, ret_plan);
	if (loop == DVMQ_LOOP_FAST)
		b->history.tokens = fmax(b->history.tokens, fmin(before.tokens, -dvmq_balance_rate(b)));
	if (dry)
		b->history = before;
	for (unsigned i = 0; i < ret_plan->n_moves && !dry; i++)
		*dvmq_work_origin(w, ret_plan->moves[i].queue) =
		    (struct origin){true, ret_plan->moves[i].queue, ret_plan->moves[i].from};
	return 0;
}
