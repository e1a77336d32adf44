#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Guests with several queue pairs: all of them are used, and no flow is ever split.
#
#	dvmq-traffic                  dvmqd                          dvmq-traffic
#	network ===== up0 rx0; rx1, rx2 -> vm1; rx3, rx4 -> vm2 ---- guests with 2 or 4 queue pairs
#
#	afterwards: t0 (tap of this netns, AF_PACKET) --- dvmqd --- vm1 (testpmd, 4 queue pairs)
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

guests() { # guests PAIRS
	conf_switch 5 static
	conf_guest 1 "vmq = 1-2" "queues = $1"
	conf_guest 2 "vmq = 3-4" "queues = $1"
}

for pairs in 2 4; do
	dvmqd_start - < <(guests $pairs)
	traffic_start --guests 2 --queues $pairs --queue-size 256 --uplink-queues 5 --steer=2 --flows 16 \
		--traffic p2v=1,v2p=1,v2v=1,pvp=1 --packets 100000
	check "$pairs queue pairs are in use" ctlq 'map(select(.type == "vhost").queues_used) == ['$pairs,$pairs']' show port all
	# Also while the queues move, each for itself.
	for core in $B $A $B; do
		for queue in up0/rx1 up0/rx2 vm1/tx0 vm1/tx1 vm2/tx1; do
			ctl set queue $queue core "$core"
		done
	done
	traffic_await p2v v2p v2v pvp
	check "every virtqueue of the guests was polled" \
		ctlq 'map(select(.kind == "guest")) | length == 2 * '$pairs' and all(.packets > 0)' show queue all
	check "every NIC queue of a guest brought frames" \
		ctlq 'map(select(.kind == "vmq")) | length == 4 and all(.packets > 0)' show queue all
	dvmqd_stop
done

# --- a guest that asks for more than the port has -------------------------------------------------------
dvmqd_start - < <(guests 2)
traffic_start --guests 2 --queues 4 --queue-size 256 --uplink-queues 5 --steer=2 --flows 16 --traffic p2v=1 --packets 20000
check "a port of 2 queue pairs serves 2" ctlq 'map(select(.type == "vhost").queues_used) == [2, 2]' show port all
traffic_await p2v
check "and says how to have more" grep -q "port vm1: the guest uses 4 queue pairs, only 2 are served; raise queues" \
	"$scratch/dvmqd.log"
dvmqd_stop

# --- a guest that counts by virtqueue --------------------------------------------------------------------
tap_conf() {
	cat <<-END
		[dvmqd]
		workers = $A,$B
		control = $A
		[port t0]
		type = ethdev
		device = net_tap0,iface=t0
		$(conf_guest 1 "mode = server" "queues = 4")
		$(conf_guest 2 "mode = server" "queues = 3")
	END
}
dvmqd_start - < <(tap_conf)
echo 1 >/proc/sys/net/ipv6/conf/t0/disable_ipv6
ip link set dev t0 up

# QEMU asks for this number: VHOST_USER_GET_QUEUE_NUM of the vhost-user protocol.
offered() { # offered SOCKET: queue pairs
	python3 - "$1" <<-END
		import socket, struct, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		s.settimeout(30)
		s.send(struct.pack("=III", 17, 1, 0))
		print(struct.unpack("=IIIQ", s.recv(20, socket.MSG_WAITALL))[3])
	END
}
check "vm1 is offered 4 queue pairs" [ "$(offered "$scratch/vm1.sock")" = 4 ]
check "vm2 is offered 3 queue pairs" [ "$(offered "$scratch/vm2.sock")" = 3 ]

testpmd() { # counts what it receives, by queue, and says so at its end
	exec stdbuf -oL dpdk-testpmd --no-huge -m 256 --no-pci --no-telemetry --file-prefix=testpmd --single-file-segments \
		--lcores "0@$A,1@($A,$B)" --main-lcore 0 --vdev "net_virtio_user0,path=$scratch/vm1.sock,queues=4" \
		-- --forward-mode=rxonly --rxq=4 --txq=4 --total-num-mbufs=8192 <"$scratch/.never"
}

# receive_by_queue FLOWS: 256 frames of so many flows are sent; `counts` is then what each virtqueue got that got any
receive_by_queue() {
	local before
	: >"$scratch/testpmd.log"
	spawn testpmd testpmd
	wait_until grep -q "Press enter" "$scratch/testpmd.log"
	wait_until ctlq '.[] | select(.port == "vm1").queues_used == 4' show port all
	before=$(ctlq '.[] | select(.port == "vm1").tx_packets' show port stats all)
	python3 - "$1" <<-END
		import socket, struct, sys
		s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
		s.bind(("t0", 0))
		for i in range(256):
		    udp = struct.pack("!HHHH", 1024 + i % int(sys.argv[1]), 9, 8 + 32, 0) + bytes(32)
		    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
		    s.send(bytes.fromhex("525400000001" + "525400000099" + "0800") + ip + udp)
	END
	wait_until ctlq '.[] | select(.port == "vm1").tx_packets == '$((before + 256)) show port stats all
	stop testpmd || true
	mapfile -t counts < <(awk '/Forward Stats for RX Port= 0/ { mine = 1 }
		mine && /RX-packets:/ { print $2; mine = 0 }' "$scratch/testpmd.log")
}
receive_by_queue 1
check "one flow stays in one virtqueue (frames by queue: ${counts[*]})" [ "${counts[*]}" = 256 ]
receive_by_queue 256
check "256 flows use all 4 virtqueues (frames by queue: ${counts[*]})" \
	[ "${#counts[@]}/$(printf '%s\n' "${counts[@]}" | jq -s add)" = 4/256 ]
