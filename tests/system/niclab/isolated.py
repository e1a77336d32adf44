# SPDX-License-Identifier: BSD-3-Clause
"""Host side of test_flow_isolated.sh: puts frames on the wire of the NIC, reads dvmqd's prompt and what the kernel answers."""
import os
import re
import socket
import struct
import sys

from lab import eth, mac, udp

sys.path.insert(0, os.path.dirname(__file__))
from prompt import Prompt  # beside this file

FRAMES = 8
HOST, VM1, VM2, NOBODY = "52:54:00:00:00:01", "52:54:00:00:01:01", "52:54:00:00:01:02", "52:54:00:00:02:01"
BROADCAST, IPV6_ND = "ff:ff:ff:ff:ff:ff", "33:33:ff:12:34:56"
NETWORK = "02:00:00:00:00:99"


class Test(Prompt):
    def packets(self):
        """Of each queue of the uplink."""
        rows = re.findall(r"^(up0/rx\d) +\S+ +\S+ +\S+ +\S+ +(\d+) ", self.command("show queue all"), re.M)
        return {queue: int(n) for queue, n in rows}

    def sent(self, **counts):
        """Sends to each address and, behind it, to vm2, which is awaited: what comes at all has come then."""
        before = self.packets()
        for dst, count in counts.items():
            for _ in range(count):
                self.lab.send(0, udp(globals()[dst]))
        for _ in range(FRAMES):
            self.lab.send(0, udp(VM2))
        for _ in range(50):  # every look takes as long as the emulated machine needs for it
            now = self.packets()
            if now["up0/rx0"] >= before["up0/rx0"] + FRAMES:
                break
        for _ in range(2):  # and what is in another queue
            now = self.packets()
        return {queue: now[queue] - before[queue] for queue in before}

    def kernel_answers(self):
        """An ARP request to the NIC's own address."""
        arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac(NETWORK), socket.inet_aton("10.0.0.1"), bytes(6),
                          socket.inet_aton("10.0.0.2"))
        for _ in range(20):
            self.lab.send(0, eth(HOST, src=NETWORK, ethertype=0x0806, payload=arp))
            while frame := self.lab.recv(0, timeout=1):
                if frame[:6] == mac(NETWORK) and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
                    return True
        return False


def check(test):
    for wanted, counts in (
        ({"up0/rx0": FRAMES, "up0/rx1": 0}, {}),
        ({"up0/rx0": FRAMES, "up0/rx1": FRAMES}, {"VM1": FRAMES}),
        ({"up0/rx0": 2 * FRAMES, "up0/rx1": 0}, {"BROADCAST": FRAMES}),
        ({"up0/rx0": 2 * FRAMES, "up0/rx1": 0}, {"IPV6_ND": FRAMES}),
        ({"up0/rx0": FRAMES, "up0/rx1": 0}, {"NOBODY": FRAMES}),
        ({"up0/rx0": FRAMES, "up0/rx1": 0}, {"HOST": FRAMES}),
    ):
        got = test.sent(**counts)
        assert got == wanted, f"{counts}: {got}, not {wanted}"
    assert test.kernel_answers(), "the kernel does not answer"


def main(lab):
    test = Test(lab)
    lab.wait(r"dvmqd> ", 90)
    test.command("set port vm2 vmq 0")  # it stays at the default queue
    rules = test.command("flow list up0")
    for rule in rf"1 .* groups +- +up0/rx0", rf"1 .* {VM1} +0 +up0/rx0", rf"0 .* {VM1} +0 +up0/rx1", rf"1 .* {VM2} +0 +up0/rx0":
        assert re.search(rule, rules), f"{rule}: {rules}"
    check(test)

    # A restart of the device takes its rules with it, but it stays isolated.
    assert "refuse" not in test.command("port reset up0"), "no reset"
    check(test)

    # Without a queue of its own the default queue has it at once; without the port the host.
    test.command("set port vm1 vmq 0")
    assert test.sent(VM1=FRAMES) == {"up0/rx0": 2 * FRAMES, "up0/rx1": 0}
    test.command("port del vm1")
    assert test.sent(VM1=FRAMES) == {"up0/rx0": FRAMES, "up0/rx1": 0}
    rules = test.command("flow list up0")
    assert VM1 not in rules and VM2 in rules, rules
    lab.type("quit")
