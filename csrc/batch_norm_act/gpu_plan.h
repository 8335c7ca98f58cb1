// Which kernels run on a GPU, and how a tensor is cut among their blocks. A function of the shape, the pointers' alignment and
// the device. No torch header.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace fastgan::batch_norm_act {

// What decides on a device: multiprocessors, bytes of shared memory that a block may ask for, whether blocks make clusters.
struct Gpu {
  int64_t processors;
  int64_t shared;
  bool clusters;
};

// Memory as groups of channels. `planes` (NCHW): a group is a channel, an item a vector of its planes. Otherwise (NHWC,
// [N, C]): a group is `columns` vectors side by side, an item a row of them. A group's items are cut into `parts` of `per_part`.
struct Walk {
  int64_t channels;
  int64_t inner;      // elements of a plane, 1 where the channels are last
  int64_t per_plane;  // items of a plane, 1 where the channels are last
  int64_t items;
  int64_t groups;
  int64_t parts;
  int64_t per_part;
  int columns;  // a power of two
  int width;    // channels of a group

  int64_t blocks() const { return groups * parts; }
};

struct GpuPlan {
  Walk walk;
  bool planes;
  int vector;       // elements of a load
  int threads;
  int cluster;      // blocks that hold a group in their shared memory; 0: two passes
  int64_t dynamic;  // bytes of shared memory for that
};

constexpr int kMostThreads = 512, kMostColumns = 4, kMostCluster = 8;
constexpr int64_t kItemsPerThread = 8;   // where there are as many: what a thread begins for, and then asks for at once
constexpr int64_t kMostParts = 64;       // of a group in two passes: one block merges them
constexpr int64_t kLeastPart = 24576;     // bytes of it: beside them what blocks tell each other is little
constexpr int64_t kStaticShared = 16384;  // what the kernels take beside it

inline int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Of all these pointers in bytes, at most 16; a null pointer has any.
inline int64_t alignment_of(std::initializer_list<const void*> pointers) {
  uintptr_t all = 16;
  for (const void* pointer : pointers) {
    all |= reinterpret_cast<uintptr_t>(pointer);
  }
  return static_cast<int64_t>(all & (~all + 1));
}

// Multiples of a warp that have some items each.
inline int threads_for(int64_t items, int columns) {
  int threads = 32;
  while (threads < kMostThreads && threads / columns * kItemsPerThread < items) {
    threads *= 2;
  }
  return threads;
}

// `itemsize` bytes an element, `tensors` of them to hold (x; x and dy), all aligned to `alignment` bytes.
inline GpuPlan gpu_plan(
    int64_t outer, int64_t channels, int64_t inner, int64_t itemsize, int64_t tensors, int64_t alignment, Gpu gpu) {
  GpuPlan plan{};
  plan.planes = inner > 1 || channels == 1;
  if (channels == 1) {  // one plane
    inner *= outer;
    outer = 1;
  }
  const int64_t row = plan.planes ? inner : channels;
  const auto fits = [&](int64_t vector) { return row % vector == 0 && alignment % (vector * itemsize) == 0; };
  const int64_t widest = 16 / itemsize;
  plan.vector = static_cast<int>(fits(widest) ? widest : (itemsize == 2 && fits(4) ? 4 : 1));
  Walk& walk = plan.walk;
  walk = {channels, inner, 1, outer, channels, 1, 0, 1, 1};
  if (plan.planes) {
    walk.per_plane = inner / plan.vector;
    walk.items = outer * walk.per_plane;
  } else {
    while (walk.columns < kMostColumns && walk.columns * plan.vector < channels) {
      walk.columns *= 2;
    }
    walk.width = walk.columns * plan.vector;
    walk.groups = ceil_div(channels, walk.width);
  }
  const int64_t bytes = walk.items * walk.columns * plan.vector * itemsize;  // of a group of one tensor
  const int64_t room = gpu.shared - kStaticShared;
  // A block takes at least what keeps a warp busy; more blocks than that until they fill the device.
  const int64_t most = std::max<int64_t>(1, walk.items * walk.columns / (32 * kItemsPerThread));
  const int64_t wanted = std::min(most, ceil_div(2 * gpu.processors, walk.groups));
  int64_t cluster = 1;
  while (gpu.clusters && cluster < kMostCluster && (cluster < wanted || ceil_div(bytes, cluster) * tensors > room)) {
    cluster *= 2;
  }
  const int64_t per_block = ceil_div(walk.items, cluster);
  const int64_t held = per_block * walk.columns * plan.vector * itemsize * tensors;
  const bool filled = gpu.clusters || cluster >= wanted;  // one block a group may leave a device idle
  plan.cluster = held <= room && filled ? static_cast<int>(cluster) : 0;
  walk.parts = plan.cluster != 0 ? cluster : std::clamp<int64_t>(bytes / kLeastPart, 1, std::min(wanted, kMostParts));
  walk.per_part = ceil_div(walk.items, walk.parts);
  plan.threads = threads_for(walk.per_part, walk.columns);
  // each thread holds what it reads itself
  const int64_t rows = ceil_div(walk.per_part, plan.threads / walk.columns) * (plan.threads / walk.columns);
  plan.dynamic = plan.cluster != 0 ? rows * walk.columns * plan.vector * itemsize * tensors : 0;
  if (plan.dynamic > room) {
    plan.cluster = 0;
    plan.dynamic = 0;
  }
  return plan;
}

}  // namespace fastgan::batch_norm_act
