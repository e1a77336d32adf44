# SPDX-License-Identifier: BSD-3-Clause
"""Guests of tools/demo --qemu: Linux in QEMU, and this network namespace as the network behind the uplink.

Each guest pings the next one and the host, and a hot guest that changes takes TCP streams from another guest and
from the host. What was lost, reordered or duplicated is told by the sequence numbers of the pings, what was
damaged by the SHA-256 sums of the streams, and packets are counted by the receivers' interfaces.
"""
import base64
import glob
import os
import re
import shutil
import socket
import subprocess
import time

from demo_error import Failed

GUESTS = 4
HOT_S = 4
PINGS_PER_S = 10
STREAM_MB = 2
BOOT_S = 120
ANSWER_S = 30
HOST = 100  # host part of the host's address

# Above this, frames of a stream could fill a ring before its reader gets a CPU, and a full ring drops.
TCP_WINDOW = 32768


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
        with open(f"{directory}/{self.name}.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
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
        """Sends a shell command; reply() has its output later."""
        self.request += 1
        request = f"{self.request} {base64.b64encode(command.encode()).decode()}\n"
        self.connection.sendall(request.encode())

    def reply(self, tag=None):
        """The output of the last command once it has ended, until then None."""
        try:
            self.text += self.connection.recv(1 << 16).decode(errors="replace")
        except BlockingIOError:
            pass
        found = re.search(rf"@@{tag or self.request} \d+\r?\n", self.text)
        if not found:
            return None
        output, self.text = self.text[:found.start()], self.text[found.end():]
        return output

    def await_reply(self, tag=None, seconds=ANSWER_S):
        end = time.monotonic() + seconds
        while (output := self.reply(tag)) is None:
            self.check(end)
            time.sleep(0.02)
        return output

    def run(self, command):
        self.ask(command)
        return self.await_reply()


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


# Prints packets received, answers, answers out of order, duplicates.
COUNT = r"""cat /sys/class/net/eth0/statistics/rx_packets
cat /tmp/ping-* | awk -F'seq=' '/seq=/ { split($2, a, " "); n++ } /DUP/ { d++ } END { print n + 0, d + 0 }'"""

PREPARE = f"""echo 4096 {TCP_WINDOW} {TCP_WINDOW} >/proc/sys/net/ipv4/tcp_rmem
dd if=/dev/urandom of=/tmp/data bs=1M count={STREAM_MB} 2>/dev/null
sha256sum </tmp/data >/tmp/sum
for port in 5000 5001; do
	while :; do nc -l -p $port -e sha256sum 2>/dev/null; done >/dev/null 2>&1 &
done"""

# An empty sum: nobody listened, for the last stream had just ended.
STREAM = """while [ -e {go} ]; do
	s=$(busybox nc {to} {port} <{data} 2>/dev/null)
	if [ "$s" = "$(cat {sum})" ]; then echo ok; elif [ "$s" ]; then echo bad; else sleep 0.1; fi
done >>{log} 2>/dev/null"""


class QemuGuests:
    hot_name = "vm{}"

    def __init__(self, build, directory, seconds, workers):
        self.directory, self.seconds = directory, seconds
        self.root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self.guests = []
        self.helpers = []  # processes of the host: pings and streams
        self.hot = None
        self.sums = {"received": 0, "lost": 0, "reordered": 0, "duplicated": 0, "corrupt": 0, "foreign": 0}
        self.rx = {}
        self.last = (0, 0)
        self.pps = 0
        self.final = None

    def config(self):
        ports = [f"[port vm{i}]\ntype = vhost\nsocket = {self.directory}/vm{i}.sock\nmac = {mac(i)}\n"
                 for i in range(1, GUESTS + 1)]
        return "[uplink up0]\ndevice = net_tap0,iface=dvmq-up\nsteering = software\n" + "".join(ports)

    def start(self):
        """Boots all guests and has them ping."""
        for command in ("ip link set lo up", f"ip address add {address(HOST)}/24 dev dvmq-up",
                        "sysctl -qw net.ipv6.conf.dvmq-up.disable_ipv6=1", "ip link set dvmq-up up"):
            subprocess.run(command.split(), check=True)
        kernel, initramfs = pack_initramfs(self.directory, self.root)
        for number in range(1, GUESTS + 1):
            self.guests.append(Guest(self.directory, number, kernel, initramfs))
        for g in self.guests:
            g.await_reply("ready", BOOT_S)
        for g in self.guests:
            g.ask(PREPARE)
        for g in self.guests:
            g.await_reply()
        self.host("dd if=/dev/urandom of=data bs=1M count=2 2>/dev/null; sha256sum <data >sum").wait()
        count = self.seconds * PINGS_PER_S
        for g in self.guests:
            for to in (g.number % GUESTS + 1, HOST):
                g.run(f"ping -c {count} -i {1 / PINGS_PER_S} {address(to)} >/tmp/ping-{to} 2>&1 &")
            g.ask(COUNT)

    def host(self, command):
        process = subprocess.Popen(["bash", "-c", command], cwd=self.directory, stdin=subprocess.DEVNULL,
                                   start_new_session=True)
        self.helpers.append(process)
        return process

    def started(self):
        return True

    def running(self):
        return self.final is None

    def step(self, at):
        for g in self.guests:
            output = g.reply()
            if output is not None:
                self.rx[g.name] = list(map(int, output.split()))
                if at < self.seconds:
                    g.ask(COUNT)
        if at >= self.seconds:
            self.finish()
            return
        self.heat(int(at / HOT_S) % GUESTS + 1)
        self.sums["received"] = sum(v[0] for v in self.rx.values())
        self.sums["duplicated"] = sum(v[2] for v in self.rx.values())
        if at - self.last[0] >= 1:
            self.pps = (self.sums["received"] - self.last[1]) / (at - self.last[0])
            self.last = (at, self.sums["received"])

    def heat(self, number):
        """Makes a guest the one that takes the streams."""
        if self.hot == number:
            return
        self.cool()
        self.hot = number
