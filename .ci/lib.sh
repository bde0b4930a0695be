# lib.sh: the functions that ./demo, ./check and .ci/run share. bash sources it
# with the repository's root as the working directory.
# shellcheck shell=bash

heading() {
	printf '\n==== %s\n' "$*"
}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# as_root COMMAND...: runs it directly, or by sudo.
as_root() {
	if [[ $EUID -eq 0 ]]; then
		"$@"
	else
		sudo -- "$@"
	fi
}

# packages GROUP...: prints the names in .ci/packages that any of the groups
# needs.
packages() {
	awk -v groups="$*" '
		BEGIN { n = split(groups, list, " ")
			for (i = 1; i <= n; i++) want[list[i]] = 1 }
		/^#/ { next }
		{ for (i = 2; i <= NF; i++)
			if ($i in want) { print $1; next } }' .ci/packages
}

# missing PACKAGE...: prints those that are not installed.
missing() {
	local line
	local -A there=()

	while read -r line; do
		there[${line%%[ :]*}]=1
	done < <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" \
		2>/dev/null | grep ' installed$')
	for line; do
		[[ -n ${there[$line]:-} ]] || printf '%s\n' "$line"
	done
}

# need GROUP...: installs missing packages; fast if there are none.
need() {
	local -a names=()

	if ! command -v dpkg-query >/dev/null; then
		die "this wants Debian 12; .ci/packages says what to install"
	fi
	mapfile -t names < <(packages "$@")
	mapfile -t names < <(missing "${names[@]}")
	[[ ${#names[@]} -gt 0 ]] || return 0
	heading "installing ${names[*]}"
	[[ $EUID -eq 0 ]] || command -v sudo >/dev/null ||
		die "installing packages needs root, or sudo"
	install_packages "${names[@]}"
}

policy=/usr/sbin/policy-rc.d
policy_saved=$policy.mailferry-saved
policy_mark='# put here by mailferry while it installs packages'

# A package with a service starts it, unless policy-rc.d forbids that. The
# machine's own policy, if any, is always restored; the subshell is for the
# trap.
install_packages() (
	policy_restore
	if [[ ! -x $policy ]] || "$policy" any start >/dev/null 2>&1; then
		trap policy_restore EXIT
		trap 'exit 130' INT
		trap 'exit 143' TERM HUP
		if [[ -e $policy || -L $policy ]]; then
			as_root mv "$policy" "$policy_saved"
		fi
		printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" |
			as_root tee "$policy" >/dev/null
		as_root chmod 755 "$policy"
	fi
	as_root apt-get -q update ||
		printf 'apt-get update failed; going on without it\n' >&2
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		--no-install-recommends -o DPkg::Lock::Timeout=300 \
		install "$@" </dev/null
)

# Also called at the begin, because the last run may have been killed.
policy_restore() {
	if grep -qsF "$policy_mark" "$policy"; then
		as_root rm -f "$policy"
	fi
	if [[ -e $policy_saved || -L $policy_saved ]]; then
		as_root mv "$policy_saved" "$policy"
	fi
}

# build DIRECTORY [--target NAME...] -- [CMAKE OPTION...]: configures and
# builds; shows the compiler's output on failure.
build() {
	local dir=$1 log=$1/build.log
	local -a what=()

	shift
	while [[ $1 != -- ]]; do
		what+=("$1")
		shift
	done
	shift
	mkdir -p "$dir"
	if ! { cmake -S . -B "$dir" "$@" &&
		cmake --build "$dir" -j "$(nproc)" "${what[@]}"; } \
		>"$log" 2>&1 </dev/null; then
		# With several jobs the error is seldom the last line.
		grep -E -A 12 'error:|Error|FAILED' "$log" | head -n 200 >&2 ||
			true
		tail -n 40 "$log" >&2
		die "building $dir failed; all of it is in $log"
	fi
	printf 'built %s\n' "$dir"
}

# suite BUILD LABELS [NAME=VALUE...]: runs the tests, two at a time. Runs a test
# that fails once more, alone, and names it: many tests expect an answer within
# a time, and other work can slow a small machine down. A crash or a sanitizer's
# report is final.
suite() {
	local dir=$1 labels=$2 log=$1/Testing/Temporary
	local -a tests

	shift 2
	tests=(as_root env MAILFERRY_TEST_STRICT=1 "$@" ctest
		--test-dir "$dir" --output-on-failure --no-tests=error)
	if "${tests[@]}" -L "^($labels)\$" -j 2 </dev/null; then
		return 0
	fi
	if as_root grep -qE '(ERROR|WARNING): [A-Za-z]+Sanitizer|runtime error: |ended with status -|\*\*\*Exception' \
		"$log/LastTest.log"; then
		return 1
	fi
	heading "once more, alone: $(as_root cat "$log/LastTestsFailed.log" |
		sed 's/.*://' | xargs)"
	"${tests[@]}" --rerun-failed </dev/null
}
