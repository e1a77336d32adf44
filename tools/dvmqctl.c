/* SPDX-License-Identifier: BSD-3-Clause */
/* The client of dvmqd's control socket; src/ctl/server.c describes the protocol. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <bsd/stdlib.h>
#include <bsd/string.h>
#include <histedit.h>

#define DEFAULT_SOCKET "/run/dvmq/dvmq.sock"
#define LINE_LEN       4096 /* bytes of a request, with its newline */
#define HISTORY_LEN    500
#define MAX_WAIT       3600

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_NO_DAEMON = 2 };

static struct {
	const char *socket;
	bool json;
	bool stop_at_error;
	bool complete;
	FILE *daemon; /* the connection, read side; write to its descriptor */
} ctl;

static void usage(FILE *out)
{
	fprintf(out, "usage: dvmqctl [-s SOCKET] [-j] [-e] [-w SECONDS] [-f FILE] [COMMAND...]\n"
		     "\n"
		     "Sends commands to dvmqd. Without a command it reads them from the terminal or\n"
		     "from standard input. \"dvmqctl help\" lists the commands of the daemon.\n"
		     "\n"
		     "  -s SOCKET   control socket (default $DVMQ_SOCKET, else " DEFAULT_SOCKET ")\n"
		     "  -j          print what is shown as JSON\n"
		     "  -e          stop at the first command that is refused\n"
		     "  -w SECONDS  wait that long for the daemon to be there\n"
		     "  -f FILE     read commands from a file (-: standard input); # and ; begin comments\n"
		     "  -C          print the words that COMMAND's last one can become, for shells\n"
		     "  -h          print this help\n"
		     "  -V          print the version\n"
		     "\n"
		     "Exit status: 0 done, 1 refused, 2 no daemon.\n");
}

static void no_daemon(int errnum)
{
	fprintf(stderr, "dvmqctl: no dvmqd at %s: %s\n", ctl.socket, strerror(errnum));
	if (errnum == EACCES || errnum == EPERM)
		fprintf(stderr, "Your user may not use this socket: become root, or a member of its group.\n");
	else
		fprintf(stderr, "Start it (systemctl start dvmqd, or dvmqd -- -c FILE), or name its socket with -s or "
				"$DVMQ_SOCKET; why it ended is in its log (journalctl -u dvmqd).\n");
}

static int try_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (strlcpy(address.sun_path, ctl.socket, sizeof(address.sun_path)) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		int errnum = errno;

		close(fd);
		return -errnum;
	}
	ctl.daemon = fdopen(fd, "r");
	return ctl.daemon ? 0 : -errno;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static bool connect_daemon(int wait_seconds)
{
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	double end = now() + wait_seconds;
	int ret;

	for (;;) {
		ret = try_connect();
		if (ret == 0)
			return true;
		if ((ret != -ENOENT && ret != -ECONNREFUSED) || now() >= end)
			break;
		nanosleep(&pause, NULL);
	}
	no_daemon(-ret);
	return false;
}

static bool send_all(const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fileno(ctl.daemon), text, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		text += n;
		len -= n;
	}
	return true;
}

/*
 * One request, one answer.  *ret_text: what the daemon said, to free.  Returns
 * EXIT_...; for EXIT_NO_DAEMON the message is printed already.
 */
static int ask(const char *request, char **ret_text, size_t *ret_len)
{
	char head[64], word[16];
	size_t len;
	char *text;

	/* The daemon may have answered (that it is busy) and closed: so read even if sending failed. */
	send_all(request, strlen(request));
	if (!fgets(head, sizeof(head), ctl.daemon) || sscanf(head, "%15s %zu", word, &len) != 2) {
		fprintf(stderr, "dvmqctl: dvmqd at %s closed the connection; its log says why\n", ctl.socket);
		return EXIT_NO_DAEMON;
	}
	text = malloc(len + 1);
	if (!text || fread(text, 1, len, ctl.daemon) != len) {
		fprintf(stderr, "dvmqctl: dvmqd at %s closed the connection in the middle of an answer\n", ctl.socket);
		free(text);
		return EXIT_NO_DAEMON;
	}
	text[len] = '\0';
	*ret_text = text;
	*ret_len = len;
	return strcmp(word, "ok") == 0 ? EXIT_DONE : EXIT_REFUSED;
}

/* where: "FILE:LINE: ", or empty */
static int run_command(const char *command, const char *where)
{
	char request[LINE_LEN + 1];
	char *text;
	size_t len;
	int ret;

	if ((size_t)snprintf(request, sizeof(request), "run %s%s\n", ctl.json ? "json " : "", command) >=
	    sizeof(request)) {
		fprintf(stderr, "dvmqctl: %sthe command is longer than %d characters\n", where, LINE_LEN - 16);
		return EXIT_REFUSED;
	}
	ret = ask(request, &text, &len);
	if (ret == EXIT_NO_DAEMON)
		return ret;
	if (ret == EXIT_DONE)
		fwrite(text, 1, len, stdout);
	else
		fprintf(stderr, "dvmqctl: %s%s", where, text);
	free(text);
	fflush(stdout);
	return ret;
}

static char *strip(char *text)
{
	size_t len;

	text += strspn(text, " \t\r\n");
	len = strlen(text);
	while (len && isspace((unsigned char)text[len - 1]))
		text[--len] = '\0';
	return text;
}

static bool is_word(const char *line, const char *word)
{
	size_t len = strlen(word);

	return strncmp(line, word, len) == 0 && !line[len];
}

/* A script, from a file or a pipe. */
static int run_script(FILE *file, const char *name)
{
	int worst = EXIT_DONE;
	char *text = NULL;
	size_t size = 0;
	char where[512];

	for (unsigned line = 1; getline(&text, &size, file) >= 0; line++) {
		char *command = text;
		int ret;

		command[strcspn(command, "#;")] = '\0';
		command = strip(command);
		if (!*command)
			continue;
		snprintf(where, sizeof(where), "%s:%u: ", name, line);
		ret = run_command(command, where);
		if (ret != EXIT_DONE)
			worst = ret;
		if (ret == EXIT_NO_DAEMON || (ret == EXIT_REFUSED && ctl.stop_at_error))
			break;
		if (is_word(command, "quit"))
			break; /* nobody is left to take what follows */
	}
	if (ferror(file)) {
		fprintf(stderr, "dvmqctl: %s: cannot be read\n", name);
		worst = EXIT_REFUSED;
	}
	free(text);
	return worst;
}

static int run_file(const char *path)
{
	FILE *file;
	int ret;

	if (strcmp(path, "-") == 0)
		return run_script(stdin, "stdin");
	file = fopen(path, "re");
	if (!file) {
		fprintf(stderr, "dvmqctl: %s: %s\n", path, strerror(errno));
		return EXIT_REFUSED;
	}
	ret = run_script(file, path);
	fclose(file);
	return ret;
}

static char prompt_text[128];

static char *prompt(EditLine *editor)
{
	(void)editor;
	return prompt_text;
}

static const char *read_line(EditLine *editor, const char *text)
{
	int n;

	strlcpy(prompt_text, text, sizeof(prompt_text));
	return el_gets(editor, &n);
}

static size_t common_prefix(const char *a, const char *b)
{
	size_t n = 0;

	while (a[n] && a[n] == b[n])
		n++;
	return n;
}

/* words: one a line.  Inserts what they share beyond the typed letters; true if that was something. */
static bool insert_common(EditLine *editor, const char *words, size_t typed)
{
	const char *next = strchr(words, '\n');
	size_t common = next - words;
	bool single = !next[1];
	char insert[LINE_LEN];

	for (const char *word = next + 1; *word; word = strchr(word, '\n') + 1) {
		size_t n = common_prefix(words, word);

		common = n < common ? n : common;
	}
	if (*words == '<' || common < typed)
		return false;
	snprintf(insert, sizeof(insert), "%.*s%s", (int)(common - typed), words + typed, single ? " " : "");
	return *insert && el_insertstr(editor, insert) == 0;
}

/* The daemon knows the grammar and the names: it completes. */
static unsigned char complete(EditLine *editor, int c)
{
	const LineInfo *line = el_line(editor);
	char request[LINE_LEN];
	const char *typed = line->cursor;
	char *words;
	size_t len;
	int ret;

	(void)c;
	while (typed > line->buffer && !isspace((unsigned char)typed[-1]))
		typed--;
	snprintf(request, sizeof(request), "complete %.*s\n", (int)(line->cursor - line->buffer), line->buffer);
	ret = ask(request, &words, &len);
	if (ret == EXIT_NO_DAEMON)
		return CC_EOF;
	if (ret == EXIT_REFUSED || len == 0) {
		free(words);
		return CC_REFRESH_BEEP;
	}
	if (insert_common(editor, words, line->cursor - typed)) {
		free(words);
		return CC_REFRESH;
	}
	printf("\n%s", words);
	free(words);
	return CC_REDISPLAY;
}

/* The end of the daemon is the end of many networks: a slip of the finger must not do it. */
static bool really_quit(EditLine *editor)
{
	const char *answer =
	    read_line(editor, "This ends dvmqd, for all its VMs (\"exit\" leaves dvmqctl). Sure? [y/N] ");

	return answer && (answer[0] == 'y' || answer[0] == 'Y');
}

static int run_lines(EditLine *editor, History *past)
{
	char command[LINE_LEN];
	HistEvent event;
	const char *line;
	int ret;

	while ((line = read_line(editor, "dvmq> "))) {
		strlcpy(command, line, sizeof(command));
		line = strip(command);
		if (!*line)
			continue;
		history(past, &event, H_ENTER, line);
		if (is_word(line, "exit"))
			break;
		if (is_word(line, "quit") && !really_quit(editor))
			continue;
		ret = run_command(line, "");
		if (ret == EXIT_NO_DAEMON || (ret == EXIT_REFUSED && ctl.stop_at_error))
			return ret;
		if (is_word(line, "quit"))
			return ret;
	}
	if (!line)
		putchar('\n');
	return EXIT_DONE;
}

static int run_terminal(void)
{
	EditLine *editor = el_init("dvmqctl", stdin, stdout, stderr);
	History *past = history_init();
	HistEvent event;
	int ret;

	if (!editor || !past) {
		fprintf(stderr, "dvmqctl: the terminal cannot be used; give the command on the command line\n");
		return EXIT_REFUSED;
	}
	history(past, &event, H_SETSIZE, HISTORY_LEN);
	history(past, &event, H_SETUNIQUE, 1);
	el_set(editor, EL_PROMPT, prompt);
	el_set(editor, EL_EDITOR, "emacs");
	el_set(editor, EL_SIGNAL, 1);
	el_set(editor, EL_HIST, history, past);
	el_set(editor, EL_ADDFN, "dvmq-complete", "complete a word", complete);
	el_set(editor, EL_BIND, "^I", "dvmq-complete", NULL);
	el_source(editor, NULL);
	ret = run_lines(editor, past);
	history_end(past);
	el_end(editor);
	return ret;
}

/* What a shell offers: the words, not the descriptions (<NAME>). */
static int print_words(const char *command)
{
	char request[LINE_LEN + 16];
	char *text, *rest;
	size_t len;
	int ret;

	snprintf(request, sizeof(request), "complete %s\n", command);
	ret = ask(request, &text, &len);
	if (ret == EXIT_NO_DAEMON)
		return ret;
	rest = text;
	while (ret == EXIT_DONE && *rest) {
		char *word = strsep(&rest, "\n");

		if (*word != '<')
			puts(word);
	}
	free(text);
	return ret;
}

static int run_arguments(int argc, char **argv)
{
	char command[LINE_LEN] = "";

	for (int i = 0; i < argc; i++) {
		if ((i && strlcat(command, " ", sizeof(command)) >= sizeof(command)) ||
		    strlcat(command, argv[i], sizeof(command)) >= sizeof(command)) {
			fprintf(stderr, "dvmqctl: the command is longer than %d characters\n", LINE_LEN - 1);
			return EXIT_REFUSED;
		}
	}
	if (strchr(command, '\n')) {
		fprintf(stderr, "dvmqctl: a command is one line; for several use -f\n");
		return EXIT_REFUSED;
	}
	return ctl.complete ? print_words(command) : run_command(command, "");
}

static int run(int argc, char **argv, const char *file)
{
	if (file && argc) {
		fprintf(stderr, "dvmqctl: give either -f FILE or a command\n");
		return EXIT_REFUSED;
	}
	if (file)
		return run_file(file);
	if (argc || ctl.complete)
		return run_arguments(argc, argv);
	return isatty(STDIN_FILENO) ? run_terminal() : run_script(stdin, "stdin");
}

static int parse_wait(const char *text)
{
	const char *why;
	int seconds = strtonum(text, 0, MAX_WAIT, &why);

	if (why) {
		fprintf(stderr, "dvmqctl: -w %s: is %s, give 0 to %d seconds\n", text, why, MAX_WAIT);
		exit(EXIT_REFUSED);
	}
	return seconds;
}

int main(int argc, char **argv)
{
	const char *file = NULL;
	int wait_seconds = 0;
	int option, ret;

	ctl.socket = getenv("DVMQ_SOCKET");
	if (!ctl.socket || !*ctl.socket)
		ctl.socket = DEFAULT_SOCKET;
	/* "+": what follows the command's first word belongs to the command. */
	while ((option = getopt(argc, argv, "+s:jew:f:ChV")) != -1) {
		switch (option) {
		case 's':
			ctl.socket = optarg;
			break;
		case 'j':
			ctl.json = true;
			break;
		case 'e':
			ctl.stop_at_error = true;
			break;
		case 'w':
			wait_seconds = parse_wait(optarg);
			break;
		case 'f':
			file = optarg;
			break;
		case 'C':
			ctl.complete = true;
			break;
		case 'h':
			usage(stdout);
			return EXIT_DONE;
		case 'V':
			printf("dvmqctl %s\n", DVMQ_VERSION);
			return EXIT_DONE;
		default:
			usage(stderr);
			return EXIT_REFUSED;
		}
	}
	if (!connect_daemon(wait_seconds))
		return EXIT_NO_DAEMON;
	ret = run(argc - optind, argv + optind, file);
	fclose(ctl.daemon);
	return ret;
}
