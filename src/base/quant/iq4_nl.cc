// IQ4_NL: an F16 scale d, then 32 half bytes q; x = d level[q].
#include "base/quant/block32.h"

namespace reprise {

constinit const QuantCode quant_IQ4_NL = {.split = block32::split<1, 4>};

}  // namespace reprise
