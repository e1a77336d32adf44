# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
#
# For tests in the lab, a small VM with an emulated NIC; sourced in place of lib.sh, which it sources, too. $lab is
# where the lab is (DVMQ_NICLAB, or beside the project); where there is none the test is skipped. Its kernel is
# fetched before the test leaves the network for a namespace of its own.

lab=${DVMQ_NICLAB:-$(dirname "$0")/../../../shared/niclab}
fetched() {
	ls -d "${NICLAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/niclab}"/linux-image-* >/dev/null 2>&1
}
if [ -z "${DVMQ_TEST_INSIDE:-}" ] && [ -x "$lab/niclab.sh" ] && ! fetched; then
	timeout 120 "$lab/niclab.sh" -n 0 -b none /bin/true >/dev/null 2>&1 || true # what cannot be had is found out below
fi
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

[ -x "$lab/niclab.sh" ] || skip "no lab with an emulated NIC (DVMQ_NICLAB)"
command -v qemu-system-x86_64 >/dev/null || skip "no QEMU"
qemu-system-x86_64 -M q35 -device help 2>/dev/null | grep -q '"igb"' || skip "this QEMU has no igb NIC (8.0 or later has)"
fetched || skip "no kernel for the lab, and it could not be fetched"

# What a kernel says that was not given enough of the host's CPUs while it tried its timer.
no_timer='timer doesn.t work through Interrupt-remapped IO-APIC'

# lab_run SECONDS SCRIPT ARGUMENT...: runs the lab with an inject script of tests/system/niclab; if that fails, so does
# the test, with the end of what was printed.
lab_run() {
	local limit=$1 script=$2 rc
	shift 2
	for _ in 1 2 3; do
		rc=0
		timeout "$limit" "$lab/niclab.sh" -i "$DVMQ_ROOT/tests/system/niclab/$script" -l "$scratch/log" "$@" \
			</dev/null >"$scratch/lab.log" 2>&1 || rc=$?
		((rc == 0)) && return
		grep -q "$no_timer" "$scratch/log/console.log" || break
		say "# the emulated machine's timer did not tick in time: once more"
	done
	tail -n 20 "$scratch/log/console.log" || true # of the machine's kernel
	tail -n 60 "$scratch/lab.log"
	fail "the lab run ended with $rc"
}
