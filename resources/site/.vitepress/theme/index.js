// Without the fonts that the default theme brings: those of the reader's system are there at once.
import DefaultTheme from "vitepress/theme-without-fonts"
import "./style.css"

export default DefaultTheme
