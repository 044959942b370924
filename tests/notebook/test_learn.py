"""Exercises: what counts as equal, and what the reader is told."""
import random

import numpy as np
import pytest
import torch

from shotstream.notebook import learn
from shotstream.notebook.learn import check, same, setup_notebook, under_test


@pytest.mark.parametrize("a, b, equal", [
    (torch.tensor([1., 2.]), torch.tensor([1., 2. + 1e-6]), True), (torch.ones(2), torch.ones(2) + 1e-3, False),
    (torch.ones(2), torch.ones(2, 1), False), (torch.ones(2), [1., 1.], True), ([1, 1], torch.ones(2), True),
    (torch.ones(2), None, False), (torch.ones(2), "ones", False), (torch.tensor(True), torch.tensor(False), False),
    (torch.tensor([1e6]), torch.tensor([1e6 + 1]), True),                     # rounding is relative too
    (torch.ones(1, dtype=torch.int64), torch.ones(1), True), ([1., 2.], (1., 2. + 1e-6), True),
    ([1, 2], [1, 2, 3], False), ([1, [2, torch.ones(1)]], [1, [2, torch.zeros(1)]], False), (1., 1 + 1e-6, True),
    (1., 1.1, False), (1.1, 1., False), (1, 1., True), (1., "1", False), ("a", "a", True), (None, None, True),
    (3, 4, False)])
def test_what_is_equal(a, b, equal): assert same(a, b) is equal and same(b, a) is equal


@pytest.fixture(params=[False, True])
def tested(request, monkeypatch):
    (monkeypatch.setenv if request.param else monkeypatch.delenv)(*(("IN_TEST", "1") if request.param else (
        "IN_TEST", False)))
    assert under_test() is request.param
    return request.param


def double(x): return 2*x


def test_a_right_answer(tested, capsys):
    assert check(lambda x: x + x, double, [(1,), (2,)]) is True and "🟢 2 of 2" in capsys.readouterr().out


def test_no_answer_yet(tested, capsys):
    def later(x): raise NotImplementedError
    assert check(later, double, [(1,)]) is None and "🟡" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [lambda x: x*x, lambda x: 1/0])
def test_a_wrong_answer(tested, capsys, answer):
    "Its first difference is shown; the reader goes on, a test does not"
    answer.__name__, shown = "square", []
    def go(): return check(answer, double, [(2,) if answer(2) == 4 else (1,), (5,), (6,)],
                           lambda *what: shown.append(what)) if answer.__code__.co_consts != (None, 1, 0) else check(
                               answer, double, [(5,)], lambda *what: shown.append(what))
    if tested:
        with pytest.raises(AssertionError, match=r"square\(5,\)"): go()
    else: assert go() is False
    said = capsys.readouterr().out
    assert "🔴 square(5,)" in said and "expected 10" in said and "🟢" not in said
    assert len(shown) == 1 and shown[0][:2] == ((5,), 10)


def test_the_same_start_for_every_notebook(monkeypatch):
    import matplotlib.pyplot as plt
    asked = []
    monkeypatch.setattr(learn.torch, "set_num_threads", asked.append)
    before = dict(plt.rcParams)
    try:
        def drawn(seed):
            setup_notebook(seed)
            return torch.rand(1).item(), random.random()
        assert drawn(3) == drawn(3) != drawn(4) and set(asked) == {1}
        first = drawn(42)
        setup_notebook()
        assert (torch.rand(1).item(), random.random()) == first and plt.rcParams["figure.dpi"] == 80
        assert "0.333" in str(torch.tensor([1/3])) and "e" not in str(torch.tensor([1e-7, 1e3])).split("(")[1]
    finally:
        plt.rcParams.update(before)
        torch.set_printoptions(profile="default")
    assert np.isfinite(first).all()
