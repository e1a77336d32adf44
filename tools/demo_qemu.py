# SPDX-License-Identifier: BSD-3-Clause
"""Guests of tools/demo --qemu: Linux in QEMU, and this network namespace as the network behind the uplink.

The host pings each guest, and a hot guest that changes takes TCP streams from another guest and from the host.
What was lost, reordered or duplicated is told by the sequence numbers of the pings, what was damaged by the
SHA-256 sums of the streams, and packets are counted by the NICs of the guests. Guests do not ping: the socket of
busybox' ping overflows when its guest gets no CPU for a second, which would look like a loss.
"""
import base64
import glob
import os
import re
import shutil
import socket
import subprocess
import time

from demo_guests import Failed, spawn

GUESTS = 4
HOT_S = 4
PINGS_PER_S = 20
STREAM_MB = 2
BOOT_S = 120
ANSWER_S = 30
HOST = 100  # host part of the host's address

# Above this, frames of a stream could fill a ring before its reader gets a CPU, and a full ring drops.
TCP_WINDOW = 131072


def address(number):
    return f"10.0.0.{number}"


class Guest:
    """A QEMU, and the shell on its second serial line (tests/system/qemu/init)."""

    def __init__(self, directory, number, kernel, initramfs):
        self.name = f"vm{number}"
        self.number = number
        self.request = 0
        self.text = ""
        shell = f"{directory}/{self.name}.shell"
        accelerator = ["-accel", "kvm", "-cpu", "host"] if os.environ.get("DVMQ_KVM") == "1" else \
            ["-accel", "tcg", "-cpu", "max"]
        # vectors=0: QEMU 7.2 crashes with vhost-user and MSI-X under TCG.
        nic = f"virtio-net-pci,netdev=n0,mac={mac(number)},romfile=,rx_queue_size=1024,vectors=0"
        command = [
            "qemu-system-x86_64", *accelerator, "-M", "q35", "-smp", "1", "-m", "192",
            "-object", "memory-backend-memfd,id=mem,size=192M,share=on", "-machine", "memory-backend=mem",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", kernel, "-initrd", initramfs,
            "-append", "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off random.trust_cpu=on"
                       f" dvmq_ip={address(number)}/24",
            "-chardev", f"file,id=console,path={directory}/{self.name}.console.log", "-serial", "chardev:console",
            "-chardev", f"socket,id=shell,path={shell},server=on,wait=off", "-serial", "chardev:shell",
            "-chardev", f"socket,id=c0,path={directory}/{self.name}.sock,server=on,wait=off",
            "-netdev", "vhost-user,id=n0,chardev=c0", "-device", nic]
        self.process = spawn(command, f"{directory}/{self.name}.log")
        self.connection = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + BOOT_S
        while self.connection.connect_ex(shell) != 0:
            self.check(end)
            time.sleep(0.02)
        self.connection.setblocking(False)

    def check(self, end):
        if self.process.poll() is not None:
            raise Failed(f"the QEMU of {self.name} ended with exit code {self.process.returncode}")
        if time.monotonic() > end:
            raise Failed(f"{self.name} does not answer")

    def ask(self, command):
        """Sends a shell command; reply() has its output later. Commands are carried out one after the other."""
        self.request += 1
        request = f"{self.request} {base64.b64encode(command.encode()).decode()}\n"
        self.connection.sendall(request.encode())
        return self.request

    def reply(self, tag):
        """The output of a command once it has ended, until then None; that of earlier ones is forgotten."""
        try:
            self.text += self.connection.recv(1 << 16).decode(errors="replace")
        except BlockingIOError:
            pass
        found = re.search(rf"@@{tag} \d+\r?\n", self.text)
        if not found:
            return None
        output, self.text = self.text[:found.start()], self.text[found.end():]
        return re.split(r"@@\w+ \d+\r?\n", output)[-1]

    def await_reply(self, tag, seconds=ANSWER_S):
        end = time.monotonic() + seconds
        while (output := self.reply(tag)) is None:
            self.check(end)
            time.sleep(0.02)
        return output


def mac(number):
    return f"52:54:00:00:00:{number:02x}"


def pack_initramfs(directory, root):
    """The guest's root directory: busybox, the modules of its NIC, and tests/system/qemu/init. Returns kernel and archive."""
    cache = os.environ.get("DVMQ_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "dvmq")
    kernels = sorted(glob.glob(f"{cache}/linux-image-*/vmlinuz"))
    if not kernels or not shutil.which("qemu-system-x86_64"):
        raise Failed("no QEMU, or no kernel for its guests: run tools/deps qemu")
    tree = f"{directory}/initramfs"
    for part in ("bin", "dev", "proc", "sys", "modules"):
        os.makedirs(f"{tree}/{part}")
    shutil.copy(shutil.which("busybox"), f"{tree}/bin/busybox")
    for module in glob.glob(f"{os.path.dirname(kernels[-1])}/modules/*.ko"):
        shutil.copy(module, f"{tree}/modules")
    shutil.copy(f"{root}/tests/system/qemu/init", f"{tree}/init")
    archive = f"{directory}/initramfs.cpio"
    subprocess.run(f"find . | cpio -o -H newc --quiet >{archive}", shell=True, cwd=tree, check=True)
    shutil.rmtree(tree)
    return kernels[-1], archive


# Prints the packets that the NIC received.
COUNT = "cat /sys/class/net/eth0/statistics/rx_packets"

PREPARE = f"""cd /tmp
echo 4096 {TCP_WINDOW} {TCP_WINDOW} >/proc/sys/net/ipv4/tcp_rmem
dd if=/dev/urandom of=data bs=1M count={STREAM_MB} 2>/dev/null
sha256sum <data >sum
for port in 5000 5001; do
	while :; do nc -l -p $port -e sha256sum 2>/dev/null; done >/dev/null 2>&1 &
done"""

# Sends the file again and again while "go" exists. No sum: nobody listened, for the last stream had just ended.
STREAM = """: >go-{to}; while [ -e go-{to} ]; do
	s=$(busybox nc {to} {port} <data 2>/dev/null)
	if [ "$s" = "$(cat sum)" ]; then echo stream ok; elif [ "$s" ]; then echo stream damaged; else sleep 0.1; fi
done >>streams 2>/dev/null"""

RESULT = "cat /tmp/streams 2>/dev/null; " + COUNT


def count_pings(text, sums):
    """Adds up the outputs of pings: what they lost, and what came twice or out of order."""
    last = 0
    for line in text.splitlines():
        if line.startswith("PING"):
            last = -1
        elif found := re.search(r"icmp_seq=(\d+) ttl", line):
            sequence = int(found[1])
            if "DUP" in line:
                sums["duplicated"] += 1
            elif sequence < last:
                sums["reordered"] += 1
            last = max(last, sequence)
        elif found := re.search(r"(\d+) packets transmitted, (\d+) received", line):
            sums["lost"] += int(found[1]) - int(found[2])


class QemuGuests:
    """Four guests, of which one after the other is hot."""

    # What emulated CPUs can send is next to nothing for the switch: a few percent of a core.
    balance = {"high": 0.02, "target": 0.015, "margin": 0.01, "fast_ms": 100, "slow_ms": 200, "hold_ms": 1000}

    def __init__(self, _build, directory, seconds, _workers):
        self.directory, self.seconds = directory, seconds
        self.guests = []
        self.pings, self.streams = [], []  # processes of the host
        self.asked = {}
        self.packets = {}
        self.hot = None
        self.rate = (0, 0, 0)  # time, packets then, packets per second
        self.sums = {"received": 0, "lost": 0, "reordered": 0, "duplicated": 0, "corrupt": 0, "foreign": 0}
        self.ended = False

    def config(self):
        ports = [f"[port vm{i}]\ntype = vhost\nsocket = {self.directory}/vm{i}.sock\nmac = {mac(i)}\n"
                 for i in range(1, GUESTS + 1)]
        return "[uplink up0]\ndevice = net_tap0,iface=dvmq-up\nsteering = software\n" + "".join(ports)

    def start(self):
        """Boots all guests and has them ping."""
        for command in ("ip link set lo up", f"ip address add {address(HOST)}/24 dev dvmq-up",
                        "sysctl -qw net.ipv6.conf.dvmq-up.disable_ipv6=1", "ip link set dvmq-up up"):
            subprocess.run(command.split(), check=True)
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        kernel, initramfs = pack_initramfs(self.directory, root)
        for number in range(1, GUESTS + 1):
            self.guests.append(Guest(self.directory, number, kernel, initramfs))
        for g in self.guests:
            g.await_reply("ready", BOOT_S)
        prepared = [g.ask(PREPARE) for g in self.guests]
        for g, tag in zip(self.guests, prepared):
            g.await_reply(tag)
        subprocess.run(f"dd if=/dev/urandom of=data bs=1M count={STREAM_MB} 2>/dev/null; sha256sum <data >sum",
                       shell=True, cwd=self.directory, check=True)
        for g in self.guests:
            self.asked[g] = g.ask(COUNT)
            self.pings.append(self.host(f"exec ping -n -W 10 -i {1 / PINGS_PER_S} -c {self.seconds * PINGS_PER_S}"
                                        f" {address(g.number)} >ping-{g.name} 2>&1"))

    def host(self, command):
        return spawn(command, f"{self.directory}/host.log", shell=True, cwd=self.directory)

    def started(self):
        return True

    def running(self):
        return not self.ended

    def step(self, at):
        for g in self.guests:
            output = g.reply(self.asked[g])
            if output is not None:
                self.packets[g] = int(output)
                self.asked[g] = g.ask(COUNT)
        received = sum(self.packets.values())
        if at - self.rate[0] >= 1:
            self.rate = (at, received, (received - self.rate[1]) / (at - self.rate[0]))
        self.sums["received"] = received
        if at < self.seconds:
            self.heat(int(at / HOT_S) % GUESTS + 1)
        else:
            self.finish()

    def heat(self, number):
        """Makes a guest the hot one: the only one that takes streams, from another guest and from the host."""
        if number == self.hot:
            return
        self.cool()
        self.hot = number
        sender = self.guests[number % GUESTS]
        sender.ask("cd /tmp; (" + STREAM.format(to=address(number), port=5000) + ") &")
        self.streams.append(self.host(STREAM.format(to=address(number), port=5001)))

    def cool(self):
        """Streams end once their file has passed."""
        for g in self.guests:
            g.ask("rm -f /tmp/go-*")
        for path in glob.glob(f"{self.directory}/go-*"):
            os.remove(path)

    def finish(self):
        """Awaits what is on its way, and reads all results."""
        self.cool()
        try:
            for process in self.pings + self.streams:
                process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            raise Failed("a ping or a stream of the host did not come to its end") from None
        outputs = [g.await_reply(g.ask(RESULT)) for g in self.guests]
        self.sums["received"] = sum(int(output.split()[-1]) for output in outputs)
        for path in glob.glob(f"{self.directory}/ping-*") + [f"{self.directory}/streams"]:
            with open(path, encoding="ascii") as f:
                outputs.append(f.read())
        text = "".join(outputs)
        count_pings(text, self.sums)
        self.sums["corrupt"] = text.count("stream damaged")
        if "stream ok" not in text:
            raise Failed("no stream arrived whole")
        if text.count("packets transmitted") != GUESTS:
            raise Failed("a ping has no result")
        self.ended = True

    def totals(self):
        return {**self.sums, "pps": self.rate[2], "hot": f"vm{self.hot}" if self.hot else None}

    def stop(self):
        pass

    def result(self):
        if not self.ended:
            raise Failed("the guests did not get to the end")
        return dict(self.sums)
