#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# What the balancer sees, recorded under traffic, is replayed by dvmq-sim; whatever ends a recording leaves whole lines.
#
#	dvmq-traffic         dvmqd, two workers          dvmq-traffic
#	network ===== up0 rx0 ... rx2 <-> tx0 of vm1, vm2 ---- guests
#	                         | save trace FILE
#	                         +-> FILE -> dvmq-sim run --trace FILE
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

sim=$DVMQ_BUILD/tools/dvmq-sim
trace=$scratch/trace.json

start() {
	dvmqd_start - < <(conf_switch 3 static && conf_guests 2 &&
		printf '%s\n' '[balance]' 'high = 0.8' 'target = 0.7' 'hold_ms = 60000' 'budget = 7.5')
}
trace_is() { # trace_is STATE [SNAPSHOTS, at least]
	ctlq ".trace | .state == \"$1\" and .snapshots >= ${2:-0}" show balance
}
refused() { # refused DESCRIPTION REGEX COMMAND...
	local rc=0
	ctl "${@:3}" >"$scratch/refused" 2>&1 || rc=$?
	if ((rc != 1)) || ! grep -Eq "$2" "$scratch/refused"; then
		fail "$1: exit code $rc, $(<"$scratch/refused")"
	fi
	say "ok - refused: $1"
}
# every FILTER FILE: true for each line; no line, or one that is not whole, is an error
every() {
	[ "$(tail -c 1 "$2" | od -An -c | tr -d ' ')" = '\n' ] || fail "$2 does not end with a whole line"
	jq -es "length > 0 and all(.[]; $1)" "$2"
}
replay() { # replay FILE [OPTION...]: the table goes to $scratch/table
	"$sim" run --trace "$@" >"$scratch/table" 2>"$scratch/table.err"
}

start
traffic_start --guests 2 --uplink-queues 3 --steer --traffic "p2v=1,v2p=1,v2v=1"
progress vm1

# --- under traffic -----------------------------------------------------------------------------------
check "nothing was recorded yet" ctlq '.trace == null' show balance
refused "to end what has not begun" 'no trace is being recorded' save trace off
refused "a folder that does not exist" "$scratch/none/t: No such file.*; name a new file" save trace "$scratch/none/t"
echo precious >"$scratch/file"
refused "a file that exists" "$scratch/file: File exists; name a new file" save trace "$scratch/file"
check "and it is as it was" grep -qx precious "$scratch/file"

check "it is told where the trace goes" [ "$(ctl save trace "$trace")" = "recording 60 s to $trace" ]
refused "a second one at a time" "$trace is being recorded already; end it by \"save trace off\"" \
	save trace "$scratch/second"
check "and no file came of that" [ ! -e "$scratch/second" ]
ctl set queue vm1/tx0 pin
for core in "$A" "$B" "$A"; do
	ctl set queue vm1/tx0 core "$core"
	seen=$(ctlq .trace.snapshots show balance)
	wait_until trace_is recording $((seen + 5))
done
ctl set balance off # what the planner would see
seen=$(ctlq .trace.snapshots show balance)
wait_until trace_is recording $((seen + 5))
ctl save trace off
check "it is told how long it was" ctlq ".trace | .state == \"complete\" and .file == \"$trace\" and
	.error == null and .snapshots == $(wc -l <"$trace")" show balance

check "each line is a snapshot of the slow loop" every "(.t_ms | type) == \"number\" and .slow and
	.params == {high: 0.8, target: 0.7, margin: 0.05, fast_ms: 1, slow_ms: 50, budget_percent: 7.5,
		cooldown_ms: 100, hold_ms: 60000} and ([.cores[].core] | sort) == ([$A, $B] | sort)" "$trace"
check "time goes on, a slow loop apart" jq -es '[.[].t_ms] | . == sort and (.[-1] - .[0]) / (length - 1) >= 49' "$trace"
check "every queue with a guest is there, by its name" jq -es '([.[].queues[].queue] | unique) == ([
	"up0/rx0", "up0/rx1", "up0/rx2", "vm1/tx0", "vm2/tx0"])' "$trace"
check "the demand is there" jq -es 'any(.[].queues[]; .queue == "vm1/tx0" and .demand > 0)' "$trace"
check "the pin, and the cores it was moved to" jq -es '[.[].queues[] | select(.queue == "vm1/tx0" and .pinned).core] |
	unique | length == 2' "$trace"

# --- replay --------------------------------------------------------------------------------------------
check "dvmq-sim replays it" replay "$trace"
for planner in dvmq static roundrobin ovs rss++ lpt; do
	check "and $planner had a try" grep -Eq "^${planner//+/\\+} +[0-9]" "$scratch/table"
done
check "on two cores, five queues" grep -q "2 cores, 5 queues" "$scratch/table"
check "with nothing to complain about" [ ! -s "$scratch/table.err" ]
head -n 1 "$trace" >"$scratch/one.json"
check "a line alone is a snapshot to plan for" "$sim" plan "$scratch/one.json"

lines=$(wc -l <"$trace")
head -c -30 "$trace" >"$scratch/cut.json"
check "a trace whose last line is cut off is replayed without it" replay "$scratch/cut.json" --planner dvmq
check "and that is told" grep -q "$scratch/cut.json:$lines: the last line is cut off (.*); using the $((lines - 1)) before" \
	"$scratch/table.err"
head -n 3 "$trace" >"$scratch/whole.json"
head -n 4 "$trace" | head -c -30 >"$scratch/four.json"
replay "$scratch/whole.json" --planner dvmq --json && mv "$scratch/table" "$scratch/expected"
replay "$scratch/four.json" --planner dvmq --json
same_but_time() {
	diff <(jq 'del(.. | .decision_us?)' "$scratch/expected") <(jq 'del(.. | .decision_us?)' "$scratch/table")
}
check "the result is that of the whole lines" same_but_time
broken() { # broken DESCRIPTION REGEX FILE
	local rc=0
	replay "$3" --planner dvmq || rc=$?
	if ((rc != 1)) || ! grep -Eq "$2" "$scratch/table.err"; then
		fail "$1: exit code $rc, $(<"$scratch/table.err")"
	fi
	say "ok - refused: $1"
}
{ head -n 2 "$trace" && head -n 3 "$trace" | tail -n 1 | head -c -30 && echo && tail -n 2 "$trace"; } >"$scratch/hole.json"
broken "a trace with a line cut off in its midst" "$scratch/hole.json:3:[0-9]+: no valid JSON" "$scratch/hole.json"
head -c 100 "$trace" >"$scratch/none.json"
broken "a trace without one whole line" "$scratch/none.json:1:[0-9]+: no valid JSON" "$scratch/none.json"
: >"$scratch/empty.json"
broken "an empty trace" "$scratch/empty.json: is empty" "$scratch/empty.json"

# --- ends -------------------------------------------------------------------------------------------------
check "a trace of one second" ctl save trace "$scratch/short.json" 1
wait_until trace_is complete 2
check "ended by itself, whole" every 'has("queues")' "$scratch/short.json"
refused "to end it again" 'no trace is being recorded' save trace off

# A disk that gets full: what was written before stays, and the daemon works on.
mkdir "$scratch/small"
mount -t tmpfs -o size=16k tmpfs "$scratch/small"
ctl save trace "$scratch/small/t.json" >/dev/null
wait_until trace_is failed 1
check "it is told why" ctlq '.trace.error | test("No space left on device; make room")' show balance
told=$(grep -c "trace $scratch/small/t.json ended after [0-9]* snapshots: No space" "$scratch/dvmqd.log" || true)
check "once in the log" [ "$told" = 1 ]
lines=$(wc -l <"$scratch/small/t.json")
check "whole lines are left, as many as it says" ctlq ".trace.snapshots == $lines" show balance
check "and nothing else" every 'has("queues")' "$scratch/small/t.json"
check "a new one can be recorded" ctl save trace "$scratch/killed.json"
check "and has nothing of that error" ctlq '.trace | .state == "recording" and .error == null' show balance
umount "$scratch/small"

# The daemon dies, or ends.
seen=$(ctlq .trace.snapshots show balance)
wait_until trace_is recording $((seen + 30)) # more than a second
traffic_stop p2v v2p v2v
stop dvmqd KILL || true
check "a killed dvmqd leaves whole lines" every 'has("queues")' "$scratch/killed.json"
check "that can be replayed" replay "$scratch/killed.json"

start
ctl save trace "$scratch/ended.json" >/dev/null
wait_until trace_is recording 10
seen=$(ctlq .trace.snapshots show balance)
dvmqd_stop
check "one that ends has written all of it: $seen snapshots or more" [ "$(wc -l <"$scratch/ended.json")" -ge "$seen" ]
check "whole" every 'has("queues")' "$scratch/ended.json"
