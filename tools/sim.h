/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of dvmq-sim share.
 *
 * dvmq-sim.c      the command line
 * sim_read.c      a snapshot from JSON
 * sim_trace.c     many of them, recorded, and their replay
 * sim_scenario.c  where load comes from
 * sim_planner.c   who decides: dvmq's own planner and models of its peers
 * sim_run.c       lets planners run through scenarios, and counts
 * sim_output.c    table, JSON, CSV, SVG
 * sim_duel.c      dvmq against the best of its peers
 * sim_share.c     who gets the scarce NIC queues (`dvmq-sim share`)
 * sim_spread.c    a VM with several queues (`dvmq-sim spread`)
 * sim_toeplitz.c  the hash by which they are filled
 */
#ifndef DVMQ_SIM_H
#define DVMQ_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "dvmq/balance.h"

#define SIM_CORES_MAX  256
#define SIM_QUEUES_MAX 8192

/* docs/balancer.md has the model of places. */
#define SIM_REMOTE 0.25 /* a queue needs so much more when its memory is on another node */
#define SIM_SMT	   0.30 /* and so much beside a fully busy sibling */

/* A snapshot with the memory behind it, and what came with it in the file. */
struct sim_input {
	struct dvmq_snapshot snapshot;
	struct dvmq_balance_core *cores;
	struct dvmq_balance_queue *queues;
	char **names; /* of the queues, by id */
	struct dvmq_balance_params params;
	uint32_t max_moves; /* as of dvmq_balance_plan() */
	bool slow;
};

/* What a planner sees and changes, and what is counted about it. */
struct sim {
	unsigned n_cores, n_queues;
	double now_ms, phase_ms;       /* phase: of all periods of the planners, against the scenario's */
	uint64_t random;	       /* state of sim_random() */
	double demand[SIM_QUEUES_MAX]; /* on a core of its own node, beside no busy sibling */
	double need[SIM_QUEUES_MAX];   /* where it is now */
	int core_node[SIM_CORES_MAX], sibling[SIM_CORES_MAX], queue_node[SIM_QUEUES_MAX];
	unsigned core[SIM_QUEUES_MAX];
	uint32_t group[SIM_QUEUES_MAX];
	bool active[SIM_CORES_MAX];
	/* the operator's, in a trace */
	bool pinned[SIM_QUEUES_MAX];
	unsigned n_pinned[SIM_CORES_MAX]; /* such queues of a core */
	enum dvmq_core_wish wish[SIM_CORES_MAX];
	double load[SIM_CORES_MAX]; /* kept up to date by sim_move() and sim_add_up() */
	unsigned n_active;
	struct dvmq_balance_params params;
	unsigned long changes, added_up; /* of anything above; as many were known to sim_add_up() */
	/* history of the queues */
	double moved_ms[SIM_QUEUES_MAX]; /* time of the last move; NAN: never */
	unsigned came_from[SIM_QUEUES_MAX];
	/* counts */
	unsigned long moves, undone; /* undone: back within 1 s to the core it left */
	double *decision_us;	     /* CPU time of each slow decision */
	unsigned n_decisions, decision_room;
};

double sim_random(struct sim *sim); /* 0 <= x < 1 */
void sim_move(struct sim *sim, unsigned queue, unsigned core);
void sim_set_active(struct sim *sim, unsigned core, bool active);
bool sim_remote(const struct sim *sim, unsigned queue, unsigned core);
void sim_add_up(struct sim *sim);
void sim_decided(struct sim *sim, double us);
void sim_place_by_size(struct sim *sim, unsigned n_cores);

/* sim_read.c; they return 0, or -1 with the reason on stderr, beginning with `what`. */
int sim_read(const char *what, json_t *root, struct sim_input *ret_input);
void sim_input_free(struct sim_input *input);

/*
 * sim_trace.c.  A trace is one snapshot per line, with "t_ms"; a last line that is cut off is left out with a warning.
 * All frames have the same cores and queues; queues and siblings name cores by their place; time begins at 0.
 */
int sim_read_trace(const char *file, struct sim_input **ret_frames, unsigned *ret_n);
void sim_free_trace(struct sim_input *frames, unsigned n);
void sim_replay_begin(struct sim *sim, const struct sim_input *first);
void sim_replay(struct sim *sim, const struct sim_input *frame);

/* sim_scenario.c */
struct sim_scenario {
	const char *name, *what;
	unsigned cores, queues, trials; /* defaults */
	double seconds;			/* simulated; 0: one decision per trial */
	void (*begin)(struct sim *sim);
	void (*step)(struct sim *sim); /* every 10 ms: the demand at sim->now_ms */
};
extern const struct sim_scenario sim_scenarios[]; /* ends with a NULL name */

/* sim_planner.c */
enum sim_kind { SIM_OWN, SIM_PARKS, SIM_AWAKE, SIM_YARDSTICK }; /* ours; a peer that parks cores, or never does */

struct sim_planner {
	const char *name, *what;
	enum sim_kind kind;
	void *(*begin)(struct sim *sim); /* also places the queues if the planner has its own way; NULL: no memory */
	void (*step)(struct sim *sim, void *state, bool now); /* every ms; `now`: decide whatever the time */
	void (*end)(void *state);
};
extern const struct sim_planner sim_planners[]; /* ends with a NULL name */
double sim_cpu_us(void);

/* sim_run.c */
#define SIM_SAMPLES 400

/* What came of one trial, over time. */
struct sim_trial {
	double overload_ms, left_ms; /* as below, in core milliseconds per second */
	double cores, moves_per_s;
};

struct sim_result {
	const struct sim_planner *planner;
	unsigned n_trials;
	struct sim_trial *trials; /* NULL where one decision is judged */
	/* one decision per trial */
	double *ratio; /* per trial: busiest core over the bound */
	double *moved; /* per trial: share of the queues */
	/* over time */
	double overload;	    /* share of active core time with more demand than a core has */
	double overload_ms;	    /* the same as core milliseconds per second, whatever the number of cores */
	double saturated_ms;	    /* as much, not in it, on cores with a single queue that alone needs more */
	double left;		    /* that part of it which the planner had seen and left */
	double remote;		    /* share of the demand that is served from another node */
	double mean_cores;	    /* active */
	double fewest_cores;	    /* that carry the load when each is filled to target */
	double moves_per_s, undone; /* undone: share of the moves */
	double max_load;
	double sample_s[SIM_SAMPLES], sample_cores[SIM_SAMPLES], sample_max[SIM_SAMPLES]; /* first trial */
	unsigned n_samples;
	double *decision_us;
	unsigned n_decisions;
};

struct sim_job {
	const struct sim_scenario *scenario;
	const struct sim_planner *planners[16];
	unsigned n_planners;
	unsigned cores, queues, trials;
	uint64_t seed;
	struct sim_input *frames; /* of a trace */
	unsigned n_frames;
	bool json;
	const char *csv, *svg;
};
int sim_run(const struct sim_job *job, struct sim_result *results);

/* sim_output.c */
int sim_output(const struct sim_job *job, struct sim_result *results);
int sim_csv(const char *name, json_t *all);
FILE *sim_plot(const char *svg);
int sim_plot_end(const char *svg, FILE *plot);

/* sim_duel.c: over time only */
void sim_print_duels(const struct sim_job *job, const struct sim_result *results);
json_t *sim_duels_to_json(const struct sim_job *job, const struct sim_result *results);

/* sim_share.c, sim_spread.c; 0 or -1 with the reason on stderr */
struct sim_options {
	unsigned long ports, queues, workers, seconds, trials, seed;
	double zipf;
	bool json;
	const char *csv, *svg;
};
int sim_share(const struct sim_options *options);
int sim_spread(const struct sim_options *options);

/*
 * sim_toeplitz.c: the hash of receive side scaling with Microsoft's default key
 * (https://learn.microsoft.com/windows-hardware/drivers/network/verifying-the-rss-hash-calculation).
 * input: source address, destination address, source port, destination port in
 * network byte order; at most 36 bytes.
 */
uint32_t sim_toeplitz(const uint8_t *input, unsigned length);

#endif
