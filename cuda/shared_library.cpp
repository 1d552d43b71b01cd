#include "cuda/shared_library.h"

#include <cuda_runtime.h>
#include <dirent.h>
#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>

namespace s2ft::cuda {

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

void add(std::vector<std::string>& to, const std::string& folder) {
  if (std::find(to.begin(), to.end(), folder) == to.end()) to.push_back(folder);
}

/// site-packages of every Python below a prefix.
void add_site_packages(std::vector<std::string>& to, const std::string& prefix,
                       const std::string& package) {
  for (const char* lib : {"/lib", "/lib64"}) {
    const std::string base = prefix + lib;
    DIR* folder = opendir(base.c_str());
    if (!folder) continue;
    std::vector<std::string> pythons;
    while (const dirent* entry = readdir(folder)) {
      const std::string name = entry->d_name;
      if (name.rfind("python3", 0) == 0) pythons.push_back(base + "/" + name);
    }
    closedir(folder);
    std::sort(pythons.rbegin(), pythons.rend());
    for (const std::string& python : pythons) {
      for (const char* packages : {"/site-packages", "/dist-packages"}) {
        const std::string nvidia = python + packages + "/nvidia/";
        add(to, nvidia + "cu" + cuda_major() + "/lib");
        add(to, nvidia + package + "/lib");
      }
    }
  }
}

std::vector<std::string> folders(const std::string& package) {
  std::vector<std::string> list;
  for (const char* name : {"S2FT_CUDA_LIBRARIES", "CUDA_HOME", "CUDA_PATH"}) {
    const std::string root = environment(name);
    if (root.empty()) continue;
    if (std::string(name) == "S2FT_CUDA_LIBRARIES") add(list, root);
    add(list, root + "/lib64");
    add(list, root + "/lib");
  }
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const std::string prefix = environment(name);
    if (prefix.empty()) continue;
    add_site_packages(list, prefix, package);
    add(list, prefix + "/lib");
  }
  add(list, "/usr/local/cuda/lib64");
  add(list, "/usr/local/cuda-" + cuda_major() + "/lib64");
  add_site_packages(list, "/usr/local", package);
  add_site_packages(list, "/usr", package);
  const std::string home = environment("HOME");
  if (!home.empty()) add_site_packages(list, home + "/.local", package);
  return list;
}

bool exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

std::string path_of(void* handle, const std::string& otherwise) {
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || !map || !map->l_name[0])
    return otherwise;
  return map->l_name;
}

}  // namespace

std::string cuda_major() {
  return std::to_string(CUDART_VERSION / 1000);
}

void* SharedLibrary::symbol(const char* name) const {
  return handle ? dlsym(handle, name) : nullptr;
}

SharedLibrary open_library(const std::string& soname, const std::string& package) {
  SharedLibrary library;
  const auto attempt = [&](const std::string& path) {
    library.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library.handle) {
      library.path = path_of(library.handle, path);
      return true;
    }
    const char* why = dlerror();
    library.tried.push_back(path + (why ? " (" + std::string(why) + ")" : ""));
    return false;
  };
  for (const std::string& folder : folders(package)) {
    const std::string path = folder + "/" + soname;
    if (!exists(path)) {
      if (exists(folder)) library.tried.push_back(path);
      continue;
    }
    if (attempt(path)) return library;
  }
  attempt(soname);
  return library;
}

}  // namespace s2ft::cuda
