#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Access VLANs: tagged on the uplink, untagged in the port, and nothing passes between VLANs.
#
#	taps of this netns, by AF_PACKET       afterwards: dvmq-traffic
#	  u0 --- up0    dvmqd                  network, tags ===== up0 rx0 ... rx3
#	                no vlan  --- t0        vm1, vm2 in VLAN 100, vm3 in VLAN 200
#	                vlan 100 --- t1
#	                vlan 200 --- t2, with the MAC address of t1
#	                vlan 100 --- t3
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

conf_tap() { # conf_tap NUMBER [KEY=VALUE...]
	printf '[port t%u]\ntype = ethdev\ndevice = net_tap1%u,iface=t%u\n' "$1" "$1" "$1"
	printf '%s\n' "${@:2}"
}

dvmqd_start - <<END
[dvmqd]
workers = $A,$B
control = $A
[uplink up0]
device = net_tap0,iface=u0
$(conf_tap 0)
$(conf_tap 1 "vlan = 100" "mac = 52:54:00:00:00:aa")
$(conf_tap 2 "vlan = 200" "mac = 52:54:00:00:00:aa")
$(conf_tap 3 "vlan = 100")
END
for tap in u0 t0 t1 t2 t3; do
	echo 1 >/proc/sys/net/ipv6/conf/$tap/disable_ipv6
	ip link set dev $tap up
done

cat >"$scratch/vlan.py" <<'END'
import select, socket, struct, subprocess, sys, time

PORTS = ("u0", "t0", "t1", "t2", "t3")
SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING, TP_STATUS_VLAN_VALID = 263, 8, 4, 1 << 4
TEST_TYPE = 0x88b5 # for experiments
BROADCAST, ONE_MAC, OTHER, STRANGER = "ffffffffffff", "5254000000aa", "5254000000bb", "5254000000cc"

sockets, seen, serial, failures = {}, {}, 0, 0
for port in PORTS:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((port, 0))
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.setblocking(False)
    sockets[port] = s

def send(port, dst, tag=None, src="525400000001"):
    """Returns the number of the frame. tag: VLAN, or the 16 bits of a tag."""
    global serial
    serial += 1
    head = bytes.fromhex(dst + src) + (struct.pack("!HH", 0x8100, tag) if tag is not None else b"")
    sockets[port].send(head + struct.pack("!HI", TEST_TYPE, serial) + bytes(50))
    return serial

def tag_of(frame, ancillary):
    """What stands in front of the type: the kernel takes tags off and says so beside."""
    for level, kind, data in ancillary:
        status, tci = struct.unpack("=I12xH2x", data[:20]) if (level, kind) == (SOL_PACKET, PACKET_AUXDATA) else (0, 0)
        if status & TP_STATUS_VLAN_VALID:
            return tci, frame[12:]
    if frame[12:14] == b"\x81\x00":
        return struct.unpack("!H", frame[14:16])[0], frame[16:]
    return None, frame[12:]

def receive():
    for s in select.select(list(sockets.values()), [], [], 0.1)[0]:
        frame, ancillary, _, address = s.recvmsg(2048, 256)
        tag, rest = tag_of(frame, ancillary)
        if address[2] == PACKET_OUTGOING or struct.unpack("!H", rest[:2])[0] != TEST_TYPE:
            continue
        number = struct.unpack("!I", rest[2:6])[0]
        seen.setdefault(number, set()).add((address[0], tag))

def await_at(number, places):
    end = time.monotonic() + 30
    while not places <= seen.get(number, set()):
        if time.monotonic() > end:
            sys.exit(f"FAIL: a broadcast did not arrive at {places - seen.get(number, set())}")
        receive()

VLAN = {"t0": None, "t1": 100, "t2": 200, "t3": 100}

def barrier(port):
    """What was sent on `port` before is delivered: a broadcast behind it has arrived, and one from the uplink, too."""
    if port != "u0":
        await_at(send(port, BROADCAST), {("u0", VLAN[port])})
    await_at(send("u0", BROADCAST, 100), {("t1", None), ("t3", None)})
    await_at(send("u0", BROADCAST, 200), {("t2", None)})
    await_at(send("u0", BROADCAST), {("t0", None)})

checks = []
def expect(what, port, places, *args, **kwargs):
    number = send(port, *args, **kwargs)
    barrier(port)
    checks.append((what, number, set(places)))

barrier("u0")
for port in PORTS[1:]:
    barrier(port)
T0, T1, T2, T3 = [(port, None) for port in PORTS[1:]]
expect("uplink, VLAN 100: untagged to the port of that VLAN", "u0", {T1}, ONE_MAC, 100)
expect("uplink, VLAN 200, same address: to the other port", "u0", {T2}, ONE_MAC, 200)
expect("uplink, broadcast in VLAN 100", "u0", {T1, T3}, BROADCAST, 100)
expect("uplink, broadcast in VLAN 200", "u0", {T2}, BROADCAST, 200)
expect("uplink, broadcast in a VLAN of nobody", "u0", set(), BROADCAST, 300)
expect("uplink, unknown address in VLAN 200", "u0", {T2}, STRANGER, 200)
expect("uplink, untagged broadcast", "u0", {T0}, BROADCAST)
expect("uplink, tagged for priority only", "u0", {T0}, BROADCAST, 5 << 13)
expect("uplink, VLAN 100 with a priority", "u0", {T1}, ONE_MAC, 5 << 13 | 100)
expect("uplink, untagged to an address of VLAN 100 and 200", "u0", {T0}, ONE_MAC)
expect("VLAN 100, broadcast: tagged on the uplink", "t1", {("u0", 100), T3}, BROADCAST)
expect("VLAN 200, unknown address", "t2", {("u0", 200)}, STRANGER)
expect("VLAN 100 to the address that both VLANs have", "t3", {T1}, ONE_MAC)
expect("no VLAN, broadcast: untagged on the uplink", "t0", {("u0", None)}, BROADCAST)
expect("a port tags for another VLAN", "t1", set(), BROADCAST, 200)
expect("a port tags for its own VLAN", "t1", set(), BROADCAST, 100)
expect("a port tags for priority only", "t1", {("u0", 100), T3}, BROADCAST, 5 << 13)

# An address learned in VLAN 100 is unknown in VLAN 200.
send("t3", BROADCAST, src=OTHER)
end = time.monotonic() + 30
while f'100  52:54:00:00:00:bb' not in subprocess.run(sys.argv[1:], capture_output=True, text=True).stdout:
    if time.monotonic() > end:
        sys.exit("FAIL: the switch does not learn in VLAN 100")
expect("learned in VLAN 100: known there", "u0", {T3}, OTHER, 100)
expect("learned in VLAN 100: unknown in VLAN 200", "u0", {T2}, OTHER, 200)

for what, number, places in checks:
    if seen.get(number, set()) == places:
        print("ok -", what)
    else:
        print(f"FAIL: {what}: arrived at {seen.get(number, set())}, not at {places}")
        failures += 1
sys.exit(failures > 0)
END
python3 "$scratch/vlan.py" "$DVMQ_BUILD/tools/dvmqctl" -s "$SOCK" show fdb || fail "VLANs are not kept apart"
check "frames with a tag that a port may not send are counted" \
	ctlq '.[] | select(.port == "t1").drop_vlan == 2' show port stats all
check "what came in went out or was dropped" sums_agree <(ctlj show port stats all)
dvmqd_stop

# --- guests, at speed; each sees only its own VLAN ---------------------------------------------------
guests() {
	conf_switch 4 static
	conf_guest 1 "vmq = 1" "vlan = 100"
	conf_guest 2 "vmq = 2" "vlan = 100"
	conf_guest 3 "vlan = 200" # by the default queue
}
dvmqd_start - < <(guests)
traffic_start --guests 3 --uplink-queues 4 --steer --vlan 100,100,200 --traffic p2v=1,v2p=1,v2v=1,pvp=1 \
	--packets 30000
traffic_await p2v v2p v2v pvp

# A network that tags with another VLAN reaches nobody, not even over the queue of a guest.
dropped() { # frames, for whatever reason
	ctlq 'map(to_entries | map(select(.key | startswith("drop_")).value) | add) | add' show port stats all
}
for mode in p2v v2p; do
	before=$(dropped)
	traffic_start --guests 3 --uplink-queues 4 --steer --vlan 101,101,201 --traffic $mode=1 --stall 1 --seconds 2
	wait_until ended traffic
	rc=0
	await traffic || rc=$?
	check "$mode, the network in other VLANs: nothing arrives" [ "$rc/$(traffic_final .received)" = 1/0 ]
	[ $mode = v2p ] || check "and each frame is counted as a drop" [ "$(dropped)" -ge $((before + $(traffic_final .sent))) ]
done
