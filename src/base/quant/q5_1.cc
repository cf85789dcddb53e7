// Q5_1: an F16 scale d and minimum m, 32 high bits, then 32 half bytes of q; x = d q + m.
#include "base/quant/block32.h"

namespace reprise {

constinit const QuantCode quant_Q5_1 = {
    .split = block32::split<2, 5>, .quantize = block32::quantize_from_minimum<5>, .file_type = 9};

}  // namespace reprise
