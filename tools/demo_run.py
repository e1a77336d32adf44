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

POLL_S = 0.2
WORKERS_MAX = 4
GUESTS = 4
BATCH_GUESTS = 2
BATCH_EVERY_S = 8
# The calm load takes about a tenth of a core. The batch goes as fast as it can, so that it takes a good part of a
# core on fast machines, too.
CALM_PPS = 200_000
HOT_S = 1.5

# Guests and switch share the CPUs here, so the time that the kernel gives to the guests in the midst of a queue's
# turn looks like load. Longer periods average that out; a low `high` lets a demo's small load fill a core.
BALANCE = {"high": 0.35, "target": 0.30, "margin": 0.10, "fast_ms": 100, "slow_ms": 200, "hold_ms": 1000}
NOTE = "set for show: a core is full at {high:.2f}, not 0.90, and parks after 1 s, not 2"


class Failed(Exception):
    """The demo cannot go on; its text says why."""


class Daemon:
    """A running dvmqd and one connection to its control socket."""

    def __init__(self, build, directory, config):
        self.socket_path = f"{directory}/dvmq.sock"
        self.log_path = f"{directory}/dvmqd.log"
        config_path = f"{directory}/dvmqd.conf"
        with open(config_path, "w", encoding="ascii") as f:
            f.write(config)
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([f"{build}/dvmqd", "-c", config_path], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)
        self.connection = self.connect()
        self.answers = self.connection.makefile("rb")

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


class Traffic:
    """A dvmq-traffic, which proves from sequence numbers what arrived and in which order."""

    counters = ("received", "lost", "reordered", "duplicated", "corrupt", "foreign")

    def __init__(self, build, directory, name, options):
        self.log_path = f"{directory}/{name}.log"
        self.name = name
        self.last = dict.fromkeys(self.counters, 0)
        self.pps = 0
        self.hot = None
        self.started = False
        self.final = None
        self.partial = ""
        command = [f"{build}/tools/dvmq-traffic", "--dir", directory, "--interval", "0.5", "--wait", "30", *options]
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        self.log = open(self.log_path, encoding="utf-8")

    def running(self):
        return self.process.poll() is None

    def read(self):
        """Takes what it has told since the last call."""
        *lines, self.partial = (self.partial + self.log.read()).split("\n")
        for line in lines:
            if line.startswith("{"):
                self.take(json.loads(line))
        if not self.running():
            self.pps, self.hot = 0, None

    def take(self, event):
        self.started |= event["event"] == "start"
        self.hot = event.get("hot", event.get("guest", self.hot))
        if event["event"] in ("interval", "final"):
            self.last = event
            self.pps = event["pps"]
        if event["event"] == "final":
            self.final = event

    def result(self):
        """Its last word, once it has ended."""
        self.read()
        if self.final is None:
            raise Failed(f"the guests' program {self.name} ended with exit code {self.process.returncode}")
        return self.final


class SyntheticGuests:
    """Four guests and the network, and in bursts two more guests of another tenant (VLAN 200)."""

    def __init__(self, build, directory, seconds, workers):
        self.build, self.directory, self.seconds = build, directory, seconds
        self.uplink_tx = len(workers) + 1
        self.main = self.batch = None
        self.ended = []
        self.next_batch = min(2, seconds / 4)
        self.batch_seconds = min(3, seconds / 3)

    def config(self):
        text = [f"[uplink up0]\ndevice = net_memif0,role=server,socket={self.directory}/uplink.memif",
                f"queues = {GUESTS + 1}\nsteering = static"]
        for i in range(1, GUESTS + 1):
            text.append(self.port(f"vm{i}", i) + f"\nvmq = {i}")
        for i in range(1, BATCH_GUESTS + 1):
            text.append(self.port(f"batch{i}", i) + "\nvlan = 200")
        return "\n".join(text) + "\n"

    def port(self, name, number):
        return (f"[port {name}]\ntype = vhost\nsocket = {self.directory}/{name}.sock\n"
                f"mac = 52:54:00:00:00:{number:02x}")

    def start(self):
        self.main = Traffic(self.build, self.directory, "traffic", [
            "--guests", str(GUESTS), "--uplink-queues", str(GUESTS + 1), "--uplink-tx", str(self.uplink_tx), "--steer",
            "--traffic", "p2v=2,v2p=1,v2v=1", "--profile", "wander", "--hot-seconds", str(HOT_S),
            "--rate", str(CALM_PPS), "--seconds", str(self.seconds)])

    def running(self):
        return self.main.running() or (self.batch is not None and self.batch.running())

    def started(self):
        return self.main.started

    def step(self, at):
        self.main.read()
        if self.batch is not None:
            self.batch.read()
            if not self.batch.running():
                self.ended.append(self.batch)
                self.batch = None
        elif self.main.running() and self.next_batch <= at <= self.seconds - self.batch_seconds - 1:
            self.next_batch += BATCH_EVERY_S
            self.batch = Traffic(self.build, self.directory, f"batch-{len(self.ended) + 1}", [
                "--guests", str(BATCH_GUESTS), "--names", "batch", "--uplink", "none", "--traffic", "v2v=1",
                "--seconds", str(self.batch_seconds)])

    def all(self):
        return [t for t in (self.main, *self.ended, self.batch) if t is not None]

    def totals(self):
        sums = {key: sum(t.last[key] for t in self.all()) for key in Traffic.counters}
        sums["pps"] = sum(t.pps for t in self.all())
        sums["hot"] = self.main.hot
        return sums

    def stop(self):
        """Ends what still sends; what is on its way counts as lost once it stalls."""
        for t in self.all():
            t.process.terminate()
        for t in self.all():
            t.process.wait(15)

    def processes(self):
        return [t.process for t in self.all()]

    def result(self):
        """Sums of the last words of all receivers."""
        finals = [t.result() for t in self.all()]
        return {key: sum(f[key] for f in finals) for key in Traffic.counters}


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
    balance = "\n".join(f"{key} = {value}" for key, value in BALANCE.items())
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
        view.draw({"at": at, "seconds": seconds, "packets": totals["received"], "note": NOTE.format(**BALANCE),
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
        signal.signal(s, signal.SIG_IGN)  # what follows is the cleaning up
    sys.exit(128 + signum)


def kill(processes):
    for p in processes:
        if p.poll() is None:
            p.terminate()
    for p in processes:
        try:
            p.wait(5)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def demonstrate(options, directory, out):
    """Returns the summary."""
    workers = sorted(os.sched_getaffinity(0))[:WORKERS_MAX]
    build = os.environ["DVMQ_BUILD"]
    daemon = guests = watch = reason = None
    if len(workers) < 2:
        return summarize(None, None, workers, options.seconds,
                         "only one CPU may be used: there is no other core that a queue could move to")
    print(f"dvmqd and {GUESTS} guests start; workers on CPUs {', '.join(map(str, workers))}", file=out, flush=True)
    try:
        guests = SyntheticGuests(build, directory, options.seconds, workers)
        daemon = Daemon(build, directory, configuration(directory, workers, guests))
        view = demo_view.open_view(out)
        try:
            start(daemon, guests)
            watch = Watch(daemon)
            run(watch, guests, view, options.seconds)
            daemon.stop()
        except Failed as e:
            reason = str(e)
            guests.stop()
        finally:
            view.close()
        return summarize(guests, watch, workers, options.seconds, reason)
    finally:
        kill(([daemon.process] if daemon else []) + (guests.processes() if guests else []))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    out = sys.stderr if options.json else sys.stdout
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, end)

    directory = tempfile.mkdtemp(prefix="dvmq-demo.")
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
