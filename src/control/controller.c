/* SPDX-License-Identifier: BSD-3-Clause */
/* The control lcore: waits for events and for its own clock, and does one thing at a time. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_ring_elem.h>

#include <dvmq/alarm.h>
#include <dvmq/control.h>
#include <dvmq/ctl.h>
#include <dvmq/fdb.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

#define AGE_EVERY_MS   DVMQ_AUDIT_MS /* the FDB is looked through for old entries, and rules are audited */
#define VMQ_EVERY_MS   20   /* who shall have NIC queues is decided: a load is acted on when it was seen twice */

static struct dvmq_conf running;
static struct dvmq_port_conf running_ports[DVMQ_MAX_PORTS];
static int epoll_fd = -1;
static struct dvmq_pace pace;
static uint32_t alarms_seen[DVMQ_ALARMS];
static volatile sig_atomic_t quit;

uint64_t dvmq_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void dvmq_quit(void)
{
	quit = 1;
}

int dvmq_set_policy(const char *core, enum dvmq_policy policy, struct dvmq_err *err)
{
	bool all = strcmp(core, "all") == 0, found = all;
	char name[16];

	for (unsigned i = 0; dvmq_core_name_at(i, name, sizeof(name)); i++) {
		if (!all && strcmp(core, name) != 0)
			continue;
		found = true;
		atomic_store_explicit(&dvmq_workers[i]->policy, policy, memory_order_relaxed);
		dvmq_worker_wake(dvmq_workers[i]); /* so that it sleeps no longer than that allows */
	}
	if (!found)
		return dvmq_fail(err, ENOENT, "core %s is no worker; \"show core all\" lists them", core);
	if (all)
		running.policy = policy;
	return 0;
}

static int watch(int fd, uint32_t events, struct dvmq_err *err)
{
	struct epoll_event event = {.events = events, .data.fd = fd};

	if (fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	return dvmq_fail(err, errno, "controller: epoll: %s", strerror(errno));
}

int dvmq_control_open(const struct dvmq_conf *conf, struct dvmq_err *err)
{
	int ret;

	running = *conf;
	dvmq_set_policy("all", conf->policy, err);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ret = watch(dvmq_vhost_event_fd(), EPOLLIN, err);
	if (ret == 0)
		ret = watch(dvmq_ctl_fd(), EPOLLIN, err);
	if (ret == 0)
		ret = watch(dvmq_telemetry_fd(), EPOLLIN, err);
	if (ret == 0)
		ret = watch(dvmq_alarm_fd(), EPOLLIN | EPOLLET, err);
	if (ret == 0)
		ret = dvmq_fdb_open(err);
	if (ret == 0)
		ret = dvmq_balancer_open(conf, err);
	if (ret == 0)
		ret = dvmq_ports_open(conf, err);
	if (ret < 0)
		dvmq_control_close();
	return ret;
}

void dvmq_control_close(void)
{
	dvmq_trace_close();
	dvmq_ports_close();
	dvmq_balancer_close();
	dvmq_fdb_close();
	if (epoll_fd >= 0)
		close(epoll_fd);
	epoll_fd = -1;
}

/*
 * What one worker saw since the last time; no more than its ring holds, or a flood of new MACs would keep us.  False:
 * nothing.
 */
static bool learn_from(struct dvmq_worker *w, uint64_t now_ms)
{
	struct dvmq_learn events[256];
	unsigned taken, n;

	for (taken = 0; taken < DVMQ_EVENTS; taken += n) {
		n = rte_ring_sc_dequeue_burst_elem(w->learn, events, sizeof(events[0]), RTE_DIM(events), NULL);
		if (n == 0)
			break;
		for (unsigned i = 0; i < n; i++) {
			struct dvmq_port *port = dvmq_ports[events[i].port_index];

			if (port != NULL && !port->leaving)
				dvmq_fdb_learn(events[i].key, port, now_ms);
		}
	}
	return taken > 0;
}

/*
 * How soon we look again.  An alarm that came during this look is news: what it is about may have been measured before.
 * None is wanted while we look often anyway; nor that of a full worker where no move could answer it.
 */
static void set_pace(uint64_t now_ms, bool acted, bool pending, bool calm)
{
	bool moves = dvmq_balancer_automatic() && dvmq_n_workers > 1;
	uint32_t full = dvmq_alarm_count(DVMQ_ALARM_FULL);
	unsigned want = 1u << DVMQ_ALARM_SOURCE | (unsigned)moves << DVMQ_ALARM_FULL;

	dvmq_pace_looked(&pace, now_ms, acted || (moves && full != alarms_seen[DVMQ_ALARM_FULL]), pending, calm);
	alarms_seen[DVMQ_ALARM_FULL] = full;
	if (!dvmq_pace_may_hurry(&pace))
		want = 0;
	if (!dvmq_alarm_want(want, alarms_seen))
		dvmq_pace_hurry(&pace);
}

/* False: there are no NIC queues to share. */
static bool share(uint64_t now_ms)
{
	static uint64_t due_at;
	static bool shared;

	if (now_ms >= due_at) {
		due_at = now_ms + VMQ_EVERY_MS;
		shared = dvmq_vmq_tick(now_ms);
	}
	return shared;
}

/* What is due by the clock. */
static void tick(uint64_t now_ms)
{
	static uint64_t slow_at, age_at;
	uint64_t slow_ms = (uint64_t)dvmq_balancer_params()->slow_ms;
	bool pending, acted, shares, learned = false;

	alarms_seen[DVMQ_ALARM_SOURCE] = dvmq_alarm_count(DVMQ_ALARM_SOURCE);
	dvmq_measure(rte_rdtsc());
	dvmq_look_for_alone(dvmq_queues, dvmq_n_queues);
	for (unsigned i = 0; i < dvmq_n_workers; i++)
		learned |= learn_from(dvmq_workers[i], now_ms);
	dvmq_devices_tick(now_ms);
	pending = dvmq_vmq_step(now_ms);
	shares = share(now_ms);
	if (now_ms >= age_at) {
		age_at = now_ms + AGE_EVERY_MS;
		dvmq_fdb_age(now_ms);
		dvmq_vmq_audit(now_ms);
	}
	acted = dvmq_balancer_run(DVMQ_LOOP_FAST);
	/* Next time if there are queues on their way, which a plan leaves out; but not for ever. */
	if (now_ms >= slow_at && (!acted || now_ms >= slow_at + slow_ms)) {
		slow_at = now_ms + slow_ms;
		dvmq_measure_slow();
		acted |= dvmq_balancer_run(DVMQ_LOOP_SLOW);
	}
	set_pace(now_ms, acted, pending, !shares && !learned);
}

static void serve(int fd)
{
	if (fd == dvmq_alarm_fd())
		dvmq_pace_hurry(&pace);
	else if (fd == dvmq_vhost_event_fd())
		dvmq_ports_reconcile();
	else if (fd == dvmq_telemetry_fd())
		dvmq_telemetry_serve();
	else
		dvmq_ctl_serve();
}

/* TSC cycles from one look to the next. */
static uint64_t period(void)
{
	double ms = dvmq_pace_ms(&pace, dvmq_balancer_params()->fast_ms);

	return (uint64_t)(ms / 1000 * (double)rte_get_tsc_hz());
}

static struct timespec time_of(uint64_t cycles)
{
	uint64_t hz = rte_get_tsc_hz();

	return (struct timespec){.tv_sec = (time_t)(cycles / hz),
				 .tv_nsec = (long)((double)(cycles % hz) / (double)hz * 1e9)};
}

void dvmq_control_run(void)
{
	uint64_t looked = 0, passed;

	prctl(PR_SET_TIMERSLACK, 1);
	while (!quit) {
		struct epoll_event events[8];
		struct timespec wait;
		int n;

		passed = rte_rdtsc() - looked;
		wait = time_of(passed < period() ? period() - passed : 0);
		n = epoll_pwait2(epoll_fd, events, 8, &wait, NULL);
		for (int i = 0; i < n; i++)
			serve(events[i].data.fd);
		/*
		 * An alarm makes the period a short one.  Commands, and signals, of which tap raises one per packet,
		 * must neither hurry nor hold up the clock.
		 */
		if (rte_rdtsc() - looked < period())
			continue;
		tick(dvmq_now_ms());
		looked = rte_rdtsc();
	}
}

const struct dvmq_conf *dvmq_running_conf(void)
{
	running.ports = running_ports;
	running.n_ports = 0;
	running.balance_auto = dvmq_balancer_automatic();
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL)
			running_ports[running.n_ports++] = dvmq_ports[i]->conf;
	return &running;
}

int dvmq_clear_stats(struct dvmq_err *err)
{
	(void)err;
	dvmq_stats_clear();
	for (unsigned i = 0; i < dvmq_n_queues; i++)
		dvmq_queue_clear(dvmq_queues[i]);
	for (unsigned i = 0; i < DVMQ_MAX_PORTS; i++)
		if (dvmq_ports[i] != NULL && dvmq_ports[i]->type != DVMQ_PORT_VHOST)
			rte_eth_stats_reset(dvmq_ports[i]->eth_id);
	return 0;
}
