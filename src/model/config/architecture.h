// Which models this program can run, for tools that handle files of others too.
#pragma once

#include "base/json_fwd.h"

namespace reprise {

// Whether config_from_json reads models of the architecture that this config.json names. True also
// where it names none: that is an error to be found by reading it.
bool knows_architecture(const Json& json);
// The same of a decoder's own config, an object.
bool knows_decoder(const Json& json);

}  // namespace reprise
