// What a run leaves behind: values for adapters, and the state that a resumed run needs
// to continue bitwise the same.
#include "io/safetensors.h"
#include "tune/tuner.h"

namespace s2ft {

namespace {

/// A matrix as contiguous f32 on the host.
std::vector<float> to_host(Backend& backend, Mat x) {
  std::vector<float> host(size_t(x.count()));
  if (x.dtype == DType::f32 && x.ld == x.cols) {
    backend.synchronize();
    backend.download(host.data(), x.data, host.size() * sizeof(float));
    return host;
  }
  const Buffer staging = backend.allocate(host.size() * sizeof(float));
  backend.copy(mat(staging.data(), DType::f32, x.rows, x.cols), x);
  backend.synchronize();
  backend.download(host.data(), staging.data(), host.size() * sizeof(float));
  return host;
}

void from_host(Backend& backend, Mat x, const float* host) {
  const size_t bytes = size_t(x.count()) * sizeof(float);
  const Buffer staging = backend.allocate(bytes);
  backend.upload(staging.data(), host, bytes);
  backend.copy(x, mat(staging.data(), DType::f32, x.rows, x.cols));
  backend.synchronize();
}

/// What holds a parameter's f32 value.
Mat master_of(const Parameter& p) {
  return p.master ? p.master : p.weight;
}

}  // namespace

std::vector<Tuner::Projected> Tuner::projections() {
  std::vector<Projected> out;
  if (kind_ != MethodSpec::Kind::galore) return out;
  for (Hook& hook : hooks_)
    out.push_back({hook.linear->name, static_cast<GalorePart&>(*hook.part).projection(),
                   hook.linear->weight});
  return out;
}

std::vector<float> Tuner::values(const Parameter& parameter) {
  Backend& backend = *model_->backend;
  const bool sparse = kind_ == MethodSpec::Kind::sparse;
  if (kind_ != MethodSpec::Kind::s2ft && !sparse)
    return to_host(backend, master_of(parameter));
  size_t i = 0;
  while (parameters_[i] != &parameter) ++i;
  if (sparse) {
    std::vector<float> change = to_host(backend, parameter.weight);
    const std::vector<float> base = to_host(backend, sparse_part(i).base());
    const bool rounded = model_->dtype == DType::bf16;
    for (size_t j = 0; j < change.size(); ++j)
      change[j] = (rounded ? to_float(to_bf16(change[j])) : change[j]) - base[j];
    return change;
  }
  // The change that the weights really made, so that fusing reproduces them: with bf16
  // weights that is the rounded master's.
  const Mat w = parameter.weight;
  std::vector<float> tuned = to_host(backend, w);
  std::vector<float> base =
      to_host(backend, mat(bases_[i].data(), w.dtype, w.rows, w.cols));
  if (!attached_ && slices_in_place()) tuned.swap(base);
  for (size_t j = 0; j < tuned.size(); ++j) tuned[j] -= base[j];
  return tuned;
}

std::vector<float> Tuner::gradient(const Parameter& parameter) {
  return to_host(*model_->backend, parameter.gradient);
}

void Tuner::set_values(const std::vector<std::vector<float>>& values) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = *parameters_[i];
    const size_t found = i < values.size() ? values[i].size() : 0;
    if (found == size_t(p.weight.count()) && values.size() == parameters_.size())
      continue;
    throw Error("SHAPE_MISMATCH", "[trainer] " + p.name + ": expected " +
                                      std::to_string(p.weight.rows) + " x " +
                                      std::to_string(p.weight.cols) + " values, found " +
                                      std::to_string(found));
  }
  attach();
  Backend& backend = *model_->backend;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = *parameters_[i];
    const Mat w = p.weight;
    std::vector<float> target = values[i];
    if (kind_ == MethodSpec::Kind::s2ft || kind_ == MethodSpec::Kind::sparse) {
      const Mat before = kind_ == MethodSpec::Kind::sparse
                             ? sparse_part(i).base()
                             : mat(bases_[i].data(), w.dtype, w.rows, w.cols);
      const std::vector<float> base = to_host(backend, before);
      for (size_t j = 0; j < target.size(); ++j) target[j] += base[j];
    }
    from_host(backend, master_of(p), target.data());
    if (p.master) backend.copy(w, p.master);
  }
  refresh_parts();
  backend.synchronize();
}

void Tuner::save_state(const std::string& path,
                       std::map<std::string, std::string> metadata) {
  attach();
  // A step that began a period and then failed: the next one begins it again, so that
  // moments of the layers before, which are gone, matter no more.
  if (kind_ == MethodSpec::Kind::lisa) enter_period(period_of(step_));
  std::vector<TensorSource> tensors;
  auto add = [&](const std::string& name, Mat x) {
    TensorSource t;
    t.name = name;
    t.dtype = "F32";
    t.shape = {x.rows, x.cols};
    t.source = [this, x](const ByteSink& sink) {
      const std::vector<float> host = to_host(*model_->backend, x);
      sink(host.data(), host.size() * sizeof(float));
    };
    tensors.push_back(std::move(t));
  };
  for (const Parameter* p : parameters_) {
    add(p->name + ".master", master_of(*p));
    add(p->name + ".first", p->first);
    add(p->name + ".second", p->second);
    if (!p->index.empty()) {
      TensorSource places;
      places.name = p->name + ".places";
      places.dtype = "I32";
      places.shape = {int64_t(p->index.size())};
      places.source = [p](const ByteSink& sink) {
        sink(p->index.data(), p->index.size() * sizeof(int32_t));
      };
      tensors.push_back(std::move(places));
    }
  }
  for (const TensorPlace* t : resting_weights()) add(t->name + ".value", t->value);
  for (const auto& [name, projection, weight] : projections()) {
    add(name + ".projection", projection);
    add(name + ".value", weight);
  }
  metadata["step"] = std::to_string(step_);
  write_safetensors(path, tensors, metadata);
}

std::map<std::string, std::string> Tuner::load_state(const std::string& path) {
  attach();
  const auto file = SafetensorsFile::open(path);
  auto present = [&](const std::string& name) {
    const TensorInfo* info = file->find(name);
    if (!info)
      throw Error("CORRUPT_FILE",
                  "[resume] " + path + ": tensor " + name + " is missing");
    return info;
  };
  auto find = [&](const std::string& name, Mat x) {
    const TensorInfo* info = present(name);
    if (info->dtype != "F32" || info->shape != std::vector<int64_t>{x.rows, x.cols}) {
      throw Error("SHAPE_MISMATCH",
                  "[resume] " + path + ": tensor " + name + ": expected F32 [" +
                      std::to_string(x.rows) + ", " + std::to_string(x.cols) +
                      "], found " + info->dtype + " of " + std::to_string(info->count()) +
                      " elements: the run had other trainable parts");
    }
    return info;
  };
  const auto& metadata = file->metadata();
  auto step = metadata.find("step");
  if (step == metadata.end() ||
      step->second.find_first_not_of("0123456789") != std::string::npos ||
      step->second.empty() || step->second.size() > 15)
    throw Error("CORRUPT_FILE", "[resume] " + path + ": metadata has no step count");
  const int64_t steps = std::stoll(step->second);
  if (kind_ == MethodSpec::Kind::lisa) enter_period(period_of(steps));
  // Everything is checked before anything is overwritten.
  for (const Parameter* p : parameters_) {
    find(p->name + ".master", p->weight);
    find(p->name + ".first", p->first);
    find(p->name + ".second", p->second);
  }
  for (const TensorPlace* t : resting_weights()) find(t->name + ".value", t->value);
  for (const auto& [name, projection, weight] : projections()) {
    find(name + ".projection", projection);
    find(name + ".value", weight);
  }
  if (kind_ == MethodSpec::Kind::sparse || kind_ == MethodSpec::Kind::s2ft) {
    std::vector<std::vector<int32_t>> all;
    for (const Parameter* p : parameters_) {
      const TensorInfo* info = present(p->name + ".places");
      const int64_t n = int64_t(p->index.size());
      if (info->dtype != "I32" || info->shape != std::vector<int64_t>{n})
        throw Error("SHAPE_MISMATCH", "[resume] " + path + ": tensor " + p->name +
                                          ".places: expected I32 [" + std::to_string(n) +
                                          "]");
      all.emplace_back(static_cast<size_t>(n));
      std::memcpy(all.back().data(), file->data(*info), size_t(n) * sizeof(int32_t));
    }
    set_places(all);
  }
  auto load = [&](const std::string& name, Mat x) {
    const TensorInfo* info = find(name, x);
    std::vector<float> host(size_t(x.count()));
    std::memcpy(host.data(), file->data(*info), host.size() * sizeof(float));
    from_host(*model_->backend, x, host.data());
  };
  for (Parameter* p : parameters_) {
    load(p->name + ".master", master_of(*p));
    if (p->master) model_->backend->copy(p->weight, p->master);
    load(p->name + ".first", p->first);
    load(p->name + ".second", p->second);
  }
  for (const TensorPlace* t : resting_weights()) load(t->name + ".value", t->value);
  for (const auto& [name, projection, weight] : projections()) {
    load(name + ".projection", projection);
    load(name + ".value", weight);
  }
  if (kind_ == MethodSpec::Kind::galore)
    for (Hook& hook : hooks_)
      static_cast<GalorePart&>(*hook.part).projection_loaded(*model_->backend);
  refresh_parts();
  step_ = steps;
  return metadata;
}

}  // namespace s2ft
