/* SPDX-License-Identifier: BSD-3-Clause */
/* Parameters, history, the two loops, the number of cores. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define WINDOW	       16    /* parts of hold_ms in which the need of cores is remembered */
#define STANDING       0.5   /* occupancy from which a queue has a backlog */
#define STANDING_TIME  0.5   /* of fast_ms, after which it stands if no call in between saw it gone */
#define CREDIT_PERIODS 10    /* slow periods that one call may count for, so that a clock that jumps proves nothing */
#define MOVES_MIN      4.0   /* moves per second that are allowed however few the queues are */
#define FEW_QUEUES     16    /* queues per core up to which the slow loop tries more than two goals */
#define GAIN_MIN       0.05  /* share of its load that a step should take from a core where nothing fits */
#define SERVES_MIN     0.01  /* demand of a queue worth moving in the fast loop, in cores */
#define ECONOMY_MIN    0.005 /* least that a move to a cheaper place saves, in cores */
#define ECONOMY_SHARE  0.1   /* the same as a share of the queue's demand: more than noise */
#define ECONOMY_MOST   1.0   /* share of its demand that a queue may save at most, so that small ones need no look */
#define PARK_TRIES     3     /* cores tried for parking per plan */

struct streak {
	unsigned core;
	double since_ms; /* clock of the first of the fast calls in a row that saw a backlog on it, < 0: none */
};

/* What is remembered between calls. */
struct history {
	bool started;	   /* there was a call */
	bool slow_started; /* there was a call of the slow loop */
	bool fast_started;
	double last_ms;		   /* now_ms of the last call */
	double clock_ms;	   /* time that counts, since the history began */
	double tokens;		   /* moves the budget allows; below 0: owed */
	unsigned need[WINDOW + 1]; /* most cores needed, per part of hold_ms */
	unsigned long part;	   /* part of the newest entry */
	double uneven_ms;	   /* clock since which the load has been uneven, < 0: it is not */
	double hopeless_ms;	   /* clock until which the fast loop does not search for more than one move */
	unsigned n_streaks;
};

struct dvmq_balance {
	struct dvmq_balance_params params;
	struct history history;
	struct streak *streaks; /* part of the history, in the order of the snapshot's cores */
	struct work work;
	struct dvmq_move *moves;
	struct dvmq_core_action *activate, *park;
	struct dvmq_saturated *saturated;
	unsigned core_room, queue_room;
	unsigned n_activate;
	double goal; /* level of the last repair, for the reasons */
	bool stands; /* the fast loop acted on a backlog, for the reasons */
};

void dvmq_balance_defaults(struct dvmq_balance_params *params)
{
	*params = (struct dvmq_balance_params){
	    .high = 0.90,
	    .target = 0.85,
	    .margin = 0.10,
	    .fast_ms = 1,
	    .slow_ms = 50,
	    .budget = 4,
	    .cooldown_ms = 100,
	    .hold_ms = 2000,
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

/* Moves per second. */
static double move_rate(const struct dvmq_balance *b)
{
	double rate = b->params.budget / 100 * b->work.n_queues;

	return b->params.budget > 0 && rate < MOVES_MIN ? MOVES_MIN : rate;
}

static void advance(struct dvmq_balance *b, double now_ms)
{
	struct history *h = &b->history;
	double elapsed = now_ms - h->last_ms, most = CREDIT_PERIODS * b->params.slow_ms;

	if (!h->started || elapsed < 0) {
		*h = (struct history){.started = true, .tokens = move_rate(b), .uneven_ms = -1};
		elapsed = 0;
	}
	h->last_ms = now_ms;
	if (!(elapsed < most)) /* a jump, or no number */
		elapsed = isnan(elapsed) ? 0 : most;
	h->clock_ms += elapsed;
	h->tokens = fmin(h->tokens + elapsed / 1000 * move_rate(b), move_rate(b));
}

/* Remembers how many cores the load needs now; returns the most it needed during the last hold_ms. */
static unsigned remember_need(struct dvmq_balance *b, unsigned need)
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

/* ------------------------------------------------------------ cores */

static unsigned count_open(const struct work *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < w->n_cores; i++)
		n += w->cores[i].open;
	return n;
}

static void __attribute__((format(printf, 3, 4))) activate(struct dvmq_balance *b, int core, const char *format, ...)
{
	struct dvmq_core_action *action = &b->activate[b->n_activate++];
	va_list args;

	dvmq_work_open(&b->work, core);
	remember_need(b, count_open(&b->work)); /* whatever woke it: it stays for hold_ms */
	action->core = b->work.cores[core].id;
	va_start(args, format);
	vsnprintf(action->reason, sizeof(action->reason), format, args);
	va_end(args);
}

/* A core to wake: one whose sibling sleeps, near the node, lowest id; NONE: there is none. */
static int pick_parked(const struct work *w, int numa)
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
	core = pick_parked(w, -1);
	if (core != NONE) {
		activate(b, core, "at least one core stays active");
		return;
	}
	/* The operator wants every core parked: the busiest stays. */
	for (unsigned i = 0; i < w->n_cores; i++)
		if (core == NONE ||
		    (w->cores[i].active && (!w->cores[core].active || w->cores[i].load > w->cores[core].load)))
			core = i;
	if (!w->cores[core].active)
		activate(b, core, "at least one core stays active, though all are to be parked");
	w->cores[core].open = true;
	w->cores[core].leaving = false;
}

static void wake_wished(struct dvmq_balance *b)
{
	struct work *w = &b->work;

	for (unsigned i = 0; i < w->n_cores; i++) {
		struct core *c = &w->cores[i];

		if (c->wish == DVMQ_CORE_KEEP_ACTIVE && !c->active) {
			activate(b, i, "the operator keeps it active");
		} else if (c->active && !c->was_active) {
			/* Its pin woke it; it is open or not as the operator wished. */
			bool open = c->open;

			activate(b, i, "a pinned queue is on it");
			c->open = open;
		}
	}
	ensure_open(b);
}

/* Overloaded, and moving something else than its one large queue may help. */
static bool hot(struct work *w, int core)
{
	const struct core *c = &w->cores[core];

	return c->active && c->load > w->params->high && c->load - dvmq_work_largest(w, core) > SERVES_MIN;
}

static int hottest(struct work *w)
{
	int found = NONE;

	for (unsigned i = 0; i < w->n_cores; i++)
		if (hot(w, i) && (found == NONE || w->cores[i].load > w->cores[found].load))
			found = i;
	return found;
}

/* Node of most of the movable demand of a core: near there a core is woken. */
static int main_node(const struct work *w, int core)
{
	const struct queue *largest = NULL;

	if (core == NONE)
		return -1;
	for (int i = w->cores[core].first; i != NONE; i = w->queues[i].next)
		if (!w->queues[i].fixed && (!largest || w->queues[i].demand > largest->demand))
			largest = &w->queues[i];
	return largest ? largest->numa : -1;
}

/* ------------------------------------------------------------ fast loop */

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

struct step {
	int queue, to;
	double score;
};

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

/* Where nothing fits: the move that lowers the busier of its two cores most, of several the one to the best place. */
static bool level_pair(struct work *w, int c, int only, bool settled, unsigned n, struct step *ret_step)
{
	double load = w->cores[c].load, least = 0;
	struct step best = {NONE, NONE, load};

	for (unsigned i = 0; i < n; i++) {
		const struct queue *q = &w->queues[w->list[i]];
		double age = w->snapshot->queues[w->list[i]].age_ms;

		if (q->demand < SERVES_MIN)
			break;
		/* Overload that stays is no reason to move the same queue to and fro. */
		if (settled && age >= 0 && age < w->params->cooldown_ms)
			continue;
		for (unsigned d = 0; d < w->n_cores; d++) {
			double score, cost;

			if ((int)d == c || !w->cores[d].open || (only != NONE && only != (int)d))
				continue;
			cost = dvmq_work_cost(w, q, c, d);
			/* There is no other way left: it may be taken back. */
			if ((int)d == q->left)
				cost -= BACK_COST;
			score = fmax(load - q->demand, w->cores[d].load + q->demand) + fmax(0, cost);
			if (score > best.score || (score == best.score && cost >= least))
				continue;
			/* Little is not worth a move; but of a core far above, one queue can take only itself. */
			if (load - score >= fmin(GAIN_MIN * load, q->demand / 2)) {
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

	/* A queue alone, or what cannot be moved. */
	if (n == 0 || w->cores[c].load - dvmq_work_largest(w, c) < SERVES_MIN)
		return false;
	if (overloaded)
		found = fit(w, c, w->params->target, true, n, &step) || fit(w, c, w->params->high, true, n, &step) ||
			fit(w, c, w->params->target, false, n, &step) || fit(w, c, w->params->high, false, n, &step);
	else
		found = level_pair(w, c, NONE, true, n, &step);
	if (!found && (woken = pick_parked(w, main_node(w, c))) != NONE) {
		dvmq_work_open(w, woken);
		found = level_pair(w, c, woken, false, n, &step);
		w->cores[woken].active = w->cores[woken].open = false;
		w->n_active--;
		if (found)
			activate(b, woken,
				 overloaded ? "core %u at %.2f, above high %.2f, fits on no active core"
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

/* ------------------------------------------------------------ slow loop */

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

/* Whether a core parks at all, once the load does not need it. */
static bool may_park(const struct work *w)
{
	for (unsigned i = 0; i < w->n_cores; i++)
		if (w->cores[i].open && w->cores[i].wish == DVMQ_CORE_AUTO && !w->cores[i].n_pinned)
			return true;
	return false;
}

/*
 * Whether the slow loop has a reason to move, and in *ret_floor the level below
 * which it need not bring any core.  Overload is no longer waited for, but only
 * ended; the whole work is done when the load has been uneven for hold_ms, or
 * when nothing is known of the past, so that noise moves nothing.
 */
static bool uneven(struct dvmq_balance *b, unsigned need, double *ret_floor)
{
	struct history *h = &b->history;
	struct work *w = &b->work;
	double rest, level, max, wait = b->params.hold_ms;

	w->lower = dvmq_bound(w, &rest);
	level = goal_level(w, rest, GOAL_TIGHT);
	max = dvmq_repair_excess(w, level);
	*ret_floor = 0;
	if (!h->slow_started)
		return max > 0;
	if (max <= level || max <= fmin(b->params.target, level + b->params.margin)) {
		h->uneven_ms = -1;
		return false;
	}
	if (h->uneven_ms < 0)
		h->uneven_ms = h->clock_ms;
	/* A core is about to park: what is moved to it now would be moved for nothing. */
	if (max <= b->params.target && count_open(w) > need && may_park(w))
		wait *= 2;
	if (h->clock_ms - h->uneven_ms >= wait) {
		h->uneven_ms = -1;
		return true;
	}
	*ret_floor = b->params.target;
	return max > b->params.high;
}

/* Wakes what the load needs at once: filled to target, and one more while repair leaves a core above high. */
static void grow_cores(struct dvmq_balance *b)
{
	struct work *w = &b->work;
	unsigned need = dvmq_bound_cores(w, w->params->high), fill = dvmq_bound_cores(w, w->params->target);
	int core;

	if (need <= count_open(w))
		return;
	while (count_open(w) < fill && (core = pick_parked(w, main_node(w, hottest(w)))) != NONE)
		activate(b, core, "load %.2f does not fit below high %.2f on %u cores", w->total, w->params->high,
			 count_open(w));
}

/* Wakes what the load needs and repairs until no core is above high, or no core is left to wake. */
static void end_overload(struct dvmq_balance *b, double floor)
{
	struct work *w = &b->work;
	int hot_core, core;

	repair(b, floor);
	while ((hot_core = hottest(w)) != NONE && w->moved < w->limit) {
		core = pick_parked(w, main_node(w, hot_core));
		if (core == NONE)
			break;
		activate(b, core, "core %u stays at %.2f, above high %.2f", w->cores[hot_core].id,
			 w->cores[hot_core].load, w->params->high);
		repair(b, floor);
	}
}

/*
 * What one move does not end: several cores above high, or one with many small
 * queues.  Not again for slow_ms where it did not help: there is more load than
 * cores, or queues that do not move, and the search takes its time.
 */
static void end_wide_overload(struct dvmq_balance *b)
{
	struct history *h = &b->history;
	struct work *w = &b->work;

	if (hottest(w) == NONE || h->clock_ms < h->hopeless_ms)
		return;
	grow_cores(b);
	end_overload(b, w->params->target);
	if (hottest(w) != NONE)
		h->hopeless_ms = h->clock_ms + w->params->slow_ms;
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
	dvmq_work_restore(w, w->saved);
	c->open = true;
	c->leaving = false;
	return false;
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

			if (q->fixed || q->recent || q->core == NONE || q->core != q->home ||
			    q->demand * ECONOMY_MOST < ECONOMY_MIN)
				continue;
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

/* Parks a core that the load did not need during hold_ms: first one that shares its physical core, then the emptiest.
 */
static const char *shrink_cores(struct dvmq_balance *b, unsigned need, unsigned most)
{
	struct work *w = &b->work;

	if (count_open(w) <= need || count_open(w) <= 1)
		return NULL;
	if (count_open(w) <= most || b->history.clock_ms < b->params.hold_ms)
		return "a core is dispensable, but not yet for hold_ms";
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
		if (try_park(w, victim)) {
			b->history.uneven_ms = -1; /* of those that stay it is to be seen */
			return NULL;
		}
		w->cores[victim].tried = true;
	}
	return "a core is dispensable, but its queues fit nowhere below high - margin";
}

static const char *slow(struct dvmq_balance *b, uint32_t max_moves)
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
	if (metered && hottest(w) == NONE)
		w->limit = urgent + (h->tokens > 0 ? (unsigned)h->tokens : 0);

	need = dvmq_bound_cores(w, w->params->high - w->params->margin);
	most = remember_need(b, need);
	grow_cores(b);
	if (uneven(b, need, &floor) || b->n_activate > growth) {
		before = w->moved;
		end_overload(b, floor);
		if (w->moved == before)
			calm =
			    w->moved >= w->limit ? "the budget of moves is spent" : "no move lowers the busiest core";
	} else {
		calm = dvmq_work_max(w) <= w->lower * GOAL_TIGHT ? "balanced"
								 : "uneven, but not above high, nor for hold_ms";
	}
	if (b->n_activate == growth && (!metered || h->tokens >= 1)) {
		/* Emptying a core is one decision: the budget may be overdrawn for it, and is owed. */
		unsigned limit = w->limit;

		if (metered)
			w->limit = w->n_queues;
		why = shrink_cores(b, need, most);
		w->limit = limit;
	}
	if (w->moved == 0 && b->n_activate == 0 && w->limit > 0 && dvmq_work_distant(w))
		economize(b);
	h->slow_started = true;
	return w->moved > 0 || b->n_activate > 0 ? NULL : why ? why : calm;
}

/* Returns why nothing was done, or NULL. */
static const char *fast(struct dvmq_balance *b, bool dry)
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
		if (worst == NONE)
			return any ? "no move or wake-up would relieve the overloaded core"
				   : "no core above high, no standing backlog";
		any = true;
		w->cores[worst].level = 1; /* looked at */
		if (relieve(b, worst)) {
			w->limit = limit;
			end_wide_overload(b);
			return NULL;
		}
	}
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
				 "not needed for %.0f ms; no core above %.2f without it", w->params->hold_ms,
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
	wake_wished(b);
	ret_plan->max_before = dvmq_work_max(w);
	nothing = loop == DVMQ_LOOP_FAST ? fast(b, dry) : slow(b, max_moves);

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
	b->history.tokens -= ret_plan->n_moves;
	if (loop == DVMQ_LOOP_FAST)
		b->history.tokens = fmax(b->history.tokens, fmin(before.tokens, -move_rate(b)));
	if (dry)
		b->history = before;
	for (unsigned i = 0; i < ret_plan->n_moves && !dry; i++)
		*dvmq_work_origin(w, ret_plan->moves[i].queue) =
		    (struct origin){true, ret_plan->moves[i].queue, ret_plan->moves[i].from};
	return 0;
}
