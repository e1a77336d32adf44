# SPDX-License-Identifier: BSD-3-Clause
"""Few NIC queues for many guests, whose load is Zipf-distributed and changes: how much of it has a queue of its own?"""
import os
import random
import time

from bench_daemon import shared, two_workers
from scene import Dvmqd, Scene

GUESTS = 64
QUEUES = 16        # beside the default one
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
            self.balance = {"high": 0.2, "target": 0.15}
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


def counters(side):
    """{guest: (bytes, bytes by queues of its own)}, and bytes by soft queues that are there now"""
    every, default = side.by_port("show port stats all", "tx_packets"), side.by_port("show vmq all", "by_default")
    soft = {q["queue"]: q["packets"] for q in side.ask("show queue all") if q["kind"] == "soft"}
    return {port: (every[port] * SIZE, (every[port] - default[port]) * SIZE) for port in default}, soft


def run(guests, side, seconds):
    """What counters() tells for each second, bytes by soft queues, and the changes."""
    changes, order, rows, soft = Changes(side), random.Random(1), [], 0
    for second in range(-BEGIN_S, seconds):
        if second == 0:
            changes = Changes(side, time.time())
        shuffle(guests, side, order)
        before, seen = start, _ = counters(side)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            time.sleep(min(0.1, max(end - time.monotonic(), 0)))
            before, last = counters(side)
            if second >= 0:
                soft += sum(n - seen.get(queue, 0) for queue, n in last.items() if n >= seen.get(queue, 0)) * SIZE
            seen = last
            changes.look()
        if second >= 0:
            rows.append({port: tuple(b - a for a, b in zip(start[port], before[port])) for port in start})
    return rows, soft, changes


def scene_of(bench, side, seconds):
    bench.need_memory([side])
    with Scene(bench, [side], "--stamp", *shared()) as guests:
        guests.ask(f"start {side.name}")
        result = run(guests, side, seconds)
        guests.say(f"rate {side.name} 0")
        time.sleep(1)
        return *result, guests.ask("stop")


def tell_order(bench, case, final):
    bench.row("zipf", case, "A", "packets", final["packets"], "", note=f"{RATE / 1e3:.0f} kpps offered")
    for key in ("lost", "reordered", "duplicated", "under_way"):
        bench.row("zipf", case, "A", key, final[key], "packets")


def zipf(bench):
    """64 guests, 16 NIC queues, Zipf load in another order each second: share of the best choice, and changes"""
    seconds = 3 if bench.quick else 30
    case = f"{GUESTS} guests, {QUEUES} queues"
    for _ in range(bench.repeat):
        rows, _, changes, final = scene_of(bench, Zipf(bench, "A", "flow"), seconds)
        best = sum(sum(sorted((b for b, _ in row.values()), reverse=True)[:QUEUES]) for row in rows)
        every = sum(b for row in rows for b, _ in row.values())
        own = sum(o for row in rows for _, o in row.values())
        first = sum(b for row in rows for port, (b, _) in row.items() if int(port[2:]) <= QUEUES)
        bench.row("zipf", case, "best choice", "by own queues", 100 * best / every, "% of all",
                  note=f"the {QUEUES} largest of each second, known beforehand; {seconds} s")
        bench.row("zipf", case, "A", "of best choice", 100 * own / best, "%")
        bench.row("zipf", case, "first come", "of best choice", 100 * first / best, "%",
                  note=f"vm1 to vm{QUEUES} keep theirs; the same bytes")
        bench.row("zipf", case, "A", "changes", len(changes.seen) / GUESTS / seconds, "a port and second")
        bench.row("zipf", case, "A", "most changes", changes.most_in_a_second(), "of a port in 1 s")
        tell_order(bench, case, final)
    case = f"{GUESTS} guests, software"
    rows, soft, changes, final = scene_of(bench, Zipf(bench, "A", "software"), seconds)
    bench.row("zipf", case, "A", "by soft queues", 100 * soft / sum(b for row in rows for b, _ in row.values()),
              "% of all", note="high = 0.2, that the default queue is hot; 2 workers")
    bench.row("zipf", case, "A", "changes", len(changes.seen) / GUESTS / seconds, "a port and second")
    tell_order(bench, case, final)


BENCHMARKS = {"zipf": zipf}
