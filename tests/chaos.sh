#!/usr/bin/env bash
# Runs a sidecar under random faults on all sides at once, and checks what must hold of each request and, at the end, of all
# objects. A seed repeats the order of the faults.
#   tests/chaos.sh --minutes 60 --put-backs OpenKruiseGame's cache is written back after each write, too
#   tests/chaos.sh --minutes 2 --seed 1     the release binary for this machine's musl, or the one of OKG_SIDECAR
set -euo pipefail
cd "$(dirname "$0")/.."
OKG_SIDECAR=${OKG_SIDECAR:-$(.ci/build)}
export OKG_SIDECAR
exec cargo run --quiet --locked -p measure --bin chaos -- "$@"
