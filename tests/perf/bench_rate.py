# SPDX-License-Identifier: BSD-3-Clause
"""Rates: switches that take turns of some milliseconds at one CPU, the others stopped."""
import scene
import stats
from scene import Scene, Testpmd

HZ = 1e9


def p2v(side, n, sizes):
    for _ in range(n):
        side.guest("receive")
    side.capture_uplink(range(1, n + 1), sizes)


def v2v(side, n, sizes, mixed=False):
    """n pairs; mixed: who sends, sends to all who receive in turn."""
    receivers = [side.guest("receive", 2 * i + 1) for i in range(n)]
    for i in range(n):
        dst = "/".join(receivers[i:] + receivers[:i]) if mixed else receivers[i]
        side.guest("send", 2 * i + 2, dst=dst, size="/".join(map(str, sizes)))


def v2v_for_testpmd(side, n, sizes):
    """The pairs that testpmd forwards between are neighbours."""
    v2v(side, n, sizes)


def pvp(side, n, sizes):
    for _ in range(n):
        side.guest("reflect")
    side.capture_uplink(range(1, n + 1), sizes)


MIXED = [64, 64, 64, 64, 64, 64, 64, 594, 594, 594, 594, 1514]  # 7:4:1, the simple IMIX


def builds(bench, peer=True):
    """The sides of an A/B run: this tree, the same again, the base, and testpmd."""
    sides = [bench.dvmqd("A"), bench.dvmqd("A2"), bench.dvmqd("B", bench.base)]
    if peer and Testpmd.available():
        sides.append(Testpmd(bench, "testpmd"))
    return sides


def measure(bench, name, case, make, sides=builds, rounds=None, against="A", options=()):
    """Rounds of several starts; a row for each side, and its ratio to the first one."""
    rounds = rounds or (5 if bench.quick else 60)
    starts, away = [], []
    for _ in range(bench.repeat):
        here = sides(bench)
        for side in here:
            make(side)
        bench.need_memory(len(here), sum(len(side.guests) for side in here))
        with Scene(bench, here, *options) as guests:
            if not bench.quick:
                guests.turns(5)  # caches, learning
            starts.append(guests.turns(rounds, turn_ms=10 if bench.quick else 20))
        names = [side.name for side in here]
        for turns in starts[-1]:
            away += [turn["ns_away"] for turn in turns.values()]
    report(bench, name, case, starts, names, against)
    return starts


def report(bench, name, case, starts, names, against):
    for side in names:
        turns = [r[side] for rounds in starts for r in rounds if side in r]
        windows, discarded = sum(t["windows"] for t in turns), sum(t["discarded"] for t in turns)
        value, low, high = stats.cycles_of(starts, side)
        busy = stats.median([t["busy"] for t in turns])
        note = f"{windows} windows, {discarded} discarded; guest busy {busy:.0%}"
        bench.row(name, case, side, "cycles/packet", value, "cycles", low, high, note)
        if side != against:
            value, low, high, n = stats.ratio(starts, against, side)
            label = {"A2": "same build", "B": "base"}.get(side, side)
            bench.row(name, case, f"{against} to {label}", "ratio", value, "x as fast", low, high, f"{n} rounds")


def rate(make, name):
    def benchmark(bench):
        cases = [("1 guest, 64 bytes", 1, [64]), ("1 guest, 1514 bytes", 1, [1514]), ("1 guest, mixed sizes", 1, MIXED),
                 ("4 guests, 64 bytes", 4, [64])]
        for case, n, sizes in cases[:1] if bench.quick else cases:
            measure(bench, name, case, lambda side, n=n, sizes=sizes: make(side, n, sizes))
    return benchmark


def named(function, name, text):
    function.__name__, function.__doc__ = name, text
    return function


BENCHMARKS = {
    "p2v": named(rate(p2v, "p2v"), "p2v", "rate, uplink to guests (vmq queues): this build, the same again, base, testpmd io"),
    "v2v": named(rate(v2v, "v2v"), "v2v", "rate, guests to guests: the same"),
    "pvp": named(rate(pvp, "pvp"), "pvp", "rate, uplink to guests and back: the same"),
}
