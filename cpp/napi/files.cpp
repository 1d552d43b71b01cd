#include "napi/files.h"

#include "io/safetensors.h"
#include "napi/async.h"
#include "napi/convert.h"

namespace s2ft {

namespace {

struct HostTensor {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

napi_typedarray_type array_type(const std::string& dtype) {
  if (dtype == "F32") return napi_float32_array;
  if (dtype == "I32") return napi_int32_array;
  if (dtype == "BF16" || dtype == "F16") return napi_uint16_array;
  throw Error("CORRUPT_FILE",
              "[safetensors] expected dtype F32, BF16, F16 or I32, found " + dtype);
}

Napi::Value to_js_tensor(Napi::Env env, const HostTensor& t) {
  auto buffer = Napi::ArrayBuffer::New(env, t.bytes.size());
  if (!t.bytes.empty()) std::memcpy(buffer.Data(), t.bytes.data(), t.bytes.size());
  Napi::Object o = Napi::Object::New(env);
  o.Set("dtype", t.dtype);
  auto shape = Napi::Array::New(env);
  for (size_t i = 0; i < t.shape.size(); ++i) shape.Set(uint32_t(i), double(t.shape[i]));
  o.Set("shape", shape);
  const napi_typedarray_type type = array_type(t.dtype);
  if (type == napi_float32_array)
    o.Set("data", Napi::Float32Array::New(env, t.bytes.size() / 4, buffer, 0));
  else if (type == napi_int32_array)
    o.Set("data", Napi::Int32Array::New(env, t.bytes.size() / 4, buffer, 0));
  else
    o.Set("data", Napi::Uint16Array::New(env, t.bytes.size() / 2, buffer, 0));
  return o;
}

HostTensor read_js_tensor(const std::string& name, const Napi::Object& o) {
  HostTensor t;
  t.name = name;
  t.dtype = get_string(o, "dtype");
  const Napi::Array shape = get_array(o, "shape");
  for (uint32_t i = 0; i < shape.Length(); ++i)
    t.shape.push_back(shape.Get(i).ToNumber().Int64Value());
  const Napi::Value data = get(o, "data");
  if (!data.IsTypedArray() ||
      data.As<Napi::TypedArray>().TypedArrayType() != array_type(t.dtype))
    throw Error("INVALID_ARGUMENT", "[safetensors] tensor " + name +
                                        ": the typed array does not fit dtype " +
                                        t.dtype);
  const auto array = data.As<Napi::TypedArray>();
  const char* begin =
      static_cast<const char*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  t.bytes.assign(begin, begin + array.ByteLength());
  return t;
}

}  // namespace

Napi::Value read_safetensors_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  struct Result {
    std::vector<HostTensor> tensors;
    std::map<std::string, std::string> metadata;
  };
  return guarded(env, [&]() -> Napi::Value {
    const std::string path = info[0].ToString();
    return run_async(
        env, Instance::of(env).io_worker(),
        [path] {
          const auto file = SafetensorsFile::open(path);
          Result r;
          r.metadata = file->metadata();
          for (const TensorInfo& t : file->tensors()) {
            array_type(t.dtype);
            const char* begin = static_cast<const char*>(file->data(t));
            r.tensors.push_back({t.name, t.dtype, t.shape, {begin, begin + t.bytes()}});
          }
          return r;
        },
        [](Napi::Env env, Result& r) -> Napi::Value {
          Napi::Object tensors = Napi::Object::New(env);
          for (const HostTensor& t : r.tensors) tensors.Set(t.name, to_js_tensor(env, t));
          Napi::Object out = Napi::Object::New(env);
          out.Set("tensors", tensors);
          out.Set("metadata", to_js(env, r.metadata));
          return out;
        });
  });
}

Napi::Value write_safetensors_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string path = info[0].ToString();
    const auto object = info[1].As<Napi::Object>();
    auto tensors = std::make_shared<std::vector<HostTensor>>();
    const Napi::Array names = object.GetPropertyNames();
    for (uint32_t i = 0; i < names.Length(); ++i) {
      const std::string name = names.Get(i).ToString();
      tensors->push_back(read_js_tensor(name, get_object(object, name.c_str())));
    }
    const auto metadata = get_string_map(info[2], "metadata");
    return run_async(
        env, Instance::of(env).io_worker(),
        [path, tensors, metadata] {
          std::vector<TensorSource> sources;
          for (const HostTensor& t : *tensors)
            sources.push_back({t.name, t.dtype, t.shape, [&t](const ByteSink& sink) {
                                 sink(t.bytes.data(), t.bytes.size());
                               }});
          write_safetensors(path, sources, metadata);
          return true;
        },
        [](Napi::Env env, bool) -> Napi::Value { return env.Undefined(); });
  });
}

}  // namespace s2ft
