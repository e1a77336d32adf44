#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 300
#
# Two virtual machines with a Debian kernel and the host at one switch:
#
#	  vm1 10.0.0.1          vm2 10.0.0.2          host 10.0.0.3 (this netns)
#	    virtio-net            virtio-net            host0
#	        | vhost-user          | vhost-user        | tap
#	  +-----+---------------------+-------------------+-----+
#	  |    vm1                   vm2                host    |  dvmqd: workers on CPU 0 and 1
#	  +-----------------------------------------------------+
#
# All reach each other. Files sent by TCP arrive whole while the queues they pass go from core to core
# and back. A machine killed in the midst of traffic disturbs no other, and comes back.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/qemu.sh"

(($(nproc) >= 2)) || skip "two CPUs are needed"

# pings CMD... ADDRESS: five of five answers. CMD is vm_exec GUEST or host.
pings() {
	"${@:1:$#-1}" "ping -c 5 -i 0.2 -w 30 ${!#}" | grep ' 0% packet loss'
}

host() { # as vm_exec for a guest
	bash -c "$*"
}

everyone_answers() {
	check "vm1 reaches vm2" pings vm_exec vm1 10.0.0.2
	check "vm2 reaches vm1" pings vm_exec vm2 10.0.0.1
	check "vm1 reaches the host" pings vm_exec vm1 10.0.0.3
	check "vm2 reaches the host" pings vm_exec vm2 10.0.0.3
	check "the host reaches vm1" pings host 10.0.0.1
	check "the host reaches vm2" pings host 10.0.0.2
}

rx_packets() {
	ctlq ".[] | select(.port == \"$1\").rx_packets" show port stats all
}

# guest_up GUEST true|false: whether the switch takes it for connected.
guest_up() {
	ctlq ".[] | select(.port == \"$1\") | .up == $2" show port stats all
}

# sum_of CMD...: the first word of what it prints, which has to be a SHA-256 sum.
sum_of() {
	local sum
	sum=$("$@")
	sum=${sum%% *}
	[[ $sum =~ ^[0-9a-f]{64}$ ]] || fail "no checksum from: $*: $sum"
	echo "$sum"
}

# send FROM ADDRESS: the guest's file; prints the sum that the receiver made of it.
send() {
	vm_exec -t 120 "$1" "nc $2 5000 </tmp/file"
}

# send_with_moves FROM ADDRESS QUEUE...: during the transfer the queues change cores all the time.
send_with_moves() {
	local from=$1 address=$2 queue moves=0
	shift 2
	rm -f "$scratch/send.log"
	spawn send send "$from" "$address"
	while running send; do
		for queue in "$@"; do
			ctl set queue "$queue" core $((moves++ / $# % 2)) >/dev/null
		done
	done
	await send
	((moves >= 20)) || fail "only $moves moves while the file was sent"
	check "$from to $address: 10 MB arrive whole during $moves moves" [ "$(sum_of cat "$scratch/send.log")" = "$sent" ]
}

listening() { # listening CMD...: as for pings
	"$@" "netstat -ltn 2>/dev/null || ss -ltn" | grep ':5000 '
}

dvmqd_start - <<END
[dvmqd]
workers = 0-1
control = 0
[port vm1]
type = vhost
socket = $scratch/vm1.sock
mac = 52:54:00:00:00:01
[port vm2]
type = vhost
socket = $scratch/vm2.sock
mac = 52:54:00:00:00:02
[port host]
type = ethdev
device = net_tap0,iface=host0
[balance]
mode = off
END
tap_up host0 10.0.0.3/24

vm_start vm1 "$scratch/vm1.sock" 52:54:00:00:00:01 10.0.0.1/24
vm_start vm2 "$scratch/vm2.sock" 52:54:00:00:00:02 10.0.0.2/24
vm_wait vm1
vm_wait vm2
everyone_answers

for vm in vm1 vm2; do
	vm_exec $vm "dd if=/dev/urandom of=/tmp/file bs=1M count=10 2>/dev/null"
done

vm_exec vm2 "nc -l -p 5000 -e sha256sum >/tmp/nc.log 2>&1 &"
wait_until listening vm_exec vm2
sent=$(sum_of vm_exec vm1 sha256sum /tmp/file)
send_with_moves vm1 10.0.0.2 vm1/tx0 vm2/tx0

spawn nc busybox nc -l -p 5000 -e sha256sum
wait_until listening host
sent=$(sum_of vm_exec vm2 sha256sum /tmp/file)
send_with_moves vm2 10.0.0.3 vm2/tx0 host/rx0
stop nc

# Traffic without end from vm1 to vm2, and vm1 dies of it.
vm_exec vm2 "nc -l -p 5000 >/dev/null 2>&1 </dev/zero &"
wait_until listening vm_exec vm2
before=$(rx_packets vm1)
vm_exec vm1 "nc 10.0.0.2 5000 </dev/zero >/dev/null 2>&1 &"
flows() { (($(rx_packets vm1) > before + 1000)); }
wait_until flows
stop vm1 KILL || true
vm_forget vm1
wait_until guest_up vm1 false
check "vm2 reaches the host without vm1" pings vm_exec vm2 10.0.0.3
spawn nc busybox nc -l -p 5000 -e sha256sum
wait_until listening host
send_with_moves vm2 10.0.0.3 vm2/tx0 host/rx0

vm_start vm1 "$scratch/vm1.sock" 52:54:00:00:00:01 10.0.0.1/24
vm_wait vm1
everyone_answers
