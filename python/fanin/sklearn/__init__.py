"""scikit-learn's multilayer perceptrons on fanin's kernels: change the import line, keep the rest.

    from fanin.sklearn import MLPClassifier, MLPRegressor

Same parameters, attributes, random draws and results; further keyword arguments default to what
scikit-learn does.  The guide is docs/sklearn.md.
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "fanin.sklearn: scikit-learn is missing; install it with pip install 'fanin[sklearn]'"
    ) from error

from .classifier import MLPClassifier
from .conversion import from_sklearn, to_sklearn
from .regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn", "to_sklearn"]
