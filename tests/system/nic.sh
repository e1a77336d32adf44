# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
#
# For tests whose uplink is a NIC that sorts, to be sourced after lib.sh and traffic.sh: see tests/nic/sorter.c.

: "${scratch:?source lib.sh first}"

sorter=$DVMQ_BUILD/tests/nic/sorter.so
[ -e "$sorter" ] || fail "no $sorter: build it, or set DVMQ_BUILD"
nic_log=$scratch/nic.log

# nic_start CONFIG: dvmqd_start, with memif uplinks that sort.
nic_start() {
	local preload=$sorter sanitizer
	sanitizer=$(ldd "$DVMQ_BUILD/dvmqd" | awk '/lib[at]san/ { print $3 }') # wants to be first
	[ -e "$scratch/nic" ] || mkfifo "$scratch/nic"
	: >"$nic_log"
	LD_PRELOAD=${sanitizer:+$sanitizer:}$preload SORTER=$scratch dvmqd_start "$1"
}

# nic COMMAND...: tells the NIC something, and returns when it is so.
nic() {
	local before
	before=$(nic_says "^done $1\$")
	echo "$*" >"$scratch/nic"
	wait_until nic_said $((before + 1)) "^done $1\$"
}

nic_says() { # nic_says REGEX: how many lines of its log
	grep -Ec "$1" "$nic_log" || true
}

nic_said() { # nic_said N REGEX: at least N lines
	(($(nic_says "$2") >= $1))
}

# vmq FILTER: a condition on what `show vmq all` says
vmq() {
	ctlq "$1" show vmq all
}

# decided ACTION: how often
decided() {
	ctlq ".totals.$1 // 0" show balance
}
