#!/usr/bin/env bash
# Measures what the sidecar costs, as the README's "What it costs" tells it: builds the release binary for this
# machine's musl and runs it between the tests' game and API server.
#   tests/footprint.sh             a minute, prints the figures
#   tests/footprint.sh --seconds 10 --check   short, fails when a budget is broken
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(.ci/build)
exec cargo test --quiet --locked --test footprint -- --binary "$binary" "$@"
