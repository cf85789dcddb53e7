#include "base/json.h"

#include <gmock/gmock.h>

#include <utility>

#include "base/error.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class JsonObjectTest : public ::testing::Test {
 protected:
  const Json json_ = parse_json(R"({"i": -3, "big": 18446744073709551615, "f": 1.5, "b": true,
      "s": "text", "n": null, "list": [1, 2.5], "mixed": [1, "x"],
      "inner": {"deep": {"i": 7}}})",
                                "c.json");
  const JsonObject object_{json_, "c.json"};
};

TEST_F(JsonObjectTest, GivesValues) {
  EXPECT_EQ(object_.get_int("i"), -3);
  EXPECT_EQ(object_.get_int("i", -3, -3), -3);
  EXPECT_EQ(object_.get_number("f"), 1.5);
  EXPECT_EQ(object_.get_number("i"), -3.0);
  EXPECT_TRUE(object_.get_bool("b"));
  EXPECT_EQ(object_.get_string("s"), "text");
  EXPECT_THAT(object_.get_numbers("list"), ElementsAre(1, 2.5));
  EXPECT_EQ(object_.get_object("inner").get_object("deep").get_int("i"), 7);
  EXPECT_TRUE(object_.has("i"));
  EXPECT_FALSE(object_.has("n"));
  EXPECT_FALSE(object_.has("none"));
}

TEST_F(JsonObjectTest, OptionalOnesMayBeAbsentOrNullButNotOfAnotherType) {
  EXPECT_EQ(object_.find_int("none"), std::nullopt);
  EXPECT_EQ(object_.find_int("n"), std::nullopt);
  EXPECT_EQ(object_.find_int("i"), -3);
  EXPECT_EQ(object_.find_number("f"), 1.5);
  EXPECT_EQ(object_.find_bool("b"), true);
  EXPECT_EQ(object_.find_string("s"), "text");
  EXPECT_FALSE(object_.find_object("none").has_value());
  EXPECT_EQ(object_.find_object("inner")->get_object("deep").get_int("i"), 7);
  EXPECT_THAT(error_of([&] { object_.find_int("s"); }), HasSubstr("'s'"));
  EXPECT_THAT(error_of([&] { object_.find_object("s"); }), HasSubstr("'s'"));
}

TEST_F(JsonObjectTest, ErrorsNameFileKeyExpectedAndFound) {
  const auto expect = [&](auto action, const char* key, const char* expected, const char* found) {
    EXPECT_THAT(error_of(action), AllOf(HasSubstr("c.json: key '"), HasSubstr(key),
                                        HasSubstr(expected), HasSubstr(found)));
  };
  expect([&] { object_.get_int("none"); }, "'none'", "an integer", "missing");
  expect([&] { object_.get_int("f"); }, "'f'", "an integer", "1.5");
  expect([&] { object_.get_int("big"); }, "'big'", "an integer", "18446744073709551615");
  expect([&] { object_.get_int("n"); }, "'n'", "an integer", "null");
  expect([&] { object_.get_int("b"); }, "'b'", "an integer", "true");
  expect([&] { object_.get_int("i", 0, 9); }, "'i'", "0 to 9", "-3");
  expect([&] { object_.get_number("s"); }, "'s'", "a number", "text");
  expect([&] { object_.get_bool("i"); }, "'i'", "true or false", "-3");
  expect([&] { object_.get_string("b"); }, "'b'", "a string", "true");
  expect([&] { object_.get_numbers("mixed"); }, "'mixed'", "numbers", "");
  expect([&] { object_.get_numbers("s"); }, "'s'", "an array of numbers", "");
  expect([&] { object_.get_object("s"); }, "'s'", "a JSON object", "string");
  expect([&] { object_.get_object("inner").get_object("deep").get_int("j"); }, "'inner.deep.j'",
         "an integer", "missing");
}

TEST(Json, ParseErrorsNameTheSource) {
  for (const char* text : {"", "{", "{\"a\": 1,}", "nul", "{} {}", "\"\xff\""})
    EXPECT_THAT(error_of([&] { parse_json(text, "--inputs"); }),
                AllOf(HasSubstr("--inputs"), HasSubstr("not valid JSON")))
        << text;
  EXPECT_THAT(error_of([] { load_json("/nonexistent/c.json"); }), HasSubstr("/nonexistent/c.json"));
  const Json list = parse_json("[1]", "c.json");
  EXPECT_THAT(error_of([&] { JsonObject(list, "c.json"); }),
              AllOf(HasSubstr("c.json"), HasSubstr("expected a JSON object, found array")));
}

TEST(JsonValue, IsNullUntilAssignedAndCopiesItsValue) {
  JsonValue value;
  EXPECT_TRUE(value->is_null());
  value = Json{{"layers", 2}};
  const JsonValue copy = value;
  value = Json("other");
  EXPECT_EQ(*copy, (Json{{"layers", 2}}));
  EXPECT_EQ(*value, Json("other"));
  EXPECT_EQ(JsonObject(copy, "c.json").get_int("layers"), 2);  // stands for a const Json&
  const JsonValue moved = std::move(value);
  EXPECT_EQ(*moved, Json("other"));
  EXPECT_TRUE(value->is_null());  // NOLINT: as its header says
}

TEST(Json, DepthIsLimited) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_EQ(error_of([&] { parse_json(nested(50), "x"); }), "");
  EXPECT_THAT(error_of([&] { parse_json(nested(200), "x"); }), HasSubstr("nested deeper"));
  EXPECT_THAT(error_of([&] { parse_json(std::string(1000000, '['), "x"); }),
              HasSubstr("nested deeper"));
}

}  // namespace
}  // namespace reprise
