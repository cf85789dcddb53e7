// One line of OpenAI's batch files: a request in, an answer out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "api/completion_request.h"
#include "api/completion_response.h"
#include "base/json_fwd.h"

namespace reprise {

struct BatchLine {
  int64_t number = 0;                        // of the line, from 1
  std::string custom_id;                     // "": none that can be read
  std::optional<CompletionRequest> request;  // or
  ApiError error;                            // why there is none
  std::string made_from;                     // see MadeFrom
};
// What an answer was made from: its request's line, and all else that it depends on.
struct MadeFrom {
  uint64_t text = 0, settings = 0;
  std::string to_string() const;  // 16 hexadecimal digits each, a hyphen between them
};

// {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}. What is wrong
// is told in `error`, beginning with "line <number>".
BatchLine read_batch_line(int64_t number, const std::string& text);
// As read_batch_line, of the custom_id alone.
std::string read_custom_id(const std::string& text);

// The answer's line: {"id", "custom_id", "line", "made_from", "response": {"status_code", "request_id", "body"},
// "error"}. Equal requests at equal lines have equal ids.
Json batch_answer(const BatchLine& line, Json body);
Json batch_error(const BatchLine& line, const ApiError& error);
// What tells a line's request apart, 16 hexadecimal digits: for ids inside the body.
std::string batch_key(const BatchLine& line);

}  // namespace reprise
