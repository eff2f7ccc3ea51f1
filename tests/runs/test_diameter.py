from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import cryosegnet_ext
from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.files.diameter import Diameter
from cryosegnet_ext.files.inputs import Input, expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.diameter import doubted, seen_diameter
from tests.stub_picker import StubPicker, write_micrograph

DATA = Path(cryosegnet_ext.__file__).parent / "data"


class Given(StubPicker):
    """Was given a diameter, and sees particles of 170."""

    needs_diameter = False

    def __init__(self, diameter: float | str, recipe: str = "default", seen: float | None = 170.0) -> None:
        super().__init__()
        self.settings = {"diameter": diameter, "recipe": recipe}
        self.seen = seen

    def estimate_diameter(self, micrographs: list[Micrograph]) -> float | None:
        super().estimate_diameter(micrographs)
        return self.seen


def mics(folder: Path, count: int = 5, pixel_size: float = 2.0) -> list[Input]:
    for i in range(count):
        write_micrograph(folder / f"m{i}.mrc", i, pixel_size=pixel_size)
    return expand_inputs([folder])


def run(
    picker: StubPicker, inputs: list[Input], output: Path, **options: object
) -> tuple[batch.BatchResult, list[str]]:
    said: list[str] = []
    result = batch.run(picker, inputs, output, overlays=False, progress=False, say=said.append, **options)  # type: ignore[arg-type]
    return result, [text for text in said if text.startswith("warning")]


def in_summary(output: Path) -> list[str]:
    return list(json.loads((output / "summary.json").read_text())["warnings"])


@pytest.mark.parametrize(
    ("given", "doubted"), [(85, True), (115, True), (125, False), (170, False), (230, False), (340, True)]
)
def test_a_diameter_that_does_not_fit_is_doubted(tmp_path: Path, given: float, doubted: bool) -> None:
    picker = Given(given)
    result, said = run(picker, mics(tmp_path / "mics"), tmp_path / "out")
    sentence = f"the particles look about 170 A; diameter={given} was given"
    assert said == [f"warning: {sentence}"] * doubted
    assert list(result.warnings) == in_summary(tmp_path / "out") == [sentence] * doubted
    # cheap: a few micrographs, once for all runs into the folder
    assert [len(names) for names in picker.estimated] == [2]
    (tmp_path / "mics" / "m0.mrc").touch()
    result, said = run(picker, expand_inputs([tmp_path / "mics"]), tmp_path / "out")
    assert (len(picker.estimated), said, len(result.warnings)) == (1, [], doubted)


class Unsure(Given):
    """Sees another size on each micrograph."""

    def estimate_diameter(self, micrographs: list[Micrograph]) -> float | None:
        super().estimate_diameter(micrographs)
        return self.seen if len(micrographs) > 1 else 170.0 * (2.0 if Path(micrographs[0].name).stem == "m0" else 1.0)


@pytest.mark.parametrize("given", [12, 67, 430, "6px"])
@pytest.mark.parametrize("count", [1, 5])
def test_a_diameter_far_from_what_is_seen_is_refused(tmp_path: Path, given: float | str, count: int) -> None:
    inputs = mics(tmp_path / "mics", count)
    shown = f"{given!r}" if isinstance(given, str) else f"{given}"
    seen = "85 pixels" if isinstance(given, str) else "170 A"
    sentence = f"the particles look about {seen}; diameter={shown} was given"
    with pytest.raises(UsageError, match=rf"^{sentence}: correct it, .*force=True"):
        run(Given(given), inputs, tmp_path / "out")
    picker = Given(given)
    with pytest.raises(UsageError, match=sentence):  # it is refused as long as it is given
        run(picker, inputs, tmp_path / "out")
    assert picker.picked == [] and not list((tmp_path / "out" / "picks").glob("*"))
    # neither the right one nor an insistent user needs another folder
    result, said = run(Given(170.0), inputs, tmp_path / "out")
    assert (result.done, said) == (count, [])
    result, said = run(Given(given), inputs, tmp_path / "forced", force=True)
    assert (result.done, said, list(result.warnings)) == (count, [f"warning: {sentence}"], [sentence])
    # what was begun with it goes on without force
    (tmp_path / "mics" / "m0.mrc").touch()
    assert run(Given(given), expand_inputs([tmp_path / "mics"]), tmp_path / "forced")[0].done == 1


def test_where_the_size_is_unsure_there_is_a_warning_only(tmp_path: Path) -> None:
    result, said = run(Unsure(12), mics(tmp_path / "mics"), tmp_path / "out")
    assert result.done == 5 and len(said) == len(result.warnings) == 1

    class Two(Given):
        def estimate_sizes(self, micrographs: list[Micrograph]) -> tuple[float, ...]:
            return 170.0, 55.0

    assert run(Two(50), mics(tmp_path / "mics"), tmp_path / "two")[0].done == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pixel_size", "true", "denoised"),
    [
        ("empiar-10017-denoised/Falcon_2012_06_12-15_14_01_0.jpg", 1.77, 170, True),
        ("apoferritin/May08_04.32.27.mrc", 1.75, 119, False),
        ("empiar-10059/stack_0003_2x_dfpt_10059.mrc", 4.48, 143, False),
    ],
)
def test_real_micrographs_give_no_false_alarm(
    shared_data: Path, name: str, pixel_size: float, true: float, denoised: bool
) -> None:
    from cryosegnet_ext import Picker, read_micrograph

    file = shared_data / "micrographs" / name
    if not file.is_file():
        pytest.skip(f"{name} is not there")
    picker = Picker(device="cpu", denoised=denoised, diameter=true)
    seen = seen_diameter(picker, [read_micrograph(file, pixel_size)])
    assert doubted(Diameter(true, "angstrom"), seen) is None
    assert all(doubted(Diameter(factor * true, "angstrom"), seen) for factor in (0.5, 2))


def test_no_doubt_where_nothing_can_be_seen(tmp_path: Path) -> None:
    inputs = mics(tmp_path / "mics")
    for name, picker in (("few", Given(85, seen=None)), ("published", Given(85, recipe="published"))):
        result, said = run(picker, inputs, tmp_path / name)
        assert (result.warnings, said, in_summary(tmp_path / name)) == ((), [], [])
    given = Diameter(100, "angstrom")
    assert doubted(given, None) is None and doubted(given, Diameter(300, "pixels")) is None


class Bright(Given):
    """Sees particles only once the contrast is inverted."""

    def __init__(self, invert: bool = False, needed: bool = False) -> None:
        super().__init__(85, seen=None)
        self.needs_diameter = needed
        self.settings = (
            {"recipe": "default"} | ({} if needed else {"diameter": 85.0}) | ({"invert": True} if invert else {})
        )

    def looks_inverted(self, micrographs: list[Micrograph]) -> bool:
        return True


@pytest.mark.parametrize("needed", [False, True])
@pytest.mark.parametrize(
    ("invert", "sentence"),
    [
        (False, "the particles look brighter than the ice: add invert=True"),
        (True, "the particles look darker than the ice: leave out invert=True"),
    ],
)
def test_bright_particles_are_told(tmp_path: Path, needed: bool, invert: bool, sentence: str) -> None:
    inputs = mics(tmp_path / "mics")
    said = run(Bright(invert, needed), inputs, tmp_path / "out")[1]
    assert said.count(f"warning: {sentence}") == 1
    # A later run that finds nothing new to pick remembers it.
    result, _ = run(Bright(invert, needed), inputs, tmp_path / "out")
    assert sentence in result.warnings and in_summary(tmp_path / "out").count(sentence) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [(CryoSegNetError("memory ran out: buy some."), "memory ran out: buy some"), (KeyError("x"), "KeyError: 'x'")],
)
def test_an_estimate_that_fails_is_told_in_a_sentence(tmp_path: Path, error: Exception, said: str) -> None:
    class Failing(StubPicker):
        def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
            raise error

    write_micrograph(tmp_path / "mics/mic.mrc")
    result = batch.run(Failing(), expand_inputs([tmp_path / "mics"]), tmp_path / "out", progress=False)
    assert f"the estimate of the particle diameter failed: {said}" in result.warnings


class TwoSizes(StubPicker):
    def estimate_sizes(self, micrographs: list[Micrograph], looked: object) -> tuple[float, ...]:
        return 90.0, 230.0


def test_two_sizes_are_told(tmp_path: Path) -> None:
    picker = TwoSizes()
    result, said = run(picker, mics(tmp_path / "mics"), tmp_path / "out")
    assert [f"warning: {one}" for one in in_summary(tmp_path / "out")] == said
    assert list(result.warnings) == in_summary(tmp_path / "out")
    assert said == [
        "warning: particles of about 230 A are seen, too: a run with diameter= into another folder picks them"
    ]
    assert {diameter for _, diameter in picker.picked} == {90.0}


@pytest.mark.slow
def test_the_picker_tells_an_inverted_micrograph_from_an_empty_one() -> None:
    from cryosegnet_ext import Picker, read_micrograph
    from cryosegnet_ext.files.micrograph import inverted

    sample = read_micrograph(DATA / "sample.mrc")
    empty = Micrograph(np.random.default_rng(0).standard_normal((500, 500)).astype(np.float32), 2.0, "empty")
    picker = Picker(device="cpu")
    assert picker.estimate_diameter([inverted(sample)]) is None and picker.looks_inverted([inverted(sample)])
    assert not picker.looks_inverted([sample]) and not picker.looks_inverted([empty])


def test_a_header_of_exactly_one_is_doubted_once(tmp_path: Path) -> None:
    inputs = mics(tmp_path / "mics", pixel_size=1.0)
    result, said = run(StubPicker(), inputs, tmp_path / "out")
    assert len(said) == 1 and "exactly 1.0 A per pixel" in said[0] and "pixel_size=" in said[0]
    assert in_summary(tmp_path / "out") == list(result.warnings) == [said[0].removeprefix("warning: ")]


def test_a_pixel_size_of_one_that_somebody_gave_is_believed(tmp_path: Path) -> None:
    inputs = mics(tmp_path / "mics", pixel_size=1.0)
    told = [Input(one.path, one.name, 1.0) for one in inputs]
    other = mics(tmp_path / "other", pixel_size=1.01)
    for name, source, options in (("a", inputs, {"pixel_size": 1.0}), ("b", told, {}), ("c", other, {})):
        result, said = run(StubPicker(), source, tmp_path / name, **options)
        assert (result.warnings, said) == ((), [])


class Remembers(StubPicker):
    """An estimate refuses a mixture, as the real one does."""

    def estimate_diameter(self, micrographs: list[Micrograph]) -> float | None:
        assert len({one.pixel_size is None for one in micrographs}) == 1
        return 40.0


@pytest.mark.parametrize("first", ["known", "unknown"])
def test_micrographs_with_and_without_a_pixel_size(tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate in angstrom serves only those that have one; one in pixels serves all."""
    for i in range(4):
        known = (i < 2) == (first == "known")
        write_micrograph(tmp_path / "mics" / f"m{i}.mrc", i, pixel_size=2.0 if known else 0.0)
    inputs = expand_inputs([tmp_path / "mics"])
    if first == "unknown":
        monkeypatch.setattr("cryosegnet_ext.runs.sources.spread", lambda count: [0, 1])
    picker = Remembers()
    result, _ = run(picker, inputs, tmp_path / "out")
    if first == "known":
        assert (result.done, result.failed) == (2, 2)
        assert all("pixel_size=" in reason and "angstrom" in reason for _, reason in result.failures)
        assert dict(picker.picked) == {"m0.mrc": 40.0, "m1.mrc": 40.0}
    else:
        # 40 pixels; with 2 A per pixel these are 80 A
        assert result.done == 4
        assert dict(picker.picked) == {"m0.mrc": 40.0, "m1.mrc": 40.0, "m2.mrc": 80.0, "m3.mrc": 80.0}


@pytest.mark.parametrize(
    ("angstrom", "pixel_size", "expected"), [(True, 2.0, 33.0), (False, 0.0, 33.0), (False, 2.0, 66.0)]
)
def test_a_run_goes_on_with_the_diameter_in_its_journal(
    tmp_path: Path, angstrom: bool, pixel_size: float, expected: float
) -> None:
    """The journal holds the unit as ``in_angstrom``; the first versions held no unit, and null came from Live jobs."""
    for name, entry in {"noted": {"in_angstrom": angstrom}, "null": {"in_angstrom": None}, "without": {}}.items():
        inputs = mics(tmp_path / name / "mics", 2, pixel_size)
        first = StubPicker()
        first.needs_diameter = False
        run(first, inputs[:1], tmp_path / name / "out")
        journal = tmp_path / name / "out/.cryosegnet/journal.jsonl"
        lines = journal.read_text().splitlines()
        line = json.dumps({"record": "diameter", "diameter": 33.0, **entry})
        journal.write_text("\n".join([lines[0], line, *lines[1:], ""]))
        picker = StubPicker()
        result, said = run(picker, inputs, tmp_path / name / "out")
        assert (result.done, result.skipped, said, picker.estimated) == (1, 1, [], [])
        assert picker.picked == [("m1.mrc", expected if name == "noted" else 33.0)]
        assert json.loads((tmp_path / name / "out/summary.json").read_text())["dataset_diameter"] == 33.0


def test_the_picker_refuses_a_mixture(tmp_path: Path) -> None:
    from cryosegnet_ext import Picker

    some = [Micrograph(np.zeros((64, 64), np.float32), size, f"{size}.mrc") for size in (1.5, None)]
    with pytest.raises(UsageError, match=r"None.mrc has no pixel size but other micrographs have one.*pixel_size="):
        Picker(device="cpu").estimate_diameter(some)


def test_one_box_for_all(tmp_path: Path) -> None:
    inputs = mics(tmp_path / "mics", 2)

    class Sizes(StubPicker):
        def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
            picks = super().pick(micrograph, diameter)
            size = np.linspace(20, 40, len(picks))
            return Picks(picks.x, picks.y, size, picks.score, picks.pixel_size, picks.shape)

    run(Sizes(), inputs, tmp_path / "out", formats=("box", "star"), box_size=64)
    for i in range(2):
        assert set(read_picks(tmp_path / "out" / "picks" / f"m{i}.box").diameter) == {64}
    with pytest.raises(Exception, match="box_size"):
        run(Sizes(), inputs, tmp_path / "out", formats=("box", "star"), box_size=32)


def test_a_header_that_contradicts_the_star_file_is_said(tmp_path: Path) -> None:
    inputs = mics(tmp_path / "mics", pixel_size=1.06)
    told = [Input(inputs[0].path, "first", 2.12), *(Input(one.path, one.name, 1.065) for one in inputs[1:])]
    result, _ = run(StubPicker(), told, tmp_path / "a")
    (said,) = result.warnings
    assert in_summary(tmp_path / "a") == [said]
    assert f"1 of {len(told)} micrographs (first: 2.12 and 1.06 A)" in said and "pixel_size=" in said
    assert run(StubPicker(), told, tmp_path / "b", pixel_size=1.5)[0].warnings == ()
    assert run(StubPicker(), inputs, tmp_path / "c")[0].warnings == ()
