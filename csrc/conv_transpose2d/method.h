// Which method runs a problem.
#pragma once

#include <algorithm>

#include "conv_transpose2d/launch.h"

namespace fastgan {

constexpr int64_t kMostColumns = 1 << 18;  // floats of one image's unfolded matrix, and of its stamp
constexpr int64_t kMostImage = 1 << 18;    // floats of an image that the Winograd method may have to copy
constexpr int64_t kFewPixels = 16;         // of all images together
constexpr int64_t kMostChannels = 512;     // of the Winograd method, whose panels hold up to 64 values a channel

// Whether the stamps of columns.inc reach every big pixel, and fit the scratch memory.
inline bool stamps_fit(const Shape& s) {
  int64_t stamps = s.cb;
  for (const Axis& axis : {s.h, s.w}) {
    const int64_t stamp = (axis.small - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
    if (axis.padding < 0 || stamp - axis.padding < axis.big || stamp > kMostColumns) {
      return false;
    }
    stamps *= stamp;
  }
  return stamps <= kMostColumns;
}

// Whether all taps of all channels of the big image make up few columns, one tap's less than half a panel, and fit the scratch memory.
inline bool few_columns(const Shape& s) {
  const int64_t pixels = s.h.small * s.w.small, columns = s.cb * s.taps();
  return s.cb < 8 && columns <= 128 && s.cs >= 4 && pixels > 0 && stamps_fit(s) &&
      pixels * ((columns + 31) / 32 * 32) <= kMostColumns;
}

// Whether the products with a whole row of the weight take less time than packing it for the other methods.
inline bool few_pixels(const ImageProblem& p) {
  const Shape& s = p.shape;
  const View& w = p.weight;
  const int64_t pixels = s.batch * s.h.small * s.w.small, columns = s.cb * s.taps();
  const bool neighbours = (w.w == 1 && w.h == s.w.kernel && w.c == s.taps()) ||
      (w.c == 1 && w.w == s.cb && w.h == s.w.kernel * s.cb);
  return p.transposed && neighbours && columns % 16 == 0 && pixels > 0 &&
      pixels <= kFewPixels && pixels * columns <= kMostColumns && stamps_fit(s);
}

// Whether the Winograd method takes the shape, of at least `pixels` small pixels in all, and does less work: not where most taps of the
// direct one fall outside the image.
inline bool winograd_pays(const Shape& s, int64_t pixels) {
  for (const Axis& axis : {s.h, s.w}) {
    if (axis.kernel != 4 || axis.stride != 2 || axis.padding != 1 || axis.dilation != 1 || axis.small < 4) {
      return false;
    }
  }
  return std::min(s.cs, s.cb) >= 16 && std::max(s.cs, s.cb) <= kMostChannels && s.batch * s.h.small * s.w.small >= pixels &&
      s.h.small * s.w.small * s.cs <= kMostImage && s.h.big * s.w.big * s.cb <= kMostImage;
}

// For an image map, which transforms whole images (and leaves those of extreme proportions to the direct method after all), and packs up
// to four times the weight: it wants many pixels. Small from big, four pixels of an axis take nearly as many products as directly.
inline bool winograd_image_pays(const ImageProblem& p) {
  const Shape& s = p.shape;
  const int64_t pixels = s.h.small * s.w.small, least = p.transposed ? 4 : 5;
  const int64_t side = std::max({s.h.small, s.w.small, (s.h.big + 1) / 2, (s.w.big + 1) / 2});
  return winograd_pays(s, 256) && std::min(s.h.small, s.w.small) >= least && side <= kMostSide && pixels <= 1 << 10 &&
      pixels * s.cs <= 3 << 16;
}

// For the weight gradient: images of many tiles would be copied once per block of tiles.
inline bool winograd_weight_pays(const WeightProblem& p) {
  const auto in_place = [](const View& view) { return view.element == Element::float32 && view.c == 1; };
  return winograd_pays(p.shape, 64) && ((in_place(p.small) && in_place(p.big)) || p.shape.h.small * p.shape.w.small <= 1024);
}

// At stride 1 the two images may change places: small pixel o - (padding' - k' dilation) meets big pixel o, with the taps in
// reverse order, k' = K - 1 - k, and padding' = dilation (K - 1) - padding.
inline Shape exchanged(const Shape& s) {
  const auto axis = [](const Axis& a) {
    return Axis{a.big, a.small, a.kernel, 1, a.dilation * (a.kernel - 1) - a.padding, a.dilation};
  };
  return {s.batch, s.groups, s.cb, s.cs, axis(s.h), axis(s.w)};
}

inline View exchanged(const View& weight, const Shape& s) {
  const int64_t last = (s.h.kernel - 1) * weight.h + (s.w.kernel - 1) * weight.w;
  const int64_t bytes = weight.element == Element::float32 ? 4 : 2;
  return {static_cast<char*>(weight.data) + last * bytes, weight.element, weight.c, weight.n, -weight.h, -weight.w};
}

// Few channels of the small image, at stride 1: so are those of the big image once they have changed places.
inline bool exchange_pays(const Shape& s) {
  return s.h.stride == 1 && s.w.stride == 1 && s.groups == 1 && s.cs < 8 && s.cb >= 8 && few_columns(exchanged(s));
}

inline void run(ImageProblem problem) {
  const Shape shape = problem.shape;
  if (few_columns(shape)) {
    columns_image(problem);
  } else if (exchange_pays(shape)) {
    problem.shape = exchanged(shape);
    problem.weight = exchanged(problem.weight, shape);
    problem.transposed = !problem.transposed;
    columns_image(problem);
  } else if (few_pixels(problem)) {
    streamed_image(problem);
  } else if (winograd_image_pays(problem)) {
    winograd_image(problem);
  } else {
    direct_image(problem);
  }
}

inline void run(WeightProblem problem) {
  const Shape shape = problem.shape;
  if (few_columns(shape)) {
    columns_weight(problem);
  } else if (exchange_pays(shape)) {
    columns_weight({exchanged(shape), problem.big, problem.small, exchanged(problem.weight, shape)});
  } else if (winograd_weight_pays(problem)) {
    winograd_weight(problem);
  } else {
    direct_weight(problem);
  }
}

}  // namespace fastgan
