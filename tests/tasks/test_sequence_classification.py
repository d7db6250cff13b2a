import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import nn

from eigenzoo.tasks.sequence_classification import Matthews, SequenceClassification


class Lookup(nn.Module):
    """Logits that stand in the data."""

    def forward(self, x, lengths):
        return x


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_are_those_of_the_whole_part(classes):
    torch.manual_seed(0)
    logits, labels = torch.randn(50, classes), torch.randint(classes, (50,))
    task = SequenceClassification(Lookup(), optim=torch.optim.SGD, classes=classes, chosen_by="matthews")
    assert task.monitor == "val/matthews" and task.higher_is_better
    for start in range(0, 50, 8):
        part = slice(start, start + 8)
        x, y = logits[part], labels[part]
        # a sample that stands in for an absent one counts nowhere
        x, y = torch.cat([x, x[:1]]), torch.cat([y, (y[:1] + 1) % classes])
        mask = torch.arange(len(y)) < len(y) - 1
        task.update_metrics({"x": x, "y": y, "lengths": y, "mask": mask}, "test")
    found = {name: float(metric.compute()) for name, metric in task.metrics_of("test").items()}
    guess = logits.argmax(1)
    assert found["accuracy"] == pytest.approx((guess == labels).float().mean().item())
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, guess), abs=1e-6)
    average = "binary" if classes == 2 else "macro"
    assert found["f1"] == pytest.approx(f1_score(labels, guess, average=average), abs=1e-6)
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=1e-6)


def test_a_guess_that_is_always_the_same_has_no_correlation():
    metric, labels = Matthews(2), torch.tensor([0, 0, 1])
    for guess in (torch.zeros_like(labels), torch.ones_like(labels)):
        metric.update(guess, labels)
        assert float(metric.compute()) == matthews_corrcoef(labels, guess) == 0
        metric.reset()
    metric.update(labels, labels)
    assert float(metric.compute()) == 1


def test_faults_are_told():
    with pytest.raises(ValueError, match="chosen_by='mcc': must be one of accuracy, matthews, f1, loss"):
        SequenceClassification(Lookup(), optim=torch.optim.SGD, chosen_by="mcc")
    task = SequenceClassification(Lookup(), optim=torch.optim.SGD, classes=3, chosen_by="loss")
    assert not task.higher_is_better
    with pytest.raises(ValueError, match=r"the data have 2 classes, the task 3; set task\.classes"):
        task.check_sizes({"dim_out": 2})
    task.check_sizes({"dim_out": 3, "length": 9})
    task.model.vocabulary = 7
    with pytest.raises(ValueError, match=r"vocabulary is 7, the data have a vocabulary of 8"):
        task.check_sizes({"dim_out": 3, "vocabulary": 8})
    task.model.context = 8
    with pytest.raises(ValueError, match="the model's context is 8, the data have sequences of 9"):
        task.check_sizes({"dim_out": 3, "length": 9})
