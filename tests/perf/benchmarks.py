# SPDX-License-Identifier: BSD-3-Clause
"""All benchmarks by name. The first line of a function's text is what --list shows."""
from bench_daemon import BENCHMARKS as DAEMON
from bench_paths import BENCHMARKS as PATHS
from bench_rate import BENCHMARKS as RATE
from bench_zipf import BENCHMARKS as ZIPF

BENCHMARKS = {**RATE, **PATHS, **DAEMON, **ZIPF}
