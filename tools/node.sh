#!/bin/sh
# node.sh OUTPUT
#
# Builds what a node of the tests takes beside Kubernetes into the directory OUTPUT,
# unless it is there, and installs Debian's part of it: that needs root, as running a
# node does.
set -eu
out=$1
containerd=v2.4.2
packages="runc iptables nftables iproute2 conntrack ethtool socat containernetworking-plugins btrfs-progs xfsprogs e2fsprogs"

if [ "$(id -u)" -ne 0 ]; then
	echo "make: nodes need root: network namespaces, mounts, containers. Run this target as root" >&2
	exit 1
fi
if [ "$(uname -s)" != Linux ]; then
	echo "make: nodes need Linux; this is $(uname -s). Run this target in a virtual machine" >&2
	exit 1
fi
missing=
if command -v dpkg-query >/dev/null; then
	for package in $packages; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
	done
else
	for program in runc iptables nft ip conntrack ethtool socat mkfs.btrfs mkfs.xfs mkfs.ext4; do
		command -v "$program" >/dev/null || missing="$missing $program"
	done
	[ -x /usr/lib/cni/ptp ] || missing="$missing /usr/lib/cni/ptp"
	if [ -n "$missing" ]; then
		echo "make: missing here:$missing. Install them: this is not Debian, where make would have (packages: $packages)" >&2
		exit 1
	fi
fi
if [ -n "$missing" ]; then
	echo "Installing for nodes:$missing (once)"
	log=$(mktemp)
	# shellcheck disable=SC2086 # a list of words
	if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $missing; } >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		echo "make: these packages cannot be installed:$missing. Install them by hand" >&2
		exit 1
	fi
	rm -f "$log"
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
if [ "$(cat "$out/containerd.key" 2>/dev/null)" != "$containerd" ]; then
	cd /
	for program in containerd containerd-shim-runc-v2 ctr; do
		# By itself in a directory, so that a build that is interrupted leaves nothing half done.
		GOFLAGS='' CGO_ENABLED=0 GOBIN="$out/new" "$root/tools/progress.sh" "Building $program $containerd (once: about 2 minutes on 2 cores, seconds when cached)" 0 \
			go install -trimpath -ldflags "-s -w" "github.com/containerd/containerd/v2/cmd/$program@$containerd"
		mv "$out/new/$program" "$out/$program"
	done
	rmdir "$out/new"
	echo "$containerd" >"$out/containerd.key"
fi
cd "$root"
CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w" -o "$out/pause" ./test/node/pause
