// The operations of the backend interface as conformance cases: each yields shapes with awkward
// remainders and random inputs, runs on any backend and hands its results back as plain numbers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace reprise::testing {

using Results = std::vector<std::vector<float>>;

struct Case {
  std::string name;  // shapes and types, for failure messages
  std::function<Results(Backend&)> run;
};

struct Operation {
  const char* name;
  // Largest |result - judge's result| allowed, relative to the larger of 1 and the largest value of
  // the judge's result. 0: the same values.
  double tolerance;
  std::vector<Case> cases;
};

// Every operation of Backend.
std::vector<Operation> conformance_operations();

// Parts of it, by the file that holds them.
std::vector<Operation> shape_operations();
std::vector<Operation> arithmetic_operations();
std::vector<Operation> linear_operations();
std::vector<Operation> attention_operations();
std::vector<Operation> head_operations();

}  // namespace reprise::testing
