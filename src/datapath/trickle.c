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

#define WINDOW_US	   4000 /* over which packets are counted */
#define NAP_MIN_US	   10
#define NAP_MAX_US	   2500 /* a ring of 1024 lasts for that at 0.4 Mpps */
#define NAP_PACKETS	   8	/* in the longest nap: for fewer it saves little, and tells little about who waits */
#define NAP_PACKETS_FRUGAL 2
#define BUSY_SHARE	   8   /* a worker that is busy for more than that part of the time in naps polls, */
#define BUSY_ALONE	   3   /* or for that part where each packet comes alone, and takes some three times as long */
#define COST_SHARE	   64  /* naps may cost that part of a core, */
#define COST_BUSY	   2   /* or that part of what the packets do */
#define ROOM_SHARE	   3   /* the part of the smallest ring that may fill in a nap */
#define ROOM		   1024 /* a ring of unknown size */
#define SMOOTH		   8
#define AGAIN_US	   1000000 /* who began to send in the midst of naps was never seen without them */
#define SLACK		   4	   /* packets that may be missing by chance */
#define FEWER_NAPS	   3	   /* begin and end of a sender's pause make two */
#define UNKNOWN		   UINT32_MAX
#define ONE		   65536 /* all of a core */

/*
 * While somebody waits, naps are not tried again: each try costs him a few.  It
 * may also be that a sender happened to pause, so it is not for long, but twice as
 * long if that happens soon again.
 */
#define HOLD_MIN_US 16000
#define HOLD_MAX_US 256000

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

static uint64_t max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* A quarter less than expected, and not by chance. */
static bool are_fewer(uint64_t came, uint64_t expected)
{
	return (came + SLACK) * 4 < expected * 3;
}

/* The part of a core that naps may cost where packets take `busy`; both in ONE. */
static uint64_t allowance(uint64_t busy)
{
	return max(busy / COST_BUSY, ONE / COST_SHARE);
}

static uint32_t per_window(const struct dvmq_worker *w, uint64_t packets, uint64_t elapsed)
{
	return packets * us(w, WINDOW_US) / elapsed;
}

static void open_window(struct dvmq_arrivals *arrivals, uint64_t packets)
{
	arrivals->then = arrivals->seen = packets;
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
		open_window(&w->queues[i]->arrivals, packets_of(w->queues[i]));
}

/* Naps would be worth it. */
static bool is_trickle(const struct dvmq_worker *w, uint64_t elapsed, bool frugal)
{
	const struct dvmq_trickle *t = &w->trickle;
	uint64_t least = (frugal ? NAP_PACKETS_FRUGAL : NAP_PACKETS) * WINDOW_US / NAP_MAX_US;

	return per_window(w, w->packets - t->all.then, elapsed) >= least &&
	       (busy_cycles(w) - t->busy) * BUSY_ALONE <= elapsed;
}

static void watch(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu, bool frugal)
{
	struct dvmq_trickle *t = &w->trickle;
	uint64_t busy = busy_cycles(w) - t->busy, spent = cpu - t->cpu;
	bool costs_much = spent > busy && (spent - busy) * ONE / elapsed > 2 * allowance(busy * ONE / elapsed);

	if (w->now < t->hold_until || !costs_much || !is_trickle(w, elapsed, frugal)) {
		enter(w, DVMQ_TRICKLE_WATCH, cpu);
		return;
	}
	t->all.napped = UNKNOWN;
	for (unsigned i = 0; i < w->n; i++)
		w->queues[i]->arrivals.napped = UNKNOWN;
	enter(w, DVMQ_TRICKLE_COMPARE, cpu);
}

/* Sets what comes without naps; true if that is more than came in naps. */
static bool more_came(struct dvmq_arrivals *arrivals, uint32_t polled)
{
	bool more = are_fewer(arrivals->napped, polled);

	arrivals->polled = polled;
	arrivals->napped = UNKNOWN;
	arrivals->naps = arrivals->came = arrivals->expected = 0;
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
		uint64_t came = packets_of(queue) - queue->arrivals.then;

		waits |= more_came(&queue->arrivals, per_window(w, came, elapsed));
		if (came > 0)
			t->room = min(t->room, (capacity ? capacity : ROOM) / ROOM_SHARE);
	}
	waits &= !frugal;
	if (waits) {
		t->hold = w->now - t->began < us(w, HOLD_MAX_US) ? min(2 * t->hold, us(w, HOLD_MAX_US)) : 0;
		t->hold = max(t->hold, us(w, HOLD_MIN_US));
		t->hold_until = w->now + t->hold;
	}
	if (waits || !is_trickle(w, elapsed, frugal)) {
		enter(w, DVMQ_TRICKLE_WATCH, cpu);
		return;
	}
	t->began = w->now;
	t->share = (busy_cycles(w) - t->busy) * ONE / elapsed;
	t->nap = min(us(w, WINDOW_US) * NAP_PACKETS / t->all.polled, us(w, NAP_MAX_US));
	enter(w, DVMQ_TRICKLE_NAP, cpu);
	t->last = (struct dvmq_trickle_nap){w->now, t->cpu, t->busy, w->packets};
}

/* From what the last one cost and brought. */
static void choose_length(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu)
{
	struct dvmq_trickle *t = &w->trickle;
	struct dvmq_trickle_nap now = {w->now, cpu, busy_cycles(w), w->packets};
	uint64_t came = now.packets - t->last.packets, ran = cpu - t->last.cpu, busy = now.busy - t->last.busy;
	int64_t cost = ran > busy ? ran - busy : 0, share = busy * ONE / elapsed;
	uint64_t wanted;

	t->last = now;
	t->cost = t->cost ? t->cost + (cost - t->cost) / SMOOTH : cost;
	t->share += (share - t->share) / SMOOTH;
	wanted = max(t->cost * ONE / allowance(t->share), us(w, WINDOW_US) * NAP_PACKETS / t->all.polled);
	wanted = min(wanted, min(2 * t->nap, us(w, NAP_MAX_US)));
	if (came > 0)
		wanted = min(wanted, t->nap * t->room / came);
	t->nap = max(wanted, us(w, NAP_MIN_US));
}

/*
 * True if nap after nap brings less than would have come without, and not by
 * chance; then that is noted to be compared.
 */
static bool comes_slower(struct dvmq_arrivals *arrivals, uint32_t came, uint32_t expected)
{
	if (came * 4 >= expected * 3) {
		arrivals->naps = arrivals->came = arrivals->expected = 0;
		return false;
	}
	arrivals->naps++;
	arrivals->came += came;
	arrivals->expected += expected;
	if (arrivals->naps < FEWER_NAPS || !are_fewer(arrivals->came, arrivals->expected))
		return false;
	arrivals->napped = (uint64_t)arrivals->polled * arrivals->came / arrivals->expected;
	return true;
}

/*
 * Each queue, and all together.  Where nothing came is a sender that pauses: for
 * who waits, something had come, so of him something comes in the next nap.
 */
static bool any_comes_slower(struct dvmq_worker *w, uint64_t elapsed)
{
	uint64_t came = 0, polled = 0;
	bool slower = false;

	for (unsigned i = 0; i < w->n_hot; i++) {
		struct dvmq_queue *queue = w->queues[i];
		uint32_t n = packets_of(queue) - queue->arrivals.seen;

		if (n == 0)
			continue;
		queue->arrivals.seen += n;
		came += n;
		polled += queue->arrivals.polled;
		slower |= comes_slower(&queue->arrivals, n, queue->arrivals.polled * elapsed / us(w, WINDOW_US));
	}
	return comes_slower(&w->trickle.all, came, polled * elapsed / us(w, WINDOW_US)) || slower;
}

static void end_window(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu)
{
	struct dvmq_trickle *t = &w->trickle;
	bool again = w->now - t->began >= us(w, AGAIN_US);

	t->all.napped = per_window(w, w->packets - t->all.then, elapsed);
	for (unsigned i = 0; i < w->n_hot; i++) {
		struct dvmq_queue *queue = w->queues[i];

		queue->arrivals.napped = per_window(w, packets_of(queue) - queue->arrivals.then, elapsed);
	}
	if (t->share * BUSY_SHARE > ONE)
		t->hold_until = w->now + us(w, HOLD_MIN_US);
	if (w->now - w->last_packet > us(w, WINDOW_US) || t->share * BUSY_SHARE > ONE)
		enter(w, DVMQ_TRICKLE_WATCH, cpu);
	else
		enter(w, again ? DVMQ_TRICKLE_COMPARE : DVMQ_TRICKLE_NAP, cpu);
}

static void end_nap(struct dvmq_worker *w, uint64_t elapsed, uint64_t cpu, bool frugal)
{
	struct dvmq_trickle *t = &w->trickle;
	bool slower = any_comes_slower(w, elapsed);

	if (slower && !frugal) {
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
