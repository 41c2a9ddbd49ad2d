"""The Triton kernels beside PyTorch's own operators in float64."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Cache

from rlhf.ppo.engines.caches import PromptLayer
from rlhf.ppo.engines.sampling import sample_tokens
from rlhf.ppo.engines.slots import Shape, Slots

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("num_tokens", [0, 1, 7])
@pytest.mark.parametrize("vocabulary", [50, 4096, 10_007])
def test_log_probabilities_entropies_and_their_gradient(vocabulary, num_tokens):
    from rlhf.ppo.kernels import LogprobsAtLabels

    torch.manual_seed(0)
    logits = 4 * torch.randn(num_tokens, vocabulary, device="cuda")
    logits[:, 3] = -torch.inf
    labels = torch.randint(4, vocabulary, (num_tokens,), device="cuda")
    of_logprobs, of_entropy = torch.randn(2, num_tokens, device="cuda")
    mine, wanted = logits.clone().requires_grad_(), logits.double().requires_grad_()
    got = LogprobsAtLabels.apply(mine, labels, 0.7)
    ((got[0] * of_logprobs).sum() + (got[1] * of_entropy).sum()).backward()
    log_softmax = (wanted / 0.7).log_softmax(dim=-1)
    logprobs = log_softmax.gather(1, labels[:, None]).squeeze(1)
    entropy = -(log_softmax.exp() * log_softmax.masked_fill(log_softmax == -torch.inf, 0.0)).sum(dim=-1)
    ((logprobs * of_logprobs).sum() + (entropy * of_entropy).sum()).backward()
    assert torch.allclose(got[0].double(), logprobs, atol=1e-5, rtol=1e-5)
    assert torch.allclose(got[1].double(), entropy, atol=1e-5, rtol=1e-5)
    assert torch.allclose(mine.grad.double(), wanted.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("vocabulary", [50, 1024, 151_936])
def test_a_draw_is_where_the_cumulative_probability_exceeds_the_noise(vocabulary, temperature):
    from rlhf.ppo.engines.draw_kernels import inverse_cdf

    torch.manual_seed(0)
    logits, noise = 4 * torch.randn(200, vocabulary), torch.rand(200)
    logits[2, : min(1024, vocabulary - 1)] = -torch.inf
    noise[:4] = torch.tensor([0.0, 1 - 2**-24, 1 - 2**-24, 0.0])
    tokens, logprobs = inverse_cdf(logits.cuda(), noise.cuda(), temperature, 1024)
    wanted = (logits.double() / temperature).log_softmax(dim=-1)
    of_tokens = wanted.gather(1, tokens.cpu()[:, None]).squeeze(1)
    assert torch.allclose(logprobs.cpu().double(), of_tokens, atol=1e-5, rtol=1e-5)
    assert of_tokens.isfinite().all()
    up_to = wanted.exp().cumsum(dim=1).gather(1, tokens.cpu()[:, None]).squeeze(1)
    assert (up_to > noise - 1e-6).all()
    assert (up_to - of_tokens.exp() < noise + 1e-6).all()
    same = tokens.cpu() == sample_tokens(logits, noise, temperature).tokens
    assert same.float().mean() > 0.9  # else than at ties of rounding


def test_a_draw_from_what_is_no_number_says_so():
    from rlhf.ppo.engines.draw_kernels import inverse_cdf

    logits = torch.randn(3, 3000, device="cuda")
    logits[0, 5], logits[1] = torch.nan, torch.nan
    tokens, logprobs = inverse_cdf(logits, torch.rand(3, device="cuda"), 1.0, 1024)
    assert logprobs.isnan().tolist() == [True, True, False]
    assert ((tokens >= 0) & (tokens < 3000)).all()


def slots_on(device):
    example = PromptLayer()
    example.update(*torch.zeros(2, 1, 1, 1, 4, device=device))
    shape = Shape(num_slots=200, num_columns=64, num_rows=300, num_tokens=11, num_vocabulary=50)
    slots = Slots(shape, Cache(layers=[example]), torch.device(device))
    slots.begin(torch.rand(250, 9, device=device), (7, 9))
    slots.admit(list(range(180)), list(range(20, 200)), [[3] * (1 + row % 5) for row in range(180)])
    return slots


def test_a_drawn_token_changes_its_slot_as_on_a_cpu():
    """Slots that end by a token, by their length, that were idle, and those behind the ones that advance."""
    torch.manual_seed(0)
    wanted, got = slots_on("cpu"), slots_on("cuda")
    of_slots = ("tokens", "positions", "rows", "steps", "ended")
    of_rows = ("response_ids", "logprobs", "lengths", "by_token")
    for step in range(12):
        num_slots = 200 if step < 6 else 150
        tokens, logprobs = torch.randint(0, 50, (num_slots,)), torch.randn(num_slots)
        wanted.settle(tokens, logprobs)
        got.settle(tokens.cuda(), logprobs.cuda())
        for name in of_slots:
            assert torch.equal(getattr(got, name).cpu(), getattr(wanted, name)), name
        for name in of_rows:  # the last row takes what idle slots write
            assert torch.equal(getattr(got, name)[:-1].cpu(), getattr(wanted, name)[:-1]), name
    assert set(wanted.lengths[20:200].tolist()) == set(range(1, 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "group", "size"), [(2, 7, 64), (1, 8, 24), (2, 2, 128), (3, 1, 4), (1, 4, 256)]
)
def test_a_token_is_written_and_attends(heads, group, size, dtype):
    from rlhf.ppo.engines.kernels import attend

    torch.manual_seed(0)
    slots, columns, rows = 5, 130, 3

    def random(*shape):
        return torch.randn(*shape, device="cuda", dtype=dtype)

    keys, values = random(slots, heads, columns, size), random(slots, heads, columns, size)
    query, key = random(rows, heads, group, size), random(rows, heads, 1, size)
    value = random(rows, 1, 3 * heads * size)[..., heads * size : 2 * heads * size]  # rows lie apart
    value = value.view(rows, 1, heads, size).transpose(1, 2)
    places = torch.tensor([[0, 0], [40, 129], [3, 64]], device="cuda")
    wanted_keys, wanted_values = keys.clone(), values.clone()
    wanted_keys[torch.arange(rows), :, places[:, 1]] = key[:, :, 0]
    wanted_values[torch.arange(rows), :, places[:, 1]] = value[:, :, 0]
    got = attend(query, key, value, keys, values, places, 0.3)
    assert torch.equal(keys, wanted_keys)
    assert torch.equal(values, wanted_values)
    column = torch.arange(columns, device="cuda")
    mask = (column >= places[:, :1]) & (column <= places[:, 1:])
    inputs = (query.double(), wanted_keys[:rows].double(), wanted_values[:rows].double())
    wanted = F.scaled_dot_product_attention(*inputs, attn_mask=mask[:, None, None, :], scale=0.3)
    error = (got.double() - wanted).norm() / wanted.norm()
    assert error < (1e-5 if dtype == torch.float32 else 1e-2)
