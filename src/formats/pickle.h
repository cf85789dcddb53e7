// A restricted reader for PyTorch's .pt files that hold a dict of tensors (what torch.save writes
// for a state_dict). The pickle program inside is interpreted by a small stack machine that knows
// containers, strings, integers and tensors, and executes nothing.
//
// Goals: safe on any input; memory in proportion to the file. Non-goals: legacy (non-zip) files,
// TorchScript, whole modules, sparse or quantized tensors, anything with other Python objects.
#pragma once

#include <filesystem>

#include "formats/weights.h"

namespace reprise {

// Tensors in the dict's order, each of type F32 F16 BF16 F64 I64 I32 I16 I8 U8 or BOOL. Device tags
// are ignored. A dense tensor points into the file (or into an inflated entry); strided ones are
// copied into row-major order. Entries may share data. Throws Error naming the file and, where
// there is one, the refused global ("posix.system"), opcode, key or entry.
WeightFile open_pt(const std::filesystem::path& path);

}  // namespace reprise
