/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering in software: any NIC, one or several RSS queues.  All of them are
 * default queues; where one is hot, its largest ports get soft queues, rings
 * that the owners of the default queues fill and other cores may empty.  The
 * others are delivered inline with no hop.
 *
 * Order: turning it on is safe by itself, since a default queue is empty-handed
 * between turns; turning it off drains, see dvmq_soft_drain().
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_malloc.h>
#include <rte_rcu_qsbr.h>
#include <rte_ring.h>

#include <dvmq/control.h>
#include <dvmq/log.h>
#include <dvmq/relief.h>
#include <dvmq/steer.h>

#define RING_SIZE   2048 /* packets */
#define ALONE       0.10 /* demand of the others, as a share of the hottest: below it more queues would not spread it */
#define CALM_MS     2000 /* that long must fewer queues suffice */
#define CHANGE_MS   1000 /* between two changes of one port */
#define TRIES       5    /* of dvmq_queue_hand_wait(): where CPUs are overcommitted, a worker may wait for seconds */
#define LOOK_MS     200  /* between two looks: the effect of the first must be measured before the next */

#define STALE_S     1.0  /* what a port received in a longer time says nothing of now */

static struct {
	uint64_t packets, bytes; /* by default queues, as of the last look */
	uint64_t calm_since;     /* ms */
	uint64_t changed;        /* ms */
	bool dispensable;        /* default queues could carry it without its soft queues */
} state[DVMQ_MAX_PORTS];

static struct dvmq_relief relief;

static void bind_port(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_binding *binding)
{
	binding->requested = port->conf.min;
	dvmq_vmq_set(uplink, port, RTE_MAX(port->conf.min, port->n_soft));
}

static struct dvmq_queue *new_queue(struct dvmq_port *uplink, struct dvmq_port *port, unsigned i,
				    struct dvmq_soft_ring *soft, struct dvmq_err *err)
{
	struct dvmq_queue *queue = dvmq_queue_new(port->conf.name, "soft", i, uplink->numa, err);
	char name[RTE_RING_NAMESIZE];

	if (queue == NULL)
		return NULL;
	snprintf(name, sizeof(name), "soft_%u_%u", port->index, queue->id % 100000);
	soft->ring = rte_ring_create(name, RING_SIZE, uplink->numa >= 0 ? uplink->numa : SOCKET_ID_ANY,
				     RING_F_SP_ENQ | RING_F_SC_DEQ);
	if (soft->ring == NULL) {
		dvmq_queue_free(queue);
		dvmq_fail(err, ENOMEM, "port %s: no memory for a soft ring; give DPDK more hugepages (or -m MiB)",
			  port->conf.name);
		return NULL;
	}
	rte_spinlock_init(&soft->lock);
	soft->open = true;
	queue->kind = DVMQ_QUEUE_SOFT;
	queue->poll = dvmq_poll_soft;
	queue->drain = dvmq_soft_drain;
	queue->port = uplink;
	queue->dst = port;
	queue->soft = soft;
	queue->countable = true;
	atomic_store(&queue->counters.capacity, rte_ring_get_capacity(soft->ring));
	return queue;
}

static void free_rings(struct dvmq_soft *soft)
{
	for (unsigned i = 0; i < soft->n; i++)
		rte_ring_free(soft->rings[i].ring);
	rte_free(soft);
}

int dvmq_soft_open(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n, struct dvmq_err *err)
{
	struct dvmq_soft *soft;

	if (dvmq_soft_close(port) < 0) /* those by which another uplink relieves its default queues */
		return dvmq_fail(err, ETIMEDOUT, "port %s: the worker of %s does not answer; is its CPU taken?",
				 port->conf.name, port->soft_queues[port->n_soft - 1]->name);
	soft = rte_zmalloc("soft", sizeof(*soft) + n * sizeof(soft->rings[0]), 64);
	if (soft == NULL)
		return dvmq_fail(err, ENOMEM, "port %s: no memory for soft rings; give DPDK more hugepages (or -m MiB)",
				 port->conf.name);
	for (; soft->n < n; soft->n++) {
		struct dvmq_queue *queue = new_queue(uplink, port, soft->n, &soft->rings[soft->n], err);

		if (queue == NULL) {
			while (port->n_soft > 0)
				dvmq_queue_free(port->soft_queues[--port->n_soft]);
			free_rings(soft);
			return -ENOMEM;
		}
		port->soft_queues[port->n_soft++] = queue;
	}
	atomic_store_explicit(&port->soft, soft, memory_order_release);
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID); /* from here on every producer has seen it */
	return 0;
}

void dvmq_soft_start(struct dvmq_port *port)
{
	for (unsigned i = 0; i < port->n_soft; i++)
		dvmq_queue_start(port->soft_queues[i]);
}

/* True when nobody polls it: its worker has drained and shut it. */
static bool take_back(struct dvmq_port *port, struct dvmq_queue *queue)
{
	queue->wanted = false;
	if (port->leaving)
		return true; /* dvmq_queue_free() waits */
	for (unsigned i = port->soft_late ? TRIES - 1 : 0; i < TRIES; i++)
		if (dvmq_queue_hand_wait(queue, NULL) == 0)
			return true;
	if (!port->soft_late)
		DVMQ_LOG(WARNING, "port %s: the worker of %s does not answer; the queue goes as soon as it does",
			 port->conf.name, queue->name);
	port->soft_late = true;
	return false;
}

int dvmq_soft_close(struct dvmq_port *port)
{
	struct dvmq_soft *soft = atomic_load_explicit(&port->soft, memory_order_relaxed);

	if (soft == NULL)
		return 0;
	for (; port->n_soft > 0; port->n_soft--) {
		struct dvmq_queue *queue = port->soft_queues[port->n_soft - 1];

		if (!take_back(port, queue))
			return -ETIMEDOUT;
		dvmq_queue_free(queue);
	}
	port->soft_late = false;
	atomic_store_explicit(&port->soft, NULL, memory_order_release);
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID); /* producers may still look at it */
	free_rings(soft);
	return 0;
}

static void close_late(struct dvmq_port *port)
{
	const struct dvmq_queue *queue = port->soft_queues[port->n_soft - 1];

	if (!atomic_load_explicit(&queue->in_transit, memory_order_acquire)) /* the worker is back */
		dvmq_soft_close(port);
}

static void unbind_port(struct dvmq_port *uplink, struct dvmq_port *port)
{
	(void)uplink;
	dvmq_soft_close(port);
}

/* ---- how many each port has ---- */

static bool is_software(const struct dvmq_port *port)
{
	return port != NULL && port->steer != NULL && port->steer->ops == &dvmq_steer_software;
}

struct dvmq_port *dvmq_soft_uplink(void)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_software(dvmq_ports[i]) && dvmq_ports[i]->up)
			return dvmq_ports[i];
	return NULL;
}

/* The default queue that needs most, of all uplinks; NULL: there is none.  And what all of them need. */
static struct dvmq_queue *busiest_default_queue(double *ret_sum, unsigned *ret_n)
{
	struct dvmq_queue *busiest = NULL;

	*ret_sum = 0;
	*ret_n = 0;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		const struct dvmq_port *uplink = dvmq_ports[i];

		for (unsigned k = 0; is_software(uplink) && k < uplink->n_queues; k++) {
			struct dvmq_queue *queue = uplink->queues[k];

			*ret_sum += queue->load->demand;
			++*ret_n;
			if (busiest == NULL || queue->load->demand > busiest->load->demand)
				busiest = queue;
		}
	}
	return busiest;
}

static bool is_hot(const struct dvmq_queue *queue)
{
	return queue != NULL && queue->load->demand > dvmq_relief_limit(dvmq_balancer_params());
}

/* On a single core a hop would cost cycles and relieve nobody. */
static bool another_core_may_poll(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < dvmq_n_workers; i++)
		n += dvmq_core_wish_of(dvmq_workers[i]) != DVMQ_CORE_KEEP_PARKED;
	return n > 1;
}

/* What the configuration, the guest and the operator allow a port to have. */
static void limits(const struct dvmq_port *port, unsigned *ret_least, unsigned *ret_most)
{
	unsigned pairs = port->type == DVMQ_PORT_VHOST ? atomic_load_explicit(&port->n_rxvq, memory_order_relaxed)
						      : port->conf.queues;

	*ret_least = port->conf.min;
	*ret_most = RTE_MAX(*ret_least, RTE_MIN(dvmq_conf_max(&port->conf), RTE_MAX(pairs, 1u)));
	if (port->by_hand >= 0)
		*ret_least = *ret_most = (unsigned)port->by_hand;
}

/* The rings are the port's, whichever uplink's default queues fill them: all of them tell of it. */
static void change(struct dvmq_port *port, struct dvmq_port *near, unsigned n, const char *reason, uint64_t now_ms)
{
	unsigned before = port->n_soft;
	int ret = near != NULL ? dvmq_vmq_set(near, port, n) : 0;

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *uplink = dvmq_ports[i];

		if (!is_software(uplink))
			continue;
		if (ret == 0)
			ret = dvmq_vmq_set(uplink, port, n);
		uplink->steer->bindings[port->index].requested = n;
		if (ret == 0 && n > 0)
			snprintf(uplink->steer->bindings[port->index].reason, DVMQ_BALANCE_REASON, "%s", reason);
		else if (ret < 0)
			reason = uplink->steer->bindings[port->index].reason;
	}
	dvmq_decide(ret < 0 ? "refuse" : n > before ? "promote" : "demote", port->conf.name, -1, -1, reason);
	state[port->index].changed = state[port->index].calm_since = now_ms;
}

static double need_of(const struct dvmq_port *port)
{
	double sum = 0;

	for (unsigned i = 0; i < port->n_soft; i++)
		sum += port->soft_queues[i]->load->demand;
	return sum;
}

static const struct dvmq_queue *hottest_of(const struct dvmq_port *port)
{
	const struct dvmq_queue *hottest = port->soft_queues[0];

	for (unsigned i = 1; i < port->n_soft; i++)
		if (port->soft_queues[i]->load->demand > hottest->load->demand)
			hottest = port->soft_queues[i];
	return hottest;
}

/* More, if one of its queues is too much for a core and the others show that it can be spread. */
static bool grow(struct dvmq_port *port, unsigned most, uint64_t now_ms)
{
	const struct dvmq_balance_params *p = dvmq_balancer_params();
	unsigned n = port->n_soft, wanted;
	char reason[DVMQ_BALANCE_REASON];
	double sum = need_of(port);
	const struct dvmq_queue *hottest = hottest_of(port);

	if (hottest->load->demand <= p->high || (n > 1 && sum - hottest->load->demand < ALONE * hottest->load->demand))
		return false;
	wanted = RTE_MAX(n + 1, (unsigned)(sum / p->target) + 1);
	wanted = RTE_MIN(wanted, RTE_MIN(most, dvmq_n_workers)); /* two of them on one core are no gain */
	if (wanted <= n)
		return false;
	snprintf(reason, sizeof(reason), "%u queues instead of %u: one needs %.2f cores", wanted, n,
		 hottest->load->demand);
	change(port, NULL, wanted, reason, now_ms);
	return true;
}

/*
 * Would one less do?  A ring of n - 1 gets what two neighbours of n had, or parts of it (see spread() in
 * datapath/deliver.c): so it is certain that none is too hot then, and that this is not undone at once.
 */
static bool one_less_suffices(const struct dvmq_port *port)
{
	const struct dvmq_balance_params *p = dvmq_balancer_params();

	for (unsigned i = 0; i + 1 < port->n_soft; i++)
		if (port->soft_queues[i]->load->demand + port->soft_queues[i + 1]->load->demand > p->high - p->margin)
			return false;
	return true;
}

static void shrink(struct dvmq_port *port, uint64_t now_ms)
{
	unsigned n = port->n_soft;
	char reason[DVMQ_BALANCE_REASON];

	snprintf(reason, sizeof(reason), "%u queues instead of %u: they need %.2f cores together", n - 1, n,
		 need_of(port));
	change(port, NULL, n - 1, reason, now_ms);
}

/* How many soft queues?  Whether a port has a first one for relief is shared out below. */
static void look_at(struct dvmq_port *port, uint64_t now_ms)
{
	uint64_t *calm_since = &state[port->index].calm_since;
	unsigned least, most, n = port->n_soft;

	if (port->soft_late)
		return;
	limits(port, &least, &most);
	if (n <= RTE_MAX(least, 1u) || !one_less_suffices(port))
		*calm_since = now_ms;
	if (now_ms - state[port->index].changed < CHANGE_MS)
		return;
	if (n < least)
		change(port, NULL, least, port->by_hand >= 0 ? "set by the operator" : "its min", now_ms);
	else if (n > most)
		change(port, NULL, most, port->by_hand >= 0 ? "set by the operator" : "its guest uses no more queue pairs",
		       now_ms);
	else if (n > 0 && !grow(port, most, now_ms) && now_ms - *calm_since >= CALM_MS)
		shrink(port, now_ms);
}

void dvmq_soft_tick(uint64_t now_ms)
{
	static uint64_t looked_ms;

	if (now_ms - looked_ms < LOOK_MS)
		return;
	looked_ms = now_ms;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->soft_late)
			close_late(dvmq_ports[i]);
	if (dvmq_soft_uplink() == NULL)
		return;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK)
			look_at(dvmq_ports[i], now_ms);
}

/* ---- who has any ---- */

bool dvmq_soft_to_share(void)
{
	unsigned n, least, most;
	double sum;

	if (is_hot(busiest_default_queue(&sum, &n)) && another_core_may_poll())
		return true;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		const struct dvmq_port *port = dvmq_ports[i];

		if (port == NULL || port->n_soft == 0)
			continue;
		limits(port, &least, &most);
		if (least == 0)
			return true;
	}
	return false;
}

/* What default queues brought the port since the last look. */
static void take_received(unsigned index, const struct dvmq_port_counters *c, uint64_t *ret_packets,
			  uint64_t *ret_bytes)
{
	bool cleared = c->by_default < state[index].packets; /* or another port */

	*ret_packets = c->by_default - (cleared ? 0 : state[index].packets);
	*ret_bytes = c->by_default_bytes - (cleared ? 0 : state[index].bytes);
	state[index].packets = c->by_default;
	state[index].bytes = c->by_default_bytes;
}

unsigned dvmq_soft_wishes(struct dvmq_share_port *wishes, double seconds, uint64_t now_ms, unsigned *ret_queues)
{
	static double by_soft[DVMQ_MAX_PORTS];
	const struct dvmq_stats *stats = dvmq_stats_collect();
	struct dvmq_relief_load load = {.now_ms = now_ms, .by_soft = by_soft};
	unsigned n = 0, n_default;
	double packets = 0, all;
	const struct dvmq_queue *busiest = busiest_default_queue(&load.by_default, &n_default);

	load.busiest = busiest != NULL ? busiest->load->demand : 0;
	load.room = another_core_may_poll() ? n_default * DVMQ_RELIEF_PER_QUEUE : 0;
	all = load.by_default;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		const struct dvmq_port *port = dvmq_ports[i];
		uint64_t new_packets, new_bytes;
		unsigned least, most;

		if (port == NULL || port->type == DVMQ_PORT_UPLINK)
			continue;
		take_received(i, &stats->port[i], &new_packets, &new_bytes);
		limits(port, &least, &most);
		wishes[n] = (struct dvmq_share_port){
		    .id = port->queues[0]->id,
		    .name = port->conf.name,
		    .bytes_per_s = new_bytes / seconds,
		    .demand = new_packets,
		    .holds = port->n_soft > 0,
		    .pairs = 1,
		    .min = least > 0,
		    .max = most > 0,
		    .weight = port->conf.weight,
		    .late_ms = dvmq_soft_uplink()->steer->bindings[i].late_ms,
		    .bindable = true,
		};
		by_soft[n] = need_of(port);
		all += by_soft[n++];
		packets += new_packets;
	}
	for (unsigned i = 0; i < n && packets > 0; i++)
		wishes[i].demand *= all / packets;
	if (seconds > STALE_S)
		return 0;
	*ret_queues = dvmq_relief_plan(&relief, &load, dvmq_balancer_params(), wishes, n);
	return n;
}

void dvmq_soft_tell(struct dvmq_port *port, const struct dvmq_share_port *wish, const struct dvmq_share_result *result)
{
	state[port->index].dispensable = wish->demand <= 0;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_binding *b;

		if (!is_software(dvmq_ports[i]))
			continue;
		b = &dvmq_ports[i]->steer->bindings[port->index];
		b->requested = RTE_MAX(result->wanted, result->queues ? port->n_soft : 0);
		snprintf(b->why, sizeof(b->why), "%s", wish->demand > 0 ? result->why : "");
		if (port->n_soft == 0)
			snprintf(b->reason, sizeof(b->reason), wish->demand > 0 ? "served inline" : DVMQ_SOFT_INLINE);
		else if (wish->demand <= 0 && wish->min == 0)
			snprintf(b->why, sizeof(b->why),
				 "the default queue could carry it: goes if that lasts for 2 s");
	}
}

static void say_relief(const struct dvmq_port *port, const struct dvmq_queue *busiest)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_software(dvmq_ports[i]))
			snprintf(dvmq_ports[i]->steer->bindings[port->index].reason, DVMQ_BALANCE_REASON,
				 "relieves %s, which needed %.2f cores", busiest->name, busiest->load->demand);
}

void dvmq_soft_give(struct dvmq_port *port, unsigned n, const char *why, uint64_t now_ms)
{
	char reason[DVMQ_BALANCE_REASON];
	unsigned n_default;
	double sum;
	struct dvmq_queue *busiest = busiest_default_queue(&sum, &n_default);

	if (port->soft_late || (n > 0) == (port->n_soft > 0) || now_ms - state[port->index].changed < CHANGE_MS)
		return;
	if (busiest == NULL)
		return; /* the last uplink went */
	if (n > 0 && is_hot(busiest))
		snprintf(reason, sizeof(reason), "%s needs %.2f cores; %s", busiest->name, busiest->load->demand, why);
	else if (n == 0 && state[port->index].dispensable)
		snprintf(reason, sizeof(reason), "%s needs %.2f cores: could carry it, too", busiest->name,
			 busiest->load->demand);
	else
		snprintf(reason, sizeof(reason), "%s", why);
	change(port, busiest->port, n, reason, now_ms);
	if (port->n_soft > 0) /* what it has now is dvmq_soft_tell()'s to say */
		say_relief(port, busiest);
}

const struct dvmq_steer_ops dvmq_steer_software = {
	.steering = DVMQ_STEER_SOFTWARE,
	.rx_mode = DVMQ_RX_RSS,
	.bind = bind_port,
	.unbind = unbind_port,
};
