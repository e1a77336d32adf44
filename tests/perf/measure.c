/* SPDX-License-Identifier: BSD-3-Clause */
/* What perfguest measures, by command. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "perfguest.h"

#define KICK_US 20    /* rings are looked at for a switch that fell asleep that often */
#define GAP_US	15    /* this thread did not run, or the switch did not, for longer: the window does not count */
#define WINDOWS 20000 /* of a turn, at most */

static uint64_t next_kick;

/* ---- the core of the switch: how far away? ---- */

static _Atomic uint32_t ball;
static _Atomic bool game_over;

static void *throw_back(void *unused)
{
	uint32_t seen;

	dvmq_pin(dvmq_opt.switch_cpu);
	while (!atomic_load_explicit(&game_over, memory_order_relaxed)) {
		seen = atomic_load_explicit(&ball, memory_order_acquire);
		if (seen & 1)
			atomic_store_explicit(&ball, seen + 1, memory_order_release);
	}
	return unused;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Median of the times that a cache line takes to the switch's core and back, in ns; 0: unknown. A hypervisor may move
 * cores. */
static double distance(void)
{
	uint64_t times[500], limit = __rdtsc() + dvmq_cycles(0.02);
	unsigned n = 0;
	pthread_t thread;

	if (dvmq_opt.switch_cpu < 0)
		return 0;
	atomic_store(&ball, 0);
	atomic_store(&game_over, false);
	if (pthread_create(&thread, NULL, throw_back, NULL) != 0)
		dvmq_die("no thread");
	while (n < 500 && __rdtsc() < limit) {
		uint64_t start = __rdtsc();

		atomic_store_explicit(&ball, 2 * n + 1, memory_order_release);
		while (atomic_load_explicit(&ball, memory_order_acquire) != 2 * n + 2 && __rdtsc() < limit)
			;
		times[n++] = __rdtsc() - start;
	}
	atomic_store(&game_over, true);
	pthread_join(thread, NULL);
	if (n < 100)
		return 0;
	qsort(times, n, sizeof(*times), compare);
	return times[n / 2] * 1e9 / dvmq_tsc_hz;
}

/* ---- traffic ---- */

/*
 * One look at all rings, poll_ns after the last, give or take a half: evenly spaced looks would see the same few
 * lengths of windows again and again, and hide differences of a percent.
 */
static unsigned look(struct dvmq_side *side, uint64_t *now)
{
	static uint32_t dice = 1;
	uint64_t earliest;
	unsigned work;

	dice = dice * 1664525 + 1013904223; /* Numerical Recipes' generator */
	earliest = *now + dvmq_cycles(dvmq_opt.poll_ns * 1e-9 * (0.5 + dice * 0x1p-32));

	if (dvmq_opt.nap_us > 0)
		nanosleep(&(struct timespec){.tv_nsec = (long)(dvmq_opt.nap_us * 1e3)}, NULL);
	while ((*now = __rdtsc()) < earliest)
		;
	work = dvmq_serve(side, *now);
	if (*now >= next_kick) {
		dvmq_kick_all(side);
		next_kick = *now + dvmq_cycles(KICK_US * 1e-6);
	}
	return work;
}

static uint64_t longest_gap(void)
{
	return dvmq_cycles((GAP_US + 4 * dvmq_opt.nap_us) * 1e-6); /* the kernel adds tens of us to a nap */
}

static void begin_rates(struct dvmq_side *side)
{
	uint64_t now = __rdtsc();

	for (unsigned i = 0; i < side->n; i++) {
		side->actors[i]->refilled = now;
		side->actors[i]->tokens = 0;
	}
	next_kick = 0;
}

static void forget(struct dvmq_side *side)
{
	side->foreign = side->reordered = side->duplicated = side->throttled = 0;
	side->lost = 0;
	memset(&side->latency, 0, sizeof(side->latency));
}

static void let_run(struct dvmq_side *side, bool run)
{
	if (side->pid > 0 && kill(side->pid, run ? SIGCONT : SIGSTOP) < 0)
		dvmq_die("side %s: process %d: %s", side->name, side->pid, strerror(errno));
}

static void check_order(const struct dvmq_side *side)
{
	for (unsigned i = 0; i < side->n; i++) {
		const struct dvmq_actor *a = side->actors[i];

		if ((a->rx != NULL && !dvmq_ring_check(a->rx)) || (a->tx != NULL && !dvmq_ring_check(a->tx)))
			dvmq_die("side %s: the switch gives buffers back in another order: it cannot be measured by "
				 "this guest",
				 side->name);
	}
}

static struct dvmq_side *find_side(const char *name)
{
	for (unsigned i = 0; i < dvmq_n_sides; i++)
		if (strcmp(dvmq_sides[i].name, name) == 0)
			return &dvmq_sides[i];
	dvmq_die("no side %s", name);
}

/* ---- turns ---- */

struct turn {
	uint64_t packets, cycles; /* of the windows that count */
	unsigned n, discarded;
	uint64_t busy, all; /* cycles of this thread: is it the bottleneck? */
	double ns_away;
	uint64_t per_packet[WINDOWS]; /* 1/256 cycles */
};

static void close_window(struct turn *t, uint64_t packets, uint64_t cycles, bool counts)
{
	if (!counts || packets == 0 || t->n == WINDOWS) {
		t->discarded++;
		return;
	}
	t->per_packet[t->n++] = cycles * 256 / packets;
	t->packets += packets;
	t->cycles += cycles;
}

/*
 * Windows of traffic. One in which this thread was away, or in which nothing moved for longer than a burst takes, shows
 * the machine and not the switch.
 */
static void measure_turn(struct turn *t, struct dvmq_side *side, uint64_t settle, uint64_t length, uint64_t window)
{
	uint64_t now = __rdtsc(), begin = now + settle, end = begin + length, gap = longest_gap();
	uint64_t last = now, moved = now, opened = 0, passed = 0;
	bool counts = false;

	memset(t, 0, offsetof(struct turn, per_packet));
	while (now < end) {
		unsigned work = look(side, &now);
		uint64_t after = __rdtsc();

		counts &= after - last < gap;
		t->all += after - last;
		if (work) {
			t->busy += after - now;
			moved = now;
		}
		counts &= now - moved < gap;
		last = after;
		if (work == 0 || now - opened < window || now < begin)
			continue; /* from one arrival to another: packets come in bursts */
		if (opened > 0)
			close_window(t, dvmq_passed(side) - passed, now - opened, counts);
		opened = now;
		passed = dvmq_passed(side);
		counts = true;
	}
	check_order(side);
}

static double quantile(const struct turn *t, double share)
{
	return t->n ? t->per_packet[(unsigned)((t->n - 1) * share)] / 256.0 : 0;
}

static void tell_turn(unsigned round, const struct dvmq_side *side, struct turn *t)
{
	qsort(t->per_packet, t->n, sizeof(t->per_packet[0]), compare);
	printf("{\"event\":\"turn\",\"round\":%u,\"side\":\"%s\",\"windows\":%u,\"discarded\":%u,\"packets\":%lu,"
	       "\"seconds\":%.6f,"
	       "\"cycles\":%.2f,\"p10\":%.2f,\"p25\":%.2f,\"p75\":%.2f,\"p90\":%.2f,\"busy\":%.3f,\"ns_away\":%.0f}\n",
	       round, side->name, t->n, t->discarded, t->packets, t->cycles / dvmq_tsc_hz, quantile(t, 0.5),
	       quantile(t, 0.1), quantile(t, 0.25), quantile(t, 0.75), quantile(t, 0.9), (double)t->busy / (t->all + 1),
	       t->ns_away);
}

static void shuffle(unsigned *order, unsigned n)
{
	for (unsigned i = n; i > 1; i--) {
		unsigned k = (unsigned)random() % i, other = order[i - 1];

		order[i - 1] = order[k];
		order[k] = other;
	}
}

static void take_turns(unsigned rounds, double turn_ms, double settle_ms, double window_us)
{
	static struct turn turn;
	unsigned order[DVMQ_SIDES];

	for (unsigned i = 0; i < dvmq_n_sides; i++) {
		order[i] = i;
		let_run(&dvmq_sides[i], false);
	}
	for (unsigned round = 0; round < rounds; round++) {
		shuffle(order, dvmq_n_sides);
		for (unsigned i = 0; i < dvmq_n_sides; i++) {
			struct dvmq_side *side = &dvmq_sides[order[i]];
			double away = distance();

			let_run(side, true);
			begin_rates(side);
			measure_turn(&turn, side, dvmq_cycles(settle_ms * 1e-3), dvmq_cycles(turn_ms * 1e-3),
				     dvmq_cycles(window_us * 1e-6));
			let_run(side, false);
			turn.ns_away = away;
			tell_turn(round, side, &turn);
		}
	}
	for (unsigned i = 0; i < dvmq_n_sides; i++)
		let_run(&dvmq_sides[i], true);
	puts("{\"event\":\"end\"}");
}

/* ---- traffic, counters, latency ---- */

struct totals {
	uint64_t tsc, passed, given, away, worst; /* away: cycles that this thread did not run; worst: at a time */
};

static struct dvmq_side *running; /* by start */
static struct totals since;

static uint64_t given(const struct dvmq_side *side)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < side->n; i++)
		n += side->actors[i]->given;
	return n;
}

static void reset_report(struct dvmq_side *side)
{
	since = (struct totals){.tsc = __rdtsc(), .passed = dvmq_passed(side), .given = given(side)};
	forget(side);
}

static void report(const struct dvmq_side *side)
{
	double seconds = (__rdtsc() - since.tsc) / dvmq_tsc_hz;

	printf("{\"event\":\"report\",\"side\":\"%s\",\"seconds\":%.4f,\"given\":%lu,\"packets\":%lu,\"under_way\":%ld,"
	       "\"pps\":%.0f,"
	       "\"throttled\":%lu,"
	       "\"away\":%.4f,\"worst_us\":%.1f",
	       side->name, seconds, given(side) - since.given, dvmq_passed(side) - since.passed,
	       (int64_t)(given(side) - dvmq_passed(side)), (dvmq_passed(side) - since.passed) / seconds,
	       side->throttled, since.away / dvmq_tsc_hz / seconds, since.worst * 1e6 / dvmq_tsc_hz);
	if (dvmq_opt.stamp)
		printf(",\"lost\":%ld,\"reordered\":%lu,\"duplicated\":%lu,\"foreign\":%lu,\"p50_us\":%.3f,\"p99_us\":%"
		       ".3f,"
		       "\"p999_us\":%.3f,\"max_us\":%.3f",
		       side->lost, side->reordered, side->duplicated, side->foreign,
		       dvmq_histogram_us(&side->latency, 0.5), dvmq_histogram_us(&side->latency, 0.99),
		       dvmq_histogram_us(&side->latency, 0.999), side->latency.max * 1e6 / dvmq_tsc_hz);
	puts("}");
}

/* Traffic until the time, and longer while nobody says anything where until is UINT64_MAX. */
static void serve_until(struct dvmq_side *side, uint64_t until)
{
	uint64_t now = __rdtsc(), last = now, next_word = now + dvmq_cycles(1e-3);
	uint64_t gap = longest_gap();

	while (now < until) {
		look(side, &now);
		if (now - last > gap) {
			since.away += now - last;
			if (now - last > since.worst)
				since.worst = now - last;
		}
		last = now;
		if (until != UINT64_MAX || now < next_word)
			continue;
		if (poll(&(struct pollfd){.fd = STDIN_FILENO, .events = POLLIN}, 1, 0) > 0)
			return;
		next_word = now + dvmq_cycles(1e-3);
	}
}

static void run_for(struct dvmq_side *side, double ms)
{
	begin_rates(side);
	reset_report(side);
	serve_until(side, __rdtsc() + dvmq_cycles(ms * 1e-3));
	report(side);
	check_order(side);
}

static void set_rate(struct dvmq_side *side, double pps)
{
	unsigned senders = 0;

	for (unsigned i = 0; i < side->n; i++)
		senders += side->actors[i]->role == DVMQ_SEND;
	for (unsigned i = 0; i < side->n; i++)
		side->actors[i]->rate = pps < 0 ? -1 : pps / senders;
	begin_rates(side);
}

static void set_rates(struct dvmq_side *side, const char *text)
{
	int length;

	for (unsigned i = 0; i < side->n; i++) {
		if (side->actors[i]->role != DVMQ_SEND)
			continue;
		if (sscanf(text, "%lf%n", &side->actors[i]->rate, &length) != 1)
			dvmq_die("rates: too few numbers");
		text += length;
	}
	begin_rates(side);
}

/* ---- learning ---- */

#define ANNOUNCE_PPS 20000 /* of all guests: a switch need not learn faster */

/* Nobody else sends meanwhile. */
static void announce(struct dvmq_side *side, double ms)
{
	struct {
		enum dvmq_role role;
		double rate;
	} before[DVMQ_ACTORS_OF_SIDE];
	unsigned n = 0;

	for (unsigned i = 0; i < side->n; i++) {
		struct dvmq_actor *a = side->actors[i];

		before[i].role = a->role;
		before[i].rate = a->rate;
		if (a->role == DVMQ_SEND) {
			a->rate = 0;
		} else if (a->role == DVMQ_RECEIVE && a->tx != NULL && a->n_src > 0) {
			a->role = DVMQ_SEND;
			n++;
		}
	}
	for (unsigned i = 0; i < side->n; i++)
		if (side->actors[i]->role != before[i].role)
			side->actors[i]->rate = (double)ANNOUNCE_PPS / n;
	begin_rates(side);
	serve_until(side, __rdtsc() + dvmq_cycles(ms * 1e-3));
	for (unsigned i = 0; i < side->n; i++) {
		side->actors[i]->role = before[i].role;
		side->actors[i]->rate = before[i].rate;
	}
	begin_rates(side);
	puts("{\"event\":\"announced\"}");
}

/* ---- a step of the load ---- */

/* How often a thread was given a CPU (/proc/PID/task/TID/schedstat, third number): steps when it wakes. */
static unsigned long times_on_cpu(int fd)
{
	char text[96] = "";
	unsigned long runs = 0;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n > 0)
		sscanf(text, "%*u %*u %lu", &runs);
	return runs;
}

static void step(struct dvmq_side *side, double low, double high, double limit_ms, int pid, int tid)
{
	char path[64];
	uint64_t now, start, limit, last, away = 0, worst = 0, stalled = 0, moved, second = 0, gap = dvmq_cycles(1e-4);
	unsigned long before, parked;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", pid, tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		dvmq_die("%s: %s", path, strerror(errno));
	set_rate(side, low);
	parked = times_on_cpu(fd);
	serve_until(side, __rdtsc() + dvmq_cycles(0.02));
	before = times_on_cpu(fd);
	set_rate(side, high);
	now = start = last = moved = __rdtsc();
	limit = start + dvmq_cycles(limit_ms * 1e-3);
	while (now < limit && second == 0) {
		if (look(side, &now))
			moved = now;
		if (now - last > gap) {
			away += now - last;
			worst = now - last > worst ? now - last : worst;
		}
		if (now - moved > stalled)
			stalled = now - moved;
		last = now;
		if (times_on_cpu(fd) != before)
			second = __rdtsc();
	}
	close(fd);
	printf(
	    "{\"event\":\"step\",\"parked\":%s,\"ms\":%.4f,\"away_us\":%.1f,\"worst_us\":%.1f,\"stalled_us\":%.1f}\n",
	    before == parked ? "true" : "false", second ? (second - start) * 1e3 / dvmq_tsc_hz : -1,
	    away * 1e6 / dvmq_tsc_hz, worst * 1e6 / dvmq_tsc_hz, stalled * 1e6 / dvmq_tsc_hz);
	set_rate(side, low);
}

/* ---- waking up ---- */

/* How long they took, those that ended within 0.5 s. */
struct sample {
	struct dvmq_histogram h;
	unsigned missed;
};

static void sample_add(struct sample *sample, uint64_t cycles)
{
	if (cycles > 0)
		dvmq_histogram_add(&sample->h, cycles);
	else
		sample->missed++;
}

static void tell_sample(const char *what, const struct sample *sample)
{
	const struct dvmq_histogram *h = &sample->h;

	printf("\"%s\":{\"n\":%lu,\"missed\":%u,\"p50_us\":%.3f,\"p90_us\":%.3f,\"p99_us\":%.3f,\"max_us\":%.3f}", what,
	       h->n, sample->missed, dvmq_histogram_us(h, 0.5), dvmq_histogram_us(h, 0.9), dvmq_histogram_us(h, 0.99),
	       h->max * 1e6 / dvmq_tsc_hz);
}

/* Spins: what is asleep is to be the switch alone. Up to a half longer, so that it does not beat with timers. */
static void stay_silent(double us)
{
	uint64_t until = __rdtsc() + dvmq_cycles(us * (1 + (random() % 1000) / 2000.0) * 1e-6);

	while (__rdtsc() < until)
		;
}

/* One packet after silence: the cycles until it arrives; 0: it does not. */
static uint64_t wake_switch(struct dvmq_side *side, struct dvmq_actor *sender, double gap_us)
{
	uint64_t start, limit, now, passed;

	dvmq_serve(side, __rdtsc());
	stay_silent(gap_us);
	dvmq_serve(side, __rdtsc());
	passed = dvmq_passed(side);
	start = now = __rdtsc();
	limit = start + dvmq_cycles(0.5);
	dvmq_ring_give(sender->tx, 1);
	sender->given++;
	dvmq_ring_kick(sender->tx);
	while (dvmq_passed(side) == passed && now < limit) {
		now = __rdtsc();
		dvmq_serve(side, now);
	}
	return now < limit ? now - start : 0;
}

static int floor_fd;
static _Atomic uint64_t woken;
static _Atomic bool floor_over;

static void *sleeper(void *unused)
{
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};

	prctl(PR_SET_TIMERSLACK, 1);
	if (dvmq_opt.switch_cpu >= 0)
		dvmq_pin(dvmq_opt.switch_cpu);
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, floor_fd, &event);
	while (!atomic_load(&floor_over)) {
		epoll_wait(epoll_fd, &event, 1, -1);
		atomic_store_explicit(&woken, __rdtsc(), memory_order_release);
	}
	close(epoll_fd);
	return unused;
}

/* What any program pays here for being woken: a thread blocked in epoll, an eventfd, another CPU. */
static uint64_t wake_thread(double gap_us)
{
	uint64_t start, limit, at = 0;

	stay_silent(gap_us);
	atomic_store(&woken, 0);
	start = __rdtsc();
	limit = start + dvmq_cycles(0.5);
	eventfd_write(floor_fd, 1);
	while (at == 0 && __rdtsc() < limit)
		at = atomic_load_explicit(&woken, memory_order_acquire);
	return at > start ? at - start : 0;
}

/* Both in turn, so that what the machine does meanwhile meets both. */
static void wake(struct dvmq_side *side, unsigned times, double gap_us)
{
	static struct sample packet, thread;
	struct dvmq_actor *sender = NULL;
	pthread_t id;

	memset(&packet, 0, sizeof(packet));
	memset(&thread, 0, sizeof(thread));
	for (unsigned i = 0; i < side->n && sender == NULL; i++)
		if (side->actors[i]->role == DVMQ_SEND)
			sender = side->actors[i];
	if (sender == NULL)
		dvmq_die("side %s: nobody sends", side->name);
	set_rate(side, 0);
	floor_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	atomic_store(&floor_over, false);
	if (floor_fd < 0 || pthread_create(&id, NULL, sleeper, NULL) != 0)
		dvmq_die("no thread, or no eventfd");
	for (unsigned i = 0; i < times; i++) {
		sample_add(&packet, wake_switch(side, sender, gap_us));
		sample_add(&thread, wake_thread(gap_us));
	}
	atomic_store(&floor_over, true);
	eventfd_write(floor_fd, 1);
	pthread_join(id, NULL);
	close(floor_fd);
	printf("{\"event\":\"wake\",");
	tell_sample("packet", &packet);
	printf(",");
	tell_sample("thread", &thread);
	printf("}\n");
}

/* ---- commands ---- */

static bool obey(const char *line)
{
	char name[32];
	double a, b, c, d;
	int pid, tid, rest;

	if (sscanf(line, "pid %31s %d", name, &pid) == 2)
		find_side(name)->pid = pid;
	else if (sscanf(line, "turns %lf %lf %lf %lf", &a, &b, &c, &d) == 4)
		take_turns((unsigned)a, b, c, d);
	else if (sscanf(line, "run %31s %lf", name, &a) == 2)
		run_for(find_side(name), a);
	else if (sscanf(line, "start %31s", name) == 1) {
		running = find_side(name);
		begin_rates(running);
		reset_report(running);
		puts("{\"event\":\"started\"}");
	} else if (strcmp(line, "report\n") == 0 && running != NULL) {
		report(running);
		check_order(running);
		reset_report(running);
	} else if (strcmp(line, "stop\n") == 0 && running != NULL) {
		report(running);
		running = NULL;
	} else if (sscanf(line, "announce %31s %lf", name, &a) == 2)
		announce(find_side(name), a);
	else if (sscanf(line, "rate %31s %lf", name, &a) == 2)
		set_rate(find_side(name), a);
	else if (sscanf(line, "rates %31s%n", name, &rest) == 1)
		set_rates(find_side(name), line + rest);
	else if (sscanf(line, "step %31s %lf %lf %lf %d %d", name, &a, &b, &c, &pid, &tid) == 6)
		step(find_side(name), a, b, c, pid, tid);
	else if (sscanf(line, "wake %31s %lf %lf", name, &a, &b) == 3)
		wake(find_side(name), (unsigned)a, b);
	else if (strcmp(line, "quit\n") == 0)
		return false;
	else
		dvmq_die("not a command: %s", line);
	fflush(stdout);
	return true;
}

void dvmq_obey(void)
{
	char line[4096];
	bool go_on = true;

	setvbuf(stdin, NULL, _IONBF, 0); /* so that poll() knows of every line */
	while (go_on) {
		if (running != NULL)
			serve_until(running, UINT64_MAX);
		if (fgets(line, sizeof(line), stdin) == NULL)
			break;
		go_on = obey(line);
	}
	for (unsigned i = 0; i < dvmq_n_sides; i++)
		if (dvmq_sides[i].pid > 0)
			kill(dvmq_sides[i].pid, SIGCONT);
}
