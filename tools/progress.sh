#!/bin/sh
# progress.sh TITLE TOTAL COMMAND [ARGUMENT ...]
#
# Runs a long command that prints a line per step (go build -v does, per
# package), and says every few seconds how far it is; nothing when it is over in
# two. TOTAL is the number of lines to expect; 0 if that is not known. The output
# itself is shown only when the command fails.
set -eu
title=$1 total=$2
shift 2
log=$(mktemp)
pid=
stop() {
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	rm -f "$log"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
started=$(date +%s)
elapsed() {
	s=$(($(date +%s) - started))
	printf '%dm%02ds' $((s / 60)) $((s % 60))
}
"$@" >"$log" 2>&1 &
pid=$!
ticks=0
while kill -0 "$pid" 2>/dev/null; do
	sleep 0.2
	[ $(($(date +%s) - started)) -ge 2 ] || continue
	[ "$ticks" -gt 0 ] || printf '%s\n' "$title"
	ticks=$((ticks + 1))
	[ $((ticks % 75)) -eq 0 ] || continue
	lines=$(grep -vc '^go: ' "$log" || true)
	if [ "$total" -gt 0 ]; then
		printf '  %s  %s of up to %s packages\n' "$(elapsed)" "$lines" "$total"
	else
		printf '  %s\n' "$(elapsed)"
	fi
done
code=0
wait "$pid" || code=$?
pid=
if [ "$code" -ne 0 ]; then
	tail -n 40 "$log" >&2
	printf '  failed after %s\n' "$(elapsed)" >&2
	exit "$code"
fi
[ "$ticks" -eq 0 ] || printf '  done in %s\n' "$(elapsed)"
