#!/usr/bin/env bash
# Checks that .ci/release refuses a tag that is not the version, a tree with changes, a commit that is not on main, and a version
# without its section in CHANGELOG.md, each with one line, and accepts what fits. Builds nothing.
#
#   tests/release.sh
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/.ci"
cp .ci/release "$folder/.ci"
cp Cargo.toml CHANGELOG.md "$folder"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
cd "$folder"
git init -q
commit() { git add . && git -c user.name=test -c user.email=test@localhost commit -qm test; }
commit

# expect TAG CODE LINE: what the script answers to the tag.
expect() {
    local told code=0
    told=$(.ci/release --check "$1" 2>&1) || code=$?
    [ "$code" = "$2" ] && [ "$told" = "$3" ] || { echo "release.sh: $1: code $code, $told; expected code $2, $3" >&2; exit 1; }
}

unset CI
expect "v$version" 0 "release ok: v$version can be made of this tree"
CI=true expect "v$version" 1 "release: there is no origin/main to look for the commit on: fetch the whole history"
git update-ref refs/remotes/origin/main HEAD
CI=true expect "v$version" 0 "release ok: v$version can be made of this tree"
git -c user.name=test -c user.email=test@localhost commit -q --allow-empty -m "on another branch"
expect "v$version" 1 "release: the commit is not on origin/main"
git update-ref refs/remotes/origin/main HEAD
git -c user.name=test -c user.email=test@localhost commit -q --allow-empty -m "later, on main"
git update-ref refs/remotes/origin/main HEAD
git reset -q --hard HEAD~1
expect "v$version" 0 "release ok: v$version can be made of this tree"
git update-ref -d refs/remotes/origin/main
expect v9.9.9 1 "release: the tag v9.9.9 is not v$version, the version of Cargo.toml"
expect "$version" 1 "release: the tag $version is not v$version, the version of Cargo.toml"
echo >>Cargo.toml
expect "v$version" 1 "release: the tree has changes that are in no commit:  M Cargo.toml"
git checkout -q .
touch new
expect "v$version" 1 "release: the tree has changes that are in no commit: ?? new"
rm new
sed -i "s/^version = .*/version = \"9.9.9\"/" Cargo.toml
commit
expect v9.9.9 1 'release: CHANGELOG.md has no section "## [9.9.9] - DATE" with text'
sed -i "0,/^## \[/s//## [9.9.9] - 2026-01-01\n\n## [/" CHANGELOG.md
commit
expect v9.9.9 1 'release: CHANGELOG.md has no section "## [9.9.9] - DATE" with text'
sed -i "s/^## \[9.9.9\].*/&\n\n- A change./" CHANGELOG.md
commit
expect v9.9.9 0 "release ok: v9.9.9 can be made of this tree"
echo "release ok: refuses another version, a tree with changes, a commit that is not on main and a missing section"
