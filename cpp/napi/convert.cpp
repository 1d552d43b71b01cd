#include "napi/convert.h"

#include <cmath>
#include <cstring>

namespace s2ft {

namespace {

[[noreturn]] void fail(const char* key, const char* expected) {
  throw Error("INVALID_ARGUMENT",
              std::string("[native] ") + key + ": expected " + expected);
}

template <class T>
std::vector<T> copy_typed(const Napi::Value& value, napi_typedarray_type type,
                          const char* what, const char* expected) {
  if (!value.IsTypedArray()) fail(what, expected);
  const auto array = value.As<Napi::TypedArray>();
  if (array.TypedArrayType() != type) fail(what, expected);
  std::vector<T> out(array.ElementLength());
  if (!out.empty()) {
    std::memcpy(out.data(),
                static_cast<const char*>(array.ArrayBuffer().Data()) + array.ByteOffset(),
                out.size() * sizeof(T));
  }
  return out;
}

}  // namespace

Napi::Value get(const Napi::Object& object, const char* key) {
  return object.Get(key);
}

double get_number(const Napi::Object& object, const char* key) {
  const Napi::Value v = object.Get(key);
  if (!v.IsNumber()) fail(key, "a number");
  return v.As<Napi::Number>().DoubleValue();
}

int64_t get_int(const Napi::Object& object, const char* key) {
  const double x = get_number(object, key);
  if (std::floor(x) != x || std::fabs(x) > 9007199254740991.0) fail(key, "an integer");
  return int64_t(x);
}

bool get_bool(const Napi::Object& object, const char* key) {
  const Napi::Value v = object.Get(key);
  if (!v.IsBoolean()) fail(key, "a boolean");
  return v.As<Napi::Boolean>().Value();
}

std::string get_string(const Napi::Object& object, const char* key) {
  const Napi::Value v = object.Get(key);
  if (!v.IsString()) fail(key, "a string");
  return v.As<Napi::String>().Utf8Value();
}

Napi::Object get_object(const Napi::Object& object, const char* key) {
  const Napi::Value v = object.Get(key);
  if (!v.IsObject()) fail(key, "an object");
  return v.As<Napi::Object>();
}

Napi::Array get_array(const Napi::Object& object, const char* key) {
  const Napi::Value v = object.Get(key);
  if (!v.IsArray()) fail(key, "an array");
  return v.As<Napi::Array>();
}

std::vector<int32_t> get_ints(const Napi::Value& value, const char* what) {
  if (!value.IsArray())
    return copy_typed<int32_t>(value, napi_int32_array, what, "an Int32Array");
  const auto array = value.As<Napi::Array>();
  std::vector<int32_t> out(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value v = array.Get(i);
    if (!v.IsNumber()) fail(what, "integers");
    const double x = v.As<Napi::Number>().DoubleValue();
    if (std::floor(x) != x || std::fabs(x) > 2147483647.0) fail(what, "32-bit integers");
    out[i] = int32_t(x);
  }
  return out;
}

std::vector<float> get_floats(const Napi::Value& value, const char* what) {
  return copy_typed<float>(value, napi_float32_array, what, "a Float32Array");
}

std::vector<std::string> get_strings(const Napi::Value& value, const char* what) {
  if (!value.IsArray()) fail(what, "an array of strings");
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> out;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value v = array.Get(i);
    if (!v.IsString()) fail(what, "an array of strings");
    out.push_back(v.As<Napi::String>().Utf8Value());
  }
  return out;
}

std::map<std::string, std::string> get_string_map(const Napi::Value& value,
                                                  const char* what) {
  std::map<std::string, std::string> out;
  if (!value.IsObject()) fail(what, "an object of strings");
  const auto object = value.As<Napi::Object>();
  const Napi::Array keys = object.GetPropertyNames();
  for (uint32_t i = 0; i < keys.Length(); ++i) {
    const std::string key = keys.Get(i).ToString().Utf8Value();
    out[key] = get_string(object, key.c_str());
  }
  return out;
}

ModelConfig read_config(const Napi::Object& o) {
  ModelConfig c;
  c.vocab_size = get_int(o, "vocabSize");
  c.hidden_size = get_int(o, "hiddenSize");
  c.intermediate_size = get_int(o, "intermediateSize");
  c.layers = int(get_int(o, "layers"));
  c.heads = int(get_int(o, "heads"));
  c.kv_heads = int(get_int(o, "kvHeads"));
  c.head_dim = int(get_int(o, "headDim"));
  c.norm_epsilon = float(get_number(o, "normEpsilon"));
  c.tie_word_embeddings = get_bool(o, "tieWordEmbeddings");
  c.qkv_bias = get_bool(o, "qkvBias");
  c.o_bias = get_bool(o, "oBias");
  c.mlp_bias = get_bool(o, "mlpBias");
  c.qk_norm = get_bool(o, "qkNorm");
  for (int32_t w : get_ints(get(o, "slidingWindow"), "slidingWindow"))
    c.sliding_window.push_back(w);
  const int64_t sizes[] = {c.vocab_size, c.hidden_size, c.intermediate_size, c.layers,
                           c.heads,      c.kv_heads,    c.head_dim};
  for (int64_t size : sizes)
    if (size < 1 || size > (1 << 28)) fail("config", "sizes from 1 to 2^28");
  if (c.heads % c.kv_heads) fail("kvHeads", "a divisor of heads");
  if (c.head_dim % 2) fail("headDim", "an even number");
  if (int(c.sliding_window.size()) != c.layers) fail("slidingWindow", "an entry a layer");
  const Napi::Object rope = get_object(o, "rope");
  const std::string type = get_string(rope, "type");
  if (type == "default")
    c.rope.type = RopeConfig::Type::standard;
  else if (type == "linear")
    c.rope.type = RopeConfig::Type::linear;
  else if (type == "dynamic")
    c.rope.type = RopeConfig::Type::dynamic;
  else if (type == "llama3")
    c.rope.type = RopeConfig::Type::llama3;
  else
    fail("rope.type", "default, linear, dynamic or llama3");
  c.rope.theta = get_number(rope, "theta");
  c.rope.factor = get_number(rope, "factor");
  c.rope.low_freq_factor = get_number(rope, "lowFreqFactor");
  c.rope.high_freq_factor = get_number(rope, "highFreqFactor");
  c.rope.original_max_positions = get_int(rope, "originalMaxPositions");
  return c;
}

namespace {

/// `read` of every layer's module that the array's entries have.
template <class Layer, class Read>
std::vector<Layer> read_layers(const Napi::Object& o, const char* key, Read read) {
  const Napi::Array layers = get_array(o, key);
  std::vector<Layer> out;
  for (uint32_t i = 0; i < layers.Length(); ++i) {
    const Napi::Value entry = layers.Get(i);
    if (!entry.IsObject()) fail(key, "an object a layer");
    const auto layer = entry.As<Napi::Object>();
    Layer values{};
    for (int m = 0; m < kModules; ++m)
      if (layer.Has(kModuleNames[m])) values[m] = read(layer, kModuleNames[m]);
    out.push_back(std::move(values));
  }
  return out;
}

std::vector<LayerSelection> read_units(const Napi::Object& o, const char* key) {
  return read_layers<LayerSelection>(o, key,
                                     [](const Napi::Object& layer, const char* m) {
                                       return get_ints(get(layer, m), m);
                                     });
}

UnitChoice::Strategy read_strategy(const std::string& name) {
  using Strategy = UnitChoice::Strategy;
  if (name == "random") return Strategy::random;
  if (name == "weight") return Strategy::weight;
  if (name == "activation") return Strategy::activation;
  if (name == "weight-activation") return Strategy::weight_activation;
  if (name == "gradient") return Strategy::gradient;
  fail("selection", "random, weight, activation, weight-activation or gradient");
}

void read_s2ft(const Napi::Object& o, MethodSpec& m) {
  if (o.Has("select")) {
    m.selection = read_units(o, "select");
    if (m.selection.empty()) fail("select", "an entry a layer");
    return;
  }
  m.choice.counts =
      read_layers<LayerCounts>(o, "counts", [](const Napi::Object& layer, const char* k) {
        return int32_t(get_int(layer, k));
      });
  m.choice.seed = uint64_t(get_int(o, "seed"));
  m.choice.strategy = read_strategy(get_string(o, "selection"));
  m.choice.largest = get_string(o, "order") == "largest";
  if (o.Has("avoid")) m.choice.avoid = read_units(o, "avoid");
}

std::vector<LoraModule> read_lora(const Napi::Object& o) {
  LoraOptions shared;
  shared.dropout = float(get_number(o, "dropout"));
  shared.seed = uint64_t(get_int(o, "seed"));
  std::vector<LoraModule> out;
  const Napi::Array modules = get_array(o, "modules");
  for (uint32_t i = 0; i < modules.Length(); ++i) {
    const Napi::Value entry = modules.Get(i);
    if (!entry.IsObject()) fail("modules", "an array of { name, r, scale }");
    const auto module = entry.As<Napi::Object>();
    LoraOptions options = shared;
    options.r = get_int(module, "r");
    options.scale = float(get_number(module, "scale"));
    out.push_back({get_string(module, "name"), options});
  }
  return out;
}

SparseOptions::Selection read_selection(const std::string& name) {
  using Selection = SparseOptions::Selection;
  if (name == "random") return Selection::random;
  if (name == "weight") return Selection::weight;
  if (name == "gradient") return Selection::gradient;
  if (name == "fisher") return Selection::fisher;
  fail("selection", "random, weight, gradient or fisher");
}

}  // namespace

LoreftOptions read_loreft(const Napi::Object& o) {
  LoreftOptions options;
  auto positions = [&](const char* key) {
    const int64_t n = get_int(o, key);
    if (n < 0 || n > (1 << 24)) fail(key, "a number of positions");
    return int32_t(n);
  };
  options.r = get_int(o, "r");
  options.first = positions("first");
  options.last = positions("last");
  options.shared = get(o, "shared").ToBoolean();
  return options;
}

MethodSpec read_method(const Napi::Object& o) {
  MethodSpec m;
  const std::string kind = get_string(o, "kind");
  if (kind == "s2ft") {
    m.kind = MethodSpec::Kind::s2ft;
    read_s2ft(o, m);
  } else if (kind == "lora" || kind == "dora") {
    m.kind = kind == "lora" ? MethodSpec::Kind::lora : MethodSpec::Kind::dora;
    m.lora = read_lora(o);
  } else if (kind == "sparse") {
    m.kind = MethodSpec::Kind::sparse;
    m.modules = get_strings(get(o, "modules"), "modules");
    m.sparse.share = get_number(o, "share");
    m.sparse.seed = uint64_t(get_int(o, "seed"));
    m.sparse.selection = read_selection(get_string(o, "selection"));
  } else if (kind == "lisa") {
    m.kind = MethodSpec::Kind::lisa;
    m.lisa.layers = int(get_int(o, "layers"));
    m.lisa.interval = get_int(o, "interval");
    m.lisa.seed = uint64_t(get_int(o, "seed"));
  } else if (kind == "galore") {
    m.kind = MethodSpec::Kind::galore;
    m.galore.r = get_int(o, "r");
    m.galore.scale = float(get_number(o, "scale"));
    m.galore.interval = get_int(o, "interval");
    m.galore.seed = uint64_t(get_int(o, "seed"));
  } else if (kind == "loreft") {
    m.kind = MethodSpec::Kind::loreft;
    m.loreft = read_loreft(o);
    m.loreft.dropout = float(get_number(o, "dropout"));
    m.loreft.seed = uint64_t(get_int(o, "seed"));
    for (int32_t layer : get_ints(get(o, "layers"), "layers")) m.layers.push_back(layer);
  } else if (kind == "full") {
    m.kind = MethodSpec::Kind::full;
  } else {
    fail("method.kind", "s2ft, lora, dora, sparse, lisa, galore, loreft or full");
  }
  return m;
}

Sampling read_sampling(const Napi::Object& o) {
  Sampling s;
  s.temperature = float(get_number(o, "temperature"));
  s.top_k = int(get_int(o, "topK"));
  s.top_p = float(get_number(o, "topP"));
  s.min_p = float(get_number(o, "minP"));
  s.repetition_penalty = float(get_number(o, "repetitionPenalty"));
  s.frequency_penalty = float(get_number(o, "frequencyPenalty"));
  s.presence_penalty = float(get_number(o, "presencePenalty"));
  s.top = int(get_int(o, "top"));
  const std::vector<int32_t> tokens = get_ints(get(o, "biasTokens"), "biasTokens");
  const std::vector<float> values = get_floats(get(o, "biasValues"), "biasValues");
  if (tokens.size() != values.size()) fail("biasValues", "a value a token");
  for (size_t i = 0; i < tokens.size(); ++i) s.bias.emplace_back(tokens[i], values[i]);
  return s;
}

AdapterDeltas read_deltas(const Napi::Object& o) {
  AdapterDeltas out;
  auto each = [&](const char* key, auto body) {
    if (!o.Has(key) || get(o, key).IsUndefined()) return;
    const Napi::Array array = get_array(o, key);
    for (uint32_t i = 0; i < array.Length(); ++i) body(array.Get(i).As<Napi::Object>());
  };
  each("deltas", [&](const Napi::Object& d) {
    SliceDelta s;
    s.module = get_string(d, "module");
    const std::string axis = get_string(d, "axis");
    if (axis != "rows" && axis != "cols")
      throw Error("INVALID_ARGUMENT",
                  "[fuse] axis: expected rows or cols, found " + axis);
    s.rows = axis == "rows";
    s.index = get_ints(get(d, "index"), "index");
    s.delta = get_floats(get(d, "delta"), "delta");
    out.slices.push_back(std::move(s));
  });
  each("elements", [&](const Napi::Object& d) {
    out.elements.push_back({get_string(d, "module"), get_ints(get(d, "places"), "places"),
                            get_floats(get(d, "delta"), "delta")});
  });
  each("loras", [&](const Napi::Object& d) {
    LoraDelta l;
    l.module = get_string(d, "module");
    l.r = get_int(d, "r");
    l.a = get_floats(get(d, "a"), "a");
    l.b = get_floats(get(d, "b"), "b");
    l.scale = float(get_number(d, "scale"));
    if (d.Has("magnitudes"))
      l.magnitudes = get_floats(get(d, "magnitudes"), "magnitudes");
    out.loras.push_back(std::move(l));
  });
  each("lorefts", [&](const Napi::Object& d) {
    LoreftDelta l;
    l.layer = int(get_int(d, "layer"));
    l.options = read_loreft(d);
    const Napi::Array sets = get_array(d, "sets");
    for (uint32_t i = 0; i < sets.Length(); ++i) {
      const auto set = sets.Get(i).As<Napi::Object>();
      l.sets.push_back({get_floats(get(set, "rotation"), "rotation"),
                        get_floats(get(set, "source"), "source"),
                        get_floats(get(set, "bias"), "bias")});
    }
    out.lorefts.push_back(std::move(l));
  });
  return out;
}

std::vector<Sample> OwnedSamples::views() const {
  std::vector<Sample> out;
  for (size_t i = 0; i < tokens.size(); ++i)
    out.push_back({tokens[i].data(), labels[i].data(), int32_t(tokens[i].size())});
  return out;
}

OwnedSamples read_samples(const Napi::Value& value) {
  if (!value.IsArray()) fail("batch", "an array of { tokens, labels }");
  const auto array = value.As<Napi::Array>();
  OwnedSamples out;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value entry = array.Get(i);
    if (!entry.IsObject()) fail("batch", "an array of { tokens, labels }");
    const auto sample = entry.As<Napi::Object>();
    out.tokens.push_back(get_ints(get(sample, "tokens"), "tokens"));
    out.labels.push_back(get_ints(get(sample, "labels"), "labels"));
    if (out.tokens.back().size() == out.labels.back().size()) continue;
    throw Error("INVALID_ARGUMENT", "[native] sample " + std::to_string(i) +
                                        ": expected as many labels as "
                                        "tokens (" +
                                        std::to_string(out.tokens.back().size()) +
                                        "), found " +
                                        std::to_string(out.labels.back().size()));
  }
  return out;
}

Napi::Float32Array to_js(Napi::Env env, std::vector<float>&& values) {
  if (values.empty()) return Napi::Float32Array::New(env, 0);
  auto* owned = new std::vector<float>(std::move(values));
  const size_t n = owned->size();
  const auto buffer = Napi::ArrayBuffer::New(
      env, owned->data(), n * sizeof(float),
      [](Napi::Env, void*, std::vector<float>* v) { delete v; }, owned);
  return Napi::Float32Array::New(env, n, buffer, 0);
}

Napi::Int32Array to_js(Napi::Env env, const std::vector<int32_t>& values) {
  auto out = Napi::Int32Array::New(env, values.size());
  if (!values.empty())
    std::memcpy(out.Data(), values.data(), values.size() * sizeof(int32_t));
  return out;
}

Napi::Object to_js(Napi::Env env, const std::map<std::string, std::string>& map) {
  Napi::Object out = Napi::Object::New(env);
  for (const auto& entry : map) out.Set(entry.first, entry.second);
  return out;
}

}  // namespace s2ft
