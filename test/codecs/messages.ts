/** Message types that no .proto file describes: their descriptors are made at run time. */
import { create, createFileRegistry, type DescMessage, type Message } from "@bufbuild/protobuf"
import { reflect } from "@bufbuild/protobuf/reflect"
import {
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
  FileDescriptorProtoSchema
} from "@bufbuild/protobuf/wkt"

/**
 * ```proto
 * package test;
 * message Account { string account_id = 1; int64 balance_cents = 2; repeated string tags = 3; Account parent = 4; bytes raw = 5; }
 * message Closed {}
 * ```
 */
export const registry = createFileRegistry(
  create(FileDescriptorProtoSchema, {
    name: "test.proto",
    package: "test",
    syntax: "proto3",
    messageType: [
      {
        name: "Account",
        field: [
          { name: "account_id", number: 1, type: Type.STRING, label: Label.OPTIONAL },
          { name: "balance_cents", number: 2, type: Type.INT64, label: Label.OPTIONAL },
          { name: "tags", number: 3, type: Type.STRING, label: Label.REPEATED },
          { name: "parent", number: 4, type: Type.MESSAGE, typeName: ".test.Account", label: Label.OPTIONAL },
          { name: "raw", number: 5, type: Type.BYTES, label: Label.OPTIONAL }
        ]
      },
      { name: "Closed" }
    ]
  }),
  () => undefined
)

const message = (typeName: string): DescMessage => {
  const desc = registry.getMessage(typeName)
  if (desc === undefined) throw new Error(`no ${typeName}`)
  return desc
}

export const AccountSchema = message("test.Account")
export const ClosedSchema = message("test.Closed")

export interface Fields {
  readonly accountId?: string
  readonly balanceCents?: bigint
  readonly tags?: ReadonlyArray<string>
  readonly raw?: Uint8Array
  readonly parent?: Message
}

/** An account with these fields. */
export const account = ({ parent, tags = [], ...fields }: Fields): Message => {
  const made = reflect(AccountSchema)
  const field = (name: string) => {
    const found = AccountSchema.fields.find(({ localName }) => localName === name)
    if (found === undefined) throw new Error(`no field ${name}`)
    return found
  }
  for (const [name, value] of Object.entries(fields)) made.set(field(name), value)
  const list = made.get(field("tags"))
  if (typeof list === "object" && list !== null && "add" in list && typeof list.add === "function") {
    for (const tag of tags) list.add(tag)
  }
  if (parent !== undefined) made.set(field("parent"), reflect(AccountSchema, parent))
  return made.message
}
