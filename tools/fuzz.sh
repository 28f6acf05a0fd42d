#!/bin/sh
# fuzz.sh DURATION
#
# Runs every fuzz target of the module for the duration, one after the other.
set -eu
found=0
for file in $(grep -rl --include='*_test.go' '^func Fuzz' . | sort); do
	package=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		found=$((found + 1))
		echo "== $package $target"
		go test -run='^$' -fuzz="^$target\$" -fuzztime="$1" -fuzzminimizetime=10x "$package"
	done
done
[ "$found" -gt 0 ] || { echo "fuzz: no fuzz target found" >&2; exit 1; }
echo "$found fuzz targets"
