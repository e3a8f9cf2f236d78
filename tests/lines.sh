#!/usr/bin/env bash
# Counts the lines of src that a reader has to understand: no blank lines, no lines that hold a comment alone (//, ///,
# //!), and no `#[cfg(test)] mod` blocks, which rustfmt ends with a brace in the first column.
#
#   tests/lines.sh        the lines of each file and of all
set -euo pipefail
cd "$(dirname "$0")/.."
find src -name '*.rs' -print0 | LC_ALL=C sort -z | xargs -0 awk '
    FNR == 1 { inside = 0; attribute = 0; files[++count] = FILENAME; lines[FILENAME] = 0 }
    inside { inside = !/^}/; next }
    attribute { attribute = 0; if (/^(pub(\([a-z]+\))? )?mod .*\{$/) { inside = 1; next } lines[FILENAME]++; total++ }
    /^#\[cfg\(test\)\]$/ { attribute = 1; next }
    /^[[:space:]]*(\/\/|$)/ { next }
    { lines[FILENAME]++; total++ }
    END {
        for (i = 1; i <= count; i++) printf "%6d %s\n", lines[files[i]], files[i]
        printf "%6d in all\n", total
    }'
