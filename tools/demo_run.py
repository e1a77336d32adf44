# SPDX-License-Identifier: BSD-3-Clause
"""Runs the demo: starts dvmqd and its guests, watches them through the control socket, and sums up. See tools/demo."""
import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import demo_view
from demo_guests import Failed, SyntheticGuests, processes, spawn
from demo_qemu import QemuGuests

POLL_S = 0.2
WORKERS_MAX = 4

NOTE = "set for show: a core is full at {high:.2f}, not 0.90, and parks after 1 s, not 2"



class Daemon:
    """A running dvmqd and one connection to its control socket."""

    def __init__(self, build, directory, config):
        self.socket_path = f"{directory}/dvmq.sock"
        config_path = f"{directory}/dvmqd.conf"
        with open(config_path, "w", encoding="ascii") as f:
            f.write(config)
        self.process = spawn([f"{build}/dvmqd", "-c", config_path], f"{directory}/dvmqd.log")
        self.connection = self.connect()
        self.answers = self.connection.makefile("rb")
        self.ask("show core all")  # it answers once all ports are there

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        while True:
            self.check()
            try:
                connection.connect(self.socket_path)
                return connection
            except OSError:
                time.sleep(0.02)

    def check(self):
        if self.process.poll() is not None:
            raise Failed(f"dvmqd ended with exit code {self.process.returncode}")

    def ask(self, command):
        """What a command shows. The protocol: src/ctl/server.c."""
        try:
            self.connection.sendall(f"run json {command}\n".encode())
            verdict, length = self.answers.readline().split()
            text = self.answers.read(int(length))
        except (OSError, ValueError):
            self.process.wait(5)
            self.check()
            raise
        if verdict != b"ok":
            raise Failed(f"dvmqd refuses \"{command}\": {text.decode().strip()}")
        return json.loads(text) if text.strip() else None

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            raise Failed("dvmqd did not end within 10 s") from None
        if code != 0:
            raise Failed(f"dvmqd ended with exit code {code}")


class Watch:
    """What the control socket shows, from poll to poll."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.at_last_time = []
        self.last_time = 0
        self.began = time.time()
        self.in_use = []
        self.moves = 0
        self.pause_us = 0

    def new_decisions(self, decisions):
        fresh = [d for d in decisions if d["time"] > self.last_time or
                 (d["time"] == self.last_time and d not in self.at_last_time)]
        if fresh:
            self.last_time = fresh[-1]["time"]
            self.at_last_time = [d for d in decisions if d["time"] == self.last_time]
        # That a queue wants more than a core moves nothing.
        return [{**d, "at": max(0, d["time"] - self.began)} for d in fresh if d["action"] != "saturated"]

    def poll(self):
        cores, queues, balance = (self.daemon.ask(f"show {what}") for what in ("core all", "queue all", "balance"))
        self.moves = balance["totals"]["move"]
        self.pause_us = max([self.pause_us] + [q["pause_us_max"] for q in queues])
        self.in_use.append(sum(core["queues"] > 0 for core in cores))
        return {"cores": cores, "queues": queues, "moves": self.moves, "new": self.new_decisions(balance["decisions"])}


def configuration(directory, workers, guests):
    balance = "\n".join(f"{key} = {value}" for key, value in guests.balance.items())
    return (f"[dvmqd]\nsocket = {directory}/dvmq.sock\nworkers = {','.join(map(str, workers))}\n"
            f"control = {workers[0]}\n[eal]\nargs = --no-huge -m 512 --no-pci --no-shconf --no-telemetry\n"
            f"{guests.config()}[balance]\n{balance}\n")


def start(daemon, guests):
    """Returns when the first packet is sent."""
    guests.start()
    while not guests.started():
        daemon.check()
        guests.step(0)
        if not guests.running():
            guests.result()
            raise Failed("the guests ended before they sent")
        time.sleep(0.02)


def run(watch, guests, view, seconds):
    """From the first packet to the last."""
    begin = time.monotonic()
    while guests.running():
        at = time.monotonic() - begin
        guests.step(at)
        totals = guests.totals()
        view.draw({"at": at, "seconds": seconds, "packets": totals["received"], "note": NOTE.format(**guests.balance),
                   "high": guests.balance["high"],
                   **totals, **watch.poll()})
        time.sleep(POLL_S)


def judge(summary):
    """Why the demo failed, or None."""
    for key in ("lost", "reordered", "duplicated", "corrupt", "foreign"):
        if summary[key]:
            return f"{summary[key]} packets {key}"
    if summary["packets"] == 0:
        return "no packet arrived"
    if summary["moves"] == 0:
        return "no queue moved"
    return None


def print_summary(s, out):
    print(f"{s['packets']:,} packets: {s['lost']} lost, {s['reordered']} reordered, {s['duplicated']} duplicated"
          " (by sequence numbers at the receivers)\n"
          f"{s['moves']} moves of queues, {s['cores_min']} to {s['cores_max']} of {s['workers']} cores in use"
          f"; longest pause of a queue {s['pause_us_max'] / 1e3:.3f} ms", file=out)
    print(f"FAILED: {s['reason']}" if s["reason"] else "ok: the cores followed the load, and every packet arrived once"
          " and in order", file=out, flush=True)


def summarize(guests, watch, workers, seconds, reason):
    summary = {"packets": 0, "moves": 0, "lost": 0, "reordered": 0, "duplicated": 0, "corrupt": 0, "foreign": 0,
               "cores_min": 0, "cores_max": 0, "workers": len(workers), "seconds": seconds, "pause_us_max": 0}
    try:
        result = guests.result() if guests else {}
        summary.update({"packets": result.pop("received", 0), **result})
    except Failed as e:
        reason = reason or str(e)
    if watch and watch.in_use:
        summary.update(moves=watch.moves, cores_min=min(watch.in_use), cores_max=max(watch.in_use),
                       pause_us_max=watch.pause_us)
    summary["reason"] = reason or judge(summary)
    summary["ok"] = summary["reason"] is None
    return summary


def end(signum, _frame):
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, lambda *_: None)  # what follows is the cleaning up
    sys.exit(128 + signum)


def kill_all():
    """Ends what still runs, with its children."""
    running = [p for p in processes if p.poll() is None]
    for p in running:
        os.killpg(p.pid, signal.SIGTERM)
    for p in running:
        try:
            p.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()


def demonstrate(options, directory, out):
    """Returns the summary."""
    workers = sorted(os.sched_getaffinity(0))[:WORKERS_MAX]
    build = os.environ["DVMQ_BUILD"]
    if len(workers) < 2:
        return summarize(None, None, workers, options.seconds,
                         "only one CPU may be used: there is no other core that a queue could move to")
    print(f"dvmqd and its guests start; workers on CPUs {', '.join(map(str, workers))}", file=out, flush=True)
    guests = (QemuGuests if options.qemu else SyntheticGuests)(build, directory, options.seconds, workers)
    view = watch = reason = None
    try:
        daemon = Daemon(build, directory, configuration(directory, workers, guests))
        start(daemon, guests)
        watch = Watch(daemon)
        view = demo_view.open_view(out)
        run(watch, guests, view, options.seconds)
        with open(f"{directory}/ports.json", "w", encoding="ascii") as f:
            json.dump(daemon.ask("show port stats all"), f, indent=2)  # tells where, if anything was dropped
        daemon.stop()
    except (Failed, subprocess.CalledProcessError) as e:
        reason = str(e)
        guests.stop()
    finally:
        if view:
            view.close()
        kill_all()
    return summarize(guests, watch, workers, options.seconds, reason)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--qemu", action="store_true")
    options = parser.parse_args()
    out = sys.stderr if options.json else sys.stdout
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, end)

    directory = tempfile.mkdtemp(prefix="dvmq-demo.")
    os.environ["XDG_RUNTIME_DIR"] = directory  # where DPDK keeps files of a user who is not root
    keep = False
    try:
        summary = demonstrate(options, directory, out)
        keep = not summary["ok"] and os.listdir(directory)
    finally:
        if not keep:
            shutil.rmtree(directory)
    print_summary(summary, out)
    if keep:
        print(f"logs: {directory}", file=out, flush=True)
    if options.json:
        print(json.dumps(summary))
    sys.exit(0 if summary["ok"] else 1)


if __name__ == "__main__":
    main()
