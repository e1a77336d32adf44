/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Included before everything else, this makes a daemon that counts nothing for the balancer: what it is faster is the
 * cost of accounting.  Such a daemon moves no queue and shows no load.  The TSC is still read once per turn.
 */
#if __has_include(<dvmq/queue.h>) && __has_include(<rte_ether.h>) /* not while meson tries the compiler */
#include <dvmq/queue.h>

#define dvmq_count(counter, add) ((void)(counter), (void)(add))

/* Who counts nothing does not know that he is full: always the turns of one who is, as those he is compared with. */
#undef DVMQ_BULK
#define DVMQ_BULK DVMQ_BURST
#endif
