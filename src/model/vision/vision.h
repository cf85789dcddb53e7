// Vision towers (CLIP and InternViT style) and the projectors into the language model.
#pragma once

#include <vector>

#include "model/config/config.h"
#include "model/run/observer.h"
#include "model/tensor_table.h"

namespace reprise {

struct VisionBlock {
  NormWeight norm1, norm2;
  LinearWeight q, k, v;  // Clip
  LinearWeight qkv;      // InternVit: q, k, v blocks of d
  LinearWeight o;
  LinearWeight fc1, fc2;
  Tensor scale1, scale2;  // InternVit's layer scale, [d]
};

class VisionTower {
 public:
  VisionTower(const VisionConfig& config, int text_width);
  void visit_tensors(const TensorVisitor& visitor);

  // pixels [tiles, 3, size, size], normalised -> [tiles, tokens_per_tile, d_text]. One tile at a
  // time on backends that don't record gradients, so that memory doesn't grow with the tiles.
  Tensor encode(Backend& be, const Tensor& pixels, Observer* observer = nullptr) const;
  // The tower alone: what enters the projector, [tiles, tokens, projector_in]; and, before the
  // class token is dropped, the last hidden state [tiles, 1 + patches, d].
  Tensor features(Backend& be, const Tensor& pixels, Tensor* last_hidden = nullptr) const;
  Tensor project(Backend& be, const Tensor& features) const;

  const VisionConfig& config() const { return config_; }

 private:
  Tensor block(Backend& be, const VisionBlock& w, Tensor x) const;

  VisionConfig config_;
  int text_width_;
  LinearWeight patch_;   // [d, 3 * patch * patch]
  Tensor class_token_;   // [d] in any of the files' shapes
  Tensor positions_;     // [1 + patches, d]
  NormWeight pre_norm_;  // Clip
  std::vector<VisionBlock> blocks_;
  NormWeight proj_norm_;  // InternVit
  LinearWeight proj1_, proj2_;
};

}  // namespace reprise
