# Sourced by tools/demo and tools/test: installs what is missing, configures and builds.
# Does nothing that is done already: the second time it takes about a second.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc)

say() {
	printf '== %s\n' "$*"
}

fail() {
	printf 'error: %s\n' "$1" >&2
	shift
	[ $# -eq 0 ] || printf 'note: %s\n' "$@" >&2
	exit 1
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

is_installed() {
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

has_candidate() {
	local policy
	policy=$(apt-cache policy "$1" 2>/dev/null) || return 1
	[[ $policy == *"Candidate: "[^\(]* ]]
}

# Fills `missing` with those of the given packages that are not installed.
find_missing() {
	missing=()
	local package
	for package in "$@"; do
		is_installed "$package" || missing+=("$package")
	done
}

# install_packages required PACKAGE... : a package that cannot be had is an error.
# install_packages optional PACKAGE... : it is left out.
install_packages() {
	local kind=$1 package available=()
	shift
	find_missing "$@"
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		fail "these packages are missing, and there is no apt-get here: ${missing[*]}" "install what they hold, then try again"
	if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
		[ "$kind" = optional ] && return 0
		fail "these packages are missing, and installing them takes root: ${missing[*]}" "apt-get install ${missing[*]}"
	fi
	# Not for optional ones: a machine that cannot have them would update its lists every time.
	if [ "$kind" = required ] && [ -z "${lists_updated:-}" ]; then
		say "apt-get update"
		as_root apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
		lists_updated=yes
	fi
	for package in "${missing[@]}"; do
		if has_candidate "$package"; then
			available+=("$package")
		elif [ "$kind" = required ]; then
			case $package in
			*llvm-22* | *mlir-22*)
				fail "this machine's apt sources have no $package: tdagen needs LLVM and MLIR 22" \
					"Debian 12 has them in bookworm-security; for other releases add https://apt.llvm.org (its llvm.sh does it)" \
					"then run this again"
				;;
			*)
				fail "this machine's apt sources have no $package" "see /etc/apt/sources.list"
				;;
			esac
		fi
	done
	[ ${#available[@]} -gt 0 ] || return 0
	say "apt-get install ${available[*]}"
	local log
	log=$(mktemp)
	if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${available[@]}" \
		>"$log" 2>&1; then
		tail -n 20 "$log" >&2
		[ "$kind" = optional ] || fail "apt-get could not install ${available[*]}"
	fi
	rm -f "$log"
}

install_build_packages() {
	install_packages required gcc g++ cmake ninja-build llvm-22-dev libmlir-22-dev liblua5.4-dev libzstd-dev zlib1g-dev
	install_packages optional lld-22
}

# build PRESET FOLDER
build() {
	if [ ! -f "$root/$2/build.ninja" ]; then
		say "configuring $2"
		mkdir -p "$root/$2"
		(cd "$root" && cmake --preset "$1" >"$2/configure.log" 2>&1) || {
			cat "$root/$2/configure.log" >&2
			fail "configuring failed"
		}
	fi
	if [ -x "$root/$2/tdagen" ]; then
		say "building what changed in $2"
	else
		say "building $2 (all of it: a minute or two, this once)"
	fi
	if [ -t 1 ]; then
		cmake --build "$root/$2" -j "$jobs" || fail "the build failed"
	else
		cmake --build "$root/$2" -j "$jobs" -- --quiet | { grep -vE '^(ninja: no work to do|-- )' || true; } ||
			fail "the build failed"
	fi
}
