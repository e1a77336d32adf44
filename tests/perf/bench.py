# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks of tools/bench, by name. See tools/bench."""
import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys

import output
import scene
from benchmarks import BENCHMARKS
from scene import Failed


def machine(build):
    """What a figure belongs to: figures of two machines do not compare."""
    model = "unknown CPU"
    with open("/proc/cpuinfo", encoding="ascii") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open(f"{build}/build.ninja", encoding="utf-8") as f:
        flags = re.search(r" (-O\S+)", f.read())
    dpdk = subprocess.run(["pkg-config", "--modversion", "libdpdk"], capture_output=True, text=True, check=False)
    return {"cpu": f"{model} x {os.cpu_count()}", "kernel": platform.release(), "dpdk": dpdk.stdout.strip(),
            "optimization": flags.group(1) if flags else "?"}


class Bench:
    """What every benchmark gets."""

    def __init__(self, options, directory):
        self.directory, self.keep = directory, False
        self.build, self.base = options.build, options.base
        self.quick, self.repeat = options.quick, options.repeat or (1 if options.quick else 3)
        self.perfguest = f"{self.build}/tests/perf/perfguest"
        self.hugepages = scene.Hugepages()
        self.root = self.huge = self.hugepages.want(16)
        self.rows = []
        self.serial = 0

    def need_memory(self, sides):
        """Hugepages for these switches and their guests; if there are not enough, they run with small pages."""
        guests = sum(keys["role"] != "idle" for side in sides for _, keys in side.guests)
        rings = sum(side.memif["tx"] + side.memif["rx"] for side in sides if side.memif)
        self.huge = self.root and self.hugepages.want(len(sides) * 170 + guests * 3 + rings * 2 + 8)
        if self.root and not self.huge:
            self.say("there are not enough hugepages for this: it runs with small pages")

    def dvmqd(self, name, build=None):
        self.serial += 1
        side = scene.Dvmqd(self, name, f"{build or self.build}/dvmqd")
        return side

    def row(self, benchmark, case, side, metric, value, unit, low=None, high=None, note=""):
        row = {"benchmark": benchmark, "case": case, "side": side, "metric": metric, "value": value, "low": low,
               "high": high, "unit": unit, "note": note + ("; small pages" if self.huge != self.root else "")}
        self.rows.append(row)
        output.print_row(row)

    def say(self, text):
        print(text, file=sys.stderr, flush=True)


def leave(signum, _frame):
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, lambda *_: None)  # what follows is the cleaning up
    sys.exit(128 + signum)


def options_of(arguments):
    parser = argparse.ArgumentParser(prog="tools/bench")
    parser.add_argument("--build", required=True)
    parser.add_argument("--base")
    parser.add_argument("--csv")
    parser.add_argument("--svg")
    parser.add_argument("--baseline")
    parser.add_argument("--repeat", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args(arguments)
    options.base = options.base or options.build
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; tools/bench --list names them")
    return options


def run(bench, names):
    """Returns the names of those that failed."""
    failed = []
    for name in names:
        bench.say(f"== {name}: {BENCHMARKS[name].__doc__.strip().splitlines()[0]}")
        try:
            BENCHMARKS[name](bench)
        except (Failed, OSError, json.JSONDecodeError, subprocess.SubprocessError) as e:
            failed.append(name)
            bench.say(f"{name} FAILED: {e}")
        finally:
            scene.end_all()
    return failed


def main():
    if "--list" in sys.argv[1:]:
        for name, function in BENCHMARKS.items():
            print(f"{name:12} {function.__doc__.strip().splitlines()[0]}")
        return 0
    options = options_of(sys.argv[1:])
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, leave)
    identity = machine(options.build)
    directory = scene.temporary()
    bench = Bench(options, directory)
    stored = None
    try:
        identity["pages"] = "2 MiB" if bench.huge else "4 KiB"
        if options.baseline:
            stored = output.read_baseline(options.baseline, identity)
            if stored is None:
                return 2
        output.print_head(identity)
        failed = run(bench, options.names or [n for n in BENCHMARKS if n != "smoke"])
    finally:
        scene.end_all()
        bench.hugepages.restore()
        shutil.rmtree(directory)
    if options.csv:
        output.write_csv(options.csv, identity, bench.rows)
    if options.svg:
        output.write_svg(options.svg, identity, bench.rows)
    if stored is not None:
        output.compare(stored, bench.rows)
    for name in failed:
        print(f"{name}: failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
