// npm's gamedig reads the servers: 3 players, two bots more in A2S, two bots in OpenArena. Started in the folder of the packages.
//   node clients.mjs MINECRAFT BEDROCK SOURCE OPENARENA
import { createRequire } from 'node:module'

const { GameDig } = createRequire(`${process.cwd()}/`)('gamedig')
const [minecraft, bedrock, source, openarena] = process.argv.slice(2).map(Number)
const ask = (type, port) =>
  GameDig.query({ type, host: '127.0.0.1', port, givenPortOnly: true, requestPlayers: false, maxRetries: 3 })
const found = [
  (await ask('minecraft', minecraft)).numplayers,
  (await ask('mbe', bedrock)).numplayers,
  (await ask('protocol-valve', source)).numplayers - 2,
  (await ask('openarena', openarena)).numplayers + 1
]
if (found.some(number => number !== 3)) throw new Error(`3 expected, got ${found}`)
