// The steps of csrc/batch_norm_act/run.cuh, with the launches made in the emulator.
#include "batch_norm_act/run.cuh"

#include "jobs.h"

namespace cuda_emulator {
namespace {

namespace bn = fastgan::batch_norm_act;
using fastgan::Type;
using fastgan::Vector;

struct Launcher {
  uint64_t seed;

  template <typename Kernel, typename... Arguments>
  void launch(Kernel kernel, int64_t blocks, int threads, int cluster, int64_t dynamic, Arguments... arguments) const {
    Launch launch;
    launch.grid.x = static_cast<unsigned>(blocks);
    launch.block.x = static_cast<unsigned>(threads);
    launch.cluster = static_cast<unsigned>(cluster == 0 ? 1 : cluster);
    launch.dynamic_shared = static_cast<size_t>(dynamic);
    launch.seed = seed;
    run(launch, kernel, arguments...);
  }

  void zero(void* memory, int64_t bytes) const { std::memset(memory, 0, static_cast<size_t>(bytes)); }
};

// A vector of channels in double, as the job brings it or as a step fills it.
struct Channels {
  Array<double> array;
  Vector vector;

  explicit Channels(Array<double> values) : array(std::move(values)) { vector = {array.get(), 1, Type::float64}; }
};

template <typename T>
void run_as(Job& job) {
  const auto step = job.word<std::string>();
  if (std::string("train stats eval backward backward_reduce backward_apply").find(step) == std::string::npos) {
    throw std::invalid_argument("no such step: " + step);
  }
  const Launcher launcher{job.word<uint64_t>()};
  const auto outer = job.word<int64_t>(), channels = job.word<int64_t>(), inner = job.word<int64_t>();
  const bn::Gpu gpu{job.word<int64_t>(), job.word<int64_t>(), job.word<int>() != 0};
  bn::Operands<T> o{};
  bn::Statistics s{};
  bn::Gradients d{};
  s.momentum = job.word<double>();
  s.eps = job.word<double>();
  o.relu = job.word<int>() != 0;
  o.slope = job.word<double>();
  o.training = job.word<int>() != 0;
  const auto skipped = job.word<size_t>();
  const bool has_weight = job.word<int>() != 0, has_bias = job.word<int>() != 0, has_running = job.word<int>() != 0;
  const bool backward = step.starts_with("backward"), gives_mean = step == "train" || step == "stats";

  const auto count = static_cast<size_t>(outer * channels * inner), width = static_cast<size_t>(channels);
  const auto vector = [&](bool given) { return Channels(given ? job.array<double>(width) : Array<double>(width)); };
  Array<T> input = job.array<T>(count, skipped), grad_output = job.array<T>(backward ? count : 0, skipped);
  Array<T> output(count, skipped);
  Channels weight = vector(has_weight), bias = vector(has_bias), mean = vector(!gives_mean), rstd = vector(!gives_mean);
  Channels running_mean = vector(has_running), running_var = vector(has_running);
  Channels first = vector(step == "backward_apply"), second = vector(step == "backward_apply");
  o.input = input.get();
  o.grad_output = backward ? grad_output.get() : nullptr;
  o.output = output.get();
  o.weight = has_weight ? weight.vector : Vector{};
  o.bias = has_bias ? bias.vector : Vector{};
  o.mean = mean.vector;
  o.rstd = rstd.vector;
  s.running_mean = has_running ? running_mean.vector : Vector{};
  s.running_var = has_running ? running_var.vector : Vector{};
  s.variance = step == "stats";

  const int64_t alignment = bn::alignment_of({o.input, o.grad_output, o.output});
  const bn::GpuPlan plan = bn::gpu_plan(outer, channels, inner, sizeof(T), backward ? 2 : 1, alignment, gpu);
  Array<double> scratch(static_cast<size_t>(bn::ScratchLayout(plan).bytes() / 8 + 1));
  Machine::now().count_from_zero();
  if (step == "train") {
    bn::run_train(launcher, plan, o, s, scratch.get());
  } else if (step == "stats") {
    bn::run_stats(launcher, plan, o, s, scratch.get());
  } else if (step == "eval") {
    bn::run_evaluate(launcher, plan, o);
  } else if (step == "backward_apply") {
    o.per_centred = first.vector;
    o.per_element = second.vector;
    bn::run_backward_apply(launcher, plan, o);
  } else {
    d.weight = first.vector;
    d.bias = second.vector;
    if (step == "backward_reduce") {
      o.output = nullptr;
    }
    bn::run_backward(launcher, plan, o, d, scratch.get());
  }
  job.answer(output);
  for (Channels* each : {&mean, &rstd, &running_mean, &running_var, &first, &second}) {
    job.answer(each->array);
  }
  Array<int64_t> seen(6);
  const Machine& machine = Machine::now();
  const int64_t values[] = {static_cast<int64_t>(machine.bytes_read()), static_cast<int64_t>(machine.bytes_written()),
                            plan.cluster, plan.walk.parts, plan.threads, plan.vector};
  std::copy(std::begin(values), std::end(values), seen.get());
  job.answer(seen);
}

}  // namespace

void batch_norm_act(Job& job) {
  with_dtype(job, [&](auto* type) { run_as<std::remove_pointer_t<decltype(type)>>(job); });
}

}  // namespace cuda_emulator
