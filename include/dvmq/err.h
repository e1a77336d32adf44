/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DVMQ_ERR_H
#define DVMQ_ERR_H

/*
 * An error as the user reads it: thing, reason, remedy.  Whoever finds the
 * error fills it in; whoever talks to the user prints it, once.
 */
struct dvmq_err {
	char text[512];
};

/* Formats the text, sets errno to errnum (> 0) and returns -errnum, for `return dvmq_fail(...)`.  Any thread. */
int dvmq_fail(struct dvmq_err *err, int errnum, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
