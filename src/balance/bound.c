/* SPDX-License-Identifier: BSD-3-Clause */
/* What no assignment can beat. */
#include <math.h>

#include "internal.h"

/* Heap sort, largest first (the root is the smallest).  Not qsort(), which may allocate. */
static void sift(double *sizes, unsigned i, unsigned n)
{
	double item = sizes[i];

	for (unsigned child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && sizes[child + 1] < sizes[child])
			child++;
		if (sizes[child] >= item)
			break;
		sizes[i] = sizes[child];
	}
	sizes[i] = item;
}

static void sort(double *sizes, unsigned n)
{
	for (unsigned i = n / 2; i-- > 0;)
		sift(sizes, i, n);
	for (unsigned i = n; i-- > 1;) {
		double last = sizes[i];

		sizes[i] = sizes[0];
		sizes[0] = last;
		sift(sizes, 0, i);
	}
}

/*
 * Level to which the movable load fills the open cores but `taken` of them,
 * when the cores that pinned queues lift above it take none.
 */
static double fill_level(const struct work *w, double movable, unsigned taken)
{
	double level = INFINITY;
	unsigned n, before = 0;

	do {
		double load = movable;

		n = 0;
		for (unsigned i = 0; i < w->n_cores; i++)
			if (w->cores[i].open && w->cores[i].pinned <= level) {
				n++;
				load += w->cores[i].pinned;
			}
		if (n <= taken || n == before)
			break;
		before = n;
		level = load / (n - taken);
	} while (true);
	return isinf(level) ? 0 : level;
}

/* Pinned queues are counted with their cores; one that no move could be spent on is on none. */
static bool counts(const struct queue *q)
{
	return !q->pinned && q->core != NONE;
}

/*
 * Lower bound of the load of the busiest active core: the largest of
 *  - the largest queue, and the pinned load of any core;
 *  - the level to which the movable load fills up the open cores;
 *  - for j = 1..3: of the j*k + 1 largest queues, some of k cores has j + 1,
 *    so at least the sum of the j + 1 smallest of them (pigeonhole).
 * ret_rest: the same without the queues that are larger than the level of the
 * rest and so have a core to themselves: what the other cores can reach.
 */
double dvmq_bound(struct work *w, double *ret_rest)
{
	double bound = 0, movable = 0, rest, level;
	unsigned n_open = 0, n = 0, giants = 0;

	for (unsigned i = 0; i < w->n_cores; i++) {
		n_open += w->cores[i].open;
		if (w->cores[i].pinned > bound)
			bound = w->cores[i].pinned;
	}
	for (unsigned i = 0; i < w->n_queues; i++)
		movable += counts(&w->queues[i]) ? w->queues[i].demand : 0;
	if (n_open == 0) {
		*ret_rest = bound;
		return bound;
	}
	level = fill_level(w, movable, 0);
	for (unsigned i = 0; i < w->n_queues; i++)
		if (counts(&w->queues[i]) && w->queues[i].demand > level / 4)
			w->sizes[n++] = w->queues[i].demand;
	/* Mostly a handful; many only where few queues per core make the order worth its time. */
	sort(w->sizes, n);
	rest = level;
	while (giants < n && giants + 1 < n_open && w->sizes[giants] > rest) {
		movable -= w->sizes[giants++];
		rest = fill_level(w, movable, giants);
		if (rest > level)
			rest = level;
	}
	if (giants + 1 == n_open && giants < n && w->sizes[giants] > rest)
		rest = w->sizes[giants];
	if (n > 0 && w->sizes[0] > bound)
		bound = w->sizes[0];
	for (unsigned j = 1; j <= 3; j++) {
		unsigned k = n_open - giants;
		double sum = 0;

		if (giants + j * k >= n)
			break;
		for (unsigned i = giants + j * k - j; i <= giants + j * k; i++)
			sum += w->sizes[i];
		if (sum > rest)
			rest = sum;
		if (sum > bound && giants == 0)
			bound = sum;
	}
	if (bound < rest && giants == 0)
		bound = rest;
	*ret_rest = rest < bound ? rest : bound;
	return bound;
}

/* Fewest cores that may carry the load with none above `cap` but by a single queue: no fewer can, a few more may be
 * needed. */
unsigned dvmq_bound_cores(const struct work *w, double cap)
{
	unsigned giants = 0, halves = 0, cores;
	double rest = 0;

	for (unsigned i = 0; i < w->n_queues; i++) {
		double demand = w->queues[i].demand;

		giants += demand > cap;
		halves += demand > cap / 2;
		rest += demand > cap ? 0 : demand;
	}
	cores = giants + (unsigned)ceil(rest / cap - 1e-6);
	if (cores < halves)
		cores = halves;
	return cores ? cores : 1;
}
