"""The choice of a backend: order of preference, refusals with a reason, and force, which never falls back."""

import os
import subprocess
import sys

import pytest
import torch

from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.ops.backend import always, force, pick

BACKENDS = {
    "cpp": (lambda x: "it is not installed", lambda x: "cpp"),
    "triton": (lambda x: None if x > 0 else f"{x} is not positive", lambda x: "triton"),
    "reference": (always, lambda x: "reference"),
}


def call(x, backends=BACKENDS):
    return pick("some_op", backends, x)(x)


def test_the_first_that_does_not_refuse_runs():
    assert call(1) == "triton"
    assert call(-1) == "reference"


@pytest.mark.parametrize("name", ["triton", "reference"])
def test_force_overrules_the_order(name):
    with force(name):
        assert call(1) == name
    assert call(1) == "triton"


@pytest.mark.parametrize("name, x, reason", [("cpp", 1, "it is not installed"), ("triton", -1, "-1 is not positive")])
def test_a_forced_backend_that_refuses_says_why(name, x, reason):
    with force(name), pytest.raises(MissingError) as caught:
        call(x)
    assert str(caught.value) == f"some_op: backend '{name}' cannot run: {reason}"


def test_force_binds_only_the_ops_that_have_the_backend():
    with force("triton"):
        assert call(1, {"reference": BACKENDS["reference"]}) == "reference"


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no backend 'cuda'; there are reference, triton, cpp"), force("cuda"):
        pass


@pytest.mark.parametrize("name, code", [("triton", 0), ("cuda", 1)])
def test_the_environment_forces_a_backend(name, code):
    program = "from ddgan_fast.ops import backend; print(backend.forced())"
    run = subprocess.run([sys.executable, "-c", program], env=os.environ | {"DDGAN_BACKEND": name}, capture_output=True, text=True)
    assert run.returncode == code
    assert (run.stdout.strip() == name) if code == 0 else "DDGAN_BACKEND: no backend 'cuda'" in run.stderr


def test_nested_force_is_restored_also_after_an_error():
    with force("reference"):
        with force("triton"):
            assert call(1) == "triton"
        assert call(1) == "reference"
        with pytest.raises(MissingError), force("cpp"):
            call(1)
        assert call(1) == "reference"
        with force(None):
            assert call(1) == "triton"
        assert call(1) == "reference"
    assert call(1) == "triton"


def test_the_chosen_backend_follows_force_inside_a_compiled_graph():
    """pick is traced away; a change of force compiles anew."""
    backends = {"twice": (always, lambda x: 2 * x), "reference": (always, lambda x: x + x + 1)}
    compiled = torch.compile(lambda x: call(x, backends), fullgraph=True, backend="eager")
    x = torch.ones(2)
    assert compiled(x).tolist() == [2, 2]
    with force("reference"):
        assert compiled(x).tolist() == [3, 3]
    assert compiled(x).tolist() == [2, 2]
