/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The hand-over of queues between workers, and their sleep, for the model checker
 * Spin: src/datapath/handover.c, sleep.c and the loop of worker.c, step by step
 * and by the same names.  tests/system/test_model.sh runs it; docs/architecture.md
 * ("The model") says what it checks and what it leaves out.
 *
 * What one statement does to a variable that two threads share is one step, and
 * any thread may come between two steps.  Steps are joined (d_step, atomic) only
 * where the code has one atomic instruction or a lock, or where all but one of
 * them touch what nobody else looks at.
 *
 * -DMUTANT_X leaves one precaution of the code out: the checker has to find what
 * it is there for.
 */
#ifndef WORKERS
#define WORKERS 2 /* 2 or 3 */
#endif
#ifndef HANDS
#define HANDS 3 /* that the controller decides on, before those that start what nobody polls */
#endif
#ifndef PACKETS_0
#define PACKETS_0 1 /* of the guest behind queue 0 */
#endif
#ifndef PACKETS_1
#define PACKETS_1 1
#endif
#define QUEUES 2
#define NONE   7 /* no worker, no queue */
#ifndef OWNER_1
#define OWNER_1 1 /* who has queue 1 at first: 0, 1 or NONE; worker 0 has queue 0 */
#endif

#ifdef DEAF
#define NOTIFIES(q) ((q) == 0) /* queue 1 is as a NIC queue without interrupts */
#else
#define NOTIFIES(q) true
#endif

#define DRAINS(q) ((q) == 1) /* queue 1 is as a soft ring: shut when it goes to nobody, then delivered inline */

mtype = { GIVE, TAKE, PASS };

/* struct dvmq_worker */
byte inbox[WORKERS] = NONE; /* a queue is its message */
bool asleep[WORKERS];
bool event[WORKERS];        /* its own descriptor has an edge, not reported yet; nobody reads the descriptors */

byte alone = NONE; /* dvmq_alone */

/* struct dvmq_queue */
byte next[QUEUES] = NONE;
mtype type[QUEUES] = TAKE;
byte target[QUEUES] = NONE;
byte owner[QUEUES] = NONE;
bool in_transit[QUEUES];
bool armed[QUEUES];
byte watched_by[QUEUES] = NONE; /* wake_fd is in the epoll set of this worker */
bool kicked[QUEUES];            /* and has an edge, not reported yet */

/* What stands behind a queue: the ring, and the guest's half of its notifications */
byte filled[QUEUES], taken[QUEUES];
byte avail_event[QUEUES]; /* event index: the guest kicks for the packet with this number, until told another */
bool open[QUEUES] = true;

/* The one destination ring: struct dvmq_txq, and that somebody sends there without its lock */
bool ring_locked, ring_bare;

/* What the checker looks at, and no thread */
bool freed[QUEUES];
byte listed_by[QUEUES] = NONE;
bool polled[QUEUES];
byte delivered[QUEUES];
bool settled; /* the controller wants nothing any more */

#define all_done (settled && delivered[0] == PACKETS_0 && delivered[1] == PACKETS_1)

/*
 * dvmq_inbox_post().  A compare-exchange that succeeds, in whichever round, has put the
 * message before what is the head at that moment: one step.
 */
inline post(to, q)
{
#ifdef MUTANT_READ_ASLEEP_FIRST
	seen = asleep[to];
#endif
#ifdef MUTANT_PLAIN_PUSH
	next[q] = inbox[to];
	inbox[to] = q;
#else
	d_step { next[q] = inbox[to]; inbox[to] = q }
#endif
#ifndef MUTANT_READ_ASLEEP_FIRST
	seen = asleep[to];
#endif
	if
	:: seen -> event[to] = true; seen = false
	:: else
	fi
}

#define waits(q) (filled[q] > taken[q])

/*
 * turn() with a burst of one: what else waits is left to the next turn, or to the next worker.
 * What it took it has in its hands for two steps: lock_ring() and the sending.  The packet delivered, the queue is
 * disarmed.
 */
inline turn(q)
{
	d_step {
		assert(!freed[q] && !polled[q]);
		polled[q] = waits(q);
		packet = taken[q]
	}
	if
	:: polled[q] ->
		bare = alone == me;
		if
		:: d_step { bare -> assert(!ring_bare && !ring_locked); ring_bare = true }
		:: d_step { !bare && !ring_locked -> assert(!ring_bare); ring_locked = true }
		fi;
		d_step {
			if
			:: bare -> ring_bare = false
			:: else -> ring_locked = false
			fi;
			bare = false;
			assert(delivered[q] == packet); /* none lost, none twice, none before another */
			packet++;
			delivered[q] = packet;
			taken[q] = packet;
			armed[q] = false;
			polled[q] = false;
			took = true
		}
	:: else
	fi;
	packet = 0
}

/* An armed one is found by chance at most (look_at_quiet_ones()), so here it is not. */
#define looked_at(q) (mine[q] && !armed[q])

/*
 * dvmq_worker_loop() over hot and quiet queues alike.  It looks at both queues in one step:
 * their guests know nothing of each other, so nobody could tell in which order it looked.
 */
inline loop()
{
	if
	:: d_step {
			!(looked_at(0) && waits(0)) && !(looked_at(1) && waits(1)) ->
			assert(!mine[0] || (!freed[0] && !polled[0]));
			assert(!mine[1] || (!freed[1] && !polled[1]))
		}
	:: looked_at(0) && waits(0) ->
		turn(0);
		if
		:: looked_at(1) -> turn(1)
		:: else
		fi
	:: looked_at(1) && waits(1) -> turn(1)
	fi
}

/* A round of arm_and_look().  A wake_fd that there is already is taken for one of ours. */
inline arm_and_look(q)
{
	if
	:: looked_at(q) ->
		d_step {
			assert(!freed[q]);
			if
#ifdef MUTANT_DEAF_IS_ARMED
			:: true ->
#else
			:: NOTIFIES(q) ->
#endif
				watched_by[q] = (watched_by[q] == NONE -> me : watched_by[q]);
				avail_event[q] = taken[q];
				armed[q] = true
			:: else -> nap = true
			fi
		}
#ifndef MUTANT_NO_LOOK_AFTER_ARM
		turn(q)
#endif
	:: else
	fi
}

/* epoll_pwait2() reports the descriptor of a queue: kicked(), which makes it hot. */
inline report(q)
{
	d_step {
		kicked[q] && watched_by[q] == me ->
		assert(mine[q]);
		kicked[q] = false;
#ifndef MUTANT_KICK_WITHOUT_NAME
		armed[q] = false
#endif
	}
}

/*
 * dvmq_worker_sleep().  One event is taken at a time; what is left over is reported next.  A
 * nap that would find nothing is as if it went on, so that there is an end to all steps.
 */
inline sleep()
{
	nap = false;
	arm_and_look(0);
	arm_and_look(1);
	if
	:: took
	:: else ->
		asleep[me] = true;
		if
#ifdef MUTANT_NO_RECHECK
		:: true ->
#else
		:: inbox[me] != NONE
		:: inbox[me] == NONE ->
#endif
end_sleep:		if
			:: d_step { event[me] -> event[me] = false }
			:: report(0)
			:: report(1)
			:: nap && mine[1] && waits(1)
			fi
		fi;
		asleep[me] = false
	fi
}

/* arrived() */
inline arrived(worker, q)
{
	owner[q] = worker;
	in_transit[q] = false
}

inline take(q)
{
	d_step {
		assert(!freed[q] && listed_by[q] == NONE);
		listed_by[q] = me;
		mine[q] = true
	}
	turn(q);
	arrived(me, q)
}

/* dvmq_soft_drain(): by the end it holds the ring's lock. */
inline drain(q)
{
	d_step {
		assert(!polled[q]);
		do
		:: taken[q] < filled[q] ->
			assert(delivered[q] == taken[q]);
			delivered[q]++;
			taken[q]++
		:: else -> break
		od;
		open[q] = false
	}
}

/* Of two workers, one sends only after the other one knows that it has to lock. */
inline pass_on(q)
{
#ifndef MUTANT_STILL_ALONE
	if
	:: alone == me -> alone = NONE
	:: else
	fi;
#endif
	type[q] = TAKE;
	post(to, q)
}

inline give(q)
{
	d_step {
		assert(!freed[q] && mine[q]);
		to = target[q];
		target[q] = NONE; /* nobody reads it again */
#ifndef MUTANT_NO_UNWATCH
		armed[q] = false;
		watched_by[q] = NONE;
		kicked[q] = false;
#endif
		mine[q] = false;
		listed_by[q] = NONE
	}
	if
	:: to == NONE ->
#ifdef MUTANT_NO_DRAIN
		open[q] = !DRAINS(q);
#else
		if
		:: DRAINS(q) -> drain(q)
		:: else
		fi;
#endif
		arrived(NONE, q)
	:: else ->
#ifdef MUTANT_ANSWER_EARLY
		arrived(to, q);
#endif
		pass_on(q);
#ifdef MUTANT_POLL_AFTER_GIVE
		turn(q)
#endif
	fi;
	to = 0
}

/* dvmq_inbox_serve() */
inline serve()
{
	do
	:: msg != NONE ->
#ifndef MUTANT_NEXT_LATE
		d_step { following = next[msg]; next[msg] = NONE }
#endif
		if
		:: type[msg] == TAKE -> take(msg)
		:: type[msg] == PASS ->
			d_step { to = target[msg]; target[msg] = NONE }
			pass_on(msg);
			to = 0
		:: else -> give(msg)
		fi;
#ifdef MUTANT_NEXT_LATE
		following = next[msg];
#endif
		msg = following
	:: else -> break
	od;
	following = 0
}

/* dvmq_worker_main() */
proctype worker(byte me)
{
	bool mine[QUEUES]; /* its list */
	byte following, to, packet;
	byte msg = NONE;
	bool took, seen, nap, bare;

	mine[0] = me == 0;
	mine[1] = me == OWNER_1;
	do
	:: loop();
		if
		:: !took -> sleep() /* its patience is over at once: what it may do before, it may do after */
		:: else
		fi;
		took = false;
		if
		:: d_step { inbox[me] != NONE -> msg = inbox[me]; inbox[me] = NONE } /* the exchange */
			serve()
		:: inbox[me] == NONE
		fi
	od
}

/*
 * dvmq_queue_hand().  Where that refuses, the balancer tries again and commands wait:
 * here both wait, and that the balancer does something else meanwhile is another run.
 */
inline hand(q, to)
{
#ifndef MUTANT_NO_IN_TRANSIT
	!in_transit[q];
#endif
	only = alone;
	from = owner[q];
	if
	:: from == NONE && to != NONE -> /* it may have been freed, and made again for another port */
		freed[q] = true;
		d_step {
			next[q] = NONE;
			open[q] = true;
			freed[q] = false
		}
	:: else
	fi;
	if
	:: from == to
	:: from != to ->
		in_transit[q] = true;
		d_step {
			type[q] = (from != NONE -> GIVE : (only != NONE && only != to -> PASS : TAKE));
#ifdef MUTANT_NO_PASS
			type[q] = (from != NONE -> GIVE : TAKE);
#endif
			target[q] = (type[q] == TAKE -> NONE : to);
			from = (type[q] == TAKE -> to : (type[q] == PASS -> only : from))
		}
		post(from, q)
	fi;
	d_step { from = 0; only = 0 }
}

/* dvmq_look_for_alone().  While no queue is on its way nothing changes but by the controller: one step. */
#ifdef MUTANT_LOOK_TOO_EARLY
#define at_rest true
#else
#define at_rest (!in_transit[0] && !in_transit[1])
#endif
#define only_one (owner[0] == NONE || owner[1] == NONE || owner[0] == owner[1])
#define the_one (owner[0] != NONE -> owner[0] : owner[1])

proctype controller()
{
	byte hands, q, to, from, only;
	bool seen;

	do
	:: d_step { at_rest && only_one && alone != the_one -> alone = the_one }
	:: hands < HANDS ->
		if
		:: q = 0
		:: q = 1
		fi;
		if
		:: to = 0
		:: to = 1
#if WORKERS > 2
		:: to = 2
#endif
		:: to = NONE /* the port vanishes, or its ring is shut */
		fi;
		hand(q, to);
		d_step { hands++; q = 0; to = 0 }
	:: hands == HANDS -> break
	od;
	q = 0;
	do
	:: q < QUEUES ->
		!in_transit[q];
		if
		:: owner[q] == NONE -> hand(q, 0)
		:: else
		fi;
		q++
	:: else -> break
	od;
	!in_transit[0] && !in_transit[1];
	settled = true
}

/* Fills the ring of one queue; a packet's place is its number. */
proctype guest(byte q; byte packets)
{
	byte sent;

	do
	:: sent < packets ->
		d_step {
			if
			:: open[q]
			:: else -> /* the ring's lock is held: to_soft_ring() delivers inline */
				assert(delivered[q] == sent);
				delivered[q] = sent + 1;
				taken[q] = sent + 1
			fi;
			sent++;
			filled[q] = sent
		}
		if
		:: NOTIFIES(q) && avail_event[q] == sent - 1 -> kicked[q] = watched_by[q] != NONE /* the kick */
		:: else
		fi
	:: else -> break
	od
}

/* When nobody can take a step any more, nothing may be left to do. */
proctype rest()
{
	timeout;
	assert(all_done);
	assert(inbox[0] == NONE && inbox[1] == NONE);
#if WORKERS > 2
	assert(inbox[2] == NONE);
#endif
	assert(owner[0] == listed_by[0] && owner[0] != NONE);
	assert(owner[1] == listed_by[1] && owner[1] != NONE)
}

init {
	atomic {
		owner[0] = 0;
		listed_by[0] = 0;
		owner[1] = OWNER_1;
		listed_by[1] = OWNER_1;
		run worker(0);
		run worker(1);
#if WORKERS > 2
		run worker(2);
#endif
		run controller();
		run guest(0, PACKETS_0);
		run guest(1, PACKETS_1);
#ifndef LIVENESS
		run rest()
#endif
	}
}

#ifdef LIVENESS
/* With weak fairness: whoever can always take a step, does. */
ltl hands_end { [] (in_transit[0] -> <> !in_transit[0]) && [] (in_transit[1] -> <> !in_transit[1]) }
ltl all_delivered { <> [] all_done }
#endif
