/** What queues infer, checked by the compiler (`npm run check`); there is nothing to run. */
import { Effect, Schema } from "effect"
import { Spool } from "effect-strata"
import { expectTypeOf } from "vitest"

class Mail extends Schema.Class<Mail>("Mail")({ to: Schema.String }) {}
const mail = new Mail({ to: "anna@example.org" })
const name = "mails"

const mails = Spool.make({ name, payload: Mail, policies: { urgent: Spool.fixed("1 second"), slow: Spool.backoff() } })
expectTypeOf(mails).toEqualTypeOf<Spool.Spool<Mail, never, never, "urgent" | "slow">>()
mails.enqueue(mail, { policy: "urgent" })
mails.enqueue(mail, { policy: "default" })
mails.enqueueAll([{ payload: mail, policy: "slow" }, { payload: mail }])
// @ts-expect-error: the queue has no such policy
mails.enqueue(mail, { policy: "urgnet" })
// @ts-expect-error: the queue has no such policy
mails.enqueueAll([{ payload: mail, policy: "urgnet" }])

const plain = Spool.make({ name, payload: Mail })
expectTypeOf(plain).toEqualTypeOf<Spool.Spool<Mail>>()
plain.enqueue(mail, { policy: "default" })
// @ts-expect-error: it has the default alone
plain.enqueue(mail, { policy: "urgent" })

// Where names are not known before, any name will do.
declare const loaded: Readonly<Record<string, Spool.Policy>>
declare const chosen: string
Spool.make({ name, payload: Mail, policies: loaded }).enqueue(mail, { policy: chosen })

// A queue with policies is a queue.
expectTypeOf(mails).toExtend<Spool.Spool<Mail>>()
const send = (queue: Spool.Spool<Mail>, options?: Spool.EnqueueOptions) => queue.enqueue(mail, options)
send(mails)
Spool.layer(mails, ({ to }) => Effect.log(to))
