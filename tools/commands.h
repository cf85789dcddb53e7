// The commands of the program. A new one is a file of its own that defines make_<name>_command(),
// and one line in REPRISE_COMMANDS.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tools/cli.h"

namespace reprise::tools {

class Command {
 public:
  virtual ~Command() = default;
  // Adds options to this command's parser and sets its description and footer (examples). Options
  // write to members of the command.
  virtual void setup(cli::App& app) = 0;
  // Does the work; returns the exit code. Errors are thrown and printed by main.
  virtual int run() = 0;
};

#define REPRISE_COMMANDS(X)                                                  \
  X(run)             /* answers a prompt, or chats */                        \
  X(batch)           /* answers the requests of a file, many at a time */    \
  X(inspect)         /* what a model file is, its plan, its memory */        \
  X(eval)            /* perplexity and question answering */                 \
  X(plan)            /* other orders of layers: searched, stored */          \
  X(bench)           /* speed and memory */                                  \
  X(train)           /* fine-tuning from a recipe */                         \
  X(convert)         /* Hugging Face folders to GGUF and back */             \
  X(quantize)        /* fewer bits a weight, and what they cost */           \
  X(trace)           /* intermediate results of a forward pass, for tests */ \
  X(tokenize)        /* text to token ids, for tests */                      \
  X(train_tokenizer) /* a tokenizer from text */

#define REPRISE_DECLARE_COMMAND(name) std::unique_ptr<Command> make_##name##_command();
REPRISE_COMMANDS(REPRISE_DECLARE_COMMAND)
#undef REPRISE_DECLARE_COMMAND

}  // namespace reprise::tools
