#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# quick
#
# The benchmark runs: its guests talk to the switch, take turns, measure, and leave nothing behind. How fast anything
# is, is not looked at.
#
#	perfguest: vm1 .. vm4 --- dvmqd A, dvmqd A2 --- memif --- perfguest: the network
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

(($(nproc) >= 2)) || skip "two CPUs are needed"
[ -x "$DVMQ_BUILD/tests/perf/perfguest" ] || skip "no perfguest: it is for x86"
export TMPDIR=$scratch
knob=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
pages=$(cat $knob 2>/dev/null) || pages=none

bench() {
	"$DVMQ_ROOT/tools/bench" --no-build "$@"
}

value() { # value SIDE METRIC of the CSV
	awk -F, -v side="$1" -v metric="$2" '$3 == side && $4 == metric { print $5 }' "$scratch/rows.csv"
}

positive() { # positive SIDE METRIC
	awk -v n="$(value "$1" "$2")" 'BEGIN { exit !(n + 0 > 0) }'
}

refused() { # refused REGEX COMMAND...: exit code 2, and says why
	local rc=0
	"${@:2}" >"$scratch/refused" 2>&1 || rc=$?
	cat "$scratch/refused"
	((rc == 2)) && grep -Eq "$1" "$scratch/refused"
}

nothing_left() {
	! compgen -G "$scratch/dvmqb.*" && ! pgrep -f "$scratch/dvmqb" &&
		[ "$(cat $knob 2>/dev/null || echo none)" = "$pages" ]
}

check "it names its benchmarks" grep -q '^smoke ' <(bench --list)
check "a short run succeeds" bench --quick --csv "$scratch/rows.csv" smoke
check "the CSV names the machine" grep -q '^# kernel: ' "$scratch/rows.csv"
check "and its columns" grep -qx 'benchmark,case,side,metric,value,low,high,unit,note' "$scratch/rows.csv"
check "switches took turns" [ "$(value A turns)" = 3 ]
check "packets went through, by uplink and guests" positive A packets
check "in order, and once" [ "$(value A reordered)" = 0 ]
check "they carried the time" positive A p50_us
check "a packet wakes the switch" [ "$(value A woken)" = 3 ]
check "as an eventfd wakes a thread" [ "$(value 'blocked thread' woken)" = 3 ]
check "nothing is left behind" nothing_left

check "a run is compared with an earlier one" bench --quick --baseline "$scratch/rows.csv" smoke
sed -i 's/^# kernel: .*/# kernel: another/' "$scratch/rows.csv"
check "but not with another machine's" refused "another machine" bench --quick --baseline "$scratch/rows.csv" smoke
check "a benchmark that does not exist is refused" refused "no benchmark nonsense" bench --quick nonsense
check "and an option that does not, too" refused "not an option" bench --nonsense

# --- ended in the midst of it -------------------------------------------------------------------------
spawn ended_early "$DVMQ_ROOT/tools/bench" --no-build --repeat 9 v2v
wait_until pgrep -f "$scratch/dvmqb.*/dvmqd.conf"
rc=0
stop ended_early || rc=$?
check "a signal ends it" [ $rc -eq 143 ]
check "with all that it started" nothing_left
