"""A table with few labels, by scikit-learn's own means: ``pip install 'adversarial-dropout[sklearn]'``.

    python examples/sklearn_table.py

Of 300 rows with 100 features, 6 have a label. A pipeline scales the features and trains the classifier, and a grid search
compares methods on folds of the labelled rows. It takes some seconds.
"""

import numpy as np
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from adversarial_dropout.integrations.sklearn import AdversarialDropoutClassifier

LABELS = 3


def main() -> None:
    # Two clouds of points that overlap; a real table comes from pandas.read_csv.
    x, classes = make_blobs(600, 100, centers=2, cluster_std=2.0, center_box=(-1, 1), random_state=0)
    names = np.array(["benign", "malignant"])[classes]
    x, x_test, y, y_test = x[:300], x[300:], names[:300].astype(object), names[300:]
    for name in np.unique(names):
        y[np.flatnonzero(y == name)[LABELS:]] = None  # These rows have no label.

    for method in ("plain", "vadd-kl"):
        classifier = AdversarialDropoutClassifier(method, unlabeled=None, max_iter=100, random_state=0)
        model = make_pipeline(StandardScaler(), classifier).fit(x, y)
        print(f"{method}: accuracy {model.score(x_test, y_test):.3f} with {(y != None).sum()} labels")  # noqa: E711

    y[:60] = names[:60]  # With some more labels, cross-validation can choose a method.
    classifier = AdversarialDropoutClassifier(unlabeled=None, max_iter=50, random_state=0)
    grid = {"adversarialdropoutclassifier__method": ["plain", "pi", "vadd-kl"]}
    y = np.where(y == None, "none", y).astype(str)  # noqa: E711
    classifier.set_params(unlabeled="none")
    search = GridSearchCV(make_pipeline(StandardScaler(), classifier), grid, cv=3).fit(x, y)
    print(f"chosen: {search.best_params_['adversarialdropoutclassifier__method']}, "
          f"accuracy {search.score(x_test, y_test):.3f} with {(y != 'none').sum()} labels")


if __name__ == "__main__":
    main()
