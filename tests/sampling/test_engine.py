"""Engines draw the images of the plain network; graphs are kept, padded and cut; memory that runs out halves the batch."""

import pytest
import torch

from ddgan_fast.bench import Truth, measure, milliseconds, speed
from ddgan_fast.errors import InputError, ResourceError
from ddgan_fast.sampling import engine, generate, graph
from ddgan_fast.sampling.edit import Edit
from ddgan_fast.sampling.graph import GraphSampler

FORMS = {"usual": {}, "without latent": {"latent": False}, "one step": {"steps": 1}, "three channels": {"image_channels": 3}}


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_the_folded_engine_draws_the_same_images_at_any_batch_size(make, changes):
    pipe = make(**changes)
    want = pipe(num_images=9, output_type="pt").images
    folded = pipe.compile("folded")
    got = folded(num_images=9, output_type="pt").images
    assert (got - want).abs().max() < 2e-5 and want.std() > 0.05
    for batch_size in (1, 4):
        assert torch.equal(folded(num_images=9, output_type="pt", batch_size=batch_size).images, got)
    assert torch.equal(folded(seeds=[7, 2], output_type="pt").images, got[[7, 2]])
    latents = torch.randn(2, *pipe.config.model.sample_shape, generator=torch.Generator().manual_seed(0))
    assert (folded(latents=latents, output_type="pt").images - make(**changes)(latents=latents, output_type="pt").images).abs().max() < 2e-5


@pytest.mark.slow
def test_the_compiled_engine_draws_the_same_images(make):
    pipe = make()
    want = pipe(num_images=5, output_type="pt").images
    assert (pipe.compile("compile")(num_images=5, output_type="pt").images - want).abs().max() < 2e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precisions(make, precision):
    pipe = make()
    want = pipe(num_images=4, output_type="pt").images
    for name in ("eager", "folded"):
        assert 0 < (pipe.compile(name, precision)(num_images=4, output_type="pt").images - want).abs().mean() < 0.01
    assert pipe.generator.conv_in.weight.dtype == torch.float32
    assert torch.equal(pipe.compile("eager")(num_images=4, output_type="pt").images, want)


def test_auto_is_the_folded_form_on_a_cpu_and_a_graph_on_a_gpu(make):
    assert hasattr(make().compile().sampler.network, "bind")
    assert engine.choose(torch.device("cuda"))[0] == "graph"
    assert engine.choose(torch.device("cuda"), "mlp")[0] == "eager"


def test_a_change_of_device_or_dtype_makes_the_form_anew(make):
    pipe = make().compile("folded").to(torch.bfloat16)
    assert pipe.sampler.dtype == torch.bfloat16 and pipe.engine == "folded"


class Replayed(GraphSampler):
    """A graph sampler without a GPU: what would be captured runs again at each replay, into the same tensor."""

    captured = ()

    def capture(self, run):
        samples = run()
        self.captured += (len(samples),)
        return lambda: samples.copy_(run()), samples


def test_graphs_are_kept_per_batch_size_and_odd_batches_are_padded(make, monkeypatch):
    pipe = make()
    plain = pipe.compile("folded").sampler
    graphs = Replayed(plain.network, plain.schedule, plain.dtype, plain.layout)
    want = plain.sample(range(20), as_uint8=True)
    got = [samples for _, samples in generate.batches(graphs, range(20), 8, as_uint8=True)]
    assert graphs.captured == (8,) and [len(samples) for samples in got] == [8, 8, 4]  # the rest takes the graph of 8
    assert (torch.cat(got).int() - want.int()).abs().max() <= 1  # a CPU rounds differently at another batch size
    first = got[0].clone()
    assert (graphs.sample([19, 3, 5, 2, 1, 0, 9], as_uint8=True).int() - want[[19, 3, 5, 2, 1, 0, 9]].int()).abs().max() <= 1
    assert torch.equal(got[0], first)  # what was returned is not overwritten
    assert graphs.captured == (8,)
    assert graphs.sample(range(4), as_uint8=True).dtype == torch.uint8 and graphs.captured == (8, 4)  # 4 come again
    assert graphs.sample(range(4)).dtype == torch.float32 and graphs.captured == (8, 4, 4)
    monkeypatch.setattr(graph, "KEPT", 3)
    graphs.sample(range(1))
    graphs.sample(range(1))
    kinds = [(size, kind.as_uint8) for size, kind in graphs.graphs]
    assert kinds == [(4, True), (4, False), (1, False)]  # (8, True) had waited longest


def test_graphs_of_edits_read_the_images_and_masks_of_their_call(make):
    pipe = make()
    plain = pipe.compile("folded").sampler
    graphs = Replayed(plain.network, plain.schedule, plain.dtype, plain.layout)
    noise = torch.Generator().manual_seed(0)
    for steps, masked in ((2, False), (2, True), (4, True)):
        for count in (5, 5, 3):  # recorded, replayed, and a part of it
            x0 = 2 * torch.rand(count, 1, 8, 8, generator=noise) - 1
            edit = Edit(x0, steps, torch.rand(count, 1, 8, 8, generator=noise).round() if masked else None)
            want = plain.sample(range(count), edit=edit)
            assert (graphs.sample(range(count), edit=edit) - want).abs().max() < 1e-5
    assert graphs.captured == (5, 5, 5)


def test_a_file_of_the_whole_loop_cannot_edit(make):
    pipe = make()
    pipe._sampler = generate.WholeSampler(pipe.generator, pipe.schedule, torch.float32, torch.contiguous_format)
    with pytest.raises(InputError, match="holds all T steps.*--target step"):
        pipe.edit(torch.zeros(1, 8, 8), 0.5)


def test_old_graphs_make_room_for_a_new_one(make):
    plain = make().compile("folded").sampler

    class Full(Replayed):
        def capture(self, run):
            if self.graphs or self.most == 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().capture(run)

    graphs, graphs_of_none = (Full(plain.network, plain.schedule, plain.dtype, plain.layout) for _ in range(2))
    graphs.most, graphs_of_none.most = 1, 0
    for size in (2, 3):
        assert len(graphs.sample(range(size))) == size
    assert [size for size, _ in graphs.graphs] == [3]
    with pytest.raises(torch.OutOfMemoryError):
        graphs_of_none.sample(range(2))


class Small:
    """A sampler whose memory holds `most` images."""

    def __init__(self, most, error):
        self.most, self.error, self.asked = most, error, []

    def sample(self, seeds, as_uint8=False, edit=None):
        self.asked.append(len(seeds))
        if len(seeds) > self.most:
            raise self.error
        return torch.tensor(seeds)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried ..."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_batch_beyond_memory_is_halved(error, caplog):
    sampler = Small(3, error)
    drawn = [(list(seeds), samples.tolist()) for seeds, samples in generate.batches(sampler, range(14), 10)]
    assert sampler.asked == [10, 5, 2, 2, 2, 2, 2, 2, 2]
    assert [seed for seeds, _ in drawn for seed in seeds] == list(range(14)) and all(seeds == samples for seeds, samples in drawn)
    assert "going on with 2" in caplog.text
    with pytest.raises(ResourceError, match="one image"):
        list(generate.batches(Small(0, error), range(4), 4))


def test_other_errors_are_not_taken_for_full_memory():
    with pytest.raises(RuntimeError, match="shape"):
        list(generate.batches(Small(0, RuntimeError("shape mismatch")), range(4), 4))


def test_bench_rows(make):
    rows = measure(make(), ["eager", "auto"], [1, 3], 3)
    found = [(row["engine"], row["runs"], row["batch"]) for row in rows]
    assert found == [("eager", "eager", 1), ("auto", "folded", 1), ("eager", "eager", 3), ("auto", "folded", 3)]
    for row in rows:
        assert row["nfe"] == 4 and 0 < row["ms_p50"] <= row["ms_p90"] and row["images_per_s"] > 0
    assert rows[0]["max_error"] == 0 and 0 < rows[1]["max_error"] < 1e-5 and rows[1]["image_error"] < 2e-3
    with pytest.raises(InputError, match="points"):
        measure(make("gaussians25"), ["eager"], [1], 1)


def test_an_engine_that_draws_something_else_shows_in_its_errors(make):
    pipe = make()
    truth = Truth(pipe.generator, pipe.schedule, range(2))
    sampler = pipe.compile("folded").sampler
    sampler.network.net.conv_out.weight.mul_(1.01)
    error, image_error = truth.errors(sampler)
    assert error > 1e-3 and image_error > 1e-2


def test_percentiles_are_values_that_were_measured():
    assert [milliseconds(range(100, 0, -1), percent) for percent in (50, 90, 99, 100)] == [50e3, 90e3, 99e3, 100e3]
    assert speed([0.004, 0.001, 0.002], 6) == {"ms_p50": 2.0, "ms_p90": 4.0, "images_per_s": 3000.0}
