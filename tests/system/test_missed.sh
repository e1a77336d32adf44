#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# quick
#
# What the NIC throws away before the switch sees it is told, stands beside the sum rule, and counts as demand.
#
#	sender -> v1 === v0 up0 (libpcap) -- dvmqd, stopped now and then -- host (tap)
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

ip link add v0 type veth peer name v1
ip link set v0 up
ip link set v1 up
cat >"$scratch/send.py" <<'END'
# send.py N: frames into v1, without waiting for anybody
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("v1", 0))
frame = bytes.fromhex("ffffffffffff" "525400000099" "0800") + bytes(1000)
for _ in range(int(sys.argv[1])):
    try:
        out.send(frame)
    except OSError: # the link's queue is full
        pass
END

dvmqd_start - <<END
[dvmqd]
workers = $A,$B
control = $A
[uplink up0]
device = net_pcap0,iface=v0
[port host]
type = ethdev
device = net_tap0,iface=h0
END
missed() {
	ctlq '.[] | select(.port == "up0").nic_missed' show port stats all
}
# demand_is CONDITION: of what the queue needs (demand) and what it got (load)
demand_is() {
	ctlq ".[0] | .load > 0 and (.demand $1)" show queue up0/rx0
}
needs_what_it_gets() {
	python3 "$scratch/send.py" 100
	demand_is "<= 1.1 * .load"
}
# More than the capture buffer holds, while nobody polls; the socket counts what it drops.
missed_and_needs_more() {
	kill -STOP "${pids[dvmqd]}"
	python3 "$scratch/send.py" 20000
	kill -CONT "${pids[dvmqd]}"
	poll 1 demand_is "> 2 * .load" # more than a full ring alone lets guess: half as much again
}

wait_until needs_what_it_gets
before=$(missed)
wait_until -t 60 missed_and_needs_more
check "what was missed is told" [ "$(missed)" -gt "$before" ]
say "ok - and counts as demand"
ctlj show port stats all >"$scratch/sum.json"
check "what came in went out or was dropped, beside what the NIC missed" sums_agree "$scratch/sum.json"
ctl clear stats all
check "it can be cleared" [ "$(missed)" = 0 ]
