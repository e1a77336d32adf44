#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The kernel's own network stack behind an uplink, behind an ethdev port and in a guest: all reach each other, and
# files sent by TCP both ways at a time arrive whole while the queues go from core to core.
#
#	netns net           netns host          netns guest
#	10.0.0.1            10.0.0.2            10.0.0.3
#	   | tap u0            | tap h0            | tap g0
#	   |                   |                testpmd, a wire between its two ports
#	   |                   |                   | virtio-user
#	+--+-------------------+-------------------+--+
#	| up0 (uplink)        host (ethdev)       vm1 |  dvmqd
#	+---------------------------------------------+
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

file_mb=10
for ns in net host guest; do
	netns_add $ns
	dd if=/dev/urandom of="$scratch/$ns.file" bs=1M count=$file_mb status=none
done

dvmqd_start - <<END
[dvmqd]
workers = $A,$B
control = $A
[uplink up0]
device = net_tap0,iface=u0
[port host]
type = ethdev
device = net_tap1,iface=h0
$(conf_guest 1)
[balance]
mode = off
END

testpmd() { # the tap's frames into the ring and back; it ends when it can read something
	exec stdbuf -oL dpdk-testpmd --no-huge -m 256 --no-pci --no-telemetry --file-prefix=testpmd --single-file-segments \
		--lcores "0@$A,1@($A,$B)" --main-lcore 0 --vdev "net_virtio_user0,path=$scratch/vm1.sock,server=1" \
		--vdev net_tap0,iface=g0 -- --forward-mode=io --no-lsc-interrupt --total-num-mbufs=8192 \
		<"$scratch/.never"
}
spawn testpmd testpmd
wait_until grep -q "Press enter" "$scratch/testpmd.log" # its tap may move away only now
tap_up u0 10.0.0.1/24 net
tap_up h0 10.0.0.2/24 host
tap_up g0 10.0.0.3/24 guest
wait_until ctlq '.[] | select(.port == "vm1").up' show port stats all

pings() { # pings NETNS ADDRESS: five of five answers
	in_ns "$1" ping -c 5 -i 0.2 -w 30 "$2" | grep ' 0% packet loss'
}
declare -A address=([net]=10.0.0.1 [host]=10.0.0.2 [guest]=10.0.0.3)

cat >"$scratch/exchange.py" <<'END'
# exchange.py ADDRESS FILE [READY]: a server if it is to make the file READY. Sends FILE, receives another
# at the same time, and prints the SHA-256 sum of what it has received.
import hashlib, socket, sys, threading
address, path, ready = (*sys.argv[1:], None)[:3]
if ready:
    listener = socket.create_server((address, 5000))
    open(ready, "w").close()
    connection, _ = listener.accept()
else:
    connection = socket.create_connection((address, 5000))
def send():
    with open(path, "rb") as file:
        connection.sendfile(file)
    connection.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send)
sender.start()
received = hashlib.sha256()
while data := connection.recv(65536):
    received.update(data)
sender.join()
print(received.hexdigest())
END

sum_of() {
	local sum
	sum=$(sha256sum "$scratch/$1.file")
	echo "${sum%% *}"
}

# exchange CLIENT SERVER QUEUE...: both files, while the queues move
exchange() {
	local client=$1 server=$2 moves=0 queue
	shift 2
	rm -f "$scratch/ready" "$scratch"/{client,server}.log
	spawn server in_ns "$server" python3 "$scratch/exchange.py" "${address[$server]}" "$scratch/$server.file" "$scratch/ready"
	wait_until [ -e "$scratch/ready" ]
	spawn client in_ns "$client" python3 "$scratch/exchange.py" "${address[$server]}" "$scratch/$client.file"
	while running client; do
		for queue in "$@"; do
			ctl set queue "$queue" core $((moves++ / $# % 2 ? A : B))
		done
	done
	await client
	await server
	((moves >= 10)) || fail "only $moves moves meanwhile"
	check "$client to $server: $file_mb MB whole, $moves moves" [ "$(<"$scratch/server.log")" = "$(sum_of "$client")" ]
	check "$server to $client: the same" [ "$(<"$scratch/client.log")" = "$(sum_of "$server")" ]
}

for from in net host guest; do
	for to in net host guest; do
		[ $from = $to ] || check "$from reaches $to" pings $from "${address[$to]}"
	done
done
for port in up0 host vm1; do
	check "the switch has learned who is behind $port" \
		ctlq "any(.[]; .port == \"$port\" and .static == false)" show fdb
done
exchange net host up0/rx0 host/rx0
exchange net guest up0/rx0 vm1/tx0
exchange guest host vm1/tx0 host/rx0

# TCP repairs what the switch would spoil, but counts it.
checksum_errors() {
	awk '$1 == "Tcp:" && !names { names = split($0, name); next } $1 == "Tcp:" { for (i = 2; i <= names; i++)
		if (name[i] == "InCsumErrors") print $i }' <(in_ns "$1" cat /proc/net/snmp)
}
for ns in net host guest; do
	check "no segment arrived damaged in $ns" [ "$(checksum_errors $ns)" = 0 ]
done
