// SafetensorsFile: looks tensors up in a mapped file.
#include "io/safetensors.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "io/json_text.h"

namespace s2ft {

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
