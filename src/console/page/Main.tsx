/** Where the page begins. */
import { render } from "preact"
import { App } from "./App.tsx"
import { start } from "./Live.ts"

const root = globalThis.document.getElementById("page")
if (root !== null) {
  start()
  render(<App />, root)
}
