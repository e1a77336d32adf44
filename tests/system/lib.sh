# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
#
# What every system test shares. A test is an executable tests/system/test_NAME.sh that starts with
#
#	#!/bin/bash
#	# SPDX-License-Identifier: BSD-3-Clause
#	# quick                 (only if it takes a few seconds: `tools/check --quick` runs it)
#	# timeout: 300          (seconds, if 120 are too few)
#	# the topology, drawn in ASCII
#	. "$(dirname "$0")/lib.sh"
#
# It passes by reaching its end, with exit code 0; `skip` and `fail` leave it early.
#
# A test runs in network and mount namespaces of its own, with an empty /run: no traffic, interface,
# netns or EAL file of one test is seen by the machine or by another test, and neither root nor
# anything but unprivileged user namespaces is needed. Whatever it starts with `spawn`, `dvmqd_start`
# or `vm_start` is ended by process id when it exits, and $scratch is removed.

set -Eeuo pipefail
shopt -s inherit_errexit

DVMQ_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export DVMQ_ROOT
export DVMQ_BUILD=${DVMQ_BUILD:-$DVMQ_ROOT/build}
PATH=$PATH:/usr/sbin:/sbin

say() {
	printf '%s\n' "$*"
}

complain() { # with the line of the test itself that led here
	say "FAIL: ${BASH_SOURCE[-1]##*/}:${BASH_LINENO[-2]}: $*" >&2
}

fail() { # fail REASON
	complain "$@"
	exit 1
}

skip() { # skip REASON: what the test needs is not to be had here
	say "SKIP: $*"
	exit 77
}

# --- own namespaces --------------------------------------------------------------------------------
# The test starts again inside them; a user who is not root becomes root of a user namespace.
if [ -z "${DVMQ_TEST_INSIDE:-}" ]; then
	DVMQ_TEST_INSIDE=$(id -u)
	export DVMQ_TEST_INSIDE
	for namespaces in "--net --mount" "--net --mount --map-root-user"; do
		# shellcheck disable=SC2086 # a list of options
		if unshare $namespaces true 2>/dev/null; then
			exec unshare $namespaces "$BASH" "$0" "$@"
		fi
	done
	skip "no network namespace: neither root nor unprivileged user namespaces"
fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns
ip link set lo up

scratch=$(mktemp -d "${TMPDIR:-/tmp}/dvmqt.XXXXXX")
SOCK=$scratch/dvmq.sock

# --- waiting ---------------------------------------------------------------------------------------
mkfifo "$scratch/.never"
exec {never}<>"$scratch/.never"

# poll SECONDS CMD...: true once CMD succeeds, false if it never does.
poll() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || return 1
		read -rt 0.02 -u "$never" || true
	done
}

# wait_until [-t SECONDS] CMD...: the same, but the test fails. The limit only ends a test that is broken anyway.
wait_until() {
	local limit=30
	if [ "$1" = -t ]; then
		limit=$2
		shift 2
	fi
	poll "$limit" "$@" || fail "not within $limit s: $*"
}

# check DESCRIPTION CMD...: CMD has to succeed; its output is shown if it does not.
check() {
	local description=$1 output rc=0
	shift
	output=$("$@" 2>&1) || rc=$?
	if ((rc)); then
		say "$output"
		fail "$description ($*: exit code $rc)"
	fi
	say "ok - $description"
}

# --- processes -------------------------------------------------------------------------------------
declare -A pids=() # by name

# spawn NAME CMD...: in the background, output to $scratch/NAME.log. CMD is a program, `in_ns NETNS PROGRAM...`, or
# a function that starts no process which outlasts it.
spawn() {
	local name=$1
	shift
	if [ "$1" = in_ns ]; then # as a function it would be one more process, and the wrong one to signal
		set -- nsenter --net="/run/netns/$2" "${@:3}"
	fi
	"$@" >>"$scratch/$name.log" 2>&1 </dev/null &
	pids[$name]=$!
}

running() { # running NAME
	[ -n "${pids[$1]:-}" ] && kill -0 "${pids[$1]}" 2>/dev/null
}

ended() {
	! running "$1"
}

# await NAME: until a process of spawn has ended by itself; returns its exit code.
await() {
	local rc=0
	wait "${pids[$1]}" || rc=$?
	unset "pids[$1]"
	return $rc
}

# stop NAME [SIGNAL]: ends a process of spawn, and returns its exit code.
stop() {
	local name=$1 pid=${pids[$1]} rc=0
	kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
	wait_until -t 20 ended "$name"
	wait "$pid" || rc=$?
	unset "pids[$name]"
	return $rc
}

# --- network ---------------------------------------------------------------------------------------
netns_add() { # netns_add NAME
	ip netns add "$1"
	ip -n "$1" link set lo up
}

in_ns() { # in_ns NETNS CMD...
	nsenter --net="/run/netns/$1" "${@:2}"
}

# tap_up IFACE ADDRESS/LEN [NETNS]: awaits the tap that a process is about to make, and brings it up, in
# another namespace if one is given (the process then no longer sees the state of its link).
tap_up() {
	local ns=()
	wait_until ip link show dev "$1"
	if [ -n "${3:-}" ]; then
		ip link set dev "$1" netns "$3"
		ns=(-n "$3")
	fi
	echo 1 | ${3:+in_ns "$3"} tee "/proc/sys/net/ipv6/conf/$1/disable_ipv6" >/dev/null
	ip "${ns[@]}" address add "$2" dev "$1"
	ip "${ns[@]}" link set dev "$1" up
}

# --- hugepages -------------------------------------------------------------------------------------
# Tests use none, so that they run everywhere and change nothing on the machine; one that cannot do
# without calls this before dvmqd_start. The count is noted for tests/system/run, which looks whether it was given back.
hugepages=0
hugepages_taken=${DVMQ_TEST_STATE:-$scratch}/hugepages
hugepages_knob=/sys/kernel/mm/hugepages/hugepages-2048kB

hugepages_take() { # hugepages_take N (2 MiB each)
	local free total
	[ "$DVMQ_TEST_INSIDE" = 0 ] || skip "hugepages need root"
	free=$(<$hugepages_knob/free_hugepages)
	total=$(<$hugepages_knob/nr_hugepages)
	hugepages=$(($1 > free ? $1 - free : 0))
	echo $hugepages >"$hugepages_taken"
	echo $((total + hugepages)) >$hugepages_knob/nr_hugepages
	(($(<$hugepages_knob/free_hugepages) >= $1)) || skip "no $1 hugepages to be had"
	eal_memory=(--in-memory)
}

hugepages_give() {
	[ -e "$hugepages_taken" ] || return 0
	local left=$(($(<$hugepages_knob/nr_hugepages) - hugepages))
	echo $((left > 0 ? left : 0)) >$hugepages_knob/nr_hugepages
	rm "$hugepages_taken"
}

# --- the daemon ------------------------------------------------------------------------------------
eal_memory=(--no-huge -m 512)
EAL_ARGS=() # more EAL arguments for dvmqd

# dvmqd_start CONFIG: starts the daemon with a config file (-: from stdin) and its control socket at $SOCK,
# and returns once it takes commands.
dvmqd_start() {
	local config=$1
	if [ "$config" = - ]; then
		config=$scratch/dvmqd.conf
		cat >"$config"
	fi
	[ -x "$DVMQ_BUILD/dvmqd" ] || fail "no $DVMQ_BUILD/dvmqd: build it, or set DVMQ_BUILD"
	spawn dvmqd "$DVMQ_BUILD/dvmqd" --no-pci "${eal_memory[@]}" "${EAL_ARGS[@]}" -- -c "$config" -s "$SOCK"
	wait_until dvmqd_answers_or_ended
	running dvmqd || fail "dvmqd ended at its start"
}

dvmqd_answers_or_ended() {
	ended dvmqd || ctl show core all
}

dvmqd_stop() { # by SIGTERM, which has to give exit code 0
	local rc=0
	stop dvmqd || rc=$?
	((rc == 0)) || fail "dvmqd ended with exit code $rc"
}

ctl() { # ctl COMMAND...
	"$DVMQ_BUILD/tools/dvmqctl" -s "$SOCK" "$@"
}

ctlj() { # ctlj COMMAND...: as JSON
	ctl -j "$@"
}

# ctlq FILTER COMMAND...: what jq makes of the JSON. With `true` or `false` as the result it is a condition:
# wait_until ctlq '.[] | select(.port == "web1").up' show port stats all
ctlq() {
	local filter=$1
	shift
	ctlj "$@" | jq -er "$filter"
}

# --- the end ---------------------------------------------------------------------------------------
finish() {
	local rc=$? name log ended_with
	trap - EXIT ERR
	trap '' INT TERM
	set +e
	for name in "${!pids[@]}"; do # all at once, and then await each
		kill "${pids[$name]}" 2>/dev/null
	done
	for name in "${!pids[@]}"; do
		poll 10 ended "$name" || kill -KILL "${pids[$name]}" 2>/dev/null
		wait "${pids[$name]}" 2>/dev/null
		ended_with=$?
		if [ "$name" = dvmqd ] && ((rc == 0 && ended_with != 0)); then
			say "FAIL: dvmqd ended with exit code $ended_with" >&2
			rc=1
		fi
	done
	hugepages_give
	if ((rc != 0 && rc != 77)); then
		for log in "$scratch"/*.log; do
			[ -s "$log" ] && say "--- ${log##*/}" && grep -av ^VHOST_CONFIG "$log" | tail -n 40
		done
	fi
	rm -rf "$scratch"
	exit $rc
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'complain "$BASH_COMMAND"' ERR
