/* SPDX-License-Identifier: BSD-3-Clause */
/* The keys of a port: their values, what goes together in one port, and what two ports may not share. */
#include <dvmq/conf.h>

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <rte_cfgfile.h>
#include <rte_common.h>

#include "conf_keys.h"

#define WEIGHT_DEFAULT 100
#define WEIGHT_MAX     10000
#define VLAN_MAX       4094

static const char *const steering_names[] = {
    [DVMQ_STEER_AUTO] = "auto",	    [DVMQ_STEER_FLOW] = "flow",		[DVMQ_STEER_VMDQ] = "vmdq",
    [DVMQ_STEER_STATIC] = "static", [DVMQ_STEER_SOFTWARE] = "software",
};

static const char *const policy_names[] = {
    [DVMQ_POLICY_BALANCED] = "balanced",
    [DVMQ_POLICY_LATENCY] = "latency",
    [DVMQ_POLICY_FRUGAL] = "frugal",
};

static const char *const type_names[] = {
    [DVMQ_PORT_UPLINK] = "uplink",
    [DVMQ_PORT_VHOST] = "vhost",
    [DVMQ_PORT_ETHDEV] = "ethdev",
};

const char *dvmq_steering_name(enum dvmq_steering steering)
{
	return steering_names[steering];
}

const char *dvmq_policy_name(enum dvmq_policy policy)
{
	return policy_names[policy];
}

const char *dvmq_port_type_name(enum dvmq_port_type type)
{
	return type_names[type];
}

/* Edits (insert, delete, replace, swap neighbours) that turn a into b; more than limit counts as limit + 1. */
static unsigned edits(const char *a, const char *b, unsigned limit)
{
	unsigned best;

	while (*a && *a == *b)
		a++, b++;
	if (!*a || !*b)
		return RTE_MIN(strlen(a) + strlen(b), limit + 1);
	if (limit == 0)
		return 1;
	best = RTE_MIN(edits(a + 1, b, limit - 1), edits(a, b + 1, limit - 1));
	if (a[1] && a[0] == b[1] && a[1] == b[0])
		best = RTE_MIN(best, edits(a + 2, b + 2, limit - 1));
	return 1 + RTE_MIN(best, edits(a + 1, b + 1, limit - 1));
}

const char *dvmq_similar_word(const char *word, const char *const words[])
{
	const char *best = NULL;
	unsigned least = 3;

	for (; *words; words++) {
		unsigned n = edits(word, *words, 2);

		/* Most letters must be right: "foo" is no misspelt "flow". */
		if (n < least && 2 * n < strlen(*words)) {
			least = n;
			best = *words;
		}
	}
	return best;
}

int dvmq_conf_unknown(const char *what, const char *word, const char *const words[], struct dvmq_err *err)
{
	const char *similar = dvmq_similar_word(word, words);
	char known[256] = "";
	size_t len = 0;

	if (similar)
		return dvmq_fail(err, EINVAL, "%s: unknown %s, did you mean \"%s\"?", word, what, similar);
	for (; *words && len < sizeof(known); words++)
		len += snprintf(known + len, sizeof(known) - len, "%s%s", len ? ", " : "", *words);
	return dvmq_fail(err, EINVAL, "%s: unknown %s, known are: %s", word, what, known);
}

int dvmq_conf_text(const char *key, const char *value, char *buf, size_t size, struct dvmq_err *err)
{
	size_t len = strlen(value);

	if (len == 0)
		return dvmq_fail(err, EINVAL, "%s: the value is empty", key);
	if (len >= size)
		return dvmq_fail(err, EINVAL, "%s: has %zu characters, at most %zu are possible", key, len, size - 1);
	for (const char *c = value; *c; c++) {
		if (iscntrl((unsigned char)*c) || *c == ';' || *c == '\\')
			return dvmq_fail(err, EINVAL, "%s: control characters, ';' and '\\' cannot stand in a value",
					 key);
	}
	if (isspace((unsigned char)value[0]) || isspace((unsigned char)value[len - 1]))
		return dvmq_fail(err, EINVAL, "%s: the value begins or ends with a space", key);
	memcpy(buf, value, len + 1);
	return 0;
}

int dvmq_conf_number(const char *key, const char *value, unsigned min, unsigned max, unsigned *ret,
		     struct dvmq_err *err)
{
	unsigned long number;

	if (!*value || strspn(value, "0123456789") != strlen(value))
		return dvmq_fail(err, EINVAL, "%s: \"%s\" is not a whole number", key, value);
	errno = 0;
	number = strtoul(value, NULL, 10);
	if (errno || number < min || number > max)
		return dvmq_fail(err, EINVAL, "%s: %s is outside %u..%u", key, value, min, max);
	*ret = number;
	return 0;
}

int dvmq_conf_socket(const char *key, const char *value, char buf[DVMQ_PATH_LEN], struct dvmq_err *err)
{
	size_t len = strlen(value);

	if (len >= DVMQ_PATH_LEN)
		return dvmq_fail(err, EINVAL, "%s: the path has %zu characters, a Unix socket's has at most %d", key,
				 len, DVMQ_PATH_LEN - 1);
	if (len && value[len - 1] == '/')
		return dvmq_fail(err, EINVAL, "%s: %s is a directory, name a file in it", key, value);
	return dvmq_conf_text(key, value, buf, DVMQ_PATH_LEN, err);
}

static int choose(const char *key, const char *value, const char *const names[], unsigned n, unsigned *ret,
		  struct dvmq_err *err)
{
	char known[128] = "";
	size_t len = 0;

	for (unsigned i = 0; i < n; i++) {
		if (strcmp(value, names[i]) == 0) {
			*ret = i;
			return 0;
		}
		len += snprintf(known + len, sizeof(known) - len, "%s%s", i ? ", " : "", names[i]);
	}
	return dvmq_fail(err, EINVAL, "%s: \"%s\" is none of: %s", key, value, known);
}

static int set_device(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	if (strlen(value) >= CFG_VALUE_LEN)
		return dvmq_fail(err, EINVAL,
				 "device: has %zu characters, at most %d are possible; give the device by --vdev "
				 "NAME,... on the command line before -- and write only NAME here",
				 strlen(value), CFG_VALUE_LEN - 1);
	return dvmq_conf_text("device", value, port->device, sizeof(port->device), err);
}

static int set_socket(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	return dvmq_conf_socket("socket", value, port->socket, err);
}

static int set_mode(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	static const char *const names[] = {"client", "server"};
	unsigned mode = 0;
	int ret = choose("mode", value, names, RTE_DIM(names), &mode, err);

	if (ret == 0)
		port->server = mode == 1;
	return ret;
}

static int set_mac(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	struct rte_ether_addr mac;

	if (rte_ether_unformat_addr(value, &mac) != 0)
		return dvmq_fail(err, EINVAL, "mac: \"%s\" is not a MAC address such as 52:54:00:00:00:01", value);
	if (rte_is_zero_ether_addr(&mac))
		return dvmq_fail(err, EINVAL, "mac: %s is all zero", value);
	if (!rte_is_unicast_ether_addr(&mac))
		return dvmq_fail(err, EINVAL, "mac: %s is a group address, a port needs a unicast one", value);
	port->mac = mac;
	port->has_mac = true;
	return 0;
}

static int set_number(const char *key, const char *value, unsigned min, unsigned max, uint16_t *ret,
		      struct dvmq_err *err)
{
	unsigned number = 0;
	int code = dvmq_conf_number(key, value, min, max, &number, err);

	if (code == 0)
		*ret = number;
	return code;
}

static int set_vlan(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	return set_number("vlan", value, 1, VLAN_MAX, &port->vlan, err);
}

static int set_queues(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	unsigned max = port->type == DVMQ_PORT_UPLINK ? DVMQ_MAX_RXQ : DVMQ_MAX_PAIRS;

	return set_number("queues", value, 1, max, &port->queues, err);
}

int dvmq_conf_policy(const char *text, enum dvmq_policy *ret, struct dvmq_err *err)
{
	unsigned policy = 0;
	int rc = choose("policy", text, policy_names, RTE_DIM(policy_names), &policy, err);

	if (rc == 0)
		*ret = policy;
	return rc;
}

static int set_steering(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	unsigned steering = 0;
	int ret = choose("steering", value, steering_names, RTE_DIM(steering_names), &steering, err);

	if (ret == 0)
		port->steering = steering;
	return ret;
}

static int set_isolated(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	static const char *const names[] = {"no", "yes"};
	unsigned isolated = 0;
	int ret = choose("isolated", value, names, RTE_DIM(names), &isolated, err);

	if (ret == 0)
		port->isolated = isolated == 1;
	return ret;
}

/* "1" or "1-2" */
static int set_vmq(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	const char *dash = strchr(value, '-');
	char first[16];
	unsigned from = 0, to = 0;
	int ret;

	if (dash && (size_t)(dash - value) < sizeof(first)) {
		memcpy(first, value, dash - value);
		first[dash - value] = '\0';
		ret = dvmq_conf_number("vmq", first, 0, DVMQ_MAX_RXQ - 1, &from, err);
		if (ret == 0)
			ret = dvmq_conf_number("vmq", dash + 1, 0, DVMQ_MAX_RXQ - 1, &to, err);
		if (ret == 0 && to < from)
			ret = dvmq_fail(err, EINVAL, "vmq: %s runs backwards", value);
	} else {
		ret = dvmq_conf_number("vmq", value, 0, DVMQ_MAX_RXQ - 1, &from, err);
		to = from;
	}
	if (ret)
		return ret;
	port->has_vmq = true;
	port->vmq_first = from;
	port->vmq_last = to;
	return 0;
}

static int set_weight(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	return set_number("weight", value, 1, WEIGHT_MAX, &port->weight, err);
}

static int set_min(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	return set_number("min", value, 0, DVMQ_MAX_PAIRS, &port->min, err);
}

static int set_max(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err)
{
	int ret = set_number("max", value, 0, DVMQ_MAX_PAIRS, &port->max, err);

	port->has_max |= ret == 0;
	return ret;
}

#define UPLINK RTE_BIT32(DVMQ_PORT_UPLINK)
#define VHOST  RTE_BIT32(DVMQ_PORT_VHOST)
#define ETHDEV RTE_BIT32(DVMQ_PORT_ETHDEV)

static const struct {
	const char *name;
	unsigned types; /* that have this key */
	int (*set)(struct dvmq_port_conf *port, const char *value, struct dvmq_err *err);
} keys[] = {
    {"device", UPLINK | ETHDEV, set_device}, {"socket", VHOST, set_socket},	 {"mode", VHOST, set_mode},
    {"mac", VHOST | ETHDEV, set_mac},	     {"vlan", VHOST | ETHDEV, set_vlan}, {"queues", UPLINK | VHOST, set_queues},
    {"steering", UPLINK, set_steering},	     {"vmq", VHOST | ETHDEV, set_vmq},	 {"weight", VHOST | ETHDEV, set_weight},
    {"min", VHOST | ETHDEV, set_min},	     {"max", VHOST | ETHDEV, set_max},	 {"isolated", UPLINK, set_isolated},
};

int dvmq_conf_port_init(struct dvmq_port_conf *port, enum dvmq_port_type type, const char *name, struct dvmq_err *err)
{
	/* Words of the command grammar that stand where a name may stand. */
	static const char *const reserved[] = {"all", "stats"};
	size_t len = strlen(name);

	if (len == 0)
		return dvmq_fail(err, EINVAL, "the name is missing");
	if (len >= DVMQ_NAME_LEN)
		return dvmq_fail(err, EINVAL, "the name %s has %zu characters, at most %d are possible", name, len,
				 DVMQ_NAME_LEN - 1);
	for (const char *c = name; *c; c++) {
		if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
			return dvmq_fail(err, EINVAL, "the name \"%s\" may only have letters, digits, '-', '_' and '.'",
					 name);
	}
	for (unsigned i = 0; i < RTE_DIM(reserved); i++) {
		if (strcmp(name, reserved[i]) == 0)
			return dvmq_fail(err, EINVAL, "\"%s\" is a word of the commands and cannot be a name", name);
	}
	*port = (struct dvmq_port_conf){.type = type, .queues = 1, .weight = WEIGHT_DEFAULT};
	memcpy(port->name, name, len + 1);
	return 0;
}

int dvmq_conf_port_set(struct dvmq_port_conf *port, const char *key, const char *value, struct dvmq_err *err)
{
	const char *known[RTE_DIM(keys) + 1];
	unsigned n = 0;

	for (unsigned i = 0; i < RTE_DIM(keys); i++) {
		bool has = keys[i].types & RTE_BIT32(port->type);

		if (has)
			known[n++] = keys[i].name;
		if (strcmp(key, keys[i].name))
			continue;
		if (has)
			return keys[i].set(port, value, err);
		return dvmq_fail(err, EINVAL, "%s: %s %s has no such key", key,
				 port->type == DVMQ_PORT_UPLINK ? "an" : "a port of type",
				 dvmq_port_type_name(port->type));
	}
	known[n] = NULL;
	return dvmq_conf_unknown("key", key, known, err);
}

int dvmq_conf_port_check(const struct dvmq_port_conf *port, struct dvmq_err *err)
{
	unsigned n_vmq = port->has_vmq ? port->vmq_last - port->vmq_first + 1 : 0;

	if (port->type == DVMQ_PORT_VHOST && !port->socket[0])
		return dvmq_fail(err, EINVAL, "socket: is missing, a vhost port needs the path of its socket");
	if (port->type != DVMQ_PORT_VHOST && !port->device[0])
		return dvmq_fail(err, EINVAL,
				 "device: is missing, give a PCI address or a virtual device such as net_tap0");
	if (port->isolated && port->steering != DVMQ_STEER_AUTO && port->steering != DVMQ_STEER_FLOW)
		return dvmq_fail(err, EINVAL,
				 "isolated: only rules can tell whose frames are whose, and steering = %s makes none; "
				 "use steering = flow or auto",
				 dvmq_steering_name(port->steering));
	if (n_vmq > port->queues)
		return dvmq_fail(err, EINVAL, "vmq: %u queues are more than the %u queue pair%s of the port", n_vmq,
				 port->queues, port->queues == 1 ? "" : "s");
	if (port->has_max && port->max > port->queues)
		return dvmq_fail(err, EINVAL, "max: %u is more than the %u queue pair%s of the port", port->max,
				 port->queues, port->queues == 1 ? "" : "s");
	if (port->min > dvmq_conf_max(port))
		return dvmq_fail(err, EINVAL, "min: %u is more than %s = %u", port->min,
				 port->has_max ? "max" : "queues", dvmq_conf_max(port));
	return 0;
}

/* The part of a device's text that names it: devargs and the PCI domain 0000 do not count. */
static size_t device_name(const char *device, const char **ret_name)
{
	*ret_name = strncmp(device, "0000:", 5) == 0 ? device + 5 : device;
	return strcspn(*ret_name, ",");
}

static bool same_device(const char *a, const char *b)
{
	const char *name_a, *name_b;
	size_t len_a = device_name(a, &name_a);
	size_t len_b = device_name(b, &name_b);

	return len_a && len_a == len_b && strncasecmp(name_a, name_b, len_a) == 0;
}

static bool same_mac(const struct dvmq_port_conf *a, const struct dvmq_port_conf *b)
{
	return a->has_mac && b->has_mac && a->vlan == b->vlan && rte_is_same_ether_addr(&a->mac, &b->mac);
}

static bool same_vmq(const struct dvmq_port_conf *a, const struct dvmq_port_conf *b)
{
	return a->has_vmq && b->has_vmq && a->vmq_first <= b->vmq_last && b->vmq_first <= a->vmq_last;
}

const char *dvmq_conf_clash_key(const struct dvmq_port_conf *a, const struct dvmq_port_conf *b, struct dvmq_err *err)
{
	if (strcmp(a->name, b->name) == 0) {
		dvmq_fail(err, EEXIST, "the name %s is taken by another %s", b->name,
			  a->type == DVMQ_PORT_UPLINK ? "uplink" : "port");
		return "name";
	}
	if (a->socket[0] && strcmp(a->socket, b->socket) == 0) {
		dvmq_fail(err, EEXIST, "socket: ports %s and %s both have %s", a->name, b->name, b->socket);
		return "socket";
	}
	if (same_device(a->device, b->device)) {
		dvmq_fail(err, EEXIST, "device: %s and %s both have %.*s", a->name, b->name,
			  (int)strcspn(b->device, ","), b->device);
		return "device";
	}
	if (same_mac(a, b)) {
		char vlan[24] = "untagged";

		if (b->vlan)
			snprintf(vlan, sizeof(vlan), "in VLAN %u", b->vlan);
		dvmq_fail(err, EEXIST, "mac: ports %s and %s both have " RTE_ETHER_ADDR_PRT_FMT " %s", a->name, b->name,
			  RTE_ETHER_ADDR_BYTES(&b->mac), vlan);
		return "mac";
	}
	if (same_vmq(a, b)) {
		dvmq_fail(err, EEXIST, "vmq: ports %s and %s both have queue %u", a->name, b->name,
			  RTE_MAX(a->vmq_first, b->vmq_first));
		return "vmq";
	}
	return NULL;
}

int dvmq_conf_ports_clash(const struct dvmq_port_conf *a, const struct dvmq_port_conf *b, struct dvmq_err *err)
{
	return dvmq_conf_clash_key(a, b, err) ? -EEXIST : 0;
}

int dvmq_conf_check_vmq(const struct dvmq_conf *conf, const struct dvmq_port_conf *port, struct dvmq_err *err)
{
	if (!port->has_vmq)
		return 0;
	for (unsigned i = 0; i < conf->n_ports; i++) {
		const struct dvmq_port_conf *uplink = &conf->ports[i];

		if (uplink->type != DVMQ_PORT_UPLINK || uplink->steering != DVMQ_STEER_STATIC)
			continue;
		if (port->vmq_last < uplink->queues)
			return 0;
		return dvmq_fail(err, EINVAL, "vmq: a NIC queue %u does not exist, uplink %s has queues 0..%u",
				 port->vmq_last, uplink->name, uplink->queues - 1);
	}
	return dvmq_fail(err, EINVAL, "vmq: a NIC queue does not exist for this port, no uplink has steering = static");
}

int dvmq_conf_port_fits(const struct dvmq_conf *conf, const struct dvmq_port_conf *port, struct dvmq_err *err)
{
	if (strcmp(port->socket, conf->socket) == 0)
		return dvmq_fail(err, EEXIST, "socket: %s is the control socket", conf->socket);
	return dvmq_conf_check_vmq(conf, port, err);
}

/* One part of a list: "7" or "2-5". */
static int add_cpus(const char *part, bool used[DVMQ_MAX_CPUS], struct dvmq_err *err)
{
	unsigned first, last;
	char junk;
	int n = sscanf(part, "%u-%u%c", &first, &last, &junk);

	if (strspn(part, "0123456789-") != strlen(part) || !isdigit((unsigned char)part[0]) || strlen(part) > 11 ||
	    n < 1 || n > 2 || (n == 1 && strchr(part, '-')))
		return dvmq_fail(err, EINVAL, "\"%s\" is not a CPU number or range such as 2-5", part);
	if (n == 1)
		last = first;
	if (first >= DVMQ_MAX_CPUS || last >= DVMQ_MAX_CPUS)
		return dvmq_fail(err, EINVAL, "CPU %s is outside 0..%d", part, DVMQ_MAX_CPUS - 1);
	if (last < first)
		return dvmq_fail(err, EINVAL, "%s runs backwards", part);
	for (unsigned cpu = first; cpu <= last; cpu++) {
		if (used[cpu])
			return dvmq_fail(err, EINVAL, "CPU %u stands twice", cpu);
		used[cpu] = true;
	}
	return 0;
}

int dvmq_conf_cpus(const char *text, uint16_t cpus[DVMQ_MAX_CPUS], uint16_t *ret_n, struct dvmq_err *err)
{
	bool used[DVMQ_MAX_CPUS] = {false};
	char buf[CFG_VALUE_LEN];
	uint16_t n = 0;
	char *rest = buf;
	char *part;
	int ret;

	if (strlen(text) >= sizeof(buf))
		return dvmq_fail(err, EINVAL, "the list has more than %zu characters", sizeof(buf) - 1);
	strcpy(buf, text);
	while ((part = strsep(&rest, ","))) {
		part += strspn(part, " \t");
		part[strcspn(part, " \t")] = '\0';
		ret = add_cpus(part, used, err);
		if (ret)
			return ret;
	}
	for (unsigned cpu = 0; cpu < DVMQ_MAX_CPUS; cpu++) {
		if (used[cpu])
			cpus[n++] = cpu;
	}
	*ret_n = n;
	return 0;
}
