#include "tools/heartbeat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace reprise::tools {
namespace {

using ::testing::StartsWith;

// Gathers lines; waits for the next one, however long it takes.
class Lines {
 public:
  Heartbeat::Print print() {
    return [this](const std::string& line) {
      {
        const std::lock_guard lock(mutex_);
        lines_.push_back(line);
      }
      more_.notify_all();
    };
  }
  std::string next() {
    std::unique_lock lock(mutex_);
    more_.wait(lock, [&] { return seen_ < lines_.size(); });
    return lines_[seen_++];
  }
  size_t count() const {
    const std::lock_guard lock(mutex_);
    return lines_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable more_;
  std::vector<std::string> lines_;
  size_t seen_ = 0;
};

TEST(Heartbeat, SaysWhatIsUnderWayAgainAndAgain) {
  Lines lines;
  Heartbeat heartbeat(std::chrono::milliseconds(5), lines.print());
  heartbeat.doing("step 3 of 300");
  EXPECT_THAT(lines.next(), StartsWith("step 3 of 300, "));
  EXPECT_THAT(lines.next(), StartsWith("step 3 of 300, "));
  heartbeat.doing("validation");
  while (!lines.next().starts_with("validation, ")) {
  }
}

TEST(Heartbeat, IsSilentWithNothingUnderWayAndEndsAtOnce) {
  Lines lines;
  {
    const Heartbeat heartbeat(std::chrono::hours(1), lines.print());
    EXPECT_FALSE(heartbeat.due());
  }
  {
    Heartbeat heartbeat(std::chrono::milliseconds(1), lines.print());
    while (!heartbeat.due()) std::this_thread::yield();
  }
  EXPECT_EQ(lines.count(), 0u);
}

TEST(Heartbeat, ALineOfItsOwnerCounts) {
  Lines lines;
  Heartbeat heartbeat(std::chrono::hours(1), lines.print());
  bool said = false, drawn = false;
  heartbeat.say([&] { said = true; });
  heartbeat.draw([&] { drawn = true; });
  EXPECT_TRUE(said && drawn);
  EXPECT_FALSE(heartbeat.due());
  EXPECT_EQ(lines.count(), 0u);
}

}  // namespace
}  // namespace reprise::tools
