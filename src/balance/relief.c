/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Software steering: how many ports a hot default queue is relieved of.
 *
 * A packet by way of a soft queue costs more than one that is delivered inline, so there are no more of them than it
 * takes: the largest ports get one until what is left fits on a core, and the smallest lose theirs when the default
 * queues could carry them, too.  In between nothing changes, but the order of the ports.
 */
#include <math.h>

#include "dvmq/relief.h"

/* docs/balancer.md lists each of these with its reason. */
#define BACK_OFF 0.75	/* of the limit: what default queues carry again must fit below it */
#define WORTH	 0.01	/* of `high`: a port that needs less is not worth a hop */
#define COLD_MS	 2000.0 /* for that long, before a soft queue is given back */
#define ASK_MS	 200.0	/* between two steps: the effect of the first must be measured before the next */

double dvmq_relief_limit(const struct dvmq_balance_params *params)
{
	return params->high - params->margin;
}

void dvmq_relief_share_params(struct dvmq_share_params *params)
{
	params->cold_demand = WORTH * params->high;
	params->high = INFINITY; /* one each: how many there are is another question */
	params->cold_ms = COLD_MS;
}

static double rank(const struct dvmq_share_port *port)
{
	return port->bytes_per_s * port->weight;
}

/* What is guaranteed is neither given nor taken for relief. */
static bool is_guaranteed(const struct dvmq_share_port *port)
{
	return port->min > 0 && port->max > 0;
}

/* Of the ports that do not hold one, the best one behind `last`; n: there is none. */
static unsigned next_best(const struct dvmq_share_port *ports, unsigned n, unsigned last, double worth)
{
	unsigned best = n;

	for (unsigned i = 0; i < n; i++) {
		const struct dvmq_share_port *p = &ports[i];

		if (p->holds > 0 || is_guaranteed(p) || p->max == 0 || !p->bindable || p->demand < worth)
			continue;
		if (last < n && (rank(p) > rank(&ports[last]) || (rank(p) == rank(&ports[last]) && i <= last)))
			continue;
		if (best == n || rank(p) > rank(&ports[best]))
			best = i;
	}
	return best;
}

/* How many more ports must go so that `part` of all demand leaves the default queues. */
static unsigned how_many_more(const struct dvmq_share_port *ports, unsigned n, double part, double worth, unsigned most)
{
	double excess = 0;
	unsigned more = 0, last = n;

	for (unsigned i = 0; i < n; i++)
		excess += part * ports[i].demand;
	while (more < most && excess > 0) {
		last = next_best(ports, n, last, worth);
		if (last == n)
			break;
		excess -= ports[last].demand;
		more++;
	}
	return more;
}

/* The smallest of those who hold one, and are not looked at yet. */
static unsigned smallest_holder(const struct dvmq_share_port *ports, unsigned n)
{
	unsigned smallest = n;

	for (unsigned i = 0; i < n; i++)
		if (ports[i].holds > 0 && !is_guaranteed(&ports[i]) && ports[i].demand > 0 &&
		    (smallest == n || rank(&ports[i]) < rank(&ports[smallest])))
			smallest = i;
	return smallest;
}

/* Who would be, or is, served inline with `spare` of a core left on the busiest default queue needs no soft queue. */
static void let_go(const struct dvmq_relief_load *load, double spare, struct dvmq_share_port *ports, unsigned n)
{
	double on_busiest = load->by_default > 0 ? load->busiest / load->by_default : 1;
	double least = INFINITY;

	for (;;) {
		unsigned i = smallest_holder(ports, n);

		if (i == n)
			break;
		spare -= load->by_soft[i] * on_busiest;
		if (spare < 0) {
			least = rank(&ports[i]);
			break;
		}
		ports[i].demand = 0;
	}
	for (unsigned i = 0; i < n; i++)
		if (ports[i].holds == 0 && rank(&ports[i]) <= least)
			ports[i].demand = 0;
}

unsigned dvmq_relief_plan(struct dvmq_relief *r, const struct dvmq_relief_load *load,
			  const struct dvmq_balance_params *params, struct dvmq_share_port *ports, unsigned n)
{
	double limit = dvmq_relief_limit(params);
	unsigned guaranteed = 0, held = 0;

	for (unsigned i = 0; i < n; i++) {
		guaranteed += is_guaranteed(&ports[i]);
		held += ports[i].holds > 0 && !is_guaranteed(&ports[i]);
	}
	if (load->busiest <= limit || held >= load->room) {
		r->queues = held;
	} else if (load->now_ms - r->asked_ms >= ASK_MS) {
		r->queues =
		    held + how_many_more(ports, n, 1 - limit / load->busiest, WORTH * params->high, load->room - held);
		r->asked_ms = load->now_ms;
	}
	if (load->busiest <= BACK_OFF * limit)
		let_go(load, BACK_OFF * limit - load->busiest, ports, n);
	if (r->queues < held)
		r->queues = held;
	if (r->queues > load->room)
		r->queues = load->room;
	return guaranteed + r->queues;
}
