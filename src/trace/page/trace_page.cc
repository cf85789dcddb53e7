#include "trace/page/trace_page.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/images.h"
#include "image/decode.h"
#include "image/encode.h"
#include "image/resample.h"
#include "text/tokenizer/utf8.h"
#include "trace/trace_measures.h"

namespace reprise {
namespace {

constexpr int kShownSide = 1200;          // longest side of an embedded picture in pixels
constexpr int kLosslessPixels = 1 << 16;  // up to here PNG, above JPEG
constexpr int kJpegQuality = 88;

// Bytes of a token as text that can be shown: parts that are no whole character as \xE2.
std::string visible_text(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const Utf8Char c = first_char(bytes);
    const std::string_view part = bytes.substr(0, static_cast<size_t>(c.length));
    if (c.valid) {
      out += part;
    } else {
      for (const char byte : part)
        out += fmt::format("\\x{:02X}", static_cast<unsigned>(static_cast<unsigned char>(byte)));
    }
    bytes.remove_prefix(part.size());
  }
  return out;
}

TraceToken trace_token(const Tokenizer& tokenizer, int32_t id, TokenKind kind) {
  TraceToken token;
  token.id = id;
  token.kind = kind;
  if (id < tokenizer.vocab_size()) {  // some models have more embeddings than tokens
    token.text = visible_text(tokenizer.token_bytes(id));
    if (kind == TokenKind::Text && tokenizer.is_special(id)) token.kind = TokenKind::Special;
  }
  return token;
}

TracePicture trace_picture(const ModelConfig& config, const Picture& shown,
                           const PictureOptions& options) {
  const PreprocessConfig preprocess = preprocess_config(config.image);
  DecodeOptions decode;
  decode.picture = options;
  Image image = decode_image(shown.bytes(), shown.name(), decode);
  TracePicture picture;
  picture.name = to_valid_utf8(std::filesystem::path(shown.name()).filename().string());
  picture.width = image.width;
  picture.height = image.height;
  if (preprocess.kind == PreprocessKind::Tiles) {
    const Grid grid =
        choose_grid(image.width, image.height, 1, preprocess.max_tiles, preprocess.size);
    picture.columns = grid.columns;
    picture.rows = grid.rows;
    picture.thumbnail = grid.columns * grid.rows > 1;
  }
  const VisionConfig& vision = *config.vision;
  picture.side = vision.patches_per_side() / vision.shuffle;
  picture.cover =
      static_cast<double>(picture.side * vision.shuffle * vision.patch) / vision.image_size;
  const int longest = std::max(image.width, image.height);
  if (longest > kShownSide) {
    const auto shrunk = [&](int side) {
      return std::max(1, static_cast<int>(int64_t{side} * kShownSide / longest));
    };
    image = resize_pillow(image, shrunk(image.width), shrunk(image.height), Filter::Bicubic);
  }
  const bool lossless = int64_t{image.width} * image.height <= kLosslessPixels;
  picture.mime = lossless ? "image/png" : "image/jpeg";
  picture.bytes = lossless ? encode_png(image) : encode_jpeg(image, kJpegQuality);
  return picture;
}

std::string plan_words(const Plan& plan, const char* tokens) {
  const std::string summary = plan_summary(plan);
  std::string text =
      fmt::format("{}: {} visits of {} blocks", tokens, plan.visits(), plan.unique_blocks());
  if (!summary.starts_with('(')) text += fmt::format(" ({})", summary);
  for (const Step& step : plan.steps) {
    const auto* mix = std::get_if<Mix>(&step.op);
    if (mix == nullptr) continue;
    if (mix->tokens != MixTokens::All)
      text += fmt::format(", {} tokens traverse", mix_tokens_name(mix->tokens));
    if (mix->skip_below > 0)
      text += fmt::format(", no second visit where w < {:g}", mix->skip_below);
    break;
  }
  return text;
}

// How many loops each token ran, where tokens may leave early.
TraceMeasure depth_measure(int loops, std::vector<float> depths) {
  TraceMeasure m;
  m.key = "depth";
  m.name = "Depth a token left at";
  m.question = "How deep does each token go?";
  m.about = fmt::format(
      "The model loops its layers {} times, and a generated token leaves as soon as its rule is "
      "met: shown is how many loops ran for it before it chose the token behind it. The prompt runs "
      "at full depth. Visits that a token left out are hatched in the other measures. The answer's "
      "last token was chosen but never run.",
      loops);
  m.low = "first loop";
  m.high = "all loops";
  m.most = loops;
  m.columns = {{.name = "loops run", .brief = "loops", .label = "exit"}};
  m.tokens = std::ssize(depths);
  m.values = std::move(depths);
  return m;
}

}  // namespace

TracePage collect_trace(LoadedModel& loaded, const TokenPrompt& prompt,
                        std::span<const int32_t> answer, const TraceRequest& request) {
  const ModelConfig& config = loaded.config();
  const Tokenizer& tokenizer = loaded.tokenizer();
  TracePage page;
  page.model = to_valid_utf8(loaded.options().model.filename().string());
  if (page.model.empty()) {  // "folder/"
    page.model = to_valid_utf8(loaded.options().model.parent_path().filename().string());
  }
  page.scheme = config.scheme;
  page.backend = loaded.backend().description();
  page.answer = tokenizer.decode(answer, /*skip_special=*/true);
  for (size_t i = 0; i < prompt.ids.size(); ++i) {
    const bool picture = !prompt.is_image.empty() && prompt.is_image[i] != 0;
    page.tokens.push_back(
        trace_token(tokenizer, prompt.ids[i], picture ? TokenKind::Picture : TokenKind::Text));
  }
  for (const int32_t id : answer)
    page.tokens.push_back(trace_token(tokenizer, id, TokenKind::Answer));

  int64_t picture_tokens = 0;
  for (const Picture& shown : request.pictures) {
    page.pictures.push_back(trace_picture(config, shown, request.picture));
    const TracePicture& picture = page.pictures.back();
    picture_tokens += int64_t{picture.tiles()} * picture.side * picture.side;
  }
  const int64_t placeholders = std::count(prompt.is_image.begin(), prompt.is_image.end(), 1);
  if (picture_tokens != placeholders)
    fail("--trace: the pictures have {} tokens, but the prompt was made with {}", picture_tokens,
         placeholders);

  const auto plans = make_plans(loaded.model(), request.plan);
  const bool whole = prompt.size() > 1;
  const Plan& prompt_plan = whole ? plans->prefill : plans->decode;
  page.prefill = plan_words(prompt_plan, "prompt");
  page.decode = plan_words(plans->decode, "answer");
  TraceMeasures measures(loaded.model(), prompt_plan, plans->decode,
                         static_cast<int64_t>(page.tokens.size()));
  Session session(loaded.model(), plans, request.chunk, request.exit);
  const bool leaves_early = request.exit.active();
  const int loops = plans->decode.loops();
  std::vector<float> depths(prompt.ids.size(), static_cast<float>(loops));
  measures.begin_call(0);
  session.prefill(
      prompt,
      [&](int64_t first, const Tensor& state) { measures.begin_call(first + state.dim(0)); },
      &measures);
  for (size_t i = 0; i + 1 < answer.size(); ++i) {
    measures.begin_call(session.length());
    if (leaves_early)
      depths.push_back(static_cast<float>(session.decode_exit(answer[i], &measures).loop + 1));
    else
      session.decode(answer[i], &measures);
  }
  page.measures = measures.finish();
  if (leaves_early) {
    depths.resize(page.tokens.size(), std::numeric_limits<float>::quiet_NaN());
    page.measures.insert(page.measures.begin(), depth_measure(loops, std::move(depths)));
  }
  return page;
}

}  // namespace reprise
