"""The cells that DARTS' second-order search found on Penn Treebank and CIFAR-10 [Liu, Simonyan & Yang 2019], as the
original lists them (github.com/quark0/darts, genotypes.py).
"""

from growdarts.spaces.darts.genotypes import ConvolutionalGenotype, RecurrentGenotype

PTB_DARTS_V2 = RecurrentGenotype(
    recurrent=(("sigmoid", 0), ("relu", 1), ("relu", 1), ("identity", 1),
               ("tanh", 2), ("sigmoid", 5), ("tanh", 3), ("relu", 5)),
    concat=range(1, 9))

CIFAR10_DARTS_V2 = ConvolutionalGenotype(
    normal=(("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)),
    normal_concat=range(2, 6),
    reduce=(("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
            ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)),
    reduce_concat=range(2, 6))
