// "Where does the model look twice?": one answered prompt with, for every token and depth, how much
// its reuse of layers mattered. Written as a page for people (one HTML file that needs no network)
// or as JSON with the same numbers.
//
// Numbers are collected by running prompt and answer once more through the same plans with an
// observer: whatever chose the tokens (sampling, beams, stop texts) doesn't matter, and on the cpu
// backend the numbers are those of the first run to the bit. See docs/trace_page.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "engine/loaded_model.h"
#include "engine/prompt.h"

namespace reprise {

enum class TokenKind { Text, Special, Picture, Answer };

struct TraceToken {
  int32_t id = 0;
  TokenKind kind = TokenKind::Text;
  std::string text;  // valid UTF-8; bytes that are no whole character are written \xE2
};

// A picture as the vision tower cut it. Its tokens are the prompt's next `tiles() * side * side`
// picture tokens: tile by tile, row by row; tiles row by row over the picture, the thumbnail last.
struct TracePicture {
  std::string name;           // the file's, without folders
  int width = 0, height = 0;  // as decoded
  int columns = 1, rows = 1;  // of tiles
  bool thumbnail = false;     // one more tile of the whole picture
  int side = 0;               // tokens per side of a tile
  double cover = 1;           // part of a tile's side that its tokens cover
  std::string mime;           // of `bytes`: at most 1,200 pixels a side, no metadata
  std::string bytes;
  int tiles() const { return columns * rows + (thumbnail ? 1 : 0); }
};

// One place in depth that a measure has a value for.
struct TraceColumn {
  std::string name;   // for people: "layer 3", "visit 7: block 3, 2nd time"
  std::string brief;  // for a table's head: "3", "3'"
  std::string label;  // the plan's label of the state after it
  int block = -1;
  bool operator==(const TraceColumn&) const = default;
};

// One number per token and column; NaN where there is none (a token that was not traversed).
struct TraceMeasure {
  std::string key;        // "depth", "mix", "second_look", "gate", "phantom", "update"
  std::string name;       // short: "Mixing weight w"
  std::string question;   // what it answers
  std::string about;      // a paragraph: what it is, and what no value means
  std::string low, high;  // what the two ends of the scale mean
  bool bounded = false;   // in 0..1; else positive, spread over orders of magnitude
  int most = 0;           // above 0: a whole number from 1 to this
  std::vector<TraceColumn> columns;
  int64_t tokens = 0;
  std::vector<float> values;   // [columns, tokens]
  int heads = 0;               // 0: none of their own
  std::vector<float> by_head;  // [columns, heads, tokens]; values are their means
};

struct TracePage {
  std::string program;  // "reprise 0.1.0"
  std::string model;    // file or folder name, without the path to it
  std::string scheme;
  std::string backend;
  std::string prefill, decode;     // plans in words
  std::string answer;              // collect_trace: the text of all its tokens
  std::vector<TraceToken> tokens;  // of the prompt, then of the answer
  std::vector<TracePicture> pictures;
  std::vector<TraceMeasure> measures;
};

struct TraceRequest {
  PlanOptions plan;
  int64_t chunk = 512;
  std::vector<Picture> pictures;  // in the order of the prompt
  PictureOptions picture;
  ExitConfig exit;  // as the answer's tokens were run
};

// Runs prompt and answer (its tokens as generated) and collects. The answer's last token was
// chosen but never run, so it has no values. Throws Error when the pictures have other tokens than
// the prompt.
TracePage collect_trace(LoadedModel& loaded, const TokenPrompt& prompt,
                        std::span<const int32_t> answer, const TraceRequest& request);

// All numbers in full precision, null for none.
Json trace_json(const TracePage& page);
// The page. Numbers per head are rounded to 1/65534, all others are exact.
std::string trace_html(const TracePage& page);

// Throws Error naming --trace unless the name ends in .html, .htm or .json and lies in a folder
// that can be written to.
void check_trace_path(const std::filesystem::path& path);
// By the name's ending; written whole or not at all.
void write_trace(const std::filesystem::path& path, const TracePage& page);

}  // namespace reprise
