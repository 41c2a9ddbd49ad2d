"""One rank of two that exchange gradients: `exchange_rank.py FOLDER cpu` or `cuda`; writes down what each parameter's became."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from rlhf.ppo import exchange
from rlhf.ppo.exchange import Exchange, least_of_all, share_weights
from rlhf.stages.ending import end_in_order


def gradients(rank: int) -> list[torch.Tensor | None]:
    """A rank's own: large, small, of another dtype, not contiguous, missing on rank 1, missing on both."""
    generator = torch.Generator().manual_seed(rank)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    made = [random(600, 500), random(3), random(7, 2), random(5).bfloat16(), random(800, 400).T, random(4)]
    return [*made, random(6) if rank == 0 else None, None]


def while_passing(rank: int, device: torch.device) -> dict[str, object]:
    """Two passes of four layers; the second one's parts begin while it runs, the last ones wherever it stops."""
    exchange.LEAST_BYTES = 0
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4))).to(device)
    inputs = (torch.randn(2, 6) + rank).to(device)
    found: dict[str, object] = {}
    for stops in (False, True):
        layers.zero_grad(set_to_none=True)
        summed = Exchange(list(layers.parameters()))
        layers(inputs).sum().backward()
        found[f"begun before {stops}"] = summed._next
        summed.begin_in_next_pass()
        handle = layers[1].weight.register_hook(stop) if stops and rank == 1 else None
        try:
            layers(inputs).sum().backward()
        except torch.OutOfMemoryError:
            found["stopped"] = True
        begun = summed._next
        summed.begin_rest()
        summed.finish()
        found[f"begun {stops}"] = begun
        found[f"sums {stops}"] = [parameter.grad.clone() for parameter in layers.parameters()]
        if handle is not None:
            handle.remove()
    return found


def stop(gradient: torch.Tensor) -> None:
    """A device that is full."""
    raise torch.OutOfMemoryError("planted")


def main(folder: Path, device: str) -> None:
    """Exchange twice, as the roles of PPO do: the second begins before the first has ended."""
    state = PartialState(cpu=device == "cpu")
    rank = state.process_index
    mine = [None if each is None else each.to(state.device) for each in gradients(rank)]
    shapes = [(6,) if each is None else each.shape for each in mine]
    dtypes = [torch.float32 if each is None else each.dtype for each in mine]
    parameters = [
        nn.Parameter(torch.full(shape, float(rank), dtype=dtype, device=state.device))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    for parameter, gradient in zip(parameters, mine, strict=True):
        parameter.grad = gradient
    first, second = Exchange(parameters[:3]), Exchange(parameters[3:])
    first.begin_rest()
    second.begin_rest()
    first.finish()
    second.finish()
    module = nn.ParameterList(parameters)
    module[0].requires_grad_(False)
    share_weights(module)
    note = {
        "processes": state.num_processes,
        "backend": torch.distributed.get_backend(),
        "gradients": [parameter.grad for parameter in parameters],
        "while_passing": while_passing(rank, state.device),
        "least": [least_of_all(7 + rank), least_of_all(9 - 4 * rank)],
        "weights": [float(parameter.flatten()[0]) for parameter in parameters],
    }
    torch.save(note, folder / f"rank-{rank}.pt")
    end_in_order(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
