#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# A NIC that sorts and is isolated: what no rule takes stays with the host. So each port with a MAC has a rule to the
# default queue, below that of its own queues, and group frames have one: nothing for the VMs goes to the host, also
# while queues are given and taken, and nothing else comes to the switch.
#
#	dvmq-traffic            dvmqd                       dvmq-traffic
#	network ==== up0 ─ rx1, 2: MAC of vm1 ──────> vm1 ---- guests
#	         |     └── rx0: MACs of vm1, vm2 ───> vm2 ----
#	         |              groups ─────────────> all
#	        host: all the rest, such as that for vm3, whose MAC nobody knows
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"
. "$(dirname "$0")/nic.sh"

has() { # has PORT FILTER: a condition on its line
	vmq ".[] | select(.port == \"$1\") | $2"
}
rules() { # rules FILTER: a condition on what `flow list` says
	ctlq "$1" flow list up0
}
kept() { # frames that the NIC has kept from the switch
	nic host
	awk '/^host/ { n = $2 } END { print n }' "$nic_log"
}
reached() { # reached PORT: frames that it has been sent
	ctlq ".[] | select(.port == \"$1\").tx_packets" show port stats all
}
has_reached() {
	(($(reached "$1") >= $2))
}
guest() { # guest NUMBER FILTER of what it got in the end
	traffic_final ".guests[] | select(.name == \"net_virtio_user_$1\") | $2"
}
refused() { # refused TEXT: dvmqd with the configuration of $scratch/refused.conf does not start
	local rc=0
	"$DVMQ_BUILD/dvmqd" --no-pci "${eal_memory[@]}" -- -c "$scratch/refused.conf" -s "$SOCK" >"$scratch/said" 2>&1 || rc=$?
	((rc == 1)) && grep -q "$1" "$scratch/said"
}
switch_start() { # switch_start GUEST...
	nic_start - < <(conf_switch 4 auto
		echo "isolated = yes"
		for i in "$@"; do
			case $i in
			1) conf_guest 1 "queues = 2" ;;
			2) conf_guest 2 "queues = 2" ;;
			3) conf_guest 3 "queues = 2" | sed '/^mac/d' ;;
			esac
		done)
}

say "# A driver that cannot be isolated"
{ conf_switch 4 auto; echo "isolated = yes"; } >"$scratch/refused.conf"
check "it is refused, with the driver's words and what to do" \
	refused "up0: isolated = yes, but net_memif0.* cannot be isolated: .*Function not implemented.*; set isolated = no"

say "# Queues that come and go"
switch_start 1 2
check "the NIC was isolated before it was started" nic_said 1 "^started isolated"
check "group frames and each port have a rule, those of queues go first" rules \
	'map([.dst, .port, .queue, .prio]) | . == [["groups", null, "up0/rx0", 1],
	["'"$(mac_of 1)"'", "vm1", "up0/rx0", 1], ["'"$(mac_of 1)"'", "vm1", "up0/rx1", 0],
	["'"$(mac_of 2)"'", "vm2", "up0/rx0", 1], ["'"$(mac_of 2)"'", "vm2", "up0/rx2", 0]]'
traffic_start --guests 2 --queues 2 --flows 8 --uplink-queues 1 --traffic p2v=3,v2p=1 --rate 100000
for _ in {1..3}; do
	for n in 0 1 2; do
		ctl set port vm1 vmq $n
		progress up0 500
		ctl set port vm2 vmq $((n > 0))
		progress up0 500
	done
done
check "queues were given" vmq 'all(.[]; .effective > 0)'
wait_until vmq 'all(.[]; .proven)'
check "their rules to the default queue were there all the time" [ "$(nic_says "^destroyed .* below")" = 1 ] # the trial
check "nothing has gone to the host" [ "$(kept)" = 0 ]

say "# A rule that is lost: the default queue gets what it took"
nic lose "$(mac_of 1)"
wait_until has vm1 '.repairs == 1 and .effective == 2 and .proven'
check "nothing has gone to the host" [ "$(kept)" = 0 ]
stop traffic || true
check "nothing was lost, doubled or at a wrong VM" [ "$(traffic_final '.lost + .duplicated + .corrupt + .foreign')" = 0 ]
check "nor overtaken, but at the port whose rule the NIC lost" [ "$(guest 2 .reordered)" = 0 ]

say "# A reset"
traffic_start --guests 2 --queues 2 --flows 8 --uplink-queues 1 --traffic p2v=3,v2p=1 --rate 100000
nic reset
wait_until nic_said 2 "^started isolated"
wait_until rules 'length == 5'
wait_until vmq 'all(.[]; .effective > 0 and .proven)'
for port in vm1 vm2; do
	ctl set port $port vmq 0
done
progress up0
stop traffic || true

say "# A port goes"
ctl port del vm2
check "and its rule with it" rules 'map(.port) == [null, "vm1"]'
dvmqd_stop
check "no rule is left at the end" [ "$(nic_says ^rule)" = "$(nic_says ^destroyed)" ]

say "# A port whose MAC nobody knows, and rules that are refused"
switch_start 1 2 3
check "it is said what does not reach it" has vm3 '.effective == 0 and
	(.reason | test("no mac = in its section.*up0 is isolated: of its frames only those for groups arrive"))'
check "the others lack nothing" vmq 'all(.[]; .port == "vm3" or (.reason | test("isolated") | not))'
check "no rule is for it" rules 'all(.[]; .port != "vm3")'
traffic_start --guests 3 --queues 2 --flows 4 --uplink-queues 1 --traffic p2v=3,v2p=1 --profile idle
for port in vm1 vm2 vm3; do
	wait_until has_reached $port 2
done
check "frames for groups reach all, the host keeps none" [ "$(kept)" = 0 ]
stop traffic || true
traffic_start --guests 3 --queues 2 --flows 4 --uplink-queues 1 --traffic p2v=1 --rate 50000 --stall 1
progress up0 5000
stop traffic || true
check "the third has received none, the others all of theirs" [ "$(guest 3 .rx) $(guest 1 .lost) $(guest 2 .lost)" = "0 0 0" ]
check "the third was sent some" [ "$(guest 3 .lost)" -gt 0 ]
check "the host has them" [ "$(kept)" = "$(guest 3 .lost)" ]

nic refuse-base this is beneath me
ctl port del vm2
ctl port add vhost vm2 "socket=$scratch/vm2.sock" "mac=$(mac_of 2)" queues=2
check "a rule to the default queue is refused: it is said by whom" has vm2 \
	'.reason | test("up0 is isolated, without a rule to its default queue: .*this is beneath me")'
nic refuse-base
wait_until has vm2 '.repairs == 1 and (.reason | test("isolated") | not)'
check "it is made when the NIC takes it" rules 'any(.[]; .port == "vm2" and .prio == 1)'
check "the repair is a decision" ctlq 'any(.decisions[]; .action == "repair" and .thing == "vm2")' show balance
