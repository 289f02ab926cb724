/**
 * A long list, of which only the rows in sight are in the page. `j` and `k` move through it, Enter opens a row, and the end of
 * the list asks for more.
 */
import type { ComponentChildren } from "preact"
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks"
import { useKeys } from "./Keys.ts"

export interface Column<A> {
  readonly title: string
  /** The share of the width, as CSS says it. */
  readonly width: string
  readonly isRight?: boolean
  /** Left out where the list is narrow. */
  readonly isWide?: boolean
  readonly show: (row: A) => ComponentChildren
}

interface RowsProps<A> {
  readonly label: string
  readonly rows: ReadonlyArray<A>
  readonly columns: ReadonlyArray<Column<A>>
  readonly keyOf: (row: A) => string
  readonly hrefOf: (row: A) => string
  readonly selected: string | undefined
  /** Where it is absent, the keys that move through lists do not move through this one. */
  readonly open?: (row: A) => void
  readonly onEnd?: () => void
  readonly footer?: ComponentChildren
}

const rowHeight = 34
/** How many rows beyond those in sight are in the page. */
const spare = 12

export const Rows = <A,>({ columns, footer, hrefOf, keyOf, label, onEnd, open, rows, selected }: RowsProps<A>) => {
  const box = useRef<HTMLDivElement>(null)
  const [top, setTop] = useState(0)
  const [height, setHeight] = useState(600)
  const at = selected === undefined ? -1 : rows.findIndex((row) => keyOf(row) === selected)

  useLayoutEffect(() => {
    const element = box.current
    if (element === null) return undefined
    const observer = new ResizeObserver(() => setHeight(element.clientHeight))
    observer.observe(element)
    return () => observer.disconnect()
  }, [])

  const first = Math.max(0, Math.floor(top / rowHeight) - spare)
  const last = Math.min(rows.length, Math.ceil((top + height) / rowHeight) + spare)
  const isAtEnd = last >= rows.length

  useEffect(() => {
    if (isAtEnd) onEnd?.()
  }, [isAtEnd, rows.length])

  const move = (step: number) => {
    const next = rows[Math.max(0, Math.min(rows.length - 1, at + step))]
    if (next === undefined) return
    open?.(next)
    const element = box.current
    if (element === null) return
    const place = Math.max(0, at + step) * rowHeight
    if (place < element.scrollTop) element.scrollTop = place
    else if (place + 2 * rowHeight > element.scrollTop + element.clientHeight) {
      element.scrollTop = place + 2 * rowHeight - element.clientHeight
    }
  }
  useKeys(open === undefined ? {} : { j: () => move(1), k: () => move(-1) })

  const template = columns.map(({ width }) => width).join(" ")
  return (
    <div
      class="rows"
      role="group"
      aria-label={label}
      ref={box}
      tabIndex={0}
      onScroll={({ currentTarget }) => setTop(currentTarget.scrollTop)}
    >
      <div role="table" aria-label={label} aria-rowcount={rows.length + 1}>
        <div class="rows-head" role="rowgroup">
          <div class="row" role="row" style={{ gridTemplateColumns: template }}>
            {columns.map(({ isRight, isWide, title }) => (
              <span key={title} role="columnheader" class={cellClass(isRight, isWide)}>
                {title}
              </span>
            ))}
          </div>
        </div>
        <div role="rowgroup" class="rows-body" style={{ height: `${rows.length * rowHeight}px` }}>
          {rows.slice(first, last).map((row, index) => {
            const key = keyOf(row)
            return (
              <div
                key={key}
                role="row"
                aria-rowindex={first + index + 2}
                class={`row ${key === selected ? "is-selected" : ""}`}
                style={{ gridTemplateColumns: template, transform: `translateY(${(first + index) * rowHeight}px)` }}
              >
                {columns.map(({ isRight, isWide, show, title }, place) => (
                  <span key={title} role="cell" class={cellClass(isRight, isWide)}>
                    {place === 0 ? (
                      <a class="row-link" href={hrefOf(row)} aria-current={key === selected ? "true" : undefined}>
                        {show(row)}
                      </a>
                    ) : (
                      show(row)
                    )}
                  </span>
                ))}
              </div>
            )
          })}
        </div>
      </div>
      {footer === undefined ? null : <div class="rows-foot">{footer}</div>}
    </div>
  )
}

const cellClass = (isRight = false, isWide = false): string => `${isRight ? "right" : ""} ${isWide ? "wide" : ""}`
