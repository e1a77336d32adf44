/* SPDX-License-Identifier: BSD-3-Clause */
/* The configuration file: what is read, what is refused and with which words, and that writing it round-trips. */
#include <dvmq/conf.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "unit.h"

static char path[64]; /* the file of the running test */

static void write_file(const char *text, size_t len)
{
	FILE *file = fopen(path, "we");

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	CU_ASSERT_EQUAL_FATAL(fwrite(text, 1, len, file), len);
	CU_ASSERT_EQUAL_FATAL(fclose(file), 0);
}

static struct dvmq_conf *read_text(const char *text)
{
	struct dvmq_conf *conf = NULL;
	struct dvmq_err err = {""};

	write_file(text, strlen(text));
	if (dvmq_conf_read(path, &conf, &err) != 0)
		fprintf(stderr, "unexpected: %s\n", err.text);
	CU_ASSERT_PTR_NOT_NULL_FATAL(conf);
	return conf;
}

/* The text of the error, without the name of the file before the line. */
static const char *error_of(const char *text, size_t len)
{
	static struct dvmq_err err;
	struct dvmq_conf *conf = NULL;

	strcpy(err.text, "no error");
	write_file(text, len);
	if (dvmq_conf_read(path, &conf, &err) == 0)
		strcpy(err.text, "no error");
	CU_ASSERT_PTR_NULL(conf);
	dvmq_conf_free(conf);
	if (strncmp(err.text, path, strlen(path)) == 0 && err.text[strlen(path)] == ':')
		return err.text + strlen(path) + 1;
	return err.text;
}

static void expect(const char *text, const char *error)
{
	const char *got = error_of(text, strlen(text));

	CU_ASSERT_STRING_EQUAL(got, error);
	if (strcmp(got, error))
		fprintf(stderr, "\nfile:\n%s\nexpected: %s\ngot:      %s\n", text, error, got);
}

/* The same for a key of a vhost port that is fine but for that key; the key stands in line 4. */
static void expect_port(const char *line, const char *error)
{
	char text[1024];

	snprintf(text, sizeof(text), "[port web1]\ntype = vhost\nsocket = /run/a\n%s\n", line);
	expect(text, error);
}

static const char full[] = "; the whole grammar\n"
			   "[dvmqd]\n"
			   "socket = /tmp/ctl.sock ; where dvmqctl finds us\n"
			   "workers = 7,2-4\n"
			   "control = 0\n"
			   "policy = frugal\n"
			   "[eal]\n"
			   "args = --in-memory --no-pci\n"
			   "[uplink up0]\n"
			   "device = net_tap0,iface=dtap0\n"
			   "queues = 8\n"
			   "steering = static\n"
			   "\n"
			   "  [port web1]  ; a VM\n"
			   "type=vhost\n"
			   "socket =/tmp/web1.sock\n"
			   "mode = server\n"
			   "mac = 52:54:00:00:00:0A\n"
			   "vlan = 100\n"
			   "queues = 2\n"
			   "vmq = 1-2\n"
			   "weight = 250\n"
			   "min = 1\n"
			   "max = 2\n"
			   "[port tap.1]\n"
			   "device = net_tap1\n"
			   "type = ethdev\n"
			   "[uplink up1]\n"
			   "device = net_tap2\n"
			   "isolated = yes\n"
			   "[balance]\n"
			   "mode = off\n"
			   "high = 0.95\n"
			   "hold_ms = 2500.125\n";

static void test_reads_every_key(void)
{
	struct dvmq_conf *conf = read_text(full);
	const struct rte_ether_addr mac = {{0x52, 0x54, 0, 0, 0, 0x0a}};
	const struct dvmq_port_conf *port = conf->ports;

	CU_ASSERT_STRING_EQUAL(conf->socket, "/tmp/ctl.sock");
	CU_ASSERT_TRUE(conf->has_workers && conf->has_control);
	CU_ASSERT_EQUAL_FATAL(conf->n_workers, 4);
	for (unsigned i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(conf->workers[i], i + 2);
	CU_ASSERT_EQUAL(conf->workers[3], 7);
	CU_ASSERT_EQUAL(conf->control, 0);
	CU_ASSERT_EQUAL(conf->policy, DVMQ_POLICY_FRUGAL);
	CU_ASSERT_STRING_EQUAL(conf->eal_args, "--in-memory --no-pci");
	CU_ASSERT_FALSE(conf->balance_auto);
	CU_ASSERT_EQUAL(conf->balance.high, 0.95);
	CU_ASSERT_EQUAL(conf->balance.hold_ms, 2500.125);
	CU_ASSERT_EQUAL(conf->balance.target, 0.85);

	CU_ASSERT_EQUAL_FATAL(conf->n_ports, 4);
	CU_ASSERT_FALSE(port->isolated);
	CU_ASSERT_TRUE(conf->ports[3].isolated);
	CU_ASSERT_STRING_EQUAL(port->name, "up0");
	CU_ASSERT_EQUAL(port->type, DVMQ_PORT_UPLINK);
	CU_ASSERT_STRING_EQUAL(port->device, "net_tap0,iface=dtap0");
	CU_ASSERT_EQUAL(port->queues, 8);
	CU_ASSERT_EQUAL(port->steering, DVMQ_STEER_STATIC);
	port++;
	CU_ASSERT_STRING_EQUAL(port->name, "web1");
	CU_ASSERT_EQUAL(port->type, DVMQ_PORT_VHOST);
	CU_ASSERT_STRING_EQUAL(port->socket, "/tmp/web1.sock");
	CU_ASSERT_TRUE(port->server);
	CU_ASSERT_TRUE(port->has_mac && rte_is_same_ether_addr(&port->mac, &mac));
	CU_ASSERT_EQUAL(port->vlan, 100);
	CU_ASSERT_EQUAL(port->queues, 2);
	CU_ASSERT_TRUE(port->has_vmq && port->vmq_first == 1 && port->vmq_last == 2);
	CU_ASSERT_EQUAL(port->weight, 250);
	CU_ASSERT_EQUAL(port->min, 1);
	CU_ASSERT_TRUE(port->has_max && port->max == 2);
	CU_ASSERT_EQUAL(dvmq_conf_max(port), 2);
	port++;
	CU_ASSERT_STRING_EQUAL(port->name, "tap.1");
	CU_ASSERT_EQUAL(port->type, DVMQ_PORT_ETHDEV);
	CU_ASSERT_STRING_EQUAL(port->device, "net_tap1");
	CU_ASSERT_FALSE(port->has_mac || port->has_vmq || port->vlan || port->server);
	CU_ASSERT_EQUAL(port->weight, 100);
	CU_ASSERT_EQUAL(port->queues, 1);
	CU_ASSERT_EQUAL(port->min, 0);
	CU_ASSERT_EQUAL(dvmq_conf_max(port), 1);
	dvmq_conf_free(conf);
}

static void test_defaults(void)
{
	struct dvmq_balance_params params;
	struct dvmq_conf *conf = NULL;
	struct dvmq_err err;

	dvmq_balance_defaults(&params);
	CU_ASSERT_EQUAL_FATAL(dvmq_conf_read(NULL, &conf, &err), 0);
	CU_ASSERT_STRING_EQUAL(conf->socket, "/run/dvmq/dvmq.sock");
	CU_ASSERT_FALSE(conf->has_workers || conf->has_control);
	CU_ASSERT_PTR_NULL(conf->eal_args);
	CU_ASSERT_EQUAL(conf->policy, DVMQ_POLICY_BALANCED);
	CU_ASSERT_TRUE(conf->balance_auto);
	CU_ASSERT_EQUAL(conf->balance.fast_ms, params.fast_ms);
	CU_ASSERT_EQUAL(conf->n_ports, 0);
	dvmq_conf_free(conf);
	conf = read_text("");
	CU_ASSERT_STRING_EQUAL(conf->socket, "/run/dvmq/dvmq.sock");
	dvmq_conf_free(conf);
	dvmq_conf_free(NULL);
}

static char *written(const struct dvmq_conf *conf)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	CU_ASSERT_PTR_NOT_NULL_FATAL(out);
	CU_ASSERT_EQUAL(dvmq_conf_write(conf, out), 0);
	fclose(out);
	return text;
}

static const char *example; /* config/dvmqd.conf */

/* The annotated example is valid, and the defaults that it tells are the defaults. */
static void test_example(void)
{
	struct dvmq_balance_params params;
	struct dvmq_conf *conf = NULL;
	struct dvmq_err err = {""};

	if (!example) {
		CU_FAIL("give the path of the example configuration as argument");
		return;
	}
	dvmq_balance_defaults(&params);
	CU_ASSERT_EQUAL(dvmq_conf_read(example, &conf, &err), 0);
	CU_ASSERT_STRING_EQUAL(err.text, "");
	if (!conf)
		return;
	CU_ASSERT_EQUAL(memcmp(&conf->balance, &params, sizeof(params)), 0);
	CU_ASSERT_EQUAL(conf->n_ports, 3);
	dvmq_conf_free(conf);
}

static void test_write_round_trips(void)
{
	struct dvmq_conf *conf = read_text(full);
	char *first = written(conf);
	struct dvmq_conf *again = read_text(first);
	char *second = written(again);

	CU_ASSERT_STRING_EQUAL(first, second);
	CU_ASSERT_EQUAL(again->n_workers, conf->n_workers);
	CU_ASSERT_EQUAL(again->policy, conf->policy);
	CU_ASSERT_EQUAL(memcmp(again->workers, conf->workers, conf->n_workers * sizeof(conf->workers[0])), 0);
	CU_ASSERT_EQUAL(memcmp(&again->balance, &conf->balance, sizeof(conf->balance)), 0);
	CU_ASSERT_EQUAL_FATAL(again->n_ports, conf->n_ports);
	for (unsigned i = 0; i < conf->n_ports; i++) {
		const struct dvmq_port_conf *a = &conf->ports[i];
		const struct dvmq_port_conf *b = &again->ports[i];

		CU_ASSERT_STRING_EQUAL(a->name, b->name);
		CU_ASSERT_STRING_EQUAL(a->socket, b->socket);
		CU_ASSERT_STRING_EQUAL(a->device, b->device);
		CU_ASSERT_TRUE(a->type == b->type && a->server == b->server && a->has_mac == b->has_mac &&
			       a->vlan == b->vlan && a->queues == b->queues && a->steering == b->steering &&
			       a->has_vmq == b->has_vmq && a->vmq_first == b->vmq_first && a->vmq_last == b->vmq_last &&
			       a->weight == b->weight && a->min == b->min && a->has_max == b->has_max &&
			       a->max == b->max && a->isolated == b->isolated &&
			       rte_is_same_ether_addr(&a->mac, &b->mac));
	}
	CU_ASSERT_PTR_NOT_NULL(strstr(first, "workers = 2-4,7\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(first, "hold_ms = 2500.125\n"));
	free(first);
	free(second);
	dvmq_conf_free(conf);
	dvmq_conf_free(again);
}

static void test_file_errors(void)
{
	struct dvmq_conf *conf = NULL;
	struct dvmq_err err;

	CU_ASSERT_EQUAL(dvmq_conf_read("/nonexistent/x.conf", &conf, &err), -ENOENT);
	CU_ASSERT_STRING_EQUAL(err.text, "/nonexistent/x.conf: No such file or directory");
	CU_ASSERT_EQUAL(dvmq_conf_read("/tmp", &conf, &err), -EINVAL);
	CU_ASSERT_STRING_EQUAL(err.text, "/tmp: is not a regular file");
	CU_ASSERT_PTR_NULL(conf);
	CU_ASSERT_STRING_EQUAL(error_of("[dvm\0d]\n", 8), "1: a zero byte, this is no text file");
}

static void test_line_errors(void)
{
	expect("# a comment\n", "1: comments begin with ';', not with '#'");
	expect("[dvmqd\n", "1: a section ends with ']'");
	expect("[dvmqd] x\n", "1: \"x\" stands after the section's ']'");
	expect("socket = /a\n", "1: the key stands before the first [section]");
	expect("[dvmqd]\nsocket /a\n", "2: \"socket /a\" is neither \"key = value\" nor \"[section]\"");
	expect("[dvmqd]\nsocket = ; none\n", "2: [dvmqd] socket: the value is empty");
	expect("[dvmqd]\n= 5\n", "2: [dvmqd] a key has 1 to 63 characters");
	expect("[dvmqd]\ncontrol = 1\n\n\ncontrol = 2\n", "5: [dvmqd] control: stands twice, first in line 2");
	expect("[dvmqd]\n[eal]\n[dvmqd]\n", "3: [dvmqd] stands twice, first in line 1");
}

static void test_long_lines(void)
{
	char text[1024];
	char many[301];

	memset(many, 'x', sizeof(many) - 1);
	many[300] = '\0';
	snprintf(text, sizeof(text), "[uplink up0]\ndevice = net_tap0,iface=%s\n", many);
	expect(text, "2: [uplink up0] device: has 315 characters, at most 255 are possible; give the device by --vdev "
		     "NAME,... on the command line before -- and write only NAME here");
	snprintf(text, sizeof(text), "[eal]\nargs = %s\n", many);
	expect(text, "2: [eal] args: has 300 characters, at most 255 are possible; give the other EAL options on the "
		     "command line before --");
	snprintf(text, sizeof(text), "[dvmqd]\nsocket = %s\n", many);
	expect(text, "2: [dvmqd] socket: has 300 characters, at most 255 are possible");
	snprintf(text, sizeof(text), "[dvmqd]\n; %s%s\n", many, many);
	expect(text, "2: the line has 602 characters, at most 322 are possible");
	snprintf(text, sizeof(text), "[%.64s]\n", many);
	expect(text, "1: the section's name has more than 63 characters");
	/* The longest that fits is taken whole. */
	snprintf(text, sizeof(text), "[eal]\nargs = %.255s\n;%321s\n", many, "x");
	dvmq_conf_free(read_text(text));
	snprintf(text, sizeof(text), "[dvmqd]\n;%322s\n", "x");
	expect(text, "2: the line has 323 characters, at most 322 are possible");
	snprintf(text, sizeof(text), "[eal]\nargs = x ;%.246s%.64s\n[dvmqd]\ncontrol = 3\n", many, many);
	dvmq_conf_free(read_text(text));
	snprintf(text, sizeof(text), "[dvmqd]\nsocket = %.108s\n", many);
	expect(text, "2: [dvmqd] socket: the path has 108 characters, a Unix socket's has at most 107");
}

static void test_unknown(void)
{
	expect("[dvmq]\nsocket = /a\n", "1: [dvmq] dvmq: unknown section, did you mean \"dvmqd\"?");
	expect("[nonsense]\n", "1: [nonsense] nonsense: unknown section, known are: dvmqd, eal, balance, uplink NAME, "
			       "port NAME");
	expect("[dvmqd]\nworker = 1\n", "2: [dvmqd] worker: unknown key, did you mean \"workers\"?");
	expect("[dvmqd]\nxyz = 1\n", "2: [dvmqd] xyz: unknown key, known are: socket, workers, control, policy");
	expect("[eal]\narg = 1\n", "2: [eal] arg: unknown key, did you mean \"args\"?");
	expect("[balance]\nhgih = 1\n", "2: [balance] hgih: unknown key, did you mean \"high\"?");
	expect("[uplink up0]\ndevice = net_null0\nqueue = 2\n",
	       "3: [uplink up0] queue: unknown key, did you mean \"queues\"?");
	expect("[uplink up0]\ndevice = net_null0\nmac = 2\n", "3: [uplink up0] mac: an uplink has no such key");
	expect_port("device = net_null0", "4: [port web1] device: a port of type vhost has no such key");
	expect("[port t]\ntype = ethdev\nmode = client\n", "3: [port t] mode: a port of type ethdev has no such key");
}

static void test_names(void)
{
	expect("[port]\ntype = vhost\n", "1: [port] the name is missing");
	expect("[port a b]\ntype = vhost\n",
	       "1: [port a b] the name \"a b\" may only have letters, digits, '-', '_' and '.'");
	expect("[uplink up/0]\n", "1: [uplink up/0] the name \"up/0\" may only have letters, digits, '-', '_' and '.'");
	expect("[uplink all]\n", "1: [uplink all] \"all\" is a word of the commands and cannot be a name");
	expect("[uplink stats]\n", "1: [uplink stats] \"stats\" is a word of the commands and cannot be a name");
	expect("[uplink a2345678901234567890123456789012]\n",
	       "1: [uplink a2345678901234567890123456789012] the name a2345678901234567890123456789012 has 32 "
	       "characters, at most 31 are possible");
}

static void test_values(void)
{
	expect_port("vlan = 5000", "4: [port web1] vlan: 5000 is outside 1..4094");
	expect_port("vlan = 0", "4: [port web1] vlan: 0 is outside 1..4094");
	expect_port("vlan = ten", "4: [port web1] vlan: \"ten\" is not a whole number");
	expect_port("vlan = -1", "4: [port web1] vlan: \"-1\" is not a whole number");
	expect_port("vlan = 99999999999999999999", "4: [port web1] vlan: 99999999999999999999 is outside 1..4094");
	expect_port("queues = 17", "4: [port web1] queues: 17 is outside 1..16");
	expect_port("weight = 0", "4: [port web1] weight: 0 is outside 1..10000");
	expect_port("min = 17", "4: [port web1] min: 17 is outside 0..16");
	expect_port("max = -1", "4: [port web1] max: \"-1\" is not a whole number");
	expect_port("max = 2", "4: [port web1] max: 2 is more than the 1 queue pair of the port");
	expect_port("queues = 4\nmax = 5", "5: [port web1] max: 5 is more than the 4 queue pairs of the port");
	expect_port("queues = 4\nmin = 5", "5: [port web1] min: 5 is more than queues = 4");
	expect_port("min = 1\nmax = 0", "4: [port web1] min: 1 is more than max = 0");
	expect("[uplink u]\ndevice = net_null0\nmin = 1\n", "3: [uplink u] min: an uplink has no such key");
	expect_port("mode = peer", "4: [port web1] mode: \"peer\" is none of: client, server");
	expect_port("mac = 52:54:00", "4: [port web1] mac: \"52:54:00\" is not a MAC address such as "
				      "52:54:00:00:00:01");
	expect_port("mac = 00:00:00:00:00:00", "4: [port web1] mac: 00:00:00:00:00:00 is all zero");
	expect_port("mac = 01:00:5e:00:00:01",
		    "4: [port web1] mac: 01:00:5e:00:00:01 is a group address, a port needs a unicast one");
	expect_port("vmq = 256", "4: [port web1] vmq: 256 is outside 0..255");
	expect_port("vmq = 3-2", "4: [port web1] vmq: 3-2 runs backwards");
	expect_port("vmq = 1-x", "4: [port web1] vmq: \"x\" is not a whole number");
	expect("[uplink u]\ndevice = net_null0\nqueues = 257\n", "3: [uplink u] queues: 257 is outside 1..256");
	expect("[uplink u]\ndevice = net_null0\nsteering = rss\n",
	       "3: [uplink u] steering: \"rss\" is none of: auto, flow, vmdq, static, software");
	expect("[uplink u]\ndevice = net_null0\nisolated = on\n", "3: [uplink u] isolated: \"on\" is none of: no, yes");
	expect_port("isolated = yes", "4: [port web1] isolated: a port of type vhost has no such key");
	expect(
	    "[uplink u]\ndevice = net_null0\nisolated = yes\nsteering = vmdq\n",
	    "3: [uplink u] isolated: only rules can tell whose frames are whose, and steering = vmdq makes none; use "
	    "steering = flow or auto");
	expect(
	    "[uplink u]\ndevice = net_null0\nsteering = static\nisolated = yes\n",
	    "4: [uplink u] isolated: only rules can tell whose frames are whose, and steering = static makes none; use "
	    "steering = flow or auto");
	expect("[uplink u]\ndevice = net_null0\nsteering = software\nisolated = yes\n",
	       "4: [uplink u] isolated: only rules can tell whose frames are whose, and steering = software makes "
	       "none; use "
	       "steering = flow or auto");
	expect("[uplink u]\ndevice = a\\b\n",
	       "2: [uplink u] device: control characters, ';' and '\\' cannot stand in a value");
	expect("[port p]\ntype = tap\n", "2: [port p] type: \"tap\" is none of: vhost, ethdev");
	expect("[balance]\nmode = on\n", "2: [balance] mode: \"on\" is none of: auto, off");
	expect("[balance]\nhigh = much\n", "2: [balance] high: \"much\" is not a number");
	expect("[balance]\nhigh = nan\n", "2: [balance] high: \"nan\" is not a number");
	expect("[dvmqd]\ncontrol = 1024\n", "2: [dvmqd] control: 1024 is outside 0..1023");
	expect("[dvmqd]\npolicy = lazy\n", "2: [dvmqd] policy: \"lazy\" is none of: balanced, latency, frugal");
	expect("[dvmqd]\nsocket = /run/dvmq/\n", "2: [dvmqd] socket: /run/dvmq/ is a directory, name a file in it");
}

static void test_workers(void)
{
	expect("[dvmqd]\nworkers = 1,,2\n", "2: [dvmqd] workers: \"\" is not a CPU number or range such as 2-5");
	expect("[dvmqd]\nworkers = 2-\n", "2: [dvmqd] workers: \"2-\" is not a CPU number or range such as 2-5");
	expect("[dvmqd]\nworkers = a\n", "2: [dvmqd] workers: \"a\" is not a CPU number or range such as 2-5");
	expect("[dvmqd]\nworkers = 1-2-3\n", "2: [dvmqd] workers: \"1-2-3\" is not a CPU number or range such as 2-5");
	expect("[dvmqd]\nworkers = 5-2\n", "2: [dvmqd] workers: 5-2 runs backwards");
	expect("[dvmqd]\nworkers = 2-4,3\n", "2: [dvmqd] workers: CPU 3 stands twice");
	expect("[dvmqd]\nworkers = 1024\n", "2: [dvmqd] workers: CPU 1024 is outside 0..1023");
}

static void test_missing_keys(void)
{
	expect("[port p]\nsocket = /run/a\n", "1: [port p] type: is missing, a port is of type vhost or ethdev");
	expect("\n[port p]\ntype = vhost\n",
	       "2: [port p] socket: is missing, a vhost port needs the path of its socket");
	expect("[port p]\ntype = ethdev\n",
	       "1: [port p] device: is missing, give a PCI address or a virtual device such as net_tap0");
	expect("[uplink u]\nqueues = 2\n",
	       "1: [uplink u] device: is missing, give a PCI address or a virtual device such as net_tap0");
}

/* Two ports in one file; the second begins in line 5. */
static void expect_pair(const char *a, const char *b, const char *error)
{
	char text[512];

	snprintf(text, sizeof(text), "[port web1]\ntype = vhost\nsocket = /run/a\n%s\n[port web2]\ntype = vhost\n%s\n",
		 a, b);
	expect(text, error);
}

static void test_clashes(void)
{
	expect_pair("", "socket = /run/a", "7: [port web2] socket: ports web1 and web2 both have /run/a");
	expect_pair("mac = 52:54:00:00:00:01", "mac = 52:54:00:00:00:01\nsocket = /run/b",
		    "7: [port web2] mac: ports web1 and web2 both have 52:54:00:00:00:01 untagged");
	expect_pair("mac = 52:54:00:00:00:01\nvlan = 5", "socket = /run/b\nvlan = 5\nmac = 52:54:00:00:00:01",
		    "10: [port web2] mac: ports web1 and web2 both have 52:54:00:00:00:01 in VLAN 5");
	expect("[port x]\ntype = ethdev\ndevice = net_tap0\n[uplink x]\ndevice = net_tap1\n",
	       "4: [uplink x] the name x is taken by another port");
	expect("[port x]\ntype = ethdev\ndevice = net_tap0,iface=a\n[uplink y]\ndevice = net_tap0,iface=b\n",
	       "5: [uplink y] device: x and y both have net_tap0");
	expect("[uplink x]\ndevice = 0000:3B:00.0\n[uplink y]\ndevice = 3b:00.0\n",
	       "4: [uplink y] device: x and y both have 3b:00.0");
	expect("[dvmqd]\nsocket = /run/a\n[port p]\ntype = vhost\nsocket = /run/a\n",
	       "5: [port p] socket: /run/a is the control socket");
}

static void test_same_mac_in_other_vlan(void)
{
	dvmq_conf_free(read_text("[port a]\ntype = vhost\nsocket = /run/a\nmac = 52:54:00:00:00:01\nvlan = 5\n"
				 "[port b]\ntype = vhost\nsocket = /run/b\nmac = 52:54:00:00:00:01\nvlan = 6\n"
				 "[port c]\ntype = vhost\nsocket = /run/c\nmac = 52:54:00:00:00:01\n"));
}

static void test_vmq(void)
{
	expect_port("vmq = 1",
		    "4: [port web1] vmq: a NIC queue does not exist for this port, no uplink has steering = static");
	expect("[port p]\ntype = vhost\nsocket = /run/a\nvmq = 4\n"
	       "[uplink u]\ndevice = net_null0\nqueues = 4\nsteering = static\n",
	       "4: [port p] vmq: a NIC queue 4 does not exist, uplink u has queues 0..3");
	expect("[uplink u]\ndevice = net_null0\nqueues = 4\nsteering = static\n"
	       "[port a]\ntype = vhost\nsocket = /run/a\nqueues = 2\nvmq = 1-2\n"
	       "[port b]\ntype = vhost\nsocket = /run/b\nvmq = 2\n",
	       "13: [port b] vmq: ports a and b both have queue 2");
	expect_port("vmq = 1-2", "4: [port web1] vmq: 2 queues are more than the 1 queue pair of the port");
	expect("[uplink u]\ndevice = net_null0\nsteering = static\n[uplink v]\ndevice = net_null1\nsteering = static\n",
	       "6: [uplink v] steering: uplink u is static already, only one can be");
}

static void test_balance_check(void)
{
	struct dvmq_balance_params params;
	char expected[256];
	const char *key, *why;

	dvmq_balance_defaults(&params);
	params.high = 7;
	key = dvmq_balance_check(&params, &why);
	CU_ASSERT_STRING_EQUAL_FATAL(key, "high");
	snprintf(expected, sizeof(expected), "3: [balance] %s: %s", key, why);
	expect("[balance]\nmode = off\nhigh = 7\n", expected);
}

static void test_limits(void)
{
	char text[4096];
	size_t len = 0;

	for (unsigned i = 0; i < DVMQ_MAX_UPLINKS + 1; i++)
		len += snprintf(text + len, sizeof(text) - len, "[uplink u%u]\ndevice = net_null%u\n", i, i);
	expect(text, "17: [uplink u8] at most 8 uplinks are possible");
}

/* As "port add" uses the pieces. */
static void test_port_by_hand(void)
{
	struct dvmq_port_conf a, b;
	struct dvmq_err err;

	CU_ASSERT_EQUAL_FATAL(dvmq_conf_port_init(&a, DVMQ_PORT_VHOST, "a", &err), 0);
	CU_ASSERT_EQUAL_FATAL(dvmq_conf_port_init(&b, DVMQ_PORT_VHOST, "b", &err), 0);
	CU_ASSERT_EQUAL(dvmq_conf_port_check(&a, &err), -EINVAL);
	CU_ASSERT_EQUAL(dvmq_conf_port_set(&a, "socket", "/run/a", &err), 0);
	CU_ASSERT_EQUAL(dvmq_conf_port_check(&a, &err), 0);
	CU_ASSERT_EQUAL(dvmq_conf_ports_clash(&a, &b, &err), 0);
	CU_ASSERT_EQUAL(dvmq_conf_port_set(&b, "socket", "/run/a", &err), 0);
	CU_ASSERT_EQUAL(dvmq_conf_ports_clash(&a, &b, &err), -EEXIST);
	CU_ASSERT_STRING_EQUAL(err.text, "socket: ports a and b both have /run/a");
	CU_ASSERT_EQUAL(dvmq_conf_port_set(&b, "socket", "/run/b;", &err), -EINVAL);
	CU_ASSERT_STRING_EQUAL(b.socket, "/run/a");
	CU_ASSERT_STRING_EQUAL(dvmq_steering_name(DVMQ_STEER_VMDQ), "vmdq");
	CU_ASSERT_STRING_EQUAL(dvmq_port_type_name(DVMQ_PORT_ETHDEV), "ethdev");
}

/* The argument is the path of config/dvmqd.conf. */
int main(int argc, char **argv)
{
	CU_TestInfo tests[] = {
	    {"every key is read", test_reads_every_key},
	    {"defaults", test_defaults},
	    {"the example", test_example},
	    {"writing round-trips", test_write_round_trips},
	    {"files that cannot be read", test_file_errors},
	    {"lines that are no INI", test_line_errors},
	    {"lines that are too long", test_long_lines},
	    {"unknown keys and sections", test_unknown},
	    {"names", test_names},
	    {"values", test_values},
	    {"workers", test_workers},
	    {"missing keys", test_missing_keys},
	    {"what two ports may not share", test_clashes},
	    {"one MAC in several VLANs", test_same_mac_in_other_vlan},
	    {"static queues", test_vmq},
	    {"constants of the balancer", test_balance_check},
	    {"limits", test_limits},
	    {"a port by hand", test_port_by_hand},
	    CU_TEST_INFO_NULL,
	};
	int ret;
	int fd;

	example = argc > 1 ? argv[1] : NULL;
	strcpy(path, "/tmp/dvmq-test-conf-XXXXXX");
	fd = mkstemp(path);
	if (fd < 0)
		return EXIT_FAILURE;
	close(fd);
	ret = unit_run("conf", tests);
	unlink(path);
	return ret;
}
