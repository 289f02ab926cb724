import { readFileSync } from "node:fs"
import { join } from "node:path"
import { defineConfig, type DefaultTheme } from "vitepress"

const root = join(import.meta.dirname, "../../..")
const docs = join(root, ".strata/docs")
const read = (file: string): string => readFileSync(join(docs, file), "utf8")

type Items = Array<DefaultTheme.SidebarItem>

const isItem = (value: unknown): value is DefaultTheme.SidebarItem =>
  typeof value === "object" && value !== null && "text" in value
const menu: unknown = JSON.parse(read("menu.json"))
const sidebar: Items = Array.isArray(menu) ? menu.filter(isItem) : []

/** Names as code in the text, such as `EventStore.append`, and the place of the reference that explains each. */
const places = new Map(Object.entries<unknown>(JSON.parse(read("places.json"))))

/** A call stands for what it calls. */
const nameIn = (code: string): string => /^([\w.]+)\(.*\)$/s.exec(code)?.[1] ?? code

export default defineConfig({
  title: "Strata",
  description: "Durable stores for Effect, in layers",
  lang: "en",
  srcDir: docs,
  outDir: join(root, ".strata/site"),
  cacheDir: join(root, ".strata/vitepress"),
  cleanUrls: false,
  markdown: {
    // What looks like a tag in a comment or a guide is text.
    html: false,
    theme: { light: "github-light", dark: "github-dark" },
    config: (markdown) => {
      // On a narrow screen each cell stands below the one before, with the heading of its column.
      markdown.core.ruler.push("headings", ({ tokens }) => {
        let headings: Array<string> = []
        let column = 0
        for (const [index, token] of tokens.entries()) {
          if (token.type === "thead_open") headings = []
          if (token.type === "tr_open") column = 0
          if (token.type === "th_open") headings.push(tokens[index + 1]?.content ?? "")
          if (token.type === "td_open") token.attrSet("data-heading", headings[column++] ?? "")
        }
      })
      const plain = markdown.renderer.rules.code_inline
      markdown.renderer.rules.code_inline = (tokens, index, options, env, self) => {
        const shown = plain?.(tokens, index, options, env, self) ?? ""
        const place = places.get(nameIn(tokens[index]?.content ?? ""))
        const isLink = tokens[index - 1]?.type === "link_open"
        return typeof place === "string" && !isLink ? `<a class="name" href="${place}">${shown}</a>` : shown
      }
    }
  },
  themeConfig: {
    outline: [2, 3],
    search: { provider: "local" },
    nav: [
      { text: "Guides", link: "/guides/tutorial" },
      { text: "Reference", link: "/reference/EventStore" },
      { text: "Changes", link: "/CHANGELOG" }
    ],
    sidebar
  }
})
