#!/usr/bin/env bash
# Checks that a commit gives the same bytes wherever it is built: once in this clone, once from its tarball in another folder,
# with another CARGO_HOME and wrappers of the compiler, and as another user with the toolchain elsewhere where root runs this. No path of either may be in
# them.
#
#   tests/reproducible.sh [TARGET]      default: musl of this machine
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-$(uname -m)-unknown-linux-musl}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset OKG_SIDECAR_COMMIT CARGO_TARGET_DIR

if [ -n "$(git status --porcelain --untracked-files=no)" ]; then
    echo "reproducible: the changes of this tree are in no commit, so that HEAD is built from a clone"
    git clone -q . "$folder/clone"
    first=$("$folder/clone/.ci/build" "$target")
else
    first=$(.ci/build "$target")
fi

home=${CARGO_HOME:-$HOME/.cargo}
other="$folder/another place"
mkdir -p "$other/cargo/registry" "$other/toolchain"
git archive --prefix=source/ HEAD | tar -x -C "$other"
# The packages themselves are unpacked anew.
cp -r "$home/registry/cache" "$home/registry/index" "$other/cargo/registry"
sysroot=$(rustc --print sysroot)
# A wrapper of the compiler that fails: nobody's environment or configuration puts a program there.
printf '[build]\nrustc-workspace-wrapper = "/bin/false"\n' >"$other/cargo/config.toml"
build=(env HOME=/nonexistent "CARGO_HOME=$other/cargo" CARGO_NET_OFFLINE=true RUSTC_WRAPPER=/bin/false "$other/source/.ci/build" "$target")
if [ "$(id -u)" = 0 ]; then
    chown -R 1234:1234 "$folder"
    second=$(unshare --mount bash -euo pipefail -c '
        mount --bind "$1" "$2" && export PATH="$2/bin:$PATH" && shift 2
        exec setpriv --reuid 1234 --regid 1234 --clear-groups "$@"' - "$sysroot" "$other/toolchain" "${build[@]}")
elif [ "${CI:-}" = true ]; then
    echo "reproducible: only root can build as another user" >&2
    exit 1
else
    echo "reproducible: not root, so that both builds are of one user and toolchain"
    second=$(PATH="$sysroot/bin:$PATH" "${build[@]}")
fi

sha256sum "$first" "$second"
cmp "$first" "$second"
for path in "$home" "$sysroot" "$PWD" "$folder" /registry/; do
    ! grep -aqF -e "$path" "$first" "$second" || { echo "reproducible: $path is in the binary" >&2; exit 1; }
done
echo "reproducible ok: $(wc -c <"$first") bytes, the same from a clone and from a tarball, in other places"
