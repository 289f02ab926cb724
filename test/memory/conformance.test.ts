import * as Memory from "effect-strata/memory"
import { OffsetStore, Transactor } from "effect-strata/testing"

OffsetStore.suite("memory", Memory.layer)
Transactor.suite("memory", Memory.layer)
