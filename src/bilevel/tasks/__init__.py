"""Ready-made problems, for `bilevel compare` and for trying things out."""

from bilevel.tasks.hyperclean import hyperclean
from bilevel.tasks.quadratic import quadratic
from bilevel.tasks.regularization import regularization
from bilevel.tasks.types import Task
from bilevel.tasks.worst_case import worst_case

__all__ = ["Task", "hyperclean", "quadratic", "regularization", "worst_case"]
