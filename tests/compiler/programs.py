"""Twenty small PyTorch programs that break graphs, recompile, close over, mutate and return in many ways."""

import contextlib
import io

import torch


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.calls = 0

    def forward(self, x, *, scale=2):
        self.calls += 1
        h = self.linear(x)
        torch._dynamo.graph_break()
        return {"h": h * scale, "list": [h, x]}


def plain(x):
    return (x * 2).relu()


def break_on_print(x):
    y = x + 1
    print("half way")
    return y * x


def item(x):
    return x * x.sum().item()


def data_dependent(x):
    if x.sum() > 0:
        return x * 2
    return x - 1


def without_gradients(x):
    with torch.no_grad():
        y = x * 3
        print("inside")
    return y + x


def closure(x):
    w = x * 2

    def inner(q):
        nonlocal w
        w = w + q
        print("inner")
        return w * q

    return inner(x), w


def free_variable(scale):
    def inner(x):
        print("before")
        return x * scale

    return inner


def keyword_only(x, *, k=3, flag=False):
    print("k", k)
    return x * k if flag else x + k


def returns_dict(x):
    out = {"a": x + 1}
    print("dict")
    out["b"] = [out["a"], x]
    return out


def mutates(x):
    x = x.clone()
    x.add_(1)
    print("mutate")
    x[0] = 5
    return x


def nested_calls(x):
    return break_on_print(plain(x)) + item(x)


def loop(x):
    total = x
    for i in range(3):
        total = total + i
        print(i)
    return total


def handler(x):
    try:
        y = x + 1
        print("try")
        return y / 2
    finally:
        print("finally")


def comprehension(x):
    parts = [x + i for i in range(3)]
    print(len(parts))
    return torch.stack(parts)


def early_return(x, n):
    if n > 2:
        print("early")
        return x
    y = x * n
    print("late")
    return y


def star_arguments(*xs, **named):
    print(len(xs), sorted(named))
    return sum(xs) + named.get("bias", 0)


def chained(x):
    a = b = x + 1
    print("chain")
    a = a * 2
    return a, b


def format_text(x):
    name = f"{x.shape[0]:>3}"
    print(name)
    return x * len(name)


def ternary(x):
    s = x.sum().item()
    return (x if s > 0 else -x) + (1 if s > 100 else 2)


def generator_sum(x):
    print("sum")
    return sum(x * i for i in range(1, 4))


def programs():
    """Return (name, callable, list of (args, kwargs)): two shapes each, so that some recompile."""
    small, large = torch.arange(3.0), torch.arange(5.0) - 3
    torch.manual_seed(0)
    layer = Layer()
    rows = [torch.ones(2, 3), torch.ones(4, 3)]
    two = [((small,), {}), ((large,), {})]
    simple = [plain, break_on_print, item, data_dependent, without_gradients, closure, returns_dict, mutates,
              nested_calls, loop, handler, comprehension, chained, format_text, ternary,
              generator_sum]  # fmt: skip
    found = [(function.__name__, function, two) for function in simple]
    found.append(("module", layer, [((row,), {"scale": 3}) for row in rows]))
    found.append(("free_variable", free_variable(4), two))
    found.append(("keyword_only", keyword_only, [((small,), {"k": 2}), ((small,), {"flag": True})]))
    found.append(("early_return", early_return, [((small, 1), {}), ((small, 4), {})]))
    found.append(("star_arguments", star_arguments, [((small, small), {"bias": 1})]))
    return found


def call(function, calls):
    """Return the results of all calls and what they printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        results = [function(*[_copy(a) for a in args], **kwargs) for args, kwargs in calls]
    return results, printed.getvalue()


def _copy(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def same(one, two):
    """Equal, tensors by value."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two
