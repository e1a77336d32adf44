#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 240
#
# A NIC that cannot sort: a port that makes the default queue hot gets a soft queue, and loses it when it is cold.
# Nothing is lost or overtaken while it turns on and off.
#
#	dvmq-traffic              dvmqd                                           dvmq-traffic
#	network ===== up0 rx0 [, rx1 by RSS] -+---------------------------> vm1, vm2 ---- guests
#	                                      +-> soft0 of the hot port -> other core
# The guest that has all the traffic changes all the time.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

config() { # config QUEUES
	conf_switch "$1" software
	conf_guest 1
	conf_guest 2
	printf '%s\n' '[balance]' 'high = 0.03' 'target = 0.025' 'margin = 0.01'
}
total() { # total ACTION: how often decided
	ctlq ".totals.$1" show balance
}
turned_on_and_off() { # and takes a sample of all counters each time it is called
	ctlj show port stats all >>"$scratch/samples.json"
	ctlj show vmq all >>"$scratch/vmq.json"
	ctlj show queue all >>"$scratch/queues.json"
	(($(total promote) >= 1 && $(total demote) >= 1))
}

for queues in 1 2; do
	dvmqd_start - < <(config $queues)
	check "$queues queue(s), all of them default queues" \
		ctlq 'map(select(.queue | startswith("up0/")).kind) | length == '$queues' and all(. == "default")' show queue all
	check "no port has a queue of its own, and it is said why" \
		ctlq 'all(.[]; .effective == 0 and .steering == "software" and (.reason | test("not hot")))' show vmq all
	rm -f "$scratch"/{samples,vmq,queues}.json
	options=(--guests 2 --uplink-queues "$queues" --traffic "p2v=95,v2p=5" --profile wander --hot-seconds 4 --hot-share 100)
	((queues == 1)) || options+=(--rss)
	traffic_start "${options[@]}"
	wait_until -t 90 turned_on_and_off
	traffic_stop p2v v2p

	check "it is told who was promoted, and why" \
		ctlq 'any(.decisions[]; .action == "promote" and (.reason | test("up0/rx[0-9]+ needs [0-9.]+ cores")))' show balance
	check "and who was demoted" ctlq 'any(.decisions[]; .action == "demote" and (.thing | test("^vm[12]$")))' show balance
	check "meanwhile show vmq named the soft queue, in use" \
		jq -es 'flatten | any(.effective == 1 and .proven and (.queues | test("^vm[12]/soft0$")))' "$scratch/vmq.json"
	check "frames took it, polled by a core" \
		jq -es 'flatten | any(.kind == "soft" and .packets > 0 and .core != null)' "$scratch/queues.json"
	check "what came in went out or was dropped, in all $(jq -s length "$scratch/samples.json") samples" \
		sums_agree "$scratch/samples.json"
	# Nobody is hot any more.
	wait_until ctlq 'all(.[]; .effective == 0)' show vmq all
	check "no soft queue is left" ctlq 'all(.[]; .kind != "soft")' show queue all
	dvmqd_stop
done
