/* SPDX-License-Identifier: BSD-3-Clause */
/* Included before everything else: valgrind knows no epoll_pwait2(), so naps are of whole milliseconds. */
#include <sys/epoll.h>
#include <time.h>

#define epoll_pwait2(fd, events, n, limit, mask) \
	epoll_pwait(fd, events, n,               \
		    (limit) != NULL ? (int)(((const struct timespec *)(limit))->tv_nsec / 1000000) + 1 : -1, mask)
