#include "train/data/easy_vqa.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"
#include "image/resample.h"

namespace reprise {
namespace {

constexpr int kCanvas = 128;
constexpr int kPicture = 64;
constexpr int kLeastSide = 16;
constexpr int kMostSide = 64;
constexpr int kDarkestBackground = 230;

struct Colour {
  const char* name;
  std::array<uint8_t, 3> rgb;
};
constexpr Colour kColours[] = {{"red", {255, 0, 0}},      {"green", {0, 255, 0}},
                               {"blue", {0, 0, 255}},     {"black", {0, 0, 0}},
                               {"gray", {128, 128, 128}}, {"teal", {0, 128, 128}},
                               {"brown", {165, 42, 42}},  {"yellow", {255, 255, 0}}};
constexpr const char* kShapes[] = {"circle", "rectangle", "triangle"};

// Templates with their share of the questions in 1/1000 of the training set's; questions about
// shape, which takes long to learn, are asked three times as often. {} is a shape or a colour.
enum class Kind {
  Shape,
  Colour,
  ShapeOfColour,
  ColourOfShape,
  HasShape,
  NoShape,
  HasColour,
  NoColour
};
struct Template {
  const char* text;
  Kind kind;
  int share;
};
constexpr Template kTemplates[] = {
    {"is a {} shape present?", Kind::HasColour, 67},
    {"is there a {} shape?", Kind::HasColour, 67},
    {"does the image contain a {} shape?", Kind::HasColour, 67},
    {"is there a {} shape in the image?", Kind::HasColour, 67},
    {"does the image not contain a {} shape?", Kind::NoColour, 67},
    {"is there not a {} shape?", Kind::NoColour, 67},
    {"is there not a {} shape in the image?", Kind::NoColour, 67},
    {"is no {} shape present?", Kind::NoColour, 67},
    {"what color is the shape?", Kind::Colour, 33},
    {"what is the color of the shape?", Kind::Colour, 33},
    {"what color is the {}?", Kind::ColourOfShape, 33},
    {"what is the color of the {}?", Kind::ColourOfShape, 33},
    {"what shape is in the image?", Kind::Shape, 3 * 33},
    {"what shape does the image contain?", Kind::Shape, 3 * 33},
    {"what shape is present?", Kind::Shape, 3 * 33},
    {"what is the {} shape?", Kind::ShapeOfColour, 3 * 33},
    {"is a {} present?", Kind::HasShape, 3 * 25},
    {"is there a {}?", Kind::HasShape, 3 * 25},
    {"does the image contain a {}?", Kind::HasShape, 3 * 25},
    {"is there a {} in the image?", Kind::HasShape, 3 * 25},
    {"does the image not contain a {}?", Kind::NoShape, 3 * 25},
    {"is there not a {}?", Kind::NoShape, 3 * 25},
    {"is there not a {} in the image?", Kind::NoShape, 3 * 25},
    {"is no {} present?", Kind::NoShape, 3 * 25},
};

// Of a scene: a question about its own shape or colour has one text, others one for each of them.
constexpr int distinct_questions() {
  int count = 0;
  for (const Template& t : kTemplates) {
    const bool shape = t.kind == Kind::HasShape || t.kind == Kind::NoShape;
    const bool colour = t.kind == Kind::HasColour || t.kind == Kind::NoColour;
    count += static_cast<int>(shape ? std::size(kShapes) : colour ? std::size(kColours) : 1);
  }
  return count;
}
static_assert(distinct_questions() == kEasyVqaQuestions);

int between(Philox& random, int low, int high) {  // both included
  return low + static_cast<int>(random.next_below(static_cast<uint32_t>(high - low + 1)));
}

// Which pixels of the canvas a shape covers.
class Outline {
 public:
  Outline(EasyVqaShape shape, Philox& random) : shape_(shape) {
    w_ = between(random, kLeastSide, kMostSide);
    h_ = w_;
    if (shape == EasyVqaShape::Rectangle) h_ = between(random, kLeastSide, kMostSide);
    if (shape == EasyVqaShape::Circle) w_ = h_ = 2 * (w_ / 2);
    if (shape == EasyVqaShape::Triangle) h_ = static_cast<int>(std::lround(w_ * std::sqrt(0.75)));
    x_ = between(random, 0, kCanvas - w_);
    y_ = between(random, 0, kCanvas - h_);
  }
  bool covers(int x, int y) const {
    const double dx = x - (x_ + w_ / 2.0), dy = y - y_;
    switch (shape_) {
      case EasyVqaShape::Circle: {
        const double r = w_ / 2.0 + 0.5, cy = dy - h_ / 2.0;
        return dx * dx + cy * cy <= r * r;
      }
      case EasyVqaShape::Rectangle:
        return std::abs(dx) <= w_ / 2.0 && dy >= 0 && dy <= h_;
      case EasyVqaShape::Triangle:
        return dy >= 0 && dy <= h_ && std::abs(dx) <= dy / h_ * w_ / 2.0 + 0.5;
    }
    return false;
  }

 private:
  EasyVqaShape shape_;
  int x_ = 0, y_ = 0, w_ = 0, h_ = 0;
};

Image draw(const EasyVqaScene& scene, Philox& random) {
  Image canvas(kCanvas, kCanvas);
  std::array<uint8_t, 3> background;
  for (uint8_t& channel : background)
    channel = static_cast<uint8_t>(between(random, kDarkestBackground, 255));
  const Outline outline(scene.shape, random);
  for (int y = 0; y < kCanvas; ++y)
    for (int x = 0; x < kCanvas; ++x) {
      const auto& rgb = outline.covers(x, y) ? kColours[scene.colour].rgb : background;
      std::copy(rgb.begin(), rgb.end(), canvas.row(y) + 3 * x);
    }
  return resize_pillow(canvas, kPicture, kPicture, Filter::Bilinear);
}

QuestionAnswer ask(const EasyVqaScene& scene, Philox& random) {
  int total = 0;
  for (const Template& t : kTemplates) total += t.share;
  int pick = between(random, 0, total - 1);
  const Template* chosen = kTemplates;
  while (pick >= chosen->share) pick -= chosen++->share;

  const char* const shape = kShapes[static_cast<int>(scene.shape)];
  const char* const colour = kColours[scene.colour].name;
  const int other_shape = between(random, 0, 2);
  const int other_colour = between(random, 0, 7);
  const bool same_shape = other_shape == static_cast<int>(scene.shape);
  const bool same_colour = other_colour == scene.colour;
  const auto yes_no = [](bool yes) { return std::string(yes ? "yes" : "no"); };
  std::string filled, answer;
  switch (chosen->kind) {
    case Kind::Shape:
      answer = shape;
      break;
    case Kind::Colour:
      answer = colour;
      break;
    case Kind::ShapeOfColour:
      filled = colour, answer = shape;
      break;
    case Kind::ColourOfShape:
      filled = shape, answer = colour;
      break;
    case Kind::HasShape:
      filled = kShapes[other_shape], answer = yes_no(same_shape);
      break;
    case Kind::NoShape:
      filled = kShapes[other_shape], answer = yes_no(!same_shape);
      break;
    case Kind::HasColour:
      filled = kColours[other_colour].name, answer = yes_no(same_colour);
      break;
    case Kind::NoColour:
      filled = kColours[other_colour].name, answer = yes_no(!same_colour);
      break;
  }
  std::string question = chosen->text;
  if (const size_t gap = question.find("{}"); gap != std::string::npos)
    question.replace(gap, 2, filled);
  return {question, answer};
}

// The other colours, nearest first.
std::vector<int> near_colours(int colour) {
  const auto distance = [&](int other) {
    int sum = 0;
    for (size_t c = 0; c < 3; ++c) {
      const int d = kColours[colour].rgb[c] - kColours[other].rgb[c];
      sum += d * d;
    }
    return sum;
  };
  std::vector<int> others;
  for (int i = 0; i < static_cast<int>(std::size(kColours)); ++i)
    if (i != colour) others.push_back(i);
  std::stable_sort(others.begin(), others.end(),
                   [&](int a, int b) { return distance(a) < distance(b); });
  return others;
}

}  // namespace

std::string confusing_easy_vqa_answer(const QuestionAnswer& turn, uint64_t seed, uint64_t stream) {
  constexpr uint64_t kDomain = 0x7772'6f6e'6700'0000u;  // "wrong": apart from what draws pictures
  if (turn.answer == "yes") return "no";
  if (turn.answer == "no") return "yes";
  // Each question about a picture draws for itself.
  Philox random(seed ^ kDomain, stream ^ hash_bytes(turn.question));
  const uint32_t pick = random.next_below(2);
  for (size_t i = 0; i < std::size(kShapes); ++i)
    if (turn.answer == kShapes[i]) return kShapes[(i + 1 + pick) % std::size(kShapes)];
  for (size_t i = 0; i < std::size(kColours); ++i)
    if (turn.answer == kColours[i].name)
      return kColours[near_colours(static_cast<int>(i))[pick]].name;
  fail(
      "no wrong answer is known for the question '{}' with the answer '{}': expected one of "
      "easy-VQA's thirteen answers",
      turn.question, turn.answer);
}

Example draw_easy_vqa(uint64_t seed, int64_t i, int questions, EasyVqaScene* scene) {
  Philox random(seed, static_cast<uint64_t>(i));
  EasyVqaScene drawn;
  drawn.shape = static_cast<EasyVqaShape>(between(random, 0, 2));
  drawn.colour = between(random, 0, 7);
  Example example;
  example.images.push_back(draw(drawn, random));
  questions = std::min(questions, kEasyVqaQuestions);
  while (static_cast<int>(example.turns.size()) < questions) {
    const QuestionAnswer turn = ask(drawn, random);
    const bool asked =
        std::any_of(example.turns.begin(), example.turns.end(),
                    [&](const QuestionAnswer& t) { return t.question == turn.question; });
    if (!asked) example.turns.push_back(turn);
  }
  if (scene) *scene = drawn;
  return example;
}

}  // namespace reprise
