#!/usr/bin/env bash
# The sidecar beside games that nobody here wrote, and with the scripts of OpenKruiseGame's examples: `probe` and `run` give the
# number of players of each. Installs what it needs with apt-get, and with npm and pip below target/games. Two minutes at most,
# the downloads of the first time aside. docs/games.md names what each game was tried with.
#   tests/games.sh                        with the binary that cargo builds
#   OKG_SIDECAR=PATH tests/games.sh       with this one
set -euo pipefail
cd "$(dirname "$0")/.."

cannot() {
    if [ "${CI:-}" = true ]; then
        echo "games FAILED: $*" >&2
        exit 1
    fi
    echo "games SKIPPED: $*" >&2
    exit 0
}

openarena=/usr/games/openarena-server luanti=/usr/lib/minetest/minetestserver
missing=()
[ -x "$openarena" ] || missing+=(openarena-server)
[ -x "$luanti" ] || missing+=(minetest-server)
command -v busybox >/dev/null || missing+=(busybox-static)
command -v openssl >/dev/null || missing+=(openssl)
command -v npm >/dev/null || missing+=(nodejs npm)
command -v python3 >/dev/null || missing+=(python3 python3-venv)
command -v unshare >/dev/null || missing+=(util-linux)
if [ "${#missing[@]}" -gt 0 ]; then
    [ "$(id -u)" = 0 ] || cannot "install ${missing[*]}"
    # RUNLEVEL=1: the package starts no server of its own.
    {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}"
    } >&2
fi

packages=$PWD/target/games
mkdir -p "$packages"
if [ ! -e "$packages/installed-1" ]; then
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$packages" \
        minecraft-protocol@1.68.0 @jsprismarine/raknet@1.4.7 gamedig@5.3.2 >&2
    python3 -m venv "$packages/python"
    "$packages/python/bin/pip" install --quiet --disable-pip-version-check python-a2s==1.4.2 mcstatus==14.2.0 prometheus_client==0.26.0 >&2
    touch "$packages/installed-1"
fi

if [ -z "${OKG_SIDECAR:-}" ]; then
    cargo build --quiet --locked
    OKG_SIDECAR=$PWD/target/debug/okg-sidecar
fi
export OKG_SIDECAR
cargo build --quiet --locked -p measure --bin games

folder=$(mktemp -d "${TMPDIR:-/tmp}/okg-games-XXXXXX")
servers=()
end() {
    [ "${#servers[@]}" = 0 ] || kill "${servers[@]}" 2>/dev/null || true
    wait
    rm -rf "$folder"
}
trap end EXIT

# await FILE TEXT: until the file holds the text; with what it holds where that does not come.
await() {
    for _ in $(seq 600); do
        ! grep -qs "$2" "$1" || return 0
        sleep 0.1
    done
    echo "no $2 in $1:" >&2
    tail -n 20 "$1" >&2
    return 1
}

# A UDP port that is free now: these servers cannot choose one by themselves.
free_port() { python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# The number that the servers report. The program below changes it.
players=$folder/players
echo 3 >"$players"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=game \
    -keyout "$folder/key.pem" -out "$folder/certificate.pem" 2>/dev/null

NODE_PATH=$packages/node_modules node tests/servers/servers.js "$players" >"$folder/ports" 2>"$folder/servers.log" &
servers+=($!)
"$packages/python/bin/python" tests/servers/stand_ins.py "$players" "$folder/certificate.pem" "$folder/key.pem" \
    >"$folder/more-ports" 2>"$folder/stand-ins.log" &
servers+=($!)

openarena_port=$(free_port)
HOME=$folder "$openarena" +set dedicated 1 +set net_enabled 1 +set net_ip 127.0.0.1 +set net_port "$openarena_port" \
    +set fs_homepath "$folder/openarena" +set bot_enable 1 +map oa_dm1 +addbot sarge 3 +addbot grunt 2 \
    </dev/null >"$folder/openarena.log" 2>&1 &
servers+=($!)

# The mod of docs/games.md, without the seconds.
world=$folder/world
mkdir -p "$world/worldmods/players"
awk '/^```lua/ { p = 1; next } p && /^```/ { exit } p' docs/games.md | sed 's/after(2,/after(0.2,/' >"$world/worldmods/players/init.lua"
printf 'bind_address = 127.0.0.1\nport = %s\nserver_announce = false\n' "$(free_port)" >"$folder/luanti.conf"
HOME=$folder "$luanti" --config "$folder/luanti.conf" --world "$world" --gameid minetest </dev/null >"$folder/luanti.log" 2>&1 &
servers+=($!)

await "$folder/ports" bedrock
await "$folder/ports" minecraft
await "$folder/more-ports" exporter
await "$folder/openarena.log" 'Grunt.* entered the game'
await "$world/players" 0
port() { awk -v name="$1" '$1 == name { print $2 }' "$folder/ports" "$folder/more-ports"; }

# What the stand-ins answer is right when clients of others read it right.
"$packages/python/bin/python" tests/servers/clients.py "$(port minecraft)" "$(port bedrock)" "$(port source)" "$(port goldsrc)"
(cd "$packages" && node "$OLDPWD/tests/servers/clients.mjs" "$(port minecraft)" "$(port bedrock)" "$(port source)" "$openarena_port")

metric='game_players{world="sur\"vival"}'
rest=http://127.0.0.1:$(port rest)
cases() {
    printf '%s\t%s\t%s\n' \
        minecraft players "url: 'minecraft://127.0.0.1:$(port minecraft)'" \
        bedrock players "url: 'bedrock://127.0.0.1:$(port bedrock)'" \
        openarena 0 "url: 'quake3://127.0.0.1:$openarena_port'" \
        source players "url: 'a2s://127.0.0.1:$(port source)'" \
        goldsrc players "url: 'a2s://127.0.0.1:$(port goldsrc)'" \
        palworld players "url: '$rest/v1/api/metrics', basicAuth: {username: admin, password: '\${SELF:ADMIN_PASSWORD}'}, \
            jsonPathConfig: {jsonPath: currentplayernum, fieldType: integer}" \
        satisfactory players "url: 'https://127.0.0.1:$(port satisfactory)/api/v1', method: POST, \
            headers: {Content-Type: application/json, Authorization: 'Bearer \${SELF:API_TOKEN}'}, \
            body: '{\"function\":\"QueryServerState\"}', jsonPathConfig: {jsonPath: data.serverGameState.numConnectedPlayers}" \
        fivem players "url: '$rest/players.json', jsonPathConfig: {jsonPath: \$, count: true}" \
        fivem-clients players "url: '$rest/dynamic.json', jsonPathConfig: {jsonPath: clients}" \
        tshock players "url: '$rest/v2/server/status?token=\${SELF:API_TOKEN}', jsonPathConfig: {jsonPath: playercount}" \
        exporter players "url: 'http://127.0.0.1:$(port exporter)/metrics', metric: '$metric'" \
        luanti 0 "url: 'file://$world/players', maxAgeSeconds: 60" \
        tcp success "url: 'tcp://127.0.0.1:$(port minecraft)'"
}
cases >"$folder/cases"
told=$(target/debug/games servers "$players" ADMIN_PASSWORD='a:b/c secret' API_TOKEN=token-of-the-game <"$folder/cases")
told+=", $(target/debug/games recipes)"
if [ "$(id -u)" = 0 ] && unshare --mount --pid --fork true 2>/dev/null; then
    told+=", $(target/debug/games example)"
else
    [ "${CI:-}" != true ] || { echo "games FAILED: the example needs root and namespaces" >&2 && exit 1; }
    told+="; SKIPPED the example, which needs root and namespaces"
fi
echo "games ok: $told"
