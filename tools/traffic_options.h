/* SPDX-License-Identifier: BSD-3-Clause */
/* Options of dvmq-traffic. */
#ifndef DVMQ_TRAFFIC_OPTIONS_H
#define DVMQ_TRAFFIC_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "traffic_flow.h"

#define DVMQ_GUESTS_MAX 512

enum dvmq_traffic_profile { DVMQ_STEADY, DVMQ_WANDER, DVMQ_STEP, DVMQ_IDLE };

/** Which uplink queue the network puts a frame on. */
enum dvmq_traffic_steering { DVMQ_STEER_NONE, DVMQ_STEER_MAC, DVMQ_STEER_RSS };

struct dvmq_traffic_options {
	const char *dir;
	const char *names;  /**< guest g is called NAMES(g + 1) */
	const char *uplink; /**< name of the memif socket; NULL: no uplink */
	const char *cpus;
	unsigned int guests;
	unsigned int queues; /**< queue pairs of a guest */
	unsigned int queue_size;
	unsigned int uplink_rx; /**< RX queues of the switch's uplink: this program transmits on them */
	unsigned int uplink_tx; /**< TX queues of the switch's uplink */
	unsigned int uplink_ring;
	bool guest_connects;
	bool huge;
	bool verbose;
	enum dvmq_traffic_steering steering;
	unsigned int steer_width; /**< uplink queues of a guest */

	unsigned int shares[DVMQ_MODES];
	unsigned int flows, peers, window;
	uint16_t sizes[DVMQ_FLOW_SIZES];
	uint8_t n_sizes;
	bool imix;
	uint16_t vlans[DVMQ_GUESTS_MAX]; /**< of each guest, 0: untagged */
	bool even;			 /**< no flow sends more than a window ahead of the slowest */
	double rate;			 /**< frames per second in all, 0: as the windows allow */

	enum dvmq_traffic_profile profile;
	double hot_seconds;
	unsigned int hot_share; /**< percent */

	double seconds;	  /**< 0: until a signal */
	uint64_t packets; /**< 0: no limit */
	double wait, interval, stall, settle;
};

/** Parses the command line; ends the program after --help (0) and on errors (2, reason on stderr). */
void dvmq_traffic_options_parse(int argc, char **argv, struct dvmq_traffic_options *ret_options);

/** "p2v", ... */
extern const char *const dvmq_traffic_mode_names[DVMQ_MODES];

#endif
