"""The door from Python to a model: what it draws, what it takes, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from core import load_model
from core.config.loading import load_config
from core.data.palette import DEFAULT_PALETTE
from core.generation.layout_model import layout_seeds
from core.runtime.errors import InputError
from core.runtime.seeding import derive_seed
from core.training.prerequisites import with_prerequisites
from tasks.sample import sample


def drawn_by_the_command(folder) -> np.ndarray:
    pictures = []
    for path in sorted((folder / "layouts").iterdir()):
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture))
    return np.stack(pictures)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
def test_it_draws_what_the_command_draws(prepared, config, tmp_path, sampler):
    stage2 = config.diffusion.stage2_checkpoint
    sample(stage2, tmp_path / "drawn", 70, 3, prepared, num_steps=2, sampler=sampler)
    layouts = load_model(stage2, prepared).sample(70, seed=3, num_steps=2, sampler=sampler, batch_size=5)
    assert np.array_equal(layouts.pictures, drawn_by_the_command(tmp_path / "drawn"))
    assert layouts.class_maps.dtype == np.uint8 and layouts.class_maps.shape == (70, 32, 32) and len(layouts) == 70
    assert np.array_equal(DEFAULT_PALETTE.rgb[layouts.class_maps], layouts.pictures)
    few = load_model(stage2, str(prepared)).sample(3, seed=3, num_steps=2, sampler=sampler)
    assert np.array_equal(few.class_maps, layouts.class_maps[:3])


def test_steps_are_those_of_the_command_if_none_are_named(prepared, config, tmp_path):
    stage2 = config.diffusion.stage2_checkpoint
    audited = ["audit={num_steps: 3}"]
    sample(stage2, tmp_path / "drawn", 4, 1, prepared, overrides=audited)
    model = load_model(stage2, prepared, audited)
    assert np.array_equal(model.sample(4, seed=1).pictures, drawn_by_the_command(tmp_path / "drawn"))
    assert not np.array_equal(model.sample(4, seed=1, num_steps=2).class_maps, model.sample(4, seed=1).class_maps)
    assert not np.array_equal(model.sample(4, seed=2).class_maps, model.sample(4, seed=1).class_maps)


def test_seeds_stay_those_of_layouts_that_were_drawn_before():
    assert layout_seeds(3, range(1, 3)) == [derive_seed(3, "drawing", 1), derive_seed(3, "drawing", 2)]


def test_what_is_no_model_or_number_is_refused(prepared):
    stage2 = with_prerequisites(load_config(prepared)).diffusion.stage2_checkpoint
    with pytest.raises(InputError, match="does not say which config it belongs to"):
        load_model(stage2)
    with pytest.raises(InputError, match=r"none\.pt does not exist"):
        load_model("none.pt", prepared)
    model = load_model(stage2, prepared)
    for wrong, line in (({"num_samples": 0}, "num_samples 0"), ({"num_samples": 1, "num_steps": 101}, "num_steps 101")):
        with pytest.raises(InputError, match=line):
            model.sample(**wrong, seed=1)


def test_importing_core_does_not_import_what_models_need():
    code = "import sys, core; assert not {'diffusers', 'pandas', 'core.rounds'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
