// Q5_0: an F16 scale d, 32 high bits, then 32 half bytes of q; x = d (q - 16).
#include "base/quant/block32.h"

namespace reprise {

constinit const QuantCode quant_Q5_0 = {
    .split = block32::split<1, 5>, .quantize = block32::quantize_symmetric<5>, .file_type = 8};

}  // namespace reprise
