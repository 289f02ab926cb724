/** The copies of a projection's read model. */
import { Schema } from "effect"

/**
 * One of the two copies of a read model: a rebuild beside the live copy fills the other one, then they are switched. A
 * projection that is never rebuilt that way has only the blue copy.
 */
export const Slot = Schema.Literals(["blue", "green"])
export type Slot = typeof Slot.Type

export const otherSlot = (slot: Slot): Slot => (slot === "blue" ? "green" : "blue")
