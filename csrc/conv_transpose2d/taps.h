// The geometry along one axis: which taps meet which pixels. No torch header.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "conv_transpose2d/problem.h"

namespace fastgan {

// Output positions along one axis that meet the same taps.
struct AxisTap {
  int64_t kernel;  // k
  int64_t input;   // the input position that the first output position meets through k
};

struct AxisClass {
  int64_t first, step, count;  // output positions
  int64_t input_step;          // from one output position to the next
  std::vector<AxisTap> taps;   // in the order of the input positions
};

// Every output position of the transposed convolution (big from small), by class.
inline std::vector<AxisClass> transposed_classes(const Axis& axis) {
  std::vector<AxisClass> classes;
  for (int64_t phase = 0; phase < std::min(axis.stride, axis.big); ++phase) {
    bool fresh = true;
    for (int64_t o = phase; o < axis.big; o += axis.stride) {
      std::vector<AxisTap> taps;
      for (int64_t k = axis.kernel - 1; k >= 0; --k) {
        const int64_t reach = o + axis.padding - k * axis.dilation;
        if (reach >= 0 && reach % axis.stride == 0 && reach / axis.stride < axis.small) {
          taps.push_back({k, reach / axis.stride});
        }
      }
      const auto same = [](const AxisTap& a, const AxisTap& b) { return a.kernel == b.kernel; };
      if (fresh || !std::equal(taps.begin(), taps.end(), classes.back().taps.begin(), classes.back().taps.end(), same)) {
        classes.push_back({o, axis.stride, 0, 1, taps});
        fresh = false;
      }
      ++classes.back().count;
    }
  }
  return classes;
}

// Every output position of the strided convolution (small from big), by class.
inline std::vector<AxisClass> strided_classes(const Axis& axis) {
  std::vector<AxisClass> classes;
  for (int64_t i = 0; i < axis.small; ++i) {
    std::vector<AxisTap> taps;
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t o = i * axis.stride - axis.padding + k * axis.dilation;
      if (o >= 0 && o < axis.big) {
        taps.push_back({k, o});
      }
    }
    const auto same = [](const AxisTap& a, const AxisTap& b) { return a.kernel == b.kernel; };
    if (classes.empty() || !std::equal(taps.begin(), taps.end(), classes.back().taps.begin(), classes.back().taps.end(), same)) {
      classes.push_back({i, 1, 0, axis.stride, taps});
    }
    ++classes.back().count;
  }
  return classes;
}

// The place of tap k in a packed weight, so that taps which meet neighbouring input pixels lie side by side.
inline std::vector<int64_t> tap_slots(const Axis& axis, bool transposed) {
  std::vector<int64_t> order(axis.kernel), slots(axis.kernel);
  for (int64_t k = 0; k < axis.kernel; ++k) {
    order[k] = k;
  }
  if (transposed) {  // the taps of one phase, the last one first
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      const int64_t phase_a = a * axis.dilation % axis.stride, phase_b = b * axis.dilation % axis.stride;
      return phase_a != phase_b ? phase_a < phase_b : a > b;
    });
  }
  for (int64_t slot = 0; slot < axis.kernel; ++slot) {
    slots[order[slot]] = slot;
  }
  return slots;
}

// The small pixels that meet the big image through one tap, along one axis.
struct TapRange {
  int64_t first, count;  // small pixels
  int64_t big;           // what the first one meets
};

inline TapRange tap_range(const Axis& axis, int64_t k) {
  TapRange range = {0, 0, 0};
  for (int64_t i = 0; i < axis.small; ++i) {
    const int64_t o = i * axis.stride - axis.padding + k * axis.dilation;
    if (o >= 0 && o < axis.big) {
      range = range.count == 0 ? TapRange{i, 1, o} : TapRange{range.first, range.count + 1, range.big};
    }
  }
  return range;
}

}  // namespace fastgan
