// How the Winograd method cuts its work (winograd_image.inc, winograd_weight.inc). Compiled once, as plan.h is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "conv_transpose2d/plan.h"

namespace fastgan {

// A few neighbouring pixels of one axis and phase. `kind` values, combinations of as many pixels, meet one transformed tap each and
// make kind - 1 outputs (one: kind 1).
struct Piece {
  int64_t first;      // pixel
  int kind;           // 1 to 4
  int64_t value;      // the place of its first value among all of the axis
  int64_t output[2];  // its first output of each phase, or -1: none
};

// One axis of `size` small pixels, in pieces of four pixels as long as they fit and one of two or three.
//
// Up, both phases of the output meet the same pixels x: y[i] = x[i - 1] g0 + x[i] g1 in phase 0, whose first output has one tap inside,
// and y[i] = x[i] g0 + x[i + 1] g1 in phase 1, whose last one has: a product each, where a piece would take more.
//
// Down, y[i] = x[i] g0 + x[i + 1] g1 summed over both phases of the input. Their products are summed before they are stored. Phase 1 has
// no pixel for the last tap of a piece of two.
struct WinogradAxis {
  WinogradAxis(int64_t size, bool up) : size(size), pixels(up ? size : size + 1) {
    if (up) {
      add(0, 1, 0, -1);
    }
    for (int64_t at = 0, kind; at + 1 < pixels; at += kind - 1) {
      kind = std::min<int64_t>(4, pixels - at);
      add(at, static_cast<int>(kind), up ? at + 1 : at, at);
    }
    if (up) {
      add(size - 1, 1, -1, size - 1);
    }
    values = pieces.back().value + pieces.back().kind;
    products = up ? values - 1 : values;
    constexpr int kTap[5][4] = {{}, {}, {0, 3}, {0, 1, 3}, {0, 1, 2, 3}};
    for (const Piece& piece : pieces) {
      for (int i = 0; i < piece.kind; ++i) {
        const int tap = piece.kind > 1 ? kTap[piece.kind][i] : piece.output[0] >= 0 ? 3 : 0;
        if (!up) {
          met[piece.kind == 2 && i == 1 ? 1 : 0][tap].push_back(piece.value + i);
          continue;
        }
        for (int phase = 0; phase < 2; ++phase) {
          if (piece.output[phase] >= 0) {
            met[phase][tap].push_back(piece.value + i - phase);
          }
        }
      }
    }
  }

  int64_t size, pixels, values;
  int64_t products;                // that are stored: up, of one phase, all values but the other one's own
  std::vector<Piece> pieces;
  std::vector<int64_t> met[2][4];  // the products of each transformed tap: up, by phase; down, of both phases, of phase 0 alone

 private:
  void add(int64_t first, int kind, int64_t output_0, int64_t output_1) {
    pieces.push_back({first, kind, pieces.empty() ? 0 : pieces.back().value + pieces.back().kind, {output_0, output_1}});
  }
};

// An image map, kernel 4, stride 2, padding 1. A block is some images.
struct WinogradPlan {
  static constexpr int64_t kBlockFloats = 1 << 16;    // 256 KB of transformed input
  static constexpr int64_t kProductFloats = 1 << 16;  // 256 KB of products
  static constexpr int64_t kMostFloats = 1 << 20;     // 4 MB
  static constexpr int kTaps = 64;                    // (phase, transformed tap) of both axes

  WinogradPlan(const ImageProblem& problem, int64_t rows, int64_t panel, int64_t threads)
      : height(size(problem.shape.h), problem.transposed), width(size(problem.shape.w), problem.transposed) {
    const Shape& s = problem.shape;
    const bool up = problem.transposed;
    in_channels = up ? s.cs : s.cb;
    out_channels = up ? s.cb : s.cs;
    in_h = up ? s.h.small : s.h.big;
    in_w = up ? s.w.small : s.w.big;
    out_h = up ? s.h.big : s.h.small;
    out_w = up ? s.w.big : s.w.small;
    phase_values = height.values * width.values;
    image_values = (up ? 1 : 4) * phase_values;
    phase_products = height.products * width.products;
    image_products = (up ? 4 : 1) * phase_products;
    value_floats = (in_channels + panel - 1) / panel * panel;
    value_floats += value_floats % 128 == 0 ? panel : 0;  // a power of two would compete for lines of the cache
    tap_floats = in_channels * panel + panel;
    find_products(up);
    panel_floats = taps * tap_floats + panel;
    panels = (out_channels + panel - 1) / panel;
    panels_per_pass = std::max<int64_t>(1, std::min(panels, 2 * kPackedFloats / panel_floats));
    find_images(s.batch, rows, threads);
    blocks = (s.batch + images - 1) / images;
    together = std::clamp<int64_t>(kProductFloats / (images * image_products * panel), 1, 4);
    in_floats = (in_h * in_w * in_channels + panel - 1) / panel * panel;
    rows_floats = 4 * width.pixels * value_floats;
    out_floats = (up ? 4 : 1) * height.size * width.size * panel;
  }

  // Products that meet the same transformed taps: `y` times `x`, each the sum of its runs.
  struct Product {
    const std::vector<int64_t>*y, *x;
    int phase_y, phase_x;  // of the output
    std::vector<Run> runs;
  };

  int64_t in_channels, out_channels, in_h, in_w, out_h, out_w;  // of one group
  WinogradAxis height, width;
  int64_t phase_values, image_values;      // transformed pixels, of one phase of the input and of an image
  int64_t phase_products, image_products;  // of one phase of the output and of an image
  int64_t value_floats, tap_floats, panel_floats;
  int64_t taps = 0, tap_places[kTaps];  // those that are used, and where they are in a panel, or -1: ((phase, tap) of y, (phase, tap) of x)
  std::vector<Product> all_products;
  int64_t images, blocks;                     // images of a block
  int64_t panels, panels_per_pass, together;  // together: panels that a value meets while it is in the cache
  int64_t in_floats, rows_floats, out_floats;  // scratch for an image as it is, a piece of its rows, the output of one panel

  // Whether one image and one packed panel fit the scratch memory.
  bool fits(int64_t panel) const {
    return std::max(panel_floats, in_floats + rows_floats + out_floats + image_values * value_floats + image_products * panel) <= kMostFloats;
  }

 private:
  // The small pixels that cover both images: the last ones may lie outside either.
  static int64_t size(const Axis& axis) { return std::max(axis.small, (axis.big + 1) / 2); }

  void find_products(bool up) {
    std::fill_n(tap_places, kTaps, -1);
    const auto add_run = [&](Product& to, int phase_y, int tap_y, int phase_x, int tap_x, int64_t value) {
      int64_t& place = tap_places[((phase_y * 4 + tap_y) * 2 + phase_x) * 4 + tap_x];
      place = place < 0 ? taps++ : place;
      to.runs.push_back({value * value_floats, place * tap_floats, in_channels});
    };
    for (int each = 0; each < kTaps; ++each) {
      const int y = each / 32, tap_y = each / 8 % 4, x = each / 4 % 2, tap_x = each % 4;
      Product product = {&height.met[y][tap_y], &width.met[x][tap_x], up ? y : 0, up ? x : 0, {}};
      if (product.y->empty() || product.x->empty()) {
        continue;
      }
      if (up) {  // in phase 1 a product is one place behind its value
        add_run(product, y, tap_y, x, tap_x, y * width.values + x);
      } else {
        for (int phases = 0; phases < 4; ++phases) {
          if ((y == 0 || phases / 2 == 0) && (x == 0 || phases % 2 == 0)) {
            add_run(product, phases / 2, tap_y, phases % 2, tap_x, phases * phase_values);
          }
        }
      }
      all_products.push_back(std::move(product));
    }
  }

  // The number of images, of those that fit, with the fewest incomplete calls of the innermost loop for the busiest thread.
  void find_images(int64_t batch, int64_t rows, int64_t threads) {
    const int64_t fair = std::max<int64_t>(1, (batch + threads - 1) / threads);
    const int64_t most = std::clamp<int64_t>(kBlockFloats / (image_values * value_floats), 1, fair);
    const auto cost = [&](int64_t count) {
      int64_t all = 0;
      for (const Product& each : all_products) {
        const auto calls = (count * static_cast<int64_t>(each.y->size() * each.x->size()) + rows - 1) / rows;
        all += calls * static_cast<int64_t>(each.runs.size());
      }
      return all;
    };
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int64_t each = most; each >= std::max<int64_t>(1, most / 2); --each) {
      const int64_t whole = batch / each, busiest = ((batch + each - 1) / each + threads - 1) / threads;
      const int64_t total = threads == 1 ? whole * cost(each) + cost(batch % each) : busiest * cost(each);
      if (total < least) {
        least = total;
        images = each;
      }
    }
  }
};

struct Tile {
  int64_t image, y, x;
};

// The weight gradient, whose tiles are 2 x 2 small pixels.
struct WinogradWeightPlan {
  static constexpr int64_t kMost = 15 << 16;  // 3.75 MB of packed pixels and sums per thread

  WinogradWeightPlan(const Shape& s, int64_t rows, int64_t panel, int64_t threads)
      : small_h(s.h.small), small_w(s.w.small), big_h(s.h.big), big_w(s.w.big) {
    tiles_h = (small_h + 1) / 2;
    tiles_w = (small_w + 1) / 2;
    tiles = s.batch * tiles_h * tiles_w;
    block = std::min<int64_t>(tiles, s.cs > 256 ? 64 : 128);  // the steps of one run of products
    block_images = (block + tiles_h * tiles_w - 2) / (tiles_h * tiles_w) + 1;
    difference_floats = block * panel + panel;
    row_panels = (s.cs + rows - 1) / rows;
    panels = (s.cb + panel - 1) / panel;
    const int64_t packed = 9 * row_panels * rows * block + 36 * difference_floats;
    const int64_t most = std::max<int64_t>(1, (kMost - packed) / (36 * row_panels * rows * panel));
    panels_per_task = std::min(most, (panels + threads - 1) / threads);
  }

  Tile tile_at(int64_t tile) const {
    return {tile / (tiles_h * tiles_w), tile / tiles_w % tiles_h, tile % tiles_w};
  }

  int64_t small_h, small_w, big_h, big_w;
  int64_t tiles_h, tiles_w, tiles, block, block_images;
  int64_t difference_floats, row_panels, panels, panels_per_task;
};

}  // namespace fastgan
