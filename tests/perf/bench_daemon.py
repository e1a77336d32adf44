# SPDX-License-Identifier: BSD-3-Clause
"""What a daemon does beside moving packets as fast as it can: reacting, sleeping, waking, and what it takes to be there."""
import itertools
import os
import random
import re
import signal
import time

import stats
from bench_rate import v2v
from scene import Failed, Scene, Testpmd, cpu_use, cpus, thread_times

PARK_S = 30      # longer than any daemon should need
AWAY_US = 200    # of a latency run, for which the guest had no CPU
STOLEN_US = 300  # of a step, for which somebody else had a CPU


def wait_until(done, seconds, what):
    limit = time.monotonic() + seconds
    while not done():
        if time.monotonic() > limit:
            raise Failed(f"{what} did not happen within {seconds} s")
        time.sleep(0.01)


def two_workers():
    """CPUs of two workers, the first one the switch's own; with two CPUs in all, the second one is the guests', too."""
    guest, switch, usable = cpus()
    return [switch, usable[2] if len(usable) > 2 else guest]


def shared():
    """What perfguest needs where a worker shares its CPU: it sleeps between looks."""
    return [] if len(cpus()[2]) > 2 else ["--nap-us", "40"]


def note_shared():
    return "" if len(cpus()[2]) > 2 else "2 CPUs: the guests share one with a worker"


def worker_thread(pid, core):
    for tid, (name, _) in thread_times(pid).items():
        if re.fullmatch(rf"\w+-worker-?{core}", name):
            return tid
    raise Failed(f"no thread of the worker on core {core}")


def one_side(bench, make, *options):
    side = bench.dvmqd("A")
    make(side)
    bench.need_memory([side])
    return side, Scene(bench, [side], *options)


def capacities(guests):
    """{side name: packets per second that it moves when as much comes as it can take}; see Guests.turns"""
    shared_cpu = "--nap-us" in guests.options
    rounds = guests.turns(10, 20, 5, 1000 if shared_cpu else 60)
    rates = {}
    for side in guests.sides:
        cycles = stats.median([turns[side.name]["cycles"] for turns in rounds if turns[side.name]["cycles"]])
        # Where others always had the CPU, too, no window counts: what went through is all that is known.
        rates[side.name] = guests.hz / cycles if cycles > 0 else guests.ask(f"run {side.name} 200")["pps"]
        if rates[side.name] == 0:
            raise Failed(f"side {side.name} moves no packet")
    return rates


def capacity(guests, side):
    return capacities(guests)[side.name]


def steal():
    """Seconds that the hypervisor gave to others, by CPU, as the kernel knows of them."""
    with open("/proc/stat", encoding="ascii") as f:
        rows = [line.split() for line in f if re.match(r"cpu\d", line)]
    return sum(int(row[8]) for row in rows) / os.sysconf("SC_CLK_TCK")


# ---- latency ----

def alone(sides, side):
    for other in sides:
        os.kill(other.process.pid, signal.SIGCONT if other is side else signal.SIGSTOP)


def latency(bench):
    """PVP at half the rate of the slowest: p50 and p99 of this build, the same again, base and testpmd io"""
    starts = []
    case = "PVP, half load, 64 bytes"
    for _ in range(bench.repeat):
        sides = [bench.dvmqd("A"), bench.dvmqd("A2"), bench.dvmqd("B", bench.base)]
        if Testpmd.available(bench):
            sides.append(Testpmd(bench, "testpmd"))
        for side in sides:
            side.guest("reflect", count=0)
            side.memif_uplink([1])
        bench.need_memory(sides)
        with Scene(bench, sides, "--stamp", "--poll-ns", "100") as guests:
            rate = min(capacities(guests).values()) / 2
            for side in sides:
                guests.say(f"rate {side.name} {rate}")
            starts.append([latency_round(guests, sides) for _ in range(2 if bench.quick else 60)])
            for side in sides:
                os.kill(side.process.pid, signal.SIGCONT)
    # A guest that was away finds packets that have waited for it.
    clean = [[{name: r for name, r in turns.items() if bench.quick or r["worst_us"] < AWAY_US} for turns in rounds]
             for rounds in starts]
    for share in ("p50_us", "p99_us"):
        for side in sides:
            values = [turns[side.name][share] for rounds in clean for turns in rounds if side.name in turns]
            bench.row("latency", case, side.name, share, stats.median(values), "us", stats.quantile(values, 0.25),
                      stats.quantile(values, 0.75), f"{rate / 1e6:.2f} Mpps; {len(values)} runs")
        for side in sides[1:]:
            value, low, high, n = stats.ratio(clean, "A", side.name, stats.longer(share))
            bench.row("latency", case, f"A to {side.name}", f"{share[:3]} ratio", value, "x as long", low, high,
                      f"{n} rounds")


def latency_round(guests, sides):
    """{side name: what a run says}, one after the other in a random order"""
    turns = {}
    for side in random.sample(sides, len(sides)):
        alone(sides, side)
        guests.ask(f"run {side.name} 10")  # what waited while it was stopped
        turns[side.name] = guests.ask(f"run {side.name} 50")
    return turns


# ---- sleep ----

def wake(bench):
    """first packet after silence: latency, and what any blocked thread pays here for being woken"""
    times, gap = (20, 2000) if bench.quick else (1000, 3000)

    def guests_only(side):
        v2v(side, 1, [64])

    def with_uplink(side):
        side.guest("receive")
        side.memif_uplink([1])
    for case, make in (("guest to guest (kick)", guests_only), ("uplink without interrupts", with_uplink)):
        side, scene = one_side(bench, make)
        with scene as guests:
            guests.ask(f"run {side.name} 50")
            rounds = [guests.ask(f"wake {side.name} {times} {gap}") for _ in range(bench.repeat)]
        for what, label in (("thread", "blocked thread"), ("packet", "A")):
            for share in ("p50_us", "p99_us"):
                values = [r[what][share] for r in rounds]
                missed = sum(r[what]["missed"] for r in rounds)
                bench.row("wake", case, label, share, stats.median(values), "us", min(values), max(values),
                          f"{missed} not within 0.5 s" if missed else "")


def tell_use(bench, name, case, use, note=""):
    workers = sum(share for thread, share in use.items() if "worker" in thread)
    control = use.get("dvmqd", 0)
    bench.row(name, case, "workers", "CPU", workers * 100, "% of a core", note=note)
    bench.row(name, case, "controller", "CPU", control * 100, "% of a core")
    bench.row(name, case, "all threads", "CPU", sum(use.values()) * 100, "% of a core")


def light(bench):
    """CPU at 1 % of the rate that a core can do"""
    def guests_only(side):
        v2v(side, 1, [64])

    def with_uplink(side):
        side.guest("receive")
        side.memif_uplink([1])
    for case, make in (("V2V", guests_only), ("P2V, no interrupts", with_uplink)):
        side, scene = one_side(bench, make)
        with scene as guests:
            rate = capacity(guests, side) / 100
            guests.say(f"rate {side.name} {rate}")
            guests.ask(f"start {side.name}")
            time.sleep(0.2)
            use = cpu_use(side.process.pid, 0.5 if bench.quick else 5)
            guests.ask("stop")
        tell_use(bench, "light", case, use, f"{rate / 1e3:.0f} kpps")
    one_at_a_time(bench)


def one_at_a_time(bench):
    """Who waits for an answer before he sends again must not wait for a nap: each packet 50 us after the last arrived."""
    side, scene = one_side(bench, lambda side: v2v(side, 1, [64], pause=50))
    with scene as guests:
        for policy in ("latency", "balanced"):
            side.ask(f"set core all policy {policy}")
            guests.ask(f"start {side.name}")
            time.sleep(0.2)
            guests.ask("report")
            use = cpu_use(side.process.pid, 0.5 if bench.quick else 5)
            rate = guests.ask("report")["pps"]
            guests.ask("stop")
            bench.row("light", f"one at a time, {policy}", "A", "packets", rate / 1e3, "kpps")
            tell_use(bench, "light", f"one at a time, {policy}", use)


def active_cores(side):
    return [core["core"] for core in side.ask("show core all") if core["state"] != "parked"]


def idle(bench):
    """16 guests without traffic: CPU; and how long after the load the cores are parked"""
    def sixteen(side):
        for i in range(16):
            side.guest("idle", i + 1, slots=256)

    def sixteen_and_uplink(side):
        sixteen(side)
        side.memif_uplink([1, 2])
    for case, make in (("16 guests", sixteen), ("16 guests, uplink", sixteen_and_uplink)):
        side, scene = one_side(bench, make)
        with scene:
            time.sleep(0.3 if bench.quick else 3)
            use = cpu_use(side.process.pid, 0.5 if bench.quick else 10)
        tell_use(bench, "idle", case, use, "the uplink's driver has no interrupts" if "uplink" in case else "")
    parking(bench)


def parking(bench):
    def make(side):
        side.workers = two_workers()
        v2v(side, 4, [64])
    side, scene = one_side(bench, make, *shared())
    times = []
    with scene as guests:
        for _ in range(1 if bench.quick else 10):
            side.ask(f"set core {side.workers[1]} activate")
            side.ask("set balance off")
            guests.ask(f"start {side.name}")
            for i in range(4):
                side.ask(f"set queue vm{2 * i + 2}/tx0 core {side.workers[i % 2]}")
            side.ask(f"set core {side.workers[1]} auto")
            side.ask("set balance auto")
            guests.ask("stop")
            start = time.monotonic()
            wait_until(lambda: len(active_cores(side)) <= 1, PARK_S, "the parking of an idle core")
            times.append((time.monotonic() - start) * 1e3)
    bench.row("idle", "2 workers, load ends", "A", "until one is left", stats.median(times), "ms", min(times), max(times))


def controller(bench):
    """CPU of the control thread with 64 queues, idle and under load"""
    def make(side):
        v2v(side, 32, [64], slots=256)
    side, scene = one_side(bench, make)
    seconds = 0.5 if bench.quick else 10
    with scene as guests:
        time.sleep(0.3 if bench.quick else 3)
        rows = {"64 queues, idle": cpu_use(side.process.pid, seconds)}
        rate = capacity(guests, side)
        for share in (0.5, 1.5):
            guests.say(f"rate {side.name} {rate * share}")
            guests.ask(f"start {side.name}")
            time.sleep(0.2)
            rows[f"64 queues, load {share:.0%}"] = cpu_use(side.process.pid, seconds)
            guests.ask("stop")
    for case, use in rows.items():
        bench.row("controller", case, "controller", "CPU", use.get("dvmqd", 0) * 100, "% of a core")


# ---- memory ----

def memory_of(side):
    """Bytes of its own, without the guests' memory: what it uses of DPDK's heap, pools among that, and all else."""
    shown = side.ask("show memory")
    heap = sum(row["bytes"] for row in shown if re.match("DPDK heap.* in use", row["what"]))
    pools = sum(row["bytes"] for row in shown if row["what"].startswith("pool "))
    with open(f"/proc/{side.process.pid}/smaps_rollup", encoding="ascii") as f:
        private = sum(int(line.split()[1]) * 1024 for line in f if line.startswith("Anonymous:"))
    return {"heap": heap, "pools": pools, "own": private + heap}


def memory(bench):
    """memory that a guest's port takes, connected and without traffic"""
    few, many = (1, 9) if bench.quick else (1, 65)
    seen = {}
    for n in (few, many):
        side = bench.dvmqd("A")
        for i in range(n):
            side.guest("idle", i + 1, slots=256)
        bench.need_memory([side])
        with Scene(bench, [side]):
            seen[n] = memory_of(side)
    bench.row("memory", f"{few} guest", "A", "all but pools", (seen[few]["own"] - seen[few]["pools"]) / 2**20, "MiB")
    bench.row("memory", f"{few} guest", "A", "pools", seen[few]["pools"] / 2**20, "MiB")
    per_port = (seen[many]["own"] - seen[few]["own"]) / (many - few)
    bench.row("memory", f"{few} to {many} guests", "A", "for each port", per_port / 2**10, "KiB",
              note=f"of the heap {(seen[many]['heap'] - seen[few]['heap']) / (many - few) / 2**10:.0f} KiB")


# ---- the balancer ----

def step(bench):
    """load of a set of queues from 10 % to 180 % of a core: when does the second core serve?"""
    first, second = two_workers()

    def make(side):
        side.workers = [first, second]
        v2v(side, 4, [64])
    side, scene = one_side(bench, make, *shared())
    times = 3 if bench.quick else 200
    results, odd = [], 0

    def serves():
        return any(core["core"] == second and core["queues"] > 0 for core in side.ask("show core all"))

    def park():
        side.ask(f"set core {second} park")
        wait_until(lambda: active_cores(side) == [first], PARK_S, "the parking of the second core")
        side.ask(f"set core {second} auto")
    with scene as guests:
        park()
        most = capacity(guests, side)
        guests.say(f"rate {side.name} {most * 0.1}")
        guests.ask(f"start {side.name}")
        tid = worker_thread(side.process.pid, second)
        stolen = steal()
        for _ in range(times):
            park()
            time.sleep(0.1 * random.random())  # the balancer's clock must not tick with ours
            result = guests.ask(f"step {side.name} {most * 0.1} {most * 1.8} 500 {side.process.pid} {tid}")
            if result["parked"] and (result["ms"] < 0 or serves()):
                results.append(result)
            else:
                odd += 1  # it was at work before the step, or was woken for something else
        stolen = steal() - stolen
        guests.ask("stop")
    served = [r["ms"] for r in results if r["ms"] >= 0]
    # Where the guests were away, or nothing moved, somebody else had a CPU: how much of the time is the switch's is unknown.
    clean = [r["ms"] for r in results if r["ms"] >= 0 and r["away_us"] < STOLEN_US and r["stalled_us"] < STOLEN_US]
    for case, values in (("all", served), ("no CPU stolen", clean)):
        if values:
            for share in (0.5, 0.99):
                bench.row("step", case, "A", f"p{share * 100:.0f}", stats.quantile(values, share), "ms", min(values),
                          max(values), f"{len(values)} of {times} steps")
    bench.row("step", "all", "A", "never", len(results) - len(served), "steps", note=note_shared())
    bench.row("step", "all", "A", "not counted", odd, "steps", note="the second core ran before, or without a queue")
    bench.row("step", "all", "machine", "stolen", stolen, "s", note="by the hypervisor, as /proc/stat has it")


def move(side, command):
    """Asks again where a worker had no CPU for a second: the move comes all the same."""
    for _ in range(30):
        try:
            side.ask(command)
            return
        except Failed as refusal:
            if "did not answer" not in str(refusal):
                raise
    raise Failed(f"{command}: no answer for half a minute")


def moves(bench):
    """100,000 forced moves at 80 % load: what was lost, duplicated or reordered, and the pauses"""
    def make(side):
        side.workers = two_workers()
        v2v(side, 4, [64], credit=1)  # no more than the receiver has room for: nothing may be lost
    side, scene = one_side(bench, make, "--stamp", *shared())
    wanted = 200 if bench.quick else 100_000
    cores = two_workers()
    queues = [f"vm{2 * i + 2}/tx0" for i in range(4)]
    with scene as guests:
        side.ask("set balance off")
        guests.ask(f"start {side.name}")
        for queue in queues:
            side.ask(f"set queue {queue} core {cores[0]}")
        guests.ask("report")
        time.sleep(0.2 if bench.quick else 1)
        rate = 0.8 * guests.ask("report")["pps"]
        guests.say(f"rate {side.name} {rate}")
        side.ask("clear stats all")
        before = sum(q["moves"] for q in side.ask("show queue all"))
        guests.ask("report")
        for n, queue in zip(range(wanted), itertools.cycle(queues)):
            move(side, f"set queue {queue} core {cores[(n // len(queues) + 1) % 2]}")
        guests.say(f"rate {side.name} 0")
        time.sleep(0.2)
        result = guests.ask("stop")
        shown = side.ask("show queue all")
        ports = side.ask("show port stats all")
    done = sum(q["moves"] for q in shown) - before
    shown = [q for q in shown if sum(q["pause_loops"]) + q["pause_stolen"]]
    case = f"{done} moves, 80 % load"
    bench.row("moves", case, "A", "packets", result["packets"], "", note=f"{rate / 1e6:.2f} Mpps; {note_shared()}")
    for key in ("lost", "duplicated", "reordered"):
        bench.row("moves", case, "A", key, result[key], "packets")
    bench.row("moves", case, "A", "not delivered", result["under_way"], "packets",
              note="0.2 s after the last was sent")
    dropped = sum(value for port in ports for key, value in port.items() if key.startswith("drop_"))
    bench.row("moves", case, "A", "dropped", dropped, "packets", note="by the switch, as it counts them itself")
    for i in range(4):
        n = sum(q["pause_loops"][i] for q in shown)
        bench.row("moves", case, "A", f"pause {i + 1} loop{'s' if i else ''}{' or more' if i == 3 else ''}",
                  100 * n / max(done, 1), "% of moves")
    bench.row("moves", case, "A", "pause stolen", 100 * sum(q["pause_stolen"] for q in shown) / max(done, 1), "% of moves",
              note="the old worker had no CPU in the midst of it")
    bench.row("moves", case, "A", "pause p50", stats.median([q["pause_us_p50"] for q in shown]), "us")
    bench.row("moves", case, "A", "pause p99", max(q["pause_us_p99"] for q in shown), "us", note="of the worst queue")
    bench.row("moves", case, "A", "pause max", max(q["pause_us_max"] for q in shown), "us")


BENCHMARKS = {"latency": latency, "wake": wake, "light": light, "idle": idle, "controller": controller, "memory": memory,
              "step": step, "moves": moves}
