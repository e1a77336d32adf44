#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 300
#
# A NIC that sorts, and what can go wrong with its rules: refused, with all queues or only some; a table that is full;
# accepted, but never followed; lost behind the switch's back; gone with a reset that the driver asks for. Each time
# the default queue serves, `show vmq` says why, and what can be made good is.
#
#	dvmq-traffic      dvmqd, two workers            dvmq-traffic
#	network ===== up0 rx0 ... rx4 ─> vm1, vm2, vm3 ---- guests
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"
. "$(dirname "$0")/nic.sh"

has() { # has PORT FILTER: a condition on its line
	vmq ".[] | select(.port == \"$1\") | $2"
}
refused() { # refused COMMAND...: and what it says
	local rc=0
	ctl "$@" 2>"$scratch/said" || rc=$?
	((rc == 1))
}
repairs() { # repairs PORT N: at least so many
	has "$1" ".repairs >= $2"
}
await_repairs() { # looked for every 5 s, ever more rarely, and needs frames that went astray meanwhile
	wait_until -t 90 repairs "$@"
}
lost() { # as the traffic counts it
	traffic_final .lost
}

switch_start() {
	nic_start - < <(conf_switch 5 auto
		conf_guest 2 "queues = 4" "min = 1"
		conf_guest 3 "queues = 4" "min = 1"
		conf_guest 1 "queues = 4")
}

switch_start
traffic_start --guests 3 --queues 4 --flows 4 --uplink-queues 1 --rate 100000
for i in 1 2 3; do
	wait_until has vm$i '.effective == 1 and .proven'
done

say "# RSS is refused, one queue is not"
nic refuse-rss this RSS is beyond me
check "two queues for vm1 are refused" refused set port vm1 vmq 2
check "by the driver's words" grep -q "1 of 2 queues: one queue only: .*this RSS is beyond me" "$scratch/said"
check "show vmq has them, too" \
	has vm1 '.requested == 2 and .effective == 1 and (.reason | test("one queue only: .*this RSS is beyond me"))'
wait_until has vm1 .proven
nic refuse-rss
check "two queues for vm1, when they can be had" ctl set port vm1 vmq 2
check "they are by hand" has vm1 '.effective == 2 and (.reason | test("set by hand"))'

say "# More is wanted than there is"
check "four queues for vm1, where one more is free" refused set port vm1 vmq 4
check "it is said what is missing" grep -Eq "2 of 4 queues: .*4 queues of up0 are taken" "$scratch/said"
check "and remains to be seen" \
	has vm1 '.requested == 4 and .effective == 2 and (.reason | test("2 of 4.*4 queues of up0 are taken"))'
check "the others have kept theirs" vmq 'all(.[]; .port == "vm1" or .effective == 1)'
ctl set port vm1 vmq 1

say "# The NIC's table is full"
nic rules 2
ctl set port vm3 vmq 0
wait_until has vm3 '.effective == 0'
nic_before=$(nic_says "table of rules is full")
check "a third rule does not fit" refused set port vm3 vmq 1
check "as the driver says" grep -q "the table of rules is full (No space left on device)" "$scratch/said"
check "show vmq says it" has vm3 '.requested == 1 and .effective == 0 and (.reason | test("table of rules is full"))'
check "the NIC was asked" nic_said $((nic_before + 1)) "table of rules is full"
progress up0
nic rules 128
check "when there is room again, it gets its queue" ctl set port vm3 vmq 1
for i in 1 2 3; do
	ctl set port vm$i vmq auto
done
for i in 1 2 3; do
	wait_until has vm$i '.effective >= 1 and .proven'
done

say "# A rule is lost behind the switch's back"
for how in lose forget; do # the second one cannot be removed any more, either
	before=$(vmq '.[] | select(.port == "vm2").repairs') rules=$(nic_says "^rule $(mac_of 2)")
	nic $how "$(mac_of 2)"
	await_repairs vm2 $((before + 1))
	check "$how: repaired by a new rule" nic_said $((rules + 1)) "^rule $(mac_of 2)"
	wait_until has vm2 '.effective == 1 and .proven'
done
check "only that port was repaired" vmq 'all(.[]; .port == "vm2" or .repairs == 0)'
check "the repair is a decision" ctlq 'any(.decisions[]; .action == "repair" and .thing == "vm2")' show balance

say "# The driver asks for a reset"
rules=$(nic_says ^rule)
wait_until has vm2 '.effective >= 1 and .proven'
nic reset
wait_until nic_said 1 "^reset"
wait_until vmq 'all(.[]; .effective >= 1 and .proven)'
check "rules were made anew" nic_said $((rules + 3)) ^rule
progress up0

stop traffic || true
check "what the reset took from the NIC's queues is all that was lost" \
	[ "$(lost)" -eq "$(awk '/^reset/ { n += $3 } END { print n + 0 }' "$nic_log")" ]
check "nothing was doubled, split or at a wrong VM" [ "$(traffic_final '.duplicated + .split + .corrupt + .foreign')" = 0 ]
# When a NIC loses a rule, nobody can say which frames of that port come first.
check "nor overtaken, but at the port whose rule the NIC lost" \
	[ "$(traffic_final '[.guests[] | select(.name != "net_virtio_user_2").reordered] | add')" = 0 ]

say "# Rules that the NIC accepts and does not follow"
dvmqd_stop
switch_start
ctl set port vm1 vmq 0
nic deaf
traffic_start --guests 3 --queues 4 --flows 4 --uplink-queues 1 --rate 100000 --traffic p2v=3,v2p=1
ctl set port vm1 vmq 1
check "accepted, not proven" has vm1 '.effective == 1 and .accepted and (.proven | not)'
await_repairs vm1 2
check "show vmq tells what is wrong" has vm1 '.reason | test("accepts the rule and does not follow it")'
nic hear
wait_until has vm1 .proven
stop traffic || true
check "nothing was lost, doubled or at a wrong VM" [ "$(traffic_final '.lost + .duplicated + .corrupt + .foreign')" = 0 ]
