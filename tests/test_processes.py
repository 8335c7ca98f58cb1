"""The same bits in a forked process, in a spawned one, in DataLoader's workers and in two Python threads at once."""

from __future__ import annotations

import copy
import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import fastgan
from tests.workloads import NAMES, Networks, digest, networks, step, work

REPEATS = 40
#: Python 3.12 and later warn of every fork beside threads, and torch has threads.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
on_cpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="CUDA does not survive a fork; these workers are the CPU's"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in DataLoader's workers; some sums depend on the number of threads (tests/test_determinism.py)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def everything() -> str:
    """All functions, forward and backward."""
    return digest([tensor for name in NAMES for tensor in work(name)])


def send_everything(queue: multiprocessing.Queue) -> None:
    """What a child does. One thread: OpenMP's do not live on in a forked child, which would wait for them for ever."""
    torch.set_num_threads(1)
    queue.put(everything())


def send_step(queue: multiprocessing.Queue, model: Networks) -> None:
    """A step with a model that came by pickle; its buffers, which move, too."""
    torch.set_num_threads(1)
    queue.put((type(model.generator[1]).__name__, digest([*step(model), *model.buffers()])))


def from_child(context: str, target, *args):
    """What ``target`` puts in the queue that is its first argument, run in a process of its own."""
    start = multiprocessing.get_context(context)
    queue = start.Queue()
    process = start.Process(target=target, args=(queue, *args))
    process.start()
    try:
        answer = queue.get(timeout=120)
        process.join(60)
        assert process.exitcode == 0
    finally:
        if process.is_alive():
            process.kill()
    return answer


@on_cpu
@forks
def test_a_forked_process_after_use():
    torch.set_num_threads(2)
    everything()
    torch.set_num_threads(1)
    before = everything()
    assert from_child("fork", send_everything) == before
    assert everything() == before


@on_cpu
def test_a_spawned_process_gets_the_model_by_pickle():
    model = networks()
    step(model)  # its running statistics have moved
    twin = copy.deepcopy(model)  # torch's pickle shares memory: the child's step moves the model's buffers
    expected = digest([*step(twin), *twin.buffers()])
    assert from_child("spawn", send_step, model) == ("BatchNormAct2d", expected)


class Steps(Dataset):
    """Item i: a training step's loss and gradients on batch i, computed where the item is asked for."""

    def __init__(self) -> None:
        self.model = networks()

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return step(self.model, index)


@on_cpu
@forks
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader(context):
    data = Steps()
    serial = [data[index] for index in range(len(data))]
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=context)
    items = list(loader)
    assert [digest(item) for item in items] == [digest(item) for item in serial]
    assert len({digest(item) for item in items}) == len(data)


def in_threads(*jobs) -> None:
    """Runs jobs at once, each in a thread; what one raises is raised here."""
    errors = []

    def run(job) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_two_threads_call_the_same_layers(device):
    """Each its own batches, forward and backward. The running statistics are shared: a race, as torch's are, but a
    training step does not read them, and every update happens."""
    model = networks(device)
    expected = [digest(step(model, repeat)) for repeat in range(2 * REPEATS)]
    before = int(model.generator[1].num_batches_tracked)
    barrier = threading.Barrier(2)

    def job(first: int) -> None:
        barrier.wait()
        for repeat in range(first, 2 * REPEATS, 2):
            assert digest(step(model, repeat)) == expected[repeat], f"batch {repeat}"

    in_threads(lambda: job(0), lambda: job(1))
    assert int(model.generator[1].num_batches_tracked) > before
    for name, buffer in model.named_buffers():
        assert buffer.isfinite().all(), name


def test_two_threads_in_eval_mode_change_no_buffer(device):
    model = networks(device)
    step(model)
    model.eval()
    buffers = digest(list(model.buffers()))
    expected = digest(step(model))

    def job() -> None:
        for _ in range(REPEATS):
            assert digest(step(model)) == expected

    in_threads(job, job)
    assert digest(list(model.buffers())) == buffers


def test_a_forced_backend_holds_for_the_whole_process(device):
    """Documented: autograd runs backward passes on threads of its own."""
    loss = fastgan.functional.binary_cross_entropy_with_logits
    with fastgan.use_backend("reference"), fastgan.dispatch.trace() as calls:
        in_threads(lambda: loss(torch.zeros(3, device=device), 1.0))
    assert calls == [("bce_with_logits", "reference")]
