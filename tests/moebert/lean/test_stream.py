from __future__ import annotations

import pytest
import torch

from moebert.lean import Layout, pack

IDS = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 3, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])


def test_a_ragged_batch_loses_its_padding() -> None:
    stream = pack(
        {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": MASK * torch.tensor([0, 1, 1])}
    )
    assert stream.input_ids.tolist() == [5, 6, 7, 8, 9, 3]
    assert stream.token_type_ids.tolist() == [0, 1, 1, 0, 0, 1]
    assert stream.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert stream.starts.tolist() == [0, 3, 4, 6]
    assert stream.lengths.tolist() == [3, 1, 2]
    assert stream.layout == Layout(3, 3, ragged=True)


def test_what_was_packed_is_laid_out_again_and_filled() -> None:
    stream = pack({"input_ids": IDS, "attention_mask": MASK})
    padded = stream.padded(stream.input_ids.unsqueeze(1), fill=-1)
    assert padded.squeeze(2).tolist() == [[5, 6, 7], [8, -1, -1], [9, 3, -1]]
    assert stream.without_padding(padded).squeeze(1).tolist() == stream.input_ids.tolist()


@pytest.mark.parametrize("mask", [{}, {"attention_mask": torch.ones_like(IDS)}])
def test_a_batch_without_padding_stays_whole(mask: dict[str, torch.Tensor]) -> None:
    stream = pack({"input_ids": IDS} | mask)
    assert stream.layout == Layout(3, 3, ragged=False)
    assert stream.input_ids.tolist() == IDS.flatten().tolist()
    assert not stream.token_type_ids.any()
    assert stream.padded(stream.input_ids).tolist() == IDS.tolist()
    assert stream.without_padding(IDS).tolist() == IDS.flatten().tolist()


@pytest.mark.parametrize("row", [[0, 1, 1], [1, 0, 1], [0, 0, 0]])
def test_rows_that_do_not_start_with_their_tokens_are_refused(row: list[int]) -> None:
    mask = torch.tensor([[1, 1, 1], row, [1, 1, 0]])
    with pytest.raises(ValueError, match="cannot be packed"):
        pack({"input_ids": IDS, "attention_mask": mask})
