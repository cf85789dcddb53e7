#include "api/batch_line.h"

#include "base/hash.h"
#include "base/json.h"

namespace reprise {
namespace {

// "" where there is none that can be used.
std::string custom_id_of(const Json& json) {
  if (!json.is_object()) return "";
  const auto at = json.find("custom_id");
  return at != json.end() && at->is_string() ? at->get<std::string>() : "";
}

CompletionRequest read_request(const Json& json, const std::string& where) {
  Problems problems;
  const JsonObject object(json, where, "", &problems);
  object.allow_only({"custom_id", "method", "url", "body"});
  if (object.get_string("custom_id").empty() && problems.empty())
    object.problem_at("custom_id", "expected a text that isn't empty");
  const std::string method = object.get_string("method");
  if (!method.empty() && method != "POST")
    object.problem_at("method", "expected POST, found '" + method + "'");
  const std::string url = object.get_string("url");
  const std::optional<Endpoint> endpoint = find_endpoint(url);
  if (!endpoint)
    object.problem_at("url",
                      fmt::format("expected {} or {}, found '{}'", endpoint_url(Endpoint::Chat),
                                  endpoint_url(Endpoint::Completions), url));
  if (!object.has("body")) object.problem_at("body", "is missing, expected an object");
  CompletionRequest request;
  if (endpoint && object.has("body"))
    problems.attempt([&] {
      request = read_completion_request(*endpoint, json["body"], where, "body.");
      if (request.stream)
        fail("{}: key 'body.stream': expected false: a batch's answers come as a whole", where);
    });
  problems.raise();
  return request;
}

Json answer_line(const BatchLine& line, int status, Json body, Json error) {
  const std::string key = batch_key(line);
  return {{"id", "batch_req_" + key},
          {"custom_id", line.custom_id.empty() ? Json(nullptr) : Json(line.custom_id)},
          {"line", line.number},
          {"made_from", line.made_from},
          {"response",
           {{"status_code", status}, {"request_id", "req_" + key}, {"body", std::move(body)}}},
          {"error", std::move(error)}};
}

}  // namespace

BatchLine read_batch_line(int64_t number, const std::string& text) {
  BatchLine line{number, "", std::nullopt, {}, ""};
  const std::string where = fmt::format("line {}", number);
  Json json;
  try {
    json = parse_json(text, where);
  } catch (const Error& error) {
    line.error = {400, "invalid_json", error.what()};
    return line;
  }
  line.custom_id = custom_id_of(json);
  try {
    line.request = read_request(json, where);
  } catch (const Error& error) {
    line.error = {400, "invalid_request", error.what()};
  }
  return line;
}

std::string read_custom_id(const std::string& text) {
  try {
    return custom_id_of(parse_json(text, ""));
  } catch (const Error&) {
    return "";
  }
}

std::string MadeFrom::to_string() const { return fmt::format("{:016x}-{:016x}", text, settings); }

Json batch_answer(const BatchLine& line, Json body) {
  return answer_line(line, 200, std::move(body), nullptr);
}

Json batch_error(const BatchLine& line, const ApiError& error) {
  return answer_line(line, error.status, error_json(error),
                     {{"code", error.code}, {"message", error.message}, {"line", line.number}});
}

std::string batch_key(const BatchLine& line) {
  const uint64_t number = hash_bytes(std::to_string(line.number));
  return fmt::format("{:016x}", hash_bytes(line.custom_id, number));
}

}  // namespace reprise
