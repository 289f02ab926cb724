/** A search over headings and text of documents, as a reader's one: the words of a question, and sections that have them. */

export interface Section {
  readonly file: string
  /** The headings that lead to it, the document's title first. */
  readonly headings: ReadonlyArray<string>
  readonly text: string
}

/** The sections of a Markdown text: what is below each heading, with its code. */
export const sectionsOf = (file: string, markdown: string): ReadonlyArray<Section> => {
  const sections: Array<{ file: string; headings: ReadonlyArray<string>; text: string }> = []
  let path: ReadonlyArray<string> = []
  let isCode = false
  for (const line of markdown.split("\n")) {
    if (line.startsWith("```")) isCode = !isCode
    const [, marks, title = ""] = (isCode ? null : /^(#+) (.*)$/.exec(line)) ?? []
    if (marks !== undefined) {
      path = [...path.slice(0, marks.length - 1), title]
      sections.push({ file, headings: path, text: "" })
    } else {
      const last = sections.at(-1)
      if (last !== undefined) last.text += `${line}\n`
    }
  }
  return sections
}

/** Words that say nothing of what is asked. */
const common = new Set(
  "a an and are be by can do does for from get getting has have how i if in into is it its may must my of on one or so that the there they this to up what when which who why with you your not we".split(
    " "
  )
)

/** A word without the endings that English gives it. */
const stemOf = (word: string) =>
  word.length > 4 ? word.replace(/(?:ies|y)$/, "i").replace(/(?:ing|ed|es|s|e)$/, "") : word.replace(/s$/, "")

export const wordsOf = (text: string): ReadonlyArray<string> =>
  (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).filter((word) => !common.has(word)).map(stemOf)

/** How much more a word counts in the heading of a section, and in a heading above it. */
const headingWeight = 6
const aboveWeight = 2

const countsOf = (section: Section): ReadonlyMap<string, number> => {
  const counts = new Map<string, number>()
  const add = (text: string, weight: number) => {
    for (const word of wordsOf(text)) counts.set(word, (counts.get(word) ?? 0) + weight)
  }
  add(section.text, 1)
  add(section.headings.at(-1) ?? "", headingWeight)
  for (const heading of section.headings.slice(0, -1)) add(heading, aboveWeight)
  return counts
}

/** The sections that have words of the question, the best first: by BM25, a usual measure of searches. */
export const search = (sections: ReadonlyArray<Section>, question: string): ReadonlyArray<Section> => {
  const counted = sections.map((section) => {
    const counts = countsOf(section)
    return { section, counts, length: [...counts.values()].reduce((sum, count) => sum + count, 0) }
  })
  const average = counted.reduce((sum, { length }) => sum + length, 0) / counted.length
  const asked = new Set(wordsOf(question))
  const rarity = (word: string) => {
    const having = counted.filter(({ counts }) => counts.has(word)).length
    return Math.log(1 + (counted.length - having + 0.5) / (having + 0.5))
  }
  const rarities = new Map([...asked].map((word) => [word, rarity(word)]))
  return counted
    .map(({ counts, length, section }) => {
      const score = [...rarities].reduce((sum, [word, rare]) => {
        const count = counts.get(word) ?? 0
        return sum + (rare * count * 2.2) / (count + 1.2 * (0.25 + (0.75 * length) / average))
      }, 0)
      return { section, score }
    })
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score)
    .map(({ section }) => section)
}
