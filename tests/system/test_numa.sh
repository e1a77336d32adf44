#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 400
#
# Two NUMA nodes and SMT: dvmqd in a small VM that has both.
#
#	          node 0                                       node 1
#	cores     (0 1)  (2 3)                                 (4 5)  (6 7)          ( ): threads of one physical core
#	workers    0 1    2                                     4 5    6, as lcore 16
#	                    3: guests near1, near2, near3            7: guests far1, far2, far3; the controller
#	                                                       NIC up0, behind a bridge of this node
#
# Everything here is emulated (TCG), on fewer CPUs than the VM has: what is right can be told, but nothing of time.
# A core counts as full at [balance] high = 0.15, since loads are as odd as the clock of such a machine.

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/niclab.sh"

cat >"$scratch/dvmqd.conf" <<-END
	[dvmqd]
	socket = /run/dvmq.sock
	[balance]
	mode = off
	high = 0.15
	target = 0.12
	margin = 0.05
	hold_ms = 1000
	[uplink up0]
	device = 0000:81:00.0
	queues = 2
	steering = software
END
# Each side in a VLAN of its own: the MACs are the same.
for guest in {near,far}{1,2,3}; do
	printf '[port %s]\ntype = vhost\nsocket = /run/%s.sock\nmode = server\nvlan = %u\n' "$guest" "$guest" $((${#guest} - 3))
done >>"$scratch/dvmqd.conf"

# A shell in the guest, at the other end of this socket: it plays the guests and asks dvmqd.
export DVMQ_LAB_SHELL=$scratch/shell
echo 'stty -F /dev/ttyS2 raw -echo; sh </dev/ttyS2 2>&1 | cat >/dev/ttyS2 &' >"$scratch/setup"
# shellcheck disable=SC2054 # commas of QEMU's options
qemu=(-cpu max,vendor=GenuineIntel
	-object memory-backend-ram,id=m0,size=512M -numa node,nodeid=0,cpus=0-3,memdev=m0
	-object memory-backend-ram,id=m1,size=512M -numa node,nodeid=1,cpus=4-7,memdev=m1 -numa dist,src=0,dst=1,val=20
	-device pxb-pcie,id=far,bus=pcie.0,bus_nr=128,numa_node=1 -device pcie-root-port,id=farport,bus=far,chassis=1
	-device igb,bus=farport,romfile=
	-serial "unix:$DVMQ_LAB_SHELL,server=on,wait=off")

DVMQ_BUILD=$(realpath "$DVMQ_BUILD")
lab_run 380 numa.py -t 360 -n 0 -b uio -c 8,sockets=2,cores=2,threads=2 -r 1024 -g 320 -q "${qemu[*]}" \
	-p "bus_pci bus_vdev mempool_ring net_e1000 net_virtio net_memif" -s "$scratch/setup" \
	-f "$scratch/dvmqd.conf $DVMQ_BUILD/tools/dvmqctl $DVMQ_BUILD/tools/dvmq-traffic" \
	"$DVMQ_BUILD/dvmqd" --lcores 0,1,2,4,5,16@6,7 --main-lcore 7 -- -c "$scratch/dvmqd.conf"
grep '^ok - ' "$scratch/lab.log"
