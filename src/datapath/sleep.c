/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How a worker sleeps and what wakes it: its mailbox, a guest's kick, an RX
 * interrupt.  The only system calls of the datapath are here.
 *
 * A queue that is to notify is armed, and looked at once more after that: what
 * came before it was armed is found, what comes after it wakes.  Descriptors are
 * edge-triggered, so nothing has to be read from them.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_rcu_qsbr.h>
#include <rte_vhost.h>

#include <dvmq/port.h>
#include <dvmq/worker.h>

/* Sleeps where nothing can wake for a packet: a ring of 1024 lasts 250 us at 4 Mpps. */
#define NAP_MIN_NS 20000
#define NAP_MAX_NS 250000

/*
 * Even where all can: a look at a ring finds nothing while the library holds its
 * lock or no buffer is left, and a guest does not kick again for what it has
 * kicked for.
 */
#define LOOK_AGAIN_NS 100000000

static void watch(struct dvmq_worker *w, struct dvmq_queue *queue, int fd)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};

	if (fd < 0)
		return;
	/* Queues of one device may share a descriptor (EEXIST): any of them wakes us. */
	if (epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST)
		queue->wake_fd = fd;
	else if (queue->port->type == DVMQ_PORT_VHOST)
		close(fd);
}

/*
 * The kick descriptor of a guest, as our own duplicate: the library may close
 * its own at any time, and the number could then belong to something else.
 */
static bool arm_guest(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct dvmq_port *port = queue->port;
	uint32_t generation = atomic_load_explicit(&port->vring_generation, memory_order_acquire);
	int vid = atomic_load_explicit(&port->vid, memory_order_acquire);
	struct rte_vhost_vring vring;

	if (queue->wake_fd >= 0 && queue->wake_generation != generation)
		dvmq_queue_unwatch(w, queue);
	if (vid < 0)
		return true; /* no guest, nothing to wait for: the controller takes the queue away */
	if (queue->wake_fd < 0) {
		if (rte_vhost_get_vhost_vring(vid, queue->virtqueue, &vring) < 0 || vring.kickfd < 0)
			return false;
		watch(w, queue, dup(vring.kickfd));
		queue->wake_generation = generation;
	}
	return queue->wake_fd >= 0 && rte_vhost_enable_guest_notification(vid, queue->virtqueue, 1) == 0;
}

static bool arm_ethdev(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	if (queue->wake_fd < 0)
		watch(w, queue, rte_eth_dev_rx_intr_ctl_q_get_fd(queue->eth_id, queue->eth_queue));
	return queue->wake_fd >= 0 && rte_eth_dev_rx_intr_enable(queue->eth_id, queue->eth_queue) == 0;
}

/* True if the queue will wake us. */
static bool arm(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	if (queue->armed && (queue->port->type != DVMQ_PORT_VHOST ||
			     queue->wake_generation == atomic_load_explicit(&queue->port->vring_generation,
									    memory_order_acquire)))
		return true;
	if (!queue->notifies)
		queue->armed = false;
	else if (queue->port->type == DVMQ_PORT_VHOST)
		queue->armed = arm_guest(w, queue);
	else
		queue->armed = arm_ethdev(w, queue);
	return queue->armed;
}

void dvmq_queue_disarm(struct dvmq_queue *queue)
{
	int vid = atomic_load_explicit(&queue->port->vid, memory_order_acquire);

	if (queue->port->type != DVMQ_PORT_VHOST)
		rte_eth_dev_rx_intr_disable(queue->eth_id, queue->eth_queue);
	else if (vid >= 0)
		rte_vhost_enable_guest_notification(vid, queue->virtqueue, 0);
	queue->armed = false;
}

void dvmq_queue_unwatch(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	if (queue->armed)
		dvmq_queue_disarm(queue);
	if (queue->wake_fd < 0)
		return;
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, queue->wake_fd, NULL);
	if (queue->port->type == DVMQ_PORT_VHOST)
		close(queue->wake_fd);
	queue->wake_fd = -1;
}

/* Arms all queues; how long to sleep at most in ns, 0: not at all, -1: no queue, until something wakes us. */
static int64_t prepare(struct dvmq_worker *w)
{
	bool all = true;

	for (unsigned i = 0; i < w->n; i++)
		if (!arm(w, w->queues[i]))
			all = false;
	for (unsigned i = 0; i < w->n; i++) {
		if (dvmq_worker_loop(w) > 0)
			return 0;
	}
	if (all)
		return w->n > 0 ? LOOK_AGAIN_NS : -1;
	if (w->nap_ns < NAP_MIN_NS || w->now - w->last_packet < 2 * w->idle_patience)
		w->nap_ns = NAP_MIN_NS;
	else if (w->nap_ns < NAP_MAX_NS)
		w->nap_ns += w->nap_ns / 4;
	return w->nap_ns;
}

void dvmq_worker_sleep(struct dvmq_worker *w)
{
	struct epoll_event events[16]; /* what is left over only makes the next sleep short */
	int64_t ns = prepare(w);
	struct timespec limit = {.tv_nsec = ns};

	if (ns == 0)
		return;
	atomic_store(&w->asleep, true); /* seq_cst: pairs with dvmq_inbox_post() */
	if (atomic_load(&w->inbox) == NULL && !atomic_load(&w->stop)) {
		dvmq_count(&w->sleeps, 1);
		rte_rcu_qsbr_thread_offline(dvmq_rcu, w->index);
		epoll_pwait2(w->epoll_fd, events, 16, ns < 0 ? NULL : &limit, NULL);
		rte_rcu_qsbr_thread_online(dvmq_rcu, w->index);
	}
	atomic_store(&w->asleep, false);
}
