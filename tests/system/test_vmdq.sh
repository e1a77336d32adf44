#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 480
#
# Steering by VMDq: dvmqd in a small VM with an emulated Intel 82576, which has 8 pools.
#
#	frames from here ──► NIC: MAC ──► pool 1 ... 3 ──► vm1 ... vm3  testpmd, sends all back ──► NIC ──► here
#	                 ◄──                   4 ... 7 ──► vm4 ... vm7  net_null
#	                                       0 ──► the rest: groups, what is unknown, vm8 and vm9
#
# vm2 and vm3 are in VLAN 100. Every MAC must take its own pool, and what is for a group must reach each VM once,
# although the NIC copies it into all pools.

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/niclab.sh"

testpmd=$(command -v dpdk-testpmd) || skip "no dpdk-testpmd"

{
	cat <<-END
		[dvmqd]
		socket = /run/dvmq.sock
		workers = 0
		control = 0
		[uplink up0]
		device = 0000:01:00.0
		queues = 16
		steering = vmdq
	END
	for i in 1 2 3; do
		printf '[port vm%u]\ntype = vhost\nsocket = /run/vm%u.sock\nmac = 52:54:00:00:01:0%u\n' $i $i $i
		((i == 1)) || echo "vlan = 100"
		echo "min = 1"
	done
	for i in {4..9}; do
		printf '[port vm%u]\ntype = ethdev\ndevice = net_null%u,no-rx=1\nmac = 52:54:00:00:01:0%u\n' "$i" "$i" "$i"
		((i > 7)) || echo "min = 1" # it keeps its pool, also while others have more traffic
	done
} >"$scratch/dvmqd.conf"

# The guests: what they get they send to the network's MAC. They end with the machine.
guests=() peers=()
for i in 1 2 3; do
	guests+=(--vdev "net_virtio_user$i,path=/run/vm$i.sock,server=1,queue_size=256,mac=52:54:00:00:01:0$i")
	peers+=("--eth-peer=$((i - 1)),02:00:00:00:00:99")
done
cat >"$scratch/setup" <<-END
	mkfifo /tmp/never
	$testpmd --no-huge -m 128 --no-pci --no-telemetry --no-shconf --single-file-segments --lcores='(0-1)@1' \
		--file-prefix=guests ${guests[@]} -- --forward-mode=mac --port-topology=loop ${peers[@]} --auto-start \
		--nb-cores=1 --total-num-mbufs=4096 --rxd=256 --txd=256 <>/tmp/never >/dev/console 2>&1 &
END

lab_run 460 vmdq.py -t 450 -r 1024 -c 2 -b iommu \
	-p "bus_pci bus_vdev mempool_ring net_e1000 net_null net_virtio" -s "$scratch/setup" -f "$scratch/dvmqd.conf $testpmd" \
	"$DVMQ_BUILD/dvmqd" -m 200 --log-level=lib.vhost.*:error -- -i -c "$scratch/dvmqd.conf"
say "ok - each MAC had its own pool, and groups reached each VM once"
