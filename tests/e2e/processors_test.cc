// The program on processors that lack what this machine has, emulated by qemu-user: code for an
// instruction set must not run on the way to choosing it. Left out where qemu isn't installed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

struct Processor {
  const char* name;  // qemu's
  const char* isa;   // what should be chosen there
};

TEST(Processors, TheInstructionSetIsChosenAtRunTime) {
#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "for x86-64 without sanitizers";
#endif
  if (std::system("qemu-x86_64 --version > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "qemu-x86_64 (Debian's qemu-user) isn't installed";
  const std::string model = test_data("golden/phantom/qwen2-vit/model").string();
  for (const Processor& processor :
       {Processor{"Nehalem", "scalar"}, Processor{"Haswell", "avx2"}}) {
    ProgramOptions options;
    options.wrapper = {"qemu-x86_64", "-cpu", processor.name};
    const ProgramResult result = run_program(
        {"bench", model, "--prefill", "2", "--decode", "2", "--repeat", "1", "--threads", "1"},
        options);
    EXPECT_EQ(result.exit_code, 0) << processor.name << ": " << result.err;
    EXPECT_EQ(result.signal, 0) << processor.name;
    EXPECT_THAT(result.out, ::testing::HasSubstr(std::string("cpu: ") + processor.isa + ","));
  }
}

}  // namespace
}  // namespace reprise::testing
