/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * DPDK telemetry.  Its thread must not look at what the controller changes, so
 * it leaves a question, wakes the controller and waits for the answer, for at
 * most a second.  Nothing is collected while nobody asks.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include <jansson.h>
#include <rte_telemetry.h>
#include <rte_version.h>

#include <dvmq/command.h>
#include <dvmq/ctl.h>
#include <dvmq/log.h>

#define ANSWER_S 1

#if RTE_VERSION < RTE_VERSION_NUM(23, 3, 0, 0)
#define rte_tel_data_add_dict_uint rte_tel_data_add_dict_u64
#endif

static json_t *show_balance(const char *name, struct dvmq_err *err)
{
	(void)name;
	return dvmq_show_balance(err);
}

static const struct topic {
	const char *command, *help;
	json_t *(*show)(const char *name, struct dvmq_err *err);
	const char *key; /* of a list's objects: their name */
} topics[] = {
	{"/dvmq/queues", "Names of the queues; with a name: its load and counters", dvmq_show_queues, "queue"},
	{"/dvmq/cores", "Names of the cores; with a name: its state and load", dvmq_show_cores, "core"},
	{"/dvmq/ports", "Names of the ports; with a name: its counters", dvmq_show_port_stats, "port"},
	{"/dvmq/balance", "Mode, verdict and totals of the balancer", show_balance, NULL},
};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* each telemetry client has a thread: one asks at a time */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered = PTHREAD_COND_INITIALIZER;
static int event_fd = -1;

/* Under the lock; one question at a time. */
static const struct topic *asked;
static char asked_name[64];
static json_t *answer;

int dvmq_telemetry_fd(void)
{
	if (event_fd < 0)
		event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return event_fd;
}

/* The controller. */
void dvmq_telemetry_serve(void)
{
	struct dvmq_err err;
	eventfd_t ignored;

	eventfd_read(event_fd, &ignored);
	pthread_mutex_lock(&lock);
	if (asked != NULL) {
		json_decref(answer);
		answer = asked->show(asked_name, &err);
		asked = NULL;
		pthread_cond_broadcast(&answered);
	}
	pthread_mutex_unlock(&lock);
}

/* ---- the telemetry thread ---- */

static void add_value(struct rte_tel_data *data, const char *name, const json_t *value)
{
	char text[32];

	if (json_is_integer(value) || json_is_boolean(value)) {
		rte_tel_data_add_dict_uint(data, name,
					   json_is_integer(value) ? (uint64_t)json_integer_value(value) : json_is_true(value));
	} else if (json_is_real(value)) { /* telemetry knows no fractions */
		snprintf(text, sizeof(text), "%.6g", json_real_value(value));
		rte_tel_data_add_dict_string(data, name, text);
	} else if (json_is_string(value)) {
		rte_tel_data_add_dict_string(data, name, json_string_value(value));
	}
}

static void fill_dict(struct rte_tel_data *data, json_t *object)
{
	const char *name;
	json_t *value;

	rte_tel_data_start_dict(data);
	json_object_foreach(object, name, value) {
		const char *inner;
		json_t *inner_value;

		add_value(data, name, value);
		json_object_foreach(value, inner, inner_value)
			add_value(data, inner, inner_value);
	}
}

static void fill_names(struct rte_tel_data *data, json_t *list, const char *key)
{
	size_t i;
	json_t *object;

	rte_tel_data_start_array(data, RTE_TEL_STRING_VAL);
	json_array_foreach(list, i, object) {
		const json_t *name = json_object_get(object, key);
		char text[64];

		if (i >= RTE_TEL_MAX_ARRAY_ENTRIES)
			break;
		if (json_is_integer(name))
			snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(name));
		else
			snprintf(text, sizeof(text), "%s", json_string_value(name));
		rte_tel_data_add_array_string(data, text);
	}
}

static int wait_for_answer(void)
{
	struct timespec end;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += ANSWER_S;
	while (asked != NULL && ret == 0)
		ret = pthread_cond_timedwait(&answered, &lock, &end);
	asked = NULL;
	return ret;
}

static int handle(const char *command, const char *parameters, struct rte_tel_data *data)
{
	const struct topic *topic = topics;
	bool list;
	int ret;

	while (strcmp(topic->command, command) != 0)
		topic++;
	list = topic->key != NULL && (parameters == NULL || *parameters == 0);
	pthread_mutex_lock(&turn);
	pthread_mutex_lock(&lock);
	snprintf(asked_name, sizeof(asked_name), "%s", list || parameters == NULL ? "all" : parameters);
	asked = topic;
	eventfd_write(event_fd, 1);
	ret = wait_for_answer();
	if (ret == 0 && answer != NULL) {
		if (list)
			fill_names(data, answer, topic->key);
		else
			fill_dict(data, json_is_array(answer) ? json_array_get(answer, 0) : answer);
	}
	ret = ret == 0 && answer != NULL ? 0 : -EINVAL;
	json_decref(answer);
	answer = NULL;
	pthread_mutex_unlock(&lock);
	pthread_mutex_unlock(&turn);
	return ret;
}

void dvmq_telemetry_open(void)
{
	dvmq_telemetry_fd();
	for (size_t i = 0; i < sizeof(topics) / sizeof(topics[0]); i++)
		if (rte_telemetry_register_cmd(topics[i].command, handle, topics[i].help) < 0)
			DVMQ_LOG(WARNING, "telemetry: %s cannot be registered", topics[i].command);
}
