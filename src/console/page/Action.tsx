/** A change: a button, and a dialog that names what it does before it is done. */
import type { ComponentChildren } from "preact"
import { useEffect, useRef, useState } from "preact/hooks"
import type { Change, ChangePath } from "../api/Answers.ts"
import { type About, change, type Failed, useAbout } from "./Client.ts"
import { FailedNote } from "./Parts.tsx"

interface ActionProps<P extends ChangePath> {
  /** What it is called. */
  readonly name: string
  /** What the button says, where the name is longer than that. */
  readonly label?: string
  /** What it does, as a question to somebody who may have pressed the wrong button. */
  readonly question: string
  readonly path: P
  readonly change: Change<P> & object
  /** What of the database it changes: the role may not be allowed to. */
  readonly changes: keyof About["missing"]
  /** Why it makes no sense now, if so. */
  readonly objection?: string | undefined
  /** Whether something is lost by it. */
  readonly isGrave?: boolean
  /** Once it is done, and what was said of it was read. */
  readonly done?: () => void
}

type Stage =
  | { readonly is: "asking" }
  | { readonly is: "doing" }
  | { readonly is: "done"; readonly message: string }
  | { readonly is: "failed"; readonly failed: Failed }

interface DialogProps<P extends ChangePath> extends ActionProps<P> {
  readonly close: () => void
}

const ActionDialog = <P extends ChangePath>(props: DialogProps<P>) => {
  const { close, done, isGrave = false, name, path, question } = props
  const about = useAbout()
  const dialog = useRef<HTMLDialogElement>(null)
  const [stage, setStage] = useState<Stage>({ is: "asking" })
  useEffect(() => dialog.current?.showModal(), [])

  const act = async () => {
    setStage({ is: "doing" })
    const called = await change(path, props.change)
    setStage(called.ok ? { is: "done", message: called.value } : { is: "failed", failed: called.failed })
  }

  const closed = () => {
    close()
    if (stage.is === "done") done?.()
  }

  return (
    <dialog ref={dialog} class="dialog" aria-label={name} onClose={closed}>
      <h2>{name}</h2>
      <p class="dialog-text">{question}</p>
      {stage.is === "asking" && about !== undefined ? (
        <p class="dialog-text muted">
          In database {about.database}, as role {about.role}; the log will say that {about.who ?? "somebody"} did it.
        </p>
      ) : null}
      {stage.is === "done" ? (
        <p class="note good" role="status">
          {stage.message}.
        </p>
      ) : null}
      {stage.is === "failed" ? <FailedNote failed={stage.failed} /> : null}
      <form method="dialog" class="dialog-buttons">
        {stage.is === "done" || stage.is === "failed" ? null : (
          <button
            type="button"
            class={`button ${isGrave ? "grave" : ""}`}
            disabled={stage.is === "doing"}
            onClick={() => void act()}
          >
            {stage.is === "doing" ? "…" : name}
          </button>
        )}
        <button type="submit" class="button quiet">
          {stage.is === "asking" || stage.is === "doing" ? "Cancel" : "Close"}
        </button>
      </form>
    </dialog>
  )
}

let show: (dialog: ComponentChildren) => void = () => {}

/** Where the dialogs stand: beside the page, as what a change is about may be gone once it is made. */
export const Dialogs = () => {
  const [dialog, setDialog] = useState<ComponentChildren>(null)
  useEffect(() => {
    show = setDialog
  }, [])
  return <>{dialog}</>
}

/** Why something cannot be changed here: the console only reads, or its role lacks a grant. */
const objectionTo = (about: About | undefined, changes: keyof About["missing"]): string | undefined => {
  if (about === undefined) return "It is not known yet what this console may do"
  if (!about.allowsWrites) return "This console only reads: start it with --allow-writes"
  const grants = about.missing[changes]
  return grants.length === 0
    ? undefined
    : `The role ${about.role} may not do this. As the owner of the tables: ${grants.join("; ")}`
}

/** The grants that the role of the console lacks for what a page changes, where the console may change things at all. */
export const MissingGrants = ({ changes }: { readonly changes: keyof About["missing"] }) => {
  const about = useAbout()
  const grants = about?.allowsWrites === true ? about.missing[changes] : []
  return grants.length === 0 ? null : (
    <div class="note warn" data-testid="missing-grants">
      <strong>The role {about?.role} may not change this.</strong> As the owner of the tables:
      <pre>{grants.map((grant) => `${grant};`).join("\n")}</pre>
    </div>
  )
}

export const Action = <P extends ChangePath>(props: ActionProps<P>) => {
  const objection = objectionTo(useAbout(), props.changes) ?? props.objection
  return (
    <button
      type="button"
      class="button plain"
      disabled={objection !== undefined}
      title={objection}
      aria-label={props.name}
      onClick={() => show(<ActionDialog {...props} close={() => show(null)} />)}
    >
      {props.label ?? props.name}
    </button>
  )
}
