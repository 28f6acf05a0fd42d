#!/bin/sh
# build.sh OUTPUT [PACKAGE]
#
# Builds the kube binary, or that of another package of this module (./node),
# unless OUTPUT was built from these very sources. What it was built from is kept
# beside it, in OUTPUT.key.
set -eu
out=$1
package=${2:-.}
cd "$(dirname "$0")"
unset CGO_ENABLED # with or without C, whichever this machine has: it is the test's, not the product's

version=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' go.mod | head -n 1)
major=$(echo "$version" | sed 's/^v\([0-9]*\)\..*/\1/')
minor=$(echo "$version" | sed 's/^v[0-9]*\.\([0-9]*\)\..*/\1/')
x=k8s.io/component-base/version
# Without these kubectl cannot read the server's version, nor the server the kubelet's.
ldflags="-s -w -X $x.gitVersion=$version -X $x.gitMajor=$major -X $x.gitMinor=$minor"

key=$({ cat "$package"/*.go go.mod go.sum; go env GOVERSION GOOS GOARCH; echo "$ldflags"; } | git hash-object --stdin)
if [ -x "$out" ] && [ "$(cat "$out.key" 2>/dev/null)" = "$key" ]; then
	exit 0
fi

case $package in
.) what="kube: Kubernetes $version, etcd and kubectl in one binary (once: 5 to 9 minutes on 2 cores, seconds when cached)" ;;
*) what="kube-node: kubelet, kube-proxy and scheduler $version in one binary (once: about 4 minutes on 2 cores, seconds when cached)" ;;
esac
mkdir -p "$(dirname "$out")"
temporary=$out.$$
trap 'rm -f "$temporary"' EXIT
echo "Fetching the modules of Kubernetes $version and etcd (once)"
total=$(go list -deps "$package" | wc -l)
../../tools/progress.sh "Building $what" "$total" \
	go build -v -buildvcs=false -trimpath -ldflags "$ldflags" -o "$temporary" "$package"
mv "$temporary" "$out"
echo "$key" >"$out.key"
