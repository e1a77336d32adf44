#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Cores follow the load: a second one joins, and one parks in the kernel when the load is gone. What the operator
# sets comes first.
#
#	dvmq-traffic                 dvmqd, two workers               dvmq-traffic
#	network ===== up0 rx0 ... rx4 <-> core A | core B <-> tx0 of vm1 ... vm4 ---- guests
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

load=(--guests 4 --uplink-queues 5 --steer --traffic "p2v=1,v2p=1,v2v=1")

# Thresholds that any machine reaches: 3 % of a core is too much for one.
config() {
	conf_switch 5 static
	conf_guests 4
	printf '%s\n' '[balance]' 'high = 0.03' 'target = 0.025' 'margin = 0.01' 'hold_ms = 300' 'budget = 1000'
}

# decided ACTION [THING]: the balancer has done so at least once
decided() {
	ctlq "any(.decisions[]; .action == \"$1\" and (\"${2:-}\" == \"\" or .thing == \"${2:-}\"))" show balance
}
queues_of() { # queues_of CORE
	ctlq ".[] | select(.core == $1).queues" show core all
}
total() { # total ACTION
	ctlq ".totals.$1" show balance
}
both_work() {
	ctlq 'all(.[]; .queues > 0 and .busy > 0)' show core all
}
one_is_parked() {
	ctlq 'map(select(.state == "parked" and .queues == 0)) | length == 1' show core all
}

# thread_of CORE: /proc directory of its worker
thread_of() {
	local task
	for task in "/proc/${pids[dvmqd]}/task/"*; do
		if grep -q worker "$task/comm" && grep -qP "^Cpus_allowed_list:\t$1\$" "$task/status"; then
			echo "$task"
			return
		fi
	done
	fail "no worker thread on CPU $1"
}
# cpu_use THREAD: clock ticks, and how often it was given a CPU and left it
cpu_use() {
	local stat
	stat=$(<"$1/stat")
	stat=${stat##*) } # the name may have spaces
	awk '{ print "ticks", $12 + $13 }' <<<"$stat"
	grep ctxt_switches "$1/status"
}

dvmqd_start - < <(config)
check "without load only one core has queues" ctlq 'map(select(.queues > 0)) | length == 1' show core all

# --- up and down ---------------------------------------------------------------------------------------
traffic_start "${load[@]}"
wait_until both_work
wait_until decided activate "core $B"
wait_until decided move
check "every move says why" ctlq '[.decisions[] | select(.action == "move")] | all(.reason != "" and .from != .to)' show balance
traffic_stop p2v v2p v2v

# Guests that only announce themselves, each second, leave one core enough.
traffic_start --guests 4 --uplink-queues 5 --steer --profile idle
wait_until one_is_parked
wait_until decided park
parked=$(ctlq '.[] | select(.state == "parked").core' show core all)
thread=$(thread_of "$parked")
before=$(cpu_use "$thread")
progress vm1 4 # announcements: four seconds in which the balancer decides 80 times
[ "$(ctlq '.[] | select(.state == "parked").core' show core all)" = "$parked" ] || fail "it did not stay parked"
check "a parked core has not run at all: ${before//$'\n'/, }" [ "$(cpu_use "$thread")" = "$before" ]
stop traffic || true # without traffic it has nothing to prove

traffic_start "${load[@]}"
wait_until both_work
traffic_stop p2v v2p v2v
wait_until one_is_parked

# --- what the operator sets -----------------------------------------------------------------------------
refused() { # refused REGEX COMMAND...
	local rc=0
	ctl "${@:2}" 2>"$scratch/refused" || rc=$?
	if ((rc != 1)) || ! grep -Eq "$1" "$scratch/refused"; then
		fail "${*:2}: exit code $rc, $(<"$scratch/refused")"
	fi
	say "ok - refused: ${*:2}"
}
traffic_start "${load[@]}"
wait_until both_work

ctl set core "$B" park
check "a core that is to park has no queues" [ "$(queues_of "$B")" = 0 ]
progress vm1 20000
check "and gets none under load" [ "$(queues_of "$B")" = 0 ]
refused "core $A is the last worker that may poll" set core "$A" park

ctl set queue vm1/tx0 pin
ctl set core "$B" auto
wait_until both_work
progress vm1 20000
check "a pinned queue stays" ctlq '.[0] | .core == '"$A"' and .pinned' show queue vm1/tx0
refused "queue vm1/tx0 is pinned to core $A" set core "$A" park
ctl set queue vm1/tx0 unpin

ctl set balance off
check "the mode is off" ctlq '.mode == "off"' show balance
for queue in $(ctlq '.[] | select(.core != null).queue' show queue all); do
	ctl set queue "$queue" core "$A"
done
moves=$(total move)
progress vm1 20000
check "nothing moves while it is off" [ "$(total move)/$(queues_of "$B")" = "$moves/0" ]

# The plan: it would relieve the core, and says how; nothing happens.
would_move() {
	ctlj balance dry-run >"$scratch/plan.json"
	jq -e '(.moves | length > 0) and all(.moves[]; .from == '"$A"' and .to == '"$B"' and .reason != "")' "$scratch/plan.json"
}
wait_until would_move
check "a plan has all its fields" jq -e 'has("activate") and has("park") and has("saturated") and .decision_us > 0 and
	.max_after <= .max_before and .lower_bound <= .max_after + 0.001' "$scratch/plan.json"
check "a plan alone moves nothing" [ "$(total move)/$(queues_of "$B")" = "$moves/0" ]
ctl set balance auto
wait_until both_work

# Active without need
ctl set core "$A" activate
ctl set core "$B" activate
traffic_stop p2v v2p v2v
traffic_start --guests 4 --uplink-queues 5 --steer --profile idle
parks=$(total park)
progress vm1 3
check "cores that are to be active are not parked" [ "$(total park)" = "$parks" ]
ctl set core "$A" auto
ctl set core "$B" auto
wait_until one_is_parked
stop traffic || true
