#!/usr/bin/env bash
# Measures how soon after an outage of the API server the newest state is in, and how many requests that takes: with refused
# connections, with dropped packets, and with an API server that answers 503. Builds the release binary for this machine's
# musl and runs it against the tests' API server.
#   tests/retries.sh                  30 sidecars, 45 s of outage, prints the figures
#   tests/retries.sh --sidecars 100 --document   writes them to docs/costs.md
#   tests/retries.sh --check          fails when a goal is missed
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(.ci/build)
exec cargo run --quiet --locked -p measure --bin retries -- --binary "$binary" "$@"
