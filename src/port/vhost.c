/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user ports.  The vhost library calls us back in its events thread, one
 * for all sockets, sometimes with the locks of the device held.  So a callback
 * only stores what it was told, for the controller to look at, and wakes it.
 * The exception is destroy_device: the library frees the device when it returns,
 * so it waits until no worker is inside.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/virtio_net.h>

#include <rte_rcu_qsbr.h>
#include <rte_vhost.h>

#include <dvmq/log.h>
#include <dvmq/port.h>
#include <dvmq/worker.h>

/*
 * Not offered: offloads, since a frame would need work on its way to a port that
 * has none of them, and the packed ring, whose backlog the library cannot count.
 */
#define NOT_OFFERED                                                                                                    \
	(1ULL << VIRTIO_NET_F_CSUM | 1ULL << VIRTIO_NET_F_GUEST_CSUM | 1ULL << VIRTIO_NET_F_GUEST_TSO4 |               \
	 1ULL << VIRTIO_NET_F_GUEST_TSO6 | 1ULL << VIRTIO_NET_F_GUEST_ECN | 1ULL << VIRTIO_NET_F_GUEST_UFO |           \
	 1ULL << VIRTIO_NET_F_HOST_TSO4 | 1ULL << VIRTIO_NET_F_HOST_TSO6 | 1ULL << VIRTIO_NET_F_HOST_ECN |             \
	 1ULL << VIRTIO_NET_F_HOST_UFO | 1ULL << VIRTIO_F_RING_PACKED)

static int event_fd = -1;

_Atomic uint32_t dvmq_vring_changes;

int dvmq_vhost_event_fd(void)
{
	if (event_fd < 0)
		event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return event_fd;
}

static struct dvmq_port *port_of(int vid)
{
	char path[DVMQ_PATH_LEN];

	if (rte_vhost_get_ifname(vid, path, sizeof(path)) < 0)
		return NULL;
	for (unsigned i = 0; i < atomic_load_explicit(&dvmq_port_limit, memory_order_acquire); i++) {
		struct dvmq_port *port = atomic_load_explicit(&dvmq_ports[i], memory_order_acquire);

		if (port != NULL && port->type == DVMQ_PORT_VHOST && strcmp(port->conf.socket, path) == 0)
			return port;
	}
	return NULL;
}

static void tell_controller(struct dvmq_port *port)
{
	atomic_store(&port->changed, true); /* the controller clears it, then looks */
	eventfd_write(event_fd, 1);
}

static void step_generation(struct dvmq_port *port)
{
	atomic_fetch_add_explicit(&port->vring_generation, 1, memory_order_release);
	atomic_fetch_add_explicit(&dvmq_vring_changes, 1, memory_order_release); /* pairs with prepare() in sleep.c */
}

static int new_device(int vid)
{
	struct dvmq_port *port = port_of(vid);

	if (port == NULL)
		return -1;
	step_generation(port);
	atomic_store_explicit(&port->vid, vid, memory_order_release); /* pairs with the polls and deliveries */
	tell_controller(port);
	return 0;
}

static void destroy_device(int vid)
{
	struct dvmq_port *port = port_of(vid);

	if (port == NULL)
		return;
	atomic_store_explicit(&port->vid, -1, memory_order_release);
	step_generation(port);
	rte_rcu_qsbr_synchronize(dvmq_rcu, RTE_QSBR_THRID_INVALID);
	tell_controller(port);
}

/* Runs with the access locks of all rings held: no call into the library here. */
static int vring_state_changed(int vid, uint16_t virtqueue, int enable)
{
	struct dvmq_port *port = port_of(vid);

	if (port == NULL || virtqueue >= 2 * DVMQ_MAX_PAIRS)
		return 0;
	if (enable)
		atomic_fetch_or_explicit(&port->vring_enabled, 1u << virtqueue, memory_order_release);
	else
		atomic_fetch_and_explicit(&port->vring_enabled, ~(1u << virtqueue), memory_order_release);
	step_generation(port);
	tell_controller(port);
	return 0;
}

/*
 * For vhost-user the library always offers 128 queue pairs, and
 * rte_vhost_driver_set_max_queue_num() is for VDUSE only.  A guest must not get
 * pairs that nobody serves, so the question is answered here.  The message is
 * the one on the socket: vhost-user protocol, "Message Specification".
 */
#define VHOST_USER_GET_QUEUE_NUM 17
#define VHOST_USER_REPLY         (1u << 2)

struct __attribute__((packed)) vhost_user_u64 {
	uint32_t request, flags, size;
	uint64_t value;
};

static enum rte_vhost_msg_result answer_queue_num(int vid, void *message)
{
	struct vhost_user_u64 *question = message;
	struct dvmq_port *port = port_of(vid);

	if (question->request != VHOST_USER_GET_QUEUE_NUM || port == NULL)
		return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
	question->value = port->conf.queues;
	question->size = sizeof(question->value);
	question->flags |= VHOST_USER_REPLY;
	return RTE_VHOST_MSG_RESULT_REPLY;
}

static int new_connection(int vid)
{
	static const struct rte_vhost_user_extern_ops extern_ops = {.pre_msg_handle = answer_queue_num};

	return rte_vhost_extern_callback_register(vid, &extern_ops, NULL);
}

static const struct rte_vhost_device_ops ops = {
	.new_connection = new_connection,
	.new_device = new_device,
	.destroy_device = destroy_device,
	.vring_state_changed = vring_state_changed,
};

/* What stands at the path of a server socket: a stale socket goes, anything else is refused. */
static int clear_path(const struct dvmq_port *port, struct dvmq_err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *path = port->conf.socket;
	struct stat st;
	int fd, ret;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return dvmq_fail(err, EEXIST, "port %s: %s exists and is not a socket; remove it or choose another path",
				 port->conf.name, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return dvmq_fail(err, errno, "port %s: socket: %s", port->conf.name, strerror(errno));
	memcpy(address.sun_path, path, strlen(path));
	ret = connect(fd, (struct sockaddr *)&address, sizeof(address));
	close(fd);
	if (ret == 0)
		return dvmq_fail(err, EADDRINUSE, "port %s: another process serves %s; end it or choose another path",
				 port->conf.name, path);
	unlink(path);
	return 0;
}

int dvmq_vhost_open(struct dvmq_port *port, struct dvmq_err *err)
{
	const char *path = port->conf.socket;
	uint64_t flags = RTE_VHOST_USER_NET_COMPLIANT_OL_FLAGS;
	int ret;

	if (port->conf.server) {
		ret = clear_path(port, err);
		if (ret < 0)
			return ret;
	} else {
		flags |= RTE_VHOST_USER_CLIENT;
	}
	if (rte_vhost_driver_register(path, flags) < 0)
		return dvmq_fail(err, EIO, "port %s: the vhost library refused %s; see the VHOST_CONFIG line above",
				 port->conf.name, path);
	port->registered = true;
	if (rte_vhost_driver_disable_features(path, NOT_OFFERED) < 0 ||
	    rte_vhost_driver_callback_register(path, &ops) < 0 || rte_vhost_driver_start(path) < 0) {
		dvmq_vhost_close(port);
		return dvmq_fail(err, EIO,
				 "port %s: cannot open %s; see the VHOST_CONFIG line above, does its directory exist?",
				 port->conf.name, path);
	}
	if (port->conf.server && chmod(path, 0660) < 0)
		DVMQ_LOG(WARNING, "port %s: chmod %s: %s", port->conf.name, path, strerror(errno));
	return 0;
}

void dvmq_vhost_close(struct dvmq_port *port)
{
	if (port->registered)
		rte_vhost_driver_unregister(port->conf.socket);
	port->registered = false;
}
