# SPDX-License-Identifier: BSD-3-Clause
"""Host side of test_flow.sh: puts frames on the wire of the NIC and reads dvmqd's prompt."""
import os
import re
import sys

from lab import udp

sys.path.insert(0, os.path.dirname(__file__))
from prompt import Prompt  # beside this file

FRAMES = 8


def packets(prompt, queue):
    """Packets of a queue so far."""
    row = re.search(rf"^{queue} +\S+ +(\S+) +\S+ +\S+ +(\d+) ", prompt.command(f"show queue {queue}"), re.M)
    assert row, f"no row of {queue}"
    return row[1], int(row[2])


def main(lab):
    prompt = Prompt(lab)
    lab.wait(r"dvmqd> ", 90)
    row = re.search(r"^vm1 +up0 +flow +1 +1 +(up0/rx\d) +yes +no ", prompt.command("show vmq all"), re.M)
    assert row, "vm1 has no accepted rule"
    own = row[1]
    assert re.search(r"no mac = ", prompt.command("show vmq vm2")), "vm2: no reason"

    for _ in range(FRAMES):
        lab.send(0, udp("52:54:00:00:01:01"))
    for _ in range(50):  # every look takes as long as the emulated machine needs for it
        if packets(prompt, own)[1] >= FRAMES:
            break
    # The guest's own kernel may add a frame of its own; what tap puts there by chance is no proof.
    assert packets(prompt, own)[0] == "vmq" and packets(prompt, own)[1] >= FRAMES, f"{own}: {packets(prompt, own)}"
    assert re.search(rf"^vm1 +up0 +flow +1 +1 +{own} +yes +yes ", prompt.command("show vmq all"), re.M), "not proven"
    rules = prompt.command("flow list up0")
    assert re.search(r"52:54:00:00:01:01 .*" + own, rules), rules

    # A restart of the device takes its rules with it: they are made anew, and sort as before.
    assert "refuse" not in prompt.command("port reset up0"), "no reset"
    row = re.search(r"^vm1 +up0 +flow +1 +1 +(up0/rx\d) +yes ", prompt.command("show vmq all"), re.M)
    assert row, "vm1 has no rule after the reset"
    own = row[1]
    before = packets(prompt, own)[1]
    for _ in range(FRAMES):
        lab.send(0, udp("52:54:00:00:01:01"))
    for _ in range(50):
        if packets(prompt, own)[1] >= before + FRAMES:
            break
    assert packets(prompt, own)[1] >= before + FRAMES, f"after the reset {own}: {packets(prompt, own)}"
    assert len(re.findall(r"52:54:00:00:01:01", prompt.command("flow list up0"))) == 1, "not one rule"

    prompt.command("port del vm1")
    assert "(none)" in prompt.command("flow list up0"), "a rule is left"
    for _ in range(FRAMES):
        lab.send(0, udp("52:54:00:00:01:01"))
    prompt.command("show fdb")
    assert packets(prompt, own)[0] == "default", "the queue is not free again"
    lab.type("quit")
