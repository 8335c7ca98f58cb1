"""Where in the data and in the dice a training is."""

import torch

from fastgan.training.draws import Draws
from tests.training.runs import config_of, noise_set


def draws(**options: object) -> Draws:
    return Draws(config_of(model="cgan", batch_size=8, **options), noise_set(42), z_dim=5, conditional=True)


def test_epochs_and_shapes() -> None:
    """42 images make five batches of 8; two images are left out of each epoch."""
    draw = draws()
    epochs = []
    for _ in range(11):
        real, z, (labels,) = draw()
        assert real.shape == (8, 1, 28, 28)
        assert real.is_contiguous(memory_format=torch.channels_last)
        assert z.shape == (8, 5)
        assert labels.shape == (8,)
        epochs.append(draw.epoch)
    assert epochs == [1] * 5 + [2] * 5 + [3]


def test_an_unconditional_model_gets_no_labels() -> None:
    assert Draws(config_of(), noise_set(), 5, conditional=False)()[2] == ()


def test_every_position_can_be_taken_up_again() -> None:
    """Before the first batch, in an epoch, at its end, in the next one."""
    whole = draws()
    batches = [whole() for _ in range(12)]
    for position in range(12):
        first = draws()
        for _ in range(position):
            first()
        again = draws(seed=99)  # whatever it would have drawn
        again.load_state_dict(first.state_dict())
        for real, z, (labels,) in batches[position:]:
            again_real, again_z, (again_labels,) = again()
            assert torch.equal(real, again_real)
            assert torch.equal(z, again_z)
            assert torch.equal(labels, again_labels)
        assert again.epoch == whole.epoch
