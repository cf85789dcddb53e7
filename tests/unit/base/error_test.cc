#include "base/error.h"

#include <gmock/gmock.h>

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Error, FailFormatsItsMessage) {
  try {
    fail("{}: key '{}': expected {}, found {}", "config.json", "layers", "1 to 10", 12);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "config.json: key 'layers': expected 1 to 10, found 12");
  }
}

TEST(Check, PassesSilently) {
  int evaluated = 0;
  REPRISE_CHECK(++evaluated == 1);
  REPRISE_CHECK(evaluated == 1, "evaluated {} times", evaluated);
  EXPECT_EQ(evaluated, 1);
}

TEST(Check, NamesConditionPlaceAndMessage) {
  const auto message_of = [](auto action) -> std::string {
    try {
      action();
    } catch (const InternalError& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  EXPECT_THAT(message_of([] { REPRISE_CHECK(1 > 2); }),
              AllOf(HasSubstr("1 > 2"), HasSubstr("error_test.cc:")));
  EXPECT_THAT(message_of([] { REPRISE_CHECK(1 > 2, "rows {}", 7); }), HasSubstr("rows 7"));
}

TEST(Check, IsNoUserError) {
  // Programs print Error and go on; a bug must not be taken for one.
  EXPECT_THROW(
      {
        try {
          REPRISE_CHECK(false);
        } catch (const Error&) {
        }
      },
      InternalError);
}

}  // namespace
}  // namespace reprise
