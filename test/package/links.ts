/** What a Markdown text leads to. */

const withoutCode = (markdown: string) => markdown.replaceAll(/^(`{3,})[^]*?^\1$/gm, "")

/** The anchors of a text: of each heading its words in small letters, joined by hyphens. */
export const anchorsOf = (markdown: string): ReadonlyArray<string> => {
  const seen = new Map<string, number>()
  return [...withoutCode(markdown).matchAll(/^#+ (.*)$/gm)].map(([, title = ""]) => {
    const anchor = title
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-")
    const before = seen.get(anchor) ?? 0
    seen.set(anchor, before + 1)
    return before === 0 ? anchor : `${anchor}-${before}`
  })
}

export interface Link {
  /** As the text has it. */
  readonly link: string
  readonly path: string
  readonly anchor: string | undefined
}

/** The links of a text, and its pictures, but for those that lead elsewhere. */
export const linksOf = (markdown: string): ReadonlyArray<Link> =>
  [...withoutCode(markdown).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, link = ""]) => link)
    .filter((link) => !/^[a-z]+:/.test(link))
    .map((link) => {
      const [path = "", anchor] = link.split("#")
      return { link, path, anchor }
    })
