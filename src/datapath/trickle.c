/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A trickle: packets that come too thinly to make a worker busy and too often
 * to let it sleep.  It would poll for next to nothing, or be woken for each of
 * them.  Instead it naps, and takes together what came meanwhile, for about as
 * long that naps cost a few percent of a core: what a nap costs (a few us, or
 * tens of us in a virtual machine) is measured.
 *
 * That is good for those who send on their own account.  Who waits for an answer
 * before he sends again would be slowed down: then fewer packets come.  So it is
 * compared what comes in naps with what comes without them, queue by queue:
 *
 *	WATCH ----- costs much, does little -----> COMPARE <--- fewer came; or from
 *	  ^                                        |     |      time to time -------.
 *	  |--- no trickle ------------------------'      `--- as many as in naps --> NAP
 *	  |--- more than in naps: HOLD -----------'                                  |
 *	  `--- busy ------------------------------------------------------------------'
 *
 * In WATCH and COMPARE the worker polls and sleeps as its policy has it otherwise.
 * No DPDK call and no clock is in here, so that tests run it.
 */
#include <dvmq/worker.h>

#define WINDOW_US   4000 /* over which packets are counted: 32 at least in a trickle, so that a quarter less shows */
#define NAP_MAX_US  1000 /* a ring of 1024 lasts for that at 1 Mpps */
#define NAP_PACKETS 8	 /* in the longest nap: for fewer it saves little, and one nap does not tell who waits */
#define FRUGAL_PACKETS 2
#define BUSY_SHARE  8  /* a worker that is busy for more than that part of the time polls */
#define COST_SHARE  32 /* the part of a core that naps may cost, */
#define COST_BUSY   2  /* or that many times what the packets take */
#define ROOM_SHARE  4  /* the part of the smallest ring that may fill in a nap */
#define ROOM	    512 /* a ring of unknown size: what DPDK makes where a driver does not care */
#define SMOOTH	    8
#define HOLD_MIN_US 16000  /* no new try while somebody waits: a try costs him a nap or few.  At first it may be that */
#define HOLD_MAX_US 256000 /* a sender happened to pause, so twice as long if naps failed soon again */
#define AGAIN_US    1000000 /* who came in the midst of naps was never seen without them */
#define SLACK	    4	    /* packets that may be missing by chance */
#define FEWER_NAPS  3	    /* begin and end of a pause of the sender make two */
#define UNKNOWN	    UINT32_MAX

static uint64_t us(const struct dvmq_worker *w, uint64_t n)
{
	return n * w->cycles_per_us;
}

static uint64_t busy_cycles(const struct dvmq_worker *w)
{
	return atomic_load_explicit(&w->busy_cycles, memory_order_relaxed);
}

static uint64_t packets_of(const struct dvmq_queue *queue)
{
	return atomic_load_explicit(&queue->counters.packets, memory_order_relaxed);
}

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* A quarter less than expected, and not by chance. */
static bool are_fewer(uint64_t came, uint64_t expected)
{
	return (came + SLACK) * 4 < expected * 3;
}

static uint32_t per_window(const struct dvmq_worker *w, uint64_t packets, uint64_t elapsed)
{
	return packets * us(w, WINDOW_US) / elapsed;
}

static void open_window(struct dvmq_pace *pace, uint64_t packets)
{
	pace->then = pace->seen = packets;
}

static void enter(struct dvmq_worker *w, enum dvmq_trickle_state state, uint64_t cpu)
{
	struct dvmq_trickle *t = &w->trickle;
	/* Queues that are quiet have nothing to count in naps, and there may be hundreds of them. */
	unsigned n = state == DVMQ_TRICKLE_WATCH ? 0 : t->state == state ? w->n_hot : w->n;

	t->state = state;
	t->begin = w->now;
	t->busy = busy_cycles(w);
	t->cpu = cpu;
	open_window(&t->all, w->packets);
	for (unsigned i = 0; i < n; i++)
		open_window(&w->queues[i]->pace, packets_of(w->queues[i]));
}

/* Naps would be worth it. */
static bool is_trickle(const struct dvmq_worker *w, uint64_t elapsed, bool frugal)
{
	const struct dvmq_trickle *t = &w->trickle;
	uint64_t least = (frugal ? FRUGAL_PACKETS : NAP_PACKETS) * (WINDOW_US / NAP_MAX_US);

	return per_window(w, w->packets - t->all.then, elapsed) >= least &&
	       (busy_cycles(w) - t->busy) * BUSY_SHARE <= elapsed;
}

static void watch(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu, bool frugal)
{
	struct dvmq_trickle *t = &w->trickle;
	uint64_t busy = busy_cycles(w) - t->busy, spent = cpu - t->cpu;
	bool costs_much = spent > busy + 2 * elapsed / COST_SHARE && spent > (1 + 2 * COST_BUSY) * busy;

	if (w->now < t->hold_until || !costs_much || !is_trickle(w, elapsed, frugal)) {
		enter(w, DVMQ_TRICKLE_WATCH, cpu);
		return;
	}
	t->all.napped = UNKNOWN;
	for (unsigned i = 0; i < w->n; i++)
		w->queues[i]->pace.napped = UNKNOWN;
	enter(w, DVMQ_TRICKLE_COMPARE, cpu);
}

/* Sets what comes without naps; true if that is more than came in naps. */
static bool more_came(struct dvmq_pace *pace, uint32_t polled)
{
	bool more = are_fewer(pace->napped, polled);

	pace->polled = polled;
	pace->napped = UNKNOWN;
	pace->naps = pace->came = pace->expected = 0;
	return more;
}

static void compare(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu, bool frugal)
{
	struct dvmq_trickle *t = &w->trickle;
	bool waits = more_came(&t->all, per_window(w, w->packets - t->all.then, elapsed));

	t->room = UINT32_MAX;
	for (unsigned i = 0; i < w->n; i++) {
		struct dvmq_queue *queue = w->queues[i];
		uint32_t capacity = atomic_load_explicit(&queue->counters.capacity, memory_order_relaxed);
		uint64_t came = packets_of(queue) - queue->pace.then;

		waits |= more_came(&queue->pace, per_window(w, came, elapsed));
		if (came > 0)
			t->room = min(t->room, (capacity ? capacity : ROOM) / ROOM_SHARE);
	}
	waits &= !frugal;
	if (waits) {
		t->hold = t->napped < us(w, HOLD_MAX_US) ? min(2 * t->hold, us(w, HOLD_MAX_US)) : 0;
		if (t->hold < us(w, HOLD_MIN_US))
			t->hold = us(w, HOLD_MIN_US);
		t->hold_until = w->now + t->hold;
	}
	if (waits || !is_trickle(w, elapsed, frugal)) {
		enter(w, DVMQ_TRICKLE_WATCH, cpu);
		return;
	}
	t->began = w->now;
	t->share = (busy_cycles(w) - t->busy) * 1024 / elapsed;
	t->nap = min(us(w, WINDOW_US) * NAP_PACKETS / t->all.polled, us(w, NAP_MAX_US));
	enter(w, DVMQ_TRICKLE_NAP, cpu);
	t->last = (struct dvmq_trickle_nap){w->now, t->cpu, t->busy, w->packets};
}

/* From what the last one cost and brought. */
static void choose_length(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu)
{
	struct dvmq_trickle *t = &w->trickle;
	struct dvmq_trickle_nap now = {w->now, cpu, busy_cycles(w), w->packets};
	uint64_t came = now.packets - t->last.packets;
	int64_t cost = (int64_t)(cpu - t->last.cpu) - (int64_t)(now.busy - t->last.busy);
	int64_t share = (now.busy - t->last.busy) * 1024 / elapsed;
	uint64_t shortest = us(w, WINDOW_US) * NAP_PACKETS / t->all.polled, wanted;

	t->last = now;
	t->cost += t->cost ? (cost - t->cost) / SMOOTH : cost;
	if (t->cost < 1)
		t->cost = 1;
	t->share += (share - t->share) / SMOOTH;
	wanted = t->cost * 1024 / (t->share * COST_BUSY > 1024 / COST_SHARE ? t->share * COST_BUSY : 1024 / COST_SHARE);
	if (wanted < shortest)
		wanted = shortest;
	wanted = min(wanted, min(2 * t->nap, us(w, NAP_MAX_US)));
	t->nap = came > 0 ? min(wanted, t->room * elapsed / came) : wanted;
}

/*
 * True if nap after nap brings less than would have come without, and not by
 * chance; then that is noted to be compared.  A nap that brings nothing tells of
 * a sender that pauses: for who waits, something had come.
 */
static bool comes_slower(const struct dvmq_worker *w, struct dvmq_pace *pace, uint64_t packets, uint64_t elapsed)
{
	uint32_t came = packets - pace->seen, expected = pace->polled * elapsed / us(w, WINDOW_US);

	pace->seen = packets;
	if (came == 0)
		return false;
	if (came * 4 >= expected * 3) {
		pace->naps = pace->came = pace->expected = 0;
		return false;
	}
	pace->naps++;
	pace->came += came;
	pace->expected += expected;
	if (pace->naps < FEWER_NAPS || !are_fewer(pace->came, pace->expected))
		return false;
	pace->napped = pace->polled * pace->came / pace->expected;
	return true;
}

/*
 * At the end of a window.  What comes more often than before sets a new standard,
 * but not at once: it may be a burst.
 */
static void follow(const struct dvmq_worker *w, struct dvmq_pace *pace, uint64_t packets, uint64_t elapsed)
{
	uint32_t came = per_window(w, packets - pace->then, elapsed);

	if (came > pace->polled)
		pace->polled += (came - pace->polled + SMOOTH - 1) / SMOOTH;
	pace->napped = came;
}

static void end_window(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu)
{
	struct dvmq_trickle *t = &w->trickle;
	bool again = w->now - t->began >= us(w, AGAIN_US);

	follow(w, &t->all, w->packets, elapsed);
	for (unsigned i = 0; i < w->n_hot; i++)
		follow(w, &w->queues[i]->pace, packets_of(w->queues[i]), elapsed);
	if (w->now - w->last_packet > us(w, WINDOW_US) || t->share * BUSY_SHARE > 1024)
		enter(w, DVMQ_TRICKLE_WATCH, cpu);
	else
		enter(w, again ? DVMQ_TRICKLE_COMPARE : DVMQ_TRICKLE_NAP, cpu);
}

static void end_nap(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu, bool frugal)
{
	struct dvmq_trickle *t = &w->trickle;
	bool slower = comes_slower(w, &t->all, w->packets, elapsed);

	for (unsigned i = 0; i < w->n_hot; i++)
		slower |= comes_slower(w, &w->queues[i]->pace, packets_of(w->queues[i]), elapsed);
	if (slower && !frugal) {
		t->napped = w->now - t->began;
		enter(w, DVMQ_TRICKLE_COMPARE, cpu);
	} else if (w->now - t->begin >= us(w, WINDOW_US)) {
		end_window(w, w->now - t->begin, cpu);
	}
}

bool dvmq_trickle_is_due(const struct dvmq_worker *w)
{
	const struct dvmq_trickle *t = &w->trickle;

	if (t->state == DVMQ_TRICKLE_NAP)
		return w->slept_at >= t->last.at && w->now > t->last.at;
	return w->now - t->begin >= us(w, WINDOW_US);
}

void dvmq_trickle_step(struct dvmq_worker *w, uint64_t cpu, bool frugal)
{
	uint64_t elapsed = w->now - w->trickle.begin;

	switch (w->trickle.state) {
	case DVMQ_TRICKLE_WATCH:
		watch(w, elapsed, cpu, frugal);
		break;
	case DVMQ_TRICKLE_COMPARE:
		compare(w, elapsed, cpu, frugal);
		break;
	case DVMQ_TRICKLE_NAP:
		elapsed = w->now - w->trickle.last.at;
		choose_length(w, elapsed, cpu);
		end_nap(w, elapsed, cpu, frugal);
		break;
	}
}
