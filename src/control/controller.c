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

#include <dvmq/control.h>
#include <dvmq/ctl.h>
#include <dvmq/fdb.h>
#include <dvmq/log.h>
#include <dvmq/steer.h>

#define IDLE_MS        20   /* period while there is no traffic at all */
#define AGE_EVERY_MS   DVMQ_AUDIT_MS /* the FDB is looked through for old entries, and rules are audited */
#define VMQ_EVERY_MS   20   /* who shall have NIC queues is decided: a load is acted on when it was seen twice */
#define LEARN_PER_TICK 256  /* events taken from one worker at a time: a flood of new MACs must not keep us */

static struct dvmq_conf running;
static struct dvmq_port_conf running_ports[DVMQ_MAX_PORTS];
static int epoll_fd = -1;
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

static int watch(int fd, struct dvmq_err *err)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

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
	ret = watch(dvmq_vhost_event_fd(), err);
	if (ret == 0)
		ret = watch(dvmq_ctl_fd(), err);
	if (ret == 0)
		ret = watch(dvmq_telemetry_fd(), err);
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

static void learn(uint64_t now_ms)
{
	struct dvmq_learn events[LEARN_PER_TICK];

	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		unsigned n = rte_ring_sc_dequeue_burst_elem(dvmq_workers[i]->learn, events, sizeof(events[0]),
							    LEARN_PER_TICK, NULL);

		for (unsigned k = 0; k < n; k++) {
			struct dvmq_port *port = dvmq_ports[events[k].port_index];

			if (port != NULL && !port->leaving)
				dvmq_fdb_learn(events[k].key, port, now_ms);
		}
	}
}

/* What is due by the clock. */
static void tick(uint64_t now_ms)
{
	static uint64_t slow_at, age_at, vmq_at;

	dvmq_measure(rte_rdtsc());
	learn(now_ms);
	dvmq_devices_tick(now_ms);
	dvmq_vmq_step(now_ms);
	if (now_ms >= vmq_at) {
		vmq_at = now_ms + VMQ_EVERY_MS;
		dvmq_vmq_tick(now_ms);
	}
	if (now_ms >= age_at) {
		age_at = now_ms + AGE_EVERY_MS;
		dvmq_fdb_age(now_ms);
		dvmq_vmq_audit(now_ms);
	}
	if (now_ms < slow_at) {
		dvmq_balancer_run(DVMQ_LOOP_FAST);
		return;
	}
	slow_at = now_ms + (uint64_t)dvmq_balancer_params()->slow_ms;
	dvmq_measure_slow();
	dvmq_balancer_run(DVMQ_LOOP_SLOW);
}

static struct timespec period(void)
{
	uint64_t ns = (uint64_t)(dvmq_balancer_params()->fast_ms * 1e6);

	if (dvmq_measure_idle() && ns < IDLE_MS * 1000000)
		ns = IDLE_MS * 1000000;
	return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

static void serve(int fd)
{
	if (fd == dvmq_vhost_event_fd())
		dvmq_ports_reconcile();
	else if (fd == dvmq_telemetry_fd())
		dvmq_telemetry_serve();
	else
		dvmq_ctl_serve();
}

void dvmq_control_run(void)
{
	uint64_t next = 0;

	prctl(PR_SET_TIMERSLACK, 1);
	while (!quit) {
		struct epoll_event events[8];
		struct timespec wait = period();
		int n = epoll_pwait2(epoll_fd, events, 8, &wait, NULL);
		uint64_t now = rte_rdtsc();

		for (int i = 0; i < n; i++)
			serve(events[i].data.fd);
		/* Commands must neither hurry nor hold up the clock. */
		if (n != 0 && now < next) /* also a signal: tap raises one per packet */
			continue;
		next = now + (uint64_t)(rte_get_tsc_hz() * 1e-9 * (double)wait.tv_nsec);
		tick(dvmq_now_ms());
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
