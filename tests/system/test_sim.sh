#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 300
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

# Never more overload than a peer that parks, with fewer moves; none that it saw and left; none at all with all awake.
for scenario in steady skewed step churn; do
	for peer in rss++ lpt; do
		jq -e --arg p "$peer" '(.planners[] | select(.planner == "dvmq")) as $d | .planners[] | select(.planner == $p) |
			.overload >= $d.overload and .moves_per_s >= $d.moves_per_s' "$scenario.json" >/dev/null ||
			fail "$scenario: worse than $peer: $(<"$scenario.json")"
	done
	jq -e '(.planners[] | select(.planner == "roundrobin").overload) >=
		(.planners[] | select(.planner == "dvmq-awake").overload) and
		(.planners[] | select(.planner == "dvmq").left) == 0' "$scenario.json" >/dev/null ||
		fail "$scenario: overload stays, or more of it than with fixed queues: $(<"$scenario.json")"
done
jq -e '(.planners[] | select(.planner == "dvmq").remote) < 0.5 * (.planners[] | select(.planner == "lpt").remote)' \
	numa.json >/dev/null || fail "numa: queues are far from their memory: $(<numa.json)"

"$sim" run --scenario churn --cores 8 --queues 128 --trials 1 --seed 3 --json --planner dvmq >again.json
for key in overload mean_cores moves_per_s; do
	[[ $(figure churn dvmq $key) == $(figure again dvmq $key) ]] || fail "churn: $key differs with the same seed"
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
