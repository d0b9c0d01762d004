import pytest
import torch
from jaxtyping import TypeCheckError
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longthink.learners.head import logprobs_and_entropy


def example(n=11, vocab=17, size=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(n, size, generator=g, dtype=dtype), torch.randn(vocab, size, generator=g, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, vocab, (n,), generator=g)


def plain(hidden, weight, labels, temperature):
    logp = torch.log_softmax(hidden @ weight.T / temperature, dim=-1)
    return logp[torch.arange(len(labels)), labels], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("chunk", [1, 3, 4, 11, 64])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.2, 0.0])
def test_values_and_gradients_are_those_of_the_full_logits(chunk, temperature):
    hidden, weight, labels = example()
    pull = torch.linspace(-1, 1, 11, dtype=torch.float64), torch.linspace(2, -1, 11, dtype=torch.float64)
    expected = plain(hidden, weight, labels, temperature or 1.0)
    found = logprobs_and_entropy(hidden, weight, labels, temperature, chunk)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    slopes = [torch.autograd.grad(outputs, (hidden, weight), pull) for outputs in (found, expected)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_by_hand():
    # logits 0, ln 3: probabilities 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10
    hidden, weight = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [3.0]]).log()
    logprobs, entropy = logprobs_and_entropy(hidden, weight, torch.tensor([0, 1]), 1.0, 8)
    assert logprobs.exp().tolist() == pytest.approx([0.25, 0.75])
    assert entropy.tolist() == pytest.approx([0.5623351446188083] * 2)  # ln 4 - 3/4 ln 3
    logprobs, _ = logprobs_and_entropy(hidden, weight, torch.tensor([0, 1]), 0.5, 8)
    assert logprobs.exp().tolist() == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_output_alone_has_the_numeric_gradient(output, temperature):
    hidden, weight, labels = example(n=5, vocab=7, size=3)
    assert torch.autograd.gradcheck(lambda h, w: logprobs_and_entropy(h, w, labels, temperature, 2)[output], (hidden, weight))


def test_both_outputs_together_have_the_numeric_gradient():
    hidden, weight, labels = example(n=5, vocab=7, size=3, seed=1)
    assert torch.autograd.gradcheck(lambda h, w: logprobs_and_entropy(h, w, labels, 0.8, 2), (hidden, weight))


def test_certain_tokens_keep_finite_values_and_gradients():
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    logprobs, entropy = logprobs_and_entropy(hidden, weight, torch.tensor([0, 0]), 1.0, 8)
    assert logprobs.tolist() == [0.0, -600.0]
    assert entropy.tolist() == pytest.approx([0.0, 0.0])
    slopes = torch.autograd.grad(logprobs.sum() + entropy.sum(), (hidden, weight))
    assert all(torch.isfinite(s).all() for s in slopes)


def test_no_tokens_give_no_values_and_zero_gradients():
    hidden, weight, _ = example(n=0)
    logprobs, entropy = logprobs_and_entropy(hidden, weight, torch.zeros(0, dtype=torch.int64), 1.0, 4)
    assert logprobs.shape == entropy.shape == (0,)
    _, slope = torch.autograd.grad((logprobs.sum() + entropy.sum()), (hidden, weight))
    assert (slope == 0).all()


# -- memory -----------------------------------------------------------------------------------------------------

VOCAB, ROWS, SIZE, CHUNK = 151_936, 40, 8, 8  # Qwen's vocabulary; SIZE <= CHUNK, so V x H is within the bound too


class LargestTensor(TorchDispatchMode):
    """Sees every tensor an operation returns and keeps the number of elements of the largest."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out


def largest(run):
    with LargestTensor() as watch:
        out = run()
    return watch.numel, out


def test_the_watcher_sees_full_logits_forward_and_backward():
    hidden, weight, labels = example(6, 50, 3)
    forward, outputs = largest(lambda: plain(hidden, weight, labels, 1.0))
    backward, _ = largest(lambda: torch.autograd.grad(outputs[0].sum(), (hidden, weight)))
    assert (forward, backward) == (6 * 50, 6 * 50)


def test_no_tensor_is_larger_than_one_chunk_of_logits():
    hidden, weight, labels = example(ROWS, VOCAB, SIZE, dtype=torch.float32)
    forward, outputs = largest(lambda: logprobs_and_entropy(hidden, weight, labels, 0.6, CHUNK))
    total = outputs[0].sum() + outputs[1].sum()
    backward, _ = largest(lambda: torch.autograd.grad(total, (hidden, weight)))
    # equality: the chunk itself was seen, so the watcher was awake in both passes
    assert (forward, backward) == (CHUNK * VOCAB, CHUNK * VOCAB)


def test_between_the_passes_only_the_inputs_and_one_number_a_token_are_kept():
    hidden, weight, labels = example(ROWS, VOCAB, SIZE, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        logprobs_and_entropy(hidden, weight, labels, 1.0, CHUNK)
    assert sorted(map(tuple, kept)) == [(ROWS,), (ROWS,), (ROWS, SIZE), (VOCAB, SIZE)]


def test_shapes_are_checked_while_testing():
    hidden, weight, labels = example()
    with pytest.raises(TypeCheckError):
        logprobs_and_entropy(hidden, weight, labels[:-1], 1.0, 4)
    with pytest.raises(TypeCheckError):
        logprobs_and_entropy(hidden, weight.T, labels, 1.0, 4)
