# SPDX-License-Identifier: BSD-3-Clause
"""Tables, CSV, plots, and what was measured before on the same machine."""
import csv
import math
import subprocess
import sys

FIELDS = ["benchmark", "case", "side", "metric", "value", "low", "high", "unit", "note"]
FORMAT = "{benchmark:12} {case:25} {side:24} {metric:18} {value:>11} {unit:14} {interval:22} {note}"


def number(value):
    if value is None:
        return ""
    if isinstance(value, float) and math.isnan(value):
        return "-"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def print_head(identity):
    print(", ".join(f"{key}: {value}" for key, value in identity.items()), flush=True)
    print(FORMAT.format(benchmark="benchmark", case="case", side="side", metric="metric", value="value", unit="unit",
                        interval="from - to", note=""), flush=True)


def print_row(row):
    interval = f"{number(row['low'])} - {number(row['high'])}" if row["low"] is not None else ""
    print(FORMAT.format(**{**row, "value": number(row["value"])}, interval=interval).rstrip(), flush=True)


def write_csv(path, identity, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        for key, value in identity.items():
            f.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{v:.6g}" if isinstance(v := row[key], float) else v for key in FIELDS})


def read_baseline(path, identity):
    """{what: row} of an earlier --csv; None, with the reason on stderr, where it is of another machine."""
    try:
        with open(path, encoding="utf-8") as f:
            lines = f.read().splitlines()
    except OSError as e:
        print(f"tools/bench: --baseline {path}: {e.strerror}", file=sys.stderr)
        return None
    theirs = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    for key, value in identity.items():
        if theirs.get(key) != value:
            print(f"tools/bench: {path} was measured on another machine: its {key} is {theirs.get(key)}, here it is {value}."
                  " Figures of two machines do not compare; measure a baseline here with --csv", file=sys.stderr)
            return None
    return {key_of(row): row for row in csv.DictReader(line for line in lines if not line.startswith("# "))}


def key_of(row):
    return tuple(row[key] for key in ("benchmark", "case", "side", "metric"))


def compare(stored, rows):
    print(f"\n{'against the baseline':59} {'metric':22} {'then':>11} {'now':>11} {'now / then':>11}")
    for row in rows:
        then = stored.get(key_of(row))
        if then is None or not then["value"]:
            continue
        old = float(then["value"])
        change = row["value"] / old if old else math.nan
        print(f"{row['benchmark']:12} {row['case']:26} {row['side']:19} {row['metric']:22} {number(old):>11} "
              f"{number(row['value']):>11} {change:11.3f}")


def write_svg(path, identity, rows):
    """One point with its interval for each ratio, or, where there is none, for each row that has an interval."""
    shown = [r for r in rows if r["metric"] == "ratio"] or [r for r in rows if r["low"] is not None]
    shown = [r for r in shown if not math.isnan(r["value"])]
    if not shown:
        print("tools/bench: nothing to plot", file=sys.stderr)
        return
    data = "\n".join(f"{i}\t{r['value']}\t{r['low']}\t{r['high']}\t\"{r['benchmark']} {r['case']}: {r['side']}\""
                     for i, r in enumerate(reversed(shown)))
    script = (f"set terminal svg size 900,{120 + 24 * len(shown)} dynamic\nset output '{path}'\n"
              f"set title \"{identity['cpu']}, DPDK {identity['dpdk']}\" noenhanced\nset grid x\nunset key\n"
              "set xlabel 'how many times as fast; bar: 95 % interval'\n"
              f"set yrange [-1:{len(shown)}]\nset ytics noenhanced\nset arrow from 1,graph 0 to 1,graph 1 nohead dt 2\n"
              "$data << END\n" + data + "\nEND\n"
              "plot $data using 2:1:3:4:ytic(5) with xerrorbars pt 7 ps 0.6 lw 1.5\n")
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
