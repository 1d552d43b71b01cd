// SafetensorsFile, and the table of element types.
#include "io/safetensors.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "io/json_text.h"

namespace s2ft {

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

std::shared_ptr<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  MappedFile file(path);
  SafetensorsHeader header = parse_safetensors_header(file.data(), file.size(), path);
  return std::shared_ptr<SafetensorsFile>(
      new SafetensorsFile(std::move(file), std::move(header)));
}

SafetensorsFile::SafetensorsFile(MappedFile file, SafetensorsHeader header)
    : file_(std::move(file)),
      header_(std::move(header)),
      by_name_(header_.tensors.size()) {
  std::iota(by_name_.begin(), by_name_.end(), size_t(0));
  std::sort(by_name_.begin(), by_name_.end(), [this](size_t a, size_t b) {
    return header_.tensors[a].name < header_.tensors[b].name;
  });
  file_.advise_sequential(header_.data_start, file_.size() - header_.data_start);
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  auto at = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [this](size_t i, const std::string& n) { return header_.tensors[i].name < n; });
  if (at == by_name_.end()) return nullptr;
  const TensorInfo& found = header_.tensors[*at];
  return found.name == name ? &found : nullptr;
}

const void* SafetensorsFile::data(const TensorInfo& info) const {
  size_t section = file_.size() - header_.data_start;
  if (info.begin > info.end || info.end > section) {
    throw Error("INVALID_ARGUMENT",
                "[safetensors] " + path() + ": expected a tensor of this file within " +
                    std::to_string(section) + " data bytes, found " + quoted(info.name) +
                    " at [" + std::to_string(info.begin) + ", " +
                    std::to_string(info.end) + ")");
  }
  file_.check_size();
  return file_.data() + header_.data_start + info.begin;
}

void SafetensorsFile::dont_need(const TensorInfo& info) const noexcept {
  if (info.begin < info.end) {
    file_.dont_need(header_.data_start + info.begin, info.bytes());
  }
}

}  // namespace s2ft
