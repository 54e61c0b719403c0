"""References of the papers, one constant a paper; each ends with its arXiv number."""

ACCBIO = (
    "Ji and Liang, Lower Bounds and Accelerated Algorithms for Bilevel Optimization, JMLR 2023, "
    "arXiv:2102.03926"
)
ANIL = (
    "Ji, Lee, Liang and Poor, Convergence of Meta-Learning with Task-Specific Adaptation over Partial "
    "Parameters, NeurIPS 2020, arXiv:2006.09486"
)
FSLA = (
    "Li, Gu and Huang, A Fully Single Loop Algorithm for Bilevel Optimization without Hessian Inverse, "
    "AAAI 2022, arXiv:2112.04660"
)
MAML = (
    "Ji, Yang and Liang, Theoretical Convergence of Multi-Step Model-Agnostic Meta-Learning, JMLR 2022, "
    "arXiv:2002.07836"
)
MRBO_VRBO = (
    "Yang, Ji and Liang, Provably Faster Algorithms for Bilevel Optimization, NeurIPS 2021, arXiv:2106.04692"
)
NBO = (
    "Dong, Yang, Yao and Zhang, Efficient Curvature-Aware Hypergradient Approximation for Bilevel "
    "Optimization, ICML 2025, arXiv:2505.02101"
)
PZOBO = (
    "Sow, Ji and Liang, On the Convergence Theory for Hessian-Free Bilevel Algorithms, NeurIPS 2022, "
    "arXiv:2110.07004"
)
STOCBIO = (
    "Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design, ICML 2021, "
    "arXiv:2010.07962"
)
UFO_BLO = (
    "Likhosherstov, Song, Choromanski, Davis and Weller, Debiasing a First-order Heuristic for "
    "Approximate Bi-level Optimization, ICML 2021, arXiv:2106.02487"
)
