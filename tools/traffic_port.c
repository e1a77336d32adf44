/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <rte_bus_vdev.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_version.h>

#include "traffic_flow.h"
#include "traffic_port.h"

#define EAL_ARGS_MAX 16

/* How long one attempt to connect the network port may take before the next one. */
#define RETRY_MS 500

/* How long the interrupt thread may take to see that a peer has gone. */
#define LINK_DOWN_MS 5000

static void sleep_ms(unsigned int ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* "0@(0,3-5)": one lcore that floats over CPUs, since a pinned one would fight with the workers of the switch. */
static void lcores_arg(const char *cpus, char *ret_arg, size_t size)
{
	size_t n = snprintf(ret_arg, size, "--lcores=0@(%s", cpus ? cpus : "");
	cpu_set_t set;
	int cpu;

	if (cpus == NULL && sched_getaffinity(0, sizeof(set), &set) == 0) {
		for (cpu = 0; cpu < CPU_SETSIZE && n < size; cpu++) {
			if (CPU_ISSET(cpu, &set))
				n += snprintf(ret_arg + n, size - n, "%s%d", ret_arg[n - 1] == '(' ? "" : ",", cpu);
		}
	}
	if (n < size)
		snprintf(ret_arg + n, size - n, ")");
}

void dvmq_traffic_eal_cleanup(void)
{
	char dir[PATH_MAX];

	snprintf(dir, sizeof(dir), "%s", rte_eal_get_runtime_dir());
	rte_eal_cleanup();
	rmdir(dir); /* stays if anything is left in it: nothing of this program is */
}

int dvmq_traffic_eal_init(const struct dvmq_traffic_eal *eal)
{
	char program[64], prefix[64], mem[32], lcores[8192];
	char *args[EAL_ARGS_MAX];
	int n = 0;

	snprintf(program, sizeof(program), "%s", eal->program);
	snprintf(prefix, sizeof(prefix), "--file-prefix=dvmq-traffic-%d", getpid());
	snprintf(mem, sizeof(mem), "-m%u", eal->mem_mb);
	lcores_arg(eal->cpus, lcores, sizeof(lcores));

	args[n++] = program;
	args[n++] = lcores;
	args[n++] = prefix;
	args[n++] = (char *)"--no-pci";
	args[n++] = (char *)"--no-telemetry";
	args[n++] = (char *)"--no-shconf";
	/* vhost-user passes at most 8 memory regions, each one a file. */
	args[n++] = (char *)"--single-file-segments";
	if (eal->huge) {
		args[n++] = (char *)"--in-memory";
	} else {
		args[n++] = (char *)"--no-huge";
		args[n++] = mem;
	}
	if (!eal->verbose) {
		args[n++] = (char *)"--log-level=error";
		/* A peer that is not there yet is reported by this program, once. */
		args[n++] = (char *)"--log-level=pmd.net.memif:critical";
		args[n++] = (char *)"--log-level=pmd.net.virtio.*:critical";
	}
	args[n] = NULL;
	if (rte_eal_init(n, args) < 0) {
		fprintf(stderr, "dvmq-traffic: cannot start DPDK: %s; %s\n", rte_strerror(rte_errno),
			eal->huge ? "check HugePages_Free in /proc/meminfo or leave --huge out"
				  : "check free memory and --verbose");
		rmdir(rte_eal_get_runtime_dir());
		return -1;
	}
	return 0;
}

static int start_port(struct dvmq_traffic_port *port, struct rte_mempool *pool, bool lsc)
{
	const struct rte_eth_conf conf = {.intr_conf = {.lsc = lsc}};
	uint16_t q;
	int ret;

	ret = rte_eth_dev_get_port_by_name(port->name, &port->port_id);
	port->created = ret == 0;
	if (ret == 0)
		ret = rte_eth_dev_configure(port->port_id, port->rx_queues, port->tx_queues, &conf);
	for (q = 0; ret == 0 && q < port->rx_queues; q++)
		ret = rte_eth_rx_queue_setup(port->port_id, q, port->ring, rte_socket_id(), NULL, pool);
	for (q = 0; ret == 0 && q < port->tx_queues; q++)
		ret = rte_eth_tx_queue_setup(port->port_id, q, port->ring, rte_socket_id(), NULL);
	/* The network port starts when its peer is there. */
	if (ret == 0 && port->endpoint != DVMQ_NETWORK)
		ret = rte_eth_dev_start(port->port_id);
	if (ret != 0)
		fprintf(stderr, "dvmq-traffic: cannot configure %s: %s; try --verbose\n", port->name,
			rte_strerror(-ret));
	return ret;
}

/*
 * The midwife of a listening guest.
 *
 * net_virtio_user with server=1 blocks in its probe until a vhost-user backend connects: guests would come up one by
 * one, a second apart (the pace at which librte_vhost tries again), a missing switch would hang this program without
 * a word, and no script could tell when the sockets exist. So each guest is born on a private path, with the few
 * vhost-user messages of probe and start (QEMU docs/interop/vhost-user.rst) answered here. Then this peer hangs up,
 * and the socket moves to its public name, where the switch finds a listening guest: the driver's own path for a
 * switch that restarts.
 */
struct midwife {
	pthread_t thread;
	struct sockaddr_un address;
	atomic_bool stop; /* main thread: writes, midwife: reads */
	int fd;
};

struct vhost_user_message {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
	uint64_t payload;
} __attribute__((packed));

#define VHOST_USER_GET_FEATURES		 1
#define VHOST_USER_GET_VRING_BASE	 11
#define VHOST_USER_GET_PROTOCOL_FEATURES 15
#define VHOST_USER_GET_QUEUE_NUM	 17
#define VHOST_USER_REPLY		 (0x1 | 1 << 2) /* version 1, reply */
#define VHOST_USER_HEADER		 offsetof(struct vhost_user_message, payload)

/* What any switch on librte_vhost offers: mergeable buffers, multiqueue, protocol features, virtio 1. */
#define FEATURES	  (UINT64_C(1) << 15 | UINT64_C(1) << 22 | UINT64_C(1) << 30 | UINT64_C(1) << 32)
#define PROTOCOL_FEATURES (UINT64_C(1) << 0) /* multiqueue */
#define QUEUE_PAIRS_MAX	  128

static bool skip_bytes(int fd, size_t n)
{
	char buffer[512];
	ssize_t got;

	for (; n > 0; n -= got) {
		got = recv(fd, buffer, RTE_MIN(n, sizeof(buffer)), 0);
		if (got <= 0)
			return false;
	}
	return true;
}

/* Answers one message; file descriptors that come along are closed by recv() without control data. */
static bool answer(int fd)
{
	struct vhost_user_message message;

	if (recv(fd, &message, VHOST_USER_HEADER, MSG_WAITALL) != (ssize_t)VHOST_USER_HEADER)
		return false;
	if (!skip_bytes(fd, message.size))
		return false;
	switch (message.request) {
	case VHOST_USER_GET_FEATURES:
		message.payload = FEATURES;
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		message.payload = PROTOCOL_FEATURES;
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		message.payload = QUEUE_PAIRS_MAX;
		break;
	case VHOST_USER_GET_VRING_BASE:
		message.payload = 0;
		break;
	default:
		return true;
	}
	message.flags = VHOST_USER_REPLY;
	message.size = sizeof(message.payload);
	return send(fd, &message, sizeof(message), MSG_NOSIGNAL) == (ssize_t)sizeof(message);
}

static void *midwife_run(void *arg)
{
	struct midwife *midwife = arg;

	/* The probe creates the socket some time after this thread has started. */
	while (connect(midwife->fd, (struct sockaddr *)&midwife->address, sizeof(midwife->address)) != 0) {
		if (atomic_load(&midwife->stop))
			return NULL;
		sleep_ms(1);
	}
	while (answer(midwife->fd))
		;
	return NULL;
}

/* Chooses the private path, midwife->address.sun_path. Returns 0 or a negative errno. */
static int midwife_start(struct midwife *midwife, const char *path)
{
	*midwife = (struct midwife){.address.sun_family = AF_UNIX};
	if (snprintf(midwife->address.sun_path, sizeof(midwife->address.sun_path), "%s.new", path) >=
	    (int)sizeof(midwife->address.sun_path))
		return -ENAMETOOLONG;
	unlink(midwife->address.sun_path);
	midwife->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (midwife->fd < 0)
		return -errno;
	return -pthread_create(&midwife->thread, NULL, midwife_run, midwife);
}

/* Hangs up: the guest sees its backend leave. */
static void midwife_stop(struct midwife *midwife)
{
	atomic_store(&midwife->stop, true);
	shutdown(midwife->fd, SHUT_RDWR);
	pthread_join(midwife->thread, NULL);
	close(midwife->fd);
}

static bool link_is_up(const struct dvmq_traffic_port *port)
{
	struct rte_eth_link link;

	return rte_eth_link_get_nowait(port->port_id, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

static int create_guest(struct dvmq_traffic_port *port, const char *path, struct rte_mempool *pool)
{
	struct rte_ether_addr mac;
	char args[512], mac_text[RTE_ETHER_ADDR_FMT_SIZE];
	int ret;

	dvmq_endpoint_mac(port->endpoint, &mac);
	rte_ether_format_addr(mac_text, sizeof(mac_text), &mac);
	snprintf(args, sizeof(args), "path=%s,server=%d,queues=%u,queue_size=%u,mac=%s", path, !port->guest_connects,
		 port->rx_queues, port->ring, mac_text);
	ret = rte_vdev_init(port->name, args);
	if (ret != 0) {
		fprintf(stderr, "dvmq-traffic: cannot create guest %s on %s; check the folder, and --verbose\n",
			port->name, port->path);
		return ret;
	}
	return start_port(port, pool, true);
}

static int create_listening_guest(struct dvmq_traffic_port *port, struct rte_mempool *pool)
{
	struct midwife midwife;
	const char *birth = midwife.address.sun_path;
	unsigned int ms;
	int ret;

	ret = midwife_start(&midwife, port->path);
	if (ret != 0) {
		fprintf(stderr, "dvmq-traffic: cannot create %s: %s\n", port->path, rte_strerror(-ret));
		return -1;
	}
	ret = create_guest(port, birth, pool);
	midwife_stop(&midwife);
	for (ms = 0; ret == 0 && link_is_up(port) && ms < LINK_DOWN_MS; ms++)
		sleep_ms(1);
	if (ret == 0 && rename(birth, port->path) != 0) {
		fprintf(stderr, "dvmq-traffic: cannot create %s: %s\n", port->path, strerror(errno));
		ret = -1;
	}
	if (ret != 0)
		unlink(birth);
	return ret == 0 ? 0 : -1;
}

int dvmq_traffic_guest_start(struct dvmq_traffic_port *port, struct rte_mempool *pool)
{
	if (port->guest_connects)
		return create_guest(port, port->path, pool) == 0 ? 0 : -1;
	return create_listening_guest(port, pool);
}

int dvmq_traffic_network_start(struct dvmq_traffic_port *port, struct rte_mempool *pool)
{
	char args[256];

	/* Abstract socket: nothing to remove, and a killed switch can bind it again. */
	snprintf(args, sizeof(args), "role=client,socket=%s,socket-abstract=yes,rsize=%u", port->path,
		 rte_log2_u32(port->ring));
	if (rte_vdev_init(port->name, args) != 0) {
		fprintf(stderr, "dvmq-traffic: cannot create the network port; try --verbose\n");
		return -1;
	}
	return start_port(port, pool, false) == 0 ? 0 : -1;
}

/*
 * A memif client connects in its start only, fails if nobody listens, and is hung up on if the other side listens
 * but is not started: then it takes a stop and a start. Neither comes soon after the link went down, since the
 * interrupt thread is then still busy taking the connection apart, without a lock against a stop.
 */
static void connect_network(struct dvmq_traffic_port *port)
{
	uint64_t now = rte_rdtsc();

	if (!port->up && now < port->retry_tsc)
		return;
	port->retry_tsc = now + rte_get_tsc_hz() / 1000 * RETRY_MS;
	if (port->up)
		return;
	if (rte_eth_dev_stop(port->port_id) == 0)
		(void)rte_eth_dev_start(port->port_id); /* the link state tells */
}

bool dvmq_traffic_port_update(struct dvmq_traffic_port *port)
{
	bool was_up = port->up;

	port->up = link_is_up(port);
	if (port->endpoint == DVMQ_NETWORK)
		connect_network(port);
	return port->up != was_up;
}

void dvmq_traffic_port_stop(struct dvmq_traffic_port *port)
{
	if (!port->created)
		return;
	(void)rte_eth_dev_stop(port->port_id); /* nothing to be done about a port that refuses at the end */
	(void)rte_eth_dev_close(port->port_id);
	if (port->endpoint != DVMQ_NETWORK && !port->guest_connects)
		unlink(port->path);
}
