"""What a stage reads once is read again where it came from other inputs."""

from rnr_dist.run.directory import write_json
from rnr_dist.run.once import once


def test_a_value_is_read_once_of_the_same_inputs(tmp_path):
    asked = []

    def found(inputs):
        return once(tmp_path / "levels.json", inputs, lambda: asked.append(inputs) or len(asked))

    assert [found(["a", 1]), found(["a", 1]), found(["a", 2]), found(["a", 1])] == [1, 1, 2, 3]


def test_a_file_without_its_inputs_is_read_anew(tmp_path):
    write_json(tmp_path / "levels.json", {"average": 1})
    assert once(tmp_path / "levels.json", ["a"], lambda: 5) == 5
