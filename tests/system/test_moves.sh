#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# quick
#
# 500 times (10,000 without --quick, see test_moves_many.sh), a queue goes from one worker to the other while traffic
# runs: nothing is lost, duplicated or overtaken.
#
#	dvmq-traffic                 dvmqd, two workers                   dvmq-traffic
#	network ===== up0 rx0 ... rx4 <-> core A | core B <-> tx0 of vm1 ... vm4 ---- guests
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

moves=${DVMQ_TEST_MOVES:-500}
queues=(up0/rx0 up0/rx1 up0/rx2 up0/rx3 up0/rx4 vm1/tx0 vm2/tx0 vm3/tx0 vm4/tx0)

# Each round puts every queue on one core, then on the other.
core=$B n=0
while ((n < moves)); do
	for queue in "${queues[@]}"; do
		echo "set queue $queue core $core"
		n=$((n + 1))
	done
	core=$((core == A ? B : A))
done >"$scratch/moves"

dvmqd_start - < <(conf_switch 5 static && conf_guests 4)
ctl set balance off
for queue in "${queues[@]}"; do
	ctl set queue "$queue" core "$A" 2>"$scratch/refused" || grep -q "no guest is connected" "$scratch/refused"
done
traffic_start --guests 4 --uplink-queues 5 --steer --traffic p2v=1,v2v=1,v2p=1
for queue in "${queues[@]}"; do
	ctl set queue "$queue" core "$A"
done

count='map(.moves) | add'
before=$(ctlq "$count" show queue all)
decided=$(ctlq .totals.move show balance)
frames=$(passed vm1)
: >"$scratch/again"
check "$n moves are carried out" carry_out "$scratch/moves"
again=$(wc -l <"$scratch/again")
after=$(ctlq "$count" show queue all)
check "each move was counted" [ $((after - before)) -eq "$n" ]
decided=$(($(ctlq .totals.move show balance) - decided))
check "and is a decision of the operator" [ $((n - again)) -le "$decided" -a "$decided" -le "$n" ]
check "queues are where the last command put them" \
	ctlq "map(.core) | unique == [$((core == A ? B : A))]" show queue all
check "every queue was stopped for a moment, and knows for how long" ctlq 'all(.pause_us_max > 0)' show queue all
check "traffic ran meanwhile" has_passed vm1 $((frames + 1000))
traffic_stop p2v v2v v2p
