/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control socket.  Who may connect is decided by the mode of the socket
 * (0660) and its directory: whoever may, may also end the daemon.
 *
 * Protocol, over SOCK_STREAM.  A request is a line of at most 4096 bytes:
 *
 *	run COMMAND\n         carry out a command; what it shows comes as text
 *	run json COMMAND\n    the same; what it shows comes as JSON
 *	complete TEXT\n       the words that the last word of TEXT can become
 *
 * and its answer
 *
 *	ok N\n        and N bytes: what the command printed, or the words, one a line;
 *	              <NAME> describes a word that cannot be listed
 *	error N\n     and N bytes: why the request was refused
 *
 * A client may send many requests without waiting: they are answered in order.
 * While an answer waits to be read, no further request of that client is looked
 * at, so what a slow client can make us store is one answer; a client for which
 * it would be more than MAX_PENDING bytes is cut off.
 */
#include <dvmq/ctl.h>

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_common.h>

#include "grammar.h"
#include "sessions.h"

#define MAX_CLIENTS 64
#define MAX_PENDING (16u << 20)
#define MAX_EVENTS  16
#define REQUEST_LEN 4096 /* bytes of a request line, with its newline */

/* What epoll tells us beside the index of a client. */
#define EVENT_LISTEN MAX_CLIENTS
#define EVENT_PROMPT (MAX_CLIENTS + 1)

struct client {
	int fd;	     /* -1: this place is free */
	bool ending; /* cut off once the last answer is sent */
	size_t in_len;
	char in[REQUEST_LEN + 1];
	char *out; /* the answer under way */
	size_t out_len, out_sent;
};

static struct {
	struct sockaddr_un address;
	char lock_path[DVMQ_PATH_LEN + 8];
	int lock_fd, listen_fd, epoll_fd;
	struct client clients[MAX_CLIENTS];
} server = {
    .lock_fd = -1,
    .listen_fd = -1,
    .epoll_fd = -1,
    .clients = {[0 ... MAX_CLIENTS - 1] = {.fd = -1}},
};

static int watch(int fd, uint32_t events, uint32_t id, int operation)
{
	struct epoll_event event = {.events = events, .data.u32 = id};

	return epoll_ctl(server.epoll_fd, operation, fd, &event) == 0 ? 0 : -errno;
}

static void close_client(struct client *client)
{
	close(client->fd);
	free(client->out);
	client->fd = -1;
	client->out = NULL;
}

/* Sends what the socket takes now. */
static void send_pending(struct client *client)
{
	while (client->out_sent < client->out_len) {
		ssize_t n = send(client->fd, client->out + client->out_sent, client->out_len - client->out_sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			if (client->out_len - client->out_sent > MAX_PENDING)
				break;
			watch(client->fd, EPOLLOUT, client - server.clients, EPOLL_CTL_MOD);
			return;
		}
		if (n < 0)
			break;
		client->out_sent += n;
	}
	if (client->out_sent < client->out_len || client->ending) {
		close_client(client);
		return;
	}
	free(client->out);
	client->out = NULL;
	client->out_len = client->out_sent = 0;
}

static void answer(struct client *client, bool ok, const char *text, size_t len)
{
	char head[32];
	int head_len = snprintf(head, sizeof(head), "%s %zu\n", ok ? "ok" : "error", len);

	client->out = malloc(head_len + len);
	if (!client->out) {
		close_client(client);
		return;
	}
	memcpy(client->out, head, head_len);
	if (len)
		memcpy(client->out + head_len, text, len);
	client->out_len = head_len + len;
	client->out_sent = 0;
	send_pending(client);
}

/* The protocol was broken: nothing that follows can be trusted to be a request. */
static void answer_and_end(struct client *client, const char *text)
{
	client->ending = true;
	answer(client, false, text, strlen(text));
}

static void answer_complete(struct client *client, const char *text)
{
	json_t *words = dvmq_command_complete(text);
	char *list = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&list, &len);
	const char *key;
	json_t *value;

	if (!out || !words) {
		answer_and_end(client, "out of memory\n");
	} else {
		json_object_foreach (words, key, value)
			fprintf(out, json_is_true(value) ? "%s\n" : "<%s>\n", key);
		fflush(out);
		answer(client, true, list, len);
	}
	if (out)
		fclose(out);
	free(list);
	json_decref(words);
}

static bool begins(const char **text, const char *word)
{
	size_t len = strlen(word);

	if (strncmp(*text, word, len) != 0)
		return false;
	*text += len;
	return true;
}

static void handle_request(struct client *client, const char *text)
{
	const struct dvmq_reply *reply;

	if (begins(&text, "complete ")) {
		answer_complete(client, text);
	} else if (begins(&text, "run ")) {
		bool json = begins(&text, "json ");

		reply = dvmq_command_run(text, json);
		answer(client, reply->ok, reply->text, reply->len);
	} else {
		answer_and_end(client, "a request begins with \"run \", \"run json \" or \"complete \"\n");
	}
}

/* Handles the complete lines of a client, up to the first whose answer does not go out at once. */
static void handle_lines(struct client *client)
{
	char line[REQUEST_LEN + 1];
	char *end;

	while (client->fd >= 0 && !client->out && (end = memchr(client->in, '\n', client->in_len))) {
		size_t len = end - client->in;

		memcpy(line, client->in, len);
		line[len] = '\0';
		client->in_len -= len + 1;
		memmove(client->in, end + 1, client->in_len);
		if (strlen(line) != len)
			answer_and_end(client, "a request has no zero bytes\n");
		else
			handle_request(client, line);
	}
	if (client->fd >= 0 && !client->out && client->in_len >= REQUEST_LEN)
		answer_and_end(client, "a request has at most 4096 bytes\n");
}

static void serve_client(struct client *client, uint32_t events)
{
	ssize_t n;

	if (client->out) {
		send_pending(client);
		if (client->fd < 0 || client->out)
			return;
		watch(client->fd, EPOLLIN, client - server.clients, EPOLL_CTL_MOD);
		handle_lines(client); /* what came before the answer could go out */
		return;
	}
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	n = recv(client->fd, client->in + client->in_len, REQUEST_LEN - client->in_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_client(client);
		return;
	}
	client->in_len += n;
	handle_lines(client);
}

static void accept_client(void)
{
	static const char busy[] = "dvmqd serves as many clients as it can, try later\n";
	char text[sizeof(busy) + 32];
	int fd = accept4(server.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct client *client = &server.clients[i];

		if (client->fd >= 0)
			continue;
		if (watch(fd, EPOLLIN, i, EPOLL_CTL_ADD) != 0)
			break;
		client->fd = fd;
		client->ending = false;
		client->in_len = 0;
		return;
	}
	snprintf(text, sizeof(text), "error %zu\n%s", strlen(busy), busy);
	send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

/* The process id in a lock file, 0 if there is none. */
static long lock_owner(int fd)
{
	char text[32] = "";

	if (pread(fd, text, sizeof(text) - 1, 0) < 0)
		return 0;
	return strtol(text, NULL, 10);
}

/*
 * Whoever holds the lock removes the file before letting go, so a lock that we
 * got may be on a file that is gone: then start again.
 */
static int take_lock(struct dvmq_err *err)
{
	struct stat ours, theirs;
	int fd;

	for (;;) {
		fd = open(server.lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
		if (fd < 0)
			return dvmq_fail(err, errno, "%s: %s", server.lock_path, strerror(errno));
		if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
			int errnum = errno;
			long owner = lock_owner(fd);

			close(fd);
			if (errnum != EWOULDBLOCK)
				return dvmq_fail(err, errnum, "%s: %s", server.lock_path, strerror(errnum));
			return dvmq_fail(err, EADDRINUSE,
					 "%s: dvmqd runs there already as process %ld; stop it, or give this one "
					 "another path (--socket)",
					 server.address.sun_path, owner);
		}
		if (fstat(fd, &ours) == 0 && stat(server.lock_path, &theirs) == 0 && ours.st_ino == theirs.st_ino &&
		    ours.st_dev == theirs.st_dev)
			break;
		close(fd);
	}
	if (ftruncate(fd, 0) != 0 || dprintf(fd, "%ld\n", (long)getpid()) < 0) {
		int errnum = errno;

		unlink(server.lock_path);
		close(fd);
		return dvmq_fail(err, errnum, "%s: %s", server.lock_path, strerror(errnum));
	}
	server.lock_fd = fd;
	return 0;
}

/* Removes the socket of a daemon that died; anything else at that path stays. */
static int remove_stale(struct dvmq_err *err)
{
	const char *path = server.address.sun_path;
	struct stat st;
	int fd, ret;

	if (lstat(path, &st) != 0)
		return errno == ENOENT ? 0 : dvmq_fail(err, errno, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return dvmq_fail(err, EEXIST, "%s: exists and is not a socket; remove it or give another path", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return dvmq_fail(err, errno, "%s: %s", path, strerror(errno));
	ret = connect(fd, (struct sockaddr *)&server.address, sizeof(server.address));
	close(fd);
	if (ret == 0)
		return dvmq_fail(err, EADDRINUSE, "%s: another program serves this socket; give another path", path);
	if (unlink(path) != 0)
		return dvmq_fail(err, errno, "%s: %s", path, strerror(errno));
	return 0;
}

static int make_directory(const char *path, struct dvmq_err *err)
{
	char copy[DVMQ_PATH_LEN];
	const char *directory;

	strcpy(copy, path);
	directory = dirname(copy);
	if (mkdir(directory, 0755) != 0 && errno != EEXIST)
		return dvmq_fail(err, errno, "%s: cannot make the directory %s: %s", path, directory, strerror(errno));
	return 0;
}

static int listen_on(struct dvmq_err *err)
{
	const char *path = server.address.sun_path;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return dvmq_fail(err, errno, "%s: %s", path, strerror(errno));
	if (bind(fd, (struct sockaddr *)&server.address, sizeof(server.address)) != 0) {
		int errnum = errno;

		close(fd);
		return dvmq_fail(err, errnum, "%s: %s", path, strerror(errnum));
	}
	server.listen_fd = fd;
	/* Before listen(): until then nobody can connect, whatever the umask left open. */
	if (chmod(path, 0660) != 0 || listen(fd, MAX_CLIENTS) != 0 ||
	    watch(fd, EPOLLIN, EVENT_LISTEN, EPOLL_CTL_ADD) != 0)
		return dvmq_fail(err, errno, "%s: %s", path, strerror(errno));
	return 0;
}

int dvmq_ctl_open(const char *path, struct dvmq_err *err)
{
	int ret;

	if (strlen(path) >= sizeof(server.address.sun_path))
		return dvmq_fail(err, EINVAL, "%s: a Unix socket's path has at most %zu characters", path,
				 sizeof(server.address.sun_path) - 1);
	server.address.sun_family = AF_UNIX;
	strcpy(server.address.sun_path, path);
	snprintf(server.lock_path, sizeof(server.lock_path), "%s.lock", path);
	if (dvmq_commands_init() != 0)
		return dvmq_fail(err, ENOMEM, "%s: out of memory", path);
	server.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (server.epoll_fd < 0) {
		ret = dvmq_fail(err, errno, "%s: %s", path, strerror(errno));
		goto fail;
	}
	ret = make_directory(path, err);
	if (ret == 0)
		ret = take_lock(err);
	if (ret == 0)
		ret = remove_stale(err);
	if (ret == 0)
		ret = listen_on(err);
	if (ret == 0)
		return 0;
fail:
	dvmq_ctl_close();
	errno = -ret;
	return ret;
}

int dvmq_ctl_prompt(struct dvmq_err *err)
{
	int fd;
	int ret = dvmq_prompt_open(&fd, err);

	if (ret)
		return ret;
	ret = watch(fd, EPOLLIN, EVENT_PROMPT, EPOLL_CTL_ADD);
	if (ret) {
		dvmq_prompt_close();
		return dvmq_fail(err, -ret, "stdin: %s", strerror(-ret));
	}
	return 0;
}

int dvmq_ctl_fd(void)
{
	return server.epoll_fd;
}

void dvmq_ctl_serve(void)
{
	struct epoll_event events[MAX_EVENTS];
	int n = epoll_wait(server.epoll_fd, events, RTE_DIM(events), 0);

	for (int i = 0; i < n; i++) {
		uint32_t id = events[i].data.u32;

		if (id == EVENT_LISTEN)
			accept_client();
		else if (id == EVENT_PROMPT) {
			if (!dvmq_prompt_serve())
				dvmq_prompt_close();
		} else if (server.clients[id].fd >= 0)
			serve_client(&server.clients[id], events[i].events);
	}
}

void dvmq_ctl_close(void)
{
	dvmq_prompt_close();
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		if (server.clients[i].fd >= 0)
			close_client(&server.clients[i]);
	}
	if (server.listen_fd >= 0) {
		unlink(server.address.sun_path);
		close(server.listen_fd);
	}
	if (server.lock_fd >= 0) {
		unlink(server.lock_path);
		close(server.lock_fd);
	}
	if (server.epoll_fd >= 0)
		close(server.epoll_fd);
	server.listen_fd = server.lock_fd = server.epoll_fd = -1;
	dvmq_commands_free();
}
