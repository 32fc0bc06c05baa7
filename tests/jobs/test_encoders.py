"""A user's encoder and weights, from the files that they lie in."""

import shutil
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import pullback as pb
from pullback import archive
from pullback.jobs import Settings, from_array
from pullback.jobs.preparation import describe_encoder
from tests.shell import refused, run, score


def test_weights(place, capsys):
    net = torch.nn.Linear(16, 8)
    state = {f"owner.net.{k}".removeprefix("owner."): v.detach() for k, v in net.named_parameters()}
    save_file(state, "good.safetensors")
    torch.save(state, "good.pt")
    torch.save({"state_dict": state, "epoch": 3}, "lightning.ckpt")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, "parallel.pt")
    digests = set()
    for name in ("good.safetensors", "good.pt", "lightning.ckpt", "parallel.pt"):
        assert score("declared", name.replace(".", "_"), "--weights", name) == 0
        digests.add(archive.read_manifest(name.replace(".", "_"))["encoder"]["weights"])
    assert len(digests) == 1
    capsys.readouterr()

    refused(capsys, score("declared", "x", "--weights", "none.pt"), "no weights at none.pt")
    for name in ("good.safetensors", "good.pt"):
        refused(
            capsys,
            score("wider", "x", "--weights", name),
            f"the weights in {name} are of another architecture",
            "2 differ in shape (first: 'net.weight', (8, 16) for (10, 16))",
        )
    torch.save({"net.weight": state["net.weight"], "more": torch.ones(1)}, "odd.pt")
    refused(
        capsys,
        score("declared", "x", "--weights", "odd.pt"),
        "1 tensors are missing (first: 'net.bias')",
        "1 are unknown to the module (first: 'more')",
    )
    torch.save(net, "module.pt")
    (place / "text.pt").write_text("hello")
    (place / "text.safetensors").write_text("hello")
    (place / "empty.pt").write_bytes(b"")
    for name in ("module.pt", "text.pt", "text.safetensors", "empty.pt"):
        status = score("declared", "x", "--weights", name)
        refused(capsys, status, f"{name} holds no weights that can be loaded safely")
    torch.save([1, 2], "list.pt")
    refused(capsys, score("declared", "x", "--weights", "list.pt"), "holds a list that is not")
    refused(capsys, score("function", "x", "--weights", "good.pt"), "returned a plain function")
    assert not (place / "x").exists()


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.complex128]
)
def test_weights_of_another_kind_are_refused(place, capsys, dtype):
    """PyTorch would take integers and the real parts of complex numbers without a word."""
    state = {name: tensor.to(dtype) for name, tensor in torch.nn.Linear(16, 8).state_dict().items()}
    torch.save({f"net.{name}": tensor for name, tensor in state.items()}, "odd.pt")
    kind = f"(first: 'net.weight', {str(dtype).removeprefix('torch.')} for float32)"
    status = score("declared", "x", "--weights", "odd.pt")
    refused(capsys, status, "2 hold numbers of another kind", kind)
    assert not (place / "x").exists()


def test_counters_of_batches_are_integers(place, capsys):
    (place / "norm.py").write_text(
        "from torch import nn\n"
        "def norm():\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16)).eval()\n"
    )
    command = ["score", "--encoder", "norm.py:norm", "--data", "data.npz", "--weights", "w.pt"]
    state = torch.nn.BatchNorm1d(16).half().state_dict()
    torch.save({f"1.{name}": tensor for name, tensor in state.items()}, "w.pt")
    assert run(*command, "--out", "half") == 0
    state["num_batches_tracked"] = torch.tensor(2.5)
    torch.save({f"1.{name}": tensor for name, tensor in state.items()}, "w.pt")
    refused(capsys, run(*command, "--out", "x"), "'1.num_batches_tracked', float32 for int64")


@pytest.mark.parametrize(
    ("factory", "messages"),
    [
        ("pair", ["'mean_logvar'", "on the command line, --returns declares it"]),
        ("number", ["encoders.py:number must return a module or a map, got int"]),
        ("failing", ["failed: NameError: name 'undefined' is not defined", "encoders.py, line"]),
        ("absent", ["has no callable 'absent'; it has Pair, pair, declared"]),
        ("training", ["'1' (BatchNorm1d) is in training mode", ".eval()"]),
        ("dropout", ["two different results for the same input"]),
        ("overflowing", ["NaN or infinite"]),
    ],
)
def test_encoders_that_are_refused_before_anything_is_written(place, capsys, factory, messages):
    refused(capsys, score(factory), *messages)
    assert not (place / "run").exists()


def test_weights_that_a_function_closes_over_are_part_of_the_run(place, capsys):
    factory = """
        import torch
        from torch import nn

        def closed():
            net = nn.Linear(16, 3)
            net.load_state_dict(torch.load("w.pt"))
            return lambda x: net(x.flatten(1))
    """
    (place / "closed.py").write_text(textwrap.dedent(factory))
    command = ["score", "--encoder", "closed.py:closed", "--data", "data.npz", "--out", "run"]
    torch.save(torch.nn.Linear(16, 3).state_dict(), "w.pt")
    assert run(*command) == 0
    assert run(*command) == 0
    torch.save(torch.nn.Linear(16, 3).state_dict(), "w.pt")
    capsys.readouterr()
    refused(capsys, run(*command), "holds another run: encoder.weights was")


class Scaled(nn.Module):
    """Divides by a buffer, which may be one that is not saved."""

    def __init__(self, scale, persistent):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=persistent)

    def forward(self, x):
        return x[:, :3] / self.scale

    def get_extra_state(self):
        return {"what": "is no tensor"}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("hidden", [False, True])
def test_every_buffer_tells_an_encoder_from_others(tmp_path, persistent, hidden):
    images = from_array(tmp_path / "x", np.random.default_rng(0).random((4, 5), np.float32))
    for scale in (1.0, 1.0, 2.0):
        net = Scaled(scale, persistent)
        encoder = pb.as_map((lambda x, net=net: net(x)) if hidden else net, "mean")
        if scale == 2:
            with pytest.raises(FileExistsError, match=r"another run: encoder\.weights was"):
                pb.score_images(encoder, images, tmp_path / "run", Settings(k=2))
        else:
            pb.score_images(encoder, images, tmp_path / "run", Settings(k=2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.eye(3).to_sparse(), torch.eye(3).flip(0).to_sparse()),
        (torch.tensor([1j]).conj(), torch.tensor([1j])),
    ],
)
def test_tensors_of_any_layout_have_a_checksum(one, other):
    def described(tensor):
        return describe_encoder(pb.as_map(lambda x: (x, tensor)[0], "mean"))["weights"]

    assert described(one) == described(one.clone()) != described(other)


def test_a_script_that_ends_itself(place, capsys):
    """It ends neither the command, nor does it decide its exit status."""
    (place / "script.py").write_text(
        "import sys\ndef ending():\n    sys.exit(0)\nif __name__.endswith('2'):\n    sys.exit(3)\n"
    )
    shutil.copy("script.py", "script2.py")
    for file, message in (
        ("script.py", "calling script.py:ending failed: SystemExit: 0 (script.py, line 3)"),
        ("script2.py", "script2.py cannot be imported: SystemExit: 3 (script2.py, line 5)"),
    ):
        command = ["score", "--encoder", f"{file}:ending", "--data", "data.npz", "--out", "run"]
        refused(capsys, run(*command), message)


def test_a_factory_that_imports_what_lies_beside_it(place, monkeypatch):
    (place / "beside").mkdir()
    (place / "beside" / "helper_of_lazy.py").write_text("from torch.nn import Flatten as Net\n")
    (place / "beside" / "lazy.py").write_text(
        "def lazy():\n    from helper_of_lazy import Net\n    return Net()\n"
    )
    status = run("score", "--encoder", "beside/lazy.py:lazy", "--data", "data.npz", "--out", "run")
    assert status == 0


def test_tied_weights_may_be_saved_once(place):
    (place / "tied.py").write_text(
        "from torch import nn\n"
        "def tied():\n"
        "    a, b = nn.Linear(16, 16), nn.Linear(16, 16)\n"
        "    b.weight = a.weight\n"
        "    return nn.Sequential(nn.Flatten(), a, nn.Tanh(), b)\n"
    )
    torch.manual_seed(1)
    state = {"1.weight": torch.rand(16, 16), "1.bias": torch.rand(16), "3.bias": torch.rand(16)}
    save_file(state, "tied.safetensors")
    command = ["score", "--encoder", "tied.py:tied", "--data", "data.npz", "--out", "r"]
    assert run(*command, "--weights", "tied.safetensors") == 0


def test_an_importable_module(place):
    assert run("score", "--encoder", "encoders:declared", "--data", "data.npz", "--out", "r") == 0


def test_pick(place, capsys):
    torch.manual_seed(0)
    assert score("pair", "plain", "--returns", "mean_logvar") == 0
    pick = ("--returns", "mean_logvar", "--pick", "embedding, log_covariance")
    assert score("dictionary", "picked", *pick) == 0
    assert archive.read_manifest("picked")["encoder"]["pick"] == ["embedding", "log_covariance"]
    assert archive.read_manifest("plain")["encoder"]["pick"] is None
    expected, found = (archive.read(folder)["eigenvalues"] for folder in ("plain", "picked"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert score("dictionary", "picked", *pick) == 0  # goes on
    assert score("pair", "first", "--pick", "0") == 0
    assert archive.read_manifest("first")["encoder"]["pick"] == 0
    assert score("pair", "last", "--pick", "-1") == 0
    assert score("dictionary", "one", "--pick", "embedding") == 0
    capsys.readouterr()

    refused(capsys, score("dictionary", "one", "--pick", "other"), "encoder.pick was embedding and")
    refused(
        capsys,
        score("dictionary", "x", "--pick", "mean"),
        "pick='mean' names nothing in what the map returned, a dict with keys ['other', ",
    )
    refused(
        capsys,
        score("dictionary", "x"),
        "--returns declares it, and --pick takes a part",
        "pick=",
    )
    for wrong in ("a,b,c", "a,", ","):
        refused(capsys, score("dictionary", "x", "--pick", wrong), f"--pick {wrong} must be a name")
    refused(capsys, score("dictionary", "x", "--pick", "a,b"), "read by returns='mean_std'")
    refused(capsys, score("three", "x", "--pick", "0"), "contradicts the map's own pick=(1, 2)")
    assert not (place / "x").exists()


def test_pick_in_a_configuration_file(place):
    (place / "options.yaml").write_text(
        "encoder: encoders.py:pair\ndata: data.npz\nout: run\npick: 0\n"
    )
    assert run("score", "--config", "options.yaml") == 0
    assert archive.read_manifest("run")["encoder"]["pick"] == 0


def test_weights_of_a_module_that_a_function_hides(place):
    net = torch.nn.Linear(16, 8)
    save_file({f"net.{k}": v.detach() for k, v in net.named_parameters()}, "w.safetensors")
    assert score("hidden", "hidden", "--weights", "w.safetensors") == 0
    assert score("declared", "declared", "--weights", "w.safetensors") == 0
    expected, found = (archive.read(folder)["eigenvalues"] for folder in ("declared", "hidden"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    digests = {archive.read_manifest(run)["encoder"]["weights"] for run in ("hidden", "declared")}
    assert len(digests) == 1
