#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# quick
#
# Everything is delivered, once and in order, and what comes in always equals what goes out plus the drops.
#
#	dvmq-traffic                  dvmqd                     dvmq-traffic
#	network, steers by MAC ===== up0 rx0: default queue
#	          (memif)            up0 rx1 ... rx4 -> vm1 ... vm4 ---- guests vm1 to vm4 (virtio-user)
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

samples=100

dvmqd_start - < <(conf_switch 5 static && conf_guests 4)

# --- P2V, V2P, V2V, and P2V2P where each guest sends back what comes: each alone ---------------------
for mode in p2v v2p v2v pvp; do
	traffic_start --guests 4 --uplink-queues 5 --steer --traffic $mode=1 --packets 20000
	traffic_await $mode
done

# --- all at once, while the counters are read -------------------------------------------------------
traffic_start --guests 4 --uplink-queues 5 --steer --traffic p2v=1,v2p=1,v2v=1,pvp=1
ctl clear stats all
for ((i = 0; i < samples; i++)); do
	echo show port stats all
done | ctlj >"$scratch/samples.json"
check "there are $samples samples" jq -es "length == $samples" "$scratch/samples.json"
check "the counters move between samples" \
	jq -es 'map(map(.rx_packets) | add) | . == sort and first < last' "$scratch/samples.json"
check "what came in went out or was dropped, in every sample" sums_agree "$scratch/samples.json"

wait_until ctlq 'map(.flood_copies) | add > 0' show port stats all # guests announce themselves each second
check "so it did when frames were flooded" sums_agree <(ctlj show port stats all)

# --- the JSON that users rely on --------------------------------------------------------------------
fields() { # fields "NAME..." COMMAND...: every object of the list has them
	ctlj "${@:2}" >"$scratch/shown.json"
	# shellcheck disable=SC2016 # variables of jq
	check "${*:2} has: $1" jq -e --arg names "$1" \
		'length > 0 and all(.[]; . as $o | $names | split(" ") | all(. as $name | $o | has($name)))' "$scratch/shown.json"
}
fields "queue port kind core pinned packets bytes drops pps cycles_per_packet load demand occupancy moves pause_loops pause_stolen pause_us_max" \
	show queue all
fields "core numa state busy queues" show core all
fields "port up rx_packets rx_bytes tx_packets tx_bytes flood_copies drop_no_buffer drop_ring_full" show port stats all
check "show balance has mode, constants, totals and decisions" ctlq \
	'(.mode == "auto") and (.params | keys == (["high", "target", "margin", "fast_ms", "slow_ms", "budget",
	"cooldown_ms", "hold_ms"] | sort)) and (.totals | type == "object") and
	all(.decisions[]; has("time") and has("action") and has("from") and has("to") and has("reason"))' show balance

kinds='(map(select(.kind == "vmq").queue) == ["up0/rx1", "up0/rx2", "up0/rx3", "up0/rx4"]) and
	(map(select(.kind == "default").queue) == ["up0/rx0"]) and
	(map(select(.kind == "guest").queue) == ["vm1/tx0", "vm2/tx0", "vm3/tx0", "vm4/tx0"])'
check "queues have their names and kinds" ctlq "$kinds" show queue all
check "queues that work are somebody's, and cost cycles" ctlq \
	'all(.[] | select(.kind != "default"); .core != null and .packets > 0 and .cycles_per_packet > 0)' show queue all
check "frames of steered ports do not meet the default queue" \
	ctlq '.[] | select(.queue == "up0/rx0").packets < 1000' show queue all
check "a port for its own" ctlq 'length == 1 and .[0].port == "vm2"' show port stats vm2

traffic_stop p2v v2p v2v pvp

# At rest the counters of the switch are those of guests and network; what a port got is tx.
wait_until ctlq 'all(.[]; .busy == 0)' show core all
check "what came in went out or was dropped, at rest" sums_agree <(ctlj show port stats all)

# --- a NIC that steers into the wrong queue ----------------------------------------------------------
ctl port del vm1
ctl port del vm2
ctl port add vhost vm1 "socket=$scratch/vm1.sock" mac="$(mac_of 1)" vmq=2
ctl port add vhost vm2 "socket=$scratch/vm2.sock" mac="$(mac_of 2)" vmq=1
traffic_start --guests 2 --uplink-queues 5 --steer --traffic p2v=1 --packets 20000
traffic_await p2v

# --- the end, under traffic -------------------------------------------------------------------------
traffic_start --guests 4 --uplink-queues 5 --steer --traffic p2v=1,v2p=1,v2v=1
[ -S "$SOCK" ] || fail "no control socket"
dvmqd_stop
check "its control socket is gone" [ ! -e "$SOCK" ]
stop traffic KILL || true # it would wait for what was on its way
