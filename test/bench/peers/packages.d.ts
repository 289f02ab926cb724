/**
 * What the bench uses of packages that are not installed unless they are asked for. These declarations take the place of
 * the packages' own, so that the types are the same with and without them.
 */

declare module "graphile-worker" {
  interface Preset {
    readonly worker: {
      readonly connectionString: string
      readonly schema: string
      readonly logger: Logger
      readonly maxPoolSize?: number
      readonly concurrentJobs?: number
      readonly localQueue?: { readonly size: number }
      readonly completeJobBatchDelay?: number
      readonly failJobBatchDelay?: number
    }
  }

  interface WorkerUtils {
    readonly migrate: () => Promise<void>
    readonly addJob: (task: string, payload: object) => Promise<unknown>
    readonly addJobs: (
      jobs: ReadonlyArray<{ readonly identifier: string; readonly payload: object }>
    ) => Promise<unknown>
    readonly release: () => Promise<void>
  }

  interface Runner {
    readonly stop: () => Promise<void>
    readonly promise: Promise<void>
  }

  export class Logger {
    constructor(factory: () => (level: string, message: string) => void)
    info(message: string): void
  }

  export const makeWorkerUtils: (options: { readonly preset: Preset }) => Promise<WorkerUtils>

  export const run: (options: {
    readonly preset: Preset
    readonly taskList: Readonly<Record<string, () => void>>
    readonly parsedCronItems: []
    readonly noHandleSignals: true
  }) => Promise<Runner>
}

declare module "pg-boss" {
  export class PgBoss {
    constructor(options: {
      readonly connectionString: string
      readonly schema: string
      readonly max: number
      readonly supervise: boolean
      readonly schedule: boolean
      readonly useListenNotify: boolean
    })
    on(event: "error", listener: (error: unknown) => void): void
    start(): Promise<unknown>
    stop(options: { readonly graceful: boolean }): Promise<void>
    createQueue(name: string, options: { readonly notify: boolean }): Promise<void>
    send(name: string, data: object): Promise<unknown>
    insert(name: string, jobs: ReadonlyArray<{ readonly data: object }>): Promise<unknown>
    work(
      name: string,
      options: {
        readonly batchSize?: number
        readonly localConcurrency?: number
        readonly burstWhenBatchFull?: boolean
        readonly pollingIntervalSeconds?: number
      },
      handler: (jobs: ReadonlyArray<unknown>) => Promise<void>
    ): Promise<string>
    offWork(name: string, options: { readonly wait: boolean }): Promise<void>
  }
}

declare module "@event-driven-io/emmett-postgresql" {
  interface NewEvent {
    readonly type: string
    readonly data: object
  }

  interface Consumer {
    readonly reactor: (options: {
      readonly processorId: string
      readonly startFrom: "BEGINNING" | "END"
      readonly eachMessage: (message: object) => Promise<void> | void
    }) => unknown
    readonly start: () => Promise<void>
    readonly stop: () => Promise<void>
  }

  interface EventStore {
    readonly appendToStream: (stream: string, events: ReadonlyArray<NewEvent>) => Promise<unknown>
    readonly readStream: (stream: string) => Promise<{ readonly events: ReadonlyArray<unknown> }>
    readonly consumer: (options: {
      readonly pulling: { readonly batchSize: number; readonly pullingFrequencyInMs: number }
    }) => Consumer
    readonly schema: { readonly migrate: () => Promise<unknown> }
    readonly close: () => Promise<void>
  }

  export const getPostgreSQLEventStore: (connectionString: string) => EventStore
}
