// Language modelling: batches of rows of tokens, every token of which is predicted.
//
// An epoch takes every row of every source once, in an order that is drawn anew each epoch (a pure
// function of the recipe's seed and the epoch), or in the files' order. Epochs follow each other
// without a gap: a batch may hold the last rows of one and the first of the next.
//
// Memory: the epoch's order, 4 bytes a row; tokens stay in mapped files (token_source.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "train/data/batch_source.h"
#include "train/data/token_source.h"

namespace reprise {

class TextBatches : public BatchSource {
 public:
  // Recipe and inputs must outlive it.
  TextBatches(const Recipe& recipe, const BatchSourceInputs& inputs);

  Batch next() override;
  // "epoch/rows of it that are done/rows of an epoch/fingerprint of the data".
  std::string position() const override;
  void seek(const std::string& position, const std::string& where) override;
  int64_t validation_size() const override { return validation_.rows; }
  Batch validation(int64_t begin, int64_t end) const override;

  int64_t rows() const { return train_.rows; }  // of an epoch
  int64_t epoch() const { return epoch_; }

 private:
  // Sources behind each other.
  struct Rows {
    std::vector<std::unique_ptr<TokenSource>> sources;
    int64_t rows = 0;
    int64_t context = 0;
    uint64_t fingerprint = 0;
    void count();  // sets rows and fingerprint
    void add(int64_t row, Batch& batch) const;
  };
  // Opens those that are texts, or those that aren't.
  void open(const std::vector<TextSource>& sources, const char* name, bool texts,
            const BatchSourceInputs& inputs, Rows& all) const;
  void begin_epoch(int64_t epoch);

  const Recipe& recipe_;
  Rows train_, validation_;
  int64_t epoch_ = 0;
  int64_t done_ = 0;             // rows of the epoch
  std::vector<uint32_t> order_;  // of the epoch's rows; empty: as they are
};

// Appends tokens [context + 1] as a row: the first `context` are run, the last are predicted.
void add_token_row(std::span<const int32_t> tokens, Batch& batch);

}  // namespace reprise
