// Answers jobs from its standard input until that ends: "ok <bytes>" and the arrays, or "failure <what>". What a sanitizer
// finds ends the program.
#include <map>
#include <sstream>

#include "jobs.h"

int main() {
  using namespace cuda_emulator;
  const std::map<std::string, void (*)(Job&)> known = {
      {"batch_norm_act", batch_norm_act},
      {"bce_with_logits", bce_with_logits},
      {"bce_with_logits_backward", bce_with_logits_backward},
      {"discriminator_loss", discriminator_loss},
      {"discriminator_loss_backward", discriminator_loss_backward},
      {"fault", fault},
  };
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    Job job(words);
    try {
      const auto found = known.find(job.word<std::string>());
      if (found == known.end()) {
        throw std::invalid_argument("no such job: " + line);
      }
      found->second(job);
      std::cout << "ok " << job.answered().size() << '\n';
      std::cout.write(job.answered().data(), static_cast<std::streamsize>(job.answered().size()));
    } catch (const Failure& failure) {
      std::cout << "failure " << failure.what() << '\n';
    }
    std::cout.flush();
  }
}
