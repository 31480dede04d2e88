"""Published cells by name, as their authors' code lists them (github.com/quark0/darts, genotypes.py).

PTB_* are recurrent cells found on Penn Treebank, CIFAR10_* convolutional ones found on CIFAR-10.
V1 is DARTS' first-order, V2 its second-order search [Liu, Simonyan & Yang 2019]; ENAS: Pham et al. 2018,
NASNet-A: Zoph et al. 2018, AmoebaNet-A: Real et al. 2019, both as DARTS re-implements them.
"""

from growdarts.spaces.darts.genotypes import ConvolutionalGenotype, RecurrentGenotype

PTB_DARTS_V1 = RecurrentGenotype(
    recurrent=(("relu", 0), ("relu", 1), ("tanh", 2), ("relu", 3),
               ("relu", 4), ("identity", 1), ("relu", 5), ("relu", 1)),
    concat=range(1, 9))

PTB_DARTS_V2 = RecurrentGenotype(
    recurrent=(("sigmoid", 0), ("relu", 1), ("relu", 1), ("identity", 1),
               ("tanh", 2), ("sigmoid", 5), ("tanh", 3), ("relu", 5)),
    concat=range(1, 9))

PTB_ENAS = RecurrentGenotype(
    recurrent=(("tanh", 0), ("tanh", 1), ("relu", 1), ("tanh", 3), ("tanh", 3), ("relu", 3),
               ("relu", 4), ("relu", 7), ("relu", 8), ("relu", 8), ("relu", 8)),
    concat=(2, 5, 6, 9, 10, 11))

CIFAR10_DARTS_V1 = ConvolutionalGenotype(
    normal=(("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1),
            ("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2)),
    normal_concat=range(2, 6),
    reduce=(("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
            ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("avg_pool_3x3", 0)),
    reduce_concat=range(2, 6))

CIFAR10_DARTS_V2 = ConvolutionalGenotype(
    normal=(("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)),
    normal_concat=range(2, 6),
    reduce=(("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
            ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)),
    reduce_concat=range(2, 6))

CIFAR10_NASNET = ConvolutionalGenotype(
    normal=(("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 0), ("sep_conv_3x3", 0),
            ("avg_pool_3x3", 1), ("skip_connect", 0), ("avg_pool_3x3", 0), ("avg_pool_3x3", 0),
            ("sep_conv_3x3", 1), ("skip_connect", 1)),
    normal_concat=range(2, 7),
    reduce=(("sep_conv_5x5", 1), ("sep_conv_7x7", 0), ("max_pool_3x3", 1), ("sep_conv_7x7", 0),
            ("avg_pool_3x3", 1), ("sep_conv_5x5", 0), ("skip_connect", 3), ("avg_pool_3x3", 2),
            ("sep_conv_3x3", 2), ("max_pool_3x3", 1)),
    reduce_concat=range(4, 7))

CIFAR10_AMOEBANET = ConvolutionalGenotype(
    normal=(("avg_pool_3x3", 0), ("max_pool_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 2),
            ("sep_conv_3x3", 0), ("avg_pool_3x3", 3), ("sep_conv_3x3", 1), ("skip_connect", 1),
            ("skip_connect", 0), ("avg_pool_3x3", 1)),
    normal_concat=range(4, 7),
    reduce=(("avg_pool_3x3", 0), ("sep_conv_3x3", 1), ("max_pool_3x3", 0), ("sep_conv_7x7", 2),
            ("sep_conv_7x7", 0), ("avg_pool_3x3", 1), ("max_pool_3x3", 0), ("max_pool_3x3", 1),
            ("conv_7x1_1x7", 0), ("sep_conv_3x3", 5)),
    reduce_concat=(3, 4, 6))

PUBLISHED = {
    "PTB_DARTS_V1": PTB_DARTS_V1, "PTB_DARTS_V2": PTB_DARTS_V2, "PTB_ENAS": PTB_ENAS,
    "CIFAR10_DARTS_V1": CIFAR10_DARTS_V1, "CIFAR10_DARTS_V2": CIFAR10_DARTS_V2,
    "CIFAR10_NASNET": CIFAR10_NASNET, "CIFAR10_AMOEBANET": CIFAR10_AMOEBANET,
}
