/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The client's side of memif (shared memory packet interface, as in DPDK's drivers/net/memif and
 * https://docs.fd.io/vpp/ "memif"): one region, n_tx rings to the switch and n_rx rings from it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "rings.h"

#define COOKIE		    0x3E31F20u
#define VERSION		    0x0200u /* 2.0 */
#define RING_TX		    1u	    /* client to server */
#define ROUND_UP(value, to) (((value) + (to)-1) / (to) * (to))

enum type { ACK = 1, HELLO, INIT, ADD_REGION, ADD_RING, CONNECT, CONNECTED, DISCONNECT };

struct ring_memory {
	uint32_t cookie;
	uint16_t flags;
	_Atomic uint16_t head;
	uint8_t pad1[56];
	_Atomic uint16_t tail;
	uint8_t pad2[62];
	struct descriptor {
		uint16_t flags, region;
		uint32_t length, offset, metadata;
	} descriptors[];
};

struct message {
	uint16_t type;
	union {
		struct {
			uint8_t name[32];
			uint16_t min_version, max_version, max_region, max_to_client_ring, max_to_server_ring;
			uint8_t max_log2_ring_size;
		} __attribute__((packed)) hello;
		struct {
			uint16_t version;
			uint32_t id;
			uint8_t mode, secret[24], name[32];
		} __attribute__((packed)) init;
		struct {
			uint16_t index;
			uint64_t size;
		} __attribute__((packed)) region;
		struct {
			uint16_t flags, index, region;
			uint32_t offset;
			uint8_t log2_ring_size;
			uint16_t private_header_size;
		} __attribute__((packed)) ring;
		uint8_t space[126];
	};
} __attribute__((packed));

_Static_assert(sizeof(struct message) == 128, "a message has 128 bytes");

static bool say(int fd, struct message *message, int descriptor)
{
	struct iovec part = {message, sizeof(*message)};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};

	if (descriptor >= 0) {
		struct cmsghdr *c = (struct cmsghdr *)control;

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &descriptor, sizeof(int));
		header.msg_control = control;
		header.msg_controllen = sizeof(control);
	}
	return sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)sizeof(*message);
}

static bool hear(int fd, enum type type, struct message *ret_message)
{
	return recv(fd, ret_message, sizeof(*ret_message), 0) == (ssize_t)sizeof(*ret_message) &&
	       ret_message->type == type;
}

static bool tell(int fd, struct message message, int descriptor)
{
	struct message answer;

	return say(fd, &message, descriptor) && hear(fd, ACK, &answer);
}

static bool tell_ring(struct dvmq_memif *memif, bool tx, uint16_t index, const struct dvmq_ring *ring)
{
	struct message message = {.type = ADD_RING};

	message.ring.flags = tx ? RING_TX : 0;
	message.ring.index = index;
	message.ring.offset =
	    (uint32_t)((uint8_t *)(uintptr_t)ring->lengths - offsetof(struct ring_memory, descriptors) -
		       offsetof(struct descriptor, length) - memif->memory);
	message.ring.log2_ring_size = (uint8_t)__builtin_ctz(ring->mask + 1u);
	return tell(memif->fd, message, ring->kick_fd);
}

static bool introduce(struct dvmq_memif *memif)
{
	struct message message, answer;

	if (!hear(memif->fd, HELLO, &answer))
		return false;
	if (memif->n_tx > answer.hello.max_to_server_ring + 1u || memif->n_rx > answer.hello.max_to_client_ring + 1u)
		dvmq_die("%s: the switch takes %u and gives %u rings at most", memif->path,
			 answer.hello.max_to_server_ring + 1u, answer.hello.max_to_client_ring + 1u);
	message = (struct message){.type = INIT};
	message.init.version = VERSION;
	strcpy((char *)message.init.name, "perfguest");
	if (!tell(memif->fd, message, -1))
		return false;
	message = (struct message){.type = ADD_REGION};
	message.region.size = memif->size;
	if (!tell(memif->fd, message, memif->memory_fd))
		return false;
	for (uint16_t i = 0; i < memif->n_tx; i++)
		if (!tell_ring(memif, true, i, &memif->tx[i]))
			return false;
	for (uint16_t i = 0; i < memif->n_rx; i++)
		if (!tell_ring(memif, false, i, &memif->rx[i]))
			return false;
	message = (struct message){.type = CONNECT};
	return say(memif->fd, &message, -1) && hear(memif->fd, CONNECTED, &answer);
}

bool dvmq_memif_connect(struct dvmq_memif *memif)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 10};

	if (strlen(memif->path) >= sizeof(address.sun_path))
		dvmq_die("%s: too long for the address of a socket", memif->path);
	strcpy(address.sun_path, memif->path);
	memif->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	setsockopt(memif->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(memif->fd, (struct sockaddr *)&address, sizeof(address)) == 0 && introduce(memif)) {
		for (unsigned i = 0; i < memif->n_rx; i++)
			dvmq_ring_give(&memif->rx[i], memif->rx[i].limit); /* the server has set all indices to 0 */
		atomic_store(&memif->up, true);
		return true;
	}
	close(memif->fd);
	return false;
}

static uint8_t *lay_ring(struct dvmq_memif *memif, struct dvmq_ring *ring, uint8_t *at, unsigned slots)
{
	struct ring_memory *m = (void *)at;

	m->cookie = COOKIE;
	m->flags = 1; /* no interrupts wanted */
	ring->given = &m->head;
	ring->taken = &m->tail;
	ring->mask = slots - 1;
	ring->limit = slots;
	ring->stride = DVMQ_BUF_STRIDE;
	ring->lengths = (void *)&m->descriptors[0].length;
	ring->buffers = at + ROUND_UP(sizeof(*m) + slots * sizeof(m->descriptors[0]), 64);
	ring->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (ring->kick_fd < 0)
		dvmq_die("eventfd: %s", strerror(errno));
	for (unsigned i = 0; i < slots; i++) {
		m->descriptors[i].offset = (uint32_t)(dvmq_ring_frame(ring, i) - memif->memory);
		m->descriptors[i].length = DVMQ_BUF_SIZE;
	}
	return ring->buffers + slots * DVMQ_BUF_STRIDE;
}

void dvmq_memif_open(struct dvmq_memif *memif, unsigned slots, bool huge)
{
	size_t page = huge ? 2u << 20 : 4096;
	size_t ring =
	    ROUND_UP(sizeof(struct ring_memory) + slots * sizeof(struct descriptor), 64) + slots * DVMQ_BUF_STRIDE;
	uint8_t *at;

	memif->size = ROUND_UP((memif->n_tx + memif->n_rx) * ring, page);
	memif->memory_fd = memfd_create("perfguest", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
	if (memif->memory_fd < 0 || ftruncate(memif->memory_fd, (off_t)memif->size) < 0)
		dvmq_die("memory of an uplink: %s", strerror(errno));
	at = memif->memory =
	    mmap(NULL, memif->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memif->memory_fd, 0);
	if (at == MAP_FAILED)
		dvmq_die("%zu KiB of memory for an uplink: %s", memif->size >> 10, strerror(errno));
	for (unsigned i = 0; i < memif->n_tx; i++)
		at = lay_ring(memif, &memif->tx[i], at, slots);
	for (unsigned i = 0; i < memif->n_rx; i++)
		at = lay_ring(memif, &memif->rx[i], at, slots);
	memif->fd = -1;
}
