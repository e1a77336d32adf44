# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
#
# For tests with dvmq-traffic, to be sourced after lib.sh: configuration of a switch with an uplink that is a
# memif, and the traffic program that plays the network behind it and the guests vm1, vm2, ...

: "${scratch:?source lib.sh first}"

# Two CPUs for workers; the first one controls, too.
mapfile -t cpus < <(awk -F'\t' '/^Cpus_allowed_list/ { n = split($2, part, ","); for (i = 1; i <= n; i++) {
	split(part[i], r, "-"); for (c = r[1]; c <= (r[2] == "" ? r[1] : r[2]); c++) print c } }' /proc/self/status)
((${#cpus[@]} >= 2)) || skip "needs two CPUs"
A=${cpus[0]} B=${cpus[1]}
UPLINK_TX=3 # the switch has one TX queue more than workers

# conf_switch QUEUES STEERING: daemon and uplink
conf_switch() {
	cat <<-EOC
		[dvmqd]
		workers = $A,$B
		control = $A
		[uplink up0]
		device = net_memif0,role=server,socket=$scratch/uplink.memif
		queues = $1
		steering = $2
	EOC
}

# conf_guest NUMBER [KEY=VALUE...]: port vmNUMBER
conf_guest() {
	printf '[port vm%u]\ntype = vhost\nsocket = %s\nmac = %s\n' "$1" "$scratch/vm$1.sock" "$(mac_of "$1")"
	printf '%s\n' "${@:2}"
}

# conf_guests N: vm1 to vmN, each with the uplink queue of its number
conf_guests() {
	local i
	for ((i = 1; i <= $1; i++)); do
		conf_guest "$i" "vmq = $i"
	done
}

mac_of() { # of a guest, as dvmq-traffic numbers them
	printf '52:54:00:00:00:%02x' "$1"
}

# traffic_begin OPTION...: dvmq-traffic against the switch; without --seconds or --packets it has no end.
traffic_begin() {
	: >"$scratch/traffic.log"
	spawn traffic "$DVMQ_BUILD/tools/dvmq-traffic" --dir "$scratch" --uplink-tx $UPLINK_TX --wait 60 --stall 10 \
		--seconds 0 "$@"
}

# traffic_start OPTION...: the same, and returns when it sends.
traffic_start() {
	traffic_begin "$@"
	wait_until -t 90 traffic_started_or_ended
	traffic_has '"event":"start"' || fail "dvmq-traffic ended at its start"
}

traffic_started_or_ended() {
	traffic_has '"event":"start"' || ended traffic
}

# traffic_settled: it looks by now whether flows keep their queue. Needs --interval.
traffic_settled() {
	grep '"event":"interval"' "$scratch/traffic.log" | jq -es 'any(.time > 2)'
}

traffic_has() { # traffic_has REGEX in what it said
	grep -Eq "$1" "$scratch/traffic.log"
}

# traffic_ended: after its end; what it sent must have arrived once and in order, at least N frames of each MODE.
traffic_ended() { # traffic_ended EXIT_CODE [MODE...]
	local mode n
	(($1 == 0)) || fail "dvmq-traffic: $(traffic_final 'del(.guests, .network)')"
	for mode in "${@:2}"; do
		n=$(traffic_final ".modes.$mode.received")
		((n >= 100)) || fail "only $n frames of $mode arrived"
	done
	say "ok - $(traffic_final '"\(.received) frames arrived once and in order"')"
}

traffic_stop() { # traffic_stop [MODE...]: ends it, then as traffic_ended
	local rc=0
	stop traffic || rc=$?
	traffic_ended $rc "$@"
}

traffic_await() { # traffic_await [MODE...]: the end that --packets or --seconds give, then as traffic_ended
	local rc=0
	wait_until -t 90 ended traffic
	await traffic || rc=$?
	traffic_ended $rc "$@"
}

traffic_final() { # traffic_final FILTER of the result
	grep '"event":"final"' "$scratch/traffic.log" | jq -rc "$1"
}

# carry_out FILE: its commands. One is refused if a worker has no CPU for a second, though it will be done: it is given
# again then, which is noted in $scratch/again.
carry_out() {
	local said line
	cp "$1" "$scratch/to-do"
	for _ in {1..30}; do
		if said=$(ctl -e -f "$scratch/to-do" 2>&1); then
			return
		fi
		[[ $said =~ to-do:([0-9]+):.*(did not answer within 1 s|has not given back) ]] || break
		line=${BASH_REMATCH[1]}
		say "# $said"
		echo again >>"$scratch/again"
		tail -n "+$line" "$scratch/to-do" >"$scratch/left"
		mv "$scratch/left" "$scratch/to-do"
	done
	complain "$said"
	return 1
}

# passed PORT: frames that the switch has received from a port
passed() {
	ctlq ".[] | select(.port == \"$1\").rx_packets" show port stats all
}

# more_passed PORT N: N more than now: `n=$(passed vm1); wait_until has_passed vm1 $((n + 1000))`
has_passed() {
	(($(passed "$1") >= $2))
}

# progress PORT [N]: awaits that N more frames come from a port
progress() {
	local n
	n=$(passed "$1")
	wait_until -t 60 has_passed "$1" $((n + ${2:-1000}))
}

# sums_agree FILE: in a `show port stats all`, as often as it stands in the file, all that came in is either out or a drop
sums_agree() {
	jq -es '[.[] | {in: (map(.rx_packets + .flood_copies) | add),
		out: (map(.tx_packets + (to_entries | map(select(.key | startswith("drop_")).value) | add)) | add)}
		| select(.in != .out)] | if . == [] then true else (tostring | halt_error(1)) end' "$1"
}
