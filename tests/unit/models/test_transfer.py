"""What is sent to a GPU is pinned first, and whole: a view would be copied through memory that makes the host wait."""

import torch

from rlhf.models.transfer import to_device


def test_on_a_cpu_it_is_the_tensor_itself():
    tensor = torch.arange(6)
    assert to_device(tensor, torch.device("cpu")) is tensor


def test_what_is_pinned_is_contiguous(monkeypatch):
    pinned, sent = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *given, **named: sent.append((given, named)) or self)
    view = torch.arange(12).view(3, 4)[:, :2]
    assert not view.is_contiguous()
    device = torch.device("cuda")
    assert torch.equal(to_device(view, device), view)
    assert [each.is_contiguous() for each in pinned] == [True]
    assert sent == [((device,), {"non_blocking": True})]
