# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
#
# QEMU guests for the system tests, on top of lib.sh: a Debian kernel with busybox, up in a few
# seconds, with one virtio NIC.
#
#	vm_start NAME SOCKET MAC ADDRESS/LEN [QUEUES]    QEMU is the server of SOCKET, so the switch may come and go
#	vm_wait NAME                            until the guest is up
#	vm_exec [-t SECONDS] NAME COMMAND...    output and exit code as if COMMAND ran here
#	vm_stop NAME | stop NAME KILL
#
# Several guests may boot at a time: start all, then wait for each. A guest takes one command at a
# time; a command that is to go on is put into the background in the guest ("CMD >FILE 2>&1 &").
#
# Guests run under TCG, which works on every machine; DVMQ_KVM=1 takes KVM.

: "${scratch:?source lib.sh first}"
qemu_cache=${DVMQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dvmq}
declare -A vm_line=() # by guest: file descriptor of its shell's output
vm_request=0

vm_prepare() { # once per test: finds QEMU and the kernel, packs the initramfs
	local tree=$scratch/initramfs
	qemu_kernel=$(compgen -G "$qemu_cache/linux-image-*/vmlinuz" | sort -V | tail -n 1) || true
	if ! command -v qemu-system-x86_64 >/dev/null || [ -z "$qemu_kernel" ]; then
		skip "no QEMU, or no kernel for its guests: run tools/deps qemu"
	fi
	mkdir -p "$tree"/{bin,dev,proc,sys,modules}
	cp "$(command -v busybox)" "$tree/bin/busybox"
	cp "${qemu_kernel%/*}"/modules/*.ko "$tree/modules"
	cp "$DVMQ_ROOT/tests/system/qemu/init" "$tree/init"
	(cd "$tree" && find . | cpio -o -H newc --quiet) >"$scratch/initramfs.cpio"
	rm -r "$tree"
}

# vm_start NAME SOCKET MAC ADDRESS/LEN [QUEUES]: does not wait for the guest. QUEUES are queue pairs (default 1).
vm_start() {
	local name=$1 socket=$2 mac=$3 address=$4 queues=${5:-1} accel=(-accel tcg -cpu max)
	local output nic="virtio-net-pci,netdev=n0,mac=$mac,romfile="
	[ -n "${qemu_kernel:-}" ] || vm_prepare
	if [ "${DVMQ_KVM:-0}" = 1 ]; then
		accel=(-accel kvm -cpu host)
	else
		nic+=,vectors=0 # QEMU 7.2 crashes with vhost-user and MSI-X under TCG; a guest can do without
	fi
	((queues == 1)) || nic+=,mq=on
	mkfifo "$scratch/$name.in" "$scratch/$name.out"
	# For reading and writing: neither this nor QEMU has to wait for the other to open the pipe.
	exec {output}<>"$scratch/$name.out"
	vm_line[$name]=$output
	spawn "$name" qemu-system-x86_64 "${accel[@]}" -M q35 -smp 1 -m 192 \
		-object "memory-backend-memfd,id=mem,size=192M,share=on" -machine memory-backend=mem \
		-nodefaults -no-user-config -display none -no-reboot \
		-kernel "$qemu_kernel" -initrd "$scratch/initramfs.cpio" \
		-append "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off random.trust_cpu=on dvmq_ip=$address" \
		-chardev "file,id=console,path=$scratch/$name.console.log" -serial chardev:console \
		-chardev "pipe,id=shell,path=$scratch/$name" -serial chardev:shell \
		-chardev "socket,id=c0,path=$socket,server=on,wait=off" \
		-netdev "vhost-user,id=n0,chardev=c0,queues=$queues" -device "$nic"
}

# vm_reply NAME ID SECONDS: copies the guest's output up to the line "@@ID CODE"; returns CODE.
vm_reply() {
	local name=$1 end=$((SECONDS + $3)) line part=""
	while :; do
		# A read that runs into its time limit leaves what it has in $line.
		if ! IFS= read -rt 1 line <&"${vm_line[$name]}"; then
			part+=$line
			running "$name" || fail "guest $name is gone"
			((SECONDS < end)) || fail "guest $name did not finish within $3 s; so far: $part"
			continue
		fi
		line=$part$line part=""
		if [[ $line =~ ^(.*)@@$2\ ([0-9]+)$ ]]; then
			printf '%s' "${BASH_REMATCH[1]}"
			return "${BASH_REMATCH[2]}"
		fi
		printf '%s\n' "$line"
	done
}

vm_wait() { # vm_wait NAME
	vm_reply "$1" ready 90
}

# vm_exec [-t SECONDS] NAME COMMAND...: runs a shell command in the guest (default limit: 60 s).
vm_exec() {
	local limit=60 name id
	if [ "$1" = -t ]; then
		limit=$2
		shift 2
	fi
	name=$1
	shift
	id=$BASHPID.$((++vm_request))
	printf '%s %s\n' "$id" "$(printf '%s' "$*" | base64 -w 0)" >"$scratch/$name.in"
	vm_reply "$name" "$id" "$limit"
}

vm_stop() { # vm_stop NAME: QEMU ends on SIGTERM; the guest has nothing to lose
	stop "$1" || true
	vm_forget "$1"
}

vm_forget() { # after the process has ended, so that a guest of that name may start anew
	local output=${vm_line[$1]}
	exec {output}<&-
	unset "vm_line[$1]"
	rm -f "$scratch/$1.in" "$scratch/$1.out"
}
