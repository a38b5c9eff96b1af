"""A table with few labels, with scikit-learn: ``pip install 'adversarial-dropout[sklearn]'``, some seconds.

    python examples/sklearn_table.py

Of 1,198 rows 60 have a label; the others have -1 in its place. A pipeline scales the features and trains the
classifier, first on the labels alone ("plain"), then with methods that also learn from the rows without a label.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from adversarial_dropout.integrations.sklearn import AdversarialDropoutClassifier

LABELS = 60


def main() -> None:
    """Print the accuracy of each method on rows that were left out."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=0)
    hidden, _ = train_test_split(np.arange(len(y)), test_size=LABELS, stratify=y, random_state=0)
    y[hidden] = -1

    classifier = AdversarialDropoutClassifier(max_iter=30, learning_rate=3e-3, random_state=0)
    model = make_pipeline(StandardScaler(), classifier)
    for method in ("plain", "vat", "vadd-qe"):
        model.set_params(adversarialdropoutclassifier__method=method).fit(x, y)
        print(f"{method}: accuracy {model.score(x_test, y_test):.3f} with {LABELS} labels of {len(y):,} rows")


if __name__ == "__main__":
    main()
