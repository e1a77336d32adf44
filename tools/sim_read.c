/* SPDX-License-Identifier: BSD-3-Clause */
/* A snapshot from JSON; every error names the file and the path of the value. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

struct reader {
	const char *what;
	char path[64]; /* of the object in hand */
	bool failed;
};

static void __attribute__((format(printf, 3, 4))) complain(struct reader *r, const char *key, const char *format, ...)
{
	va_list args;

	if (r->failed)
		return;
	r->failed = true;
	fprintf(stderr, "%s: %s%s%s: ", r->what, r->path, key ? "." : "", key ? key : "");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
}

static double number(struct reader *r, const json_t *object, const char *key, double absent, bool needed)
{
	const json_t *value = json_object_get(object, key);

	if (!value || (json_is_null(value) && !needed)) {
		if (needed)
			complain(r, key, "is missing; must be a number");
		return absent;
	}
	if (!json_is_number(value))
		complain(r, key, "must be a number");
	return json_number_value(value);
}

static long integer(struct reader *r, const json_t *object, const char *key, long absent, bool needed, long least)
{
	const json_t *value = json_object_get(object, key);

	if (!value || (json_is_null(value) && !needed)) {
		if (needed)
			complain(r, key, "is missing; must be an integer");
		return absent;
	}
	if (!json_is_integer(value) || json_integer_value(value) < least || json_integer_value(value) > INT32_MAX) {
		complain(r, key, "must be an integer from %ld to %d", least, INT32_MAX);
		return absent;
	}
	return json_integer_value(value);
}

static bool boolean(struct reader *r, const json_t *object, const char *key, bool absent)
{
	const json_t *value = json_object_get(object, key);

	if (!value)
		return absent;
	if (!json_is_boolean(value))
		complain(r, key, "must be true or false");
	return json_is_true(value);
}

/* Index of a word in a list that ends with NULL. */
static int word(struct reader *r, const json_t *object, const char *key, const char *const *words, int absent)
{
	const json_t *value = json_object_get(object, key);
	const char *text = json_string_value(value);

	if (!value)
		return absent;
	for (int i = 0; text && words[i]; i++)
		if (strcmp(text, words[i]) == 0)
			return i;
	complain(r, key, "must be \"%s\" or \"%s\"%s%s%s", words[0], words[1], words[2] ? " or \"" : "",
		 words[2] ? words[2] : "", words[2] ? "\"" : "");
	return absent;
}

static const json_t *list(struct reader *r, const json_t *root, const char *key, size_t most)
{
	const json_t *value = json_object_get(root, key);

	if (!json_is_array(value))
		complain(r, key, "must be a list");
	else if (json_array_size(value) > most)
		complain(r, key, "has %zu entries, more than %zu", json_array_size(value), most);
	return value;
}

static void read_cores(struct reader *r, const json_t *array, struct sim_input *in)
{
	static const char *const states[] = {"parked", "active", "idle", NULL};
	static const char *const wishes[] = {"auto", "park", "activate", NULL};

	for (unsigned i = 0; i < json_array_size(array) && !r->failed; i++) {
		const json_t *object = json_array_get(array, i);
		struct dvmq_balance_core *core = &in->cores[i];

		snprintf(r->path, sizeof(r->path), "$.cores[%u]", i);
		if (!json_is_object(object)) {
			complain(r, NULL, "must be an object");
			return;
		}
		core->id = integer(r, object, "core", 0, true, 0);
		core->numa = integer(r, object, "numa", -1, false, -1);
		core->sibling = integer(r, object, "sibling", -1, false, -1);
		/* "idle" as in `show core all`: active, and asleep for want of traffic. */
		core->state = word(r, object, "state", states, 1) ? DVMQ_CORE_ACTIVE : DVMQ_CORE_PARKED;
		core->wish = (enum dvmq_core_wish)word(r, object, "wish", wishes, 0);
		for (unsigned k = 0; k < i && !r->failed; k++)
			if (in->cores[k].id == core->id)
				complain(r, "core", "%u is also $.cores[%u].core; a core stands once", core->id, k);
	}
}

/* A VM may go by a number or a name. */
static uint32_t read_group(struct reader *r, const json_t *object)
{
	const json_t *value = json_object_get(object, "group");
	uint32_t hash = 2166136261u; /* FNV-1a */

	if (!value || json_is_null(value))
		return 0;
	if (!json_is_string(value))
		return integer(r, object, "group", 0, false, 0);
	for (const char *c = json_string_value(value); *c; c++)
		hash = (hash ^ (unsigned char)*c) * 16777619u;
	return hash ? hash : 1;
}

static void read_queues(struct reader *r, const json_t *array, struct sim_input *in)
{
	json_t *seen = json_object();

	for (unsigned i = 0; i < json_array_size(array) && !r->failed; i++) {
		const json_t *object = json_array_get(array, i), *name = json_object_get(object, "queue");
		struct dvmq_balance_queue *queue = &in->queues[i];

		snprintf(r->path, sizeof(r->path), "$.queues[%u]", i);
		if (!json_is_object(object)) {
			complain(r, NULL, "must be an object");
			break;
		}
		if (!json_is_string(name)) {
			complain(r, "queue", name ? "must be a name" : "is missing; must be a name");
			break;
		}
		if (json_object_get(seen, json_string_value(name)))
			complain(r, "queue", "\"%s\" stands twice", json_string_value(name));
		json_object_set_new(seen, json_string_value(name), json_true());
		in->names[i] = strdup(json_string_value(name));
		queue->id = i;
		queue->core = integer(r, object, "core", 0, true, 0);
		queue->numa = integer(r, object, "numa", -1, false, -1);
		queue->group = read_group(r, object);
		queue->demand = number(r, object, "demand", 0, true);
		queue->occupancy = number(r, object, "occupancy", 0, false);
		queue->age_ms = number(r, object, "age_ms", -1, false);
		queue->pinned = boolean(r, object, "pinned", false);
	}
	json_decref(seen);
}

static void read_params(struct reader *r, json_t *object, struct sim_input *in)
{
	struct dvmq_balance_params *p = &in->params;
	const struct {
		const char *key;
		double *value;
	} keys[] = {
	    {"high", &p->high},	      {"target", &p->target},	      {"margin", &p->margin},
	    {"fast_ms", &p->fast_ms}, {"slow_ms", &p->slow_ms},	      {"cooldown_ms", &p->cooldown_ms},
	    {"hold_ms", &p->hold_ms}, {"budget_percent", &p->budget},
	};
	const char *key, *why, *wrong;
	json_t *value;

	snprintf(r->path, sizeof(r->path), "$.params");
	if (object && !json_is_object(object)) {
		complain(r, NULL, "must be an object");
		return;
	}
	json_object_foreach (object, key, value) {
		unsigned i = 0;

		if (strcmp(key, "budget") == 0) {
			double moves = number(r, object, key, 0, true);

			if (!r->failed && !(moves >= 0))
				complain(r, key, "must be at least 0 (most moves of this plan)");
			in->max_moves = moves < SIM_QUEUES_MAX ? (uint32_t)moves : SIM_QUEUES_MAX;
			continue;
		}
		while (i < sizeof(keys) / sizeof(*keys) && strcmp(key, keys[i].key) != 0)
			i++;
		if (i == sizeof(keys) / sizeof(*keys))
			complain(r, key, "is no key of [balance]");
		else
			*keys[i].value = number(r, object, key, 0, true);
	}
	wrong = r->failed ? NULL : dvmq_balance_check(p, &why);
	if (wrong)
		complain(r, strcmp(wrong, "budget") == 0 ? "budget_percent" : wrong, "%s", why);
}

int sim_read(const char *what, json_t *root, struct sim_input *ret_input)
{
	struct reader r = {.what = what, .path = "$"};
	struct sim_input in = {.max_moves = SIM_QUEUES_MAX};
	const json_t *cores, *queues;

	dvmq_balance_defaults(&in.params);
	if (!json_is_object(root)) {
		complain(&r, NULL, "must be an object with \"cores\" and \"queues\"");
		return -1;
	}
	cores = list(&r, root, "cores", SIM_CORES_MAX);
	queues = list(&r, root, "queues", SIM_QUEUES_MAX);
	in.slow = boolean(&r, root, "slow", false);
	in.snapshot.now_ms = number(&r, root, "t_ms", 0, false);
	in.cores = calloc(json_array_size(cores) + 1, sizeof(*in.cores));
	in.queues = calloc(json_array_size(queues) + 1, sizeof(*in.queues));
	in.names = calloc(json_array_size(queues) + 1, sizeof(*in.names));
	if (!in.cores || !in.queues || !in.names)
		complain(&r, NULL, "out of memory");
	in.snapshot.n_cores = json_array_size(cores);
	in.snapshot.n_queues = json_array_size(queues);
	if (!r.failed && in.snapshot.n_cores == 0)
		complain(&r, "cores", "is empty; at least one core is needed");
	if (!r.failed)
		read_cores(&r, cores, &in);
	if (!r.failed)
		read_queues(&r, queues, &in);
	if (!r.failed)
		read_params(&r, json_object_get(root, "params"), &in);
	in.snapshot.cores = in.cores;
	in.snapshot.queues = in.queues;
	if (r.failed) {
		sim_input_free(&in);
		return -1;
	}
	*ret_input = in;
	return 0;
}

void sim_input_free(struct sim_input *input)
{
	for (unsigned i = 0; input->names && i < input->snapshot.n_queues; i++)
		free(input->names[i]);
	free(input->names);
	free(input->queues);
	free(input->cores);
}
