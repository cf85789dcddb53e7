// Pictures and questions like easy-VQA's training set (PyPI "easy-vqa", MIT), drawn on the fly.
//
// What its training pictures show (measured on them): one shape in one of eight colours on a light
// background, drawn without smoothing on 128 x 128 pixels and halved by Pillow's bilinear filter.
//   background  three independent uniform bytes in 230..255
//   circle      radius 8..32, rectangle: sides 16..64, triangle: equilateral, apex up, side 16..64;
//               uniform sizes and positions inside the canvas
//   questions   24 templates; "yes" and "no" follow from a colour or a shape drawn at random;
//               shares as in the training set, but for questions about shape: three times as many
#pragma once

#include <cstdint>
#include <vector>

#include "train/data/examples.h"

namespace reprise {

enum class EasyVqaShape { Circle, Rectangle, Triangle };

struct EasyVqaScene {
  EasyVqaShape shape = EasyVqaShape::Circle;
  int colour = 0;  // index into the eight
};

// A wrong answer that fits the question: yes for no and no for yes, another shape for a shape, and
// for a colour one of the two nearest to it in RGB. A pure function of its arguments; `stream`
// tells pictures apart. Throws Error where the right answer is none of the thirteen.
std::string confusing_easy_vqa_answer(const QuestionAnswer& turn, uint64_t seed, uint64_t stream);

// How many different questions there are about a picture.
constexpr int kEasyVqaQuestions = 96;
// Scene i of a seed: the picture [64, 64, 3] and `questions` different questions about it, or all
// there are where that is fewer.
Example draw_easy_vqa(uint64_t seed, int64_t i, int questions, EasyVqaScene* scene = nullptr);

}  // namespace reprise
