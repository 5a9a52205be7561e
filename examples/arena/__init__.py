"""The arena: a small multiplayer game on an authoritative game-state sync server.

Read the modules in this order; each one uses only those above it:

- `world`: the rules of the game, pure (no I/O, no clock, no Trio)
- `pilots`: who steers a bot
- `wire`: the messages, as they stand on the wire
- `sync`: what each client has been told, and the delta to what is true now
- `simulation`: the fixed-step loop
- `referee`: who sends too much or cheats, and when it is enough
- `server`: all of it behind `trioweb.serve`
- `__main__`: the command line
- `bots`: players that are WebSocket clients, for load
- `page/`: what a browser runs: one HTML file and one ES module
"""
