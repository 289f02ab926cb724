/** What each variable of the environment sets: the one description, of which `resources/reference/settings.md` is made. */
import * as Security from "./connecting/Security.ts"

export interface VariableReference {
  readonly name: string
  readonly description: string
  /** What holds where the variable is not set, as one would write it; nothing where nothing holds. */
  readonly default?: string
  /** Who reads it: the layers of `effect-strata/postgres` and the command, unless only the command does. */
  readonly reader?: "command"
}

/** In the order of the reference. */
const own = {
  DATABASE_URL: {
    description:
      "The database: `postgres://user:password@host:5432/database?sslmode=verify-full`. Several hosts are separated by commas"
  },
  DATABASE_URL_FILE: { description: "A file that has the URL, which no list of processes shows", reader: "command" },
  DB_HOST: { description: "The host, where there is no URL; or several, separated by commas", default: "localhost" },
  DB_PORT: { description: "The port, where there is no URL; or one for each host", default: "5432" },
  DB_NAME: { description: "The database, where there is no URL" },
  DB_USER: { description: "The role, where there is no URL" },
  DB_PASSWORD: { description: "Its password, where there is no URL" },
  DB_SSLMODE: {
    description: "Whether TLS is used, where the URL says nothing of it. To this machine it is not, unless asked for",
    default: "verify-full"
  },
  DB_SSLROOTCERT: { description: "The file of the authority to trust, or `system`, where the URL says nothing of it" },
  DB_TARGET_SESSION_ATTRS: {
    description:
      "Which of several hosts, where the URL does not say it: `any`, `read-write`, `read-only`, `primary`, `standby` or `prefer-standby`",
    default: "any"
  },
  DB_OWNER_URL: {
    description:
      "The URL of the role that owns the tables: `layerMigrationsConfig` migrates with it, and all else is the application's"
  },
  DB_LISTEN_URL: {
    description:
      "The server itself, to listen on, where the other settings lead to a pooler in transaction mode: the option `listen`"
  },
  DB_REPLICA_URL: {
    description:
      "The URL of a standby, or of several: `layerReplicaConfig` reads from there what it can, with a pool like the other one. Where it is not set, the primary is read"
  },
  DB_REPLICA_WAIT: {
    description:
      "How long a read waits until the standby has what the read needs, before the primary is read: the option `wait`",
    default: "1 second"
  },
  DB_SCHEMA: { description: "The schema of the stores' tables: the option `schema`" },
  DB_QUEUES: { description: "`shared` where messages of queues are in RetrySpool's table: the option `queues`" },
  DB_ARCHIVE_DIR: {
    description: "The directory of archived events, for `layerConfig` and its like: as `EventArchive.layerDirectory`"
  },
  DB_POOL_SIZE: { description: "How many connections there are at most", default: "25" },
  DB_IDLE_TIMEOUT: { description: "After what time an idle connection is closed", default: "15 minutes" },
  DB_MAX_LIFETIME: { description: "After what time any connection is replaced", default: "1 hour" },
  DB_CONNECT_TIMEOUT: { description: "How long one host may take to connect", default: "5 seconds" },
  DB_STATEMENT_TIMEOUT: { description: "After what time the server cancels a statement: never unless given" },
  DB_PREPARE: {
    description: "`false` behind a pooler that lends connections by transaction and knows no prepared statements",
    default: "true"
  },
  DB_MAX_MESSAGE_SIZE: {
    description: "How many bytes a row can have that is read, at least the default: more, for rows of other programs",
    default: "16777216"
  },
  USER: { description: "Who has changed something by `strata console`, for its log", reader: "command" },
  USERNAME: { description: "The same where there is no `USER`", reader: "command" },
  NO_COLOR: { description: "Any text: no colours", reader: "command" }
} satisfies Readonly<Record<string, Omit<VariableReference, "name">>>

/** What these variables of libpq say, where neither the URL nor ours do. */
const libpq = {
  PGHOST: "DB_HOST",
  PGPORT: "DB_PORT",
  PGDATABASE: "DB_NAME",
  PGUSER: "DB_USER",
  PGPASSWORD: "DB_PASSWORD",
  PGTARGETSESSIONATTRS: "DB_TARGET_SESSION_ATTRS"
}

/** The settings of security that are followed. The others are refused where they ask for something that would be ignored. */
const followed: ReadonlyMap<string, string> = new Map([
  ["sslmode", "As `DB_SSLMODE`"],
  ["sslrootcert", "As `DB_SSLROOTCERT`"],
  ["sslcert", "The file of the client's own certificate, as `sslcert` in the URL"],
  ["sslkey", "The file of the key of that certificate, as `sslkey` in the URL"]
])

/** Every variable, in the order of the reference. */
export const environment: ReadonlyArray<VariableReference> = [
  ...Object.entries<Omit<VariableReference, "name">>(own).map(([name, variable]) => Object.assign({ name }, variable)),
  ...Object.entries(libpq).map(([name, as]) => ({ name, description: `As \`${as}\`` })),
  ...Object.entries(Security.variables).map(([name, parameter]) => ({
    name,
    description: followed.get(parameter) ?? "Refused, unless it asks for nothing that this driver would leave out"
  }))
]
