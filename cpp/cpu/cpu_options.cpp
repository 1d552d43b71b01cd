// Resolves options to instructions, arithmetic and threads, by what the machine has and
// by how fast the probe finds it.
#include "cpu/cpu_options.h"

#include <cstdlib>
#include <initializer_list>
#include <utility>

#include "core/error.h"
#include "core/threads.h"
#include "cpu/cpu_info.h"
#include "cpu/onednn.h"
#include "cpu/probe.h"

namespace s2ft {
namespace {

// Another arithmetic must win clearly, so that noise does not change a run's results.
constexpr double kClearWin = 1.15;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/// The choice an environment variable names; `otherwise` when it is not set.
template <class T>
T environment_choice(const char* name, T otherwise,
                     std::initializer_list<std::pair<const char*, T> > choices) {
  const std::string value = environment(name);
  if (value.empty()) return otherwise;
  std::string known;
  for (const auto& [text, choice] : choices) {
    if (value == text) return choice;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throw Error("INVALID_ARGUMENT", std::string(name) + " must be one of " + known +
                                      ", found \"" + value + "\"");
}

// Tests and bug reports can force what the options leave open.
CpuOptions with_environment(CpuOptions options) {
  if (options.isa.empty()) options.isa = environment("S2FT_ISA");
  if (options.arithmetic == Arithmetic::automatic) {
    options.arithmetic = environment_choice("S2FT_ARITHMETIC", options.arithmetic,
                                            {{"automatic", Arithmetic::automatic},
                                             {"native", Arithmetic::native},
                                             {"widen", Arithmetic::widen}});
  }
  if (options.gemm == Gemm::automatic) {
    options.gemm = environment_choice("S2FT_GEMM", options.gemm,
                                      {{"automatic", Gemm::automatic},
                                       {"built-in", Gemm::built_in},
                                       {"onednn", Gemm::onednn}});
  }
  return options;
}

// Whether the bf16 instruction beats f32 products: by one thread, whose own time can be
// measured however busy the machine is.
bool bf16_pays() {
  return peak_gflops("avx512bf16", Unit::f32, 1) <
         kClearWin * peak_gflops("avx512bf16", Unit::bf16_pairs, 1);
}

// Who computes products, whatever they are made of.
bool choose_library(Gemm gemm) {
  const bool there = OneDnn::create() != nullptr;
  if (gemm == Gemm::onednn && !there) {
    throw Error("INVALID_ARGUMENT",
                "products by oneDNN were asked for, but this build has no oneDNN");
  }
  return there && (gemm == Gemm::onednn || (gemm == Gemm::automatic && has_amx()));
}

// Which instructions multiply bf16.
bool choose_native(const CpuOptions& options, bool library) {
  if (options.arithmetic == Arithmetic::native && !has_bf16_instructions()) {
    throw Error("INVALID_ARGUMENT", "native bf16 arithmetic was asked for, but " +
                                        cpu_name() + " has no bf16 instructions");
  }
  if (!options.isa.empty() && !library) return options.isa == "avx512bf16";
  if (options.arithmetic != Arithmetic::automatic) {
    return options.arithmetic == Arithmetic::native;
  }
  return has_bf16_instructions() && ((library && has_amx()) || bf16_pays());
}

/// What multiplies bf16 weights.
Unit bf16_unit(const CpuChoice& choice) {
  if (!choice.native) return Unit::f32;
  return choice.onednn && has_amx() ? Unit::library : Unit::bf16_pairs;
}

}  // namespace

CpuChoice resolve_cpu(const CpuOptions& given) {
  const CpuOptions options = with_environment(given);
  if (options.threads < 0) {
    throw Error("INVALID_ARGUMENT", "threads must be 0 (all) or more, found " +
                                        std::to_string(options.threads));
  }
  if (!options.isa.empty()) kernels_of(options.isa);  // throws when it is unknown
  CpuChoice choice;
  choice.threads = options.threads ? options.threads : available_cpus();
  choice.onednn = choose_library(options.gemm);
  choice.native = choose_native(options, choice.onednn);
  choice.isa = options.isa.empty() ? supported_isas().back() : options.isa;
  // Where the bf16 instruction is slow or unwanted, no kernel should use it.
  if (options.isa.empty() && choice.isa == "avx512bf16" && !choice.native) {
    choice.isa = "avx512";
  }
  return choice;
}

CpuDescription describe_cpu(const CpuOptions& options) {
  const CpuChoice choice = resolve_cpu(options);
  CpuDescription description;
  description.name = cpu_name();
  description.isa = choice.isa;
  description.threads = choice.threads;
  description.gemm = choice.onednn ? OneDnn::create()->version() : "built-in";
  description.peak_gflops_f32 = peak_gflops(choice.isa, Unit::f32, choice.threads);
  description.peak_gflops_bf16 = description.peak_gflops_f32;
  description.arithmetic = "f32";
  const Unit unit = bf16_unit(choice);
  if (unit == Unit::f32) return description;
  description.arithmetic = unit == Unit::library ? "amx" : "bf16";
  description.peak_gflops_bf16 = peak_gflops(choice.isa, unit, choice.threads);
  return description;
}

double current_cpu_gflops(const CpuOptions& options, DType dtype, double seconds) {
  const CpuChoice choice = resolve_cpu(options);
  const Unit unit = dtype == DType::f32 ? Unit::f32 : bf16_unit(choice);
  return current_gflops(choice.isa, unit, choice.threads, seconds);
}

}  // namespace s2ft
