// Loops whose items are shared out while they run.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace fastgan {

// f(begin, end) for parts of [0, items), on torch's threads. A thread that is done takes a part of what is left, a large one at first
// and smaller ones later: torch's own parallel_for gives each thread one fixed part, and all wait for the thread that another program
// slows down. An item's result must not depend on the part that it is in. At least `least` items make a part.
template <typename F>
void share_out(int64_t items, int64_t least, const F& f) {
  least = std::max<int64_t>(1, least);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), (items + least - 1) / least);
  if (threads <= 1) {
    if (items > 0) {
      f(int64_t{0}, items);
    }
    return;
  }
  std::atomic<int64_t> taken = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t begin = taken; begin < items;) {
      const int64_t end = std::min(items, begin + std::max(least, (items - begin) / (2 * threads)));
      if (taken.compare_exchange_weak(begin, end)) {
        f(begin, end);
        begin = taken;
      }
    }
  });
}

}  // namespace fastgan
