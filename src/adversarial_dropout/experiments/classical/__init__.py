"""Classifiers of scikit-learn that trained networks are compared with: their names."""

LOGISTIC = "logistic regression"
SELF_TRAINING = "self-training"
VECTORS = "support vector machine"
MAJORITY = "most frequent class"
