#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# quick
#
# The demo, as the README's first command runs it but for installation and build:
#
#	network --- memif --- dvmqd --- vm1 .. vm4, and batch1, batch2 now and then
#
# It ends by itself and tells that queues moved and nothing was lost; it fails when something is.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

(($(nproc) >= 2)) || skip "two CPUs are needed"
demo=("$DVMQ_ROOT/tools/demo" --no-build)
export TMPDIR=$scratch # for what the demo keeps when it fails

summary() { # summary LOG FILTER: of what --json printed, which is the last line
	tail -n 1 "$scratch/$1.log" | jq -er "$2"
}

demo_process() { # demo_process PROGRAM NAME: the child of that demo that runs PROGRAM
	pgrep -xP "${pids[$2]}" "$1"
}

moved() { # moved LOG: in the demo's progress, a queue has
	grep -q ' move ' "$scratch/$1.log"
}

nothing_left() {
	! compgen -G "$scratch/dvmq-demo.*"
}

# --- a run to its end -------------------------------------------------------------------------------
"${demo[@]}" --seconds 8 --json >"$scratch/out.json" 2>"$scratch/progress.txt" ||
	fail "the demo failed: $(tail -n 5 "$scratch/progress.txt")"
check "stdout is one JSON object" jq -es 'length == 1 and (.[0] | type == "object")' "$scratch/out.json"
check "packets arrived, queues moved, nothing was lost or reordered" jq -e \
	'.packets > 10000 and .moves > 0 and .lost == 0 and .reordered == 0 and .duplicated == 0 and .ok' "$scratch/out.json"
check "cores were in use" jq -e '.cores_min >= 1 and .cores_max >= .cores_min and .cores_max <= .workers' "$scratch/out.json"
check "without a terminal there is a line per second" grep -Ec '^ +[0-9.]+ s  [0-9] of [0-9] cores' "$scratch/progress.txt"
check "a move has a reason" grep -E ' move [a-z0-9/]+ core [0-9]+ -> [0-9]+: .*core' "$scratch/progress.txt"
check "nor colours or cursor movements" bash -c "! grep -q $'\x1b' '$scratch/progress.txt'"
check "nothing is left behind" nothing_left

# --- a switch that dies -----------------------------------------------------------------------------
spawn killed "${demo[@]}" --seconds 60 --json
wait_until -t 60 moved killed
kill -KILL "$(demo_process dvmqd killed)"
rc=0
wait_until -t 60 ended killed
await killed || rc=$?
check "the demo fails when its switch dies" [ $rc = 1 ]
check "and says so" summary killed '.ok == false and (.reason | test("dvmqd"))'
logs=$(sed -n 's/^logs: //p' "$scratch/killed.log")
check "and where its logs are" [ -s "$logs/dvmqd.log" ]
rm -r "$logs"

# --- packets that are lost --------------------------------------------------------------------------
# A guest's port taken away and not given back: what was on its way to it cannot arrive.
spawn lossy "${demo[@]}" --seconds 6 --json
wait_until -t 60 moved lossy
"$DVMQ_BUILD/tools/dvmqctl" -s "$(compgen -G "$scratch/dvmq-demo.*/dvmq.sock")" port del vm2
rc=0
wait_until -t 60 ended lossy
await lossy || rc=$?
check "the demo fails when packets are lost" [ $rc = 1 ]
check "and counts them" summary lossy '.lost > 0 and .ok == false and (.reason | test("lost"))'
rm -r "$scratch"/dvmq-demo.*

# --- ended from outside -----------------------------------------------------------------------------
spawn ended_early "${demo[@]}" --seconds 60
wait_until -t 60 moved ended_early
switch=$(demo_process dvmqd ended_early)
rc=0
stop ended_early || rc=$?
check "SIGTERM ends it" [ $rc = 143 ]
check "with its switch" [ ! -e "/proc/$switch" ]
check "and its files" nothing_left
