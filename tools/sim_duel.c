/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dvmq against the best of its peers, trial by trial.
 *
 * Peers of either kind have an answer of their own: one that keeps all cores awake has no overload where a load
 * appears within a millisecond, which nobody can foresee who lets cores sleep.
 */
#include <string.h>

#include "sim.h"

#define SAME 1e-6 /* what sums round */

struct duel {
	unsigned more_overload, more_left; /* trials in which dvmq had more than the best peer */
	unsigned neither;		   /* trials in which it needed neither fewer cores nor fewer moves, but more */
	double most;			   /* overload that it had more in any of them, core milliseconds per second */
};

static const struct sim_result *find(const struct sim_job *job, const struct sim_result *results, const char *name)
{
	for (unsigned i = 0; i < job->n_planners; i++)
		if (strcmp(results[i].planner->name, name) == 0)
			return &results[i];
	return NULL;
}

static struct sim_trial mean_of(const struct sim_result *r)
{
	return (struct sim_trial){r->overload_ms, 1000 * r->left * r->mean_cores, r->mean_cores, r->moves_per_s};
}

/* Less overload; of as much, fewer cores, then fewer moves. */
static bool better(const struct sim_trial *a, const struct sim_trial *b)
{
	if (a->overload_ms < b->overload_ms - SAME || a->overload_ms > b->overload_ms + SAME)
		return a->overload_ms < b->overload_ms;
	if (a->cores < b->cores - SAME || a->cores > b->cores + SAME)
		return a->cores < b->cores;
	return a->moves_per_s < b->moves_per_s;
}

/* The best peer of a kind in one trial, or on the whole (trial < 0).  NULL: none ran. */
static const struct sim_result *best_peer(const struct sim_job *job, const struct sim_result *results,
					  enum sim_kind kind, int trial, struct sim_trial *ret_figures)
{
	const struct sim_result *best = NULL;

	for (unsigned i = 0; i < job->n_planners; i++) {
		const struct sim_result *r = &results[i];
		struct sim_trial figures = trial < 0 ? mean_of(r) : r->trials[trial];

		if (r->planner->kind == kind && (!best || better(&figures, ret_figures))) {
			best = r;
			*ret_figures = figures;
		}
	}
	return best;
}

/* The least overload that a peer of this kind saw and left. */
static double least_left(const struct sim_job *job, const struct sim_result *results, enum sim_kind kind,
			 unsigned trial)
{
	double least = 1e300;

	for (unsigned i = 0; i < job->n_planners; i++)
		if (results[i].planner->kind == kind && results[i].trials[trial].left_ms < least)
			least = results[i].trials[trial].left_ms;
	return least;
}

static struct duel fight(const struct sim_job *job, const struct sim_result *results, const struct sim_result *own,
			 enum sim_kind kind)
{
	struct duel duel = {0};

	for (unsigned t = 0; t < own->n_trials; t++) {
		const struct sim_trial *a = &own->trials[t];
		struct sim_trial b = {0};

		best_peer(job, results, kind, t, &b);
		duel.more_left += a->left_ms > least_left(job, results, kind, t) + SAME;
		duel.neither += a->cores >= b.cores - SAME && a->moves_per_s >= b.moves_per_s - SAME &&
				(a->cores > b.cores + SAME || a->moves_per_s > b.moves_per_s + SAME);
		if (a->overload_ms <= b.overload_ms + SAME)
			continue;
		duel.more_overload++;
		if (a->overload_ms - b.overload_ms > duel.most)
			duel.most = a->overload_ms - b.overload_ms;
	}
	return duel;
}

static const char *name_of(enum sim_kind kind)
{
	return kind == SIM_PARKS ? "parks cores" : "never does";
}

static void print_duel(const struct sim_job *job, const struct sim_result *results, enum sim_kind kind)
{
	const struct sim_result *own = find(job, results, "dvmq"), *ideal = find(job, results, "ideal");
	struct sim_trial b;
	const struct sim_result *peer = best_peer(job, results, kind, -1, &b);
	struct duel duel;

	if (!own || !peer)
		return;
	printf("dvmq to the best peer that %s, %s: overload %.3f to %.3f ms/s, cores %.2f to %.2f, moves/s %.1f to "
	       "%.1f\n",
	       name_of(kind), peer->planner->name, own->overload_ms, b.overload_ms, own->mean_cores, b.cores,
	       own->moves_per_s, b.moves_per_s);
	if (own->overload_ms > b.overload_ms)
		printf("  %.3f ms/s of it were left when the planner had seen it%s", mean_of(own).left_ms,
		       ideal ? "" : "\n");
	if (own->overload_ms > b.overload_ms && ideal)
		printf("; ideal, which packs anew every ms: %.3f\n", ideal->overload_ms);
	if (own->n_trials < 2)
		return;
	duel = fight(job, results, own, kind);
	printf("  of %u trials, each to its best peer: more overload in %u", own->n_trials, duel.more_overload);
	if (duel.more_overload)
		printf(" (by %.3f ms/s at most)", duel.most);
	printf(", more left in %u, neither fewer cores nor fewer moves in %u\n", duel.more_left, duel.neither);
}

void sim_print_duels(const struct sim_job *job, const struct sim_result *results)
{
	print_duel(job, results, SIM_PARKS);
	print_duel(job, results, SIM_AWAKE);
}

json_t *sim_duels_to_json(const struct sim_job *job, const struct sim_result *results)
{
	const struct sim_result *own = find(job, results, "dvmq");
	json_t *rows = json_array();

	for (enum sim_kind kind = SIM_PARKS; own && kind <= SIM_AWAKE; kind++) {
		struct sim_trial b;
		const struct sim_result *peer = best_peer(job, results, kind, -1, &b);
		struct duel duel;

		if (!peer)
			continue;
		duel = fight(job, results, own, kind);
		json_array_append_new(rows, json_pack("{s:s, s:s, s:i, s:f, s:i, s:i}", "best_peer_that", name_of(kind),
						      "peer", peer->planner->name, "more_overload",
						      (int)duel.more_overload, "more_overload_ms_per_s_max", duel.most,
						      "more_left", (int)duel.more_left, "neither_fewer_cores_nor_moves",
						      (int)duel.neither));
	}
	return rows;
}
