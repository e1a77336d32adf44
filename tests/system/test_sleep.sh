#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# An idle switch costs nothing that grows with its guests: who can be woken is not looked at, and whoever is woken is
# served, also beside a queue that cannot wake anybody. What idling costs is the operator's choice. Memory by port.
#
#	dvmq-traffic            dvmqd, two workers              dvmq-traffic
#	network ===== up0 rx0 (memif: no interrupts) | tx0 of vm1 ... vm16 (kicks) ---- guests that announce themselves
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

GUESTS=16

config() {
	conf_switch 1 software
	printf '[balance]\nmode = off\n'
}
core() { # core NUMBER FIELD
	ctlq ".[] | select(.core == $1).$2" show core all
}
is() { # is CORE FIELD VALUE
	[ "$(core "$1" "$2")" = "$3" ]
}
at_least() { # at_least CORE FIELD VALUE
	(($(core "$1" "$2") >= $3))
}
all_to() { # all_to CORE
	local i
	for ((i = 1; i <= GUESTS; i++)); do
		ctl set queue vm$i/tx0 core "$1"
	done
}
# What is in use beside the shared pools: DPDK's heap and the process's own memory
used() {
	ctlq '(map(select(.what == "DPDK heap, in use" or .what == "process, private").bytes) | add) -
		([.[] | select(.what | startswith("pool ")).bytes] | add)' show memory
}
all_came() { # all guests announced themselves more often than $before says
	local i
	for ((i = 1; i <= GUESTS; i++)); do
		(($(passed vm$i) > before[i])) || return 1
	done
}
announced() { # announced DESCRIPTION: each guest is heard once more
	local i
	for ((i = 1; i <= GUESTS; i++)); do
		before[i]=$(passed vm$i)
	done
	wait_until -t 60 all_came
	say "ok - $1"
}
before=()

# --- memory by port ---------------------------------------------------------------------------------------
dvmqd_start - < <(config)
empty=$(used)
for ((i = 1; i <= GUESTS; i++)); do
	ctl port add vhost "vm$i" "socket=$scratch/vm$i.sock" "mac=$(mac_of $i)"
done
traffic_start --guests $GUESTS --uplink-queues 1 --steer --profile idle
announced "all guests are there"
each=$((($(used) - empty) / GUESTS))
check "a guest without traffic takes less than 1 MiB beside the pools: $each bytes" [ $each -lt 1048576 ]
check "no port has more, by its own row" \
	ctlq 'map(select(.what | startswith("port vm"))) | length == '$GUESTS' and all(.bytes > 1000 and .bytes < 1048576)' show memory
check "the total is what DPDK reserved and what the process has" \
	ctlq '(map(select(.what == "DPDK heap, reserved" or .what == "process, private").bytes) | add) == .[-1].bytes' show memory

# --- sleep ------------------------------------------------------------------------------------------------
# The guests on one core, the uplink on the other: the first one blocks, the second one naps.
all_to "$A"
ctl set queue up0/rx0 core "$B"
wait_until is "$A" state idle
wait_until is "$B" state idle
blocked=$(core "$A" sleeps) naps=$(core "$B" sleeps)
wait_until -t 60 at_least "$B" sleeps $((naps + 2000))
blocked=$(($(core "$A" sleeps) - blocked)) naps=$(($(core "$B" sleeps) - naps))
check "who can be woken sleeps on: $blocked sleeps while the other one took $naps naps" [ $((10 * blocked)) -lt $naps ]
announced "whoever kicks is served"

# All on one core: it naps for the uplink's sake, and is woken by the guests.
all_to "$B"
wait_until is "$A" state parked
loops=$(core "$A" loops)
announced "so is who kicks a core that naps"
check "a parked core does nothing" is "$A" loops "$loops"

# --- policies -----------------------------------------------------------------------------------------------
ctl set core all policy latency
check "the policy is part of the configuration" ctlq '.dvmqd.policy == "latency"' show config
wait_until is "$B" state active
sleeps=$(core "$B" sleeps)
wait_until at_least "$B" loops $(($(core "$B" loops) + 1000000))
check "latency: it polls on without packets" is "$B" sleeps "$sleeps"
check "but not where there is nothing to poll" is "$A" state parked

ctl set core "$B" policy frugal
wait_until is "$B" state idle
check "each core has a policy of its own" is "$A" policy latency
check "which is not the configuration's" ctlq '.dvmqd.policy == "latency"' show config
announced "frugal: guests are heard"
refused=$(ctl set core 77 policy frugal 2>&1) && fail "core 77 has a policy now"
check "a core that is none is refused" grep "core 77 is no worker" <<<"$refused"
stop traffic || true # without traffic it has nothing to prove

# One frame at a time, each of which has to wake a core that blocks.
ctl set core all policy balanced
traffic_start --guests $GUESTS --uplink-queues 1 --steer --traffic v2p=1 --profile wander --hot-share 99 \
	--hot-seconds 1000 --flows 1 --window 1 --rate 1000 --packets 8000
all_to "$A"
ctl set queue up0/rx0 core "$B"
sleeps=$(core "$A" sleeps)
traffic_await v2p
check "a core slept between frames" at_least "$A" sleeps $((sleeps + 1000))

# A trickle: frames come all the time, and are taken together. A core that polls looks many times for each of them.
from_guests() {
	ctlq 'map(select(.port | startswith("vm")).rx_packets) | add' show port stats all
}
guests_passed() {
	(($(from_guests) >= $1))
}
takes_together() { # takes_together CORE
	local loops packets
	loops=$(core "$1" loops) packets=$(from_guests)
	wait_until -t 60 guests_passed $((packets + 2000))
	loops=$(($(core "$1" loops) - loops)) packets=$(($(from_guests) - packets))
	((loops < packets))
}
traffic_start --cpu "$A" --guests $GUESTS --uplink-queues 1 --steer --traffic v2p=1 --rate 60000
all_to "$B"
ctl set queue up0/rx0 core "$B"
wait_until is "$A" state parked
wait_until -t 60 takes_together "$B"
traffic_stop v2p
say "ok - a trickle is taken together"

# Under load with pauses, and from core to core
for policy in latency balanced frugal; do
	ctl set core all policy $policy
	traffic_start --guests $GUESTS --uplink-queues 1 --steer --traffic "p2v=1,v2p=1,v2v=1,pvp=1" --rate 20000
	for to in $A $B $A; do
		all_to "$to"
		ctl set queue up0/rx0 core "$to"
		progress vm1 100
	done
	traffic_stop p2v v2p v2v pvp
	say "ok - $policy: all of it arrived"
done
