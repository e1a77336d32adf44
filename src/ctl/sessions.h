/* SPDX-License-Identifier: BSD-3-Clause */
/* What the control socket (server.c) and the terminal (prompt.c) know of each other.  Control thread only. */
#ifndef DVMQ_SESSIONS_H
#define DVMQ_SESSIONS_H

#include <dvmq/err.h>

/* Starts to read commands from stdin; *ret_fd becomes readable when dvmq_prompt_serve() has something to do. */
int dvmq_prompt_open(int *ret_fd, struct dvmq_err *err);

/* Takes what has arrived; false once the input ended, by "quit" or end of file. */
bool dvmq_prompt_serve(void);

/* Restores the terminal.  Safe to call when open failed or was not called. */
void dvmq_prompt_close(void);

#endif
