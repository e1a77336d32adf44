/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The command table, and what stands behind each command: the functions of
 * command.h carry it out.  How a line is matched with it: grammar.c.
 */
#include <dvmq/command.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmdline_parse_string.h>
#include <rte_common.h>

#include "commands.h"
#include "conf_keys.h"
#include "grammar.h"

#define TRACE_SECONDS	  60 /* of a trace without SECONDS: enough to see cores park (hold_ms), some MiB */
#define TRACE_SECONDS_MAX 86400

/* What librte_cmdline stores of a line: see CMDLINE_PARSE_RESULT_BUFSIZE. */
struct line {
	char word[5][DVMQ_WORD_LEN]; /* the words of the grammar by their place, a choice where one was offered */
	char name[DVMQ_WORD_LEN];
	char core[DVMQ_WORD_LEN]; /* or a number of queues */
	char rest[DVMQ_LINE_LEN];
};

static_assert(sizeof(struct line) <= CMDLINE_PARSE_RESULT_BUFSIZE, "librte_cmdline cannot store a line");

static void fail(const char *text)
{
	fprintf(dvmq_said.out, "%s\n", text);
	dvmq_said.failed = true;
}

/* Takes the reference; NULL: err says why. */
static void show(json_t *value, const struct dvmq_err *err)
{
	if (!value) {
		fail(err->text);
		return;
	}
	if (dvmq_said.json) {
		json_dumpf(value, dvmq_said.out, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
		fputc('\n', dvmq_said.out);
	} else {
		dvmq_table_print(dvmq_said.out, value);
	}
	json_decref(value);
}

/* What a command does whose only argument is a name, or that has none. */
struct action {
	json_t *(*show_name)(const char *name, struct dvmq_err *err);
	json_t *(*show)(struct dvmq_err *err);
	int (*with_name)(const char *name, struct dvmq_err *err);
};

static void do_action(void *result, struct cmdline *cl, void *data)
{
	const struct action *action = data;
	const struct line *line = result;
	struct dvmq_err err = {""};

	RTE_SET_USED(cl);
	if (action->show_name)
		show(action->show_name(line->name, &err), &err);
	else if (action->show)
		show(action->show(&err), &err);
	else if (action->with_name(line->name, &err) != 0)
		fail(err.text);
}

static void do_show_config(void *result, struct cmdline *cl, void *data)
{
	struct dvmq_err err;
	int ret;

	RTE_SET_USED(result);
	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if (dvmq_said.json) {
		show(dvmq_conf_json(dvmq_running_conf()), &err);
		return;
	}
	ret = dvmq_conf_write(dvmq_running_conf(), dvmq_said.out);
	if (ret)
		fail(strerror(-ret));
}

static void do_set_queue_core(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	struct dvmq_err err;
	unsigned core;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if (dvmq_conf_number("core", line->core, 0, DVMQ_MAX_CPUS - 1, &core, &err) != 0 ||
	    dvmq_set_queue_core(line->name, core, &err) != 0)
		fail(err.text);
}

static void do_set_queue_pin(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	struct dvmq_err err;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if (dvmq_set_queue_pin(line->name, strcmp(line->word[3], "pin") == 0, &err) != 0)
		fail(err.text);
}

static bool vmqs_at(unsigned index, char *buf, size_t size)
{
	return index <= DVMQ_MAX_PAIRS && snprintf(buf, size, "%u", index) < (int)size;
}

static void do_set_port_vmq(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	struct dvmq_err err;
	unsigned n = 0;
	bool automatic = strcmp(line->core, "auto") == 0;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if ((!automatic && dvmq_conf_number("vmq", line->core, 0, DVMQ_MAX_PAIRS, &n, &err) != 0) ||
	    dvmq_set_port_vmq(line->name, automatic ? -1 : (int)n, &err) != 0)
		fail(err.text);
}

static void do_set_balance(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	struct dvmq_err err;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if (dvmq_set_balance(strcmp(line->word[2], "auto") == 0, &err) != 0)
		fail(err.text);
}

static void do_set_core(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	enum dvmq_core_wish wish = DVMQ_CORE_AUTO;
	struct dvmq_err err;
	unsigned core;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if (strcmp(line->word[3], "park") == 0)
		wish = DVMQ_CORE_KEEP_PARKED;
	else if (strcmp(line->word[3], "activate") == 0)
		wish = DVMQ_CORE_KEEP_ACTIVE;
	if (dvmq_conf_number("core", line->core, 0, DVMQ_MAX_CPUS - 1, &core, &err) != 0 ||
	    dvmq_set_core(core, wish, &err) != 0)
		fail(err.text);
}

static void do_set_policy(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	enum dvmq_policy policy;
	struct dvmq_err err;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if (dvmq_conf_policy(line->word[4], &policy, &err) != 0 || dvmq_set_policy(line->name, policy, &err) != 0)
		fail(err.text);
}

/* The words "key=value ..." of a port. */
static int set_port_keys(struct dvmq_port_conf *port, char *text, struct dvmq_err *err)
{
	char *word, *value;
	int ret = 0;

	while (ret == 0 && (word = strsep(&text, " \t"))) {
		if (!*word)
			continue;
		value = strchr(word, '=');
		if (!value)
			return dvmq_fail(err, EINVAL, "\"%s\" is not key=value", word);
		*value++ = '\0';
		ret = dvmq_conf_port_set(port, word, value, err);
	}
	return ret;
}

static void do_port_add(void *result, struct cmdline *cl, void *data)
{
	struct line *line = result;
	struct dvmq_port_conf port;
	struct dvmq_err err;
	enum dvmq_port_type type;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	type = strcmp(line->word[2], "vhost") == 0 ? DVMQ_PORT_VHOST : DVMQ_PORT_ETHDEV;
	if (dvmq_conf_port_init(&port, type, line->name, &err) != 0 || set_port_keys(&port, line->rest, &err) != 0 ||
	    dvmq_conf_port_check(&port, &err) != 0 || dvmq_conf_port_fits(dvmq_running_conf(), &port, &err) != 0 ||
	    dvmq_port_add(&port, &err) != 0)
		fail(err.text);
}

static int stop_trace(const char *name, struct dvmq_err *err)
{
	RTE_SET_USED(name);
	return dvmq_trace_stop(err);
}

static int clear_stats(const char *name, struct dvmq_err *err)
{
	RTE_SET_USED(name);
	return dvmq_clear_stats(err);
}

/* Whoever reads the file sees the old or the new one, never half of it, also after a power cut. */
static int save_config(const char *path, struct dvmq_err *err)
{
	char tmp[DVMQ_WORD_LEN + 8];
	FILE *file;
	int ret;

	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	file = fopen(tmp, "we");
	if (!file)
		return dvmq_fail(err, errno, "%s: %s", tmp, strerror(errno));
	ret = dvmq_conf_write(dvmq_running_conf(), file);
	if (ret == 0 && fsync(fileno(file)) != 0)
		ret = -errno;
	if (fclose(file) != 0 && ret == 0)
		ret = -errno;
	if (ret == 0 && rename(tmp, path) != 0)
		ret = -errno;
	if (ret) {
		unlink(tmp);
		return dvmq_fail(err, -ret, "%s: %s", path, strerror(-ret));
	}
	return 0;
}

static void do_save_config(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	struct dvmq_err err;
	char *path;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if (save_config(line->name, &err) != 0) {
		fail(err.text);
		return;
	}
	/* A relative name counts from the daemon's directory, which need not be the user's: say where it went. */
	path = realpath(line->name, NULL);
	fprintf(dvmq_said.out, "saved as %s\n", path ? path : line->name);
	free(path);
}

static void do_save_trace(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	unsigned seconds = TRACE_SECONDS;
	struct dvmq_err err;
	char *path;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	if ((line->word[3][0] &&
	     dvmq_conf_number("SECONDS", line->word[3], 1, TRACE_SECONDS_MAX, &seconds, &err) != 0) ||
	    dvmq_trace_start(line->name, seconds, &err) != 0) {
		fail(err.text);
		return;
	}
	path = realpath(line->name, NULL);
	fprintf(dvmq_said.out, "recording %u s to %s\n", seconds, path ? path : line->name);
	free(path);
}

static void do_quit(void *result, struct cmdline *cl, void *data)
{
	RTE_SET_USED(result);
	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	dvmq_quit();
}

static void do_help(void *result, struct cmdline *cl, void *data);

#define WORD(id, place, choices) \
	static cmdline_parse_token_string_t id = TOKEN_STRING_INITIALIZER(struct line, word[place], choices)
#define NAME(id, field, ...)            \
	static struct dvmq_name_token id = { \
	    {&dvmq_name_ops, offsetof(struct line, field)}, .size = sizeof(((struct line *)0)->field), __VA_ARGS__}
#define COMMAND(id, handler, arg, help, ...) \
	static cmdline_parse_inst_t id = {.f = handler, .data = arg, .help_str = help, .tokens = {__VA_ARGS__, NULL}}
#define T(token) ((cmdline_parse_token_hdr_t *)&(token).hdr)

WORD(w_show, 0, "show");
WORD(w_set, 0, "set");
WORD(w_port_0, 0, "port");
WORD(w_clear, 0, "clear");
WORD(w_flow, 0, "flow");
WORD(w_save, 0, "save");
WORD(w_balance_0, 0, "balance");
WORD(w_help, 0, "help");
WORD(w_quit, 0, "quit");
WORD(w_port, 1, "port");
WORD(w_queue, 1, "queue");
WORD(w_core, 1, "core");
WORD(w_vmq, 1, "vmq");
WORD(w_fdb, 1, "fdb");
WORD(w_balance, 1, "balance");
WORD(w_memory, 1, "memory");
WORD(w_config, 1, "config");
WORD(w_trace, 1, "trace");
WORD(w_dry_run, 1, "dry-run");
WORD(w_add, 1, "add");
WORD(w_del, 1, "del");
WORD(w_reset, 1, "reset");
WORD(w_list, 1, "list");
WORD(w_clear_stats, 1, "stats");
WORD(w_stats, 2, "stats");
WORD(w_types, 2, "vhost#ethdev");
WORD(w_clear_all, 2, "all");
WORD(w_modes, 2, "auto#off");
WORD(w_off, 2, "off");
WORD(w_to_core, 3, "core");
WORD(w_pins, 3, "pin#unpin");
WORD(w_wishes, 3, "park#activate#auto");
WORD(w_policy, 3, "policy");
WORD(w_policies, 4, "latency#balanced#frugal");
WORD(w_to_vmq, 3, "vmq");

NAME(n_port_or_all, name, .label = "PORT", .first = "all", .name_at = dvmq_port_name_at, .refuse = "stats");
NAME(n_queue_or_all, name, .label = "QUEUE", .first = "all", .name_at = dvmq_queue_name_at);
NAME(n_core_or_all, name, .label = "CORE", .first = "all", .name_at = dvmq_core_name_at);
NAME(n_port, name, .label = "PORT", .name_at = dvmq_port_name_at);
NAME(n_queue, name, .label = "QUEUE", .name_at = dvmq_queue_name_at);
NAME(n_core, core, .label = "CORE", .name_at = dvmq_core_name_at);
NAME(n_vmqs, core, .label = "N", .first = "auto", .name_at = vmqs_at);
NAME(n_new_port, name, .label = "NAME");
NAME(n_keys, rest, .label = "key=value...", .to_end = true);
NAME(n_file, name, .label = "FILE");
NAME(n_trace_file, name, .label = "FILE", .refuse = "off");
NAME(n_seconds, word[3], .label = "SECONDS");
NAME(n_word, name, .label = "WORD");

static struct action act_port_stats = {.show_name = dvmq_show_port_stats};
static struct action act_port = {.show_name = dvmq_show_ports};
static struct action act_queue = {.show_name = dvmq_show_queues};
static struct action act_core = {.show_name = dvmq_show_cores};
static struct action act_vmq = {.show_name = dvmq_show_vmq};
static struct action act_fdb = {.show = dvmq_show_fdb};
static struct action act_balance = {.show = dvmq_show_balance};
static struct action act_memory = {.show = dvmq_show_memory};
static struct action act_dry_run = {.show = dvmq_balance_dry_run};
static struct action act_flows = {.show_name = dvmq_flow_list};
static struct action act_port_del = {.with_name = dvmq_port_del};
static struct action act_port_reset = {.with_name = dvmq_port_reset};
static struct action act_trace_off = {.with_name = stop_trace};
static struct action act_clear = {.with_name = clear_stats};

/* The help text is the syntax, a colon, and what the command does. */
COMMAND(c_port_stats, do_action, &act_port_stats, "show port stats all|PORT: what passed a port and what was dropped",
	T(w_show), T(w_port), T(w_stats), T(n_port_or_all));
COMMAND(c_port, do_action, &act_port, "show port all|PORT: configuration and state of ports", T(w_show), T(w_port),
	T(n_port_or_all));
COMMAND(c_queue, do_action, &act_queue, "show queue all|QUEUE: who polls a queue, its load and its demand", T(w_show),
	T(w_queue), T(n_queue_or_all));
COMMAND(c_core, do_action, &act_core, "show core all|CORE: state and load of the workers", T(w_show), T(w_core),
	T(n_core_or_all));
COMMAND(c_vmq, do_action, &act_vmq, "show vmq all|PORT: NIC queues that a port asked for, has, and why", T(w_show),
	T(w_vmq), T(n_port_or_all));
COMMAND(c_fdb, do_action, &act_fdb, "show fdb: the MAC addresses that the switch knows", T(w_show), T(w_fdb));
COMMAND(c_balance, do_action, &act_balance, "show balance: the balancer's settings and last decisions", T(w_show),
	T(w_balance));
COMMAND(c_memory, do_action, &act_memory, "show memory: packet buffers, ports, and all that dvmqd has", T(w_show), T(w_memory));
COMMAND(c_config, do_show_config, NULL, "show config: the running configuration", T(w_show), T(w_config));
COMMAND(c_queue_core, do_set_queue_core, NULL, "set queue QUEUE core CORE: move a queue to a worker", T(w_set),
	T(w_queue), T(n_queue), T(w_to_core), T(n_core));
COMMAND(c_queue_pin, do_set_queue_pin, NULL, "set queue QUEUE pin|unpin: keep a queue where it is, or not", T(w_set),
	T(w_queue), T(n_queue), T(w_pins));
COMMAND(c_set_balance, do_set_balance, NULL, "set balance auto|off: let the balancer move queues, or not", T(w_set),
	T(w_balance), T(w_modes));
COMMAND(c_set_core, do_set_core, NULL, "set core CORE park|activate|auto: keep a worker parked or active, or not",
	T(w_set), T(w_core), T(n_core), T(w_wishes));
COMMAND(c_set_policy, do_set_policy, NULL,
	"set core all|CORE policy latency|balanced|frugal: how soon a worker without packets sleeps", T(w_set),
	T(w_core), T(n_core_or_all), T(w_policy), T(w_policies));
COMMAND(c_port_vmq, do_set_port_vmq, NULL,
	"set port PORT vmq N|auto: give a port so many queues of its own, or as many as it needs", T(w_set), T(w_port),
	T(n_port), T(w_to_vmq), T(n_vmqs));
COMMAND(c_dry_run, do_action, &act_dry_run, "balance dry-run: what the balancer would do now", T(w_balance_0),
	T(w_dry_run));
COMMAND(c_port_add, do_port_add, NULL,
	"port add vhost|ethdev NAME key=value...: add a port, with the keys of the configuration file", T(w_port_0),
	T(w_add), T(w_types), T(n_new_port), T(n_keys));
COMMAND(c_port_del, do_action, &act_port_del, "port del PORT: remove a port", T(w_port_0), T(w_del), T(n_port));
COMMAND(c_port_reset, do_action, &act_port_reset, "port reset PORT: reset the device of an uplink or port", T(w_port_0),
	T(w_reset), T(n_port));
COMMAND(c_clear, do_action, &act_clear, "clear stats all: set all counters to zero", T(w_clear), T(w_clear_stats),
	T(w_clear_all));
COMMAND(c_flows, do_action, &act_flows, "flow list PORT: the steering rules of an uplink", T(w_flow), T(w_list),
	T(n_port));
COMMAND(c_save, do_save_config, NULL, "save config FILE: write the running configuration", T(w_save), T(w_config),
	T(n_file));
COMMAND(c_trace, do_save_trace, NULL,
	"save trace FILE: record what the balancer sees, for dvmq-sim, " RTE_STR(TRACE_SECONDS) " s long", T(w_save),
	T(w_trace), T(n_trace_file));
COMMAND(c_trace_seconds, do_save_trace, NULL, "save trace FILE SECONDS: the same for that long", T(w_save), T(w_trace),
	T(n_trace_file), T(n_seconds));
COMMAND(c_trace_off, do_action, &act_trace_off, "save trace off: end it now", T(w_save), T(w_trace), T(w_off));
COMMAND(c_help, do_help, NULL, "help: list the commands", T(w_help));
COMMAND(c_help_word, do_help, NULL, "help WORD: list the commands that have this word", T(w_help), T(n_word));
COMMAND(c_quit, do_quit, NULL, "quit: end dvmqd", T(w_quit));

cmdline_parse_ctx_t dvmq_commands[] = {
    &c_port_stats, &c_port, &c_queue, &c_core, &c_vmq, &c_fdb, &c_balance, &c_memory, &c_config, &c_queue_core,
    &c_queue_pin, &c_set_balance, &c_set_core, &c_set_policy, &c_port_vmq, &c_dry_run, &c_port_add, &c_port_del,
    &c_port_reset, &c_clear, &c_flows, &c_save, &c_trace, &c_trace_seconds, &c_trace_off, &c_help, &c_help_word,
    &c_quit, NULL,
};

/* Does the syntax (what stands before the colon) have a word that begins so? */
static bool syntax_has(const char *syntax, size_t len, const char *word)
{
	for (const char *c = syntax; c < syntax + len; c++) {
		if ((c == syntax || strchr(" |", c[-1])) && strncmp(c, word, strlen(word)) == 0)
			return true;
	}
	return false;
}

static void do_help(void *result, struct cmdline *cl, void *data)
{
	const struct line *line = result;
	json_t *list = json_array();
	struct dvmq_err err;

	RTE_SET_USED(cl);
	RTE_SET_USED(data);
	for (unsigned i = 0; dvmq_commands[i]; i++) {
		const char *syntax = dvmq_commands[i]->help_str;
		const char *colon = strstr(syntax, ": ");

		if (line->name[0] && !syntax_has(syntax, colon - syntax, line->name))
			continue;
		json_array_append_new(
		    list, json_pack("{s:s#, s:s}", "command", syntax, (int)(colon - syntax), "what", colon + 2));
	}
	if (json_array_size(list) == 0) {
		json_decref(list);
		dvmq_fail(&err, ENOENT, "no command has the word \"%s\", \"help\" lists them all", line->name);
		fail(err.text);
		return;
	}
	show(list, &err);
}
