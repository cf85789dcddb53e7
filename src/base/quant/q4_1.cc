// Q4_1: an F16 scale d and minimum m, then 32 half bytes q; x = d q + m.
#include "base/quant/block32.h"

namespace reprise {

constinit const QuantCode quant_Q4_1 = {
    .split = block32::split<2, 4>, .quantize = block32::quantize_from_minimum<4>, .file_type = 3};

}  // namespace reprise
