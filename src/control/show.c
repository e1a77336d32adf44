/* SPDX-License-Identifier: BSD-3-Clause */
/* Everything that "show" shows, as JSON. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>

#include <dvmq/control.h>
#include <dvmq/fdb.h>
#include <dvmq/steer.h>

static bool wanted(const char *name, const char *candidate)
{
	return strcmp(name, "all") == 0 || strcmp(name, candidate) == 0;
}

/* An empty list is an answer to "all", but not to a name. */
static json_t *found(json_t *list, const char *what, const char *name, struct dvmq_err *err)
{
	if (json_array_size(list) > 0 || strcmp(name, "all") == 0)
		return list;
	json_decref(list);
	dvmq_fail(err, ENOENT, "no %s %s; \"show %s all\" lists them", what, name, what);
	return NULL;
}

static json_t *number(double value, double unit)
{
	return json_real(isfinite(value) ? round(value / unit) * unit : 0);
}

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit((_Atomic uint64_t *)counter, memory_order_relaxed);
}

static json_t *mac_text(const void *mac)
{
	char text[RTE_ETHER_ADDR_FMT_SIZE];

	rte_ether_format_addr(text, sizeof(text), mac);
	for (char *c = text; *c; c++)
		*c = (*c >= 'A' && *c <= 'F') ? *c + 32 : *c;
	return json_string(text);
}

/* ---- queues ---- */

const char *dvmq_queue_kind_name(enum dvmq_queue_kind kind)
{
	static const char *const names[] = {
		[DVMQ_QUEUE_VMQ] = "vmq",
		[DVMQ_QUEUE_DEFAULT] = "default",
		[DVMQ_QUEUE_SOFT] = "soft",
		[DVMQ_QUEUE_GUEST] = "guest",
	};

	return names[kind];
}

/* The middle of the bucket that holds a share of the pauses; 0: there was none. */
static double pause_us(const struct dvmq_queue *q, double share)
{
	uint64_t n = 0, sum = 0;
	unsigned i = 0;

	for (i = 0; i < DVMQ_PAUSE_TIMES; i++)
		n += get(&q->pause_times[i]);
	if (n == 0)
		return 0;
	for (i = 0; i < DVMQ_PAUSE_TIMES - 1; i++) {
		sum += get(&q->pause_times[i]);
		if (sum >= share * n)
			break;
	}
	return (2.5 + i % 2) * (double)(128ull << (i / 2)) * 1e6 / rte_get_tsc_hz();
}

static json_t *pause_loops(const struct dvmq_queue *q)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < DVMQ_PAUSE_LOOPS; i++)
		json_array_append_new(list, json_integer((json_int_t)get(&q->pause_loops[i])));
	return list;
}

static json_t *queue_json(const struct dvmq_queue *q)
{
	const struct dvmq_queue_counters *c = &q->counters;
	const struct dvmq_cleared *cleared = &q->load->cleared;
	struct dvmq_worker *owner = atomic_load_explicit(&q->owner, memory_order_acquire);
	const struct dvmq_port *port = q->dst != NULL ? q->dst : q->port;
	json_t *o = json_object();

	json_object_set_new(o, "queue", json_string(q->name));
	json_object_set_new(o, "port", json_string(port->conf.name));
	json_object_set_new(o, "kind", json_string(dvmq_queue_kind_name(q->kind)));
	json_object_set_new(o, "core", owner != NULL ? json_integer(owner->core) : json_null());
	json_object_set_new(o, "pinned", json_boolean(q->pinned));
	json_object_set_new(o, "packets", json_integer((json_int_t)(get(&c->packets) - cleared->packets)));
	json_object_set_new(o, "bytes", json_integer((json_int_t)(get(&c->bytes) - cleared->bytes)));
	json_object_set_new(o, "drops", json_integer((json_int_t)(get(&c->drops) - cleared->drops)));
	json_object_set_new(o, "pps", number(q->load->pps, 1));
	json_object_set_new(o, "cycles_per_packet", number(q->load->cycles_per_packet, 0.1));
	json_object_set_new(o, "load", number(q->load->load, 1e-4));
	json_object_set_new(o, "demand", number(q->load->demand, 1e-4));
	json_object_set_new(o, "occupancy", number(q->load->occupancy, 1e-4));
	json_object_set_new(o, "moves", json_integer((json_int_t)(get(&q->moves) - cleared->moves)));
	json_object_set_new(o, "pause_loops", pause_loops(q));
	json_object_set_new(o, "pause_stolen", json_integer((json_int_t)get(&q->pause_stolen)));
	json_object_set_new(o, "pause_us_p50", number(pause_us(q, 0.5), 0.01));
	json_object_set_new(o, "pause_us_p99", number(pause_us(q, 0.99), 0.01));
	json_object_set_new(o, "pause_us_max", number(get(&q->pause_max) * 1e6 / rte_get_tsc_hz(), 0.01));
	return o;
}

json_t *dvmq_show_queues(const char *name, struct dvmq_err *err)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < dvmq_n_queues; i++)
		if (wanted(name, dvmq_queues[i]->name))
			json_array_append_new(list, queue_json(dvmq_queues[i]));
	return found(list, "queue", name, err);
}

bool dvmq_queue_name_at(unsigned index, char *buf, size_t size)
{
	if (index >= dvmq_n_queues)
		return false;
	snprintf(buf, size, "%s", dvmq_queues[index]->name);
	return true;
}

/* ---- cores ---- */

static const char *state_name(const struct dvmq_worker *w)
{
	static const char *const names[] = {
		[DVMQ_WORKER_PARKED] = "parked",
		[DVMQ_WORKER_IDLE] = "idle",
		[DVMQ_WORKER_ACTIVE] = "active",
	};

	return names[atomic_load_explicit(&w->state, memory_order_relaxed)];
}

/* What its queues need: the load that the balancer goes by. */
static double demand_of(const struct dvmq_worker *w)
{
	double sum = 0;

	for (unsigned i = 0; i < dvmq_n_queues; i++)
		if (atomic_load_explicit(&dvmq_queues[i]->owner, memory_order_acquire) == w)
			sum += dvmq_queues[i]->load->demand;
	return sum;
}

static json_t *core_json(const struct dvmq_worker *w)
{
	static const char *const wishes[] = {
		[DVMQ_CORE_AUTO] = "auto",
		[DVMQ_CORE_KEEP_PARKED] = "park",
		[DVMQ_CORE_KEEP_ACTIVE] = "activate",
	};
	int sibling = dvmq_core_sibling_of(w);
	json_t *o = json_object();

	json_object_set_new(o, "core", json_integer(w->core));
	json_object_set_new(o, "numa", json_integer(w->numa));
	json_object_set_new(o, "sibling", sibling >= 0 ? json_integer(sibling) : json_null());
	json_object_set_new(o, "state", json_string(state_name(w)));
	json_object_set_new(o, "busy", number(dvmq_worker_load(w), 1e-4));
	json_object_set_new(o, "demand", number(demand_of(w), 1e-4));
	json_object_set_new(o, "queues", json_integer(atomic_load_explicit(&w->n_queues, memory_order_relaxed)));
	json_object_set_new(o, "mode", json_string(wishes[dvmq_core_wish_of(w)]));
	json_object_set_new(o, "policy", json_string(dvmq_policy_name(atomic_load_explicit(&w->policy,
											     memory_order_relaxed))));
	json_object_set_new(o, "loops", json_integer((json_int_t)get(&w->loops)));
	json_object_set_new(o, "sleeps", json_integer((json_int_t)get(&w->sleeps)));
	json_object_set_new(o, "learn_dropped", json_integer((json_int_t)get(&w->learn_dropped)));
	return o;
}

json_t *dvmq_show_cores(const char *name, struct dvmq_err *err)
{
	json_t *list = json_array();
	char core[16];

	for (unsigned i = 0; dvmq_core_name_at(i, core, sizeof(core)); i++)
		if (wanted(name, core))
			json_array_append_new(list, core_json(dvmq_workers[i]));
	return found(list, "core", name, err);
}

bool dvmq_core_name_at(unsigned index, char *buf, size_t size)
{
	if (index >= dvmq_n_workers)
		return false;
	snprintf(buf, size, "%u", dvmq_workers[index]->core);
	return true;
}

/* ---- ports ---- */

static json_t *port_json(const struct dvmq_port *port)
{
	static const char *const links[] = {
		[DVMQ_LINK_UNKNOWN] = "unknown",
		[DVMQ_LINK_UP] = "up",
		[DVMQ_LINK_DOWN] = "down",
		[DVMQ_LINK_LOST] = "lost",
	};
	const struct dvmq_port_conf *conf = &port->conf;
	json_t *o = json_object();

	json_object_set_new(o, "port", json_string(conf->name));
	json_object_set_new(o, "type", json_string(dvmq_port_type_name(port->type)));
	json_object_set_new(o, "up", json_boolean(port->up));
	json_object_set_new(o, "device", json_string(port->type == DVMQ_PORT_VHOST ? conf->socket : conf->device));
	json_object_set_new(o, "mac", conf->has_mac ? mac_text(&conf->mac) : json_null());
	json_object_set_new(o, "vlan", json_integer(port->vlan));
	json_object_set_new(o, "queues", json_integer(conf->queues));
	json_object_set_new(o, "queues_used", json_integer(port->type == DVMQ_PORT_VHOST
								   ? atomic_load(&port->n_rxvq)
								   : conf->queues));
	json_object_set_new(o, "numa", json_integer(port->numa));
	json_object_set_new(o, "link", port->type == DVMQ_PORT_VHOST ? json_null() : json_string(links[port->link]));
	json_object_set_new(o, "speed_mbps", port->speed == 0 ? json_null() : json_integer(port->speed));
	return o;
}

json_t *dvmq_show_ports(const char *name, struct dvmq_err *err)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && wanted(name, dvmq_ports[i]->conf.name))
			json_array_append_new(list, port_json(dvmq_ports[i]));
	return found(list, "port", name, err);
}

static json_t *counters_json(const char *name, bool up, const struct dvmq_port_counters *c)
{
	json_t *o = json_object();

	json_object_set_new(o, "port", json_string(name));
	json_object_set_new(o, "up", json_boolean(up));
	json_object_set_new(o, "rx_packets", json_integer((json_int_t)c->rx_packets));
	json_object_set_new(o, "rx_bytes", json_integer((json_int_t)c->rx_bytes));
	json_object_set_new(o, "tx_packets", json_integer((json_int_t)c->tx_packets));
	json_object_set_new(o, "tx_bytes", json_integer((json_int_t)c->tx_bytes));
	json_object_set_new(o, "flood_copies", json_integer((json_int_t)c->flood_copies));
	for (unsigned i = 0; i < DVMQ_DROP_REASONS; i++)
		json_object_set_new(o, dvmq_drop_name(i), json_integer((json_int_t)c->drop[i]));
	return o;
}

/* What the device lost before the switch could receive it: beside the balance of rx, tx and drops. */
static void add_device_losses(json_t *o, const struct dvmq_port *port)
{
	struct rte_eth_stats stats;

	if (port->type == DVMQ_PORT_VHOST || rte_eth_stats_get(port->eth_id, &stats) != 0)
		memset(&stats, 0, sizeof(stats));
	json_object_set_new(o, "nic_missed", json_integer((json_int_t)stats.imissed));
	json_object_set_new(o, "nic_errors", json_integer((json_int_t)stats.ierrors));
	json_object_set_new(o, "nic_no_mbuf", json_integer((json_int_t)stats.rx_nombuf));
}

json_t *dvmq_show_port_stats(const char *name, struct dvmq_err *err)
{
	static const struct dvmq_port_counters zero;
	const struct dvmq_stats *stats = dvmq_stats_collect();
	const struct dvmq_port_counters *deleted = &stats->port[DVMQ_MAX_PORTS];
	json_t *list = json_array();

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *port = dvmq_ports[i];
		json_t *o;

		if (port == NULL || !wanted(name, port->conf.name))
			continue;
		o = counters_json(port->conf.name, port->up, &stats->port[i]);
		add_device_losses(o, port);
		json_array_append_new(list, o);
	}
	/* Ports that are gone have sent and received, too; without them the sums would not agree. */
	if (strcmp(name, "all") == 0 && memcmp(deleted, &zero, sizeof(zero)) != 0)
		json_array_append_new(list, counters_json("(deleted)", false, deleted));
	return found(list, "port", name, err);
}

bool dvmq_port_name_at(unsigned index, char *buf, size_t size)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		if (dvmq_ports[i] == NULL || index-- > 0)
			continue;
		snprintf(buf, size, "%s", dvmq_ports[i]->conf.name);
		return true;
	}
	return false;
}

/* ---- vmq ---- */

/* The names of the port's queues on an uplink, and whether frames were seen on them. */
static void describe_queues(const struct dvmq_port *uplink, const struct dvmq_port *port, char *text, size_t size,
			    bool *ret_proven, unsigned *ret_n)
{
	size_t used = 0;

	text[0] = 0;
	for (unsigned i = 0; i < uplink->n_queues; i++) {
		const struct dvmq_queue *q = uplink->queues[i];

		if (q->dst != port)
			continue;
		(*ret_n)++;
		*ret_proven |= get(&q->counters.packets) - get(&q->counters.strays) > q->unproven;
		used += (size_t)snprintf(text + used, size - used, "%s%s", used ? "," : "", q->name);
		if (used >= size)
			break;
	}
	if (uplink->steer->ops->steering != DVMQ_STEER_SOFTWARE)
		return;
	for (unsigned i = 0; i < port->n_soft && used < size; i++) { /* filled by the default queues of all uplinks */
		const struct dvmq_queue *q = port->soft_queues[i];

		(*ret_n)++;
		*ret_proven |= get(&q->counters.packets) > 0;
		used += (size_t)snprintf(text + used, size - used, "%s%s", used ? "," : "", q->name);
	}
}

static json_t *vmq_json(const struct dvmq_port *uplink, const struct dvmq_port *port, uint64_t by_default)
{
	const struct dvmq_binding *b = &uplink->steer->bindings[port->index];
	bool software = uplink->steer->ops->steering == DVMQ_STEER_SOFTWARE;
	char queues[256], reason[768];
	bool proven = false;
	unsigned n = 0;
	json_t *o = json_object();

	describe_queues(uplink, port, queues, sizeof(queues), &proven, &n);
	if (port->by_hand >= 0 && n == (unsigned)port->by_hand)
		snprintf(reason, sizeof(reason), "set by hand; \"set port %s vmq auto\" ends it", port->conf.name);
	else
		snprintf(reason, sizeof(reason), "%s", b->reason);
	if (n > 0 && b->fruitless > 1)
		snprintf(reason, sizeof(reason),
			 "%s, but its frames arrive on the default queue: the NIC accepts the rule and does not follow it",
			 b->reason);
	if (b->base_reason[0])
		snprintf(reason + strlen(reason), sizeof(reason) - strlen(reason), "; %s", b->base_reason);
	if (b->why[0])
		snprintf(reason + strlen(reason), sizeof(reason) - strlen(reason), "%s%s", reason[0] ? "; " : "", b->why);
	json_object_set_new(o, "port", json_string(port->conf.name));
	json_object_set_new(o, "uplink", json_string(uplink->conf.name));
	json_object_set_new(o, "steering", json_string(dvmq_steering_name(uplink->steer->ops->steering)));
	json_object_set_new(o, "requested", json_integer(b->requested));
	json_object_set_new(o, "effective", json_integer(n));
	json_object_set_new(o, "queues", json_string(queues));
	json_object_set_new(o, "accepted", json_boolean(software ? n > 0 : b->accepted));
	json_object_set_new(o, "proven", json_boolean(proven));
	json_object_set_new(o, "repairs", json_integer(b->repairs));
	json_object_set_new(o, "by_hand", json_boolean(port->by_hand >= 0));
	json_object_set_new(o, "by_default", json_integer((json_int_t)by_default));
	json_object_set_new(o, "reason", json_string(reason));
	return o;
}

json_t *dvmq_show_vmq(const char *name, struct dvmq_err *err)
{
	const struct dvmq_stats *stats = dvmq_stats_collect();
	json_t *list = json_array();

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *port = dvmq_ports[i];

		if (port == NULL || port->type == DVMQ_PORT_UPLINK || !wanted(name, port->conf.name))
			continue;
		for (unsigned u = 0; u < DVMQ_MAX_PORTS; u++)
			if (dvmq_ports[u] != NULL && dvmq_ports[u]->steer != NULL)
				json_array_append_new(list, vmq_json(dvmq_ports[u], port, stats->port[i].by_default));
	}
	if (strcmp(name, "all") == 0 || dvmq_port_find(name) != NULL)
		return list;
	return found(list, "port", name, err);
}

struct listed {
	const struct dvmq_rule *rule;
	const struct dvmq_port *port; /* whose frames it takes; NULL: those for groups */
	bool base;                    /* to the default queue */
};

/* Columns and words as testpmd's "flow list" has them, then what they mean here. */
static json_t *rule_json(const struct dvmq_port *uplink, const struct listed *listed)
{
	const struct dvmq_port *port = listed->port;
	bool proven = false;
	char queues[256];
	unsigned n = 0;
	json_t *o = json_object();

	if (listed->base)
		snprintf(queues, sizeof(queues), "%s", uplink->queues[0]->name);
	else
		describe_queues(uplink, port, queues, sizeof(queues), &proven, &n);
	json_object_set_new(o, "id", json_integer(listed->rule->id));
	json_object_set_new(o, "group", json_integer(0));
	json_object_set_new(o, "prio", json_integer(listed->base));
	json_object_set_new(o, "attr", json_string("i--"));
	json_object_set_new(o, "rule",
			    json_sprintf("ETH%s => %s", port != NULL && port->vlan ? " VLAN" : "",
					 n > 1 ? "RSS" : "QUEUE"));
	json_object_set_new(o, "dst", port != NULL ? mac_text(&port->conf.mac) : json_string("groups"));
	json_object_set_new(o, "vlan", port != NULL ? json_integer(port->vlan) : json_null());
	json_object_set_new(o, "queue", json_string(queues));
	json_object_set_new(o, "port", port != NULL ? json_string(port->conf.name) : json_null());
	return o;
}

static int by_id(const void *a, const void *b)
{
	const struct listed *x = a, *y = b;

	return x->rule->id < y->rule->id ? -1 : x->rule->id > y->rule->id;
}

static unsigned list_rules(const struct dvmq_port *uplink, struct listed *rules)
{
	unsigned n = 0;

	if (uplink->steer->groups.flow != NULL)
		rules[n++] = (struct listed){&uplink->steer->groups, NULL, true};
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		const struct dvmq_binding *b = &uplink->steer->bindings[i];

		if (dvmq_ports[i] != NULL && b->base.flow != NULL)
			rules[n++] = (struct listed){&b->base, dvmq_ports[i], true};
		if (dvmq_ports[i] != NULL && b->rule.flow != NULL)
			rules[n++] = (struct listed){&b->rule, dvmq_ports[i], false};
	}
	qsort(rules, n, sizeof(rules[0]), by_id);
	return n;
}

json_t *dvmq_flow_list(const char *name, struct dvmq_err *err)
{
	struct dvmq_port *uplink = dvmq_port_find(name);
	struct listed rules[2 * DVMQ_MAX_PORTS + 1];
	json_t *list;
	unsigned n;

	if (uplink == NULL || uplink->steer == NULL) {
		dvmq_fail(err, ENOENT, "no uplink %s; \"show port all\" lists them", name);
		return NULL;
	}
	list = json_array();
	n = list_rules(uplink, rules);
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(list, rule_json(uplink, &rules[i]));
	return list;
}

/* ---- FDB, balancer ---- */

json_t *dvmq_show_fdb(struct dvmq_err *err)
{
	const struct dvmq_fdb_entry *entry;
	uint64_t now = dvmq_now_ms();
	json_t *list = json_array();
	uint32_t iterator = 0;

	(void)err;
	while ((entry = dvmq_fdb_next(&iterator)) != NULL) {
		json_t *o = json_object();

		json_object_set_new(o, "vlan", json_integer((json_int_t)(entry->key >> 48)));
		json_object_set_new(o, "mac", mac_text(&entry->key));
		json_object_set_new(o, "port", json_string(entry->port->conf.name));
		json_object_set_new(o, "static", json_boolean(entry->fixed));
		json_object_set_new(o, "age_s", entry->fixed ? json_null() : json_integer((json_int_t)(now - entry->seen_ms) / 1000));
		json_array_append_new(list, o);
	}
	return list;
}

static json_t *decisions_json(void)
{
	const struct dvmq_decision *decisions[DVMQ_DECISIONS];
	unsigned n = dvmq_decisions(decisions);
	json_t *list = json_array();

	for (unsigned i = 0; i < n; i++) {
		const struct dvmq_decision *d = decisions[i];
		json_t *o = json_object();

		json_object_set_new(o, "time", json_real(d->unix_ms / 1000.0));
		json_object_set_new(o, "action", json_string(d->action));
		json_object_set_new(o, "thing", json_string(d->thing));
		json_object_set_new(o, "from", d->from >= 0 ? json_integer(d->from) : json_null());
		json_object_set_new(o, "to", d->to >= 0 ? json_integer(d->to) : json_null());
		json_object_set_new(o, "reason", json_string(d->reason));
		json_array_append_new(list, o);
	}
	return list;
}

json_t *dvmq_show_balance(struct dvmq_err *err)
{
	static const char *const actions[] = {"move",	  "activate", "park",	   "promote",
					      "demote", "repair",   "saturated", "refuse"};
	const struct dvmq_balance_params *p = dvmq_balancer_params();
	json_t *o = json_object(), *totals = json_object();

	(void)err;
	json_object_set_new(o, "mode", json_string(dvmq_balancer_automatic() ? "auto" : "off"));
	json_object_set_new(o, "verdict", json_string(dvmq_balancer_verdict()));
	json_object_set_new(o, "params",
			    json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "high", p->high, "target", p->target, "margin",
				      p->margin, "fast_ms", p->fast_ms, "slow_ms", p->slow_ms, "budget", p->budget,
				      "cooldown_ms", p->cooldown_ms, "hold_ms", p->hold_ms));
	for (unsigned i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		json_object_set_new(totals, actions[i], json_integer((json_int_t)dvmq_decision_count(actions[i])));
	json_object_set_new(o, "totals", totals);
	json_object_set_new(o, "trace", dvmq_trace_json());
	json_object_set_new(o, "decisions", decisions_json());
	return o;
}
