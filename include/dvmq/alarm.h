/* SPDX-License-Identifier: BSD-3-Clause */
/* What a worker that becomes full tells the controller: src/datapath/alarm.c. */
#ifndef DVMQ_ALARM_H
#define DVMQ_ALARM_H

#include <stdbool.h>
#include <stdint.h>

#include <dvmq/err.h>

struct dvmq_worker;

/*
 * Before there are workers: a worker is full from the share `high` (0..1) of its
 * time on.  0, or -errno with err: no descriptor.
 */
int dvmq_alarm_open(double high, struct dvmq_err *err);
void dvmq_alarm_close(void); /* after the last worker; also after an open that failed */

/* Controller: readable, edge-triggered, after an alarm while one was wanted; nothing has to be read from it. */
int dvmq_alarm_fd(void);

/* Any thread: alarms since the start; wraps around. */
uint32_t dvmq_alarm_count(void);

/*
 * Controller, before it sleeps: whether an alarm is to wake it.  One does; then
 * it is to be said again.  True if no alarm has come since the count was `seen`.
 */
bool dvmq_alarm_want(bool on, uint32_t seen);

/* The worker, from window_end on, between two turns: was it full?  At most one system call, and that rarely. */
void dvmq_alarm_look(struct dvmq_worker *worker);

#endif
