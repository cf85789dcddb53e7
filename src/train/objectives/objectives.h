// The objectives there are; objective.cc lists them.
#pragma once

#include "train/objectives/objective.h"

namespace reprise {

ObjectiveKind sft_objective();     // sft.cc
ObjectiveKind sft_po_objective();  // sft_po.cc
ObjectiveKind lm_objective();      // lm.cc

}  // namespace reprise
