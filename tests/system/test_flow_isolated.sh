#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 240
#
# Isolated mode where one NIC is the host's and the VMs', on a kernel that really shares it out: dvmqd in a small VM.
#
#	frames from here ──► emulated NIC ── eth0 ──┬─ tc flower, mirred ──► net_tap0 = up0 ──q1──► vm1
#	                                            │                                        ──q0──► vm2, groups
#	                                            └─ all the rest: the VM's own kernel, 10.0.0.2
#
# The kernel must get what is for its own address, and nobody else's; dvmqd what is for its ports and for groups.

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/niclab.sh"

cat >"$scratch/dvmqd.conf" <<-END
	[dvmqd]
	socket = /run/dvmq.sock
	workers = 0
	control = 0
	[uplink up0]
	device = net_tap0,iface=tap0,remote=eth0
	queues = 2
	isolated = yes
	[port vm1]
	type = ethdev
	device = net_null0,no-rx=1
	mac = 52:54:00:00:01:01
	[port vm2]
	type = ethdev
	device = net_null1,no-rx=1
	mac = 52:54:00:00:01:02
END
cat >"$scratch/setup" <<-END
	for i in all default; do
		echo 1 >/proc/sys/net/ipv6/conf/\$i/disable_ipv6 2>/dev/null || true
	done
	ip link set eth0 up
	ip address add 10.0.0.2/24 dev eth0
END

lab_run 200 isolated.py -r 1024 -b none \
	-m "igb tun sch_multiq sch_ingress cls_flower act_skbedit act_gact act_mirred" \
	-p "bus_vdev mempool_ring net_tap net_null" -s "$scratch/setup" -f "$scratch/dvmqd.conf" \
	"$DVMQ_BUILD/dvmqd" --no-pci -m 200 -- -i -c "$scratch/dvmqd.conf"
say "ok - the host kept what is its own, the ports got theirs"
