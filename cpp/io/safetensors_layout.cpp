// The table of element types, tensor sizes, and the check that tensors tile a file.
#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "io/json_text.h"
#include "io/safetensors.h"

namespace s2ft {
namespace {

[[noreturn]] void corrupt(const std::string& path, const std::string& what) {
  throw Error("CORRUPT_FILE", "[safetensors] " + path + ": " + what);
}

std::string range(const TensorInfo& t) {
  return "[" + std::to_string(t.begin) + ", " + std::to_string(t.end) + ")";
}

}  // namespace

size_t safetensors_dtype_bits(const std::string& dtype) {
  static constexpr struct {
    const char* name;
    size_t bits;
  } kTypes[] = {
      {"F32", 32},    {"BF16", 16},       {"F16", 16},        {"I32", 32},
      {"I64", 64},    {"U8", 8},          {"I8", 8},          {"BOOL", 8},
      {"F64", 64},    {"I16", 16},        {"U16", 16},        {"U32", 32},
      {"U64", 64},    {"C64", 64},        {"F8_E4M3", 8},     {"F8_E5M2", 8},
      {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6},
      {"F6_E3M2", 6}, {"F4", 4},
  };
  for (const auto& t : kTypes) {
    if (dtype == t.name) return t.bits;
  }
  return 0;
}

const char* safetensors_dtype(DType t) {
  switch (t) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::i32:
      return "I32";
  }
  throw Error("INTERNAL",
              "[safetensors] expected a dtype, found value " + std::to_string(int(t)));
}

bool parse_safetensors_dtype(const std::string& name, DType& out) {
  for (DType t : {DType::f32, DType::bf16, DType::f16, DType::i32}) {
    if (name == safetensors_dtype(t)) {
      out = t;
      return true;
    }
  }
  return false;
}

std::string safetensors_bytes(const std::string& dtype, const std::vector<int64_t>& shape,
                              size_t& bytes) {
  size_t bits = safetensors_dtype_bits(dtype);
  if (!bits) return "expected a known dtype, found " + quoted(dtype);
  if (shape.size() > kMaxSafetensorsRank) {
    return "expected at most " + std::to_string(kMaxSafetensorsRank) +
           " dimensions, found " + std::to_string(shape.size());
  }
  // Zeros are left out of the product, so that users may multiply the dimensions in any
  // order without overflow.
  int64_t product = int64_t(bits);
  bool empty = false, overflow = false;
  for (int64_t n : shape) {
    if (n < 0) return "expected dimensions >= 0, found " + std::to_string(n);
    if (n == 0) {
      empty = true;
    } else {
      overflow |= __builtin_mul_overflow(product, n, &product);
    }
  }
  if (overflow) return "expected a size that fits 64 bits, found a shape that overflows";
  if (empty) product = 0;
  if (product % 8) {
    return "expected a whole number of bytes, found " + std::to_string(product) + " bits";
  }
  bytes = size_t(product / 8);
  return "";
}

int64_t TensorInfo::count() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>());
}

void check_safetensors_layout(std::vector<TensorInfo>& tensors, size_t section,
                              const std::string& path) {
  for (const TensorInfo& t : tensors) {
    std::string who = "tensor " + quoted(t.name) + ": ";
    size_t bytes = 0;
    std::string wrong = safetensors_bytes(t.dtype, t.shape, bytes);
    if (!wrong.empty()) corrupt(path, who + wrong);
    if (t.begin > t.end) {
      corrupt(path, who + "expected data_offsets that rise, found " + range(t));
    }
    if (t.end > section) {
      corrupt(path, who + "expected data_offsets within the " + std::to_string(section) +
                        " data bytes of the file, found " + range(t) +
                        (t.end - t.begin == bytes ? " (is the file cut off?)" : ""));
    }
    if (t.end - t.begin != bytes) {
      corrupt(path, who + "expected " + std::to_string(bytes) +
                        " bytes from its dtype and shape, found data_offsets " +
                        range(t) + " of " + std::to_string(t.end - t.begin));
    }
  }

  std::vector<const std::string*> names;
  for (const TensorInfo& t : tensors) names.push_back(&t.name);
  std::sort(names.begin(), names.end(), [](auto a, auto b) { return *a < *b; });
  auto twice = std::adjacent_find(names.begin(), names.end(),
                                  [](auto a, auto b) { return *a == *b; });
  if (twice != names.end()) {
    corrupt(path,
            "tensor " + quoted(**twice) + ": expected each name once, found it again");
  }

  std::stable_sort(
      tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
        return std::make_pair(a.begin, a.end) < std::make_pair(b.begin, b.end);
      });
  size_t next = 0;
  for (const TensorInfo& t : tensors) {
    if (t.begin != next) {
      corrupt(path, "tensor " + quoted(t.name) + ": expected its data at " +
                        std::to_string(next) + ", where the one before ends, found " +
                        range(t) + (t.begin < next ? ", an overlap" : ", a hole"));
    }
    next = t.end;
  }
  if (next != section) {
    corrupt(path, "expected the tensors to fill the " + std::to_string(section) +
                      " data bytes of the file, found " + std::to_string(next) +
                      " in use");
  }
}

}  // namespace s2ft
