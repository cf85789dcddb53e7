#include "model/vision/vision.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace reprise {
namespace {

constexpr float kProjectorNormEps = 1e-5f;  // LayerNorm's default in the official projectors

// Indices that bring shuffle x shuffle neighbouring patches together: output token (i, j),
// row-major, is patches (s i, s j), (s i, s j + 1), (s i + 1, s j), ... one behind the other.
std::vector<int32_t> shuffle_order(int64_t tiles, int side, int shuffle) {
  std::vector<int32_t> order;
  const int out_side = side / shuffle;
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int i = 0; i < out_side; ++i)
      for (int j = 0; j < out_side; ++j)
        for (int y = 0; y < shuffle; ++y)
          for (int x = 0; x < shuffle; ++x)
            order.push_back(static_cast<int32_t>(tile * side * side + (i * shuffle + y) * side +
                                                 (j * shuffle + x)));
  return order;
}

}  // namespace

VisionTower::VisionTower(const VisionConfig& config, int text_width)
    : config_(config), text_width_(text_width), blocks_(static_cast<size_t>(config.layers)) {
  const auto layer_norm = [](NormWeight& norm, float eps) {
    norm.kind = NormKind::Layer;
    norm.eps = eps;
  };
  layer_norm(pre_norm_, config.norm_eps);
  layer_norm(proj_norm_, kProjectorNormEps);
  for (VisionBlock& block : blocks_) {
    layer_norm(block.norm1, config.norm_eps);
    layer_norm(block.norm2, config.norm_eps);
  }
}

void VisionTower::visit_tensors(const TensorVisitor& visitor) {
  const bool clip = config_.kind == VisionConfig::Kind::Clip;
  const std::string root = clip ? "vit.vision_tower.vision_model." : "vision_model.";
  const int64_t d = config_.d, ffn = config_.ffn;
  const int64_t patches = int64_t{config_.patches_per_side()} * config_.patches_per_side();
  const auto vector = [&](const std::string& name, Shape shape, Tensor* tensor,
                          Role role = Role::Vision) {
    visitor({name, std::move(shape), WeightUse::Vector, role, tensor});
  };
  const auto matrix = [&](const std::string& name, Shape shape, LinearWeight& w, bool bias = true,
                          Role role = Role::Vision) {
    const int64_t out = shape[0];
    const bool flatten = shape.size() > 2;
    visitor({name + ".weight", std::move(shape), WeightUse::Matrix, role, &w.weight, flatten});
    if (bias) vector(name + ".bias", {out}, &w.bias, role);
  };
  const auto norm = [&](const std::string& name, int64_t width, NormWeight& w,
                        Role role = Role::Vision) {
    vector(name + ".weight", {width}, &w.weight, role);
    vector(name + ".bias", {width}, &w.bias, role);
  };

  matrix(root + "embeddings.patch_embedding", {d, 3, config_.patch, config_.patch}, patch_, !clip);
  vector(root + "embeddings.class_embedding", clip ? Shape{d} : Shape{1, 1, d}, &class_token_);
  if (clip) {
    vector(root + "embeddings.position_embedding.weight", {1 + patches, d}, &positions_);
    norm(root + "pre_layrnorm", d, pre_norm_);
  } else {
    vector(root + "embeddings.position_embedding", {1, 1 + patches, d}, &positions_);
  }
  for (int i = 0; i < config_.layers; ++i) {
    VisionBlock& b = blocks_[static_cast<size_t>(i)];
    const std::string layer = fmt::format("{}encoder.layers.{}.", root, i);
    norm(layer + (clip ? "layer_norm1" : "norm1"), d, b.norm1);
    if (clip) {
      matrix(layer + "self_attn.q_proj", {d, d}, b.q);
      matrix(layer + "self_attn.k_proj", {d, d}, b.k);
      matrix(layer + "self_attn.v_proj", {d, d}, b.v);
      matrix(layer + "self_attn.out_proj", {d, d}, b.o);
    } else {
      matrix(layer + "attn.qkv", {3 * d, d}, b.qkv, config_.qkv_bias);
      matrix(layer + "attn.proj", {d, d}, b.o);
      vector(layer + "ls1", {d}, &b.scale1);
    }
    norm(layer + (clip ? "layer_norm2" : "norm2"), d, b.norm2);
    matrix(layer + "mlp.fc1", {ffn, d}, b.fc1);
    matrix(layer + "mlp.fc2", {d, ffn}, b.fc2);
    if (!clip) vector(layer + "ls2", {d}, &b.scale2);
  }
  // InternVit: LayerNorm, Linear, GELU, Linear. Clip ("mlp2x_gelu"): Linear, GELU, Linear.
  if (!clip)
    norm("vision_proj.0", config_.projector_in(), proj_norm_, Role::Projector);
  matrix(clip ? "vision_proj.0" : "vision_proj.1",
         {config_.projector_hidden, config_.projector_in()}, proj1_, true, Role::Projector);
  matrix(clip ? "vision_proj.2" : "vision_proj.3", {text_width_, config_.projector_hidden}, proj2_,
         true, Role::Projector);
}

Tensor VisionTower::block(Backend& be, const VisionBlock& w, Tensor x) const {
  const int64_t tiles = x.dim(0), tokens = x.dim(1), d = config_.d;
  const int64_t hd = d / config_.heads;
  Tensor h = be.norm(x, w.norm1);
  Tensor q, k, v;  // [tiles, tokens, d]
  if (w.qkv.weight) {
    const Tensor all = be.linear(h, w.qkv);
    q = be.slice(all, 2, 0, d);
    k = be.slice(all, 2, d, 2 * d);
    v = be.slice(all, 2, 2 * d, 3 * d);
  } else {
    const LinearWeight* const weights[] = {&w.q, &w.k, &w.v};
    const std::vector<Tensor> parts = be.linear(h, weights, {});
    q = parts[0], k = parts[1], v = parts[2];
  }
  const Shape heads = {tiles, tokens, config_.heads, hd};
  const Tensor mixed =
      be.full_attention(be.reshape(q, heads), be.reshape(k, heads), be.reshape(v, heads),
                        1.0f / std::sqrt(static_cast<float>(hd)));
  h = be.linear(be.reshape(mixed, {tiles, tokens, d}), w.o);
  x = be.add(x, w.scale1 ? be.mul(h, w.scale1) : h);
  h = be.linear(be.unary(be.linear(be.norm(x, w.norm2), w.fc1), config_.activation), w.fc2);
  return be.add(x, w.scale2 ? be.mul(h, w.scale2) : h);
}

Tensor VisionTower::features(Backend& be, const Tensor& pixels, Tensor* last_hidden) const {
  const int64_t tiles = pixels.dim(0), d = config_.d;
  const int side = config_.patches_per_side();
  const int64_t patches = int64_t{side} * side;
  REPRISE_CHECK(pixels.rank() == 4 && pixels.dim(1) == 3);
  if (pixels.dim(2) != config_.image_size || pixels.dim(3) != config_.image_size)
    fail("pictures of {} x {} pixels, but the vision tower takes {} x {}", pixels.dim(3),
         pixels.dim(2), config_.image_size, config_.image_size);
  Tensor x = be.linear(be.patchify(pixels, config_.patch), patch_);  // [tiles, patches, d]
  const Tensor cls = be.gather_rows(be.reshape(class_token_, {1, d}),
                                    std::vector<int32_t>(static_cast<size_t>(tiles), 0));
  const Tensor parts[] = {be.reshape(cls, {tiles, 1, d}), x};
  x = be.add(be.concat(parts, 1), be.reshape(positions_, {1 + patches, d}));
  if (pre_norm_.weight) x = be.norm(x, pre_norm_);
  for (const VisionBlock& w : blocks_) x = block(be, w, std::move(x));
  if (last_hidden) *last_hidden = x;
  x = be.slice(x, 1, 1, 1 + patches);  // without the class token
  if (config_.shuffle == 1) return x;
  x = be.gather_rows(be.reshape(x, {tiles * patches, d}),
                     shuffle_order(tiles, side, config_.shuffle));
  return be.reshape(x, {tiles, config_.tokens_per_tile(), config_.projector_in()});
}

Tensor VisionTower::project(Backend& be, const Tensor& features) const {
  const Tensor x = proj_norm_.weight ? be.norm(features, proj_norm_) : features;
  return be.linear(be.unary(be.linear(x, proj1_), Unary::Gelu), proj2_);
}

Tensor VisionTower::encode(Backend& be, const Tensor& pixels, Observer* observer) const {
  const int64_t tiles = pixels.dim(0);
  std::vector<Tensor> hidden, out, projected;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    Tensor last;
    const Tensor one =
        features(be, be.slice(pixels, 0, tile, tile + 1), observer ? &last : nullptr);
    projected.push_back(project(be, one));
    if (observer) {
      hidden.push_back(last);
      out.push_back(one);
    }
  }
  const Tensor all = be.concat(projected, 0);
  if (observer) {
    observer->observe("vision_last_hidden", be.concat(hidden, 0));
    observer->observe("vision_out", be.concat(out, 0));
    observer->observe("projected", all);
  }
  return all;
}

}  // namespace reprise
