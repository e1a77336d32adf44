# SPDX-License-Identifier: BSD-3-Clause
"""Host side of test_numa.sh: asks for what happened, by a shell in the guest; the order of its steps is the test."""
import json
import os
import socket
import time

NODE = {0: 0, 1: 0, 2: 0, 4: 1, 5: 1, 16: 1}  # of the workers; 16 is on CPU 6
SIBLING = {0: 1, 1: 0, 4: 5, 5: 4}  # the others' are no workers
NEAR, FAR = ([f"{side}{i}/tx0" for i in (1, 2, 3)] for side in ("near", "far"))
PINNED = "near1/tx0"
DEEDS = ("move", "activate", "park")
ROUNDS = 3
LIMIT = 120  # seconds, ends a test that is broken anyway


class Shell:
    """A shell in the guest, at the other end of a serial line."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(LIMIT)
        self.count = 0

    def run(self, command):
        """What a command that succeeds prints."""
        self.count += 1
        self.socket.sendall(f"{command}\necho :$?:{self.count}:\n".encode())
        end, text = f":{self.count}:\n", ""
        while not text.endswith(end):
            text += self.socket.recv(65536).decode().replace("\r", "")
        text, rc = text[:-len(end)].rsplit(":", 1)
        assert rc == "0", f"{command}: exit code {rc}: {text}"
        return text


class Switch:
    """dvmqd in there."""

    def __init__(self, shell):
        self.shell = shell
        self.ctl = os.environ["DVMQ_BUILD"] + "/tools/dvmqctl -s /run/dvmq.sock -w 60"
        self.totals = dict.fromkeys(DEEDS, 0)
        self.awake = set(NODE)  # for the balancer, as of decisions(); while it is off, all are

    def do(self, command):
        self.shell.run(f"{self.ctl} {command}")

    def show(self, what, key):
        """A list of objects as a dictionary by one of their keys."""
        return {row[key]: row for row in json.loads(self.shell.run(f"{self.ctl} -j show {what}"))}

    def cores_of(self, queues):
        rows = self.show("queue all", "queue")
        return {queue: rows[queue]["core"] for queue in queues}

    def polling(self):
        return {core for core, row in self.show("core all", "core").items() if row["state"] != "parked"}

    def balance(self):
        return json.loads(self.shell.run(f"{self.ctl} -j show balance"))

    def decided(self, action):
        """How often, since decisions() was asked before."""
        return self.balance()["totals"][action] - self.totals[action]

    def decisions(self):
        """The decisions since this was asked before, oldest first."""
        balance = self.balance()
        known, self.totals = self.totals, balance["totals"]
        new = sum(self.totals[action] - known[action] for action in DEEDS)
        deeds = [d for d in balance["decisions"] if d["action"] in DEEDS]
        assert new <= len(deeds), "more decisions than are kept"
        return deeds[len(deeds) - new:]

    def follow(self, nodes):
        """
        Which cores woke since decisions() was asked before; each was the right one for one of the nodes, that of the
        queues with load.
        """
        woke = []
        for deed in self.decisions():
            core = deed["to"]
            assert deed["thing"] != PINNED, deed
            if deed["action"] == "activate":
                # The load as a whole, without an overloaded core, has no node.
                near = nodes + ([None] if deed["reason"].startswith("load ") else [])
                right = {best_to_wake(self.awake, node) for node in near}
                assert core in right, f"with {self.awake} awake, {right} should wake: {deed}"
                self.awake.add(core)
                woke.append(core)
            elif deed["action"] == "park":
                self.awake.remove(deed["from"])
        return woke


def await_that(what, condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
    print(f"ok - {what}", flush=True)


def check(what, ok, *seen):
    assert ok, f"{what}: {seen}"
    print(f"ok - {what}", flush=True)


class Guests:
    """The three guests of a node, played by dvmq-traffic on a CPU of that node."""

    def __init__(self, shell, name, cpu):
        self.shell, self.log = shell, f"/run/{name}.log"
        traffic = os.environ["DVMQ_BUILD"] + "/tools/dvmq-traffic"
        self.pid = shell.run(f"taskset -c {cpu} {traffic} --dir /run --names {name} --guests 3 --mode server "
                             f"--uplink none --traffic v2v=1 --seconds 0 --wait 60 >{self.log} 2>&1 & echo $!").strip()

    def said(self, event):
        for line in self.shell.run(f"cat {self.log}").splitlines():
            if line.startswith("{") and json.loads(line)["event"] == event:
                return json.loads(line)
        return None

    def signal(self, name):
        self.shell.run(f"kill -{name} {self.pid}")


def best_to_wake(awake, node):
    """As docs/balancer.md has it: a core whose sibling sleeps, near the node, lowest number."""
    parked = [core for core in NODE if core not in awake]
    return min(parked, key=lambda core: (SIBLING.get(core) in awake, node is not None and NODE[core] != node, core))


def where_things_are(switch, near, far):
    cores = switch.show("core all", "core")
    check("workers know their node, and their sibling",
          cores.keys() == NODE.keys() and
          all(row["numa"] == NODE[core] and row["sibling"] == SIBLING.get(core) for core, row in cores.items()), cores)
    await_that("the guests send", lambda: near.said("start") and far.said("start"))
    numa = {name: row["numa"] for name, row in switch.show("port all", "port").items()}
    expected = {"up0": 1} | {f"near{i}": 0 for i in (1, 2, 3)} | {f"far{i}": 1 for i in (1, 2, 3)}
    check("a NIC has the node of its slot, a guest that of its memory", numa == expected, numa)
    cores = switch.cores_of(["up0/rx0", "up0/rx1"] + NEAR + FAR)
    check("a queue starts on its node",
          all(NODE[core] == expected[queue.split("/")[0]] for queue, core in cores.items()), cores)


def moves_between_nodes(switch):
    moves = "\n".join(f"set queue {queue} core {core}" for _ in range(ROUNDS) for core in (0, 4, 1, 5, 2, 16)
                      for queue in NEAR + FAR)
    switch.shell.run(f"cat >/run/moves <<END\n{moves}\nEND")
    before = switch.show("queue all", "queue")
    switch.do("-f /run/moves || true")  # a CPU that the host lends to others may not answer within the second it has
    after = switch.show("queue all", "queue")
    check("queues move between the nodes, under load",
          all(after[q]["moves"] - before[q]["moves"] >= 3 * ROUNDS and after[q]["packets"] > before[q]["packets"]
              for q in NEAR + FAR), after)


def all_park(switch, nodes, *sides):
    """Without load."""
    for side in sides:
        side.signal("STOP")  # a guest that does not run for a while: its rings stay

    def all_are_parked():
        switch.follow(nodes)
        return switch.awake == {0}

    await_that("without load all cores park but that of the pinned queue", all_are_parked)
    await_that("which has all queues",
               lambda: set(switch.cores_of(NEAR + FAR).values()) == {0} and switch.polling() == {0})


def queues_prefer_their_node(switch, far):
    """Every core is awake and empty but core 0, which has all queues: those of the other node go there."""
    for core in NODE:
        switch.do(f"set core {core} activate")
        switch.awake.add(core)
    switch.decisions()
    far.signal("CONT")
    await_that("an overloaded core gives queues away", lambda: switch.decided("move") >= 1)
    first = switch.decisions()[0]
    check("to the node of their memory", first["thing"] in FAR and NODE[first["to"]] == 1, first)
    for core in NODE:
        switch.do(f"set core {core} auto")


def cores_wake(switch, nodes, n, *sides):
    for side in sides:
        side.signal("CONT")
    woke = []

    def enough():
        woke.extend(switch.follow(nodes))
        return len(switch.awake) >= n

    await_that(f"{n} cores are awake under load", enough)
    print(f"ok - each time the right one woke: {woke}", flush=True)


def main(lab):
    lab.wait("NICLAB-START", LIMIT)
    shell = Shell(os.environ["DVMQ_LAB_SHELL"])
    switch = Switch(shell)
    switch.show("core all", "core")  # awaits it
    near, far = Guests(shell, "near", 3), Guests(shell, "far", 7)

    where_things_are(switch, near, far)
    moves_between_nodes(switch)

    switch.do(f"set queue {PINNED} core 0")
    switch.do(f"set queue {PINNED} pin")
    switch.decisions()
    switch.do("set balance auto")
    all_park(switch, [], near, far)
    queues_prefer_their_node(switch, far)
    all_park(switch, [1], far)
    cores_wake(switch, [1], 3, far)
    all_park(switch, [1], far)
    cores_wake(switch, [0, 1], 4, near, far)
    check("a pinned queue stays", switch.cores_of([PINNED]) == {PINNED: 0})
    all_park(switch, [0, 1], near, far)

    for side in near, far:
        side.signal("TERM")
        side.signal("CONT")
    await_that("the guests end", lambda: near.said("final") and far.said("final"))
    for side in near, far:
        final = side.said("final")
        check(f"{final['received']} frames arrived once and in order", final["sent"] == final["received"] > 0 and
              not any(final[wrong] for wrong in ("lost", "reordered", "duplicated", "late", "corrupt", "foreign")), final)
    shell.run("killall dvmqd")
