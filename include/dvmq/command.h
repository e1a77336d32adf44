/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the commands can do: called by the command table (src/ctl/), done by the
 * controller (src/control/).  Control thread only.  Every `show` is one JSON
 * value; the tables that people read are made from it.
 */
#ifndef DVMQ_COMMAND_H
#define DVMQ_COMMAND_H

#include <stdbool.h>

#include <jansson.h>

#include <dvmq/conf.h>
#include <dvmq/err.h>

/*
 * name: one port, queue or core, or "all".  A new reference, or NULL with err
 * set (-ENOENT: no such thing).  Lists are arrays of flat objects.
 */
json_t *dvmq_show_ports(const char *name, struct dvmq_err *err);      /* "show port all": configuration and state */
json_t *dvmq_show_port_stats(const char *name, struct dvmq_err *err); /* "show port stats all" */
json_t *dvmq_show_queues(const char *name, struct dvmq_err *err);
json_t *dvmq_show_cores(const char *name, struct dvmq_err *err);
json_t *dvmq_show_vmq(const char *name, struct dvmq_err *err);
json_t *dvmq_show_fdb(struct dvmq_err *err);
json_t *dvmq_show_balance(struct dvmq_err *err); /* object: mode, params, totals, decisions (newest last) */
json_t *dvmq_show_memory(struct dvmq_err *err);
json_t *dvmq_balance_dry_run(struct dvmq_err *err); /* a plan, as "dvmq-sim plan" prints it */
json_t *dvmq_flow_list(const char *uplink, struct dvmq_err *err);

/* The running configuration, as "show config" prints and "save config" writes it.  Owned by the controller. */
const struct dvmq_conf *dvmq_running_conf(void);

/* 0 or -errno with err set. */
int dvmq_set_queue_core(const char *queue, unsigned core, struct dvmq_err *err); /* returns when the new worker has it */
int dvmq_set_queue_pin(const char *queue, bool pinned, struct dvmq_err *err);
int dvmq_set_balance(bool automatic, struct dvmq_err *err);
int dvmq_set_core(unsigned core, enum dvmq_core_wish wish, struct dvmq_err *err);
int dvmq_set_policy(const char *core, enum dvmq_policy policy, struct dvmq_err *err); /* core: or "all", also for later */
/*
 * n queues of its own for a port from now on, on each uplink that can steer, whatever it needs; -1: by its
 * need again.  Returns when it has them, or -errno with err if it has fewer; it then gets them when they are free.
 */
int dvmq_set_port_vmq(const char *port, int n, struct dvmq_err *err);
int dvmq_port_add(const struct dvmq_port_conf *conf, struct dvmq_err *err);
/* Resets the device of an uplink or ethdev port; returns when it runs again.  -errno: it does not; tried again by itself. */
int dvmq_port_reset(const char *name, struct dvmq_err *err);
int dvmq_port_del(const char *name, struct dvmq_err *err);
int dvmq_clear_stats(struct dvmq_err *err);

/*
 * Records what the planner sees at each slow loop into a new file, for that many seconds: JSON lines, one snapshot
 * each, as "dvmq-sim run --trace" and "dvmq-sim plan" read them.  A relative name counts from the daemon's directory.
 * -EBUSY: one is being recorded; -ENOENT (stop): none is; else the errno of the file.
 */
int dvmq_trace_start(const char *file, unsigned seconds, struct dvmq_err *err);
int dvmq_trace_stop(struct dvmq_err *err);
void dvmq_quit(void); /* ends the daemon, as SIGTERM does */

/*
 * The names that a command's argument can have now, for completion.
 * index counts from 0; false past the end.
 */
bool dvmq_queue_name_at(unsigned index, char *buf, size_t size);
bool dvmq_port_name_at(unsigned index, char *buf, size_t size);
bool dvmq_core_name_at(unsigned index, char *buf, size_t size);

#endif
