/** Numbers, times and texts as people read them. */

/** The digits of a whole number, in groups of three. It can be longer than a JavaScript number. */
export const whole = (digits: string | number): string => {
  const text = String(digits)
  const start = text.startsWith("-") ? 1 : 0
  const groups: Array<string> = []
  let end = text.length
  for (; end - start > 3; end -= 3) groups.push(text.slice(end - 3, end))
  return [text.slice(0, end), ...groups.toReversed()].join(",")
}

/** A number that is known roughly, by its first digits. */
export const about = (value: number): string => `about ${whole(Number(value.toPrecision(2)))}`

/** A number with one digit after the point where it is small. */
export const rate = (value: number): string =>
  value >= 10 || value === 0 ? whole(Math.round(value)) : value.toFixed(1)

const units = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1000]
] as const

/** A time span in its two largest units. */
export const span = (millis: number): string => {
  if (millis < 1000) return `${Math.round(millis)} ms`
  const at = units.findIndex(([, size]) => millis >= size)
  const [name = "s", size = 1000] = units[at] ?? []
  const count = Math.floor(millis / size)
  const [lesser, smaller = 1] = units[at + 1] ?? []
  const rest = Math.floor((millis % size) / smaller)
  return lesser === undefined || rest === 0 || count >= 20 ? `${count} ${name}` : `${count} ${name} ${rest} ${lesser}`
}

/** A time of the day, where the browser is. */
export const clock = (millis: number): string =>
  new Date(millis).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" })

/** How long a time is ago, or until when. */
export const ago = (time: string, now: number): string => {
  const millis = now - Date.parse(time)
  if (Number.isNaN(millis)) return time
  if (Math.abs(millis) < 1500) return "now"
  const at = units.findIndex(([, size]) => Math.abs(millis) >= size)
  const [name = "s", size = 1000] = units[at] ?? []
  const count = `${Math.floor(Math.abs(millis) / size)} ${name}`
  return millis < 0 ? `in ${count}` : `${count} ago`
}

const byteUnits = ["B", "kB", "MB", "GB"]

export const bytes = (digits: string): string => {
  let value = Number(digits)
  let unit = 0
  while (value >= 1024 && unit < byteUnits.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${byteUnits[unit]}`
}

export const plural = (count: number, thing: string): string =>
  `${whole(count)} ${thing}${count === 1 ? "" : thing.endsWith("s") ? "es" : "s"}`

export const firstLine = (text: string): string => text.split("\n", 1).join("")
