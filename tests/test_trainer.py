"""What is added to Trainer: the loss, the order of images, the weights of classes; each against a hand count."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.fitting.trainer import EpochSampler, balanced_weights, cross_entropy

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
LABELS = torch.tensor([0, 1, 0])
EACH = -torch.log_softmax(LOGITS, dim=1)[range(3), LABELS]  # 0.127, 0.693, 1.313


def loss(weights=None, smoothing=0.0, items=None):
    return cross_entropy(weights, smoothing)(SimpleNamespace(logits=LOGITS), LABELS, num_items_in_batch=items).item()


def test_the_loss_is_the_mean_over_the_images_of_the_whole_step():
    assert loss() == pytest.approx(EACH.mean().item())
    assert loss(items=6) == pytest.approx(EACH.sum().item() / 6)  # three of six images: the rest is in another batch


def test_weights_multiply_each_image_and_the_mean_is_still_over_images():
    weights = torch.tensor([0.75, 1.5])
    assert loss(weights) == pytest.approx((0.75 * EACH[0] + 1.5 * EACH[1] + 0.75 * EACH[2]).item() / 3)


def test_smoothing_mixes_in_the_mean_over_classes():
    uniform = -torch.log_softmax(LOGITS, dim=1).mean(dim=1)
    assert loss(smoothing=0.1) == pytest.approx((0.9 * EACH + 0.1 * uniform).mean().item())


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 6 + [1] * 3 + [2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert balanced_weights([6, 3, 1]).tolist() == pytest.approx(expected)


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = EpochSampler(50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(1)
    first = order(0, 3)
    torch.manual_seed(2)
    assert order(0, 3) == first
    assert sorted(first) == [(3, row) for row in range(50)]
    assert [row for _, row in order(0, 4)] != [row for _, row in first]
    assert order(1, 3) != first


@pytest.mark.skipif(not hasattr(os, "setpgid"), reason="this system has no groups of processes")
def test_a_worker_is_in_a_group_of_its_own_and_can_be_ended():
    from functools import partial

    from training.fitting.trainer import _undisturbed

    loader = torch.utils.data.DataLoader(list(range(4)), num_workers=1, worker_init_fn=partial(_undisturbed, None))
    iterator = iter(loader)
    next(iterator)
    (worker,) = iterator._workers
    assert os.getpgid(worker.pid) == worker.pid != os.getpgrp()
    torch.utils.data._utils.signal_handling._remove_worker_pids(id(iterator))
    iterator._worker_pids_set = False  # or torch would take its end for a crash
    worker.terminate()
    worker.join(20)
    assert not worker.is_alive()
