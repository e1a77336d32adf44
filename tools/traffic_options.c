/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "traffic_options.h"

#define SETUP_ERROR 2

const char *const dvmq_traffic_mode_names[DVMQ_MODES] = {"p2v", "v2p", "v2v", "pvp"};

static const char *const profile_names[] = {"steady", "wander", "step", "idle"};

static const char usage[] =
    "Usage: dvmq-traffic --dir DIR [OPTION...]\n"
    "Plays the network behind the uplink of a switch and all its guests, and proves from sequence numbers\n"
    "that nothing was lost, duplicated or reordered. One JSON object per line on stdout.\n"
    "\n"
    "Guests (virtio-user; guest number g, from 0, has MAC 52:54:00:00:00:01 + g, the network 52:54:00:00:ff:01)\n"
    "  --dir DIR            folder of the vhost-user sockets DIR/NAME.sock\n"
    "  --guests N           number of guests (default 2)\n"
    "  --names PREFIX       names are PREFIX1, PREFIX2, ... (default vm)\n"
    "  --queues N           queue pairs of each guest (default 1)\n"
    "  --queue-size N       descriptors of a virtqueue, a power of two (default 1024)\n"
    "  --mode client|server the switch's end of the sockets (default client: the guests listen)\n"
    "  --vlan N[,N...]      access VLAN of guest 0, 1, ...; the last one goes on; 0: untagged (default 0)\n"
    "  --one-mac            all guests have the MAC of guest 0, and only their VLANs tell them apart\n"
    "Network (memif client; the switch's uplink is net_memif0,role=server,socket=PATH, PATH abstract)\n"
    "  --uplink PATH        name of the memif socket (default DIR/uplink.memif); none: no network\n"
    "  --uplink-queues N    RX queues of the switch's uplink, all of them (default 1)\n"
    "  --uplink-tx N        TX queues of the switch's uplink, all of them (default: as --uplink-queues)\n"
    "  --uplink-ring N      descriptors of each memif ring, a power of two (default 4096)\n"
    "  --steer[=N]          be a NIC that steers by MAC: guest g has the N (default 1) uplink queues from\n"
    "                       1 + g x N on; all the rest, and guests beyond the last queue, use queue 0\n"
    "  --rss                be a NIC that spreads flows over all uplink queues (default: all on queue 0)\n"
    "Traffic\n"
    "  --traffic LIST       MODE=SHARE,...: p2v network to guest, v2p guest to network, v2v guest to guest,\n"
    "                       pvp network to guest and back (default p2v=1)\n"
    "  --flows N            flows of each pair and mode (default 4)\n"
    "  --peers N            guests that each guest sends to in v2v (default 4)\n"
    "  --size N|imix        bytes of a frame without FCS and tag, 64..1514; imix: 7 x 64, 4 x 594, 1 x 1514\n"
    "                       (default 64)\n"
    "  --window N           most unacknowledged frames of a flow (default: what fills the rings by half)\n"
    "  --even               no flow sends more than a window ahead of the slowest: all have the same share\n"
    "  --rate PPS           frames per second in all, within the windows (default 0: as the windows allow)\n"
    "  --profile NAME       steady; wander: a hot guest that changes; step: 10 % of --rate, and all of it from\n"
    "                       half of --seconds on; idle: announcements only (default steady)\n"
    "  --hot-seconds T      how long a guest is hot (default 1)\n"
    "  --hot-share PERCENT  share of the hot guest (default 80; 100: all)\n"
    "Run\n"
    "  --seconds S          how long to send, 0: until SIGTERM or SIGINT (default 10)\n"
    "  --packets N          stop after N frames\n"
    "  --wait S             how long to wait for all links (default 10)\n"
    "  --interval S         print counters every S seconds (default 0: never)\n"
    "  --stall S            a flow without arrivals for so long has lost what it had in flight (default 5)\n"
    "  --settle S           frames at a wrong port count as flooded, not as foreign, and a flow may change its queue,\n"
    "                       for so long after the start and after each change of a link (default 2)\n"
    "  --cpu LIST           CPUs this program may use (default: all, not pinned)\n"
    "  --huge               use hugepages (default: --no-huge)\n"
    "  --verbose            show the messages of DPDK\n"
    "  --help\n"
    "\n"
    "SIGUSR1 or a line `hot N` on stdin moves the hot spot. Guests and network announce themselves by a gratuitous\n"
    "ARP each second. Exit: 0 all delivered once and in order; 1 lost, reordered, duplicated, corrupt or foreign\n"
    "frames, flows that changed their RX queue (split), or nothing delivered; 2 not set up.\n";

enum {
	OPT_DIR = 256,
	OPT_GUESTS,
	OPT_NAMES,
	OPT_QUEUES,
	OPT_QUEUE_SIZE,
	OPT_MODE,
	OPT_VLAN,
	OPT_ONE_MAC,
	OPT_UPLINK,
	OPT_UPLINK_QUEUES,
	OPT_UPLINK_TX,
	OPT_UPLINK_RING,
	OPT_STEER,
	OPT_RSS,
	OPT_TRAFFIC,
	OPT_FLOWS,
	OPT_PEERS,
	OPT_SIZE,
	OPT_WINDOW,
	OPT_EVEN,
	OPT_RATE,
	OPT_PROFILE,
	OPT_HOT_SECONDS,
	OPT_HOT_SHARE,
	OPT_SECONDS,
	OPT_PACKETS,
	OPT_WAIT,
	OPT_INTERVAL,
	OPT_STALL,
	OPT_SETTLE,
	OPT_CPU,
	OPT_HUGE,
	OPT_VERBOSE,
	OPT_HELP,
};

static const struct option long_options[] = {
    {"dir", required_argument, NULL, OPT_DIR},
    {"guests", required_argument, NULL, OPT_GUESTS},
    {"names", required_argument, NULL, OPT_NAMES},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"queue-size", required_argument, NULL, OPT_QUEUE_SIZE},
    {"mode", required_argument, NULL, OPT_MODE},
    {"vlan", required_argument, NULL, OPT_VLAN},
    {"one-mac", no_argument, NULL, OPT_ONE_MAC},
    {"uplink", required_argument, NULL, OPT_UPLINK},
    {"uplink-queues", required_argument, NULL, OPT_UPLINK_QUEUES},
    {"uplink-tx", required_argument, NULL, OPT_UPLINK_TX},
    {"uplink-ring", required_argument, NULL, OPT_UPLINK_RING},
    {"steer", optional_argument, NULL, OPT_STEER},
    {"rss", no_argument, NULL, OPT_RSS},
    {"traffic", required_argument, NULL, OPT_TRAFFIC},
    {"flows", required_argument, NULL, OPT_FLOWS},
    {"peers", required_argument, NULL, OPT_PEERS},
    {"size", required_argument, NULL, OPT_SIZE},
    {"window", required_argument, NULL, OPT_WINDOW},
    {"even", no_argument, NULL, OPT_EVEN},
    {"rate", required_argument, NULL, OPT_RATE},
    {"profile", required_argument, NULL, OPT_PROFILE},
    {"hot-seconds", required_argument, NULL, OPT_HOT_SECONDS},
    {"hot-share", required_argument, NULL, OPT_HOT_SHARE},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"packets", required_argument, NULL, OPT_PACKETS},
    {"wait", required_argument, NULL, OPT_WAIT},
    {"interval", required_argument, NULL, OPT_INTERVAL},
    {"stall", required_argument, NULL, OPT_STALL},
    {"settle", required_argument, NULL, OPT_SETTLE},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"huge", no_argument, NULL, OPT_HUGE},
    {"verbose", no_argument, NULL, OPT_VERBOSE},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static _Noreturn void __attribute__((format(printf, 1, 2))) refuse(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "dvmq-traffic: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "; see dvmq-traffic --help\n");
	exit(SETUP_ERROR);
}

static unsigned long long number(const char *option, const char *text, unsigned long long min, unsigned long long max)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value < min || value > max)
		refuse("--%s %s: not a number from %llu to %llu", option, text, min, max);
	return value;
}

static unsigned int power_of_two(const char *option, const char *text, unsigned int min, unsigned int max)
{
	unsigned int value = number(option, text, min, max);

	if ((value & (value - 1)) != 0)
		refuse("--%s %s: not a power of two", option, text);
	return value;
}

static double decimal(const char *option, const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end != '\0' || !(value >= 0) || value > 1e12)
		refuse("--%s %s: not a number", option, text);
	return value;
}

static unsigned int keyword(const char *option, const char *text, const char *const *names, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		if (strcmp(text, names[i]) == 0)
			return i;
	}
	refuse("--%s %s: unknown", option, text);
}

static void parse_shares(char *text, unsigned int *ret_shares)
{
	char *item, *value, *rest = NULL;
	unsigned int mode, sum = 0;

	memset(ret_shares, 0, sizeof(*ret_shares) * DVMQ_MODES);
	for (item = strtok_r(text, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) {
		value = strchr(item, '=');
		if (value != NULL)
			*value++ = '\0';
		mode = keyword("traffic", item, dvmq_traffic_mode_names, DVMQ_MODES);
		ret_shares[mode] = value != NULL ? number("traffic", value, 0, 1000000) : 1;
		sum += ret_shares[mode];
	}
	if (sum == 0)
		refuse("--traffic: no share above 0; --profile idle sends nothing");
}

static void parse_vlans(char *text, uint16_t *ret_vlans)
{
	char *item, *rest = NULL;
	unsigned int g = 0;

	for (item = strtok_r(text, ",", &rest); item != NULL && g < DVMQ_GUESTS_MAX; item = strtok_r(NULL, ",", &rest))
		ret_vlans[g++] = number("vlan", item, 0, 4094);
	if (g == 0)
		refuse("--vlan: no number");
	for (; g < DVMQ_GUESTS_MAX; g++)
		ret_vlans[g] = ret_vlans[g - 1];
}

static void parse_size(const char *text, struct dvmq_traffic_options *o)
{
	o->imix = strcmp(text, "imix") == 0;
	if (o->imix) {
		o->sizes[0] = 64;
		o->sizes[1] = 594;
		o->sizes[2] = 1514;
		o->n_sizes = 3;
	} else {
		o->sizes[0] = number("size", text, DVMQ_FRAME_MIN, DVMQ_FRAME_MAX);
		o->n_sizes = 1;
	}
}

static void parse_ports(int option, struct dvmq_traffic_options *o)
{
	static const char *const modes[] = {"client", "server"};

	switch (option) {
	case OPT_DIR:
		o->dir = optarg;
		break;
	case OPT_GUESTS:
		o->guests = number("guests", optarg, 1, DVMQ_GUESTS_MAX);
		break;
	case OPT_NAMES:
		o->names = optarg;
		break;
	case OPT_QUEUES:
		o->queues = number("queues", optarg, 1, 8);
		break;
	case OPT_QUEUE_SIZE:
		o->queue_size = power_of_two("queue-size", optarg, 16, 32768);
		break;
	case OPT_MODE:
		o->guest_connects = keyword("mode", optarg, modes, 2) == 1;
		break;
	case OPT_VLAN:
		parse_vlans(optarg, o->vlans);
		break;
	case OPT_ONE_MAC:
		dvmq_one_mac = true;
		break;
	case OPT_UPLINK:
		o->uplink = optarg;
		break;
	case OPT_UPLINK_QUEUES:
		o->uplink_rx = number("uplink-queues", optarg, 1, 255);
		break;
	case OPT_UPLINK_TX:
		o->uplink_tx = number("uplink-tx", optarg, 1, 255);
		break;
	case OPT_UPLINK_RING:
		o->uplink_ring = power_of_two("uplink-ring", optarg, 16, 16384);
		break;
	case OPT_STEER:
		o->steering = DVMQ_STEER_MAC;
		o->steer_width = optarg != NULL ? number("steer", optarg, 1, 255) : 1;
		break;
	case OPT_RSS:
		o->steering = DVMQ_STEER_RSS;
		break;
	case OPT_CPU:
		o->cpus = optarg;
		break;
	case OPT_HUGE:
		o->huge = true;
		break;
	case OPT_VERBOSE:
		o->verbose = true;
		break;
	case OPT_HELP:
		fputs(usage, stdout);
		exit(0);
	default:
		refuse("unknown option");
	}
}

static void parse_traffic(int option, struct dvmq_traffic_options *o)
{
	switch (option) {
	case OPT_TRAFFIC:
		parse_shares(optarg, o->shares);
		break;
	case OPT_FLOWS:
		o->flows = number("flows", optarg, 1, 1024);
		break;
	case OPT_PEERS:
		o->peers = number("peers", optarg, 1, DVMQ_GUESTS_MAX);
		break;
	case OPT_SIZE:
		parse_size(optarg, o);
		break;
	case OPT_WINDOW:
		o->window = number("window", optarg, 1, DVMQ_FLOW_HISTORY / 2);
		break;
	case OPT_EVEN:
		o->even = true;
		break;
	case OPT_RATE:
		o->rate = decimal("rate", optarg);
		break;
	case OPT_PROFILE:
		o->profile = keyword("profile", optarg, profile_names, RTE_DIM(profile_names));
		break;
	case OPT_HOT_SECONDS:
		o->hot_seconds = decimal("hot-seconds", optarg);
		break;
	case OPT_HOT_SHARE:
		o->hot_share = number("hot-share", optarg, 1, 100);
		break;
	case OPT_SECONDS:
		o->seconds = decimal("seconds", optarg);
		break;
	case OPT_PACKETS:
		o->packets = number("packets", optarg, 1, UINT64_MAX);
		break;
	case OPT_WAIT:
		o->wait = decimal("wait", optarg);
		break;
	case OPT_INTERVAL:
		o->interval = decimal("interval", optarg);
		break;
	case OPT_STALL:
		o->stall = decimal("stall", optarg);
		break;
	case OPT_SETTLE:
		o->settle = decimal("settle", optarg);
		break;
	default:
		parse_ports(option, o);
	}
}

static void check(struct dvmq_traffic_options *o)
{
	bool network = o->shares[DVMQ_P2V] + o->shares[DVMQ_V2P] + o->shares[DVMQ_PVP] > 0;

	if ((o->uplink_rx + (o->uplink_tx ? o->uplink_tx : o->uplink_rx)) * o->uplink_ring > UINT16_MAX + 1)
		refuse("--uplink-queues and --uplink-tx times --uplink-ring exceed the 65536 slots of memif; lower --uplink-ring");
	if (o->dir == NULL)
		refuse("--dir is missing");
	if (o->uplink != NULL && strcmp(o->uplink, "none") == 0) {
		o->uplink = NULL;
		if (network && o->profile != DVMQ_IDLE)
			refuse("--uplink none leaves v2v traffic only");
	}
	if (o->profile == DVMQ_STEP && (o->rate == 0 || o->seconds == 0))
		refuse("--profile step needs --rate and --seconds");
	if (o->uplink_tx == 0)
		o->uplink_tx = o->uplink_rx;
}

void dvmq_traffic_options_parse(int argc, char **argv, struct dvmq_traffic_options *ret_options)
{
	static char default_uplink[108];
	struct dvmq_traffic_options *o = ret_options;
	int option;

	*o = (struct dvmq_traffic_options){
	    .names = "vm",
	    .guests = 2,
	    .queues = 1,
	    .queue_size = 1024,
	    .uplink = default_uplink,
	    .uplink_rx = 1,
	    .uplink_ring = 4096,
	    .shares = {[DVMQ_P2V] = 1},
	    .flows = 4,
	    .peers = 4,
	    .sizes = {64},
	    .n_sizes = 1,
	    .hot_seconds = 1,
	    .hot_share = 80,
	    .seconds = 10,
	    .wait = 10,
	    .stall = 5,
	    .settle = 2,
	};
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		parse_traffic(option, o);
	if (optind < argc)
		refuse("%s: not an option", argv[optind]);
	check(o);
	snprintf(default_uplink, sizeof(default_uplink), "%s/uplink.memif", o->dir);
}
