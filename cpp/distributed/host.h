// Where a rank runs: its host, its process, and its share of the host's CPUs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace s2ft {

/// What a rank tells the others of itself; plain bytes.
struct Place {
  char host[128];  // name and process namespace: equal where processes see each other
  int64_t pid, started;  // a process number can be given again, not with the same start
  std::array<uint64_t, 16>
      cpus;  // bits of the process's CPU mask; CPUs above 1023 are lost
};

Place this_place();
/// When a process that runs here was started, in ticks since boot; 0 where there is none.
int64_t started_at(int64_t pid);
/// Whether the process at a place that this one can see has gone; false where it cannot
/// be told.
bool has_gone(const Place& place);

/// Ranks of one host in one job.
struct HostShare {
  int rank = 0, size = 1;  // this one among them, and how many there are
  int cpus = 1;            // that this rank's threads should use
  int bound = 0;           // CPUs that the launcher lets these ranks use, all together
  int present = 0;         // CPUs of the host
};

/// Divides a host's CPUs: where its ranks may all use the same ones, the process (its
/// main thread, and threads that start later) is limited to an equal part of them. Ranks
/// that the launcher bound apart keep what they have.
HostShare claim_host_share(const std::vector<Place>& places, int rank);

}  // namespace s2ft
