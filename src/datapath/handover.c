/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The hand-over of a queue from one worker to another, and the loop that polls.
 *
 *   controller        worker A                    worker B
 *   GIVE(q,B) --post--> between two turns:
 *                       q leaves the list
 *                       TAKE(q) ------post------> between two turns:
 *                                                 q enters the list, is polled
 *   in_transit = false <-------------------------- at once
 *
 * A queue is empty-handed between two turns: whatever a turn took was delivered
 * in it.  So nothing has to drain, nobody else stops, and what waits in the ring
 * is the first that B takes.  Exclusive ownership follows from the message: it
 * is part of the queue, only its holder may poll, and posting passes it on
 * (release) to exactly one worker (acquire).
 *
 * A queue that nobody polls goes to its worker directly, unless another one is
 * alone: that has to know before somebody else sends, so it gets PASS instead of
 * GIVE.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_cycles.h>

#include <dvmq/alarm.h>
#include <dvmq/worker.h>

#define DRAIN_UNKNOWN 4096 /* packets that a ring of unknown size is taken to hold */
#define RARE_AFTER    64   /* empty turns after which a queue is quiet */

/*
 * Of the time of a worker with traffic, looking at quiet queues takes one part in
 * that many, however many they are.
 */
#define LOOK_SHARE 64

/* Between noting when a queue leaves and posting it are some ten instructions, and two cache lines that come. */
#define POST_US 2

_Alignas(64) _Atomic(struct dvmq_worker *) dvmq_alone;

void dvmq_worker_wake(struct dvmq_worker *worker)
{
	/* The counter only has to be non-zero; if it is full already, the worker will wake anyway. */
	while (write(worker->wake_fd, &(uint64_t){1}, sizeof(uint64_t)) < 0 && errno == EINTR)
		;
}

void dvmq_inbox_post(struct dvmq_worker *to, struct dvmq_msg *msg)
{
	struct dvmq_msg *head = atomic_load_explicit(&to->inbox, memory_order_relaxed);

	do
		msg->next = head;
	while (!atomic_compare_exchange_weak(&to->inbox, &head, msg));
	/*
	 * seq_cst above and here, and in the worker: it stores asleep, then loads
	 * inbox.  So either it sees the message or we see it asleep.
	 */
	if (atomic_load(&to->asleep))
		dvmq_worker_wake(to);
}

static void swap_places(struct dvmq_worker *w, unsigned a, unsigned b)
{
	struct dvmq_queue *queue = w->queues[a];

	w->queues[a] = w->queues[b];
	w->queues[b] = queue;
	w->queues[a]->place = a;
	w->queues[b]->place = b;
}

/*
 * The list is hot | quiet | quiet guests, in this order: one swap per border
 * takes a queue across it.
 */
static bool is_guest(const struct dvmq_queue *queue)
{
	return queue->kind == DVMQ_QUEUE_GUEST;
}

static void make_hot(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	if (queue->armed)
		dvmq_queue_disarm(queue);
	if (is_guest(queue))
		swap_places(w, queue->place, w->n_eager++);
	swap_places(w, queue->place, w->n_hot++);
}

static void make_rare(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	swap_places(w, queue->place, --w->n_hot);
	if (is_guest(queue)) {
		swap_places(w, queue->place, --w->n_eager);
		w->unarmed_guest = true;
	}
}

void dvmq_queue_kicked(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	queue->empty_run = 0;
	if (queue->place >= w->n_hot)
		make_hot(w, queue);
}

/* A turn that long did not have its CPU all the time: charge it what a turn usually costs. */
static uint64_t without_stolen_time(const struct dvmq_worker *w, struct dvmq_queue_counters *c, uint64_t spent)
{
	uint64_t turns = atomic_load_explicit(&c->turns, memory_order_relaxed);

	if (spent <= w->stolen_cycles)
		return spent;
	dvmq_count(&c->stolen, 1);
	return turns ? atomic_load_explicit(&c->cycles, memory_order_relaxed) / turns : 0;
}

static void count_bulk(struct dvmq_worker *w, struct dvmq_queue_counters *c, unsigned took, uint64_t spent)
{
	w->bulk_packets += took;
	dvmq_count(&c->bulk_packets, took);
	dvmq_count(&c->bulk_cycles, spent);
	if (took >= w->burst)
		dvmq_count(&c->full_turns, 1);
}

/* One turn of one queue; every cycle since the last turn is charged to it. */
static unsigned turn(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct dvmq_queue_counters *c = &queue->counters;
	unsigned took = queue->poll(w, queue);
	uint64_t now = rte_rdtsc();
	uint64_t spent = now - w->now;

	w->now = now;
	queue->last_turn = now;
	if (took < w->burst)
		dvmq_count(&c->emptied, 1);
	if (took == 0) {
		if (queue->empty_run < RARE_AFTER)
			queue->empty_run++;
		return 0;
	}
	queue->empty_run = 0;
	if (queue->armed)
		dvmq_queue_disarm(queue); /* its notification is spent, and not needed while there is traffic */
	w->last_packet = now;
	w->packets += took;
	spent = without_stolen_time(w, c, spent);
	dvmq_count(&c->cycles, spent);
	dvmq_count(&c->turns, 1);
	if (took >= DVMQ_BULK)
		count_bulk(w, c, took, spent);
	dvmq_count(&w->busy_cycles, spent);
	if (now >= w->window_end)
		dvmq_alarm_look(w);
	return took;
}

unsigned dvmq_queue_look(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	unsigned took = turn(w, queue);

	if (took > 0 && queue->place >= w->n_hot)
		make_hot(w, queue);
	return took;
}

static inline unsigned turn_of_hot(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	unsigned took;

	if (likely(queue->gather.until == 0))
		return turn(w, queue);
	if (dvmq_gathers(w, queue))
		return 0;
	took = turn(w, queue);
	dvmq_gathered(w, queue, took);
	return took;
}

/* At one of queues[first..end), in turn. */
static unsigned look_at_one(struct dvmq_worker *w, unsigned first, unsigned end, unsigned *next)
{
	if (first == end)
		return 0;
	if (*next < first || *next >= end)
		*next = first;
	return dvmq_queue_look(w, w->queues[(*next)++]);
}

/*
 * At one quiet queue of each sort.  Where there is traffic beside them, the next
 * look has to wait until this one was a small part of the time.  Guests are apart
 * since there may be hundreds, and since they wait when their ring is full, where
 * a NIC drops.
 */
static unsigned look_at_quiet_ones(struct dvmq_worker *w)
{
	uint64_t begin = w->now, cost;
	unsigned took = look_at_one(w, w->n_hot, w->n_eager, &w->next_eager);

	took += look_at_one(w, w->n_eager, w->n, &w->next_guest);
	cost = w->now - begin;
	if (cost > w->look_max)
		cost = w->look_max;
	w->look_at = took > 0 ? 0 : w->now + cost * (LOOK_SHARE - 1);
	return took;
}

unsigned dvmq_worker_loop(struct dvmq_worker *w)
{
	unsigned took = 0;

	w->looked_at = w->loop_ended;
	dvmq_count(&w->loops, 1);
	for (unsigned i = 0; i < w->n_hot; i++) {
		took += turn_of_hot(w, w->queues[i]);
		if (w->queues[i]->empty_run >= RARE_AFTER)
			make_rare(w, w->queues[i--]);
	}
	if (w->n > w->n_hot && (took == 0 || w->now >= w->look_at))
		took += look_at_quiet_ones(w);
	if (took > 0)
		dvmq_count(&w->busy_loops, 1);
	w->loop_ended = w->now;
	return took;
}

static void arrived(struct dvmq_worker *owner, struct dvmq_queue *queue)
{
	atomic_store_explicit(&queue->owner, owner, memory_order_release);
	atomic_store_explicit(&queue->in_transit, false, memory_order_release); /* pairs with dvmq_queue_hand() */
}

/*
 * The message was not there when we last looked, though it was about to be posted long before: whoever posted it was
 * interrupted in between.
 */
static bool was_held_up(const struct dvmq_worker *w, const struct dvmq_queue *queue)
{
	return (int64_t)(w->looked_at - queue->left_at) > (int64_t)(POST_US * w->cycles_per_us);
}

/*
 * A queue that nobody polled for a while: how long, in time and in loops of its new worker that brought packets.  With
 * none or one of them it waited no longer than for its next turn where it was: 1.  One that finds nothing is shorter
 * than a message takes from CPU to CPU, so how many of these fit in says nothing.
 */
static void note_pause(const struct dvmq_worker *w, struct dvmq_queue *queue)
{
	uint64_t loops = atomic_load_explicit(&w->busy_loops, memory_order_relaxed) - queue->left_loops;
	uint64_t pause = w->now - queue->last_turn;

	if (queue->last_turn == 0)
		return;
	if (pause > atomic_load_explicit(&queue->pause_max, memory_order_relaxed))
		atomic_store_explicit(&queue->pause_max, pause, memory_order_relaxed);
	dvmq_count(&queue->pause_times[dvmq_pause_bucket(pause)], 1);
	if (loops > DVMQ_PAUSE_LOOPS)
		loops = DVMQ_PAUSE_LOOPS;
	if (was_held_up(w, queue))
		dvmq_count(&queue->pause_stolen, 1);
	else
		dvmq_count(&queue->pause_loops[loops > 0 ? loops - 1 : 0], 1);
}

static void take(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	queue->place = w->n;
	w->queues[w->n++] = queue;
	if (!is_guest(queue)) /* to the border that make_hot() takes it from */
		swap_places(w, queue->place, w->n_eager++);
	queue->empty_run = 0;
	queue->gather.until = 0;
	w->trickle.state = DVMQ_TRICKLE_WATCH; /* of this queue nobody knows yet how fast its packets come */
	make_hot(w, queue);
	atomic_store_explicit(&w->n_queues, w->n, memory_order_relaxed);
	w->now = rte_rdtsc();
	note_pause(w, queue);
	turn(w, queue);
	arrived(w, queue);
}

/* From the next turn on this worker takes locks; then the other one may have the queue. */
static void pass_on(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct dvmq_worker *target = queue->msg.target;

	if (dvmq_is_alone(w))
		atomic_store_explicit(&dvmq_alone, NULL, memory_order_release); /* pairs with dvmq_queue_hand() */
	queue->msg.type = DVMQ_MSG_TAKE;
	queue->left_at = rte_rdtsc();
	queue->left_loops = atomic_load_explicit(&target->busy_loops, memory_order_relaxed);
	dvmq_inbox_post(target, &queue->msg);
}

static void give(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	struct dvmq_worker *target = queue->msg.target;
	int fd = dvmq_queue_unwatch(w, queue);

	if (queue->place < w->n_hot)
		make_rare(w, queue);
	else
		queue->last_turn = rte_rdtsc(); /* it was not polled for lack of traffic: that is no pause */
	if (queue->last_turn < w->woke_at)
		queue->last_turn = w->woke_at; /* nor is the sleep of its worker */
	if (!is_guest(queue))
		swap_places(w, queue->place, --w->n_eager);
	swap_places(w, queue->place, --w->n);
	atomic_store_explicit(&w->n_queues, w->n, memory_order_relaxed);
	if (target == NULL) {
		dvmq_fd_forget(w, fd);
		if (queue->drain != NULL)
			queue->drain(w, queue);
		queue->last_turn = 0;
		arrived(NULL, queue);
		return;
	}
	dvmq_count(&queue->moves, 1);
	pass_on(w, queue);
	dvmq_fd_forget(w, fd); /* two system calls that the queue need not wait for */
}

/* What comes meanwhile must not keep us: a ring's worth is enough. */
static void drain(struct dvmq_worker *w, struct dvmq_queue *queue)
{
	uint32_t left = atomic_load_explicit(&queue->counters.capacity, memory_order_relaxed);
	unsigned took;

	if (left == 0)
		left = DRAIN_UNKNOWN;
	do {
		took = turn(w, queue);
		left -= took < left ? took : left;
	} while (took > 0 && left > 0);
	arrived(w, queue);
}

void dvmq_inbox_serve(struct dvmq_worker *w)
{
	struct dvmq_msg *msg = atomic_exchange(&w->inbox, NULL);

	while (msg != NULL) {
		struct dvmq_msg *next = msg->next; /* give() posts the message on */

		if (msg->type == DVMQ_MSG_TAKE)
			take(w, msg->queue);
		else if (msg->type == DVMQ_MSG_GIVE)
			give(w, msg->queue);
		else if (msg->type == DVMQ_MSG_PASS)
			pass_on(w, msg->queue);
		else
			drain(w, msg->queue);
		msg = next;
	}
}

bool dvmq_queue_hand(struct dvmq_queue *queue, struct dvmq_worker *to)
{
	/* If it is NULL by now, what was sent without locks is seen by whom we tell. */
	struct dvmq_worker *alone = atomic_load_explicit(&dvmq_alone, memory_order_acquire), *from;

	if (atomic_load_explicit(&queue->in_transit, memory_order_acquire))
		return false;
	from = atomic_load_explicit(&queue->owner, memory_order_acquire);
	if (from == to)
		return true;
	atomic_store_explicit(&queue->in_transit, true, memory_order_relaxed);
	queue->msg.queue = queue;
	queue->msg.target = to;
	queue->msg.type = from != NULL ? DVMQ_MSG_GIVE : DVMQ_MSG_TAKE;
	if (from == NULL && alone != NULL && alone != to) {
		queue->msg.type = DVMQ_MSG_PASS;
		from = alone;
	}
	dvmq_inbox_post(from != NULL ? from : to, &queue->msg);
	return true;
}

void dvmq_look_for_alone(struct dvmq_queue *const *queues, unsigned n)
{
	struct dvmq_worker *only = NULL;

	for (unsigned i = 0; i < n; i++) {
		struct dvmq_worker *owner;

		if (atomic_load_explicit(&queues[i]->in_transit, memory_order_acquire))
			return;
		owner = atomic_load_explicit(&queues[i]->owner, memory_order_acquire);
		if (owner != NULL && only != NULL && owner != only)
			return; /* and then it is NULL already */
		if (owner != NULL)
			only = owner;
	}
	if (only != atomic_load_explicit(&dvmq_alone, memory_order_relaxed))
		atomic_store_explicit(&dvmq_alone, only, memory_order_release); /* pairs with dvmq_is_alone() */
}

bool dvmq_queue_drain(struct dvmq_queue *queue)
{
	struct dvmq_worker *owner;

	if (atomic_load_explicit(&queue->in_transit, memory_order_acquire))
		return false;
	owner = atomic_load_explicit(&queue->owner, memory_order_acquire);
	if (owner == NULL)
		return true;
	atomic_store_explicit(&queue->in_transit, true, memory_order_relaxed);
	queue->msg.queue = queue;
	queue->msg.type = DVMQ_MSG_DRAIN;
	dvmq_inbox_post(owner, &queue->msg);
	return true;
}
