// The ordinary decoder: every block once, in order. All of it is Scheme's defaults; a replay plan
// given at run time (--plan) works on it without any more weights.
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

class Dense : public Scheme {
 public:
  explicit Dense(const ModelConfig& config) : Scheme(config) {}
  std::string name() const override { return "dense"; }
};

}  // namespace

std::unique_ptr<Scheme> make_dense_scheme(const ModelConfig& config) {
  return std::make_unique<Dense>(config);
}

}  // namespace reprise
