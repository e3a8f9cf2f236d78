#!/usr/bin/env bash
# Measures what a hostile game costs its sidecar: 46 answers, 20 s each, two at a time. Builds the release binary for this machine's
# musl and prints threads, descriptors, memory and CPU time for each answer, the most expensive first.
#   tests/hostile.sh                 8 minutes
#   tests/hostile.sh --seconds 3     a minute
#   tests/hostile.sh --check         fails when a budget is missed
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(.ci/build)
exec cargo run --quiet --locked -p measure --bin hostile -- --binary "$binary" "$@"
