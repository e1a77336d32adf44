# SPDX-License-Identifier: BSD-3-Clause
"""Guests and network of tools/demo, played by dvmq-traffic."""
import json
import subprocess

GUESTS = 4
BATCH_GUESTS = 2
BATCH_EVERY_S = 8
# The calm load takes less than a tenth of a core. The batch goes as fast as it can: some 0.3 of a core, on fast and
# on slow machines, since the batch itself is what limits it.
CALM_PPS = 120_000
HOT_S = 1.5

class Failed(Exception):
    """The demo cannot go on; its text says why."""


processes = []  # all that were started


def spawn(command, log_path, **options):
    """Starts a process as the leader of a group of its own, so that Ctrl-C is ours alone and all of it can be ended."""
    with open(log_path, "a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                   **options)
    processes.append(process)
    return process


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
        command = [f"{build}/tools/dvmq-traffic", "--dir", directory, "--interval", "0.5", "--wait", "30",
                   "--stall", "8", *options]
        self.process = spawn(command, self.log_path)
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

    # Guests and switch share the CPUs here, so the time that the kernel gives to the guests in the midst of a queue's
    # turn looks like load. Longer periods average that out; a low `high` lets a demo's small load fill a core.
    balance = {"high": 0.25, "target": 0.20, "margin": 0.08, "fast_ms": 100, "slow_ms": 200, "hold_ms": 1000}

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
            try:
                t.process.wait(15)
            except subprocess.TimeoutExpired:
                pass  # result() tells that it has no last word

    def result(self):
        """Sums of the last words of all receivers."""
        finals = [t.result() for t in self.all()]
        return {key: sum(f[key] for f in finals) for key in Traffic.counters}
