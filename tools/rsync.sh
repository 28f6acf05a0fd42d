#!/bin/sh
# rsync.sh OUTPUT
#
# Puts an rsync of at least the version that the mover accepts at OUTPUT: a link to
# the system's, if that is new enough, else Debian's package and the libraries it
# needs, unpacked beside OUTPUT. Nothing is installed, and root is not needed.
set -eu
out=$1
least=$(sed -n 's/^const MinimumVersion = "\(.*\)"$/\1/p' "$(dirname "$0")/../transfer/rsync/version.go")
new_enough() {
	have=$("$1" --version 2>/dev/null | sed -n '1s/^rsync  *version v\{0,1\}\([0-9.]*\).*/\1/p')
	[ -n "$have" ] && [ "$(printf '%s\n%s\n' "$least" "$have" | sort -V | head -n 1)" = "$least" ]
}
if new_enough "$out"; then
	exit 0
fi
mkdir -p "$(dirname "$out")"
system=$(command -v rsync || true)
if [ -n "$system" ] && new_enough "$system"; then
	ln -sf "$system" "$out"
	exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
	echo "make: rsync $least or newer is needed${system:+ ($system is older)}. Install it: this is not Debian, where make would have fetched it" >&2
	exit 1
fi

echo "Fetching rsync $least or newer from Debian (once; seconds)"
dir=$(cd -P "$(dirname "$out")" && pwd)/rsync.d # where it is, whatever links lead there
rm -rf "$dir"
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/root"
own="-o Dir::State::Lists=$dir/lists -o Dir::Cache=$dir/cache -o APT::Sandbox::User="
log=$dir/log
fetch() {
	# shellcheck disable=SC2086 # options
	(cd "$dir/cache/archives" && apt-get -qq $own "$@") >>"$log" 2>&1
}
if ! fetch update || ! fetch download rsync libacl1 liblz4-1 libpopt0 libssl3 libxxhash0 libzstd1 zlib1g; then
	cat "$log" >&2
	echo "make: Debian's rsync cannot be fetched. Give an rsync of $least or newer on the PATH" >&2
	exit 1
fi
for package in "$dir"/cache/archives/*.deb; do
	dpkg-deb -x "$package" "$dir/root"
done
rm -rf "$dir/lists" "$dir/cache"
libs=$(find "$dir/root" -name 'libpopt.so.0' -exec dirname {} \;)
cat >"$out" <<END
#!/bin/sh
LD_LIBRARY_PATH='$libs' exec '$dir/root/usr/bin/rsync' "\$@"
END
chmod +x "$out"
if ! new_enough "$out"; then
	rm -f "$out"
	echo "make: this Debian's rsync is older than $least: $("$dir/root/usr/bin/rsync" --version 2>&1 | head -n 1)." \
		"Enable its security suite (bookworm-security has 3.5.0), or give a newer rsync on the PATH" >&2
	exit 1
fi
