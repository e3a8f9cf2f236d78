#!/usr/bin/env bash
# Prints the directory that holds kubelet, containerd with its shim and ctr, and the CNI plugins bridge and host-local for
# the test on a real node, and nothing else, on stdout. They are built once from the module versions pinned beside this
# script into target/node/bin, and reused.
set -euo pipefail

say() { echo "node: $*" >&2; }
die() { say "$@"; exit 1; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "$here/../.." && pwd)/target/node
bin=$out/bin
log=$out/build.log

# pinned FOLDER MODULE
pinned() { awk -v m="$2" '$1 == "require" { $1 = $2; $2 = $3 } $1 == m && $2 ~ /^v[0-9]/ { print $2; exit }' "$here/$1/go.mod"; }

# What a program was built from: a checksum of all module versions and of this script.
key() { echo "$(uname -sm) $(cat "$here/$1/go.mod" "$here/$1/go.sum" "$here/build.sh" | cksum)"; }

# fresh FOLDER NAME=PACKAGE...: all of them are there, built from what is pinned now.
fresh() {
    local want pair name
    want=$(key "$1")
    shift
    for pair; do
        name=${pair%%=*}
        [ -x "$bin/$name" ] && [ "$(cat "$bin/.$name.key" 2>/dev/null)" = "$want" ] || return 1
    done
}

# build FOLDER LDFLAGS NAME=PACKAGE...
build() {
    local folder=$1 ldflags=$2 tmp pair name
    shift 2
    tmp=$(mktemp -d "$out/tmp.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$tmp'" EXIT
    for pair; do
        name=${pair%%=*}
        (cd "$here/$folder" && nice -n 10 go build -trimpath -buildvcs=false -tags "$tags" \
            -ldflags "-s -w $ldflags" -o "$tmp/$name" "${pair#*=}") >>"$log" 2>&1 9>&- || {
            tail -n 30 "$log" >&2
            die "building $name failed; the whole log is in $log"
        }
    done
    for pair; do
        name=${pair%%=*}
        rm -f "$bin/.$name.key"
        mv -f "$tmp/$name" "$bin/$name"
        key "$folder" >"$bin/.$name.key"
    done
    rm -rf "$tmp"
    trap - EXIT
}

# ensure FOLDER LDFLAGS NAME=PACKAGE...
ensure() { fresh "$1" "${@:3}" || build "$@"; }

kube=$(pinned kubelet k8s.io/kubernetes)
containerd=$(pinned containerd github.com/containerd/containerd/v2)
plugins=$(pinned cni github.com/containernetworking/plugins)
for version in "$kube" "$containerd" "$plugins"; do
    [ -n "$version" ] || die "a version that is not pinned in a go.mod below $here"
done
[ "$kube" = "$(pinned ../envtest/k8s k8s.io/kubernetes)" ] || die "kubelet/go.mod pins $kube, ../envtest/k8s/go.mod another"

kubelet=(kubelet=k8s.io/kubernetes/cmd/kubelet)
runtime=()
for name in containerd containerd-shim-runc-v2 ctr; do
    runtime+=("$name=github.com/containerd/containerd/v2/cmd/$name")
done
network=(
    bridge=github.com/containernetworking/plugins/plugins/main/bridge
    host-local=github.com/containernetworking/plugins/plugins/ipam/host-local
)

all_fresh() { fresh kubelet "${kubelet[@]}" && fresh containerd "${runtime[@]}" && fresh cni "${network[@]}"; }

if ! all_fresh; then
    command -v go >/dev/null || die "no Go toolchain to build kubelet and containerd with; install Go 1.26"
    mkdir -p "$bin"
    # One build at a time where there is flock; the one who waited finds everything done.
    if command -v flock >/dev/null; then
        exec 9>"$out/lock"
        flock 9
    fi
fi

if ! all_fresh; then
    say "building kubelet $kube, containerd $containerd and CNI plugins $plugins into $bin, once; this takes minutes"
    : >"$log"
    unset GOOS GOARCH GOEXPERIMENT
    export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN="${GOTOOLCHAIN:-local}"
    # Without tracing, and without the snapshotters that need a file system or a device of their own.
    tags=notest,grpcnotrace,no_btrfs,no_devmapper,no_zfs,no_erofs,no_blockfile

    IFS=. read -r major minor _ <<<"${kube#v}"
    stamp=
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        stamp+=" -X $package.gitVersion=$kube -X $package.gitMajor=$major -X $package.gitMinor=$minor"
        stamp+=" -X $package.gitCommit= -X $package.gitTreeState=clean"
    done
    ensure cni "" "${network[@]}"
    ensure containerd "-X github.com/containerd/containerd/v2/version.Version=$containerd" "${runtime[@]}"
    ensure kubelet "$stamp" "${kubelet[@]}"
fi

echo "$bin"
