/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reads the configuration file.  rte_cfgfile parses it, but keeps no line
 * numbers, drops what it does not understand and cuts long values.  So a light
 * pass over the lines comes first: it notes where sections and keys stand and
 * refuses what rte_cfgfile would change silently.
 */
#include <dvmq/conf.h>

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <rte_cfgfile.h>
#include <rte_common.h>

#include "conf_keys.h"

/* Longest line that rte_cfgfile takes, without its newline. */
#define LINE_LEN       (CFG_NAME_LEN + CFG_VALUE_LEN + 2)
#define DEFAULT_SOCKET "/run/dvmq/dvmq.sock"

#define BALANCE_KEY(name)                                         \
	{                                                         \
#name, offsetof(struct dvmq_balance_params, name) \
	}

const struct dvmq_balance_key dvmq_balance_keys[] = {
    BALANCE_KEY(high),	  BALANCE_KEY(target), BALANCE_KEY(margin),	 BALANCE_KEY(fast_ms),
    BALANCE_KEY(slow_ms), BALANCE_KEY(budget), BALANCE_KEY(cooldown_ms), BALANCE_KEY(hold_ms),
};
const unsigned dvmq_n_balance_keys = RTE_DIM(dvmq_balance_keys);

/* Where a section (key is empty) or a key of it stands. */
struct note {
	char section[CFG_NAME_LEN];
	char key[CFG_NAME_LEN];
	unsigned line;
};

struct reader {
	const char *path;
	struct note *notes;
	unsigned n_notes;
	char section[CFG_NAME_LEN]; /* the current one */
	unsigned section_note;	    /* its index */
	struct dvmq_conf *conf;
	struct dvmq_err *err;
};

static struct note *find_note(struct reader *reader, unsigned from, const char *section, const char *key)
{
	for (unsigned i = from; i < reader->n_notes; i++) {
		struct note *note = &reader->notes[i];

		if (strcmp(note->section, section) == 0 && strcmp(note->key, key) == 0)
			return note;
	}
	return NULL;
}

static int add_note(struct reader *reader, const char *section, const char *key, unsigned line)
{
	struct note *notes = reallocarray(reader->notes, reader->n_notes + 1, sizeof(*notes));

	if (!notes)
		return dvmq_fail(reader->err, ENOMEM, "%s: out of memory", reader->path);
	reader->notes = notes;
	notes += reader->n_notes++;
	notes->line = line;
	memcpy(notes->section, section, strlen(section) + 1);
	memcpy(notes->key, key, strlen(key) + 1);
	return 0;
}

/* Puts file, line and section before the text of the error. */
static int located(struct reader *reader, const char *section, const char *key)
{
	struct note *note = find_note(reader, 0, section, key);

	if (!note)
		note = find_note(reader, 0, section, "");
	return dvmq_fail(reader->err, EINVAL, "%s:%u: [%s] %s", reader->path, note ? note->line : 0, section,
			 reader->err->text);
}

static char *strip(char *text)
{
	size_t len;

	text += strspn(text, " \t\r\n\v\f");
	len = strlen(text);
	while (len && isspace((unsigned char)text[len - 1]))
		text[--len] = '\0';
	return text;
}

static int note_section(struct reader *reader, char *text, unsigned line)
{
	char *end = strchr(text, ']');
	struct note *first;
	char *name;

	if (!end)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: a section ends with ']'", reader->path, line);
	if (end[1])
		return dvmq_fail(reader->err, EINVAL, "%s:%u: \"%s\" stands after the section's ']'", reader->path,
				 line, strip(end + 1));
	*end = '\0';
	name = strip(text + 1);
	if (strlen(name) >= CFG_NAME_LEN)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: the section's name has more than %d characters",
				 reader->path, line, CFG_NAME_LEN - 1);
	first = find_note(reader, 0, name, "");
	if (first)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: [%s] stands twice, first in line %u", reader->path, line,
				 name, first->line);
	memcpy(reader->section, name, strlen(name) + 1);
	reader->section_note = reader->n_notes;
	return add_note(reader, name, "", line);
}

/* What to do about a value that is too long for a file of this format. */
static const char *long_value_remedy(const char *key)
{
	if (strcmp(key, "device") == 0)
		return "; give the device by --vdev NAME,... on the command line before -- and write only NAME here";
	if (strcmp(key, "args") == 0)
		return "; give the other EAL options on the command line before --";
	return "";
}

static int note_key(struct reader *reader, char *text, unsigned line)
{
	char *value = strchr(text, '=');
	const char *section = reader->section;
	struct note *first;
	char *key;

	if (!value)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: \"%.64s\" is neither \"key = value\" nor \"[section]\"",
				 reader->path, line, text);
	if (reader->n_notes == 0)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: the key stands before the first [section]", reader->path,
				 line);
	*value++ = '\0';
	value = strip(value);
	key = strip(text);
	if (!*key || strlen(key) >= CFG_NAME_LEN)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: [%s] a key has 1 to %d characters", reader->path, line,
				 section, CFG_NAME_LEN - 1);
	if (!*value)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: [%s] %s: the value is empty", reader->path, line, section,
				 key);
	if (strlen(value) >= CFG_VALUE_LEN)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: [%s] %s: has %zu characters, at most %d are possible%s",
				 reader->path, line, section, key, strlen(value), CFG_VALUE_LEN - 1,
				 long_value_remedy(key));
	first = find_note(reader, reader->section_note, section, key);
	if (first)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: [%s] %s: stands twice, first in line %u", reader->path,
				 line, section, key, first->line);
	return add_note(reader, section, key, line);
}

static int note_line(struct reader *reader, char *text, size_t len, unsigned line)
{
	char *comment = strchr(text, ';');
	int ret = 0;

	if (strlen(text) != len)
		return dvmq_fail(reader->err, EINVAL, "%s:%u: a zero byte, this is no text file", reader->path, line);
	/* As rte_cfgfile sees it: only the first ';' of a line can begin a comment. */
	if (comment && (comment == text || comment[-1] != '\\'))
		*comment = '\0';
	text = strip(text);
	if (*text == '#')
		return dvmq_fail(reader->err, EINVAL, "%s:%u: comments begin with ';', not with '#'", reader->path,
				 line);
	if (*text == '[')
		ret = note_section(reader, text, line);
	else if (*text)
		ret = note_key(reader, text, line);
	if (ret == 0 && len > LINE_LEN)
		ret = dvmq_fail(reader->err, EINVAL, "%s:%u: the line has %zu characters, at most %d are possible",
				reader->path, line, len, LINE_LEN);
	return ret;
}

/* The pass over the lines. */
static int note_lines(struct reader *reader)
{
	FILE *file = fopen(reader->path, "re");
	struct stat st;
	char *text = NULL;
	size_t size = 0;
	ssize_t len;
	int ret = 0;

	if (!file)
		return dvmq_fail(reader->err, errno, "%s: %s", reader->path, strerror(errno));
	/* It is read twice, so a pipe would not do. */
	if (fstat(fileno(file), &st) != 0 || !S_ISREG(st.st_mode)) {
		fclose(file);
		return dvmq_fail(reader->err, EINVAL, "%s: is not a regular file", reader->path);
	}
	for (unsigned line = 1; ret == 0 && (len = getline(&text, &size, file)) >= 0; line++) {
		if (len && text[len - 1] == '\n')
			text[--len] = '\0';
		ret = note_line(reader, text, len, line);
	}
	if (ret == 0 && ferror(file))
		ret = dvmq_fail(reader->err, EIO, "%s: cannot be read", reader->path);
	free(text);
	fclose(file);
	return ret;
}

static int read_daemon_key(struct reader *reader, const char *key, const char *value)
{
	static const char *const known[] = {"socket", "workers", "control", "policy", NULL};
	struct dvmq_conf *conf = reader->conf;
	unsigned cpu;
	int ret;

	if (strcmp(key, "socket") == 0)
		return dvmq_conf_socket(key, value, conf->socket, reader->err);
	if (strcmp(key, "workers") == 0) {
		ret = dvmq_conf_cpus(value, conf->workers, &conf->n_workers, reader->err);
		if (ret)
			return dvmq_fail(reader->err, -ret, "workers: %s", reader->err->text);
		conf->has_workers = true;
		return 0;
	}
	if (strcmp(key, "control") == 0) {
		ret = dvmq_conf_number(key, value, 0, DVMQ_MAX_CPUS - 1, &cpu, reader->err);
		if (ret)
			return ret;
		conf->control = cpu;
		conf->has_control = true;
		return 0;
	}
	if (strcmp(key, "policy") == 0)
		return dvmq_conf_policy(value, &conf->policy, reader->err);
	return dvmq_conf_unknown("key", key, known, reader->err);
}

static int read_eal_key(struct reader *reader, const char *key, const char *value)
{
	static const char *const known[] = {"args", NULL};
	char args[CFG_VALUE_LEN];
	int ret;

	if (strcmp(key, "args"))
		return dvmq_conf_unknown("key", key, known, reader->err);
	ret = dvmq_conf_text(key, value, args, sizeof(args), reader->err);
	if (ret)
		return ret;
	reader->conf->eal_args = strdup(args);
	return reader->conf->eal_args ? 0 : dvmq_fail(reader->err, ENOMEM, "out of memory");
}

static int read_balance_key(struct reader *reader, const char *key, const char *value)
{
	const char *known[RTE_DIM(dvmq_balance_keys) + 2] = {"mode"};
	struct dvmq_conf *conf = reader->conf;
	char *end;

	if (strcmp(key, "mode") == 0) {
		if (strcmp(value, "auto") && strcmp(value, "off"))
			return dvmq_fail(reader->err, EINVAL, "mode: \"%s\" is none of: auto, off", value);
		conf->balance_auto = strcmp(value, "auto") == 0;
		return 0;
	}
	for (unsigned i = 0; i < dvmq_n_balance_keys; i++) {
		double number;

		known[i + 1] = dvmq_balance_keys[i].name;
		if (strcmp(key, dvmq_balance_keys[i].name))
			continue;
		number = strtod(value, &end);
		if (end == value || *end || !isfinite(number))
			return dvmq_fail(reader->err, EINVAL, "%s: \"%s\" is not a number", key, value);
		*(double *)((char *)&conf->balance + dvmq_balance_keys[i].offset) = number;
		return 0;
	}
	return dvmq_conf_unknown("key", key, known, reader->err);
}

static int read_plain_section(struct reader *reader, const char *section, const struct rte_cfgfile_entry *entries,
			      int n)
{
	static const struct {
		const char *name;
		int (*read)(struct reader *reader, const char *key, const char *value);
	} sections[] = {
	    {"dvmqd", read_daemon_key},
	    {"eal", read_eal_key},
	    {"balance", read_balance_key},
	};
	static const char *const known[] = {"dvmqd", "eal", "balance", "uplink NAME", "port NAME", NULL};

	for (unsigned i = 0; i < RTE_DIM(sections); i++) {
		if (strcmp(section, sections[i].name))
			continue;
		for (int k = 0; k < n; k++) {
			if (sections[i].read(reader, entries[k].name, entries[k].value) != 0)
				return located(reader, section, entries[k].name);
		}
		return 0;
	}
	dvmq_conf_unknown("section", section, known, reader->err);
	return located(reader, section, "");
}

static const char *entry_value(const struct rte_cfgfile_entry *entries, int n, const char *key)
{
	for (int i = 0; i < n; i++) {
		if (strcmp(entries[i].name, key) == 0)
			return entries[i].value;
	}
	return NULL;
}

/* The type decides which keys a port has, so it is looked at before the others. */
static int read_type(struct reader *reader, const struct rte_cfgfile_entry *entries, int n, enum dvmq_port_type *ret)
{
	const char *type = entry_value(entries, n, "type");

	if (!type)
		return dvmq_fail(reader->err, EINVAL, "type: is missing, a port is of type vhost or ethdev");
	if (strcmp(type, "vhost") && strcmp(type, "ethdev"))
		return dvmq_fail(reader->err, EINVAL, "type: \"%s\" is none of: vhost, ethdev", type);
	*ret = strcmp(type, "vhost") == 0 ? DVMQ_PORT_VHOST : DVMQ_PORT_ETHDEV;
	return 0;
}

static int room_for_port(struct reader *reader, enum dvmq_port_type type)
{
	struct dvmq_conf *conf = reader->conf;
	struct dvmq_port_conf *ports;
	unsigned n_uplinks = 0;

	for (unsigned i = 0; i < conf->n_ports; i++)
		n_uplinks += conf->ports[i].type == DVMQ_PORT_UPLINK;
	if (type == DVMQ_PORT_UPLINK && n_uplinks == DVMQ_MAX_UPLINKS)
		return dvmq_fail(reader->err, EINVAL, "at most %d uplinks are possible", DVMQ_MAX_UPLINKS);
	if (conf->n_ports == DVMQ_MAX_PORTS)
		return dvmq_fail(reader->err, EINVAL, "at most %d ports and uplinks are possible", DVMQ_MAX_PORTS);
	ports = reallocarray(conf->ports, conf->n_ports + 1, sizeof(*ports));
	if (!ports)
		return dvmq_fail(reader->err, ENOMEM, "out of memory");
	conf->ports = ports;
	return 0;
}

static int check_clashes(struct reader *reader, const char *section, const struct dvmq_port_conf *port)
{
	const struct dvmq_conf *conf = reader->conf;

	for (unsigned i = 0; i < conf->n_ports; i++) {
		const char *key = dvmq_conf_clash_key(&conf->ports[i], port, reader->err);

		if (key)
			return located(reader, section, key);
	}
	return 0;
}

/* What is wrong with the whole of a port: the text begins with the key that it is about. */
static int located_by_text(struct reader *reader, const char *section)
{
	char key[CFG_NAME_LEN];

	snprintf(key, sizeof(key), "%.*s", (int)strcspn(reader->err->text, ":"), reader->err->text);
	return located(reader, section, key);
}

static int read_port_section(struct reader *reader, const char *section, const char *name, bool uplink,
			     const struct rte_cfgfile_entry *entries, int n)
{
	enum dvmq_port_type type = DVMQ_PORT_UPLINK;
	struct dvmq_port_conf port;

	if (!uplink && read_type(reader, entries, n, &type) != 0)
		return located(reader, section, "type");
	if (room_for_port(reader, type) != 0 || dvmq_conf_port_init(&port, type, name, reader->err) != 0)
		return located(reader, section, "");
	for (int i = 0; i < n; i++) {
		if (!uplink && strcmp(entries[i].name, "type") == 0)
			continue;
		if (dvmq_conf_port_set(&port, entries[i].name, entries[i].value, reader->err) != 0)
			return located(reader, section, entries[i].name);
	}
	if (dvmq_conf_port_check(&port, reader->err) != 0)
		return located_by_text(reader, section);
	if (check_clashes(reader, section, &port) != 0)
		return -EINVAL;
	reader->conf->ports[reader->conf->n_ports++] = port;
	return 0;
}

/* "port web1" and the like: true, and where the name begins. */
static bool names_port(const char *section, const char *word, const char **ret_name)
{
	size_t len = strlen(word);

	if (strncmp(section, word, len) || (section[len] && section[len] != ' '))
		return false;
	*ret_name = section + len + (section[len] ? 1 : 0);
	return true;
}

static int read_section(struct reader *reader, struct rte_cfgfile *file, const char *section)
{
	int n = rte_cfgfile_section_num_entries(file, section);
	struct rte_cfgfile_entry *entries = calloc(RTE_MAX(n, 1), sizeof(*entries));
	const char *name;
	int ret;

	if (!entries)
		return dvmq_fail(reader->err, ENOMEM, "%s: out of memory", reader->path);
	n = rte_cfgfile_section_entries(file, section, entries, n);
	if (names_port(section, "uplink", &name))
		ret = read_port_section(reader, section, name, true, entries, n);
	else if (names_port(section, "port", &name))
		ret = read_port_section(reader, section, name, false, entries, n);
	else
		ret = read_plain_section(reader, section, entries, n);
	free(entries);
	return ret;
}

static int read_sections(struct reader *reader)
{
	struct rte_cfgfile *file = rte_cfgfile_load(reader->path, 0);
	int ret = 0;

	if (!file)
		return dvmq_fail(reader->err, EINVAL, "%s: cannot be parsed", reader->path);
	for (unsigned i = 0; ret == 0 && i < reader->n_notes; i++) {
		if (!reader->notes[i].key[0])
			ret = read_section(reader, file, reader->notes[i].section);
	}
	rte_cfgfile_close(file);
	return ret;
}

static int check_balance(struct reader *reader)
{
	const char *why;
	const char *key = dvmq_balance_check(&reader->conf->balance, &why);

	if (!key)
		return 0;
	dvmq_fail(reader->err, EINVAL, "%s: %s", key, why);
	return located(reader, "balance", key);
}

static int in_section(struct reader *reader, const struct dvmq_port_conf *port, const char *key)
{
	char section[CFG_NAME_LEN];

	snprintf(section, sizeof(section), "%s %s", port->type == DVMQ_PORT_UPLINK ? "uplink" : "port", port->name);
	return located(reader, section, key);
}

/* Static queues belong to the one uplink that is steered from outside. */
static int check_static(struct reader *reader)
{
	const struct dvmq_conf *conf = reader->conf;
	const struct dvmq_port_conf *uplink = NULL;

	for (unsigned i = 0; i < conf->n_ports; i++) {
		if (conf->ports[i].type != DVMQ_PORT_UPLINK || conf->ports[i].steering != DVMQ_STEER_STATIC)
			continue;
		if (uplink) {
			dvmq_fail(reader->err, EINVAL, "steering: uplink %s is static already, only one can be",
				  uplink->name);
			return in_section(reader, &conf->ports[i], "steering");
		}
		uplink = &conf->ports[i];
	}
	for (unsigned i = 0; i < conf->n_ports; i++) {
		if (dvmq_conf_check_vmq(conf, &conf->ports[i], reader->err) != 0)
			return in_section(reader, &conf->ports[i], "vmq");
	}
	return 0;
}

static int check_sockets(struct reader *reader)
{
	const struct dvmq_conf *conf = reader->conf;

	for (unsigned i = 0; i < conf->n_ports; i++) {
		if (strcmp(conf->ports[i].socket, conf->socket))
			continue;
		dvmq_fail(reader->err, EINVAL, "socket: %s is the control socket", conf->socket);
		return in_section(reader, &conf->ports[i], "socket");
	}
	return 0;
}

static struct dvmq_conf *new_conf(void)
{
	struct dvmq_conf *conf = calloc(1, sizeof(*conf));

	if (!conf)
		return NULL;
	strcpy(conf->socket, DEFAULT_SOCKET);
	conf->balance_auto = true;
	dvmq_balance_defaults(&conf->balance);
	return conf;
}

static int read_file(struct reader *reader)
{
	int ret = note_lines(reader);

	if (ret == 0)
		ret = read_sections(reader);
	if (ret == 0)
		ret = check_balance(reader);
	if (ret == 0)
		ret = check_static(reader);
	if (ret == 0)
		ret = check_sockets(reader);
	return ret;
}

int dvmq_conf_read(const char *path, struct dvmq_conf **ret_conf, struct dvmq_err *err)
{
	struct reader reader = {.path = path, .conf = new_conf(), .err = err};
	int ret = 0;

	if (!reader.conf)
		return dvmq_fail(err, ENOMEM, "configuration: out of memory");
	if (path)
		ret = read_file(&reader);
	free(reader.notes);
	if (ret) {
		dvmq_conf_free(reader.conf);
		return ret;
	}
	*ret_conf = reader.conf;
	return 0;
}

void dvmq_conf_free(struct dvmq_conf *conf)
{
	if (!conf)
		return;
	free(conf->eal_args);
	free(conf->ports);
	free(conf);
}
