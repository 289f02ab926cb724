/** JSON to look through: folded, and searched. What the application has stored is text here, and never a part of the page. */
import { useMemo, useState } from "preact/hooks"
import { contains, type Node, parse } from "./JsonText.ts"
import { Copy } from "./Parts.tsx"

/** Levels and items that are open from the first. */
const [openLevels, openItems] = [2, 50]

/** How many characters of a text are shown before it is asked for. */
const shownText = 2000

const Marked = ({ search, text }: { readonly text: string; readonly search: string }) => {
  const at = search === "" ? -1 : text.toLowerCase().indexOf(search)
  if (at === -1) return <>{text}</>
  return (
    <>
      {text.slice(0, at)}
      <mark>{text.slice(at, at + search.length)}</mark>
      {text.slice(at + search.length)}
    </>
  )
}

const Leaf = ({
  node,
  search
}: {
  readonly node: Extract<Node, { readonly text: string }>
  readonly search: string
}) => {
  const [isWhole, setWhole] = useState(false)
  const text = node.kind === "string" ? JSON.stringify(node.text) : node.text
  const isCut = !isWhole && text.length > shownText
  return (
    <span class={`json-${node.kind}`}>
      <Marked text={isCut ? text.slice(0, shownText) : text} search={search} />
      {isCut ? (
        <button type="button" class="link" onClick={() => setWhole(true)}>
          {text.length - shownText} more characters
        </button>
      ) : null}
    </span>
  )
}

interface BranchProps {
  readonly node: Node
  readonly level: number
  readonly search: string
  readonly name?: string
}

const Name = ({ name, search }: { readonly name: string | undefined; readonly search: string }) =>
  name === undefined ? null : (
    <>
      <span class="json-key">
        <Marked text={name} search={search} />
      </span>
      <span class="json-mark">: </span>
    </>
  )

const Branch = ({ level, name, node, search }: BranchProps) => {
  const items: ReadonlyArray<readonly [string | undefined, Node]> =
    node.kind === "object"
      ? node.entries
      : node.kind === "array"
        ? node.items.map((item) => [undefined, item] as const)
        : []
  const [isOpen, setOpen] = useState(level < openLevels && items.length <= openItems)
  const [shown, setShown] = useState(openItems)
  if (node.kind !== "object" && node.kind !== "array") {
    return (
      <div class="json-line">
        <Name name={name} search={search} />
        <Leaf node={node} search={search} />
      </div>
    )
  }
  const [left, right] = node.kind === "object" ? ["{", "}"] : ["[", "]"]
  if (items.length === 0) {
    return (
      <div class="json-line">
        <Name name={name} search={search} />
        <span class="json-mark">
          {left}
          {right}
        </span>
      </div>
    )
  }
  const isShown = isOpen || (search !== "" && contains(node, search))
  return (
    <div class="json-branch">
      <button type="button" class="json-toggle" aria-expanded={isShown} onClick={() => setOpen(!isShown)}>
        <span class="json-arrow" aria-hidden="true">
          {isShown ? "▾" : "▸"}
        </span>
        <Name name={name} search={search} />
        <span class="json-mark">
          {left}
          {isShown ? "" : `…${right}`}
        </span>
        {isShown ? null : <span class="json-count"> {items.length}</span>}
      </button>
      {isShown ? (
        <div class="json-inner">
          {items.slice(0, shown).map(([key, item], index) => (
            <Branch
              key={key ?? index}
              node={item}
              level={level + 1}
              search={search}
              {...(key === undefined ? {} : { name: key })}
            />
          ))}
          {items.length > shown ? (
            <button type="button" class="link" onClick={() => setShown(shown + 10 * openItems)}>
              {items.length - shown} more
            </button>
          ) : null}
        </div>
      ) : null}
      {isShown ? <div class="json-mark json-end">{right}</div> : null}
    </div>
  )
}

/** A JSON text with its name, folded, with a search where there is much of it. */
export const JsonTree = ({
  json,
  of = "",
  title
}: {
  readonly json: string
  readonly title: string
  /** What it belongs to, where a page has several. */
  readonly of?: string
}) => {
  const node = useMemo(() => parse(json), [json])
  const [search, setSearch] = useState("")
  return (
    <section class="json" aria-label={`${title}${of}`}>
      <header class="json-head">
        <h3>{title}</h3>
        {json.length > 400 ? (
          <input
            type="search"
            placeholder={`Search in ${title.toLowerCase()}`}
            aria-label={`Search in ${title.toLowerCase()}`}
            value={search}
            onInput={({ currentTarget }) => setSearch(currentTarget.value)}
          />
        ) : null}
        <Copy text={json} />
      </header>
      <div class="json-body">
        {node === undefined ? json : <Branch node={node} level={0} search={search.trim().toLowerCase()} />}
      </div>
    </section>
  )
}
