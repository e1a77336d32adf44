/* SPDX-License-Identifier: BSD-3-Clause */
/* The ring of decisions: what was moved, grown, parked or refused, and why. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <dvmq/control.h>

static struct dvmq_decision ring[DVMQ_DECISIONS];
static unsigned n, next;

static struct {
	char action[12];
	uint64_t count;
} totals[16];

static void count_action(const char *action)
{
	for (unsigned i = 0; i < sizeof(totals) / sizeof(totals[0]); i++) {
		if (totals[i].count == 0)
			snprintf(totals[i].action, sizeof(totals[i].action), "%s", action);
		if (strcmp(totals[i].action, action) == 0) {
			totals[i].count++;
			return;
		}
	}
}

/* A state that lasts is told once, not each time it is found again with other figures. */
static bool told(const char *action, const char *thing)
{
	if (strcmp(action, "saturated") != 0 && strcmp(action, "refuse") != 0)
		return false;
	for (unsigned i = 1; i <= n; i++) {
		const struct dvmq_decision *d = &ring[(next + DVMQ_DECISIONS - i) % DVMQ_DECISIONS];

		if (strcmp(d->thing, thing) == 0)
			return strcmp(d->action, action) == 0;
	}
	return false;
}

void dvmq_decide(const char *action, const char *thing, int from, int to, const char *reason)
{
	struct dvmq_decision *d = &ring[next];
	struct timespec now;

	count_action(action);
	if (told(action, thing))
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	d->unix_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	snprintf(d->action, sizeof(d->action), "%s", action);
	snprintf(d->thing, sizeof(d->thing), "%s", thing);
	snprintf(d->reason, sizeof(d->reason), "%s", reason);
	d->from = from;
	d->to = to;
	next = (next + 1) % DVMQ_DECISIONS;
	if (n < DVMQ_DECISIONS)
		n++;
}

unsigned dvmq_decisions(const struct dvmq_decision *ret[DVMQ_DECISIONS])
{
	for (unsigned i = 0; i < n; i++)
		ret[i] = &ring[(next + DVMQ_DECISIONS - n + i) % DVMQ_DECISIONS];
	return n;
}

uint64_t dvmq_decision_count(const char *action)
{
	for (unsigned i = 0; i < sizeof(totals) / sizeof(totals[0]); i++)
		if (strcmp(totals[i].action, action) == 0)
			return totals[i].count;
	return 0;
}
