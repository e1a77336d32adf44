/* SPDX-License-Identifier: BSD-3-Clause */
/* A plan of the balancer as JSON. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "dvmq/plan_json.h"

/* json_pack() and the append functions pass a failed allocation on as NULL or -1; `ok` collects that. */
struct writer {
	const char *(*queue_name)(uint32_t id, void *arg);
	void *arg;
	bool ok;
};

static json_t *name(struct writer *w, uint32_t id)
{
	const char *text = w->queue_name ? w->queue_name(id, w->arg) : NULL;
	char number[16];

	if (!text) {
		snprintf(number, sizeof(number), "%" PRIu32, id);
		text = number;
	}
	return json_string(text);
}

static void append(struct writer *w, json_t *array, json_t *item)
{
	if (json_array_append_new(array, item) < 0)
		w->ok = false;
}

static json_t *list_cores(struct writer *w, const struct dvmq_core_action *actions, unsigned n, const char *action,
			  json_t *reasons)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < n; i++) {
		append(w, list, json_integer(actions[i].core));
		append(w, reasons,
		       json_pack("{s:s, s:I, s:s}", "action", action, "core", (json_int_t)actions[i].core, "reason",
				 actions[i].reason));
	}
	return list;
}

json_t *dvmq_plan_json(const struct dvmq_snapshot *snapshot, const struct dvmq_plan *plan,
		       const char *(*queue_name)(uint32_t id, void *arg), void *arg, double decision_us)
{
	struct writer w = {queue_name, arg, true};
	json_t *moves = json_array(), *saturated = json_array(), *reasons = json_array(), *activate, *park, *object;

	for (unsigned i = 0; i < plan->n_moves; i++) {
		const struct dvmq_move *m = &plan->moves[i];
		double demand = snapshot->queues[m->index].demand;

		append(&w, moves,
		       json_pack("{s:o, s:I, s:I, s:f, s:s}", "queue", name(&w, m->queue), "from", (json_int_t)m->from,
				 "to", (json_int_t)m->to, "demand", isfinite(demand) ? demand : 0, "reason",
				 m->reason));
	}
	activate = list_cores(&w, plan->activate, plan->n_activate, "activate", reasons);
	park = list_cores(&w, plan->park, plan->n_park, "park", reasons);
	for (unsigned i = 0; i < plan->n_saturated; i++) {
		const struct dvmq_saturated *s = &plan->saturated[i];

		append(&w, saturated, name(&w, s->queue));
		append(&w, reasons,
		       json_pack("{s:s, s:o, s:s}", "action", "saturated", "queue", name(&w, s->queue), "reason",
				 s->reason));
	}
	object = json_pack("{s:o, s:o, s:o, s:o, s:f, s:f, s:f, s:f, s:s, s:o}", "moves", moves, "activate", activate,
			   "park", park, "saturated", saturated, "max_before", plan->max_before, "max_after",
			   plan->max_after, "lower_bound", plan->lower_bound, "decision_us", decision_us, "reason",
			   plan->reason, "reasons", reasons);
	if (object && !w.ok) {
		json_decref(object);
		return NULL;
	}
	return object;
}
