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

lab=${DVMQ_NICLAB:-$(dirname "$0")/../../../shared/niclab}
fetched() {
	ls -d "${NICLAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/niclab}"/linux-image-* >/dev/null 2>&1
}
# The kernel is fetched before the test leaves the network; what cannot be had is found out below.
if [ -z "${DVMQ_TEST_INSIDE:-}" ] && [ -x "$lab/niclab.sh" ] && ! fetched; then
	timeout 120 "$lab/niclab.sh" -n 0 -b none /bin/true >/dev/null 2>&1 || true
fi
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

[ -x "$lab/niclab.sh" ] || skip "no lab with an emulated NIC (DVMQ_NICLAB)"
command -v qemu-system-x86_64 >/dev/null || skip "no QEMU"
qemu-system-x86_64 -M q35 -device help 2>/dev/null | grep -q '"igb"' || skip "this QEMU has no igb NIC (8.0 or later has)"
fetched || skip "no kernel for the lab, and it could not be fetched"

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

rc=0
timeout 200 "$lab/niclab.sh" -r 1024 -b none -m "igb tun sch_multiq sch_ingress cls_flower act_skbedit act_gact act_mirred" \
	-p "bus_vdev mempool_ring net_tap net_null" -s "$scratch/setup" -f "$scratch/dvmqd.conf" \
	-i "$DVMQ_ROOT/tests/system/niclab/flow.py" -l "$scratch/log" \
	"$DVMQ_BUILD/dvmqd" --no-pci -m 200 -- -i -c "$scratch/dvmqd.conf" </dev/null >"$scratch/lab.log" 2>&1 || rc=$?
if ((rc)); then
	tail -n 60 "$scratch/lab.log"
	fail "the lab run ended with $rc"
fi
say "ok - the NIC's rules sorted by MAC, and went with their port"
