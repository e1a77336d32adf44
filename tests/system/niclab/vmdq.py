# SPDX-License-Identifier: BSD-3-Clause
"""Host side of test_vmdq.sh: puts frames on the wire of the NIC, gets back what the VMs sent, reads dvmqd's prompt."""
import os
import re
import sys
from collections import Counter

from lab import udp

sys.path.insert(0, os.path.dirname(__file__))
from prompt import Prompt  # beside this file

NETWORK = "02:00:00:00:00:99"  # the source of all frames here
BROADCAST, IPV6_ND, UNKNOWN = "ff:ff:ff:ff:ff:ff", "33:33:ff:12:34:56", "52:54:00:00:02:01"
FRAMES = 4
GUESTS = "vm1", "vm2", "vm3"  # testpmd; the other ports swallow what they get


def mac(n):
    return f"52:54:00:00:01:{n:02x}"


class Test(Prompt):
    def __init__(self, lab):
        super().__init__(lab)
        self.serial = 0
        self.on_wire = 0  # packets that the queues will have counted when all that was sent has come
        self.echoes = Counter()  # (source MAC, VLAN, label) of what came out of the NIC

    def table(self, text):
        """The table that a command prints: a dict for each row, by the first column. Messages in between are left out."""
        lines = [line.strip() for line in self.command(text).splitlines() if not line.startswith("\x1b")]
        keys = re.split(r"  +", lines[0])
        rows = [re.split(r"  +", line) for line in lines[1:]]
        return {row[0]: dict(zip(keys, row)) for row in rows if len(row) >= len(keys) - 1}

    def until(self, what, true):
        """Waits for a state; each look takes as long as the emulated machine needs for it."""
        for _ in range(200):
            if true():
                return
        raise AssertionError(f"never: {what}")

    def queues(self):
        return Counter({name: int(row["packets"]) for name, row in self.table("show queue all").items()
                        if name.startswith("up0/")})

    def stats(self, column):
        return Counter({name: int(row.get(column, 0)) for name, row in self.table("show port stats all").items()})

    def send(self, dst, vlan=None, count=FRAMES):
        """Frames with a label of their own, by which what comes back is known."""
        self.serial += 1
        label = b"dvmq-%04d" % self.serial
        for _ in range(count):
            self.lab.send(0, udp(dst, src=NETWORK, vlan=vlan, data=label))
        self.on_wire += count
        return label

    def settle(self):
        self.until("frames sent before", lambda: sum(self.queues().values()) >= self.on_wire)

    def clear(self):
        self.settle()
        self.command("clear stats all")
        self.on_wire = 0

    def collect(self, wanted):
        """Takes what the NIC sent until all that is wanted has come."""
        while any(self.echoes[key] < n for key, n in wanted.items()):
            frame = self.lab.recv(0, timeout=20)
            assert frame, f"wanted {wanted}, got {self.echoes}"
            label = re.search(rb"dvmq-\d{4}", frame)
            if label and frame[:6] == bytes.fromhex(NETWORK.replace(":", "")):
                vlan = int.from_bytes(frame[14:16], "big") if frame[12:14] == b"\x81\x00" else None
                self.echoes[frame[6:12].hex(":"), vlan, label[0]] += 1

    def pass_frames(self, dst, vlan, queues, ports, count=FRAMES):
        """Sends; these queues (and no others) must get them that often, and these ports have been sent them."""
        self.settle()
        before, sent = self.queues(), self.stats("tx_packets")
        wanted = Counter({queue: n * count for queue, n in queues.items()})
        label = self.send(dst, vlan, count)
        self.on_wire += sum(wanted.values()) - count  # the NIC's copies
        try:
            self.until("frames in the queues", lambda: sum((self.queues() - before).values()) >= sum(wanted.values()))
        finally:
            print(f"# {dst} vlan {vlan}: {self.queues() - before}")
        assert self.queues() - before == wanted, f"{dst} VLAN {vlan}: {self.queues() - before}, not {wanted}"
        got = self.stats("tx_packets") - sent
        got.pop("up0", None)
        assert got == Counter({port: count for port in ports}), f"{dst} VLAN {vlan}: sent to {got}, not {ports}"
        self.collect({(mac(int(port[2:])), vlan, label): count for port in ports if port in GUESTS})
        return label

    def own_queue(self, port):
        row = self.table(f"show vmq {port}")[port]
        assert row["steering"] == "vmdq", row
        return row["queues"] if row["effective"] == "1" else None

    def up(self, *ports):
        """In the order in which the guests start."""
        for port in ports:
            self.lab.wait(rf"port {port}: guest connected", 200)
        self.lab.wait(r"dvmqd> ")


def check_sums(test):
    rows = test.table("show port stats all").values()
    came = sum(int(row["rx_packets"]) + int(row.get("flood_copies", 0)) for row in rows)
    went = sum(int(row["tx_packets"]) + sum(int(v) for k, v in row.items() if k.startswith("drop_")) for row in rows)
    assert came == went, f"{came} came, {went} went"


def main(lab):
    test = Test(lab)
    lab.wait(r"queues = 16, but 0000:01:00.0 has 8 VMDq pools: 8 queues are used", 200)
    test.up(*GUESTS)

    # --- seven have a pool, two do not and know why ---
    own = {f"vm{n}": test.own_queue(f"vm{n}") for n in range(1, 10)}
    pools = {f"up0/rx{n}" for n in range(1, 8)}
    assert {own[f"vm{n}"] for n in range(1, 8)} == pools, own
    for late in "vm8", "vm9":
        assert own[late] is None
        assert "all 7 queues of up0 are taken; the NIC has no more" in test.command(f"show vmq {late}"), late

    # --- the guests post buffers a while after they connected ---
    for port, vlan in ("vm1", None), ("vm2", 100), ("vm3", 100):
        test.until(f"{port} takes frames", lambda: test.send(mac(int(port[2:])), vlan, 1) and
                   test.stats("tx_packets")[port] > 0)

    # --- the switch learns where the network is; until then what the VMs send back is flooded ---
    for vlan in None, 100:
        test.until("learned", lambda: test.send(UNKNOWN, vlan, 1) and
                   re.search(rf"^ *{vlan or 0} +{NETWORK} +up0", test.command("show fdb"), re.M))
    learned = b"dvmq-%04d" % test.serial
    test.pass_frames(mac(1), None, {own["vm1"]: 1}, ["vm1"])
    test.pass_frames(mac(2), 100, {own["vm2"]: 1}, ["vm2"])
    test.pass_frames(mac(3), 100, {own["vm3"]: 1}, ["vm3"])
    test.clear()

    # --- a MAC takes its queue, what has none takes the default queue ---
    untagged, everywhere = ["vm1"] + [f"vm{n}" for n in range(4, 10)], {f"up0/rx{n}": 1 for n in range(8)}
    test.pass_frames(mac(5), None, {own["vm5"]: 1}, ["vm5"])
    test.pass_frames(mac(9), None, {"up0/rx0": 1}, ["vm9"])
    test.pass_frames(UNKNOWN, None, {"up0/rx0": 1}, untagged)
    test.pass_frames(UNKNOWN, 100, {"up0/rx0": 1}, ["vm2", "vm3"])
    test.pass_frames(mac(2), 200, {own["vm2"]: 1}, [])  # its MAC, but not its VLAN
    assert all(test.table(f"show vmq vm{n}")[f"vm{n}"]["proven"] == "yes" for n in (1, 2, 3, 5))

    # --- the NIC copies groups into all pools; each VM of the VLAN gets them once ---
    assert test.stats("drop_replica")["up0"] == 0
    test.pass_frames(BROADCAST, None, everywhere, untagged)
    test.pass_frames(BROADCAST, 100, everywhere, ["vm2", "vm3"])
    test.pass_frames(IPV6_ND, None, everywhere, untagged)
    test.pass_frames(IPV6_ND, 100, everywhere, ["vm2", "vm3"])
    assert test.stats("drop_replica")["up0"] == 4 * FRAMES * 7
    check_sums(test)

    # --- a deleted port leaves its pool to the next; its MAC goes to the default queue ---
    for gone in "vm9", "vm8", "vm4":
        test.command(f"port del {gone}")
    untagged = [port for port in untagged if port not in ("vm9", "vm8", "vm4")]
    test.pass_frames(mac(4), None, {"up0/rx0": 1}, untagged)
    test.pass_frames(BROADCAST, None, everywhere, untagged)

    # --- one MAC in two VLANs: it has no pool, and both get their frames ---
    test.command(f"port add vhost twin socket=/run/twin.sock mac={mac(2)} vlan=300")
    assert "port vm2 has its MAC in VLAN 100" in test.command("show vmq twin")
    assert "port twin has its MAC in VLAN 300" in test.command("show vmq vm2")
    # Queues are shared out while there is traffic: that vm2 cannot have one is found out again there.
    test.until("vm2 refused", lambda: test.send(mac(2), 300, 1) and
               re.search(r"refuse +vm2 .*port twin has its MAC", test.command("show balance")))
    test.settle()
    down = test.stats("drop_port_down")["twin"]
    test.pass_frames(mac(2), 300, {"up0/rx0": 1}, [])
    assert test.stats("drop_port_down")["twin"] == down + FRAMES
    test.pass_frames(mac(2), 100, {"up0/rx0": 1}, ["vm2"])
    # What was refused before binds neither the operator nor the plan. The last decision tells who gave it its pool.
    test.command("port del twin")
    test.command("set port vm2 vmq 1")
    own["vm2"] = test.own_queue("vm2")
    test.pass_frames(mac(2), 100, {own["vm2"]: 1}, ["vm2"])
    decisions = re.findall(r"(?:promote|demote|refuse) +vm2 .*", test.command("show balance"))
    assert decisions[-1].endswith(("set by the operator", "its min")), decisions

    # --- a changed MAC: the old one goes to the default queue ---
    test.command("port del vm1")
    test.command(f"port add vhost vm1 socket=/run/vm1.sock mac={mac(17)}")
    test.up("vm1")
    own["vm1"] = test.own_queue("vm1")
    assert own["vm1"] is not None
    test.until("vm1 takes frames", lambda: test.send(mac(17), None, FRAMES) and test.stats("tx_packets")["vm1"] > 0)
    label = test.pass_frames(mac(17), None, {own["vm1"]: 1}, ["vm1"])
    test.collect({(mac(1), None, label): FRAMES})  # testpmd has its old address
    test.pass_frames(mac(1), None, {"up0/rx0": 1}, ["vm1"])  # learned from it since
    test.pass_frames(BROADCAST, None, everywhere, untagged)
    check_sums(test)
    extra = {key: n for key, n in test.echoes.items() if n != FRAMES and key[2] > learned}
    assert not extra, f"came back more often than once: {extra}"
    lab.type("quit")
