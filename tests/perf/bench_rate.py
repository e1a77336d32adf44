# SPDX-License-Identifier: BSD-3-Clause
"""Rates: switches that take turns of some milliseconds at one CPU, the others stopped."""
import os
import subprocess

import stats
from scene import Failed, Ovs, Scene, Testpmd

MIXED = [64, 64, 64, 64, 64, 64, 64, 594, 594, 594, 594, 1514]  # 7:4:1, the simple IMIX


def p2v(side, n, sizes):
    """Uplink to n guests, each with an uplink queue of its own."""
    for _ in range(n):
        side.guest("receive", size="64")
    side.capture_uplink(range(1, n + 1), sizes)


def v2v(side, n, sizes, spread=False, **keys):
    """n pairs of guests; spread: each sender sends to all receivers in turn."""
    receivers = [side.mac(2 * i + 1) for i in range(n)]
    for i in range(n):
        dst = "/".join(receivers[i:] + receivers[:i]) if spread else receivers[i]
        side.guest("receive", 2 * i + 1, **keys)
        side.guest("send", 2 * i + 2, dst=dst, size="/".join(map(str, sizes)), **keys)


def pvp(side, n, sizes):
    """Uplink to n guests that send everything back."""
    for _ in range(n):
        side.guest("reflect")
    side.capture_uplink(range(1, n + 1), sizes)


PEERS = {"testpmd": Testpmd, "ovs": Ovs}


def builds(bench):
    """The sides of an A/B run: this build, the same again, the base, and what else there is."""
    return [bench.dvmqd("A"), bench.dvmqd("A2"), bench.dvmqd("B", bench.base)] + \
        [peer(bench, name) for name, peer in PEERS.items() if peer.available(bench)]


def take_turns(bench, sides, make, rounds, options=()):
    """The rounds of each start; every start has new processes."""
    starts = []
    for _ in range(bench.repeat):
        here = sides(bench)
        for side in here:
            make(side)
        bench.need_memory(here)
        with Scene(bench, here, *options) as guests:
            guests.turns(2 if bench.quick else 10)  # caches, learning
            starts.append(guests.turns(rounds, turn_ms=10 if bench.quick else 20))
    return starts, [side.name for side in here]


def tell_sides(bench, name, case, starts, names):
    for side in names:
        turns = [r[side] for rounds in starts for r in rounds if side in r]
        windows, discarded = sum(t["windows"] for t in turns), sum(t["discarded"] for t in turns)
        value, low, high = stats.cycles_of(starts, side)
        busy = stats.median([t["busy"] for t in turns])
        bench.row(name, case, side, "cycles/packet", value, "cycles", low, high,
                  f"{windows} windows, {discarded} discarded; guest busy {busy:.0%}")


def tell_ratio(bench, name, case, starts, of, to, label):
    value, low, high, n = stats.ratio(starts, of, to)
    bench.row(name, case, label, "ratio", value, "x as fast", low, high, f"{n} rounds")
    for state, some in stats.by_distance(starts).items():
        value, low, high, n = stats.ratio(some, of, to)
        if n >= 10:
            bench.row(name, case, label, f"ratio, cores {state}", value, "x as fast", low, high, f"{n} rounds")


def compare_builds(bench, name, case, make, sides=builds):
    starts, names = take_turns(bench, sides, make, 6 if bench.quick else 60)
    tell_sides(bench, name, case, starts, names)
    for to, label in (("A2", "A to A again"), ("B", "A to base"), ("testpmd", "A to testpmd io"), ("ovs", "A to OVS")):
        if to in names:
            tell_ratio(bench, name, case, starts, "A", to, label)


def rate(name, make, spread=None):
    cases = [("1 guest, 64 bytes", 1, [64]), ("1 guest, 1514 bytes", 1, [1514]), ("1 guest, mixed sizes", 1, MIXED),
             ("4 guests, 64 bytes", 4, [64]), ("4 guests, mixed sizes", 4, MIXED)]

    def benchmark(bench):
        for case, n, sizes in cases[:1] if bench.quick else cases:
            compare_builds(bench, name, case, lambda side, n=n, sizes=sizes: make(side, n, sizes))
        if spread and not bench.quick:
            spread(bench)
    return benchmark


def spread_v2v(bench):
    """testpmd has no destinations to spread over: it forwards between neighbours, and that is the limit here, too."""
    for slots in (1024, 256):
        compare_builds(bench, "v2v", f"4 to 4, mixed, {slots} slots",
                       lambda side, slots=slots: v2v(side, 4, MIXED, spread=True, slots=slots))


def compare_cases(bench, name, cases, make, first, unit=None, rounds=60):
    """Sides that are one build with different guests; each as often as fast as the first."""
    def sides(bench):
        return [bench.dvmqd(f"{case}") for case in cases]

    starts, names = take_turns(bench, sides, make, 6 if bench.quick else rounds)
    tell_sides(bench, name, unit or "", starts, names)
    for case in cases[1:]:
        tell_ratio(bench, name, unit or "", starts, case, first, f"{case} to {first}")


def many(bench):
    """cycles per packet of 1, 1 again, 4, 32 and 64 pairs of guests at one worker"""
    counts = {"pairs-1": 1, "pairs-1-again": 1, "pairs-4": 4} if bench.quick else \
        {"pairs-1": 1, "pairs-1-again": 1, "pairs-4": 4, "pairs-32": 32, "pairs-64": 64}
    compare_cases(bench, "many", list(counts), lambda side: v2v(side, counts[side.name], [64], slots=256), "pairs-1",
                  "V2V, 64 bytes, 256 slots")


def idle_queues(bench):
    """rate of a busy pair beside 0, 0 again, 64 and 512 guests without traffic"""
    counts = {"idle-0": 0, "idle-0-again": 0, "idle-8": 8} if bench.quick else \
        {"idle-0": 0, "idle-0-again": 0, "idle-64": 64, "idle-512": 512}

    def make(side):
        v2v(side, 1, [64])
        for i in range(counts[side.name]):
            side.guest("idle", 10 + i, slots=64)
    compare_cases(bench, "idle-queues", list(counts), make, "idle-0", "V2V, 64 bytes")


def stuck(bench):
    """rate of a busy pair beside a guest that gets 50 kpps: a sound one, and ones that do not do their part"""
    kinds = {"sound": {}, "sound-again": {}, "no-buffers": {"stuck": "buffers"}, "one-buffer": {"stuck": "one"},
             "never-kicks": {"stuck": "kick"}}

    def make(side):
        v2v(side, 1, [64])
        odd = side.guest("receive", 3, count=0, **kinds[side.name])
        side.guest("send", 4, dst=odd, rate=50000, count=0)
        side.guest("send", 5, dst=odd, rate=1000, count=0, **kinds[side.name])
    compare_cases(bench, "stuck", list(kinds), make, "sound", "V2V, 64 bytes")


def variant(bench, header):
    """The build directory of a daemon whose sources all begin with a header of this directory."""
    here = os.path.dirname(os.path.abspath(__file__))
    source, build = os.path.abspath(f"{here}/../.."), f"{bench.directory}/{header}.build"
    for command in (["meson", "setup", "--buildtype=release", f"-Dc_args=-I{source}/include -include {here}/{header}",
                     build, source], ["ninja", "-C", build, "dvmqd"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-1500:]}")
    return build


def accounting(bench):
    """what counting costs: V2V and P2V, against a build whose queue and worker counters do nothing"""
    bare = variant(bench, "no_accounting.h")

    def sides(bench):
        return [bench.dvmqd("A"), bench.dvmqd("A2"), bench.dvmqd("uncounted", bare)]
    for case, make in (("V2V, 64 bytes", v2v), ("P2V, 64 bytes", p2v)):
        starts, names = take_turns(bench, sides, lambda side, make=make: make(side, 1, [64]), 6 if bench.quick else 100)
        tell_sides(bench, "accounting", case, starts, names)
        tell_ratio(bench, "accounting", case, starts, "A", "A2", "A to A again")
        tell_ratio(bench, "accounting", case, starts, "A", "uncounted", "A to uncounted")


def smoke(bench):
    """whether it all works: two switches take turns, guests behind an uplink, latency, waking up; no figure means anything"""
    def make(side):
        v2v(side, 1, [64, 1514], credit=1)
        side.guest("receive", 3)
        side.guest("idle", 4, slots=64)
        side.memif_uplink([3], rate=50000)
    sides = [bench.dvmqd("A"), bench.dvmqd("A2")]
    for side in sides:
        make(side)
    bench.need_memory(sides)
    with Scene(bench, sides, "--stamp") as guests:
        starts = [guests.turns(3, turn_ms=5, settle_ms=1)]
        moved = sum(t["packets"] + t["discarded"] for turns in starts[0] for t in turns.values())
        report = guests.ask("run A 100")
        woken = guests.ask("wake A 3 500")
        queues = sides[0].ask("show queue all")
    bench.row("smoke", "V2V", "A", "turns", len(starts[0]), "", note=f"{moved} windows and packets")
    bench.row("smoke", "V2V and P2V", "A", "packets", report["packets"], "packets")
    bench.row("smoke", "V2V and P2V", "A", "reordered", report["reordered"] + report["duplicated"], "packets")
    bench.row("smoke", "latency", "A", "p50_us", report["p50_us"], "us", 0, report["max_us"])
    bench.row("smoke", "wake", "A", "woken", woken["packet"]["n"], "times")
    bench.row("smoke", "wake", "blocked thread", "woken", woken["thread"]["n"], "times")
    bench.row("smoke", "show queue", "A", "queues", len(queues), "queues")


def named(function, text):
    function.__doc__ = text
    return function


BENCHMARKS = {
    "p2v": named(rate("p2v", p2v), "rate, uplink to guests (vmq queues): this build, the same again, base, testpmd io"),
    "v2v": named(rate("v2v", v2v, spread_v2v), "rate, guests to guests: the same"),
    "pvp": named(rate("pvp", pvp), "rate, uplink to guests and back: the same"),
    "many": many,
    "idle-queues": idle_queues,
    "stuck": stuck,
    "accounting": accounting,
    "smoke": smoke,
}
