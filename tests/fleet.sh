#!/usr/bin/env bash
# Measures what many sidecars cost the machine that they run on: builds the release binary for this machine's musl and runs
# so many at an interval of 5 s, against one cheap game and the tests' API server.
#   tests/fleet.sh 500                                     a line of the table
#   tests/fleet.sh --seconds 30 500 1000                   a line for each size; 60 s is the default
#   tests/fleet.sh --document 500 1000 2000 5000 10000 20000   writes the table to docs/costs.md, and docs/fleet.svg
# 20,000 fit on two cores and 24 GiB; it says which limit is too low where they do not. A quarter of an hour for all six.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(.ci/build)
# In a process group of its own, so that no sidecar is left whatever ends this script, nor their configs.
TMPDIR=$(mktemp -d)
export TMPDIR
set -m
cargo run --quiet --locked -p measure --bin fleet -- \
    --binary "$binary" "$@" &
group=$!
trap 'kill -KILL -- "-$group" 2>/dev/null || true; rm -rf "$TMPDIR"' EXIT
wait "$group"
