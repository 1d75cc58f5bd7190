"""Studies: small experiments that show why networks train or do not, as figures and tables.

    initialisation        rules of initial weights: what becomes of signal and gradient, untrained
    linear_chain          why that is a matter of w^L
    cost_contours         scaled against unscaled inputs, and the learning rate each bears
    regularisation_path   one network per lambda, the best chosen on the dev set
    boundaries            decision boundaries without regularisation, with L2, with dropout
    decision_boundary     that of any classifier of two inputs
    check_cost_falls      a copy of a network, dropout off: does its cost fall?

Each returns numbers; `.table()` is text, `.plot(axes)` a figure (pip install "fanin[plot]").  Four
are commands as well: python -m fanin study init, or chain, contours, boundaries.
"""

from .boundary import Boundaries, boundaries, decision_boundary, two_moons
from .chain import Chain, LinearChain, linear_chain
from .contours import CostContours, Descent, Quadratic, cost_contours
from .cost import CostCurve, check_cost_falls
from .init import InitialisationStudy, Signals, initialisation
from .path import RegularisationPath, regularisation_path

__all__ = [
    "Boundaries",
    "Chain",
    "CostContours",
    "CostCurve",
    "Descent",
    "InitialisationStudy",
    "LinearChain",
    "Quadratic",
    "RegularisationPath",
    "Signals",
    "boundaries",
    "check_cost_falls",
    "cost_contours",
    "decision_boundary",
    "initialisation",
    "linear_chain",
    "regularisation_path",
    "two_moons",
]
