/* SPDX-License-Identifier: BSD-3-Clause */
/* Where the load comes from. */
#include <math.h>
#include <string.h>

#include "sim.h"

#define FILL	 0.70 /* mean load of a core where one decision is judged */
#define BURST_MS 100  /* a burst lasts this long on average */

/* What the demand of a queue is made of; one trial runs at a time. */
static double base[SIM_QUEUES_MAX], noise[SIM_QUEUES_MAX], burst_until[SIM_QUEUES_MAX];

static unsigned below(struct sim *sim, unsigned n)
{
	return (unsigned)(sim_random(sim) * n);
}

/* Nearly normal: mean 0, deviation 1. */
static double normal(struct sim *sim)
{
	double sum = 0;

	for (unsigned i = 0; i < 12; i++)
		sum += sim_random(sim);
	return sum - 6;
}

static void scale(struct sim *sim, double *values, double total)
{
	double sum = 0;

	for (unsigned i = 0; i < sim->n_queues; i++)
		sum += values[i];
	for (unsigned i = 0; i < sim->n_queues; i++)
		values[i] *= total / sum;
}

/* Sizes with a long tail (lognormal), four queues per VM. */
static void sizes(struct sim *sim, double deviation)
{
	for (unsigned i = 0; i < sim->n_queues; i++) {
		base[i] = exp(deviation * normal(sim));
		noise[i] = 0;
		burst_until[i] = -1;
		sim->group[i] = i / 4 + 1;
	}
}

/* ------------------------------------------------------------ one decision per trial */

/* Well placed, then 10 % of the queues change by 0.2 to 3. */
static void disturb(struct sim *sim, double deviation)
{
	sizes(sim, deviation);
	memcpy(sim->demand, base, sizeof(base));
	sim_place_by_size(sim, sim->n_cores);
	for (unsigned i = 0; i < sim->n_queues / 10; i++)
		base[below(sim, sim->n_queues)] *= 0.2 + 2.8 * sim_random(sim);
	scale(sim, base, FILL * sim->n_cores);
}

static void begin_elephants(struct sim *sim)
{
	disturb(sim, 0.8);
	/* Some of those that changed now need about as much as a core is filled to. */
	for (unsigned i = 0; i < (sim->n_cores + 15) / 16; i++)
		base[below(sim, sim->n_queues)] = 0.35 + 0.35 * sim_random(sim);
	memcpy(sim->demand, base, sizeof(base));
}

static void begin_large(struct sim *sim)
{
	disturb(sim, 0.5);
	memcpy(sim->demand, base, sizeof(base));
}

/* ------------------------------------------------------------ over time */

/* Demand with noise of 5 % that lasts for about 100 ms. */
static void shake(struct sim *sim, double level)
{
	for (unsigned i = 0; i < sim->n_queues; i++) {
		noise[i] = 0.9 * noise[i] + 0.05 * 0.44 * normal(sim);
		sim->demand[i] = fmax(0, base[i] * level * (1 + noise[i]));
	}
}

static void begin_steady(struct sim *sim)
{
	sizes(sim, 0.8);
	scale(sim, base, 0.5 * sim->n_cores);
	shake(sim, 1);
}

static void step_steady(struct sim *sim)
{
	shake(sim, 1);
}

/* Every 5 s other queues are the large ones. */
static void step_skewed(struct sim *sim)
{
	if (fmod(sim->now_ms, 5000) < 10) {
		sizes(sim, 0.8);
		scale(sim, base, 0.35 * sim->n_cores);
		for (unsigned i = 0; i < (sim->n_cores + 7) / 8; i++)
			base[below(sim, sim->n_queues)] = 0.4 + 0.4 * sim_random(sim);
	}
	shake(sim, 1);
}

static void begin_skewed(struct sim *sim)
{
	step_skewed(sim);
}

/* 30 % of all cores, twice that from second 20 to 40, and back. */
static void step_step(struct sim *sim)
{
	shake(sim, sim->now_ms >= 20000 && sim->now_ms < 40000 ? 1.2 : 0.6);
}

static void begin_step(struct sim *sim)
{
	begin_steady(sim);
	step_step(sim);
}

/* A day in four minutes, from 15 % of all cores to 70 %; bursts: a queue needs three times as much for a while. */
static void step_day(struct sim *sim)
{
	shake(sim, 0.85 - 0.55 * cos(sim->now_ms / 240e3 * 2 * M_PI));
	if (sim_random(sim) < sim->n_queues / 2000.0) {
		unsigned i = below(sim, sim->n_queues);

		burst_until[i] = sim->now_ms - BURST_MS * log(1 - sim_random(sim));
	}
	for (unsigned i = 0; i < sim->n_queues; i++)
		if (sim->now_ms < burst_until[i])
			sim->demand[i] *= 3;
}

static void begin_day(struct sim *sim)
{
	begin_steady(sim);
	step_day(sim);
}

/* Against the planner: as soon as it has settled (150 ms), the other half of the queues has the load. */
static void step_seesaw(struct sim *sim)
{
	bool odd = fmod(sim->now_ms, 300) >= 150;

	for (unsigned i = 0; i < sim->n_queues; i++)
		sim->demand[i] = base[i] * (((i & 1) != 0) == odd ? 1.6 : 0.4);
}

static void begin_seesaw(struct sim *sim)
{
	begin_steady(sim);
	step_seesaw(sim);
}

/* VMs come and go: each is there for half of the time, for some seconds. */
static void step_churn(struct sim *sim)
{
	for (unsigned vm = 0; vm * 4 < sim->n_queues; vm++) {
		bool there = burst_until[vm] > 0;

		if (sim_random(sim) < 1 / 500.0)
			burst_until[vm] = there ? -1 : 1;
	}
	shake(sim, 1.3);
	for (unsigned i = 0; i < sim->n_queues; i++)
		if (burst_until[i / 4] <= 0)
			sim->demand[i] = 0;
}

static void begin_churn(struct sim *sim)
{
	begin_steady(sim);
	for (unsigned vm = 0; vm * 4 < sim->n_queues; vm++)
		burst_until[vm] = sim_random(sim) < 0.5 ? 1 : -1;
	step_churn(sim);
}

/* Node 0 has what it can carry, from second 20 to 40 more than that, while node 1 has room. */
static void step_numa(struct sim *sim)
{
	shake(sim, 1);
	for (unsigned i = 0; i < sim->n_queues; i++)
		if (sim->queue_node[i] == 0 && sim->now_ms >= 20000 && sim->now_ms < 40000)
			sim->demand[i] *= 2.5;
}

/* Two nodes, each physical core two threads; a VM has its memory on one node. */
static void begin_numa(struct sim *sim)
{
	unsigned half = sim->n_cores / 2;

	/* Numbered as Linux does it: first one thread of each physical core, then the other. */
	for (unsigned i = 0; i < sim->n_cores; i++) {
		sim->core_node[i] = i % half % 2;
		sim->sibling[i] = i < half ? (int)(i + half) : i < 2 * half ? (int)(i - half) : -1;
	}
	for (unsigned i = 0; i < sim->n_queues; i++)
		sim->queue_node[i] = i / 4 % 2;
	sizes(sim, 0.8);
	scale(sim, base, 0.27 * sim->n_cores);
	step_numa(sim);
}

/* ------------------------------------------------------------ in each trial another load */

enum shape { RAMP, SAW, FALL, SQUARE, SINE, WALK, APART, BLINK, ON_OFF, WANDER, BURSTS, SHAPES };

static struct {
	enum shape shape;
	double period_ms, duty, low, noise; /* low: the least level; the most is 1 */
	double level;			    /* of WALK */
} mix;
static double phase[SIM_QUEUES_MAX]; /* 0..1; of WANDER: logarithm of its level */

static double pick(struct sim *sim, const double *values, unsigned n)
{
	return values[below(sim, n)];
}

/* The level of a queue at a time x, 0..1 of the period. */
static double mix_level(struct sim *sim, unsigned i, double x)
{
	double own = fmod(x + phase[i], 1);

	switch (mix.shape) {
	case RAMP:
		return mix.low + (1 - mix.low) * (x < 0.5 ? 2 * x : 2 - 2 * x);
	case SAW:
		return mix.low + (1 - mix.low) * x;
	case FALL:
		return 1 - (1 - mix.low) * x;
	case SQUARE:
		return x < mix.duty ? 1 : mix.low;
	case SINE:
		return mix.low + (1 - mix.low) * (0.5 - 0.5 * cos(2 * M_PI * x));
	case APART:
		return mix.low + (1 - mix.low) * (0.5 - 0.5 * cos(2 * M_PI * own));
	case BLINK:
		return own < mix.duty ? 1 : mix.low;
	case ON_OFF:
		if (sim_random(sim) < 10 / mix.period_ms)
			burst_until[i] = -burst_until[i];
		return burst_until[i] > 0 ? 1 : 0.1 * mix.low;
	case WANDER:
		phase[i] = 0.995 * phase[i] + 0.08 * normal(sim);
		return 0.6 * exp(phase[i]);
	case BURSTS:
		if (sim_random(sim) < 0.002)
			burst_until[i] = sim->now_ms - BURST_MS * log(1 - sim_random(sim));
		return sim->now_ms < burst_until[i] ? 1.5 : 0.5;
	default: /* WALK */
		return mix.level;
	}
}

static void step_mix(struct sim *sim)
{
	double x = fmod(sim->now_ms / mix.period_ms, 1);

	mix.level = fmin(1, fmax(mix.low, mix.level + 0.02 * normal(sim)));
	for (unsigned i = 0; i < sim->n_queues; i++) {
		noise[i] = 0.9 * noise[i] + mix.noise * 0.44 * normal(sim);
		sim->demand[i] = fmax(0, base[i] * mix_level(sim, i, x) * (1 + noise[i]));
	}
}

static void begin_mix(struct sim *sim)
{
	static const double deviations[] = {0.3, 0.8, 1.2}, periods[] = {200, 500, 1000, 2000, 5000, 10000},
			    noises[] = {0, 0.02, 0.05};

	sizes(sim, pick(sim, deviations, 3));
	scale(sim, base, (0.3 + 0.5 * sim_random(sim)) * sim->n_cores);
	mix.shape = (enum shape)below(sim, SHAPES);
	mix.period_ms = pick(sim, periods, 6);
	mix.noise = pick(sim, noises, 3);
	mix.duty = 0.2 + 0.6 * sim_random(sim);
	mix.low = 0.05 + 0.55 * sim_random(sim);
	mix.level = 0.7;
	for (unsigned i = 0; i < sim->n_queues; i++) {
		base[i] = fmin(base[i], 0.8);
		phase[i] = mix.shape == WANDER ? 0 : sim_random(sim);
		burst_until[i] = mix.shape == ON_OFF && sim_random(sim) < 0.5 ? 1 : -1;
	}
	step_mix(sim);
}

const struct sim_scenario sim_scenarios[] = {
    {"elephants", "one decision: 10 % of the queues changed, some now need half a core and more", 128, 4096, 200, 0,
     begin_elephants, NULL},
    {"large", "one decision: few and large queues, 10 % changed", 64, 512, 500, 0, begin_large, NULL},
    {"steady", "60 s: half of all cores' load, 5 % noise", 16, 256, 1, 60, begin_steady, step_steady},
    {"skewed", "60 s: large queues, others every 5 s", 16, 256, 1, 60, begin_skewed, step_skewed},
    {"step", "60 s: twice the load from 20 s to 40 s", 16, 256, 1, 60, begin_step, step_step},
    {"day", "240 s: a day curve with bursts", 32, 1024, 1, 240, begin_day, step_day},
    {"seesaw", "60 s: against the planner, the load changes sides every 150 ms", 16, 256, 1, 60, begin_seesaw,
     step_seesaw},
    {"churn", "60 s: VMs come and go", 16, 256, 1, 60, begin_churn, step_churn},
    {"numa", "60 s: two nodes and SMT; one node has more than it can carry from 20 s to 40 s", 32, 512, 1, 60,
     begin_numa, step_numa},
    {"mix", "30 s: in each trial another load: ramps, saws, squares, waves, walks, bursts, of any size and period", 16,
     256, 20, 30, begin_mix, step_mix},
    {0},
};
