#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 900
#
# The model of the hand-over (tests/model/handover.pml) keeps its promises in every order of steps, and the model
# checker notices when a precaution is left out.
#
#	controller --GIVE/TAKE--> worker 0 <--TAKE--> worker 1 <--kick-- guest 0, guest 1
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

command -v spin >/dev/null || skip "no spin; tools/deps test installs it"
command -v gcc >/dev/null || skip "no gcc; tools/deps build installs it"

# build NAME GCC-DEFINES MODEL-DEFINE...: $scratch/NAME/pan, the checker of a variant of the model
build() {
	local dir=$scratch/$1 defines
	read -ra defines <<<"$2"
	shift 2
	mkdir "$dir"
	cd "$dir"
	spin "$@" -a "$DVMQ_ROOT/tests/model/handover.pml" >spin.log 2>&1 || fail "spin $*: $(<spin.log)"
	gcc -w -O1 -DCOLLAPSE -DMEMLIM=4000 "${defines[@]}" -o pan pan.c >gcc.log 2>&1 || fail "gcc: $(<gcc.log)"
}

# verify PAN-OPTION...: what the checker built last says; that it looked at everything
verify() {
	nice ./pan -n -m100000 "$@" >pan.log 2>&1 || true
	! grep -Eq 'max search depth too small|out of memory|Search not completed' pan.log || grep -q 'errors: 1' pan.log ||
		fail "the search is not complete: $(<pan.log)"
}

states() {
	awk '/states, stored/ { print $1 }' pan.log
}

# holds NAME MODEL-DEFINE...
holds() {
	build "$1" -DSAFETY "${@:2}"
	verify
	grep -q 'errors: 0' pan.log || fail "$*: $(<pan.log)"
	say "ok - $* ($(states) states)"
}

# holds_for_ever FORMULA MODEL-DEFINE...: under weak fairness
holds_for_ever() {
	build "$1" -DNFAIR=3 -DLIVENESS "${@:2}"
	verify -a -f -N "$1"
	grep -q 'errors: 0' pan.log || fail "$*: $(<pan.log)"
	say "ok - always: $* ($(states) states)"
}

# bites MUTANT MODEL-DEFINE...: the last thread first, as the controller's steps are what most errors need
bites() {
	build "$1" "-DSAFETY -DREVERSE" "-DMUTANT_$1" "${@:2}"
	verify
	grep -q 'errors: 1' pan.log || fail "nobody notices MUTANT_$1: $(<pan.log)"
	[ -e handover.pml.trail ] || fail "MUTANT_$1: an error without a trail"
	say "ok - found out: $1 ($(sed -n 's/^pan:1: //p' pan.log))"
}

# Which mutants there are, the model says; here is the smallest variant that shows each.
declare -A shown_by=(
	[READ_ASLEEP_FIRST]="-DHANDS=1 -DPACKETS_0=0 -DPACKETS_1=0"
	[NO_RECHECK]="-DHANDS=1 -DPACKETS_0=0 -DPACKETS_1=0"
	[NO_LOOK_AFTER_ARM]="-DHANDS=0 -DPACKETS_0=1 -DPACKETS_1=0"
	[KICK_WITHOUT_NAME]="-DHANDS=0 -DPACKETS_0=1 -DPACKETS_1=0"
	[DEAF_IS_ARMED]="-DDEAF -DHANDS=0 -DPACKETS_0=0 -DPACKETS_1=1"
	[NO_UNWATCH]="-DHANDS=1 -DPACKETS_0=1 -DPACKETS_1=0"
	[POLL_AFTER_GIVE]="-DHANDS=1 -DPACKETS_0=1 -DPACKETS_1=0"
	[NO_DRAIN]="-DHANDS=1 -DPACKETS_0=0 -DPACKETS_1=2"
	[NO_IN_TRANSIT]="-DHANDS=2 -DPACKETS_0=0 -DPACKETS_1=0"
	[ANSWER_EARLY]="-DHANDS=2 -DPACKETS_0=0 -DPACKETS_1=0"
	[NEXT_LATE]="-DHANDS=2 -DPACKETS_0=0 -DPACKETS_1=0"
	[STILL_ALONE]="-DOWNER_1=0 -DHANDS=1 -DPACKETS_0=1 -DPACKETS_1=1"
	[NO_PASS]="-DOWNER_1=NONE -DHANDS=1 -DPACKETS_0=1 -DPACKETS_1=1"
	[LOOK_TOO_EARLY]="-DOWNER_1=0 -DHANDS=1 -DPACKETS_0=1 -DPACKETS_1=1"
	[PLAIN_PUSH]="-DHANDS=2 -DPACKETS_0=0 -DPACKETS_1=0"
)
while read -r mutant; do
	[ -n "${shown_by[$mutant]:-}" ] || fail "no variant for MUTANT_$mutant"
	read -ra defines <<<"${shown_by[$mutant]}"
	bites "$mutant" "${defines[@]}"
done < <(sed -n 's/^#if.*def MUTANT_//p' "$DVMQ_ROOT/tests/model/handover.pml" | sort -u)

holds moves -DHANDS=3 -DPACKETS_0=0 -DPACKETS_1=0
holds kicks -DHANDS=1 -DPACKETS_0=2 -DPACKETS_1=0
holds naps -DDEAF -DHANDS=1 -DPACKETS_0=0 -DPACKETS_1=1
holds naps_and_kicks -DDEAF -DHANDS=0 -DPACKETS_0=1 -DPACKETS_1=2
holds drains -DHANDS=1 -DPACKETS_0=0 -DPACKETS_1=2
holds alone_no_longer -DOWNER_1=0 -DHANDS=1
holds alone_and_a_new_queue -DOWNER_1=NONE -DHANDS=1
holds three_workers -DWORKERS=3 -DHANDS=1 -DPACKETS_0=0 -DPACKETS_1=0
holds_for_ever hands_end -DHANDS=1 -DPACKETS_0=0 -DPACKETS_1=0
holds_for_ever all_delivered -DHANDS=0 -DPACKETS_0=1 -DPACKETS_1=0
