// The image maps by the direct method, for each instruction set.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/parallel.h"
#include "common/workspace.h"
#include "conv_transpose2d/launch.h"
#include "conv_transpose2d/plan.h"

#define FASTGAN_EACH_ISA "conv_transpose2d/direct_all.inc"
#include "common/each_isa.h"

namespace fastgan {

void direct_image(const ImageProblem& problem) {
  FASTGAN_PICK(direct_image)(problem);
}

void columns_image(const ImageProblem& problem) {
  FASTGAN_PICK(columns_image)(problem);
}

void streamed_image(const ImageProblem& problem) {
  FASTGAN_PICK(streamed_image)(problem);
}

}  // namespace fastgan
