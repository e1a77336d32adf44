/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A NIC that sorts, made of software: preloaded into dvmqd it turns each memif
 * device into one with many RX queues and rte_flow.
 *
 *                         +-- queue 0 <- what no rule takes, unless it is isolated: then nobody has it
 *   peer ── memif ring 0 ─+-- queue n <- dst MAC (and VLAN), QUEUE n
 *                         +-- queues  <- dst MAC (and VLAN), RSS over several, by Toeplitz over the 5-tuple
 *
 * The MAC has a mask.  Rules of priority 0 go before those of priority 1, and in each the older one.  Two rules with
 * the same match and priority are refused.
 *
 * Whoever polls a queue also takes what waits in the memif, if nobody else does at this moment, and sorts it
 * into the rings behind all queues: so the frames of one destination keep their order, a queue that is polled by
 * nobody fills, and what does not fit is missed.  As with NICs, rules vanish when the device stops, and a reset
 * loses what waits in its queues; the link stays up meanwhile.
 *
 * Environment: SORTER=DIR.  DIR/nic is a FIFO that takes one command a line; DIR/nic.log tells of rules as they come
 * and go and of isolation, and has "done COMMAND" when a command has been obeyed:
 *
 *   rules N         at most N rules: one more is refused when it is created, with ENOSPC
 *   refuse [TEXT]   any rule is refused when it is validated, with that text; without a text none
 *   refuse-rss [TEXT]  the same for rules with several queues
 *   deaf, hear      rules are accepted, but take no frame; they do again
 *   delay N         a rule takes frames only after N more have come
 *   refuse-base [TEXT]  the same for rules of priority 1
 *   lose MAC        its rules of priority 0 take no frame from now on
 *   forget MAC      the same, and cannot be destroyed any more
 *   reset           the driver asks for a reset (RTE_ETH_EVENT_INTR_RESET)
 *   host            says "host N": frames that it kept from the switch so far, being isolated
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_ip.h>
#include <rte_ring.h>
#include <rte_spinlock.h>
#include <rte_tcp.h>
#include <rte_thash.h>

#define QUEUES 64
#define RULES  128
#define SLOTS  1024 /* of a queue's ring */
#define PULL   32   /* frames that are sorted at a time: fewer than a poll takes, so that the wire waits and no ring */
#define RETA   128

struct rte_flow {
	bool used, gone, forgotten;
	struct rte_ether_addr mac, mask;
	uint32_t priority;
	bool has_vlan;
	uint16_t vlan;
	uint64_t from; /* of nic->sorted on */
	uint16_t n, queues[QUEUES];
};

struct queue {
	struct nic *nic;
	struct rte_ring *ring; /* fed under the lock, emptied by whoever polls the queue */
};

static struct nic {
	bool known, resets, started, isolated;
	void *wire; /* memif's queue 0 */
	eth_rx_burst_t take;
	uint64_t sorted, missed, host;
	struct rte_flow rules[RULES];
	struct queue queues[QUEUES];
	void *data[RTE_MAX_QUEUES_PER_PORT]; /* the queues, as ethdev wants them */
	rte_eth_dev_cb_fn on_reset;
	void *reset_arg;
} nics[RTE_MAX_ETHPORTS];

static struct {
	unsigned rules, delay;
	bool deaf;
	char refuse[128], refuse_rss[128], refuse_base[128];
} knobs = {.rules = RULES};

static rte_spinlock_t lock = RTE_SPINLOCK_INITIALIZER; /* rules, knobs, the wires; not held for long */
static pthread_mutex_t callbacks = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;

/* DPDK's own function of that name. */
#define REAL(function) ((typeof(&function))real(#function))

static void *real(const char *name)
{
	void *function = dlsym(RTLD_NEXT, name);

	if (function == NULL)
		abort();
	return function;
}

static void __attribute__((format(printf, 1, 2))) tell(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vdprintf(log_fd, format, args);
	va_end(args);
}

static struct nic *nic_of(uint16_t port)
{
	struct rte_eth_dev_info info;

	if (port >= RTE_MAX_ETHPORTS)
		return NULL;
	if (!nics[port].known && REAL(rte_eth_dev_info_get)(port, &info) == 0 &&
	    strcmp(info.driver_name, "net_memif") == 0)
		nics[port] = (struct nic){.known = true};
	return nics[port].known ? &nics[port] : NULL;
}

/* ---- sorting ---- */

static bool matches(const struct rte_flow *rule, const struct rte_ether_addr *mac)
{
	for (unsigned i = 0; i < RTE_ETHER_ADDR_LEN; i++)
		if ((mac->addr_bytes[i] & rule->mask.addr_bytes[i]) != rule->mac.addr_bytes[i])
			return false;
	return true;
}

static bool takes(const struct nic *nic, const struct rte_flow *rule, const struct rte_ether_hdr *eth)
{
	const struct rte_vlan_hdr *tag = (const struct rte_vlan_hdr *)(eth + 1);

	if (!rule->used || rule->gone || knobs.deaf || nic->sorted < rule->from || !matches(rule, &eth->dst_addr))
		return false;
	return !rule->has_vlan || (eth->ether_type == RTE_BE16(RTE_ETHER_TYPE_VLAN) &&
				   (rte_be_to_cpu_16(tag->vlan_tci) & 0xfff) == rule->vlan);
}

/* Over addresses and ports; over addresses for other protocols and fragments; 0 for what is not IPv4. */
static uint32_t hash(const struct rte_mbuf *m)
{
	static const uint8_t key[40] = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
					0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
					0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
					0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa}; /* Microsoft's */
	const struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, const struct rte_ether_hdr *);
	const struct rte_vlan_hdr *tag = (const struct rte_vlan_hdr *)(eth + 1);
	const struct rte_ipv4_hdr *ip = (const struct rte_ipv4_hdr *)(eth + 1);
	rte_be16_t type = eth->ether_type;
	const rte_be16_t *ports;
	uint32_t tuple[3], words = 2;

	if (type == RTE_BE16(RTE_ETHER_TYPE_VLAN)) {
		type = tag->eth_proto;
		ip = (const struct rte_ipv4_hdr *)(tag + 1);
	}
	ports = (const rte_be16_t *)(ip + 1);
	if (type != RTE_BE16(RTE_ETHER_TYPE_IPV4) || m->data_len < (const uint8_t *)(ports + 2) - (const uint8_t *)eth)
		return 0;
	tuple[0] = rte_be_to_cpu_32(ip->src_addr);
	tuple[1] = rte_be_to_cpu_32(ip->dst_addr);
	if ((ip->next_proto_id == IPPROTO_UDP || ip->next_proto_id == IPPROTO_TCP) && ip->version_ihl == 0x45 &&
	    (ip->fragment_offset & RTE_BE16(RTE_IPV4_HDR_MF_FLAG | RTE_IPV4_HDR_OFFSET_MASK)) == 0)
		tuple[words++] = (uint32_t)rte_be_to_cpu_16(ports[0]) << 16 | rte_be_to_cpu_16(ports[1]);
	return rte_softrss(tuple, words, key);
}

/* NULL: it is not for the switch. */
static struct queue *queue_for(struct nic *nic, const struct rte_mbuf *m)
{
	const struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, const struct rte_ether_hdr *);
	const struct rte_flow *best = NULL;

	for (unsigned i = 0; i < RULES; i++) {
		const struct rte_flow *rule = &nic->rules[i];

		if ((best == NULL || rule->priority < best->priority) && takes(nic, rule, eth))
			best = rule;
	}
	if (best != NULL)
		return &nic->queues[best->queues[best->n == 1 ? 0 : hash(m) % RETA % best->n]];
	return nic->isolated ? NULL : &nic->queues[0];
}

static void pull(struct nic *nic)
{
	struct rte_mbuf *burst[PULL];
	uint16_t n = nic->take(nic->wire, burst, PULL);

	for (uint16_t i = 0; i < n; i++, nic->sorted++) {
		struct queue *queue = queue_for(nic, burst[i]);

		if (queue != NULL && rte_ring_enqueue(queue->ring, burst[i]) == 0)
			continue;
		*(queue != NULL ? &nic->missed : &nic->host) += 1;
		rte_pktmbuf_free(burst[i]);
	}
}

static uint16_t receive(void *data, struct rte_mbuf **packets, uint16_t n)
{
	struct queue *queue = data;

	if (rte_spinlock_trylock(&lock)) {
		pull(queue->nic);
		rte_spinlock_unlock(&lock);
	}
	return rte_ring_dequeue_burst(queue->ring, (void **)packets, n, NULL);
}

static uint32_t count(void *data)
{
	return rte_ring_count(((struct queue *)data)->ring);
}

/* ---- rules ---- */

static int refuse(struct rte_flow_error *error, int code, const char *message)
{
	tell("refused %s\n", message);
	return rte_flow_error_set(error, code, RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL, message);
}

static int read_items(const struct rte_flow_item *item, struct rte_flow *rule)
{
	const struct rte_flow_item_eth *eth = item->spec, *mask = item->mask;
	const struct rte_flow_item_vlan *vlan;

	if (item->type != RTE_FLOW_ITEM_TYPE_ETH || eth == NULL || mask == NULL)
		return -ENOTSUP;
	rule->mac = eth->hdr.dst_addr;
	rule->mask = mask->hdr.dst_addr;
	item++;
	if (item->type == RTE_FLOW_ITEM_TYPE_VLAN) {
		vlan = item->spec;
		rule->has_vlan = true;
		rule->vlan = rte_be_to_cpu_16(vlan->hdr.vlan_tci) & 0xfff;
		item++;
	}
	return item->type == RTE_FLOW_ITEM_TYPE_END ? 0 : -ENOTSUP;
}

static int read_action(const struct rte_flow_action *action, struct rte_flow *rule)
{
	const struct rte_flow_action_queue *queue = action->conf;
	const struct rte_flow_action_rss *rss = action->conf;

	if (action->type == RTE_FLOW_ACTION_TYPE_QUEUE) {
		rule->n = 1;
		rule->queues[0] = queue->index;
	} else if (action->type == RTE_FLOW_ACTION_TYPE_RSS && rss->queue_num > 0 && rss->queue_num <= QUEUES) {
		rule->n = rss->queue_num;
		memcpy(rule->queues, rss->queue, rule->n * sizeof(rule->queues[0]));
	} else {
		return -ENOTSUP;
	}
	for (unsigned i = 0; i < rule->n; i++)
		if (rule->queues[i] >= QUEUES)
			return -EINVAL;
	return 0;
}

static int read_rule(const struct rte_flow_attr *attr, const struct rte_flow_item *items,
		     const struct rte_flow_action *actions, struct rte_flow *rule, struct rte_flow_error *error)
{
	*rule = (struct rte_flow){.used = true, .priority = attr->priority};
	if (read_items(items, rule) < 0)
		return refuse(error, ENOTSUP, "a destination MAC, and perhaps a VLAN, is all that can be matched");
	if (read_action(actions, rule) < 0)
		return refuse(error, ENOTSUP, "a queue, or RSS over some, is all that can be done");
	if (knobs.refuse[0] != 0)
		return refuse(error, EINVAL, knobs.refuse);
	if (rule->n > 1 && knobs.refuse_rss[0] != 0)
		return refuse(error, EINVAL, knobs.refuse_rss);
	if (rule->priority > 0 && knobs.refuse_base[0] != 0)
		return refuse(error, EINVAL, knobs.refuse_base);
	return 0;
}

int rte_flow_validate(uint16_t port, const struct rte_flow_attr *attr, const struct rte_flow_item pattern[],
		      const struct rte_flow_action actions[], struct rte_flow_error *error)
{
	struct rte_flow rule;

	if (nic_of(port) == NULL)
		return REAL(rte_flow_validate)(port, attr, pattern, actions, error);
	return read_rule(attr, pattern, actions, &rule, error);
}

static void tell_rule(const char *what, const struct rte_flow *rule)
{
	char queues[QUEUES * 4] = "";

	for (unsigned i = 0, used = 0; i < rule->n; i++)
		used += (unsigned)snprintf(queues + used, sizeof(queues) - used, " %u", rule->queues[i]);
	tell("%s " RTE_ETHER_ADDR_PRT_FMT " vlan %u queues%s%s\n", what, RTE_ETHER_ADDR_BYTES(&rule->mac), rule->vlan,
	     queues, rule->priority > 0 ? " below" : "");
}

static struct rte_flow *insert(struct nic *nic, const struct rte_flow *rule)
{
	struct rte_flow *free_one = NULL;
	unsigned used = 0;

	rte_spinlock_lock(&lock);
	for (unsigned i = RULES; i-- > 0;) {
		used += nic->rules[i].used;
		if (!nic->rules[i].used)
			free_one = &nic->rules[i];
	}
	if (used >= knobs.rules)
		free_one = NULL;
	if (free_one != NULL) {
		*free_one = *rule;
		free_one->from = nic->sorted + knobs.delay;
	}
	rte_spinlock_unlock(&lock);
	return free_one;
}

static bool is_there(const struct nic *nic, const struct rte_flow *rule)
{
	for (unsigned i = 0; i < RULES; i++) {
		const struct rte_flow *other = &nic->rules[i];

		if (other->used && !other->forgotten && other->priority == rule->priority &&
		    other->vlan == rule->vlan && rte_is_same_ether_addr(&other->mac, &rule->mac) &&
		    rte_is_same_ether_addr(&other->mask, &rule->mask))
			return true;
	}
	return false;
}

struct rte_flow *rte_flow_create(uint16_t port, const struct rte_flow_attr *attr, const struct rte_flow_item pattern[],
				 const struct rte_flow_action actions[], struct rte_flow_error *error)
{
	struct nic *nic = nic_of(port);
	struct rte_flow rule, *flow;

	if (nic == NULL)
		return REAL(rte_flow_create)(port, attr, pattern, actions, error);
	if (read_rule(attr, pattern, actions, &rule, error) < 0)
		return NULL;
	if (is_there(nic, &rule)) {
		refuse(error, EEXIST, "there is a rule of that match and priority");
		return NULL;
	}
	flow = insert(nic, &rule);
	if (flow == NULL)
		refuse(error, ENOSPC, "the table of rules is full");
	else
		tell_rule("rule", flow);
	return flow;
}

int rte_flow_destroy(uint16_t port, struct rte_flow *flow, struct rte_flow_error *error)
{
	if (nic_of(port) == NULL)
		return REAL(rte_flow_destroy)(port, flow, error);
	if (flow == NULL || !flow->used || flow->forgotten)
		return refuse(error, ENOENT, "there is no such rule");
	rte_spinlock_lock(&lock);
	flow->used = false;
	rte_spinlock_unlock(&lock);
	tell_rule("destroyed", flow);
	return 0;
}

int rte_flow_isolate(uint16_t port, int set, struct rte_flow_error *error)
{
	struct nic *nic = nic_of(port);

	if (nic == NULL)
		return REAL(rte_flow_isolate)(port, set, error);
	if (nic->started)
		return refuse(error, EBUSY, "it must be stopped first");
	nic->isolated = set;
	return 0;
}

/* Frames that were lost with the rings' contents. */
static unsigned forget_all(struct nic *nic)
{
	unsigned lost = 0;
	void *m;

	rte_spinlock_lock(&lock);
	memset(nic->rules, 0, sizeof(nic->rules));
	for (unsigned i = 0; i < QUEUES; i++) {
		while (nic->queues[i].ring != NULL && rte_ring_dequeue(nic->queues[i].ring, &m) == 0) {
			rte_pktmbuf_free(m);
			lost++;
		}
	}
	rte_spinlock_unlock(&lock);
	return lost;
}

/* ---- the device ---- */

int rte_eth_dev_info_get(uint16_t port, struct rte_eth_dev_info *info)
{
	int ret = REAL(rte_eth_dev_info_get)(port, info);

	if (ret < 0 || nic_of(port) == NULL)
		return ret;
	info->max_rx_queues = QUEUES;
	info->flow_type_rss_offloads = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
	info->reta_size = RETA;
	info->hash_key_size = 40;
	return 0;
}

int rte_eth_rx_queue_info_get(uint16_t port, uint16_t queue, struct rte_eth_rxq_info *info)
{
	if (nic_of(port) == NULL)
		return REAL(rte_eth_rx_queue_info_get)(port, queue, info);
	*info = (struct rte_eth_rxq_info){.nb_desc = SLOTS};
	return 0;
}

int rte_eth_stats_get(uint16_t port, struct rte_eth_stats *stats)
{
	int ret = REAL(rte_eth_stats_get)(port, stats);

	if (ret == 0 && nic_of(port) != NULL)
		stats->imissed += nics[port].missed;
	return ret;
}

/* Takes the place of memif's RX in what rte_eth_rx_burst() looks at. */
static int put_in_place(uint16_t port, struct nic *nic)
{
	struct rte_eth_fp_ops *ops = &rte_eth_fp_ops[port];
	char name[RTE_RING_NAMESIZE];

	nic->wire = ops->rxq.data[0];
	nic->take = ops->rx_pkt_burst;
	for (unsigned i = 0; i < QUEUES; i++) {
		struct queue *queue = &nic->queues[i];

		snprintf(name, sizeof(name), "sorter_%u_%u", port, i);
		queue->nic = nic;
		queue->ring = rte_ring_lookup(name);
		if (queue->ring == NULL)
			queue->ring = rte_ring_create(name, SLOTS, SOCKET_ID_ANY,
						      RING_F_SP_ENQ | RING_F_SC_DEQ | RING_F_EXACT_SZ);
		if (queue->ring == NULL)
			return -ENOMEM;
		nic->data[i] = queue;
	}
	ops->rxq.data = nic->data;
	ops->rx_pkt_burst = receive;
	ops->rx_queue_count = count;
	return 0;
}

static void start_to_obey(void);

int rte_eth_dev_start(uint16_t port)
{
	struct nic *nic = nic_of(port);
	int ret;

	if (nic != NULL && nic->resets) {
		nic->resets = false;
		nic->started = true;
		tell("started%s\n", nic->isolated ? " isolated" : "");
		return 0;
	}
	ret = REAL(rte_eth_dev_start)(port);
	if (ret < 0 || nic == NULL)
		return ret;
	start_to_obey();
	nic->started = true;
	tell("started%s\n", nic->isolated ? " isolated" : "");
	return put_in_place(port, nic);
}

int rte_eth_dev_stop(uint16_t port)
{
	struct nic *nic = nic_of(port);
	int ret = REAL(rte_eth_dev_stop)(port);

	if (nic != NULL) {
		forget_all(nic);
		nic->started = false;
	}
	return ret;
}

int rte_eth_dev_close(uint16_t port)
{
	nics[port].known = false;
	return REAL(rte_eth_dev_close)(port);
}

/* Until it is started again, what configures it finds it done. */
int rte_eth_dev_reset(uint16_t port)
{
	struct nic *nic = nic_of(port);

	if (nic == NULL)
		return REAL(rte_eth_dev_reset)(port);
	tell("reset, lost %u\n", forget_all(nic));
	nic->resets = true;
	nic->started = nic->isolated = false;
	return 0;
}

int rte_eth_dev_configure(uint16_t port, uint16_t n_rxq, uint16_t n_txq, const struct rte_eth_conf *conf)
{
	if (nic_of(port) != NULL && nics[port].resets)
		return 0;
	return REAL(rte_eth_dev_configure)(port, n_rxq, n_txq, conf);
}

int rte_eth_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t n, unsigned int socket,
			   const struct rte_eth_rxconf *conf, struct rte_mempool *pool)
{
	if (nic_of(port) != NULL && nics[port].resets)
		return 0;
	return REAL(rte_eth_rx_queue_setup)(port, queue, n, socket, conf, pool);
}

int rte_eth_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t n, unsigned int socket,
			   const struct rte_eth_txconf *conf)
{
	if (nic_of(port) != NULL && nics[port].resets)
		return 0;
	return REAL(rte_eth_tx_queue_setup)(port, queue, n, socket, conf);
}

int rte_eth_dev_callback_register(uint16_t port, enum rte_eth_event_type event, rte_eth_dev_cb_fn function, void *arg)
{
	if (event == RTE_ETH_EVENT_INTR_RESET && nic_of(port) != NULL) {
		pthread_mutex_lock(&callbacks);
		nics[port].on_reset = function;
		nics[port].reset_arg = arg;
		pthread_mutex_unlock(&callbacks);
	}
	return REAL(rte_eth_dev_callback_register)(port, event, function, arg);
}

int rte_eth_dev_callback_unregister(uint16_t port, enum rte_eth_event_type event, rte_eth_dev_cb_fn function, void *arg)
{
	if (event == RTE_ETH_EVENT_INTR_RESET && nic_of(port) != NULL) {
		pthread_mutex_lock(&callbacks);
		nics[port].on_reset = NULL;
		pthread_mutex_unlock(&callbacks);
	}
	return REAL(rte_eth_dev_callback_unregister)(port, event, function, arg);
}

/* ---- commands ---- */

static void raise_reset(void)
{
	pthread_mutex_lock(&callbacks);
	for (uint16_t port = 0; port < RTE_MAX_ETHPORTS; port++)
		if (nics[port].known && nics[port].on_reset != NULL)
			nics[port].on_reset(port, RTE_ETH_EVENT_INTR_RESET, nics[port].reset_arg, NULL);
	pthread_mutex_unlock(&callbacks);
}

static void lose(const char *text, bool forget)
{
	struct rte_ether_addr mac;

	if (rte_ether_unformat_addr(text, &mac) < 0)
		abort();
	rte_spinlock_lock(&lock);
	for (unsigned i = 0; i < RTE_MAX_ETHPORTS * RULES; i++) {
		struct rte_flow *rule = &nics[i / RULES].rules[i % RULES];

		if (rule->used && rule->priority == 0 && rte_is_same_ether_addr(&rule->mac, &mac)) {
			rule->gone = true;
			rule->forgotten = forget;
		}
	}
	rte_spinlock_unlock(&lock);
}

static void tell_host(void)
{
	uint64_t frames = 0;

	rte_spinlock_lock(&lock);
	for (unsigned port = 0; port < RTE_MAX_ETHPORTS; port++)
		frames += nics[port].host;
	rte_spinlock_unlock(&lock);
	tell("host %" PRIu64 "\n", frames);
}

static void obey(const char *command, const char *rest)
{
	if (strcmp(command, "rules") == 0)
		knobs.rules = (unsigned)atoi(rest);
	else if (strcmp(command, "delay") == 0)
		knobs.delay = (unsigned)atoi(rest);
	else if (strcmp(command, "refuse") == 0)
		snprintf(knobs.refuse, sizeof(knobs.refuse), "%s", rest);
	else if (strcmp(command, "refuse-rss") == 0)
		snprintf(knobs.refuse_rss, sizeof(knobs.refuse_rss), "%s", rest);
	else if (strcmp(command, "refuse-base") == 0)
		snprintf(knobs.refuse_base, sizeof(knobs.refuse_base), "%s", rest);
	else if (strcmp(command, "deaf") == 0 || strcmp(command, "hear") == 0)
		knobs.deaf = command[0] == 'd';
	else if (strcmp(command, "lose") == 0 || strcmp(command, "forget") == 0)
		lose(rest, command[0] == 'f');
	else if (strcmp(command, "reset") == 0)
		raise_reset();
	else if (strcmp(command, "host") == 0)
		tell_host();
	else
		abort();
}

static void *obey_all(void *fifo)
{
	char *line = NULL, *rest;
	size_t size = 0;

	while (getline(&line, &size, fifo) > 0) {
		rest = line;
		strsep(&rest, " \n");
		if (rest != NULL)
			rest[strcspn(rest, "\n")] = 0;
		obey(line, rest != NULL ? rest : "");
		tell("done %s\n", line);
	}
	return NULL;
}

static void start_to_obey(void)
{
	const char *dir = getenv("SORTER");
	char path[256];
	pthread_t thread;
	FILE *fifo;

	if (dir == NULL || log_fd >= 0)
		return;
	snprintf(path, sizeof(path), "%s/nic.log", dir);
	log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	snprintf(path, sizeof(path), "%s/nic", dir);
	fifo = fopen(path, "r+e"); /* with a writer of its own, it has no end */
	if (fifo != NULL) /* one thread reads; with a lock that it holds all the time, exit() would wait for it */
		__fsetlocking(fifo, FSETLOCKING_BYCALLER);
	if (log_fd < 0 || fifo == NULL || pthread_create(&thread, NULL, obey_all, fifo) != 0)
		abort();
	pthread_detach(thread);
}
