#include "distributed/host.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/threads.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace s2ft {

namespace {

/// State and start time of a process; state 0 when there is none.
struct Process {
  char state = 0;
  int64_t started = 0;
};

Process process_of(int64_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  // The name before may hold anything, so what follows its last parenthesis is read.
  const size_t end = text.rfind(')');
  Process found;
  if (end == std::string::npos) return found;
  std::istringstream rest(text.substr(end + 1));
  rest >> found.state;
  std::string skipped;
  constexpr int kBetween = 18;  // fields from the state to the start time
  for (int i = 0; i < kBetween; ++i) rest >> skipped;
  rest >> found.started;
  return found;
}

std::string read_link(const char* path) {
  char text[64];
  const ssize_t n = readlink(path, text, sizeof text);
  return n > 0 ? std::string(text, size_t(n)) : std::string();
}

#ifdef __linux__
constexpr int kCpus = 1024;
#endif

}  // namespace

Place this_place() {
  Place place;
  std::memset(&place, 0, sizeof place);
  char name[64] = "";
  gethostname(name, sizeof name - 1);
  const std::string host = std::string(name) + " " + read_link("/proc/self/ns/pid");
  std::snprintf(place.host, sizeof place.host, "%s", host.c_str());
  place.pid = getpid();
  place.started = started_at(place.pid);
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(getpid(), sizeof set, &set) == 0)
    for (int i = 0; i < kCpus; ++i)
      if (CPU_ISSET(i, &set)) place.cpus[size_t(i) / 64] |= uint64_t(1) << (i % 64);
#endif
  return place;
}

int64_t started_at(int64_t pid) {
  return process_of(pid).started;
}

bool has_gone(const Place& place) {
  if (place.started == 0) return false;
  const Process found = process_of(place.pid);
  return found.state == 0 || found.state == 'Z' || found.state == 'X' ||
         found.started != place.started;
}

HostShare claim_host_share(const std::vector<Place>& places, int rank) {
  const Place& mine = places[size_t(rank)];
  HostShare share;
  share.size = 0;
  std::array<uint64_t, 16> all{};
  bool same = true, apart = true;
  for (size_t r = 0; r < places.size(); ++r) {
    if (std::strcmp(places[r].host, mine.host) != 0) continue;
    if (int(r) == rank) share.rank = share.size;
    ++share.size;
    same = same && places[r].cpus == mine.cpus;
    for (size_t i = 0; i < all.size(); ++i) {
      apart = apart && !(all[i] & places[r].cpus[i]);
      all[i] |= places[r].cpus[i];
    }
  }
  for (uint64_t bits : all) share.bound += __builtin_popcountll(bits);
  share.present = int(sysconf(_SC_NPROCESSORS_ONLN));
  share.cpus = available_cpus();
  if (apart || share.size == 1) return share;
  share.cpus = std::max(1, share.cpus / share.size);
#ifdef __linux__
  std::vector<int> list;
  for (int i = 0; i < kCpus; ++i)
    if (mine.cpus[size_t(i) / 64] >> (i % 64) & 1) list.push_back(i);
  const size_t each = list.size() / size_t(share.size);
  if (same && each > 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (size_t i = 0; i < each; ++i) CPU_SET(list[size_t(share.rank) * each + i], &set);
    // A refusal costs speed only.
    (void)sched_setaffinity(getpid(), sizeof set, &set);
  }
#endif
  return share;
}

}  // namespace s2ft
