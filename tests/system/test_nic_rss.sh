#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# A NIC that sorts gives one VM 1, 2, 4 and again 1 queue by RSS while its traffic runs: no flow is split, nothing
# is lost, doubled or overtaken.#
#	dvmq-traffic      dvmqd, two workers                                dvmq-traffic
#	network ===== up0 rx0 ─────────────────────────────────────────────> vm2 ---- guests
#	              by rule and RSS: rx1 [rx2 [rx3 rx4]] ─ 4 virtqueues ─> vm1
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"
. "$(dirname "$0")/nic.sh"

rounds=3

switch_start() {
	nic_start - < <(conf_switch 5 auto && conf_guest 1 "queues = 4" && conf_guest 2 "queues = 4" "max = 0")
}

switch_start
check "the NIC can sort" vmq 'all(.[]; .steering == "flow")'
traffic_start --guests 2 --queues 4 --flows 16 --uplink-queues 1 --traffic p2v=3,v2p=1 --interval 1
wait_until traffic_settled
wait_until vmq '.[] | select(.port == "vm1") | .effective == 1 and .proven'
for ((round = 1; round <= rounds; round++)); do
	for n in 2 4 1; do
		ctl set port vm1 vmq $n
		check "round $round: $n queue(s)" vmq ".[] | select(.port == \"vm1\").effective == $n"
		((n == 1)) || check "by a rule with RSS over $n" \
			ctlq 'any(.[]; .port == "vm1" and (.rule | test("RSS")) and (.queue | split(",") | length == '$n'))' flow list up0
		progress up0 2000
	done
done
before=$(ctlj show queue all)
ctl set port vm1 vmq 4
progress up0 5000
# shellcheck disable=SC2016 # variables of jq
check "each of 4 queues gets frames" jq -en --argjson before "$before" --argjson after "$(ctlj show queue all)" \
	'[$after[], ($before[] | .packets *= -1)] | map(select(.queue | test("up0/rx[1-4]"))) | group_by(.queue)
	| all(.[]; map(.packets) | add > 0)'
check "vm2 has none" vmq '.[] | select(.port == "vm2").effective == 0'
traffic_stop p2v v2p

# Rules that begin after the driver has said that they do: who comes first is the NIC's fault then, but nothing is lost.
dvmqd_stop
switch_start
nic delay 500
traffic_start --guests 2 --queues 4 --flows 16 --uplink-queues 1
for n in 0 1 2 4; do
	ctl set port vm1 vmq $n
	progress up0 2000
done
stop traffic || true
check "rules that begin late: nothing is lost or doubled, no flow split" \
	[ "$(traffic_final '.lost + .duplicated + .split')" = 0 ]
