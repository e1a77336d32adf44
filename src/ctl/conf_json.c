/* SPDX-License-Identifier: BSD-3-Clause */
/* The configuration as JSON, with the keys of the file. */
#include <rte_ether.h>

#include "conf_keys.h"
#include "grammar.h"

static json_t *port_json(const struct dvmq_port_conf *port)
{
	json_t *object = json_pack("{s:s, s:s}", "name", port->name, "type", dvmq_port_type_name(port->type));
	char mac[RTE_ETHER_ADDR_FMT_SIZE];

	if (port->type == DVMQ_PORT_VHOST) {
		json_object_set_new(object, "socket", json_string(port->socket));
		json_object_set_new(object, "mode", json_string(port->server ? "server" : "client"));
	} else {
		json_object_set_new(object, "device", json_string(port->device));
	}
	if (port->type != DVMQ_PORT_ETHDEV)
		json_object_set_new(object, "queues", json_integer(port->queues));
	if (port->type == DVMQ_PORT_UPLINK) {
		json_object_set_new(object, "steering", json_string(dvmq_steering_name(port->steering)));
		json_object_set_new(object, "isolated", json_boolean(port->isolated));
		return object;
	}
	if (port->has_mac) {
		rte_ether_format_addr(mac, sizeof(mac), &port->mac);
		json_object_set_new(object, "mac", json_string(mac));
	}
	if (port->vlan)
		json_object_set_new(object, "vlan", json_integer(port->vlan));
	if (port->has_vmq) {
		json_t *vmq = json_array();

		for (unsigned queue = port->vmq_first; queue <= port->vmq_last; queue++)
			json_array_append_new(vmq, json_integer(queue));
		json_object_set_new(object, "vmq", vmq);
	}
	json_object_set_new(object, "weight", json_integer(port->weight));
	json_object_set_new(object, "min", json_integer(port->min));
	json_object_set_new(object, "max", json_integer(dvmq_conf_max(port)));
	return object;
}

static json_t *daemon_json(const struct dvmq_conf *conf)
{
	json_t *object = json_pack("{s:s}", "socket", conf->socket);

	if (conf->has_workers) {
		json_t *workers = json_array();

		for (unsigned i = 0; i < conf->n_workers; i++)
			json_array_append_new(workers, json_integer(conf->workers[i]));
		json_object_set_new(object, "workers", workers);
	}
	if (conf->has_control)
		json_object_set_new(object, "control", json_integer(conf->control));
	json_object_set_new(object, "policy", json_string(dvmq_policy_name(conf->policy)));
	return object;
}

static json_t *balance_json(const struct dvmq_conf *conf)
{
	json_t *object = json_pack("{s:s}", "mode", conf->balance_auto ? "auto" : "off");

	for (unsigned i = 0; i < dvmq_n_balance_keys; i++) {
		const char *value = (const char *)&conf->balance + dvmq_balance_keys[i].offset;

		json_object_set_new(object, dvmq_balance_keys[i].name, json_real(*(const double *)value));
	}
	return object;
}

json_t *dvmq_conf_json(const struct dvmq_conf *conf)
{
	json_t *uplinks = json_array();
	json_t *ports = json_array();
	json_t *object = json_object();

	for (unsigned i = 0; i < conf->n_ports; i++) {
		json_t *list = conf->ports[i].type == DVMQ_PORT_UPLINK ? uplinks : ports;

		json_array_append_new(list, port_json(&conf->ports[i]));
	}
	json_object_set_new(object, "dvmqd", daemon_json(conf));
	if (conf->eal_args)
		json_object_set_new(object, "eal", json_pack("{s:s}", "args", conf->eal_args));
	json_object_set_new(object, "uplinks", uplinks);
	json_object_set_new(object, "ports", ports);
	json_object_set_new(object, "balance", balance_json(conf));
	return object;
}
