import { existsSync } from "node:fs"

/** Where systems keep Chromium. `CHROMIUM` names another place. */
const places = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
]

/** The browser that the tests drive, if there is one: they are left out without it. */
export const chromium: string | undefined = [process.env["CHROMIUM"], ...places].find(
  (path) => path !== undefined && existsSync(path)
)

/** Nothing that the tests look at comes from elsewhere, so the browser's own requests must not, either. */
export const launchOptions = {
  executablePath: chromium ?? "",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update"
  ]
}
