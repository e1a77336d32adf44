/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How a worker sleeps and what wakes it: its mailbox, a guest's kick, an RX
 * interrupt.  The only system calls of the datapath are here.
 *
 * A queue that is to notify is armed, and looked at once more after that: what
 * came before it was armed is found, what comes after it wakes, and tells which
 * queue it was.  So whoever was armed and did not kick is not looked at again:
 * a sleep costs by the number of queues that had traffic or cannot notify, not
 * by the number of queues.  Descriptors are edge-triggered, so nothing has to be
 * read from them.
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

/*
 * How long a worker polls on without a packet.  Balanced: a worker that would
 * sleep again soon after it slept is more patient each time, since waking up has
 * its price; one that slept long ago is less.
 */
#define PATIENCE_MIN_US	   10
#define PATIENCE_MAX_US	   100 /* about what waking up costs, with what it delays */
#define PATIENCE_WORK_US   1000 /* while there is work: also guests lose their CPU now and then */
#define WORK_US		   1000
#define PATIENCE_FRUGAL_US 5
#define AGAIN_US	   200 /* sleeps closer than that are too close */

/*
 * Naps: sleeps where nothing can wake for a packet.  They get longer while none
 * comes.  A ring of 1024 lasts for NAP_NS at 10 Mpps, and beyond that a packet
 * waits for no more than a 256th of the silence that it ends.
 */
#define NAP_MIN_NS    20000
#define NAP_NS	      60000
#define NAP_SHARE     256
#define NAP_MAX_NS    2000000
#define NAP_FRUGAL_NS 500000 /* the shortest of policy frugal */

/*
 * Even where all can: a look at a ring finds nothing while the library holds its
 * lock or no buffer is left, and a guest does not kick again for what it has
 * kicked for.
 */
#define LOOK_AGAIN_NS 100000000

#define EVENTS 16 /* taken at a time; what is left over only makes the next sleep short */

static uint64_t ns_to_cycles(const struct dvmq_worker *w, uint64_t ns)
{
	return ns * w->cycles_per_us / 1000;
}

static uint64_t cycles_to_ns(const struct dvmq_worker *w, uint64_t cycles)
{
	return cycles * 1000 / w->cycles_per_us;
}

/* Queues of one device may share a descriptor (EEXIST): it is watched in the name of one of them. */
static bool watch(struct dvmq_worker *w, struct dvmq_queue *queue, int fd)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = queue};

	return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST;
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
		dvmq_fd_forget(w, dvmq_queue_unwatch(w, queue));
	if (vid < 0)
		return true; /* no guest, nothing to wait for: the controller takes the queue away */
	if (queue->wake_fd < 0) {
		if (rte_vhost_get_vhost_vring(vid, queue->virtqueue, &vring) < 0 || vring.kickfd < 0)
			return false;
		queue->wake_fd = dup(vring.kickfd);
		queue->wake_generation = generation;
		if (queue->wake_fd >= 0 && !watch(w, queue, queue->wake_fd)) {
			close(queue->wake_fd);
			queue->wake_fd = -1;
		}
	}
	return queue->wake_fd >= 0 && rte_vhost_enable_guest_notification(vid, queue->virtqueue, 1) == 0;
}

static bool arm_ethdev(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	int fd;

	if (queue->wake_fd < 0) {
		fd = rte_eth_dev_rx_intr_ctl_q_get_fd(queue->eth_id, queue->eth_queue);
		if (fd >= 0 && watch(w, queue, fd))
			queue->wake_fd = fd;
	}
	return queue->wake_fd >= 0 && rte_eth_dev_rx_intr_enable(queue->eth_id, queue->eth_queue) == 0;
}

/* True if the queue will wake us. */
static bool arm(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	if (queue->armed &&
	    (queue->port->type != DVMQ_PORT_VHOST ||
	     queue->wake_generation == atomic_load_explicit(&queue->port->vring_generation, memory_order_acquire)))
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

/* The next queue after `i` in the worker's list that has this descriptor; w->n: none. */
static unsigned next_watched(const struct dvmq_worker *w, unsigned i, int fd)
{
	while (i < w->n && w->queues[i]->wake_fd != fd)
		i++;
	return i;
}

int dvmq_queue_unwatch(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	int fd = queue->wake_fd;
	unsigned heir;

	if (queue->armed)
		dvmq_queue_disarm(queue);
	queue->wake_fd = -1;
	if (fd < 0 || queue->port->type == DVMQ_PORT_VHOST)
		return fd;
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* with what it had to report */
	heir = next_watched(w, 0, fd);
	if (heir < w->n && !watch(w, w->queues[heir], fd))
		w->queues[heir]->wake_fd = -1;
	return -1;
}

void dvmq_fd_forget(struct dvmq_worker *w, int fd)
{
	if (fd < 0)
		return;
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* with what it had to report */
	close(fd);
}

/* The queue that an event names is polled again, and those that share its descriptor. */
static void kicked(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	if (queue == NULL)
		return; /* the worker's own descriptor */
	dvmq_queue_kicked(w, queue);
	if (queue->port->type == DVMQ_PORT_VHOST)
		return;
	for (unsigned i = next_watched(w, 0, queue->wake_fd); i < w->n; i = next_watched(w, i + 1, queue->wake_fd))
		dvmq_queue_kicked(w, w->queues[i]);
}

/*
 * Arms the queues from `first` on that are not, and looks at them once more; at `all` others too.
 * What is found becomes hot, and its place is taken by a queue that was looked at:
 * none is left out.  Returns the packets found; *ret_deaf: some queue cannot notify.
 */
static unsigned arm_and_look(struct dvmq_worker *w, unsigned first, bool all, bool *ret_deaf)
{
	bool deaf_guest = false, deaf = false;
	unsigned end = all || w->unarmed_guest ? w->n : w->n_eager;
	unsigned took = 0;

	for (unsigned i = first; i < end; i++) {
		struct dvmq_queue *queue = w->queues[i];

		if (queue->armed && !all)
			continue;
		if (!arm(w, queue)) {
			deaf = true;
			deaf_guest |= i >= w->n_eager;
		}
		atomic_thread_fence(
		    memory_order_seq_cst); /* armed, then looked at: the guest writes its ring, then reads */
		took += dvmq_queue_look(w, queue);
	}
	w->unarmed_guest = deaf_guest;
	*ret_deaf = deaf;
	return took;
}

static uint64_t limited(uint64_t value, uint64_t min, uint64_t max)
{
	if (value < min)
		return min;
	return value < max ? value : max;
}

static enum dvmq_policy policy_of(const struct dvmq_worker *w)
{
	return atomic_load_explicit(&w->policy, memory_order_relaxed);
}

/* The length of the next nap, in ns. */
static uint64_t nap(struct dvmq_worker *w)
{
	uint64_t min = policy_of(w) == DVMQ_POLICY_FRUGAL ? NAP_FRUGAL_NS : NAP_MIN_NS;
	uint64_t max = limited(cycles_to_ns(w, (w->now - w->last_packet) / NAP_SHARE), NAP_NS, NAP_MAX_NS);

	if (w->last_packet > w->slept_at)
		w->nap_ns = min;
	else
		w->nap_ns = limited(w->nap_ns + w->nap_ns / 4, min, max < min ? min : max);
	return w->nap_ns;
}

static void adapt_patience(struct dvmq_worker *w)
{
	bool again = w->now - w->slept_at < AGAIN_US * w->cycles_per_us;

	if (w->last_packet <= w->slept_at)
		return; /* sleeps on */
	w->patience = limited(again ? 2 * w->patience : w->patience / 2, PATIENCE_MIN_US * w->cycles_per_us,
			      PATIENCE_MAX_US * w->cycles_per_us);
}

/*
 * It worked for a third of the last WORK_US at least: then a pause is one between two packets, sleeping would
 * save little, and waking up late would cost a packet much.
 */
static bool has_worked(struct dvmq_worker *w)
{
	uint64_t busy = atomic_load_explicit(&w->busy_cycles, memory_order_relaxed);
	uint64_t elapsed = w->now - w->looked_at_work;

	if (elapsed > WORK_US * w->cycles_per_us) {
		w->has_worked = (busy - w->busy_then) * 3 > elapsed;
		w->busy_then = busy;
		w->looked_at_work = w->now;
	}
	return w->has_worked;
}

/* Cycles that this thread had a CPU. */
static uint64_t cpu_cycles(const struct dvmq_worker *w)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return ns_to_cycles(w, t.tv_sec * 1000000000ull + t.tv_nsec);
}

bool dvmq_worker_is_idle(struct dvmq_worker *w)
{
	uint64_t idle = w->now - w->last_packet;
	enum dvmq_policy policy = policy_of(w);

	if (w->n == 0)
		return true;
	if (policy == DVMQ_POLICY_LATENCY)
		return false;
	if (dvmq_trickle_is_due(w))
		dvmq_trickle_step(w, cpu_cycles(w), policy == DVMQ_POLICY_FRUGAL);
	if (w->trickle.state == DVMQ_TRICKLE_NAP)
		return true;
	if (policy == DVMQ_POLICY_FRUGAL)
		return idle > PATIENCE_FRUGAL_US * w->cycles_per_us;
	return idle > (has_worked(w) ? PATIENCE_WORK_US * w->cycles_per_us : w->patience);
}

/* Arms; how long to sleep at most in ns, 0: not at all, -1: no queue, until something wakes us. */
static int64_t prepare(struct dvmq_worker *w)
{
	uint32_t changes = atomic_load_explicit(&dvmq_vring_changes, memory_order_acquire);
	bool all = w->now >= w->look_again_at || changes != w->vring_changes;
	bool trickle = w->trickle.state == DVMQ_TRICKLE_NAP, deaf;

	/* In a trickle, each packet would wake us; who was silent for long does so all the same. */
	if (arm_and_look(w, trickle ? w->n_hot : 0, all, &deaf) > 0)
		return 0;
	if (all) {
		w->vring_changes = changes;
		w->look_again_at = w->now + ns_to_cycles(w, LOOK_AGAIN_NS);
	}
	if (trickle)
		return cycles_to_ns(w, w->trickle.nap) + 1;
	if (deaf)
		return nap(w);
	if (w->n == 0)
		return -1;
	return w->now < w->look_again_at ? cycles_to_ns(w, w->look_again_at - w->now) + 1 : 1;
}

void dvmq_worker_sleep(struct dvmq_worker *w)
{
	struct epoll_event events[EVENTS];
	int64_t ns = prepare(w);
	struct timespec limit = {.tv_nsec = ns};
	int n = 0;

	if (ns == 0)
		return;
	if (w->trickle.state != DVMQ_TRICKLE_NAP)
		adapt_patience(w);
	w->slept_at = w->now;
	atomic_store(&w->asleep, true); /* seq_cst: pairs with dvmq_inbox_post() */
	if (atomic_load(&w->inbox) == NULL && !atomic_load(&w->stop)) {
		dvmq_count(&w->sleeps, 1);
		rte_rcu_qsbr_thread_offline(dvmq_rcu, w->index);
		n = epoll_pwait2(w->epoll_fd, events, EVENTS, ns < 0 ? NULL : &limit, NULL);
		rte_rcu_qsbr_thread_online(dvmq_rcu, w->index);
	}
	atomic_store(&w->asleep, false);
	for (int i = 0; i < n; i++)
		kicked(w, events[i].data.ptr);
}
