#include "text/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "base/error.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* p) const {
    Free(p);
  }
};
using Code = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>>;

constexpr size_t kMaxPatternBytes = 1 << 14;
constexpr uint32_t kMinMatchLimit = 10'000'000;  // backtracking steps; about 0.1 s
constexpr uint32_t kHeapLimitKiB = 256 << 10;

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

// Oniguruma's reading in PCRE2's words; throws where there is none.
std::string translate(const std::string& pattern, const std::string& where) {
  const auto refuse = [&](std::string_view what) {
    fail("{}: pre_tokenizer pattern '{}': {} is not supported", where, pattern, what);
  };
  std::string out;
  int class_start = -1;  // where '[' was, while inside a class
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\') {
      if (std::string_view("hHwWRXKGZ").find(next) != std::string_view::npos && next != '\0')
        refuse(fmt::format("'\\{}'", next));
      if (next == 's')
        out += "\\p{White_Space}";
      else if (next == 'S')
        out += "\\P{White_Space}";
      else if (next != '\0')
        out.append({c, next});
      else
        out += c;
      ++i;
      continue;
    }
    if (class_start < 0) {
      if (c == '[') class_start = static_cast<int>(i);
      if (c == '(' && next == '*') refuse("'(*'");
    } else {
      if (c == '[') refuse("'[' inside a class");
      if (c == '&' && next == '&') refuse("'&&' inside a class");
      const int length = static_cast<int>(i) - class_start;
      const bool first = length == 1 || (length == 2 && pattern[i - 1] == '^');
      if (c == ']' && first) refuse("an empty class");
      if (c == ']') class_start = -1;
    }
    out += c;
  }
  return out;
}

}  // namespace

struct PreTokenizer::Step {
  SplitStep spec;
  Code code;

  // Adds the pieces of `text` to `out`.
  void split(std::string_view text, pcre2_match_data* match, pcre2_match_context* limits,
             const std::string& where, std::vector<std::string_view>& out) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const auto emit = [&](size_t begin, size_t end) {
      if (begin < end) out.push_back(text.substr(begin, end - begin));
    };
    size_t done = 0;    // everything before is in a piece
    size_t offset = 0;  // where the next search starts
    while (offset < text.size()) {
      int rc =
          pcre2_match(code.get(), subject, text.size(), offset, PCRE2_NO_UTF_CHECK, match, limits);
      if (rc == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter has the heap instead
        rc = pcre2_match(code.get(), subject, text.size(), offset,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, limits);
      if (rc == PCRE2_ERROR_NOMATCH) break;
      if (rc < 0)
        fail("{}: pre_tokenizer pattern '{}' failed on a text of {} bytes: {}", where, spec.pattern,
             text.size(), pcre2_message(rc));
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match);
      const size_t begin = ends[0], end = ends[1];
      if (end <= begin) {  // an empty match is no cut
        offset = std::max(offset, end) + first_char(text.substr(std::max(offset, end), 4)).length;
        continue;
      }
      if (!spec.drop_unmatched) emit(done, begin);
      emit(begin, end);
      done = offset = end;
    }
    if (!spec.drop_unmatched) emit(done, text.size());
  }
};

PreTokenizer::PreTokenizer(const std::vector<SplitStep>& steps, const std::string& where)
    : where_(where) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  REPRISE_CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_max_pattern_length(context.get(), 4 * kMaxPatternBytes);
  for (const SplitStep& spec : steps) {
    auto step = std::make_unique<Step>();
    step->spec = spec;
    if (spec.kind == SplitStep::Kind::Pattern) {
      if (spec.pattern.size() > kMaxPatternBytes)
        fail("{}: pre_tokenizer pattern has {} bytes, expected at most {}", where,
             spec.pattern.size(), kMaxPatternBytes);
      const std::string pattern = translate(spec.pattern, where);
      int error = 0;
      PCRE2_SIZE position = 0;
      step->code.reset(pcre2_compile(
          reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C,
          &error, &position, context.get()));
      if (!step->code)
        fail("{}: pre_tokenizer pattern '{}' does not compile: {}", where, spec.pattern,
             pcre2_message(error));
      pcre2_jit_compile(step->code.get(), PCRE2_JIT_COMPLETE);  // without JIT it is only slower
    }
    steps_.push_back(std::move(step));
  }
}

PreTokenizer::~PreTokenizer() = default;

std::vector<std::string_view> PreTokenizer::split(std::string_view text,
                                                  std::deque<std::string>& storage) const {
  const MatchData match(pcre2_match_data_create(1, nullptr));
  const MatchContext limits(pcre2_match_context_create(nullptr));
  REPRISE_CHECK(match != nullptr && limits != nullptr);
  // Well-behaved patterns take a few steps per character, at worst on one long run.
  const uint64_t limit = std::max<uint64_t>(kMinMatchLimit, 8 * uint64_t{text.size()});
  pcre2_set_match_limit(limits.get(), static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
  pcre2_set_heap_limit(limits.get(), kHeapLimitKiB);

  std::vector<std::string_view> pieces, next;
  if (!text.empty()) pieces.push_back(text);
  for (const auto& step : steps_) {
    next.clear();
    for (const std::string_view piece : pieces) {
      if (step->spec.kind == SplitStep::Kind::Pattern) {
        step->split(piece, match.get(), limits.get(), where_, next);
      } else if (piece.starts_with(' ')) {
        next.push_back(piece);
      } else {
        next.push_back(storage.emplace_back(fmt::format(" {}", piece)));
      }
    }
    pieces.swap(next);
  }
  return pieces;
}

namespace {

const std::string kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Qwen2 and Llama-3 differ only in how many digits make a piece.
const std::string kWordsPattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
const std::string kRestPattern = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Words are cut where small letters are followed by large ones (GPT-4o's o200k and its kin), with what
// may hang on a word and how many digits make a piece.
std::string case_pattern(const std::string& suffix, const std::string& digits) {
  const std::string large = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])",
                    small = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
  const std::string before = R"([^\r\n\p{L}\p{N}]?)";
  return before + large + "*" + small + "+" + suffix + "|" + before + large + "+" + small + "*" +
         suffix + "|" + digits + R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

std::vector<SplitStep> patterns(std::vector<std::string> list) {
  std::vector<SplitStep> steps;
  for (std::string& pattern : list)
    steps.push_back({SplitStep::Kind::Pattern, std::move(pattern), false});
  return steps;
}

// The first name of each kind is the one written to files; aliases follow. The names are llama.cpp's,
// the patterns those of the tokenizer.json files that its converter gives them to (and where it falls
// back to "default", its own). NFC as those files have it.
const std::vector<NamedPreTokenizer>& named_pre_tokenizers() {
  static const std::vector<NamedPreTokenizer> table = [] {
    const auto gpt2 = patterns({kGpt2Pattern});
    const auto qwen2 = patterns({kWordsPattern + R"(\p{N})" + kRestPattern});
    const auto llama3 = patterns({kWordsPattern + R"(\p{N}{1,3})" + kRestPattern});
    const auto smollm = patterns({R"(\p{N})", kGpt2Pattern});
    const auto gpt4o = patterns({case_pattern("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", R"(\p{N}{1,3})")});
    const auto tekken = patterns({case_pattern("", R"(\p{N})")});
    const auto fallback =
        patterns({R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", R"([0-9][0-9][0-9])"});
    using Names = std::vector<std::string_view>;
    struct Kind {
      Names names;
      NamedPreTokenizer rules;
    };
    const std::vector<Kind> kinds = {
        {{"gpt-2", "phi-2", "mpt", "jais", "gigachat", "mellum", "exaone4", "trillion",
          "granite-docling", "a.x-4.0", "modern-bert"},
         {.splits = gpt2}},
        {{"olmo"}, {.nfc = true, .splits = gpt2}},  // GPT-NeoX's, which OLMo took over
        {{"qwen2", "deepseek-r1-qwen", "megrez", "kormo"}, {.nfc = true, .splits = qwen2}},
        {{"stablelm2", "hunyuan"}, {.splits = qwen2}},
        {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "midm-2.0"},
         {.ignore_merges = true, .adds_bos = true, .splits = llama3}},
        {{"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"}, {.splits = llama3}},
        {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
         {.splits = smollm}},
        {{"gpt-4o", "llama4", "kanana2"}, {.splits = gpt4o}},
        {{"tekken"}, {.ignore_merges = true, .adds_bos = true, .splits = tekken}},
        {{"default"}, {.splits = fallback}},
    };
    std::vector<NamedPreTokenizer> all;
    for (const Kind& kind : kinds)
      for (const std::string_view name : kind.names) {
        all.push_back(kind.rules);
        all.back().name = name;
      }
    return all;
  }();
  return table;
}

}  // namespace

const NamedPreTokenizer* find_pre_tokenizer(std::string_view name) {
  for (const auto& entry : named_pre_tokenizers())
    if (entry.name == name) return &entry;
  return nullptr;
}

std::string_view pre_tokenizer_name(const TokenizerSpec& spec) {
  for (const auto& entry : named_pre_tokenizers())
    if (entry.nfc == spec.nfc && entry.ignore_merges == spec.ignore_merges &&
        entry.splits == spec.splits)
      return entry.name;
  return {};
}

std::string known_pre_tokenizers() {
  std::string names;
  for (const auto& entry : named_pre_tokenizers())
    names += fmt::format("{}{}", names.empty() ? "" : ", ", entry.name);
  return names;
}

}  // namespace reprise
