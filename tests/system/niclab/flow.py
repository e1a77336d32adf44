# SPDX-License-Identifier: BSD-3-Clause
"""Host side of test_flow.sh: puts frames on the wire of the NIC and reads dvmqd's prompt."""
import re

from lab import udp

FRAMES = 8


def command(lab, text):
    """Types a command; what dvmqd printed until its next prompt."""
    begin = lab.pos
    lab.type(text)
    lab.wait(re.escape(text))
    lab.wait(r"dvmqd> ", 60)
    return lab.text[begin:lab.pos]


def packets(lab, queue):
    """Packets of a queue so far."""
    row = re.search(rf"^{queue} +\S+ +(\S+) +\S+ +\S+ +(\d+) ", command(lab, f"show queue {queue}"), re.M)
    assert row, f"no row of {queue}"
    return row[1], int(row[2])


def main(lab):
    lab.wait(r"dvmqd> ", 90)
    row = re.search(r"^vm1 +up0 +flow +1 +1 +(up0/rx\d) +yes +no ", command(lab, "show vmq all"), re.M)
    assert row, "vm1 has no accepted rule"
    own = row[1]
    assert re.search(r"no mac = ", command(lab, "show vmq vm2")), "vm2: no reason"

    for _ in range(FRAMES):
        lab.send(0, udp("52:54:00:00:01:01"))
    for _ in range(50):  # every look takes as long as the emulated machine needs for it
        if packets(lab, own)[1] >= FRAMES:
            break
    # The guest's own kernel may add a frame of its own; what tap puts there by chance is no proof.
    assert packets(lab, own)[0] == "vmq" and packets(lab, own)[1] >= FRAMES, f"{own}: {packets(lab, own)}"
    assert re.search(rf"^vm1 +up0 +flow +1 +1 +{own} +yes +yes ", command(lab, "show vmq all"), re.M), "not proven"
    rules = command(lab, "flow list up0")
    assert re.search(r"52:54:00:00:01:01 .*" + own, rules), rules

    # A restart of the device takes its rules with it: they are made anew, and sort as before.
    assert "refuse" not in command(lab, "port reset up0"), "no reset"
    row = re.search(r"^vm1 +up0 +flow +1 +1 +(up0/rx\d) +yes ", command(lab, "show vmq all"), re.M)
    assert row, "vm1 has no rule after the reset"
    own = row[1]
    before = packets(lab, own)[1]
    for _ in range(FRAMES):
        lab.send(0, udp("52:54:00:00:01:01"))
    for _ in range(50):
        if packets(lab, own)[1] >= before + FRAMES:
            break
    assert packets(lab, own)[1] >= before + FRAMES, f"after the reset {own}: {packets(lab, own)}"
    assert len(re.findall(r"52:54:00:00:01:01", command(lab, "flow list up0"))) == 1, "not one rule"

    command(lab, "port del vm1")
    assert "(none)" in command(lab, "flow list up0"), "a rule is left"
    for _ in range(FRAMES):
        lab.send(0, udp("52:54:00:00:01:01"))
    command(lab, "show fdb")
    assert packets(lab, own)[0] == "default", "the queue is not free again"
    lab.type("quit")
