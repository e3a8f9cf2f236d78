#!/usr/bin/env bash
# Prints the directory that holds kube-apiserver, etcd and kubectl for the end-to-end tests, and
# nothing else, on stdout. By the envtest convention that is $KUBEBUILDER_ASSETS when it is set and holds the first two;
# else they are built once from the module versions pinned beside this script into target/envtest/bin, and reused.
set -euo pipefail

say() { echo "envtest: $*" >&2; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    if [ -x "$KUBEBUILDER_ASSETS/kube-apiserver" ] && [ -x "$KUBEBUILDER_ASSETS/etcd" ]; then
        (cd "$KUBEBUILDER_ASSETS" && pwd)
        exit 0
    fi
    say "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS holds no kube-apiserver and etcd; building them instead"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "$here/../.." && pwd)/target/envtest
tags=notest,grpcnotrace
# shellcheck source=tests/go_programs.sh
. "$here/../go_programs.sh"

kube=$(pinned k8s k8s.io/kubernetes)
etcd=$(pinned etcd go.etcd.io/etcd/server/v3)
[ -n "$kube" ] && [ -n "$etcd" ] || die "no pinned version found in $here/k8s/go.mod or $here/etcd/go.mod"

etcd_programs=(etcd=go.etcd.io/etcd/server/v3)
kube_programs=(kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver kubectl=k8s.io/kubernetes/cmd/kubectl)
all_fresh() { fresh k8s "${kube_programs[@]}" && fresh etcd "${etcd_programs[@]}"; }

all_fresh ||
    lock "no Go toolchain to build them with; install Go, or set KUBEBUILDER_ASSETS (see $here/README.md)"

if ! all_fresh; then
    say "building kube-apiserver and kubectl $kube and etcd $etcd into $bin, once; this takes minutes"
    prepare
    ensure etcd "-X go.etcd.io/etcd/api/v3/version.GitSHA=none" "${etcd_programs[@]}"
    ensure k8s "$(version_of_kubernetes "$kube")" "${kube_programs[@]}"
fi

echo "$bin"
