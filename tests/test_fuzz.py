"""Anything at all as input: a result, or one of the library's own errors. FUZZ=2000 tries as many examples of each."""

import json
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from growdarts import genotype_from_dict, series_from_returns
from growdarts.settings import ConfigError, DataError, SearchSettings
from growdarts.spaces.darts.genotypes import ConvolutionalGenotype, RecurrentGenotype
from growdarts.spaces.genotype import GenotypeError
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.tasks.text import batchify, windows
from growdarts_study.arms import SearchesConfig
from growdarts_study.config import ImageRun, LanguageRun, TimeSeriesRun
from growdarts_study.data.images import images_from_arrays
from growdarts_study.data.text import load_text
from growdarts_study.grids import defaults
from growdarts_study.page_settings import MorphismConfig
from growdarts_study.records import RESULTS

EXAMPLES = int(os.environ.get("FUZZ", "60"))
many = settings(max_examples=EXAMPLES, deadline=None, derandomize="FUZZ" not in os.environ, database=None,
                suppress_health_check=list(HealthCheck))

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.text(max_size=8), inner, max_size=4), max_leaves=12)


# Configurations -----------------------------------------------------------------------------------------------

def _stored(experiment):
    """The configuration of a committed run: valid, so that what replaces a field is all that can be wrong."""
    return json.loads(next((RESULTS / experiment).rglob("grow-*.json")).read_text())["config"]


VALID = {SearchSettings: SearchSettings.usual().model_dump(), TimeSeriesRun: _stored("time_series"),
         LanguageRun: _stored("language"), ImageRun: _stored("images"), SearchesConfig: defaults("searches"),
         MorphismConfig: dict(seed=0, window=3, hidden=4, operations=["add_identity"], epochs_before=1, epochs_after=1,
                              epsilons=[0.1, 0.2], noises=[0.1], draws=1)}
LIKELY = st.sampled_from([0, 1, 2, 3, 0.1, 0.5, 1.0, "adam", "sgd", "stage", "test", ["add_identity"], [4], [0], "grow", True, None])


@pytest.mark.parametrize("kind", VALID)
def test_every_field_of_a_configuration(kind):
    assert kind.of(VALID[kind])
    fields = st.sampled_from(sorted(kind.model_fields))

    @many
    @given(st.dictionaries(fields, LIKELY | ANYTHING, max_size=3), st.dictionaries(st.text(max_size=8), PLAIN, max_size=1))
    def check(replaced, more):
        values = VALID[kind] | replaced | more
        try:
            found = kind.of(values)
        except ConfigError as error:
            assert str(error)
            return
        assert {name: getattr(found, name) for name in replaced} == replaced and set(values) <= set(kind.model_fields)

    check()


# Arrays -------------------------------------------------------------------------------------------------------

SCALES = st.sampled_from([1e-300, 1e-200, 1e-30, 1.0, 1e30, 1e150, 1e300])
NUMBERS = st.floats(-10, 10) | st.sampled_from([0.0, -0.0, float("nan"), float("inf")])


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8, np.uint8, np.bool_, np.complex128, object, "U3"]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=30))
    if dtype in (np.float64, np.float32, np.float16):
        with np.errstate(over="ignore", invalid="ignore"):
            array = (draw(hnp.arrays(np.float64, shape, elements=NUMBERS)) * draw(SCALES)).astype(dtype)
    else:
        array = np.zeros(shape, dtype) if dtype in (object, "U3") else draw(hnp.arrays(dtype, shape))
    array = np.array(array, order=draw(st.sampled_from("CF")))
    if array.ndim and draw(st.booleans()):
        array = array[::-1]
    array.flags.writeable = draw(st.booleans())
    return array


@many
@given(arrays(), st.integers(-1, 12) | PLAIN, st.tuples(st.integers(-1, 30), st.integers(-1, 30), st.integers(-1, 31)) | ANYTHING,
       st.none() | st.lists(st.text(max_size=3), max_size=4))
def test_series_of_any_array(array, window, cuts, features):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            series = series_from_returns(array, window, cuts, features)
        except DataError as error:
            assert str(error)
            return
    assert all(part.x.isfinite().all() and part.y.isfinite().all() for part in (series.train, series.validation, series.test))


@many
@given(arrays(), arrays(), st.integers(-1, 40) | st.none() | PLAIN, st.floats(-1, 2) | PLAIN)
def test_images_of_any_array(x, y, n_images, train_portion):
    try:
        images_from_arrays((x, y), (x, y), "abc", train_portion=train_portion, n_images=n_images)
    except DataError as error:
        assert str(error)


@many
@given(st.integers(0, 50), st.integers(-2, 60), st.integers(-2, 12))
def test_windows_of_any_size(n, batch_size, length):
    try:
        found = list(windows(batchify(torch.arange(n), batch_size), length))
    except DataError as error:
        assert str(error)
        return
    assert sum(y.numel() for _, y in found) == (n // batch_size - 1) * batch_size


# Texts --------------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=40) | st.lists(st.sampled_from(["a", "b", " ", "\n", "<unk>", "\ufeff", "\x85", "é"]), max_size=30).map("".join)


@many
@given(st.tuples(WORDS, WORDS, WORDS), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
def test_folders_of_any_text(tmp_path_factory, texts, encoding):
    folder = tmp_path_factory.mktemp("text")
    for name, text in zip(("train", "valid", "test"), texts, strict=True):
        (folder / f"{name}.txt").write_bytes(text.encode(encoding, errors="replace"))
    try:
        text = load_text("folder", folder)
    except DataError as error:
        assert str(error)
        return
    assert max(part.max().item() for part in (text.train, text.validation, text.test)) < len(text.vocabulary)


# Genotypes ----------------------------------------------------------------------------------------------------

OPERATIONS = st.sampled_from(["gate", "carry", "tanh", "relu", "sep_conv_3x3", "skip_connect", "none", ""]) | ANYTHING
EDGES = st.lists(st.tuples(OPERATIONS, st.integers(-1, 4) | ANYTHING).map(list) | ANYTHING, max_size=4) | ANYTHING
GENOTYPES = st.fixed_dictionaries({"space": st.sampled_from(["two_input", "darts_recurrent", "darts_conv"]) | ANYTHING}, optional={
    "layers": st.lists(st.lists(st.lists(OPERATIONS, max_size=2), max_size=2), max_size=2) | ANYTHING,
    "recurrent": EDGES, "concat": st.lists(st.integers(-1, 4), max_size=3) | ANYTHING, "normal": EDGES, "reduce": EDGES,
    "normal_concat": st.lists(st.integers(-1, 4), max_size=3) | ANYTHING, "reduce_concat": ANYTHING}) | ANYTHING


@many
@given(GENOTYPES)
def test_genotypes_of_any_json(data):
    try:
        found = genotype_from_dict(data)
    except GenotypeError as error:
        assert str(error)
        return
    assert type(found).from_json(found.to_json()) == found


@many
@given(st.text(max_size=60) | GENOTYPES.map(json.dumps))
def test_genotypes_of_any_text(text):
    for read in (Genotype.from_json, RecurrentGenotype.from_json, ConvolutionalGenotype.from_json):
        try:
            read(text)
        except GenotypeError as error:
            assert str(error)
