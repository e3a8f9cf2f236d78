#!/usr/bin/env bash
# Prints the directory that holds kube-apiserver, etcd and (for convenience) kubectl for the end-to-end tests, and
# nothing else, on stdout. By the envtest convention that is $KUBEBUILDER_ASSETS when it is set and holds the first two;
# else they are built once from the module versions pinned beside this script into target/envtest/bin, and reused.
set -euo pipefail

say() { echo "envtest: $*" >&2; }
die() { say "$@"; exit 1; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    if [ -x "$KUBEBUILDER_ASSETS/kube-apiserver" ] && [ -x "$KUBEBUILDER_ASSETS/etcd" ]; then
        (cd "$KUBEBUILDER_ASSETS" && pwd)
        exit 0
    fi
    say "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS holds no kube-apiserver and etcd; building them instead"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "$here/../.." && pwd)/target/envtest
bin=$out/bin
log=$out/build.log

pinned() { awk -v m="$2" '$1 == m && $2 ~ /^v[0-9]/ { print $2; exit }' "$here/$1/go.mod"; }
kube=$(pinned k8s k8s.io/kubernetes)
etcd=$(pinned etcd go.etcd.io/etcd/server/v3)
[ -n "$kube" ] && [ -n "$etcd" ] || die "no pinned version found in $here/k8s/go.mod or $here/etcd/go.mod"

# What a binary was built from: the version to read, and a checksum of all module versions and of this script.
key() { echo "$2 $(uname -sm) $(cat "$here/$1/go.mod" "$here/$1/go.sum" "$here/build.sh" | cksum)"; }
kube_key=$(key k8s "$kube")
etcd_key=$(key etcd "$etcd")

# fresh KEY NAME...: all of them are there, built from KEY.
fresh() {
    local want=$1 name
    shift
    for name; do
        [ -x "$bin/$name" ] && [ "$(cat "$bin/.$name.key" 2>/dev/null)" = "$want" ] || return 1
    done
}
kube_fresh() { fresh "$kube_key" kube-apiserver kubectl; }
etcd_fresh() { fresh "$etcd_key" etcd; }

# build MODULE KEY LDFLAGS NAME=PACKAGE...
build() {
    local module=$1 want=$2 ldflags=$3 tmp pair name
    shift 3
    tmp=$(mktemp -d "$out/tmp.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$tmp'" EXIT
    for pair; do
        name=${pair%%=*}
        (cd "$here/$module" && nice -n 10 go build -trimpath -buildvcs=false -tags notest,grpcnotrace \
            -ldflags "-s -w $ldflags" -o "$tmp/$name" "${pair#*=}") >>"$log" 2>&1 9>&- || {
            tail -n 30 "$log" >&2
            die "building $name failed; the whole log is in $log"
        }
    done
    for pair; do
        name=${pair%%=*}
        rm -f "$bin/.$name.key"
        mv -f "$tmp/$name" "$bin/$name"
        echo "$want" >"$bin/.$name.key"
    done
    rm -rf "$tmp"
    trap - EXIT
}

if ! kube_fresh || ! etcd_fresh; then
    command -v go >/dev/null || die "no Go toolchain to build them with; install Go, or set KUBEBUILDER_ASSETS (see $here/README.md)"
    mkdir -p "$bin"
    # One build at a time where there is flock; the one who waited finds everything done.
    if command -v flock >/dev/null; then
        exec 9>"$out/lock"
        flock 9
    fi
fi

if ! kube_fresh || ! etcd_fresh; then
    say "building kube-apiserver and kubectl $kube and etcd $etcd into $bin, once; this takes minutes"
    : >"$log"
    unset GOOS GOARCH GOEXPERIMENT
    export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN="${GOTOOLCHAIN:-local}"

    etcd_fresh || build etcd "$etcd_key" "-X go.etcd.io/etcd/api/v3/version.GitSHA=none" \
        etcd=go.etcd.io/etcd/server/v3

    if ! kube_fresh; then
        stamp=
        IFS=. read -r major minor _ <<<"${kube#v}"
        for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
            stamp+=" -X $package.gitVersion=$kube -X $package.gitMajor=$major -X $package.gitMinor=$minor"
            stamp+=" -X $package.gitCommit= -X $package.gitTreeState=clean"
        done
        build k8s "$kube_key" "$stamp" \
            kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver kubectl=k8s.io/kubernetes/cmd/kubectl
    fi
fi

echo "$bin"
