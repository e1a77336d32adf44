/* SPDX-License-Identifier: BSD-3-Clause */
/* Writes a configuration as a file that conf_read.c reads. */
#include <dvmq/conf.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "conf_keys.h"

/* The shortest text that reads back as the same number. */
static void write_double(FILE *out, const char *key, double value)
{
	char text[32];
	int digits = 6;

	do {
		snprintf(text, sizeof(text), "%.*g", digits, value);
	} while (strtod(text, NULL) != value && ++digits <= 17);
	fprintf(out, "%s = %s\n", key, text);
}

/* "2-5,7" */
static void write_cpus(FILE *out, const uint16_t *cpus, unsigned n)
{
	fprintf(out, "workers = ");
	for (unsigned i = 0; i < n;) {
		unsigned last = i;

		while (last + 1 < n && cpus[last + 1] == cpus[last] + 1)
			last++;
		fprintf(out, "%s%u", i ? "," : "", cpus[i]);
		if (last > i)
			fprintf(out, "-%u", cpus[last]);
		i = last + 1;
	}
	fputc('\n', out);
}

static void write_uplink(FILE *out, const struct dvmq_port_conf *port)
{
	fprintf(out, "\n[uplink %s]\n", port->name);
	fprintf(out, "device = %s\n", port->device);
	fprintf(out, "queues = %u\n", port->queues);
	fprintf(out, "steering = %s\n", dvmq_steering_name(port->steering));
	if (port->isolated)
		fprintf(out, "isolated = yes\n");
}

static void write_port(FILE *out, const struct dvmq_port_conf *port)
{
	fprintf(out, "\n[port %s]\ntype = %s\n", port->name, dvmq_port_type_name(port->type));
	if (port->type == DVMQ_PORT_VHOST) {
		fprintf(out, "socket = %s\n", port->socket);
		fprintf(out, "mode = %s\n", port->server ? "server" : "client");
		fprintf(out, "queues = %u\n", port->queues);
	} else {
		fprintf(out, "device = %s\n", port->device);
	}
	if (port->has_mac)
		fprintf(out, "mac = " RTE_ETHER_ADDR_PRT_FMT "\n", RTE_ETHER_ADDR_BYTES(&port->mac));
	if (port->vlan)
		fprintf(out, "vlan = %u\n", port->vlan);
	if (port->has_vmq && port->vmq_first == port->vmq_last)
		fprintf(out, "vmq = %u\n", port->vmq_first);
	else if (port->has_vmq)
		fprintf(out, "vmq = %u-%u\n", port->vmq_first, port->vmq_last);
	fprintf(out, "weight = %u\n", port->weight);
	if (port->min > 0)
		fprintf(out, "min = %u\n", port->min);
	if (port->has_max)
		fprintf(out, "max = %u\n", port->max);
}

static void write_balance(FILE *out, const struct dvmq_conf *conf)
{
	fprintf(out, "\n[balance]\nmode = %s\n", conf->balance_auto ? "auto" : "off");
	for (unsigned i = 0; i < dvmq_n_balance_keys; i++)
		write_double(out, dvmq_balance_keys[i].name,
			     *(const double *)((const char *)&conf->balance + dvmq_balance_keys[i].offset));
}

int dvmq_conf_write(const struct dvmq_conf *conf, FILE *out)
{
	fprintf(out, "[dvmqd]\nsocket = %s\n", conf->socket);
	if (conf->has_workers)
		write_cpus(out, conf->workers, conf->n_workers);
	if (conf->has_control)
		fprintf(out, "control = %u\n", conf->control);
	fprintf(out, "policy = %s\n", dvmq_policy_name(conf->policy));
	if (conf->eal_args)
		fprintf(out, "\n[eal]\nargs = %s\n", conf->eal_args);
	for (unsigned i = 0; i < conf->n_ports; i++) {
		if (conf->ports[i].type == DVMQ_PORT_UPLINK)
			write_uplink(out, &conf->ports[i]);
		else
			write_port(out, &conf->ports[i]);
	}
	write_balance(out, conf);
	if (fflush(out) != 0)
		return -errno;
	return ferror(out) ? -EIO : 0;
}
