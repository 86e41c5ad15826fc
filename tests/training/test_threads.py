import pytest
import torch

from loragen.training.threads import SMALL_BASE, few_threads


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("parameters", "wanted"), [(SMALL_BASE - 1, 1), (SMALL_BASE, 3)])
def test_a_small_base_computes_with_one_thread(three_threads, parameters, wanted):
    with few_threads(parameters):
        assert torch.get_num_threads() == wanted
    assert torch.get_num_threads() == 3


def test_the_number_of_threads_is_restored_after_an_error(three_threads):
    with pytest.raises(KeyboardInterrupt), few_threads(1):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 3
