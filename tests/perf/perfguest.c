/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * perfguest - plays the guests and the network of several switches, and measures. See usage().
 *
 * One thread polls all rings that have traffic and reads the TSC; another one shakes hands with the switches. The
 * driver program talks to it by lines: commands on stdin, JSON on stdout.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "perfguest.h"

struct dvmq_options dvmq_opt = {.cpu = -1, .switch_cpu = -1, .slots = 1024, .poll_ns = 1000, .wait = 60};
struct dvmq_side dvmq_sides[DVMQ_SIDES];
unsigned dvmq_n_sides;
struct dvmq_actor *dvmq_actors[DVMQ_ACTORS];
unsigned dvmq_n_actors;
double dvmq_tsc_hz;

static struct dvmq_guest *guests[DVMQ_GUESTS];
static unsigned n_guests;
static struct dvmq_memif *memifs[DVMQ_SIDES];
static unsigned n_memifs;

void dvmq_die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("perfguest: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	_exit(1);
}

/* ---- time ---- */

static double seconds_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* TSC cycles per second against the kernel's clock, over 0.2 s; the pair of readings that lie closest together. */
static void calibrate(void)
{
	double at[2] = {0};
	uint64_t tsc[2] = {0};

	for (int i = 0; i < 2; i++) {
		uint64_t best = UINT64_MAX;

		for (int k = 0; k < 50; k++) {
			uint64_t before = __rdtsc(), after;
			double now = seconds_of(CLOCK_MONOTONIC_RAW);

			after = __rdtsc();
			if (after - before >= best)
				continue;
			best = after - before;
			tsc[i] = before + best / 2;
			at[i] = now;
		}
		if (i == 0)
			nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
	}
	dvmq_tsc_hz = (tsc[1] - tsc[0]) / (at[1] - at[0]);
}

void dvmq_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
		dvmq_die("CPU %d may not be used; see taskset -p", cpu);
}

/* ---- frames ---- */

static void put16(uint8_t *at, unsigned value)
{
	at[0] = value >> 8;
	at[1] = value;
}

/* Ethernet, IPv4 without options, UDP without checksum: a flow for each source port. */
static void build_frame(const struct dvmq_actor *a, uint8_t *frame, unsigned number)
{
	unsigned size = a->sizes[number % a->n_sizes], sum = 0;
	uint8_t *ip = frame + 14, *udp = frame + 34;

	memset(frame, 0, size);
	memcpy(frame, a->dst[number % a->n_dst], 6);
	memcpy(frame + 6, a->n_src ? a->src[number % a->n_src] : a->mac, 6);
	put16(frame + 12, 0x0800);
	ip[0] = 0x45;
	put16(ip + 2, size - 14);
	ip[8] = 64;
	ip[9] = 17;
	memcpy(ip + 12, (uint8_t[]){10, 1, a->mac[4], a->mac[5], 10, 2, 0, 1}, 8);
	for (int i = 0; i < 20; i += 2)
		sum += ip[i] << 8 | ip[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	put16(ip + 10, ~(sum + (sum >> 16)));
	put16(udp, 1024 + number % DVMQ_FLOWS);
	put16(udp + 2, 9);
	put16(udp + 4, size - 34);
}

static void build_frames(const struct dvmq_actor *a)
{
	for (unsigned i = 0; i <= a->tx->mask; i++) {
		uint32_t size = a->sizes[i % a->n_sizes] + a->tx->headroom;

		build_frame(a, dvmq_ring_frame(a->tx, i), i);
		memcpy(a->tx->lengths + 16 * i, &size, sizeof(size));
	}
}

static void address(const struct dvmq_actor *a, uint16_t n)
{
	for (unsigned i = 0; i < n; i++)
		memcpy(dvmq_ring_frame(a->tx, a->tx->posted + i), a->dst[0], 6);
}

/* ---- stamps: the payload says who sent it, when, and as which packet ---- */

static void stamp(struct dvmq_actor *a, uint16_t n, uint64_t now)
{
	for (unsigned i = 0; i < n; i++) {
		struct dvmq_stamp *s = (void *)(dvmq_ring_frame(a->tx, a->tx->posted + i) + DVMQ_STAMP_AT);

		s->magic = DVMQ_STAMP_MAGIC;
		s->sender = a->id;
		s->number = a->stamped++;
		s->tsc = now;
	}
}

/* Below 16 a bucket is one cycle wide, above that 1/16 of a power of two. */
void dvmq_histogram_add(struct dvmq_histogram *h, uint64_t cycles)
{
	unsigned top = cycles < 16 ? 0 : 63 - (unsigned)__builtin_clzll(cycles);

	h->count[top ? (top - 3) * 16 + ((cycles >> (top - 4)) & 15) : cycles]++;
	h->n++;
	if (cycles > h->max)
		h->max = cycles;
}

double dvmq_histogram_us(const struct dvmq_histogram *h, double share)
{
	uint64_t want = (uint64_t)ceil(h->n * share), sum = 0;
	unsigned i = 0;

	if (h->n == 0)
		return 0;
	while ((sum += h->count[i]) < want)
		i++;
	return (i < 16 ? i : (16.5 + i % 16) * (double)(1ull << (i / 16 - 1))) * 1e6 / dvmq_tsc_hz;
}

static void judge(struct dvmq_side *side, const uint8_t *frame, uint64_t now)
{
	const struct dvmq_stamp *s = (const void *)(frame + DVMQ_STAMP_AT);
	struct dvmq_actor *sender;
	int64_t ahead;

	if (s->magic != DVMQ_STAMP_MAGIC || s->sender >= dvmq_n_actors) {
		side->foreign++;
		return;
	}
	sender = dvmq_actors[s->sender];
	dvmq_histogram_add(&side->latency, now - s->tsc);
	ahead = (int64_t)(s->number - sender->expected);
	if (ahead >= 0) {
		side->lost += ahead;
		sender->arrived = ahead < 63 ? sender->arrived << (ahead + 1) | 1 : 1;
		sender->expected = s->number + 1;
	} else if (ahead >= -64 && sender->arrived & 1ull << (-ahead - 1)) {
		side->duplicated++;
	} else {
		if (ahead >= -64)
			sender->arrived |= 1ull << (-ahead - 1);
		side->reordered++;
		side->lost--;
	}
}

static void judge_received(struct dvmq_actor *a, uint16_t n, uint64_t now)
{
	uint16_t first = a->rx->seen - n;

	for (uint16_t i = 0; i < n; i++) {
		__builtin_prefetch(dvmq_ring_frame(a->rx, first + i + 8) + DVMQ_STAMP_AT);
		judge(a->side, dvmq_ring_frame(a->rx, first + i), now);
	}
}

/* ---- what an actor does ---- */

#define SHARED_S 0.005 /* worth of packets that each sender of a shared ring may offer at a time, after a pause */

static void swap_macs(uint8_t *frame)
{
	uint64_t dst, src;

	memcpy(&dst, frame, 8);
	memcpy(&src, frame + 6, 8);
	memcpy(frame, &src, 8); /* two bytes too many, which the next line puts right */
	memcpy(frame + 6, &dst, 6);
}

/* Sends what came back to where it came from, out of the same buffer. */
static unsigned reflect(struct dvmq_actor *a)
{
	uint16_t n = dvmq_ring_reap(a->rx), back, first = a->rx->seen - n;

	for (uint16_t i = first; i != a->rx->seen; i++) {
		uint32_t length;

		__builtin_prefetch(dvmq_ring_frame(a->rx, i + 8), 1);
		swap_macs(dvmq_ring_frame(a->rx, i));
		length = dvmq_ring_length(a->rx, i);
		memcpy(a->tx->lengths + 16 * (i & a->tx->mask), &length, sizeof(length));
	}
	if (n)
		dvmq_ring_give(a->tx, n);
	back = dvmq_ring_reap(a->tx);
	if (back)
		dvmq_ring_give(a->rx, back);
	a->received += n;
	a->sent += back;
	return n + back;
}

static uint16_t allowed(struct dvmq_actor *a, uint16_t room, uint64_t now)
{
	double most = a->shares ? 1 + a->rate * SHARED_S : a->tx->limit;

	if (a->single) {
		bool send = room > 0 && a->given == a->peer->received && now - a->arrived_at >= a->pause;

		if (send || a->given != a->peer->received)
			a->arrived_at = now;
		return send;
	}
	if (a->peer != NULL) { /* no more than the receiver has buffers for: whatever is lost then, the switch lost */
		uint64_t under_way = a->given - a->peer->received;
		uint64_t limit = a->peer->rx->limit;

		if (under_way + room > limit)
			room = under_way < limit ? limit - under_way : 0;
	}
	if (a->rate < 0)
		return room;
	a->tokens += (now - a->refilled) * (a->rate / dvmq_tsc_hz);
	a->refilled = now;
	if (a->tokens > most) { /* what could not be offered in time is not made up for */
		a->side->throttled += (uint64_t)(a->tokens - most);
		a->tokens = most;
	}
	if (room > a->tokens)
		room = a->tokens;
	a->tokens -= room;
	return room;
}

/* Buffers for the switch to fill again. A memif server takes the last packet's length for the size of the buffer. */
static void take_back(struct dvmq_ring *ring, uint16_t n)
{
	const uint32_t size = DVMQ_BUF_SIZE;

	if (ring->used == NULL)
		for (uint16_t i = ring->seen - n; i != ring->seen; i++)
			memcpy(ring->lengths + 16 * (i & ring->mask), &size, sizeof(size));
	dvmq_ring_give(ring, n);
}

static unsigned act(struct dvmq_actor *a, uint64_t now)
{
	uint16_t n = 0, sent, room;

	if (a->role == DVMQ_REFLECT)
		return reflect(a);
	if (a->rx != NULL) {
		n = dvmq_ring_reap(a->rx);
		if (n) {
			if (dvmq_opt.stamp)
				judge_received(a, n, now);
			take_back(a->rx, n);
			a->received += n;
		}
	}
	if (a->role != DVMQ_SEND)
		return n;
	sent = dvmq_ring_reap(a->tx);
	a->sent += sent;
	room = allowed(a, dvmq_ring_room(a->tx), now);
	if (room) {
		if (a->shares)
			address(a, room);
		if (dvmq_opt.stamp)
			stamp(a, room, now);
		dvmq_ring_give(a->tx, room);
		a->given += room;
	}
	return n + sent + room;
}

/* Packets that went through the switch; where it gets them back from a guest, those that it took. */
uint64_t dvmq_passed(const struct dvmq_side *side)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < side->n; i++) {
		const struct dvmq_actor *a = side->actors[i];

		if (a->counts)
			n += a->role == DVMQ_REFLECT ? a->sent : a->received;
	}
	return n;
}

unsigned dvmq_serve(struct dvmq_side *side, uint64_t now)
{
	unsigned work = 0;

	for (unsigned i = 0; i < side->n; i++)
		work += act(side->actors[i], now);
	return work;
}

void dvmq_kick_all(struct dvmq_side *side)
{
	for (unsigned i = 0; i < side->n; i++)
		if (side->actors[i]->tx != NULL && !side->actors[i]->mute)
			dvmq_ring_kick(side->actors[i]->tx);
}

/* ---- connecting ---- */

static void *connect_all(void *unused)
{
	for (unsigned i = 0; i < n_memifs; i++)
		while (!dvmq_memif_connect(memifs[i]))
			nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	for (;;) {
		struct pollfd wait[DVMQ_GUESTS];

		for (unsigned i = 0; i < n_guests; i++)
			wait[i] =
			    (struct pollfd){.fd = guests[i]->fd < 0 ? guests[i]->listen_fd : -1, .events = POLLIN};
		poll(wait, n_guests, 1000);
		for (unsigned i = 0; i < n_guests; i++)
			if (wait[i].revents)
				dvmq_guest_connect(guests[i]);
	}
	return unused;
}

static bool all_up(void)
{
	for (unsigned i = 0; i < n_guests; i++)
		if (!atomic_load(&guests[i]->up))
			return false;
	for (unsigned i = 0; i < n_memifs; i++)
		if (!atomic_load(&memifs[i]->up))
			return false;
	return true;
}

static void await_switches(void)
{
	double limit = seconds_of(CLOCK_MONOTONIC) + dvmq_opt.wait;

	while (!all_up()) {
		if (seconds_of(CLOCK_MONOTONIC) > limit)
			dvmq_die("not all switches connected within %.0f s", dvmq_opt.wait);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	printf("{\"event\":\"up\",\"hz\":%.0f}\n", dvmq_tsc_hz);
	fflush(stdout);
}

/* ---- the description of the scene ---- */

static void parse_mac(const char *text, uint8_t *mac)
{
	if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
		dvmq_die("%s: not a MAC address", text);
}

static struct dvmq_side *side_at(const char *name)
{
	for (unsigned i = 0; i < dvmq_n_sides; i++)
		if (strcmp(dvmq_sides[i].name, name) == 0)
			return &dvmq_sides[i];
	if (dvmq_n_sides == DVMQ_SIDES)
		dvmq_die("at most %d sides", DVMQ_SIDES);
	snprintf(dvmq_sides[dvmq_n_sides].name, sizeof(dvmq_sides[0].name), "%s", name);
	return &dvmq_sides[dvmq_n_sides++];
}

struct spec { /* of --guest or --memif, with its defaults */
	const char *side, *path, *role, *stuck;
	unsigned slots, tx, rx;
	bool credit, uncounted;
	struct dvmq_actor actor;
};

static unsigned parse_macs(char *list, uint8_t macs[DVMQ_ADDRESSES][6])
{
	unsigned n = 0;

	for (char *word = strtok(list, "/"); word != NULL; word = strtok(NULL, "/")) {
		if (n == DVMQ_ADDRESSES)
			dvmq_die("%s: at most %d addresses", word, DVMQ_ADDRESSES);
		parse_mac(word, macs[n++]);
	}
	return n;
}

static void parse_sizes(struct dvmq_actor *a, char *list)
{
	for (char *word = strtok(list, "/"); word != NULL; word = strtok(NULL, "/")) {
		if (a->n_sizes == DVMQ_SIZES)
			dvmq_die("%s: at most %d sizes", word, DVMQ_SIZES);
		a->sizes[a->n_sizes++] = (uint16_t)atoi(word);
	}
}

static struct spec parse_spec(char *text)
{
	struct spec s = {.side = "A", .role = "receive", .stuck = "no", .slots = dvmq_opt.slots, .tx = 1, .rx = 1};
	char *key;

	s.actor.rate = -1;
	while ((key = strsep(&text, ",")) != NULL) {
		char *value = strchr(key, '=');

		if (value == NULL)
			dvmq_die("%s: key=value is wanted", key);
		*value++ = 0;
		if (strcmp(key, "side") == 0)
			s.side = value;
		else if (strcmp(key, "path") == 0)
			s.path = value;
		else if (strcmp(key, "role") == 0)
			s.role = value;
		else if (strcmp(key, "stuck") == 0)
			s.stuck = value;
		else if (strcmp(key, "slots") == 0)
			s.slots = (unsigned)atoi(value);
		else if (strcmp(key, "tx") == 0)
			s.tx = (unsigned)atoi(value);
		else if (strcmp(key, "rx") == 0)
			s.rx = (unsigned)atoi(value);
		else if (strcmp(key, "mac") == 0)
			parse_mac(value, s.actor.mac);
		else if (strcmp(key, "dst") == 0)
			s.actor.n_dst = parse_macs(value, s.actor.dst);
		else if (strcmp(key, "src") == 0)
			s.actor.n_src = parse_macs(value, s.actor.src);
		else if (strcmp(key, "size") == 0)
			parse_sizes(&s.actor, value);
		else if (strcmp(key, "rate") == 0)
			s.actor.rate = atof(value);
		else if (strcmp(key, "credit") == 0)
			s.credit = atoi(value);
		else if (strcmp(key, "pause") == 0) {
			s.credit = s.actor.single = true;
			s.actor.pause = dvmq_cycles(atof(value) * 1e-6);
		} else if (strcmp(key, "count") == 0)
			s.uncounted = !atoi(value);
		else
			dvmq_die("%s: not a key", key);
	}
	if (s.path == NULL || s.slots < 16 || s.slots > 8192 || s.slots & (s.slots - 1))
		dvmq_die("a path, and 16 to 8192 slots, a power of two, are wanted");
	if (s.actor.n_sizes == 0)
		s.actor.sizes[s.actor.n_sizes++] = 64;
	for (unsigned i = 0; i < s.actor.n_sizes; i++)
		if (s.actor.sizes[i] < 64 || s.actor.sizes[i] > 1514)
			dvmq_die("%u: a frame has 64 to 1514 bytes", s.actor.sizes[i]);
	return s;
}

static struct dvmq_actor *add_actor(const struct spec *s, struct dvmq_ring *rx, struct dvmq_ring *tx,
				    enum dvmq_role role)
{
	struct dvmq_actor *a = malloc(sizeof(*a));
	struct dvmq_side *side = side_at(s->side);

	if (a == NULL || dvmq_n_actors == DVMQ_ACTORS)
		dvmq_die("too many guests");
	*a = s->actor;
	a->id = (uint16_t)dvmq_n_actors;
	a->side = side;
	a->role = role;
	a->rx = rx;
	a->tx = tx;
	a->counts = !s->uncounted && role != DVMQ_SEND;
	a->mute = strcmp(s->stuck, "kick") == 0;
	dvmq_actors[dvmq_n_actors++] = a;
	if (side->n == DVMQ_ACTORS_OF_SIDE)
		dvmq_die("at most %d guests with traffic on a side", DVMQ_ACTORS_OF_SIDE);
	side->actors[side->n++] = a;
	if (role == DVMQ_SEND && a->n_dst == 0)
		dvmq_die("%s: who sends has to have a dst", s->path);
	if (tx != NULL && a->n_dst > 0)
		build_frames(a);
	if (role == DVMQ_SEND && s->credit)
		a->peer = side->n > 1 ? side->actors[side->n - 2] : NULL; /* the guest before it */
	return a;
}

static void add_guest(char *text)
{
	struct spec s = parse_spec(text);
	struct dvmq_guest *guest = calloc(1, sizeof(*guest));
	bool reflects = strcmp(s.role, "reflect") == 0, idle = strcmp(s.role, "idle") == 0;

	if (guest == NULL || n_guests == DVMQ_GUESTS)
		dvmq_die("too many guests");
	guests[n_guests++] = guest;
	snprintf(guest->path, sizeof(guest->path), "%s", s.path);
	guest->lean = idle;
	dvmq_guest_open(guest, s.slots, dvmq_opt.huge && !idle, reflects);
	if (strcmp(s.stuck, "buffers") == 0)
		guest->rx.limit = 0;
	else if (strcmp(s.stuck, "one") == 0)
		guest->rx.limit = 1;
	dvmq_ring_give(&guest->rx, guest->rx.limit);
	if (idle) {
		side_at(s.side);
		return;
	}
	add_actor(&s, &guest->rx, &guest->tx,
		  reflects			? DVMQ_REFLECT
		  : strcmp(s.role, "send") == 0 ? DVMQ_SEND
						: DVMQ_RECEIVE);
}

static struct dvmq_actor *find_receiver(const struct dvmq_side *side, const uint8_t *mac)
{
	for (unsigned i = 0; i < side->n; i++)
		if (side->actors[i]->counts && memcmp(side->actors[i]->mac, mac, 6) == 0)
			return side->actors[i];
	dvmq_die("credit: the guest has to stand before the network that sends to it");
}

/*
 * The network behind an uplink: a sender for each of its queues that is to be fed, a receiver for each of its TX
 * queues.  Addresses are dealt out in turn to the last rings, so that queue 0 of several stays for what has none.  With
 * credit there is a sender for each address.
 */
static void add_memif(char *text)
{
	struct spec s = parse_spec(text);
	struct dvmq_memif *memif = calloc(1, sizeof(*memif));
	unsigned senders;

	if (memif == NULL || n_memifs == DVMQ_SIDES || s.tx > DVMQ_MEMIF_RINGS || s.rx > DVMQ_MEMIF_RINGS)
		dvmq_die("too many uplinks, or more than %d rings", DVMQ_MEMIF_RINGS);
	memifs[n_memifs++] = memif;
	snprintf(memif->path, sizeof(memif->path), "%s", s.path);
	memif->n_tx = s.tx;
	memif->n_rx = s.rx;
	dvmq_memif_open(memif, s.slots, dvmq_opt.huge);
	for (unsigned i = 0; i < s.rx; i++)
		add_actor(&s, &memif->rx[i], NULL, DVMQ_RECEIVE);
	senders = s.credit || s.tx > s.actor.n_dst ? s.actor.n_dst : s.tx;
	for (unsigned i = 0; i < senders; i++) {
		unsigned ring = s.tx > senders ? s.tx - senders + i : i % s.tx;
		struct dvmq_actor *sender;
		struct spec one = s;

		one.credit = false;
		one.actor.shares = senders > s.tx;
		one.actor.n_dst = 0;
		for (unsigned k = i; k < s.actor.n_dst; k += senders)
			memcpy(one.actor.dst[one.actor.n_dst++], s.actor.dst[k], 6);
		sender = add_actor(&one, NULL, &memif->tx[ring], DVMQ_SEND);
		if (s.credit)
			sender->peer = find_receiver(sender->side, sender->dst[0]);
	}
}

static void usage(void)
{
	puts("usage: perfguest [OPTION...] --guest SPEC... [--memif SPEC...]\n"
	     "Plays guests (vhost-user, sockets are served) and networks (memif, the switch serves) at next to no "
	     "cost.\n"
	     "\n"
	     "  --cpu N         the CPU of the thread that polls\n"
	     "  --switch-cpu N  tell how far from it this one is (ns for a cache line to go there and back)\n"
	     "  --slots N       of a ring (1024), 16 to 8192\n"
	     "  --huge          2 MiB pages\n"
	     "  --poll-ns N     rings are looked at that often (1000); more often slows the switch down\n"
	     "  --nap-us N      sleep between looks, where the CPU is shared with the switch\n"
	     "  --stamp         number and time in every packet: latency, and what was lost, reordered, duplicated\n"
	     "  --wait S        for the switches to connect (60)\n"
	     "  --guest SPEC    path=SOCKET[,side=NAME][,role=send|receive|reflect|idle][,mac=MAC][,dst=MAC/MAC..]\n"
	     "                  [,src=MAC/MAC..][,size=64/1514..][,rate=PPS][,slots=N][,credit=1][,count=0]\n"
	     "                  [,stuck=buffers|one|kick]\n"
	     "                  [,pause=US]: one packet at a time, that long after the guest before it got the last "
	     "one\n"
	     "  --memif SPEC    "
	     "path=SOCKET[,side=NAME][,tx=N][,rx=N][,mac=MAC][,src=MAC/MAC..][,dst=MAC/MAC..][,size=..]\n"
	     "                  [,rate=PPS][,slots=N][,credit=1]\n"
	     "\n"
	     "A side is one switch. Commands on stdin; each is answered by lines of JSON:\n"
	     "  pid SIDE PID                                   of the switch, so that others can be stopped while one "
	     "runs\n"
	     "  turns ROUNDS TURN_MS SETTLE_MS WINDOW_US       sides take turns in each round, in a random order\n"
	     "  run SIDE MS                                    traffic; then counters and latency of that time\n"
	     "  start SIDE, report, stop                       the same without an end\n"
	     "  announce SIDE MS                               guests that only receive send from each src, so that it "
	     "is "
	     "learned\n"
	     "  rate SIDE PPS                                  of all that send, in sum; negative: no limit; acts at "
	     "once\n"
	     "  rates SIDE PPS...                              of each that sends, in their order\n"
	     "  step SIDE LOW HIGH LIMIT_MS PID TID            from one rate to another: when does that thread run?\n"
	     "  wake SIDE TIMES GAP_US                         single packets after silence: latency; in turn, that of a "
	     "thread\n"
	     "                                                 on --switch-cpu that an eventfd wakes\n"
	     "  quit");
	exit(0);
}

static void parse_options(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *name = argv[i];
		char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(name, "--help") == 0)
			usage();
		if (strcmp(name, "--huge") == 0) {
			dvmq_opt.huge = true;
			continue;
		}
		if (strcmp(name, "--stamp") == 0) {
			dvmq_opt.stamp = true;
			continue;
		}
		if (value == NULL)
			dvmq_die("%s: not an option, or it wants a value; see --help", name);
		i++;
		if (strcmp(name, "--cpu") == 0)
			dvmq_opt.cpu = atoi(value);
		else if (strcmp(name, "--switch-cpu") == 0)
			dvmq_opt.switch_cpu = atoi(value);
		else if (strcmp(name, "--slots") == 0)
			dvmq_opt.slots = (unsigned)atoi(value);
		else if (strcmp(name, "--poll-ns") == 0)
			dvmq_opt.poll_ns = atof(value);
		else if (strcmp(name, "--nap-us") == 0)
			dvmq_opt.nap_us = atof(value);
		else if (strcmp(name, "--wait") == 0)
			dvmq_opt.wait = atof(value);
		else if (strcmp(name, "--guest") == 0)
			add_guest(value);
		else if (strcmp(name, "--memif") == 0)
			add_memif(value);
		else
			dvmq_die("%s: not an option; see --help", name);
	}
	if (dvmq_n_sides == 0)
		dvmq_die("no --guest and no --memif; see --help");
}

int main(int argc, char **argv)
{
	struct rlimit files;
	pthread_t thread;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_TIMERSLACK, 1);
	calibrate();
	parse_options(argc, argv);
	if (pthread_create(&thread, NULL, connect_all, NULL) != 0)
		dvmq_die("no thread");
	await_switches();
	if (dvmq_opt.cpu >= 0)
		dvmq_pin(dvmq_opt.cpu);
	dvmq_obey();
	return 0;
}
