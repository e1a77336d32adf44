#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# quick
#
# What is wrong is refused with its place, its reason and a remedy; who dies disturbs nobody else, and comes back.
#
#	first dvmq-traffic              dvmqd                      first dvmq-traffic
#	network ===== up0 rx0 ... rx2 |       | vm1, vm2 ---------- guests
#	                              |       | w1, w2 (VLAN 200) - guests of a second dvmq-traffic, which is killed
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

conf=$scratch/bad.conf

# refuses DESCRIPTION REGEX OPTION...: dvmqd with $conf (from stdin) ends with exit code 1 and says what the regex has
refuses() {
	local description=$1 regex=$2 rc=0
	cat >"$conf"
	shift 2
	timeout 60 "$DVMQ_BUILD/dvmqd" "$@" >"$scratch/refused" 2>&1 </dev/null || rc=$?
	if ((rc != 1)) || ! grep -Eq "$regex" "$scratch/refused"; then
		cat "$scratch/refused"
		fail "$description: exit code $rc; expected 1 and: $regex"
	fi
	say "ok - $description"
}

# --- configurations ---------------------------------------------------------------------------------
wrong() { # wrong DESCRIPTION LINE REGEX: --check-config names file and line
	refuses "$1" "bad\.conf:$2: $3" --check-config -c "$conf"
}
wrong "an unknown key" 2 '\[dvmqd\] sockett: unknown key, did you mean "socket"' <<END
[dvmqd]
sockett = /x
END
wrong "an unknown section" 3 '.*dvmqdd: unknown section' <<END
[dvmqd]
control = $A
[dvmqdd]
END
wrong "a key of another type of port" 4 '\[port a\] device: a port of type vhost has no such key' <<END
[port a]
type = vhost
socket = $scratch/a.sock
device = net_tap0
END
wrong "a MAC address twice" 7 '\[port b\] mac: ports vm1 and b both have' <<END
$(conf_guest 1)
[port b]
type = vhost
mac = $(mac_of 1)
socket = $scratch/b.sock
END
wrong "a NIC queue that does not exist" 8 '\[port vm1\] vmq: .*queue 9 does not exist, uplink up0 has queues 0\.\.3' <<END
[uplink up0]
device = net_null0
queues = 4
steering = static
$(conf_guest 1 | head -n 3)
vmq = 9
END
wrong "a key without a value" 2 '\[balance\] high: the value is empty' <<END
[balance]
high =
END
wrong "a line that is nothing" 2 '"nonsense" is neither' <<END
[dvmqd]
nonsense
END
refuses "no such file" "$scratch/none: No such file" --check-config -c "$scratch/none" </dev/null
conf_switch 5 static >"$conf"
conf_guests 4 >>"$conf"
check "a good configuration is good" "$DVMQ_BUILD/dvmqd" --check-config -c "$conf"

# --- starts that cannot succeed -----------------------------------------------------------------------
refuses_to_start() { # refuses_to_start DESCRIPTION REGEX [MEMORY_MIB [SOCKET]]
	refuses "$1" "$2" --no-pci --no-huge -m "${3:-512}" --file-prefix=bad -- -c "$conf" -s "${4:-$scratch/bad.sock}"
}
daemon="[dvmqd]
workers = $A,$B
control = $A"
echo precious >"$scratch/file"
for where in port control; do
	socket=$scratch/bad.sock
	[ $where = port ] || socket=$scratch/file
	refuses_to_start "a regular file at the path of a $where socket" "$scratch/file.* is not a socket; remove it" 512 \
		"$socket" <<-END
		$daemon
		$([ $where = control ] || printf '[port a]\ntype = vhost\nmode = server\nsocket = %s\n' "$scratch/file")
	END
	check "and the file is as it was" grep -q precious "$scratch/file"
done
refuses_to_start "more queues than the device has" \
	'up0: queues = 99, but .* has [0-9]+ RX queues; lower it' <<END
$daemon
[uplink up0]
device = net_tap0
queues = 99
END
refuses_to_start "a device that does not exist" 'up0: device net_nothing0 cannot be probed' <<END
$daemon
[uplink up0]
device = net_nothing0
END
refuses_to_start "a folder that does not exist" 'port a: cannot open .*; see the VHOST_CONFIG line above' <<END
$daemon
[port a]
type = vhost
mode = server
socket = $scratch/none/a.sock
END
refuses_to_start "too little memory" 'no memory for [0-9]+ packet buffers.*-m MiB' 32 < <(conf_switch 5 static && conf_guests 4)
check "nothing is left of those starts" [ ! -e "$scratch/bad.sock" ]

# --- the daemon for the rest --------------------------------------------------------------------------
w_ports="type = vhost
vlan = 200
mode ="
dvmqd_start - <<END
$(conf_switch 3 static)
$(conf_guests 2)
[port w1]
socket = $scratch/w1.sock
$w_ports client
[port w2]
socket = $scratch/w2.sock
$w_ports client
END

refuses_to_start "a second daemon at the same control socket" "$SOCK: dvmqd runs there already as process ${pids[dvmqd]}; stop it" 512 "$SOCK" <<<"$daemon"
check "the first one still answers" ctl show core all

refused() { # refused DESCRIPTION REGEX COMMAND...
	local rc=0
	ctl "${@:3}" >"$scratch/refused" 2>&1 || rc=$?
	if ((rc != 1)) || ! grep -Eq "$2" "$scratch/refused"; then
		fail "$1: exit code $rc, $(<"$scratch/refused")"
	fi
	say "ok - $1"
}
refused "a command that does not exist" . shwo port all
refused "a queue that does not exist" 'no queue up0/rx9; "show queue all"' set queue up0/rx9 core "$A"
refused "a core that is no worker" 'core 999 is no worker; "show core all"' set queue up0/rx0 core 999
refused "a port that does not exist" 'no port nobody' port del nobody
refused "a port twice" 'the name vm1 is taken' port add vhost vm1 "socket=$scratch/x.sock"
refused "a key that does not exist" 'speed: unknown key' port add vhost x "socket=$scratch/x.sock" speed=1
refused "a new port at a regular file" 'is not a socket' port add vhost x "socket=$scratch/file" mode=server
refused "an uplink that is to go" 'is an uplink' port del up0
check "no port came of that" ctlq 'length == 5' show port all
rc=0
ctl -s "$scratch/none.sock" show core all 2>/dev/null || rc=$?
check "no daemon: exit code 2" [ $rc = 2 ]

# --- guests that die, ports that go and come -----------------------------------------------------------
second_start() { # second_start MODE
	: >"$scratch/second.log"
	spawn second "$DVMQ_BUILD/tools/dvmq-traffic" --dir "$scratch" --names w --uplink none --mode "$1" --wait 60 \
		--traffic v2v=1 --seconds 0
	wait_until -t 60 grep -q '"event":"start"' "$scratch/second.log"
	progress w1
}
second_delivered() { # and ends: all of it in order
	stop second || fail "guests that came back: $(tail -n 1 "$scratch/second.log")"
	say "ok - $1"
}
second_killed() {
	progress vm1
	stop second KILL || true
	wait_until ctlq 'map(select(.port == ("w1", "w2")).up) == [false, false]' show port stats all
	progress vm1
}

traffic_start --guests 2 --uplink-queues 3 --steer --traffic p2v=1,v2p=1,v2v=1
second_start client
second_killed
second_start client
second_delivered "killed guests came back"

second_start client
ctl port del w1
ctl port del w2
check "ports are gone" ctlq 'map(.port) == ["up0", "vm1", "vm2"]' show port all
progress vm1
stop second KILL || true
for port in w1 w2; do
	ctl port add vhost $port "socket=$scratch/$port.sock" mode=server vlan=200
done
second_start server
second_killed
second_start server
second_delivered "ports that were added serve guests, also after a kill"
check "what came in went out or was dropped, deleted ports included" sums_agree <(ctlj show port stats all)
traffic_stop p2v v2p v2v # nobody else was disturbed

# --- dvmqd dies ------------------------------------------------------------------------------------------
traffic_start --guests 2 --uplink-queues 3 --steer --traffic p2v=1,v2p=1,v2v=1 --interval 0.2
ctl save config "$scratch/saved.conf"
stop dvmqd KILL || true
for socket in "$SOCK" "$scratch/w1.sock"; do
	check "a stale ${socket##*/} is left" [ -S "$socket" ]
done
links_down() { [ "$(grep -c '"event":"link".*"up":false' "$scratch/traffic.log")" -ge 3 ]; }
wait_until -t 60 links_down
dvmqd_start "$scratch/saved.conf"
links_up() { [ "$(grep -c '"event":"link".*"up":true' "$scratch/traffic.log")" -ge 6 ]; }
wait_until -t 60 links_up
received() { grep '"event":"interval"' "$scratch/traffic.log" | tail -n 1 | jq .received; }
before=$(received)
more_received() { (($(received) > before + 10000)); }
wait_until -t 60 more_received
say "ok - guests and network work on with a new dvmqd"
second_start server
second_delivered "a new guest works on a socket that was stale"
stop traffic || true # what was on its way when dvmqd died is lost, but
check "nothing came twice or out of order" [ "$(traffic_final '"\(.reordered) \(.duplicated)"')" = "0 0" ]
dvmqd_stop
for socket in "$SOCK" "$scratch/w1.sock"; do
	check "${socket##*/} is gone" [ ! -e "$socket" ]
done
