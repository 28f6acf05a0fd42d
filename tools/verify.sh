#!/bin/sh
# verify.sh GENERATED MODULES
#
# Fails if generating again would change a generated file, or if a module's
# go.mod or go.sum is not tidy. Each failure names the cure.
set -eu
generated=$1 modules=$2
state() {
	# shellcheck disable=SC2086 # a list of words
	find $generated -type f 2>/dev/null | sort | while read -r file; do
		echo "$(git hash-object "$file") $file"
	done
}
failed=0
before=$(state)
make --no-print-directory generate
if [ "$before" != "$(state)" ]; then
	echo "verify: generated files were out of date and have been written anew. Commit the result of 'make generate':" >&2
	# shellcheck disable=SC2086
	git status --short -- $generated >&2
	failed=1
fi
for module in $modules; do
	if ! (cd "$module" && go mod tidy -diff); then
		echo "verify: $module/go.mod is not tidy. Run: cd $module && go mod tidy" >&2
		failed=1
	fi
done
[ "$failed" -eq 0 ] && echo "generated files and modules are in order"
exit "$failed"
