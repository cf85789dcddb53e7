#include "formats/pickle_machine.h"

#include <array>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/byte_reader.h"

namespace reprise {
namespace {

constexpr size_t kMaxDims = 8;

enum class Kind : uint8_t { None, Bool, Int, String, Tuple, List, Dict, Global, Storage, Tensor };
constexpr std::array<const char*, 10> kKindNames = {"None",      "a bool",  "an int", "a string",
                                                    "a tuple",   "a list",  "a dict", "a global",
                                                    "a storage", "a tensor"};

// All that a program may name. A global is a tag, nothing is looked up or called.
enum class Callable : uint8_t { OrderedDict, RebuildTensor, RebuildParameter, StorageType };
struct Global {
  std::string_view name;
  Callable what;
  DType type = DType::F32;  // of a StorageType
};
constexpr Global kGlobals[] = {{"collections.OrderedDict", Callable::OrderedDict},
                               {"torch._utils._rebuild_tensor_v2", Callable::RebuildTensor},
                               {"torch._utils._rebuild_parameter", Callable::RebuildParameter},
                               {"torch.FloatStorage", Callable::StorageType, DType::F32},
                               {"torch.HalfStorage", Callable::StorageType, DType::F16},
                               {"torch.BFloat16Storage", Callable::StorageType, DType::BF16},
                               {"torch.DoubleStorage", Callable::StorageType, DType::F64},
                               {"torch.LongStorage", Callable::StorageType, DType::I64},
                               {"torch.IntStorage", Callable::StorageType, DType::I32},
                               {"torch.ShortStorage", Callable::StorageType, DType::I16},
                               {"torch.CharStorage", Callable::StorageType, DType::I8},
                               {"torch.ByteStorage", Callable::StorageType, DType::U8},
                               {"torch.BoolStorage", Callable::StorageType, DType::Bool}};

// Values live in an arena and refer to each other by index, so shared and even cyclic structures
// need no recursion, neither to build nor to free. Every opcode adds at most one value.
using Ref = uint32_t;
struct Value {
  Kind kind = Kind::None;
  int64_t number = 0;      // Int, Bool; Global: index into kGlobals; Tensor: index of tensors_
  std::string_view text;   // String: points into the program
  std::vector<Ref> items;  // Tuple, List; Dict: key, value, key, value, ...; Storage: see below
};

class Machine {
 public:
  Machine(std::span<const std::byte> program, const std::string& where) : in_(program, where) {}

  std::vector<std::pair<std::string, PickledTensor>> run();

 private:
  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: data.pkl, byte {}: {}", in_.where(), in_.position(),
         fmt::format(format, std::forward<Args>(args)...));
  }

  bool step();  // false at STOP
  void push(Value value) {
    values_.push_back(std::move(value));
    stack_.push_back(static_cast<Ref>(values_.size() - 1));
  }
  void push_int(int64_t number) { push({.kind = Kind::Int, .number = number}); }
  void push_bool(bool value) { push({.kind = Kind::Bool, .number = value}); }
  void push_text(uint64_t size) {
    push({.kind = Kind::String, .text = in_.take_text(size, "string")});
  }
  Ref pop();
  std::vector<Ref> pop_to_mark();
  std::vector<Ref> pop_count(size_t count);
  Ref top(Kind kind, const char* what) const;
  // The value of that kind at `ref`; an Error naming what was expected otherwise.
  const Value& expect(Ref ref, Kind kind, const char* what) const;
  std::vector<int64_t> int_tuple(Ref ref, const char* what) const;

  void add_items(Kind kind, const std::vector<Ref>& items);
  void remember(uint32_t slot);
  void recall(uint32_t slot);
  void push_long(uint8_t size);
  std::string read_line();
  void push_global(const std::string& name);
  void push_storage();  // BINPERSID
  void reduce();
  void build();
  void rebuild_tensor(const std::vector<Ref>& args);
  void check_inside(const PickledTensor& tensor) const;

  ByteReader in_;
  std::vector<Value> values_;
  std::vector<Ref> stack_;
  std::vector<size_t> marks_;  // stack heights
  std::unordered_map<uint32_t, Ref> memo_;
  std::vector<PickledTensor> tensors_;
};

Ref Machine::pop() {
  // Values below a mark belong to whoever pops to that mark.
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) bad("the stack is empty");
  const Ref ref = stack_.back();
  stack_.pop_back();
  return ref;
}

std::vector<Ref> Machine::pop_to_mark() {
  if (marks_.empty()) bad("there is no mark");
  std::vector<Ref> items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
  stack_.resize(marks_.back());
  marks_.pop_back();
  return items;
}

std::vector<Ref> Machine::pop_count(size_t count) {
  std::vector<Ref> items(count);
  for (size_t i = count; i-- > 0;) items[i] = pop();
  return items;
}

Ref Machine::top(Kind kind, const char* what) const {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) bad("the stack is empty");
  expect(stack_.back(), kind, what);
  return stack_.back();
}

const Value& Machine::expect(Ref ref, Kind kind, const char* what) const {
  const Value& value = values_[ref];
  if (value.kind != kind)
    bad("{}: expected {}, found {}", what, kKindNames[static_cast<size_t>(kind)],
        kKindNames[static_cast<size_t>(value.kind)]);
  return value;
}

std::vector<int64_t> Machine::int_tuple(Ref ref, const char* what) const {
  const Value& tuple = expect(ref, Kind::Tuple, what);
  if (tuple.items.size() > kMaxDims) bad("{}: {} dimensions", what, tuple.items.size());
  std::vector<int64_t> numbers;
  for (const Ref item : tuple.items) {
    numbers.push_back(expect(item, Kind::Int, what).number);
    if (numbers.back() < 0) bad("{}: {} is negative", what, numbers.back());
  }
  return numbers;
}

void Machine::add_items(Kind kind, const std::vector<Ref>& items) {
  if (kind == Kind::Dict && items.size() % 2 != 0) bad("a dict item lacks its value");
  const Ref container = top(kind, "items are added");
  auto& list = values_[container].items;
  list.insert(list.end(), items.begin(), items.end());
}

void Machine::remember(uint32_t slot) {
  if (stack_.empty()) bad("the stack is empty");
  memo_[slot] = stack_.back();
}

void Machine::recall(uint32_t slot) {
  const auto it = memo_.find(slot);
  if (it == memo_.end()) bad("memo {} is read before it is written", slot);
  stack_.push_back(it->second);
}

// Little-endian two's complement of any length; up to 64 bits here.
void Machine::push_long(uint8_t size) {
  const auto bytes = in_.take(size, "integer");
  if (size > 8) bad("an integer of {} bytes is too large", size);
  uint64_t number =
      size > 0 && (bytes[size - 1u] & std::byte{0x80}) != std::byte{0} ? ~uint64_t{0} : 0;
  for (size_t i = size; i-- > 0;) number = number << 8 | std::to_integer<uint64_t>(bytes[i]);
  push_int(static_cast<int64_t>(number));
}

std::string Machine::read_line() {
  std::string line;
  for (char c; (c = in_.read<char>("name")) != '\n';) line += c;
  return line;
}

void Machine::push_global(const std::string& name) {
  for (size_t i = 0; i < std::size(kGlobals); ++i)
    if (kGlobals[i].name == name)
      return push({.kind = Kind::Global, .number = static_cast<int64_t>(i)});
  fail(
      "{}: refused: the file asks for the Python object '{}'; only dicts of plain tensors are read",
      in_.where(), name);
}

// ('storage', type, key, device, number of values) -> Storage with items {type, key, count}.
void Machine::push_storage() {
  const std::vector<Ref> id = expect(pop(), Kind::Tuple, "persistent id").items;
  if (id.size() != 5 || expect(id[0], Kind::String, "persistent id").text != "storage")
    bad("persistent id: expected ('storage', type, key, device, count)");
  const Value& type = expect(id[1], Kind::Global, "storage type");
  if (kGlobals[type.number].what != Callable::StorageType)
    bad("storage type: found {}", kGlobals[type.number].name);
  expect(id[2], Kind::String, "storage key");
  if (expect(id[4], Kind::Int, "storage size").number < 0) bad("storage size is negative");
  push({.kind = Kind::Storage, .items = {id[1], id[2], id[4]}});
}

void Machine::check_inside(const PickledTensor& tensor) const {
  try {
    if (tensor_bytes(tensor.type, tensor.shape) == 0) return;
  } catch (const Error& error) {  // the size overflows
    bad("{}", error.what());
  }
  int64_t last = tensor.offset;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t reach = 0;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
        __builtin_add_overflow(last, reach, &last))
      last = std::numeric_limits<int64_t>::max();
    if (last >= tensor.storage_values) break;
  }
  if (last >= tensor.storage_values)
    bad("a tensor of shape {} reaches outside its storage of {} values", shape_string(tensor.shape),
        tensor.storage_values);
}

// (storage, offset, shape, strides, requires_grad, hooks[, metadata])
void Machine::rebuild_tensor(const std::vector<Ref>& args) {
  if (args.size() != 6 && args.size() != 7)
    bad("_rebuild_tensor_v2 has {} arguments, expected 6 or 7", args.size());
  const Value& storage = expect(args[0], Kind::Storage, "_rebuild_tensor_v2");
  PickledTensor tensor;
  tensor.type = kGlobals[values_[storage.items[0]].number].type;
  tensor.storage = values_[storage.items[1]].text;
  tensor.storage_values = values_[storage.items[2]].number;
  tensor.offset = expect(args[1], Kind::Int, "storage offset").number;
  if (tensor.offset < 0) bad("storage offset is negative");
  tensor.shape = int_tuple(args[2], "shape");
  tensor.strides = int_tuple(args[3], "strides");
  if (tensor.shape.size() != tensor.strides.size())
    bad("{} dimensions, but {} strides", tensor.shape.size(), tensor.strides.size());
  check_inside(tensor);
  tensors_.push_back(std::move(tensor));
  push({.kind = Kind::Tensor, .number = static_cast<int64_t>(tensors_.size() - 1)});
}

void Machine::reduce() {
  const std::vector<Ref> args = expect(pop(), Kind::Tuple, "arguments of a call").items;
  const Global& global = kGlobals[expect(pop(), Kind::Global, "a call").number];
  switch (global.what) {
    case Callable::OrderedDict:
      if (!args.empty()) bad("OrderedDict has {} arguments, expected none", args.size());
      return push({.kind = Kind::Dict});
    case Callable::RebuildTensor:
      return rebuild_tensor(args);
    case Callable::RebuildParameter:  // (tensor, requires_grad, hooks)
      if (args.size() != 3) bad("_rebuild_parameter has {} arguments, expected 3", args.size());
      expect(args[0], Kind::Tensor, "_rebuild_parameter");
      stack_.push_back(args[0]);
      return;
    case Callable::StorageType:
      bad("{} is called", global.name);
  }
}

// A state_dict is an OrderedDict with an attribute `_metadata` (module versions): not needed.
void Machine::build() {
  const Value& state = expect(pop(), Kind::Dict, "object state");
  if (state.items.size() > 2) bad("refused: an object sets {} attributes", state.items.size() / 2);
  for (size_t i = 0; i < state.items.size(); i += 2)
    if (expect(state.items[i], Kind::String, "object state").text != "_metadata")
      bad("refused: an object sets attribute '{}'", values_[state.items[i]].text);
  top(Kind::Dict, "object with state");
}

bool Machine::step() {
  const auto opcode = in_.read<uint8_t>("opcode");
  switch (opcode) {
    case 0x80: {  // PROTO
      const auto protocol = in_.read<uint8_t>("protocol");
      if (protocol < 2 || protocol > 5) bad("protocol {} is not supported", protocol);
      return true;
    }
    case 0x95: {  // FRAME: a hint for buffering
      const auto size = in_.read<uint64_t>("frame");
      if (size > in_.remaining()) bad("a frame of {} bytes ends outside the program", size);
      return true;
    }
    case '.':  // STOP
      return false;
    case '(':  // MARK
      marks_.push_back(stack_.size());
      return true;
    case '0':  // POP: takes a mark when one is on top
      if (!marks_.empty() && marks_.back() == stack_.size())
        marks_.pop_back();
      else
        pop();
      return true;
    case '1':  // POP_MARK
      pop_to_mark();
      return true;
    case '2': {  // DUP
      const Ref ref = pop();
      stack_.insert(stack_.end(), {ref, ref});
      return true;
    }
    case 'N':  // NONE
      push({});
      return true;
    case 0x88:  // NEWTRUE
      push_bool(true);
      return true;
    case 0x89:  // NEWFALSE
      push_bool(false);
      return true;
    case 'J':  // BININT
      push_int(in_.read<int32_t>("integer"));
      return true;
    case 'K':  // BININT1
      push_int(in_.read<uint8_t>("integer"));
      return true;
    case 'M':  // BININT2
      push_int(in_.read<uint16_t>("integer"));
      return true;
    case 0x8a:  // LONG1
      push_long(in_.read<uint8_t>("integer"));
      return true;
    case 0x8c:  // SHORT_BINUNICODE
      push_text(in_.read<uint8_t>("string"));
      return true;
    case 'X':  // BINUNICODE
      push_text(in_.read<uint32_t>("string"));
      return true;
    case 0x8d:  // BINUNICODE8
      push_text(in_.read<uint64_t>("string"));
      return true;
    case ')':  // EMPTY_TUPLE
      push({.kind = Kind::Tuple});
      return true;
    case 't':  // TUPLE
      push({.kind = Kind::Tuple, .items = pop_to_mark()});
      return true;
    case 0x85:  // TUPLE1 TUPLE2 TUPLE3
    case 0x86:
    case 0x87:
      push({.kind = Kind::Tuple, .items = pop_count(opcode - 0x84u)});
      return true;
    case ']':  // EMPTY_LIST
      push({.kind = Kind::List});
      return true;
    case 'l':  // LIST
      push({.kind = Kind::List, .items = pop_to_mark()});
      return true;
    case 'a':  // APPEND
      add_items(Kind::List, pop_count(1));
      return true;
    case 'e':  // APPENDS
      add_items(Kind::List, pop_to_mark());
      return true;
    case '}':  // EMPTY_DICT
      push({.kind = Kind::Dict});
      return true;
    case 'd': {  // DICT
      const std::vector<Ref> items = pop_to_mark();
      push({.kind = Kind::Dict});
      add_items(Kind::Dict, items);
      return true;
    }
    case 's':  // SETITEM
      add_items(Kind::Dict, pop_count(2));
      return true;
    case 'u':  // SETITEMS
      add_items(Kind::Dict, pop_to_mark());
      return true;
    case 'q':  // BINPUT
      remember(in_.read<uint8_t>("memo"));
      return true;
    case 'r':  // LONG_BINPUT
      remember(in_.read<uint32_t>("memo"));
      return true;
    case 0x94:  // MEMOIZE
      remember(static_cast<uint32_t>(memo_.size()));
      return true;
    case 'h':  // BINGET
      recall(in_.read<uint8_t>("memo"));
      return true;
    case 'j':  // LONG_BINGET
      recall(in_.read<uint32_t>("memo"));
      return true;
    case 'c': {  // GLOBAL: two lines
      std::string name = read_line();
      name += '.';
      name += read_line();
      push_global(name);
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      const std::vector<Ref> names = pop_count(2);
      const auto module = expect(names[0], Kind::String, "module").text;
      const auto attribute = expect(names[1], Kind::String, "name").text;
      push_global(std::string(module) + "." + std::string(attribute));
      return true;
    }
    case 'Q':  // BINPERSID
      push_storage();
      return true;
    case 'R':  // REDUCE
      reduce();
      return true;
    case 'b':  // BUILD
      build();
      return true;
    default:
      bad("opcode 0x{:02x} is refused or unknown", opcode);
  }
}

std::vector<std::pair<std::string, PickledTensor>> Machine::run() {
  while (step()) {
  }
  if (stack_.size() != 1 || !marks_.empty()) bad("the program leaves {} values", stack_.size());
  const Value& dict = expect(stack_[0], Kind::Dict, "content of the file");
  std::vector<std::pair<std::string, PickledTensor>> result;
  std::unordered_set<std::string_view> keys;  // a key is copied once only, however long it is
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    const auto key = expect(dict.items[i], Kind::String, "key of the dict").text;
    if (!keys.insert(key).second) fail("{}: tensor '{}' is there twice", in_.where(), key);
    const Value& value = values_[dict.items[i + 1]];
    if (value.kind != Kind::Tensor)
      fail("{}: key '{}': expected a tensor, found {}", in_.where(), key,
           kKindNames[static_cast<size_t>(value.kind)]);
    result.emplace_back(key, tensors_[value.number]);
  }
  return result;
}

}  // namespace

std::vector<std::pair<std::string, PickledTensor>> run_pickle(std::span<const std::byte> program,
                                                              const std::string& where) {
  return Machine(program, where).run();
}

}  // namespace reprise
