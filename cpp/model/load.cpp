// Conversions run over rows of a bounded staging block, so no second copy of the model
// ever exists.
#include "model/load.h"

#include <cstdio>
#include <set>

#include "core/error.h"
#include "io/safetensors.h"

namespace s2ft {

namespace {

constexpr size_t kStagingBytes = 1 << 20;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

/// Element i of file data of any of the three float types.
float read_element(const char* data, DType t, int64_t i) {
  if (t == DType::f32) {
    float f;
    std::memcpy(&f, data + 4 * i, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * i, 2);
  return t == DType::bf16 ? to_float(bf16{bits}) : half_to_float(bits);
}

void write_element(char* data, DType t, int64_t i, float f) {
  if (t == DType::f32) {
    std::memcpy(data + 4 * i, &f, 4);
    return;
  }
  const uint16_t bits = t == DType::bf16 ? to_bf16(f).bits : float_to_half(f);
  std::memcpy(data + 2 * i, &bits, 2);
}

void convert(char* to, DType to_type, const char* from, DType from_type, int64_t n) {
  if (to_type == from_type) {
    std::memcpy(to, from, size_t(n) * dtype_size(to_type));
    return;
  }
#pragma omp parallel for schedule(static) if (n > 65536)
  for (int64_t i = 0; i < n; ++i)
    write_element(to, to_type, i, read_element(from, from_type, i));
}

void load_tensor(Model& model, TensorPlace& place, const SafetensorsFile& file,
                 const TensorInfo& info) {
  if (info.shape != place.shape) {
    throw Error("SHAPE_MISMATCH", "[load] " + file.path() + ": tensor " + place.name +
                                      ": expected shape " + shape_text(place.shape) +
                                      " from config.json, found " +
                                      shape_text(info.shape));
  }
  DType type;
  if (!parse_safetensors_dtype(info.dtype, type) || type == DType::i32) {
    throw Error("UNSUPPORTED_MODEL", "[load] " + file.path() + ": tensor " + place.name +
                                         ": expected dtype F32, F16 or BF16, found " +
                                         info.dtype);
  }
  place.file_dtype = info.dtype;
  const char* from = static_cast<const char*>(file.data(info));
  const int64_t n = place.value.count();
  const int64_t block = int64_t(kStagingBytes / 4);
  std::vector<char> staging(size_t(std::min(n, block)) * dtype_size(model.dtype));
  char* to = static_cast<char*>(place.value.data);
  for (int64_t i = 0; i < n; i += block) {
    const int64_t m = std::min(block, n - i);
    convert(staging.data(), model.dtype, from + i * int64_t(dtype_size(type)), type, m);
    model.backend->upload(to + i * int64_t(dtype_size(model.dtype)), staging.data(),
                          size_t(m) * dtype_size(model.dtype));
  }
}

/// Tensors that checkpoints carry beside the parameters.
bool is_ignored(const std::string& name, const ModelConfig& config) {
  const std::string suffix = "rotary_emb.inv_freq";
  if (name.size() >= suffix.size() &&
      name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0)
    return true;
  return config.tie_word_embeddings && name == "lm_head.weight";
}

/// Calls `sink(row, bytes)` for every row of a tensor in base order, as `to` elements.
template <class Sink>
void for_base_rows(const Model& model, const TensorPlace& place, DType to, Sink sink) {
  const Mat& w = place.value;
  const std::vector<int32_t> rows = places_of_originals(place.row_order, place.row_unit);
  const std::vector<int32_t> cols = places_of_originals(place.col_order, place.col_unit);
  const size_t size = dtype_size(w.dtype);
  std::vector<char> raw(size_t(w.cols) * size), out(size_t(w.cols) * dtype_size(to));
  for (int64_t i = 0; i < w.rows; ++i) {
    const Mat row = w.row_range(rows.empty() ? i : rows[i], 1);
    model.backend->download(raw.data(), row.data, raw.size());
    if (cols.empty()) {
      convert(out.data(), to, raw.data(), w.dtype, w.cols);
    } else {
      for (int64_t j = 0; j < w.cols; ++j)
        write_element(out.data(), to, j, read_element(raw.data(), w.dtype, cols[j]));
    }
    sink(out.data(), out.size());
  }
}

}  // namespace

std::vector<int32_t> places_of_originals(const std::vector<int32_t>* order, int unit) {
  if (!order || order->empty()) return {};
  std::vector<int32_t> places(order->size() * unit);
  for (size_t i = 0; i < order->size(); ++i)
    for (int u = 0; u < unit; ++u)
      places[size_t((*order)[i]) * unit + u] = int32_t(i * unit + u);
  return places;
}

std::shared_ptr<Model> load_model(const ModelConfig& config,
                                  const std::vector<std::string>& files, DType dtype,
                                  std::shared_ptr<Backend> backend) {
  std::vector<std::shared_ptr<SafetensorsFile>> opened;
  std::map<std::string, std::pair<const SafetensorsFile*, const TensorInfo*>> found;
  for (const std::string& path : files) {
    opened.push_back(SafetensorsFile::open(path));
    for (const TensorInfo& info : opened.back()->tensors()) {
      if (!found.emplace(info.name, std::make_pair(opened.back().get(), &info)).second) {
        throw Error("CORRUPT_FILE",
                    "[load] " + path + ": tensor " + info.name + " is in two files");
      }
    }
  }
  auto model = std::make_shared<Model>(config, dtype, std::move(backend));
  std::set<std::string> expected;
  for (TensorPlace& place : model->tensors) {
    expected.insert(place.name);
    auto it = found.find(place.name);
    if (it == found.end()) {
      throw Error("UNSUPPORTED_MODEL",
                  "[load] tensor " + place.name + ": expected with shape " +
                      shape_text(place.shape) + " from config.json, found in none of " +
                      std::to_string(files.size()) + " file(s), first " +
                      (files.empty() ? "-" : files[0]));
    }
    load_tensor(*model, place, *it->second.first, *it->second.second);
    it->second.first->dont_need(*it->second.second);
  }
  for (const auto& entry : found) {
    if (expected.count(entry.first) || is_ignored(entry.first, config)) continue;
    throw Error("UNSUPPORTED_MODEL",
                "[load] " + entry.second.first->path() + ": tensor " + entry.first +
                    " of shape " + shape_text(entry.second.second->shape) +
                    " does not belong to the architecture that config.json describes");
  }
  model->backend->synchronize();
  return model;
}

void save_tensors(const Model& model, const std::string& path,
                  const std::vector<std::pair<std::string, std::string>>& names,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSource> tensors;
  for (const auto& entry : names) {
    const TensorPlace* place = nullptr;
    for (const TensorPlace& t : model.tensors)
      if (t.name == entry.first) place = &t;
    DType to;
    if (!place) throw Error("INVALID_ARGUMENT", "[save] no tensor " + entry.first);
    if (!parse_safetensors_dtype(entry.second, to) || to == DType::i32) {
      throw Error("INVALID_ARGUMENT", "[save] tensor " + entry.first +
                                          ": expected dtype F32, F16 or BF16, found " +
                                          entry.second);
    }
    TensorSource tensor;
    tensor.name = place->name;
    tensor.dtype = entry.second;
    tensor.shape = place->shape;
    tensor.source = [&model, place, to](const ByteSink& sink) {
      for_base_rows(model, *place, to,
                    [&](const char* data, size_t bytes) { sink(data, bytes); });
    };
    tensors.push_back(std::move(tensor));
  }
  write_safetensors(path, tensors, metadata);
}

std::string fingerprint(const Model& model) {
  // Four lanes of a multiply-xor hash; it tells checkpoints apart, it is no signature.
  uint64_t lanes[4] = {0x9e3779b97f4a7c15u, 0xc2b2ae3d27d4eb4fu, 0x165667b19e3779f9u,
                       0x27d4eb2f165667c5u};
  auto mix = [&](int lane, uint64_t v) {
    lanes[lane] = (lanes[lane] ^ v) * 0xff51afd7ed558ccdu;
    lanes[lane] ^= lanes[lane] >> 29;
  };
  for (const TensorPlace& place : model.tensors) {
    for (char c : place.name) mix(0, uint64_t(uint8_t(c)));
    for (int64_t n : place.shape) mix(1, uint64_t(n));
    for_base_rows(model, place, DType::f32, [&](const char* data, size_t bytes) {
      size_t i = 0;
      for (; i + 32 <= bytes; i += 32) {
        uint64_t v[4];
        std::memcpy(v, data + i, 32);
        for (int lane = 0; lane < 4; ++lane) mix(lane, v[lane]);
      }
      for (; i < bytes; i += 4) {
        uint32_t v;
        std::memcpy(&v, data + i, 4);
        mix(int(i / 4 % 4), v);
      }
    });
  }
  char text[65];
  for (int i = 0; i < 4; ++i)
    std::snprintf(text + 16 * i, 17, "%016llx", (unsigned long long)lanes[i]);
  return text;
}

}  // namespace s2ft
