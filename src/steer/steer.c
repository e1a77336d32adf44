/* SPDX-License-Identifier: BSD-3-Clause */
/* Which backend an uplink uses. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dvmq/log.h>
#include <dvmq/relief.h>
#include <dvmq/steer.h>

static const struct dvmq_steer_ops *const backends[] = { /* in the order in which auto tries them; the last can always */
	&dvmq_steer_flow,
	&dvmq_steer_vmdq,
	&dvmq_steer_software,
};

static const struct dvmq_steer_ops *named(enum dvmq_steering steering)
{
	if (steering == DVMQ_STEER_STATIC)
		return &dvmq_steer_static;
	for (unsigned i = 0; i < sizeof(backends) / sizeof(backends[0]); i++)
		if (backends[i]->steering == steering)
			return backends[i];
	return NULL; /* auto */
}

static int choose_named(struct dvmq_port *uplink, struct dvmq_err *err)
{
	const struct dvmq_steer_ops *ops = uplink->steer->ops;
	struct dvmq_err why;
	int ret = dvmq_ethdev_open(uplink, ops->rx_mode, &why);

	snprintf(uplink->steer->reason, sizeof(uplink->steer->reason), "%s",
		 uplink->conf.isolated ? "isolated: what no rule takes stays with the host"
				       : "set in the configuration");
	if (ret < 0 && ret != -ENOTSUP) {
		*err = why;
		return ret;
	}
	if (ret == 0 && (ops->probe == NULL || ops->probe(uplink, &why) == 0))
		return 0;
	if (uplink->conf.isolated)
		return dvmq_fail(err, ENOTSUP, "uplink %s: isolated = yes: %s; set isolated = no", uplink->conf.name,
				 why.text);
	return dvmq_fail(err, ENOTSUP, "uplink %s: steering = %s: %s; use steering = auto or software", uplink->conf.name,
			 dvmq_steering_name(ops->steering), why.text);
}

static int choose(struct dvmq_port *uplink, struct dvmq_err *err)
{
	struct dvmq_steer *steer = uplink->steer;
	size_t used = 0;
	int ret = 0;

	steer->ops = named(uplink->conf.isolated ? DVMQ_STEER_FLOW : uplink->conf.steering);
	if (steer->ops != NULL)
		return choose_named(uplink, err);
	for (unsigned i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
		steer->ops = backends[i];
		ret = dvmq_ethdev_open(uplink, steer->ops->rx_mode, err);
		if (ret < 0 && ret != -ENOTSUP)
			return ret;
		if (ret == 0 && (steer->ops->probe == NULL || steer->ops->probe(uplink, err) == 0))
			break;
		used += (size_t)snprintf(steer->reason + used, sizeof(steer->reason) - used, "%sno %s: %.170s",
					 used ? "; " : "", dvmq_steering_name(steer->ops->steering), err->text);
	}
	if (used == 0)
		snprintf(steer->reason, sizeof(steer->reason), "the NIC can do it");
	return ret;
}

static int open_share(struct dvmq_port *uplink, struct dvmq_share_params params, struct dvmq_err *err)
{
	if (uplink->steer->ops == &dvmq_steer_software)
		dvmq_relief_share_params(&params);
	uplink->steer->share = dvmq_share_new(&params);
	return uplink->steer->share ? 0 : dvmq_fail(err, errno, "uplink %s: %s", uplink->conf.name, strerror(errno));
}

int dvmq_steer_open(struct dvmq_port *uplink, const struct dvmq_share_params *params, struct dvmq_err *err)
{
	int ret;

	uplink->steer = calloc(1, sizeof(*uplink->steer));
	if (uplink->steer == NULL)
		return dvmq_fail(err, ENOMEM, "uplink %s: out of memory", uplink->conf.name);
	uplink->astray = calloc(DVMQ_MAX_PORTS, sizeof(*uplink->astray));
	if (uplink->astray == NULL)
		return dvmq_fail(err, ENOMEM, "uplink %s: out of memory", uplink->conf.name);
	ret = choose(uplink, err);
	if (ret == 0)
		ret = open_share(uplink, *params, err);
	if (ret == 0)
		DVMQ_LOG(INFO, "uplink %s: steering %s (%s)", uplink->conf.name,
			 dvmq_steering_name(uplink->steer->ops->steering), uplink->steer->reason);
	return ret;
}

void dvmq_steer_close(struct dvmq_port *uplink)
{
	if (uplink->steer == NULL)
		return;
	dvmq_share_free(uplink->steer->share);
	free(uplink->astray);
	uplink->astray = NULL;
	free(uplink->steer);
	uplink->steer = NULL;
}
