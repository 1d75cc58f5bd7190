"""A pytest plugin: scikit-learn's tests of its MLP, with fanin's classes in the place of its own.

    pytest -p mlp_in_place --pyargs sklearn.neural_network.tests.test_mlp

The tests below look at private attributes, which are none of fanin's.
"""

import pytest
from sklearn import neural_network

from fanin.sklearn import MLPClassifier, MLPRegressor

neural_network.MLPClassifier = MLPClassifier
neural_network.MLPRegressor = MLPRegressor

PRIVATE = {
    "test_gradient": "calls _loss_grad_lbfgs; tests/test_gradients.py checks fanin's gradients",
    "test_learning_rate_warmstart": "reads _optimizer.learning_rate as a number",
    "test_adaptive_learning_rate": "reads _optimizer.learning_rate as a number",
}


def pytest_collection_modifyitems(items):
    """Expect the tests of private attributes to fail; one that passes is an error."""
    for item in items:
        reason = PRIVATE.get(item.name)
        if reason is not None and "test_mlp.py" in str(item.path):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
