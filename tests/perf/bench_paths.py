# SPDX-License-Identifier: BSD-3-Clause
"""
The way without look-up beside the way with it: the same frames in the queues of their ports (vmq), as a NIC that steers
puts them there, and in one queue, mixed (default).
"""
import re
import subprocess
import time

import stats
from bench_daemon import AWAY_US, alone, capacities
from bench_rate import tell_ratio, tell_sides, v2v, variant
from scene import NETWORK_MAC, Failed, Scene

# Ports, MAC addresses behind each of them, and MAC addresses in the network that send to them.
CASES = {
    "1 destination": (1, 1, 1),
    "1000 sources": (1, 1, 1000),
    "4 destinations": (4, 1, 1),
    "64 destinations": (64, 1, 1),
    "1000 destinations": (4, 250, 1),
}
SHOWN = ["1 destination", "1000 destinations"]  # with --quick
LEARN_S = 60


def behind(number, i):
    """MAC address i of a guest."""
    return f"02:00:00:{i:02x}:{number >> 8:02x}:{number & 255:02x}"


def outside(i):
    """MAC address i of the network."""
    return NETWORK_MAC if i == 0 else f"02:00:00:fe:{i >> 8:02x}:{i & 255:02x}"


def uplink_to_guests(side, case, sorted_by_port):
    """Traffic from an uplink, in a queue for each port or in one for all."""
    ports, macs, sources = CASES[case]
    numbers = range(1, ports + 1)
    slots = 256 if ports > 4 else 1024
    for number in numbers:
        more = {"src": "/".join(behind(number, i) for i in range(macs)), "dst": NETWORK_MAC} if macs > 1 else {}
        side.guest("receive", number, slots=slots, **more)
    side.memif_uplink(numbers, slots=slots if sorted_by_port else 1024,
                      dst="/".join(behind(number, i) for i in range(macs) for number in numbers),
                      src="/".join(outside(i) for i in range(sources)))
    side.expect = macs * ports + sources
    if ports > 4:
        side.memory = 640
    if not sorted_by_port:
        side.one_queue()


def learn(guests, side):
    """Until the switch knows all addresses."""
    limit = time.monotonic() + LEARN_S
    known = 0
    expect = getattr(side, "expect", len(side.guests))
    while known < expect:
        if time.monotonic() > limit:
            raise Failed(f"side {side.name} learned {known} of {expect} MAC addresses in {LEARN_S} s")
        guests.ask(f"run {side.name} 100")
        if any("src" in keys for _, keys in side.guests):
            guests.ask(f"announce {side.name} 100")
        known = len(side.ask("show fdb"))


# ---- instructions ----

LOOK_UP = ("librte_hash", "__memcmp")  # of the libraries, what only a look-up calls


def cost_of(listing, packets):
    """Instructions per packet by who runs them."""
    cost = {"dvmqd": 0, "look-up": 0, "freeing": 0, "DPDK, libc": 0}
    for count, function, thing in re.findall(r"^ *([\d,]+) .*?:(\S+).*\[(.*)\]$", listing, re.MULTILINE):
        if thing.endswith("/dvmqd"):
            part = "freeing" if function == "dvmq_free_burst" else "look-up" if "hash_crc" in function else "dvmqd"
        else:
            part = "look-up" if any(name in thing or name in function for name in LOOK_UP) else "DPDK, libc"
        cost[part] += int(count.replace(",", "")) / packets
    return cost


def profile(bench, build, poll, make):
    """What one poll function costs, once the switch has learned."""
    side = bench.dvmqd("A", build)
    make(side)
    side.huge = False
    bench.need_memory([side])
    path = f"{side.directory}/profile"
    side.prefix = ["valgrind", "--tool=callgrind", "--fair-sched=yes", f"--callgrind-out-file={path}",
                   "--instr-atstart=no", f"--toggle-collect={poll}"]

    def packets():
        return sum(q["packets"] for q in side.ask("show queue all"))
    with Scene(bench, [side]) as guests:
        learn(guests, side)
        before = packets()
        subprocess.run(["callgrind_control", "-i", "on", str(side.process.pid)], capture_output=True, check=True)
        guests.ask(f"run {side.name} {500 if bench.quick else 3000}")
        n = packets() - before
        side.process.terminate()
        side.process.wait(120)
        listing = subprocess.run(["callgrind_annotate", "--threshold=100", path], capture_output=True, text=True,
                                 check=True).stdout
    if n == 0:
        raise Failed("no packet went through")
    return cost_of(listing, n)


def instructions(bench):
    """instructions per packet of the same frames on vmq and default queues, and of a guest queue: of dvmqd and of DPDK"""
    build = variant(bench, "under_valgrind.h")

    def tell(case, side, cost):
        for part, note in (("dvmqd", "without look-up in the table, and giving buffers back"),
                           ("look-up", "in the table: rte_hash"), ("freeing", "giving buffers back to their pool"),
                           ("DPDK, libc", "driver, vhost, copying")):
            bench.row("instructions", case, side, part, cost[part], "per packet", note=note)
    for case in CASES:
        own = {}
        for side, poll in (("vmq", "dvmq_poll_vmq"), ("default", "dvmq_poll_default")):
            cost = profile(bench, build, poll, lambda s, case=case, side=side: uplink_to_guests(s, case, side == "vmq"))
            tell(case, side, cost)
            own[side] = cost["dvmqd"] + cost["look-up"]
        bench.row("instructions", case, "vmq to default", "dvmqd, look-up", own["vmq"] / own["default"], "x")
    for case, make in (("V2V, 1 destination", lambda side: v2v(side, 1, [64])),
                       ("V2V, 4 destinations", lambda side: v2v(side, 4, [64], spread=True, slots=256))):
        tell(case, "guest", profile(bench, build, "dvmq_poll_guest", make))


# ---- cycles and latency ----

SIDES = ["vmq", "vmq-again", "default"]


def both_ways(bench, case, *options):
    """Sides of one build, not started."""
    sides = [bench.dvmqd(name) for name in SIDES]
    for side in sides:
        uplink_to_guests(side, case, side.name != "default")
    bench.need_memory(sides)
    return sides, Scene(bench, sides, *options)


def turns_of(bench, case):
    sides, scene = both_ways(bench, case)
    with scene as guests:
        for side in sides:
            learn(guests, side)
        guests.turns(2 if bench.quick else 10)
        return guests.turns(4 if bench.quick else 60, turn_ms=10 if bench.quick else 20)


def latencies_of(bench, case, results):
    """Adds the runs of each side to the results; returns the rate."""
    sides, scene = both_ways(bench, case, "--stamp", "--poll-ns", "100")
    with scene as guests:
        for side in sides:
            learn(guests, side)
        rate = min(capacities(guests).values()) / 2
        for side in sides:
            guests.say(f"rate {side.name} {rate}")
        for _ in range(2 if bench.quick else 60):
            for side in sides:
                alone(sides, side)
                guests.ask(f"run {side.name} 10")  # what waited while it was stopped
                results[side.name].append(guests.ask(f"run {side.name} 50"))
    return rate


def paths(bench):
    """vmq and default queue side by side, the same frames: cycles per packet, and latency at half load"""
    for case in SHOWN if bench.quick else CASES:
        starts, latencies, rates = [], {name: [] for name in SIDES}, []
        for _ in range(bench.repeat):
            starts.append(turns_of(bench, case))
            rates.append(latencies_of(bench, case, latencies))
        tell_sides(bench, "paths", case, starts, SIDES)
        tell_ratio(bench, "paths", case, starts, "vmq", "vmq-again", "vmq to vmq again")
        tell_ratio(bench, "paths", case, starts, "vmq", "default", "vmq to default")
        tell_latencies(bench, case, latencies, stats.median(rates))


def tell_latencies(bench, case, latencies, rate):
    # A guest that was away finds packets that have waited for it.
    clean = {name: [r for r in runs if r["worst_us"] < AWAY_US] or runs for name, runs in latencies.items()}
    for share in ("p50_us", "p99_us"):
        first = stats.median([r[share] for r in clean["vmq"]])
        for name, runs in clean.items():
            values = [r[share] for r in runs]
            bench.row("paths", case, name, share, stats.median(values), "us", stats.quantile(values, 0.25),
                      stats.quantile(values, 0.75), f"{rate / 1e6:.2f} Mpps; {len(runs)} of {len(latencies[name])} runs")
            if name != "vmq":
                bench.row("paths", case, f"vmq to {name}", f"{share[:3]} ratio", first / stats.median(values), "x as long")


BENCHMARKS = {"instructions": instructions, "paths": paths}
