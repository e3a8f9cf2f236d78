"""PyPI's python-a2s and mcstatus read the servers: 3 players, and 2 bots where the protocol counts them.

    python3 clients.py MINECRAFT BEDROCK SOURCE GOLDSRC
"""

import sys

import a2s
from mcstatus import BedrockServer, JavaServer

minecraft, bedrock, source, goldsrc = (("127.0.0.1", int(port)) for port in sys.argv[1:])
found = {
    "minecraft": JavaServer(*minecraft).status().players.online,
    "bedrock": BedrockServer(*bedrock).status().players.online,
}
for name, address in ("source", source), ("goldsrc", goldsrc):
    info = a2s.info(address)
    found[name] = info.player_count - info.bot_count
if set(found.values()) != {3}:
    sys.exit(f"clients.py: 3 expected, got {found}")
