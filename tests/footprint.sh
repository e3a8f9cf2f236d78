#!/usr/bin/env bash
# Measures what the sidecar costs, as docs/costs.md tells it: builds the release binary for this machine's musl, and a bare
# loop of sockets with the same flags, and runs both at once, each with a game of its own.
#   tests/footprint.sh                        three minutes, prints the figures
#   tests/footprint.sh --seconds 10 --check   short, fails when a budget is broken
#   tests/footprint.sh --runs 3 --document    three runs, writes the ranges to docs/costs.md
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(uname -m)-unknown-linux-musl
binary=$(.ci/build "$target")
bare_loop=$(dirname "$binary")/bare-loop
rustc --edition 2024 -D warnings -C opt-level=z -C lto=fat -C codegen-units=1 -C panic=abort -C strip=symbols \
    --target "$target" -o "$bare_loop" tests/measure/src/bin/bare_loop.rs
exec cargo run --quiet --locked -p measure --bin footprint -- --binary "$binary" --bare-loop "$bare_loop" "$@"
