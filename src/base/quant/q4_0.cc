// Q4_0: an F16 scale d, then 32 half bytes q; x = d (q - 8).
#include "base/quant/block32.h"

namespace reprise {

constinit const QuantCode quant_Q4_0 = {
    .split = block32::split<1, 4>, .quantize = block32::quantize_symmetric<4>, .file_type = 2};

}  // namespace reprise
