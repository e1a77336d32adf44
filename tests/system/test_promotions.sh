#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# quick
#
# 500 times (10,000 without --quick, see test_promotions_many.sh), a VM gets soft queues, more of them, fewer, or loses
# them while traffic runs: nothing is lost, duplicated or overtaken, and no flow changes its virtqueue.
#
#	dvmq-traffic                dvmqd, two workers                     dvmq-traffic
#	network ===== up0 rx0, rx1 -+----------------------------> vm1, vm2 ---- guests with 2 queue pairs
#	             (by RSS)       +-> soft0 [, soft1] of each ---^
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/traffic.sh"

changes=${DVMQ_TEST_CHANGES:-500}
batch=100 # changes, then a sample of all counters

dvmqd_start - < <(
	conf_switch 2 software
	conf_guest 1 "queues = 2"
	conf_guest 2 "queues = 2"
	printf '%s\n' '[balance]' 'mode = off' # both workers are active from the start
)
# A soft queue is filled from both cores then, wherever it is polled.
ctl set queue up0/rx0 core "$A"
ctl set queue up0/rx1 core "$B"
for vm in vm1 vm2; do
	ctl set port $vm vmq 0
done
traffic_start --guests 2 --queues 2 --queue-size 512 --uplink-queues 2 --rss --flows 8 --traffic p2v=8,v2p=1,v2v=1
wait_until ctlq 'map(select(.type == "vhost").queues_used) == [2, 2]' show port all

# Each way from 0, 1 or 2 queues to another number.
numbers=(1 2 1 0 2 0)
for ((n = 0; n < batch; n++)); do
	echo "set port vm$((n % 2 + 1)) vmq ${numbers[n / 2 % 6]}"
done >"$scratch/changes"
echo "set port vm1 vmq 0" >"$scratch/to-0"
echo "set port vm2 vmq 0" >>"$scratch/to-0"

total() { # promotions and demotions so far
	ctlq '.totals.promote + .totals.demote' show balance
}
overflows() { # frames that found a ring full
	ctlq 'map(.drop_soft_full + .drop_ring_full) | add' show port stats all
}
overflows=$(overflows)
before=$(total) frames=$(passed up0) n=0
while ((n < changes)); do
	carry_out "$scratch/changes" || fail "a change was refused"
	n=$((n + batch))
	ctlj show queue all >>"$scratch/queues.json"
	ctlj show port stats all >>"$scratch/samples.json"
	if (($(ctlq 'map(.effective) | add' show vmq all) > 0)); then
		carry_out "$scratch/to-0"
	fi
done
made=$(($(total) - before))
check "$changes changes were carried out ($made)" [ "$made" -ge "$changes" ]
check "traffic ran meanwhile" has_passed up0 $((frames + 1000))
check "frames took soft queues, polled by a core" \
	jq -es 'flatten | any(.kind == "soft" and .packets > 0 and .core != null)' "$scratch/queues.json"
check "default queues of both cores filled them" \
	ctlq 'map(select(.kind == "default" and .packets > 0).core) == ['"$A,$B"']' show queue all
check "what came in went out or was dropped, in all $(jq -s length "$scratch/samples.json") samples" \
	sums_agree "$scratch/samples.json"
check "no ring ran over" [ "$(overflows)" = "$overflows" ]
check "it is told who asked for it" \
	ctlq 'any(.decisions[]; .action == "demote" and .thing == "vm1" and .reason == "set by the operator")' show balance
traffic_stop p2v v2p v2v
check "no flow was split" [ "$(traffic_final .split)" = 0 ]
