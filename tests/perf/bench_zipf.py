# SPDX-License-Identifier: BSD-3-Clause
"""Few queues for many guests, whose load is Zipf-distributed and changes: how much of it has a queue of its own?"""
import os
import random
import time

from bench_daemon import shared, two_workers
from scene import Dvmqd, Scene

GUESTS = 64
QUEUES = 16        # beside the default one; and soft queues for one default queue, DVMQ_RELIEF_PER_QUEUE
RATE = 100_000     # packets per second: what the switch does must not depend on its speed
SIZE = 200
BEGIN_S = 5        # until the planner's seconds have met those of the load; docs/balancer.md


class Zipf(Dvmqd):
    """A dvmqd with a NIC that sorts (tests/nic/sorter.c), or with one that cannot."""

    def __init__(self, bench, name, steering):
        super().__init__(bench, name, f"{bench.build}/dvmqd")
        self.steering = steering
        if steering == "flow":
            os.mkfifo(f"{self.directory}/nic")
            self.environment = {"LD_PRELOAD": f"{bench.build}/tests/nic/sorter.so", "SORTER": self.directory}
        else:
            self.workers = two_workers()
            # The default queue is hot then on any machine, also if it has nothing to do but to fill soft queues.
            self.balance = {"high": 0.01, "target": 0.009, "margin": 0.005}
        for _ in range(GUESTS):
            self.guest("receive", slots=256)
        self.memif_uplink(range(1, GUESTS + 1), tx=1, slots=256, size=SIZE, credit=1, rate=0)
        _, device, _ = self.uplink
        self.uplink = (QUEUES + 1 if steering == "flow" else 1, device, [])

    def by_port(self, command, key):
        return {row["port"]: row[key] for row in self.ask(command)}


def shuffle(guests, side, order):
    weights = [1 / (k + 1) for k in range(GUESTS)]
    order.shuffle(weights)
    guests.say(f"rates {side.name} " + " ".join(f"{RATE * w / sum(weights):.1f}" for w in weights))


class Changes:
    """Times at which ports got or lost queues."""

    def __init__(self, side, since=0):
        self.side, self.since, self.seen = side, since, set()

    def look(self):
        for d in self.side.ask("show balance")["decisions"]:
            if d["action"] in ("promote", "demote") and d["time"] >= self.since:
                self.seen.add((d["thing"], d["time"]))

    def most_in_a_second(self):
        """Of one port, in any second. Times are shown in steps of 0.01 s."""
        return max((sum(port == other and end - 0.98 < t <= end for other, t in self.seen) for port, end in self.seen),
                   default=0)


class Received:
    """What each guest got by queues of its own, in packets: soft ones come and go, and their counters with them."""

    def __init__(self, side):
        self.side, self.seen = side, {}
        self.soft = {name: 0 for name, _ in side.guests}

    def look(self):
        """{guest: (bytes, bytes by queues of its own)} until now"""
        every = self.side.by_port("show port stats all", "tx_packets")
        default = self.side.by_port("show vmq all", "by_default")
        now = {q["queue"]: (q["port"], q["packets"]) for q in self.side.ask("show queue all") if q["kind"] == "soft"}
        for queue, (port, n) in now.items():
            before = self.seen.get(queue, (port, 0))[1]
            self.soft[port] += n - before if n >= before else n
        self.seen = now
        return {port: (every[port] * SIZE, (every[port] - default[port] + self.soft[port]) * SIZE) for port in default}


def run(guests, side, seconds):
    """What Received tells of each second, and the changes."""
    changes, order, rows, received = Changes(side), random.Random(1), [], Received(side)
    for second in range(-BEGIN_S, seconds):
        if second == 0:
            changes = Changes(side, time.time())
        shuffle(guests, side, order)
        start = received.look()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            time.sleep(min(0.1, max(end - time.monotonic(), 0)))
            now = received.look()
            changes.look()
        if second >= 0:
            rows.append({port: tuple(b - a for a, b in zip(start[port], now[port])) for port in start})
    return rows, changes


def scene_of(bench, side, seconds):
    bench.need_memory([side])
    with Scene(bench, [side], "--stamp", *shared()) as guests:
        guests.ask(f"start {side.name}")
        result = run(guests, side, seconds)
        guests.say(f"rate {side.name} 0")
        time.sleep(1)
        return *result, guests.ask("stop")


def tell(bench, case, rows, changes, final, note=""):
    """Bytes by own queues against the best choice, changes, and order."""
    best = sum(sum(sorted((b for b, _ in row.values()), reverse=True)[:QUEUES]) for row in rows)
    every = sum(b for row in rows for b, _ in row.values())
    own = sum(o for row in rows for _, o in row.values())
    first = sum(b for row in rows for port, (b, _) in row.items() if int(port[2:]) <= QUEUES)
    bench.row("zipf", case, "best choice", "by own queues", 100 * best / every, "% of all",
              note=f"the {QUEUES} largest of each second, known beforehand; {len(rows)} s")
    bench.row("zipf", case, "A", "of best choice", 100 * own / best, "%", note=note)
    bench.row("zipf", case, "first come", "of best choice", 100 * first / best, "%",
              note=f"vm1 to vm{QUEUES} keep theirs; the same bytes")
    bench.row("zipf", case, "A", "changes", len(changes.seen) / GUESTS / len(rows), "a port and second")
    bench.row("zipf", case, "A", "most changes", changes.most_in_a_second(), "of a port in 1 s")
    bench.row("zipf", case, "A", "packets", final["packets"], "", note=f"{RATE / 1e3:.0f} kpps offered")
    for key in ("lost", "reordered", "duplicated", "under_way"):
        bench.row("zipf", case, "A", key, final[key], "packets")


def zipf(bench):
    """64 guests, 16 NIC or soft queues, Zipf load in another order each second: share of the best choice, changes"""
    seconds = 3 if bench.quick else 30
    for _ in range(bench.repeat):
        tell(bench, f"{GUESTS} guests, {QUEUES} queues", *scene_of(bench, Zipf(bench, "A", "flow"), seconds))
        tell(bench, f"{GUESTS} guests, software", *scene_of(bench, Zipf(bench, "A", "software"), seconds),
             note="high = 0.01, that the default queue is hot; 2 workers")


BENCHMARKS = {"zipf": zipf}
