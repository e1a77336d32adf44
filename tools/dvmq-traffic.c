/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Plays the network and all guests of a switch in one thread:
 *
 *     this program                       the switch                         this program
 *     network (memif client) ── uplink (memif server) ── vhost ports ── guests (virtio-user)
 *
 * Sender and receiver of a flow sit side by side, so a closed loop costs nothing: a flow has at most `window` frames
 * in flight, all windows that meet in a ring fill half of it, and so a gap in the sequence numbers is a loss of the
 * switch, however long the hypervisor takes a CPU away.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include "traffic_engine.h"

#define TICKS_HZ      20 /* links, stalls, quotas, stdin */
#define IDLE_SLEEP_NS 20000
#define SETUP_ERROR   2

static struct dvmq_traffic run;

static volatile sig_atomic_t stop_wanted, move_wanted;

static void on_signal(int signal)
{
	if (signal == SIGUSR1)
		move_wanted = 1;
	else
		stop_wanted = 1;
}

static double seconds_since(uint64_t tsc)
{
	return (double)(rte_rdtsc() - tsc) / run.hz;
}

static uint64_t tsc_after(double seconds)
{
	return rte_rdtsc() + (uint64_t)(seconds * run.hz);
}

/* ---- events on stdout ---- */

static void print_time(const char *event, uint64_t start)
{
	printf("{\"event\":\"%s\",\"time\":%.3f", event, seconds_since(start));
}

static void print_end(void)
{
	puts("}");
	fflush(stdout);
}

struct totals {
	uint64_t received, lost, reordered, duplicated, late, in_flight;
};

static void add_flow(struct totals *t, const struct dvmq_flow *flow)
{
	t->received += flow->received;
	t->lost += flow->lost;
	t->reordered += flow->reordered;
	t->duplicated += flow->duplicated;
	t->late += flow->late;
	t->in_flight += dvmq_flow_in_flight(flow);
}

static struct totals sum_flows(void)
{
	struct totals t = {0};
	unsigned int i;

	for (i = 0; i < run.n_flows; i++)
		add_flow(&t, &run.flows[i]);
	return t;
}

static void print_totals(const struct totals *t)
{
	printf(",\"sent\":%lu,\"received\":%lu,\"lost\":%lu,\"reordered\":%lu,\"duplicated\":%lu,\"late\":%lu"
	       ",\"split\":%lu,\"corrupt\":%lu,\"foreign\":%lu,\"flooded\":%lu,\"other\":%lu",
	       run.sent, t->received, t->lost, t->reordered, t->duplicated, t->late, run.split, run.corrupt,
	       run.foreign, run.flooded, run.other);
}

static void print_latency(void)
{
	printf(",\"latency_us\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}", dvmq_traffic_latency_us(&run, 0.5),
	       dvmq_traffic_latency_us(&run, 0.99), run.latency_max / 1000.0);
}

static void print_endpoint(const struct dvmq_traffic_port *port)
{
	const struct dvmq_endpoint_stats *s = &run.stats[port->endpoint];
	struct totals t = {0};
	unsigned int i;

	for (i = 0; i < run.n_flows; i++) {
		if (run.flows[i].dst == port->endpoint)
			add_flow(&t, &run.flows[i]);
	}
	printf("{\"name\":\"%s\",\"up\":%s,\"tx\":%lu,\"rx\":%lu,\"bounced\":%lu,\"bounce_failed\":%lu,\"lost\":%lu"
	       ",\"reordered\":%lu,\"duplicated\":%lu}",
	       port->name, port->up ? "true" : "false", s->tx, s->rx, s->bounced, s->bounce_failed, t.lost, t.reordered,
	       t.duplicated);
}

static void print_modes(void)
{
	unsigned int mode, i;

	printf(",\"modes\":{");
	for (mode = 0; mode < DVMQ_MODES; mode++) {
		struct totals t = {0};

		for (i = 0; i < run.n_flows; i++) {
			if (run.flows[i].mode == mode)
				add_flow(&t, &run.flows[i]);
		}
		printf("%s\"%s\":{\"received\":%lu,\"lost\":%lu}", mode == 0 ? "" : ",", dvmq_traffic_mode_names[mode],
		       t.received, t.lost);
	}
	putchar('}');
}

static void print_final(uint64_t start, double seconds, uint64_t received_while_sending)
{
	struct totals t = sum_flows();
	unsigned int endpoint;

	print_time("final", start);
	print_totals(&t);
	printf(",\"seconds\":%.3f,\"pps\":%.0f,\"link_downs\":%lu", seconds,
	       seconds > 0 ? received_while_sending / seconds : 0, run.link_downs);
	print_latency();
	print_modes();
	if (run.first_port == DVMQ_NETWORK) {
		printf(",\"network\":");
		print_endpoint(&run.ports[DVMQ_NETWORK]);
	}
	printf(",\"guests\":[");
	for (endpoint = 1; endpoint < run.n_ports; endpoint++) {
		if (endpoint > 1)
			putchar(',');
		print_endpoint(&run.ports[endpoint]);
	}
	putchar(']');
	print_end();
}

/* ---- set-up ---- */

/* Each ring full of buffers, each transmit ring full of sent ones not yet cleaned up, and what is in our hands. */
static unsigned int count_mbufs(void)
{
	const struct dvmq_traffic_options *o = &run.options;

	return o->guests * o->queues * o->queue_size * 2 + 8192;
}

static int start_dpdk(const char *program)
{
	const struct dvmq_traffic_options *o = &run.options;
	const struct dvmq_traffic_eal eal = {
	    .program = program,
	    .huge = o->huge,
	    .verbose = o->verbose,
	    .cpus = o->cpus,
	    /* 2.5 KiB cover a buffer with all its headers; rings and DPDK's own tables come on top. */
	    .mem_mb = count_mbufs() / 400 + o->guests * o->queues * o->queue_size / 4096 + 64,
	};

	if (dvmq_traffic_eal_init(&eal) != 0)
		return -1;
	run.hz = rte_get_tsc_hz();
	run.id = (uint32_t)rte_rdtsc() ^ getpid();
	run.pool =
	    rte_pktmbuf_pool_create("traffic", count_mbufs(), 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, rte_socket_id());
	if (run.pool == NULL)
		fprintf(stderr, "dvmq-traffic: no memory for %u packet buffers; use fewer or smaller queues%s\n",
			count_mbufs(), o->huge ? " or reserve more hugepages" : "");
	return run.pool != NULL ? 0 : -1;
}

static void describe_ports(void)
{
	const struct dvmq_traffic_options *o = &run.options;
	struct dvmq_traffic_port *port;
	unsigned int endpoint;

	run.n_ports = 1 + o->guests;
	run.first_port = o->uplink != NULL ? DVMQ_NETWORK : 1;
	for (endpoint = run.first_port; endpoint < run.n_ports; endpoint++) {
		port = &run.ports[endpoint];
		port->endpoint = endpoint;
		if (endpoint == DVMQ_NETWORK) {
			snprintf(port->name, sizeof(port->name), "net_memif_network");
			snprintf(port->path, sizeof(port->path), "%s", o->uplink);
			port->tx_queues = o->uplink_rx;
			port->rx_queues = o->uplink_tx;
			port->ring = o->uplink_ring;
		} else {
			snprintf(port->name, sizeof(port->name), "net_virtio_user_%u", endpoint);
			snprintf(port->path, sizeof(port->path), "%s/%s%u.sock", o->dir, o->names, endpoint);
			port->tx_queues = port->rx_queues = o->queues;
			port->ring = o->queue_size;
			port->guest_connects = o->guest_connects;
		}
	}
}

static void idle_sleep(void)
{
	nanosleep(&(struct timespec){.tv_nsec = IDLE_SLEEP_NS}, NULL);
}

/* The switch is the server: its sockets have to be there first. */
static int await_socket(const struct dvmq_traffic_port *port, uint64_t deadline)
{
	while (port->guest_connects && access(port->path, F_OK) != 0) {
		if (stop_wanted || rte_rdtsc() > deadline) {
			fprintf(stderr, "dvmq-traffic: %s does not exist; start the switch (mode = server) first\n",
				port->path);
			return -1;
		}
		idle_sleep();
	}
	return 0;
}

static int start_ports(uint64_t deadline)
{
	unsigned int endpoint;
	int ret = 0;

	if (run.first_port == DVMQ_NETWORK)
		ret = dvmq_traffic_network_start(&run.ports[DVMQ_NETWORK], run.pool);
	for (endpoint = 1; ret == 0 && endpoint < run.n_ports; endpoint++) {
		ret = await_socket(&run.ports[endpoint], deadline);
		if (ret == 0)
			ret = dvmq_traffic_guest_start(&run.ports[endpoint], run.pool);
	}
	return ret;
}

static void stop_ports(void)
{
	unsigned int endpoint;

	for (endpoint = run.first_port; endpoint < run.n_ports; endpoint++)
		dvmq_traffic_port_stop(&run.ports[endpoint]);
}

/* ---- the run ---- */

static void report_link(const struct dvmq_traffic_port *port, uint64_t start)
{
	run.link_downs += !port->up;
	run.settled_tsc = tsc_after(run.options.settle);
	print_time("link", start);
	printf(",\"port\":\"%s\",\"up\":%s", port->path, port->up ? "true" : "false");
	print_end();
}

/* Returns how many links are down. */
static unsigned int update_links(uint64_t start)
{
	unsigned int endpoint, down = 0;

	for (endpoint = run.first_port; endpoint < run.n_ports; endpoint++) {
		if (dvmq_traffic_port_update(&run.ports[endpoint]))
			report_link(&run.ports[endpoint], start);
		down += !run.ports[endpoint].up;
	}
	return down;
}

static int await_links(uint64_t start, uint64_t deadline)
{
	unsigned int endpoint;

	while (update_links(start) > 0 && !stop_wanted) {
		if (rte_rdtsc() <= deadline) {
			idle_sleep();
			continue;
		}
		for (endpoint = run.first_port; endpoint < run.n_ports; endpoint++) {
			const struct dvmq_traffic_port *port = &run.ports[endpoint];

			if (port->up)
				continue;
			if (endpoint == DVMQ_NETWORK)
				fprintf(stderr,
					"dvmq-traffic: the uplink is not up; the switch needs device = net_memif0,"
					"role=server,socket=%s with %u RX and %u TX queues\n",
					port->path, port->tx_queues, port->rx_queues);
			else
				fprintf(stderr,
					"dvmq-traffic: guest %s is not up; check that the switch has this port\n",
					port->path);
		}
		return -1;
	}
	return 0;
}

static void move_hot_spot(uint16_t endpoint, uint64_t start)
{
	run.hot = endpoint;
	dvmq_traffic_renew_quotas(&run);
	print_time("hot", start);
	printf(",\"guest\":\"%s%u\"", run.options.names, run.hot);
	print_end();
}

/* Reads `hot N` lines; guests count from 1, as their names do. */
static void read_commands(uint64_t start)
{
	static bool closed;
	struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
	char text[128];
	unsigned int guest;
	ssize_t n;

	if (closed || poll(&fd, 1, 0) <= 0)
		return;
	n = read(STDIN_FILENO, text, sizeof(text) - 1);
	if (n <= 0) {
		closed = true;
		return;
	}
	text[n] = '\0';
	if (sscanf(text, "hot %u", &guest) == 1 && guest >= 1 && guest <= run.options.guests)
		move_hot_spot(guest, start);
	else
		fprintf(stderr, "dvmq-traffic: stdin takes `hot N`, N from 1 to %u\n", run.options.guests);
}

static void print_interval(uint64_t start, double seconds)
{
	static uint64_t received_before;
	struct totals t = sum_flows();

	print_time("interval", start);
	print_totals(&t);
	printf(",\"in_flight\":%lu,\"pps\":%.0f", t.in_flight, (t.received - received_before) / seconds);
	print_latency();
	if (run.options.profile == DVMQ_WANDER)
		printf(",\"hot\":\"%s%u\"", run.options.names, run.hot);
	print_end();
	received_before = t.received;
}

struct timers {
	uint64_t tick, announce, hot, interval;
};

static bool is_due(uint64_t *timer, double period)
{
	if (period == 0 || rte_rdtsc() < *timer)
		return false;
	*timer = tsc_after(period);
	return true;
}

static void run_timers(struct timers *timers, uint64_t start)
{
	const struct dvmq_traffic_options *o = &run.options;
	uint16_t next_guest = run.hot % o->guests + 1;

	if (is_due(&timers->tick, 1.0 / TICKS_HZ)) {
		update_links(start);
		dvmq_traffic_check_stalls(&run, run.options.stall * TICKS_HZ);
		dvmq_traffic_renew_quotas(&run);
		read_commands(start);
	}
	if (is_due(&timers->announce, 1))
		dvmq_traffic_announce(&run);
	if ((o->profile == DVMQ_WANDER && is_due(&timers->hot, o->hot_seconds)) || move_wanted) {
		move_wanted = 0;
		move_hot_spot(next_guest, start);
	}
	if (is_due(&timers->interval, o->interval))
		print_interval(start, o->interval);
}

static struct timers new_timers(void)
{
	return (struct timers){.hot = tsc_after(run.options.hot_seconds), .interval = tsc_after(run.options.interval)};
}

static double rate_now(uint64_t start)
{
	const struct dvmq_traffic_options *o = &run.options;
	bool first_step = o->profile == DVMQ_STEP && seconds_since(start) < o->seconds / 2;

	return first_step ? o->rate / 10 : o->rate;
}

static void send_and_receive(uint64_t start, struct timers *timers)
{
	const struct dvmq_traffic_options *o = &run.options;
	unsigned int work;

	while (!stop_wanted && (o->seconds == 0 || seconds_since(start) < o->seconds) &&
	       (o->packets == 0 || run.sent < o->packets)) {
		work = dvmq_traffic_receive(&run);
		if (o->profile != DVMQ_IDLE)
			work += dvmq_traffic_send(&run, rate_now(start));
		run_timers(timers, start);
		if (work == 0)
			idle_sleep();
	}
}

static void receive_for(double seconds)
{
	uint64_t end = tsc_after(seconds);

	while (rte_rdtsc() < end) {
		if (dvmq_traffic_receive(&run) == 0)
			idle_sleep();
	}
}

/* Takes what is still on its way; what does not come is lost. */
static void drain(uint64_t start, struct timers *timers)
{
	while (sum_flows().in_flight > 0) {
		if (dvmq_traffic_receive(&run) == 0)
			idle_sleep();
		run_timers(timers, start); /* writes off stalled flows */
	}
	/* A duplicate comes behind its original. */
	receive_for(0.1);
}

/* Lets the switch learn all addresses before the first data frame. */
static void warm_up(void)
{
	dvmq_traffic_announce(&run);
	receive_for(0.2);
}

static bool all_well(void)
{
	struct totals t = sum_flows();

	if (t.received == 0 && run.options.profile != DVMQ_IDLE)
		return false;
	return t.lost + t.reordered + t.duplicated + run.split + run.corrupt + run.foreign == 0;
}

static int run_traffic(void)
{
	uint64_t start = rte_rdtsc(), deadline = tsc_after(run.options.wait);
	struct timers timers;
	uint64_t received;
	double seconds;

	if (start_ports(deadline) != 0)
		return SETUP_ERROR;
	print_time("ready", start);
	print_end();
	if (await_links(start, deadline) != 0)
		return SETUP_ERROR;
	warm_up();

	start = run.tokens_tsc = rte_rdtsc();
	run.settled_tsc = tsc_after(run.options.settle);
	timers = new_timers();
	print_time("start", start);
	printf(",\"flows\":%u", run.n_flows);
	print_end();
	send_and_receive(start, &timers);
	seconds = seconds_since(start);
	received = sum_flows().received;
	drain(start, &timers);
	print_final(start, seconds, received);
	return all_well() ? 0 : 1;
}

static int create_flows(void)
{
	int ret = dvmq_traffic_flows_init(&run);

	if (ret == -ENOENT)
		fprintf(stderr, "dvmq-traffic: v2v needs two guests in one VLAN; see --guests and --vlan\n");
	else if (ret != 0)
		fprintf(stderr, "dvmq-traffic: cannot create the flows: %s; use a smaller --flows\n", strerror(-ret));
	return ret;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal};
	int ret = SETUP_ERROR;

	dvmq_traffic_options_parse(argc, argv, &run.options);
	describe_ports();
	if (start_dpdk(argv[0]) != 0)
		return SETUP_ERROR;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	signal(SIGPIPE, SIG_IGN); /* the drivers write to sockets of a switch that may just have died */
	signal(SIGTTIN, SIG_IGN); /* in the background stdin is read as closed */
	prctl(PR_SET_TIMERSLACK, 1UL);

	if (create_flows() == 0)
		ret = run_traffic();
	stop_ports();
	dvmq_traffic_eal_cleanup();
	free(run.flows);
	return ret;
}
