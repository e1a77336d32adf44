/* SPDX-License-Identifier: BSD-3-Clause */
/* What a worker tells the controller at once: src/datapath/alarm.c. */
#ifndef DVMQ_ALARM_H
#define DVMQ_ALARM_H

#include <stdbool.h>
#include <stdint.h>

#include <dvmq/err.h>

struct dvmq_worker;

enum dvmq_alarm {
	DVMQ_ALARM_FULL,   /* a worker has become full */
	DVMQ_ALARM_SOURCE, /* a source address waits to be learned */
	DVMQ_ALARMS,
};

/*
 * Before there are workers: a worker is full from the share `high` (0..1) of its
 * time on.  0, or -errno with err: no descriptor.
 */
int dvmq_alarm_open(double high, struct dvmq_err *err);
void dvmq_alarm_close(void); /* after the last worker; also after an open that failed */

/* Controller: readable, edge-triggered, after an alarm while one was wanted; nothing has to be read from it. */
int dvmq_alarm_fd(void);

/* Any thread: alarms of that kind since the start; wraps around. */
uint32_t dvmq_alarm_count(enum dvmq_alarm kind);

/*
 * Controller, before it sleeps: which alarms are to wake it, 1 << kind each.  One does; then it is to be said
 * again.  True if none of those has come since the counts were seen[kind].
 */
bool dvmq_alarm_want(unsigned kinds, const uint32_t seen[DVMQ_ALARMS]);

/* A worker: at most one system call, where the controller waits for such an alarm. */
void dvmq_alarm_raise(enum dvmq_alarm kind);

/* The worker, from window_end on, between two turns: was it full?  Raises the alarm, rarely. */
void dvmq_alarm_look(struct dvmq_worker *worker);

#endif
