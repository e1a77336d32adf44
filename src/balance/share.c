/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who gets the scarce queues of an uplink.
 *
 * Each queue that a port could use is a slot with a rank; the queues go to the
 * best slots.  The k-th slot of a port ranks by weighted bytes / k, so a first
 * queue of one port competes with a second one of another.  What a port holds
 * ranks MARGIN higher: equal loads with noise change nothing.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dvmq/share.h"

/* docs/balancer.md lists each of these with its reason. */
#define TOKEN_MS   1000.0 /* between two changes of one port */
#define MARGIN	   1.25	  /* by which a challenger must exceed who holds the queue */
#define JUMP	   1.5	  /* a load that differs from its mean by this factor twice in a row has changed */
#define TAU_MS	   1000.0 /* time constant of the mean of a load that has not; a jump does not wait for it */
#define COMFORT	   0.75	  /* of `high`: a queue less must leave the others below it */
#define SHRINK_MS  2000.0 /* for that long, before a queue that nobody else needs is given back */
#define BYTES_MAX  1e15	  /* larger loads, infinity among them, count as this */
#define DEMAND_MAX 1000.0
#define QUEUES_MAX 65535 /* an uplink has no more */

/* A load, smoothed while it lasts and new when it jumps. */
struct estimate {
	double mean, seen;
	double samples; /* in the mean */
	int away;	/* +1, -1: the last sample (`seen`) was above, below what is noise */
};

/* What is remembered of a port. */
struct history {
	uint32_t id;
	struct estimate bytes, demand;
	double changed_ms; /* share.clock_ms of its last change; -INFINITY: none */
	double late_ms;	   /* that long after it was carried out */
	double cold_ms;	   /* since when it is cold, INFINITY: it is not */
	double low_ms;	   /* since when it holds more than it needs, INFINITY: it does not */
};

/* Why a slot counts; a higher claim goes before any rank. */
enum claim {
	NOTHING,
	GIFT, /* free, nobody needs it */
	KEPT, /* held, not needed */
	WANTED,
	GUARANTEED, /* min */
};

/* A port during a plan. */
struct candidate {
	unsigned index;
	unsigned cap, min, want, keep, holds;
	unsigned need;	  /* by demand, not capped */
	unsigned given;	  /* slots it has */
	double score;	  /* weighted bytes/s */
	bool locked;	  /* stays as it is: changed a moment ago, or its load did */
	bool displaced;	  /* lost a slot to another */
	enum claim claim; /* of its next slot */
	double rank;
};

struct dvmq_share {
	struct dvmq_share_params params;
	double clock_ms;		/* time that counted */
	double last_ms;			/* now_ms of the last call, NAN: none */
	struct history *history, *next; /* by id; `next` is built while `history` is read */
	unsigned n_history;
	struct history **of;	      /* by index of the snapshot, into `next` */
	struct candidate *candidates; /* by index */
	struct candidate **heap;      /* best slot first */
	unsigned n_heap;
	const struct dvmq_share_port **by_id;
	unsigned *growing, n_growing; /* indexes, best first */
	struct dvmq_share_change *changes;
	struct dvmq_share_result *results;
	unsigned room;
	/* of the plan in hand */
	unsigned n_queues;
	bool short_of;	      /* n_queues fell below what is held */
	enum claim bar_claim; /* of the last slot that got a queue when they ran out */
	double bar;
};

void dvmq_share_defaults(struct dvmq_share_params *params)
{
	*params = (struct dvmq_share_params){
	    .high = 0.90,
	    .cold_bytes = 10000,
	    .cold_demand = 0,
	    .cold_ms = INFINITY,
	};
}

struct dvmq_share *dvmq_share_new(const struct dvmq_share_params *p)
{
	struct dvmq_share *share;

	/* Comparisons with NaN are false. */
	if (!(p->high > 0) || !(p->cold_bytes >= 0) || !(p->cold_demand >= 0) || !(p->cold_ms >= 0)) {
		errno = EINVAL;
		return NULL;
	}
	share = calloc(1, sizeof(*share));
	if (share) {
		share->params = *p;
		share->last_ms = NAN;
	}
	return share;
}

static void free_arrays(struct dvmq_share *s)
{
	free(s->next);
	free(s->of);
	free(s->candidates);
	free(s->heap);
	free(s->by_id);
	free(s->growing);
	free(s->changes);
	free(s->results);
}

void dvmq_share_free(struct dvmq_share *share)
{
	if (!share)
		return;
	free(share->history);
	free_arrays(share);
	free(share);
}

/* Room for n ports; allocates only when they are more than ever before. */
static int grow(struct dvmq_share *s, unsigned n)
{
	struct history *history;
	size_t room = n > 64 ? n : 64;

	if (s->room && n <= s->room)
		return 0;
	s->room = 0;
	history = realloc(s->history, room * sizeof(*history));
	if (history)
		s->history = history;
	free_arrays(s);
	s->next = calloc(room, sizeof(*s->next));
	s->of = calloc(room, sizeof(*s->of));
	s->candidates = calloc(room, sizeof(*s->candidates));
	s->heap = calloc(room, sizeof(*s->heap));
	s->by_id = calloc(room, sizeof(*s->by_id));
	s->growing = calloc(room, sizeof(*s->growing));
	s->changes = calloc(room, sizeof(*s->changes));
	s->results = calloc(room, sizeof(*s->results));
	if (!history || !s->next || !s->of || !s->candidates || !s->heap || !s->by_id || !s->growing || !s->changes ||
	    !s->results)
		return -ENOMEM;
	s->room = room;
	return 0;
}

/* ------------------------------------------------------------ history */

static double finite_load(double value, double most)
{
	return value > 0 ? fmin(value, most) : 0;
}

static void follow(struct estimate *e, double sample, double dt_ms)
{
	int away = sample > e->mean * JUMP ? 1 : sample < e->mean / JUMP ? -1 : 0;

	if (away && !e->away) {
		/* Half of this sample may be of the time before the change: the next one tells. */
		e->seen = sample;
		e->away = away;
		return;
	}
	if (away && away == e->away) {
		e->mean = sample;
		e->samples = 1;
	} else {
		/* What came and did not last was a burst, which counts for its share of the time. */
		double value = e->away ? (sample + e->seen) / 2 : sample;

		/* The first samples of a load count alike: one alone is noise. */
		e->samples++;
		e->mean += fmax(1 - exp(-dt_ms / TAU_MS), dt_ms > 0 ? 1.0 / e->samples : 0) * (value - e->mean);
	}
	e->away = 0;
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = (*(const struct dvmq_share_port *const *)a)->id,
		 y = (*(const struct dvmq_share_port *const *)b)->id;

	return (x > y) - (x < y);
}

static double advance(struct dvmq_share *s, double now_ms)
{
	double dt = now_ms - s->last_ms;

	dt = dt > 0 ? fmin(dt, TOKEN_MS) : 0;
	if (isfinite(now_ms))
		s->last_ms = now_ms;
	s->clock_ms += dt;
	return dt;
}

static void remember(struct history *h, const struct history *before, const struct dvmq_share_port *port, double dt)
{
	double bytes = finite_load(port->bytes_per_s, BYTES_MAX), demand = finite_load(port->demand, DEMAND_MAX);

	if (!before) {
		*h = (struct history){port->id, {bytes, bytes, 1, 0}, {demand, demand, 1, 0}, -INFINITY, 0, INFINITY,
				      INFINITY};
		return;
	}
	*h = *before;
	follow(&h->bytes, bytes, dt);
	follow(&h->demand, demand, dt);
	h->late_ms = finite_load(port->late_ms, TOKEN_MS);
}

static double since_change(const struct dvmq_share *s, const struct history *h)
{
	return s->clock_ms - h->changed_ms - h->late_ms;
}

/* The history of each port of the snapshot; that of others is dropped. */
static int look_back(struct dvmq_share *s, const struct dvmq_share_snapshot *snapshot)
{
	unsigned n = snapshot->n_ports, known = 0;
	struct history *swap = s->history;
	double dt;

	for (unsigned i = 0; i < n; i++)
		s->by_id[i] = &snapshot->ports[i];
	qsort(s->by_id, n, sizeof(*s->by_id), ascending);
	for (unsigned i = 1; i < n; i++)
		if (s->by_id[i]->id == s->by_id[i - 1]->id)
			return -EINVAL;
	dt = advance(s, snapshot->now_ms);
	for (unsigned i = 0; i < n; i++) {
		const struct dvmq_share_port *port = s->by_id[i];

		while (known < s->n_history && s->history[known].id < port->id)
			known++;
		remember(&s->next[i],
			 known < s->n_history && s->history[known].id == port->id ? &s->history[known] : NULL, port,
			 dt);
		s->of[port - snapshot->ports] = &s->next[i];
	}
	s->history = s->next;
	s->next = swap;
	s->n_history = n;
	return 0;
}

/* ------------------------------------------------------------ what a port asks for */

/* Queues that a demand needs when each carries that much of a core. */
static unsigned queues_for(double demand, double each)
{
	double n = ceil(demand / each - 1e-9);

	return n < 1 ? 1 : n > QUEUES_MAX ? QUEUES_MAX : (unsigned)n;
}

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static unsigned most(unsigned a, unsigned b)
{
	return a > b ? a : b;
}

/* A port turns cold below the limits, and warm again MARGIN above. */
static bool is_cold(struct dvmq_share *s, struct history *h)
{
	double times = h->cold_ms < INFINITY ? MARGIN : 1;
	bool cold = h->bytes.mean < times * s->params.cold_bytes || h->demand.mean < times * s->params.cold_demand;

	if (!cold)
		h->cold_ms = INFINITY;
	else if (h->cold_ms == INFINITY)
		h->cold_ms = s->clock_ms;
	return cold;
}

static void ask(struct dvmq_share *s, const struct dvmq_share_port *port, struct history *h, struct candidate *c)
{
	bool cold = is_cold(s, h);

	c->cap = port->bindable ? least(least(port->pairs, port->max), QUEUES_MAX) : 0;
	c->min = least(port->min, c->cap);
	c->holds = port->holds;
	c->score = h->bytes.mean * port->weight / 100;
	c->need = queues_for(h->demand.mean, s->params.high);
	if (c->need < c->holds)
		c->need = least(c->holds, queues_for(h->demand.mean, s->params.high * COMFORT));
	c->want = cold ? 0 : least(c->need, c->cap);
	if (c->need >= c->holds)
		h->low_ms = INFINITY;
	else if (h->low_ms == INFINITY)
		h->low_ms = s->clock_ms;
	c->keep = s->clock_ms - h->low_ms < SHRINK_MS ? c->holds : c->want;
	if (cold && (s->params.cold_ms == INFINITY || (c->holds && s->clock_ms - h->cold_ms < s->params.cold_ms)))
		c->keep = most(c->keep, 1);
	else if (cold)
		c->keep = 0;
	c->keep = least(c->keep, c->cap);
	c->locked = h->bytes.away || since_change(s, h) < TOKEN_MS;
	c->given = 0;
	c->displaced = false;
}

/* ------------------------------------------------------------ the slots */

/* Claim and rank of the port's next slot; false: it can use no more. */
static bool next_slot(const struct dvmq_share *s, struct candidate *c)
{
	unsigned k = c->given + 1;
	bool held = k <= c->holds;

	if (k > c->cap || (s->short_of && !held))
		return false;
	if (k <= c->min) {
		c->claim = GUARANTEED;
		c->rank = -(double)c->index;
	} else if (k <= c->want) {
		c->claim = WANTED;
		c->rank = c->score / k * (held ? MARGIN : 1);
	} else if (k <= c->keep) {
		c->claim = held ? KEPT : GIFT;
		c->rank = c->score / k;
	} else {
		return false;
	}
	return true;
}

static bool before(const struct candidate *a, const struct candidate *b)
{
	if (a->claim != b->claim)
		return a->claim > b->claim;
	if (a->rank != b->rank)
		return a->rank > b->rank;
	/* Equal: who holds it, else the order of the configuration, so that nothing moves for nothing. */
	if ((a->given < a->holds) != (b->given < b->holds))
		return a->given < a->holds;
	return a->index < b->index;
}

static void sift_down(struct dvmq_share *s, unsigned i)
{
	struct candidate *c = s->heap[i];
	unsigned child;

	for (; (child = 2 * i + 1) < s->n_heap; i = child) {
		if (child + 1 < s->n_heap && before(s->heap[child + 1], s->heap[child]))
			child++;
		if (!before(s->heap[child], c))
			break;
		s->heap[i] = s->heap[child];
	}
	s->heap[i] = c;
}

/* Gives `stock` queues to the best slots of the ports that may change. */
static void hand_out(struct dvmq_share *s, unsigned n_ports, unsigned stock)
{
	s->n_heap = 0;
	s->n_growing = 0;
	s->bar_claim = NOTHING;
	for (unsigned i = 0; i < n_ports; i++)
		if (!s->candidates[i].locked && next_slot(s, &s->candidates[i]))
			s->heap[s->n_heap++] = &s->candidates[i];
	for (unsigned i = s->n_heap / 2; i-- > 0;)
		sift_down(s, i);
	for (; stock > 0 && s->n_heap > 0; stock--) {
		struct candidate *best = s->heap[0];

		s->bar_claim = best->claim;
		s->bar = best->rank;
		if (best->given == best->holds)
			s->growing[s->n_growing++] = best->index;
		best->given++;
		if (!next_slot(s, best))
			s->heap[0] = s->heap[--s->n_heap];
		if (s->n_heap > 0)
			sift_down(s, 0);
	}
	/* Who is left in the heap wanted more than there was. */
	for (unsigned i = 0; i < s->n_heap; i++)
		s->heap[i]->displaced = s->heap[i]->given < s->heap[i]->holds;
}

/* ------------------------------------------------------------ reasons */

static const char *rate(char text[16], double bytes)
{
	static const char *const units[] = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"};
	unsigned unit = 0;

	for (; bytes >= 999.95 && unit < 4; bytes /= 1000)
		unit++;
	snprintf(text, 16, "%.1f %s", bytes, units[unit]);
	return text;
}

static const char *name_of(char text[64], const struct dvmq_share_port *port)
{
	if (port->name)
		snprintf(text, 64, "%s", port->name);
	else
		snprintf(text, 64, "port %u", port->id);
	return text;
}

/* What the next queue of a port that lacks one takes. */
static void say_lack(const struct dvmq_share *s, const struct candidate *c, const struct history *h, unsigned weight,
		     char *why)
{
	char has[16], needs[16];

	if (s->n_queues == 0)
		snprintf(why, DVMQ_SHARE_REASON, "the uplink has no queue to give");
	else if (s->bar_claim != WANTED)
		snprintf(why, DVMQ_SHARE_REASON,
			 "all %u queues are guaranteed by min, or changed hands less than 1 s ago: has %s", s->n_queues,
			 rate(has, h->bytes.mean));
	else if (weight == 0)
		snprintf(why, DVMQ_SHARE_REASON, "all %u queues are needed by others, and its weight is 0",
			 s->n_queues);
	else
		snprintf(why, DVMQ_SHARE_REASON, "all %u queues are with ports of more traffic: needs > %s%s, has %s",
			 s->n_queues, rate(needs, s->bar * (c->given + 1) * 100 / weight),
			 c->given ? " for one more" : "", rate(has, h->bytes.mean));
}

static void say_limit(const struct candidate *c, const struct dvmq_share_port *port, const struct history *h, char *why)
{
	const char *what = port->max <= port->pairs ? "max" : "queue pairs";

	if (!port->bindable)
		snprintf(why, DVMQ_SHARE_REASON, "cannot be bound");
	else
		snprintf(why, DVMQ_SHARE_REASON, "%s is %u; demand %.2f asks for %u", what,
			 least(port->max, port->pairs), h->demand.mean, c->need);
}

static void say_same(const struct dvmq_share *s, const struct dvmq_share_port *port, const struct candidate *c,
		     const struct history *h, char *why)
{
	double since = fmax(since_change(s, h), 0);
	unsigned wants = most(c->want, c->min);
	char has[16], limit[16];

	rate(has, h->bytes.mean);
	if (!port->bindable || c->cap == 0)
		say_limit(c, port, h, why);
	else if (wants != c->given && since < TOKEN_MS)
		snprintf(why, DVMQ_SHARE_REASON, "changed %.0f ms ago, next change after %.0f ms: wants %u, has %s",
			 since, TOKEN_MS, wants, has);
	else if (h->bytes.away)
		snprintf(why, DVMQ_SHARE_REASON, "%s, changing to %s: acted on in the next call if that lasts", has,
			 rate(limit, h->bytes.seen));
	else if (c->given < c->min)
		snprintf(why, DVMQ_SHARE_REASON, "min is %u, but all %u queues are guaranteed to ports before it",
			 c->min, s->n_queues);
	else if (wants > c->given)
		say_lack(s, c, h, port->weight, why);
	else if (c->given > wants)
		snprintf(why, DVMQ_SHARE_REASON, "%s, demand %.2f would do with %u; keeps it while nobody needs it",
			 has, h->demand.mean, wants);
	else if (c->given == 0)
		snprintf(why, DVMQ_SHARE_REASON, "cold: %s, below %s or a demand of %.2f", has,
			 rate(limit, s->params.cold_bytes), s->params.cold_demand);
	else if (c->need > c->cap)
		say_limit(c, port, h, why);
	else if (c->want < c->given)
		snprintf(why, DVMQ_SHARE_REASON, "guaranteed by min %u: has %s", c->min, has);
	else
		snprintf(why, DVMQ_SHARE_REASON, "as wanted: has %s, demand %.2f", has, h->demand.mean);
}

static void say_grows(const struct dvmq_share_port *port, const struct candidate *c, const struct history *h, char *why)
{
	char has[16];

	rate(has, h->bytes.mean);
	if (c->given <= c->min)
		snprintf(why, DVMQ_SHARE_REASON, "guaranteed by min %u: has %s", port->min, has);
	else if (c->given > c->want)
		snprintf(why, DVMQ_SHARE_REASON, "nobody else needs it: has %s", has);
	else if (c->given > 1)
		snprintf(why, DVMQ_SHARE_REASON, "demand %.2f needs %u queues: has %s", h->demand.mean, c->need, has);
	else
		snprintf(why, DVMQ_SHARE_REASON, "hot: has %s, demand %.2f", has, h->demand.mean);
}

/* `winner`: who grows in its place, NULL: nobody in particular. */
static void say_shrinks(const struct dvmq_share *s, const struct dvmq_share_snapshot *snapshot,
			const struct candidate *c, const struct candidate *winner, char *why)
{
	const struct dvmq_share_port *port = &snapshot->ports[c->index];
	const struct history *h = s->of[c->index];
	char has[16], more[16], name[64];

	rate(has, h->bytes.mean);
	if (c->cap < c->holds && c->given == c->cap)
		say_limit(c, port, h, why);
	else if (s->short_of)
		snprintf(why, DVMQ_SHARE_REASON, "only %u queues are left for all: has %s", s->n_queues, has);
	else if (c->displaced && winner)
		snprintf(why, DVMQ_SHARE_REASON, "%s needs it more: %s, this one has %s",
			 name_of(name, &snapshot->ports[winner->index]), rate(more, s->of[winner->index]->bytes.mean),
			 has);
	else if (c->displaced)
		snprintf(why, DVMQ_SHARE_REASON, "others need it more: has %s", has);
	else if (h->cold_ms < INFINITY && c->given == 0)
		snprintf(why, DVMQ_SHARE_REASON, "cold for %.0f ms: has %s", s->clock_ms - h->cold_ms, has);
	else
		snprintf(why, DVMQ_SHARE_REASON, "demand %.2f does with %u: has %s", h->demand.mean, c->want, has);
}

/* ------------------------------------------------------------ the plan */

static struct dvmq_share_change *add_change(struct dvmq_share *s, struct dvmq_share_plan *plan,
					    const struct dvmq_share_snapshot *snapshot, const struct candidate *c)
{
	struct dvmq_share_change *change = &s->changes[plan->n_changes++];

	change->port = snapshot->ports[c->index].id;
	change->index = c->index;
	change->from = c->holds;
	change->to = c->given;
	s->of[c->index]->changed_ms = s->clock_ms;
	return change;
}

static void tell(struct dvmq_share *s, const struct dvmq_share_snapshot *snapshot, struct dvmq_share_plan *plan)
{
	unsigned winner = 0;

	for (unsigned i = 0; i < snapshot->n_ports; i++) {
		const struct candidate *c = &s->candidates[i];
		struct dvmq_share_result *result = &s->results[i];

		result->wanted = most(c->want, c->min);
		result->queues = c->given;
		plan->given += c->given;
		if (c->given == c->holds)
			say_same(s, &snapshot->ports[i], c, s->of[i], result->why);
		else if (c->given > c->holds)
			say_grows(&snapshot->ports[i], c, s->of[i], result->why);
		else
			say_shrinks(s, snapshot, c,
				    c->displaced && winner < s->n_growing ? &s->candidates[s->growing[winner++]] : NULL,
				    result->why);
	}
	/* All are described by what was before: only now changes are noted. */
	for (unsigned i = 0; i < snapshot->n_ports; i++)
		if (s->candidates[i].given < s->candidates[i].holds)
			memcpy(add_change(s, plan, snapshot, &s->candidates[i])->reason, s->results[i].why,
			       DVMQ_SHARE_REASON);
	for (unsigned i = 0; i < s->n_growing; i++)
		memcpy(add_change(s, plan, snapshot, &s->candidates[s->growing[i]])->reason,
		       s->results[s->growing[i]].why, DVMQ_SHARE_REASON);
}

int dvmq_share_plan(struct dvmq_share *s, const struct dvmq_share_snapshot *snapshot, struct dvmq_share_plan *ret_plan)
{
	uint64_t held = 0;
	unsigned stock;
	int ret;

	*ret_plan = (struct dvmq_share_plan){0};
	ret = grow(s, snapshot->n_ports);
	if (ret == 0)
		ret = look_back(s, snapshot);
	if (ret < 0)
		return ret;
	s->n_queues = least(snapshot->n_queues, QUEUES_MAX);
	for (unsigned i = 0; i < snapshot->n_ports; i++) {
		struct candidate *c = &s->candidates[i];

		c->index = i;
		ask(s, &snapshot->ports[i], s->of[i], c);
		held += least(c->holds, c->cap);
	}
	/* With fewer queues than are held nobody can stay as he is for sure, and nobody grows before that is over. */
	s->short_of = held > s->n_queues;
	stock = s->n_queues;
	for (unsigned i = 0; i < snapshot->n_ports; i++) {
		struct candidate *c = &s->candidates[i];

		c->locked = c->locked && !s->short_of;
		if (c->locked) {
			c->given = least(c->holds, c->cap);
			stock -= c->given;
		}
	}
	hand_out(s, snapshot->n_ports, stock);
	ret_plan->results = s->results;
	ret_plan->changes = s->changes;
	tell(s, snapshot, ret_plan);
	return 0;
}
