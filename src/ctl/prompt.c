/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The prompt of dvmqd -i.  On a terminal librte_cmdline's line editor gives
 * history and completion; a pipe or file is read line by line.
 */
#ifndef ALLOW_EXPERIMENTAL_API
#define ALLOW_EXPERIMENTAL_API /* rdline_new() and friends, stable from DPDK 23.11 */
#endif

#include <dvmq/command.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include <cmdline_rdline.h>
#include <rte_common.h>
#include <rte_log.h>

#include "grammar.h"
#include "sessions.h"

#define PROMPT "dvmqd> "

static struct {
	int epoll_fd, event_fd;
	bool always_readable; /* stdin is a file, which epoll does not take: event_fd stands for it */
	bool ended;
	struct rdline *editor; /* NULL: stdin is no terminal */
	struct termios saved;
	FILE *log;
	/* A thread that logged (writer) asks the control thread (reader) to draw the prompt anew. */
	atomic_bool redraw;
	json_t *words; /* the completion that is being listed */
	void *word;    /* its next word */
	size_t len;
	char line[DVMQ_LINE_LEN + 1]; /* one more than a command may have, to see that it is too long */
} prompt = {.epoll_fd = -1, .event_fd = -1};

/* A terminal or a pipe of the user: blocking is the point of it, losing output is not. */
static void write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		text += n;
		len -= n;
	}
}

static void run_line(const char *line)
{
	const struct dvmq_reply *reply = dvmq_command_run(line, false);

	write_all(reply->ok ? STDOUT_FILENO : STDERR_FILENO, reply->text, reply->len);
}

static int editor_write(struct rdline *editor, char c)
{
	RTE_SET_USED(editor);
	write_all(STDOUT_FILENO, &c, 1);
	return 1;
}

static void editor_line(struct rdline *editor, const char *buf, unsigned size)
{
	RTE_SET_USED(editor);
	RTE_SET_USED(size);
	run_line(buf);
}

static size_t common_prefix(const char *a, const char *b)
{
	size_t n = 0;

	while (a[n] && a[n] == b[n])
		n++;
	return n;
}

/* What all words have in common beyond what is typed, and a space when there is but one word. */
static int complete_in_line(const char *text, char *buf, unsigned size)
{
	const char *last = strrchr(text, ' ');
	size_t typed = strlen(last ? last + 1 : text);
	const char *first = NULL;
	size_t common = 0;
	const char *key;
	json_t *value;

	json_object_foreach (prompt.words, key, value) {
		if (!json_is_true(value))
			return 0;
		common = first ? RTE_MIN(common, common_prefix(first, key)) : strlen(key);
		first = first ? first : key;
	}
	if (!first || typed > common)
		return 0;
	return snprintf(buf, size, "%.*s%s", (int)(common - typed), first + typed,
			json_object_size(prompt.words) == 1 ? " " : "");
}

/* See cmdline_parse.h for this interface: 2: buf is appended, 1: buf is one of several words, 0: no more. */
static int editor_complete(struct rdline *editor, const char *text, char *buf, unsigned size, int *state)
{
	RTE_SET_USED(editor);
	if (*state <= 0) {
		json_decref(prompt.words);
		prompt.words = dvmq_command_complete(text);
		if (*state == 0 && complete_in_line(text, buf, size) > 0)
			return 2;
		prompt.word = json_object_iter(prompt.words);
		*state = 1;
	}
	if (!prompt.word)
		return 0;
	snprintf(buf, size, "%s", json_object_iter_key(prompt.word));
	prompt.word = json_object_iter_next(prompt.words, prompt.word);
	return 1;
}

/* Any thread that logs: takes the prompt off the line first, and has it drawn again below. */
static ssize_t write_log(void *cookie, const char *text, size_t len)
{
	RTE_SET_USED(cookie);
	write_all(STDERR_FILENO, "\r\033[K", 4);
	write_all(STDERR_FILENO, text, len);
	atomic_store_explicit(&prompt.redraw, true, memory_order_release); /* pairs with the exchange in serve */
	eventfd_write(prompt.event_fd, 1);
	return len;
}

static int open_terminal(void)
{
	cookie_io_functions_t functions = {.write = write_log};
	struct termios raw;

	prompt.editor = rdline_new(editor_write, editor_line, editor_complete, &prompt);
	if (!prompt.editor || tcgetattr(STDIN_FILENO, &prompt.saved) != 0)
		return -errno;
	raw = prompt.saved;
	/* ^C still ends the daemon; ^S, ^Z and ^\ would stop or kill a switch that others depend on. */
	raw.c_lflag &= ~(ICANON | ECHO);
	raw.c_iflag &= ~IXON;
	raw.c_cc[VSUSP] = raw.c_cc[VQUIT] = _POSIX_VDISABLE;
	if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) != 0)
		return -errno;
	prompt.log = isatty(STDERR_FILENO) ? fopencookie(NULL, "w", functions) : NULL;
	if (prompt.log) {
		setvbuf(prompt.log, NULL, _IOLBF, BUFSIZ);
		rte_openlog_stream(prompt.log);
	}
	rdline_newline(prompt.editor, PROMPT);
	return 0;
}

int dvmq_prompt_open(int *ret_fd, struct dvmq_err *err)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct epoll_event input = {.events = EPOLLIN, .data.fd = STDIN_FILENO};
	int ret = 0;

	prompt.ended = false;
	prompt.len = 0;
	prompt.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	prompt.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	event.data.fd = prompt.event_fd;
	if (prompt.epoll_fd < 0 || prompt.event_fd < 0 ||
	    epoll_ctl(prompt.epoll_fd, EPOLL_CTL_ADD, prompt.event_fd, &event) != 0)
		goto fail;
	prompt.always_readable = false;
	if (epoll_ctl(prompt.epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &input) != 0) {
		if (errno != EPERM)
			goto fail;
		prompt.always_readable = true;
		eventfd_write(prompt.event_fd, 1);
	}
	if (isatty(STDIN_FILENO))
		ret = open_terminal();
	errno = -ret;
	if (ret == 0) {
		*ret_fd = prompt.epoll_fd;
		return 0;
	}
fail:
	ret = dvmq_fail(err, errno ? errno : ENOMEM, "stdin: %s; start without --interactive", strerror(errno));
	dvmq_prompt_close();
	return ret;
}

/* One line of a pipe or file, without an editor. */
static void take_line(void)
{
	prompt.line[prompt.len] = '\0';
	prompt.len = 0;
	run_line(prompt.line);
}

static bool is_quit(const char *line)
{
	line += strspn(line, " \t");
	return strncmp(line, "quit", 4) == 0 && !line[4 + strspn(line + 4, " \t\r\n")];
}

static void take_chars(const char *text, size_t len)
{
	for (size_t i = 0; i < len && !prompt.ended; i++) {
		if (text[i] != '\n' && text[i]) {
			if (prompt.len < sizeof(prompt.line) - 1)
				prompt.line[prompt.len++] = text[i];
			continue;
		}
		prompt.line[prompt.len] = '\0';
		prompt.ended = is_quit(prompt.line);
		take_line();
	}
}

/* The line editor: Enter runs the line by way of editor_line(). */
static void edit_chars(const char *text, size_t len)
{
	for (size_t i = 0; i < len && !prompt.ended; i++) {
		const char *line;
		int ret = rdline_char_in(prompt.editor, text[i]);

		if (ret == RDLINE_RES_EOF || ret == RDLINE_RES_EXITED) {
			prompt.ended = true;
			write_all(STDOUT_FILENO, "\r\n", 2);
			dvmq_quit();
		} else if (ret == RDLINE_RES_VALIDATED) {
			line = rdline_get_buffer(prompt.editor);
			prompt.ended = is_quit(line);
			if (line[0] != '\n')
				rdline_add_history(prompt.editor, line);
			rdline_newline(prompt.editor, PROMPT);
		}
	}
}

static void end_of_input(void)
{
	if (prompt.len)
		take_line();
	prompt.ended = true;
	dvmq_quit();
}

static bool stdin_readable(void)
{
	struct epoll_event events[2];
	eventfd_t count;
	int n;

	if (prompt.always_readable)
		return true;
	n = epoll_wait(prompt.epoll_fd, events, RTE_DIM(events), 0);
	eventfd_read(prompt.event_fd, &count);
	for (int i = 0; i < n; i++) {
		if (events[i].data.fd == STDIN_FILENO)
			return true;
	}
	return false;
}

bool dvmq_prompt_serve(void)
{
	char text[512];
	ssize_t n;

	/* Pairs with the store in write_log(). */
	if (prompt.editor && atomic_exchange_explicit(&prompt.redraw, false, memory_order_acquire))
		rdline_redisplay(prompt.editor);
	if (!stdin_readable())
		return true;
	n = read(STDIN_FILENO, text, sizeof(text));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (n <= 0)
		end_of_input();
	else if (prompt.editor)
		edit_chars(text, n);
	else
		take_chars(text, n);
	return !prompt.ended;
}

void dvmq_prompt_close(void)
{
	if (prompt.log) {
		rte_openlog_stream(NULL);
		fclose(prompt.log);
		prompt.log = NULL;
	}
	if (prompt.editor) {
		tcsetattr(STDIN_FILENO, TCSANOW, &prompt.saved);
		write_all(STDOUT_FILENO, "\r\033[K\n", 5);
		rdline_free(prompt.editor);
		prompt.editor = NULL;
	}
	json_decref(prompt.words);
	prompt.words = NULL;
	if (prompt.epoll_fd >= 0)
		close(prompt.epoll_fd);
	if (prompt.event_fd >= 0)
		close(prompt.event_fd);
	prompt.epoll_fd = prompt.event_fd = -1;
}
