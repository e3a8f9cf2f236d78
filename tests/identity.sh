#!/usr/bin/env bash
# Checks which commit a build says it is: in a clone, with a change, in a tarball of `git archive`, inside somebody else's
# repository, with a commit from the environment, and without any of them. Runs build.rs alone, which takes two seconds.
#
#   tests/identity.sh
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset OKG_SIDECAR_COMMIT
path=$PATH

rustc --edition 2024 -o "$folder/build" build.rs
git init -q "$folder/clone"
cp -r src build.rs Cargo.toml Cargo.lock .cargo .gitattributes "$folder/clone"
touch "$folder/clone/README.md"
commit() { git -C "$folder/clone" -c user.name=test -c user.email=test@localhost commit -q "$@"; }
git -C "$folder/clone" add .
commit -m first
head=$(git -C "$folder/clone" rev-parse HEAD)
head=${head:0:7}

# told FOLDER [BUILD]: the commit that a build in it says.
told() {
    (cd "$1" && PATH=$path CARGO_PKG_VERSION=1.2.3 "${2:-$folder/build}") |
        sed -n 's/^cargo::rustc-env=OKG_SIDECAR_VERSION=1\.2\.3 (\(.*\))$/\1/p'
}

# expect WHAT WANTED GOT
expect() {
    [ "$3" = "$2" ] || { echo "identity: $1: expected $2, got ${3:-nothing}" >&2; exit 1; }
}

expect "a clone" "$head" "$(told "$folder/clone")"
echo >>"$folder/clone/README.md"
expect "a change that is not built" "$head" "$(told "$folder/clone")"
echo >>"$folder/clone/src/main.rs"
expect "a change that is built" "$head-dirty" "$(told "$folder/clone")"
git -C "$folder/clone" add .
expect "a change that is staged" "$head-dirty" "$(told "$folder/clone")"
commit -m second
second=$(git -C "$folder/clone" rev-parse HEAD)
second=${second:0:7}
expect "the next commit" "$second" "$(told "$folder/clone")"

git -C "$folder/clone" archive --prefix=tarball/ HEAD | tar -x -C "$folder"
rustc --edition 2024 -o "$folder/build-of-tarball" "$folder/tarball/build.rs"
expect "a tarball" "$second" "$(told "$folder/tarball" "$folder/build-of-tarball")"
mkdir "$folder/clone/vendored"
expect "a folder in another repository" unknown "$(told "$folder/clone/vendored")"
expect "no git" unknown "$(path=/nonexistent && told "$folder/clone")"

export OKG_SIDECAR_COMMIT=0123456789abcdef0123456789abcdef01234567
expect "a commit from the environment" 0123456 "$(told "$folder/tarball")"
OKG_SIDECAR_COMMIT=0123456-dirty
expect "a dirty commit from the environment" 0123456-dirty "$(told "$folder/tarball")"
OKG_SIDECAR_COMMIT=
expect "an empty commit from the environment" "$second" "$(told "$folder/tarball" "$folder/build-of-tarball")"
OKG_SIDECAR_COMMIT=main
if told "$folder/tarball" >/dev/null 2>&1; then expect "a branch as the commit" "an error" "$(told "$folder/tarball")"; fi
echo "identity ok: clone, change, tarball, environment"
