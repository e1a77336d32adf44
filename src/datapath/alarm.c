/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What cannot wait until the controller looks, which it does rarely by itself: a
 * worker has become full, or a source address is to be learned, for which packets
 * are flooded until then.
 *
 * Full: time is cut into windows.  A worker is full in one of which turns with packets
 * took more than `high`, and most packets came in turns that took many: few in each
 * mean that it waits for them, not they for it, however busy it is.  One such window is a burst, some in a row are an alarm,
 * and if it stays full, one more follows: the first may have come from a burst,
 * and overload that is heavier than a standing one has no other sign.  After that
 * there is none until no window has been full for a while.
 *
 * While a worker is full it takes more packets in each turn, which saves it one part
 * in fifty.  One that keeps up does not: after a pause, its own or a guest's, long turns
 * would keep those waiting who are behind them.  Nor where packets are large: they are copied twice, and what was
 * copied first has left the cache until then.
 *
 * A full window that is too long does not count: something else had the CPU of the
 * worker, which looks like work for as long as a turn takes.
 *
 *   worker                              controller
 *   raised++                            wanted = these kinds
 *   takes wanted; if it was one:        raised as it was?  sleeps
 *   writes to the descriptor
 *
 * All seq_cst: either the controller sees the alarm, or the worker sees that it is
 * wanted.  Of many workers at once one makes the system call.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <dvmq/alarm.h>
#include <dvmq/worker.h>

#define WINDOW_US    200
#define WINDOWS	     2	   /* full ones in a row that are an alarm */
#define WINDOWS_MORE 10	   /* that are one more */
#define CALM_US	     10000 /* without a full window: the next ones are news again */
#define BUSY_SHARE   4	   /* busy for less than that part of the time: what its packets would cost is of no interest */
#define LARGE	     1024  /* bytes of a mean packet, above which long turns do not pay: see docs/performance.md */
#define FULL_MOST    0.95  /* also where high is 1: between two turns some time goes to the loop itself */

static int fd = -1;
static double full = FULL_MOST; /* share of a window; constant while there are workers */

static _Atomic uint32_t raised[DVMQ_ALARMS]; /* since the start.  Writers: workers */
static _Atomic uint32_t wanted; /* 1 << kind.  Set and cleared by the controller, cleared by the worker that writes to fd */

int dvmq_alarm_open(double high, struct dvmq_err *err)
{
	full = high < FULL_MOST ? high : FULL_MOST;
	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return fd < 0 ? dvmq_fail(err, errno, "eventfd: %s", strerror(errno)) : 0;
}

void dvmq_alarm_close(void)
{
	if (fd >= 0)
		close(fd);
	fd = -1;
}

int dvmq_alarm_fd(void)
{
	return fd;
}

uint32_t dvmq_alarm_count(enum dvmq_alarm kind)
{
	return atomic_load(&raised[kind]);
}

bool dvmq_alarm_want(unsigned kinds, const uint32_t seen[DVMQ_ALARMS])
{
	bool none = true;

	atomic_store(&wanted, kinds);
	for (unsigned kind = 0; kind < DVMQ_ALARMS; kind++)
		none &= !(kinds & 1u << kind) || atomic_load(&raised[kind]) == seen[kind];
	return none;
}

void dvmq_alarm_raise(enum dvmq_alarm kind)
{
	atomic_fetch_add(&raised[kind], 1);
	if ((atomic_load(&wanted) & 1u << kind) && atomic_exchange(&wanted, 0))
		eventfd_write(fd, 1); /* its counter cannot be full, so it cannot fail */
}

void dvmq_alarm_look(struct dvmq_worker *w)
{
	uint64_t window = WINDOW_US * w->cycles_per_us, elapsed = w->now - w->window_begin;
	uint64_t busy = atomic_load_explicit(&w->busy_cycles, memory_order_relaxed);
	uint64_t bulk = w->bulk_packets - w->window_bulk, packets = w->packets - w->window_packets;
	bool is_full = busy - w->window_busy >= full * elapsed && bulk >= packets / 2;
	bool large = w->bytes - w->window_bytes > LARGE * packets;
	bool is_busy = (busy - w->window_busy) * BUSY_SHARE >= elapsed;

	if (is_full && w->window_begin - w->full_at > CALM_US * w->cycles_per_us)
		w->alarm_after = WINDOWS;
	w->window_begin = w->now;
	w->window_busy = busy;
	w->window_bulk = w->bulk_packets;
	w->window_packets = w->packets;
	w->window_bytes = w->bytes;
	w->window_end = w->now + window;
	if (!is_full) {
		w->full_windows = 0;
		w->burst = DVMQ_BULK;
		if (is_busy)
			dvmq_gather_next(w);
		return;
	}
	if (elapsed >= 2 * window)
		return;
	w->full_at = w->now;
	w->full_windows++;
	if (w->full_windows >= WINDOWS)
		w->burst = large ? DVMQ_BULK : DVMQ_BURST;
	if (w->full_windows == w->alarm_after) {
		w->alarm_after = w->alarm_after == WINDOWS ? WINDOWS_MORE : UINT_MAX;
		dvmq_alarm_raise(DVMQ_ALARM_FULL);
	}
}
