"""A search over settings of `fanin.sklearn` on a Dask cluster: here two processes of this machine.

    python examples/search_dask.py                      # needs: pip install distributed
    python examples/search_dask.py tcp://scheduler:8786 # a cluster that runs already

Dask gives each worker process OMP_NUM_THREADS=1, which fanin obeys: the workers share the cores.
"""

from __future__ import annotations

import sys
import warnings

import joblib
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import RandomizedSearchCV, train_test_split

from fanin.sklearn import MLPClassifier

SETTINGS = {
    "hidden_layer_sizes": [(64,), (128,), (64, 32)],
    "dropout": [0.0, 0.1, 0.3],
    "batch_norm": [False, True],
    "learning_rate_init": [1e-3, 3e-3],
}


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)  # of the last fit: 30 epochs are few
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype("float32") / 16, y, test_size=0.25, stratify=y, random_state=0
    )
    search = RandomizedSearchCV(
        MLPClassifier(max_iter=30, random_state=0), SETTINGS, n_iter=8, cv=3, random_state=0
    )
    if sys.argv[1:]:
        cluster = sys.argv[1]
    else:
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client, joblib.parallel_config("dask"):
        client.run(warnings.simplefilter, "ignore", ConvergenceWarning)
        print(f"{len(client.scheduler_info()['workers'])} workers")
        search.fit(x_train, y_train)
    print(f"best of {len(search.cv_results_['params'])}: {search.best_params_}")
    print(f"accuracy {search.best_score_:.4f} in cross-validation, ", end="")
    print(f"{search.score(x_test, y_test):.4f} on test images")


if __name__ == "__main__":
    main()
