# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: switches, and the guests that perfguest plays for them."""
import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

HUGE_KNOB = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
HUGE_FREE = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
NETWORK_MAC = "02:00:00:00:ff:01"
FLOWS = 256
LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """A benchmark cannot go on; its text says why."""


processes = []  # all that were started


def die_with_parent():
    """What was started must not outlive us, even if we are killed; for a process that is about to exec."""
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def spawn(command, log_path, **options):
    """Starts a process as the leader of a group of its own, so that Ctrl-C is ours alone and all of it can be ended."""
    with open(log_path, "a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True, preexec_fn=die_with_parent,
                                   **{"stdin": subprocess.DEVNULL, "stdout": log, **options})
    processes.append(process)
    return process


def end(process):
    """Ends a process that we started, and its children; one that was stopped, too."""
    for sig in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
            if sig != signal.SIGCONT:
                process.wait(5)
                break
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            pass
    process.wait()
    if process in processes:
        processes.remove(process)


def end_all():
    for process in list(reversed(processes)):
        end(process)


class Hugepages:
    """Asks the kernel for more 2 MiB pages and gives them back. Without the right to, there are none."""

    def __init__(self):
        self.added = 0

    @staticmethod
    def read(path):
        with open(path, encoding="ascii") as f:
            return int(f.read())

    def write(self, n):
        with open(HUGE_KNOB, "w", encoding="ascii") as f:
            f.write(str(n))

    def want(self, pages):
        """True if that many are free."""
        try:
            missing = pages - self.read(HUGE_FREE)
            if missing <= 0:
                return True
            before = self.read(HUGE_KNOB)
            self.write(before + missing)
            self.added += self.read(HUGE_KNOB) - before
            return self.read(HUGE_FREE) >= pages
        except OSError:
            return False

    def restore(self):
        if self.added > 0:
            self.write(max(0, self.read(HUGE_KNOB) - self.added))
        self.added = 0


def cpus():
    """(of guests and controller, of the switch, all that may be used): the same ones in every run."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise Failed("two CPUs are needed: one for the switch, one for the guests")
    return usable[0], usable[1], usable


def control_cpu():
    """The controller works a little all the time: beside the guests only where there is no third CPU."""
    guest, _, usable = cpus()
    return usable[2] if len(usable) > 2 else guest


def thread_times(pid):
    """{thread id: (name, seconds that it ran)}"""
    times = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as f:
                ran = int(f.read().split()[0]) / 1e9
            with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
                times[int(tid)] = (f.read().strip(), ran)
        except FileNotFoundError:
            pass  # it ended
    return times


def cpu_use(pid, seconds):
    """{thread name: share of a core} over some seconds; threads of one name are added."""
    before, start = thread_times(pid), time.monotonic()
    time.sleep(seconds)
    after, took = thread_times(pid), time.monotonic() - start
    use = {}
    for tid, (name, ran) in after.items():
        use[name] = use.get(name, 0) + (ran - before.get(tid, (name, 0))[1]) / took
    return use


def write_capture(path, dst, number, sizes):
    """A capture file of UDP frames to one guest, for an uplink that never runs dry."""
    with open(path, "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for i in range(FLOWS):
            size = sizes[i % len(sizes)]
            ip = struct.pack("!BBHHHBBH4B4B", 0x45, 0, size - 14, 0, 0, 64, 17, 0, 10, 3, number, 1, 10, 2, 0, 1)
            total = sum(struct.unpack("!10H", ip))
            total = (total & 0xFFFF) + (total >> 16)
            ip = ip[:10] + struct.pack("!H", 0xFFFF & ~(total + (total >> 16))) + ip[12:]
            frame = bytes.fromhex((dst + NETWORK_MAC).replace(":", "")) + b"\x08\x00" + ip
            frame += struct.pack("!HHHH", 1024 + i, 9, size - 34, 0)
            f.write(struct.pack("<IIII", 0, i, size, size) + frame.ljust(size, b"\0"))


class Side:
    """One switch under test: its guests, its uplink, and how to start it."""

    def __init__(self, bench, name, binary=None):
        self.bench, self.name, self.binary = bench, name, binary
        self.directory = f"{bench.directory}/{name}"
        os.makedirs(self.directory, exist_ok=True)
        self.guests = []     # (name, keys for perfguest)
        self.uplink = None   # (queues, devargs)
        self.captures = []
        self.memif = None    # keys for perfguest
        self.workers = None  # default: the switch's CPU
        self.balance = {}
        self.process = None

    def guest(self, role, number=None, **keys):
        number = len(self.guests) + 1 if number is None else number
        mac = self.mac(number)
        self.guests.append((f"vm{number}", {"path": self.socket(f"vm{number}"), "side": self.name, "role": role,
                                            "mac": mac, **keys}))
        return mac

    @staticmethod
    def mac(number):
        return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"

    def socket(self, name):
        return f"{self.directory}/{name}.sock"

    def capture_uplink(self, numbers, sizes):
        """An uplink whose queue i holds endless traffic for the i-th of the guests; what is sent to it is dropped."""
        for i, number in enumerate(numbers):
            self.captures.append(f"{self.directory}/q{i}.pcap")
            write_capture(self.captures[-1], self.mac(number), i, sizes)
        self.uplink = (len(numbers), ",".join(["net_pcap0"] + [f"rx_pcap={c}" for c in self.captures] +
                                              ["infinite_rx=1"]), list(numbers))

    def memif_uplink(self, numbers, **keys):
        """An uplink whose traffic perfguest makes: queue i has that of the i-th of the guests."""
        path = self.socket("uplink")
        self.uplink = (len(numbers), f"net_memif0,role=server,socket={path},socket-abstract=no,rsize=10", list(numbers))
        self.memif = {"path": path, "side": self.name, "tx": len(numbers), "rx": self.uplink_tx(), "mac": NETWORK_MAC,
                      "dst": "/".join(self.mac(n) for n in numbers), **keys}

    def one_queue(self):
        """The uplink's traffic mixed in one queue, the default one."""
        self.uplink = (1, self.uplink[1], [])
        self.memif["tx"] = 1

    def uplink_tx(self):
        """TX queues that it has at its uplink."""
        return 1

    def specs(self):
        def spec(keys):
            return ",".join(f"{key}={value}" for key, value in keys.items())
        words = [word for _, keys in self.guests for word in ("--guest", spec(keys))]
        return words + (["--memif", spec(self.memif)] if self.memif else [])

    def start(self):
        raise NotImplementedError

    def stop(self):
        if self.process is not None:
            end(self.process)
            self.process = None

    def check(self):
        if self.process.poll() is not None:
            with open(f"{self.directory}/switch.log", encoding="utf-8", errors="replace") as f:
                tail = f.read()[-1500:]
            raise Failed(f"side {self.name} ended with exit code {self.process.returncode}:\n{tail}")


class Dvmqd(Side):
    """A dvmqd."""

    memory = 320  # MiB

    bound = True  # guests have their uplink queue; else all queues are default queues
    huge = True
    prefix = []   # of the command line
    environment = {}  # more of it
    steering = "static"

    def uplink_tx(self):
        return len(self.workers or [0]) + 1

    def config(self):
        workers = self.workers or [cpus()[1]]
        memory = f"-m {self.memory} --in-memory" if self.bench.huge and self.huge else f"-m {self.memory} --no-huge --no-shconf"
        text = [f"[dvmqd]\nsocket = {self.socket('dvmq')}\nworkers = {','.join(map(str, workers))}\n"
                f"control = {control_cpu()}\n[eal]\nargs = {memory} --no-pci --no-telemetry"]
        if self.uplink:
            queues, device, numbers = self.uplink
            text.append(f"[uplink up0]\ndevice = {device}\nqueues = {queues}\nsteering = {self.steering}")
        for i, (name, keys) in enumerate(self.guests):
            text.append(f"[port {name}]\ntype = vhost\nsocket = {keys['path']}")
            if "src" not in keys:  # who has several is learned
                text.append(f"mac = {keys['mac']}")
            number = int(name[2:])
            if self.uplink and self.bound and number in self.uplink[2]:
                text.append(f"vmq = {self.uplink[2].index(number)}")
        if self.balance:
            text.append("[balance]\n" + "\n".join(f"{key} = {value}" for key, value in self.balance.items()))
        return "\n".join(text) + "\n"

    def start(self):
        path = f"{self.directory}/dvmqd.conf"
        with open(path, "w", encoding="ascii") as f:
            f.write(self.config())
        self.process = spawn([*self.prefix, self.binary, "-c", path], f"{self.directory}/switch.log",
                             env={**os.environ, "XDG_RUNTIME_DIR": self.directory, **self.environment})
        self.connection = socket.socket(socket.AF_UNIX)
        while True:
            self.check()
            try:
                self.connection.connect(self.socket("dvmq"))
                break
            except OSError:
                time.sleep(0.02)
        self.answers = self.connection.makefile("rb")

    def ask(self, command):
        """What a command shows. The protocol: src/ctl/server.c."""
        try:
            self.connection.sendall(f"run json {command}\n".encode())
            verdict, length = self.answers.readline().split()
            text = self.answers.read(int(length))
        except (OSError, ValueError):
            time.sleep(0.2)
            self.check()
            raise
        if verdict != b"ok":
            raise Failed(f"dvmqd refuses \"{command}\": {text.decode().strip()}")
        return json.loads(text) if text.strip() else None

    def stop(self):
        if self.process is not None:
            self.connection.close()
        super().stop()


class Testpmd(Side):
    """DPDK's testpmd, forwarding between fixed pairs of ports without looking: the limit."""

    def start(self):
        devices = []
        count = max(len(self.captures), 1)
        for i, (_, keys) in enumerate(self.guests):
            if self.captures and i < count:
                devices += ["--vdev", f"net_pcap{i},rx_pcap={self.captures[i]},infinite_rx=1"]
            elif self.memif and i == 0:
                devices += ["--vdev", self.uplink[1]]
            devices += ["--vdev", f"net_vhost{i},iface={keys['path']},client=1,queues=1"]
        guest, switch, _ = cpus()
        memory = ["--in-memory", "-m", "320"] if self.bench.huge else ["--no-huge", "-m", "512"]
        self.process = spawn(
            ["dpdk-testpmd", "-l", f"{guest},{switch}", "--main-lcore", str(guest), "--no-pci", "--no-telemetry", *memory,
             "--file-prefix", f"bench{os.getpid()}{self.name}", *devices, "--", "--auto-start", "--nb-cores=1",
             "--forward-mode=io", "--no-flush-rx", "--total-num-mbufs=32768", "--stats-period=3600"],
            f"{self.directory}/switch.log", env={**os.environ, "XDG_RUNTIME_DIR": self.directory})

    @classmethod
    def available(cls, _bench):
        return shutil.which("dpdk-testpmd") is not None


class Ovs(Side):
    """Open vSwitch with its DPDK datapath and one rule for each destination, which is the least that it can do."""

    daemon = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
    schema = "/usr/share/openvswitch/vswitch.ovsschema"

    @classmethod
    def available(cls, bench):
        return bench.huge and os.path.exists(cls.daemon) and os.path.exists(cls.schema)

    def run(self, *command, check=True):
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.returncode == 0

    def start(self):
        d = self.directory
        self.environment = {**os.environ, "OVS_RUNDIR": d, "OVS_DBDIR": d, "OVS_LOGDIR": d, "OVS_SYSCONFDIR": d,
                            "XDG_RUNTIME_DIR": d}
        guest, switch, _ = cpus()
        log, database = f"{d}/switch.log", f"unix:{d}/db.sock"
        self.run("ovsdb-tool", "create", f"{d}/conf.db", self.schema)
        self.server = spawn(["ovsdb-server", f"{d}/conf.db", f"--remote=punix:{d}/db.sock"], log, env=self.environment)
        while not os.path.exists(f"{d}/db.sock"):
            time.sleep(0.02)
        vsctl = ["ovs-vsctl", f"--db={database}", "--no-wait"]
        self.run(*vsctl, "init")
        self.run(*vsctl, "set", "Open_vSwitch", ".", "other_config:dpdk-init=true",
                 f"other_config:dpdk-lcore-mask={1 << guest:#x}", f"other_config:pmd-cpu-mask={1 << switch:#x}",
                 "other_config:dpdk-alloc-mem=256",
                 f'other_config:dpdk-extra="--no-pci --in-memory --no-telemetry --file-prefix ovs{os.getpid()}"')
        self.run(*vsctl, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        rules = []
        if self.uplink:
            self.run(*vsctl, "add-port", "br0", "up", "--", "set", "interface", "up", "type=dpdk", "ofport_request=100",
                     f'options:dpdk-devargs="{self.uplink[1]}"', f"options:n_rxq={self.uplink[0]}")
            rules.append(f"dl_dst={NETWORK_MAC},actions=output:100")
        for i, (name, keys) in enumerate(self.guests):
            self.run(*vsctl, "add-port", "br0", name, "--", "set", "interface", name, "type=dpdkvhostuserclient",
                     f"ofport_request={i + 1}", f"options:vhost-server-path={keys['path']}")
            rules.append(f"dl_dst={keys['mac']},actions=output:{i + 1}")
        self.process = spawn(["taskset", "-c", str(guest), self.daemon, database], log, env=self.environment)
        while not self.run("ovs-ofctl", "dump-ports-desc", "br0", check=False):
            self.check()
            time.sleep(0.05)
        self.run("ovs-ofctl", "del-flows", "br0")
        for rule in rules:
            self.run("ovs-ofctl", "add-flow", "br0", rule)

    def stop(self):
        super().stop()
        if getattr(self, "server", None) is not None:
            end(self.server)
            self.server = None


class Guests:
    """perfguest, and what it says."""

    def __init__(self, bench, sides, *options):
        self.bench, self.sides, self.options = bench, sides, options
        guest, switch, _ = cpus()
        command = [bench.perfguest, "--cpu", str(guest), "--switch-cpu", str(switch), *options]
        if bench.huge:
            command.append("--huge")
        for side in sides:
            command += side.specs()
        self.log_path = f"{bench.directory}/perfguest.log"
        self.process = spawn(command, self.log_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.await_sockets()

    def await_sockets(self):
        paths = [keys["path"] for side in self.sides for _, keys in side.guests]
        while not all(map(os.path.exists, paths)):
            self.check()
            time.sleep(0.02)

    def check(self):
        if self.process.poll() is not None:
            with open(self.log_path, encoding="utf-8") as f:
                raise Failed(f"perfguest ended: {f.read()[-800:].strip()}")

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(5)
            self.check()
            raise Failed("perfguest ended")
        return json.loads(line)

    def connect(self):
        """Until all switches have all guests."""
        self.hz = self.hear()["hz"]
        for side in self.sides:
            self.say(f"pid {side.name} {side.process.pid}")

    def say(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.process.wait(5)
            self.check()

    def ask(self, line):
        self.say(line)
        return self.hear()

    def turns(self, rounds, turn_ms=20, settle_ms=3, window_us=60):
        """[{side name: turn}], one for each round."""
        self.say(f"turns {rounds} {turn_ms} {settle_ms} {window_us}")
        result = []
        while True:
            event = self.hear()
            if event["event"] == "end":
                return result
            if event["round"] == len(result):
                result.append({})
            result[event["round"]][event["side"]] = event

    def stop(self):
        end(self.process)
        self.process.stdin.close()
        self.process.stdout.close()


class Scene:
    """Sides that are up, with their guests, for a `with` block."""

    def __init__(self, bench, sides, *options):
        self.bench, self.sides, self.options, self.guests = bench, sides, options, None

    def __enter__(self):
        try:
            self.guests = Guests(self.bench, self.sides, *self.options)
            for side in self.sides:
                side.start()
            self.guests.connect()
            return self.guests
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        for side in self.sides:
            side.stop()
        if self.guests is not None:
            self.guests.stop()
        for side in self.sides:
            shutil.rmtree(side.directory, ignore_errors=self.bench.keep)


def temporary():
    return tempfile.mkdtemp(prefix="dvmqb.")
