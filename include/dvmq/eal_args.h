/* SPDX-License-Identifier: BSD-3-Clause */
/* The argument vector for EAL, from configuration and command line.  Before any thread. */
#ifndef DVMQ_EAL_ARGS_H
#define DVMQ_EAL_ARGS_H

#include <dvmq/conf.h>

/*
 * program, then what the configuration implies (lcores from workers and control,
 * --file-prefix dvmq), then [eal] args, then argv[0..argc) of the command line.
 * What a later one says leaves the same option of an earlier one out, but for
 * options that may stand several times (--vdev, -a, ...).  A NULL-terminated
 * vector in *ret_argv and its length in *ret_argc, valid until the next call: the
 * caller frees neither, EAL keeps pointers into it.  0 or -errno with err.
 */
int dvmq_eal_args(const char *program, const struct dvmq_conf *conf, int argc, char **argv, int *ret_argc,
		  char ***ret_argv, struct dvmq_err *err);

#endif
