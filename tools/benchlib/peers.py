"""What a user would pick instead: PyTorch's softmax attention, causal, with one view (q1, k1, v), and the paper's Triton
kernels from a file of theirs."""
import importlib.util
import inspect

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

SDPA = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION}
PAPER = {"paper-tra": ["q", "k", "v", "beta"], "paper-tda": ["q1", "q2", "k1", "k2", "v", "beta"]}


def load_paper(path):
    """{peer: function} of the file at `path`: the functions whose parameters begin as PAPER says, whatever they are called.
    The next parameter of paper-tda is lambda."""
    spec = importlib.util.spec_from_file_location("paper_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {}
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            names = list(inspect.signature(function).parameters)
            for peer, begin in PAPER.items():
                if names[:len(begin)] == begin:
                    found[peer] = function
    if not found:
        raise SystemExit(f"tools/bench: {path} has no function whose parameters begin with "
                         + " or with ".join(", ".join(begin) for begin in PAPER.values()))
    return found


class PeerRun:
    """Forward and backward by autograd on one set of inputs."""

    def __init__(self, call, inputs, grad_o, names):
        self.call, self.grad_o, self.names = call, grad_o, names
        self.inputs = [x.detach().requires_grad_() for x in inputs]
        self.o = self.kept = self.gradients = None

    def prepare(self):
        self.kept = self.call(*self.inputs)        # what backward() differentiates, again and again
        self.backward()

    def forget(self):
        self.o = self.kept = self.gradients = None

    def forward(self):
        self.o = self.call(*self.inputs)

    def backward(self):
        self.gradients = torch.autograd.grad(self.kept, self.inputs, self.grad_o, retain_graph=True)

    def step(self):
        o = self.call(*self.inputs)
        return [o.detach(), *torch.autograd.grad(o, self.inputs, self.grad_o)]

    def named_results(self):
        return dict(zip(["o"] + self.names, self.step()))


def sdpa(backend):
    def call(q, k, v):
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return call


_flex = {}


def flex(length):
    """Compiled for the length and whatever tensors come; compiled anew for each length, as it runs fastest then."""
    from torch._functorch import config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    if length not in _flex:
        config.donated_buffer = False              # or a backward could not be run twice
        torch._dynamo.reset()
        mask = torch.compile(create_block_mask)(lambda b, h, i, j: i >= j, None, None, length, length, device="cuda")
        compiled = torch.compile(flex_attention, dynamic=False)
        _flex.clear()
        _flex[length] = lambda q, k, v: compiled(q, k, v, block_mask=mask)
    return _flex[length]


def new(name, problem, paper):
    """A PeerRun. Raises what PyTorch raises where the peer does not take such inputs."""
    q, k = problem.q, problem.k
    if name in SDPA:
        return PeerRun(sdpa(SDPA[name]), [q[0], k[0], problem.v], problem.grad_o, ["dq1", "dk1", "dv"])
    if name == "flex":
        return PeerRun(flex(problem.shape[2]), [q[0], k[0], problem.v], problem.grad_o, ["dq1", "dk1", "dv"])
    if name not in paper:
        raise NotImplementedError(f"the file of the paper's kernels has no {name[6:]}")
    # A beta that is a number saves these kernels a synchronisation.
    beta = float(problem.beta[0])
    if name == "paper-tra":
        normalize = functional.normalize
        return PeerRun(lambda q, k, v: paper[name](normalize(q, dim=-1), normalize(k, dim=-1), v, beta),
                       [q[0], k[0], problem.v], problem.grad_o, ["dq1", "dk1", "dv"])
    lam = torch.tensor([problem.lam], device="cuda")
    return PeerRun(lambda q1, q2, k1, k2, v, lam: paper[name](q1, q2, k1, k2, v, beta, lam), [*q, *k, problem.v, lam],
                   problem.grad_o, ["dq1", "dq2", "dk1", "dk2", "dv", "dlambda"])
