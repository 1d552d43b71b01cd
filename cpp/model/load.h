// From safetensors files into a model, and back.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"

namespace s2ft {

/// Reads every tensor of the configuration from the files, converting to `dtype`. Throws
/// UNSUPPORTED_MODEL for a missing or unexpected tensor, SHAPE_MISMATCH with both shapes,
/// CORRUPT_FILE and IO from the reader. With quantization, linear layers of the blocks
/// are quantized tensor by tensor, and the files stay mapped: S2FT's slices come from
/// there.
std::shared_ptr<Model> load_model(const ModelConfig& config,
                                  const std::vector<std::string>& files, DType dtype,
                                  std::shared_ptr<Backend> backend,
                                  Quantization quantization = Quantization::none);

/// Rows [n, in] or columns [out, n] of a quantized layer's weight as the checkpoint has
/// them, in the model's dtype.
std::vector<char> checkpoint_slice(const Model& model, const Linear& linear, bool rows,
                                   const std::vector<int32_t>& index);

/// Writes the named tensors in the base's row and column order, each in the file dtype
/// given beside it. Whole or not at all. Throws UNSUPPORTED for a quantized one.
void save_tensors(const Model& model, const std::string& path,
                  const std::vector<std::pair<std::string, std::string>>& names,
                  const std::map<std::string, std::string>& metadata);

/// 64 hexadecimal digits over names, shapes and values (as f32) of all tensors in base
/// order: equal for the same checkpoint however it is sharded, stored or quantized.
std::string fingerprint(const Model& model);

/// `order` of units expanded to elements: where[i] is the place of original element i;
/// empty for identity.
std::vector<int32_t> places_of_originals(const std::vector<int32_t>* order, int unit);

}  // namespace s2ft
