/** The frame of all pages: where one is, whether the server is there, and the keys. */
import { useEffect, useRef, useState } from "preact/hooks"
import { Dialogs } from "./Action.tsx"
import { AggregatePage } from "./AggregatePage.tsx"
import { setAbout, useAnswer } from "./Client.ts"
import { DoctorPage } from "./DoctorPage.tsx"
import { plural } from "./Format.ts"
import { useKeys } from "./Keys.ts"
import { useLive } from "./Live.ts"
import { LogPage } from "./LogPage.tsx"
import { OverviewPage } from "./OverviewPage.tsx"
import { Empty, Time } from "./Parts.tsx"
import { ProcessesPage } from "./ProcessesPage.tsx"
import { ProjectionPage } from "./ProjectionPage.tsx"
import { ProjectionsPage } from "./ProjectionsPage.tsx"
import { go, href, type Route, useRoute } from "./Route.ts"
import { SpoolPage } from "./SpoolPage.tsx"
import { StatesPage } from "./StatesPage.tsx"
import { StatsPage } from "./StatsPage.tsx"
import { ThemeSwitch } from "./Theme.tsx"

const pages = [
  { path: "overview", title: "Overview", key: "o" },
  { path: "log", title: "Log", key: "l" },
  { path: "projections", title: "Projections", key: "p" },
  { path: "spool", title: "Spool", key: "s" },
  { path: "states", title: "States", key: "t" },
  { path: "doctor", title: "Doctor", key: "d" }
] as const

/** The titles of the pages that other pages lead to. */
const titlesOfOthers: Readonly<Record<string, string>> = {
  history: "Log",
  stats: "What the log consists of",
  processes: "Processes"
}

const keys: ReadonlyArray<readonly [key: string, what: string]> = [
  ...pages.map(({ key, title }) => [`g ${key}`, title] as const),
  ["j  k", "Down and up in a list"],
  ["/", "Search"],
  ["f", "Follow the log, or pause"],
  ["Esc", "Close"],
  ["?", "These keys"]
]

const Help = ({ close }: { readonly close: () => void }) => {
  const dialog = useRef<HTMLDialogElement>(null)
  useEffect(() => dialog.current?.showModal(), [])
  return (
    <dialog ref={dialog} class="dialog" aria-label="Keys" onClose={close}>
      <h2>Keys</h2>
      <dl class="keys">
        {keys.map(([key, what]) => (
          <div key={key}>
            <dt>
              {key
                .split(" ")
                .filter((part) => part !== "")
                .map((part) => (
                  <kbd key={part}>{part}</kbd>
                ))}
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog">
        <button type="submit" class="button">
          Close
        </button>
      </form>
    </dialog>
  )
}

/** Says what the page cannot show: a server that is gone, a database that does not answer, looks that it has missed. */
const Notices = () => {
  const { connection, missed, moment } = useLive()
  if (connection === "lost") {
    return (
      <div class="banner bad" role="alert">
        <strong>The console's server is gone.</strong> What is shown is old. The page tries again by itself.
      </div>
    )
  }
  if (moment !== undefined && moment.failure !== null) {
    return (
      <div class="banner bad" role="alert">
        <strong>The database does not answer:</strong> {moment.failure}. What is shown is old.
      </div>
    )
  }
  return missed === 0 ? null : (
    <div class="banner warn" role="status">
      This page was too slow for {plural(missed, "look")}: it shows the newest one.
    </div>
  )
}

const Server = () => {
  const { connection, moment } = useLive()
  const { value } = useAnswer("/api/about", {}, connection)
  useEffect(() => {
    if (value !== undefined) setAbout(value)
  }, [value])
  return (
    <div class="server">
      <div class={`pulse ${connection === "open" && (moment?.failure ?? null) === null ? "is-live" : ""}`}>
        <span class="dot" aria-hidden="true" />
        {connection === "open" ? "Live" : connection === "opening" ? "Connecting" : "Gone"}
        {moment === undefined ? null : (
          <>
            , <Time at={moment.at} />
          </>
        )}
      </div>
      {value === undefined ? null : (
        <>
          <div>
            {value.database}
            {value.schema === null ? "" : `, schema ${value.schema}`}
          </div>
          <div>
            PostgreSQL {value.server}, role {value.role}
          </div>
          <div>{value.allowsWrites ? "may change things" : "only reads"}</div>
          {value.showsPayloads ? null : <div>payloads are hidden</div>}
        </>
      )}
    </div>
  )
}

const Page = ({ route }: { readonly route: Route }) => {
  const [page = "overview", name] = route.parts
  switch (page) {
    case "overview":
      return <OverviewPage />
    case "log":
      return <LogPage route={route} />
    case "projections":
      return name === undefined ? <ProjectionsPage /> : <ProjectionPage key={name} name={name} />
    case "processes":
      return <ProcessesPage />
    case "spool":
      return <SpoolPage route={route} />
    case "history":
      return name === undefined ? <Empty title="There is no such page" /> : <AggregatePage key={name} id={name} />
    case "stats":
      return <StatsPage route={route} />
    case "states":
      return <StatesPage route={route} />
    case "doctor":
      return <DoctorPage route={route} />
    default:
      return (
        <Empty title="There is no such page">
          <a href={href(["overview"])}>To the overview</a>
        </Empty>
      )
  }
}

export const App = () => {
  const route = useRoute()
  const [isHelp, setHelp] = useState(false)
  const [page = "overview", name] = route.parts
  const current = pages.find(({ path }) => path === page)
  const title = current?.title ?? titlesOfOthers[page] ?? "Strata"
  useKeys({
    "?": () => setHelp(true),
    ...Object.fromEntries(pages.map(({ key, path }) => [`g ${key}`, () => go(href([path]))]))
  })
  useEffect(() => {
    globalThis.document.title = `${name === undefined ? title : name} · Strata`
  }, [title, name])
  return (
    <div class="frame">
      <a
        class="skip-link"
        href="#main"
        onClick={(event) => {
          event.preventDefault()
          globalThis.document.getElementById("main")?.focus()
        }}
      >
        To the content
      </a>
      <nav class="side" aria-label="Pages">
        <a class="brand" href={href(["overview"])}>
          <img src="./icon.svg" alt="" width="22" height="22" /> Strata
        </a>
        <ul>
          {pages.map(({ key, path, title }) => (
            <li key={path}>
              <a href={href([path])} aria-current={path === page ? "page" : undefined}>
                {title} <kbd aria-hidden="true">g {key}</kbd>
              </a>
            </li>
          ))}
        </ul>
        <Server />
        <div class="side-foot">
          <ThemeSwitch />
          <button type="button" class="button quiet" onClick={() => setHelp(true)}>
            Keys <kbd aria-hidden="true">?</kbd>
          </button>
        </div>
      </nav>
      <main id="main" tabIndex={-1} class={`page page-${page}`}>
        <Notices />
        <header class="page-head">
          <h1>
            {name === undefined ? (
              title
            ) : (
              <>
                <a href={href([page === "history" ? "log" : page])}>{title}</a> <span aria-hidden="true">/</span> {name}
              </>
            )}
          </h1>
        </header>
        <Page route={route} />
      </main>
      <Dialogs />
      {isHelp ? <Help close={() => setHelp(false)} /> : null}
    </div>
  )
}
