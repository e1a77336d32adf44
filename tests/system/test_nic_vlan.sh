#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Two VMs with one MAC in different VLANs behind a NIC that sorts: each has a queue of its own, whose rule tells the
# VLAN, or matches both where one of them is untagged. Each gets its own frames, in order, while queues are given and
# taken.
#
#	dvmq-traffic                 dvmqd                    dvmq-traffic
#	network ==== up0 ─ rx1: MAC, VLAN 100 ─> vm1, vlan 100 ---- guest
#	               └── rx2: MAC, VLAN 200 ─> vm2, vlan 200 ---- guest with the same MAC
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"
. "$(dirname "$0")/nic.sh"

mac=$(mac_of 1)
for vlans in 100,200 0,100; do
	nic_start - < <(conf_switch 3 auto
		for i in 1 2; do
			conf_guest $i "vlan = $(cut -d, -f$i <<<$vlans)" | sed "s/^mac = .*/mac = $mac/; /^vlan = 0/d"
		done)
	check "VLANs $vlans: both have a queue" vmq 'length == 2 and all(.[]; .effective == 1 and .accepted)'
	check "the rule of one tells its VLAN" nic_said 1 "^rule $mac vlan ${vlans%,*} "
	check "and that of the other" nic_said 1 "^rule $mac vlan ${vlans#*,} "
	traffic_start --guests 2 --uplink-queues 1 --one-mac --vlan $vlans --traffic p2v=3,v2p=1
	for round in 1 2 3; do
		for port in vm1 vm2; do
			for n in 0 1; do
				ctl set port $port vmq $n
				progress up0 500
			done
		done
	done
	check "VLANs $vlans: both still have it" vmq 'all(.[]; .effective == 1)'
	traffic_stop p2v v2p
	dvmqd_stop
done
