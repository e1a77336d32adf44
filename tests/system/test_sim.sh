#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 600
#
# dvmq-sim from outside: the same seed gives the same numbers, every scenario that `list` names runs, the figures of
# the planner hold on small hosts, and a trace that is cut off or wrong is said to be.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

sim=$DVMQ_BUILD/tools/dvmq-sim
command -v jq >/dev/null || skip "no jq; tools/deps test installs it"
cd "$scratch"

# figure SCENARIO PLANNER KEY
figure() {
	jq -e --arg p "$2" ".planners[] | select(.planner == \$p).$3" "$1.json"
}

"$sim" list | awk '/^planners:/ { exit } /^  / { print $1 }' >scenarios
grep -qx numa scenarios || fail "list does not name numa"
while read -r scenario; do
	"$sim" run --scenario "$scenario" --cores 8 --queues 128 --trials 1 --seed 3 --json \
		--planner dvmq dvmq-awake roundrobin rss++ lpt >"$scenario.json" || fail "$scenario: exit $?"
done <scenarios

# Scarce queues, of a NIC or soft ones of a hot default queue: next to the best choice, and far beyond first come first
# served, with one change of a port in a second at most.
"$sim" share --trials 2 --seconds 30 --seed 3 --json >share.json || fail "share: exit $?"
for planner in dvmq-20 software; do
	jq -e --arg p $planner '(.planners[] | select(.planner == $p)) as $d | .planners[] | select(.planner == "fcfs") |
		$d.of_best_worst_trial >= 0.9 and $d.changes_per_port_s_max == 1 and .of_best < 0.5' share.json >/dev/null ||
		fail "share: $planner: $(<share.json)"
done

# Never more overload than a peer that parks, with fewer moves or fewer cores, and hardly one undone; next to none that
# it saw and left; none at all with all awake.
for scenario in steady skewed step seesaw churn numa; do
	for peer in rss++ lpt; do
		jq -e --arg p "$peer" '(.planners[] | select(.planner == "dvmq")) as $d | .planners[] | select(.planner == $p) |
			.overload_ms_per_s >= $d.overload_ms_per_s and
			(.moves_per_s >= $d.moves_per_s or .mean_cores >= $d.mean_cores) and $d.undone <= 0.01' \
			"$scenario.json" >/dev/null || fail "$scenario: worse than $peer: $(<"$scenario.json")"
	done
	jq -e '(.planners[] | select(.planner == "roundrobin").overload_ms_per_s) >=
		(.planners[] | select(.planner == "dvmq-awake").overload_ms_per_s) and
		(.planners[] | select(.planner == "dvmq").left) <= 0.00001' "$scenario.json" >/dev/null ||
		fail "$scenario: overload stays, or more of it than with fixed queues: $(<"$scenario.json")"
done
jq -e '(.planners[] | select(.planner == "dvmq").remote) < 0.5 * (.planners[] | select(.planner == "lpt").remote)' \
	numa.json >/dev/null || fail "numa: queues are far from their memory: $(<numa.json)"

"$sim" run --scenario churn --cores 8 --queues 128 --trials 1 --seed 3 --json --planner dvmq >again.json
for key in overload mean_cores moves_per_s; do
	[[ $(figure churn dvmq $key) == $(figure again dvmq $key) ]] || fail "churn: $key differs with the same seed"
done

# In each trial another load: what dvmq saw it left less of than any peer, and of those that park the best never had less.
"$sim" run --scenario mix --cores 8 --queues 64 --trials 25 --seed 4 --planner dvmq roundrobin rss++ lpt --json >duels.json
jq -e '[.duels[] | {(.best_peer_that): .}] | add |
	(.["parks cores"] | .more_overload == 0 and .more_left == 0 and .neither_fewer_cores_nor_moves == 0) and
	(.["never does"] | .more_overload > 0 and .more_overload < 10 and .more_left == 0 and
		.neither_fewer_cores_nor_moves == 0)' duels.json >/dev/null || fail "mix: $(<duels.json)"
"$sim" run --scenario mix --cores 2 --queues 8 --trials 3 --planner dvmq static lpt >table
(($(grep -c '^  of 3 trials, each to its best peer: more overload in [0-3].*, more left in 0, ' table) == 2)) ||
	fail "no trial by trial: $(<table)"

# The table names the best peer of each kind, and what is left of what it has more.
"$sim" run --scenario step --cores 8 --queues 64 --planner dvmq static roundrobin rss++ lpt ideal >table
for line in '^dvmq to the best peer that parks cores, lpt: overload 0\.050 to 0\.[1-9][0-9]* ms/s, cores 4\.[0-9]* to 4\.' \
	'^dvmq to the best peer that never does, roundrobin: overload 0\.050 to 0\.000 ms/s, cores 4\.[0-9]* to 8\.00' \
	'^  0\.000 ms/s of it were left .*; ideal, .*: 0\.[0-9]*$'; do
	grep -Eq "$line" table || fail "no $line: $(<table)"
done

# A trace whose last line is cut off is used as far as it goes; one that is wrong in the middle is not.
frame='{"t_ms":%d,"cores":[{"core":0},{"core":1}],"queues":[{"queue":"a","core":0,"demand":0.5}]}\n'
# shellcheck disable=SC2059
printf "$frame$frame" 0 100 >trace
printf '{"t_ms":200,"co' >>trace
"$sim" run --trace trace --planner dvmq >out 2>err || fail "a trace that is cut off: $(<err)"
grep -q 'trace:3: the last line is cut off' err || fail "not said: $(<err)"
# shellcheck disable=SC2059
{ printf '{"t_ms":0,"co\n'; printf "$frame" 100; } >trace
! "$sim" run --trace trace --planner dvmq >out 2>err || fail "a wrong trace is accepted"
grep -q 'trace:1:.*no valid JSON' err || fail "not said: $(<err)"

# --- replay: what was recorded of the operator and of the machine holds, for every planner --------------
# trace_of CORES QUEUES [PARAMS]: 4 s of the same, a line every 50 ms
trace_of() {
	jq -cn "range(81) as \$i | {t_ms: (1e6 + 50 * \$i), slow: true, params: {${3-}}, cores: [$1], queues: [$2]}" >trace
}
core() { # core ID [KEY: VALUE...]
	printf '{core: %d, %s},' "$1" "${2-}"
}
queues() { # queues NUMBER CORE DEMAND [KEY: VALUE...]
	for ((i = 0; i < $1; i++)); do
		printf '{queue: "q%d/%d", core: %d, demand: %s, %s},' "$2" "$i" "$2" "$3" "${4-}"
	done
}
# replayed FILTER: true for all planners; replayed PLANNER FILTER: for that one
replayed() {
	"$sim" run --trace trace --json >replay.json 2>err || fail "replay: exit $?: $(<err)"
	if (($# == 1)); then
		jq -e "[.planners[] | $1] | length > 6 and all" replay.json >/dev/null || fail "not so: $1: $(<replay.json)"
	else
		jq -e --arg p "$1" ".planners[] | select(.planner == \$p) | $2" replay.json >/dev/null ||
			fail "$1, not so: $2: $(<replay.json)"
	fi
}
cores=$(core 0)$(core 1)

trace_of "${cores%,}" "$(q=$(queues 2 0 0.6) && echo "${q%,}")"
replayed dvmq '.moves_per_s > 0 and .max_load == 1.2'
trace_of "${cores%,}" "$(q=$(queues 2 0 0.6 'pinned: true') && echo "${q%,}")"
replayed '.moves_per_s == 0 and .max_load == 1.2 and .overload > 0.4'
q=$(queues 1 0 0.6 'pinned: true')$(queues 9 1 0.1)
trace_of "${cores%,}" "${q%,}" # around a pinned one the others are spread
replayed lpt '.max_load < 0.9'

# The operator puts a pinned queue elsewhere; a queue that is missing in one line is on its way.
q=$(queues 1 0 0.6 'pinned: true')$(queues 1 1 0.6 'pinned: true')
trace_of "${cores%,}" "${q%,}"
jq -c 'if .t_ms > 1e6 + 2000 then .queues[].core = 1 else . end |
	if .t_ms == 1e6 + 2050 then .queues |= .[1:] else . end' trace >moved && mv moved trace
replayed '.moves_per_s == 0 and .max_load == 1.2 and .overload > 0.2 and .overload < 0.5'

# Which cores were awake at the begin, and which have to be.
q=$(queues 4 0 0.1)
cores=$(core 0)$(core 1 'state: "parked"')
trace_of "${cores%,}" "${q%,}"
replayed dvmq '.mean_cores == 1'
replayed roundrobin '.mean_cores == 2'
cores=$(core 0)$(core 1)
trace_of "${cores%,}" "${q%,}"
replayed dvmq '.mean_cores > 1.1 and .mean_cores < 1.3' # it parks after half a second of four
cores=$(core 0 'wish: "activate"')$(core 1 'state: "parked", wish: "activate"')
trace_of "${cores%,}" "${q%,}"
replayed '.mean_cores > 1.95' # all wake the one that sleeps, each at its time
q=$(queues 4 0 0.4)
cores=$(core 0)$(core 1 'state: "parked", wish: "park"')
trace_of "${cores%,}" "${q%,}"
replayed '.mean_cores == 1 and .overload > 0.99'

# Nodes: those nearby are enough. What was far when it was recorded needs less at home; so does one with the core for
# itself that had a sibling.
cores=$(core 0 'numa: 0, wish: "activate"')$(core 1 'numa: 1, wish: "activate"')$(core 2 'numa: 0, wish: "activate"')
q=$(queues 10 0 0.11 'numa: 0')
trace_of "${cores%,}" "${q%,}"
replayed dvmq '.moves_per_s > 0 and .remote == 0 and .overload < 0.001'
cores=$(core 0 'numa: 0')$(core 1 'numa: 1')
q=$(queues 1 0 1 'numa: 1')
trace_of "${cores%,}" "${q%,}"
replayed roundrobin '.remote == 0 and (.max_load - 0.8 | fabs) < 1e-6'
cores=$(core 0 'sibling: 1')$(core 1 'sibling: 0')
q=$(queues 1 0 0.65)$(queues 1 1 0.65)
trace_of "${cores%,}" "${q%,}"
replayed roundrobin '(.max_load - 0.65 | fabs) < 1e-6'

# The budget of moves.
cores=$(for ((i = 0; i < 8; i++)); do core "$i" 'wish: "activate"'; done)
q=$(queues 400 0 0.002)
trace_of "${cores%,}" "${q%,}" 'budget_percent: 0'
replayed dvmq '.moves_per_s == 0'
trace_of "${cores%,}" "${q%,}" 'budget_percent: 1'
replayed dvmq '.moves_per_s > 0 and .moves_per_s < 3'
trace_of "${cores%,}" "${q%,}" 'budget_percent: 1000'
replayed dvmq '.moves_per_s > 80'
trace_of "${cores%,}" "${q%,}" 'budget_percent: -1'
! "$sim" run --trace trace >out 2>err || fail "a wrong budget is accepted"
grep -q 'params.budget_percent: must be 0 to' err || fail "not said: $(<err)"

# A clock that jumps counts for 10 slow periods; cores and queues that vanish take their load and their pins with them.
cores=$(core 0)$(core 1)
q=$(queues 1 0 0.2)$(queues 1 1 0.2 'pinned: true')
trace_of "${cores%,}" "${q%,}"
jq -c 'if .t_ms > 1e6 + 2000 then .t_ms += 1e15 | .cores |= .[:1] else . end |
	if .t_ms > 1e6 + 3000 then .queues |= .[1:] else . end' trace >jump && mv jump trace
"$sim" run --trace trace --planner dvmq lpt --json >replay.json 2>err || fail "a clock that jumps: exit $?: $(<err)"
grep -q '1 gap of more than 500 ms between two lines counts as 500 ms' err || fail "not said: $(<err)"
jq -e '[.planners[] | .max_load < 0.5 and .overload == 0 and .mean_cores < 1.7] | all' replay.json >/dev/null ||
	fail "cores that vanish: $(<replay.json)"
