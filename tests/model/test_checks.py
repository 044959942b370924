"""One checker for numbers, counts, choices and sizes: what is none is refused, and what is one stays what it is."""
import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from shotstream.model.checks import check_fps, check_seed, check_size, choice, number, whole
from shotstream.model.files import InputError



BAD = [None, True, "3", float("nan"), float("inf"), -float("inf"), -1, [], 10**400, 1j, torch.tensor(3.)]


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize("check",
                         [lambda v: number("x", v, 0, 100), lambda v: whole("x", v, 0, 100), check_fps, check_seed,
                                   lambda v: check_size((v, v)), lambda v: choice("x", v, ("a", "b"))])
def test_one_checker_refuses_everything_that_is_none(check, value):
    with pytest.raises(InputError) as e: check(value)
    assert len(str(e.value)) < 200 and "got" in str(e.value)


@pytest.mark.parametrize("fps", [1e-9, .0004, 1e300])
def test_a_speed_is_not_rounded_to_nothing(fps):
    with pytest.raises(InputError): check_fps(fps)
    assert check_fps(.01) == Fraction(1, 100)


@pytest.mark.parametrize("bad", [lambda: number("x", 0), lambda: number("x", 5, 0, 4), lambda: check_size((3, 4)),
                                 lambda: check_size((4, 3)), lambda: check_size((8, 20), 8), lambda: whole("x", 0)])
def test_one_checker_knows_its_ends(bad):
    with pytest.raises(InputError): bad()
    assert number("x", 0, 0, 4, above=False) == 0 and check_size((8, 16), 8) == (8, 16)


def test_one_checker_takes_what_is_one():
    assert whole("x", np.int64(3)) == 3 and number("x", np.float32(.5)) == .5 and check_fps(16) == 16
    assert whole("x", 100, 0, 100) == 100 and number("x", 100, 0, 100) == 100 and check_seed(2**32 - 1)    # inclusive
    assert float(check_fps(29.97)) == pytest.approx(29.97, abs=1e-4) and check_size((2, 8192)) == (2, 8192)
    assert json.loads(json.dumps(whole("x", np.int64(3)))) == 3


@pytest.mark.parametrize("check, said", [
    (lambda: whole("x", 0), "x: a whole number, at least 1, got 0"),
    (lambda: whole("", 9, 2, 4), "a whole number, from 2 to 4, got 9"),
    (lambda: number("x", 0), "x: a number, more than 0, got 0"),
    (lambda: number("x", 5, 1, 4, above=False), "x: a number, at least 1 and at most 4, got 5"),
    (lambda: choice("x", "c", ("a", "b"), "try d"), "x: one of a, b, got c; try d"),
    (lambda: check_seed(2**32), f"seed: a whole number, from 0 to {2**32-1}, got {2**32}"),
    (lambda: check_size((64, 8194)), "size: an even height and width up to 8192, like (480, 832), got (64, 8194)"),
    (lambda: check_size((64, 72), 16, "film"), "film: a height and width that 16 divides up to 8192, like (480, 832), "
                                               "got (64, 72)")])
def test_what_is_said(check, said):
    with pytest.raises(InputError) as e: check()
    assert str(e.value) == said


def test_a_value_stays_what_it_is():
    "Height before width, whole numbers of Python, fractions as broadcasters have them"
    size = check_size((np.int64(64), 96), 16)
    assert size == (64, 96) and {type(n) for n in size} == {int} and type(whole("x", np.int8(3))) is int
    assert check_fps(30000/1001) == Fraction(30000, 1001) and check_fps(1000) == 1000 and check_seed(0) == 0
    assert choice("x", "b", ("a", "b")) == "b" and number("x", 1e-9) == 1e-9
    with pytest.raises(InputError): choice("x", np.array(["a", "b"]), ("a", "b"))           # more than one word
