// What a call computes before its loops start: how the work is cut. Compiled once, not per
// instruction set; `panel` is that one's number of columns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "conv_transpose2d/problem.h"
#include "conv_transpose2d/taps.h"

namespace fastgan {

constexpr int64_t kPackedFloats = 1 << 19;  // 2 MB of packed weights at a time
constexpr int64_t kChunkFloats = 1 << 15;   // 128 KB of unfolded pixels at a time

// One run of products: `length` consecutive floats of a row of A meet `length` consecutive rows of a packed panel.
struct Run {
  int64_t a;  // offset from the row's own
  int64_t b;  // offset from the panel's start
  int64_t length;
};

// How many items make a thread worth waking.
inline int64_t grain(int64_t work_per_item, int64_t enough) {
  return std::max<int64_t>(1, enough / std::max<int64_t>(1, work_per_item));
}

// One pass of the direct method (direct.inc).
struct DirectPlan {
  static constexpr int64_t kMostFloats = 1 << 16;  // 256 KB of input, or of one output panel, at a time

  struct Class {
    const AxisClass* row;
    const AxisClass* column;
    std::vector<Run> runs;
  };

  // rows: those that one call of the innermost loop takes.
  DirectPlan(const ImageProblem& problem, int64_t rows_together, int64_t panel, bool in_place, bool out_in_place)
      : in_place(in_place), out_in_place(out_in_place) {
    const Shape& s = problem.shape;
    const bool up = problem.transposed;
    in_channels = up ? s.cs : s.cb;
    out_channels = up ? s.cb : s.cs;
    in_h = up ? s.h.small : s.h.big;
    in_w = up ? s.w.small : s.w.big;
    out_h = up ? s.h.big : s.h.small;
    out_w = up ? s.w.big : s.w.small;
    rows = up ? transposed_classes(s.h) : strided_classes(s.h);
    columns = up ? transposed_classes(s.w) : strided_classes(s.w);
    slots_h = tap_slots(s.h, up);
    slots_w = tap_slots(s.w, up);
    tap_floats = in_channels * panel;
    if (tap_floats % 1024 == 0) {
      tap_floats += panel;  // taps a power of two apart would compete for the same lines of the cache
    }
    panel_floats = s.taps() * tap_floats;
    input = in_place ? problem.input : View{nullptr, Element::float32, in_h * in_w * in_channels, 1, in_w * in_channels, in_channels};
    output = out_in_place ? problem.output : View{nullptr, Element::float32, out_h * out_w * panel, 1, out_w * panel, panel};
    find_images(s.batch, rows_together, panel);
    panels = (out_channels + panel - 1) / panel;
    panels_per_pass = std::max<int64_t>(1, std::min(panels, kPackedFloats / std::max<int64_t>(1, panel_floats)));
    find_runs(s.w.kernel, panel);
    for (const Class& each : classes) {
      for (const Run& run : each.runs) {
        products += run.length * each.row->count * each.column->count;
      }
    }
    products *= images * panel;
  }

  bool in_place, out_in_place;  // the tensors' own memory is read and written; otherwise a chunk's buffer is
  int64_t in_channels, out_channels, in_h, in_w, out_h, out_w;  // of one group
  std::vector<AxisClass> rows, columns;
  std::vector<int64_t> slots_h, slots_w;
  View input, output;       // what the products read and write
  int64_t images, chunks;   // images per chunk
  int64_t panels, panels_per_pass, panel_floats, tap_floats;
  int64_t products = 0;     // multiplications of one chunk and panel
  std::vector<Class> classes;

 private:
  // As many images as fit, or fewer where that leaves fewer incomplete calls of the innermost loop.
  void find_images(int64_t batch, int64_t rows_together, int64_t panel) {
    const int64_t in_floats = std::max<int64_t>(1, in_h * in_w * in_channels), out_floats = out_h * out_w * panel;
    const int64_t most = std::clamp<int64_t>(std::min(kMostFloats / in_floats, kMostFloats / out_floats), 1, std::max<int64_t>(1, batch));
    constexpr int64_t kLeastRows = 4;  // fewer take as long: the sums wait for each other
    const auto cost = [&](int64_t count) {
      int64_t all = 0;
      for (const AxisClass& row : rows) {
        for (const AxisClass& column : columns) {
          const int64_t pixels = count * row.count * column.count, rest = pixels % rows_together;
          const int64_t taken = pixels - rest + (rest == 0 ? 0 : std::max(rest, kLeastRows));
          all += taken * static_cast<int64_t>(row.taps.size() * column.taps.size());
        }
      }
      return all;
    };
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int64_t each = most; each >= std::max<int64_t>(1, most / 2); --each) {
      const int64_t whole = batch / each, total = whole * cost(each) + cost(batch % each);
      if (total < least) {
        least = total;
        images = each;
      }
    }
    chunks = (batch + images - 1) / images;
  }

  void find_runs(int64_t kernel_w, int64_t panel) {
    for (const AxisClass& row : rows) {
      for (const AxisClass& column : columns) {
        Class found = {&row, &column, {}};
        for (const AxisTap& y : row.taps) {
          for (const AxisTap& x : column.taps) {
            const int64_t a = y.input * input.h + x.input * input.w;
            const int64_t b = (slots_h[y.kernel] * kernel_w + slots_w[x.kernel]) * tap_floats;
            Run* last = found.runs.empty() ? nullptr : &found.runs.back();
            if (last != nullptr && last->a + last->length == a && last->b + last->length * panel == b) {
              last->length += in_channels;
            } else {
              found.runs.push_back({a, b, in_channels});
            }
          }
        }
        classes.push_back(std::move(found));
      }
    }
  }
};

// The weight gradient (weight.inc): a product over pixels and images. Rows are channels of the small image, columns those of
// the big one; both are packed by chunks of images, the images innermost, so that a tap's products are long runs.
struct WeightPlan {
  static constexpr int64_t kChunkPixels = 256;         // small pixels of a chunk: a panel of rows stays in the L1 cache
  static constexpr int64_t kMostSums = 1 << 18;        // 1 MB of sums per thread
  static constexpr int64_t kMostPacked = 3 << 17;      // 1.5 MB of packed rows per thread

  // all_columns: a task is not given a part of the columns.
  WeightPlan(const Shape& s, int64_t rows, int64_t columns, int64_t threads, bool all_columns) {
    const int64_t pixels = std::max<int64_t>(1, s.h.small * s.w.small);
    row_panels = (s.cs + rows - 1) / rows;
    panels = (s.cb + columns - 1) / columns;
    phases = std::min(s.w.stride, s.w.big);
    phase_w = (s.w.big + phases - 1) / phases;
    big_pixels = s.h.big * phases * phase_w;
    // What limits a chunk: the cache, and the memory for the rows.
    const int64_t most = std::max<int64_t>(1, std::min(kChunkPixels / pixels, kMostPacked / (pixels * s.cs)));
    chunks = (s.batch + most - 1) / most;
    images = chunks == 0 ? 0 : (s.batch + chunks - 1) / chunks;
    const int64_t tile = rows * columns * s.taps();
    // Cut the columns first: each cut of the columns packs all rows again.
    const int64_t panel_tasks =
        all_columns ? 1 : std::min(panels, std::max(threads, (panels * row_panels * tile + kMostSums - 1) / kMostSums));
    panels_per_task = (panels + panel_tasks - 1) / panel_tasks;
    const int64_t row_tasks = std::min(
        row_panels,
        std::max((threads + panel_tasks - 1) / panel_tasks, (panels_per_task * row_panels * tile + kMostSums - 1) / kMostSums));
    rows_per_task = (row_panels + row_tasks - 1) / row_tasks;
    column_tasks = (panels + panels_per_task - 1) / panels_per_task;
    tasks = column_tasks * ((row_panels + rows_per_task - 1) / rows_per_task);
    for (int64_t k = 0; k < s.h.kernel; ++k) {
      ranges_h.push_back(tap_range(s.h, k));
    }
    for (int64_t k = 0; k < s.w.kernel; ++k) {
      ranges_w.push_back(tap_range(s.w, k));
    }
  }

  int64_t images, chunks;
  int64_t row_panels, panels;               // panels of rows (small channels) and of columns (big channels)
  int64_t panels_per_task, rows_per_task;   // of either
  int64_t column_tasks, tasks;
  int64_t phases, phase_w, big_pixels;      // the big image's columns are stored by phase: column o at (o % phases, o / phases)
  std::vector<TapRange> ranges_h, ranges_w;
};

// The method for few channels of the big image (columns.inc): a small pixel's patch of the big image, all taps times
// channels, is one row of a matrix.
struct ColumnsPlan {
  ColumnsPlan(const Shape& s, int64_t panel)
      : columns(s.taps() * s.cb),
        panels((columns + panel - 1) / panel),
        stamp_h((s.h.small - 1) * s.h.stride + (s.h.kernel - 1) * s.h.dilation + 1),
        stamp_w((s.w.small - 1) * s.w.stride + (s.w.kernel - 1) * s.w.dilation + 1),
        first_h(std::max<int64_t>(0, -s.h.padding)),
        first_w(std::max<int64_t>(0, -s.w.padding)),
        count_h(std::max<int64_t>(0, std::min(s.h.big, stamp_h - s.h.padding) - first_h)),
        count_w(std::max<int64_t>(0, std::min(s.w.big, stamp_w - s.w.padding) - first_w)) {
    const int64_t image = s.h.small * s.w.small * std::max(s.cs, panels * panel);
    const int64_t most = std::max<int64_t>(1, kChunkFloats / image);
    chunks = (s.batch + most - 1) / most;
    images = (s.batch + chunks - 1) / chunks;
    chunks = (s.batch + images - 1) / images;
    // The last few floats are read, and never used, by vectors that reach beyond their end.
    stamp_floats = stamp_h * stamp_w * s.cb + 16;
  }

  int64_t columns, panels;
  int64_t stamp_h, stamp_w, stamp_floats;  // one image with all that its stamps reach, the padding included
  int64_t first_h, first_w, count_h, count_w;  // the part of the big image that they reach
  int64_t images, chunks;
};

}  // namespace fastgan
