#!/usr/bin/env bash
# Measures what many sidecars cost a real API server, as docs/costs.md tells it, against asking it every round: builds the
# release binary for this machine's musl and runs it against kube-apiserver and etcd on loopback.
#   tests/scale.sh                                    200 sidecars, a minute a row, seven minutes together
#   tests/scale.sh --sidecars 1000 --seconds 30 --document   writes the tables to docs/costs.md
set -euo pipefail
cd "$(dirname "$0")/.."
KUBEBUILDER_ASSETS=$(tests/envtest/build.sh)
export KUBEBUILDER_ASSETS
binary=$(.ci/build)
# Two pipes for each sidecar.
ulimit -n "$(ulimit -Hn)"
exec cargo run --quiet --locked -p measure --bin scale -- --binary "$binary" "$@"
