/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which ports have queues of their own on which uplink, and the change from one
 * set of queues to another.
 *
 * The trap in every change: packets that took the old path must not be overtaken
 * by later ones on the new path.
 *
 *   to the default queue   Soft rings are opened for the port, polled by nobody: what the default queues
 *                          bring from now on waits there.  The rule goes; the port's queues are drained
 *                          and taken from their workers; then the rings are emptied and shut.
 *   to queues of its own   They are taken from their workers; the rule is made; what it steers waits in
 *                          them.  The default queues are drained; then the queues are polled.
 *   to other queues        The first, then the second, and the rings are emptied in between.
 *
 * Nobody else stops meanwhile, and each step takes a few loops of the workers concerned.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <dvmq/control.h>
#include <dvmq/fdb.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

static bool is_steering(const struct dvmq_port *port)
{
	return port != NULL && port->type == DVMQ_PORT_UPLINK && port->steer != NULL && port->steer->ops != NULL;
}

static bool is_software(const struct dvmq_port *uplink)
{
	return uplink->steer->ops == &dvmq_steer_software;
}

static struct dvmq_binding *binding_of(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	return &uplink->steer->bindings[port->index];
}

void dvmq_queue_to_vmq(struct dvmq_queue *queue, struct dvmq_port *port)
{
	queue->kind = DVMQ_QUEUE_VMQ;
	queue->unproven = atomic_load(&queue->counters.packets) - atomic_load(&queue->counters.strays);
	queue->poll = dvmq_poll_vmq;
	queue->dst = port;
	queue->mac = dvmq_fdb_key(&port->conf.mac, 0);
	queue->mac_mask = port->conf.has_mac ? 0x0000ffffffffffffull : 0; /* as dvmq_fdb_key(): little-endian */
	dvmq_queue_start(queue);
}

static void make_default(struct dvmq_queue *queue)
{
	queue->kind = DVMQ_QUEUE_DEFAULT;
	queue->poll = queue->replicas ? dvmq_poll_spare : dvmq_poll_default;
	queue->dst = NULL;
}

void dvmq_queue_to_default(struct dvmq_queue *queue)
{
	make_default(queue);
	dvmq_queue_start(queue);
}

/* ---- the steps of a change ---- */

/* Queue 0 stays a default queue.  How many of n free ones there are. */
static unsigned choose(const struct dvmq_port *uplink, uint16_t *queues, unsigned n)
{
	unsigned found = 0;

	for (unsigned i = 1; i < uplink->n_queues && found < n; i++)
		if (uplink->queues[i]->kind == DVMQ_QUEUE_DEFAULT)
			queues[found++] = i;
	return found;
}

static int take_from_workers(struct dvmq_port *uplink, const uint16_t *queues, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (dvmq_queue_hand_wait(uplink->queues[queues[i]], NULL) < 0)
			return -ETIMEDOUT;
	return 0;
}

static void start_free_queues(struct dvmq_port *uplink)
{
	for (unsigned i = 0; i < uplink->n_queues; i++)
		if (uplink->queues[i]->kind == DVMQ_QUEUE_DEFAULT)
			dvmq_queue_start(uplink->queues[i]);
}

/* Whatever waits in the default queues now is delivered, or in the port's soft rings, when this returns. */
static void drain_default_queues(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	bool drained = true;

	/* All at a time: what is steered already waits for the last of them. */
	for (unsigned i = 0; i < uplink->n_queues; i++)
		if (uplink->queues[i]->kind == DVMQ_QUEUE_DEFAULT &&
		    (dvmq_queue_settle(uplink->queues[i]) < 0 || !dvmq_queue_drain(uplink->queues[i])))
			drained = false;
	for (unsigned i = 0; i < uplink->n_queues; i++)
		if (uplink->queues[i]->kind == DVMQ_QUEUE_DEFAULT && dvmq_queue_settle(uplink->queues[i]) < 0)
			drained = false;
	if (!drained)
		DVMQ_LOG(WARNING,
			 "port %s: a default queue of %s was not drained in time: its worker does not answer; packets "
			 "may be reordered",
			 port->conf.name, uplink->conf.name);
}

/* ---- what the NIC does, and what it should ---- */

/* Frames of the port that came by queues of its own. */
static uint64_t own_packets(const struct dvmq_port *uplink, const struct dvmq_port *port)
{
	uint64_t packets = 0;

	for (unsigned i = 0; i < uplink->n_queues; i++) {
		const struct dvmq_queue_counters *c = &uplink->queues[i]->counters;

		if (uplink->queues[i]->dst == port)
			packets += atomic_load_explicit(&c->packets, memory_order_relaxed) -
				   atomic_load_explicit(&c->strays, memory_order_relaxed);
	}
	return packets;
}

static void audit_from_here(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	struct dvmq_binding *b = binding_of(uplink, port);

	b->own_seen = own_packets(uplink, port);
	b->astray_seen = atomic_load_explicit(&uplink->astray[port->index].frames, memory_order_relaxed);
}

/* From now on frames for the port have no business in default queues; 0: they have. */
static void expect_steered(struct dvmq_port *uplink, const struct dvmq_port *port, bool steered)
{
	uint64_t key = steered ? dvmq_fdb_key(&port->conf.mac, port->vlan) : 0;

	audit_from_here(uplink, port);
	atomic_store_explicit(&uplink->astray[port->index].key, key, memory_order_relaxed);
}

/* The port's queues become free ones that nobody polls; what they hold is delivered. */
static int let_go(struct dvmq_port *uplink, struct dvmq_port *port)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	struct dvmq_err err;

	expect_steered(uplink, port, false);
	if (uplink->steer->ops->detach(uplink, port, &err) < 0) {
		DVMQ_LOG(ERR, "port %s on %s: %s; %s", port->conf.name, uplink->conf.name, err.text,
			 b->rule_works ? "frames for it still go to its queues"
				       : "it takes no frames, and counts as gone");
		if (b->rule_works) {
			snprintf(b->reason, sizeof(b->reason), "stays as it is: %.230s", err.text);
			return -EIO;
		}
	}
	for (unsigned i = 0; i < b->n; i++) {
		struct dvmq_queue *queue = uplink->queues[b->queues[i]];

		dvmq_queue_drain_wait(queue);
		dvmq_queue_take_back(queue); /* its next poll must not be one for this port */
		make_default(queue);
	}
	b->n = 0;
	b->accepted = false;
	return 0;
}

/* What it has, and what kept it from having all n. */
static void tell_queues(const struct dvmq_port *uplink, const struct dvmq_port *port, unsigned got, unsigned n)
{
	struct dvmq_binding *b = &uplink->steer->bindings[port->index];
	size_t used = 0;

	if (got > 0)
		used = (size_t)snprintf(b->reason, sizeof(b->reason), "%s: dst %02x:%02x:%02x:%02x:%02x:%02x%s",
					dvmq_steering_name(uplink->steer->ops->steering),
					RTE_ETHER_ADDR_BYTES(&port->conf.mac), port->vlan ? " and VLAN" : "");
	if (got > 0 && got < n)
		used += (size_t)snprintf(b->reason + used, sizeof(b->reason) - used, "; %u of %u queues: ", got, n);
	if (got < n)
		snprintf(b->reason + used, sizeof(b->reason) - used, "all %u queues of %s are taken; %s",
			 uplink->n_queues - 1, uplink->conf.name,
			 uplink->rx.n < uplink->rx.max ? "raise its queues =" : "the NIC has no more");
}

/*
 * Would what the NIC is told of `port` bring frames of `other`, too?  A rule without VLAN takes tagged frames, and which
 * of two rules goes first is the NIC's affair; a pool goes by the MAC alone.  When queues change hands, those would be
 * overtaken.
 */
static bool clashes(const struct dvmq_port *uplink, const struct dvmq_port *port, const struct dvmq_port *other)
{
	if (port->vlan != 0 && uplink->steer->ops->tells_vlan)
		return false;
	return other != NULL && other != port && other->type != DVMQ_PORT_UPLINK && port->conf.has_mac &&
	       other->conf.has_mac && rte_is_same_ether_addr(&port->conf.mac, &other->conf.mac);
}

/* 0, or -EBUSY with the other port in err. */
static int check_clash(const struct dvmq_port *uplink, const struct dvmq_port *port, struct dvmq_err *err)
{
	char vlan[24] = "untagged";

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		const struct dvmq_port *other = dvmq_ports[i];

		if (!clashes(uplink, port, other))
			continue;
		if (other->vlan != 0)
			snprintf(vlan, sizeof(vlan), "in VLAN %u", other->vlan);
		return dvmq_fail(err, EBUSY,
				 "port %s has its MAC %s: a rule without VLAN would take that one's frames, too",
				 other->conf.name, vlan);
	}
	return 0;
}

static int attach(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
		  struct dvmq_err *err)
{
	int ret = check_clash(uplink, port, err);

	return ret == 0 ? uplink->steer->ops->attach(uplink, port, queues, n, err) : ret;
}

/* Steers the port to n free queues, which nobody polls yet.  How many it got; the binding says why not n. */
static unsigned get_queues(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	unsigned got = choose(uplink, b->queues, n);
	struct dvmq_err err = {0};

	if (got == 0) {
		tell_queues(uplink, port, 0, n);
		return 0;
	}
	if (take_from_workers(uplink, b->queues, got) < 0) {
		snprintf(b->reason, sizeof(b->reason), "a worker does not answer");
		return 0;
	}
	if (attach(uplink, port, b->queues, got, &err) == 0) {
		tell_queues(uplink, port, got, n);
		return got;
	}
	if (got > 1) {
		DVMQ_LOG(WARNING, "port %s on %s: %u queues: %s; trying one", port->conf.name, uplink->conf.name, got,
			 err.text);
		got = attach(uplink, port, b->queues, 1, &err) == 0;
		snprintf(b->reason, sizeof(b->reason), "one queue only: %.230s", err.text);
		return got;
	}
	snprintf(b->reason, sizeof(b->reason), "%.250s", err.text);
	DVMQ_LOG(WARNING, "port %s on %s: %s; the default queue serves it", port->conf.name, uplink->conf.name,
		 err.text);
	return 0;
}

/* ---- the change ---- */

static void forget_refusals(struct dvmq_binding *b)
{
	b->refusals = 0;
	b->retry_ms = 0;
}

static int set_nic_queues(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	bool had = b->n > 0;
	struct dvmq_err err;
	unsigned got = 0;
	int ret = 0;

	if (!uplink->up) { /* it has none now */
		snprintf(b->reason, sizeof(b->reason), "the device of %s does not run", uplink->conf.name);
		return n > 0 ? -ENETDOWN : 0;
	}

	if (had && !port->leaving && dvmq_soft_open(uplink, port, 1, &err) < 0) {
		snprintf(b->reason, sizeof(b->reason), "stays as it is: %.230s", err.text);
		return -ENOMEM;
	}
	if (had)
		ret = let_go(uplink, port);
	if (ret == 0 && n > 0)
		got = get_queues(uplink, port, n);
	if (ret == 0 && got < n)
		ret = -ENOSPC;
	if (got > 0)
		drain_default_queues(uplink, port);
	dvmq_soft_start(port);
	dvmq_soft_close(port);
	for (unsigned i = 0; i < got; i++)
		dvmq_queue_to_vmq(uplink->queues[b->queues[i]], port);
	if (b->n == 0) {
		b->n = got;
		b->accepted = b->rule_works = got > 0;
	}
	if (b->n > 0)
		forget_refusals(b);
	expect_steered(uplink, port, b->n > 0);
	start_free_queues(uplink);
	return ret;
}

static int set_soft_queues(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	struct dvmq_err err;
	int ret = 0;

	snprintf(b->reason, sizeof(b->reason), n > 0 ? "the default queues fill soft rings for it" : DVMQ_SOFT_INLINE);
	if (port->n_soft == n && !port->soft_late)
		return 0; /* rings are of the port, whichever uplink's default queues fill them */
	if (n > 0)
		ret = dvmq_soft_open(uplink, port, n, &err);
	else if (dvmq_soft_close(port) < 0)
		ret = dvmq_fail(&err, ETIMEDOUT, "a worker has not given back a soft queue yet");
	if (ret < 0)
		snprintf(b->reason, sizeof(b->reason), "%.250s", err.text);
	if (ret < 0 || n == 0)
		return ret;
	dvmq_soft_start(port);
	return 0;
}

unsigned dvmq_vmq_count(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	return is_software(uplink) ? port->n_soft : binding_of(uplink, port)->n;
}

int dvmq_vmq_set(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n)
{
	if (is_software(uplink))
		return set_soft_queues(uplink, port, n);
	return set_nic_queues(uplink, port, n);
}

/* ---- by demand ---- */

#define STEP_MS      1    /* for that long changes are made in one go */
#define RETRY_MS     1000 /* a rule that the NIC refused is tried again after that, then after twice as long ... */
#define RETRY_MAX_MS 300000

static struct dvmq_share_port wishes[DVMQ_MAX_PORTS]; /* of one uplink's planning */

/* Never reused, other than the port's index. */
static uint32_t id_of(const struct dvmq_port *port)
{
	return port->queues[0]->id;
}

/* Adds what the uplink's queues took since the last look to their ports'.  The need of its default queues, in cores. */
static double gather(struct dvmq_port *uplink)
{
	double by_default = 0;

	for (unsigned i = 0; i < uplink->n_queues; i++) {
		struct dvmq_queue *queue = uplink->queues[i];
		uint64_t bytes = atomic_load_explicit(&queue->counters.bytes, memory_order_relaxed);

		if (queue->kind == DVMQ_QUEUE_VMQ)
			binding_of(uplink, queue->dst)->bytes += bytes - queue->load->bytes;
		else
			by_default += queue->load->demand;
		queue->load->bytes = bytes;
	}
	return by_default;
}

static double need_of(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	double need = 0;

	for (unsigned i = 0; i < uplink->n_queues; i++)
		if (uplink->queues[i]->dst == port)
			need += uplink->queues[i]->load->demand;
	return need;
}

/* Bytes that default queues brought the port since the last look.  Of all uplinks: where there are two, each counts
 * both. */
static uint64_t new_by_default(struct dvmq_binding *b, uint64_t bytes)
{
	uint64_t added = bytes >= b->by_default_seen ? bytes - b->by_default_seen : bytes; /* cleared meanwhile */

	b->by_default_seen = bytes;
	return added;
}

/* Fills in `wishes`.  How many. */
static unsigned take_wishes(struct dvmq_port *uplink, double seconds, uint64_t now_ms, unsigned *ret_queues)
{
	double default_need = gather(uplink), default_bytes = 0;
	const struct dvmq_stats *stats = dvmq_stats_collect();
	double by_default[DVMQ_MAX_PORTS];
	unsigned n = 0;

	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *port = dvmq_ports[i];
		struct dvmq_binding *b = &uplink->steer->bindings[i];
		unsigned pairs, hand;

		if (port == NULL || port->type == DVMQ_PORT_UPLINK)
			continue;
		hand = port->by_hand > 0 ? port->by_hand : 0;
		pairs = port->type == DVMQ_PORT_VHOST ? atomic_load(&port->n_rxvq) : 1;
		by_default[n] = new_by_default(b, stats->port[i].by_default_bytes);
		default_bytes += by_default[n];
		wishes[n] = (struct dvmq_share_port){
		    .id = id_of(port),
		    .name = port->conf.name,
		    .bytes_per_s = (by_default[n] + b->bytes) / seconds,
		    .demand = need_of(uplink, port),
		    .holds = b->n,
		    .pairs = RTE_MAX(RTE_MAX(pairs, hand), 1u),
		    .min = port->by_hand >= 0 ? hand : port->conf.min,
		    .max = port->by_hand >= 0 ? hand : dvmq_conf_max(&port->conf),
		    .weight = port->conf.weight,
		    .late_ms = b->late_ms,
		    .bindable = port->conf.has_mac && now_ms >= b->retry_ms,
		};
		b->bytes = 0;
		n++;
	}
	for (unsigned i = 0; i < n && default_bytes > 0; i++)
		wishes[i].demand += default_need * by_default[i] / default_bytes;
	*ret_queues = uplink->n_queues - 1;
	return n;
}

static void tell(struct dvmq_port *uplink, struct dvmq_port *port, const struct dvmq_share_port *wish,
		 const struct dvmq_share_result *result)
{
	struct dvmq_binding *b = binding_of(uplink, port);

	if (is_software(uplink)) {
		dvmq_soft_tell(port, wish, result);
		return;
	}
	/* Every VM would like one: an idle queue costs nothing. */
	b->requested = RTE_MAX(result->wanted, RTE_MIN(wish->max, 1u));
	snprintf(b->why, sizeof(b->why), "%s", result->why);
}

static void share_queues(struct dvmq_port *uplink, uint64_t now_ms)
{
	struct dvmq_steer *steer = uplink->steer;
	struct dvmq_share_snapshot snapshot = {.now_ms = now_ms, .ports = wishes};
	double seconds = (now_ms - steer->shared_ms) / 1000.0;
	struct dvmq_share_plan plan;
	unsigned n = 0;

	if (!uplink->up || steer->n_shrink + steer->n_grow > 0 || now_ms == steer->shared_ms)
		return;
	if (is_software(uplink))
		snapshot.n_ports = dvmq_soft_wishes(wishes, seconds, now_ms, &snapshot.n_queues);
	else
		snapshot.n_ports = take_wishes(uplink, seconds, now_ms, &snapshot.n_queues);
	steer->shared_ms = now_ms;
	if (snapshot.n_ports == 0)
		return;
	if (dvmq_share_plan(steer->share, &snapshot, &plan) < 0) {
		dvmq_decide("refuse", uplink->conf.name, -1, -1, "out of memory for sharing out its queues");
		return;
	}
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK) {
			tell(uplink, dvmq_ports[i], &wishes[n], &plan.results[n]);
			n++;
		}
	while (steer->n_shrink < plan.n_changes &&
	       plan.changes[steer->n_shrink].to < plan.changes[steer->n_shrink].from)
		steer->n_shrink++;
	steer->n_grow = plan.n_changes - steer->n_shrink;
	steer->shrink = plan.changes;
	steer->grow = plan.changes + steer->n_shrink;
}

static void drop_plan(struct dvmq_port *uplink)
{
	uplink->steer->n_shrink = uplink->steer->n_grow = 0;
}

static struct dvmq_port *port_by_id(uint32_t id)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK && id_of(dvmq_ports[i]) == id)
			return dvmq_ports[i];
	return NULL;
}

static void give_nic_queues(struct dvmq_port *uplink, struct dvmq_port *port, const struct dvmq_share_change *change,
			    uint64_t now_ms)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	unsigned had = b->n;

	if (dvmq_vmq_set(uplink, port, change->to) < 0 && b->n == 0) {
		b->retry_ms = now_ms + RTE_MIN((uint64_t)RETRY_MS << RTE_MIN(b->refusals, 16u), (uint64_t)RETRY_MAX_MS);
		b->refusals++;
	}
	if (b->n == change->to)
		dvmq_decide(b->n > had ? "promote" : "demote", port->conf.name, -1, -1, change->reason);
	else
		dvmq_decide("refuse", port->conf.name, -1, -1, b->reason);
}

/* began_ms: now_ms by dvmq_now_ms() */
static void make_change(struct dvmq_port *uplink, const struct dvmq_share_change *change, uint64_t now_ms,
			uint64_t began_ms)
{
	struct dvmq_port *port = port_by_id(change->port);

	if (port == NULL)
		return; /* it was deleted since */
	if (is_software(uplink))
		dvmq_soft_give(port, change->to, change->reason, now_ms);
	else
		give_nic_queues(uplink, port, change, now_ms);
	binding_of(uplink, port)->late_ms = (double)(now_ms - uplink->steer->shared_ms + dvmq_now_ms() - began_ms);
}

/*
 * Who grows waits for a queue, and not until all others have shrunk: the most important one comes first.  There is
 * always room for one more soft ring.
 */
static const struct dvmq_share_change *next_change(struct dvmq_port *uplink)
{
	struct dvmq_steer *steer = uplink->steer;
	uint16_t queues[DVMQ_MAX_PAIRS];

	if (steer->n_grow > 0) {
		unsigned lacks = RTE_MIN(steer->grow->to - steer->grow->from, (unsigned)DVMQ_MAX_PAIRS);

		if (steer->n_shrink == 0 || is_software(uplink) || choose(uplink, queues, lacks) == lacks) {
			steer->n_grow--;
			return steer->grow++;
		}
	}
	steer->n_shrink--;
	return steer->shrink++;
}

/* An uplink whose changes are not all made; NULL: none. */
static struct dvmq_port *unfinished(void)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_steering(dvmq_ports[i]) && dvmq_ports[i]->steer->n_shrink + dvmq_ports[i]->steer->n_grow > 0)
			return dvmq_ports[i];
	return NULL;
}

/* Each waits for workers, so there is an end to it. */
bool dvmq_vmq_step(uint64_t now_ms)
{
	uint64_t began_ms = dvmq_now_ms();
	struct dvmq_port *uplink;

	while ((uplink = unfinished()) != NULL && dvmq_now_ms() - began_ms < STEP_MS)
		make_change(uplink, next_change(uplink), now_ms, began_ms);
	return uplink != NULL;
}

/* ---- isolated mode: what the NIC brings to the default queue at all ---- */

/* Makes the port's rule to the default queue if it is not there.  false: it is still not; told once. */
static bool admit(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	bool told = b->base_reason[0] != 0;
	struct dvmq_err err;

	if (!uplink->conf.isolated || !uplink->up)
		return true;
	if (!port->conf.has_mac)
		snprintf(b->base_reason, sizeof(b->base_reason),
			 "%s is isolated: of its frames only those for groups arrive", uplink->conf.name);
	else if (dvmq_flow_admit(uplink, port, &err) < 0)
		snprintf(b->base_reason, sizeof(b->base_reason),
			 "%s is isolated, without a rule to its default queue: %.100s", uplink->conf.name, err.text);
	else
		b->base_reason[0] = 0;
	if (b->base_reason[0] != 0 && !told)
		DVMQ_LOG(WARNING, "port %s: %s%s", port->conf.name, b->base_reason,
			 port->conf.has_mac ? "; tried again" : "; set mac = in its section");
	return b->base_reason[0] == 0;
}

/* Removes it, or with port NULL that of group frames. */
static void expel(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	struct dvmq_err err;

	if (dvmq_flow_expel(uplink, port, &err) < 0)
		DVMQ_LOG(ERR, "%s on %s: to the default queue: %s; it counts as gone",
			 port != NULL ? port->conf.name : "group frames", uplink->conf.name, err.text);
}

static void audit_admission(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	char reason[DVMQ_BALANCE_REASON];

	if (b->base.flow != NULL || !port->conf.has_mac || !admit(uplink, port))
		return;
	b->repairs++;
	snprintf(reason, sizeof(reason), "%s: it has a rule to the default queue now", uplink->conf.name);
	dvmq_decide("repair", port->conf.name, -1, -1, reason);
}

/* ---- audit ---- */

#define ASTRAY_FRAMES 8   /* fewer may have been on their way while the rule was made */
#define BACK_OFF_MAX  6   /* 5 s, 10, ... 320 */

static void repair(struct dvmq_port *uplink, struct dvmq_port *port, uint64_t now_ms)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	unsigned n = b->n;
	char reason[DVMQ_BALANCE_REASON];

	snprintf(reason, sizeof(reason), "%s: its frames come by the default queue: the rule is made anew",
		 uplink->conf.name);
	dvmq_decide("repair", port->conf.name, -1, -1, reason);
	b->repairs++;
	b->rule_works = false;
	b->repair_ms = now_ms + ((uint64_t)DVMQ_AUDIT_MS << RTE_MIN(b->fruitless, (unsigned)BACK_OFF_MAX));
	b->fruitless++;
	if (dvmq_vmq_set(uplink, port, 0) == 0)
		dvmq_vmq_set(uplink, port, n);
}

static void audit(struct dvmq_port *uplink, struct dvmq_port *port, uint64_t now_ms)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	uint64_t astray = atomic_load_explicit(&uplink->astray[port->index].frames, memory_order_relaxed);
	uint64_t own = own_packets(uplink, port) - b->own_seen;

	astray -= b->astray_seen;
	if (b->n == 0)
		return;
	if (own > astray) { /* some drivers put what no rule takes into any queue: a few of its own prove nothing */
		b->fruitless = 0;
		audit_from_here(uplink, port);
	} else if (astray >= ASTRAY_FRAMES && now_ms >= b->repair_ms) {
		repair(uplink, port, now_ms);
	}
}

void dvmq_vmq_audit(uint64_t now_ms)
{
	for (unsigned u = 0; u < DVMQ_MAX_PORTS; u++) {
		struct dvmq_port *uplink = dvmq_ports[u];
		bool admits;
		struct dvmq_err err;

		if (!is_steering(uplink) || uplink->steer->ops->attach == NULL)
			continue;
		admits = uplink->conf.isolated && uplink->up;
		if (admits && uplink->steer->groups.flow == NULL && dvmq_flow_admit(uplink, NULL, &err) == 0)
			DVMQ_LOG(INFO, "uplink %s: it has a rule for group frames now", uplink->conf.name);
		for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
			if (dvmq_ports[i] == NULL || dvmq_ports[i]->type == DVMQ_PORT_UPLINK)
				continue;
			if (admits)
				audit_admission(uplink, dvmq_ports[i]);
			audit(uplink, dvmq_ports[i], now_ms);
		}
	}
}

/* ---- ports that come and go ---- */

/* What it gets by itself. */
static void assign(struct dvmq_port *uplink, struct dvmq_port *port)
{
	struct dvmq_binding *b = binding_of(uplink, port);

	if (uplink->steer->ops->bind != NULL) {
		uplink->steer->ops->bind(uplink, port, b);
		return;
	}
	b->requested = 1;
	if (port->conf.has_mac && b->n == 0)
		dvmq_vmq_set(uplink, port, 1);
	else if (!port->conf.has_mac)
		snprintf(b->reason, sizeof(b->reason), "no mac = in its section: no rule can name it");
}

/* Rules that would take the new port's frames, too, go before there are any. */
static void end_clashes(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *other = dvmq_ports[i];
		struct dvmq_err err;

		if (other == NULL || other->type == DVMQ_PORT_UPLINK || binding_of(uplink, other)->n == 0 ||
		    !clashes(uplink, other, port))
			continue;
		if (dvmq_vmq_set(uplink, other, 0) == 0 && check_clash(uplink, other, &err) < 0)
			snprintf(binding_of(uplink, other)->reason, sizeof(binding_of(uplink, other)->reason), "%.250s",
				 err.text);
	}
}

static void bind_port(struct dvmq_port *uplink, struct dvmq_port *port)
{
	if (uplink->steer->ops->attach != NULL)
		end_clashes(uplink, port);
	*binding_of(uplink, port) = (struct dvmq_binding){0};
	admit(uplink, port);
	assign(uplink, port);
}

/* Who was refused a rule because of the port that goes is not kept waiting for its next try. */
static void forgive_clashes(struct dvmq_port *uplink, const struct dvmq_port *port)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && clashes(uplink, dvmq_ports[i], port))
			forget_refusals(binding_of(uplink, dvmq_ports[i]));
}

static void unbind_port(struct dvmq_port *uplink, struct dvmq_port *port)
{
	if (uplink->steer->ops->unbind != NULL)
		uplink->steer->ops->unbind(uplink, port);
	else if (binding_of(uplink, port)->n > 0)
		dvmq_vmq_set(uplink, port, 0);
	if (uplink->steer->ops->attach != NULL)
		forgive_clashes(uplink, port);
	expel(uplink, port);
}

void dvmq_vmq_bind(struct dvmq_port *port)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_steering(dvmq_ports[i]))
			bind_port(dvmq_ports[i], port);
}

void dvmq_vmq_unbind(struct dvmq_port *port)
{
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_steering(dvmq_ports[i]))
			unbind_port(dvmq_ports[i], port);
}

void dvmq_vmq_close(struct dvmq_port *uplink)
{
	if (!is_steering(uplink))
		return;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK)
			unbind_port(uplink, dvmq_ports[i]);
	expel(uplink, NULL);
}

/* ---- a device that stops ---- */

/* The driver may have lost the rules, or refuse to remove them: they are gone with the stop. */
static void suspend(struct dvmq_port *uplink, struct dvmq_port *port)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	struct dvmq_err ignored;

	b->resume = b->n;
	if (b->n > 0) {
		expect_steered(uplink, port, false);
		uplink->steer->ops->detach(uplink, port, &ignored);
	}
	dvmq_flow_expel(uplink, port, &ignored);
	for (unsigned i = 0; i < b->n; i++)
		make_default(uplink->queues[b->queues[i]]);
	b->rule.flow = NULL;
	b->n = 0;
	b->accepted = false;
	snprintf(b->reason, sizeof(b->reason), "the device of %s does not run", uplink->conf.name);
}

static void resume(struct dvmq_port *uplink, struct dvmq_port *port, bool had)
{
	struct dvmq_binding *b = binding_of(uplink, port);

	if (had && b->resume > 0)
		dvmq_vmq_set(uplink, port, b->resume);
	else if (!had && b->resume == 0 && port->by_hand < 0)
		assign(uplink, port);
}

void dvmq_vmq_suspend(struct dvmq_port *uplink)
{
	struct dvmq_err ignored;

	if (!is_steering(uplink) || uplink->steer->ops->attach == NULL)
		return;
	drop_plan(uplink);
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK)
			suspend(uplink, dvmq_ports[i]);
	dvmq_flow_expel(uplink, NULL, &ignored);
}

void dvmq_vmq_resume(struct dvmq_port *uplink)
{
	struct dvmq_err err;

	if (!is_steering(uplink) || uplink->steer->ops->attach == NULL)
		return;
	if (uplink->steer->ops->probe != NULL && uplink->steer->ops->probe(uplink, &err) < 0)
		DVMQ_LOG(WARNING, "uplink %s: after its reset: %s", uplink->conf.name, err.text);
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK)
			admit(uplink, dvmq_ports[i]);
	/* Whoever had queues comes first. */
	for (unsigned pass = 0; pass < 2; pass++)
		for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
			if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_UPLINK)
				resume(uplink, dvmq_ports[i], pass == 0);
}

/* ---- by command ---- */

/* Static queues are set outside. */
static bool can_change(const struct dvmq_port *uplink)
{
	return is_steering(uplink) && (is_software(uplink) || uplink->steer->ops->attach != NULL);
}

static int give_by_hand(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n, struct dvmq_err *err)
{
	struct dvmq_binding *b = binding_of(uplink, port);
	unsigned has = dvmq_vmq_count(uplink, port);
	int ret = 0;

	b->requested = n;
	if (has == n)
		return 0;
	if (n > 0 && uplink->steer->ops->attach != NULL && !port->conf.has_mac)
		return dvmq_fail(err, EINVAL, "port %s on %s: no mac = in its section: no rule can name it",
				 port->conf.name, uplink->conf.name);
	ret = dvmq_vmq_set(uplink, port, n);
	dvmq_decide(ret < 0   ? "refuse"
		    : n > has ? "promote"
			      : "demote",
		    port->conf.name, -1, -1, ret < 0 ? b->reason : "set by the operator");
	if (ret == 0)
		return 0;
	return dvmq_fail(err, -ret, "port %s on %s: %u of %u queues: %s", port->conf.name, uplink->conf.name,
			 dvmq_vmq_count(uplink, port), n, b->reason);
}

int dvmq_set_port_vmq(const char *name, int n, struct dvmq_err *err)
{
	struct dvmq_port *port = dvmq_port_find(name);
	unsigned uplinks = 0;
	int ret = 0;

	if (port == NULL)
		return dvmq_fail(err, ENOENT, "no port %s; \"show port all\" lists them", name);
	if (port->type == DVMQ_PORT_UPLINK)
		return dvmq_fail(err, EINVAL, "%s is an uplink; queues are given to ports", name);
	if (n > (int)port->conf.queues)
		return dvmq_fail(err, EINVAL, "vmq: %d is more than the %u queue pair%s of port %s", n,
				 port->conf.queues, port->conf.queues == 1 ? "" : "s", name);
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		uplinks += can_change(dvmq_ports[i]);
	if (uplinks == 0)
		return dvmq_fail(err, ENOTSUP, "port %s: no uplink can give it queues: steering = static, or no uplink",
				 name);
	port->by_hand = n;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++) {
		struct dvmq_port *uplink = dvmq_ports[i];

		if (!can_change(uplink))
			continue;
		drop_plan(uplink); /* made before the operator spoke */
		if (n < 0)
			assign(uplink, port);
		else if (ret == 0)
			ret = give_by_hand(uplink, port, n, err);
	}
	return ret;
}

bool dvmq_vmq_tick(uint64_t now_ms)
{
	bool shared = false;

	dvmq_soft_tick(now_ms);
	if (dvmq_soft_uplink() != NULL && dvmq_soft_to_share()) {
		share_queues(dvmq_soft_uplink(), now_ms);
		shared = !dvmq_measure_idle();
	}
	if (dvmq_measure_idle())
		return false;
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (is_steering(dvmq_ports[i]) && dvmq_ports[i]->steer->ops->attach != NULL) {
			share_queues(dvmq_ports[i], now_ms);
			shared = true;
		}
	return shared;
}
