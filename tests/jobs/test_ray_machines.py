"""Machines of Ray that come and go, and signals that stop a run on them."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import pullback as pb
from pullback import archive
from pullback.jobs import EncoderSpec, Settings, Workers, open_images, ray_driver
from tests.shell import names

pytest.importorskip("ray")
SLOW = EncoderSpec("encoders.py:slow")
SCORE = ["score", "--encoder", "encoders.py:slow", "--data", "data.npz", "--out", "run"]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def finished(folder):
    return len(list(Path(folder, "shards").glob("part-*.h5")))


@pytest.fixture
def machines():
    """Two, beside one where nothing is computed: its address, and what ends one."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    two = [cluster.add_node(num_cpus=1, include_dashboard=False) for _ in range(2)]
    yield cluster.address, lambda: cluster.remove_node(two[1], allow_graceful=False)
    cluster.shutdown()


def test_a_machine_that_is_lost(place, machines, caplog):
    """With room for one worker on the other: it does what both had left."""
    address, end_one = machines
    score = partial(pb.score_images, SLOW, open_images("data.npz"), shard_size=2, batch_size=1)
    score(run="serial", settings=Settings(k=2))

    def end_one_soon():
        wait_for(lambda: finished("run") > 2)
        end_one()

    ending = threading.Thread(target=end_one_soon)
    ending.start()
    score(run="run", settings=Settings(k=2), workers=Workers(2, address))
    ending.join()
    assert "a worker has ended in shard" in caplog.text
    run, serial = archive.read("run"), archive.read("serial")
    for name, column in serial.items():
        np.testing.assert_array_equal(run[name], column)


@pytest.mark.parametrize(
    ("stop", "name", "status"), [(os.killpg, "SIGINT", 130), (os.kill, "SIGTERM", 143)]
)
def test_a_run_on_workers_that_is_told_to_stop(place, stop, name, status):
    """By Ctrl-C, which reaches all processes of a terminal, or by a signal to itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pullback", *SCORE, "--shard-size", "2", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(lambda: finished("run") > 0 or process.poll() is not None)
    # Whoever else computes on the machine, they take as much of it as this process would.
    assert {int(line.split()[1]) for line in workers_of(process.pid)} == {os.nice(0)}
    stop(process.pid, getattr(signal, name))
    said, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert said == ""
    assert error == "interrupted; the same command again resumes the run\n"
    assert 0 < finished("run") < 15
    assert names("run") == ["manifest.json", "shards"]
    wait_for(lambda: not workers_of(process.pid), 30)


def workers_of(session):
    """Processes of a session that compute."""
    command = ["ps", "--no-headers", "-s", str(session), "-o", "stat=,ni=,args="]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in lines if "ray::Worker" in line and not line.startswith("Z")]


def test_a_ray_whose_machines_have_all_ended_is_not_waited_for():
    """It can be killed beside its workers, as where the memory of a machine is exhausted."""
    ray = Mock(**{"wait.return_value": ([], []), "nodes.return_value": [{"Alive": False}]})
    driver = ray_driver._Driver(ray, Mock(), Mock(), {0: 2}, Mock())
    with pytest.raises(RuntimeError, match="Ray has ended; the same command again resumes the run"):
        driver.run(Workers(1).on("cpu"))
