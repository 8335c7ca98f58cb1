// The Winograd method, for each instruction set.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/parallel.h"
#include "common/workspace.h"
#include "conv_transpose2d/launch.h"
#include "conv_transpose2d/winograd_plan.h"

#define FASTGAN_EACH_ISA "conv_transpose2d/winograd_all.inc"
#include "common/each_isa.h"

namespace fastgan {

void winograd_image(const ImageProblem& problem) {
  if (!FASTGAN_PICK(winograd_image)(problem)) {
    direct_image(problem);
  }
}

void winograd_weight(const WeightProblem& problem) {
  FASTGAN_PICK(winograd_weight)(problem, torch::stable::get_num_threads());
}

}  // namespace fastgan
