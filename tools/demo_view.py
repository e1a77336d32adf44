# SPDX-License-Identifier: BSD-3-Clause
"""The live view of tools/demo: a screen on a terminal, else a line per second and each decision as it happens."""
import os
import shutil

BLOCKS = " ▏▎▍▌▋▊▉█"
CORE_COLOURS = (36, 33, 35, 32)  # a queue has the colour of its core, so that a move is seen
RED, GREEN, BOLD, DIM = 31, 32, 1, 2
QUEUE_BAR = 0.25  # load that fills the bar of a queue
BAR = 11
CORE_BAR = 48
CELL = BAR + 16  # columns of what is told of a queue behind its name
CORE_NAMES = {"active": "active", "idle": "active", "parked": "parked"}  # idle: has queues, but sleeps until they kick


def cores_in_use(state):
    return sum(core["queues"] > 0 for core in state["cores"])


def million(n):
    return f"{n:,}"


class Lines:
    """Plain text, for pipes and logs."""

    def __init__(self, out):
        self.out = out
        self.next = 0

    def say(self, text):
        print(text, file=self.out, flush=True)

    def draw(self, state):
        for d in state["new"]:
            self.say(f"{d['at']:6.1f} s  {describe(d)}: {d['reason']}")
        if state["at"] < self.next:
            return
        self.next = int(state["at"]) + 1
        loads = " ".join(f"{c['core']}={c['demand']:.2f}" for c in state["cores"])
        self.say(f"{state['at']:6.1f} s  {cores_in_use(state)} of {len(state['cores'])} cores ({loads})"
                 f"  {state['pps'] / 1e3:.0f} kpps  {state['packets']} packets  {state['lost']} lost"
                 f"  {state['reordered']} reordered  {state['moves']} moves"
                 + (f"  hot: {state['hot']}" if state["hot"] else ""))

    def close(self):
        pass


def describe(d):
    if d["action"] == "move":
        return f"move {d['thing']} core {d['from']} -> {d['to']}"
    return f"{d['action']} {d['thing']}"


class Screen:
    """80 columns by 24 lines or more."""

    def __init__(self, out):
        self.out = out
        self.colour = "NO_COLOR" not in os.environ
        self.unicode = "utf" in (out.encoding or "").lower()
        self.recent = []
        self.put("\x1b[?1049h\x1b[?25l\x1b[2J")

    def put(self, text):
        self.out.write(text)
        self.out.flush()

    def close(self):
        self.put("\x1b[?25h\x1b[?1049l")

    def paint(self, text, *codes):
        if not self.colour or not codes:
            return text
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"

    def bar(self, share, width):
        eighths = round(max(0, min(1, share)) * width * 8)
        if not self.unicode:
            return ("#" * ((eighths + 4) // 8)).ljust(width, ".")
        full, rest = divmod(eighths, 8)
        return ("█" * full + (BLOCKS[rest] if rest else "")).ljust(width)

    def of_core(self, core, state):
        ids = [c["core"] for c in state["cores"]]
        return [CORE_COLOURS[ids.index(core) % len(CORE_COLOURS)]] if core in ids else [DIM]

    def title(self, state):
        bad = state["lost"] + state["reordered"] + state["duplicated"]
        proof = (f"{state['lost']} lost  {state['reordered']} reordered")
        text = (f" {min(state['at'], state['seconds']):4.0f} of {state['seconds']} s  {state['pps'] / 1e3:5.0f} kpps"
                f"  {million(state['packets']):>13} packets  ")
        return self.paint(" dvmq ", BOLD, 7) + text + self.paint(proof, BOLD, RED if bad else GREEN)

    def core_line(self, c, state):
        name = CORE_NAMES.get(c["state"], c["state"])
        colour = self.of_core(c["core"], state) if c["queues"] else [DIM]
        queues = f"{c['queues']:3d}" if c["queues"] else "  -"
        bar, mark = self.bar(c["demand"], CORE_BAR), int(state["high"] * CORE_BAR)
        if bar[mark] in " .":
            bar = bar[:mark] + "|" + bar[mark + 1:]
        return self.paint(f" {c['core']:>4}  {name:<7} {bar} {c['demand']:4.2f}  {queues}", *colour)

    def queue_cell(self, q, width, state):
        if q is None:
            return " " * (width + CELL)
        if q["core"] is None:
            return self.paint(f"{q['queue']:<{width}}   -".ljust(width + CELL), DIM)
        text = (f"{q['queue']:<{width}} {q['core']:>3} {self.bar(q['demand'] / QUEUE_BAR, BAR)}"
                f" {q['demand']:4.2f} {q['pps'] / 1e3:5.0f}")
        return self.paint(text, *self.of_core(q["core"], state))

    def queue_lines(self, state):
        """One line per port: the queues to it on the left, from it on the right."""
        ports = {}
        for q in state["queues"]:
            side = 1 if q["kind"] == "guest" or q["port"] == "host" else 0
            ports.setdefault(q["port"], ([], []))[side].append(q)
        for port, sides in ports.items():
            for i in range(max(map(len, sides))):
                left, right = (side[i] if i < len(side) else None for side in sides)
                mark = self.paint("hot", BOLD, RED) if port == state["hot"] else ""
                yield f" {self.queue_cell(left, 8, state)}  {self.queue_cell(right, 10, state)} {mark}"

    def decision_line(self, d, columns):
        if d["action"] == "move":
            head = f"{d['thing']:<10} {d['from']}>{d['to']}"
        else:
            head = f"{d['action']} {d['thing']}"
        text = f" {d['at']:5.1f} {head:<14} {d['reason']}"
        return text if len(text) < columns else text[:columns - 2] + "~"

    def draw(self, state):
        columns, rows = shutil.get_terminal_size((80, 24))
        self.recent = (self.recent + state["new"])[-50:]
        lines = [self.title(state), "",
                 self.paint(f" {'CORE':>4}  {'':7} {'load':<{CORE_BAR}}      queues", DIM)]
        lines += [self.core_line(c, state) for c in state["cores"]]
        head = f"core {'load':<{BAR}}       kpps"
        lines += ["", self.paint(f" {'TO GUEST':<8} {head}  {'FROM GUEST':<10} {head}", DIM)]
        lines += self.queue_lines(state)
        lines += ["", self.paint(f" MOVES  {state['moves']} so far; why:", DIM)]
        room = max(0, rows - len(lines) - 1)
        lines += [self.decision_line(d, columns) for d in reversed(self.recent[-room:] if room else [])]
        lines = lines[:rows - 1]
        lines += [""] * (rows - 1 - len(lines)) + [self.paint(" " + state["note"][:columns - 2], DIM)]
        self.put("\x1b[H" + "\x1b[K\r\n".join(lines) + "\x1b[K\x1b[J")


def open_view(out):
    """Screen or Lines, as fits where `out` goes."""
    if out.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Screen(out)
    return Lines(out)
