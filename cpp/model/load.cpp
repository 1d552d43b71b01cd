// Conversions run over rows of a bounded staging block, so no second copy of the model
// ever exists.
#include "model/load.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "core/error.h"
#include "io/safetensors.h"
#include "model/elements.h"
#include "model/quantize.h"

namespace s2ft {

namespace {

constexpr size_t kStagingBytes = 1 << 20;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
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
  if (place.quantized) {
    const int64_t cols = place.value.cols;
    quantize(*model.backend, *place.quantized, place.name,
             [=](float* to, int64_t begin, int64_t rows) {
               convert(reinterpret_cast<char*>(to), DType::f32,
                       from + begin * cols * int64_t(dtype_size(type)), type,
                       rows * cols);
             });
    return;
  }
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

/// Where the checkpoint has a tensor that the model has quantized, and as what.
std::pair<const char*, DType> checkpoint_data(const TensorPlace& place) {
  DType type = DType::f32;
  parse_safetensors_dtype(place.info->dtype, type);
  return {static_cast<const char*>(place.file->data(*place.info)), type};
}

/// Calls `sink(row, bytes)` for every row of a tensor in base order, as `to` elements: of
/// a quantized one as the checkpoint has it, by way of the model's dtype like the others.
template <class Sink>
void for_base_rows(const Model& model, const TensorPlace& place, DType to, Sink sink) {
  const Mat& w = place.value;
  if (place.quantized) {
    const auto [data, type] = checkpoint_data(place);
    std::vector<char> row(size_t(w.cols) * dtype_size(w.dtype));
    std::vector<char> out(size_t(w.cols) * dtype_size(to));
    for (int64_t i = 0; i < w.rows; ++i) {
      convert(row.data(), w.dtype, data + i * w.cols * int64_t(dtype_size(type)), type,
              w.cols);
      convert(out.data(), to, row.data(), w.dtype, w.cols);
      sink(out.data(), out.size());
    }
    return;
  }
  const std::vector<int32_t> rows = places_of_originals(place.row_order, place.row_unit);
  const std::vector<int32_t> cols = places_of_originals(place.col_order, place.col_unit);
  Backend& backend = *model.backend;
  const size_t row_bytes = size_t(w.cols) * dtype_size(w.dtype);
  const int64_t step = std::clamp<int64_t>(int64_t(kStagingBytes / row_bytes), 1, w.rows);
  const Buffer ordered = backend.allocate(rows.empty() ? 0 : size_t(step) * row_bytes);
  std::vector<char> raw(size_t(step) * row_bytes), out(size_t(w.cols) * dtype_size(to));
  for (int64_t i = 0; i < w.rows; i += step) {
    // Many rows a copy: a device answers each one after a wait.
    const int64_t n = std::min(step, w.rows - i);
    Mat block = w.row_range(i, n);
    if (!rows.empty()) {
      block = mat(ordered.data(), w.dtype, n, w.cols);
      backend.gather_rows(block, w, rows.data() + i);
    }
    backend.download(raw.data(), block.data, size_t(n) * row_bytes);
    for (int64_t r = 0; r < n; ++r) {
      const char* from = raw.data() + size_t(r) * row_bytes;
      if (cols.empty()) {
        convert(out.data(), to, from, w.dtype, w.cols);
      } else {
        for (int64_t j = 0; j < w.cols; ++j)
          write_element(out.data(), to, j, read_element(from, w.dtype, cols[j]));
      }
      sink(out.data(), out.size());
    }
  }
}

/// Four lanes of a multiply-xor hash over tensors in turn; it tells checkpoints apart, it
/// is no signature.
class Fingerprint {
 public:
  void add(const Model& model, const TensorPlace& place) {
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
  /// 64 hexadecimal digits.
  std::string text() const {
    char out[65];
    for (int i = 0; i < 4; ++i)
      std::snprintf(out + 16 * i, 17, "%016llx", (unsigned long long)lanes_[i]);
    return out;
  }

 private:
  void mix(int lane, uint64_t v) {
    lanes_[lane] = (lanes_[lane] ^ v) * 0xff51afd7ed558ccdu;
    lanes_[lane] ^= lanes_[lane] >> 29;
  }
  uint64_t lanes_[4] = {0x9e3779b97f4a7c15u, 0xc2b2ae3d27d4eb4fu, 0x165667b19e3779f9u,
                        0x27d4eb2f165667c5u};
};

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
                                  std::shared_ptr<Backend> backend,
                                  Quantization quantization) {
  std::vector<std::shared_ptr<SafetensorsFile>> opened;
  std::map<std::string, std::pair<std::shared_ptr<SafetensorsFile>, const TensorInfo*>>
      found;
  for (const std::string& path : files) {
    opened.push_back(SafetensorsFile::open(path));
    for (const TensorInfo& info : opened.back()->tensors()) {
      if (!found.emplace(info.name, std::make_pair(opened.back(), &info)).second) {
        throw Error("CORRUPT_FILE",
                    "[load] " + path + ": tensor " + info.name + " is in two files");
      }
    }
  }
  auto model = std::make_shared<Model>(config, dtype, std::move(backend), quantization);
  Fingerprint hash;
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
    const auto [file, info] = it->second;
    load_tensor(*model, place, *file, *info);
    if (quantization != Quantization::none) {
      if (place.quantized) {
        place.file = file;
        place.info = info;
      }
      // While its pages are there: nothing else reads all of the checkpoint again.
      hash.add(*model, place);
    }
    file->dont_need(*info);
  }
  for (const auto& entry : found) {
    if (expected.count(entry.first) || is_ignored(entry.first, config)) continue;
    throw Error("UNSUPPORTED_MODEL",
                "[load] " + entry.second.first->path() + ": tensor " + entry.first +
                    " of shape " + shape_text(entry.second.second->shape) +
                    " does not belong to the architecture that config.json describes");
  }
  if (quantization != Quantization::none) model->checkpoint_fingerprint = hash.text();
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
    if (place->quantized) {
      throw Error("UNSUPPORTED", "[save] tensor " + entry.first +
                                     " is quantized in memory: merge adapters into the "
                                     "checkpoint, loaded without quantization");
    }
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
  if (!model.checkpoint_fingerprint.empty()) return model.checkpoint_fingerprint;
  Fingerprint hash;
  for (const TensorPlace& place : model.tensors) hash.add(model, place);
  return hash.text();
}

std::vector<char> checkpoint_slice(const Model& model, const Linear& linear, bool rows,
                                   const std::vector<int32_t>& index) {
  const TensorPlace* place = nullptr;
  for (const TensorPlace& t : model.tensors)
    if (t.quantized == &linear.quantized) place = &t;
  if (!place || !place->file)
    throw Error("INTERNAL", "[load] " + linear.name + " has no checkpoint tensor");
  const auto [from, type] = checkpoint_data(*place);
  const DType to = model.dtype;
  const int64_t n = int64_t(index.size());
  const int64_t out = place->value.rows, in = place->value.cols;
  std::vector<char> slice(size_t(n * (rows ? in : out)) * dtype_size(to));
  if (rows) {
    const size_t from_row = size_t(in) * dtype_size(type);
    const size_t to_row = size_t(in) * dtype_size(to);
    for (int64_t i = 0; i < n; ++i)
      convert(slice.data() + size_t(i) * to_row, to, from + size_t(index[i]) * from_row,
              type, in);
  } else {
    for (int64_t r = 0; r < out; ++r)
      for (int64_t i = 0; i < n; ++i)
        write_element(slice.data(), to, r * n + i,
                      read_element(from, type, r * in + index[i]));
  }
  place->file->dont_need(*place->info);
  return slice;
}

}  // namespace s2ft
