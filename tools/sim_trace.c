/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Load from a trace: what dvmqd recorded, and how it is replayed.  From the trace are the demand, the places, the
 * pins, the wishes of the operator and which cores were awake at its begin; where the queues go is the planner's.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define DEMAND_MAX  1000.0 /* larger demands count as this, as they do for the planner */
#define GAP_PERIODS 10 /* slow periods that a gap between two lines counts for at most, as it does for the planner */

static int out_of_memory(void)
{
	fprintf(stderr, "dvmq-sim: out of memory\n");
	return -1;
}

static unsigned place_of(const unsigned *ids, unsigned n, unsigned id)
{
	unsigned i = 0;

	while (i < n && ids[i] != id)
		i++;
	return i;
}

/* ------------------------------------------------------------ the same cores and queues in every frame */

static void place_frame(struct sim_input *in, struct dvmq_balance_core *cores, const unsigned *ids, unsigned n)
{
	bool here[SIM_CORES_MAX] = {0};

	for (unsigned i = 0; i < n; i++)
		cores[i] = (struct dvmq_balance_core){ids[i], -1, -1, DVMQ_CORE_PARKED, DVMQ_CORE_KEEP_PARKED};
	for (unsigned i = 0; i < in->snapshot.n_cores; i++) {
		unsigned place = place_of(ids, n, in->cores[i].id);
		unsigned sibling = in->cores[i].sibling < 0 ? n : place_of(ids, n, in->cores[i].sibling);

		cores[place] = in->cores[i];
		cores[place].sibling = sibling < n && sibling != place ? (int)sibling : -1;
		here[place] = true;
	}
	for (unsigned i = 0; i < in->snapshot.n_queues; i++) {
		struct dvmq_balance_queue *queue = &in->queues[i];

		queue->demand = queue->demand > 0 ? fmin(queue->demand, DEMAND_MAX) : 0;
		queue->core = place_of(ids, n, queue->core);
		/* A pin to a core that is gone does not hold. */
		queue->pinned = queue->pinned && queue->core < n && here[queue->core];
	}
}

/*
 * Cores stand in the order of their first appearance; queues and siblings name them by that place.  One that a frame
 * has not may not be used then.
 */
static int align_cores(struct sim_input *frames, unsigned n)
{
	unsigned ids[SIM_CORES_MAX], n_cores = 0;

	for (unsigned f = 0; f < n; f++)
		for (unsigned i = 0; i < frames[f].snapshot.n_cores; i++) {
			if (place_of(ids, n_cores, frames[f].cores[i].id) < n_cores)
				continue;
			if (n_cores == SIM_CORES_MAX) {
				fprintf(stderr, "dvmq-sim: the trace has more than %d cores\n", SIM_CORES_MAX);
				return -1;
			}
			ids[n_cores++] = frames[f].cores[i].id;
		}
	for (unsigned f = 0; f < n; f++) {
		struct dvmq_balance_core *cores = calloc(n_cores, sizeof(*cores));

		if (!cores)
			return out_of_memory();
		place_frame(&frames[f], cores, ids, n_cores);
		free(frames[f].cores);
		frames[f].cores = cores;
		frames[f].snapshot.cores = cores;
		frames[f].snapshot.n_cores = n_cores;
	}
	return 0;
}

static bool absent(const struct sim_input *frame, unsigned queue)
{
	return frame->queues[queue].id == UINT32_MAX;
}

/* What a queue is in the frames that have not got it, so that it is in all of them. */
static void fill_gaps(struct sim_input *frames, unsigned n, unsigned queue)
{
	unsigned first = 0;

	while (absent(&frames[first], queue))
		first++;
	for (unsigned f = 0; f < n; f++) {
		struct dvmq_balance_queue *q = &frames[f].queues[queue];
		/* In one frame only: it was on its way to another core. */
		bool moving = f > first && f + 1 < n && !absent(&frames[f + 1], queue);

		if (!absent(&frames[f], queue))
			continue;
		*q = frames[f < first ? first : f - 1].queues[queue];
		if (!moving) {
			q->demand = 0;
			q->pinned = false;
		}
	}
}

static int align_queues(struct sim_input *frames, unsigned n)
{
	json_t *places = json_object();
	unsigned n_queues = 0;
	int ret = 0;

	for (unsigned f = 0; f < n; f++)
		for (unsigned i = 0; i < frames[f].snapshot.n_queues; i++)
			if (!json_object_get(places, frames[f].names[i]))
				json_object_set_new(places, frames[f].names[i], json_integer(n_queues++));
	if (n_queues > SIM_QUEUES_MAX) {
		fprintf(stderr, "dvmq-sim: the trace has %u queues, more than %d\n", n_queues, SIM_QUEUES_MAX);
		ret = -1;
	}
	for (unsigned f = 0; f < n && ret == 0; f++) {
		struct sim_input *in = &frames[f];
		struct dvmq_balance_queue *queues = calloc(n_queues + 1, sizeof(*queues));

		if (!queues) {
			ret = out_of_memory();
			break;
		}
		for (unsigned i = 0; i < n_queues; i++)
			queues[i].id = UINT32_MAX;
		for (unsigned i = 0; i < in->snapshot.n_queues; i++) {
			unsigned place = json_integer_value(json_object_get(places, in->names[i]));

			queues[place] = in->queues[i];
			queues[place].id = place;
			free(in->names[i]);
		}
		free(in->names);
		in->names = NULL;
		free(in->queues);
		in->queues = queues;
		in->snapshot.queues = queues;
		in->snapshot.n_queues = n_queues;
	}
	for (unsigned i = 0; i < n_queues && ret == 0; i++)
		fill_gaps(frames, n, i);
	json_decref(places);
	return ret;
}

/* Time from the first frame on; a clock that jumped, or a daemon that stood still, proves nothing about the load. */
static void set_clock(const char *file, struct sim_input *frames, unsigned n)
{
	double most = GAP_PERIODS * frames[0].params.slow_ms, last = frames[0].snapshot.now_ms;
	unsigned gaps = 0;

	frames[0].snapshot.now_ms = 0;
	for (unsigned f = 1; f < n; f++) {
		double gap = frames[f].snapshot.now_ms - last;

		last = frames[f].snapshot.now_ms;
		gaps += gap > most;
		frames[f].snapshot.now_ms = frames[f - 1].snapshot.now_ms + fmin(gap, most);
	}
	if (gaps)
		fprintf(stderr, "%s: %u gap%s of more than %.0f ms between two lines count%s as %.0f ms\n", file, gaps,
			gaps == 1 ? "" : "s", most, gaps == 1 ? "s" : "", most);
}

void sim_free_trace(struct sim_input *frames, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		sim_input_free(&frames[i]);
	free(frames);
}

/* ------------------------------------------------------------ reading */

/* One line of a trace; 0: read, 1: no JSON, -1: wrong. */
static int read_frame(const char *file, unsigned number, const char *line, struct sim_input *ret_input,
		      json_error_t *error)
{
	json_t *root = json_loads(line, 0, error);
	char what[256];
	int ret;

	if (!root)
		return 1;
	snprintf(what, sizeof(what), "%s:%u", file, number);
	ret = sim_read(what, root, ret_input);
	if (ret == 0 && !json_is_number(json_object_get(root, "t_ms"))) {
		fprintf(stderr, "%s: $.t_ms: is missing; must be a number\n", what);
		sim_input_free(ret_input);
		ret = -1;
	}
	json_decref(root);
	return ret;
}

int sim_read_trace(const char *file, struct sim_input **ret_frames, unsigned *ret_n)
{
	FILE *from = fopen(file, "r");
	struct sim_input *frames = NULL;
	unsigned n = 0, number = 0;
	json_error_t error;
	char *line = NULL;
	size_t room = 0;
	int ret = 0;

	if (!from) {
		fprintf(stderr, "%s: cannot be read: %m\n", file);
		return -1;
	}
	while (ret == 0 && getline(&line, &room, from) >= 0) {
		struct sim_input *more = realloc(frames, (n + 1) * sizeof(*frames));

		number++;
		if (!more) {
			ret = out_of_memory();
			break;
		}
		frames = more;
		ret = read_frame(file, number, line, &frames[n], &error);
		if (ret > 0) {
			int next = fgetc(from);

			if (next == EOF && n > 0) {
				fprintf(stderr, "%s:%u: the last line is cut off (%s); using the %u before it\n", file,
					number, error.text, n);
				ret = 0;
				break;
			}
			fprintf(stderr, "%s:%u:%d: no valid JSON: %s\n", file, number, error.column, error.text);
			ret = -1;
		} else if (ret == 0) {
			n++;
			if (n > 1 && frames[n - 1].snapshot.now_ms < frames[n - 2].snapshot.now_ms) {
				fprintf(stderr, "%s:%u: $.t_ms: is before that of the line above\n", file, number);
				ret = -1;
			}
		}
	}
	free(line);
	fclose(from);
	if (ret == 0 && n == 0) {
		fprintf(stderr, "%s: is empty; a trace has one snapshot per line\n", file);
		ret = -1;
	}
	if (ret == 0)
		ret = align_cores(frames, n);
	if (ret == 0)
		ret = align_queues(frames, n);
	if (ret < 0) {
		sim_free_trace(frames, n);
		return -1;
	}
	set_clock(file, frames, n);
	*ret_frames = frames;
	*ret_n = n;
	return 0;
}

/* ------------------------------------------------------------ replay */

/* Load of each core without what busy siblings cost: recorded is a(1 + SMT b) of a, and b(1 + SMT a) of b. */
static void alone(const struct sim_input *in, double *ret_alone)
{
	double load[SIM_CORES_MAX] = {0};

	for (unsigned i = 0; i < in->snapshot.n_queues; i++)
		if (in->queues[i].core < in->snapshot.n_cores)
			load[in->queues[i].core] += in->queues[i].demand;
	memcpy(ret_alone, load, in->snapshot.n_cores * sizeof(*load));
	/* Each round takes away 70 % of the error and more. */
	for (unsigned round = 0; round < 20; round++)
		for (unsigned i = 0; i < in->snapshot.n_cores; i++)
			if (in->cores[i].sibling >= 0)
				ret_alone[i] = load[i] / (1 + SIM_SMT * fmin(1, ret_alone[in->cores[i].sibling]));
}

/* What the operator and the guests do at the time of a frame. */
void sim_replay(struct sim *sim, const struct sim_input *in)
{
	double load[SIM_CORES_MAX] = {0};

	alone(in, load);
	sim->changes++;
	memset(sim->n_pinned, 0, sizeof(sim->n_pinned));
	for (unsigned i = 0; i < sim->n_cores; i++)
		sim->wish[i] = in->cores[i].wish;
	for (unsigned i = 0; i < sim->n_queues; i++) {
		const struct dvmq_balance_queue *q = &in->queues[i];
		unsigned c = q->core;

		sim->demand[i] = q->demand;
		if (c < sim->n_cores) {
			/* Recorded where it was; here it is needed for its own node, beside no busy sibling. */
			sim->demand[i] /= sim_remote(sim, i, c) ? 1 + SIM_REMOTE : 1;
			if (sim->sibling[c] >= 0)
				sim->demand[i] /= 1 + SIM_SMT * fmin(1, load[sim->sibling[c]]);
		}
		sim->pinned[i] = q->pinned;
		if (!q->pinned)
			continue;
		/* Where the operator put it, if he has put it elsewhere. */
		sim->core[i] = c;
		sim->n_pinned[c]++;
		sim_set_active(sim, c, true);
	}
}

/* The first frame. */
void sim_replay_begin(struct sim *sim, const struct sim_input *in)
{
	unsigned next = 0;

	sim->params = in->params;
	for (unsigned i = 0; i < sim->n_cores; i++) {
		sim->core_node[i] = in->cores[i].numa;
		sim->sibling[i] = in->cores[i].sibling;
		sim_set_active(sim, i, in->cores[i].state == DVMQ_CORE_ACTIVE);
	}
	if (sim->n_active == 0)
		sim_set_active(sim, 0, true);
	for (unsigned i = 0; i < sim->n_queues; i++) {
		sim->group[i] = in->queues[i].group;
		sim->queue_node[i] = in->queues[i].numa;
		sim->core[i] = in->queues[i].core;
		/* One that comes later, to a core that is awake by then. */
		for (; sim->core[i] >= sim->n_cores || (!sim->active[sim->core[i]] && !in->queues[i].pinned); next++)
			sim->core[i] = next % sim->n_cores;
	}
	sim_replay(sim, in);
}
