#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 240
#
# Steering by rte_flow on a kernel that really does it: dvmqd in a small VM whose tc can sort.
#
#   frames from here ──► emulated NIC ── eth0 ── tc mirred ──► net_tap0 = up0 ──q1──► vm1
#                                                              (steering = auto)  ──q0..► the rest
#
# The rule must catch the frames of its MAC and no others, the refused one must say why, and none may be left
# when its port is deleted.

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/niclab.sh"

cat >"$scratch/dvmqd.conf" <<-END
	[dvmqd]
	socket = /run/dvmq.sock
	workers = 0
	control = 0
	[uplink up0]
	device = net_tap0,iface=tap0,remote=eth0
	queues = 4
	[port vm1]
	type = ethdev
	device = net_null0,no-rx=1
	mac = 52:54:00:00:01:01
	[port vm2]
	type = ethdev
	device = net_null1,no-rx=1
END
echo 'ip link set eth0 up' >"$scratch/setup"

lab_run 200 flow.py -r 1024 -b none \
	-m "igb tun sch_multiq sch_ingress cls_flower act_skbedit act_gact act_mirred" \
	-p "bus_vdev mempool_ring net_tap net_null" -s "$scratch/setup" -f "$scratch/dvmqd.conf" \
	"$DVMQ_BUILD/dvmqd" --no-pci -m 200 -- -i -c "$scratch/dvmqd.conf"
say "ok - the NIC's rules sorted by MAC, and went with their port"
