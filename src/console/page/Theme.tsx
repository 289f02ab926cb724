/** Light or dark: as the system has it, until somebody chooses. */
import { useEffect, useState } from "preact/hooks"

const themes = ["system", "light", "dark"] as const
type Theme = (typeof themes)[number]

const stored = (): Theme => {
  const text = globalThis.localStorage.getItem("strata-theme")
  return themes.find((theme) => theme === text) ?? "system"
}

export const ThemeSwitch = () => {
  const [theme, setTheme] = useState(stored)
  useEffect(() => {
    const { dataset } = globalThis.document.documentElement
    if (theme === "system") delete dataset["theme"]
    else dataset["theme"] = theme
    globalThis.localStorage.setItem("strata-theme", theme)
  }, [theme])
  const next = themes[(themes.indexOf(theme) + 1) % themes.length] ?? "system"
  return (
    <button
      type="button"
      class="button quiet"
      onClick={() => setTheme(next)}
      title={`Now ${theme}; a click makes it ${next}`}
    >
      Theme: {theme}
    </button>
  )
}
