#!/usr/bin/env bash
# Runs the image as released, with the manifests of deploy/, on a real node: kubelet, containerd and runc under a real API
# server, all of them in network, process and mount namespaces of their own. Builds what is missing first. Needs root.
#   tests/node.sh                       every case but the slow ones
#   tests/node.sh --include-ignored     the slow ones, too: 12 minutes
#   tests/node.sh NAME                  the cases whose name has NAME in it
set -euo pipefail
cd "$(dirname "$0")/.."

cannot() {
    if [ "${CI:-}" = true ]; then
        echo "node FAILED: $*" >&2
        exit 1
    fi
    echo "node SKIPPED: $*" >&2
    exit 0
}

[ "$(id -u)" = 0 ] || cannot "kubelet and containerd need root"
for tool in buildah busybox findmnt go ip runc unshare; do
    command -v "$tool" >/dev/null || cannot "$tool is not installed"
done
! ldd "$(command -v busybox)" >/dev/null 2>&1 || cannot "busybox is not static; busybox-static is"
unshare --net --mount --pid --fork true 2>/dev/null || cannot "this machine does not permit namespaces"
[ -n "$(findmnt --types cgroup,cgroup2)" ] || cannot "no cgroup file system is mounted"

node=
folder=$(mktemp -d "${TMPDIR:-/tmp}/okg-node-XXXXXX")
cgroup=${folder##*/}
cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup"; }
end() {
    # The first process of the namespaces dies with it, and all others with that one.
    [ -z "$node" ] || kill -KILL "$node" 2>/dev/null || true
    wait
    # A cgroup can be removed when its last process is gone.
    for _ in $(seq 100); do
        cgroups | while read -r path; do find "$path" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
        [ -n "$(cgroups)" ] || break
        sleep 0.1
    done
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# image NAME DOCKERFILE FILE...: builds it without a registry, as an archive that containerd takes. The FILEs stand in for its
# build stage. A DOCKERFILE of - is standard input.
image() {
    local name=$1 dockerfile=$2 context=$folder/context-$1 buildah
    shift 2
    buildah=(buildah --root "$folder/storage" --runroot "$folder/runroot" --storage-driver vfs)
    mkdir "$context"
    cp "$@" "$context/"
    "${buildah[@]}" build --quiet --isolation chroot --build-context "build=$context" -f "$dockerfile" -t "$name" "$context" >/dev/null
    "${buildah[@]}" push --quiet "$name" "docker-archive:$folder/images/${name%%:*}.tar:$name" >/dev/null
}

KUBEBUILDER_ASSETS=$(tests/envtest/build.sh)
[ -x "$KUBEBUILDER_ASSETS/kubectl" ] || cannot "$KUBEBUILDER_ASSETS holds no kubectl"
OKG_NODE_PROGRAMS=$(tests/node/build.sh)
binary=$(.ci/build)
.ci/licenses >"$folder/LICENSES"
cargo build --quiet --locked -p measure --bin node
mkdir "$folder/images"
image okg-sidecar:test Dockerfile.scratch "$binary" "$folder/LICENSES"
image busybox:test - "$(command -v busybox)" <<'FILE'
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENTRYPOINT ["/bin/busybox", "sleep", "infinity"]
FILE

export KUBEBUILDER_ASSETS OKG_NODE_PROGRAMS OKG_NODE_FOLDER=$folder OKG_NODE_CGROUP=$cgroup
TMPDIR=$folder unshare --net --mount --pid --fork --kill-child --mount-proc \
    tests/node/namespaces.sh cargo run --quiet --locked --offline -p measure --bin node -- "$@" &
node=$!
code=0
wait "$node" || code=$?
# Its number may be another's now.
node=
[ "$code" = 0 ]
