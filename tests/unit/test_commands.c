/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The grammar and the control socket: which function of the controller a line
 * calls with which arguments, what people and programs read, and what a client
 * may do to the socket.  The controller is replaced by functions that write down how they
 * were called.
 */
#include <dvmq/command.h>
#include <dvmq/ctl.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"

#define TIMEOUT_MS 10000 /* only a failure takes that long */

/* -- the controller's place ------------------------------------------------------------------------------------- */

static char called[2048];
static unsigned n_calls;
static bool refuse;	    /* the next commands fail */
static unsigned n_big_rows; /* rows of "show fdb" */
static struct dvmq_conf running = {.socket = "/run/dvmq/dvmq.sock", .balance_auto = true};

static int note(struct dvmq_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int note(struct dvmq_err *err, const char *format, ...)
{
	va_list args;

	n_calls++;
	va_start(args, format);
	vsnprintf(called, sizeof(called), format, args);
	va_end(args);
	return refuse ? dvmq_fail(err, ENOENT, "refused for the test") : 0;
}

static json_t *noted(const char *what, const char *name, struct dvmq_err *err)
{
	if (note(err, "%s %s", what, name) != 0)
		return NULL;
	return json_pack("[{s:s, s:i, s:f, s:b, s:n}, {s:s, s:i, s:f, s:b, s:I}]", "queue", "up0/rx0", "packets", 7,
			 "load", 0.125, "pinned", 0, "note", "queue", "web1/tx0", "packets", 123456, "load", 1.0,
			 "pinned", 1, "note", (json_int_t)5);
}

json_t *dvmq_show_ports(const char *name, struct dvmq_err *err)
{
	return noted("show_ports", name, err);
}

json_t *dvmq_show_port_stats(const char *name, struct dvmq_err *err)
{
	if (note(err, "show_port_stats %s", name) != 0)
		return NULL;
	return json_pack("[{s:s, s:I, s:i, s:i}, {s:s, s:I, s:i, s:i}]", "port", "up0", "rx_bytes", (json_int_t)1536,
			 "drop_ring_full", 0, "drop_no_buffer", 3, "port", "web1", "rx_bytes", (json_int_t)7,
			 "drop_ring_full", 0, "drop_no_buffer", 0);
}

json_t *dvmq_show_queues(const char *name, struct dvmq_err *err)
{
	return noted("show_queues", name, err);
}

json_t *dvmq_show_cores(const char *name, struct dvmq_err *err)
{
	return noted("show_cores", name, err);
}

json_t *dvmq_show_vmq(const char *name, struct dvmq_err *err)
{
	return noted("show_vmq", name, err);
}

json_t *dvmq_show_fdb(struct dvmq_err *err)
{
	json_t *list;

	if (note(err, "show_fdb") != 0)
		return NULL;
	list = json_array();
	for (unsigned i = 0; i < n_big_rows; i++)
		json_array_append_new(list, json_pack("{s:i, s:s}", "row", i, "port", "a port with a long name"));
	return list;
}

json_t *dvmq_show_balance(struct dvmq_err *err)
{
	if (note(err, "show_balance") != 0)
		return NULL;
	return json_pack("{s:s, s:{s:f, s:f}, s:[], s:[{s:s, s:i, s:s}], s:[i, i]}", "mode", "auto", "params", "high",
			 0.9, "slow_ms", 50.0, "nothing", "decisions", "queue", "up0/rx3", "to", 4, "reason",
			 "core 2 is full", "cores", 2, 4);
}

json_t *dvmq_show_memory(struct dvmq_err *err)
{
	return note(err, "show_memory") != 0 ? NULL : json_object();
}

json_t *dvmq_balance_dry_run(struct dvmq_err *err)
{
	return note(err, "balance_dry_run") != 0 ? NULL : json_object();
}

json_t *dvmq_flow_list(const char *uplink, struct dvmq_err *err)
{
	return note(err, "flow_list %s", uplink) != 0 ? NULL : json_array();
}

const struct dvmq_conf *dvmq_running_conf(void)
{
	return &running;
}

int dvmq_set_queue_core(const char *queue, unsigned core, struct dvmq_err *err)
{
	return note(err, "set_queue_core %s %u", queue, core);
}

int dvmq_set_policy(const char *core, enum dvmq_policy policy, struct dvmq_err *err)
{
	return note(err, "set_policy %s %s", core, dvmq_policy_name(policy));
}

int dvmq_set_queue_pin(const char *queue, bool pinned, struct dvmq_err *err)
{
	return note(err, "set_queue_pin %s %d", queue, pinned);
}

int dvmq_set_balance(bool automatic, struct dvmq_err *err)
{
	return note(err, "set_balance %d", automatic);
}

int dvmq_trace_start(const char *file, unsigned seconds, struct dvmq_err *err)
{
	return note(err, "trace_start %s %u", file, seconds);
}

int dvmq_trace_stop(struct dvmq_err *err)
{
	return note(err, "trace_stop");
}

int dvmq_set_port_vmq(const char *port, int n, struct dvmq_err *err)
{
	return note(err, "set_port_vmq %s %d", port, n);
}

int dvmq_set_core(unsigned core, enum dvmq_core_wish wish, struct dvmq_err *err)
{
	return note(err, "set_core %u %d", core, wish);
}

int dvmq_port_add(const struct dvmq_port_conf *conf, struct dvmq_err *err)
{
	return note(err, "port_add %s %s socket=%s device=%s vlan=%u queues=%u server=%d weight=%u",
		    dvmq_port_type_name(conf->type), conf->name, conf->socket, conf->device, conf->vlan, conf->queues,
		    conf->server, conf->weight);
}

int dvmq_port_reset(const char *name, struct dvmq_err *err)
{
	return note(err, "port_reset %s", name);
}

int dvmq_port_del(const char *name, struct dvmq_err *err)
{
	return note(err, "port_del %s", name);
}

int dvmq_clear_stats(struct dvmq_err *err)
{
	return note(err, "clear_stats");
}

void dvmq_quit(void)
{
	struct dvmq_err err;

	note(&err, "quit");
}

static bool name_at(const char *const names[], unsigned n, unsigned index, char *buf, size_t size)
{
	if (index >= n)
		return false;
	snprintf(buf, size, "%s", names[index]);
	return true;
}

bool dvmq_queue_name_at(unsigned index, char *buf, size_t size)
{
	static const char *const names[] = {"up0/rx0", "up0/rx1", "web1/tx0"};

	return name_at(names, 3, index, buf, size);
}

bool dvmq_port_name_at(unsigned index, char *buf, size_t size)
{
	static const char *const names[] = {"up0", "web1", "web2"};

	return name_at(names, 3, index, buf, size);
}

bool dvmq_core_name_at(unsigned index, char *buf, size_t size)
{
	static const char *const names[] = {"2", "4"};

	return name_at(names, 2, index, buf, size);
}

/* -- a client ---------------------------------------------------------------------------------------------------- */

static char dir[64];
static char path[96];

static int connect_to(const char *socket_path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
	CU_ASSERT_TRUE_FATAL(fd >= 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* One turn of the daemon's loop; false if it had nothing to do. */
static bool serve_once(int timeout_ms)
{
	struct pollfd poll_fd = {.fd = dvmq_ctl_fd(), .events = POLLIN};

	if (poll(&poll_fd, 1, timeout_ms) <= 0)
		return false;
	dvmq_ctl_serve();
	return true;
}

static void serve_all(void)
{
	while (serve_once(0))
		;
}

static void send_text(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN) {
			CU_ASSERT_TRUE_FATAL(serve_once(TIMEOUT_MS));
			continue;
		}
		if (n < 0)
			return; /* cut off: what arrives tells */
		text += n;
		len -= n;
	}
}

/* Reads exactly len bytes while the daemon serves; fewer at the end of the connection. */
static size_t receive(int fd, char *buf, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = recv(fd, buf + got, len - got, 0);

		if (n < 0 && errno == EAGAIN) {
			if (!serve_once(TIMEOUT_MS))
				break;
			continue;
		}
		if (n <= 0)
			break;
		got += n;
	}
	return got;
}

/* The next answer: "ok" or "error", a newline, and the text.  Valid until the next call; "" at the end. */
static const char *answer(int fd)
{
	static char *text;
	char head[32] = "", word[16];
	size_t len = 0;
	size_t n;

	while (len < sizeof(head) - 1 && receive(fd, head + len, 1) == 1 && head[len] != '\n')
		len++;
	if (sscanf(head, "%15s %zu", word, &n) != 2)
		return "";
	free(text);
	text = calloc(1, strlen(word) + n + 2);
	CU_ASSERT_PTR_NOT_NULL_FATAL(text);
	len = sprintf(text, "%s\n", word);
	CU_ASSERT_EQUAL(receive(fd, text + len, n), n);
	return text;
}

static const char *ask(const char *request)
{
	static char copy[65536];
	int fd = connect_to(path);

	CU_ASSERT_TRUE_FATAL(fd >= 0);
	called[0] = '\0';
	send_text(fd, request, strlen(request));
	snprintf(copy, sizeof(copy), "%s", answer(fd));
	close(fd);
	serve_all();
	return copy;
}

static void expect(const char *command, const char *text)
{
	char request[DVMQ_DEVICE_LEN + 4096];
	const char *got;

	snprintf(request, sizeof(request), "run %s\n", command);
	got = ask(request);
	CU_ASSERT_STRING_EQUAL(got, text);
	if (strcmp(got, text))
		fprintf(stderr, "\n%s\nexpected: %s\ngot:      %s\n", command, text, got);
}

static void expect_call(const char *command, const char *call)
{
	expect(command, "ok\n");
	CU_ASSERT_STRING_EQUAL(called, call);
	if (strcmp(called, call))
		fprintf(stderr, "\n%s\nexpected: %s\ngot:      %s\n", command, call, called);
}

static void expect_shown(const char *command, const char *call)
{
	char request[256];

	snprintf(request, sizeof(request), "run %s\n", command);
	CU_ASSERT_EQUAL(strncmp(ask(request), "ok\n", 3), 0);
	CU_ASSERT_STRING_EQUAL(called, call);
	if (strcmp(called, call))
		fprintf(stderr, "\n%s\nexpected: %s\ngot:      %s\n", command, call, called);
}

/* -- the tests --------------------------------------------------------------------------------------------------- */

static void test_show_calls(void)
{
	expect_shown("show port stats all", "show_port_stats all");
	expect_shown("show port stats web1", "show_port_stats web1");
	expect_shown("show port all", "show_ports all");
	expect_shown("show port web1", "show_ports web1");
	expect_shown("show queue all", "show_queues all");
	expect_shown("show queue up0/rx3", "show_queues up0/rx3");
	expect_shown("show core all", "show_cores all");
	expect_shown("show core 4", "show_cores 4");
	expect_shown("show vmq all", "show_vmq all");
	expect_shown("show vmq web1", "show_vmq web1");
	expect_shown("show fdb", "show_fdb");
	expect_shown("show balance", "show_balance");
	expect_shown("show memory", "show_memory");
	expect_shown("balance dry-run", "balance_dry_run");
	expect_shown("flow list up0", "flow_list up0");
	expect_shown("  show \t fdb  # with a comment", "show_fdb");
}

static void test_set_calls(void)
{
	expect_call("set queue up0/rx3 core 4", "set_queue_core up0/rx3 4");
	expect_call("set queue up0/rx3 pin", "set_queue_pin up0/rx3 1");
	expect_call("set queue up0/rx3 unpin", "set_queue_pin up0/rx3 0");
	expect_call("set balance auto", "set_balance 1");
	expect_call("set balance off", "set_balance 0");
	expect_call("set core 4 park", "set_core 4 1");
	expect_call("set core 4 activate", "set_core 4 2");
	expect_call("set core 4 auto", "set_core 4 0");
	expect_call("set core 4 policy latency", "set_policy 4 latency");
	expect_call("set core all policy frugal", "set_policy all frugal");
	expect_call("set core all policy balanced", "set_policy all balanced");
	expect_call("set port web1 vmq 2", "set_port_vmq web1 2");
	expect_call("set port web1 vmq 0", "set_port_vmq web1 0");
	expect_call("set port web1 vmq auto", "set_port_vmq web1 -1");
	expect_call("port del web1", "port_del web1");
	expect_call("port reset up0", "port_reset up0");
	expect_call("clear stats all", "clear_stats");
	expect("save trace /none/t", "ok\nrecording 60 s to /none/t\n");
	CU_ASSERT_STRING_EQUAL(called, "trace_start /none/t 60");
	expect("save trace /none/t 5", "ok\nrecording 5 s to /none/t\n");
	CU_ASSERT_STRING_EQUAL(called, "trace_start /none/t 5");
	expect_call("save trace off", "trace_stop");
	expect_call("quit", "quit");
	expect_call("port add vhost web1 socket=/run/a mode=server  vlan=7 queues=2 weight=5",
		    "port_add vhost web1 socket=/run/a device= vlan=7 queues=2 server=1 weight=5");
	expect_call("port add ethdev t1 device=net_tap0,iface=x # a tap",
		    "port_add ethdev t1 socket= device=net_tap0,iface=x vlan=0 queues=1 server=0 weight=100");
}

static void test_no_call(void)
{
	n_calls = 0;
	expect("", "ok\n");
	expect("   ", "ok\n");
	expect("# show fdb", "ok\n");
	expect("set core x park", "error\ncore: \"x\" is not a whole number\n");
	expect("set core 1024 park", "error\ncore: 1024 is outside 0..1023\n");
	expect("set core all park", "error\ncore: \"all\" is not a whole number\n");
	expect("set core 2 policy lazy",
	       "error\n\"lazy\" cannot stand after \"set core 2 policy\", possible: latency, balanced, frugal\n");
	expect("set port web1 vmq 17", "error\nvmq: 17 is outside 0..16\n");
	expect("set port web1 vmq -1", "error\nvmq: \"-1\" is not a whole number\n");
	expect("port add vhost web1 socket=/run/a queues=2 min=3", "error\nmin: 3 is more than queues = 2\n");
	expect("set queue up0/rx3 core -1", "error\ncore: \"-1\" is not a whole number\n");
	expect("port add vhost all socket=/run/a", "error\n\"all\" is a word of the commands and cannot be a name\n");
	expect("port add vhost web1 vlan=9", "error\nsocket: is missing, a vhost port needs the path of its socket\n");
	expect("port add vhost web1 socket=/run/a vlan=5000", "error\nvlan: 5000 is outside 1..4094\n");
	expect("port add vhost web1 socket=/run/a vlan", "error\n\"vlan\" is not key=value\n");
	expect("port add vhost web1 socket=/run/a devise=x",
	       "error\ndevise: unknown key, known are: socket, mode, mac, vlan, queues, vmq, weight, min, max\n");
	expect("port add vhost web1 socket=/run/dvmq/dvmq.sock",
	       "error\nsocket: /run/dvmq/dvmq.sock is the control socket\n");
	expect("port add vhost web1 socket=/run/a vmq=1",
	       "error\nvmq: a NIC queue does not exist for this port, no uplink has steering = static\n");
	CU_ASSERT_EQUAL(n_calls, 0);
}

static void test_refused(void)
{
	static const char *const lines[] = {
    "show port stats all", "show port all", "show queue all", "show core all", "show vmq all", "show fdb",
    "show balance", "show memory", "balance dry-run", "flow list up0", "set queue q core 1", "set queue q pin",
    "set balance off", "set core 2 park", "port del web1", "clear stats all", "port add vhost a socket=/run/a",
    "save trace a", "save trace off", "set core 2 policy frugal", "set port web1 vmq 1",
	};

	refuse = true;
	for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		expect(lines[i], "error\nrefused for the test\n");
	refuse = false;
}

static void test_not_understood(void)
{
	n_calls = 0;
	expect("foo bar", "error\nunknown command \"foo\", \"help\" lists the commands\n");
	expect("shwo fdb", "error\nunknown command \"shwo\", did you mean \"show\"? \"help\" lists the commands\n");
	expect("show",
	       "error\n\"show\" is not complete, next comes one of: port, queue, core, vmq, fdb, balance, memory, "
	       "config\n");
	expect("show port", "error\n\"show port\" is not complete, next comes one of: stats, all, up0, web1, web2\n");
	expect("show port stats",
	       "error\n\"show port stats\" is not complete, next comes one of: all, up0, web1, web2\n");
	expect("set queue q", "error\n\"set queue q\" is not complete, next comes one of: core, pin, unpin\n");
	expect("set queue q move 3",
	       "error\n\"move\" cannot stand after \"set queue q\", possible: core, pin, unpin\n");
	expect("show fdb all", "error\n\"all\" is too much after \"show fdb\"\n");
	expect("save trace", "error\n\"save trace\" is not complete, next comes one of: FILE, off\n");
	expect("save trace off 5", "error\n\"5\" is too much after \"save trace off\"\n");
	expect("save trace t 0", "error\nSECONDS: 0 is outside 1..86400\n");
	expect("save trace t 86401", "error\nSECONDS: 86401 is outside 1..86400\n");
	expect("save trace t 1.5", "error\nSECONDS: \"1.5\" is not a whole number\n");
	expect("show fdb all # comment", "error\n\"all\" is too much after \"show fdb\"\n");
	expect("port add vhost web1", "error\n\"port add vhost web1\" is not complete, next comes one of: "
				      "key=value...\n");
	expect("show balanc", "error\n\"balanc\" cannot stand after \"show\", possible: port, queue, core, vmq, fdb, "
			      "balance, memory, config\n");
	CU_ASSERT_EQUAL(n_calls, 0);
}

static void test_table(void)
{
	expect("show queue all", "ok\n"
				 "queue     packets     load  pinned  note\n"
				 "up0/rx0         7   12.5 %  no         -\n"
				 "web1/tx0   123456  100.0 %  yes        5\n");
	expect("show port stats all", "ok\n"
				      "port  rx_bytes  drop_no_buffer\n"
				      "up0   1.50 KiB               3\n"
				      "web1       7 B               0\n"
				      "(reasons to drop that are 0 everywhere are left out)\n");
	expect("show balance", "ok\n"
			       "mode     auto\n"
			       "nothing  -\n"
			       "cores    2,4\n"
			       "params:\n"
			       "  high     0.900\n"
			       "  slow_ms  50.0\n"
			       "decisions:\n"
			       "  queue    to  reason\n"
			       "  up0/rx3   4  core 2 is full\n");
	expect("flow list up0", "ok\n(none)\n");
}

static json_t *ask_json(const char *command)
{
	char request[256];
	const char *text;
	json_t *value;

	snprintf(request, sizeof(request), "run json %s\n", command);
	text = ask(request);
	CU_ASSERT_EQUAL(strncmp(text, "ok\n", 3), 0);
	value = json_loads(text + 3, 0, NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(value);
	return value;
}

static void test_json(void)
{
	struct dvmq_err err;
	json_t *expected = dvmq_show_balance(&err);
	json_t *value = ask_json("show balance");

	CU_ASSERT_TRUE(json_equal(value, expected));
	json_decref(value);
	json_decref(expected);
	expected = dvmq_show_port_stats("all", &err);
	value = ask_json("show port stats all");
	CU_ASSERT_TRUE(json_equal(value, expected));
	json_decref(value);
	json_decref(expected);
}

static void test_config(void)
{
	static const struct rte_ether_addr mac = {{0x52, 0x54, 0, 0, 0, 1}};
	struct dvmq_port_conf port = {.name = "web1",
				      .type = DVMQ_PORT_VHOST,
				      .socket = "/run/a",
				      .has_mac = true,
				      .mac = mac,
				      .vlan = 9,
				      .queues = 2,
				      .weight = 100};
	char file[128], request[256], expected[256];
	struct dvmq_conf *conf = NULL;
	struct dvmq_err err;
	json_t *value;

	dvmq_balance_defaults(&running.balance);
	running.ports = &port;
	running.n_ports = 1;
	CU_ASSERT_PTR_NOT_NULL(strstr(ask("run show config\n"), "[port web1]\ntype = vhost\nsocket = /run/a\n"));
	value = ask_json("show config");
	CU_ASSERT_STRING_EQUAL(
	    json_string_value(json_object_get(json_array_get(json_object_get(value, "ports"), 0), "mac")),
	    "52:54:00:00:00:01");
	CU_ASSERT_EQUAL(json_real_value(json_object_get(json_object_get(value, "balance"), "high")),
			running.balance.high);
	json_decref(value);

	snprintf(file, sizeof(file), "%s/saved.conf", dir);
	snprintf(request, sizeof(request), "save config %s", file);
	snprintf(expected, sizeof(expected), "ok\nsaved as %s\n", file);
	expect(request, expected);
	CU_ASSERT_EQUAL_FATAL(dvmq_conf_read(file, &conf, &err), 0);
	CU_ASSERT_EQUAL(conf->n_ports, 1);
	CU_ASSERT_STRING_EQUAL(conf->ports[0].name, "web1");
	dvmq_conf_free(conf);
	unlink(file);
	expect("save config /nonexistent/a", "error\n/nonexistent/a.tmp: No such file or directory\n");
	running.ports = NULL;
	running.n_ports = 0;
}

static void test_help(void)
{
	const char *text = ask("run help\n");

	CU_ASSERT_PTR_NOT_NULL(strstr(text, "show port stats all|PORT"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "quit"));
	text = ask("run help vmq\n");
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "show vmq"));
	CU_ASSERT_PTR_NULL(strstr(text, "fdb"));
	expect("help xyz", "error\nno command has the word \"xyz\", \"help\" lists them all\n");
}

static void test_complete(void)
{
	CU_ASSERT_STRING_EQUAL(ask("complete \n"), "ok\nshow\nset\nbalance\nport\nclear\nflow\nsave\nhelp\nquit\n");
	CU_ASSERT_STRING_EQUAL(ask("complete s\n"), "ok\nshow\nset\nsave\n");
	CU_ASSERT_STRING_EQUAL(ask("complete show\n"), "ok\nshow\n");
	CU_ASSERT_STRING_EQUAL(ask("complete show port \n"), "ok\nstats\nall\nup0\nweb1\nweb2\n");
	CU_ASSERT_STRING_EQUAL(ask("complete show port w\n"), "ok\nweb1\nweb2\n");
	CU_ASSERT_STRING_EQUAL(ask("complete set queue \n"), "ok\nup0/rx0\nup0/rx1\nweb1/tx0\n");
	CU_ASSERT_STRING_EQUAL(ask("complete set queue up0/rx0 core \n"), "ok\n2\n4\n");
	CU_ASSERT_STRING_EQUAL(ask("complete set core 2 \n"), "ok\npark\nactivate\nauto\npolicy\n");
	CU_ASSERT_STRING_EQUAL(ask("complete set core all policy \n"), "ok\nlatency\nbalanced\nfrugal\n");
	CU_ASSERT_STRING_EQUAL(ask("complete set core \n"), "ok\n2\n4\nall\n");
	CU_ASSERT_STRING_EQUAL(ask("complete set port \n"), "ok\nup0\nweb1\nweb2\n");
	CU_ASSERT_STRING_EQUAL(ask("complete set port web1 vmq \n"),
			       "ok\nauto\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16\n");
	CU_ASSERT_STRING_EQUAL(ask("complete save config \n"), "ok\n<FILE>\n");
	CU_ASSERT_STRING_EQUAL(ask("complete save trace \n"), "ok\n<FILE>\noff\n");
	CU_ASSERT_STRING_EQUAL(ask("complete save trace a \n"), "ok\n<SECONDS>\n");
	CU_ASSERT_STRING_EQUAL(ask("complete nonsense \n"), "ok\n");
	CU_ASSERT_STRING_EQUAL(ask("complete show fdb \n"), "ok\n");
}

static void test_partial_line(void)
{
	static const char request[] = "run set balance off\n";
	int fd = connect_to(path);

	called[0] = '\0';
	for (unsigned i = 0; i < sizeof(request) - 2; i++) {
		send_text(fd, &request[i], 1);
		serve_all();
	}
	CU_ASSERT_STRING_EQUAL(called, "");
	send_text(fd, "\n", 1);
	CU_ASSERT_STRING_EQUAL(answer(fd), "ok\n");
	CU_ASSERT_STRING_EQUAL(called, "set_balance 0");
	close(fd);
	serve_all();
}

static void test_many_requests(void)
{
	char requests[200 * 32] = "";
	int fd = connect_to(path);
	size_t len = 0;

	for (unsigned i = 0; i < 200; i++)
		len += sprintf(requests + len, "run set core %u park\n", i);
	n_calls = 0;
	send_text(fd, requests, len);
	for (unsigned i = 0; i < 200; i++)
		CU_ASSERT_STRING_EQUAL(answer(fd), "ok\n");
	CU_ASSERT_EQUAL(n_calls, 200);
	CU_ASSERT_STRING_EQUAL(called, "set_core 199 1");
	close(fd);
	serve_all();
}

/* A client that reads late gets everything, in order, and others are served meanwhile. */
static void test_slow_client(void)
{
	static const char requests[] = "run json show fdb\nrun set balance off\n";
	int fd = connect_to(path);
	const char *text;
	json_t *value;

	n_big_rows = 20000;
	send_text(fd, requests, sizeof(requests) - 1);
	serve_all();
	expect("set balance auto", "ok\n");
	CU_ASSERT_STRING_EQUAL(called, "set_balance 1");
	text = answer(fd);
	CU_ASSERT_EQUAL_FATAL(strncmp(text, "ok\n", 3), 0);
	value = json_loads(text + 3, 0, NULL);
	CU_ASSERT_EQUAL(json_array_size(value), n_big_rows);
	json_decref(value);
	CU_ASSERT_STRING_EQUAL(answer(fd), "ok\n");
	CU_ASSERT_STRING_EQUAL(called, "set_balance 0");
	close(fd);
	serve_all();
}

/* More than the bound: cut off, and nobody else is harmed. */
static void test_too_slow_client(void)
{
	static char buf[1 << 20];
	int fd = connect_to(path);
	size_t got = 0, n;

	n_big_rows = 300000;
	send_text(fd, "run json show fdb\n", 18);
	serve_all();
	while ((n = receive(fd, buf, sizeof(buf))) > 0)
		got += n;
	CU_ASSERT_TRUE(got < 16u << 20);
	n_big_rows = 1;
	close(fd);
	expect("set balance auto", "ok\n");
}

static void test_client_leaves(void)
{
	int fd = connect_to(path);

	n_big_rows = 20000;
	send_text(fd, "run json show fdb\nrun show fdb\n", 31);
	serve_all();
	close(fd); /* with an answer on its way: no SIGPIPE */
	serve_all();
	expect("set balance auto", "ok\n");
	n_big_rows = 1;
}

static void test_broken_protocol(void)
{
	char big[5000];
	int fd;

	n_calls = 0;
	CU_ASSERT_STRING_EQUAL(ask("hello\n"),
			       "error\na request begins with \"run \", \"run json \" or \"complete \"\n");
	memset(big, 'x', sizeof(big));
	fd = connect_to(path);
	send_text(fd, big, sizeof(big));
	CU_ASSERT_STRING_EQUAL(answer(fd), "error\na request has at most 4096 bytes\n");
	CU_ASSERT_EQUAL(receive(fd, big, 1), 0);
	close(fd);
	fd = connect_to(path);
	send_text(fd, "run quit\0x\n", 11);
	CU_ASSERT_STRING_EQUAL(answer(fd), "error\na request has no zero bytes\n");
	CU_ASSERT_EQUAL(receive(fd, big, 1), 0);
	close(fd);
	serve_all();
	CU_ASSERT_EQUAL(n_calls, 0);
	expect("set balance auto", "ok\n");
}

/* The longest request that fits is served. */
static void test_longest_request(void)
{
	char line[4097];

	memset(line, ' ', sizeof(line));
	memcpy(line, "run quit", 8);
	strcpy(line + 4095, "\n");
	CU_ASSERT_STRING_EQUAL(ask(line), "ok\n");
	CU_ASSERT_STRING_EQUAL(called, "quit");
}

static void test_too_many_clients(void)
{
	int fds[65];

	for (unsigned i = 0; i < 65; i++) {
		fds[i] = connect_to(path);
		CU_ASSERT_TRUE_FATAL(fds[i] >= 0);
		serve_all();
	}
	CU_ASSERT_STRING_EQUAL(answer(fds[64]), "error\ndvmqd serves as many clients as it can, try later\n");
	send_text(fds[63], "run set balance off\n", 20);
	CU_ASSERT_STRING_EQUAL(answer(fds[63]), "ok\n");
	for (unsigned i = 0; i < 65; i++)
		close(fds[i]);
	serve_all();
	expect("set balance auto", "ok\n");
}

static void test_socket_file(void)
{
	struct stat st;
	char lock[128], text[32] = "", expected[32];
	int fd;

	CU_ASSERT_EQUAL_FATAL(stat(path, &st), 0);
	CU_ASSERT_TRUE(S_ISSOCK(st.st_mode));
	CU_ASSERT_EQUAL(st.st_mode & 0777, 0660);
	snprintf(lock, sizeof(lock), "%s.lock", path);
	fd = open(lock, O_RDONLY);
	CU_ASSERT_TRUE_FATAL(fd >= 0);
	CU_ASSERT_TRUE(read(fd, text, sizeof(text) - 1) > 0);
	snprintf(expected, sizeof(expected), "%d\n", getpid());
	CU_ASSERT_STRING_EQUAL(text, expected);
	close(fd);
}

/* A second daemon on the same path: this program again, see main(). */
static int be_second(const char *socket_path, const char *expected)
{
	struct dvmq_err err = {""};
	int ret = dvmq_ctl_open(socket_path, &err);

	return ret == -EADDRINUSE && strcmp(err.text, expected) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void test_second_daemon(void)
{
	char expected[512];
	pid_t child;
	int status;

	snprintf(expected, sizeof(expected),
		 "%s: dvmqd runs there already as process %d; stop it, or give this one another path (--socket)", path,
		 getpid());
	child = fork();
	if (child == 0) {
		execl("/proc/self/exe", "second", path, expected, NULL);
		_exit(EXIT_FAILURE);
	}
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
	expect("set balance auto", "ok\n");
}

static void test_paths(void)
{
	char other[96], lock[128], expected[512], long_path[200];
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct dvmq_err err;
	int fd;

	dvmq_ctl_close();
	CU_ASSERT_EQUAL(access(path, F_OK), -1);

	/* A regular file stays as it is. */
	snprintf(other, sizeof(other), "%s/file", dir);
	snprintf(lock, sizeof(lock), "%s.lock", other);
	fd = open(other, O_CREAT | O_WRONLY, 0600);
	close(fd);
	snprintf(expected, sizeof(expected), "%s: exists and is not a socket; remove it or give another path", other);
	CU_ASSERT_EQUAL(dvmq_ctl_open(other, &err), -EEXIST);
	CU_ASSERT_STRING_EQUAL(err.text, expected);
	CU_ASSERT_EQUAL(access(other, F_OK), 0);
	CU_ASSERT_EQUAL(access(lock, F_OK), -1);
	unlink(other);

	/* So does the socket of another program that is alive; that of a dead one is replaced. */
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", other);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(fd, 1), 0);
	snprintf(expected, sizeof(expected), "%s: another program serves this socket; give another path", other);
	CU_ASSERT_EQUAL(dvmq_ctl_open(other, &err), -EADDRINUSE);
	CU_ASSERT_STRING_EQUAL(err.text, expected);
	close(fd);
	CU_ASSERT_EQUAL(access(other, F_OK), 0);
	CU_ASSERT_EQUAL(dvmq_ctl_open(other, &err), 0);
	fd = connect_to(other);
	CU_ASSERT_TRUE(fd >= 0);
	close(fd);
	dvmq_ctl_close();
	CU_ASSERT_EQUAL(access(other, F_OK), -1);
	CU_ASSERT_EQUAL(access(lock, F_OK), -1);

	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	CU_ASSERT_EQUAL(dvmq_ctl_open(long_path, &err), -EINVAL);
	CU_ASSERT_EQUAL(dvmq_ctl_open("/nonexistent/a/b", &err), -ENOENT);
	dvmq_ctl_close(); /* is fine without open */

	/* A missing directory is made. */
	snprintf(other, sizeof(other), "%s/new/ctl.sock", dir);
	CU_ASSERT_EQUAL(dvmq_ctl_open(other, &err), 0);
	dvmq_ctl_close();
	snprintf(other, sizeof(other), "%s/new", dir);
	CU_ASSERT_EQUAL(rmdir(other), 0);
	CU_ASSERT_EQUAL_FATAL(dvmq_ctl_open(path, &err), 0);
}

/* Commands from a pipe or file on stdin; what they print goes to stdout. */
static void serve_prompt(const char *commands, bool as_file, char *output, size_t size)
{
	char name[128];
	int in[2], saved_in = dup(STDIN_FILENO), saved_out = dup(STDOUT_FILENO);
	FILE *out = tmpfile();
	struct dvmq_err err;
	ssize_t len;

	fflush(stdout);
	if (as_file) {
		snprintf(name, sizeof(name), "%s/script", dir);
		in[1] = open(name, O_CREAT | O_WRONLY, 0600);
		in[0] = open(name, O_RDONLY);
		unlink(name);
	} else {
		CU_ASSERT_EQUAL_FATAL(pipe(in), 0);
	}
	CU_ASSERT_EQUAL(write(in[1], commands, strlen(commands)), (ssize_t)strlen(commands));
	close(in[1]);
	dup2(in[0], STDIN_FILENO);
	dup2(fileno(out), STDOUT_FILENO);
	CU_ASSERT_EQUAL(dvmq_ctl_prompt(&err), 0);
	serve_all();
	dup2(saved_in, STDIN_FILENO);
	dup2(saved_out, STDOUT_FILENO);
	close(saved_in);
	close(saved_out);
	close(in[0]);
	len = pread(fileno(out), output, size - 1, 0);
	output[len > 0 ? len : 0] = '\0';
	fclose(out);
}

static void test_prompt_on_pipe(void)
{
	char output[4096], line[4200];

	for (int as_file = 0; as_file < 2; as_file++) {
		n_calls = 0;
		serve_prompt("set balance off\nflow list up0\n\nquit\nset balance auto\n", as_file, output,
			     sizeof(output));
		CU_ASSERT_STRING_EQUAL(output, "(none)\n");
		CU_ASSERT_STRING_EQUAL(called, "quit");
		CU_ASSERT_EQUAL(n_calls, 3);
	}
	n_calls = 0;
	serve_prompt("set balance off\nflow list up0", false, output, sizeof(output));
	CU_ASSERT_STRING_EQUAL(output, "(none)\n");
	CU_ASSERT_STRING_EQUAL(called, "quit");
	CU_ASSERT_EQUAL(n_calls, 3);
	/* A line that is too long is not carried out, not even its beginning. */
	snprintf(line, sizeof(line), "set balance off%4090s", "\n");
	n_calls = 0;
	serve_prompt(line, false, output, sizeof(output));
	CU_ASSERT_STRING_EQUAL(called, "quit");
	CU_ASSERT_EQUAL(n_calls, 1);
	CU_ASSERT_STRING_EQUAL(output, ""); /* an error goes to stderr */
	expect("set balance auto", "ok\n"); /* the socket goes on */
}

/* -- dvmqctl ----------------------------------------------------------------------------------------------------- */

static const char *dvmqctl;

struct result {
	int status;
	char out[4096], err[4096];
};

static void read_back(int fd, char *buf, size_t size)
{
	ssize_t len = pread(fd, buf, size - 1, 0);

	buf[len > 0 ? len : 0] = '\0';
	close(fd);
}

static int temporary(const char *text)
{
	char name[96];
	int fd;

	snprintf(name, sizeof(name), "%s/stdio-XXXXXX", dir);
	fd = mkstemp(name);
	CU_ASSERT_TRUE_FATAL(fd >= 0);
	unlink(name);
	CU_ASSERT_EQUAL(pwrite(fd, text, strlen(text), 0), (ssize_t)strlen(text));
	return fd;
}

/* Runs dvmqctl with arguments up to NULL while the socket is served. */
static struct result run_client(const char *input, const char *arg, ...)
{
	char *argv[16] = {(char *)dvmqctl, (char *)arg};
	struct result result = {.status = -1};
	int in = temporary(input), out = temporary(""), error = temporary("");
	int end[2], status;
	pid_t child;
	va_list args;

	va_start(args, arg);
	for (unsigned i = 2; i < 15 && argv[i - 1]; i++)
		argv[i] = va_arg(args, char *);
	va_end(args);
	CU_ASSERT_EQUAL_FATAL(pipe2(end, O_CLOEXEC), 0);
	child = fork();
	if (child == 0) {
		dup2(in, STDIN_FILENO);
		dup2(out, STDOUT_FILENO);
		dup2(error, STDERR_FILENO);
		setenv("DVMQ_SOCKET", path, 1);
		fcntl(end[1], F_SETFD, 0); /* closes when dvmqctl ends */
		execv(dvmqctl, argv);
		_exit(127);
	}
	close(end[1]);
	for (;;) {
		struct pollfd fds[] = {{.fd = end[0], .events = POLLIN}, {.fd = dvmq_ctl_fd(), .events = POLLIN}};

		if (poll(fds, 2, TIMEOUT_MS) <= 0 || fds[0].revents)
			break;
		dvmq_ctl_serve();
	}
	close(end[0]);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	if (WIFEXITED(status))
		result.status = WEXITSTATUS(status);
	close(in);
	read_back(out, result.out, sizeof(result.out));
	read_back(error, result.err, sizeof(result.err));
	serve_all();
	return result;
}

static void expect_client(const struct result *result, int status, const char *out, const char *err)
{
	CU_ASSERT_EQUAL(result->status, status);
	CU_ASSERT_STRING_EQUAL(result->out, out);
	CU_ASSERT_STRING_EQUAL(result->err, err);
	if (result->status != status || strcmp(result->out, out) || strcmp(result->err, err))
		fprintf(stderr, "\nexpected: %d\n%s%sgot:      %d\n%s%s", status, out, err, result->status, result->out,
			result->err);
}

static void test_client_commands(void)
{
	struct result result = run_client("", "set", "balance", "off", NULL);

	expect_client(&result, 0, "", "");
	CU_ASSERT_STRING_EQUAL(called, "set_balance 0");
	result = run_client("", "-s", path, "flow list up0", NULL);
	expect_client(&result, 0, "(none)\n", "");
	result = run_client("", "-j", "flow", "list", "up0", NULL);
	expect_client(&result, 0, "[]\n", "");
	result = run_client("", "foo", NULL);
	expect_client(&result, 1, "", "dvmqctl: unknown command \"foo\", \"help\" lists the commands\n");
	refuse = true;
	result = run_client("", "show", "fdb", NULL);
	expect_client(&result, 1, "", "dvmqctl: refused for the test\n");
	refuse = false;
	result = run_client("", "set balance\nauto", NULL);
	expect_client(&result, 1, "", "dvmqctl: a command is one line; for several use -f\n");
	result = run_client("", "-C", "set", "core", "2", "", NULL);
	expect_client(&result, 0, "park\nactivate\nauto\npolicy\n", "");
	result = run_client("", "-C", "save", "config", "", NULL);
	expect_client(&result, 0, "", "");
	result = run_client("", "-V", NULL);
	CU_ASSERT_EQUAL(strncmp(result.out, "dvmqctl ", 8), 0);
}

static void test_client_script(void)
{
	static const char script[] = "# first\n"
				     "flow list up0 ; an empty list\n"
				     "\n"
				     "foo\n"
				     "set core 2 park\n";
	struct result result = run_client(script, "-f", "-", NULL);

	expect_client(&result, 1, "(none)\n",
		      "dvmqctl: stdin:4: unknown command \"foo\", \"help\" lists the commands\n");
	CU_ASSERT_STRING_EQUAL(called, "set_core 2 1");
	result = run_client(script, "-e", "-f", "-", NULL);
	expect_client(&result, 1, "(none)\n",
		      "dvmqctl: stdin:4: unknown command \"foo\", \"help\" lists the commands\n");
	CU_ASSERT_STRING_EQUAL(called, "flow_list up0");
	result = run_client("set core 4 park\n", NULL, NULL);
	expect_client(&result, 0, "", "");
	CU_ASSERT_STRING_EQUAL(called, "set_core 4 1");
	result = run_client("quit\nset core 4 park\n", NULL, NULL);
	expect_client(&result, 0, "", "");
	CU_ASSERT_STRING_EQUAL(called, "quit");
	result = run_client("", "-f", "/nonexistent", NULL);
	expect_client(&result, 1, "", "dvmqctl: /nonexistent: No such file or directory\n");
	result = run_client("", "-f", "x", "show", "fdb", NULL);
	expect_client(&result, 1, "", "dvmqctl: give either -f FILE or a command\n");
}

static void test_client_without_daemon(void)
{
	char nowhere[128], expected[512];
	struct result result;

	snprintf(nowhere, sizeof(nowhere), "%s/nowhere", dir);
	snprintf(expected, sizeof(expected),
		 "dvmqctl: no dvmqd at %s: No such file or directory\n"
		 "Start it (systemctl start dvmqd, or dvmqd -- -c FILE), or name its socket with -s or $DVMQ_SOCKET; "
		 "why it ended is in its log (journalctl -u dvmqd).\n",
		 nowhere);
	result = run_client("", "-s", nowhere, "show", "fdb", NULL);
	expect_client(&result, 2, "", expected);
	result = run_client("", "-s", nowhere, "-w", "x", "show", "fdb", NULL);
	expect_client(&result, 1, "", "dvmqctl: -w x: is invalid, give 0 to 3600 seconds\n");
}

/* The argument is the path of dvmqctl. */
int main(int argc, char **argv)
{
	CU_TestInfo tests[] = {
	    {"show calls the controller", test_show_calls},
	    {"commands call the controller", test_set_calls},
	    {"wrong arguments do not", test_no_call},
	    {"what the controller refuses", test_refused},
	    {"lines that are not understood", test_not_understood},
	    {"tables", test_table},
	    {"JSON", test_json},
	    {"show config, save config", test_config},
	    {"help", test_help},
	    {"completion", test_complete},
	    {"a request in pieces", test_partial_line},
	    {"many requests at once", test_many_requests},
	    {"a client that reads late", test_slow_client},
	    {"a client that reads too late", test_too_slow_client},
	    {"a client that leaves", test_client_leaves},
	    {"a broken protocol", test_broken_protocol},
	    {"the longest request", test_longest_request},
	    {"too many clients", test_too_many_clients},
	    {"socket and lock file", test_socket_file},
	    {"a second daemon", test_second_daemon},
	    {"paths", test_paths},
	    {"prompt on a pipe", test_prompt_on_pipe},
	    {"dvmqctl: commands", test_client_commands},
	    {"dvmqctl: scripts", test_client_script},
	    {"dvmqctl: no daemon", test_client_without_daemon},
	    CU_TEST_INFO_NULL,
	};
	struct dvmq_err err;
	int ret;

	if (argc == 3)
		return be_second(argv[1], argv[2]);
	if (argc != 2) {
		fprintf(stderr, "usage: test_commands PATH-OF-DVMQCTL\n");
		return EXIT_FAILURE;
	}
	dvmqctl = argv[1];
	strcpy(dir, "/tmp/dvmq-test-commands-XXXXXX");
	if (!mkdtemp(dir))
		return EXIT_FAILURE;
	snprintf(path, sizeof(path), "%s/ctl.sock", dir);
	if (dvmq_ctl_open(path, &err) != 0) {
		fprintf(stderr, "%s\n", err.text);
		return EXIT_FAILURE;
	}
	ret = unit_run("commands", tests);
	dvmq_ctl_close();
	rmdir(dir);
	return ret;
}
