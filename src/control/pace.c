/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How soon the controller looks again.  Being woken costs a multiple of what it
 * then does, so it looks often only while that may be of use: after an alarm of a
 * worker and after what it did itself, for a few looks.  What it cannot mend it
 * leaves to the slow looks, and an allowance bounds the fast ones whatever the
 * workers do.
 */
#include <math.h>

#include <dvmq/control.h>

#define LOOK_MS	     20
#define CALM_MS	     50	 /* a look may take the CPU from a guest, or wake it, */
#define REST_MS	     200 /* so each calm one makes the next one later, up to this */
#define FAST_LOOKS   4	 /* two measure what there is now, two more what became of it */
#define PER_SECOND   100 /* fast looks, in the long run */
#define ALLOWED_MOST 200 /* that may be saved up: a load that grows on many workers takes some dozens */

/* All of them or none: one fast look alone proves nothing. */
void dvmq_pace_hurry(struct dvmq_pace *p)
{
	if (p->left > 0 || p->allowance >= FAST_LOOKS)
		p->left = FAST_LOOKS;
}

void dvmq_pace_looked(struct dvmq_pace *p, uint64_t now_ms, bool news, bool pending, bool calm)
{
	p->allowance += (double)(now_ms - p->looked_ms) * PER_SECOND / 1000;
	if (p->allowance > ALLOWED_MOST)
		p->allowance = ALLOWED_MOST;
	if (p->left > 0) {
		p->left--;
		p->allowance--;
	}
	if (p->allowance < 1)
		p->left = 0;
	if (news)
		dvmq_pace_hurry(p);
	if (calm && !pending && p->left == 0)
		p->slow_ms = fmax(CALM_MS, fmin(2 * p->slow_ms, REST_MS));
	else
		p->slow_ms = LOOK_MS;
	p->pending = pending;
	p->looked_ms = now_ms;
}

bool dvmq_pace_may_hurry(const struct dvmq_pace *p)
{
	return p->left == 0 && p->allowance >= FAST_LOOKS;
}

double dvmq_pace_ms(const struct dvmq_pace *p, double fast_ms)
{
	if (p->left == FAST_LOOKS && !p->pending) /* the look at the news was made; what it measured was mostly before them */
		return fast_ms / 2;
	return p->pending || p->left > 0 ? fast_ms : fmax(fast_ms, p->slow_ms);
}
