#!/usr/bin/env bash
# Runs the cases of tests/measure/src/bin/virtual_node: the release binary with the manifests of deploy/ on nodes of the virtual-kubelet
# library, under a real API server. Builds what is missing first. Needs root.
#   tests/virtual-node.sh          every case
#   tests/virtual-node.sh NAME     the cases whose name has NAME in it
set -euo pipefail
cd "$(dirname "$0")/.."

cannot() {
    if [ "${CI:-}" = true ]; then
        echo "virtual-node FAILED: $*" >&2
        exit 1
    fi
    echo "virtual-node SKIPPED: $*" >&2
    exit 0
}

[ "$(id -u)" = 0 ] || cannot "network and mount namespaces need root"
for tool in busybox nsenter unshare; do
    command -v "$tool" >/dev/null || cannot "$tool is not installed"
done
! ldd "$(command -v busybox)" >/dev/null 2>&1 || cannot "busybox is not static; busybox-static is"
unshare --net --mount --pid --fork true 2>/dev/null || cannot "this machine does not permit namespaces"

KUBEBUILDER_ASSETS=$(tests/envtest/build.sh)
[ -x "$KUBEBUILDER_ASSETS/kubectl" ] || cannot "$KUBEBUILDER_ASSETS holds no kubectl"
OKG_VIRTUAL_NODE=$(tests/virtual_node/build.sh)/virtual-node
binary=$(.ci/build)
cargo build --quiet --locked -p measure --bin virtual_node

folder=$(mktemp -d "${TMPDIR:-/tmp}/okg-virtual-node-XXXXXX")
run=
end() {
    # The first process of the namespaces dies with it, and all others with that one.
    [ -z "$run" ] || kill -KILL "$run" 2>/dev/null || true
    wait
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# An image is a folder. The sidecar's holds one file, as the real one does, which nobody may read (0111).
mkdir -p "$folder/images/okg-sidecar" "$folder/images/busybox/bin"
install -m 0111 "$binary" "$folder/images/okg-sidecar/okg-sidecar"
cp "$(command -v busybox)" "$folder/images/busybox/bin/"
for applet in sh httpd cat sleep env; do
    ln -s busybox "$folder/images/busybox/bin/$applet"
done

export KUBEBUILDER_ASSETS OKG_VIRTUAL_NODE OKG_VIRTUAL_NODE_FOLDER=$folder
began=$SECONDS
TMPDIR=$folder unshare --mount --pid --fork --kill-child --mount-proc \
    cargo run --quiet --locked --offline -p measure --bin virtual_node -- "$@" &
run=$!
code=0
wait "$run" || code=$?
# Its number may be another's now.
run=
[ "$code" = 0 ]
echo "virtual-node ok: $((SECONDS - began)) s"
