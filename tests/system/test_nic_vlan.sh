#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Two VMs with one MAC in different VLANs behind a NIC that sorts: the rule of each tells its VLAN, and each gets its
# own frames, in order, while queues are given and taken. If one is untagged, its rule would take the frames of both
# (and with this NIC, which asks the oldest rule first, it would): so it gets none.
#
#	dvmq-traffic                 dvmqd                    dvmq-traffic
#	network ==== up0 ─ rx1: MAC, VLAN 100 ─> vm1, vlan 100 ---- guest
#	               └── rx2: MAC, VLAN 200 ─> vm2, vlan 200 ---- guest with the same MAC
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"
. "$(dirname "$0")/nic.sh"

mac=$(mac_of 1)
start() { # start VLAN VLAN
	nic_start - < <(conf_switch 3 auto
		conf_guest 1 "vlan = $1" | sed '/^vlan = 0/d'
		conf_guest 2 "vlan = $2" | sed "s/^mac = .*/mac = $mac/")
	traffic_start --guests 2 --uplink-queues 1 --one-mac --vlan "$1,$2" --traffic p2v=3,v2p=1
}
give_and_take() { # give_and_take PORT
	for n in 0 1; do
		ctl set port "$1" vmq $n
		progress up0 500
	done
}

start 100 200
check "the rule of one tells its VLAN" nic_said 1 "^rule $mac vlan 100 "
check "and that of the other" nic_said 1 "^rule $mac vlan 200 "
for port in vm1 vm2 vm1 vm2 vm1 vm2; do
	give_and_take $port
done
check "both have a queue, and it is proven" vmq 'all(.[]; .effective == 1 and .proven)'
traffic_stop p2v v2p
dvmqd_stop

start 0 100
check "the rule of the untagged one is gone" nic_said 1 "^destroyed $mac vlan 0 "
for _ in {1..8}; do
	give_and_take vm2
done
check "the tagged one has its queue" vmq '.[] | select(.port == "vm2") | .effective == 1 and .proven'
check "the other one is told why it has none" \
	vmq '.[] | select(.port == "vm1") | .effective == 0 and (.reason | test("port vm2 has its MAC in VLAN 100"))'
traffic_stop p2v v2p
