/* SPDX-License-Identifier: BSD-3-Clause */
/* The control socket and the interactive prompt: one grammar for both.  Control thread only. */
#ifndef DVMQ_CTL_H
#define DVMQ_CTL_H

#include <stdbool.h>

#include <dvmq/err.h>

/*
 * Opens the control socket (SOCK_STREAM, mode 0660) and takes the lock file
 * PATH.lock, which holds our process id: a second daemon on the same path is
 * refused with -EADDRINUSE and the id of the first.  A stale socket of a daemon
 * that died is replaced; a path that is something else is refused (-EEXIST).
 * A missing last directory of the path is made.
 */
int dvmq_ctl_open(const char *path, struct dvmq_err *err);

/* Also reads commands from the terminal on stdin (librte_cmdline: history, completion).  Ends with "quit" or ^D. */
int dvmq_ctl_prompt(struct dvmq_err *err);

/*
 * An epoll descriptor that becomes readable when dvmq_ctl_serve() has something
 * to do.  dvmq_ctl_serve() never blocks: slow clients are buffered up to a bound, then cut off.
 */
int dvmq_ctl_fd(void);
void dvmq_ctl_serve(void);

/*
 * DPDK telemetry: /dvmq/queues, /dvmq/cores, /dvmq/ports list names, with a name
 * as parameter they tell of it; /dvmq/balance.  The telemetry thread asks, the
 * controller answers.  open: once, with EAL up; fd and serve: like the two above.
 */
void dvmq_telemetry_open(void);
int dvmq_telemetry_fd(void);
void dvmq_telemetry_serve(void);

/* Closes everything and removes socket and lock file.  Safe to call when open failed. */
void dvmq_ctl_close(void);

#endif
