// Real servers of npm: Minecraft Java's status by minecraft-protocol, Bedrock's unconnected pong by JSPrismarine's RakNet.
// Prints a line `NAME PORT` for each. The number of players is what the file PLAYERS holds when somebody asks.
//   node servers.js PLAYERS
const fs = require('node:fs')
const minecraft = require('minecraft-protocol')
const Raknet = require('@jsprismarine/raknet')

const players = () => Number(fs.readFileSync(process.argv[2], 'utf8'))

const java = minecraft.createServer({
  host: '127.0.0.1',
  port: 0,
  version: '1.21.1',
  motd: 'A Minecraft server',
  maxPlayers: 20,
  // Names and an icon, as a server with players sends them.
  beforePing (answer) {
    answer.players.online = players()
    answer.players.sample = [{ name: '玩家', id: '4566e69f-c907-48ee-8d71-d7ba5aa00d20' }]
    answer.favicon = 'data:image/png;base64,' + 'A'.repeat(20000)
    return answer
  }
})
java.on('listening', () => console.log('minecraft', java.socketServer.address().port))

const bedrock = new Raknet()
bedrock.name.setMotd('A Bedrock server')
bedrock.name.setMaxPlayerCount(10)
bedrock.on('unconnectedPong', name => name.setOnlinePlayerCount(players()))
bedrock.listen('127.0.0.1', 0).then(() => console.log('bedrock', bedrock.socket.address().port))
