#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# 32 guests: every socket is served, each guest reaches the others and the network.
#
#	dvmq-traffic                      dvmqd                           dvmq-traffic
#	network ===== up0 rx0, rx1 ... rx30 -> vm1 ... vm30 ------------- 30 guests
#	                                       vm31, vm32 (VLAN 200) ---- 2 guests of a second dvmq-traffic,
#	                                                                  since DPDK has 32 devices at most
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

guests=32 first=30
last_guests() { # last_guests KEY=VALUE...: vm31 and vm32; to their program they are the first two
	local i
	for i in 1 2; do
		printf '[port vm3%u]\ntype = vhost\nsocket = %s\nmac = %s\nvlan = 200\n' $i "$scratch/vm3$i.sock" "$(mac_of $i)"
		printf '%s\n' "$@"
	done
}
second_start() { # second_start OPTION...
	: >"$scratch/second.log"
	spawn second "$DVMQ_BUILD/tools/dvmq-traffic" --dir "$scratch" --names vm3 --guests 2 --queue-size 256 --uplink none \
		--wait 60 --traffic v2v=1 --packets 20000 --stall 10 "$@"
}
second_await() {
	wait_until -t 60 ended second
	await second || fail "vm31 and vm32: $(tail -n 1 "$scratch/second.log")"
}
first_options=(--guests "$first" --queue-size 256 --uplink-ring 1024 --flows 1)

dvmqd_start - < <(conf_switch $((first + 1)) static && conf_guests $first && last_guests)
check "all ports have their names" \
	ctlq "map(.port) == [\"up0\", (range(1; $((guests + 1))) | \"vm\\(.)\")]" show port all
check "all queues have theirs" ctlq "map(.queue) | sort ==
	([range(0; $((first + 1))) | \"up0/rx\\(.)\"] + [range(1; $((guests + 1))) | \"vm\\(.)/tx0\"] | sort)" show queue all
check "every port that asked for a NIC queue has one" \
	ctlq "length == $guests and (map(.effective) | add == $first) and all(.[]; .effective == .requested)" show vmq all

second_start
traffic_start "${first_options[@]}" --uplink-queues $((first + 1)) --steer --traffic p2v=1,v2p=1,v2v=1 --packets 200000
traffic_await p2v v2p v2v
second_await
check "every guest got frames and sent frames" traffic_final '.guests | length == '$first' and all(.rx > 0 and .tx > 0)'
check "the switch saw each of them" ctlq 'all(.[]; .packets > 0)' show queue all
check "what came in went out or was dropped" sums_agree <(ctlj show port stats all)
dvmqd_stop

# The switch as the server: the sockets are all there at once, and each is answered.
servers() {
	conf_switch 1 software
	for ((i = 1; i <= first; i++)); do
		conf_guest $i "mode = server"
	done
	last_guests "mode = server"
}
dvmqd_start - < <(servers)
sockets() {
	find "$scratch" -name 'vm*.sock' -type s | wc -l
}
check "all sockets are there" [ "$(sockets)" = $guests ]
second_start --mode server
traffic_start "${first_options[@]}" --mode server --traffic p2v=1,v2p=1 --packets 100000
traffic_await p2v v2p
second_await
dvmqd_stop
check "no socket is left" [ "$(sockets)" = 0 ]
