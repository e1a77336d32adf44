#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 240
#
# One VM, several soft queues: its flows are spread evenly over two cores, none is ever split, and the number of
# queues follows the load.
#
#	dvmq-traffic           dvmqd                                          dvmq-traffic
#	network ===== up0 rx0 -+-> soft0, soft1 -> core A -+-> vm1 ---- guest with 4 queue pairs
#	             64 flows  +-> soft2, soft3 -> core B -+
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

pairs_used() { # pairs_used N
	ctlq '.[] | select(.port == "vm1").queues_used == '"$1" show port all
}
soft_queues() { # soft_queues N: so many, each of them polled
	ctlq 'map(select(.kind == "soft")) | length == '"$1"' and all(.core != null)' show queue all
}
spread_now() { # packets that each core has taken from soft queues
	ctlj show queue all | jq -r "[.[] | select(.kind == \"soft\")] |
		[(map(select(.core == $A).packets) | add // 0), (map(select(.core == $B).packets) | add // 0)] | @tsv"
}

# --- by hand, on two cores --------------------------------------------------------------------------------
dvmqd_start - < <(
	conf_switch 1 software
	conf_guest 1 "queues = 4" "min = 4"
	printf '%s\n' '[balance]' 'mode = off'
)
check "min = 4: it has soft queues, also without traffic" soft_queues 4
for i in 0 1; do
	ctl set queue vm1/soft$i core "$A"
	ctl set queue vm1/soft$((i + 2)) core "$B"
done
options=(--guests 1 --queues 4 --queue-size 512 --traffic "p2v=1" --flows 64)
traffic_start "${options[@]}" --even --rate 100000 --packets 400000
wait_until pairs_used 4
traffic_await p2v
read -r a b < <(spread_now)
check "each core has half of it, within a tenth: $a and $b frames" [ $((100 * a / (a + b) >= 45 && 100 * a / (a + b) <= 55)) = 1 ]
check "all of it took soft queues" [ $((a + b)) -ge 400000 ]
check "in each of them there is some" \
	ctlq 'map(select(.kind == "soft").packets) | length == 4 and all(. > 40000)' show queue all
check "no flow was split" [ "$(traffic_final .split)" = 0 ]

# --- whatever the number of soft queues, a flow keeps its virtqueue -----------------------------------------
traffic_start "${options[@]}" --interval 1
wait_until traffic_settled
for n in 3 1 0 2 4 1; do
	ctl set port vm1 vmq $n
	check "show vmq tells of $n queues by hand" \
		ctlq '.[0] | .by_hand and .effective == '$n' and .requested == '$n' and (.reason | test("by hand"))' show vmq vm1
	progress up0 20000
done
traffic_stop p2v
check "no flow was split" [ "$(traffic_final .split)" = 0 ]
dvmqd_stop

# --- by demand ------------------------------------------------------------------------------------------
dvmqd_start - < <(
	conf_switch 1 software
	conf_guest 1 "queues = 4"
	printf '%s\n' '[balance]' 'high = 0.04' 'target = 0.03' 'margin = 0.01'
)
traffic_start "${options[@]}"
wait_until -t 60 soft_queues 2 # as many as there are cores
check "it is told why" ctlq 'any(.decisions[]; .action == "promote" and .thing == "vm1" and
	(.reason | test("^2 queues instead of 1: one needs [0-9.]+ cores$")))' show balance
progress up0 20000
traffic_stop p2v
wait_until -t 60 soft_queues 0
check "and that it went again" ctlq '[.decisions[] | select(.action == "demote" and .thing == "vm1")] | length >= 2' \
	show balance
check "what came in went out or was dropped" sums_agree <(ctlj show port stats all)

# --- refusals ---------------------------------------------------------------------------------------------
refused() { # refused REASON COMMAND...
	local said
	! said=$(ctl "${@:2}" 2>&1) && grep -q "$1" <<<"$said"
}
check "more than the port has is refused" refused "vmq: 5 is more than the 4 queue pairs of port vm1" set port vm1 vmq 5
check "an uplink has none of its own" refused "up0 is an uplink" set port up0 vmq 1
check "no number" refused "is not a whole number" set port vm1 vmq many
