"""Stand-ins for games that cannot be installed here, by the documentation of their protocols, and a real exporter.

Prints a line `NAME PORT` for each. The number of players is what the file PLAYERS holds when somebody asks; two bots come on
top of it where the protocol counts them.

    python3 stand_ins.py PLAYERS CERTIFICATE KEY

A2S: https://developer.valvesoftware.com/wiki/Server_queries
Palworld: https://docs.palworldgame.com/category/rest-api
Satisfactory: https://satisfactory.wiki.gg/wiki/Dedicated_servers/HTTPS_API
TShock: https://tshock.readme.io/reference/rest-api-endpoints
FiveM: the endpoints /players.json and /dynamic.json of every server
"""

import base64
import json
import os
import socket
import ssl
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import REGISTRY, Gauge, start_http_server

PLAYERS, CERTIFICATE, KEY = sys.argv[1:]
BOTS = 2
PASSWORD = "a:b/c secret"
TOKEN = "token-of-the-game"


def players():
    with open(PLAYERS, encoding="ascii") as file:
        return int(file.read())


def source():
    """A2S_INFO of a Source server, with every field of its extra data."""
    return (
        b"\xff\xff\xff\xffI\x11"
        + "A Source server 服\0de_dust2\0csgo\0Counter-Strike\0".encode()
        + struct.pack("<HBBBcc??", 730, players() + BOTS, 24, BOTS, b"d", b"l", False, True)
        + b"1.40.5.2\0"
        + struct.pack("<BHQH", 0xF1, 27015, 90071996842377216, 27020)
        + b"SourceTV\0secure,tag\0"
        + struct.pack("<Q", 730)
    )


def gold_source():
    """A2S_INFO of a GoldSrc server, with the block of a mod."""
    return (
        b"\xff\xff\xff\xffm127.0.0.1:27015\0A GoldSrc server\0crossfire\0tfc\0Team Fortress Classic\0"
        + struct.pack("<BBBcc??", players() + BOTS, 16, 47, b"d", b"l", False, True)
        + b"http://example.com\0\0\0"
        + struct.pack("<II??", 1, 5000, False, True)
        + struct.pack("<?B", True, BOTS)
    )


def serve_a2s(name, answer):
    """Answers each request with a challenge first, as Steam's servers have done since 2020."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    request = b"\xff\xff\xff\xffTSource Engine Query\0"

    def serve():
        challenge = os.urandom(4)
        while True:
            got, client = server.recvfrom(2048)
            if got == request:
                server.sendto(b"\xff\xff\xff\xffA" + challenge, client)
            elif got == request + challenge:
                server.sendto(answer(), client)
                challenge = os.urandom(4)

    threading.Thread(target=serve, daemon=True).start()
    print(name, server.getsockname()[1], flush=True)


class Rest(BaseHTTPRequestHandler):
    """The REST APIs. As some games do, it knows the names of headers in one spelling only."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def header(self, name):
        return dict(self.headers.items()).get(name)

    def respond(self, status, body):
        body = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers.keys()[0] != "Host":
            self.respond(400, {"error": "Host is not the first header"})
        elif self.path == "/v1/api/metrics":
            expected = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
            if self.header("Authorization") != expected:
                return self.respond(401, {"error": "Unauthorized"})
            self.respond(
                200,
                {
                    "serverfps": 57,
                    "currentplayernum": players(),
                    "serverframetime": 16.77,
                    "maxplayernum": 32,
                    "uptime": 3600,
                    "days": 4,
                },
            )
        elif self.path == "/players.json":
            one = {"endpoint": "127.0.0.1", "identifiers": [], "name": "玩家 { }", "ping": 40}
            self.respond(200, [one | {"id": id} for id in range(players())])
        elif self.path == "/dynamic.json":
            self.respond(
                200,
                {
                    "clients": players(),
                    "gametype": "Freeroam",
                    "hostname": "^1A FiveM server",
                    "iv": "0",
                    "mapname": "fivem-map-skater",
                    "sv_maxclients": "48",
                },
            )
        elif self.path == f"/v2/server/status?token={TOKEN}":
            self.respond(
                200,
                {
                    "status": "200",
                    "name": "A TShock server",
                    "serverversion": "v1.4.4.9",
                    "port": 7777,
                    "playercount": players(),
                    "maxplayers": 8,
                    "world": "World",
                    "uptime": "0.01:00:00",
                },
            )
        else:
            self.respond(404, {"error": "not found"})

    def do_POST(self):
        length = self.header("Content-Length")
        if self.path != "/api/v1" or length is None or self.header("Content-Type") != "application/json":
            return self.respond(400, {"errorCode": "bad_request"})
        request = json.loads(self.rfile.read(int(length)))
        if self.header("Authorization") != f"Bearer {TOKEN}":
            return self.respond(401, {"errorCode": "insufficient_scope"})
        if request != {"function": "QueryServerState"}:
            return self.respond(404, {"errorCode": "unknown_function"})
        self.respond(
            200,
            {
                "data": {
                    "serverGameState": {
                        "activeSessionName": "session",
                        "numConnectedPlayers": players(),
                        "playerLimit": 4,
                        "isGameRunning": True,
                        "isGamePaused": False,
                        "averageTickRate": 29.9,
                    }
                }
            },
        )


def serve_rest(name, tls):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(name, server.server_address[1], flush=True)


def serve_metrics(name):
    """A real exporter: the players of two worlds, beside what it says about its own process."""
    gauge = Gauge("game_players", "Players\nby world \\", ["world", "mode"])
    gauge.labels('sur"vival', "pvp").set_function(players)
    gauge.labels("lobby", "pve").set(BOTS)
    REGISTRY.collect()
    server, _ = start_http_server(0, "127.0.0.1")
    print(name, server.server_port, flush=True)


serve_a2s("source", source)
serve_a2s("goldsrc", gold_source)
serve_rest("rest", tls=False)
serve_rest("satisfactory", tls=True)
serve_metrics("exporter")
threading.Event().wait()
