/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest's side of vhost-user (https://qemu-project.gitlab.io/qemu/interop/vhost-user.html): what is needed to give
 * one pair of split virtqueues to a switch. Rings are as in section 2.7 of virtio 1.2.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "rings.h"

#define GUEST_ADDRESS	    0x100000000ull /* where the guest has its memory */
#define HEADER		    sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define F_PROTOCOL_FEATURES 30
#define P_REPLY_ACK	    3
#define FLAG_VERSION	    1u
#define FLAG_NEED_REPLY	    8u
#define ROUND_UP(value, to) (((value) + (to)-1) / (to) * (to))

enum request {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	SET_VRING_ENABLE = 18,
};

struct message {
	uint32_t request, flags, size;
	union {
		uint64_t number;
		struct {
			uint32_t ring, value;
		} state;
		struct {
			uint32_t ring, flags;
			uint64_t descriptors, used, available, log;
		} address;
		struct {
			uint32_t regions, padding;
			uint64_t guest_address, size, our_address, offset;
		} memory;
	};
} __attribute__((packed));

/* Sends a message, with a descriptor unless that is -1; with ack it waits until the switch has carried it out. */
static bool say(int fd, enum request request, struct message *message, size_t size, int descriptor, bool ack)
{
	struct iovec part = {message, offsetof(struct message, number) + size};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
	struct message answer;

	message->request = request;
	message->flags = FLAG_VERSION | (ack ? FLAG_NEED_REPLY : 0);
	message->size = size;
	if (descriptor >= 0) {
		struct cmsghdr *c = (struct cmsghdr *)control;

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &descriptor, sizeof(int));
		header.msg_control = control;
		header.msg_controllen = sizeof(control);
	}
	if (sendmsg(fd, &header, MSG_NOSIGNAL) != (ssize_t)part.iov_len)
		return false;
	if (!ack)
		return true;
	size = offsetof(struct message, number) + sizeof(answer.number);
	return recv(fd, &answer, size, MSG_WAITALL) == (ssize_t)size && answer.number == 0;
}

static bool ask(int fd, enum request request, uint64_t *ret_number)
{
	struct message message;
	size_t size = offsetof(struct message, number) + sizeof(message.number);

	if (!say(fd, request, &message, 0, -1, false) || recv(fd, &message, size, MSG_WAITALL) != (ssize_t)size)
		return false;
	*ret_number = message.number;
	return true;
}

static bool say_number(int fd, enum request request, uint64_t number, int descriptor)
{
	return say(fd, request, &(struct message){.number = number}, sizeof(number), descriptor, false);
}

static bool say_state(int fd, enum request request, uint32_t ring, uint32_t value, bool ack)
{
	struct message message = {.state = {ring, value}};

	return say(fd, request, &message, sizeof(message.state), -1, ack);
}

static int silent_fd(void) /* takes the calls (interrupts) that nobody waits for */
{
	static int fd = -1;

	if (fd < 0)
		fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return fd;
}

static bool tell_ring(int fd, uint32_t index, const struct dvmq_ring *ring, uint8_t *descriptors)
{
	struct message address = {.address = {.ring = index,
					      .descriptors = (uintptr_t)descriptors,
					      .used = (uintptr_t)ring->taken - offsetof(struct vring_used, idx),
					      .available = (uintptr_t)ring->given - offsetof(struct vring_avail, idx)}};

	return say_state(fd, SET_VRING_NUM, index, ring->mask + 1u, false) &&
	       say_state(fd, SET_VRING_BASE, index, atomic_load(ring->taken), false) &&
	       say(fd, SET_VRING_ADDR, &address, sizeof(address.address), -1, false) &&
	       say_number(fd, SET_VRING_KICK, index, ring->kick_fd) &&
	       say_number(fd, SET_VRING_CALL, index, silent_fd());
}

static bool introduce(struct dvmq_guest *guest)
{
	uint64_t want = 1ull << VIRTIO_F_VERSION_1 | 1ull << F_PROTOCOL_FEATURES, have, protocol;
	struct message memory = {.memory = {1, 0, GUEST_ADDRESS, guest->size, (uintptr_t)guest->memory, 0}};
	int fd = guest->fd;

	if (!ask(fd, GET_FEATURES, &have))
		return false;
	if ((have & want) != want)
		dvmq_die("%s: the switch does not offer virtio 1 with protocol features", guest->path);
	if (!ask(fd, GET_PROTOCOL_FEATURES, &protocol))
		return false;
	if (!(protocol & 1ull << P_REPLY_ACK))
		dvmq_die("%s: the switch does not offer REPLY_ACK", guest->path);
	if (!say_number(fd, SET_PROTOCOL_FEATURES, 1ull << P_REPLY_ACK, -1) ||
	    !say(fd, SET_OWNER, &(struct message){0}, 0, -1, false) || !say_number(fd, SET_FEATURES, want, -1) ||
	    !say(fd, SET_MEM_TABLE, &memory, sizeof(memory.memory), guest->memory_fd, true))
		return false;
	if (!tell_ring(fd, 0, &guest->rx, guest->rx.lengths - offsetof(struct vring_desc, len)) ||
	    !tell_ring(fd, 1, &guest->tx, guest->tx.lengths - offsetof(struct vring_desc, len)))
		return false;
	return say_state(fd, SET_VRING_ENABLE, 0, 1, true) && say_state(fd, SET_VRING_ENABLE, 1, 1, true);
}

bool dvmq_guest_connect(struct dvmq_guest *guest)
{
	struct timeval limit = {.tv_sec = 10};

	guest->fd = accept(guest->listen_fd, NULL, NULL);
	if (guest->fd < 0)
		return false;
	setsockopt(guest->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (introduce(guest)) {
		atomic_store(&guest->up, true);
		return true;
	}
	close(guest->fd);
	guest->fd = -1;
	return false;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		dvmq_die("%s: too long for the address of a socket", path);
	strcpy(address.sun_path, path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0)
		dvmq_die("%s: %s", path, strerror(errno));
	return fd;
}

/* Lays a ring into memory that is all zero; returns the first byte behind it. */
static uint8_t *lay_ring(struct dvmq_guest *guest, struct dvmq_ring *ring, uint8_t *at, unsigned slots,
			 bool device_writes)
{
	struct vring_desc *descriptors = (void *)at;
	struct vring_avail *available = (void *)(at + slots * sizeof(*descriptors));
	size_t avail_size = ROUND_UP(sizeof(*available) + (slots + 1) * sizeof(uint16_t), 64);
	struct vring_used *used = (void *)((uint8_t *)available + avail_size);
	size_t used_size = ROUND_UP(sizeof(*used) + slots * sizeof(used->ring[0]) + sizeof(uint16_t), 64);

	ring->given = (void *)&available->idx;
	ring->taken = (void *)&used->idx;
	ring->quiet = (void *)&used->flags;
	ring->used = used->ring;
	ring->lengths = (void *)&descriptors[0].len;
	ring->mask = slots - 1;
	ring->limit = slots;
	ring->headroom = HEADER;
	ring->stride = guest->lean ? 0 : DVMQ_BUF_STRIDE;
	ring->buffers = (uint8_t *)used + used_size;
	ring->kick_fd = device_writes ? silent_fd() : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (ring->kick_fd < 0)
		dvmq_die("eventfd: %s", strerror(errno));
	available->flags = VRING_AVAIL_F_NO_INTERRUPT;
	for (unsigned i = 0; i < slots; i++) {
		available->ring[i] = i;
		descriptors[i].addr = GUEST_ADDRESS + (uint64_t)(dvmq_ring_frame(ring, i) - HEADER - guest->memory);
		descriptors[i].len = device_writes ? DVMQ_BUF_SIZE : HEADER + 60;
		descriptors[i].flags = device_writes ? VRING_DESC_F_WRITE : 0;
	}
	return ring->buffers + (guest->lean ? 1 : slots) * DVMQ_BUF_STRIDE;
}

void dvmq_guest_open(struct dvmq_guest *guest, unsigned slots, bool huge, bool loop)
{
	size_t page = huge ? 2u << 20 : 4096;
	size_t ring = slots * (sizeof(struct vring_desc) + sizeof(uint16_t) + sizeof(struct vring_used_elem)) + 512;
	uint8_t *at;

	guest->size = ROUND_UP(2 * (ring + (guest->lean ? 1 : slots) * DVMQ_BUF_STRIDE), page);
	guest->memory_fd = memfd_create("perfguest", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
	if (guest->memory_fd < 0 || ftruncate(guest->memory_fd, (off_t)guest->size) < 0)
		dvmq_die("memory of a guest: %s", strerror(errno));
	guest->memory = mmap(NULL, guest->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, guest->memory_fd, 0);
	if (guest->memory == MAP_FAILED)
		dvmq_die("%zu KiB of memory for a guest: %s", guest->size >> 10, strerror(errno));
	at = lay_ring(guest, &guest->rx, guest->memory, slots, true);
	at = (uint8_t *)ROUND_UP((uintptr_t)at, 64);
	lay_ring(guest, &guest->tx, at, slots, false);
	if (loop) {
		struct vring_desc *rx = (void *)(guest->rx.lengths - offsetof(struct vring_desc, len));
		struct vring_desc *tx = (void *)(guest->tx.lengths - offsetof(struct vring_desc, len));

		for (unsigned i = 0; i < slots; i++)
			tx[i].addr = rx[i].addr;
		guest->tx.buffers = guest->rx.buffers;
	}
	guest->fd = -1;
	guest->listen_fd = listen_at(guest->path);
}

void dvmq_ring_kick(struct dvmq_ring *ring)
{
	if (ring->quiet == NULL || ring->kicked == ring->posted)
		return;
	atomic_thread_fence(memory_order_seq_cst); /* the switch stores the flag, then looks at the index once more */
	if (atomic_load_explicit(ring->quiet, memory_order_relaxed) & VRING_USED_F_NO_NOTIFY)
		return;
	ring->kicked = ring->posted;
	eventfd_write(ring->kick_fd, 1);
}

bool dvmq_ring_check(const struct dvmq_ring *ring)
{
	uint16_t last = (uint16_t)(ring->seen - 1) & ring->mask;

	return ring->used == NULL || ring->seen == 0 || ring->used[last].id == last;
}
