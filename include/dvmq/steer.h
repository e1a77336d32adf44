/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Steering: how frames of a port reach a queue of their own.  A backend for each
 * way, behind one struct of operations.  Controller only.
 */
#ifndef DVMQ_STEER_H
#define DVMQ_STEER_H

#include <jansson.h>
#include <rte_flow.h>

#include <dvmq/port.h>
#include <dvmq/share.h>

struct rte_eth_conf;
struct rte_eth_dev_info;

/* A rule in the NIC. */
struct dvmq_rule {
	struct rte_flow *flow; /* NULL: there is none */
	uint32_t id;           /* counts from 0 on each uplink, as testpmd does */
};

/* What a port has on an uplink, and why ("show vmq"). */
struct dvmq_binding {
	uint16_t requested;                /* queues of its own that it should have */
	uint16_t n;                        /* that it has */
	uint16_t queues[DVMQ_MAX_PAIRS];   /* flow, vmdq, static: their numbers; [0, n) */
	bool accepted;                     /* the NIC took the rule, or the configuration says so */
	bool rule_works;                   /* as far as is known; if not, one that cannot be removed is gone already */
	struct dvmq_rule rule;             /* flow: to its queues */
	struct dvmq_rule base;             /* isolated: to the default queue, below that one and always there */
	char base_reason[192];             /* isolated: why it is not; empty: it is */
	char reason[256];                  /* what came of it in the NIC */
	char why[DVMQ_SHARE_REASON];       /* why it is to have that many */
	uint64_t bytes;                    /* its queues took since it was last looked at */
	uint64_t by_default_seen;          /* bytes by default queues as of then */
	double late_ms;                    /* from the plan of its last change until that was made */
	unsigned resume;                   /* queues that it had when its uplink stopped */
	unsigned refusals;                 /* in a row, by the NIC; not before retry_ms again */
	uint64_t retry_ms;
	uint64_t own_seen, astray_seen;    /* packets of its queues, and astray, as of the last audit that told something */
	unsigned repairs, fruitless;       /* by the audit: in all; in a row, not before repair_ms again */
	uint64_t repair_ms;
};

struct dvmq_steer_ops {
	enum dvmq_steering steering;
	enum dvmq_rx_mode rx_mode; /* what the uplink is to be configured for */
	bool replicates;           /* the NIC puts copies of group frames into other queues than 0, too: only that in queue 0 counts */

	bool tells_vlan;           /* attach() tells the NIC the port's VLAN, too, if it has one */

	/*
	 * After the uplink started: can its NIC do that?  0, or -errno with the
	 * driver's own words in err.  NULL: always.
	 */
	int (*probe)(struct dvmq_port *uplink, struct dvmq_err *err);

	/*
	 * From its return on the NIC puts the frames of `port` into these queues (1 <= n <=
	 * DVMQ_MAX_PAIRS, polled by nobody), a flow always into the same one; after detach()
	 * again into the default queues.  What came before may still wait where it was put:
	 * the caller sees to it (control/vmq.c).  0 or -errno with the driver's words in
	 * err, and nothing is changed.  NULL: nothing in the NIC can or has to be set.
	 */
	int (*attach)(struct dvmq_port *uplink, struct dvmq_port *port, const uint16_t *queues, unsigned n,
		      struct dvmq_err *err);
	int (*detach)(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_err *err);

	/* Without attach(): a port came or goes; what it has is the backend's own affair. */
	void (*bind)(struct dvmq_port *uplink, struct dvmq_port *port, struct dvmq_binding *binding);
	void (*unbind)(struct dvmq_port *uplink, struct dvmq_port *port);
};

extern const struct dvmq_steer_ops dvmq_steer_flow, dvmq_steer_vmdq, dvmq_steer_static, dvmq_steer_software;

/* An uplink's steering. */
struct dvmq_steer {
	const struct dvmq_steer_ops *ops;
	char reason[384];                             /* why this backend */
	struct dvmq_binding bindings[DVMQ_MAX_PORTS]; /* by port index */
	uint32_t next_rule;                           /* flow: the id of the next one */
	struct dvmq_rule groups;                      /* isolated: group frames to the default queue */
	struct dvmq_share *share;                     /* who shall have how many */
	const struct dvmq_share_change *shrink, *grow; /* what it said last and is still to be done, in its memory */
	unsigned n_shrink, n_grow;
	uint64_t shared_ms;                           /* when it was last asked */
};

/*
 * Chooses the backend of an uplink and opens its device for it: the backend that the configuration
 * names, else the first of flow, vmdq and software that the NIC can do.  0 or -errno with err.
 */
int dvmq_steer_open(struct dvmq_port *uplink, const struct dvmq_share_params *params, struct dvmq_err *err);
void dvmq_steer_close(struct dvmq_port *uplink); /* after dvmq_vmq_close(): no rule is left in the NIC */

/*
 * The rule for a port as the NIC gets it: destination MAC, and the VLAN if the
 * port has one, to one RX queue, or to several by RSS of the types rss_types (RTE_ETH_RSS_*).
 * port NULL: for all group frames, tagged or not.  Of two rules that match, the one of the lower `priority` counts.
 * Pure; tests look at it.  `queues` is used as long as the spec is.
 */
struct dvmq_flow_spec {
	struct rte_flow_attr attr;
	struct rte_flow_item items[3];
	struct rte_flow_action actions[2];
	struct rte_flow_item_eth eth, eth_mask;
	struct rte_flow_item_vlan vlan, vlan_mask;
	struct rte_flow_action_queue queue;
	struct rte_flow_action_rss rss;
};
void dvmq_flow_spec(const struct dvmq_port_conf *port, uint32_t priority, const uint16_t *queues, unsigned n,
		    uint64_t rss_types, struct dvmq_flow_spec *spec);

/*
 * In isolated mode: the rule by which frames of `port` come to the default queue unless it has queues of its own;
 * port NULL: group frames.  Made if it is not there; removed, or given up if the driver refuses.  0 or -errno
 * with the driver's words in err.
 */
int dvmq_flow_admit(struct dvmq_port *uplink, const struct dvmq_port *port, struct dvmq_err *err);
int dvmq_flow_expel(struct dvmq_port *uplink, const struct dvmq_port *port, struct dvmq_err *err);

/* --- vmdq.c --- */

/*
 * How the pools of a NIC lie among its RX queues, with conf->queues of them wanted: fewer if it has no more.
 * 0, or -ENOTSUP if it has no VMDq, or with steering = auto none that is to be trusted.  Pure.
 */
int dvmq_vmdq_layout(const struct rte_eth_dev_info *info, const struct dvmq_port_conf *conf,
		     struct dvmq_rx_layout *layout, struct dvmq_err *err);

/* What rte_eth_dev_configure() is to be told for it.  Pure; adds to *conf. */
void dvmq_vmdq_conf(const struct rte_eth_dev_info *info, const struct dvmq_rx_layout *layout, struct rte_eth_conf *conf);

/* --- software.c: the soft rings of a port --- */

/*
 * From its return on the default queues of `uplink` put the port's packets into n rings (1 <= n <= DVMQ_MAX_PAIRS),
 * a flow always into the same, which nobody polls yet.  0 or -errno with err.
 */
int dvmq_soft_open(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n, struct dvmq_err *err);
void dvmq_soft_start(struct dvmq_port *port); /* has them polled */

/*
 * Empties them in order; default queues deliver inline again.  -ETIMEDOUT if a worker does not answer within some seconds
 * and the port does not leave: then the rings stay, but for those that were emptied and shut, and dvmq_soft_tick() or the
 * next call ends it.
 */
int dvmq_soft_close(struct dvmq_port *port);

#define DVMQ_SOFT_INLINE "served inline: not hot on the default queue"

/* Sees that ports have as many as min, max and their load ask for once they have any.  Each tick. */
void dvmq_soft_tick(uint64_t now_ms);

/*
 * Who has any, as default queues need relief: control/vmq.c shares them out.  The rings are the ports', whichever
 * uplink's default queues fill them, so all uplinks that steer by software share as one.
 */
struct dvmq_port *dvmq_soft_uplink(void); /* that stands for all of them; NULL: none runs */
bool dvmq_soft_to_share(void); /* a default queue is hot, or a port has soft queues that may not be needed */

/*
 * Fills in what the ports want, `seconds` after the last time, and how many of them may have soft queues.  How many
 * ports; 0: too long ago.
 */
unsigned dvmq_soft_wishes(struct dvmq_share_port *wishes, double seconds, uint64_t now_ms, unsigned *ret_queues);
void dvmq_soft_tell(struct dvmq_port *port, const struct dvmq_share_port *wish, const struct dvmq_share_result *result);

/* The first soft queue of a port, or none any more; nothing if it changed less than a second ago. */
void dvmq_soft_give(struct dvmq_port *port, unsigned n, const char *why, uint64_t now_ms);

/* --- control/vmq.c: who has queues of its own --- */

/*
 * Makes an uplink queue that nobody polls the port's own, or a default queue
 * again, and has it polled.
 */
void dvmq_queue_to_vmq(struct dvmq_queue *queue, struct dvmq_port *port);
void dvmq_queue_to_default(struct dvmq_queue *queue);

/* Binds a port that came to all uplinks; unbinds one that goes; unbinds all from an uplink that goes. */
void dvmq_vmq_bind(struct dvmq_port *port);
void dvmq_vmq_unbind(struct dvmq_port *port);
void dvmq_vmq_close(struct dvmq_port *uplink);

/*
 * Around a stop of the uplink's device, which no worker polls: nobody has queues of its own meanwhile, then whoever
 * had some has them again.
 */
void dvmq_vmq_suspend(struct dvmq_port *uplink);
void dvmq_vmq_resume(struct dvmq_port *uplink);

/*
 * Gives a port n queues of its own on an uplink (0: none), with no packet lost or reordered by the change.  The
 * binding tells what it has then, and why.  0, or -errno if it has fewer than n.
 */
int dvmq_vmq_set(struct dvmq_port *uplink, struct dvmq_port *port, unsigned n);

bool dvmq_vmq_tick(uint64_t now_ms); /* decides who shall have how many queues; false: there are none to share, or no traffic */
bool dvmq_vmq_step(uint64_t now_ms); /* each period: makes some of the changes decided; true if more are left */

/*
 * Each DVMQ_AUDIT_MS: do the NICs what they were told?  Where the frames of a port arrive in default queues
 * instead of its own its rule is made anew, and ever more rarely while that does not help.
 */
#define DVMQ_AUDIT_MS 5000
void dvmq_vmq_audit(uint64_t now_ms);

/* Queues of its own that a port has on a steering uplink. */
unsigned dvmq_vmq_count(struct dvmq_port *uplink, const struct dvmq_port *port);

#endif
