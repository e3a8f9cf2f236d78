#!/usr/bin/env bash
# Prints the directory that holds virtual-node, the provider in provider/ on the virtual-kubelet library, and nothing else, on
# stdout. It is built once from the module versions pinned there into target/node/bin, beside kubelet, and reused.
set -euo pipefail

say() { echo "virtual-node: $*" >&2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "$here/../.." && pwd)/target/node
tags=notest,grpcnotrace
# shellcheck source=tests/go_programs.sh
. "$here/../go_programs.sh"

# The sources of this program are beside its go.mod.
key() { echo "$(uname -sm) $(cat "$here/$1"/* "$here/build.sh" "$here/../go_programs.sh" | cksum)"; }

library=$(pinned provider github.com/virtual-kubelet/virtual-kubelet)
[ -n "$library" ] || die "no version of the library is pinned in $here/provider/go.mod"

provider=(virtual-node=.)
fresh provider "${provider[@]}" || lock "no Go toolchain to build the virtual node with; install Go 1.26.6 or later"

if ! fresh provider "${provider[@]}"; then
    say "building a provider on virtual-kubelet $library into $bin, once; this takes a minute or more"
    prepare
    ensure provider "" "${provider[@]}"
fi

echo "$bin"
