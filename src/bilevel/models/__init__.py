"""Networks for images, and a convolution with fast second derivatives."""

from bilevel.extras import extra

with extra("fewshot"):
    from bilevel.models.convolution import convolution
    from bilevel.models.networks import MODULES, Network, from_module, head, logits, network

__all__ = ["MODULES", "Network", "convolution", "from_module", "head", "logits", "network"]
