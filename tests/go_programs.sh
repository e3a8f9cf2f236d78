# Builds programs from the Go modules pinned beside a script, once; for tests/envtest/build.sh and tests/node/build.sh to
# source. They set here (the script's folder), out (where to build) and tags (of go build), and have say, which prints a message.

bin=$out/bin
log=$out/build.log

die() { say "$@"; exit 1; }

# pinned FOLDER MODULE
pinned() { awk -v m="$2" '$1 == "require" { $1 = $2; $2 = $3 } $1 == m && $2 ~ /^v[0-9]/ { print $2; exit }' "$here/$1/go.mod"; }

# What a program was built from: a checksum of all module versions and of the scripts.
key() { echo "$(uname -sm) $(cat "$here/$1/go.mod" "$here/$1/go.sum" "$here/build.sh" "$here/../go_programs.sh" | cksum)"; }

# fresh FOLDER NAME=PACKAGE...: all of them are there, built from what is pinned now.
fresh() {
    local want pair name
    want=$(key "$1")
    shift
    for pair; do
        name=${pair%%=*}
        [ -x "$bin/$name" ] && [ "$(cat "$bin/.$name.key" 2>/dev/null)" = "$want" ] || return 1
    done
}

# build FOLDER LDFLAGS NAME=PACKAGE...
build() {
    local folder=$1 ldflags=$2 tmp pair name
    shift 2
    tmp=$(mktemp -d "$out/tmp.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$tmp'" EXIT
    for pair; do
        name=${pair%%=*}
        (cd "$here/$folder" && nice -n 10 go build -trimpath -buildvcs=false -tags "$tags" \
            -ldflags "-s -w $ldflags" -o "$tmp/$name" "${pair#*=}") >>"$log" 2>&1 9>&- || {
            tail -n 30 "$log" >&2
            die "building $name failed; the whole log is in $log"
        }
    done
    for pair; do
        name=${pair%%=*}
        rm -f "$bin/.$name.key"
        mv -f "$tmp/$name" "$bin/$name"
        key "$folder" >"$bin/.$name.key"
    done
    rm -rf "$tmp"
    trap - EXIT
}

# ensure FOLDER LDFLAGS NAME=PACKAGE...
ensure() { fresh "$1" "${@:3}" || build "$@"; }

# One build at a time where there is flock; the one who waited finds everything done. $1 is what needs Go.
lock() {
    command -v go >/dev/null || die "$1"
    mkdir -p "$bin"
    if command -v flock >/dev/null; then
        exec 9>"$out/lock"
        flock 9
    fi
}

# go build reads no setting of the caller's.
prepare() {
    : >"$log"
    unset GOOS GOARCH GOEXPERIMENT
    export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN="${GOTOOLCHAIN:-local}"
}

# The linker's flags for a program of Kubernetes that tells its version $1, as released ones do.
version_of_kubernetes() {
    local major minor package
    IFS=. read -r major minor _ <<<"${1#v}"
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        echo -n " -X $package.gitVersion=$1 -X $package.gitMajor=$major -X $package.gitMinor=$minor"
        echo -n " -X $package.gitCommit= -X $package.gitTreeState=clean"
    done
}
