#!/usr/bin/env bash
# Prints the directory that holds kubelet, containerd with its shim and ctr, and the CNI plugins bridge and host-local for
# the test on a real node, and nothing else, on stdout. They are built once from the module versions pinned beside this
# script into target/node/bin, and reused.
set -euo pipefail

say() { echo "node: $*" >&2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "$here/../.." && pwd)/target/node
# Without tracing, and without the snapshotters that need a file system or a device of their own.
tags=notest,grpcnotrace,no_btrfs,no_devmapper,no_zfs,no_erofs,no_blockfile
# shellcheck source=tests/go_programs.sh
. "$here/../go_programs.sh"

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

all_fresh || lock "no Go toolchain to build kubelet and containerd with; install Go 1.26"

if ! all_fresh; then
    say "building kubelet $kube, containerd $containerd and CNI plugins $plugins into $bin, once; this takes minutes"
    prepare
    ensure cni "" "${network[@]}"
    ensure containerd "-X github.com/containerd/containerd/v2/version.Version=$containerd" "${runtime[@]}"
    ensure kubelet "$(version_of_kubernetes "$kube")" "${kubelet[@]}"
fi

echo "$bin"
