import { Effect } from "effect"
import { createServer } from "node:net"

/**
 * A TCP port of 127.0.0.1 on which nothing listens.
 *
 * Drawn from below the ephemeral ranges (32768 on Linux, 49152 elsewhere), which `listen(0)` would use: a server that
 * goes down and comes back on its port must not find that some client's outgoing connection was given it meanwhile.
 */
export const freePort: Effect.Effect<number> = Effect.callback<number>((resume) => {
  const attempt = () => {
    const port = 15_000 + Math.floor(Math.random() * 17_000)
    const server = createServer()
    server.once("error", attempt)
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => {
      server.close(() => resume(Effect.succeed(port)))
    })
  }
  attempt()
})
