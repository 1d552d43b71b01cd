// Processor name and instruction sets.
#include "cpu/cpu_info.h"

#include <fstream>
#include <map>

#include "core/error.h"

namespace s2ft {

namespace {

// What the operating system says of the first processor, by key.
std::map<std::string, std::string> processor_facts() {
  std::ifstream in("/proc/cpuinfo");
  std::map<std::string, std::string> first;
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string name = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    const size_t value = line.find_first_not_of(" \t", colon + 1);
    if (value != std::string::npos) first.emplace(name, line.substr(value));
  }
  return first;
}

}  // namespace

std::string cpu_name() {
  std::map<std::string, std::string> first = processor_facts();
  for (const char* key : {"model name", "Model", "cpu model", "Hardware"}) {
    if (first.count(key)) return first[key];
  }
  // 64-bit ARM kernels print numbers only.
  if (first.count("CPU implementer")) {
    return "ARM implementer " + first["CPU implementer"] + " part " + first["CPU part"];
  }
#if defined(__x86_64__)
  return "unknown x86-64 CPU";
#elif defined(__aarch64__)
  return "unknown arm64 CPU";
#else
  return "unknown CPU";
#endif
}

std::vector<std::string> supported_isas() {
#if defined(S2FT_EMULATE_AVX512)
  return {"avx512", "avx512bf16"};  // tests of these sets in plain code
#endif
  std::vector<std::string> names = {"plain"};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return names;
  names.push_back("avx2");
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return names;
  }
  names.push_back("avx512");
  if (__builtin_cpu_supports("avx512bf16")) names.push_back("avx512bf16");
#endif
  return names;
}

const Kernels& kernels_of(const std::string& isa) {
  std::string list;
  for (const std::string& name : supported_isas()) {
    list += (list.empty() ? "" : ", ") + name;
    if (name != isa) continue;
#if defined(__x86_64__)
    if (isa == "avx2") return avx2::kernels();
    if (isa == "avx512") return avx512::kernels();
    if (isa == "avx512bf16") return avx512bf16::kernels();
#endif
    return plain::kernels();
  }
  throw Error(
      "INVALID_ARGUMENT",
      "instruction set \"" + isa + "\" is not available here; this machine has " + list);
}

bool has_bf16_instructions() {
  return supported_isas().back() == "avx512bf16";
}

bool has_amx() {
  return (" " + processor_facts()["flags"] + " ").find(" amx_bf16 ") != std::string::npos;
}

}  // namespace s2ft
