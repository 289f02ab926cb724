/** States as people and programs see them: decoded, where it is known what the bytes stand for. */
import { create, toBinary } from "@bufbuild/protobuf"
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt"
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { protobuf } from "effect-strata/protobuf"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { account, registry } from "../codecs/messages.ts"
import { execute, freshSchema } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { fails, jsonLines, succeeds, temporaryDirectory } from "./harness.ts"

it.live("strata states lists, shows JSON, protobuf and bytes, and deletes", () =>
  Effect.gen(function* () {
    const schema = yield* freshSchema()
    const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
    yield* succeeds(["migrate"], options)
    const message = yield* protobuf(registry).encode(account({ accountId: "a", balanceCents: 5n }))
    const hex = (bytes: Uint8Array) => `'\\x${Buffer.from(bytes).toString("hex")}'`
    yield* execute([
      `INSERT INTO ${schema}.states_store VALUES
        ('json', 3, '{"name": "Jöhn"}'::text::bytea, 'Account', 1763719200123456789, 0),
        ('message', 9007199254740993, ${hex(message.payload)}, '${message.manifest}', 1763719200123456789, 7),
        ('bytes', 1, '\\x00ff', 'raw', 0, 7)`
    ])

    const table = yield* succeeds(["states", "list", "--shard", "7"], options)
    assert.match(
      table,
      /^ID +VERSION  SHARD  BYTES  WRITTEN AT +MANIFEST\nbytes +1 +7 +2  1970-.*  raw\nmessage  9007199254740993 +7 .*google.protobuf.Any\n$/
    )
    const show = (id: string, ...args: ReadonlyArray<string>) =>
      Effect.map(succeeds(["states", "show", id, "--json", ...args], options), (text) => jsonLines(text)[0])
    assert.deepStrictEqual(yield* show("json"), {
      persistenceId: "json",
      versionNumber: "3",
      manifest: "Account",
      shard: 0,
      timestamp: "1763719200123456789",
      size: 17,
      writtenAt: "2025-11-21T10:00:00.123Z",
      value: { name: "Jöhn" }
    })
    assert.deepInclude(yield* show("bytes"), { base64: "AP8=" })

    const file = registry.getFile("test.proto")
    assert.isDefined(file)
    const descriptors = join(yield* temporaryDirectory, "types.binpb")
    const set = create(FileDescriptorSetSchema, { file: file === undefined ? [] : [file.proto] })
    yield* Effect.promise(() => writeFile(descriptors, toBinary(FileDescriptorSetSchema, set)))
    assert.deepInclude(yield* show("message", "--descriptors", descriptors), {
      versionNumber: "9007199254740993",
      value: { "@type": "test.Account", value: { account_id: "a", balance_cents: "5" } }
    })
    yield* fails(["states", "show", "bytes", "--descriptors", descriptors], 1, /no codec for "raw"/, options)
    yield* fails(["states", "show", "json", "--descriptors", import.meta.filename], 1, /holds no descriptors/, options)

    yield* fails(["states", "delete", "json"], 2, /say --yes/, options)
    assert.strictEqual(
      yield* succeeds(["states", "delete", "json", "--yes"], options),
      `The state of "json" is deleted\n`
    )
    yield* fails(["states", "show", "json"], 1, /"json" has no state/, options)
    yield* fails(["states", "delete", "json", "--yes"], 1, /"json" has no state/, options)
  }).pipe(Effect.scoped)
)
