/* SPDX-License-Identifier: BSD-3-Clause */
/* The configuration: what the INI file says, checked.  Control thread only. */
#ifndef DVMQ_CONF_H
#define DVMQ_CONF_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_ether.h>

#include <dvmq/balance.h>
#include <dvmq/err.h>

#define DVMQ_NAME_LEN    32   /* bytes of a port's name, with its 0 */
#define DVMQ_PATH_LEN    108  /* sun_path of a Unix socket */
#define DVMQ_DEVICE_LEN  1024 /* devargs */
#define DVMQ_MAX_PORTS   1024 /* ports and uplinks together */
#define DVMQ_MAX_UPLINKS 8
#define DVMQ_MAX_RXQ     256  /* RX queues of one uplink */
#define DVMQ_MAX_PAIRS   16   /* queue pairs of one VM */
#define DVMQ_MAX_CPUS    1024

enum dvmq_port_type { DVMQ_PORT_UPLINK, DVMQ_PORT_VHOST, DVMQ_PORT_ETHDEV };

enum dvmq_steering {
	DVMQ_STEER_AUTO,
	DVMQ_STEER_FLOW,
	DVMQ_STEER_VMDQ,
	DVMQ_STEER_STATIC,
	DVMQ_STEER_SOFTWARE,
};

/* What an idle worker does: [dvmqd] policy, "set core C policy P".  See sleep.c. */
enum dvmq_policy {
	DVMQ_POLICY_BALANCED, /* polls on for a while, then sleeps */
	DVMQ_POLICY_LATENCY,  /* polls on while it has queues */
	DVMQ_POLICY_FRUGAL,   /* sleeps soon, and wakes no oftener than it must */
};

/* A [port NAME] or [uplink NAME] section. */
struct dvmq_port_conf {
	char name[DVMQ_NAME_LEN]; /* letters, digits, '-', '_', '.'; not "all" */
	enum dvmq_port_type type;
	char device[DVMQ_DEVICE_LEN]; /* uplink, ethdev: PCI address or vdev devargs */
	char socket[DVMQ_PATH_LEN];   /* vhost */
	bool server;                  /* vhost: mode = server */
	bool has_mac;
	struct rte_ether_addr mac; /* unicast, not zero */
	uint16_t vlan;             /* access VLAN 1..4094; 0: untagged */
	uint16_t queues;           /* uplink: RX queues (default 1); vhost: queue pairs (default 1) */
	enum dvmq_steering steering; /* uplink */
	bool isolated;               /* uplink, flow or auto: frames that no rule takes stay with the host */
	bool has_vmq;
	uint16_t vmq_first, vmq_last; /* static steering: the uplink queues of this port */
	uint16_t weight;              /* 1..10000, default 100 */
	uint16_t min;                 /* queues of its own that it has at least, 0..queues, default 0 */
	bool has_max;
	uint16_t max;                 /* at most, min..queues; without has_max: queues */
};

/* Queues of its own that a port may have at most. */
static inline unsigned dvmq_conf_max(const struct dvmq_port_conf *port)
{
	return port->has_max ? port->max : port->queues;
}

struct dvmq_conf {
	char socket[DVMQ_PATH_LEN]; /* control socket, default /run/dvmq/dvmq.sock */
	bool has_workers, has_control;
	uint16_t n_workers;
	uint16_t workers[DVMQ_MAX_CPUS]; /* CPU numbers, ascending, no duplicates */
	uint16_t control;                /* CPU number */
	enum dvmq_policy policy;         /* of all workers at the start, default balanced */
	char *eal_args;                  /* [eal] args, NULL if absent */
	bool balance_auto;               /* [balance] mode */
	struct dvmq_balance_params balance;
	struct dvmq_port_conf *ports; /* uplinks and ports in the order of the file */
	unsigned n_ports;
};

/*
 * Reads and checks a file.  On error *ret_conf is untouched and err names file,
 * line and key.  path NULL: the defaults.  0, -ENOENT, -EINVAL, -ENOMEM ...
 */
int dvmq_conf_read(const char *path, struct dvmq_conf **ret_conf, struct dvmq_err *err);
void dvmq_conf_free(struct dvmq_conf *conf); /* NULL is fine */

/*
 * One key of a port, as in the file and in "port add vhost NAME key=value...".
 * dvmq_conf_port_init() gives the defaults, ..._check() judges the whole.
 */
int dvmq_conf_port_init(struct dvmq_port_conf *port, enum dvmq_port_type type, const char *name, struct dvmq_err *err);
int dvmq_conf_port_set(struct dvmq_port_conf *port, const char *key, const char *value, struct dvmq_err *err);
int dvmq_conf_port_check(const struct dvmq_port_conf *port, struct dvmq_err *err);

/*
 * What two ports may not share: name, socket, device, (VLAN, MAC), static vmq
 * queue.  Both names are in the text.  0 or -EEXIST.
 */
int dvmq_conf_ports_clash(const struct dvmq_port_conf *a, const struct dvmq_port_conf *b, struct dvmq_err *err);

/* Writes the configuration in the file's own format; reading it back gives the same. 0 or -errno. */
int dvmq_conf_write(const struct dvmq_conf *conf, FILE *out);

/* "2-5,7" to CPU numbers, ascending.  0 or -EINVAL. */
int dvmq_conf_cpus(const char *text, uint16_t cpus[DVMQ_MAX_CPUS], uint16_t *ret_n, struct dvmq_err *err);

/* The policy of that name.  0 or -EINVAL. */
int dvmq_conf_policy(const char *text, enum dvmq_policy *ret, struct dvmq_err *err);

const char *dvmq_policy_name(enum dvmq_policy policy);
const char *dvmq_steering_name(enum dvmq_steering steering);
const char *dvmq_port_type_name(enum dvmq_port_type type);

#endif
