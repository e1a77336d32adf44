/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From measurement to plan to deed: the planner itself is src/balance/, this
 * file feeds it and carries out what it says.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <numa.h>
#include <rte_cycles.h>

#include <dvmq/control.h>
#include <dvmq/log.h>
#include <dvmq/plan_json.h>

static struct dvmq_balance *balance;
static struct dvmq_balance_params params;
static bool automatic;
static bool nodes_known; /* asking costs a system call */
static char verdict[DVMQ_BALANCE_REASON];

static struct dvmq_balance_core cores[DVMQ_MAX_WORKERS];   /* by worker index */
static struct dvmq_balance_queue queues[DVMQ_MAX_QUEUES];
static struct dvmq_queue *planned[DVMQ_MAX_QUEUES];         /* what stands behind them */

#define SIBLINGS_TEXT 64

/* The threads of a CPU's physical core as sysfs lists them: the same text for each of them.  "" if unknown. */
static void read_siblings(int cpu, char text[SIBLINGS_TEXT])
{
	char path[96];
	FILE *f;

	text[0] = 0;
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
	f = cpu >= 0 ? fopen(path, "r") : NULL;
	if (f == NULL)
		return;
	if (fgets(text, SIBLINGS_TEXT, f) == NULL)
		text[0] = 0;
	fclose(f);
}

/* Another worker on the same physical core, of several the first; the core of none: -1. */
static void find_siblings(void)
{
	static char texts[DVMQ_MAX_WORKERS][SIBLINGS_TEXT];

	for (unsigned i = 0; i < dvmq_n_workers; i++)
		read_siblings(dvmq_workers[i]->cpu, texts[i]);
	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		cores[i].sibling = -1;
		for (unsigned k = 0; k < dvmq_n_workers && cores[i].sibling < 0; k++)
			if (k != i && texts[i][0] != 0 && strcmp(texts[i], texts[k]) == 0)
				cores[i].sibling = (int)cores[k].id;
	}
}

static int distance(int a, int b, void *arg)
{
	(void)arg;
	return numa_distance(a, b);
}

int dvmq_balancer_open(const struct dvmq_conf *conf, struct dvmq_err *err)
{
	params = conf->balance;
	automatic = conf->balance_auto;
	nodes_known = numa_available() >= 0;
	balance = dvmq_balance_new(&params);
	if (balance == NULL)
		return dvmq_fail(err, errno, "balancer: %s", strerror(errno));
	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		const struct dvmq_worker *w = dvmq_workers[i];

		cores[i] = (struct dvmq_balance_core){
			.id = w->core,
			.numa = w->numa,
			/* Without a balancer nobody would wake the others later. */
			.state = i == 0 || !automatic ? DVMQ_CORE_ACTIVE : DVMQ_CORE_PARKED,
		};
	}
	find_siblings();
	return 0;
}

void dvmq_balancer_close(void)
{
	dvmq_balance_free(balance);
	balance = NULL;
}

bool dvmq_worker_is_active(const struct dvmq_worker *worker)
{
	return cores[worker->index].state == DVMQ_CORE_ACTIVE;
}

/* Queues of one VM like to share a core: its own, and those that bring it packets. */
static uint32_t group_of(const struct dvmq_queue *queue)
{
	const struct dvmq_port *port = queue->dst != NULL ? queue->dst : queue->port;

	return port->type == DVMQ_PORT_VHOST ? port->index + 1u : 0;
}

/* Queues in transit are left out: they have no core right now. */
static void take_snapshot(struct dvmq_snapshot *snapshot, enum dvmq_loop loop)
{
	double tsc_per_ms = rte_get_tsc_hz() / 1000.0;
	uint64_t now = rte_rdtsc();
	unsigned n = 0;

	for (unsigned i = 0; i < dvmq_n_queues; i++) {
		struct dvmq_queue *q = dvmq_queues[i];
		struct dvmq_worker *owner = atomic_load_explicit(&q->owner, memory_order_acquire);

		if (owner == NULL || atomic_load_explicit(&q->in_transit, memory_order_acquire))
			continue;
		planned[n] = q;
		queues[n++] = (struct dvmq_balance_queue){
			.id = q->id,
			.core = owner->core,
			.numa = q->port->numa,
			.group = group_of(q),
			.demand = loop == DVMQ_LOOP_FAST ? q->load->fast_demand : q->load->demand,
			.occupancy = loop == DVMQ_LOOP_FAST ? q->load->fast_occupancy : q->load->occupancy,
			.age_ms = q->moved_at ? (now - q->moved_at) / tsc_per_ms : -1,
			.pinned = q->pinned,
		};
	}
	*snapshot = (struct dvmq_snapshot){
		.now_ms = now / tsc_per_ms,
		.cores = cores,
		.n_cores = dvmq_n_workers,
		.queues = queues,
		.n_queues = n,
		.distance = nodes_known ? distance : NULL,
	};
}

static void set_core_state(unsigned core, enum dvmq_core_state state)
{
	for (unsigned i = 0; i < dvmq_n_workers; i++)
		if (cores[i].id == core)
			cores[i].state = state;
}

static void carry_out(const struct dvmq_plan *plan)
{
	char name[16];

	for (unsigned i = 0; i < plan->n_activate; i++) {
		set_core_state(plan->activate[i].core, DVMQ_CORE_ACTIVE);
		snprintf(name, sizeof(name), "core %u", plan->activate[i].core);
		dvmq_decide("activate", name, -1, (int)plan->activate[i].core, plan->activate[i].reason);
	}
	for (unsigned i = 0; i < plan->n_moves; i++) {
		const struct dvmq_move *move = &plan->moves[i];
		struct dvmq_queue *queue = planned[move->index];

		if (!dvmq_queue_hand(queue, dvmq_worker_find(move->to)))
			continue;
		queue->moved_at = rte_rdtsc();
		dvmq_decide("move", queue->name, (int)move->from, (int)move->to, move->reason);
	}
	for (unsigned i = 0; i < plan->n_park; i++) {
		set_core_state(plan->park[i].core, DVMQ_CORE_PARKED);
		snprintf(name, sizeof(name), "core %u", plan->park[i].core);
		dvmq_decide("park", name, (int)plan->park[i].core, -1, plan->park[i].reason);
	}
	for (unsigned i = 0; i < plan->n_saturated; i++)
		dvmq_decide("saturated", planned[plan->saturated[i].index]->name, -1, -1, plan->saturated[i].reason);
}

bool dvmq_balancer_run(enum dvmq_loop loop)
{
	struct dvmq_snapshot snapshot;
	struct dvmq_plan plan;
	bool record = loop == DVMQ_LOOP_SLOW && dvmq_trace_on();

	if (!automatic && !record)
		return false;
	take_snapshot(&snapshot, loop);
	if (record)
		dvmq_trace_snapshot(&snapshot, planned);
	if (!automatic)
		return false;
	if (dvmq_balance_plan(balance, &snapshot, loop, UINT32_MAX, false, &plan) < 0) {
		dvmq_decide("refuse", "balancer", -1, -1, "out of memory for a plan");
		return false;
	}
	carry_out(&plan);
	if (loop == DVMQ_LOOP_SLOW)
		memcpy(verdict, plan.reason, sizeof(verdict));
	return plan.n_moves + plan.n_activate + plan.n_park > 0;
}

const char *dvmq_balancer_verdict(void)
{
	return automatic ? verdict : "off: queues stay where they are";
}

/* ---- commands ---- */

static const char *queue_name(uint32_t id, void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < dvmq_n_queues; i++)
		if (dvmq_queues[i]->id == id)
			return dvmq_queues[i]->name;
	return NULL;
}

/* CPU time of this thread: what others took from it is not the planner's. */
static double cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

json_t *dvmq_balance_dry_run(struct dvmq_err *err)
{
	struct dvmq_snapshot snapshot;
	struct dvmq_plan plan;
	json_t *json = NULL;
	double begin;

	take_snapshot(&snapshot, DVMQ_LOOP_SLOW);
	begin = cpu_us();
	if (dvmq_balance_plan(balance, &snapshot, DVMQ_LOOP_SLOW, UINT32_MAX, true, &plan) == 0)
		json = dvmq_plan_json(&snapshot, &plan, queue_name, NULL, cpu_us() - begin);
	if (json == NULL)
		dvmq_fail(err, ENOMEM, "balance dry-run: out of memory");
	return json;
}

int dvmq_set_balance(bool on, struct dvmq_err *err)
{
	(void)err;
	automatic = on;
	dvmq_decide(on ? "auto" : "off", "balancer", -1, -1, "set by the operator");
	return 0;
}

bool dvmq_balancer_automatic(void)
{
	return automatic;
}

const struct dvmq_balance_params *dvmq_balancer_params(void)
{
	return &params;
}

enum dvmq_core_wish dvmq_core_wish_of(const struct dvmq_worker *worker)
{
	return cores[worker->index].wish;
}

int dvmq_core_sibling_of(const struct dvmq_worker *worker)
{
	return cores[worker->index].sibling;
}

int dvmq_set_queue_core(const char *name, unsigned core, struct dvmq_err *err)
{
	struct dvmq_queue *queue = dvmq_queue_find(name);
	struct dvmq_worker *to = dvmq_worker_find(core), *from;
	int ret;

	if (queue == NULL)
		return dvmq_fail(err, ENOENT, "no queue %s; \"show queue all\" lists them", name);
	if (to == NULL)
		return dvmq_fail(err, ENOENT, "core %u is no worker; \"show core all\" lists them", core);
	if (!queue->wanted)
		return dvmq_fail(err, ENOTCONN, "queue %s is not polled: no guest is connected to its port", name);
	from = atomic_load_explicit(&queue->owner, memory_order_acquire);
	if (from == to && dvmq_queue_settle(queue) == 0)
		return 0;
	ret = dvmq_queue_hand_wait(queue, to);
	if (ret < 0)
		return dvmq_fail(err, -ret, "queue %s: a worker did not answer within 1 s; is its CPU taken?", name);
	cores[to->index].state = DVMQ_CORE_ACTIVE;
	dvmq_decide("move", name, from ? (int)from->core : -1, (int)core, "set by the operator");
	return 0;
}

int dvmq_set_queue_pin(const char *name, bool pinned, struct dvmq_err *err)
{
	struct dvmq_queue *queue = dvmq_queue_find(name);

	if (queue == NULL)
		return dvmq_fail(err, ENOENT, "no queue %s; \"show queue all\" lists them", name);
	queue->pinned = pinned;
	return 0;
}

/* A worker to take over from one that parks: active, not unwanted, least loaded. */
static struct dvmq_worker *refuge(const struct dvmq_worker *leaving)
{
	struct dvmq_worker *best = NULL;

	for (unsigned pass = 0; best == NULL && pass < 2; pass++) /* then a parked one that may be used */
		for (unsigned i = 0; i < dvmq_n_workers; i++) {
			struct dvmq_worker *w = dvmq_workers[i];

			if (w == leaving || cores[i].wish == DVMQ_CORE_KEEP_PARKED ||
			    (pass == 0 && cores[i].state != DVMQ_CORE_ACTIVE))
				continue;
			if (best == NULL || dvmq_worker_load(w) < dvmq_worker_load(best))
				best = w;
		}
	return best;
}

static int park(struct dvmq_worker *w, struct dvmq_err *err)
{
	struct dvmq_worker *to = refuge(w);

	if (to == NULL)
		return dvmq_fail(err, EBUSY, "core %u is the last worker that may poll; activate another one first", w->core);
	for (unsigned i = 0; i < dvmq_n_queues; i++)
		if (atomic_load(&dvmq_queues[i]->owner) == w && dvmq_queues[i]->pinned)
			return dvmq_fail(err, EBUSY, "queue %s is pinned to core %u; unpin it first", dvmq_queues[i]->name,
					 w->core);
	cores[to->index].state = DVMQ_CORE_ACTIVE;
	for (unsigned i = 0; i < dvmq_n_queues; i++) {
		struct dvmq_queue *queue = dvmq_queues[i];

		if (dvmq_queue_settle(queue) < 0 || atomic_load(&queue->owner) != w)
			continue;
		if (dvmq_queue_hand_wait(queue, to) == 0)
			dvmq_decide("move", queue->name, (int)w->core, (int)to->core, "its core is parked by the operator");
	}
	cores[w->index].state = DVMQ_CORE_PARKED;
	return 0;
}

int dvmq_set_core(unsigned core, enum dvmq_core_wish wish, struct dvmq_err *err)
{
	struct dvmq_worker *w = dvmq_worker_find(core);
	int ret = 0;

	if (w == NULL)
		return dvmq_fail(err, ENOENT, "core %u is no worker; \"show core all\" lists them", core);
	if (wish == DVMQ_CORE_KEEP_PARKED)
		ret = park(w, err);
	else if (wish == DVMQ_CORE_KEEP_ACTIVE)
		cores[w->index].state = DVMQ_CORE_ACTIVE;
	if (ret == 0)
		cores[w->index].wish = wish;
	return ret;
}
