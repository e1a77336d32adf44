/* SPDX-License-Identifier: BSD-3-Clause */
/* Lets planners run through a scenario, and counts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define ALONE	  0.01 /* of a core: so little beside a queue is no company */
#define UNDONE_MS 1000 /* a queue that is back on the core it left within this time: the move was for nothing */

/* xorshift64*: the same numbers on every machine. */
double sim_random(struct sim *sim)
{
	sim->random ^= sim->random >> 12;
	sim->random ^= sim->random << 25;
	sim->random ^= sim->random >> 27;
	return (double)((sim->random * 2685821657736338717ull) >> 11) / (double)(1ull << 53);
}

void sim_set_active(struct sim *sim, unsigned core, bool active)
{
	if (sim->active[core] == active)
		return;
	sim->n_active += active ? 1 : -1;
	sim->active[core] = active;
	sim->changes++;
}

bool sim_remote(const struct sim *sim, unsigned queue, unsigned core)
{
	int a = sim->core_node[core], b = sim->queue_node[queue];

	return a >= 0 && b >= 0 && a != b;
}

static double local_need(const struct sim *sim, unsigned queue, unsigned core)
{
	return sim->demand[queue] * (sim_remote(sim, queue, core) ? 1 + SIM_REMOTE : 1);
}

void sim_add_up(struct sim *sim)
{
	double alone[SIM_CORES_MAX] = {0};

	if (sim->added_up == sim->changes)
		return;
	sim->added_up = sim->changes;
	for (unsigned i = 0; i < sim->n_queues; i++) {
		sim->need[i] = local_need(sim, i, sim->core[i]);
		alone[sim->core[i]] += sim->need[i];
	}
	for (unsigned i = 0; i < sim->n_cores; i++)
		sim->load[i] = alone[i] * (sim->sibling[i] < 0 ? 1 : 1 + SIM_SMT * fmin(1, alone[sim->sibling[i]]));
	for (unsigned i = 0; i < sim->n_queues; i++)
		if (sim->sibling[sim->core[i]] >= 0)
			sim->need[i] *= 1 + SIM_SMT * fmin(1, alone[sim->sibling[sim->core[i]]]);
}

void sim_move(struct sim *sim, unsigned queue, unsigned core)
{
	unsigned from = sim->core[queue];

	if (from == core || sim->pinned[queue])
		return;
	sim->changes++;
	sim->moves++;
	sim->undone += sim->came_from[queue] == core && sim->now_ms - sim->moved_ms[queue] <= UNDONE_MS;
	sim->came_from[queue] = from;
	sim->moved_ms[queue] = sim->now_ms;
	/* Siblings follow when sim_add_up() is called. */
	sim->load[from] -= sim->need[queue];
	sim->need[queue] = local_need(sim, queue, core);
	sim->load[core] += sim->need[queue];
	sim->core[queue] = core;
}

void sim_decided(struct sim *sim, double us)
{
	if (sim->n_decisions < sim->decision_room)
		sim->decision_us[sim->n_decisions++] = us;
}

static double max_load(const struct sim *sim)
{
	double max = 0;

	for (unsigned i = 0; i < sim->n_cores; i++)
		max = fmax(max, sim->load[i]);
	return max;
}

/* What the scenario says at this time, or the trace. */
static void set_demand(const struct sim_job *job, struct sim *sim, unsigned *frame)
{
	if (!job->frames) {
		if (sim->now_ms > 0 && job->scenario->step && fmod(sim->now_ms, 10) == 0) {
			job->scenario->step(sim);
			sim->changes++;
		}
		return;
	}
	while (*frame < job->n_frames && job->frames[*frame].snapshot.now_ms <= sim->now_ms)
		sim_replay(sim, &job->frames[(*frame)++]);
}

/* As if it had gone on for long: on as many cores as it needs. */
static void place_for_start(struct sim *sim)
{
	double total = 0;
	unsigned n;

	for (unsigned i = 0; i < sim->n_queues; i++)
		total += sim->demand[i];
	n = fmin(sim->n_cores, fmax(1, ceil(total / sim->params.target)));
	for (unsigned i = n; i < sim->n_cores; i++)
		sim_set_active(sim, i, false);
	sim_place_by_size(sim, n);
}

static void begin(const struct sim_job *job, struct sim *sim, unsigned trial)
{
	memset(sim, 0, offsetof(struct sim, decision_us));
	sim->n_cores = job->cores;
	sim->n_queues = job->queues;
	/* Neighbouring seeds must not give neighbouring numbers, and 0 would stay 0. */
	sim->random = (job->seed + 1) * 0x9E3779B97F4A7C15ull + (trial + 1) * 0xD1B54A32D192ED03ull;
	for (unsigned i = 0; i < 8; i++)
		sim_random(sim);
	sim->phase_ms = floor(100 * sim_random(sim));
	dvmq_balance_defaults(&sim->params);
	for (unsigned i = 0; i < sim->n_queues; i++) {
		sim->moved_ms[i] = NAN;
		sim->came_from[i] = SIM_CORES_MAX;
	}
	for (unsigned i = 0; i < sim->n_cores; i++) {
		sim_set_active(sim, i, true);
		sim->sibling[i] = -1;
	}
	if (job->frames) {
		sim_replay_begin(sim, &job->frames[0]);
		return;
	}
	job->scenario->begin(sim);
	if (job->scenario->seconds > 0)
		place_for_start(sim);
}

/* No assignment to all cores does better. */
static double bound(const struct sim *sim)
{
	double total = 0, largest = 0;

	for (unsigned i = 0; i < sim->n_queues; i++) {
		total += sim->demand[i];
		largest = fmax(largest, sim->demand[i]);
	}
	return fmax(total / sim->n_cores, largest);
}

static void run_once(struct sim *sim, const struct sim_planner *planner, void *state, struct sim_result *result,
		     unsigned trial)
{
	planner->step(sim, state, true);
	sim_add_up(sim);
	result->ratio[trial] = max_load(sim) / bound(sim);
	result->moved[trial] = (double)sim->moves / sim->n_queues;
}

struct sums {
	double overload, saturated, left, remote, demand, cores, fewest, ticks, moves, undone;
};

/*
 * Cores with more to do than they can; in *ret_saturated those that have one
 * queue only, which alone needs more than a core: no place would help it.
 */
static unsigned count_overloaded(const struct sim *sim, unsigned *ret_saturated)
{
	double largest[SIM_CORES_MAX] = {0};
	unsigned n = 0;

	*ret_saturated = 0;
	for (unsigned i = 0; i < sim->n_cores; i++)
		n += sim->load[i] > 1 + 1e-9;
	if (n == 0)
		return 0;
	for (unsigned i = 0; i < sim->n_queues; i++)
		largest[sim->core[i]] = fmax(largest[sim->core[i]], sim->need[i]);
	for (unsigned i = 0; i < sim->n_cores; i++)
		*ret_saturated += sim->load[i] > 1 + 1e-9 && sim->load[i] - largest[i] <= ALONE;
	return n - *ret_saturated;
}

/* One millisecond into the sums. */
static void count_tick(const struct sim *sim, struct sums *sums)
{
	double total = 0, carried = 0;
	unsigned saturated;

	for (unsigned i = 0; i < sim->n_queues; i++) {
		total += sim->demand[i];
		carried += fmin(sim->demand[i], sim->params.target); /* a queue has one core, whatever it needs */
		sums->remote += sim_remote(sim, i, sim->core[i]) ? sim->demand[i] : 0;
	}
	sums->demand += total;
	sums->overload += count_overloaded(sim, &saturated);
	sums->saturated += saturated;
	sums->cores += sim->n_active;
	sums->fewest += fmin(sim->n_cores, fmax(1, ceil(carried / sim->params.target - 1e-6)));
	sums->ticks++;
}

static void run_time(const struct sim_job *job, struct sim *sim, const struct sim_planner *planner, void *state,
		     struct sim_result *result, struct sums *sums, unsigned trial)
{
	double end = job->frames ? job->frames[job->n_frames - 1].snapshot.now_ms : job->scenario->seconds * 1000;
	double every = fmax(1, ceil(end / SIM_SAMPLES));
	unsigned frame = 0, saturated;

	for (sim->now_ms = 0; sim->now_ms <= end; sim->now_ms += 1) {
		set_demand(job, sim, &frame);
		sim_add_up(sim);
		/* The millisecond passes before anybody has seen what it brought. */
		count_tick(sim, sums);
		result->max_load = fmax(result->max_load, max_load(sim));
		if (trial == 0 && fmod(sim->now_ms, every) == 0 && result->n_samples < SIM_SAMPLES) {
			result->sample_s[result->n_samples] = sim->now_ms / 1000;
			result->sample_cores[result->n_samples] = sim->n_active;
			result->sample_max[result->n_samples++] = max_load(sim);
		}
		planner->step(sim, state, false);
		sim_add_up(sim);
		sums->left += count_overloaded(sim, &saturated);
	}
}

static void add_sums(struct sums *total, const struct sums *one)
{
	total->overload += one->overload;
	total->saturated += one->saturated;
	total->left += one->left;
	total->remote += one->remote;
	total->demand += one->demand;
	total->cores += one->cores;
	total->fewest += one->fewest;
	total->ticks += one->ticks;
	total->moves += one->moves;
	total->undone += one->undone;
}

static struct sim_trial to_trial(const struct sums *one)
{
	return (struct sim_trial){.overload_ms = 1000 * one->overload / one->ticks,
				  .left_ms = 1000 * one->left / one->ticks,
				  .cores = one->cores / one->ticks,
				  .moves_per_s = 1000 * one->moves / one->ticks};
}

static void to_result(const struct sums *sums, struct sim_result *result)
{
	const struct sim_trial mean = to_trial(sums);

	result->overload = sums->overload / sums->cores;
	result->overload_ms = mean.overload_ms;
	result->saturated_ms = 1000 * sums->saturated / sums->ticks;
	result->remote = sums->demand > 0 ? sums->remote / sums->demand : 0;
	result->left = sums->left / sums->cores;
	result->mean_cores = mean.cores;
	result->fewest_cores = sums->fewest / sums->ticks;
	result->moves_per_s = mean.moves_per_s;
	result->undone = sums->moves > 0 ? sums->undone / sums->moves : 0;
}

static int run_planner(const struct sim_job *job, struct sim *sim, const struct sim_planner *planner,
		       struct sim_result *result)
{
	bool once = !job->frames && job->scenario->seconds == 0;
	struct sums total = {0};

	*result = (struct sim_result){.planner = planner, .n_trials = job->trials};
	sim->decision_room = once ? job->trials : 20000;
	sim->decision_us = calloc(sim->decision_room, sizeof(double));
	sim->n_decisions = 0;
	result->decision_us = sim->decision_us;
	result->ratio = calloc(job->trials, sizeof(double));
	result->moved = calloc(job->trials, sizeof(double));
	result->trials = once ? NULL : calloc(job->trials, sizeof(*result->trials));
	if (!sim->decision_us || !result->ratio || !result->moved || (!once && !result->trials))
		return -1;
	for (unsigned t = 0; t < job->trials; t++) {
		struct sums one = {0};
		void *state;

		begin(job, sim, t);
		state = planner->begin(sim);
		if (!state)
			return -1;
		sim_add_up(sim);
		if (once)
			run_once(sim, planner, state, result, t);
		else
			run_time(job, sim, planner, state, result, &one, t);
		planner->end(state);
		one.moves = sim->moves;
		one.undone = sim->undone;
		add_sums(&total, &one);
		if (!once)
			result->trials[t] = to_trial(&one);
	}
	result->n_decisions = sim->n_decisions;
	if (!once)
		to_result(&total, result);
	return 0;
}

int sim_run(const struct sim_job *job, struct sim_result *results)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	int ret = sim ? 0 : -1;

	for (unsigned i = 0; i < job->n_planners && ret == 0; i++)
		ret = run_planner(job, sim, job->planners[i], &results[i]);
	free(sim);
	if (ret < 0)
		fprintf(stderr, "dvmq-sim: out of memory\n");
	return ret;
}
