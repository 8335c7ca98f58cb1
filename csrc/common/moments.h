// What a reduction keeps of a part of the data, and how two parts become one. Host and device, no torch header.
#pragma once

#include "common/host_device.h"

namespace fastgan {

// Of `count` values their mean and the sum of squared deviations from it.
struct Moments {
  double count, mean, m2;
};

// Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
FASTGAN_HOST_DEVICE Moments merged(const Moments& a, const Moments& b) {
  if (a.count == 0 || b.count == 0) {
    return a.count == 0 ? b : a;
  }
  const double count = a.count + b.count, share = b.count / count, off = b.mean - a.mean;
  return {count, a.mean + off * share, a.m2 + b.m2 + off * off * (a.count * share)};
}

struct Sums {
  double first, second;
};

FASTGAN_HOST_DEVICE Sums merged(const Sums& a, const Sums& b) {
  return {a.first + b.first, a.second + b.second};
}

// One value after another (Welford 1962), relative to the first of them: what rounding loses has the size of the deviations,
// not of the mean.
template <typename C, int kLanes>
struct Welford {
  C reference[kLanes] = {}, mean[kLanes] = {}, m2[kLanes] = {};
  int count = 0;

  FASTGAN_HOST_DEVICE void add(const C (&values)[kLanes]) {
    ++count;
    const C share = C(1) / static_cast<C>(count);
    for (int lane = 0; lane < kLanes; ++lane) {
      reference[lane] = count == 1 ? values[lane] : reference[lane];
      const C value = values[lane] - reference[lane], off = value - mean[lane];
      mean[lane] += off * share;
      m2[lane] += off * (value - mean[lane]);
    }
  }

  FASTGAN_HOST_DEVICE Moments lane(int lane) const {
    return {static_cast<double>(count), static_cast<double>(reference[lane]) + static_cast<double>(mean[lane]),
            static_cast<double>(m2[lane])};
  }
};

}  // namespace fastgan
