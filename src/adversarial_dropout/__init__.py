"""Adversarial dropout for PyTorch (Park, Park, Shin, Moon; AAAI 2018): the public names."""

from adversarial_dropout.divergences import cross_entropy as cross_entropy
from adversarial_dropout.divergences import kl_divergence as kl_divergence
from adversarial_dropout.divergences import quadratic_error as quadratic_error
from adversarial_dropout.errors import AdversarialDropoutError as AdversarialDropoutError
from adversarial_dropout.errors import AdversarialDropoutWarning as AdversarialDropoutWarning
from adversarial_dropout.layers import AdversarialDropout as AdversarialDropout
from adversarial_dropout.masks import adversarial_mask as adversarial_mask
from adversarial_dropout.masks import flip_budget as flip_budget
from adversarial_dropout.masks import sample_mask as sample_mask
from adversarial_dropout.regularizers.adversarial_training import AdversarialTraining as AdversarialTraining
from adversarial_dropout.regularizers.entropy_minimization import EntropyMinimization as EntropyMinimization
from adversarial_dropout.regularizers.mean_teacher import MeanTeacher as MeanTeacher
from adversarial_dropout.regularizers.pi_model import PiModel as PiModel
from adversarial_dropout.regularizers.r_drop import RDrop as RDrop
from adversarial_dropout.regularizers.supervised_adversarial_dropout import (
    SupervisedAdversarialDropout as SupervisedAdversarialDropout,
)
from adversarial_dropout.regularizers.temporal_ensembling import TemporalEnsembling as TemporalEnsembling
from adversarial_dropout.regularizers.virtual_adversarial_dropout import (
    VirtualAdversarialDropout as VirtualAdversarialDropout,
)
from adversarial_dropout.regularizers.virtual_adversarial_training import (
    VirtualAdversarialTraining as VirtualAdversarialTraining,
)
from adversarial_dropout.replacing import replace_dropout as replace_dropout

__version__ = "0.1.0"
