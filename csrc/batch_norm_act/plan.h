// How a tensor is walked and cut into tasks. A function of its shape alone, so that no result depends on the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "batch_norm_act/block.h"
#include "batch_norm_act/launch.h"

namespace fastgan::batch_norm_act {

// Part of a tensor, in elements.
struct Span {
  int64_t offset;
  int64_t rows;
  int64_t columns;
};

struct Plan {
  int64_t channels;
  int64_t inner;
  bool planes;
  int64_t period;  // elements of a row; where rows are short, several are taken as one
  int64_t rows;    // whole rows
  int64_t rest;    // elements of a shorter last row, 0 if there is none
  int64_t rows_per_task;
  int64_t channels_per_task;
  int64_t row_tasks;  // the shorter last row is one of them
  int64_t channel_tasks;
  bool small;  // not worth a second thread

  // Parameters that a step reads: one per channel or one per column.
  int64_t width() const { return planes ? channels : period; }
  int64_t tasks() const { return row_tasks * channel_tasks; }

  // What the task covers that begins at this channel.
  Span span(int64_t row_task, int64_t channel) const {
    if (rest != 0 && row_task == row_tasks - 1) {
      return {rows * period, 1, rest};
    }
    const int64_t row = row_task * rows_per_task;
    const bool all = channels_per_task == channels;
    const int64_t width = all ? period : std::min(channels_per_task, channels - channel) * inner;
    return {row * period + channel * inner, std::min(rows_per_task, rows - row), width};
  }
};

inline int64_t divide_up(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

inline Plan plan_for(View view) {
  constexpr int64_t kTask = 32768;         // elements: torch's own grain size
  constexpr int64_t kPlane = 32;           // elements from which on a plane is worth its own loop
  constexpr int64_t kShortRow = 256;       // elements; several shorter rows make one
  constexpr int64_t kLongRow = 65536;      // elements; longer rows of planes are cut between channels
  constexpr int64_t kMostColumns = 16384;  // per task: its sums stay in the second-level cache
  constexpr int64_t kMostChannels = 2048;
  constexpr int64_t kRowsOfColumns = 16;   // per task, and as many as follow for planes: what adding up its sums costs
  constexpr int64_t kElementsOfPlanes = 128;

  Plan plan{};
  plan.channels = view.channels;
  if (view.channels == 1) {  // any cut will do
    view = {view.outer * view.inner, 1, 1};
  }
  plan.inner = view.inner;
  plan.planes = view.inner >= kPlane;
  const int64_t row = view.channels * view.inner;
  plan.small = view.outer * row <= kTask;
  if (row == 0 || view.outer == 0) {
    return plan;
  }
  int64_t repeats = 1;
  if (!plan.planes && row % kMostLanes == 0) {
    repeats = divide_up(kShortRow, row);
  } else if (!plan.planes && row <= kShortRow) {
    repeats = kMostLanes * divide_up(kShortRow, kMostLanes * row);  // no vector crosses the end of a row
  }
  repeats = std::min(repeats, view.outer);
  plan.period = repeats * row;
  plan.rows = view.outer / repeats;
  plan.rest = view.outer % repeats * row;

  const int64_t wanted = plan.planes ? std::min(kMostChannels, row > kLongRow ? kTask / view.inner : row)
                                     : (row > kMostColumns ? kMostColumns / view.inner : row);
  plan.channels_per_task = std::clamp<int64_t>(wanted, 1, view.channels);
  const int64_t least = plan.planes ? divide_up(kElementsOfPlanes, view.inner) : kRowsOfColumns;
  const int64_t elements = plan.channels_per_task * view.inner * repeats;
  plan.rows_per_task = std::max(least, divide_up(kTask, elements));
  plan.row_tasks = divide_up(plan.rows, plan.rows_per_task) + (plan.rest != 0);
  plan.channel_tasks = divide_up(view.channels, plan.channels_per_task);
  return plan;
}

}  // namespace fastgan::batch_norm_act
