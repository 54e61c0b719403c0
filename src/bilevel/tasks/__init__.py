"""Ready-made problems with data, for `bilevel compare` and for first experiments."""

from bilevel.tasks.few_shot import few_shot
from bilevel.tasks.hyperclean import hyperclean
from bilevel.tasks.quadratic import quadratic
from bilevel.tasks.regularization import regularization
from bilevel.tasks.worst_case import worst_case

__all__ = ["few_shot", "hyperclean", "quadratic", "regularization", "worst_case"]
